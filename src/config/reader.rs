//! Reads the parsed file, and records which keys are known, which are present and where, which are
//! faulty, and all faults.
//!
//! A fault never ends the reading. A faulty key keeps its default, and the checks between keys
//! ignore it, so that one mistake is reported once.

use std::collections::BTreeSet;
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::error::{Fault, LISTED, Lines};
use super::section::Section;
use super::spelling;
use super::values::{kind, quoted};

/// State of reading one file.
pub(super) struct Reader<'t> {
    root: &'t DeTable<'t>,
    pub(super) keys: Vec<Key>,
    /// The tables read so far, each with the name of its section.
    tables: Vec<(&'static str, &'t DeTable<'t>)>,
    syntax: Vec<Fault>,
    pub(super) faults: Vec<Fault>,
}

/// A known key.
pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    /// Offset of its value, if present.
    pub(super) at: Option<usize>,
    /// Offsets of the entries of its list.
    pub(super) entries: Vec<usize>,
    pub(super) faulty: bool,
}

impl Key {
    /// Whether it is `section.name`, the form of messages and checks.
    fn is(&self, path: &str) -> bool {
        if self.section.is_empty() {
            return path == self.name;
        }
        let rest = path.strip_prefix(self.section).and_then(|rest| rest.strip_prefix('.'));
        rest == Some(self.name)
    }
}

impl<'t> Reader<'t> {
    /// For the document parsed from `text`, with the parser's errors and the values that are [not
    /// closed](super::unclosed).
    pub(super) fn new(
        text: &str,
        root: &'t DeTable<'t>,
        syntax: &[toml::de::Error],
        unclosed: Vec<Fault>,
    ) -> Reader<'t> {
        let syntax = syntax.iter().map(|error| fault_of_syntax(text, error));
        let syntax = unclosed.into_iter().chain(syntax).collect();
        Reader { root, keys: Vec::new(), tables: Vec::new(), syntax, faults: Vec::new() }
    }

    /// The section of that name, which may be missing.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'_, 't> {
        let table = self.root.get(name).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            DeValue::Array(_) => {
                let message = format!("there is only one section {name}: write [{name}]");
                self.faults.push(Fault { at: value.span().start, message });
                None
            }
            other => {
                let message = format!("{name} is a section, not {}: write [{name}]", kind(other));
                self.faults.push(Fault { at: value.span().start, message });
                None
            }
        });
        self.open(name, table)
    }

    /// The file itself, for lists of tables at the top level.
    pub(super) fn root(&mut self) -> Section<'_, 't> {
        let table = Some(self.root);
        Section { reader: self, name: "", table, at: 0 }
    }

    /// Table of a section, whose keys become known as those of `name`.
    pub(super) fn open(
        &mut self,
        name: &'static str,
        table: Option<&'t DeTable<'t>>,
    ) -> Section<'_, 't> {
        self.tables.extend(table.map(|table| (name, table)));
        Section { reader: self, name, table, at: 0 }
    }

    /// Reports unknown keys and sections. To be called after all sections were read.
    pub(super) fn report_unknown(&mut self) {
        let mut unknown: Vec<(usize, Unknown<'t>)> = Vec::new();
        for (key, value) in self.root {
            let name: &str = key.get_ref();
            if !self.sections().any(|section| section == name) {
                let table = value.get_ref().is_table() || value.get_ref().is_array();
                let what = if table { Unknown::Section(name) } else { Unknown::Key(None, name) };
                unknown.push((key.span().start, what));
            }
        }
        for (section, table) in &self.tables {
            for key in table.keys() {
                let name: &str = key.get_ref();
                if !self.keys.iter().any(|known| known.section == *section && known.name == name) {
                    unknown.push((key.span().start, Unknown::Key(Some(section), name)));
                }
            }
        }
        // In the order of the file, so that suggestions, which take time, are computed for those
        // listed.
        unknown.sort_by_key(|(at, _)| *at);
        for (index, (at, what)) in unknown.into_iter().enumerate() {
            let advice = if index < LISTED { self.advice(&what) } else { String::new() };
            self.faults.push(Fault { at, message: format!("unknown {what}{advice}") });
        }
    }

    /// Reports that the values of these keys contradict each other, at the first key that is
    /// present; not if one of them is faulty.
    pub(super) fn contradiction(&mut self, keys: &[&str], message: String) {
        let places: Vec<(&str, usize)> = keys.iter().map(|key| (*key, 0)).collect();
        self.contradiction_at(&places, message);
    }

    /// The same between entries of lists, by index.
    pub(super) fn contradiction_at(&mut self, places: &[(&str, usize)], message: String) {
        let find = |path: &str| self.keys.iter().find(|key| key.is(path));
        if !self.syntax.is_empty()
            || places.iter().any(|(path, _)| find(path).is_none_or(|key| key.faulty))
        {
            return;
        }
        let at = places.iter().find_map(|(path, index)| {
            find(path).and_then(|key| key.entries.get(*index).copied().or(key.at))
        });
        self.faults.push(Fault { at: at.unwrap_or(0), message });
    }

    /// All faults. Of a line with a syntax error only that one.
    pub(super) fn into_faults(self, lines: &Lines) -> Vec<Fault> {
        let broken: BTreeSet<usize> =
            self.syntax.iter().map(|fault| lines.number(fault.at)).collect();
        let mut faults = self.syntax;
        faults.extend(self.faults.into_iter().filter(|f| !broken.contains(&lines.number(f.at))));
        faults
    }

    /// Every known key with its section.
    #[cfg(test)]
    pub(super) fn known(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.keys.iter().map(|key| (key.section, key.name))
    }

    /// Whether the key is present.
    #[cfg(test)]
    pub(super) fn has(&self, section: &str, name: &str) -> bool {
        self.keys.iter().any(|key| key.section == section && key.name == name && key.at.is_some())
    }

    /// The names at the top level of the file.
    fn sections(&self) -> impl Iterator<Item = &'static str> {
        let is_section = |section: &&str| !section.is_empty() && !section.contains('.');
        self.keys.iter().map(|key| key.section).filter(is_section)
    }

    /// A suggestion, to be shown after the message.
    fn advice(&self, unknown: &Unknown<'_>) -> String {
        let (name, section) = match unknown {
            Unknown::Section(name) => {
                return match spelling::nearest(name, self.sections()) {
                    Some(near) if near.close => format!("; did you mean [{}]?", near.name),
                    Some(near) => format!("; the nearest known section is [{}]", near.name),
                    None => String::new(),
                };
            }
            Unknown::Key(section, name) => (*name, *section),
        };
        let here = self.keys.iter().filter(|key| section.is_none_or(|it| it == key.section));
        let near = spelling::nearest(name, here.map(|key| key.name));
        let elsewhere: Vec<String> = self
            .keys
            .iter()
            .filter(|key| key.name == name)
            .map(|key| heading(key.section))
            .collect();
        let exact = section.is_none() && !elsewhere.is_empty();
        match near {
            Some(near) if near.close && !exact => format!("; did you mean \"{}\"?", near.name),
            Some(near) if elsewhere.is_empty() => {
                format!("; the nearest known key is \"{}\"", near.name)
            }
            Some(_) | None => format!("; it belongs in {}", elsewhere.join(" or ")),
        }
    }
}

