//! A log line prepared for the rules: cleaned, its prefix recognised, its level words read.

use std::borrow::Cow;
use std::cell::OnceCell;

use memchr::{memchr_iter, memchr2, memchr3, memmem};

use super::fields::Record;
use super::level::{Level, begins_like_failure, level_at_start};
use super::prefix::Prefix;

/// Maximum number of positions after a `: ` and the like where a message may begin, without a
/// syslog prefix.
const PLACES: usize = 16;
/// Maximum offset of such a position, in bytes.
const NEAR: usize = 512;
/// Maximum number of brackets and levels before a message.
const BRACKETS: usize = 8;
/// Bytes at the beginning of a hint that are compared.
const BEGINNING: usize = 80;
/// Rank of a hint from zfs(8).
pub(super) const ZFS: u8 = 2;

/// One line.
#[derive(Debug)]
pub(super) struct Line<'l> {
    pub(super) text: &'l str,
    pub(super) prefix: Prefix<'l>,
    /// Its JSON fields, if it is JSON.
    pub(super) json: Option<Record<'l>>,
    /// Start of the message according to the prefix.
    begin: Start<'l>,
    bare: OnceCell<Start<'l>>,
    places: OnceCell<Vec<Start<'l>>>,
    record: OnceCell<Record<'l>>,
}

/// A position where a message may begin.
#[derive(Debug)]
pub(super) struct Start<'l> {
    /// The text from here on, with its level words.
    pub(super) text: &'l str,
    /// The text after level words and brackets.
    pub(super) body: &'l str,
    /// Level stated by its words.
    pub(super) level: Option<Level>,
    /// Contents of the brackets before it: `[job][subsystem]`.
    pub(super) brackets: Vec<&'l str>,
    /// The brackets end with a colon.
    pub(super) is_labelled: bool,
    /// The line itself marks this as the start of its message.
    pub(super) is_first: bool,
}

impl<'l> Line<'l> {
    /// Reads a line prepared by [`clean`].
    pub(super) fn of(text: &'l str) -> Line<'l> {
        let prefix = Prefix::of(text);
        let message = text.get(prefix.message..).unwrap_or_default();
        let json = if message.starts_with('{') { Record::of_json(message) } else { None };
        let begin = Start::of(message, true);
        let (bare, places, record) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Line { text, prefix, json, begin, bare, places, record }
    }

    /// The message and fields of the line as a whole.
    pub(super) fn record(&self) -> &Record<'l> {
        let of_text = || Record::of_text(self.begin.body);
        self.json.as_ref().unwrap_or_else(|| self.record.get_or_init(of_text))
    }

    /// Start of the message according to the prefix; with `bare`, the start if the program's name
    /// is a word of the message.
    pub(super) fn start(&self, bare: bool) -> &Start<'l> {
        if !bare || self.prefix.bare == self.prefix.message {
            return &self.begin;
        }
        let text = self.text.get(self.prefix.bare..).unwrap_or_default();
        self.bare.get_or_init(|| Start::of(text, true))
    }

    /// Positions where a message may begin if nothing marks its start: after each `: `, `] ` and
    /// the like.
    pub(super) fn places(&self) -> &[Start<'l>] {
        self.places.get_or_init(|| {
            let message = self.begin.text;
            let bytes = message.as_bytes();
            let near = bytes.get(..NEAR).unwrap_or(bytes);
            let is_place = |blank: &usize| {
                let mark = blank.checked_sub(1).and_then(|mark| bytes.get(mark));
                blank + 1 < bytes.len() && mark.is_some_and(|mark| b":]|->)".contains(mark))
            };
            let places = memchr_iter(b' ', near).filter(is_place).take(PLACES);
            places.filter_map(|at| Some(Start::of(message.get(at + 1..)?, false))).collect()
        })
    }

    /// The program named by syslogd or journald.
    pub(super) fn program(&self) -> Option<&str> {
        self.prefix.program.or_else(|| self.json.as_ref()?.get("SYSLOG_IDENTIFIER"))
    }

    /// Likelihood that this line, which is no event of a rule, is the reason of a failure that
    /// later lines report; `None` if it is not.
    pub(super) fn hint_rank(&self) -> Option<u8> {
        let text = self.hint();
        if text.starts_with("cannot ") {
            return Some(ZFS);
        }
        if Start::of(text, true).level == Some(Level::Info) {
            return None;
        }
        // Only its beginning: this runs for every line of a log.
        let begin = super::beginning(text, BEGINNING);
        let says = begins_like_failure(begin) || super::mentions_failure(begin);
        says.then_some(1)
    }

    /// The line without its time stamp and without the program named by syslogd.
    pub(super) fn hint(&self) -> &'l str {
        let Prefix { is_doubtful, bare, message, .. } = self.prefix;
        self.text.get(if is_doubtful { bare } else { message }..).unwrap_or_default()
    }
}

