//! The read position of a log, and whether a file is still the one that was read.
//!
//! A log is renamed, copied and truncated, replaced, or rolled back with its file system, and grows
//! again before the next poll; its device number changes with a reboot. So a file is identified by
//! content: a fingerprint of its beginning and of the bytes just before the position. Device and
//! inode only determine which of several files to try first.
//!
//! A log is a sequence of *file generations*, each a file with a position: the last is the file
//! that the name leads to, those before it had the name earlier and may still have unread bytes.
//! This module does no I/O; `H` is the caller's handle, and file content arrives as values.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::wire::to_hex;

/// Bytes of a file's beginning in its fingerprint.
pub(super) const HEAD: usize = 256;
/// Bytes before the position in its fingerprint.
pub(super) const BEFORE: usize = 64;
/// Maximum number of generations read at a time; more rotations at once drop the oldest.
const GENERATIONS: usize = 4;

/// Identity of a file on this host, valid until the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// Content of a file at its beginning and just before a position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    pub(super) head: Vec<u8>,
    pub(super) before: Vec<u8>,
}

/// A persisted fingerprint: lengths and short digests, so that the state has no text of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PersistedFingerprint {
    head: (usize, String),
    before: (usize, String),
}

/// Comparison of a file with its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Unchanged, or grown.
    Same,
    /// Truncated; what remains was read already.
    Shortened,
    /// The content is different.
    Rewritten,
}

/// A file with a read position.
#[derive(Debug)]
pub(super) struct FileGeneration<H> {
    pub(super) handle: H,
    pub(super) identity: Identity,
    /// Offset of the next line, in bytes.
    position: u64,
    /// The position is inside a line that was cut.
    pub(super) cut: bool,
    /// Offset up to which the file was examined: no whole line stands between the position and it.
    looked: u64,
    /// Length of the file before it was truncated, in bytes: some kernels report no write that ends
    /// below it.
    unreported_below: u64,
    fingerprint: Fingerprint,
    /// Time of the last new bytes.
    active: Instant,
}

impl<H> FileGeneration<H> {
    /// A file that is read from its beginning.
    pub(super) fn from_beginning(handle: H, identity: Identity, now: Instant) -> FileGeneration<H> {
        FileGeneration::new(handle, identity, 0, false, Fingerprint::default(), now)
    }

