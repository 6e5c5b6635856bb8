//! Success or failure of snapshots and replications, and troubles of logs: for alerts.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::LifePreserver;
use crate::rules::{Class, Reading, Run};

/// From this priority on an event reports a failure.
const FAILURE: u8 = 6;
/// Up to this priority it reports a success.
const SUCCESS: u8 = 2;
/// A log without a match is suspicious after this number of lines.
const UNMATCHED: u64 = 500;

/// An event that reports the end of a snapshot or a replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of a snapshot or a replication.
    pub class: Class,
    /// The dataset; where the line names none, the name of the log.
    pub subject: String,
    /// Whether it failed.
    pub failed: bool,
}

impl Verdict {
    /// The verdict of a line; `None` where it reports no end.
    pub(super) fn of(reading: &Reading, log: &Path) -> Option<Verdict> {
        let is_begin = matches!(reading.run, Some(Run::Begin(..)));
        let failed = match reading.priority {
            FAILURE.. => true,
            ..=SUCCESS if !is_begin => false,
            _ => return None,
        };
        let of_run = match &reading.run {
            Some(Run::End(dataset)) => Some(dataset.clone()),
            Some(Run::Begin(..) | Run::EndLast) | None => None,
        };
        let name = || {
            let name = log.file_name().unwrap_or(log.as_os_str());
            name.to_string_lossy().into_owned()
        };
        let subject = reading.dataset.clone().or(of_run).unwrap_or_else(name);
        // A snapshot is named as dataset@snapshot by some programs.
        let subject = subject.split('@').next().unwrap_or_default().to_owned();
        Some(Verdict { class: reading.class, subject, failed })
    }
}

/// A log that cannot serve its purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTrouble {
    /// It cannot be read; the reason.
    Unreadable(PathBuf, String),
    /// Nothing in this number of lines matched its rules.
    Unmatched(PathBuf, u64, String),
}

impl LifePreserver {
    /// The verdict of the event that [`LifePreserver::next`] returned last; once.
    pub fn take_verdict(&mut self) -> Option<Verdict> {
        self.verdict.take()
    }

    /// A digest that changes when [`LifePreserver::troubles`] does. Cheap.
    pub fn troubles_version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for log in &self.logs {
            let counts = log.reader.counts();
            log.followed.last_error().hash(&mut hasher);
            log.followed.hanging().is_some().hash(&mut hasher);
            (counts.lines >= UNMATCHED && counts.matched == 0).hash(&mut hasher);
        }
        self.logs.len().hash(&mut hasher);
        hasher.finish()
    }

    /// Logs that cannot be read, or of which nothing matches.
    pub fn troubles(&self) -> Vec<LogTrouble> {
        let mut troubles = Vec::new();
        for log in &self.logs {
            let path = &log.followed.path;
            let error = log.followed.last_error().map(str::to_owned);
            let hangs = || "its file system does not answer".to_owned();
            if let Some(why) = error.or_else(|| log.followed.hanging().map(|_| hangs())) {
                troubles.push(LogTrouble::Unreadable(path.clone(), why));
            }
            let counts = log.reader.counts();
            if counts.lines >= UNMATCHED && counts.matched == 0 {
                let rules = log.reader.names().collect::<Vec<_>>().join(", ");
                troubles.push(LogTrouble::Unmatched(path.clone(), counts.lines, rules));
            }
        }
        troubles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(priority: u8, dataset: Option<&str>, run: Option<Run>) -> Option<(String, bool)> {
        let message = String::new();
        let dataset = dataset.map(str::to_owned);
        let class = Class::Replication;
        let reading = Reading { class, priority, message, dataset, run };
        let verdict = Verdict::of(&reading, Path::new("/var/log/zrepl.log"))?;
        Some((verdict.subject, verdict.failed))
    }

    #[test]
    fn verdict_is_a_failure_or_a_success_of_a_dataset() {
        let end = || Some(Run::End("tank/a".to_owned()));
        assert_eq!(verdict(7, Some("tank/a"), None), Some(("tank/a".to_owned(), true)));
        assert_eq!(verdict(1, None, end()), Some(("tank/a".to_owned(), false)));
        assert_eq!(verdict(1, Some("tank/a@x"), None), Some(("tank/a".to_owned(), false)));
        assert_eq!(verdict(6, None, None), Some(("zrepl.log".to_owned(), true)));
        assert_eq!(verdict(1, Some("tank/a"), Some(Run::Begin("tank/a".into(), None))), None);
        assert_eq!(verdict(4, Some("tank/a"), None), None);
    }
}
