//! Alerts in the loop: their sources, their publication and their records.
//!
//! Sources of two kinds exist. [`SOURCES`] has those that have a state: each is observed when its
//! version changes, which costs a comparison in other turns. Facts, such as the end of a job, are
//! reported by the subsystem when they happen.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};

use super::alert_requests::Waiting;
use super::{PollToken, Server};
use crate::alerts::{AlertLimits, Alerts, Condition, Kind, PARTS, Transition};
use crate::config::{AlertPool, Config};
use crate::life_preserver::{LogTrouble, Verdict};
use crate::moment::{Budget, Moment};
use crate::rules::Class;
use crate::seal::{seal, unseal};
use crate::sys::may_block::MayBlock;
use crate::system_state::PoolFigures;
use crate::wire::{JobEvent, JobResult, Phase, Priority, rfc3339};

/// Maximum number of transitions that are published in a turn.
const TRANSITIONS: usize = 64;
/// Time limit of publishing transitions in a turn.
const PUBLISHING: Duration = Duration::from_millis(2);
/// Maximum number of alerts whose deadlines are processed in a turn.
const DEADLINES: usize = 256;
/// Maximum number of parts of the records that are written in a turn.
const WRITES: usize = 2;
/// Maximum size of one file of records, in bytes.
const LARGEST: usize = 4 * 1024 * 1024;
/// Maximum number of bytes of all alerts.
const BYTES: usize = 4 * 1024 * 1024;
/// Retry interval of records that could not be stored.
const RETRY: Duration = Duration::from_secs(5);

/// Alerts, and the state of their storage.
pub(super) struct AlertDesk {
    pub(super) alerts: Alerts,
    /// Of each source, when it was observed last.
    versions: [Option<u64>; SOURCES.len()],
    /// Parts of the records that are being stored, as bits.
    storing: u16,
    retry: Option<Instant>,
    /// The last turn, to notice jumps of the clock.
    last_turn: Option<Moment>,
    /// Clients that wait for their alerts to be durable.
    pub(super) waiting: Vec<Waiting>,
}

/// A source that has a state.
struct Source {
    /// Changes when the conditions do; `None` while nothing is known.
    version: fn(&Server, Moment) -> Option<u64>,
    observe: fn(&Server, Moment) -> Observation,
}

/// All conditions of a source.
struct Observation {
    conditions: Vec<Condition>,
    /// Alerts of these kinds without a condition are over.
    kinds: Vec<Kind>,
    /// The cause of the end of an alert, by its key.
    cause: Box<dyn Fn(&str) -> String>,
}

/// A new source with a state is one entry.
const SOURCES: [Source; 5] = [
    Source { version: pools_version, observe: pools },
    Source { version: links_version, observe: links },
    Source { version: logs_version, observe: logs },
    Source { version: store_version, observe: store },
    Source { version: certificate_version, observe: certificate },
];

fn file_of(part: usize) -> String {
    format!("alerts-{part:x}")
}

pub(super) fn limits(config: &Config) -> AlertLimits {
    let alerts = &config.alerts;
    AlertLimits {
        most: alerts.max,
        bytes: BYTES,
        most_per_user: (alerts.max / 8).max(8),
        clear_after: alerts.clear_after,
        flap_limit: alerts.flap_limit,
        flap_hold: alerts.flap_hold,
    }
}

impl AlertDesk {
    /// Restores the alerts of the daemon before this one. `run` identifies this run.
    pub(super) fn begin(config: &Config, run: &str, may_block: MayBlock, now: Moment) -> AlertDesk {
        let mut alerts = Alerts::new(limits(config), run);
        for part in 0..PARTS {
            let path = config.paths.state.join(file_of(part));
            let Some(text) = read(&path, may_block) else { continue };
            let objects: Vec<Option<String>> = text.lines().map(unseal).collect();
            let damaged = objects.iter().filter(|object| object.is_none()).count();
            let known = objects.iter().flatten().map(String::as_str);
            let unknown = alerts.restore(known, now);
            if damaged + unknown > 0 {
                let path = path.display();
                warn!("{path}: {damaged} records are damaged, {unknown} are not known; left out");
            }
        }
        let active = alerts.summary().active;
        if active > 0 {
            info!("alerts: {active} were active when the daemon before this one ended");
        }
        AlertDesk {
            alerts,
            versions: [None; SOURCES.len()],
            storing: 0,
            retry: None,
            last_turn: None,
            waiting: Vec::new(),
        }
    }

