//! Expectations: silence that is an alert.
//!
//! For snapshots and received datasets ZFS itself is asked: the output of `zfs list` is parsed as it
//! arrives, and one small record of each expected dataset remains. Jobs and `emit` report their
//! successes; the times of the last ones are stored, so that a restart does not begin anew.
//!
//! Without I/O: arguments, output and the time come in; arguments of a command, and conditions for
//! [`Alerts`], go out. All work is done in slices of a [`Budget`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::entry::{seconds, shown, time};
use super::{Alerts, Condition, Kind};
use crate::glob::Glob;
use crate::moment::{Budget, Moment};
use crate::wire::Priority;

/// Subject of an expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The newest snapshot of each dataset that matches.
    Snapshot(Glob),
    /// The same of received datasets.
    Replication(Glob),
    /// A job that succeeds, by its id.
    Job(Glob),
    /// An `emit` that reports success, by its key.
    Emit(String),
}

/// One expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Its subject.
    pub subject: Subject,
    /// Maximum time between two of them.
    pub every: Duration,
    /// Additional time until an alert is raised.
    pub grace: Duration,
    /// Priority of the alert.
    pub priority: Priority,
}

impl Expectation {
    /// Seconds after which it is not met.
    fn limit(&self) -> u64 {
        self.every.as_secs().saturating_add(self.grace.as_secs())
    }

    fn condition(&self, key: String, kind: Kind, message: String) -> Condition {
        Condition {
            key,
            kind,
            source: "expect".to_owned(),
            priority: self.priority,
            message,
            raise_after: Duration::ZERO,
        }
    }
}

/// Minimum pause between two checks that ZFS events request.
const PAUSE: Duration = Duration::from_secs(5);
/// A check may take this part of the time at most.
const SHARE: u32 = 20;
/// Maximum length of a line; longer ones are skipped.
const LINE: usize = 1024;
/// Maximum number of datasets; further ones are not checked, which is an alert.
const DATASETS: usize = 65_536;
/// Datasets that are evaluated between two looks at the budget.
const SLICE: usize = 16;
const NONE: u8 = u8::MAX;
const ZFS: &str = "zfs/unresponsive";

/// A dataset that is expected to have new snapshots. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Dataset {
    newest: u32,
    /// The check that saw it last.
    round: u32,
    /// Index of the expectations, or [`NONE`].
    snapshot: u8,
    replication: u8,
}

/// State of the check.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// The next one begins at its time.
    Idle,
    /// `zfs` runs since then.
    Reading(Instant),
    /// Its output was read; the datasets behind this name are to be evaluated.
    Evaluating(String),
}

/// All expectations.
#[derive(Debug)]
pub struct Expectations {
    list: Vec<Expectation>,
    /// Of jobs and `emit`: the time of the last success, or since when one is expected.
    last: BTreeMap<String, u64>,
    /// `last` has changed since it was stored.
    changed: bool,
    interval: Duration,
    datasets: BTreeMap<Box<str>, Dataset>,
    round: u32,
    stage: Stage,
    /// The incomplete last line.
    rest: Vec<u8>,
    /// The rest of a long line is skipped.
    skips: bool,
    /// The dataset of the last line: most lines belong to the same one as the line before.
    current: Option<Box<str>>,
    current_newest: u32,
    next: Option<Instant>,
    /// No check begins before.
    not_before: Instant,
    /// When a dataset that is up to date would no longer be.
    next_stale: u64,
    /// More datasets match than are checked.
    too_many: bool,
    /// Jobs and `emit` are evaluated then.
    facts_due: Option<Instant>,
}

fn last_key(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Job(glob) => Some(format!("job/{glob}")),
        Subject::Emit(key) => Some(format!("emit/{key}")),
        Subject::Snapshot(_) | Subject::Replication(_) => None,
    }
}

