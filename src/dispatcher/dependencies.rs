//! Jobs that start after others have finished.
//!
//! A job names only jobs that exist, so there is no cycle. It stands in no queue while it waits for
//! one of them: those behind it go on. Where one of them does not succeed it is cancelled, unless it
//! was submitted to run in any case.

use super::job::{Cause, Job, State};
use super::{Dispatcher, Serial};
use crate::moment::Moment;
use crate::wire::Refusal;

impl Dispatcher {
    /// The numbers of the jobs after which a job is to run.
    ///
    /// # Errors
    /// One of them is not known.
    pub(super) fn find_all(&self, ids: &[String]) -> Result<Vec<Serial>, Refusal> {
        ids.iter().map(|id| self.find(id)).collect()
    }

    /// Notes what a new job waits for; jobs that are over, or forgotten since, are not waited for.
    pub(super) fn await_dependencies(&mut self, job: &mut Job) {
        let (serial, any) = (job.head.serial, job.asked.after_any);
        let mut failed = job.failed_dependency.take();
        let jobs = &self.jobs;
        job.after.retain(|after| match jobs.get(after) {
            Some(other) if other.is_active() => true,
            Some(other) => {
                if !any && !other.has_succeeded() {
                    failed.get_or_insert_with(|| other.head.id.clone());
                }
                false
            }
            None => false,
        });
        job.failed_dependency = failed;
        self.dependents.extend(job.after.iter().map(|after| (*after, serial)));
    }

    /// A job's end was published: starts or cancels those that waited for it.
    pub(super) fn settle_dependents(&mut self, over: Serial) {
        let Some(job) = self.jobs.get(&over) else { return };
        let (id, has_succeeded) = (job.head.id.clone(), job.has_succeeded());
        let waiting = self.dependents.range((over, 0)..=(over, Serial::MAX));
        for (_, serial) in waiting.copied().collect::<Vec<_>>() {
            self.dependents.remove(&(over, serial));
            let Some(job) = self.jobs.get_mut(&serial) else { continue };
            job.after.retain(|after| *after != over);
            if !has_succeeded && !job.asked.after_any {
                job.failed_dependency.get_or_insert_with(|| id.clone());
                self.end_later(serial, Cause::Dependency);
            } else if job.is_free() && !self.doomed.contains_key(&serial) {
                let (queue, rank) = job.place();
                self.queues.wait(&queue, rank);
            }
        }
        self.start_ready_jobs();
    }

    /// Ends a job that became durable when one of those before it had failed already.
    pub(super) fn end_if_doomed(&mut self, serial: Serial, now: Moment) -> bool {
        let is_doomed = self.jobs.get(&serial).is_some_and(|job| {
            matches!(job.state, State::Pending) && job.failed_dependency.is_some()
        });
        if is_doomed {
            self.end(serial, Cause::Dependency, now);
        }
        is_doomed
    }

    /// A job waits for no other one any longer.
    pub(super) fn forget_dependencies(&mut self, serial: Serial) {
        if let Some(job) = self.jobs.get_mut(&serial) {
            for after in std::mem::take(&mut job.after) {
                self.dependents.remove(&(after, serial));
            }
        }
    }
}

impl Job {
    /// True where it waits for no other job.
    pub(super) fn is_free(&self) -> bool {
        self.after.is_empty() && self.failed_dependency.is_none()
    }
}