impl<'l> Start<'l> {
    /// Reads level words and brackets.
    pub(super) fn of(text: &'l str, is_first: bool) -> Start<'l> {
        let (mut level, mut brackets, mut at) = (None, Vec::new(), 0);
        let mut is_labelled = false;
        for _ in 0..BRACKETS {
            let rest = text.get(at..).unwrap_or_default();
            if let Some((found, length)) = level_at_start(rest) {
                level = level.max(Some(found));
                at += length;
                continue;
            }
            let Some((inside, behind)) = rest.strip_prefix('[').and_then(|it| it.split_once(']'))
            else {
                break;
            };
            match Level::of_word(inside) {
                Some(found) if brackets.is_empty() => level = level.max(Some(found)),
                Some(_) | None => brackets.push(inside),
            }
            at = text.len() - behind.len();
            if let Some(behind) = behind.strip_prefix(": ") {
                (at, is_labelled) = (text.len() - behind.len(), true);
                break;
            }
            if behind.starts_with(' ') {
                at += 1;
            } else if !behind.starts_with('[') {
                break;
            }
        }
        let body = text.get(at..).unwrap_or_default();
        Start { text, body, level, brackets, is_labelled, is_first }
    }
}

/// `'` inside single quotes in sh(1).
const QUOTE: &str = r#"'"'"'"#;
/// Maximum depth of nested commands.
const DEPTH: usize = 3;

/// Removes a byte order mark, leading blanks, escape sequences, text that a progress meter
/// overwrote, and nested quotes from a line.
pub fn clean(text: &str) -> Cow<'_, str> {
    let is_blank = |c: char| c == '\u{feff}' || c == '\0' || c.is_whitespace();
    let mut text = text.trim_start_matches(is_blank).trim_end_matches(['\r', '\n']);
    // Most lines have none of these bytes.
    let bytes = text.as_bytes();
    if memchr3(b'\r', 0x1b, 0xc2, bytes).or_else(|| memchr2(b'#', b'\'', bytes)).is_none() {
        return Cow::Borrowed(text);
    }
    if let Some((_, last)) = text.rsplit_once('\r') {
        text = last.trim_start_matches(is_blank);
    }
    // A shell's quote inside quotes; once more for a command in a command.
    if memmem::find(text.as_bytes(), QUOTE.as_bytes()).is_some() {
        let mut plain = text.to_owned();
        for _ in 0..DEPTH {
            plain = plain.replace(QUOTE, "'");
        }
        return Cow::Owned(without_escapes(&plain).into_owned());
    }
    without_escapes(text)
}

fn without_escapes(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let has_escape = || memmem::find(bytes, b"#033[").is_some();
    if memchr2(0x1b, 0xc2, bytes).is_none() && !has_escape() {
        return Cow::Borrowed(text);
    }
    // rsyslogd writes the octal number of a control character.
    let text = text.replace("#033", "\u{1b}");
    let (mut plain, mut chars) = (String::with_capacity(text.len()), text.chars().peekable());
    while let Some(c) = chars.next() {
        let is_control_sequence = match c {
            '\u{9b}' => true,
            '\u{1b}' => match chars.next() {
                Some('[') => true,
                // An operating system command, up to BEL or ST.
                Some(']') => {
                    while chars.next().is_some_and(|c| c != '\u{7}' && c != '\\') {}
                    continue;
                }
                Some(_) | None => continue,
            },
            c => {
                plain.push(c);
                continue;
            }
        };
        // ECMA-48: parameters and intermediates, then one final character.
        while is_control_sequence && chars.peek().is_some_and(|c| ('\u{20}'..='\u{3f}').contains(c))
        {
            chars.next();
        }
        chars.next();
    }
    Cow::Owned(plain.trim_start().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cleaned_of_non_text() {
        for line in [
            "\u{feff}WARN: x",
            "  \tWARN: x",
            "\0\0WARN: x\r",
            "\u{1b}[1;31mWARN\u{1b}[0m: x",
            "\u{9b}31mWARN\u{9b}m: x",
            "#033[31mWARN#033[0m: x",
            "\u{1b}]0;title\u{7}WARN: x",
            " 1.2GiB 0:00:05 [ 20MiB/s] [==>   ] 40%\rWARN: x",
            "\u{1b}(\u{1b}[KWARN: x",
        ] {
            assert!(clean(line).ends_with("WARN: x"), "{line:?}: {:?}", clean(line));
        }
        assert_eq!(clean(r#"h ' send '"'"'a'"'"'"'"'"'"'"'"'b'"'"''"#), "h ' send 'a'b''");
        assert!(matches!(clean("plain"), Cow::Borrowed("plain")));
        assert_eq!(clean("\u{1b}"), "");
    }

    #[test]
    fn message_starts_are_few_and_near_the_beginning() {
        let many = "a: ".repeat(1000);
        assert_eq!(Line::of(&many).places().len(), PLACES);
        let far = "x".repeat(NEAR) + ": y";
        assert!(Line::of(&far).places().is_empty());
        let line = Line::of("a: b] c");
        let texts: Vec<&str> = line.places().iter().map(|start| start.text).collect();
        assert_eq!(texts, ["b] c", "c"]);
    }

    #[test]
    fn levels_and_brackets_before_a_message_are_read() {
        let rows = [
            ("[ERRO][push][repl][a$b]: cannot x", Some(Level::Error), "push,repl,a$b", "cannot x"),
            ("[pull][repl]: x", None, "pull,repl", "x"),
            ("[1234] [warn] ERROR: x", Some(Level::Error), "1234", "x"),
            ("ERROR    [thread] [mod.run] x", Some(Level::Error), "thread,mod.run", "x"),
            ("[p][pruning]: [x] y", None, "p,pruning", "[x] y"),
            ("plain", None, "", "plain"),
            ("[", None, "", "["),
            ("[]", None, "", ""),
            // The maximum number is read.
            ("[a][b][c][d][e][f][g][h][i] x", None, "a,b,c,d,e,f,g,h", "[i] x"),
        ];
        for (text, level, brackets, body) in rows {
            let start = Start::of(text, true);
            let found = (start.level, start.brackets.join(","), start.body);
            assert_eq!(found, (level, brackets.to_owned(), body), "{text}");
        }
    }
}
