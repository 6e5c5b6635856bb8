//! Pools that have disappeared, and the reason.
//!
//! `zpool history` is lost with the pool, so there are two other sources. ZFS sends an event when a
//! pool is exported or destroyed: to devd with its name, to `zpool events -H` without it. And the
//! label of each device has the last state of the pool (`POOL_STATE_EXPORTED` and so on in
//! `include/sys/fs/zfs.h`), shown by `zdb -l`; it needs neither a feed nor a ZFS with events. A
//! pool without either has vanished.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::list::quoted;
use crate::wire::Priority;

/// Why a pool disappeared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Exported,
    Destroyed,
    /// Its devices belong to a pool of another name.
    Renamed,
    /// No export, destruction or renaming is known.
    Vanished,
}

/// A pool that has disappeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) name: String,
    /// Its last known health.
    pub(super) health: String,
    was_online: bool,
    pub(super) how: Reason,
    noticed: Instant,
}

impl Gone {
    pub(super) fn new(name: &str, health: &str, was_online: bool, noticed: Instant) -> Gone {
        let (name, health) = (name.to_owned(), health.to_owned());
        Gone { name, health, was_online, how: Reason::Vanished, noticed }
    }

    /// Whether an event can still explain it: an export is announced before it is done, but the
    /// feed may be read later.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        self.how == Reason::Vanished && now.saturating_duration_since(self.noticed) <= LASTS
    }

    /// Whether the pool was taken away deliberately and was ONLINE: published once. Any other case
    /// is reported until the pool is back.
    pub(super) fn is_settled(&self) -> bool {
        self.was_online && self.how != Reason::Vanished
    }

    /// Whether the label of a device can still give the reason.
    pub(super) fn is_open(&self) -> bool {
        self.was_online && self.how == Reason::Vanished
    }

    pub(super) fn priority(&self) -> Priority {
        Priority::new(if self.is_settled() { 1 } else { 7 })
    }

    pub(super) fn how(&self) -> &'static str {
        match self.how {
            Reason::Exported => "exported",
            Reason::Destroyed => "destroyed",
            Reason::Renamed => "renamed",
            Reason::Vanished => "vanished",
        }
    }

    pub(super) fn line(&self) -> String {
        let Gone { name, health, .. } = self;
        format!(
            "pool {name:?} is gone: {}, last {}, {}",
            self.how(),
            quoted(health),
            self.priority()
        )
    }

    /// The JSON for an event.
    pub(super) fn entry(&self) -> Value {
        json!({"how": self.how(), "health": self.health, "priority": self.priority().to_string()})
    }
}

/// Parses the output of `zdb -l` for a device of a pool. `None` where it gives no reason.
pub(super) fn read_label(answer: &[u8], pool: &str) -> Option<Reason> {
    let text = String::from_utf8_lossy(answer);
    let value = |key: &str| text.lines().find_map(|line| line.trim_start().strip_prefix(key));
    let name = value("name: ")?.trim_end();
    let name = name.strip_prefix('\'').and_then(|name| name.strip_suffix('\''))?;
    match value("state: ")?.trim() {
        _ if name != pool => Some(Reason::Renamed),
        "1" => Some(Reason::Exported),
        "2" => Some(Reason::Destroyed),
        _ => None,
    }
}

/// Time for which an event explains a missing pool: an export may take time.
const LASTS: Duration = Duration::from_secs(60);
/// Maximum number of events stored.
const EVENTS: usize = 256;

/// Events about exported and destroyed pools, as reported by the feed.
#[derive(Debug, Default)]
pub(super) struct Departures(VecDeque<Departure>);

#[derive(Debug)]
struct Departure {
    how: Reason,
    /// `None` where the feed does not name the pool.
    pool: Option<String>,
    at: Instant,
}

impl Departures {
    /// Processes a line of a feed.
    pub(super) fn take(&mut self, line: &str, at: Instant) {
        // FreeBSD until 12 writes `misc.fs.zfs`, OpenZFS `sysevent.fs.zfs`.
        let words = || line.split_ascii_whitespace();
        let class = words().find(|word| word.contains(".fs.zfs.pool_"));
        let how = match class.and_then(|class| class.rsplit('_').next()) {
            Some("export") => Reason::Exported,
            Some("destroy") => Reason::Destroyed,
            Some(_) | None => return,
        };
        if self.0.len() == EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(Departure { how, pool: named(line), at });
    }

