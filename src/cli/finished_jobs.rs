//! Finished jobs in a `watch` across restarts of daemons: each is shown once.
//!
//! After a restart a daemon sends the finished events of all jobs that it still knows. Those shown
//! before are skipped, and those that ended while the connection was lost are counted.

use std::collections::{BTreeSet, VecDeque};

use serde_json::Value;

use super::job::{JobEvent, State};

/// Maximum number of finished jobs that are remembered.
const MOST: usize = 65_536;

/// Treatment of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is shown.
    Show,
    /// It was shown before.
    Repeated,
    /// It reports an end that was missed.
    Missed,
}

/// The finished jobs that were shown.
#[derive(Debug, Default)]
pub(super) struct FinishedJobs {
    shown: VecDeque<(String, String)>,
    /// Jobs that were shown and have not finished: their ends are shown in any case.
    active: BTreeSet<String>,
    missed: usize,
}

impl FinishedJobs {
    /// Classifies an event before it is shown.
    pub(super) fn admit(&mut self, frame: &Value) -> Admission {
        let Some(event) = JobEvent::read(&frame["args"]) else { return Admission::Show };
        if event.state != State::Finished {
            if self.active.len() < MOST {
                self.active.insert(event.id.to_owned());
            }
            return Admission::Show;
        }
        let was_active = self.active.remove(event.id);
        let end = (event.id.to_owned(), event.time_finished().unwrap_or_default().to_owned());
        if self.shown.contains(&end) {
            return Admission::Repeated;
        }
        if self.shown.len() == MOST {
            self.shown.pop_front();
        }
        self.shown.push_back(end);
        if frame["present"] != true || was_active {
            return Admission::Show;
        }
        self.missed += 1;
        Admission::Missed
    }

    /// Whether missed ends were counted and not reported.
    pub(super) fn has_missed(&self) -> bool {
        self.missed > 0
    }

    /// The line with the number of missed ends, once.
    pub(super) fn take_missed(&mut self) -> Option<String> {
        match std::mem::take(&mut self.missed) {
            0 => None,
            1 => Some("1 job finished meanwhile".to_owned()),
            missed => Some(format!("{missed} jobs finished meanwhile")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn finished(id: &str, time: &str, present: bool) -> Value {
        json!({"name": "dispatcher", "present": present, "args": {"state": "finished",
               "process_id": id, "cmd_list": ["x"], "time_finished": time}})
    }

    #[test]
    fn finished_job_is_admitted_once() {
        let mut finished_jobs = FinishedJobs::default();
        assert_eq!(finished_jobs.admit(&finished("a", "1", false)), Admission::Show);
        assert_eq!(finished_jobs.admit(&finished("a", "1", true)), Admission::Repeated);
        assert_eq!(finished_jobs.admit(&finished("a", "2", false)), Admission::Show, "another one");
        let running = json!({"args": {"state": "running", "process_id": "a", "cmd_list": []}});
        assert_eq!(finished_jobs.admit(&running), Admission::Show);
        assert_eq!(finished_jobs.admit(&running), Admission::Show);
        assert_eq!(finished_jobs.take_missed(), None);
    }

    #[test]
    fn missed_end_of_a_job_that_was_shown_is_shown() {
        let mut finished_jobs = FinishedJobs::default();
        let running = json!({"args": {"state": "running", "process_id": "a", "cmd_list": []}});
        finished_jobs.admit(&running);
        assert_eq!(finished_jobs.admit(&finished("a", "1", true)), Admission::Show);
        assert_eq!(finished_jobs.admit(&finished("a", "1", true)), Admission::Repeated);
        assert_eq!(finished_jobs.admit(&finished("a", "2", true)), Admission::Missed);
    }

    #[test]
    fn missed_ends_are_counted_and_reported_once() {
        let mut finished_jobs = FinishedJobs::default();
        for id in ["a", "b", "a"] {
            finished_jobs.admit(&finished(id, "1", true));
        }
        assert!(finished_jobs.has_missed());
        assert_eq!(finished_jobs.take_missed().unwrap(), "2 jobs finished meanwhile");
        assert_eq!(finished_jobs.take_missed(), None);
        assert_eq!(finished_jobs.admit(&finished("a", "1", true)), Admission::Repeated);
        assert_eq!(finished_jobs.admit(&finished("c", "1", true)), Admission::Missed);
        assert_eq!(finished_jobs.take_missed().unwrap(), "1 job finished meanwhile");
    }
}
