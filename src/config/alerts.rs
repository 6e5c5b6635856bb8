//! `[alerts]`, `[[alerts.pool]]` and `[[expect]]`: thresholds of alerts, and expectations.

use std::time::Duration;

use super::Config;
use super::reader::Reader;
use super::section::Section;
use super::units::{DAY, HOUR, MINUTE, show_size};
use super::values::{boolean, count, duration, size, text};
use crate::glob::Glob;

/// `[alerts]`: alerts, their damping and thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// Maximum number of alerts, those cleared in the last day included; beyond it the ones with
    /// the lowest priority are only counted. Range 16 to 16384. Default 4096.
    pub max: usize,
    /// Time for which an observed condition must be over until its alert is cleared, 0 s to 1 d.
    /// Default 1 min.
    pub clear_after: Duration,
    /// Number of raises in an hour beyond which an alert counts as flapping, 1 to 1000: then it is
    /// reported once, until it has been steady. Default 3.
    pub flap_limit: usize,
    /// Time without a change after which a flapping alert is steady, 1 s to 1 d. Default 15 min.
    pub flap_hold: Duration,
    /// Used space of a pool in per cent at which an alert is raised, 1 to 100. Default 90.
    pub capacity_raise: usize,
    /// Used space of a pool in per cent below which that alert is cleared, 1 to 100, at most
    /// `capacity_raise`. Default 88.
    pub capacity_clear: usize,
    /// Patterns for ids of jobs, at most 64: a failure of such a job is an alert, until a job of
    /// the same id succeeds. Default: none.
    pub jobs: Vec<Glob>,
    /// Time for which a link to a relay must be down until an alert is raised, 0 s to 1 d. Default
    /// 5 min.
    pub link_after: Duration,
    /// Time before the expiry of the server's certificate at which an alert is raised, 0 s to
    /// 365 d. Default 30 d.
    pub certificate_before: Duration,
    /// Smallest jump of the clock that is an alert, 1 s to 1 d. Default 1 min.
    pub clock_jump: Duration,
    /// Whether the role `read` suffices to acknowledge alerts. Default: no.
    pub read_may_acknowledge: bool,
    /// Interval between two checks of expectations for snapshots and replications, 100 ms to 1 d.
    /// Default 5 min.
    pub expect_interval: Duration,
    /// Time limit of one `zfs list`, 10 ms to 1 h. Default 60 s.
    pub zfs_deadline: Duration,
    /// `[[alerts.pool]]`, at most 64: thresholds of single pools; the first one whose pattern
    /// matches is used. Default: none.
    pub pool: Vec<AlertPool>,
}

/// `[[alerts.pool]]`: thresholds of a pool. `pool` is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertPool {
    /// Pattern for the name of the pool.
    pub pool: Glob,
    /// As in `[alerts]`; defaults to that.
    pub capacity_raise: Option<usize>,
    /// As in `[alerts]`; defaults to that, and to `capacity_raise` where that is less.
    pub capacity_clear: Option<usize>,
    /// Free space below which an alert is raised too, 0 for none. Default: none.
    pub free_raise: usize,
    /// Free space from which on that alert is cleared, at least `free_raise`. Default:
    /// `free_raise`.
    pub free_clear: usize,
}

/// Subject of an expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The newest snapshot of each dataset.
    Snapshot(Glob),
    /// The same of each received dataset.
    Replication(Glob),
    /// A job of such an id that succeeds.
    Job(Glob),
    /// An `emit --ok` with this key.
    Emit(String),
}

/// `[[expect]]`: silence that is an alert. One of `snapshot`, `replication`, `job` and `emit` is
/// needed, and `every`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Its subject.
    pub of: Expected,
    /// Maximum time between two of them, 1 s to 365 d.
    pub every: Duration,
    /// Additional time until the alert is raised, 0 s to 365 d. Default 0 s.
    pub grace: Duration,
    /// Priority of the alert, 0 to 10. Default 7.
    pub priority: usize,
}

pub(super) fn defaults() -> Alerts {
    Alerts {
        max: 4096,
        clear_after: MINUTE,
        flap_limit: 3,
        flap_hold: 15 * MINUTE,
        capacity_raise: 90,
        capacity_clear: 88,
        jobs: Vec::new(),
        link_after: 5 * MINUTE,
        certificate_before: 30 * DAY,
        clock_jump: MINUTE,
        read_may_acknowledge: false,
        expect_interval: 5 * MINUTE,
        zfs_deadline: MINUTE,
        pool: Vec::new(),
    }
}

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Far beyond any pool, in bytes.
const LARGEST: usize = 1 << 60;

