//! How much of a command's output has been told already, and what a finished event adds to it.
//!
//! Running events bring pieces, the finished event brings the whole log once more. Both are cut in
//! the middle where they are too long, each at its own place, and a line says how many bytes are
//! left out. So what is still to be shown cannot be found by length alone: positions are counted in
//! bytes of the output itself, left-out ones included.
//!
//! Two things make the count inexact, and are made up for by comparing texts. A line end is put
//! before the marker where the head does not end with one, so of a line end there it is not said
//! whose it is: each cut makes the count doubtful by one byte. And a job may print such a line itself.

use std::ops::Range;

use ring::digest;

use crate::wire::left_out_marker;

/// How every marker begins (see [`left_out_marker`]).
const MARKER_BEGINS: &str = "[… ";
/// Bytes at the end of what was told that are kept to compare by.
const RECENT: usize = 4 * 1024;
/// Line ends at the beginning of what was told whose places are kept.
const LINE_ENDS: usize = 16 * 1024;

/// The output of one command, as far as it was told.
pub(super) struct Told {
    /// Bytes of the pieces as they came, and their digest: if the log begins with just these, the
    /// rest is plain.
    bytes: usize,
    digest: digest::Context,
    /// Bytes of the output itself that they stand for.
    position: u64,
    /// Cuts in the pieces; `position` may be too small by as much.
    cuts: u64,
    /// The end of what was told, back to the last cut.
    recent: Vec<u8>,
    /// Where lines end in the first `known` bytes of the output.
    line_ends: Vec<u64>,
    known: u64,
}

impl Told {
    /// Nothing yet.
    pub(super) fn new() -> Told {
        let digest = digest::Context::new(&digest::SHA256);
        let (recent, line_ends) = (Vec::new(), Vec::new());
        Told { bytes: 0, digest, position: 0, cuts: 0, recent, line_ends, known: 0 }
    }

    /// A further piece was told.
    pub(super) fn push(&mut self, piece: &str) {
        self.bytes += piece.len();
        self.digest.update(piece.as_bytes());
        for part in parts(piece, |_| None) {
            match part.kind {
                Kind::Text => self.remember(&piece[part.place]),
                Kind::LeftOut => {
                    self.cuts += 1;
                    self.recent.clear();
                }
            }
            self.position += part.length;
        }
    }

    fn remember(&mut self, text: &str) {
        if self.known == self.position && self.line_ends.len() < LINE_ENDS {
            let line_ends = text.match_indices('\n').map(|(at, _)| self.position + at as u64);
            self.line_ends.extend(line_ends);
            self.known += text.len() as u64;
        }
        self.recent.extend_from_slice(text.as_bytes());
        if self.recent.len() > 2 * RECENT {
            self.recent.drain(..self.recent.len() - RECENT);
        }
    }

    /// What `log`, the whole, has beyond what was told.
    pub(super) fn rest(&self, log: &str) -> String {
        if self.begins(log) {
            return log[self.bytes..].to_owned();
        }
        let parts = parts(log, |at| self.has_line_end(at));
        let doubt =
            self.cuts + parts.iter().filter(|part| part.kind == Kind::LeftOut).count() as u64;
        // Where it is counted to be, if the log does not contradict; else the nearest place where
        // it says what was told last; else the nearest where it says nothing of that.
        let counted = self.position;
        let nearby = || (1..=doubt).flat_map(|off| [Some(counted + off), counted.checked_sub(off)]);
        let agreeing = |least: usize| {
            let agrees = |at: &u64| self.agreement(log, &parts, *at).is_some_and(|n| n >= least);
            nearby().flatten().find(agrees)
        };
        let position = match self.agreement(log, &parts, counted) {
            Some(_) => counted,
            None => agreeing(1).or_else(|| agreeing(0)).unwrap_or(counted),
        };
        self.from(log, &parts, position)
    }

    /// Whether the output has a line end at byte `at`, as far as that was told.
    fn has_line_end(&self, at: u64) -> Option<bool> {
        (at < self.known).then(|| self.line_ends.binary_search(&at).is_ok())
    }

