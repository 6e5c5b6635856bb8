//! One alert: its condition, its state, and its record in the state directory.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::transition::{AlertState, Transition};
use crate::wire::{Priority, rfc3339};

/// Time over which raises are counted.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// Time over which raises count for flapping.
const HOUR: Duration = Duration::from_secs(3600);
/// Maximum number of raises that are counted.
const MOST_RAISES: usize = 64;

/// State of an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The condition holds, and is reported if it still does then.
    Pending(Instant),
    /// It is active, and the condition holds.
    Active,
    /// It is active; the condition ended, and the alert is cleared then, unless it returns.
    Ending(Instant, String),
    /// It was cleared. Retained for its count, and for the list of all.
    Cleared,
}

/// An acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acknowledgement {
    pub(super) by: String,
    /// Seconds since 1970.
    pub(super) at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// It ends then, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<u64>,
}

/// One alert. Times are in seconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) source: String,
    pub(super) priority: Priority,
    pub(super) message: String,
    pub(super) phase: Phase,
    /// Start of the condition.
    pub(super) since: u64,
    /// Time of the last transition.
    pub(super) changed: u64,
    /// Starts of the condition, the oldest first.
    pub(super) raises: Vec<u64>,
    pub(super) is_flapping: bool,
    pub(super) acknowledgement: Option<Acknowledgement>,
    /// It comes from the record of an earlier run, and no source has confirmed it since.
    pub(super) is_restored: bool,
    /// Number of the last transition.
    pub(super) last_id: String,
    pub(super) last_state: AlertState,
    /// Notification has not taken the last transition yet.
    pub(super) is_unqueued: bool,
    /// Deadline of the acknowledgement on the monotonic clock.
    pub(super) acknowledged_until: Option<Instant>,
}

/// The record of an alert, one line of JSON.
#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    kind: String,
    source: String,
    priority: Priority,
    message: String,
    active: bool,
    since: u64,
    changed: u64,
    raises: Vec<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    flapping: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acknowledged: Option<Acknowledgement>,
    id: String,
    state: AlertState,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unqueued: bool,
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

/// RFC 3339 of seconds since 1970.
pub(super) fn shown(seconds: u64) -> String {
    rfc3339(time(seconds))
}

impl Entry {
    pub(super) fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Ending(..))
    }

    /// Bytes that it takes, with its key of that length.
    pub(super) fn weight(&self, key: &str) -> usize {
        let acknowledgement = self.acknowledgement.as_ref();
        let note =
            acknowledgement.map_or(0, |it| it.by.len() + it.note.as_ref().map_or(0, String::len));
        let ending = if let Phase::Ending(_, cause) = &self.phase { cause.len() } else { 0 };
        let texts = self.source.len() + self.message.len() + self.last_id.len() + note + ending;
        size_of::<Entry>() + 2 * key.len() + texts + 8 * self.raises.len()
    }

    /// The condition begins. Forgets those of more than a day ago.
    pub(super) fn count_raise(&mut self, now: u64) {
        self.raises.retain(|at| at + DAY.as_secs() > now);
        if self.raises.len() >= MOST_RAISES {
            self.raises.remove(0);
        }
        self.raises.push(now);
    }

    /// Number of raises in the 24 hours before `now`.
    pub(super) fn count(&self, now: u64) -> u32 {
        let recent = self.raises.iter().filter(|at| **at + DAY.as_secs() > now).count();
        u32::try_from(recent).unwrap_or(u32::MAX)
    }

    /// Number of raises in the hour before `now`.
    pub(super) fn count_in_hour(&self, now: u64) -> usize {
        self.raises.iter().filter(|at| **at + HOUR.as_secs() > now).count()
    }

    /// The last transition as a value.
    pub(super) fn transition(&self, key: &str, message: &str) -> Transition {
        let acknowledgement = self.acknowledgement.as_ref();
        Transition {
            id: self.last_id.clone(),
            key: key.to_owned(),
            kind: self.kind.name().to_owned(),
            state: self.last_state,
            priority: self.priority,
            message: message.to_owned(),
            source: self.source.clone(),
            since: shown(self.since),
            at: shown(self.changed),
            count: self.count(self.changed),
            acknowledged_by: acknowledgement.map(|it| it.by.clone()),
            note: acknowledgement.and_then(|it| it.note.clone()),
        }
    }

    /// The record of the alert; `None` of one that was never reported.
    pub(super) fn record(&self, key: &str) -> Option<String> {
        if matches!(self.phase, Phase::Pending(_)) && self.last_id.is_empty() {
            return None;
        }
        let record = Record {
            key: key.to_owned(),
            kind: self.kind.name().to_owned(),
            source: self.source.clone(),
            priority: self.priority,
            message: self.message.clone(),
            active: self.is_active(),
            since: self.since,
            changed: self.changed,
            raises: self.raises.clone(),
            flapping: self.is_flapping,
            acknowledged: self.acknowledgement.clone(),
            id: self.last_id.clone(),
            state: self.last_state,
            unqueued: self.is_unqueued,
        };
        serde_json::to_string(&record).ok()
    }

    /// The key and the alert of a record; `None` where it is none, or of a kind that this version
    /// does not know.
    pub(super) fn of_record(object: &str) -> Option<(String, Entry)> {
        let record: Record = serde_json::from_str(object).ok()?;
        let entry = Entry {
            kind: Kind::parse(&record.kind)?,
            source: record.source,
            priority: record.priority,
            message: record.message,
            phase: if record.active { Phase::Active } else { Phase::Cleared },
            since: record.since,
            changed: record.changed,
            raises: record.raises,
            is_flapping: record.flapping && record.active,
            acknowledgement: record.acknowledged.filter(|_| record.active),
            is_restored: record.active,
            last_id: record.id,
            last_state: record.state,
            is_unqueued: record.unqueued,
            acknowledged_until: None,
        };
        Some((record.key, entry))
    }
}
