//! Samples of a rule file: lines of a log with their expected events.
//!
//! Below a line, after a tab and `=> `, stands its event: class, priority and words of the message,
//! separated by tabs. A line without it must give no event. `\x1b` stands for an escape character,
//! `\n` in the words for the end of a line.

use std::sync::Arc;

use super::{Outcome, Reader, RuleSet};

/// Prefix of an event.
const EVENT: &str = "\t=> ";

/// Runs the samples of a rule set. Returns one text for each sample that gives another event than
/// expected, or that cannot be parsed.
pub fn faults(set: &Arc<RuleSet>) -> Vec<String> {
    let mut reader = Reader::new(vec![Arc::clone(set)]);
    let mut faults = Vec::new();
    let mut lines = set.samples.lines().filter(|line| !line.is_empty()).peekable();
    while let Some(line) = lines.next() {
        if line.starts_with(EVENT) {
            faults.push(format!("an event without a line above it: {line:?}"));
            continue;
        }
        let wanted = lines.next_if(|next| next.starts_with(EVENT));
        let found = match reader.read(&line.replace("\\x1b", "\u{1b}")) {
            Outcome::Known(reading) | Outcome::Unknown(reading) => Some(reading),
            Outcome::Ignored | Outcome::Foreign | Outcome::Nothing => None,
        };
        let is_right = match (&found, wanted.and_then(|wanted| wanted.strip_prefix(EVENT))) {
            (None, None) => true,
            (Some(found), Some(wanted)) => {
                let mut fields = wanted.splitn(3, '\t');
                fields.next() == Some(found.class.name())
                    && fields.next() == Some(&*found.priority.to_string())
                    && fields
                        .next()
                        .is_some_and(|words| found.message.contains(&words.replace("\\n", "\n")))
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_right {
            let found = found.map_or_else(
                || "no event".to_owned(),
                |it| format!("{} {} {:?}", it.class.name(), it.priority, it.message),
            );
            let wanted = wanted.map_or("no event", |wanted| &wanted[EVENT.len()..]);
            let wanted = wanted.replace('\t', " ");
            faults.push(format!("{line:?} gives {found}, the sample wants {wanted}"));
        }
    }
    faults
}