    /// A file that was read, or is skipped, up to a position.
    pub(super) fn new(
        handle: H,
        identity: Identity,
        position: u64,
        cut: bool,
        fingerprint: Fingerprint,
        now: Instant,
    ) -> FileGeneration<H> {
        FileGeneration {
            handle,
            identity,
            position,
            cut,
            looked: position,
            unreported_below: 0,
            fingerprint,
            active: now,
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether a file of this size has bytes that were not examined yet.
    pub(super) fn has_news(&self, size: u64) -> bool {
        size > self.looked
    }

    /// Records that the file was examined up to `end`.
    pub(super) fn looked_up_to(&mut self, end: u64, now: Instant) {
        if end > self.looked {
            (self.looked, self.active) = (end, now);
        }
    }

    /// Numbers of bytes, at the beginning and before the position, that [`FileGeneration::judge`]
    /// needs.
    pub(super) fn fingerprint_lengths(&self) -> (usize, usize) {
        (self.fingerprint.head.len(), self.fingerprint.before.len())
    }

    /// Compares the file's size and content with the fingerprint.
    pub(super) fn judge(&self, size: u64, found: &Fingerprint) -> Verdict {
        judge(
            self.position,
            size,
            found.head == self.fingerprint.head,
            found.before == self.fingerprint.before,
        )
    }

    /// Advances the position by `bytes`; `cut` is whether they end inside a line that was cut.
    pub(super) fn advance(&mut self, bytes: &[u8], cut: bool) {
        let room = HEAD - self.fingerprint.head.len().min(HEAD);
        self.fingerprint.head.extend(bytes.iter().take(room));
        let before = &mut self.fingerprint.before;
        before.extend(bytes.iter().skip(bytes.len().saturating_sub(BEFORE)));
        before.drain(..before.len().saturating_sub(BEFORE));
        self.position += bytes.len() as u64;
        self.looked = self.looked.max(self.position);
        self.cut = cut;
    }

    /// Records that the file had this length, in bytes, and may have been truncated since.
    pub(super) fn had_length(&mut self, length: u64) {
        self.unreported_below = self.unreported_below.max(length);
    }

    /// The greatest known length of the file, in bytes.
    pub(super) fn longest(&self) -> u64 {
        self.unreported_below.max(self.looked)
    }

    /// Whether the file was truncated and is still shorter than before: its next write may not be
    /// reported by the kernel.
    pub(super) fn is_shorter_than_before(&self) -> bool {
        self.looked < self.unreported_below
    }

    /// Restarts at the beginning of the file.
    pub(super) fn start_over(&mut self, now: Instant) {
        self.had_length(self.looked);
        (self.position, self.looked, self.cut) = (0, 0, false);
        (self.fingerprint, self.active) = (Fingerprint::default(), now);
    }

    /// The position, fingerprint and line of the same content behind another handle, such as a
    /// copy.
    pub(super) fn continued_in<I>(
        &self,
        handle: I,
        identity: Identity,
        now: Instant,
    ) -> FileGeneration<I> {
        FileGeneration::new(
            handle,
            identity,
            self.position,
            self.cut,
            self.fingerprint.clone(),
            now,
        )
    }

    /// The persisted form, which also finds the file in a worker that does not have it open.
    pub(super) fn persisted_form(&self) -> PersistedGeneration {
        let part = |bytes: &[u8]| (bytes.len(), hash(bytes));
        PersistedGeneration {
            identity: self.identity,
            position: self.position,
            cut: self.cut,
            fingerprint: PersistedFingerprint {
                head: part(&self.fingerprint.head),
                before: part(&self.fingerprint.before),
            },
        }
    }

    /// All but the handle.
    pub(super) fn state(&self, now: Instant) -> GenerationState {
        GenerationState {
            identity: self.identity,
            position: self.position,
            cut: self.cut,
            looked: self.looked,
            unreported_below: self.unreported_below,
            fingerprint: self.fingerprint.clone(),
            quiet: now.saturating_duration_since(self.active),
        }
    }
}

/// A generation without its handle, as the loop and a worker exchange it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationState {
    pub(super) identity: Identity,
    position: u64,
    cut: bool,
    looked: u64,
    unreported_below: u64,
    fingerprint: Fingerprint,
    /// Time since there was last something new in it.
    quiet: Duration,
}

impl GenerationState {
    pub(super) fn with_handle<H>(self, handle: H, now: Instant) -> FileGeneration<H> {
        FileGeneration {
            handle,
            identity: self.identity,
            position: self.position,
            cut: self.cut,
            looked: self.looked,
            unreported_below: self.unreported_below,
            fingerprint: self.fingerprint,
            active: now.checked_sub(self.quiet).unwrap_or(now),
        }
    }
}

/// A persisted file generation that is not matched with a file yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PersistedGeneration {
    pub(super) identity: Identity,
    pub(super) position: u64,
    pub(super) cut: bool,
    fingerprint: PersistedFingerprint,
}