    /// Whether a part of the records differs from the stored one.
    pub(super) fn is_unstored(&self, part: usize) -> bool {
        self.storing & (1 << part) != 0 || self.alerts.has_changed(part)
    }

    /// Observes all sources in the next turn: thresholds may have changed.
    pub(super) fn configure(&mut self, config: &Config) {
        self.alerts.set_limits(limits(config));
        self.versions = [None; SOURCES.len()];
    }
}

fn read(path: &Path, _: MayBlock) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST as u64).read_to_string(&mut text));
    match read {
        Ok(_) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!("cannot read alerts: {}: {error}", path.display());
            None
        }
    }
}

fn condition(key: String, kind: Kind, source: &str, priority: u8, message: String) -> Condition {
    Condition {
        key,
        kind,
        source: source.to_owned(),
        priority: Priority::new(priority),
        message,
        raise_after: Duration::ZERO,
    }
}

impl Server {
    /// Observes sources, publishes transitions, and stores records.
    pub(super) fn run_alerts(&mut self, now: Moment) {
        self.observe_clock(now);
        for (number, source) in SOURCES.iter().enumerate() {
            let version = (source.version)(self, now);
            let seen = self.alerts.versions.get_mut(number);
            if let Some(seen) = seen
                && version.is_some()
                && *seen != version
            {
                *seen = version;
                let Observation { conditions, kinds, cause } = (source.observe)(self, now);
                let is_own = |kind, _: &str| kinds.contains(&kind);
                self.alerts.alerts.report_all(conditions, is_own, cause, now);
            }
        }
        self.alerts.alerts.on_deadline(DEADLINES, now);
        let budget = Budget::of(PUBLISHING);
        for number in 0.. {
            if number == TRANSITIONS || (number > 0 && budget.is_spent()) {
                self.reactor.again(PollToken::Alerts);
                break;
            }
            let Some(transition) = self.alerts.alerts.next_transition() else { break };
            self.publish_transition(&transition, now);
        }
        self.store_alerts(now);
        let due = [self.alerts.alerts.due(), self.alerts.retry].into_iter().flatten().min();
        self.reactor.set_deadline(PollToken::Alerts, due);
    }

    fn publish_transition(&mut self, transition: &Transition, now: Moment) {
        let Transition { key, state, priority, message, .. } = transition;
        let state = state.name();
        if *priority >= Priority::new(6) && state != "cleared" {
            warn!("alert {key:?} {state}: {message} ({priority})");
        } else {
            info!("alert {key:?} {state}: {message} ({priority})");
        }
        self.publish(transition.event(), now);
        if !self.notifications.notifier.is_off() {
            self.notifications.notifier.on_transition(transition, now);
            // The store gets the queue's record before that of the alert.
            self.carry_out_notifications(now);
        }
        self.alerts.alerts.on_queued(key, &transition.id);
    }

    /// Stores changed records, a few parts a turn, each part once at a time.
    fn store_alerts(&mut self, now: Moment) {
        if self.alerts.retry.is_some_and(|retry| retry > now.instant) {
            return;
        }
        self.alerts.retry = None;
        for number in 0.. {
            let storing = self.alerts.storing;
            let Some(part) = self.alerts.alerts.next_changed(|part| storing & (1 << part) == 0)
            else {
                break;
            };
            if number == WRITES {
                self.alerts.alerts.store_again(part);
                self.reactor.again(PollToken::Alerts);
                break;
            }
            let records: String = self.alerts.alerts.records(part).map(|it| seal(&it)).collect();
            self.alerts.storing |= 1 << part;
            self.on_alerts_sent(part);
            self.store_alert_part(part, &file_of(part), records.into_bytes(), now);
        }
    }

    /// Result of storing a part.
    pub(super) fn on_alerts_stored(
        &mut self,
        part: usize,
        stored: Result<(), String>,
        now: Moment,
    ) {
        self.alerts.storing &= !(1 << part);
        self.reply_after_store(part, &stored);
        if let Err(why) = stored {
            if self.alerts.retry.is_none() {
                warn!("cannot store alerts: {why}; a restart may repeat or forget some");
            }
            self.alerts.retry = Some(now.instant + RETRY);
            self.alerts.alerts.store_again(part);
        }
        self.reactor.again(PollToken::Alerts);
    }

