//! The journal: an append-only file of job records, one JSON object per line.
//!
//! Each line has a checksum, so that a line changed by a crash or a bad disk is detected, and all
//! others still count. Obsolete records are dropped when the file has grown to twice the size of
//! the current ones: these are written to a new file, which replaces it.
//!
//! A record is of one of four kinds. `filed`: the job was accepted. `started`: the decision to run
//! it, or its progress since. `finished`: its outcome, complete. `forgotten`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::departed::{self, Departed};
use crate::seal::{has_checksum, seal, unseal};
use crate::wire::decimal;

/// Format version of the file.
const VERSION: u64 = 1;
/// Maximum length of a line, in bytes: far above what the limits of jobs allow.
const LINE: usize = 1 << 20;
/// The file may exceed twice the size of its current records by this many bytes.
const SLACK: u64 = 256 * 1024;
/// Maximum number of files set aside; the oldest is removed.
const ASIDE: usize = 8;

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The job was accepted.
    Filed,
    /// The decision to run it, or its progress since.
    Started,
    /// Its outcome, complete.
    Finished,
    /// The job is obsolete.
    Forgotten,
}

/// Common fields of all records.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) serial: u64,
    pub(super) is: Kind,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    journal: u64,
    /// The highest serial so far.
    last: u64,
}

/// One record of the file, without its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Number of the job.
    pub serial: u64,
    /// Its kind.
    pub kind: Kind,
    /// The JSON object.
    pub text: String,
}

/// One line of the file.
enum Line {
    Header(Header),
    Record(Record),
    Damaged,
    /// The last one, without its line end.
    Torn,
}

/// Calls `each` for every line, with its offset, its length, and its content.
fn scan(file: &mut impl BufRead, mut each: impl FnMut(u64, u64, Line)) -> io::Result<()> {
    let mut at = 0;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = file.by_ref().take(LINE as u64).read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            return Ok(());
        }
        let ended = bytes.last() == Some(&b'\n');
        let line = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| read_line(text.trim_end_matches('\n')));
        let line = match line {
            // A record that lacks only the line end is complete.
            Some(line) => line,
            None if ended || bytes.len() == LINE || is_complete(&bytes) => Line::Damaged,
            None => Line::Torn,
        };
        each(at, read, line);
        at += read;
    }
}

/// Whether only the line end is missing: then the line was changed, not torn.
fn is_complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    has_checksum(&text)
}

fn read_line(text: &str) -> Option<Line> {
    let object = unseal(text)?;
    if let Ok(header) = serde_json::from_str::<Header>(&object) {
        return Some(Line::Header(header));
    }
    let key: Key = serde_json::from_str(&object).ok()?;
    Some(Line::Record(Record { serial: key.serial, kind: key.is, text: object }))
}

/// Content of the file at the start of the daemon.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// All readable current records, in the order in which they were written.
    pub records: Vec<Record>,
    /// The highest serial ever used.
    pub last_serial: u64,
    /// Unreadable lines were found: records are missing.
    pub damaged: bool,
    /// Jobs that stopped being pending at some time, whatever their records state: they may have
    /// run.
    pub departed: BTreeSet<u64>,
    /// Findings and actions, for the log.
    pub remarks: Vec<String>,
}

/// Reads the journal and repairs it: an unreadable file is set aside, with a remark.
pub fn load(path: &Path) -> Loaded {
    let mut loaded = load_journal(path);
    loaded.departed = departed::read(path);
    let last = loaded.departed.last().copied().unwrap_or(0);
    loaded.last_serial = loaded.last_serial.max(last);
    loaded
}