    fn begins(&self, log: &str) -> bool {
        let Some(told) = log.get(..self.bytes) else { return false };
        let digest = digest::digest(&digest::SHA256, told.as_bytes());
        digest.as_ref() == self.digest.clone().finish().as_ref()
    }

    /// If the log's text just before `position` is what was told last, as far as both go: how many
    /// bytes could be compared.
    fn agreement(&self, log: &str, parts: &[Part], position: u64) -> Option<usize> {
        let (part, within) = find(parts, position)?;
        match part.kind {
            Kind::LeftOut => Some(0),
            Kind::Text => {
                let text = &log.as_bytes()[part.place.start..part.place.start + within];
                let compared = within.min(self.recent.len());
                let told = &self.recent[self.recent.len() - compared..];
                let agrees =
                    log.is_char_boundary(part.place.start + within) && text.ends_with(told);
                agrees.then_some(compared)
            }
        }
    }

    fn from(&self, log: &str, parts: &[Part], position: u64) -> String {
        match find(parts, position) {
            Some((Part { kind: Kind::Text, place, .. }, within)) => {
                let from = place.start + within;
                let from =
                    (from..=log.len()).find(|&at| log.is_char_boundary(at)).unwrap_or(log.len());
                log[from..].to_owned()
            }
            Some((part, within)) => {
                let told = self.recent.last().is_none_or(|byte| *byte == b'\n');
                let before = if told { "" } else { "\n" };
                let left_out = left_out_marker(part.length - within as u64);
                format!("{before}{left_out}{}", &log[part.place.end..])
            }
            None => String::new(),
        }
    }
}

/// A stretch of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    kind: Kind,
    /// In bytes of the output.
    length: u64,
    /// Where it stands in the log; of what is left out, the marker and a line end put before it.
    place: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    LeftOut,
}

/// The part that holds `position`, and how many bytes into it. The end of a text belongs to it; the
/// end of what is left out belongs to what follows. `None` beyond the end.
fn find(parts: &[Part], position: u64) -> Option<(&Part, usize)> {
    let mut begin = 0;
    for part in parts {
        let within = position.checked_sub(begin)?;
        let inside = match part.kind {
            Kind::Text => within <= part.length,
            Kind::LeftOut => within < part.length,
        };
        if inside {
            return Some((part, usize::try_from(within).ok()?));
        }
        begin += part.length;
    }
    None
}

/// Takes a log apart at its markers. `has_line_end` tells of a byte of the output whether it is known
/// to be a line end.
fn parts(log: &str, has_line_end: impl Fn(u64) -> Option<bool>) -> Vec<Part> {
    let markers = markers(log);
    let mut parts = Vec::with_capacity(2 * markers.len() + 1);
    let mut begin = 0;
    for (number, (marker, left_out)) in markers.iter().enumerate() {
        let next = markers.get(number + 1).map_or(log.len(), |(next, _)| next.start);
        let (head, tail) = (marker.start - begin, next - marker.end);
        // Whose is the line end before the marker? What was told may say it; else head and tail
        // have one length where no character stands in the way. Most heads do not end with a line.
        let told = if number == 0 && head > 0 { has_line_end(head as u64 - 1) } else { None };
        let is_own = match told {
            Some(false) => false,
            Some(true) => head - 1 != tail,
            None => number == 0 && head == tail,
        };
        let end = if head == 0 || is_own { marker.start } else { marker.start - 1 };
        push_text(&mut parts, begin..end);
        parts.push(Part { kind: Kind::LeftOut, length: *left_out, place: end..marker.end });
        begin = marker.end;
    }
    push_text(&mut parts, begin..log.len());
    parts
}

/// An empty text is a part too: a position at the end of a gap is found in it.
fn push_text(parts: &mut Vec<Part>, place: Range<usize>) {
    parts.push(Part { kind: Kind::Text, length: place.len() as u64, place });
}

