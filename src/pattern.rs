//! Patterns of the configuration for lines of a log, and the messages made from a match.
//!
//! Both are validated when the configuration is read, and used later without another check: so one
//! type serves the configuration and the log reader.

use std::borrow::Cow;
use std::fmt;

use regex_lite::{Captures, Regex, RegexBuilder};

use crate::literals;

/// Maximum size of a compiled pattern, in bytes.
const COMPILED: usize = 256 * 1024;
/// The group that precedes a message, where it takes part in the match.
const STAMP: &str = "stamp";
/// The same for a message with a placeholder `{text}`: there the text includes its level.
pub(crate) const STAMP_OF_TEXT: &str = "stamp of text";
/// Stands for the message of a line with its level.
const TEXT: &str = "text";
/// Stands for the whole line in a message.
const LINE: &str = "line";

/// A regular expression. Two are equal if their texts are.
#[derive(Clone)]
pub struct Pattern {
    regex: Regex,
    /// Every matching line contains these literals, in this order.
    literals: Vec<String>,
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors The text is not a pattern; the error is shown after the text.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let read = RegexBuilder::new(text).size_limit(COMPILED).build();
        let regex = read.map_err(|error| format!("is not a regular expression: {error}"))?;
        Ok(Pattern { regex, literals: literals::required(text) })
    }

    /// The groups that match in `line`. A line without the literals that the pattern requires costs
    /// no more than the search for them.
    pub fn captures<'l>(&self, line: &'l str) -> Option<Captures<'l>> {
        if !literals::contains_in_order(line, &self.literals) {
            return None;
        }
        self.regex.captures(line)
    }

    /// Whether it has a group of that name.
    pub fn has_group(&self, name: &str) -> bool {
        self.regex.capture_names().flatten().any(|group| group == name)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.regex.as_str(), f)
    }
}

/// A message with placeholders for groups: `New snapshot of {dataset}`. Words before the name in
/// the braces appear only where the placeholder has a value: `failed{ for dataset}`. A literal
/// brace is doubled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder { before: String, name: String },
}

impl Message {
    /// The whole line.
    pub fn line() -> Message {
        Message::place(LINE)
    }

    /// The message of a line, with its level.
    pub fn text() -> Message {
        Message::place(TEXT)
    }

    /// The same with its dataset and reason, for lines whose fields are no part of the text.
    pub fn text_and_fields() -> Message {
        let part = |before: &str, name: &str| Part::Placeholder {
            before: before.to_owned(),
            name: name.to_owned(),
        };
        Message(vec![part("", TEXT), part(" for ", "dataset"), part(": ", "reason")])
    }

    fn place(name: &str) -> Message {
        Message(vec![Part::Placeholder { before: String::new(), name: name.to_owned() }])
    }

    /// Parses a message.
    ///
    /// # Errors The text is not a message; the error is shown after the text.
    pub fn parse(text: &str) -> Result<Message, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            let brace = &rest[at..=at];
            if let Some(behind) = behind.strip_prefix(brace) {
                plain.push_str(brace);
                rest = behind;
                continue;
            }
            let place = behind.split_once('}').filter(|(place, _)| !name_in(place).is_empty());
            match (brace, place) {
                ("{", Some((place, behind))) => {
                    let name = name_in(place);
                    let before = place[..place.len() - name.len()].to_owned();
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                    parts.push(Part::Placeholder { before, name: name.to_owned() });
                    rest = behind;
                }
                ("{", None) => {
                    return Err("has a { without a name and a }: write {{ for a brace".to_owned());
                }
                _ => return Err("has a } without a {: write }} for a brace".to_owned()),
            }
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        if parts.is_empty() {
            return Err("is empty".to_owned());
        }
        Ok(Message(parts))
    }

    /// A placeholder for which `pattern` has no group.
    pub fn placeholder_without_group(&self, pattern: &Pattern) -> Option<&str> {
        self.placeholders().find(|name| *name != LINE && !pattern.has_group(name))
    }

    /// The message, with the value that `place` returns for each placeholder. A stamp precedes the
    /// message, unless the message has its own placeholder for it.
    pub fn fill<'v>(&self, place: &dyn Fn(&str) -> Option<Cow<'v, str>>) -> String {
        let has = |wanted: &str| self.placeholders().any(|name| name == wanted);
        let stamp = if has(STAMP) || has(LINE) {
            None
        } else {
            place(if has(TEXT) { STAMP_OF_TEXT } else { STAMP })
        };
        let mut text = String::new();
        if let Some(stamp) = stamp.filter(|stamp| !stamp.is_empty()) {
            text.extend([&*stamp, ": "]);
        }
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Placeholder { before, name } => {
                    if let Some(value) = place(name).filter(|value| !value.is_empty()) {
                        text.extend([before, &*value]);
                    }
                }
            }
        }
        text
    }

    /// The names of its placeholders without words before them, which must have values.
    pub fn required_placeholders(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Placeholder { before, name } if before.is_empty() => Some(name.as_str()),
            Part::Placeholder { .. } | Part::Text(_) => None,
        })
    }

    /// The names of its placeholders.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Placeholder { name, .. } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }
}

