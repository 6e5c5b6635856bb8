//! Names from peers in messages to people.

use std::fmt;

/// Maximum number of characters shown of a name: the name may be a whole message, and the message
/// about it must cost neither time nor memory.
const LONGEST: usize = 128;

/// Displays a name in quotation marks and escaped, as [`Debug`](fmt::Debug) does; of a long one only
/// the beginning, followed by an ellipsis.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(LONGEST).and_then(|(at, _)| self.0.get(..at)) {
            None => write!(f, "{:?}", self.0),
            Some(beginning) => write!(f, "{beginning:?}…"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_name_is_cut_at_a_character() {
        assert_eq!(Quoted("a\"b").to_string(), r#""a\"b""#);
        assert_eq!(Quoted(&"é".repeat(LONGEST)).to_string().chars().count(), LONGEST + 2);
        let long = Quoted(&"é".repeat(LONGEST + 1)).to_string();
        assert_eq!(long, format!("\"{}\"…", "é".repeat(LONGEST)));
    }
}
