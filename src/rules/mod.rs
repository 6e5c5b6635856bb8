//! Log rules: the meaning of lines of a program's log.
//!
//! A rule set is data, one file per program under `etc/rules/`, embedded in the executable by
//! `build.rs`; the operator's own replace or extend them. This module applies them:
//!
//! * [`prefix`] recognises the text before a message, for all programs alike;
//! * [`level`] reads severities, [`fields`] messages with fields, [`template`] the rules' lines;
//! * [`Reader`] holds the rule sets of one log and its state between two lines.
//!
//! Errors and warnings without a rule are events too: every rule set ends with a catch-all. After a
//! syslog prefix only the rule set's own programs count; without one, every line is taken to be the
//! program's.

mod fields;
mod index;
mod level;
mod line;
pub mod prefix;
pub mod samples;
mod set;
mod template;

pub use level::Level;
pub use line::clean;
pub use set::{Class, Matcher, Reading, Rule, RuleSet, Run, RunKey};
pub use template::Template;

use std::sync::Arc;

use index::Index;
use line::Line;
use set::Verdict;

/// Maximum length of a reason, in bytes.
const REASON: usize = 240;

/// The embedded rule sets, by name, without their comments and samples.
pub fn embedded() -> &'static [(&'static str, &'static str)] {
    include!(concat!(env!("OUT_DIR"), "/rules.rs"))
}

/// Result of reading a line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An event of a rule.
    Known(Reading),
    /// An event of the catch-all: an error or a warning without a rule.
    Unknown(Reading),
    /// A rule matched, and it makes no event.
    Ignored,
    /// Another program wrote it.
    Foreign,
    /// No match.
    Nothing,
}

/// Reads the lines of one log: the first rule set that recognizes a line decides.
#[derive(Clone, Debug)]
pub struct Reader {
    sets: Vec<(Arc<RuleSet>, Index)>,
    /// The last line that may be the reason of the next failure, and its rank.
    hint: Option<(u8, String)>,
    counts: Counts,
}

/// Counters of log lines since the daemon began to follow the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All lines.
    pub lines: u64,
    /// Lines that matched a rule.
    pub matched: u64,
    /// Errors and warnings that matched only the catch-all.
    pub unknown: u64,
}

impl Reader {
    /// Creates a reader with these rule sets.
    pub fn new(sets: Vec<Arc<RuleSet>>) -> Reader {
        Reader { sets: indexed(sets), hint: None, counts: Counts::default() }
    }

    /// Continues with other rule sets.
    pub fn set_rules(&mut self, sets: Vec<Arc<RuleSet>>) {
        self.sets = indexed(sets);
    }

    /// The names of its rule sets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sets.iter().map(|(set, _)| &*set.name)
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Reads one line, without its terminator.
    pub fn read(&mut self, text: &str) -> Outcome {
        let text = clean(text);
        let line = Line::of(&text);
        let outcome = self.judge(&line);
        self.counts.lines += 1;
        match &outcome {
            Outcome::Known(_) | Outcome::Ignored => self.counts.matched += 1,
            Outcome::Unknown(_) => self.counts.unknown += 1,
            Outcome::Foreign | Outcome::Nothing => {}
        }
        // A line of another command in the same log may be the reason of a later line; a line that
        // syslogd ascribes to another program is none.
        if outcome == Outcome::Foreign {
            return outcome;
        }
        let rank = line.hint_rank();
        let is_event = matches!(outcome, Outcome::Known(_));
        match rank.filter(|rank| !is_event || *rank == line::ZFS) {
            Some(rank) if self.hint.as_ref().is_none_or(|(before, _)| *before <= rank) => {
                self.hint = Some((rank, shorten(line.hint(), REASON)));
            }
            None if is_event => self.hint = None,
            Some(_) | None => {}
        }
        outcome
    }

    fn judge(&self, line: &Line<'_>) -> Outcome {
        let hint = self.hint.as_ref().map(|(_, text)| &**text);
        let mut is_foreign = !self.sets.is_empty();
        // journalctl -o json, or a container's log.
        let inner = line.json.as_ref().map(|json| Line::of(&json.message));
        for (set, index) in &self.sets {
            match set.known(index, line, inner.as_ref(), hint) {
                Verdict::Event(reading) => return Outcome::Known(reading),
                Verdict::Ignored => return Outcome::Ignored,
                Verdict::Nothing => is_foreign = false,
                Verdict::Foreign => {}
            }
        }
        if is_foreign {
            return Outcome::Foreign;
        }
        let unknown = self.sets.iter().find_map(|(set, _)| set.catch_all(line, inner.as_ref()));
        unknown.map_or(Outcome::Nothing, Outcome::Unknown)
    }
}

fn indexed(sets: Vec<Arc<RuleSet>>) -> Vec<(Arc<RuleSet>, Index)> {
    let with_index = |set: Arc<RuleSet>| {
        let index = Index::of(&set);
        (set, index)
    };
    sets.into_iter().map(with_index).collect()
}

/// Whether a line looks like a report of a failure, for an operator who looks for lines without a
/// rule.
pub fn mentions_failure(text: &str) -> bool {
    level::mentions_failure(text)
}

/// The beginning of a text, of at most `most` bytes.
fn beginning(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// A text on one line, of at most `longest` bytes; both ends of a longer one.
fn shorten(text: &str, longest: usize) -> String {
    let mut short = String::new();
    // Words are only counted near the ends.
    let near = 2 * longest;
    let (head, tail) = if text.len() > 2 * near {
        (beginning(text, near), &text[text.ceil_char_boundary(text.len() - near)..])
    } else {
        (text, "")
    };
    for word in head.split_whitespace().chain(tail.split_whitespace()) {
        if !short.is_empty() {
            short.push(' ');
        }
        short.push_str(word);
    }
    if short.len() > longest {
        let third = longest / 3;
        let tail = short.ceil_char_boundary(short.len() - (longest - third - " … ".len()));
        short = format!("{} … {}", beginning(&short, third), &short[tail..]);
    }
    short
}

#[cfg(test)]
mod tests;