/// The name at the end of the text in braces.
fn name_in(place: &str) -> &str {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    &place[place.trim_end_matches(is_name).len()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pattern: &str, message: &str, line: &str) -> Option<String> {
        let pattern = Pattern::parse(pattern).unwrap();
        let matched = pattern.captures(line)?;
        let group = |name: &str| match name {
            "line" => Some(Cow::Borrowed(line)),
            _ => matched.name(name).map(|found| Cow::Borrowed(found.as_str())),
        };
        Some(Message::parse(message).unwrap().fill(&group))
    }

    #[test]
    fn groups_fill_placeholders() {
        let pattern = r"snapshot of (?P<dataset>\S+)(?P<rest> again)?";
        assert_eq!(
            filled(pattern, "{dataset} has one{rest}, {{so}}: {line}", "a snapshot of tank/Home")
                .unwrap(),
            "tank/Home has one, {so}: a snapshot of tank/Home"
        );
        assert_eq!(filled(pattern, "{line}", "nothing"), None);
    }

    #[test]
    fn words_before_a_placeholder_need_its_value() {
        let pattern = "failed(?: for (?P<dataset>.+))?";
        assert_eq!(
            filled(pattern, "it failed{ for dataset}", "failed for x").unwrap(),
            "it failed for x"
        );
        assert_eq!(filled(pattern, "it failed{ for dataset}", "failed").unwrap(), "it failed");
    }

    #[test]
    fn a_stamp_stands_before_the_message() {
        let pattern = "^(?:(?P<stamp>.*?): )?made (?P<dataset>.+)";
        assert_eq!(filled(pattern, "{dataset}!", "now: made x").unwrap(), "now: x!");
        assert_eq!(filled(pattern, "{dataset}!", "made x").unwrap(), "x!");
        assert_eq!(filled(pattern, "{dataset} at {stamp}", "now: made x").unwrap(), "x at now");
        assert_eq!(filled(pattern, "{line}", "now: made x").unwrap(), "now: made x");
    }

    #[test]
    fn invalid_messages_are_rejected() {
        let refused = |text| Message::parse(text).unwrap_err();
        assert_eq!(refused(""), "is empty");
        for text in ["{", "{}", "{a }", "a{", "{x", "{{{"] {
            assert!(refused(text).contains("write {{"), "{text}");
        }
        assert!(refused("a}").contains("write }}"));
        let wrong = Pattern::parse("a(").unwrap_err();
        assert!(wrong.starts_with("is not a regular expression: "), "{wrong}");
        assert!(Pattern::parse(r"(?:\w{1000}){1000}").is_err());
    }

    #[test]
    fn placeholder_requires_a_group() {
        let pattern = Pattern::parse("(?P<dataset>.)").unwrap();
        let missing = |text| {
            Message::parse(text).unwrap().placeholder_without_group(&pattern).map(str::to_owned)
        };
        assert_eq!(missing("{dataset} {line}"), None);
        assert_eq!(missing("{dataset} {host}"), Some("host".to_owned()));
    }

    #[test]
    fn patterns_are_equal_by_their_text() {
        assert_eq!(Pattern::parse("a").unwrap(), Pattern::parse("a").unwrap());
        assert_ne!(Pattern::parse("a").unwrap(), Pattern::parse("b").unwrap());
    }
}
