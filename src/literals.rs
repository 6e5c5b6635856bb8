//! Literals that a regular expression requires, in order.
//!
//! A search for a literal runs at memory speed, a regular expression at about a megabyte a second.
//! A line that lacks one of the literals, or has them in another order, cannot match, and is
//! rejected without the expression. Only the concatenation at the top of an expression, and groups
//! in it without alternatives, are read; the result is empty, which rejects nothing, where the
//! expression has syntax that this module does not read.

/// Returns literals that every match of `pattern` contains one after the other, without overlap.
/// Empty where none is known.
pub fn required(pattern: &str) -> Vec<String> {
    // Flags change the meaning of literals; with `|` outside of groups no literal is required.
    let mut reader = Reader { rest: pattern, found: Vec::new(), literal: String::new() };
    match reader.sequence(0) {
        Some(()) if reader.rest.is_empty() => {
            reader.end_literal();
            reader.found
        }
        Some(()) | None => Vec::new(),
    }
}

/// Whether `line` contains `literals` in order.
pub fn contains_in_order(line: &str, literals: &[String]) -> bool {
    let mut rest = line;
    literals.iter().all(|literal| match rest.find(literal.as_str()) {
        Some(at) => {
            rest = rest.get(at + literal.len()..).unwrap_or_default();
            true
        }
        None => false,
    })
}

/// Maximum depth of groups; a deeper expression is not read.
const DEPTH: usize = 16;

struct Reader<'p> {
    rest: &'p str,
    found: Vec<String>,
    literal: String,
}

