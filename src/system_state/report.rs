//! Results of a check: the event, the lines in the log, and the status.

use std::time::Duration;

use log::Level;
use serde_json::{Map, Value, json};

use super::gone::Gone;
use super::pool::{Essence, Pool};
use super::{Effect, SystemState};
use crate::moment::Moment;
use crate::wire::{Event, Priority, StateNews, SystemStateEvent, rfc3339};

/// Priority of a `zpool` that does not answer.
const NO_ANSWER: Priority = Priority::new(9);
/// Priority of a changed host name.
const HOSTNAME_CHANGED: Priority = Priority::new(3);
/// Minimum interval between events that differ only in the progress of a scan.
const PROGRESS: Duration = Duration::from_secs(60);
/// News above this priority is a warning in the log.
const NEWS: Priority = Priority::new(5);
/// Bytes of an event besides its pools: the frame, names, and one line of error text.
const EVENT_ROOM: usize = 8 * 1024;

/// Content of the last report: a change makes an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    hostname: String,
    /// The event had the priority of a changed host name; one without it follows at the next check.
    hostname_changed: bool,
    pub(super) pools: Option<Vec<Essence>>,
    gone: Vec<Gone>,
    last_failure: Option<String>,
    /// Progress of the scans; not compared, see [`PROGRESS`].
    progress: Progress,
}

/// The pools that are scanned, and their progress.
#[derive(Debug, Default)]
struct Progress(Vec<(String, String)>);

impl PartialEq for Progress {
    fn eq(&self, _: &Progress) -> bool {
        true
    }
}

impl Eq for Progress {}

impl Report {
    /// The differences, for the log.
    fn news(&self, before: Option<&Report>, line: impl Fn(&str) -> String) -> Vec<(Level, String)> {
        let mut news = Vec::new();
        if let Some(before) = before.filter(|before| before.hostname != self.hostname) {
            let text = format!("the host name is {:?}, was {:?}", self.hostname, before.hostname);
            news.push((Level::Warn, text));
        }
        match (before.and_then(|before| before.last_failure.as_ref()), &self.last_failure) {
            (before, Some(last_failure)) if before != Some(last_failure) => {
                news.push((Level::Error, last_failure.clone()));
            }
            (Some(_), None) => news.push((Level::Info, "zpool answers again".to_owned())),
            (Some(_) | None, _) => {}
        }
        let level = |priority| if priority > NEWS { Level::Warn } else { Level::Info };
        let was_gone = before.map_or(&[][..], |before| &before.gone);
        let before: Vec<&Essence> = before.into_iter().flat_map(Report::pools).collect();
        for pool in self.pools() {
            let known = before.iter().find(|known| known.name == pool.name);
            let known = known.copied();
            if pool.is_news(known) {
                news.push((level(pool.priority), line(&pool.name)));
            }
            if let Some(scan) = pool.scan_news(known) {
                news.push((level(pool.priority), scan));
            }
        }
        let was_gone = |gone: &&Gone| was_gone.contains(gone);
        for gone in self.gone.iter().filter(|gone| !was_gone(gone)) {
            news.push((level(gone.priority()), gone.line()));
        }
        news
    }

    fn pools(&self) -> impl Iterator<Item = &Essence> {
        self.pools.iter().flatten()
    }
}

impl SystemState {
    /// Finishes a check: publishes an event if the result changed or the report interval has
    /// elapsed.
    pub(super) fn conclude(&mut self) {
        let Some(check) = self.check.take() else { return };
        self.checks += 1;
        self.lists += 1;
        let now = Report {
            hostname: self.hostname.clone(),
            hostname_changed: check.hostname_was.is_some(),
            pools: self.essence(),
            gone: self.gone.clone(),
            last_failure: self.last_failure.clone(),
            progress: self.progress(),
        };
        let begun = check.begun.instant;
        let is_new = self.reported.as_ref() != Some(&now);
        let since = self.reported_at.map(|reported_at| begun.duration_since(reported_at));
        let has_moved =
            || self.reported.as_ref().is_some_and(|reported| reported.progress.0 != now.progress.0);
        let is_due = since.is_none_or(|since| {
            since >= self.limits.report_interval || (since >= PROGRESS && has_moved())
        });
        let is_first =
            self.reported.as_ref().is_none_or(|reported| reported.last_failure != now.last_failure);
        if is_new {
            let warning = self.limits.capacity_warning;
            let line = |name: &str| {
                let pool = self.pools.iter().flatten().find(|pool| pool.name == name);
                pool.map_or_else(String::new, |pool| pool.line(warning))
            };
            let news = now.news(self.reported.as_ref(), line);
            self.effects.extend(news.into_iter().map(|(level, text)| Effect::Say(level, text)));
        }
        if is_new || is_due {
            let event = SystemStateEvent {
                args: self.args(),
                priority: self.priority(),
                news: self.news(check.hostname_was, is_first),
            };
            self.effects.push_back(Effect::Publish(Event::SystemState(event)));
            self.gone.retain(|gone| !gone.is_settled());
            (self.reported, self.reported_at) =
                (Some(Report { gone: self.gone.clone(), ..now }), Some(begun));
        }
        self.look_after_feed(check.was_caused);
    }

