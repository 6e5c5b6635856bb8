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
use serde_json::{Value, json};

/// Bytes of a file's beginning in its fingerprint.
pub(super) const HEAD: usize = 256;
/// Bytes before the position in its fingerprint.
pub(super) const BEFORE: usize = 64;
/// Maximum number of generations read at a time; more rotations at once drop the oldest.
const STRANDS: usize = 4;

/// Identity of a file on this host, valid until the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// Content of a file at its beginning and just before a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Print {
    pub(super) head: Vec<u8>,
    pub(super) before: Vec<u8>,
}

/// A persisted fingerprint: lengths and short digests, so that the state has no text of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptPrint {
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
pub(super) struct Strand<H> {
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
    print: Print,
    /// Time of the last new bytes.
    active: Instant,
}

impl<H> Strand<H> {
    /// A file that is read from its beginning.
    pub(super) fn from_beginning(handle: H, identity: Identity, now: Instant) -> Strand<H> {
        Strand::new(handle, identity, 0, false, Print::default(), now)
    }

    /// A file that was read, or is skipped, up to a position.
    pub(super) fn new(
        handle: H,
        identity: Identity,
        position: u64,
        cut: bool,
        print: Print,
        now: Instant,
    ) -> Strand<H> {
        Strand {
            handle,
            identity,
            position,
            cut,
            looked: position,
            unreported_below: 0,
            print,
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
    pub(super) fn print_lengths(&self) -> (usize, usize) {
        (self.print.head.len(), self.print.before.len())
    }

    /// Compares the file's size and content with the fingerprint.
    pub(super) fn judge(&self, size: u64, found: &Print) -> Verdict {
        judge(self.position, size, found.head == self.print.head, found.before == self.print.before)
    }

    /// Advances the position by `bytes`; `cut` is whether they end inside a line that was cut.
    pub(super) fn advance(&mut self, bytes: &[u8], cut: bool) {
        let room = HEAD - self.print.head.len().min(HEAD);
        self.print.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let before = &mut self.print.before;
        before.extend_from_slice(&bytes[bytes.len().saturating_sub(BEFORE)..]);
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
        (self.print, self.active) = (Print::default(), now);
    }

    /// The position, fingerprint and line of the same content behind another handle, such as a
    /// copy.
    pub(super) fn continued_in<I>(&self, handle: I, identity: Identity, now: Instant) -> Strand<I> {
        Strand::new(handle, identity, self.position, self.cut, self.print.clone(), now)
    }

    /// The persisted form.
    pub(super) fn keep(&self) -> Value {
        let part = |bytes: &[u8]| json!([bytes.len(), hash(bytes)]);
        json!({
            "device": self.identity.device,
            "inode": self.identity.inode,
            "position": self.position,
            "cut": self.cut,
            "head": part(&self.print.head),
            "before": part(&self.print.before),
        })
    }
}

/// A persisted file generation that is not matched with a file yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) identity: Identity,
    pub(super) position: u64,
    pub(super) cut: bool,
    print: KeptPrint,
}

impl Kept {
    /// Parses the output of [`FileGeneration::persisted`].
    pub(super) fn read(value: &Value) -> Option<Kept> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        let part = |key: &str, longest: usize| {
            let part = value.get(key)?.as_array()?;
            let [length, hash] = part.as_slice() else { return None };
            let length = usize::try_from(length.as_u64()?).ok()?;
            (length <= longest).then_some((length, hash.as_str()?.to_owned()))
        };
        let print = KeptPrint { head: part("head", HEAD)?, before: part("before", BEFORE)? };
        let position = number("position")?;
        // The minimum offset of that many bytes.
        let least = position.min(print.before.0.max(print.head.0) as u64);
        if least != print.before.0.max(print.head.0) as u64 {
            return None;
        }
        Some(Kept {
            identity: Identity { device: number("device")?, inode: number("inode")? },
            position,
            cut: value.get("cut")?.as_bool()?,
            print,
        })
    }

    pub(super) fn print_lengths(&self) -> (usize, usize) {
        (self.print.head.0, self.print.before.0)
    }

