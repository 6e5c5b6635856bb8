//! One event that a person is to learn of, as a value that is stored.

use serde::{Deserialize, Serialize};

use super::target::EventKind;
use crate::alerts::{AlertState, Transition};
use crate::wire::Priority;

/// State of the subject of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemState {
    /// An alert is active.
    Raised,
    /// An alert got a higher priority.
    Changed,
    /// An alert is still active.
    Active,
    /// An alert is no longer active.
    Cleared,
    /// It is no alert.
    Event,
}

/// One event for a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The kind of event.
    pub event: EventKind,
    /// Identifies the event among those of all runs.
    pub id: String,
    /// The alert, dataset or job.
    pub key: String,
    /// Items of one kind are alike.
    pub kind: String,
    /// State of its subject.
    pub state: ItemState,
    /// Its priority.
    pub priority: Priority,
    /// One line for people.
    pub message: String,
    /// The source, or the user who emitted it.
    pub source: String,
    /// Start of the condition, RFC 3339.
    pub since: String,
    /// Time of the event, RFC 3339.
    pub at: String,
    /// Number of times that the alert was raised in the 24 hours before; of other events 0.
    pub count: u32,
}

/// The longest text of an item, in bytes.
const LONGEST_TEXT: usize = 1024;

impl Item {
    /// The item of a transition; `None` for one that nobody is notified of.
    pub fn of_transition(transition: &Transition) -> Option<Item> {
        let state = match transition.state {
            AlertState::Raised => ItemState::Raised,
            AlertState::Changed => ItemState::Changed,
            AlertState::Cleared => ItemState::Cleared,
            AlertState::Acknowledged => return None,
        };
        Some(Item {
            event: EventKind::Alert,
            id: transition.id.clone(),
            key: transition.key.clone(),
            kind: transition.kind.clone(),
            state,
            priority: transition.priority,
            message: transition.message.clone(),
            source: transition.source.clone(),
            since: transition.since.clone(),
            at: transition.at.clone(),
            count: transition.count,
        })
    }

    /// The item of an event that is no alert. `at` is RFC 3339.
    pub fn of_event(
        event: EventKind,
        (id, key, kind): (String, String, &str),
        priority: Priority,
        message: &str,
        at: &str,
    ) -> Item {
        let source = match event {
            EventKind::Alert => "alerts",
            EventKind::LifePreserver => "life-preserver",
            EventKind::Dispatcher => "dispatcher",
            EventKind::Notice => "notice",
        };
        Item {
            event,
            id,
            key,
            kind: kind.to_owned(),
            state: ItemState::Event,
            priority,
            message: message.to_owned(),
            source: source.to_owned(),
            since: at.to_owned(),
            at: at.to_owned(),
            count: 0,
        }
    }

    /// Makes its texts single lines of bounded length, without control characters.
    pub(super) fn bound(&mut self) {
        for text in [
            &mut self.id,
            &mut self.key,
            &mut self.kind,
            &mut self.message,
            &mut self.source,
            &mut self.since,
            &mut self.at,
        ] {
            if text.len() > LONGEST_TEXT || text.chars().any(char::is_control) {
                *text = one_line(text, LONGEST_TEXT);
            }
        }
    }

    /// Bytes that it takes, about.
    pub(super) fn weight(&self) -> usize {
        let texts = [&self.id, &self.key, &self.kind, &self.message, &self.source];
        256 + texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

/// A text with blanks in place of control characters, cut to `longest` bytes with `…`.
pub(super) fn one_line(text: &str, longest: usize) -> String {
    const CUT: char = '…';
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.trim();
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest.saturating_sub(CUT.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{CUT}", text.get(..end).unwrap_or_default().trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_two_characters() {
        assert_eq!(one_line("a\r\nb\u{1b}[31m ", 64), "a  b [31m");
        for longest in 3..12 {
            let cut = one_line("äöüäöüäöü", longest);
            assert!(cut.len() <= longest && cut.ends_with('…'), "{cut}");
        }
        assert_eq!(one_line("abcdef", 6), "abcdef");
    }
}
