//! A line as the rules see it: cleaned, its prefix recognised, its level words read.

use std::borrow::Cow;

use super::fields::Record;
use super::level::{Level, begins_like_failure};
use super::prefix::Prefix;

/// Places behind a `: ` and the like where a message may begin, where no syslog prefix says it.
const PLACES: usize = 16;
/// Brackets before a message.
const BRACKETS: usize = 8;
/// What a hint says at its beginning, in bytes.
const BEGINNING: usize = 80;
/// Rank of a hint that zfs(8) gives.
pub(super) const ZFS: u8 = 2;

/// One line.
#[derive(Debug)]
pub(super) struct Line<'l> {
    pub(super) text: &'l str,
    pub(super) prefix: Prefix<'l>,
    /// Its JSON, if it is that.
    pub(super) json: Option<Record<'l>>,
}

/// Where a message may begin.
#[derive(Debug)]
pub(super) struct Start<'l> {
    /// From here on, with the words of its level.
    pub(super) text: &'l str,
    /// Behind the words of its level and what is in brackets.
    pub(super) body: &'l str,
    /// What its words say.
    pub(super) level: Option<Level>,
    /// What is in the brackets before it: `[job][subsystem]`.
    pub(super) brackets: Vec<&'l str>,
    /// The brackets end with a colon.
    pub(super) is_labelled: bool,
}

impl<'l> Line<'l> {
    /// Reads a line that [`clean`] has cleaned.
    pub(super) fn of(text: &'l str) -> Line<'l> {
        let prefix = Prefix::of(text);
        let message = text.get(prefix.message..).unwrap_or_default();
        let json = if message.starts_with('{') { Record::of_json(message) } else { None };
        Line { text, prefix, json }
    }

    /// Where a message may begin, if none says it: behind each `: `, `] ` and the like.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        let bytes = self.text.as_bytes();
        let begin = self.prefix.message;
        let is_place = move |at: &usize| {
            let mark = at.checked_sub(2).filter(|mark| *mark >= begin);
            let mark = mark.and_then(|mark| bytes.get(mark));
            bytes.get(at - 1) == Some(&b' ') && mark.is_some_and(|mark| b":]|->)".contains(mark))
        };
        (begin + 1..bytes.len()).filter(is_place).take(PLACES)
    }

    /// The program, as syslogd or journald names it.
    pub(super) fn program(&self) -> Option<&str> {
        self.prefix.program.or_else(|| self.json.as_ref()?.get("SYSLOG_IDENTIFIER"))
    }

    /// How likely this line, which is no event of a rule, is the reason of a failure that the next
    /// lines report; `None` if it is not.
    pub(super) fn hint_rank(&self) -> Option<u8> {
        let text = self.hint();
        if text.starts_with("cannot ") {
            return Some(ZFS);
        }
        if Level::at_start(text).0 == Some(Level::Info) {
            return None;
        }
        // Only its beginning: every line of a log comes here.
        let end = (0..=BEGINNING.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let begin = text.get(..end.unwrap_or(0)).unwrap_or_default();
        let says = begins_like_failure(begin) || super::mentions_failure(begin);
        says.then_some(1)
    }

    /// The line without its stamp, and without the program that syslogd names.
    pub(super) fn hint(&self) -> &'l str {
        let Prefix { is_doubtful, bare, message, .. } = self.prefix;
        self.text.get(if is_doubtful { bare } else { message }..).unwrap_or_default()
    }
}

impl<'l> Start<'l> {
    /// Reads level words and brackets.
    pub(super) fn of(text: &'l str) -> Start<'l> {
        let (mut level, mut brackets, mut at) = (None, Vec::new(), 0);
        let mut is_labelled = false;
        while brackets.len() < BRACKETS {
            let rest = text.get(at..).unwrap_or_default();
            let (found, length) = Level::at_start(rest);
            if length > 0 {
                level = level.max(found);
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
        Start { text, body: text.get(at..).unwrap_or_default(), level, brackets, is_labelled }
    }
}

/// `'` inside of single quotes, as sh(1) wants it.
const QUOTE: &str = r#"'"'"'"#;
/// Commands in commands.
const DEPTH: usize = 3;

/// A line without a byte order mark, leading blanks, escape sequences, what a progress meter wrote
/// over, and quotes in quotes.
pub fn clean(text: &str) -> Cow<'_, str> {
    let is_blank = |c: char| c == '\u{feff}' || c == '\0' || c.is_whitespace();
    let mut text = text.trim_start_matches(is_blank).trim_end_matches(['\r', '\n']);
    // Most lines have none of these bytes: one pass instead of five.
    if !text.bytes().any(|byte| matches!(byte, b'\r' | 0x1b | 0xc2 | b'#' | b'\'')) {
        return Cow::Borrowed(text);
    }
    if let Some((_, last)) = text.rsplit_once('\r') {
        text = last.trim_start_matches(is_blank);
    }
    // A shell's quote inside of quotes; of a command in a command once more.
    if text.contains(QUOTE) {
        let mut plain = text.to_owned();
        for _ in 0..DEPTH {
            plain = plain.replace(QUOTE, "'");
        }
        return Cow::Owned(without_escapes(&plain).into_owned());
    }
    without_escapes(text)
}

fn without_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains(['\u{1b}', '\u{9b}']) && !text.contains("#033[") {
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
    fn lines_are_cleaned_of_what_is_no_text() {
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
        ];
        for (text, level, brackets, body) in rows {
            let start = Start::of(text);
            let found = (start.level, start.brackets.join(","), start.body);
            assert_eq!(found, (level, brackets.to_owned(), body), "{text}");
        }
    }
}