    /// Like [`FileGeneration::judge`].
    pub(super) fn judge(&self, size: u64, found: &Print) -> Verdict {
        let same =
            |bytes: &[u8], kept: &(usize, String)| bytes.len() == kept.0 && hash(bytes) == kept.1;
        judge(
            self.position,
            size,
            same(&found.head, &self.print.head),
            same(&found.before, &self.print.before),
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
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
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
    strands: VecDeque<Strand<H>>,
}

impl<H> Tail<H> {
    pub(super) fn new() -> Tail<H> {
        Tail { strands: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.strands.len()
    }

    pub(super) fn get(&mut self, index: usize) -> Option<&mut Strand<H>> {
        self.strands.get_mut(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Strand<H>> {
        self.strands.iter()
    }

    /// The file that the name leads or led to.
    pub(super) fn current(&self) -> Option<&Strand<H>> {
        self.strands.back()
    }

    /// Whether the name leads to a file that is not read yet.
    pub(super) fn leads_elsewhere(&self, named: Option<Identity>) -> bool {
        named.is_some_and(|named| self.current().is_none_or(|strand| strand.identity != named))
    }

    /// Makes this file the current one. The period of grace for writers of the previous one begins.
    pub(super) fn go_on_with(&mut self, strand: Strand<H>) {
        if let Some(before) = self.strands.back_mut() {
            before.active = before.active.max(strand.active);
        }
        self.strands.push_back(strand);
        if self.strands.len() > STRANDS {
            self.strands.pop_front();
        }
    }

    /// Inserts a file whose remaining bytes are read before the current file.
    pub(super) fn read_before_current(&mut self, strand: Strand<H>) {
        let at = self.strands.len().saturating_sub(1);
        self.strands.insert(at, strand);
        if self.strands.len() > STRANDS {
            self.strands.pop_front();
        }
    }

    /// Drops all files but the current one.
    pub(super) fn forget_former(&mut self) {
        let former = self.strands.len().saturating_sub(1);
        self.strands.drain(..former);
    }

    /// Drops former files without new bytes for `wait`: their writers have reopened the log by
    /// then. To be called after all of them were polled.
    pub(super) fn retire(&mut self, wait: Duration, now: Instant) {
        let mut left = self.strands.len();
        self.strands.retain(|strand| {
            left -= 1;
            left == 0 || strand.active + wait > now
        });
    }

    /// When [`Tail::retire`] has a file to drop.
    pub(super) fn due(&self, wait: Duration) -> Option<Instant> {
        let former = self.strands.len().saturating_sub(1);
        self.strands.iter().take(former).map(|strand| strand.active + wait).min()
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
    fn read(text: &str, now: Instant) -> Strand<&'static str> {
        let mut strand = Strand::from_beginning("a", id(1), now);
        strand.looked_up_to(text.len() as u64, now);
        strand.advance(text.as_bytes(), false);
        strand
    }

    /// The fingerprint of a file with this content.
    fn found(text: &str, strand: &Strand<&'static str>) -> Print {
        let (head, before) = strand.print_lengths();
        print(text, strand.position(), head, before)
    }

    fn print(text: &str, position: u64, head: usize, before: usize) -> Print {
        let bytes = text.as_bytes();
        let end = usize::try_from(position).unwrap().min(bytes.len());
        let start = usize::try_from(position).unwrap().saturating_sub(before).min(end);
        Print { head: bytes[..head.min(bytes.len())].to_vec(), before: bytes[start..end].to_vec() }
    }

    fn verdict(before: &str, after: &str) -> Verdict {
        let strand = read(before, Instant::now());
        strand.judge(after.len() as u64, &found(after, &strand))
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
    fn one_that_was_emptied_is_not_however_far_it_grew() {
        assert_eq!(verdict("a\n", ""), Verdict::Rewritten);
        assert_eq!(verdict("a\nb\n", "c\n"), Verdict::Rewritten);
        assert_eq!(verdict("a\nb\n", "c\nd\n"), Verdict::Rewritten);
        assert_eq!(verdict("a\nb\n", "c\nd\ne\n"), Verdict::Rewritten);
        assert_eq!(verdict(&lines(0, 100), &lines(1000, 200)), Verdict::Rewritten);
    }

    #[test]
    fn one_that_begins_alike_is_known_by_what_stands_before_the_position() {
        let begin = lines(0, 10);
        let (old, new) = (begin.clone() + &lines(10, 90), begin + &lines(500, 200));
        assert_eq!(verdict(&old, &new), Verdict::Rewritten);
    }

    #[test]
    fn one_that_was_rolled_back_is_not_read_again() {
        assert_eq!(verdict(&lines(0, 100), &lines(0, 60)), Verdict::Shortened);
        // Too short for its beginning to be evidence.
        assert_eq!(verdict(&lines(0, 100), &lines(0, 2)), Verdict::Rewritten);
    }

    #[test]
    fn a_print_grows_with_what_is_read_in_pieces_of_any_size() {
        let text = lines(0, 20);
        let whole = read(&text, Instant::now());
        for piece in [1, 7, 63, 64, 65, 300] {
            let mut strand = read("", Instant::now());
            text.as_bytes().chunks(piece).for_each(|bytes| strand.advance(bytes, false));
            assert_eq!(strand.print, whole.print, "{piece}");
            assert_eq!(strand.position(), text.len() as u64);
        }
        assert_eq!(whole.print_lengths(), (HEAD, BEFORE));
    }

    #[test]
    fn only_what_was_not_looked_at_is_news() {
        let now = Instant::now();
        let mut strand = read("line\n", now);
        assert!(!strand.has_news(5));
        assert!(strand.has_news(6));
        strand.looked_up_to(9, now);
        assert!(!strand.has_news(9), "half a line is not news twice");
        assert!(strand.has_news(10));
        strand.start_over(now);
        assert!(strand.has_news(1));
        assert_eq!(strand.judge(3, &found("xyz", &strand)), Verdict::Same);
    }

    #[test]
    fn what_is_kept_can_be_found_again() {
        let text = lines(0, 30);
        let strand = read(&text, Instant::now());
        let kept = Kept::read(&strand.keep()).unwrap();
        assert_eq!((kept.identity, kept.position, kept.cut), (id(1), text.len() as u64, false));
        let (head, before) = kept.print_lengths();
        let judge = |content: &str| {
            kept.judge(content.len() as u64, &print(content, kept.position, head, before))
        };
        assert_eq!(judge(&text), Verdict::Same);
        assert_eq!(judge(&(text.clone() + "more")), Verdict::Same);
        assert_eq!(judge(&lines(100, 50)), Verdict::Rewritten);
        assert_eq!(judge(&lines(0, 20)), Verdict::Shortened);
        assert_eq!(judge(""), Verdict::Rewritten);
        assert!(!strand.keep().to_string().contains("tank"), "nothing of the log is kept");
    }

    #[test]
    fn what_cannot_have_been_kept_is_refused() {
        let good = read(&lines(0, 30), Instant::now()).keep();
        assert!(Kept::read(&good).is_some());
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
            assert_eq!(Kept::read(&bad), None, "{key} {value}");
        }
        assert_eq!(Kept::read(&json!(null)), None);
    }

    #[test]
    fn of_several_files_the_renamed_one_goes_on_before_a_new_one_that_begins_alike() {
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
    fn the_name_may_lead_elsewhere() {
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
    fn a_former_file_is_read_on_until_it_is_quiet() {
        let start = Instant::now();
        let mut tail = Tail::new();
        tail.go_on_with(read("a\n", start));
        assert_eq!(tail.due(WAIT), None);
        tail.go_on_with(Strand::from_beginning("b", id(2), start));
        assert_eq!(tail.due(WAIT), Some(start + WAIT));
        let later = start + WAIT / 2;
        tail.get(0).unwrap().looked_up_to(5, later);
        tail.retire(WAIT, start + WAIT);
        assert_eq!(tail.len(), 2);
        tail.retire(WAIT, later + WAIT);
        let left: Vec<&str> = tail.iter().map(|strand| strand.handle).collect();
        assert_eq!(left, ["b"], "what the name leads to is never let go");
        tail.retire(WAIT, later + 10 * WAIT);
        assert_eq!(tail.len(), 1);
    }

    #[test]
    fn the_time_of_a_former_file_begins_when_another_takes_its_name() {
        let start = Instant::now();
        let (hour, mut tail) = (Duration::from_secs(3600), Tail::new());
        tail.go_on_with(read("a\n", start));
        tail.go_on_with(Strand::from_beginning("b", id(2), start + hour));
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
            tail.iter().map(|strand| (strand.handle, strand.position())).collect();
        assert_eq!(order, [("copy", 4), ("a", 0)]);
    }

    #[test]
    fn only_so_many_files_are_open() {
        let now = Instant::now();
        let mut tail = Tail::new();
        for inode in 0..10 {
            tail.go_on_with(Strand::from_beginning("x", id(inode), now));
            tail.read_before_current(Strand::from_beginning("y", id(100 + inode), now));
            assert!(tail.len() <= STRANDS);
        }
        assert_eq!(tail.current().unwrap().identity, id(9));
        tail.forget_former();
        assert_eq!(tail.len(), 1);
    }
}
