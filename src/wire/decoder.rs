//! Streaming conversion of bytes to text.
//!
//! JSON carries text. Output of programs is mostly UTF-8, and a read may end in the middle of a
//! character: its first bytes are buffered until the rest arrives. Invalid UTF-8 becomes U+FFFD.

/// State of a stream.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// An incomplete character, at most three bytes.
    begun: Vec<u8>,
}

impl Decoder {
    /// The text of `bytes`, without an incomplete character at the end.
    pub fn decode(&mut self, bytes: &[u8]) -> String {
        let joined;
        let bytes = if self.begun.is_empty() {
            bytes
        } else {
            self.begun.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.begun);
            &joined
        };
        let whole = bytes.len() - begun_character(bytes);
        let (whole, begun) = bytes.split_at_checked(whole).unwrap_or((bytes, &[][..]));
        self.begun = begun.to_vec();
        String::from_utf8_lossy(whole).into_owned()
    }

    /// Ends the stream: an incomplete character is replaced.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.begun)).into_owned()
    }
}

/// Number of bytes at the end that begin a character and could still be completed.
fn begun_character(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let end = bytes.get(bytes.len() - back..).unwrap_or_default();
        if end.first().is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) {
            continue; // in the middle of one
        }
        return match std::str::from_utf8(end) {
            // `error_len` is `None` exactly where more bytes could complete it.
            Err(error) if error.error_len().is_none() => back,
            Ok(_) | Err(_) => 0,
        };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn character_split_anywhere_stays_whole() {
        let text = "aä€😀\0z";
        let bytes = text.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut decoder = Decoder::default();
                let mut got = decoder.decode(&bytes[..first]);
                got += &decoder.decode(&bytes[first..second]);
                got += &decoder.decode(&bytes[second..]);
                assert_eq!(got, text, "cut at {first} and {second}");
                assert_eq!(decoder.finish(), "");
            }
        }
    }

    #[test]
    fn invalid_utf8_is_replaced_the_same_for_any_chunks() {
        let bytes = b"a\xffb\xc3(\xe2\x82x\xf0\x9f\x98\xc3";
        let expected = String::from_utf8_lossy(bytes);
        for size in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut got: String = bytes.chunks(size).map(|chunk| decoder.decode(chunk)).collect();
            got += &decoder.finish();
            assert_eq!(got, expected, "reads of {size}");
        }
    }
}