fn load_journal(path: &Path) -> Loaded {
    let mut loaded = Loaded::default();
    let file = match open_to_read(path) {
        Ok(Some(file)) => file,
        Ok(None) => return loaded,
        Err(error) => {
            loaded.damaged = true;
            let why = format!("cannot read {}: {error}", path.display());
            set_aside(path, "unreadable", &why, &mut loaded.remarks);
            return loaded;
        }
    };
    let (mut lines, mut damaged, mut torn, mut good) = (0_u64, 0_u64, false, 0);
    let mut header = None;
    let scanned = scan(&mut BufReader::new(file), |at, length, line| {
        lines += 1;
        match line {
            Line::Header(found) => {
                loaded.last_serial = loaded.last_serial.max(found.last);
                header.get_or_insert(found.journal);
            }
            Line::Record(record) => {
                loaded.last_serial = loaded.last_serial.max(record.serial);
                loaded.records.push(record);
            }
            Line::Damaged => damaged += 1,
            Line::Torn => {
                torn = true;
                return;
            }
        }
        good = at + length;
    });
    let name = path.display();
    if let Err(error) = scanned {
        loaded.damaged = true;
        loaded.records = still_wanted(loaded.records);
        let why = format!("cannot read all of {name}: {error}");
        replace(path, "unreadable", &why, &mut loaded);
        return loaded;
    }
    if let Some(version) = header.filter(|version| *version != VERSION) {
        loaded = Loaded { damaged: true, last_serial: loaded.last_serial, ..Loaded::default() };
        let why = format!("{name} has the form {version}, and this program knows {VERSION}");
        set_aside(path, "newer", &why, &mut loaded.remarks);
        return loaded;
    }
    loaded.records = still_wanted(std::mem::take(&mut loaded.records));
    if damaged > 0 || (header.is_none() && lines > u64::from(torn)) {
        loaded.damaged = true;
        let why = format!("{name}: {} of {lines} lines cannot be read", damaged.max(1));
        replace(path, "damaged", &why, &mut loaded);
    } else if torn {
        let cut = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(good));
        loaded.remarks.push(match cut {
            Ok(()) => format!("{name}: the last record was never complete, and is dropped"),
            Err(error) => format!("{name}: cannot drop a record that was never complete: {error}"),
        });
    }
    loaded
}

fn open_to_read(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("it is not a file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The records of each job that a restart needs: the outcome alone, or the filing and the last
/// progress.
fn still_wanted(records: Vec<Record>) -> Vec<Record> {
    let mut wanted: BTreeMap<u64, BTreeMap<Kind, Record>> = BTreeMap::new();
    for record in records {
        let of_job = wanted.entry(record.serial).or_default();
        match record.kind {
            Kind::Forgotten | Kind::Finished => of_job.clear(),
            Kind::Filed | Kind::Started => {}
        }
        let is_over = of_job.contains_key(&Kind::Forgotten) || of_job.contains_key(&Kind::Finished);
        if !is_over {
            of_job.insert(record.kind, record);
        }
    }
    let all = wanted.into_values().flat_map(BTreeMap::into_values);
    all.filter(|record| record.kind != Kind::Forgotten).collect()
}

/// Renames a file to `NAME.WORD-TIME`, with a remark.
fn set_aside(path: &Path, word: &str, why: &str, remarks: &mut Vec<String>) -> bool {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{word}-{seconds}"));
    let aside = path.with_file_name(name);
    match fs::rename(path, &aside) {
        Ok(()) => {
            remarks.push(format!("{why}; it is set aside as {}", aside.display()));
            forget_oldest_aside(path);
            true
        }
        Err(error) => {
            remarks.push(format!("{why}; it cannot be set aside either: {error}"));
            false
        }
    }
}

fn forget_oldest_aside(path: &Path) {
    let Some(folder) = path.parent() else { return };
    let begin = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let aside = |name: &str| {
        let word = name.strip_prefix(&begin)?;
        let (_, seconds) = word.rsplit_once('-')?;
        decimal::<u64>(seconds)
    };
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut old: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((aside(&entry.file_name().to_string_lossy())?, entry.path())))
        .collect();
    old.sort_unstable();
    for (_, path) in old.iter().rev().skip(ASIDE) {
        let _ = fs::remove_file(path);
    }
}

/// Sets the file aside and writes its readable records to a new one.
fn replace(path: &Path, word: &str, why: &str, loaded: &mut Loaded) {
    if !set_aside(path, word, why, &mut loaded.remarks) {
        return;
    }
    let texts = loaded.records.iter().map(|record| record.text.as_str());
    if let Err(error) = write_new(path, loaded.last_serial, texts) {
        loaded.remarks.push(format!("cannot write {} anew: {error}", path.display()));
    } else {
        loaded.remarks.push(format!("{} records of it are valid", loaded.records.len()));
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).write(true).truncate(true).mode(0o600).open(path)
}

fn header(last: u64) -> String {
    seal(&serde_json::to_string(&Header { journal: VERSION, last }).unwrap_or_default())
}

/// Writes a whole journal beside the old one and replaces that.
fn write_new<'t>(path: &Path, last: u64, texts: impl Iterator<Item = &'t str>) -> io::Result<()> {
    let mut bytes = header(last).into_bytes();
    texts.for_each(|text| bytes.extend(seal(text).into_bytes()));
    put_in_place(path, &bytes).map(drop)
}

