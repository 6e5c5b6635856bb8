//! Replications in progress, and the events about them.
//!
//! A replication begins with a log line that may name a progress file. Several can run at a time,
//! and Life Preserver writes all of them to one file: then the name of the snapshot identifies the
//! replication.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::REPLICATION;
use crate::wire::{LifePreserverEvent, Priority};

/// Limits of replications.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplicationLimits {
    /// Maximum number of replications followed at a time; beyond it the oldest is dropped.
    pub(super) most: usize,
    /// Minimum interval between two events of one replication.
    pub(super) interval: Duration,
    /// A replication without progress for this long is dropped.
    pub(super) timeout: Duration,
}

/// A replication in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replication {
    pub(super) dataset: String,
    /// Its progress file.
    pub(super) file: Option<PathBuf>,
    /// The log in which it began.
    pub(super) log: PathBuf,
    heard: Instant,
    reported: Option<Instant>,
    /// Its progress, and whether that was reported.
    amount: Option<(String, bool)>,
}

/// All replications in progress.
#[derive(Debug)]
pub(super) struct Replications {
    limits: ReplicationLimits,
    /// In the order in which they began.
    running: VecDeque<Replication>,
}

impl Replications {
    pub(super) fn new(limits: ReplicationLimits) -> Replications {
        Replications { limits, running: VecDeque::new() }
    }

    pub(super) fn set_limits(&mut self, limits: ReplicationLimits) {
        self.limits = limits;
        self.forget_surplus();
    }

    /// Begins a replication. An unfinished one of the same dataset ends.
    pub(super) fn begin(
        &mut self,
        dataset: String,
        file: Option<PathBuf>,
        log: &Path,
        now: Instant,
    ) {
        self.end(&dataset, log);
        let log = log.to_owned();
        self.running.push_back(Replication {
            dataset,
            file,
            log,
            heard: now,
            reported: None,
            amount: None,
        });
        self.forget_surplus();
    }

    fn forget_surplus(&mut self) {
        let surplus = self.running.len().saturating_sub(self.limits.most);
        self.running.drain(..surplus);
    }

    /// Ends the replication of a dataset.
    pub(super) fn end(&mut self, dataset: &str, log: &Path) {
        self.running.retain(|running| running.dataset != dataset || running.log != *log);
    }

    /// Ends the replication that began last in this log.
    pub(super) fn end_last(&mut self, log: &Path) {
        if let Some(at) = self.running.iter().rposition(|running| running.log == *log) {
            self.running.remove(at);
        }
    }

