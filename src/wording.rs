//! Wording of messages to people.

use std::borrow::Cow;
use std::fmt;

/// Text that [`std::io::Error`] appends to the message of the system.
const ERRNO: &str = " (os error ";

/// `text` without the numbers that [`std::io::Error`] appends, such as ` (os error 2)`: the words
/// before them say the same.
pub fn without_errno(text: &str) -> Cow<'_, str> {
    let mut rest = text;
    let mut shown = String::new();
    while let Some((before, after)) = rest.split_once(ERRNO) {
        let behind = after.trim_start_matches(|c: char| c.is_ascii_digit());
        match behind.strip_prefix(')').filter(|_| behind.len() < after.len()) {
            Some(behind) => {
                shown.push_str(before);
                rest = behind;
            }
            None => {
                shown.extend([before, ERRNO]);
                rest = after;
            }
        }
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// `number` with its noun: `1 key`, `2 keys`. `noun` is in the singular, and its plural ends in `s`.
pub fn counted(number: impl fmt::Display, noun: &str) -> String {
    let number = number.to_string();
    let plural = if number == "1" { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_of_each_error_is_removed_and_other_text_stays() {
        let gone = std::io::Error::from_raw_os_error(2).to_string();
        assert_eq!(without_errno(&format!("a: {gone}; b: {gone}")).matches("os error").count(), 0);
        assert_eq!(without_errno("/x: Gone (os error 2)\n  y"), "/x: Gone\n  y");
        for other in ["", "all well", " (os error ", " (os error )", " (os error 2", "(os error 2)"]
        {
            assert_eq!(without_errno(other), other);
        }
        assert_eq!(without_errno(" (os error x) (os error 12)é"), " (os error x)é");
    }

    #[test]
    fn count_of_one_has_a_singular_noun() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "key")), ["0 keys", "1 key", "2 keys"]);
        assert_eq!(counted("1,001", "line"), "1,001 lines");
    }
}
