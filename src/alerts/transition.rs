//! A change of an alert, as a value: published, stored, and given to notification.

use serde::{Deserialize, Serialize};

use serde_json::{Map, Value};

use crate::wire::{AlertEvent, Event, Priority};

/// State that an alert enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// It was not active and is now.
    Raised,
    /// It stays active; priority or message changed, or an acknowledgement ended.
    Changed,
    /// It is no longer active.
    Cleared,
    /// It stays active; a person has acknowledged it.
    Acknowledged,
}

impl AlertState {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            AlertState::Raised => "raised",
            AlertState::Changed => "changed",
            AlertState::Cleared => "cleared",
            AlertState::Acknowledged => "acknowledged",
        }
    }
}

/// A change of one alert. The text fields are bounded and contain no control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Identifies this transition among those of all runs of the daemon. A transition that is
    /// reported again after a crash has the same id.
    pub id: String,
    /// The alert, for example `pool/tank/health`.
    pub key: String,
    /// Alerts of one kind are alike, for example `snapshot/stale`: a notification may join them.
    pub kind: String,
    /// The state that the alert enters.
    pub state: AlertState,
    /// Its priority; of a cleared alert the last one.
    pub priority: Priority,
    /// One line for people; of a cleared alert the cause of its end.
    pub message: String,
    /// Source of the alert, for example `system-state`, or the user who emitted it.
    pub source: String,
    /// Start of the condition, RFC 3339.
    pub since: String,
    /// Time of this transition, RFC 3339.
    pub at: String,
    /// Number of times that the alert was raised in the 24 hours before.
    pub count: u32,
    /// User who acknowledged it, while that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    /// Text of the acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Transition {
    /// The event for subscribers.
    pub fn event(&self) -> Event {
        let mut args = Map::new();
        let texts = [
            ("key", &*self.key),
            ("kind", &*self.kind),
            ("state", self.state.name()),
            ("priority", &*self.priority.to_string()),
            ("message", &*self.message),
            ("source", &*self.source),
            ("since", &*self.since),
            ("changed", &*self.at),
        ];
        for (name, text) in texts {
            args.insert(name.to_owned(), text.into());
        }
        args.insert("count".to_owned(), self.count.into());
        if let Some(by) = &self.acknowledged_by {
            args.insert("acknowledged_by".to_owned(), by.as_str().into());
        }
        if let Some(note) = &self.note {
            args.insert("note".to_owned(), note.as_str().into());
        }
        args.insert("alert_id".to_owned(), self.id.as_str().into());
        let args = Value::Object(args).to_string();
        Event::Alert(AlertEvent { key: self.key.clone(), priority: self.priority, args })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_survives_its_json_unchanged() {
        let transition = Transition {
            id: "e1-7".into(),
            key: "pool/tank/health".into(),
            kind: "pool/health".into(),
            state: AlertState::Raised,
            priority: Priority::new(9),
            message: "tank is DEGRADED".into(),
            source: "system-state".into(),
            since: "2026-11-29T01:00:00Z".into(),
            at: "2026-11-29T01:00:00Z".into(),
            count: 1,
            acknowledged_by: None,
            note: None,
        };
        let text = serde_json::to_string(&transition).unwrap();
        assert!(text.contains(r#""state":"raised","priority":9"#), "{text}");
        assert_eq!(serde_json::from_str::<Transition>(&text).unwrap(), transition);
    }

    #[test]
    fn number_that_is_no_priority_is_refused() {
        assert!(serde_json::from_str::<Priority>("11").is_err());
        assert!(serde_json::from_str::<Priority>("-1").is_err());
        assert_eq!(serde_json::from_str::<Priority>("10").unwrap(), Priority::MAX);
    }
}
