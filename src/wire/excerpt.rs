//! A text of any length in bounded memory: its head, its tail, and the number of bytes omitted.
//!
//! A job may print for days. An event shows the beginning and the end, and states how much is
//! omitted. Two excerpts can be joined, so a slow client gets one larger excerpt instead of many
//! small ones.

use serde::{Deserialize, Serialize};

use super::json::encoded_char_len;

/// A text, complete up to its limit; beyond it, head and tail of half the limit each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// In bytes of UTF-8.
    limit: usize,
    /// Number of bytes appended, in UTF-8.
    total: u64,
    /// Offset of its first byte in the text that it is a part of.
    #[serde(default)]
    start: u64,
    /// The whole text while it fits, else its first half.
    head: String,
    /// Empty while the text fits; else its end, preceded by up to as much again that is dropped in
    /// one operation (dropping a byte for each that arrives would be quadratic).
    tail: String,
}

/// A text for display: head, omission marker, tail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// All three.
    pub text: String,
    /// Bytes of the head; the whole text where nothing is omitted.
    pub head: usize,
    /// Bytes of the tail.
    pub tail: usize,
}

/// The line in place of omitted bytes.
pub fn left_out_marker(bytes: u64) -> String {
    format!("[… {bytes} bytes left out …]\n")
}

/// Maximum size of the marker, including a line end before it.
const MARKER_ROOM: usize = 64;

impl Excerpt {
    /// Empty; `limit` is in bytes of UTF-8.
    pub fn new(limit: usize) -> Excerpt {
        Excerpt::starting_at(0, limit)
    }

    /// Empty, part of a text with `start` bytes before it.
    pub fn starting_at(start: u64, limit: usize) -> Excerpt {
        Excerpt { limit, total: 0, start, head: String::new(), tail: String::new() }
    }

    /// Restores the remains of a text of `total` bytes: its beginning and its end. Where nothing is
    /// omitted, all of it is the beginning.
    pub fn from_ends(limit: usize, total: u64, head: String, tail: String) -> Excerpt {
        let total = total.max((head.len() + tail.len()) as u64);
        Excerpt { limit, total, start: 0, head, tail }
    }

    /// Offset of its first byte in the text that it is a part of.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset after its last byte.
    pub fn end(&self) -> u64 {
        self.start + self.total
    }

    /// Whether bytes are omitted.
    pub fn is_cut(&self) -> bool {
        !self.is_whole()
    }

    /// Omits the next `bytes` bytes and the current tail. For a text that is cut already, where
    /// enough bytes for a whole tail follow.
    pub fn skip(&mut self, bytes: u64) {
        self.begin_tail();
        self.tail.clear();
        self.total += bytes;
    }

    /// Bytes of the whole text, omitted ones included.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Memory used by the text, in bytes, for the accounting of buffers.
    pub fn held(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    fn half(&self) -> usize {
        self.limit / 2
    }

    fn is_whole(&self) -> bool {
        self.total == self.head.len() as u64
    }

    /// Appends `text`.
    pub fn push(&mut self, text: &str) {
        if self.is_whole() && self.head.len() + text.len() <= self.limit {
            self.head.push_str(text);
            self.total += text.len() as u64;
            return;
        }
        self.begin_tail();
        let missing = self.half().saturating_sub(self.head.len());
        let mut rest = text;
        if self.tail.is_empty() && self.is_whole() && missing > 0 {
            let (first, behind) = text.split_at(text.floor_char_boundary(missing));
            self.head.push_str(first);
            rest = behind;
        }
        self.push_tail(rest);
        self.total += text.len() as u64;
    }

    /// Appends another excerpt, including its omission.
    pub fn append(&mut self, other: &Excerpt) {
        if other.is_whole() {
            self.push(&other.head);
            return;
        }
        self.push(&other.head);
        self.begin_tail();
        let shown = other.shown_tail();
        self.tail.clear();
        self.push_tail(shown);
        self.total += other.total - other.head.len() as u64;
    }

    /// Switches from "whole" to "head and tail": the second half of the text becomes the tail.
    fn begin_tail(&mut self) {
        if self.is_whole() && self.head.len() > self.half() {
            let at = self.head.floor_char_boundary(self.half());
            self.tail = self.head.split_off(at);
            self.head.shrink_to_fit();
        }
    }

    fn push_tail(&mut self, text: &str) {
        let half = self.half();
        if text.len() >= half {
            self.tail.clear();
            self.tail.push_str(&text[text.ceil_char_boundary(text.len() - half)..]);
            return;
        }
        self.tail.push_str(text);
        if self.tail.len() > 2 * half {
            let from = self.tail.ceil_char_boundary(self.tail.len() - half);
            self.tail.drain(..from);
        }
    }

    fn shown_tail(&self) -> &str {
        let from = self.tail.len().saturating_sub(self.half());
        &self.tail[self.tail.ceil_char_boundary(from)..]
    }

    /// The text, with the marker where bytes are omitted.
    pub fn text(&self) -> String {
        self.shown().text
    }

    /// The same, with the sizes of its parts.
    pub fn shown(&self) -> Shown {
        if self.is_whole() {
            return Shown { text: self.head.clone(), head: self.head.len(), tail: 0 };
        }
        self.assemble(&self.head, self.shown_tail())
    }

    /// The text in at most `budget` bytes of encoded JSON (quotes not counted). A budget too small
    /// for the marker yields the empty text.
    pub fn shown_within(&self, budget: usize) -> Shown {
        let shown = self.shown();
        if super::encoded_len(&shown.text) <= budget {
            return shown;
        }
        let Some(room) = budget.checked_sub(MARKER_ROOM) else { return Shown::default() };
        let (head, tail) = if self.is_whole() {
            (&*self.head, &*self.head)
        } else {
            (&*self.head, self.shown_tail())
        };
        let head = &head[..encoded_prefix(head, room / 2)];
        let tail = &tail[encoded_suffix(tail, room / 2)..];
        self.assemble(head, tail)
    }

    fn assemble(&self, head: &str, tail: &str) -> Shown {
        let left_out = self.total - head.len() as u64 - tail.len() as u64;
        let mut text = String::with_capacity(head.len() + tail.len() + MARKER_ROOM);
        text.push_str(head);
        if left_out > 0 {
            if !head.is_empty() && !head.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&left_out_marker(left_out));
        }
        text.push_str(tail);
        Shown { text, head: head.len(), tail: tail.len() }
    }

