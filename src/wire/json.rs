//! Fields of JSON values, and the length of a text in JSON.
//!
//! An event has a limit in encoded bytes, and a log of control characters grows sixfold when
//! encoded; so cuts are made by the encoded length, without encoding first.

use serde_json::Value;

/// Fields of a JSON object, by functions that cannot panic.
pub trait JsonFields {
    /// The field of that name; null where there is none, and where this is no object.
    fn field(&self, name: &str) -> &Value;

    /// Sets a field; does nothing where this is no object.
    fn set_field(&mut self, name: &str, value: impl Into<Value>);
}

impl JsonFields for Value {
    fn field(&self, name: &str) -> &Value {
        self.get(name).unwrap_or(&Value::Null)
    }

    fn set_field(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(fields) = self.as_object_mut() {
            fields.insert(name.to_owned(), value.into());
        }
    }
}

/// Bytes of `c` in a JSON string written by `serde_json`.
pub(super) fn encoded_char_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if (c as u32) < 0x20 => 6,
        c => c.len_utf8(),
    }
}

/// Bytes of `text` in a JSON string, without its quotes.
pub fn encoded_len(text: &str) -> usize {
    // Bytes above 0x7f are written unchanged, so bytes can be counted instead of characters.
    text.bytes()
        .map(|b| match b {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 0xc => 2,
            b if b < 0x20 => 6,
            _ => 1,
        })
        .sum()
}

/// Numbers of values in the lists and objects of a JSON text, and of fields in its objects: the cost
/// of parsing depends on these more than on the length. Cheap, and right for valid JSON only; an
/// empty list counts as a value.
pub(super) fn count_values(text: &str) -> (usize, usize) {
    let (mut values, mut fields, mut in_string, mut escaped) = (0, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            b':' if !in_string => fields += 1,
            _ => {}
        }
    }
    (values, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings_only() {
        let list = r#"{"a": ["b,,,,\",,[[{{", 2, {"c": "\\"}, [3, 4]]}"#;
        assert_eq!(count_values(list), (8, 2));
    }

    #[test]
    fn encoded_length_equals_that_of_serde_json() {
        for c in (0..0x500u32).filter_map(char::from_u32).chain(['…', '\u{2028}', '😀', '\u{7f}'])
        {
            let text = c.to_string();
            let written = serde_json::to_string(&text).unwrap().len() - 2;
            assert_eq!(encoded_len(&text), written, "{c:?}");
            assert_eq!(encoded_char_len(c), written, "{c:?}");
        }
    }
}
