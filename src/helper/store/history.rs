//! The history: events as they were published, one JSON object a line, bounded by bytes.
//!
//! Each line is the frame of one event in the extended form, with `seq`, `epoch` and `time`, and a
//! checksum. Lines are only appended, in the order of publication; a clock that was set changes that
//! order no more than a restart does. The files are segments, `history/NUMBER`, of which the oldest
//! is removed when all of them would exceed the limit: at least 7/8 of the limit are retained.
//!
//! A crash may leave a last line without its end: it is skipped, as is every line with a wrong
//! checksum. Nothing is synchronized to the disk: events survive the end of the daemon, and of
//! a host that loses power only as far as its file system says. Events that could not be written are
//! counted, and a line of the name `gap` with that number is written before the next one.
//!
//! A reader has a [`Cursor`], a place between two lines, which stays valid until the segment is
//! removed; one page costs at most [`SCAN`] bytes of reading. Sequence and epoch of an event identify
//! it, so that a consumer that stores its cursor after the event gets each at least once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::seal::{seal, unseal};
use crate::wire::{Cursor, decimal};

/// Parts of the limit that a segment has.
const SEGMENTS: u64 = 8;
/// Bytes that are read for one page at most, beyond one line.
const SCAN: usize = 1 << 20;
/// The longest line, in bytes; a longer one is not written, and nothing longer is read as one.
pub(super) const LINE: usize = 128 * 1024;
/// Bytes that wait to be written at most before they are.
const BUFFER: usize = 64 * 1024;

/// Events that are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryQuestion {
    /// From where on; the beginning without it.
    pub cursor: Cursor,
    /// RFC 3339 in UTC: events of this time and later.
    pub since: Option<String>,
    /// Events of this time and earlier.
    pub until: Option<String>,
    /// Events with this priority at least; those without a priority are left out.
    pub priority: Option<u8>,
    /// Names of events, as they stand in frames; all without one.
    pub kinds: Vec<String>,
    /// Bytes of one page at most, beyond its first event.
    pub room: usize,
}

/// A page of the history.
#[derive(Debug, Default, Serialize)]
pub(super) struct Page {
    /// Frames, in the order of publication.
    events: Vec<Box<RawValue>>,
    /// Where the page behind this one begins.
    next: Cursor,
    /// Nothing was behind this page when it was read.
    eof: bool,
    /// Events between the cursor that was given and this page are no longer there.
    lost: bool,
}

/// The history as its writer has it.
#[derive(Debug)]
pub(super) struct History {
    directory: PathBuf,
    /// The segment that is written, and its length with what waits.
    file: Option<(u64, File, u64)>,
    pending: Vec<u8>,
    /// Events that are lost where `pending` is not written.
    unwritten: u64,
    /// Events that are lost since the last line.
    lost: u64,
    /// Sequence number of the last event of an epoch that is in the file or on its way there.
    last: Option<(String, u64)>,
}

/// The parts of a frame that filters and the writer read.
#[derive(Deserialize)]
struct Head<'f> {
    name: &'f str,
    seq: u64,
    epoch: &'f str,
    time: &'f str,
    #[serde(borrow)]
    args: Args<'f>,
}

#[derive(Deserialize)]
struct Args<'f> {
    #[serde(borrow, default)]
    priority: Option<std::borrow::Cow<'f, str>>,
}

impl History {
    pub(super) fn new(state: &Path) -> History {
        History {
            directory: state.join("history"),
            file: None,
            pending: Vec::new(),
            unwritten: 0,
            lost: 0,
            last: None,
        }
    }

    /// Takes an event in, of which `lost` before it never came; `limit` bounds all segments, in
    /// bytes. An event that is there already is skipped: it came again after a restart of the store.
    ///
    /// # Errors
    /// Why it, or one before it, could not be written. It is counted as lost then.
    pub(super) fn append(&mut self, lost: u64, frame: &str, limit: u64) -> io::Result<()> {
        self.lost = self.lost.saturating_add(lost);
        let Ok(head) = serde_json::from_str::<Head<'_>>(frame) else { return Ok(()) };
        let opened = self.open();
        let is_known =
            self.last.as_ref().is_some_and(|(epoch, seq)| epoch == head.epoch && *seq >= head.seq);
        if is_known {
            return Ok(());
        }
        self.last = Some((head.epoch.to_owned(), head.seq));
        if let Err(error) = opened {
            self.lost = self.lost.saturating_add(1);
            return Err(error);
        }
        if frame.len() > LINE {
            self.lost = self.lost.saturating_add(1);
            return Ok(());
        }
        if self.lost > 0 {
            let Head { seq, epoch, time, .. } = head;
            let gap = format!(
                r#"{{"namespace":"events","name":"gap","id":"none","seq":{},"epoch":"{epoch}","time":"{time}","args":{{"missed":{}}}}}"#,
                seq.saturating_sub(1),
                self.lost
            );
            self.pending.extend(seal(&gap).into_bytes());
            self.unwritten += std::mem::take(&mut self.lost);
        }
        self.pending.extend(seal(frame).into_bytes());
        self.unwritten += 1;
        if self.pending.len() >= BUFFER { self.write(limit) } else { Ok(()) }
    }