impl PersistedGeneration {
    /// Reads what [`PersistedGeneration::write`] wrote.
    pub(super) fn read(value: &Value) -> Option<PersistedGeneration> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        let part = |key: &str, longest: usize| {
            let part = value.get(key)?.as_array()?;
            let [length, hash] = part.as_slice() else { return None };
            let length = usize::try_from(length.as_u64()?).ok()?;
            (length <= longest).then_some((length, hash.as_str()?.to_owned()))
        };
        let fingerprint =
            PersistedFingerprint { head: part("head", HEAD)?, before: part("before", BEFORE)? };
        let position = number("position")?;
        // The minimum offset of that many bytes.
        let least = position.min(fingerprint.before.0.max(fingerprint.head.0) as u64);
        if least != fingerprint.before.0.max(fingerprint.head.0) as u64 {
            return None;
        }
        Some(PersistedGeneration {
            identity: Identity { device: number("device")?, inode: number("inode")? },
            position,
            cut: value.get("cut")?.as_bool()?,
            fingerprint,
        })
    }

    /// For the next start, as [`PersistedGeneration::read`] reads it.
    pub(super) fn write(&self) -> Value {
        json!({
            "device": self.identity.device,
            "inode": self.identity.inode,
            "position": self.position,
            "cut": self.cut,
            "head": self.fingerprint.head,
            "before": self.fingerprint.before,
        })
    }

    pub(super) fn fingerprint_lengths(&self) -> (usize, usize) {
        (self.fingerprint.head.0, self.fingerprint.before.0)
    }

    /// Like [`FileGeneration::judge`].
    pub(super) fn judge(&self, size: u64, found: &Fingerprint) -> Verdict {
        let same = |bytes: &[u8], persisted: &(usize, String)| {
            bytes.len() == persisted.0 && hash(bytes) == persisted.1
        };
        judge(
            self.position,
            size,
            same(&found.head, &self.fingerprint.head),
            same(&found.before, &self.fingerprint.before),
        )
    }
}

fn judge(position: u64, size: u64, same_head: bool, same_before: bool) -> Verdict {
    if size >= position {
        if same_head && same_before { Verdict::Same } else { Verdict::Rewritten }
    } else if same_head && size >= HEAD as u64 {
        Verdict::Shortened
    } else {
        Verdict::Rewritten
    }
}

/// The first half of SHA-256, in hexadecimal digits.
fn hash(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    to_hex(digest.as_ref().get(..16).unwrap_or_default())
}

/// A file that may match a persisted generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The log's name leads to it.
    pub(super) is_named: bool,
    pub(super) inode: u64,
    pub(super) verdict: Verdict,
}

/// Chooses the candidate that continues the generation. The inode takes precedence over the name: a
/// renamed log is still the same file, and a new one may begin with the same bytes.
pub(super) fn choose(inode: u64, candidates: &[Candidate]) -> Option<usize> {
    let find = |wanted: &dyn Fn(&Candidate) -> bool| candidates.iter().position(wanted);
    let same = |candidate: &Candidate| candidate.verdict == Verdict::Same;
    find(&|candidate| same(candidate) && candidate.inode == inode)
        .or_else(|| find(&|candidate| same(candidate) && candidate.is_named))
        .or_else(|| find(&same))
        .or_else(|| find(&|c| c.verdict == Verdict::Shortened && c.is_named))
}

/// All generations of a log.
#[derive(Debug)]
pub(super) struct Tail<H> {
    /// The oldest first; the last is the file that the name leads or led to.
    generations: VecDeque<FileGeneration<H>>,
}