    /// The same text with another limit.
    pub fn with_limit(&self, limit: usize) -> Excerpt {
        let mut other = Excerpt::new(limit);
        other.append(self);
        other
    }
}

fn encoded_prefix(text: &str, budget: usize) -> usize {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += encoded_char_len(c);
        if used > budget {
            return at;
        }
    }
    text.len()
}

fn encoded_suffix(text: &str, budget: usize) -> usize {
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += encoded_char_len(c);
        if used > budget {
            return at + c.len_utf8();
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(limit: usize, pieces: &[&str]) -> Excerpt {
        let mut e = Excerpt::new(limit);
        pieces.iter().for_each(|p| e.push(p));
        e
    }

    #[test]
    fn a_text_within_the_limit_stays_whole() {
        let e = excerpt(10, &["01234", "56789"]);
        assert_eq!(e.text(), "0123456789");
    }

    #[test]
    fn past_the_limit_head_and_tail_stay_and_the_number_is_exact() {
        let e = excerpt(10, &["01234", "56789", "abcde"]);
        assert_eq!(e.text(), "01234\n[… 5 bytes left out …]\nabcde");
    }

    #[test]
    fn the_size_of_the_pieces_does_not_matter() {
        let text: String = (0..5000).map(|i| format!("line {i} ü\n")).collect();
        let expected = excerpt(1000, &[&text]).text();
        for size in [1, 3, 7, 64, 999, 1001, 4096] {
            let mut e = Excerpt::new(1000);
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
                e.push(piece);
                rest = behind;
            }
            assert_eq!(e.text(), expected, "pieces of {size}");
            assert!(e.held() <= 1500 + 4, "held {} of limit 1000", e.held());
        }
    }

    #[test]
    fn joined_excerpts_equal_one_of_the_whole() {
        let a: String = (0..300).map(|i| format!("a{i}\n")).collect();
        let b: String = (0..400).map(|i| format!("b{i}\n")).collect();
        for limit in [64, 100, 1000, 2000, 10_000] {
            let mut joined = excerpt(limit, &[&a]);
            joined.append(&excerpt(limit, &[&b]));
            assert_eq!(joined.text(), excerpt(limit, &[&a, &b]).text(), "limit {limit}");
            assert_eq!(joined.total(), (a.len() + b.len()) as u64);
        }
    }

    #[test]
    fn cut_excerpt_joined_to_empty_keeps_its_count() {
        let cut = excerpt(10, &["0123456789abcdef"]);
        let mut e = Excerpt::new(10);
        e.append(&cut);
        assert_eq!(e.text(), cut.text());
    }

    #[test]
    fn short_excerpt_joined_to_a_cut_one_keeps_its_tail() {
        let mut e = excerpt(10, &["x"]);
        e.append(&excerpt(10, &["0123456789abcdef"]));
        assert_eq!(e.total(), 17);
        assert!(e.text().starts_with("x0123"));
        assert!(e.text().ends_with("bcdef"));
    }

    #[test]
    fn a_character_is_never_cut() {
        let e = excerpt(9, &["äöüäöüäöü"]);
        assert_eq!(e.text(), "äö\n[… 10 bytes left out …]\nöü");
    }

    #[test]
    fn a_budget_counts_encoded_bytes() {
        let e = excerpt(10_000, &[&"\u{1}".repeat(1000)]);
        let text = e.shown_within(1064).text;
        assert!(super::super::encoded_len(&text) <= 1064);
        assert!(text.contains("[… 834 bytes left out …]"), "{text:?}");
        assert_eq!(e.shown_within(10).text, "");
        assert_eq!(e.shown_within(6000).text, e.text());
    }

    #[test]
    fn bytes_that_are_skipped_are_left_out_and_a_tail_follows() {
        let mut e = excerpt(10, &["0123456789abcde"]);
        e.skip(7);
        e.push("vwxyz");
        assert_eq!(e.text(), "01234\n[… 17 bytes left out …]\nvwxyz");
        let Shown { text, head, tail } = e.shown();
        assert_eq!((&text[..head], &text[text.len() - tail..]), ("01234", "vwxyz"));
        assert_eq!((e.start(), e.end()), (0, 27));
    }
}
