//! Lists of alerts as JSON: for requests, the status, and new subscribers.

use serde_json::{Map, Value, json};

use super::entry::{Entry, Phase, seconds, shown};
use super::{AlertState, Alerts, Transition};
use crate::moment::Moment;
use crate::wire::Priority;

/// Maximum number of alerts in one page of a list.
const PAGE: usize = 128;
/// Maximum number of alerts in the status.
const SHOWN: usize = 16;

/// Numbers of active alerts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All active alerts.
    pub active: usize,
    /// Those that are acknowledged.
    pub acknowledged: usize,
    /// The highest priority of those that are not.
    pub highest: Option<Priority>,
}

fn entry_json(key: &str, entry: &Entry, now: u64) -> Value {
    let state = match entry.phase {
        Phase::Pending(_) | Phase::Cleared => AlertState::Cleared,
        Phase::Active | Phase::Ending(..) if entry.acknowledgement.is_some() => {
            AlertState::Acknowledged
        }
        Phase::Active | Phase::Ending(..) => AlertState::Raised,
    };
    let mut json = json!({
        "key": key,
        "kind": entry.kind.name(),
        "state": state.name(),
        "priority": entry.priority.to_string(),
        "message": entry.message,
        "source": entry.source,
        "since": shown(entry.since),
        "changed": shown(entry.changed),
        "count": entry.count(now),
    });
    let mut add = |name: &str, value: Value| {
        if let Value::Object(fields) = &mut json {
            fields.insert(name.to_owned(), value);
        }
    };
    if entry.is_flapping {
        add("flapping", true.into());
    }
    if let Phase::Ending(_, cause) = &entry.phase
        && entry.kind.rule().ends_after.is_none()
    {
        add("ending", cause.as_str().into());
    }
    if let Some(acknowledgement) = &entry.acknowledgement {
        add("acknowledged_by", acknowledgement.by.as_str().into());
        add("acknowledged_at", shown(acknowledgement.at).into());
        if let Some(note) = &acknowledgement.note {
            add("note", note.as_str().into());
        }
        if let Some(until) = acknowledgement.until {
            add("acknowledged_until", shown(until).into());
        }
    }
    json
}

impl Alerts {
    /// A page of the list, in the order of the keys; `after` is the last key of the page before.
    /// With `all`, those cleared in the last 24 hours too.
    pub fn list(&self, after: Option<&str>, all: bool, now: Moment) -> Value {
        use std::ops::Bound::{Excluded, Unbounded};
        let at = seconds(now.wall);
        let from = after.map_or(Unbounded, Excluded);
        let is_listed = |entry: &Entry| {
            entry.is_active()
                || (all
                    && entry.phase == Phase::Cleared
                    && entry.changed + super::DAY.as_secs() > at)
        };
        let mut rest =
            self.entries.range::<str, _>((from, Unbounded)).filter(|(_, entry)| is_listed(entry));
        let page: Vec<(&String, &Entry)> = rest.by_ref().take(PAGE).collect();
        let list: Vec<Value> = page.iter().map(|(key, entry)| entry_json(key, entry, at)).collect();
        let mut reply = Map::new();
        reply.insert("alerts".to_owned(), list.into());
        if let (Some(_), Some((last, _))) = (rest.next(), page.last()) {
            reply.insert("next".to_owned(), last.as_str().into());
        }
        Value::Object(reply)
    }

    /// The active alert behind `after` in the order of the keys, as for a new subscriber.
    pub fn present(&self, after: Option<&str>) -> Option<(&str, Transition)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let mut rest = self.entries.range::<str, _>((from, Unbounded));
        let (key, entry) = rest.find(|(_, entry)| entry.is_active())?;
        let mut transition = entry.transition(key, &entry.message);
        if entry.acknowledgement.is_some() {
            transition.state = AlertState::Acknowledged;
        }
        Some((key, transition))
    }

    /// Numbers of active alerts.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for entry in self.entries.values().filter(|entry| entry.is_active()) {
            summary.active += 1;
            if entry.acknowledgement.is_some() {
                summary.acknowledged += 1;
            } else {
                summary.highest = summary.highest.max(Some(entry.priority));
            }
        }
        summary
    }

    /// The active alerts for the status: their number, and those with the highest priority that are
    /// not acknowledged.
    pub fn status(&self, now: Moment) -> Value {
        let at = seconds(now.wall);
        let Summary { active, acknowledged, highest } = self.summary();
        let mut open: Vec<(&String, &Entry)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_active() && entry.acknowledgement.is_none())
            .collect();
        open.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.priority));
        let list: Vec<Value> =
            open.into_iter().take(SHOWN).map(|(key, entry)| entry_json(key, entry, at)).collect();
        json!({
            "active": active,
            "acknowledged": acknowledged,
            "priority": highest.map(|priority| priority.to_string()),
            "list": list,
        })
    }
}