    /// Compares the clocks: the wall clock must advance as the monotonic one does.
    fn observe_clock(&mut self, now: Moment) {
        let Some(last) = self.alerts.last_turn.replace(now) else { return };
        let passed = now.instant.saturating_duration_since(last.instant);
        let expected = last.wall + passed;
        let (jump, direction) = match now.wall.duration_since(expected) {
            Ok(ahead) => (ahead, "ahead"),
            Err(behind) => (behind.duration(), "back"),
        };
        if jump < self.config.alerts.clock_jump {
            return;
        }
        let (seconds, from) = (jump.as_secs(), rfc3339(expected));
        let message = format!("the clock jumped {direction} by {seconds} s, from {from}");
        let jumped = condition("clock/jumped".into(), Kind::ClockJumped, "clock", 4, message);
        self.alerts.alerts.report(jumped, now);
        self.expectations.expectations.on_clock_jump(now);
    }

    /// Informs notification of the active alerts, and of transitions that it has not taken before
    /// the daemon ended.
    pub(super) fn notify_of_active_alerts(&mut self, now: Moment) {
        if self.notifications.notifier.is_off() {
            return;
        }
        for transition in self.alerts.alerts.unqueued() {
            // Its record may have become durable before that of the alert.
            if !self.notifications.notifier.has_event(&transition.id) {
                self.notifications.notifier.on_transition(&transition, now);
            }
            self.alerts.alerts.on_queued(&transition.key, &transition.id);
        }
        // After them: a priority that has risen is news only where the alert is not known yet.
        self.notifications.notifier.set_active(&self.alerts.alerts.active(), now);
        self.carry_out_notifications(now);
    }

    /// A target of notifications fails, or accepts again.
    pub(super) fn observe_target(&mut self, target: &str, failing: Option<&str>, now: Moment) {
        let key = format!("notify/{target}/failing");
        match failing {
            Some(why) => {
                let message = format!("notifications to {target} fail: {why}");
                let failing = condition(key, Kind::NotifyFailing, "notify", 7, message);
                self.alerts.alerts.report(failing, now);
            }
            None => {
                let cause = format!("{target} accepts notifications again");
                self.alerts.alerts.resolve(&key, &cause, now);
            }
        }
        self.reactor.again(PollToken::Alerts);
    }

    /// A snapshot or a replication has ended, with this event.
    pub(super) fn observe_verdict(
        &mut self,
        verdict: Option<Verdict>,
        (priority, message): (Priority, String),
        now: Moment,
    ) {
        let Some(Verdict { class, subject, failed }) = verdict else { return };
        let kind = match class {
            Class::Snapshot => Kind::SnapshotFailed,
            Class::Replication => Kind::ReplicationFailed,
        };
        let key = format!("{}/{subject}/failed", class.name());
        if self.alerts.alerts.is_active(&format!("{}/{subject}/stale", class.name())) {
            self.expectations.expectations.request(now);
        }
        if failed {
            let source = "life-preserver".to_owned();
            let raise_after = Duration::ZERO;
            let failed = Condition { key, kind, source, priority, message, raise_after };
            self.alerts.alerts.report(failed, now);
        } else {
            self.alerts.alerts.resolve(&key, &message, now);
        }
    }

    /// A job has an event.
    pub(super) fn observe_job(&mut self, event: &JobEvent, now: Moment) {
        let Phase::Finished(finished) = &event.phase else { return };
        let (id, queue) = (&event.job.id, event.job.queue.as_deref());
        let is_named = self.config.alerts.jobs.iter().any(|pattern| pattern.matches(id));
        let queues = &self.config.dispatcher.queue;
        let key = match queue {
            _ if is_named => format!("job/{id}/failed"),
            Some(queue) if queues.iter().any(|it| it.alert && it.name == queue) => {
                format!("job/{queue}/failed")
            }
            Some(_) | None => return,
        };
        let outcome = &finished.outcome;
        let how = match outcome.result {
            Some(JobResult::Ok) => {
                let cause = format!("job {id} succeeded");
                self.alerts.alerts.resolve(&key, &cause, now);
                return;
            }
            // A person did that.
            Some(JobResult::Killed | JobResult::Cancelled) => return,
            Some(JobResult::TimedOut) => "its timeout expired".to_owned(),
            Some(JobResult::NotStartable) => "a command could not be started".to_owned(),
            Some(JobResult::Interrupted) => "the daemon ended meanwhile".to_owned(),
            Some(JobResult::Failed) | None => match (outcome.signal, outcome.exit_code) {
                (Some(signal), _) => format!("ended by signal {signal}"),
                (None, Some(code)) => format!("exit code {code}"),
                (None, None) => "no exit code".to_owned(),
            },
        };
        let command = outcome.failed_command.and_then(|at| event.job.commands.get(at));
        let command = command.map(|command| format!(": {command}")).unwrap_or_default();
        let message = format!("job {id} failed, {how}{command}");
        let failed = condition(key, Kind::JobFailed, "dispatcher", 6, message);
        self.alerts.alerts.report(failed, now);
    }
}

