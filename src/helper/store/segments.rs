//! A job's log on disk: head and tail of its output, in append-only files.
//!
//! A log consists of a few segments, each a file `SERIAL.OFFSET` of at most half the limit, named
//! by its offset in the job's output. The first one is the head. Of the others the last two are
//! retained, which contain at least the last half; so a log beyond its limit requires no rewriting,
//! and at most one and a half times the limit of disk space. Missing output leaves a gap between
//! two names, and is reported like omitted output.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::wire::{Excerpt, decimal, left_out_marker};

/// A file of a log: its offset, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    start: u64,
    length: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// The log of one job.
#[derive(Debug)]
pub(super) struct JobLog {
    directory: PathBuf,
    serial: u64,
    segments: VecDeque<Segment>,
    /// The last segment, for appending.
    file: Option<File>,
}

/// Head, and the last two.
const SEGMENTS: usize = 3;

impl JobLog {
    /// The log of that job in `directory`, which may not exist yet.
    pub(super) fn open(directory: &Path, serial: u64) -> io::Result<JobLog> {
        let mut segments: Vec<Segment> = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if let Some((of, start)) = parse(&entry.file_name().to_string_lossy())
                && of == serial
            {
                segments.push(Segment { start, length: entry.metadata()?.len() });
            }
        }
        segments.sort_unstable_by_key(|segment| segment.start);
        Ok(JobLog {
            directory: directory.to_owned(),
            serial,
            segments: segments.into(),
            file: None,
        })
    }

    fn path(&self, start: u64) -> PathBuf {
        self.directory.join(format!("{}.{start}", self.serial))
    }

    /// Appends bytes at offset `at` of the job's output; `limit` is the maximum size of the whole
    /// log, in bytes.
    pub(super) fn append(&mut self, at: u64, text: &[u8], limit: usize) -> io::Result<()> {
        let half = (limit / 2).max(1) as u64;
        let (mut at, mut text) = (at, text);
        if let Some(last) = self.segments.back() {
            // Bytes that are there already (repeated after a crash) are not written twice.
            let known = usize::try_from(last.end().saturating_sub(at)).unwrap_or(usize::MAX);
            if known > 0 {
                text = text.get(known..).unwrap_or_default();
                at = last.end();
            }
        }
        while !text.is_empty() {
            let room = match self.segments.back() {
                Some(last) if last.end() == at && self.file.is_some() => {
                    half - last.length.min(half)
                }
                Some(last) if last.end() == at => {
                    let open = OpenOptions::new().append(true).open(self.path(last.start));
                    self.file = Some(open?);
                    continue;
                }
                Some(_) | None => 0,
            };
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(text.len());
            if room == 0 {
                self.begin(at)?;
                continue;
            }
            let (now, later) = text.split_at(room);
            self.write(now)?;
            (at, text) = (at + now.len() as u64, later);
        }
        Ok(())
    }

    fn begin(&mut self, start: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        self.file = Some(options.open(self.path(start))?);
        self.segments.push_back(Segment { start, length: 0 });
        while self.segments.len() > SEGMENTS {
            let head = usize::from(self.segments.front().is_some_and(|first| first.start == 0));
            if let Some(segment) = self.segments.remove(head) {
                fs::remove_file(self.path(segment.start))?;
            }
        }
        Ok(())
    }

    /// A partial write is counted, because reopening the file would count it.
    fn write(&mut self, mut text: &[u8]) -> io::Result<()> {
        let (Some(file), Some(last)) = (&mut self.file, self.segments.back_mut()) else {
            return Ok(());
        };
        while !text.is_empty() {
            let written = file.write(text)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            last.length += written as u64;
            text = text.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Number of bytes from the beginning without a gap.
    fn head_end(&self) -> u64 {
        let mut end = 0;
        for segment in &self.segments {
            if segment.start > end {
                break;
            }
            end = end.max(segment.end());
        }
        end
    }

    /// Offset from which on everything is there.
    fn tail_start(&self) -> u64 {
        let mut start = self.end();
        for segment in self.segments.iter().rev() {
            if segment.end() < start {
                break;
            }
            start = segment.start;
        }
        start
    }

    /// Number of bytes that the job printed, as far as known here.
    pub(super) fn end(&self) -> u64 {
        self.segments.back().map_or(0, Segment::end)
    }

    /// The bytes of an available range.
    fn bytes(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for segment in &self.segments {
            let from = range.start.max(segment.start);
            let to = range.end.min(segment.end());
            if from >= to {
                continue;
            }
            let mut file = File::open(self.path(segment.start))?;
            file.seek(SeekFrom::Start(from - segment.start))?;
            file.take(to - from).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// The parts of a range to show, in at most `limit` bytes: where nothing is missing and all
    /// fits, the whole is its head. Each begins and ends between two characters.
    fn shown(&self, range: Range<u64>, limit: usize) -> io::Result<Shown> {
        let Range { start, end } = range;
        let head_end = self.head_end().clamp(start, end);
        if head_end == end && end - start <= limit as u64 {
            return Ok(Shown { head: range, tail: end..end });
        }
        let half = (limit / 2) as u64;
        let head_end = head_end.min(start + half);
        let last = self.bytes(start.max(head_end.saturating_sub(CHARACTER))..head_end)?;
        let cut = last.len() - whole_characters(last.clone()).len();
        let head = start..head_end - cut as u64;
        // A tail never begins before the head ends.
        let tail_start = self.tail_start().clamp(start, end);
        let tail_start = tail_start.max(end.saturating_sub(half)).max(head.end);
        let tail_start = if self.end() >= end { tail_start } else { end };
        let first = self.bytes(tail_start..end.min(tail_start + CHARACTER))?;
        let tail = tail_start + leading_continuations(&first) as u64..end;
        Ok(Shown { head, tail })
    }

    /// The output from `range.start` to `range.end`, head and tail of at most `limit` bytes
    /// together.
    pub(super) fn excerpt(&self, range: Range<u64>, limit: usize) -> io::Result<Excerpt> {
        let total = range.end - range.start;
        let Shown { head, tail } = self.shown(range, limit)?;
        let (head, tail) = (text_of(self.bytes(head)?), text_of(self.bytes(tail)?));
        Ok(Excerpt::from_ends(limit, total, head, tail))
    }

    /// A part of the log as one text: head, omission marker, tail. `offset` and `length` are in
    /// bytes of that text, of which only this part is read. While a job is `active` only the part
    /// with a stable position is returned: the first half of the limit.
    pub(super) fn part(
        &self,
        total: u64,
        limit: usize,
        active: bool,
        offset: u64,
        length: usize,
    ) -> io::Result<Part> {
        let Shown { head, tail } = self.shown(0..total, limit)?;
        let left_out = tail.start - head.end;
        let mut marker = String::new();
        if left_out > 0 {
            let before = self.bytes(head.end.saturating_sub(1)..head.end)?;
            if before.last().is_some_and(|byte| *byte != b'\n') {
                marker.push('\n');
            }
            marker.push_str(&left_out_marker(left_out));
        }
        let behind_marker = head.end + marker.len() as u64;
        let whole = behind_marker + (tail.end - tail.start);
        let end = if active { head.end.min((limit / 2) as u64) } else { whole };
        let start = offset.min(end);
        // Plus the bytes that may have to be skipped.
        let stop = start.saturating_add((length as u64).saturating_add(CHARACTER)).min(end);

        let mut bytes = self.bytes(start.min(head.end)..stop.min(head.end))?;
        let of_marker = |at: u64| {
            usize::try_from(at.clamp(head.end, behind_marker) - head.end).unwrap_or(usize::MAX)
        };
        bytes.extend_from_slice(
            marker.as_bytes().get(of_marker(start)..of_marker(stop)).unwrap_or_default(),
        );
        let of_tail = |at: u64| tail.start + at.saturating_sub(behind_marker);
        bytes.extend(self.bytes(of_tail(start)..of_tail(stop))?);

        let skipped = leading_continuations(&bytes);
        let mut bytes = bytes.split_off(skipped);
        bytes.truncate(length);
        let bytes = whole_characters(bytes);
        let start = start + skipped as u64;
        let next = start + bytes.len() as u64;
        Ok(Part { data: text_of(bytes), offset: start, next, eof: !active && next == whole })
    }

    /// At most `length` bytes of the output, the first available ones from `from` on, and their
    /// offset; empty at the end.
    pub(super) fn output(&self, from: u64, length: u64) -> io::Result<(u64, Vec<u8>)> {
        let Some(segment) = self.segments.iter().find(|segment| segment.end() > from) else {
            return Ok((self.end().max(from), Vec::new()));
        };
        let start = segment.start.max(from);
        let end = segment.end().min(start.saturating_add(length));
        Ok((start, self.bytes(start..end)?))
    }

    /// Deletes it.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.file = None;
        while let Some(segment) = self.segments.pop_front() {
            fs::remove_file(self.path(segment.start))?;
        }
        Ok(())
    }
}

/// The parts of a range to show; nothing is omitted where they meet.
struct Shown {
    head: Range<u64>,
    tail: Range<u64>,
}

/// Bytes of the longest character.
const CHARACTER: u64 = 4;

/// A part of a log; bytes that are not UTF-8 are replaced.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// The text.
    pub data: String,
    /// Its offset, in bytes of the whole text.
    pub offset: u64,
    /// Its end.
    pub next: u64,
    /// It is the last part.
    pub eof: bool,
}

/// End of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    /// Size of the job's output in bytes.
    pub total: u64,
    /// The last line is unterminated.
    pub midway: bool,
}

