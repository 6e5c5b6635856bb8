//! A checksum at the end of a JSON line, which detects changes by a crash, a bad disk or an editor.
//!
//! The checksum is the last member of the object, `"sum"`, and covers all bytes before it.

use ring::digest;

const SUM: &str = ",\"sum\":\"";
/// Sixteen digits of SHA-256 suffice and keep the lines short.
const DIGITS: usize = 16;

/// Appends the checksum as the last member, and a line end. The object must not be empty.
pub fn seal(object: &str) -> String {
    let open = object.strip_suffix('}').unwrap_or(object);
    format!("{open}{SUM}{}\"}}\n", checksum(open))
}

/// The object of a line without its checksum; `None` where the checksum is missing or wrong.
pub fn unseal(line: &str) -> Option<String> {
    let (open, rest) = line.rsplit_once(SUM)?;
    (rest.strip_suffix("\"}")? == checksum(open)).then(|| format!("{open}}}"))
}

/// Whether a line has a complete checksum, right or wrong.
pub fn has_checksum(line: &str) -> bool {
    line.rsplit_once(SUM).is_some_and(|(_, rest)| rest.len() >= DIGITS + 2)
}

fn checksum(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_line_with_any_byte_changed_is_not_unsealed() {
        let object = r#"{"a":1,"b":",\"sum\":\""}"#;
        let line = seal(object);
        let line = line.strip_suffix('\n').unwrap();
        assert_eq!(unseal(line).as_deref(), Some(object));
        assert!(has_checksum(line) && !has_checksum(object));
        assert_eq!(unseal(object), None);
        for at in 0..line.len() {
            let mut bytes = line.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert_eq!(unseal(std::str::from_utf8(&bytes).unwrap()), None, "{at}");
        }
    }
}