/// An unknown name.
enum Unknown<'n> {
    /// A section, by its name, at the top level.
    Section(&'n str),
    /// A key, by its section, if any, and its name.
    Key(Option<&'static str>, &'n str),
}

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Section(name) => write!(f, "section {}", quoted(name)),
            Unknown::Key(None, name) => write!(f, "key {} outside of any section", quoted(name)),
            Unknown::Key(Some(section), name) => {
                write!(f, "key {} in {}", quoted(name), heading(section))
            }
        }
    }
}

/// The section's line in the file.
pub(super) fn heading(section: &str) -> String {
    let is_list = section.contains('.') || matches!(section, "rule" | "expect" | "notify");
    if is_list { format!("[[{section}]]") } else { format!("[{section}]") }
}

fn fault_of_syntax(text: &str, error: &toml::de::Error) -> Fault {
    let span = error.span().unwrap_or_else(|| {
        let at = start_of_deep_key(text);
        at..at
    });
    let message = error.message().trim_end_matches(", expected nothing");
    let at = span.start;
    match text.get(span) {
        Some(found) if !found.trim().is_empty() => {
            Fault { at, message: format!("{message}: {}", quoted(found)) }
        }
        Some(_) | None => Fault { at, message: message.to_owned() },
    }
}

/// The parser gives no position for one error, a key of 80 parts and more ("recursion limit"): it
/// is in the first line with that many dots.
fn start_of_deep_key(text: &str) -> usize {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if !line.starts_with('#') && line.matches('.').count() >= 79 {
            return at;
        }
        at += line.len();
    }
    0
}
