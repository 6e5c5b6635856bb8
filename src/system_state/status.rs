//! Parser of `zpool status`: one page per pool.
//!
//! ONLINE does not mean healthy: damaged data, errors of devices and, with OpenZFS 2.1, even a
//! suspended pool are shown only here. Everything on a page that concerns the health is read.

use super::device::{self, Device, Table};
use super::kind::{self, Kind};
use super::list::quoted;
use super::scan::Scan;

/// The page of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) name: String,
    pub(super) state: String,
    /// The `status:` and `action:` of the pool, each on one line.
    pub(super) status: Option<String>,
    pub(super) action: Option<String>,
    /// The identifier of the page that explains the status, as `ZFS-8000-EY`.
    id: Option<String>,
    pub(super) scans: Vec<Scan>,
    /// The `errors:` line, if there are any.
    pub(super) errors: Option<String>,
    /// Devices to be reported, see [`device::judge`].
    pub(super) devices: Vec<Device>,
    /// Devices whose labels can be read if the pool disappears.
    pub(super) readable: Vec<String>,
    /// The highest priority of its devices.
    devices_priority: u8,
}

/// First line of a page; the rest of the line, blanks included, is the name.
const POOL: &str = "  pool: ";
/// Maximum length of one field, in bytes. Those of OpenZFS have at most 400, except lists of
/// features.
const TEXT: usize = 500;
/// Maximum number of scans of a page; OpenZFS prints one for each group that is being rebuilt.
const SCANS: usize = 16;
/// Maximum number of devices in [`Page::readable`].
const READABLE: usize = 3;

/// Parses the output. An error describes the fault.
pub(super) fn parse(answer: &[u8]) -> Result<Vec<Page>, String> {
    let text = String::from_utf8_lossy(answer);
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line breaks off".to_owned());
    }
    let mut pages = Vec::new();
    let mut reader: Option<Reader> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(POOL) {
            pages.extend(reader.take().map(Reader::end));
            reader = Some(Reader::of(name));
        } else if let Some(reader) = &mut reader {
            reader.take(line);
        } else if !is_sentence(line) {
            return Err(format!("no pool in {}", quoted(line)));
        }
    }
    pages.extend(reader.map(Reader::end));
    Ok(pages)
}

/// Whether the output is a sentence or empty, as it is without pools.
fn is_sentence(line: &str) -> bool {
    line.is_empty() || line.ends_with(" healthy") || line == "no pools available"
}

/// The beginning of a text, of at most `most` bytes.
pub(super) fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

/// A page that is being parsed.
struct Reader {
    page: Page,
    /// The key of the current lines, and their text.
    key: String,
    text: String,
    table: Table,
}

/// Keys: the whole text before the first colon.
const KEYS: [&str; 12] = [
    "state",
    "status",
    "action",
    "see",
    "scan",
    "scrub",
    "scan warning",
    "remove",
    "checkpoint",
    "expand",
    "config",
    "errors",
];

impl Reader {
    fn of(name: &str) -> Reader {
        let page = Page { name: name.to_owned(), ..Page::default() };
        Reader { page, key: String::new(), text: String::new(), table: Table::default() }
    }

    fn take(&mut self, line: &str) {
        let field =
            line.split_once(':').filter(|(key, _)| KEYS.contains(&key.trim_start_matches(' ')));
        match (field, line.strip_prefix('\t')) {
            (Some((key, text)), _) => {
                self.end_field();
                self.key = key.trim_start().to_owned();
                self.append(text);
            }
            (None, Some(row)) if self.key == "config" => self.table.take(row),
            (None, Some(more)) => self.append(more),
            // An empty line, a path with an error, or an unknown key.
            (None, None) if line.contains(':') => self.end_field(),
            (None, None) => {}
        }
    }

    fn append(&mut self, line: &str) {
        for word in line.split_whitespace() {
            // A running scan has its figures at the end.
            if self.text.len() + word.len() > TEXT {
                break;
            }
            if !self.text.is_empty() {
                self.text.push(' ');
            }
            self.text.push_str(word);
        }
    }

    fn end_field(&mut self) {
        let text = std::mem::take(&mut self.text);
        let page = &mut self.page;
        match std::mem::take(&mut self.key).as_str() {
            "state" => page.state = text,
            "status" => page.status = Some(text),
            "action" => page.action = Some(text),
            "see" => page.id = text.rsplit('/').next().map(str::to_owned),
            "scan" | "scrub" if page.scans.len() < SCANS => page.scans.extend(Scan::parse(&text)),
            "errors" if is_error(&text) => page.errors = Some(text),
            _ => {}
        }
    }

    fn end(mut self) -> Page {
        self.end_field();
        let devices = self.table.devices;
        self.page.readable = device::readable(&devices, READABLE);
        (self.page.devices_priority, self.page.devices) = device::judge(devices);
        self.page
    }
}

/// Whether an `errors:` line reports any. Not "No known data errors", and not the text for
/// unprivileged users, "List of errors unavailable".
fn is_error(text: &str) -> bool {
    !text.is_empty() && !text.starts_with("No known") && !text.contains("unavailable")
}

/// The state of a pool whose devices all work.
const FINE: &str = "ONLINE";
/// Priority of lost data.
const LOST: u8 = 8;
/// A pool with a higher priority is examined by each check.
const SETTLED: u8 = 1;

impl Page {
    fn kind(&self) -> Option<&'static Kind> {
        kind::find(self.id.as_deref(), self.status.as_deref()?)
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.state == "SUSPENDED" || self.kind().is_some_and(|kind| kind.is_suspended)
    }

    /// The highest priority on the page.
    pub(super) fn priority(&self) -> u8 {
        let status = match (&self.status, self.kind()) {
            (_, Some(kind)) => kind.priority,
            (Some(_), None) => kind::UNKNOWN,
            (None, None) => 0,
        };
        let state = if self.state.is_empty() || self.state == FINE { 0 } else { 9 };
        let errors = if self.errors.is_some() { LOST } else { 0 };
        let scans = self.scans.iter().map(Scan::priority);
        scans.chain([status, state, errors, self.devices_priority]).max().unwrap_or(0)
    }

    /// The scan to be shown: a running one, else the last on the page.
    pub(super) fn scan(&self) -> Option<&Scan> {
        self.scans.iter().find(|scan| scan.is_active()).or(self.scans.last())
    }

    /// Whether each check must examine the pool.
    pub(super) fn is_watched(&self) -> bool {
        self.priority() > SETTLED || self.scans.iter().any(Scan::is_active)
    }

    /// The status, or the state where a status is missing.
    pub(super) fn status(&self) -> Option<String> {
        let state = || {
            let is_worth = !self.state.is_empty() && self.state != FINE;
            is_worth.then(|| format!("state {}", self.state))
        };
        self.status.clone().or_else(state)
    }
}