    /// Takes the event that explains why this pool is missing.
    pub(super) fn explain(&mut self, pool: &str, now: Instant) -> Option<Reason> {
        self.0.retain(|event| now.saturating_duration_since(event.at) <= LASTS);
        let by_name = self.0.iter().position(|event| event.pool.as_deref() == Some(pool));
        let at = by_name.or_else(|| self.0.iter().position(|event| event.pool.is_none()))?;
        self.0.remove(at).map(|event| event.how)
    }
}

/// The name of the pool in a line of devd: values are not quoted, so it ends where the next key
/// begins.
fn named(line: &str) -> Option<String> {
    let keys = [" pool=", " pool_name="];
    let value = keys.iter().find_map(|key| line.split_once(key)).map(|(_, value)| value)?;
    let next = |(at, _): &(usize, &str)| {
        let word = value[at + 1..].split(' ').next();
        word.is_some_and(|word| word.contains('='))
    };
    let end = value.match_indices(' ').find(next).map_or(value.trim_end().len(), |(at, _)| at);
    value.get(..end).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn departure_of_devd_explains_the_pool_it_names() {
        let now = Instant::now();
        let mut departures = Departures::default();
        for line in [
            "!system=ZFS subsystem=ZFS type=sysevent.fs.zfs.pool_export  version=0 \
             class=sysevent.fs.zfs.pool_export pool=my pool pool_guid=97 pool_state=1",
            "!system=ZFS subsystem=ZFS type=misc.fs.zfs.pool_destroy pool_name=old pool_guid=9",
            "!system=ZFS subsystem=ZFS type=sysevent.fs.zfs.pool_import  pool=other",
            "!system=ZFS subsystem=ZFS type=sysevent.fs.zfs.pool_export  pool=last",
        ] {
            departures.take(line, now);
        }
        assert_eq!(departures.explain("my", now), None);
        assert_eq!(departures.explain("my pool", now), Some(Reason::Exported));
        assert_eq!(departures.explain("my pool", now), None, "it is spent");
        assert_eq!(departures.explain("old", now), Some(Reason::Destroyed));
        assert_eq!(departures.explain("other", now), None);
        assert_eq!(departures.explain("last", now + LASTS), Some(Reason::Exported));
    }

    #[test]
    fn departure_without_a_name_explains_one_pool_for_a_minute() {
        let now = Instant::now();
        let mut departures = Departures::default();
        let line = "Nov 23 2026 18:09:22.623999690\tsysevent.fs.zfs.pool_export";
        departures.take(line, now);
        assert_eq!(departures.explain("a", now), Some(Reason::Exported));
        assert_eq!(departures.explain("b", now), None);
        departures.take(line, now);
        assert_eq!(departures.explain("a", now + LASTS + LASTS), None);
        for _ in 0..10_000 {
            departures.take(line, now);
        }
        assert_eq!(departures.0.len(), EVENTS);
    }

    #[test]
    fn label_has_the_last_state_of_a_pool() {
        // From zfs-fuse 0.7.0; OpenZFS has more lines between them.
        let label = |state: &str| {
            format!(
                "--------------------------------------------\nLABEL 0\n\
                 --------------------------------------------\n    version: 23\n    name: 'tank'\n    \
                 state: {state}\n    txg: 11\n    hostname: 'vm'\n"
            )
        };
        let read = |state: &str, pool: &str| read_label(label(state).as_bytes(), pool);
        assert_eq!(read("1", "tank"), Some(Reason::Exported));
        assert_eq!(read("2", "tank"), Some(Reason::Destroyed));
        assert_eq!(read("0", "tank"), None);
        assert_eq!(read("0", "old"), Some(Reason::Renamed));
        assert_eq!(read_label(b"failed to unpack label 0\n", "tank"), None);
        assert_eq!(read_label(b"", "tank"), None);
    }
}
