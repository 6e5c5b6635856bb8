//! The subset of DER that keys need: tags, lengths and integers.
//!
//! Five forms of a key are parsed (see `pem.rs`) and three are written, each a few nested
//! sequences; a crate for them all would be larger than this module.

use zeroize::Zeroizing;

use super::KeyError;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[0]` of a certificate: its version.
pub(super) const CONTEXT_0: u8 = 0xa0;

/// An `AlgorithmIdentifier` of rsaEncryption (RFC 8017 A.1), its NULL included.
pub(super) const RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// An `AlgorithmIdentifier` of id-Ed25519 (RFC 8410 section 3).
pub(super) const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// Unparsed bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next value, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        self.split(tag).map(|(_, content)| content)
    }

    /// The next value including its tag and length.
    pub(super) fn take_whole(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        self.split(tag).map(|(whole, _)| whole)
    }

    /// The same for an optional value.
    pub(super) fn skip_if(&mut self, tag: u8) -> Result<(), KeyError> {
        if self.0.first() == Some(&tag) { self.take(tag).map(drop) } else { Ok(()) }
    }

    /// An unsigned integer, big-endian, without leading zeros.
    pub(super) fn unsigned(&mut self) -> Result<&'a [u8], KeyError> {
        let content = self.take(INTEGER)?;
        if content.first().is_none_or(|first| first & 0x80 != 0) {
            return Err(KeyError::Damaged);
        }
        let zeros = content.iter().take_while(|byte| **byte == 0).count();
        Ok(content.get(zeros..).unwrap_or_default())
    }

    fn split(&mut self, tag: u8) -> Result<(&'a [u8], &'a [u8]), KeyError> {
        let (found, rest) = self.0.split_first().ok_or(KeyError::Damaged)?;
        let (first, rest) = rest.split_first().ok_or(KeyError::Damaged)?;
        let (length, rest) = match *first {
            short @ ..=0x7f => (usize::from(short), rest),
            long @ 0x81..=0x83 => {
                let bytes = usize::from(long & 0x7f);
                let (length, rest) = rest.split_at_checked(bytes).ok_or(KeyError::Damaged)?;
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return Err(KeyError::Damaged),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(KeyError::Damaged)?;
        if *found != tag {
            return Err(KeyError::Damaged);
        }
        let whole = self.0.get(..self.0.len() - rest.len()).unwrap_or_default();
        self.0 = rest;
        Ok((whole, content))
    }
}

/// A value of this tag that contains `parts`. It may be a secret.
pub(super) fn wrap(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    // One allocation: growing would leave a copy of a secret behind.
    let mut whole = Zeroizing::new(Vec::with_capacity(length + 5));
    whole.push(tag);
    let [.., c, b, a] = length.to_be_bytes();
    match length {
        ..0x80 => whole.push(a),
        0x80..0x100 => whole.extend([0x81, a]),
        0x100..0x1_0000 => whole.extend([0x82, b, a]),
        _ => whole.extend([0x83, c, b, a]),
    }
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole
}

/// An unsigned integer of these bytes, big-endian. It may be a secret.
pub(super) fn unsigned(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = bytes.get(zeros..).unwrap_or_default();
    let is_signed_or_empty = bytes.first().is_none_or(|first| first & 0x80 != 0);
    let sign: &[u8] = if is_signed_or_empty { &[0] } else { &[] };
    wrap(INTEGER, &[sign, bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_encoded_values_decode_to_themselves() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; length];
            let whole = wrap(OCTET_STRING, &[&content]);
            let mut reader = Reader(&whole);
            assert_eq!(reader.take(OCTET_STRING).unwrap(), content, "{length}");
            assert!(reader.0.is_empty());
        }
        for number in [&[0][..], &[1], &[0x7f], &[0x80], &[0, 0xff, 0]] {
            let whole = unsigned(number);
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            assert_eq!(Reader(&whole).unsigned().unwrap(), &number[zeros..]);
        }
    }

    #[test]
    fn der_truncated_or_of_other_type_is_rejected() {
        let whole = wrap(SEQUENCE, &[&[1; 300]]);
        for cut in 0..whole.len() {
            assert!(Reader(&whole[..cut]).take(SEQUENCE).is_err(), "{cut}");
        }
        assert!(Reader(&whole).take(INTEGER).is_err());
        assert!(Reader(&[SEQUENCE, 0x80, 0, 0]).take(SEQUENCE).is_err(), "no indefinite length");
        assert!(Reader(&[SEQUENCE, 0xff, 0, 0]).take(SEQUENCE).is_err());
        assert!(Reader(&[INTEGER, 1, 0x80]).unsigned().is_err(), "negative");
    }
}
