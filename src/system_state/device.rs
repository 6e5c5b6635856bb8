//! The `config:` table of `zpool status`: the devices of a pool, and the faulty ones among them.
//!
//! Source: `print_status_config` in `cmd/zpool/zpool_main.c` of OpenZFS. Names may contain blanks
//! (a file, a pool), so a line is split at the column of its heading, in bytes as `printf` counts
//! them; a line that is not aligned is split at the first state after its first word.

use serde_json::{Map, Value};

use super::status::cut;

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: String,
    /// `logs`, `cache`, `spares`, `special`, `dedup`; `None` for data.
    class: Option<String>,
    state: String,
    /// Read, write and checksum errors, as printed. Spares have none.
    counts: Vec<String>,
    note: String,
    depth: usize,
    is_leaf: bool,
}

/// Maximum length of a name and of a note, in bytes.
const NAME: usize = 300;
/// Maximum number of devices in an event; those with the highest priority.
const SHOWN: usize = 32;

const STATES: [&str; 11] = [
    "ONLINE",
    "DEGRADED",
    "FAULTED",
    "OFFLINE",
    "REMOVED",
    "UNAVAIL",
    "SUSPENDED",
    "AVAIL",
    "INUSE",
    "SPLIT",
    "UNKNOWN",
];

/// Parser of the table, line by line.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Column of the states.
    column: Option<usize>,
    class: Option<String>,
    pub(super) devices: Vec<Device>,
}

impl Table {
    /// Parses a line without its tab.
    pub(super) fn take(&mut self, line: &str) {
        let text = line.trim();
        if text.is_empty() {
            return;
        }
        if text.starts_with("NAME ") && text.contains(" STATE") {
            self.column = line.find("STATE");
            return;
        }
        let depth = line.len() - line.trim_start_matches(' ').len();
        let Some((name, rest)) = self.split(line) else {
            // A heading, or an unknown line.
            if depth == 0 {
                self.class = Some(cut(text, NAME));
            }
            return;
        };
        let (state, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let mut words = rest.split_whitespace().peekable();
        let is_count = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
        let mut counts = Vec::new();
        while counts.len() < 3
            && let Some(count) = words.next_if(is_count)
        {
            counts.push(cut(count, NAME));
        }
        let note = words.collect::<Vec<_>>().join(" ");
        if let Some(parent) = self.devices.last_mut() {
            parent.is_leaf = parent.class != self.class || parent.depth >= depth;
        }
        self.devices.push(Device {
            name: cut(name, NAME),
            class: self.class.clone(),
            state: state.to_owned(),
            counts,
            note: cut(&note, NAME),
            depth,
            is_leaf: true,
        });
    }

    /// The name, and the line from its state on.
    fn split<'a>(&self, line: &'a str) -> Option<(&'a str, &'a str)> {
        let at_column = self.column.and_then(|column| {
            let (name, rest) = line.split_at_checked(column)?;
            let is_aligned = name.ends_with(' ') && !name.trim().is_empty();
            (is_aligned && begins_with_state(rest)).then_some((name.trim(), rest))
        });
        let anywhere = || {
            let blanks = line.match_indices(' ').map(|(at, _)| at + 1);
            let cuts = blanks.filter_map(|at| line.split_at_checked(at));
            let mut cuts = cuts.map(|(name, rest)| (name.trim(), rest));
            cuts.find(|(name, rest)| !name.is_empty() && begins_with_state(rest))
        };
        at_column.or_else(anywhere)
    }
}

fn begins_with_state(text: &str) -> bool {
    text.split_whitespace().next().is_some_and(|word| STATES.contains(&word))
        && !text.starts_with(' ')
}

impl Device {
    fn has_errors(&self) -> bool {
        self.counts.iter().any(|count| count != "0")
    }

    fn is_well(&self) -> bool {
        matches!(self.state.as_str(), "ONLINE" | "AVAIL" | "INUSE")
    }

    /// The device's priority. Error counts matter on any level, a state only where it differs from
    /// that of the children.
    pub(super) fn priority(&self) -> u8 {
        if self.has_errors() || (self.is_leaf && !self.is_well()) {
            7
        } else if self.is_leaf && self.is_incomplete() {
            3
        } else {
            0
        }
    }

    /// It lacks data that a resilver is to write.
    fn is_incomplete(&self) -> bool {
        ["resilvering", "awaiting resilver"].iter().any(|note| self.note.contains(note))
    }

    /// The note concerns the health of the device. ZFS before pool version 28 also writes there
    /// what the last scan repaired ("17.5K resilvered").
    fn is_remarkable(&self) -> bool {
        const USUAL: [&str; 5] =
            ["(trimming", "(untrimmed", "(trim ", "(initializ", "(uninitializ"];
        let is_usual = USUAL.iter().any(|usual| self.note.starts_with(usual))
            || self.note.ends_with(" resilvered")
            || self.note.ends_with(" repaired");
        !self.note.is_empty() && !is_usual
    }

    /// The part whose change makes an event: without error counts.
    pub(super) fn essence(&self) -> (String, String, bool) {
        (self.name.clone(), format!("{} {}", self.state, self.note), self.has_errors())
    }

    /// The text for the log.
    pub(super) fn line(&self) -> String {
        let counts =
            if self.has_errors() { format!(" {}", self.counts.join("/")) } else { String::new() };
        let note = if self.note.is_empty() { String::new() } else { format!(" ({})", self.note) };
        format!("{:?} {}{counts}{note}", self.name, self.state)
    }

    /// The JSON for an event.
    pub(super) fn entry(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("name".into(), self.name.clone().into());
        entry.insert("state".into(), self.state.clone().into());
        for (key, count) in ["read", "write", "cksum"].into_iter().zip(&self.counts) {
            entry.insert(key.into(), count.clone().into());
        }
        if !self.note.is_empty() {
            entry.insert("note".into(), self.note.clone().into());
        }
        if let Some(class) = &self.class {
            entry.insert("class".into(), class.clone().into());
        }
        Value::Object(entry)
    }
}

/// The priority of all devices, and those to be reported: leaves that are faulty or have a note,
/// the highest priority first; a group or the pool only where no leaf explains its errors.
pub(super) fn judge(devices: Vec<Device>) -> (u8, Vec<Device>) {
    let priority = devices.iter().map(Device::priority).max().unwrap_or(0);
    let is_explained = devices.iter().any(|device| device.is_leaf && device.priority() >= 7);
    let is_named = |device: &Device| match device.is_leaf {
        true => device.priority() > 0 || device.is_remarkable(),
        false => !is_explained && device.has_errors(),
    };
    let mut named: Vec<Device> = devices.into_iter().filter(is_named).collect();
    named.sort_by_key(|device| std::cmp::Reverse(device.priority()));
    named.truncate(SHOWN);
    (priority, named)
}

/// ONLINE leaves of a pool: their labels state what became of it.
pub(super) fn readable(devices: &[Device], most: usize) -> Vec<String> {
    let leaves = devices.iter().filter(|device| device.is_leaf && device.depth > 0);
    let leaves = leaves.filter(|device| device.class.is_none() && device.state == "ONLINE");
    leaves.take(most).map(|device| device.name.clone()).collect()
}
