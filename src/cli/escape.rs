//! Escapes foreign text before it reaches a terminal.
//!
//! Job output, names and messages are chosen by any user who can start a job or name a dataset. A
//! terminal interprets its input: escape sequences move the cursor, overwrite earlier text, set
//! titles or paste; bidirectional marks make a line read as another. So no foreign text is printed
//! unchanged.

/// Escapes a text of several lines, such as a job's output: line ends and tabs stay, a carriage
/// return becomes a line end (overwritten text stays visible), well-formed escape sequences
/// (colours) are dropped, and every other control character is spelled out.
pub(super) fn text(text: &str, unicode: bool) -> String {
    let mut harmless = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if matches!(c, '\u{1b}' | '\u{9b}')
            && let Some(length) = sequence(rest)
        {
            rest = &rest[length..];
            continue;
        }
        let behind = &rest[c.len_utf8()..];
        rest = match c {
            '\n' | '\t' => {
                harmless.push(c);
                behind
            }
            '\r' => {
                harmless.push('\n');
                behind.strip_prefix('\n').unwrap_or(behind)
            }
            _ => {
                push(&mut harmless, c, unicode);
                behind
            }
        };
    }
    harmless
}

/// Escapes a text of one line, such as a name: line ends and tabs are spelled out too, and nothing
/// is dropped.
pub(super) fn line(text: &str, unicode: bool) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => harmless.push_str("\\n"),
            '\t' => harmless.push_str("\\t"),
            '\r' => harmless.push_str("\\r"),
            c => push(&mut harmless, c, unicode),
        }
    }
    harmless
}

/// JSON with an escape for each character that a terminal interprets or hides: the same value.
/// Without `unicode`, for each that is not ASCII.
pub(super) fn json(text: &str, unicode: bool) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Between two tokens, where JSON allows it.
            '\r' => harmless.push(' '),
            '\n' | '\t' => harmless.push(c),
            c if c.is_control() || is_hidden(c) || (!unicode && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    harmless.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => harmless.push(c),
        }
    }
    harmless
}

/// Invisible characters: format characters (general category Cf of Unicode, including bidirectional
/// marks), separators of lines, fillers, variation selectors and tags.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A terminal without UTF-8 takes the second byte of a letter for a C1 control.
fn push(harmless: &mut String, c: char, unicode: bool) {
    match c {
        '\0'..='\u{1f}' | '\u{7f}' => {
            harmless.push('^');
            harmless.push(char::from(c as u8 ^ 0x40));
        }
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => harmless.push_str(&format!("<U+{:04X}>", c as u32)),
        c if !unicode && !c.is_ascii() => harmless.push_str(&format!("<U+{:04X}>", c as u32)),
        c => harmless.push(c),
    }
}

/// Maximum length of a sequence that is dropped, in bytes; a longer one is shown.
const SEQUENCE: usize = 1024;

/// Length of the complete escape sequence (ECMA-48) at the beginning of `text`.
fn sequence(text: &str) -> Option<usize> {
    let text = text.as_bytes();
    let text = text.get(..SEQUENCE).unwrap_or(text);
    // U+009B as UTF-8 is CSI in one character.
    if text.starts_with(&[0xc2, 0x9b]) {
        return control_sequence(text, 2);
    }
    match text.get(1)? {
        b'[' => control_sequence(text, 2),
        b']' | b'P' | b'X' | b'^' | b'_' => control_string(text, 2),
        _ => {
            let end = 1 + text.get(1..)?.iter().position(|byte| !(0x20..=0x2f).contains(byte))?;
            (0x30..=0x7e).contains(text.get(end)?).then_some(end + 1)
        }
    }
}

/// Parameters, intermediates and one final byte.
fn control_sequence(text: &[u8], from: usize) -> Option<usize> {
    let end = from + text.get(from..)?.iter().position(|byte| !(0x20..=0x3f).contains(byte))?;
    (0x40..=0x7e).contains(text.get(end)?).then_some(end + 1)
}