impl<H> Tail<H> {
    pub(super) fn new() -> Tail<H> {
        Tail { generations: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.generations.len()
    }

    pub(super) fn get(&mut self, index: usize) -> Option<&mut FileGeneration<H>> {
        self.generations.get_mut(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &FileGeneration<H>> {
        self.generations.iter()
    }

    /// The file that the name leads or led to.
    pub(super) fn current(&self) -> Option<&FileGeneration<H>> {
        self.generations.back()
    }

    /// Whether the name leads to a file that is not read yet.
    pub(super) fn leads_elsewhere(&self, named: Option<Identity>) -> bool {
        named.is_some_and(|named| {
            self.current().is_none_or(|generation| generation.identity != named)
        })
    }

    /// Of these generations, the oldest first.
    pub(super) fn of(generations: impl Iterator<Item = FileGeneration<H>>) -> Tail<H> {
        Tail { generations: generations.collect() }
    }

    /// Its generations, the oldest first.
    pub(super) fn into_generations(self) -> Vec<FileGeneration<H>> {
        self.generations.into()
    }

    /// Puts another generation in place of the current one.
    pub(super) fn replace_current(&mut self, generation: FileGeneration<H>) {
        self.generations.pop_back();
        self.generations.push_back(generation);
    }

    /// All generations without their handles.
    pub(super) fn states(&self, now: Instant) -> Vec<GenerationState> {
        self.generations.iter().map(|generation| generation.state(now)).collect()
    }

    /// Makes this file the current one. The period of grace for writers of the previous one begins.
    pub(super) fn go_on_with(&mut self, generation: FileGeneration<H>) {
        if let Some(before) = self.generations.back_mut() {
            before.active = before.active.max(generation.active);
        }
        self.generations.push_back(generation);
        if self.generations.len() > GENERATIONS {
            self.generations.pop_front();
        }
    }

    /// Inserts a file whose remaining bytes are read before the current file.
    pub(super) fn read_before_current(&mut self, generation: FileGeneration<H>) {
        let at = self.generations.len().saturating_sub(1);
        self.generations.insert(at, generation);
        if self.generations.len() > GENERATIONS {
            self.generations.pop_front();
        }
    }

    /// Drops all files but the current one.
    pub(super) fn drop_old_generations(&mut self) {
        let old_generations = self.generations.len().saturating_sub(1);
        self.generations.drain(..old_generations);
    }

    /// Drops former files without new bytes for `wait`: their writers have reopened the log by
    /// then. To be called after all of them were polled.
    pub(super) fn retire(&mut self, wait: Duration, now: Instant) {
        let mut left = self.generations.len();
        self.generations.retain(|generation| {
            left -= 1;
            left == 0 || generation.active + wait > now
        });
    }

    /// When [`Tail::retire`] has a file to drop.
    pub(super) fn due(&self, wait: Duration) -> Option<Instant> {
        let old_generations = self.generations.len().saturating_sub(1);
        self.generations
            .iter()
            .take(old_generations)
            .map(|generation| generation.active + wait)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    fn id(inode: u64) -> Identity {
        Identity { device: 1, inode }
    }

    /// A generation that has read `text` from its beginning.
    fn read(text: &str, now: Instant) -> FileGeneration<&'static str> {
        let mut generation = FileGeneration::from_beginning("a", id(1), now);
        generation.looked_up_to(text.len() as u64, now);
        generation.advance(text.as_bytes(), false);
        generation
    }

    /// The fingerprint of a file with this content.
    fn found(text: &str, generation: &FileGeneration<&'static str>) -> Fingerprint {
        let (head, before) = generation.fingerprint_lengths();
        fingerprint(text, generation.position(), head, before)
    }

    fn fingerprint(text: &str, position: u64, head: usize, before: usize) -> Fingerprint {
        let bytes = text.as_bytes();
        let end = usize::try_from(position).unwrap().min(bytes.len());
        let start = usize::try_from(position).unwrap().saturating_sub(before).min(end);
        Fingerprint {
            head: bytes[..head.min(bytes.len())].to_vec(),
            before: bytes[start..end].to_vec(),
        }
    }

    fn verdict(before: &str, after: &str) -> Verdict {
        let generation = read(before, Instant::now());
        generation.judge(after.len() as u64, &found(after, &generation))
    }

    fn lines(from: usize, count: usize) -> String {
        (from..from + count)
            .map(|n| format!("Mon Nov 23 17:50:47 UTC 2026: Creating snapshot on tank/{n}\n"))
            .collect()
    }

    #[test]
    fn a_file_that_grew_is_the_same() {
        assert_eq!(verdict("", ""), Verdict::Same);
        assert_eq!(verdict("", "new\n"), Verdict::Same);
        assert_eq!(verdict("a\n", "a\nb\n"), Verdict::Same);
        assert_eq!(verdict(&lines(0, 100), &lines(0, 101)), Verdict::Same);
    }

    #[test]
    fn truncated_file_is_detected_after_it_grew_again() {
        assert_eq!(verdict("a\n", ""), Verdict::Rewritten);
        assert_eq!(verdict("a\nb\n", "c\n"), Verdict::Rewritten);
        assert_eq!(verdict("a\nb\n", "c\nd\n"), Verdict::Rewritten);
        assert_eq!(verdict("a\nb\n", "c\nd\ne\n"), Verdict::Rewritten);
        assert_eq!(verdict(&lines(0, 100), &lines(1000, 200)), Verdict::Rewritten);
    }

    #[test]
    fn file_with_equal_beginning_is_detected_by_later_bytes() {
        let begin = lines(0, 10);
        let (old, new) = (begin.clone() + &lines(10, 90), begin + &lines(500, 200));
        assert_eq!(verdict(&old, &new), Verdict::Rewritten);
    }

    #[test]
    fn rolled_back_file_is_not_read_again() {
        assert_eq!(verdict(&lines(0, 100), &lines(0, 60)), Verdict::Shortened);
        // Too short for its beginning to be evidence.
        assert_eq!(verdict(&lines(0, 100), &lines(0, 2)), Verdict::Rewritten);
    }

    #[test]
    fn fingerprint_does_not_depend_on_chunk_sizes() {
        let text = lines(0, 20);
        let whole = read(&text, Instant::now());
        for piece in [1, 7, 63, 64, 65, 300] {
            let mut generation = read("", Instant::now());
            text.as_bytes().chunks(piece).for_each(|bytes| generation.advance(bytes, false));
            assert_eq!(generation.fingerprint, whole.fingerprint, "{piece}");
            assert_eq!(generation.position(), text.len() as u64);
        }
        assert_eq!(whole.fingerprint_lengths(), (HEAD, BEFORE));
    }

    #[test]
    fn only_unexamined_bytes_are_new() {
        let now = Instant::now();
        let mut generation = read("line\n", now);
        assert!(!generation.has_news(5));
        assert!(generation.has_news(6));
        generation.looked_up_to(9, now);
        assert!(!generation.has_news(9), "half a line is not news twice");
        assert!(generation.has_news(10));
        generation.start_over(now);
        assert!(generation.has_news(1));
        assert_eq!(generation.judge(3, &found("xyz", &generation)), Verdict::Same);
    }

    #[test]
    fn persisted_generation_is_found_again() {
        let text = lines(0, 30);
        let generation = read(&text, Instant::now());
        let persisted = PersistedGeneration::read(&generation.persisted_form().write()).unwrap();
        assert_eq!(
            (persisted.identity, persisted.position, persisted.cut),
            (id(1), text.len() as u64, false)
        );
        let (head, before) = persisted.fingerprint_lengths();
        let judge = |content: &str| {
            persisted.judge(
                content.len() as u64,
                &fingerprint(content, persisted.position, head, before),
            )
        };
        assert_eq!(judge(&text), Verdict::Same);
        assert_eq!(judge(&(text.clone() + "more")), Verdict::Same);
        assert_eq!(judge(&lines(100, 50)), Verdict::Rewritten);
        assert_eq!(judge(&lines(0, 20)), Verdict::Shortened);
        assert_eq!(judge(""), Verdict::Rewritten);
        assert!(
            !generation.persisted_form().write().to_string().contains("tank"),
            "no part of the log stays in memory"
        );
    }

    #[test]
    fn invalid_persisted_generation_is_rejected() {
        let good = read(&lines(0, 30), Instant::now()).persisted_form().write();
        assert!(PersistedGeneration::read(&good).is_some());
        for (key, value) in [
            ("position", json!(-1)),
            ("position", json!(3)),
            ("position", json!("x")),
            ("inode", json!(null)),
            ("cut", json!(0)),
            ("head", json!([257, "x"])),
            ("head", json!([1])),
            ("before", json!({})),
        ] {
            let mut bad = good.clone();
            bad[key] = value.clone();
            assert_eq!(PersistedGeneration::read(&bad), None, "{key} {value}");
        }
        assert_eq!(PersistedGeneration::read(&json!(null)), None);
    }

    #[test]
    fn renamed_file_is_preferred_over_a_similar_new_one() {
        let file = |is_named, inode, verdict| Candidate { is_named, inode, verdict };
        use Verdict::{Rewritten, Same, Shortened};
        // Renamed.
        assert_eq!(choose(7, &[file(true, 9, Rewritten), file(false, 7, Same)]), Some(1));
        assert_eq!(choose(7, &[file(true, 9, Same), file(false, 7, Same)]), Some(1));
        // Copied and truncated: the inode stayed with the name.
        assert_eq!(choose(7, &[file(true, 7, Rewritten), file(false, 8, Same)]), Some(1));
        // Unchanged.
        assert_eq!(choose(7, &[file(true, 7, Same), file(false, 8, Same)]), Some(0));
        // Restored from a backup.
        assert_eq!(choose(7, &[file(true, 9, Same)]), Some(0));
        // Rolled back.
        assert_eq!(choose(7, &[file(true, 7, Shortened), file(false, 8, Shortened)]), Some(0));
        // Removed, and its inode reused.
        assert_eq!(choose(7, &[file(true, 7, Rewritten), file(false, 8, Rewritten)]), None);
        assert_eq!(choose(7, &[]), None);
    }

    #[test]
    fn name_may_lead_to_another_file() {
        let now = Instant::now();
        let mut tail = Tail::new();
        assert!(!tail.leads_elsewhere(None));
        assert!(tail.leads_elsewhere(Some(id(1))));
        tail.go_on_with(read("a\n", now));
        assert!(!tail.leads_elsewhere(Some(id(1))));
        assert!(!tail.leads_elsewhere(None), "renamed away: what is open is still read");
        assert!(tail.leads_elsewhere(Some(id(2))));
    }

    #[test]
    fn former_file_is_read_until_it_is_quiet() {
        let start = Instant::now();
        let mut tail = Tail::new();
        tail.go_on_with(read("a\n", start));
        assert_eq!(tail.due(WAIT), None);
        tail.go_on_with(FileGeneration::from_beginning("b", id(2), start));
        assert_eq!(tail.due(WAIT), Some(start + WAIT));
        let later = start + WAIT / 2;
        tail.get(0).unwrap().looked_up_to(5, later);
        tail.retire(WAIT, start + WAIT);
        assert_eq!(tail.len(), 2);
        tail.retire(WAIT, later + WAIT);
        let left: Vec<&str> = tail.iter().map(|generation| generation.handle).collect();
        assert_eq!(left, ["b"], "what the name leads to is never let go");
        tail.retire(WAIT, later + 10 * WAIT);
        assert_eq!(tail.len(), 1);
    }

    #[test]
    fn the_time_of_a_former_file_begins_when_another_takes_its_name() {
        let start = Instant::now();
        let (hour, mut tail) = (Duration::from_secs(3600), Tail::new());
        tail.go_on_with(read("a\n", start));
        tail.go_on_with(FileGeneration::from_beginning("b", id(2), start + hour));
        assert_eq!(tail.due(WAIT), Some(start + hour + WAIT));
    }

    #[test]
    fn a_copy_is_read_before_the_file_that_was_emptied() {
        let now = Instant::now();
        let mut tail = Tail::new();
        tail.go_on_with(read("a\nb\n", now));
        let copy = tail.current().unwrap().continued_in("copy", id(8), now);
        tail.get(0).unwrap().start_over(now);
        tail.read_before_current(copy);
        let order: Vec<(&str, u64)> =
            tail.iter().map(|generation| (generation.handle, generation.position())).collect();
        assert_eq!(order, [("copy", 4), ("a", 0)]);
    }

    #[test]
    fn only_so_many_files_are_open() {
        let now = Instant::now();
        let mut tail = Tail::new();
        for inode in 0..10 {
            tail.go_on_with(FileGeneration::from_beginning("x", id(inode), now));
            tail.read_before_current(FileGeneration::from_beginning("y", id(100 + inode), now));
            assert!(tail.len() <= GENERATIONS);
        }
        assert_eq!(tail.current().unwrap().identity, id(9));
        tail.drop_old_generations();
        assert_eq!(tail.len(), 1);
    }
}
