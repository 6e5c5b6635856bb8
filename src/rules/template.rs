//! Templates of log lines: literals with placeholders between them, `taking snapshot {dataset}@{}`.
//!
//! A placeholder matches as little as possible up to the next literal; a match is never revised, so
//! a line is read once, whatever it contains. `{name}` captures at least one character, `{}`
//! matches any number. `{name@}` is a snapshot or bookmark without the text from its last `@` or
//! `#` on; `{name'}` is the text after the last ` '`. A template matches from the beginning of the
//! message; unless it ends with a placeholder, any text may follow. `{{` and `}}` are braces.

use memchr::{memchr2, memmem, memrchr2};

/// A line with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    ignores_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// In lower case where case is ignored.
    Literal(Box<str>),
    Placeholder {
        name: Box<str>,
        cut: Cut,
    },
}

impl Piece {
    fn literal(mut text: String, ignores_case: bool) -> Piece {
        if ignores_case {
            text.make_ascii_lowercase();
        }
        Piece::Literal(text.into())
    }
}

/// Part that is cut off the text of a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Nothing,
    /// From the last `@` or `#` on, which must be there.
    Snapshot,
    /// Up to the last ` '`.
    Quote,
}

/// Texts of the placeholders of a template, by name.
pub(super) type Captures<'r, 'l> = Vec<(&'r str, &'l str)>;

impl Template {
    /// Parses a template.
    ///
    /// # Errors A description of the fault, to be shown after the text.
    pub fn parse(text: &str, ignores_case: bool) -> Result<Template, String> {
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut literal, mut rest) = (String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, behind) = rest[at..].split_at(1);
            if let Some(behind) = behind.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
                continue;
            }
            let place = behind.split_once('}').filter(|_| brace == "{");
            let Some((name, behind)) = place else {
                return Err("has a lone brace: write {{ or }} for one".to_owned());
            };
            let (name, cut) = match name.as_bytes().last() {
                Some(b'@') => (&name[..name.len() - 1], Cut::Snapshot),
                Some(b'\'') => (&name[..name.len() - 1], Cut::Quote),
                _ => (name, Cut::Nothing),
            };
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(format!("has a place {{{name}}} whose name is no word"));
            }
            if !literal.is_empty() {
                pieces.push(Piece::literal(std::mem::take(&mut literal), ignores_case));
            }
            if matches!(pieces.last(), Some(Piece::Placeholder { .. })) {
                return Err("has two places without a text between them".to_owned());
            }
            pieces.push(Piece::Placeholder { name: name.into(), cut });
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::literal(literal, ignores_case));
        }
        if pieces.is_empty() {
            return Err("is empty".to_owned());
        }
        Ok(Template { pieces, ignores_case })
    }

    /// The first byte of every matching text, in lower case where case is ignored; `None` for any.
    pub(super) fn first_byte(&self) -> Option<u8> {
        match self.pieces.first() {
            Some(Piece::Literal(text)) => text.bytes().next(),
            Some(Piece::Placeholder { .. }) | None => None,
        }
    }

    /// Whether the text begins with its first literal, if it begins with one.
    pub(super) fn begins(&self, text: &str) -> bool {
        match self.pieces.first() {
            Some(Piece::Literal(literal)) => self.starts(text, literal),
            Some(Piece::Placeholder { .. }) | None => true,
        }
    }

    /// Whether a line contains its literals in order; literals that a field may escape are not
    /// searched for. `lower` is the line in lower case.
    pub(super) fn may_be_in<'l>(&self, line: &'l str, lower: impl FnOnce() -> &'l str) -> bool {
        let mut rest = if self.ignores_case { lower() } else { line }.as_bytes();
        self.pieces.iter().all(|piece| match piece {
            Piece::Literal(text) if text.bytes().all(is_plain) => {
                let at = memmem::find(rest, text.as_bytes());
                let behind = at.and_then(|at| rest.get(at + text.len()..));
                rest = behind.unwrap_or_default();
                behind.is_some()
            }
            Piece::Literal(_) | Piece::Placeholder { .. } => true,
        })
    }

    /// The names of its placeholders.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Placeholder { name, .. } if !name.is_empty() => Some(&**name),
            Piece::Placeholder { .. } | Piece::Literal(_) => None,
        })
    }

    /// Texts of the placeholders, if `text` matches.
    pub(super) fn captures<'r, 'l>(&'r self, text: &'l str) -> Option<Captures<'r, 'l>> {
        let mut found = Vec::new();
        let mut rest = text;
        let mut open: Option<(&str, Cut)> = None;
        for piece in &self.pieces {
            match piece {
                Piece::Placeholder { name, cut } => open = Some((name, *cut)),
                Piece::Literal(literal) => {
                    // A placeholder with a name matches at least one character.
                    let least = match open {
                        Some((name, _)) if !name.is_empty() => rest.chars().next()?.len_utf8(),
                        Some(_) | None => 0,
                    };
                    let at = match open {
                        Some(_) => least + self.find(rest.get(least..)?, literal)?,
                        None => self.starts(rest, literal).then_some(0)?,
                    };
                    let (taken, behind) = (rest.get(..at)?, rest.get(at + literal.len()..)?);
                    if let Some((name, cut)) = open.take() {
                        take(&mut found, name, cut, taken)?;
                    }
                    rest = behind;
                }
            }
        }
        if let Some((name, cut)) = open {
            take(&mut found, name, cut, rest.trim_end())?;
        }
        Some(found)
    }

    fn starts(&self, text: &str, literal: &str) -> bool {
        let start = text.as_bytes().get(..literal.len());
        start.is_some_and(|start| {
            if self.ignores_case {
                start.eq_ignore_ascii_case(literal.as_bytes())
            } else {
                start == literal.as_bytes()
            }
        })
    }

    fn find(&self, text: &str, literal: &str) -> Option<usize> {
        let (bytes, literal) = (text.as_bytes(), literal.as_bytes());
        if !self.ignores_case {
            return memmem::find(bytes, literal);
        }
        let lower = *literal.first()?;
        let mut from = 0;
        loop {
            from += memchr2(lower, lower.to_ascii_uppercase(), bytes.get(from..)?)?;
            if bytes.get(from..from + literal.len())?.eq_ignore_ascii_case(literal) {
                return Some(from);
            }
            from += 1;
        }
    }
}