/// Any text up to a string terminator, or BEL by convention. Not beyond a line end: an unterminated
/// string must not hide later text.
fn control_string(text: &[u8], from: usize) -> Option<usize> {
    for (at, byte) in text.iter().enumerate().skip(from) {
        match (byte, text.get(at + 1)) {
            (7, _) => return Some(at + 1),
            (0x1b, Some(b'\\')) | (0xc2, Some(0x9c)) => return Some(at + 2),
            (b'\n' | 0x1b, _) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_unchanged() {
        let plain = "a\tb\nZürich … 東京 😀\n";
        assert_eq!(text(plain, true), plain);
        assert_eq!(line("sh -c \"ü\"", true), "sh -c \"ü\"");
    }

    #[test]
    fn colours_titles_and_other_sequences_are_dropped() {
        assert_eq!(text("\x1b[1;31mred\x1b[0m \x1b(Bx\x1b[?25l", true), "red x");
        assert_eq!(text("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1bPq\u{9c}c", true), "abc");
        assert_eq!(text("\u{9b}2Ja", true), "a");
        assert_eq!(text("\x1b7\x1bcx", true), "x");
    }

    #[test]
    fn incomplete_sequence_is_shown() {
        assert_eq!(text("\x1b", true), "^[");
        assert_eq!(text("\x1b[31", true), "^[[31");
        assert_eq!(text("\x1b]0;hides\nthe rest\x07", true), "^[]0;hides\nthe rest^G");
        assert_eq!(text("\x1b[3\x1b[mx", true), "^[[3x");
        let long = format!("\x1b]0;{}\x07", "x".repeat(2 * SEQUENCE));
        assert!(text(&long, true).starts_with("^[]0;xx"));
    }

    #[test]
    fn controls_are_written_in_words() {
        assert_eq!(text("\0\x07\x08\x7f\u{85}", true), "^@^G^H^?<U+0085>");
        assert_eq!(text("a\u{202e}b\u{2066}c\u{2028}", true), "a<U+202E>b<U+2066>c<U+2028>");
    }

    #[test]
    fn json_for_a_terminal_has_the_same_value_and_nothing_hidden() {
        use serde_json::{Value, json};
        let hidden = ('\u{7f}'..='\u{9f}')
            .chain('\u{200b}'..='\u{200f}')
            .chain('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}')
            .chain("\0\u{1b}\u{61c}\u{ad}\u{2028}\u{feff}\u{180e}\u{e0041}\u{1d173}".chars());
        for c in hidden {
            let value = json!({ format!("a{c}"): [format!("Zürich 😀 {c}\\\"")] });
            for encoded in [value.to_string(), format!("{value:#}")] {
                let shown = json(&encoded, true);
                assert!(!shown.contains(c), "{c:?} in {shown}");
                assert!(shown.contains("Zürich 😀"), "{shown}");
                assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
                let ascii = json(&encoded, false);
                assert!(
                    ascii.is_ascii() && serde_json::from_str::<Value>(&ascii).unwrap() == value
                );
            }
        }
        assert_eq!(json("{\r}\n", true), "{ }\n");
    }

    #[test]
    fn a_carriage_return_hides_nothing() {
        assert_eq!(text("10%\r20%\r\ndone\r", true), "10%\n20%\ndone\n");
    }

    #[test]
    fn a_name_stays_on_its_line_and_shows_all_of_itself() {
        assert_eq!(line("a\nb\r\tc\x1b[2J", true), "a\\nb\\r\\tc^[[2J");
    }

    #[test]
    fn where_utf8_is_not_read_only_ascii_is_written() {
        assert_eq!(text("ü\u{9b}", false), "<U+00FC><U+009B>");
        assert!(text("Ûber\n…", false).is_ascii());
    }

    /// Arbitrary input yields only line ends, tabs and printable characters.
    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let pieces = [
            "\x1b", "[", "]", "0;", "m", "\x07", "\\", "\u{9b}", "\u{9c}", "\r", "\n", "P", "x",
            "ü",
        ];
        let mut seed = 1_u32;
        for _ in 0..20_000 {
            let mut foreign = String::new();
            for _ in 0..8 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                foreign.push_str(pieces[(seed >> 16) as usize % pieces.len()]);
            }
            let shown = text(&foreign, true);
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{foreign:?} {shown:?}");
            assert!(!line(&foreign, true).chars().any(char::is_control), "{foreign:?}");
        }
    }
}
