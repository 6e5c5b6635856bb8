//! One pool: what `zpool` says of it, and how much that matters.

use serde_json::{Map, Value};

use super::columns::{CAPACITY, HEALTH};
use crate::wire::{Priority, decimal};

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) name: String,
    /// By the keys of an event, as `zpool list` prints them.
    pub(super) cells: Vec<(&'static str, String)>,
    /// What `zpool status -x` says is wrong with it, on one line.
    pub(super) status: Option<String>,
}

/// What of a pool makes an event when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Essence {
    pub(super) name: String,
    health: String,
    capacity: String,
    status: Option<String>,
    pub(super) priority: Priority,
}

impl Essence {
    /// Nothing has changed but how full it is, and that not over the limit.
    pub(super) fn is_as_well_as(&self, other: &Essence) -> bool {
        self.health == other.health
            && self.priority == other.priority
            && self.status == other.status
    }

    /// For the log.
    pub(super) fn line(&self) -> String {
        let Essence { name, health, capacity, status, priority } = self;
        let status = status.as_ref().map_or(String::new(), |status| format!(": {status}"));
        format!("pool {name:?} is {health}, {capacity} full, {priority}{status}")
    }
}

const FINE: &str = "ONLINE";
const SUSPENDED: &str = "SUSPENDED";

impl Pool {
    fn cell(&self, key: &str) -> &str {
        self.cells.iter().find(|(of, _)| *of == key).map_or("", |(_, cell)| cell)
    }

    pub(super) fn health(&self) -> &str {
        self.cell(HEALTH)
    }

    /// Its devices do not answer, and whoever touches its files waits.
    pub(super) fn is_suspended(&self) -> bool {
        self.health() == SUSPENDED
    }

    /// By the table of protocol section 2.3; `warning` in per cent.
    pub(super) fn priority(&self, warning: usize) -> Priority {
        // A pool that cannot be opened has no capacity.
        let capacity = per_cent(self.cell(CAPACITY)).unwrap_or(0);
        Priority::new(if self.health() != FINE {
            9
        } else if self.status.is_some() {
            7
        } else if capacity > warning {
            6
        } else {
            0
        })
    }

    pub(super) fn essence(&self, warning: usize) -> Essence {
        Essence {
            name: self.name.clone(),
            health: self.health().to_owned(),
            capacity: self.cell(CAPACITY).to_owned(),
            status: self.status.clone(),
            priority: self.priority(warning),
        }
    }

    /// As it stands in an event.
    pub(super) fn entry(&self, warning: usize) -> Value {
        let cells = self.cells.iter().map(|(key, cell)| ((*key).to_owned(), cell.clone().into()));
        let mut entry: Map<String, Value> = cells.collect();
        if let Some(status) = &self.status {
            entry.insert("status".into(), status.clone().into());
        }
        entry.insert("priority".into(), self.priority(warning).to_string().into());
        Value::Object(entry)
    }
}

/// Reads `12%`.
pub(super) fn per_cent(text: &str) -> Option<usize> {
    decimal(text.strip_suffix('%')?)
}