/// A byte that JSON and Go write unescaped.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" :,.;-_@#'!()".contains(&byte)
}

fn take<'r, 'l>(
    found: &mut Captures<'r, 'l>,
    name: &'r str,
    cut: Cut,
    taken: &'l str,
) -> Option<()> {
    if name.is_empty() {
        return Some(());
    }
    let taken = match cut {
        Cut::Nothing => taken,
        Cut::Snapshot => &taken[..memrchr2(b'@', b'#', taken.as_bytes())?],
        Cut::Quote => match memmem::rfind(taken.as_bytes(), b" '") {
            Some(at) => &taken[at + 2..],
            None => taken.trim_start_matches('\''),
        },
    };
    let taken = taken.trim();
    found.push((name, Some(taken).filter(|taken| !taken.is_empty())?));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(template: &str, text: &str) -> Option<String> {
        let template = Template::parse(template, template.starts_with('C')).unwrap();
        let found = template.captures(text)?;
        Some(found.iter().map(|(name, value)| format!("{name}={value};")).collect())
    }

    #[test]
    fn placeholders_match_the_text_between_literals() {
        let rows = [
            ("taking {dataset}@{}", "taking tank/my data@x", Some("dataset=tank/my data;")),
            ("taking {dataset}@{}", "taking @x", None),
            ("taking {dataset}", "taking tank  ", Some("dataset=tank;")),
            ("taking {dataset}", "not taking tank", None),
            ("{} failed: {why}", "a b failed: c", Some("why=c;")),
            ("a{{b}}", "a{b} more", Some("")),
            ("Sending {dataset@} ... {}", "Sending u@h:a b@x ... y", Some("dataset=u@h:a b;")),
            ("Sending {dataset@} ... {}", "Sending a ... y", None),
            ("send {dataset'}'@'", "send -o 'x=y' 'tank/a'@'b'", Some("dataset=tank/a;")),
            ("CREATING {dataset}", "creating Tank", Some("dataset=Tank;")),
            ("Cé {x} é", "cé é é", Some("x=é;")),
        ];
        for (template, text, wanted) in rows {
            assert_eq!(matched(template, text).as_deref(), wanted, "{template}: {text}");
        }
    }

    #[test]
    fn templates_that_cannot_be_are_refused() {
        for (text, why) in [
            ("", "is empty"),
            ("a{", "lone brace"),
            ("a}", "lone brace"),
            ("{a}{b}", "without a text between"),
            ("{a b}", "no word"),
        ] {
            let refused = Template::parse(text, false).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