pub(super) fn read(mut section: Section<'_, '_>, config: &mut Config) {
    let alerts = &mut config.alerts;
    section.key("max", &mut alerts.max, count(16..=16384));
    section.key("clear_after", &mut alerts.clear_after, duration(Duration::ZERO..=DAY));
    section.key("flap_limit", &mut alerts.flap_limit, count(1..=1000));
    section.key("flap_hold", &mut alerts.flap_hold, duration(SECOND..=DAY));
    section.key("capacity_raise", &mut alerts.capacity_raise, count(1..=100));
    section.key("capacity_clear", &mut alerts.capacity_clear, count(1..=100));
    section.list("jobs", &mut alerts.jobs, text(pattern));
    section.key("link_after", &mut alerts.link_after, duration(Duration::ZERO..=DAY));
    section.key(
        "certificate_before",
        &mut alerts.certificate_before,
        duration(Duration::ZERO..=YEAR),
    );
    section.key("clock_jump", &mut alerts.clock_jump, duration(SECOND..=DAY));
    section.key("read_may_acknowledge", &mut alerts.read_may_acknowledge, boolean);
    let tick = Duration::from_millis(100);
    section.key("expect_interval", &mut alerts.expect_interval, duration(tick..=DAY));
    let short = Duration::from_millis(10);
    section.key("zfs_deadline", &mut alerts.zfs_deadline, duration(short..=HOUR));
    section.tables("pool", "alerts.pool", &mut alerts.pool, |section| {
        let pool = section.required("pool", text(pattern));
        let capacity_raise = section.optional("capacity_raise", count(1..=100));
        let capacity_clear = section.optional("capacity_clear", count(1..=100));
        let free_raise = section.optional("free_raise", size(0..=LARGEST)).unwrap_or(0);
        let free_clear = section.optional("free_clear", size(0..=LARGEST)).unwrap_or(free_raise);
        Some(AlertPool { pool: pool?, capacity_raise, capacity_clear, free_raise, free_clear })
    });
}

/// Reads `[[expect]]`; `root` is the whole file.
pub(super) fn read_expectations(mut root: Section<'_, '_>, config: &mut Config) {
    root.tables("expect", "expect", &mut config.expect, |section| {
        let faults = section.reader.faults.len();
        let snapshot = section.optional("snapshot", text(dataset)).map(Expected::Snapshot);
        let replication = section.optional("replication", text(dataset)).map(Expected::Replication);
        let job = section.optional("job", text(pattern)).map(Expected::Job);
        let emit = section.optional("emit", text(emit_key)).map(Expected::Emit);
        let every = section.required("every", duration(SECOND..=YEAR));
        let grace = section.optional("grace", duration(Duration::ZERO..=YEAR)).unwrap_or_default();
        let priority = section.optional("priority", count(0..=10)).unwrap_or(7);
        // An entry with a fault is not checked further.
        if section.reader.faults.len() > faults || section.table.is_none() {
            return None;
        }
        let mut subjects = [snapshot, replication, job, emit].into_iter().flatten();
        match (subjects.next(), subjects.next()) {
            (Some(of), None) => Some(Expectation { of, every: every?, grace, priority }),
            (Some(_), Some(_)) | (None, _) => {
                let message = "[[expect]] needs one of snapshot, replication, job and emit";
                section.complain(None, message.to_owned());
                None
            }
        }
    });
}

/// Checks between keys.
pub(super) fn check(config: &Config, reader: &mut Reader<'_>) {
    let alerts = &config.alerts;
    if alerts.capacity_clear > alerts.capacity_raise {
        let (clear, raise) = (alerts.capacity_clear, alerts.capacity_raise);
        reader.contradiction(
            &["alerts.capacity_clear", "alerts.capacity_raise"],
            format!("alerts.capacity_clear ({clear}) is above alerts.capacity_raise ({raise})"),
        );
    }
    for (index, pool) in alerts.pool.iter().enumerate() {
        if let (Some(clear), Some(raise)) = (pool.capacity_clear, pool.capacity_raise)
            && clear > raise
        {
            reader.contradiction_at(
                &[("alerts.pool.capacity_clear", index), ("alerts.pool", index)],
                format!("alerts.pool.capacity_clear ({clear}) is above capacity_raise ({raise})"),
            );
        }
        if pool.free_clear < pool.free_raise {
            let (clear, raise) = (show_size(pool.free_clear), show_size(pool.free_raise));
            reader.contradiction_at(
                &[("alerts.pool.free_clear", index), ("alerts.pool", index)],
                format!("alerts.pool.free_clear ({clear}) is less than free_raise ({raise})"),
            );
        }
    }
    for (index, expectation) in config.expect.iter().enumerate() {
        if config.expect.iter().take(index).any(|other| other.of == expectation.of) {
            reader.contradiction_at(
                &[("expect", index)],
                "[[expect]]: an earlier one has the same subject".to_owned(),
            );
        }
    }
}

fn pattern(text: &str) -> Result<Glob, String> {
    Glob::parse(text)
}

/// A pattern for datasets: no snapshot, no empty part, and no character that ZFS forbids
/// (zfs(8), `valid_char` in OpenZFS `zcommon/zfs_namecheck.c`).
fn dataset(text: &str) -> Result<Glob, String> {
    let glob = Glob::parse(text)?;
    if text.contains('@') {
        return Err("names a snapshot: write the dataset alone".to_owned());
    }
    if text.split('/').any(str::is_empty) {
        return Err("has an empty part: write it as pool/dataset".to_owned());
    }
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "-_.: /*?".contains(c);
    match text.chars().find(|c| !is_valid(*c)) {
        Some(c) => Err(format!("has {c:?}, which no dataset has")),
        None => Ok(glob),
    }
}

/// A key of `emit`.
fn emit_key(text: &str) -> Result<String, String> {
    match crate::glob::check_key(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => Err(why),
    }
}