/// Writes a file atomically; returns it open.
pub(super) fn put_in_place(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let file = rename_into_place(path, bytes)?;
    sync_directory_of(path)?;
    Ok(file)
}

/// The same up to the rename, after which `path` is the new file, even if syncing its directory
/// fails.
pub(super) fn rename_into_place(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        Ok(file)
    });
    if written.is_err() {
        // On a full disk it would occupy room that others need.
        let _ = fs::remove_file(&new);
    }
    written
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Position of a current line.
#[derive(Clone, Copy, Debug)]
struct LineSpan {
    at: u64,
    length: u64,
}

type Index = BTreeMap<u64, BTreeMap<Kind, LineSpan>>;

/// Why a write failed, and the state of the file.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Unchanged.
    AsBefore(io::Error),
    /// It may have unknown bytes at its end.
    Broken(io::Error),
}

/// The journal, open for writing.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Size of the durable, valid part, in bytes.
    length: u64,
    index: Index,
    last_serial: u64,
    /// The durable part ends with a line end.
    at_line_start: bool,
    /// Lines for the next commit, and their keys.
    pending: Vec<u8>,
    pending_keys: Vec<(Key, LineSpan)>,
    departed: Departed,
}

impl Journal {
    /// Opens it, or creates one. Expects the state after [`load`].
    pub(super) fn open(path: &Path) -> io::Result<Journal> {
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        let (mut index, mut length, mut last_serial) = (Index::new(), 0, 0);
        scan(&mut BufReader::new(&mut file), |at, bytes, line| {
            match line {
                Line::Header(header) => last_serial = last_serial.max(header.last),
                Line::Record(record) => {
                    last_serial = last_serial.max(record.serial);
                    let key = Key { serial: record.serial, is: record.kind };
                    note(&mut index, key, LineSpan { at, length: bytes });
                }
                Line::Damaged => {}
                Line::Torn => return,
            }
            length = at + bytes;
        })?;
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        let (pending, pending_keys) = (Vec::new(), Vec::new());
        let departed = Departed::open(path)?;
        last_serial = last_serial.max(departed.last());
        let path = path.to_owned();
        let at_line_start = true;
        let mut journal = Journal {
            path,
            file,
            length,
            index,
            last_serial,
            at_line_start,
            pending,
            pending_keys,
            departed,
        };
        journal.at_line_start = length == 0 || journal.last_byte()? == Some(b'\n');
        journal.begin_pending();
        Ok(journal)
    }

    /// The next write begins with a header, which may stand anywhere: so each file has one, and a
    /// commit without records still writes, which tests whether writing works.
    fn begin_pending(&mut self) {
        self.pending = if self.at_line_start { Vec::new() } else { b"\n".to_vec() };
        self.pending.extend(header(self.last_serial).into_bytes());
        self.pending_keys.clear();
    }