    /// Whether a replication has its progress in this file.
    pub(super) fn want(&self, file: &Path) -> bool {
        self.running.iter().any(|running| running.file.as_deref() == Some(file))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Replication> {
        self.running.iter()
    }

    /// Processes the progress of `snapshot` read from this file.
    pub(super) fn progress(&mut self, file: &Path, snapshot: &str, amount: String, now: Instant) {
        let dataset = snapshot.split_once('@').map_or(snapshot, |(dataset, _)| dataset);
        let of_file = self.running.iter_mut().filter(|it| it.file.as_deref() == Some(file));
        // The replication of the nearest ancestor dataset; without one, the replication that began
        // last.
        let nearness = |replication: &Replication| {
            let rest = dataset.strip_prefix(replication.dataset.as_str());
            let above = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if above { replication.dataset.len() } else { 0 }
        };
        if let Some(running) = of_file.max_by_key(|it| nearness(it)) {
            running.heard = now;
            if running.amount.as_ref().is_none_or(|(before, _)| *before != amount) {
                running.amount = Some((amount, false));
            }
        }
    }

    /// The next progress event that is due. Events within the minimum interval are coalesced.
    pub(super) fn next_report(&mut self, now: Instant) -> Option<LifePreserverEvent> {
        let ReplicationLimits { interval, timeout, .. } = self.limits;
        self.running.retain(|running| running.heard + timeout > now);
        let mut running = self.running.iter_mut();
        running.find_map(|running| {
            let may = running.reported.is_none_or(|reported| reported + interval <= now);
            let (amount, reported) =
                running.amount.as_mut().filter(|(_, reported)| may && !reported)?;
            *reported = true;
            running.reported = Some(now);
            Some(LifePreserverEvent {
                message: format!("Replicating {}: {amount}", running.dataset),
                priority: Priority::new(0),
                class: REPLICATION,
            })
        })
    }

    /// When [`Replications::next_report`] has an event.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = |running: &Replication| {
            let timeout = running.heard + self.limits.timeout;
            match (&running.amount, running.reported) {
                (Some((_, false)), Some(reported)) => timeout.min(reported + self.limits.interval),
                (Some((_, false)), None) => running.heard,
                (Some((_, true)) | None, _) => timeout,
            }
        };
        self.running.iter().map(due).min()
    }

    /// The progress of each replication, for people.
    pub(super) fn amounts(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.running.iter().map(|running| {
            let amount = running.amount.as_ref().map(|(amount, _)| amount.as_str());
            (running.dataset.as_str(), amount)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Fixture {
        replications: Replications,
        start: Instant,
    }

    impl Fixture {
        fn new() -> Fixture {
            let limits = ReplicationLimits { most: 3, interval: SECOND, timeout: 100 * SECOND };
            Fixture { replications: Replications::new(limits), start: Instant::now() }
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        fn begin(&mut self, dataset: &str, file: &str) {
            let file = Some(file.into());
            self.replications.begin(dataset.into(), file, Path::new("/log"), self.start);
        }

        fn progress(&mut self, file: &str, snapshot: &str, amount: &str, milliseconds: u64) {
            let now = self.at(milliseconds);
            self.replications.progress(Path::new(file), snapshot, amount.into(), now);
        }

        fn reported(&mut self, milliseconds: u64) -> Vec<String> {
            let now = self.at(milliseconds);
            std::iter::from_fn(|| self.replications.next_report(now))
                .map(|event| event.message)
                .collect()
        }
    }

    #[test]
    fn first_progress_is_reported_at_once_then_once_a_second() {
        let mut fixture = Fixture::new();
        fixture.begin("tank", "/f");
        fixture.progress("/f", "tank@a", "1M", 0);
        assert_eq!(fixture.replications.due(), Some(fixture.at(0)));
        assert_eq!(fixture.reported(0), ["Replicating tank: 1M"]);
        fixture.progress("/f", "tank@a", "2M", 100);
        fixture.progress("/f", "tank@a", "3M", 900);
        assert!(fixture.reported(900).is_empty());
        assert_eq!(fixture.replications.due(), Some(fixture.at(1000)));
        assert_eq!(fixture.reported(1000), ["Replicating tank: 3M"]);
        assert!(fixture.reported(5000).is_empty());
        fixture.progress("/f", "tank@a", "3M", 6000);
        assert!(fixture.reported(6000).is_empty(), "nothing has changed");
    }

    #[test]
    fn each_has_its_own_file_and_its_own_second() {
        let mut fixture = Fixture::new();
        fixture.begin("tank", "/f");
        fixture.begin("pool", "/g");
        fixture.progress("/f", "tank@a", "1M", 0);
        fixture.progress("/g", "pool@a", "2M", 0);
        assert_eq!(fixture.reported(0), ["Replicating tank: 1M", "Replicating pool: 2M"]);
        fixture.progress("/g", "pool@a", "3M", 500);
        assert!(fixture.reported(999).is_empty());
        assert_eq!(fixture.reported(1000), ["Replicating pool: 3M"]);
    }

    #[test]
    fn shared_progress_file_is_assigned_by_snapshot_name() {
        let mut fixture = Fixture::new();
        fixture.begin("tank", "/f");
        fixture.begin("tank/home", "/f");
        fixture.begin("tank/ho", "/f");
        fixture.progress("/f", "tank/home/ann@a", "1M", 0);
        assert_eq!(fixture.reported(0), ["Replicating tank/home: 1M"]);
        fixture.progress("/f", "tank/var@a", "2M", 0);
        assert_eq!(fixture.reported(0), ["Replicating tank: 2M"]);
        fixture.progress("/f", "other@a", "3M", 0);
        assert_eq!(fixture.reported(0), ["Replicating tank/ho: 3M"], "the one that began last");
    }

    #[test]
    fn ended_replication_is_not_reported() {
        let mut fixture = Fixture::new();
        fixture.begin("tank", "/f");
        fixture.progress("/f", "tank@a", "1M", 0);
        fixture.replications.end("tank", Path::new("/log"));
        assert!(fixture.reported(0).is_empty());
        assert!(!fixture.replications.want(Path::new("/f")));
        fixture.begin("tank", "/f");
        fixture.replications.end("tank", Path::new("/other-log"));
        assert!(fixture.replications.want(Path::new("/f")));
        fixture.begin("pool", "/f");
        fixture.replications.end_last(Path::new("/log"));
        let left: Vec<&str> = fixture.replications.amounts().map(|(dataset, _)| dataset).collect();
        assert_eq!(left, ["tank"]);
    }

    #[test]
    fn restarted_replication_ends_the_earlier_one() {
        let mut fixture = Fixture::new();
        fixture.begin("tank", "/f");
        fixture.progress("/f", "tank@a", "1M", 0);
        fixture.begin("tank", "/g");
        assert!(fixture.reported(0).is_empty());
        assert_eq!(fixture.replications.iter().count(), 1);
    }

    #[test]
    fn of_too_many_the_oldest_is_forgotten() {
        let mut fixture = Fixture::new();
        for dataset in ["a", "b", "c", "d"] {
            fixture.begin(dataset, "/f");
        }
        let left: Vec<&str> = fixture.replications.amounts().map(|(dataset, _)| dataset).collect();
        assert_eq!(left, ["b", "c", "d"]);
    }

    #[test]
    fn replication_without_progress_is_dropped() {
        let mut fixture = Fixture::new();
        fixture.begin("tank", "/f");
        assert_eq!(fixture.replications.due(), Some(fixture.at(100_000)));
        fixture.progress("/f", "tank@a", "1M", 60_000);
        fixture.reported(60_000);
        fixture.reported(159_999);
        assert_eq!(fixture.replications.iter().count(), 1);
        fixture.reported(160_000);
        assert_eq!(fixture.replications.iter().count(), 0);
        assert_eq!(fixture.replications.due(), None);
    }
}