    /// Writes what waits. Events that cannot be written are lost.
    pub(super) fn write(&mut self, limit: u64) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let lost = std::mem::take(&mut self.unwritten);
        let written = self.write_all(&pending, limit);
        if written.is_err() {
            self.lost = self.lost.saturating_add(lost);
            // Its end is not known any more.
            self.file = None;
        }
        written
    }

    fn write_all(&mut self, bytes: &[u8], limit: u64) -> io::Result<()> {
        if !self.is_in_place() {
            self.file = None;
        }
        self.open()?;
        let share = limit / SEGMENTS;
        let added = bytes.len() as u64;
        if let Some((number, _, length)) = &self.file
            && *length > 0
            && length.saturating_add(added) > share
        {
            self.file = Some(open_segment(&self.directory, number.saturating_add(1))?);
        }
        self.remove_surplus(limit.saturating_sub(added))?;
        let Some((_, file, length)) = &mut self.file else { return Ok(()) };
        if let Err(error) = file.write_all(bytes) {
            // A part of it would be a line without its end.
            let _ = file.set_len(*length);
            return Err(error);
        }
        *length += added;
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        // Not the state directory: one that was removed is not made anew.
        match fs::DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let number = segments(&self.directory)?.last().map_or(1, |(number, _)| *number);
        let mut opened = open_segment(&self.directory, number)?;
        if self.last.is_none() {
            self.last = last_of(&self.directory, number)?;
        }
        end_line(&mut opened)?;
        self.file = Some(opened);
        Ok(())
    }

    /// True where nothing waits to be written, and nothing was lost since the last line.
    pub(super) fn is_complete(&self) -> bool {
        self.pending.is_empty() && self.lost == 0
    }

    /// Whether the open segment is the one that its name leads to: it may have been removed.
    fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(|(number, file, _)| {
            let named = fs::metadata(self.directory.join(number.to_string()));
            let identity = |about: fs::Metadata| (about.dev(), about.ino());
            let open = file.metadata().map(identity);
            named.map(identity).ok() == open.ok()
        })
    }

    /// Removes the oldest segments, but never the one that is written, until `limit` bytes are left.
    fn remove_surplus(&self, limit: u64) -> io::Result<()> {
        let all = segments(&self.directory)?;
        let mut bytes: u64 = all.iter().map(|(_, length)| length).sum();
        let current = self.file.as_ref().map_or(0, |(number, ..)| *number);
        for (number, length) in all.iter().filter(|(number, _)| *number != current) {
            if bytes <= limit {
                break;
            }
            fs::remove_file(self.directory.join(number.to_string()))?;
            bytes -= length;
        }
        Ok(())
    }

    /// Removes all of it.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        *self = History {
            directory: std::mem::take(&mut self.directory),
            ..History::new(Path::new(""))
        };
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// A page of what was asked for.
    pub(super) fn read(&self, question: &HistoryQuestion) -> io::Result<Page> {
        let all = match segments(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            all => all?,
        };
        let mut page = Page { next: question.cursor, eof: true, ..Page::default() };
        let (mut scanned, mut room) = (0, question.room);
        for (number, length) in all.iter().filter(|(n, _)| *n >= question.cursor.segment) {
            if *number != page.next.segment {
                let is_first = question.cursor == Cursor::default();
                page.lost |= !is_first
                    && page.next.segment == question.cursor.segment
                    && !all.iter().any(|(other, _)| *other == question.cursor.segment);
                page.next = Cursor { segment: *number, offset: 0 };
            }
            let mut file = File::open(self.directory.join(number.to_string()))?;
            page.next.offset = page.next.offset.min(*length);
            file.seek(SeekFrom::Start(page.next.offset))?;
            let mut lines = BufReader::with_capacity(BUFFER, file);
            while let Some((line, length)) = next_line(&mut lines)? {
                if scanned >= SCAN {
                    page.eof = false;
                    return Ok(page);
                }
                if let Some(frame) = line.and_then(|line| question.select(&line)) {
                    let size = frame.get().len();
                    if size > room && !page.events.is_empty() {
                        page.eof = false;
                        return Ok(page);
                    }
                    room = room.saturating_sub(size);
                    page.events.push(frame);
                }
                scanned += length;
                page.next.offset += length as u64;
            }
        }
        Ok(page)
    }
}

