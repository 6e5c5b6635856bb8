//! Hexadecimal digits.

use std::fmt::Write;

/// Lower-case hexadecimal digits of bytes.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// Decodes exactly `2 * N` hexadecimal digits of any case.
pub fn from_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let mut bytes = [0; N];
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_encoded_and_decoded_are_the_same_bytes() {
        let bytes = [0, 1, 0x9a, 0xff];
        assert_eq!(to_hex(&bytes), "00019aff");
        assert_eq!(from_hex("00019aFF"), Some(bytes));
        for wrong in ["", "00019af", "00019aff0", "00019aff00", "00019afg", "+0019aff"] {
            assert_eq!(from_hex::<4>(wrong), None, "{wrong}");
        }
    }
}
