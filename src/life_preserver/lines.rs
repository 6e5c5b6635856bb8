//! Splits bytes that arrive in chunks into lines.
//!
//! An unterminated line is not buffered: it is read again when more of it exists. So the position
//! of a log is always the start of a line and can be persisted as one number. Of a line beyond the
//! limit, both ends are returned. A line of several times the limit is returned before its end, and
//! the remainder is skipped.

use std::borrow::Cow;
use std::slice::SliceIndex;

/// A line without its terminator.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'b> {
    /// Invalid UTF-8 is replaced.
    pub(super) text: Cow<'b, str>,
    /// The line was longer than the limit.
    pub(super) cut: bool,
}

/// An unterminated line is waited for up to this multiple of the limit; a slice holds as much.
pub(super) const WAITED: usize = 4;
/// Replaces the middle of an overlong line.
const GAP: &str = " … ";

/// First item of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<'b> {
    /// A line, and its length in bytes including the terminator.
    Line(Line<'b>, usize),
    /// This many bytes belong to a line that was cut earlier.
    Rest(usize),
    /// An unterminated line, or nothing.
    Nothing,
}

/// Takes the next line. `cut`: on entry, whether the bytes begin inside a line that was cut; on
/// return, the same for the bytes that follow. A line has at most `limit` bytes plus the gap mark.
pub(super) fn take<'b>(bytes: &'b [u8], cut: &mut bool, limit: usize) -> Taken<'b> {
    // Bounds the search: all of it may be one line.
    let end = bytes.iter().position(|byte| *byte == b'\n');
    if *cut {
        *cut = end.is_none();
        return match end.map_or(bytes.len(), |end| end + 1) {
            0 => Taken::Nothing,
            length => Taken::Rest(length),
        };
    }
    let most = limit.saturating_mul(WAITED);
    match end {
        Some(end) if end <= limit => Taken::Line(line(part(bytes, ..end), false), end + 1),
        Some(end) if end <= most => Taken::Line(both_ends(part(bytes, ..end), limit), end + 1),
        None if bytes.len() < most => Taken::Nothing,
        Some(_) | None => {
            *cut = true;
            Taken::Line(both_ends(part(bytes, ..most), limit), most)
        }
    }
}

fn part(bytes: &[u8], range: impl SliceIndex<[u8], Output = [u8]>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

/// Both ends of an overlong line: three quarters of `limit` from its beginning, the rest from its
/// end.
fn both_ends(bytes: &[u8], limit: usize) -> Line<'_> {
    let tail = limit / 4;
    let head = line(part(bytes, ..limit - tail), true).text.into_owned();
    let tail = line(part(bytes, bytes.len().saturating_sub(tail)..), true).text;
    Line { text: Cow::Owned(head + GAP + &tail), cut: true }
}

/// The first line of a log that was copied and truncated under a writer may begin with NUL bytes.
fn line(bytes: &[u8], cut: bool) -> Line<'_> {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Line { text: String::from_utf8_lossy(part(bytes, zeros..)), cut }
}

/// Offset of the unterminated last line of `bytes`.
pub(super) fn unfinished(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines of `text`, read in chunks of `piece` bytes, and the remainder.
    fn lines(text: &[u8], piece: usize, limit: usize) -> (Vec<String>, usize) {
        let (mut at, mut cut, mut lines) = (0, false, Vec::new());
        let mut known = piece.min(text.len());
        loop {
            match take(&text[at..known], &mut cut, limit) {
                Taken::Line(line, length) => {
                    lines.push(format!("{}{}", line.text, if line.cut { "…" } else { "" }));
                    at += length;
                }
                Taken::Rest(length) => at += length,
                Taken::Nothing if known < text.len() => known = (known + piece).min(text.len()),
                Taken::Nothing => return (lines, text.len() - at),
            }
        }
    }

    #[test]
    fn lines_are_the_same_for_any_chunks() {
        let text = b"one\ntwo\r\n\nthree\nfo";
        for piece in 1..=text.len() {
            let (lines, left) = lines(text, piece, 100);
            assert_eq!(lines, ["one", "two", "", "three"]);
            assert_eq!(left, 2, "the end of a line is waited for");
        }
    }

    #[test]
    fn line_longer_than_the_limit_gives_both_ends() {
        let text = b"abcdefghij\nxyz\nabcdefgh\nabcdefghijklmnopqrstuvwxyzabcdef\nz\n";
        for piece in 1..=text.len() {
            let (lines, left) = lines(text, piece, 8);
            assert_eq!(lines, ["abcdef … ij…", "xyz", "abcdefgh", "abcdef … ef…", "z"], "{piece}");
            assert_eq!(left, 0);
        }
    }

    #[test]
    fn line_without_an_end_is_cut_after_several_limits() {
        let mut cut = false;
        assert_eq!(take(&[b'x'; 31], &mut cut, 8), Taken::Nothing);
        assert!(matches!(take(&[b'x'; 33], &mut cut, 8), Taken::Line(Line { cut: true, .. }, 32)));
        assert!(cut);
        assert_eq!(take(b"xxx", &mut cut, 8), Taken::Rest(3));
        assert_eq!(take(b"x\nnew\n", &mut cut, 8), Taken::Rest(2));
        assert!(!cut);
    }

    #[test]
    fn bytes_that_are_not_text_become_text() {
        let (lines, _) = lines(b"\xff\xfea\n\0\0\0b\n", 100, 100);
        assert_eq!(lines, ["\u{fffd}\u{fffd}a", "b"]);
    }

    #[test]
    fn the_unfinished_line_begins_behind_the_last_end() {
        assert_eq!(unfinished(b""), 0);
        assert_eq!(unfinished(b"abc"), 0);
        assert_eq!(unfinished(b"abc\n"), 4);
        assert_eq!(unfinished(b"abc\nde"), 4);
    }
}