impl Expectations {
    /// Begins with these expectations. `memory` is the result of [`Expectations::memory`] of an
    /// earlier run; without it all times begin now.
    pub fn new(
        list: Vec<Expectation>,
        interval: Duration,
        memory: Option<&str>,
        now: Moment,
    ) -> Expectations {
        let memory: Map<String, Value> =
            memory.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let last = memory.iter().filter_map(|(key, at)| Some((key.clone(), at.as_u64()?)));
        let mut expectations = Expectations {
            list: Vec::new(),
            last: last.collect(),
            changed: false,
            interval,
            datasets: BTreeMap::new(),
            round: 0,
            stage: Stage::Idle,
            rest: Vec::new(),
            skips: false,
            current: None,
            current_newest: 0,
            next: None,
            not_before: now.instant,
            next_stale: u64::MAX,
            too_many: false,
            facts_due: None,
        };
        expectations.configure(list, interval, now);
        expectations
    }

    /// Applies another configuration; expectations that remain are not begun anew.
    pub fn configure(&mut self, list: Vec<Expectation>, interval: Duration, now: Moment) {
        (self.list, self.interval) = (list, interval);
        self.datasets.clear();
        let at = seconds(now.wall);
        let wanted: Vec<String> = self.list.iter().filter_map(|it| last_key(&it.subject)).collect();
        let before = self.last.len();
        self.last.retain(|key, _| wanted.contains(key));
        self.changed |= self.last.len() != before;
        for key in wanted {
            self.changed |= !self.last.contains_key(&key);
            // A time in the future would be met for too long.
            let last = self.last.entry(key).or_insert(at);
            *last = (*last).min(at);
        }
        self.next = Some(now.instant);
        self.facts_due = Some(now.instant);
    }

    /// Whether ZFS is to be asked at all.
    fn needs_zfs(&self) -> bool {
        self.list
            .iter()
            .any(|it| matches!(it.subject, Subject::Snapshot(_) | Subject::Replication(_)))
    }

    /// The times to be stored, if they have changed since the last call.
    pub fn memory(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let memory: Map<String, Value> =
            self.last.iter().map(|(key, at)| (key.clone(), (*at).into())).collect();
        Some(Value::Object(memory).to_string())
    }

    /// Storing them has failed.
    pub fn store_again(&mut self) {
        self.changed = true;
    }

    /// When [`Expectations::run`] and [`Expectations::next_check`] must be called.
    pub fn due(&self) -> Option<Instant> {
        let check = match self.stage {
            Stage::Idle if self.needs_zfs() => self.next.map(|next| next.max(self.not_before)),
            Stage::Idle | Stage::Reading(_) | Stage::Evaluating(_) => None,
        };
        [check, self.facts_due].into_iter().flatten().min()
    }

    /// Requests a check: something has happened to ZFS.
    pub fn request(&mut self, now: Moment) {
        let soon = self.not_before.max(now.instant);
        self.next = self.next.map(|next| next.min(soon));
    }

    /// The clock has jumped: all deadlines are to be computed anew.
    pub fn on_clock_jump(&mut self, now: Moment) {
        self.facts_due = Some(now.instant);
        self.next = Some(now.instant);
    }

    /// Begins a check that is due: the arguments for `zfs`.
    pub fn next_check(&mut self, now: Moment) -> Option<Vec<String>> {
        let is_due = self.next.is_some_and(|next| next.max(self.not_before) <= now.instant);
        if self.stage != Stage::Idle || !self.needs_zfs() || !is_due {
            return None;
        }
        self.stage = Stage::Reading(now.instant);
        self.round = self.round.wrapping_add(1);
        self.rest.clear();
        (self.skips, self.too_many) = (false, false);
        (self.current, self.current_newest) = (None, 0);
        let words = ["list", "-Hp", "-t", "filesystem,volume,snapshot", "-o", "name,creation"];
        Some(words.map(str::to_owned).to_vec())
    }