impl Reader<'_> {
    /// Reads up to the end of the group or of the expression. `None` where it cannot be read.
    fn sequence(&mut self, depth: usize) -> Option<()> {
        while let Some(c) = self.rest.chars().next() {
            match c {
                ')' if depth > 0 => return Some(()),
                ')' | '|' => return None,
                '(' => self.group(depth)?,
                '[' => self.class()?,
                _ => self.atom(c)?,
            }
        }
        (depth == 0).then_some(())
    }

    fn atom(&mut self, c: char) -> Option<()> {
        self.skip(c.len_utf8());
        let literal = match c {
            '.' => None,
            // Assertions match no text: the text on both sides of one is still contiguous, but a
            // repetition of one is not worth reading.
            '^' | '$' => {
                self.end_literal();
                return Some(());
            }
            '*' | '+' | '?' | '{' => return None,
            '\\' => {
                let escaped = self.rest.chars().next()?;
                self.skip(escaped.len_utf8());
                match escaped {
                    'd' | 'D' | 's' | 'S' | 'w' | 'W' => None,
                    _ if escaped.is_ascii_punctuation() => Some(escaped),
                    _ => return None,
                }
            }
            _ => Some(c),
        };
        let (least, is_repeated) = self.repetition()?;
        match literal {
            Some(literal) if least > 0 => {
                self.literal.push(literal);
                if is_repeated {
                    self.end_literal();
                }
            }
            Some(_) | None => self.end_literal(),
        }
        Some(())
    }

    /// A group contributes its literals where it takes part in every match.
    fn group(&mut self, depth: usize) -> Option<()> {
        if depth == DEPTH {
            return None;
        }
        self.end_literal();
        self.skip(1);
        if let Some(behind) = self.rest.strip_prefix('?') {
            let name = behind.strip_prefix("P<").or_else(|| behind.strip_prefix('<'));
            self.rest = match name {
                Some(name) => name.split_once('>')?.1,
                None => behind.strip_prefix(':')?,
            };
        }
        let (before, start) = (self.found.len(), self.rest);
        if self.sequence(depth + 1).is_none() {
            // Alternatives, perhaps: none of the group's literals is required.
            self.found.truncate(before);
            self.literal.clear();
            self.rest = start;
            self.skip_group()?;
        }
        self.end_literal();
        self.skip(1);
        if self.repetition()?.0 == 0 {
            self.found.truncate(before);
        }
        Some(())
    }

    /// Passes over a group's contents, up to its end.
    fn skip_group(&mut self) -> Option<()> {
        let mut open = 0_usize;
        while let Some(c) = self.rest.chars().next() {
            match c {
                ')' if open == 0 => return Some(()),
                ')' => open -= 1,
                '(' => open += 1,
                '[' => {
                    self.class_brackets()?;
                    continue;
                }
                '\\' => self.skip(1),
                _ => {}
            }
            let length = self.rest.chars().next()?.len_utf8();
            self.skip(length);
        }
        None
    }

    fn class(&mut self) -> Option<()> {
        self.end_literal();
        self.class_brackets()?;
        self.repetition().map(drop)
    }

    /// Passes over `[…]`. A class inside a class is not read.
    fn class_brackets(&mut self) -> Option<()> {
        let inner = self.rest.strip_prefix('[')?;
        let inner = inner.strip_prefix('^').unwrap_or(inner);
        let mut chars = inner.char_indices();
        let mut is_first = true;
        while let Some((at, c)) = chars.next() {
            match c {
                ']' if !is_first => {
                    self.rest = inner.get(at + 1..)?;
                    return Some(());
                }
                '[' => return None,
                '\\' => drop(chars.next()?),
                _ => {}
            }
            is_first = false;
        }
        None
    }

    /// Reads the repetition after an atom: the minimum number of occurrences, and whether it may
    /// occur more than once.
    fn repetition(&mut self) -> Option<(usize, bool)> {
        let read = match self.rest.chars().next() {
            Some('*') => (0, true),
            Some('?') => (0, false),
            Some('+') => (1, true),
            Some('{') => {
                let (inside, behind) = self.rest.get(1..)?.split_once('}')?;
                let least = inside.split_once(',').map_or(inside, |(least, _)| least);
                self.rest = behind;
                let least = least.trim().parse().ok()?;
                self.lazy();
                return Some((least, true));
            }
            _ => return Some((1, false)),
        };
        self.skip(1);
        self.lazy();
        Some(read)
    }

    fn lazy(&mut self) {
        self.rest = self.rest.strip_prefix('?').unwrap_or(self.rest);
    }

    fn end_literal(&mut self) {
        if !self.literal.is_empty() {
            self.found.push(std::mem::take(&mut self.literal));
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_those_that_every_match_contains() {
        let rows: [(&str, &[&str]); 23] = [
            ("abc", &["abc"]),
            ("^abc$", &["abc"]),
            ("ab*c", &["a", "c"]),
            ("ab+c", &["ab", "c"]),
            ("ab?c", &["a", "c"]),
            ("ab{0,3}c", &["a", "c"]),
            ("ab{2}?c", &["ab", "c"]),
            (r"a\.b\d+c\\", &["a.b", "c\\"]),
            ("a.b", &["a", "b"]),
            ("a[^@x]+b", &["a", "b"]),
            ("a[])]b", &["a", "b"]),
            ("a(?:bc)d", &["a", "bc", "d"]),
            ("a(?P<n>bc)*d", &["a", "d"]),
            ("a(?:b|c)d", &["a", "d"]),
            (r"a(?:b\)|[)](x))?d", &["a", "d"]),
            ("^(?:(?P<stamp>.*?): )??made (?P<d>[^@]+)@", &["made ", "@"]),
            ("a|b", &[]),
            ("(?i)abc", &[]),
            ("a(?i:b)c", &[]),
            ("a(?:b(?i)c)d", &["a", "d"]),
            (r"\x41bc", &[]),
            ("é+x", &["é", "x"]),
            ("", &[]),
        ];
        for (pattern, literals) in rows {
            assert_eq!(required(pattern), literals, "{pattern}");
        }
    }

    #[test]
    fn literals_reject_no_line_that_matches() {
        let patterns = [
            "a+b",
            "(ab)+c",
            "(a|b)c{2,}",
            "x(?:y(?:z|w)q)?v",
            r"\[a\]",
            "a(b(c)d)e{1}f",
            "a{2}a",
            "(?:aa){2}b",
            "ab(?:)c",
        ];
        let alphabet = ["a", "b", "c", "x", "y", "v", "[a]", "cc", "zq", "abcdef", "aa"];
        let mut matches = 0;
        for pattern in patterns {
            let (regex, literals) = (regex_lite::Regex::new(pattern).unwrap(), required(pattern));
            for n in 0..alphabet.len().pow(4) {
                let digits = (0..4).map(|place| n / alphabet.len().pow(place) % alphabet.len());
                let line: String = digits.map(|digit| alphabet[digit]).collect();
                if regex.is_match(&line) {
                    matches += 1;
                    assert!(contains_in_order(&line, &literals), "{pattern}: {line}");
                }
            }
        }
        assert!(matches > 1000);
    }

    #[test]
    fn literals_in_another_order_are_not_contained() {
        let literals = required("taking (?:dst )?snapshot (?P<dataset>[^@]+)@");
        assert!(contains_in_order("now: taking snapshot tank@x", &literals));
        assert!(!contains_in_order("@ snapshot taking", &literals));
        assert!(!contains_in_order("taking snapshot tank", &literals));
        assert!(contains_in_order("anything", &[]));
    }
}
