//! Columns that a text takes on a terminal: wide characters take two, combining ones none.

use unicode_width::UnicodeWidthChar;

fn of_char(c: char) -> usize {
    match c {
        // Makes a wide picture of the character before it, where the terminal can.
        '\u{fe0f}' => 1,
        c => c.width().unwrap_or(0),
    }
}

/// Columns of a text whose only control characters are colours.
pub(super) fn columns(text: &str) -> usize {
    let mut in_colour = false;
    let of = |c| match (c, in_colour) {
        ('\u{1b}', _) => {
            in_colour = true;
            0
        }
        (c, true) => {
            in_colour = c != 'm';
            0
        }
        (c, false) => of_char(c),
    };
    text.chars().map(of).sum()
}

/// The text in at most `room` columns: where it takes more, as much of it as goes before
/// `ellipsis`. Colours that were begun are ended.
pub(super) fn cut(text: &str, room: usize, ellipsis: &str) -> String {
    // No character has more columns than bytes.
    if text.len() <= room || columns(text) <= room {
        return text.to_owned();
    }
    let room = room.saturating_sub(columns(ellipsis));
    let (mut used, mut end, mut in_colour) = (0, 0, false);
    for (at, c) in text.char_indices() {
        if c == '\u{1b}' || in_colour {
            in_colour = c != 'm';
        } else {
            used += of_char(c);
            if used > room {
                break;
            }
        }
        end = at + c.len_utf8();
    }
    let start = text.get(..end).unwrap_or_default();
    let reset = if start.contains('\u{1b}') { "\u{1b}[0m" } else { "" };
    format!("{start}{ellipsis}{reset}")
}

/// The text with blanks behind it, so that it takes `width` columns.
pub(super) fn pad(text: &str, width: usize) -> String {
    let blanks = width.saturating_sub(columns(text));
    format!("{text}{:blanks$}", "")
}

/// The text with blanks in place of tabs, to every eighth column.
pub(super) fn expand_tabs(text: &str) -> String {
    let mut expanded = String::new();
    for (number, part) in text.split('\t').enumerate() {
        if number > 0 {
            let width = (columns(&expanded) / 8 + 1) * 8;
            expanded = pad(&expanded, width);
        }
        expanded.push_str(part);
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_columns_and_combining_ones_none() {
        for (text, expected) in [
            ("", 0),
            ("abc", 3),
            ("│▶…", 3),
            ("東京", 4),
            ("e\u{301}", 1),
            ("😀", 2),
            ("\u{1b}[1;31mred\u{1b}[0m", 3),
            ("\u{200b}", 0),
        ] {
            assert_eq!(columns(text), expected, "{text:?}");
        }
    }

    #[test]
    fn cut_text_fits_and_ends_its_colours() {
        assert_eq!(cut("abcdef", 6, "…"), "abcdef");
        assert_eq!(cut("abcdef", 5, "…"), "abcd…");
        assert_eq!(cut("abcdef", 5, "..."), "ab...");
        assert_eq!(cut("東京都", 5, "…"), "東京…");
        assert_eq!(cut("東京都", 4, "…"), "東…");
        assert_eq!(cut("e\u{301}e\u{301}e\u{301}", 2, "…"), "e\u{301}…");
        assert_eq!(cut("\u{1b}[31mabc\u{1b}[0mdef", 3, "…"), "\u{1b}[31mab…\u{1b}[0m");
        assert_eq!(cut("\u{1b}[31mabc\u{1b}[0m", 3, "…"), "\u{1b}[31mabc\u{1b}[0m");
        assert_eq!(cut("abc", 0, "…"), "…");
        for room in 1..20 {
            let text = cut("a東e\u{301}😀\u{1b}[2m東b\u{1b}[0m東", room, "…");
            assert!(columns(&text) <= room, "{text:?} in {room}");
        }
    }

    #[test]
    fn padding_and_tabs_count_columns() {
        assert_eq!(pad("東", 4), "東  ");
        assert_eq!(pad("abc", 2), "abc");
        assert_eq!(expand_tabs("a\tb\t\tc"), "a       b               c");
        assert_eq!(expand_tabs("東\tb"), "東      b");
    }
}