    /// The part of the pools whose change makes an event.
    pub(super) fn essence(&self) -> Option<Vec<Essence>> {
        let warning = self.limits.capacity_warning;
        let pools = self.pools.as_ref()?;
        Some(pools.iter().map(|pool| pool.essence(warning)).collect())
    }

    /// News that are published once.
    fn news(&self, hostname_was: Option<String>, is_first: bool) -> StateNews {
        let mut news = StateNews::default();
        if let Some(was) = hostname_was {
            news.add("hostnamechanged", "true".into(), HOSTNAME_CHANGED);
            news.add("hostname_was", was.into(), HOSTNAME_CHANGED);
        }
        if let Some(last_failure) =
            self.last_failure.as_ref().filter(|_| self.is_refused && is_first)
        {
            news.add("zpool_error", last_failure.clone().into(), NO_ANSWER);
        }
        for gone in self.gone.iter().filter(|gone| gone.is_settled()) {
            news.add("zpools_gone", json!({ &gone.name: gone.entry() }), gone.priority());
        }
        news
    }

    fn progress(&self) -> Progress {
        let pools = self.pools.iter().flatten();
        let scanned =
            pools.filter_map(|pool| Some((pool.name.clone(), pool.progress()?.to_owned())));
        Progress(scanned.collect())
    }

    /// The highest priority of all that was found.
    pub fn priority(&self) -> Priority {
        let pools = self.pools.iter().flatten();
        let pools = pools.map(|pool| pool.priority(self.limits.capacity_warning));
        let last_failure = self.last_failure.iter().filter(|_| !self.is_refused).map(|_| NO_ANSWER);
        let gone = self.gone.iter().filter(|gone| !gone.is_settled()).map(Gone::priority);
        pools.chain(last_failure).chain(gone).max().unwrap_or(Priority::new(0))
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
        let gone = self.gone.iter().filter(|gone| !gone.is_settled());
        let gone: Map<String, Value> = gone.map(|gone| (gone.name.clone(), gone.entry())).collect();
        if !gone.is_empty() {
            args.insert("zpools_gone".into(), Value::Object(gone));
        }
        if let Some(last_failure) = &self.last_failure {
            args.insert("zpool_error".into(), last_failure.clone().into());
        }
        args
    }

    /// The JSON of the pools, and the number of those omitted for lack of room: the ones with the
    /// lowest priority.
    fn entries(&self, pools: &[Pool]) -> (Map<String, Value>, usize) {
        let warning = self.limits.capacity_warning;
        let mut entries: Vec<(&Pool, Option<Value>)> =
            pools.iter().map(|pool| (pool, None)).collect();
        let mut by_priority: Vec<&mut (&Pool, Option<Value>)> = entries.iter_mut().collect();
        by_priority.sort_by_key(|(pool, _)| std::cmp::Reverse(pool.priority(warning)));
        let mut room = self.limits.max_event.saturating_sub(EVENT_ROOM);
        for (pool, shown) in by_priority {
            // A pool without its devices is better than no pool.
            for with_devices in [true, false] {
                let (name, entry) = (pool.name.as_str(), pool.entry(warning, with_devices));
                let length = json!({ name: entry }).to_string().len();
                if length <= room {
                    room -= length;
                    *shown = Some(entry);
                    break;
                }
            }
        }
        let left_out = entries.iter().filter(|(_, entry)| entry.is_none()).count();
        (
            entries
                .into_iter()
                .filter_map(|(pool, entry)| Some((pool.name.clone(), entry?)))
                .collect(),
            left_out,
        )
    }

    /// The status: the figures, their age and their source.
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
