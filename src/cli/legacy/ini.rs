//! Parser of QSettings' INI files, as far as the Qt sysadm wrote them: sections, keys whose parts
//! are separated by `\` and whose other characters are `%XX` or `%UXXXX`, values with the escapes
//! of C.

/// One value with its full key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Line number, starting at 1.
    pub(super) line: usize,
    /// `SECTION/PART/PART`.
    pub(super) key: String,
    /// Unescaped; the raw text of a value that is not a string.
    pub(super) value: String,
}

/// All entries, in order. An invalid line is an entry without a value.
pub(super) fn entries(bytes: &[u8]) -> Vec<Entry> {
    let mut section = String::new();
    let mut entries = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        match line {
            [] | [b';', ..] => {}
            [b'[', name @ .., b']'] => {
                section = match name {
                    b"General" => String::new(),
                    b"%General" => "General/".to_owned(),
                    name => decode_key(name) + "/",
                };
            }
            line => {
                let sign = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
                let (key, value) = line.split_at(sign);
                entries.push(Entry {
                    line: at + 1,
                    key: section.clone() + &decode_key(key.trim_ascii()),
                    value: decode_value(value.get(1..).unwrap_or_default().trim_ascii()),
                });
            }
        }
    }
    entries
}

/// Parses up to `most` hexadecimal digits from the front; `None` where there is none.
fn hexadecimal(rest: &mut &[u8], most: usize) -> Option<u32> {
    let digits = rest.iter().take(most).take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (text, behind) = rest.split_at(digits);
    let number = u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()?;
    *rest = behind;
    Some(number)
}

fn decode_key(mut rest: &[u8]) -> String {
    let mut key = String::new();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        key.push(match byte {
            b'\\' => '/',
            b'%' => {
                let mut code = rest;
                let digits = if let Some((b'U', wide)) = rest.split_first() {
                    code = wide;
                    4
                } else {
                    2
                };
                match hexadecimal(&mut code, digits).and_then(char::from_u32) {
                    Some(decoded) => {
                        rest = code;
                        decoded
                    }
                    None => '%',
                }
            }
            byte => char::from(byte),
        });
    }
    key
}

fn decode_value(mut rest: &[u8]) -> String {
    let mut value = String::new();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'"' => {}
            b'\\' => {
                let Some((&escaped, behind)) = rest.split_first() else { break };
                rest = behind;
                let plain = match escaped {
                    b'a' => '\x07',
                    b'b' => '\x08',
                    b'f' => '\x0c',
                    b'n' => '\n',
                    b'r' => '\r',
                    b't' => '\t',
                    b'v' => '\x0b',
                    b'0' => '\0',
                    // As many digits as there are: the writer escapes a following digit.
                    b'x' => hexadecimal(&mut rest, 6)
                        .and_then(char::from_u32)
                        .unwrap_or(char::REPLACEMENT_CHARACTER),
                    other => char::from(other),
                };
                value.push(plain);
            }
            byte => value.push(char::from(byte)),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<(usize, String, String)> {
        entries(text.as_bytes()).into_iter().map(|it| (it.line, it.key, it.value)).collect()
    }

    #[test]
    fn keys_have_their_section_in_front_and_parts_between_slashes() {
        let text = "a=1\n\n[General]\nb = 2 \n[x%20y]\n;c=3\nd\\e\\%FC%U20AC%=4\n[%General]\nf=";
        let expected =
            [(1, "a", "1"), (4, "b", "2"), (7, "x y/d/e/ü€%", "4"), (9, "General/f", "")];
        assert_eq!(all(text), expected.map(|(l, k, v)| (l, k.to_owned(), v.to_owned())));
    }

    #[test]
    fn values_lose_their_quotes_and_escapes() {
        for (written, read) in [
            (r#""a \"b\" c; d, e""#, "a \"b\" c; d, e"),
            (r"a\nb\tc\\d", "a\nb\tc\\d"),
            (r"J\xfcrgen", "Jürgen"),
            (r"\x20ac\x35", "€5"),
            (r"\xg", "\u{fffd}g"),
            ("end\\", "end"),
        ] {
            assert_eq!(all(&format!("k={written}"))[0].2, read, "{written}");
        }
    }

    #[test]
    fn a_line_without_a_sign_has_no_value() {
        assert_eq!(all("[s]\nhello"), [(2, "s/hello".to_owned(), String::new())]);
    }
}
