//! Values without a closing bracket.
//!
//! To the TOML parser everything after an open bracket belongs to it, so that one missing `]` makes
//! an error of each line to the end of the file. A line that begins another key or table shows
//! where the value was meant to end: it is reported once, at the line where it begins, and replaced
//! by an empty one, so that the rest of the file is still checked.

use std::borrow::Cow;

use toml::de::DeTable;

use super::error::Fault;

/// `text` with a number in place of each value that is not closed, and a fault for each, in order.
/// All other bytes stay in place. A text without errors of syntax is returned unchanged.
///
/// Takes linear time.
pub(super) fn repair(text: &str) -> (Cow<'_, str>, Vec<Fault>) {
    let mut faults = Vec::new();
    if DeTable::parse_recoverable(text).1.is_empty() {
        return (Cow::Borrowed(text), faults);
    }
    let mut scan = Scan { text, at: 0, open: Vec::new(), last: b'\n', is_cut: false };
    let (mut repaired, mut copied) = (String::with_capacity(text.len()), 0);
    while let Some((bracket, outermost)) = scan.next_unclosed() {
        let message = match (scan.is_cut, bracket) {
            (true, _) => "unclosed string, expected its closing quote",
            (false, b'[') => "unclosed array, expected `]`",
            (false, _) => "unclosed inline table, expected `}`",
        };
        faults.push(Fault { at: outermost, message: message.to_owned() });
        repaired.push_str(text.get(copied..outermost).unwrap_or(""));
        let value = text.get(outermost..scan.at).unwrap_or("").bytes();
        // A value of the wrong kind gives no second fault, because its line has a syntax error.
        repaired.push('0');
        repaired.extend(value.skip(1).map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        copied = scan.at;
        scan.open.clear();
        scan.is_cut = false;
    }
    repaired.push_str(text.get(copied..).unwrap_or(""));
    (Cow::Owned(repaired), faults)
}

/// A scanner that recognizes strings, comments and brackets.
struct Scan<'t> {
    text: &'t str,
    at: usize,
    /// Open brackets with their offsets.
    open: Vec<(u8, usize)>,
    /// The last byte that is neither blank nor part of a comment.
    last: u8,
    /// A string ended with its line since the outermost bracket.
    is_cut: bool,
}

impl Scan<'_> {
    /// Advances to where the next unclosed value must have ended; returns the innermost bracket and
    /// the offset of the outermost.
    fn next_unclosed(&mut self) -> Option<(u8, usize)> {
        loop {
            let rest = self.text.get(self.at..).unwrap_or("");
            let is_line_start =
                self.at == 0 || self.text.as_bytes().get(self.at - 1) == Some(&b'\n');
            if is_line_start {
                match (self.open.first(), self.open.last()) {
                    (Some((_, outermost)), Some((bracket, _)))
                        if self.begins_statement(rest, *bracket) =>
                    {
                        return Some((*bracket, *outermost));
                    }
                    (None, _) if rest.trim_start_matches([' ', '\t']).starts_with('[') => {
                        self.at += rest.find('\n').map_or(rest.len(), |end| end + 1);
                        continue;
                    }
                    _ => {}
                }
            }
            let Some(&byte) = rest.as_bytes().first() else {
                let (bracket, _) = *self.open.last()?;
                return self.open.first().map(|(_, outermost)| (bracket, *outermost));
            };
            self.at += match byte {
                b'#' => rest.find('\n').unwrap_or(rest.len()),
                b'"' | b'\'' => {
                    let length = string(rest);
                    // An unterminated string of one line does not include its line break.
                    let whole = rest.get(..length).unwrap_or("");
                    self.is_cut |= !self.open.is_empty()
                        && (whole.len() < 2 || !whole.ends_with(char::from(byte)));
                    length
                }
                _ => 1,
            };
            match byte {
                b'[' | b'{' => self.open.push((byte, self.at - 1)),
                b']' | b'}' => drop(self.open.pop()),
                _ => {}
            }
            if self.open.is_empty() {
                self.is_cut = false;
            }
            if !byte.is_ascii_whitespace() && byte != b'#' {
                self.last = byte;
            }
            self.at = self.text.ceil_char_boundary(self.at);
        }
    }

    /// Whether a line inside `bracket` begins another key or table: a key there belongs to an
    /// inline table where a comma or the bracket precedes it.
    fn begins_statement(&self, line: &str, bracket: u8) -> bool {
        let line = line.lines().next().unwrap_or("").trim_ascii();
        let is_bare = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let heading = line.trim_start_matches('[');
        if heading.len() < line.len() {
            let after = heading.trim_start_matches(is_bare);
            let behind = after.trim_start_matches(']').trim_ascii_start();
            return heading.starts_with(|c: char| c.is_ascii_alphabetic())
                && after.starts_with(']')
                && (behind.is_empty() || behind.starts_with('#'));
        }
        let after = line.trim_start_matches(is_bare);
        let is_key = after.len() < line.len() && after.trim_ascii_start().starts_with('=');
        is_key && (bracket == b'[' || !matches!(self.last, b',' | b'{'))
    }
}

/// The length of the string at the beginning of `text`; of an unterminated one, to the end of its
/// line, or of the text where it may have several.
fn string(text: &str) -> usize {
    let quote = text.get(..1).unwrap_or("");
    let triple = quote.repeat(3);
    let (mark, first, is_long) =
        if text.starts_with(&triple) { (triple.as_str(), 3, true) } else { (quote, 1, false) };
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(first) {
        if c == '\n' && !is_long {
            return at;
        }
        if is_escaped {
            is_escaped = false;
        } else if c == '\\' && quote == "\"" {
            is_escaped = true;
        } else if text.get(at..).is_some_and(|rest| rest.starts_with(mark)) {
            return at + mark.len();
        }
    }
    text.len()
}