    fn last_byte(&mut self) -> io::Result<Option<u8>> {
        let Some(at) = self.length.checked_sub(1) else { return Ok(None) };
        let mut byte = [0];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut byte)?;
        Ok(Some(byte[0]))
    }

    /// Adds a record, a JSON object, to the next commit.
    pub(super) fn append(&mut self, object: &str) -> io::Result<()> {
        let key = serde_json::from_str::<Key>(object)?;
        let line = seal(object);
        if line.len() > LINE {
            return Err(io::Error::other("a record is too long"));
        }
        let at = self.length + self.pending.len() as u64;
        self.pending.extend(line.as_bytes());
        self.pending_keys.push((key, LineSpan { at, length: line.len() as u64 }));
        Ok(())
    }

    /// Writes the pending records, `durable` or not. If that fails, none of them is in the file;
    /// [`WriteError::Broken`] states that the file may have changed and must be reopened. After a
    /// durable write the journal is found under its name: if the file was removed or replaced, it
    /// is written again from the open one, and `Ok(true)` says so.
    pub(super) fn write(&mut self, durable: bool) -> Result<bool, WriteError> {
        self.try_write(durable).map_err(|error| {
            self.drop_pending();
            match self.file.set_len(self.length).and_then(|()| self.departed.undo()) {
                Ok(()) => WriteError::AsBefore(error),
                Err(_) => WriteError::Broken(error),
            }
        })?;
        let is_lost = durable && !self.is_in_place();
        if is_lost {
            self.rewrite().map_err(WriteError::Broken)?;
        }
        Ok(is_lost)
    }

    /// Whether records are pending.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending_keys.is_empty()
    }

    /// Drops the pending records.
    pub(super) fn drop_pending(&mut self) {
        self.begin_pending();
    }

    /// Whether the open file is the one that its name leads to.
    fn is_in_place(&self) -> bool {
        let identity = |about: fs::Metadata| (about.dev(), about.ino());
        let (named, open) = (fs::metadata(&self.path), self.file.metadata());
        named.is_ok_and(|named| open.is_ok_and(|open| identity(named) == identity(open)))
    }

    fn try_write(&mut self, durable: bool) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.file.seek(SeekFrom::Start(self.length))?;
            self.file.write_all(&self.pending)?;
        }
        let departs = |(key, _): &&(Key, LineSpan)| key.is != Kind::Filed;
        let departed = self.pending_keys.iter().filter(departs).map(|(key, _)| key.serial);
        let departed: BTreeSet<u64> = departed.collect();
        self.departed.append(&departed)?;
        if durable {
            self.file.sync_data()?;
        }
        self.departed.confirm(departed);
        self.length += self.pending.len() as u64;
        self.at_line_start |= !self.pending.is_empty();
        self.pending.clear();
        for (key, place) in std::mem::take(&mut self.pending_keys) {
            self.last_serial = self.last_serial.max(key.serial);
            note(&mut self.index, key, place);
        }
        Ok(())
    }

    fn wanted(&self) -> u64 {
        self.index.values().flat_map(BTreeMap::values).map(|place| place.length).sum()
    }

    /// Drops obsolete records, if that pays off.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        if self.length <= SLACK || self.length <= SLACK + 2 * self.wanted() {
            return Ok(());
        }
        self.rewrite()
    }

    /// Writes the current records to a new file, which replaces the one with the name.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut bytes = header(self.last_serial).into_bytes();
        let mut index = Index::new();
        for (serial, of_job) in &self.index {
            for (kind, place) in of_job {
                let moved = LineSpan { at: bytes.len() as u64, length: place.length };
                self.file.seek(SeekFrom::Start(place.at))?;
                (&mut self.file).take(place.length).read_to_end(&mut bytes)?;
                note(&mut index, Key { serial: *serial, is: *kind }, moved);
            }
        }
        self.file = rename_into_place(&self.path, &bytes)?;
        (self.index, self.length) = (index, bytes.len() as u64);
        self.at_line_start = true;
        self.departed.rewrite(|serial| self.index.contains_key(&serial))?;
        sync_directory_of(&self.path)
    }
}

