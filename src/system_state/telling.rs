//! What is told of a check: the event, the lines in the log, and what a status says.

use log::Level;
use serde_json::{Map, Value, json};

use super::pool::{Essence, Pool};
use super::{Effect, SystemState};
use crate::moment::Moment;
use crate::wire::{Event, Priority, SystemStateEvent, rfc3339};

/// What `zpool` counts for when it does not answer.
const TROUBLE: Priority = Priority::new(9);
/// What matters more than this is a warning in the log.
const NEWS: Priority = Priority::new(5);
/// Bytes of an event beside its pools: the frame around it, names, and a line of trouble.
const EVENT_ROOM: usize = 8 * 1024;

/// What was told last: another value makes an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    hostname: String,
    pub(super) pools: Option<Vec<Essence>>,
    trouble: Option<String>,
}

impl Told {
    /// What is different, for the log.
    fn news(&self, before: Option<&Told>) -> Vec<(Level, String)> {
        let mut news = Vec::new();
        if let Some(before) = before.filter(|before| before.hostname != self.hostname) {
            let text = format!("the host name is {:?}, was {:?}", self.hostname, before.hostname);
            news.push((Level::Warn, text));
        }
        match (before.and_then(|before| before.trouble.as_ref()), &self.trouble) {
            (before, Some(trouble)) if before != Some(trouble) => {
                news.push((Level::Error, trouble.clone()));
            }
            (Some(_), None) => news.push((Level::Info, "zpool answers again".to_owned())),
            (Some(_) | None, _) => {}
        }
        let before: Vec<&Essence> = before.into_iter().flat_map(Told::pools).collect();
        for pool in self.pools() {
            let known = before.iter().find(|known| known.name == pool.name);
            if known.is_none_or(|known| !known.is_as_well_as(pool)) {
                let level = if pool.priority > NEWS { Level::Warn } else { Level::Info };
                news.push((level, pool.line()));
            }
        }
        for pool in before {
            if !self.pools().any(|known| known.name == pool.name) {
                news.push((Level::Info, format!("pool {:?} is gone", pool.name)));
            }
        }
        news
    }

    fn pools(&self) -> impl Iterator<Item = &Essence> {
        self.pools.iter().flatten()
    }
}

impl SystemState {
    /// A check is over: what came of it is told, if it is new or was not told for long.
    pub(super) fn conclude(&mut self) {
        let Some(check) = self.check.take() else { return };
        self.checks += 1;
        self.lists += 1;
        let now = Told {
            hostname: self.hostname.clone(),
            pools: self.essence(),
            trouble: self.trouble.clone(),
        };
        let begun = check.begun.instant;
        let is_new = self.told.as_ref() != Some(&now);
        let is_due = self
            .told_at
            .is_none_or(|told_at| begun.duration_since(told_at) >= self.limits.report_interval);
        if is_new {
            let news = now.news(self.told.as_ref());
            self.effects.extend(news.into_iter().map(|(level, text)| Effect::Say(level, text)));
        }
        if is_new || is_due {
            let event = SystemStateEvent {
                args: self.args(),
                priority: self.priority(),
                hostname_changed: check.hostname_changed,
            };
            self.effects.push_back(Effect::Publish(Event::SystemState(event)));
            (self.told, self.told_at) = (Some(now), Some(begun));
        }
        self.look_after_feed(check.was_caused);
    }

    /// What of the pools makes an event when it changes.
    pub(super) fn essence(&self) -> Option<Vec<Essence>> {
        let warning = self.limits.capacity_warning;
        let pools = self.pools.as_ref()?;
        Some(pools.iter().map(|pool| pool.essence(warning)).collect())
    }

    /// The highest of all that was found.
    pub fn priority(&self) -> Priority {
        let pools = self.pools.iter().flatten();
        let pools = pools.map(|pool| pool.priority(self.limits.capacity_warning));
        let trouble = self.trouble.iter().map(|_| TROUBLE);
        pools.chain(trouble).max().unwrap_or(Priority::new(0))
    }

    fn args(&self) -> Map<String, Value> {
        let mut args = Map::new();
        args.insert("hostname".into(), self.hostname.clone().into());
        if let Some(pools) = &self.pools {
            let (entries, left_out) = self.entries(pools);
            args.insert("zpools".into(), Value::Object(entries));
            if left_out > 0 {
                args.insert("zpools_left_out".into(), left_out.to_string().into());
            }
        }
        if let Some(trouble) = &self.trouble {
            args.insert("zpool_error".into(), trouble.clone().into());
        }
        args
    }

    /// Pools as an event has them, and how many it has no room for: those that matter least.
    fn entries(&self, pools: &[Pool]) -> (Map<String, Value>, usize) {
        let warning = self.limits.capacity_warning;
        let mut by_priority: Vec<usize> = (0..pools.len()).collect();
        by_priority.sort_by_key(|at| std::cmp::Reverse(pools[*at].priority(warning)));
        let mut room = self.limits.max_event.saturating_sub(EVENT_ROOM);
        let mut entries: Vec<Option<Value>> = vec![None; pools.len()];
        for at in by_priority {
            let (name, entry) = (pools[at].name.as_str(), pools[at].entry(warning));
            let length = json!({ name: entry }).to_string().len();
            if length <= room {
                room -= length;
                entries[at] = Some(entry);
            }
        }
        let left_out = entries.iter().filter(|entry| entry.is_none()).count();
        let named = pools.iter().zip(entries);
        (named.filter_map(|(pool, entry)| Some((pool.name.clone(), entry?))).collect(), left_out)
    }

    /// What a status tells: the figures, how old they are, and where they came from.
    pub fn status(&self, now: Moment) -> Value {
        let mut status = self.args();
        status.remove("hostname");
        let read = self.read.as_ref();
        let age = read.map(|read| now.instant.saturating_duration_since(read.instant).as_secs());
        let more: [(&str, Value); 7] = [
            ("priority", self.priority().to_string().into()),
            ("source", read.map(|_| "zpool list").into()),
            ("read", read.map(|read| rfc3339(read.wall)).into()),
            ("age", age.into()),
            ("interval", self.limits.interval.as_secs_f64().into()),
            ("woken_by", self.woken_by().into()),
            ("checks", self.checks.into()),
        ];
        status.extend(more.map(|(key, value)| (key.to_owned(), value)));
        Value::Object(status)
    }
}