impl HistoryQuestion {
    /// The frame of a line that was asked for.
    fn select(&self, line: &str) -> Option<Box<RawValue>> {
        let frame = unseal(line)?;
        let head: Head<'_> = serde_json::from_str(&frame).ok()?;
        let is_in_time = self.since.as_deref().is_none_or(|since| head.time >= since)
            && self.until.as_deref().is_none_or(|until| head.time <= until);
        // Lost events may have been of any kind.
        let is_wanted = head.name == "gap"
            || (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == head.name))
                && self
                    .priority
                    .is_none_or(|least| head.priority().is_some_and(|priority| priority >= least));
        (is_in_time && is_wanted).then(|| RawValue::from_string(frame).ok()).flatten()
    }
}

impl Head<'_> {
    /// The number before ` - CATEGORY`.
    fn priority(&self) -> Option<u8> {
        decimal(self.args.priority.as_deref()?.split(' ').next()?)
    }
}

/// The segments there are with their lengths, the oldest first.
fn segments(directory: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(number) = decimal(&entry.file_name().to_string_lossy()) {
            found.push((number, entry.metadata()?.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn open_segment(directory: &Path, number: u64) -> io::Result<(u64, File, u64)> {
    let mut options = OpenOptions::new();
    let options = options.create(true).read(true).append(true).mode(0o600);
    let file = options.open(directory.join(number.to_string()))?;
    let length = file.metadata()?.len();
    Ok((number, file, length))
}

/// Ends a line that a crash has left without its end, so that the next one stands alone.
fn end_line((_, file, length): &mut (u64, File, u64)) -> io::Result<()> {
    let Some(last) = length.checked_sub(1) else { return Ok(()) };
    let mut byte = [0];
    file.seek(SeekFrom::Start(last))?;
    file.read_exact(&mut byte)?;
    if byte != *b"\n" {
        file.write_all(b"\n")?;
        *length += 1;
    }
    Ok(())
}

/// Epoch and sequence number of the last event of a segment, or of the one before.
fn last_of(directory: &Path, number: u64) -> io::Result<Option<(String, u64)>> {
    let mut last = None;
    for number in [number.saturating_sub(1), number] {
        let file = match File::open(directory.join(number.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let mut lines = BufReader::with_capacity(BUFFER, file);
        while let Some((line, _)) = next_line(&mut lines)? {
            let Some(frame) = line.as_deref().and_then(unseal) else { continue };
            if let Ok(head) = serde_json::from_str::<Head<'_>>(&frame) {
                last = Some((head.epoch.to_owned(), head.seq));
            }
        }
    }
    Ok(last)
}

/// The next line without its end, and how many bytes it takes; `None` inside for one that is no
/// text or too long. A line without its end is not there yet.
fn next_line(lines: &mut impl BufRead) -> io::Result<Option<(Option<String>, usize)>> {
    let mut bytes = Vec::new();
    let mut length = 0;
    // With its checksum.
    const MOST: usize = 2 * LINE;
    loop {
        bytes.clear();
        let read = lines.by_ref().take(MOST as u64).read_until(b'\n', &mut bytes)?;
        length += read;
        match bytes.last() {
            Some(b'\n') if read == length => {
                bytes.pop();
                return Ok(Some((String::from_utf8(bytes).ok(), length)));
            }
            Some(b'\n') => return Ok(Some((None, length))),
            // More of a line that is too long.
            Some(_) if read == MOST => {}
            Some(_) | None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LIMIT: u64 = 64 * 1024;

    struct StateDirectory(PathBuf);

    impl StateDirectory {
        fn new(name: &str) -> StateDirectory {
            let path = std::env::temp_dir().join(format!("se-his-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            StateDirectory(path)
        }

        fn files(&self) -> Vec<(u64, u64)> {
            segments(&self.0.join("history")).unwrap()
        }

        fn path(&self, number: u64) -> PathBuf {
            self.0.join("history").join(number.to_string())
        }
    }

    impl Drop for StateDirectory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn frame(seq: u64, time: &str, name: &str, priority: u8, text: &str) -> String {
        format!(
            r#"{{"namespace":"events","name":"{name}","id":"none","seq":{seq},"epoch":"e","time":"{time}","args":{{"message":"{text}","priority":"{priority} - X"}}}}"#
        )
    }

    fn event(seq: u64) -> String {
        frame(seq, "2026-11-23T17:50:47Z", "life_preserver", 1, "text")
    }

    fn write(history: &mut History, frames: impl IntoIterator<Item = String>) {
        frames.into_iter().for_each(|frame| history.append(0, &frame, LIMIT).unwrap());
        history.write(LIMIT).unwrap();
    }

    /// Sequence numbers of all pages; a gap as its number below zero.
    fn read(history: &History, question: &HistoryQuestion) -> Vec<i64> {
        let (mut question, mut found) = (question.clone(), Vec::new());
        loop {
            let page = history.read(&question).unwrap();
            for event in &page.events {
                let frame: serde_json::Value = serde_json::from_str(event.get()).unwrap();
                found.push(match frame["args"]["missed"].as_i64() {
                    Some(missed) => -missed,
                    None => frame["seq"].as_i64().unwrap(),
                });
            }
            if page.eof {
                return found;
            }
            assert_ne!(page.next, question.cursor, "each page goes on");
            question.cursor = page.next;
        }
    }

    fn all() -> HistoryQuestion {
        HistoryQuestion { room: 1000, ..HistoryQuestion::default() }
    }

    #[test]
    fn history_returns_events_in_order_of_publication() {
        let place = StateDirectory::new("order");
        let mut history = History::new(&place.0);
        assert!(read(&history, &all()).is_empty());
        write(&mut history, (1..=100).map(event));
        assert_eq!(read(&history, &all()), (1..=100).collect::<Vec<_>>());
        let page = history.read(&all()).unwrap();
        assert_eq!(page.events[0].get(), event(1));
        assert!(!page.eof && page.events.len() < 20);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&place.path(1)), mode(&place.0.join("history"))), (0o600, 0o700));
        // Another process goes on, and skips what it is given once more.
        let mut history = History::new(&place.0);
        write(&mut history, (90..=101).map(event));
        assert_eq!(read(&history, &all()).last_chunk(), Some(&[99, 100, 101]));
    }

    #[test]
    fn filters_of_the_history_hold_together() {
        let place = StateDirectory::new("filters");
        let mut history = History::new(&place.0);
        let times = ["2026-11-23T10:00:00Z", "2026-11-23T12:00:00Z", "2026-11-23T11:00:00Z"];
        let mut frames = vec![];
        for (seq, time) in (1..).zip(times) {
            // The clock was set back before the last.
            frames.push(frame(seq * 10, time, "life_preserver", 7, "a"));
            frames.push(frame(seq * 10 + 1, time, "system_state", 0, "b"));
            let job = frame(seq * 10 + 2, time, "dispatcher", 0, "c");
            frames.push(job.replace(r#","priority":"0 - X""#, ""));
        }
        write(&mut history, frames);
        let since = HistoryQuestion { since: Some(times[2].into()), ..all() };
        assert_eq!(read(&history, &since), [20, 21, 22, 30, 31, 32]);
        let until = HistoryQuestion { until: Some(times[2].into()), ..since };
        assert_eq!(read(&history, &until), [30, 31, 32]);
        assert_eq!(read(&history, &HistoryQuestion { priority: Some(6), ..all() }), [10, 20, 30]);
        assert_eq!(read(&history, &HistoryQuestion { priority: Some(0), ..until }), [30, 31]);
        let kinds = vec!["dispatcher".to_owned(), "system_state".to_owned()];
        let kinds = HistoryQuestion { kinds, ..all() };
        assert_eq!(read(&history, &kinds), [11, 12, 21, 22, 31, 32]);
    }

    #[test]
    fn history_cut_anywhere_loses_the_cut_line_alone() {
        let place = StateDirectory::new("cut");
        let mut history = History::new(&place.0);
        write(&mut history, (1..=3).map(event));
        let whole = fs::read(place.path(1)).unwrap();
        let length = whole.len() / 3;
        for cut in (2 * length)..whole.len() - 1 {
            fs::write(place.path(1), &whole[..cut]).unwrap();
            let mut history = History::new(&place.0);
            assert_eq!(read(&history, &all()), [1, 2], "cut at {cut}");
            write(&mut history, [event(4)]);
            assert_eq!(read(&history, &all()), [1, 2, 4], "cut at {cut}");
        }
        // A line of which only the end is missing is whole as soon as there is another one.
        fs::write(place.path(1), &whole[..whole.len() - 1]).unwrap();
        write(&mut History::new(&place.0), [event(4)]);
        assert_eq!(read(&History::new(&place.0), &all()), [1, 2, 3, 4]);
        // A changed byte costs its line; so does what is no line at all.
        for at in 0..length {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(place.path(1), &changed).unwrap();
            let found = read(&History::new(&place.0), &all());
            assert!(found == [2, 3] || found == [3], "byte {at}: {found:?}");
        }
        let junk = [&vec![b'x'; 3 * LINE][..], b"\n", &whole].concat();
        fs::write(place.path(1), junk).unwrap();
        assert_eq!(read(&History::new(&place.0), &all()), [1, 2, 3]);
    }

    #[test]
    fn history_stays_within_its_limit_and_drops_the_oldest() {
        let place = StateDirectory::new("limit");
        let mut history = History::new(&place.0);
        for seq in 1..=2000 {
            write(&mut history, [event(seq)]);
            let bytes: u64 = place.files().iter().map(|(_, length)| length).sum();
            assert!(bytes <= LIMIT, "{bytes} at {seq}");
        }
        let found = read(&history, &all());
        assert_eq!(found.last(), Some(&2000));
        assert!(found.is_sorted() && found.len() as i64 == 2001 - found[0], "without a hole");
        let bytes: u64 = place.files().iter().map(|(_, length)| length).sum();
        assert!(bytes > LIMIT * 3 / 4, "{bytes}");
        // A cursor into a removed segment goes on with what there is, and the page says so.
        let gone = HistoryQuestion { cursor: Cursor { segment: 1, offset: 10 }, ..all() };
        let page = history.read(&gone).unwrap();
        assert!(page.lost && !page.events.is_empty());
        assert!(!history.read(&all()).unwrap().lost);
        let end = HistoryQuestion { cursor: Cursor { segment: 99_999, offset: 0 }, ..all() };
        assert!(history.read(&end).unwrap().eof);
        history.remove().unwrap();
        assert!(!place.0.join("history").exists());
        history.remove().unwrap();
    }

    #[test]
    fn events_that_were_not_written_are_counted_in_a_gap() {
        let place = StateDirectory::new("gap");
        let mut history = History::new(&place.0);
        write(&mut history, [event(1)]);
        // No directory can be made where a file is.
        fs::remove_dir_all(place.0.join("history")).unwrap();
        fs::write(place.0.join("history"), "").unwrap();
        history.file = None;
        for seq in 2..=4 {
            assert!(history.append(0, &event(seq), LIMIT).is_err());
        }
        fs::remove_file(place.0.join("history")).unwrap();
        assert!(!history.is_complete());
        history.append(5, &event(10), LIMIT).unwrap();
        history.append(0, &event(11), LIMIT).unwrap();
        history.write(LIMIT).unwrap();
        assert!(history.is_complete());
        write(&mut history, [frame(12, "t", "life_preserver", 1, &"x".repeat(LINE)), event(13)]);
        assert_eq!(read(&history, &all()), [-8, 10, 11, -1, 13]);
        // Gaps are of every kind and priority.
        let few = HistoryQuestion { priority: Some(9), kinds: vec!["x".into()], ..all() };
        assert_eq!(read(&history, &few), [-8, -1]);
    }

    #[test]
    fn page_of_the_history_reads_a_bounded_amount() {
        let place = StateDirectory::new("scan");
        let mut history = History::new(&place.0);
        let limit = 16 * SCAN as u64;
        let long = "y".repeat(60_000);
        for seq in 1..=60 {
            history.append(0, &frame(seq, "t", "life_preserver", 0, &long), limit).unwrap();
        }
        history.append(0, &frame(61, "t", "life_preserver", 9, "z"), limit).unwrap();
        history.write(limit).unwrap();
        let rare = HistoryQuestion { priority: Some(9), ..all() };
        let page = history.read(&rare).unwrap();
        assert!(page.events.is_empty() && !page.eof);
        assert_eq!(read(&history, &rare), [61]);
        // An event that is larger than the room comes alone.
        let page = history.read(&all()).unwrap();
        assert_eq!(page.events.len(), 1);
    }
}
