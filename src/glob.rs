//! Patterns for names that have parts: datasets, ids of jobs, keys of alerts.
//!
//! `*` stands for any characters within one part, `**` for any characters with any number of `/`,
//! and `?` for one character other than `/`. All other characters stand for themselves.

use std::fmt;

/// Maximum length of a pattern, in bytes; names of datasets have at most 255 (`ZFS_MAX_DATASET_NAME_LEN`).
pub const LONGEST: usize = 300;
/// Maximum number of wildcards: a match tries at most the length of the name times this number.
const WILDCARDS: usize = 16;

/// Maximum length of a key of `emit`, in bytes.
pub const KEY: usize = 128;

/// Checks a key of `emit`: 1 to [`KEY`] bytes of letters, digits and `-_.:/`.
///
/// # Errors
/// The fault, to be shown after the text.
pub fn check_key(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > KEY {
        return Err(format!("has {} bytes: at most {KEY}", text.len()));
    }
    let is_valid = |c: char| c.is_alphanumeric() || "-_.:/".contains(c);
    match text.char_indices().find(|(_, c)| !is_valid(*c)) {
        Some((at, c)) => {
            Err(format!("has {c:?} at byte {at}: letters, digits and -_.:/ are possible"))
        }
        None => Ok(()),
    }
}

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `?`
    One,
    /// `*`
    Within,
    /// `**`
    Across,
}

impl Glob {
    /// Parses a pattern.
    ///
    /// # Errors
    /// The fault, to be shown after the text.
    pub fn parse(text: &str) -> Result<Glob, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.len() > LONGEST {
            return Err(format!("has {} bytes: at most {LONGEST}", text.len()));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(format!("has a control character, {control:?}"));
        }
        if text.contains("***") {
            return Err("has three * in a row: write * for one level and ** for all".to_owned());
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (part, length) = match first {
                '*' if rest.starts_with("**") => (Part::Across, 2),
                '*' => (Part::Within, 1),
                '?' => (Part::One, 1),
                _ => {
                    let end = rest.find(['*', '?']).unwrap_or(rest.len());
                    (Part::Text(rest[..end].to_owned()), end)
                }
            };
            parts.push(part);
            rest = &rest[length..];
        }
        if parts.iter().filter(|part| !matches!(part, Part::Text(_))).count() > WILDCARDS {
            return Err(format!("has more than {WILDCARDS} wildcards"));
        }
        Ok(Glob { text: text.to_owned(), parts })
    }

    /// The text that was parsed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The only name that matches, where there is no wildcard.
    pub fn exact(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether the whole name matches. The time is bounded by the length of the name times the
    /// number of wildcards: the last wildcard that can still take more does so, and no earlier one.
    pub fn matches(&self, name: &str) -> bool {
        // Index of the next part, and the rest of the name.
        let (mut at, mut rest) = (0, name);
        // For `*` and `**`: the part behind it, and the rest of the name at which that was tried.
        let mut within: Option<(usize, &str)> = None;
        let mut across: Option<(usize, &str)> = None;
        loop {
            let fits = match self.parts.get(at) {
                None if rest.is_empty() => return true,
                None => None,
                Some(Part::Text(text)) => rest.strip_prefix(text.as_str()),
                Some(Part::One) => {
                    let mut chars = rest.chars();
                    chars.next().filter(|c| *c != '/').map(|_| chars.as_str())
                }
                Some(Part::Within) => {
                    within = Some((at + 1, rest));
                    Some(rest)
                }
                Some(Part::Across) => {
                    (across, within) = (Some((at + 1, rest)), None);
                    Some(rest)
                }
            };
            if let Some(behind) = fits {
                (at, rest) = (at + 1, behind);
                continue;
            }
            let longer = |tried: Option<(usize, &'_ str)>, crosses: bool| {
                let (part, from) = tried?;
                let mut chars = from.chars();
                chars.next().filter(|c| crosses || *c != '/')?;
                Some((part, chars.as_str().len()))
            };
            let from_end = |length: usize| &name[name.len() - length..];
            if let Some((part, length)) = longer(within, false) {
                within = Some((part, from_end(length)));
                (at, rest) = (part, from_end(length));
            } else if let Some((part, length)) = longer(across, true) {
                (across, within) = (Some((part, from_end(length))), None);
                (at, rest) = (part, from_end(length));
            } else {
                return false;
            }
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn star_stays_within_a_level_and_two_stars_do_not() {
        for (pattern, name, expected) in [
            ("tank/home", "tank/home", true),
            ("tank/home", "tank/home/a", false),
            ("tank/home", "tank/hom", false),
            ("tank/vm/*", "tank/vm/a", true),
            ("tank/vm/*", "tank/vm/a/b", false),
            ("tank/vm/*", "tank/vm", false),
            ("tank/**", "tank/a/b/c", true),
            ("tank/**", "tank", false),
            ("**", "tank/a", true),
            ("*", "tank/a", false),
            ("tank/*/data", "tank/a/data", true),
            ("tank/*/data", "tank/a/b/data", false),
            ("tank/**/data", "tank/a/b/data", true),
            ("tank/**/a*c", "tank/x/abd/y/abbc", true),
            ("**/a*/c", "x/ab/d/ab/c", true),
            ("nightly*", "nightly-7", true),
            ("night?y", "nightly", true),
            ("night?y", "nighty", false),
            ("a?b", "a/b", false),
            ("é*ü", "éxxü", true),
            ("*é", "éé", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert_eq!(Glob::parse("tank/a b").unwrap().exact(), Some("tank/a b"));
        assert_eq!(Glob::parse("tank/*").unwrap().exact(), None);
    }

    #[test]
    fn match_takes_no_time_beyond_its_bound() {
        let pattern = format!("{}b", "*a".repeat(WILDCARDS));
        let name = "a".repeat(255);
        assert!(!matches(&pattern, &name));
        let pattern = format!("{}b", "**a*b".repeat(WILDCARDS / 2));
        assert!(!matches(&pattern, &name));
    }

    #[test]
    fn impossible_patterns_are_refused() {
        for text in ["", "a\nb", "tank/***", &"a".repeat(LONGEST + 1), &"*a".repeat(WILDCARDS + 1)]
        {
            assert!(Glob::parse(text).is_err(), "{text:?}");
        }
    }
}