fn pools_version(server: &Server, _: Moment) -> Option<u64> {
    Some(server.system_state.checks()).filter(|checks| *checks > 0)
}

fn pools(server: &Server, _: Moment) -> Observation {
    let figures = server.system_state.figures();
    let mut conditions = Vec::new();
    let mut kinds = vec![Kind::ZpoolUnresponsive];
    if let Some(why) = &figures.failure {
        let key = "zpool/unresponsive".to_owned();
        let kind = Kind::ZpoolUnresponsive;
        conditions.push(condition(key, kind, "system-state", 7, why.clone()));
    }
    // After a failure the last list counts; without one, nothing is known about pools.
    if figures.pools.is_some() || figures.failure.is_none() {
        kinds.extend([Kind::PoolHealth, Kind::PoolErrors, Kind::PoolCapacity]);
    }
    let pools = figures.pools.unwrap_or_default();
    for pool in &pools {
        let name = &pool.name;
        let mut add = |what: &str, kind, priority, message| {
            let key = format!("pool/{name}/{what}");
            conditions.push(condition(key, kind, "system-state", priority, message));
        };
        if pool.priority > 0 {
            let mut message = format!("{name} is {}", pool.health);
            if let Some(why) = &pool.explanation {
                message = format!("{message}: {why}");
            }
            add("health", Kind::PoolHealth, pool.priority, message);
        }
        if let Some(errors) = &pool.errors {
            add("errors", Kind::PoolErrors, 8, format!("{name} has errors: {errors}"));
        }
        let was_full = server.alerts.alerts.is_active(&format!("pool/{name}/capacity"));
        if is_full(pool, was_full, &server.config) {
            add("capacity", Kind::PoolCapacity, 6, fill(pool));
        }
    }
    let cause = move |key: &str| {
        let name = key.strip_prefix("pool/").and_then(|rest| rest.rsplit_once('/'));
        let Some((name, what)) = name else { return "zpool answers again".to_owned() };
        match (pools.iter().find(|pool| pool.name == name), what) {
            (None, _) => format!("{name} is no longer there"),
            (Some(pool), "capacity") => fill(pool),
            (Some(_), "errors") => format!("{name} has no known errors"),
            (Some(pool), _) => format!("{name} is {}", pool.health),
        }
    };
    Observation { conditions, kinds, cause: Box::new(cause) }
}

fn fill(pool: &PoolFigures) -> String {
    let free = pool.free.map(|free| format!(", {} free", size(free))).unwrap_or_default();
    let capacity = pool.capacity.map_or("?".to_owned(), |capacity| capacity.to_string());
    format!("{} is {capacity}% full{free}", pool.name)
}

/// A size for people: `1.5 GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / 2f64.powi(*shift as i32)),
        None => format!("{bytes} B"),
    }
}

/// Whether a pool is too full: beyond the threshold at which an alert is raised, or, where it is
/// active, the one at which it is cleared.
fn is_full(pool: &PoolFigures, was_full: bool, config: &Config) -> bool {
    let alerts = &config.alerts;
    let own: Option<&AlertPool> = alerts.pool.iter().find(|it| it.pool.matches(&pool.name));
    let raise = own.and_then(|own| own.capacity_raise).unwrap_or(alerts.capacity_raise);
    let clear = own.and_then(|own| own.capacity_clear).unwrap_or(alerts.capacity_clear).min(raise);
    let (free_raise, free_clear) = own.map_or((0, 0), |own| (own.free_raise, own.free_clear));
    let limit = if was_full { clear } else { raise };
    let least = if was_full { free_clear } else { free_raise } as u64;
    pool.capacity.is_some_and(|capacity| capacity >= limit)
        || pool.free.is_some_and(|free| free < least)
}

fn links_version(server: &Server, _: Moment) -> Option<u64> {
    let version = server.links.lines.iter().fold(0u64, |version, line| {
        version
            .wrapping_mul(31)
            .wrapping_add(2 * line.number + u64::from(line.state.is_connected()))
    });
    Some(version)
}