/// The end of each job's log.
pub(super) fn ends(directory: &Path) -> io::Result<BTreeMap<u64, LogEnd>> {
    let mut last: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some((serial, start)) = parse(&entry.file_name().to_string_lossy()) {
            let segment = last.entry(serial).or_default();
            *segment = (*segment).max((start, entry.metadata()?.len()));
        }
    }
    let end = |(serial, (start, length)): (u64, (u64, u64))| {
        let path = directory.join(format!("{serial}.{start}"));
        let midway = length > 0 && last_byte(&path).is_ok_and(|byte| byte != b'\n');
        (serial, LogEnd { total: start + length, midway })
    };
    Ok(last.into_iter().map(end).collect())
}

fn last_byte(path: &Path) -> io::Result<u8> {
    let mut byte = [0];
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// Deletes logs of unknown jobs; returns the number of jobs.
pub(super) fn remove_unknown(directory: &Path, known: impl Fn(u64) -> bool) -> io::Result<usize> {
    let mut removed: BTreeSet<u64> = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some((serial, _)) = parse(&entry.file_name().to_string_lossy())
            && !known(serial)
        {
            fs::remove_file(entry.path())?;
            removed.insert(serial);
        }
    }
    Ok(removed.len())
}

fn parse(name: &str) -> Option<(u64, u64)> {
    let (serial, start) = name.split_once('.')?;
    Some((decimal(serial)?, decimal(start)?))
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// Number of bytes at the beginning that continue a character. Output that is not text may have any
/// number of such bytes; at most one character can be cut.
fn leading_continuations(bytes: &[u8]) -> usize {
    let longest = CHARACTER as usize - 1;
    bytes.iter().take(longest).take_while(|byte| is_continuation(**byte)).count()
}

/// Removes a character that was cut at the end.
fn whole_characters(mut bytes: Vec<u8>) -> Vec<u8> {
    let last = bytes.len().saturating_sub(CHARACTER as usize);
    let first = last + leading_continuations(bytes.get(last..).unwrap_or_default());
    if let Err(error) = std::str::from_utf8(bytes.get(first..).unwrap_or_default())
        && error.error_len().is_none()
    {
        bytes.truncate(first + error.valid_up_to());
    }
    bytes
}

/// The output of a job may not be text.
fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TestDirectory(PathBuf);

    impl TestDirectory {
        fn new(name: &str) -> TestDirectory {
            let path = std::env::temp_dir().join(format!("se-log-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            TestDirectory(path)
        }

        fn log(&self) -> JobLog {
            JobLog::open(&self.0, 7).unwrap()
        }

        fn files(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> =
                names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for TestDirectory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn lines(count: usize) -> String {
        (0..count).map(|number| format!("zeile ü {number}\n")).collect()
    }

    #[test]
    fn output_of_any_bytes_is_read_back_unchanged() {
        const LIMIT: usize = 200;
        let place = TestDirectory::new("bytes");
        // Not text: continuation bytes without a beginning, NUL bytes, broken characters.
        let all: Vec<u8> = (0..1000_u32).map(|i| [0x80, 0, 0xff, 0xc3][i as usize % 4]).collect();
        let mut log = place.log();
        for (chunk, at) in all.chunks(37).zip((0..).step_by(37)) {
            log.append(at, chunk, LIMIT).unwrap();
        }
        let mut read = Vec::new();
        let (mut from, mut left_out) = (0, 0);
        loop {
            let (start, bytes) = place.log().output(from, 64).unwrap();
            left_out += start - from;
            if bytes.is_empty() {
                break;
            }
            let at = usize::try_from(start).unwrap();
            assert_eq!(bytes, all[at..at + bytes.len()]);
            from = start + bytes.len() as u64;
            read.extend(bytes);
        }
        assert_eq!(from, 1000);
        assert!(read.len() >= LIMIT && left_out + read.len() as u64 == 1000, "{left_out}");
        // As text it can still be paged to its end.
        let mut offset = 0;
        loop {
            let part = place.log().part(1000, LIMIT, false, offset, 16).unwrap();
            assert!(part.eof || part.next > offset, "{part:?}");
            offset = part.next;
            if part.eof {
                break;
            }
        }
    }

    #[test]
    fn stored_excerpt_equals_excerpt_of_all_output() {
        const LIMIT: usize = 200;
        for (count, size) in [(3, 7), (14, 1), (15, 1000), (100, 13), (1000, 64), (1000, 3)] {
            let place = TestDirectory::new(&format!("any-{count}-{size}"));
            let output = lines(count);
            let mut log = place.log();
            let (mut at, mut rest) = (0, output.as_bytes());
            while !rest.is_empty() {
                let cut = size.min(rest.len());
                let (now, later) = rest.split_at(cut);
                log.append(at, now, LIMIT).unwrap();
                (at, rest) = (at + now.len() as u64, later);
            }
            let mut expected = Excerpt::new(LIMIT);
            expected.push(&output);
            let total = output.len() as u64;
            for log in [log, place.log()] {
                let got = log.excerpt(0..total, LIMIT).unwrap();
                assert_eq!(got.text(), expected.text(), "{count} lines, {size} bytes a write");
                assert_eq!(log.end(), total);
                let within = log.excerpt(10..total.min(60), LIMIT).unwrap();
                assert!(output.get(10..20).is_none_or(|part| within.text().starts_with(part)));
            }
            assert!(place.files().len() <= SEGMENTS, "{:?}", place.files());
        }
    }

    #[test]
    fn range_in_the_middle_is_cut_independently() {
        let place = TestDirectory::new("stretch");
        let mut log = place.log();
        let output = lines(60);
        log.append(0, output.as_bytes(), 10_000).unwrap();
        let (from, to) = (output.find("zeile ü 10").unwrap(), output.find("zeile ü 50").unwrap());
        let mut expected = Excerpt::new(100);
        expected.push(&output[from..to]);
        let got = log.excerpt(from as u64..to as u64, 100).unwrap();
        assert_eq!(got.text(), expected.text());
    }

    #[test]
    fn missing_output_is_reported_as_omitted() {
        let place = TestDirectory::new("gap");
        let mut log = place.log();
        log.append(0, b"begin\n", 1000).unwrap();
        log.append(100, b"after\n", 1000).unwrap();
        let text = place.log().excerpt(0..106, 1000).unwrap().text();
        assert_eq!(text, "begin\n[… 94 bytes left out …]\nafter\n");
        // The end is missing too.
        let text = place.log().excerpt(0..120, 1000).unwrap().text();
        assert_eq!(text, "begin\n[… 114 bytes left out …]\n");
        // Everything is missing.
        let nothing = JobLog::open(&place.0, 8).unwrap();
        assert_eq!(nothing.excerpt(0..5, 1000).unwrap().text(), "[… 5 bytes left out …]\n");
    }

    #[test]
    fn a_text_that_is_there_already_is_not_written_twice() {
        let place = TestDirectory::new("again");
        place.log().append(0, b"abc", 1000).unwrap();
        place.log().append(1, b"bcde", 1000).unwrap();
        place.log().append(0, b"ab", 1000).unwrap();
        assert_eq!(place.log().excerpt(0..5, 1000).unwrap().text(), "abcde");
    }

    #[test]
    fn a_log_is_read_in_parts_that_join_to_the_whole() {
        let place = TestDirectory::new("parts");
        let mut log = place.log();
        let output = lines(100);
        log.append(0, output.as_bytes(), 400).unwrap();
        let total = output.len() as u64;
        let begin = log.part(total, 400, true, 0, 10_000).unwrap();
        assert!(!begin.eof && output.starts_with(&begin.data));
        let mut read = String::new();
        loop {
            let part = log.part(total, 400, false, read.len() as u64, 17).unwrap();
            assert_eq!(part.offset, read.len() as u64);
            read += &part.data;
            if part.eof {
                break;
            }
        }
        assert_eq!(read, log.excerpt(0..total, 400).unwrap().text());
        assert!(read.starts_with(&begin.data), "offsets hold when the job ends");
        // At any offset: also within the marker, and within a character, which is omitted.
        for offset in 0..=read.len() {
            let part = log.part(total, 400, false, offset as u64, 23).unwrap();
            let start = (offset..).find(|at| read.is_char_boundary(*at)).unwrap();
            let stop = (0..=read.len().min(start + 23)).rev();
            let stop = { stop }.find(|at| read.is_char_boundary(*at)).unwrap();
            assert_eq!(part.data, read[start..stop], "from {offset}");
            assert_eq!((part.offset, part.next), (start as u64, stop as u64));
            assert_eq!(part.eof, stop == read.len());
        }
        assert_eq!(log.part(total, 400, false, 1 << 40, 5).unwrap().data, "");
    }

    #[test]
    fn where_logs_end_is_known_without_reading_them() {
        let place = TestDirectory::new("ends");
        place.log().append(0, lines(100).as_bytes(), 60).unwrap();
        JobLog::open(&place.0, 8).unwrap().append(0, b"x\ny", 60).unwrap();
        let ends = ends(&place.0).unwrap();
        assert_eq!(ends[&7], LogEnd { total: lines(100).len() as u64, midway: false });
        assert_eq!(ends[&8], LogEnd { total: 3, midway: true });
    }

    #[test]
    fn logs_of_unknown_jobs_are_taken_away_and_nothing_else() {
        let place = TestDirectory::new("unknown");
        for serial in [7, 8] {
            let mut log = JobLog::open(&place.0, serial).unwrap();
            log.append(0, lines(9).as_bytes(), 60).unwrap();
        }
        fs::write(place.0.join("notes.txt"), "x").unwrap();
        assert_eq!(remove_unknown(&place.0, |serial| serial == 8).unwrap(), 1);
        assert!(place.files().iter().all(|name| name.starts_with("8.") || name == "notes.txt"));
        let mut log = JobLog::open(&place.0, 8).unwrap();
        log.remove().unwrap();
        assert_eq!(place.files(), ["notes.txt"]);
    }
}