fn note(index: &mut Index, key: Key, place: LineSpan) {
    match key.is {
        Kind::Forgotten => {
            index.remove(&key.serial);
        }
        Kind::Finished => {
            index.insert(key.serial, BTreeMap::from([(key.is, place)]));
        }
        Kind::Filed | Kind::Started => {
            let of_job = index.entry(key.serial).or_default();
            if !of_job.contains_key(&Kind::Finished) {
                of_job.insert(key.is, place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct TestDirectory(PathBuf);

    impl TestDirectory {
        fn new(name: &str) -> TestDirectory {
            let path = std::env::temp_dir().join(format!("se-jrn-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            TestDirectory(path)
        }

        fn path(&self) -> PathBuf {
            self.0.join("journal")
        }

        fn aside(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).filter(|n| n.contains('-')).collect()
        }
    }

    impl Drop for TestDirectory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn record(serial: u64, is: &str, more: &str) -> String {
        format!(r#"{{"serial":{serial},"is":"{is}","x":"{more}"}}"#)
    }

    fn write(path: &Path, records: &[String]) {
        let mut journal = Journal::open(path).unwrap();
        records.iter().for_each(|record| journal.append(record).unwrap());
        journal.write(true).unwrap();
    }

    fn persisted(loaded: &Loaded) -> Vec<(u64, Kind)> {
        loaded.records.iter().map(|record| (record.serial, record.kind)).collect()
    }

    #[test]
    fn written_records_are_read_as_far_as_they_are_current() {
        let place = TestDirectory::new("read");
        let path = place.path();
        assert_eq!(load(&path), Loaded::default());
        write(&path, &[record(1, "filed", "a"), record(2, "filed", ""), record(1, "started", "")]);
        write(
            &path,
            &[record(1, "started", "b"), record(3, "filed", ""), record(3, "forgotten", "")],
        );
        let loaded = load(&path);
        assert_eq!(persisted(&loaded), [(1, Kind::Filed), (1, Kind::Started), (2, Kind::Filed)]);
        assert_eq!(loaded.records[1].text, record(1, "started", "b"));
        assert_eq!((loaded.last_serial, loaded.damaged, loaded.remarks.len()), (3, false, 0));
        write(&path, &[record(1, "finished", "")]);
        assert_eq!(persisted(&load(&path)), [(1, Kind::Finished), (2, Kind::Filed)]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn journal_cut_anywhere_keeps_every_whole_record_and_continues() {
        let place = TestDirectory::new("cut");
        let path = place.path();
        let records: Vec<String> = (1..=4).map(|serial| record(serial, "filed", "ü")).collect();
        write(&path, &records);
        let whole = fs::read(&path).unwrap();
        let ends: Vec<usize> =
            whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let loaded = load(&path);
            // The header is a line too, and a record that lacks only its line end is complete.
            let expected = ends.iter().filter(|end| **end <= cut + 1).count().saturating_sub(1);
            assert_eq!(loaded.records.len(), expected, "cut at {cut}");
            assert!(!loaded.damaged, "cut at {cut}: {:?}", loaded.remarks);
            let is_whole = cut == 0 || ends.iter().any(|end| *end == cut || *end == cut + 1);
            assert_eq!(loaded.remarks.is_empty(), is_whole, "cut at {cut}: {:?}", loaded.remarks);
            write(&path, &[record(9, "filed", "")]);
            let again = load(&path);
            assert_eq!(again.records.len(), expected + 1, "cut at {cut}");
            assert!(again.remarks.is_empty(), "cut at {cut}: {:?}", again.remarks);
        }
    }

    #[test]
    fn departed_jobs_are_known_wherever_the_journal_is_cut() {
        let place = TestDirectory::new("departed");
        let path = place.path();
        let mut records: Vec<String> = (1..=5).map(|serial| record(serial, "filed", "")).collect();
        records.extend([record(2, "started", ""), record(2, "finished", "")]);
        records.extend([record(3, "started", ""), record(4, "finished", "")]);
        records.push(record(4, "forgotten", ""));
        write(&path, &records);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let loaded = load(&path);
            assert_eq!(loaded.departed, [2, 3, 4].into(), "cut at {cut}");
            assert!(loaded.last_serial >= 4, "no number is given twice, cut at {cut}");
        }
        // A torn or changed line of the other file affects that line alone.
        let departed = place.0.join("departed");
        let lines = fs::read(&departed).unwrap();
        fs::write(&departed, &lines[..lines.len() - 5]).unwrap();
        assert_eq!(load(&path).departed, [2, 3].into());
        write(&path, &[record(5, "started", "")]);
        assert_eq!(load(&path).departed, [2, 3, 5].into());
    }

    #[test]
    fn flipped_byte_affects_one_record_and_is_reported() {
        let place = TestDirectory::new("flip");
        let path = place.path();
        let records: Vec<String> = (1..=4).map(|serial| record(serial, "filed", "ü")).collect();
        write(&path, &records);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in [1, 0x80] {
                let mut flipped = whole.clone();
                flipped[at] ^= bit;
                fs::write(&path, &flipped).unwrap();
                let loaded = load(&path);
                // A flipped line end joins two lines.
                assert!(loaded.records.len() >= 2, "byte {at}: {:?}", loaded.remarks);
                for record in &loaded.records {
                    assert_eq!(record.text, records[record.serial as usize - 1], "byte {at}");
                }
                assert!(loaded.damaged && !loaded.remarks.is_empty(), "byte {at}");
                let aside = place.aside();
                assert_eq!(aside.len(), 1, "byte {at}: {aside:?}");
                assert_eq!(fs::read(place.0.join(&aside[0])).unwrap(), flipped);
                fs::remove_file(place.0.join(&aside[0])).unwrap();
                let again = load(&path);
                assert_eq!(again.records, loaded.records, "byte {at}");
                assert!(!again.damaged, "byte {at}: {:?}", again.remarks);
            }
        }
    }

    #[test]
    fn empty_newer_or_unreadable_journal_does_not_prevent_the_start() {
        let place = TestDirectory::new("other");
        let path = place.path();
        fs::write(&path, "").unwrap();
        assert_eq!(load(&path), Loaded::default());
        fs::write(&path, seal(r#"{"journal":2,"last":7}"#) + &seal(r#"{"new":"form"}"#)).unwrap();
        let loaded = load(&path);
        assert!(loaded.damaged && loaded.records.is_empty() && loaded.last_serial == 7);
        assert!(loaded.remarks[0].contains("the form 2"), "{:?}", loaded.remarks);
        assert_eq!(place.aside().len(), 1);
        fs::create_dir(&path).unwrap();
        let loaded = load(&path);
        assert!(loaded.damaged && loaded.remarks[0].contains("not a file"), "{:?}", loaded.remarks);
        assert_eq!(place.aside().len(), 2);
        write(&path, &[record(8, "filed", "")]);
        assert_eq!(persisted(&load(&path)), [(8, Kind::Filed)]);
    }

    #[test]
    fn journal_is_compacted_and_stays_small() {
        let place = TestDirectory::new("compact");
        let path = place.path();
        let mut journal = Journal::open(&path).unwrap();
        let long = "x".repeat(1000);
        for serial in 1..=3000 {
            journal.append(&record(serial, "filed", &long)).unwrap();
            journal.append(&record(serial, "finished", &long)).unwrap();
            if serial > 10 {
                journal.append(&record(serial - 10, "forgotten", "")).unwrap();
            }
            journal.write(false).unwrap();
            journal.compact().unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 * SLACK);
        assert!(fs::metadata(place.0.join("departed")).unwrap().len() < SLACK);
        let loaded = load(&path);
        assert_eq!(loaded.records.len(), 10);
        assert_eq!((loaded.last_serial, loaded.damaged), (3000, false));
        assert!(loaded.records.iter().all(|record| record.kind == Kind::Finished));
    }

    #[test]
    fn number_of_files_set_aside_is_limited() {
        let place = TestDirectory::new("aside");
        let path = place.path();
        for number in 0..ASIDE + 3 {
            fs::write(place.0.join(format!("journal.damaged-{number}")), "").unwrap();
        }
        fs::write(&path, "junk\n").unwrap();
        assert!(load(&path).damaged);
        let aside = place.aside();
        assert_eq!(aside.len(), ASIDE);
        assert!(!aside.contains(&"journal.damaged-0".to_owned()));
    }
}