    /// Whether a check is in progress.
    pub fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Reading(_))
    }

    /// Standard output of `zfs`.
    pub fn printed(&mut self, bytes: &[u8]) {
        if !self.is_reading() {
            return;
        }
        let mut bytes = bytes;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = bytes.split_at(end);
            if std::mem::take(&mut self.skips) {
                // The end of a long line.
            } else if self.rest.is_empty() {
                self.take_line(line);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.take_line(&whole);
                whole.clear();
                self.rest = whole;
            }
            bytes = behind.get(1..).unwrap_or_default();
        }
        if self.rest.len() + bytes.len() > LINE {
            (self.skips, self.rest) = (true, Vec::new());
        } else if !self.skips {
            self.rest.extend_from_slice(bytes);
        }
    }

    /// `NAME\tCREATION`, the time in seconds since 1970.
    fn take_line(&mut self, line: &[u8]) {
        let Ok(line) = std::str::from_utf8(line) else { return };
        let Some((name, creation)) = line.split_once('\t') else { return };
        let Ok(creation) = creation.trim().parse::<u64>() else { return };
        let creation = u32::try_from(creation).unwrap_or(u32::MAX);
        let dataset = name.split('@').next().unwrap_or_default();
        if self.current.as_deref() != Some(dataset) {
            self.end_dataset();
            self.current = Some(dataset.into());
        }
        // The dataset's own time counts while it has no snapshot.
        self.current_newest = self.current_newest.max(creation);
    }

    /// Stores the newest snapshot of the dataset whose lines were read.
    fn end_dataset(&mut self) {
        let newest = std::mem::take(&mut self.current_newest);
        let Some(name) = self.current.take() else { return };
        if let Some(known) = self.datasets.get_mut(&name) {
            // Snapshots of one dataset may stand apart.
            known.newest =
                if known.round == self.round { known.newest.max(newest) } else { newest };
            known.round = self.round;
            return;
        }
        let find = |wanted: fn(&Subject) -> Option<&Glob>| {
            let matches = |it: &Expectation| wanted(&it.subject).is_some_and(|g| g.matches(&name));
            let found = self.list.iter().position(matches);
            found.and_then(|at| u8::try_from(at).ok()).unwrap_or(NONE)
        };
        let (snapshot, replication) = (find(snapshot_of), find(replication_of));
        if snapshot == NONE && replication == NONE {
            return;
        }
        if self.datasets.len() >= DATASETS {
            self.too_many = true;
            return;
        }
        let round = self.round;
        self.datasets.insert(name, Dataset { newest, round, snapshot, replication });
    }

    /// `zfs` has ended; an error says why its output is not complete.
    pub fn ended(&mut self, result: Result<(), String>, alerts: &mut Alerts, now: Moment) {
        let Stage::Reading(since) = self.stage else { return };
        let took = now.instant.saturating_duration_since(since);
        self.not_before = now.instant + PAUSE.min(self.interval).max(took * SHARE);
        self.next = Some(since + self.interval);
        match result {
            Ok(()) => {
                self.end_dataset();
                alerts.resolve(ZFS, "zfs list answers again", now);
                self.next_stale = u64::MAX;
                self.stage = Stage::Evaluating(String::new());
            }
            Err(why) => {
                let message = format!("cannot check snapshots: zfs list {why}");
                alerts.report(
                    Condition {
                        key: ZFS.to_owned(),
                        kind: Kind::ZfsUnresponsive,
                        source: "expect".to_owned(),
                        priority: Priority::new(7),
                        message,
                        raise_after: Duration::ZERO,
                    },
                    now,
                );
                self.stage = Stage::Idle;
            }
        }
    }

    /// A job with this id has succeeded.
    pub fn on_job(&mut self, id: &str, alerts: &mut Alerts, now: Moment) {
        let met = |subject: &Subject| matches!(subject, Subject::Job(glob) if glob.matches(id));
        self.on_success(met, &format!("job {id} succeeded"), alerts, now);
    }

    /// An `emit` with this key has reported success.
    pub fn on_emit(&mut self, key: &str, alerts: &mut Alerts, now: Moment) {
        let met = |subject: &Subject| matches!(subject, Subject::Emit(of) if of == key);
        self.on_success(met, &format!("{key} was reported"), alerts, now);
    }

    fn on_success(
        &mut self,
        met: impl Fn(&Subject) -> bool,
        cause: &str,
        alerts: &mut Alerts,
        now: Moment,
    ) {
        for expectation in self.list.iter().filter(|it| met(&it.subject)) {
            let Some(key) = last_key(&expectation.subject) else { continue };
            alerts.resolve(&format!("{key}/stale"), cause, now);
            self.last.insert(key, seconds(now.wall));
            self.changed = true;
            self.facts_due = Some(now.instant);
        }
    }

    /// Evaluates what is due, until `budget` is spent. True where there is more to do.
    pub fn run(&mut self, alerts: &mut Alerts, budget: Budget, now: Moment) -> bool {
        if self.facts_due.is_some_and(|due| due <= now.instant) {
            self.evaluate_facts(alerts, now);
        }
        let Stage::Evaluating(after) = &mut self.stage else { return false };
        let mut after = std::mem::take(after);
        loop {
            use std::ops::Bound::{Excluded, Unbounded};
            let rest = self.datasets.range::<str, _>((Excluded(after.as_str()), Unbounded));
            let slice: Vec<(Box<str>, Dataset)> =
                rest.take(SLICE).map(|(name, dataset)| (name.clone(), *dataset)).collect();
            let Some((last, _)) = slice.last() else { break };
            after = last.to_string();
            for (name, dataset) in slice {
                self.evaluate(&name, dataset, alerts, now);
            }
            if budget.is_spent() {
                self.stage = Stage::Evaluating(after);
                return true;
            }
        }
        self.stage = Stage::Idle;
        self.evaluate_patterns(alerts, now);
        if self.next_stale != u64::MAX {
            let left = time(self.next_stale).duration_since(now.wall).unwrap_or_default();
            let soon = now.instant + left + Duration::from_secs(1);
            self.next = self.next.map(|next| next.min(soon));
        }
        false
    }

    fn evaluate(&mut self, name: &str, dataset: Dataset, alerts: &mut Alerts, now: Moment) {
        let at = seconds(now.wall);
        let is_there = dataset.round == self.round;
        if !is_there {
            self.datasets.remove(name);
        }
        let kinds = [
            (dataset.snapshot, "snapshot", Kind::SnapshotStale, Kind::SnapshotMissing),
            (dataset.replication, "replication", Kind::ReplicationStale, Kind::ReplicationMissing),
        ];
        for (index, class, stale, missing) in kinds {
            let Some(expectation) = self.list.get(usize::from(index)) else { continue };
            let stale_key = format!("{class}/{name}/stale");
            let missing_key = format!("{class}/{name}/missing");
            if !is_there {
                alerts.resolve(&stale_key, &format!("{name} has vanished"), now);
                let message = format!("the dataset {name} has vanished");
                alerts.report(expectation.condition(missing_key, missing, message), now);
                continue;
            }
            alerts.resolve(&missing_key, &format!("{name} is there"), now);
            let newest = u64::from(dataset.newest);
            let due = newest.saturating_add(expectation.limit());
            if due < at {
                let every = span(expectation.every);
                let since = shown(newest);
                let message =
                    format!("{name} has no snapshot since {since}, expected every {every}");
                alerts.report(expectation.condition(stale_key, stale, message), now);
            } else {
                self.next_stale = self.next_stale.min(due);
                let cause = format!("{name} has a snapshot of {}", shown(newest));
                alerts.resolve(&stale_key, &cause, now);
            }
        }
    }

    /// After all datasets: patterns without a dataset, and alerts of datasets that are not expected.
    fn evaluate_patterns(&mut self, alerts: &mut Alerts, now: Moment) {
        let mut unmatched: Vec<String> = Vec::new();
        for (index, expectation) in self.list.iter().enumerate() {
            let (glob, class, kind) = match &expectation.subject {
                Subject::Snapshot(glob) => (glob, "snapshot", Kind::SnapshotMissing),
                Subject::Replication(glob) => (glob, "replication", Kind::ReplicationMissing),
                Subject::Job(_) | Subject::Emit(_) => continue,
            };
            let uses = |dataset: &Dataset| {
                let of = if class == "snapshot" { dataset.snapshot } else { dataset.replication };
                usize::from(of) == index
            };
            // Datasets of a pattern may all belong to an earlier one.
            let is_matched = self.datasets.values().any(uses)
                || self.datasets.keys().any(|name| glob.matches(name));
            if is_matched {
                continue;
            }
            let key = format!("{class}/{glob}/missing");
            let message = match glob.exact() {
                Some(name) => format!("there is no dataset {name}"),
                None => format!("no dataset matches {glob}"),
            };
            unmatched.push(key.clone());
            alerts.report(expectation.condition(key, kind, message), now);
        }
        let too_many = "snapshot/too-many/missing";
        if self.too_many {
            unmatched.push(too_many.to_owned());
            let message =
                format!("more than {DATASETS} datasets are expected; the others are not checked");
            alerts.report(
                Condition {
                    key: too_many.to_owned(),
                    kind: Kind::SnapshotMissing,
                    source: "expect".to_owned(),
                    priority: Priority::new(6),
                    message,
                    raise_after: Duration::ZERO,
                },
                now,
            );
        }
        for kind in [
            Kind::SnapshotStale,
            Kind::SnapshotMissing,
            Kind::ReplicationStale,
            Kind::ReplicationMissing,
        ] {
            for (key, is_acknowledged) in alerts.active_of_kind(kind) {
                let Some((name, _)) = key.split_once('/').and_then(|(_, it)| it.rsplit_once('/'))
                else {
                    continue;
                };
                let is_missing = matches!(kind, Kind::SnapshotMissing | Kind::ReplicationMissing);
                let is_known = self.datasets.contains_key(name);
                let wanted = match kind {
                    Kind::SnapshotStale | Kind::SnapshotMissing => snapshot_of,
                    _ => replication_of,
                };
                let is_wanted = self
                    .list
                    .iter()
                    .any(|it| wanted(&it.subject).is_some_and(|glob| glob.matches(name)));
                let is_pattern = self
                    .list
                    .iter()
                    .any(|it| wanted(&it.subject).is_some_and(|glob| glob.as_str() == name));
                let cause = match (is_missing, is_known) {
                    _ if unmatched.contains(&key) => continue,
                    (true, false) if is_pattern => "a dataset matches",
                    (_, _) if !is_wanted => "it is no longer expected",
                    (true, false) if is_acknowledged => "acknowledged: it is no longer expected",
                    (true, false) => continue,
                    (true, true) => "it is there",
                    (false, true) => continue,
                    (false, false) => "the dataset is gone",
                };
                alerts.resolve(&key, cause, now);
            }
        }
    }

    /// Jobs and `emit`.
    fn evaluate_facts(&mut self, alerts: &mut Alerts, now: Moment) {
        let at = seconds(now.wall);
        let mut next: Option<u64> = None;
        for expectation in &self.list {
            let Some(key) = last_key(&expectation.subject) else { continue };
            let last = self.last.get(&key).copied().unwrap_or(at);
            let due = last.saturating_add(expectation.limit());
            let stale_key = format!("{key}/stale");
            if due > at {
                next = Some(next.map_or(due, |next| next.min(due)));
                // Where the configuration allows more time than before.
                alerts.resolve(&stale_key, "it is not overdue", now);
                continue;
            }
            let (every, since) = (span(expectation.every), shown(last));
            let (kind, message) = match &expectation.subject {
                Subject::Job(glob) => {
                    let what = format!("no job {glob} has succeeded since {since}");
                    (Kind::JobStale, what)
                }
                Subject::Emit(key) => {
                    (Kind::EmitStale, format!("{key} was not reported since {since}"))
                }
                Subject::Snapshot(_) | Subject::Replication(_) => continue,
            };
            let message = format!("{message}, expected every {every}");
            alerts.report(expectation.condition(stale_key, kind, message), now);
        }
        for kind in [Kind::JobStale, Kind::EmitStale] {
            for (key, _) in alerts.active_of_kind(kind) {
                let is_wanted =
                    key.strip_suffix("/stale").is_some_and(|of| self.last.contains_key(of));
                if !is_wanted {
                    alerts.resolve(&key, "it is no longer expected", now);
                }
            }
        }
        self.facts_due =
            next.map(|due| now.instant + time(due).duration_since(now.wall).unwrap_or_default());
    }

    /// Number of datasets that are checked.
    pub fn datasets(&self) -> usize {
        self.datasets.len()
    }
}

fn snapshot_of(subject: &Subject) -> Option<&Glob> {
    match subject {
        Subject::Snapshot(glob) => Some(glob),
        Subject::Replication(_) | Subject::Job(_) | Subject::Emit(_) => None,
    }
}

fn replication_of(subject: &Subject) -> Option<&Glob> {
    match subject {
        Subject::Replication(glob) => Some(glob),
        Subject::Snapshot(_) | Subject::Job(_) | Subject::Emit(_) => None,
    }
}

/// A time span as in the configuration: `1h`.
fn span(span: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(24 * 3600, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let seconds = span.as_secs();
    let unit = UNITS.iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    unit.map_or("0s".to_owned(), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests;
