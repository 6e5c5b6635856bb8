//! Numbers in text, for the protocol and the configuration.

use std::str::FromStr;

/// Parses a number that consists of ASCII digits only. `None` for a sign, which Rust's own `parse`
/// accepts, for a blank, and for a number that `T` cannot hold. Leading zeros are ignored.
pub fn decimal<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_takes_ascii_digits_alone() {
        assert_eq!(decimal("0"), Some(0_u32));
        assert_eq!(decimal("007"), Some(7_u16));
        assert_eq!(decimal("4294967295"), Some(u32::MAX));
        for bad in ["", "+0", "-0", "-1", " 1", "1 ", "1_0", "0x1", "1.0", "\u{663}", "4294967296"]
        {
            assert_eq!(decimal::<u32>(bad), None, "{bad:?}");
        }
    }
}