fn links(server: &Server, _: Moment) -> Observation {
    let down = server.links.lines.iter().filter(|line| !line.state.is_connected());
    let conditions = down.map(|line| {
        let (name, url) = (&line.config.name, &line.config.url);
        let why = line.error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let message = format!("the link {name} to {url} is down{why}");
        let key = format!("link/{name}/down");
        let down = condition(key, Kind::LinkDown, "link", 5, message);
        Condition { raise_after: server.config.alerts.link_after, ..down }
    });
    let cause = |key: &str| {
        let name = key.strip_prefix("link/").and_then(|rest| rest.strip_suffix("/down"));
        format!("the link {} is connected, or no longer configured", name.unwrap_or_default())
    };
    Observation {
        conditions: conditions.collect(),
        kinds: vec![Kind::LinkDown],
        cause: Box::new(cause),
    }
}

fn logs_version(server: &Server, _: Moment) -> Option<u64> {
    server.logs.troubles_version()
}

fn logs(server: &Server, _: Moment) -> Observation {
    let conditions = server.logs.troubles().into_iter().map(|trouble| match trouble {
        LogTrouble::Unreadable(path, why) => {
            let path = path.display();
            let message = format!("{path} cannot be followed: {why}");
            let key = format!("log/{path}/unreadable");
            condition(key, Kind::LogUnreadable, "life-preserver", 6, message)
        }
        LogTrouble::Unmatched(path, lines, rules) => {
            let path = path.display();
            let message = format!("{path}: nothing in {lines} lines matched the rules {rules}");
            let key = format!("log/{path}/unmatched");
            condition(key, Kind::LogUnmatched, "life-preserver", 4, message)
        }
    });
    let cause = |key: &str| {
        let path = key.strip_prefix("log/").and_then(|rest| rest.rsplit_once('/'));
        let path = path.map_or("", |(path, _)| path);
        match key.ends_with("/unmatched") {
            true => format!("{path}: lines match the rules"),
            false => format!("{path} is followed again, or no longer configured"),
        }
    };
    Observation {
        conditions: conditions.collect(),
        kinds: vec![Kind::LogUnreadable, Kind::LogUnmatched],
        cause: Box::new(cause),
    }
}

fn store_version(server: &Server, _: Moment) -> Option<u64> {
    Some(u64::from(server.storage.store.standing().is_err()))
}

fn store(server: &Server, _: Moment) -> Observation {
    let stalled = server.storage.store.standing().err().map(|why| {
        let key = "store/stalled".to_owned();
        condition(key, Kind::StoreStalled, "store", 8, why.to_owned())
    });
    Observation {
        conditions: stalled.into_iter().collect(),
        kinds: vec![Kind::StoreStalled],
        cause: Box::new(|_| "state storage works again".to_owned()),
    }
}

/// Time left until the certificate expires.
fn left(server: &Server, now: Moment) -> Option<(Duration, SystemTime)> {
    let expires = server.tls.as_ref()?.expires?;
    Some((expires.duration_since(now.wall).unwrap_or_default(), expires))
}

const DAY: u64 = 24 * 3600;

fn certificate_version(server: &Server, now: Moment) -> Option<u64> {
    let Some((left, expires)) = left(server, now) else { return Some(0) };
    if left > server.config.alerts.certificate_before {
        return Some(1);
    }
    let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(2 + left.as_secs() / DAY + 1000 * expires.as_secs() + u64::from(left.is_zero()))
}

fn certificate(server: &Server, now: Moment) -> Observation {
    let soon = left(server, now)
        .filter(|(left, _)| *left <= server.config.alerts.certificate_before)
        .map(|(left, expires)| {
            let (file, on) = (server.config.server.certificate.display(), rfc3339(expires));
            let (priority, message) = match left.as_secs() / DAY {
                _ if left.is_zero() => (8, format!("the certificate {file} has expired on {on}")),
                days => {
                    let priority = if days < 7 { 7 } else { 5 };
                    (priority, format!("the certificate {file} expires in {days} days, on {on}"))
                }
            };
            let key = "certificate/server".to_owned();
            condition(key, Kind::CertificateExpires, "server", priority, message)
        });
    Observation {
        conditions: soon.into_iter().collect(),
        kinds: vec![Kind::CertificateExpires],
        cause: Box::new(|_| "the certificate was replaced".to_owned()),
    }
}
