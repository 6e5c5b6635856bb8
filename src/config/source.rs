//! An additional log, `[[life_preserver.source]]`: by the name of a rule set, or by a pattern.

use super::section::Section;
use super::values::{absolute_path, count, one_of, quoted, text};
use std::sync::Arc;

use super::LogSource;
use super::rules::{CLASSES, Rules};
use crate::pattern::{Message, Pattern};
use crate::rules::RuleSet;

/// Default priority of a pattern.
const PRIORITY: usize = 1;

/// Reads one entry, and reports its faults.
pub(super) fn read_source(section: &mut Section<'_, '_>, rules: &Rules) -> Option<LogSource> {
    let faults = section.reader.faults.len();
    let log = section.required("log", text(absolute_path));
    let program = section.optional("rule", text(|name| rules.named(name)));
    let class = section.optional("class", text(one_of(CLASSES)));
    let pattern = section.optional("match", text(Pattern::parse));
    let priority = section.optional("priority", count(0..=10));
    let message = section.optional("message", text(Message::parse));
    // An entry with a fault is not checked further.
    if section.reader.faults.len() > faults {
        return None;
    }
    let rules = match (program, class, pattern) {
        (Some(program), None, None) => {
            let more = [("priority", priority.is_some()), ("message", message.is_some())];
            if let Some((name, _)) = more.into_iter().find(|(_, written)| *written) {
                section.complain(
                    Some(name),
                    format!("life_preserver.source.{name}: a ready rule has its own"),
                );
                return None;
            }
            program
        }
        (None, Some(class), Some(pattern)) => {
            let message = message.unwrap_or_else(Message::line);
            if let Some(place) = message.placeholder_without_group(&pattern) {
                let (place, group) = (quoted(place), format!("(?P<{place}>…)"));
                section.complain(
                    Some("message"),
                    format!(
                        "life_preserver.source.message: match has no group {place}: write {group}"
                    ),
                );
                return None;
            }
            let priority = u8::try_from(priority.unwrap_or(PRIORITY)).unwrap_or(u8::MAX);
            Arc::new(RuleSet::of_pattern(pattern, class, priority, message))
        }
        (None, None, None) if section.table.is_none() => return None,
        (_, class, pattern) => {
            let name = match (class, pattern) {
                (_, Some(_)) => "match",
                (Some(_), None) => "class",
                (None, None) => "rule",
            };
            section.complain(
                Some(name),
                "[[life_preserver.source]] needs either rule, or both class and match".to_owned(),
            );
            return None;
        }
    };
    Some(LogSource { log: log?, rules })
}
