//! Lines of programs that log fields: JSON, logfmt, the text of Go's slog, and zrepl's format
//! `human`, which is a message with `key="value"` after it.
//!
//! A line that was longer than the limit has a gap in it: the readable part of such a line counts,
//! so nothing here requires it to be well formed.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memrchr};

/// Maximum number of fields of a line; further ones are ignored.
const FIELDS: usize = 64;
/// Maximum number of texts of a JSON line, fields and others.
const TEXTS: usize = 4 * FIELDS;

/// A message and its fields.
#[derive(Debug, Default)]
pub(super) struct Record<'l> {
    /// The message without its own fields.
    pub(super) message: Cow<'l, str>,
    fields: Vec<(&'l str, Cow<'l, str>)>,
    /// Length of the fields at the beginning of a text, none of which need be a `msg`.
    pub(super) length: usize,
}

impl<'l> Record<'l> {
    /// Parses a JSON object; `None` for anything else.
    pub(super) fn of_json(text: &'l str) -> Option<Record<'l>> {
        const MESSAGES: [&str; 4] = ["msg", "message", "MESSAGE", "log"];
        let inside = text.strip_prefix('{')?;
        let record = Record { fields: json(inside), ..Record::default() };
        let message = MESSAGES.iter().find_map(|name| record.get(name))?.to_owned();
        Some(Record { message: message.into(), ..record })
    }

    /// Parses logfmt with a `msg`, or a message with fields after it.
    pub(super) fn of_text(text: &'l str) -> Record<'l> {
        let Pairs { mut fields, length, first } = Pairs::of(text);
        if let Some((_, message)) = fields.iter().find(|(name, _)| *name == "msg") {
            return Record { message: message.clone(), fields, length };
        }
        let end = if length == text.len() && length > 0 {
            fields.remove(0);
            first
        } else {
            let (end, behind) = trailing(text);
            fields = behind;
            end
        };
        let message = text.get(..end).unwrap_or_default().trim_end();
        Record { message: message.into(), fields, length }
    }

    /// A field by name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }
}

/// The fields after a message: the end of the message, and the fields. Each position where fields
/// might begin is tried once, from left to right, up to the first that is none, at most the maximum
/// number of fields.
fn trailing(text: &str) -> (usize, Vec<(&str, Cow<'_, str>)>) {
    let mut from = 0;
    for _ in 0..FIELDS {
        let Some(equals) = find(text, from, |rest| memchr(b'=', rest)) else { break };
        let name = text.as_bytes().get(from..equals).unwrap_or_default();
        let Some(blank) = memrchr(b' ', name) else {
            from = equals + 1;
            continue;
        };
        let start = from + blank;
        let rest = text.get(start + 1..).unwrap_or_default();
        let Pairs { fields, length, .. } = Pairs::of(rest);
        if !fields.is_empty() && rest.get(length..).unwrap_or_default().trim().is_empty() {
            return (start, fields);
        }
        from = start + 1 + length;
    }
    (text.len(), Vec::new())
}

fn find(text: &str, from: usize, of: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
    text.as_bytes().get(from..).and_then(of).map(|at| from + at)
}

/// Parser of `key=value key="value"`.
#[derive(Default)]
struct Pairs<'l> {
    fields: Vec<(&'l str, Cow<'l, str>)>,
    /// Length of all of them. Beyond the maximum number, all that follows counts as fields.
    length: usize,
    /// Length of the first.
    first: usize,
}

impl<'l> Pairs<'l> {
    fn of(text: &'l str) -> Pairs<'l> {
        let mut it = Pairs::default();
        while let Some((name, value, length)) = text.get(it.length..).and_then(pair) {
            if it.fields.len() == FIELDS {
                it.length = text.len();
                break;
            }
            it.fields.push((name, value));
            it.first = if it.first == 0 { length } else { it.first };
            it.length += length;
            it.length += text.bytes().skip(it.length).take_while(|byte| *byte == b' ').count();
        }
        it
    }
}

/// Whether a text begins with `key=`.
pub(super) fn begins_with_field(text: &str) -> bool {
    pair(text).is_some()
}

fn pair(text: &str) -> Option<(&str, Cow<'_, str>, usize)> {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let end = text.bytes().take_while(is_name).count();
    let name = text.get(..end).filter(|name| !name.is_empty())?;
    let value = text.get(end..)?.strip_prefix('=')?;
    let begin = end + 1;
    if let Some(inside) = value.strip_prefix('"') {
        let (value, length) = quoted(inside);
        return Some((name, value, begin + 1 + length));
    }
    let length = memchr(b' ', value.as_bytes()).unwrap_or(value.len());
    Some((name, Cow::Borrowed(&value[..length]), begin + length))
}

/// Members of a JSON object and of the objects in it: strings, and numbers and the like by their
/// text.
fn json(text: &str) -> Vec<(&str, Cow<'_, str>)> {
    let (mut fields, mut rest) = (Vec::new(), text);
    for _ in 0..TEXTS {
        let Some(quote) = memchr(b'"', rest.as_bytes()).filter(|_| fields.len() < FIELDS) else {
            break;
        };
        let inside = &rest[quote + 1..];
        let (_, length) = quoted(inside);
        let name = inside.get(..length.saturating_sub(1)).unwrap_or_default();
        rest = inside.get(length..).unwrap_or_default().trim_start();
        let Some(value) = rest.strip_prefix(':') else { continue };
        let value = value.trim_start();
        if let Some(inside) = value.strip_prefix('"') {
            let (value, length) = quoted(inside);
            fields.push((name, value));
            rest = inside.get(length..).unwrap_or_default();
        } else if !value.starts_with(['{', '[']) {
            let end = value.find([',', '}', ']']).unwrap_or(value.len());
            fields.push((name, Cow::Borrowed(value[..end].trim_end())));
            rest = &value[end..];
        } else {
            rest = value;
        }
    }
    fields
}

/// A text up to its closing quote, its escapes decoded as written by JSON and Go; and its length
/// including the quote. Without a closing quote, all of it.
fn quoted(text: &str) -> (Cow<'_, str>, usize) {
    let end = memchr2(b'"', b'\\', text.as_bytes()).unwrap_or(text.len());
    if text.as_bytes().get(end) != Some(&b'\\') {
        return (Cow::Borrowed(&text[..end]), (end + 1).min(text.len()));
    }
    let mut decoded = text[..end].to_owned();
    let mut chars = text[end..].char_indices();
    let mut surrogate = None;
    while let Some((at, c)) = chars.next() {
        if c == '"' {
            return (Cow::Owned(decoded), end + at + 1);
        }
        if c != '\\' {
            decoded.push(c);
            continue;
        }
        let Some((at, c)) = chars.next() else { break };
        let digits = match c {
            'u' => 4,
            'U' => 8,
            'x' => 2,
            _ => 0,
        };
        let from = end + at + 1;
        let code = (digits > 0)
            .then(|| text.get(from..from + digits))
            .flatten()
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if let Some(code) = code {
            for _ in 0..digits {
                chars.next();
            }
            match (surrogate.take(), code) {
                (_, 0xd800..=0xdbff) => surrogate = Some(code),
                (Some(high), 0xdc00..=0xdfff) => {
                    let code = 0x1_0000 + ((high - 0xd800) << 10) + (code - 0xdc00);
                    decoded.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                }
                _ => decoded.push(char::from_u32(code).unwrap_or('\u{fffd}')),
            }
            continue;
        }
        decoded.push(match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' | 'f' | 'a' | 'v' => ' ',
            other => other,
        });
    }
    (Cow::Owned(decoded), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_with_its_escapes_and_in_any_order() {
        let text = r#"{"time":"t","level":"ERROR","msg":"a \"b\"","fs":"tank\/\u00e9\ud83d\ude00","n":12, "ok" : true,"g":{"err":"x\ny"}}"#;
        let record = Record::of_json(text).unwrap();
        assert_eq!(record.message, "a \"b\"");
        assert_eq!(record.get("fs"), Some("tank/é😀"));
        assert_eq!((record.get("n"), record.get("ok")), (Some("12"), Some("true")));
        assert_eq!(record.get("err"), Some("x\ny"));
        assert!(Record::of_json("{}").is_none());
        assert!(Record::of_json("msg").is_none());
    }

    #[test]
    fn json_with_a_gap_yields_the_fields_of_both_ends() {
        let text = r#"{"err":"zfs exited … stderr","fs":"tank/a","msg":"cannot create snap"#;
        let record = Record::of_json(text).unwrap();
        assert_eq!((&*record.message, record.get("fs")), ("cannot create snap", Some("tank/a")));
    }

    #[test]
    fn logfmt_slog_and_human_lines_are_read() {
        let record = Record::of_text(r#"job=prod subsystem=repl msg="receive finished" fs=tank/a"#);
        assert_eq!((&*record.message, record.get("fs")), ("receive finished", Some("tank/a")));
        assert_eq!(record.get("subsystem"), Some("repl"));

        let text = r#"cannot do x= y filesystem="tank/my \"data\"" err="a\nb""#;
        let record = Record::of_text(text);
        assert_eq!(record.message, "cannot do x= y");
        assert_eq!(record.get("filesystem"), Some("tank/my \"data\""));
        assert_eq!(record.get("err"), Some("a\nb"));

        let record = Record::of_text("receive failed (might be x) job=j err=*fmt.wrapError");
        assert_eq!(record.message, "receive failed (might be x)");
        assert_eq!(record.get("err"), Some("*fmt.wrapError"));
    }

    #[test]
    fn a_message_without_fields_stays_whole() {
        for text in ["", "a b=c d", "[", "[]", "no fields here", "a=", "\""] {
            let record = Record::of_text(text);
            assert!(text.ends_with(&*record.message), "{text:?}: {record:?}");
        }
        let record = Record::of_text(r#"x err="cut of"#);
        assert_eq!((&*record.message, record.get("err")), ("x", Some("cut of")));
    }

    #[test]
    fn fields_beyond_the_limit_are_not_read() {
        let many = "a=b ".repeat(1000) + "msg=x";
        let record = Record::of_text(&many);
        assert_eq!((&*record.message, record.fields.len()), ("a=b", FIELDS - 1));
        let many = format!("{{{}\"msg\":\"x\"}}", "\"a\":[],".repeat(TEXTS));
        assert!(Record::of_json(&many).is_none());
        let vain = "x a=b ".repeat(FIELDS) + "y a=b";
        assert_eq!(Record::of_text(&vain).message, vain);
    }

    #[test]
    fn arbitrary_line_causes_no_panic() {
        let pieces = ["{", "}", "\"", "\\", "u00", "=", " a=", "[", "]: ", "é", ":", "\\ud800"];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    for d in pieces {
                        let text = format!("{a}{b}{c}{d}");
                        Record::of_json(&text);
                        Record::of_text(&text);
                    }
                }
            }
        }
    }
}