/// The lines that are markers, and how many bytes they stand for.
fn markers(log: &str) -> Vec<(Range<usize>, u64)> {
    let mut found = Vec::new();
    for (at, begins) in log.match_indices(MARKER_BEGINS) {
        if at > 0 && log.as_bytes()[at - 1] != b'\n' {
            continue;
        }
        let digits = &log[at + begins.len()..];
        let digits = &digits[..digits.bytes().take_while(u8::is_ascii_digit).count()];
        let Ok(left_out) = digits.parse::<u64>() else { continue };
        // No output is that long, and sums must not overflow.
        if left_out == 0 || left_out > u64::from(u32::MAX) << 16 {
            continue;
        }
        let marker = left_out_marker(left_out);
        if log[at..].starts_with(&marker) {
            found.push((at..at + marker.len(), left_out));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Excerpt;

    fn told(pieces: &[&str]) -> Told {
        let mut told = Told::new();
        pieces.iter().for_each(|piece| told.push(piece));
        told
    }

    fn cut(limit: usize, output: &str) -> String {
        let mut excerpt = Excerpt::new(limit);
        excerpt.push(output);
        excerpt.text()
    }

    #[test]
    fn a_whole_log_is_shown_from_where_the_pieces_end() {
        assert_eq!(told(&[]).rest("abc\n"), "abc\n");
        assert_eq!(told(&["a", "bc\n"]).rest("abc\n"), "");
        assert_eq!(told(&["a", "b"]).rest("abc\n"), "c\n");
        assert_eq!(told(&[]).rest(""), "");
    }

    #[test]
    fn a_cut_log_of_which_only_the_head_was_told() {
        // Head "01234", 5 left out, tail "abcde".
        let log = cut(10, "0123456789abcde");
        assert_eq!(told(&[]).rest(&log), log);
        assert_eq!(told(&["0123"]).rest(&log), "4\n[… 5 bytes left out …]\nabcde");
        assert_eq!(told(&["01234"]).rest(&log), "\n[… 5 bytes left out …]\nabcde");
    }

    #[test]
    fn a_cut_log_told_into_the_gap_says_what_is_left_of_it() {
        let log = cut(10, "0123456789abcde");
        assert_eq!(told(&["0123456"]).rest(&log), "\n[… 3 bytes left out …]\nabcde");
        assert_eq!(told(&["01234567", "8"]).rest(&log), "\n[… 1 bytes left out …]\nabcde");
        let log = cut(10, "012\n456\n89abcde");
        assert_eq!(told(&["012\n456\n"]).rest(&log), "[… 2 bytes left out …]\nabcde");
    }

    #[test]
    fn a_cut_log_told_into_the_tail_shows_the_rest_alone() {
        let log = cut(10, "0123456789abcde");
        assert_eq!(told(&["0123456789"]).rest(&log), "abcde");
        assert_eq!(told(&["0123456789a"]).rest(&log), "bcde");
        assert_eq!(told(&["0123456789abcde"]).rest(&log), "");
    }

    #[test]
    fn a_line_end_before_the_marker_may_be_the_outputs_own() {
        // The head is "0123\n": no line end was put in.
        let log = cut(10, "0123\n56789abcde");
        assert_eq!(told(&["0123\n56789a"]).rest(&log), "bcde");
        assert_eq!(told(&["0123\n"]).rest(&log), "[… 5 bytes left out …]\nabcde");
        // Characters make head and tail differ in length; what was told last decides.
        let output = "äöü\nxyz xyz xyz\nab\ncd\näöüü\n";
        for limit in 8..output.len() {
            let log = cut(limit, output);
            let rest = told(&[&output[..output.len() - 3]]).rest(&log);
            assert_eq!(rest, "ü\n", "limit {limit}: {log:?}");
        }
    }

    #[test]
    fn pieces_that_were_cut_count_in_full() {
        let output: String = (0..200).map(|i| format!("line {i}\n")).collect();
        let (first, second) = output.split_at(1000);
        let log = cut(100, &output);
        assert_eq!(told(&[&cut(100, first)]).rest(&log), expected(&output, 1000, 100));
        assert_eq!(told(&[&cut(100, first), &cut(100, second)]).rest(&log), "");
    }

    #[test]
    fn a_job_that_prints_a_marker_itself_loses_nothing() {
        let output = "before\n[… 7 bytes left out …]\nafter\n";
        assert_eq!(told(&["before\n"]).rest(output), "[… 7 bytes left out …]\nafter\n");
        assert_eq!(told(&["before\n[… 7 bytes left out …]\naf"]).rest(output), "ter\n");
        assert_eq!(told(&[output]).rest(output), "");
    }

    #[test]
    fn what_only_looks_like_a_marker_is_text() {
        for text in [
            "x [… 5 bytes left out …]\n",
            "[… 05 bytes left out …]\n",
            "[… 5 bytes left out …]",
            "[… 0 bytes left out …]\n",
        ] {
            assert_eq!(markers(text), [], "{text:?}");
        }
    }

    #[test]
    fn a_log_that_ends_before_what_was_told_adds_nothing() {
        assert_eq!(told(&["abcdef"]).rest("abc"), "");
        assert_eq!(told(&["abcdef"]).rest(""), "");
    }

    #[test]
    fn logs_of_equal_commands_are_joined_and_may_have_two_gaps() {
        let (first, second) = ("a".repeat(5) + "0123456789\n", "b".repeat(5) + "9876543210\n");
        let log = format!("{}{}", cut(10, &first), cut(10, &second));
        assert_eq!(told(&[&first, &second[..14]]).rest(&log), "0\n".to_owned());
        assert_eq!(told(&[&first]).rest(&log), cut(10, &second));
    }

    /// What is to be shown when `position` bytes of `output` were told and the log is cut at `limit`.
    fn expected(output: &str, position: usize, limit: usize) -> String {
        if output.len() <= limit {
            return output[position..].to_owned();
        }
        let half = limit / 2;
        let head = (0..=half).rev().find(|&at| output.is_char_boundary(at)).unwrap();
        let tail = (output.len() - half..).find(|&at| output.is_char_boundary(at)).unwrap();
        let ends_a_line = |at: usize| at == 0 || output.as_bytes()[at - 1] == b'\n';
        if position >= tail {
            return output[position..].to_owned();
        }
        let from = position.max(head);
        let before = if ends_a_line(from) { "" } else { "\n" };
        let marker = left_out_marker((tail - from) as u64);
        format!("{}{before}{marker}{}", &output[position.min(head)..head], &output[tail..])
    }

    #[test]
    fn any_output_in_any_pieces_under_any_limit() {
        let words = ["a", "ü", "line\n", "\n", "0123456789", "…", "x y z ", "😀\n"];
        let mut seed = 7_u32;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        let mut inexact = 0;
        for round in 0..5000 {
            // A number in each line, so that no two places read alike.
            let mut output = String::new();
            for number in 0..next(60) {
                output.push_str(words[next(words.len())]);
                output.push_str(&number.to_string());
            }
            let limit = 40 + next(100);
            let mut position = next(output.len() + 1);
            while !output.is_char_boundary(position) {
                position -= 1;
            }
            let mut told = Told::new();
            let mut at = 0;
            let mut was_cut = false;
            while at < position {
                let mut end = (at + 1 + next(80)).min(position);
                while !output.is_char_boundary(end) {
                    end += 1;
                }
                let piece = cut(50, &output[at..end]);
                was_cut |= piece.len() != end - at;
                told.push(&piece);
                at = end;
            }
            let rest = told.rest(&cut(limit, &output));
            let expected = expected(&output, position, limit);
            if rest == expected {
                continue;
            }
            // In a gap nothing can be compared, so its number may be off: by one for each cut.
            inexact += u32::from(!was_cut);
            let (rest, expected) = (around_marker(&rest), around_marker(&expected));
            assert_eq!(rest.2, expected.2, "round {round}: {output:?}");
            assert!(rest.1.abs_diff(expected.1) <= 1 + told.cuts, "round {round}: {}", rest.1);
            assert!(rest.0.trim_end() == expected.0.trim_end(), "round {round}: {}", rest.0);
        }
        // Of whole pieces only where the head ends just before a line end.
        assert!(inexact < 50, "{inexact}");
    }

    /// What stands before the marker, its number, and what stands behind it.
    fn around_marker(text: &str) -> (&str, u64, &str) {
        match &markers(text)[..] {
            [] => ("", 0, text),
            [(place, number)] => (&text[..place.start], *number, &text[place.end..]),
            [..] => panic!("{text:?}"),
        }
    }
}
