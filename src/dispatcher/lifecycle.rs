//! A job from its start to its published end.

use std::collections::HashSet;
use std::time::Duration;

use super::job::{Cause, Ending, Job, State};
use super::{
    AT_ONCE, Dispatcher, Effect, Ended, FIRST_OUTPUT, KILLS, STOP_PATIENCE, Serial, Step,
    Submission, Timer, remark,
};
use crate::moment::Moment;
use crate::wire::{ErrorCode, Event, JobId, Refusal};

impl Dispatcher {
    pub(super) fn begin(&mut self, serial: Serial, now: Moment) {
        if let Some(cause) = self.doomed.remove(&serial) {
            return self.end(serial, cause, now);
        }
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        job.begin(now);
        self.effects.push_back(Effect::Start { serial, command: 0 });
        self.effects.push_back(Effect::Publish(job.running_event()));
        job.next_tell = Some(now.instant + FIRST_OUTPUT);
        if let Some(timeout) = job.asked.timeout {
            self.timers.set((serial, Timer::Timeout), Some(now.instant + timeout));
        }
    }

    /// A process was started for the job: its number, and its start time according to the kernel.
    pub fn started(&mut self, serial: Serial, leader: (i32, String), mark: &str) {
        if let Some(job) = self.jobs.get_mut(&serial) {
            job.started(leader, mark);
            self.note(serial);
        }
    }

    /// The submission of an active job.
    pub fn submission(&self, serial: Serial) -> Option<&Submission> {
        self.jobs.get(&serial).filter(|job| job.is_running()).map(|job| &job.asked)
    }

    /// Whether a job is pending or running.
    pub fn is_active(&self, serial: Serial) -> bool {
        self.jobs.get(&serial).is_some_and(Job::is_active)
    }

    /// Output of the current command of a job.
    pub fn printed(&mut self, serial: Serial, bytes: &[u8]) {
        let Some(job) = self.jobs.get_mut(&serial).filter(|job| job.is_running()) else { return };
        if bytes.is_empty() {
            return;
        }
        let (at, limit) = (job.total(), job.log_limit());
        job.print(bytes);
        self.effects.push_back(Effect::Log { serial, at, limit, bytes: bytes.to_vec() });
        self.report_later(serial);
    }

    pub(super) fn remark(&mut self, serial: Serial, text: &str) {
        if let Some(remark) = self.jobs.get(&serial).map(|job| job.remark(text)) {
            self.print_remark(serial, remark);
        }
    }

    pub(super) fn print_remark(&mut self, serial: Serial, remark: String) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let (at, limit) = (job.total(), job.log_limit());
        job.print_remark(&remark);
        self.effects.push_back(Effect::Log { serial, at, limit, bytes: remark.into_bytes() });
    }

    pub(super) fn report_later(&mut self, serial: Serial) {
        if let Some(job) = self.jobs.get(&serial)
            && job.news
            && job.is_running()
        {
            self.timers.set((serial, Timer::Tell), job.next_tell);
        }
    }

    /// The current command of a job ended; `left_open` states that a process which it left behind
    /// still holds its output open.
    pub fn ended(&mut self, serial: Serial, ended: &Ended, left_open: bool, now: Moment) {
        if !self.jobs.get(&serial).is_some_and(Job::is_running) {
            return;
        }
        // A job that is being killed is waited for.
        let is_ending = |job: &mut Job| job.ending().is_some();
        if left_open && !self.jobs.get_mut(&serial).is_some_and(is_ending) {
            self.remark(
                serial,
                "output was still open: a process that this command left behind was not waited for",
            );
        }
        if let Ended::NotStarted(why) = ended {
            self.print_remark(serial, format!("{why}\n"));
        }
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let is_started = !matches!(ended, Ended::NotStarted(_));
        let goes_on = job.end_command(ended.code(), is_started);
        if goes_on {
            self.effects.push_back(Effect::Start { serial, command: job.current() });
            self.report_later(serial);
        } else if let Some(ending) = job.ending() {
            ending.command_ended = true;
            // Signals the rest of the tree; the result is reported.
            let kill = ending.kills > 0;
            self.effects.push_back(Effect::Signal { serial, kill });
            self.report_later(serial);
        } else {
            self.finish(serial, None, now);
        }
    }

    /// No process of a job that is being killed is alive. Ignored until the end of its command was
    /// seen.
    pub fn tree_is_gone(&mut self, serial: Serial, now: Moment) {
        if let Some(job) = self.jobs.get_mut(&serial)
            && let Some(Ending { cause, command_ended: true, .. }) = job.ending().copied()
        {
            self.finish(serial, Some(cause), now);
        }
    }

    /// Kills jobs for the user `by`; returns the ids of those that were active. Their events
    /// follow.
    ///
    /// # Errors More ids than jobs can be known.
    pub fn kill(
        &mut self,
        ids: &[JobId],
        by: Option<&str>,
        now: Moment,
    ) -> Result<Vec<JobId>, Refusal> {
        let most = self.limits.max_known();
        if ids.len() > most {
            let why = format!("{} jobs; this server knows at most {most}", ids.len());
            return Err(Refusal::new(ErrorCode::TooLarge, why));
        }
        let mut active: Vec<JobId> = Vec::new();
        let mut known = HashSet::new();
        for id in ids {
            if let Some(serial) = self.active(id)
                && let Some(job) = self.jobs.get_mut(&serial).filter(|job| job.can_be_killed())
                && known.insert(serial)
            {
                if job.ending().is_none() {
                    job.killed_by = by.map(str::to_owned);
                }
                active.push(id.clone());
                if active.len() > AT_ONCE {
                    self.end_later(serial, Cause::Killed);
                } else {
                    self.end(serial, Cause::Killed, now);
                }
            }
        }
        self.start_ready_jobs();
        Ok(active)
    }

    /// Leaves a job to [`Dispatcher::go_on`]. Until then it does not start.
    pub(super) fn end_later(&mut self, serial: Serial, cause: Cause) {
        self.doomed.entry(serial).or_insert(cause);
        if self.pending.contains(&serial)
            && let Some((queue, rank)) = self.jobs.get(&serial).map(Job::place)
        {
            self.queues.leave(&queue, rank);
        }
    }

    pub(super) fn end(&mut self, serial: Serial, cause: Cause, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        match &mut job.state {
            State::Pending | State::Starting => {
                let text = match &job.failed_dependency {
                    Some(id) => format!("not run: job {id:?} did not succeed"),
                    None => remark(cause).to_owned(),
                };
                self.remark(serial, &text);
                self.finish(serial, Some(cause), now);
            }
            State::Running { ending: ending @ None, .. } => {
                *ending = Some(Ending { cause, kills: 0, command_ended: false });
                self.effects.push_back(Effect::Signal { serial, kill: false });
                self.timers.set((serial, Timer::Grace), Some(now.instant + self.limits.kill_grace));
            }
            State::Filed { .. }
            | State::Running { ending: Some(_), .. }
            | State::Ended(_)
            | State::Finished => {}
        }
    }

    /// Starts no more jobs, and ends running ones. Pending jobs remain for the next daemon, where
    /// jobs survive.
    pub fn stop(&mut self, now: Moment) {
        self.stopping = true;
        let waits = self.pending.iter().filter(|_| !self.durable);
        let active: Vec<Serial> = waits.chain(&self.running).copied().collect();
        for serial in active {
            self.end_later(serial, Cause::Stopped);
        }
        for serial in self.ended.clone() {
            let due = now.instant + self.end_patience();
            self.timers.set((serial, Timer::End), Some(due));
        }
    }

    /// After [`Dispatcher::stop`]: kills running jobs now.
    pub fn hurry(&mut self, now: Moment) {
        for serial in self.ended.clone() {
            self.timers.set((serial, Timer::End), Some(now.instant));
        }
        for serial in self.running.clone() {
            self.timers.set((serial, Timer::Grace), Some(now.instant));
        }
    }

    /// Whether [`Dispatcher::stop`] is complete.
    pub fn is_idle(&self) -> bool {
        let waits = self.pending.iter().any(|serial| {
            let filed = |job: &Job| matches!(job.state, State::Filed { .. });
            !self.durable || self.jobs.get(serial).is_some_and(filed)
        });
        !waits && self.running.is_empty() && self.ended.is_empty()
    }

    pub(super) fn report(&mut self, serial: Serial, now: Moment) {
        let interval = self.limits.output_interval;
        if let Some(job) = self.jobs.get_mut(&serial).filter(|job| job.is_running() && job.news) {
            self.effects.push_back(Effect::Publish(job.running_event()));
            job.next_tell = Some(now.instant + interval);
        }
    }

    pub(super) fn kill_harder(&mut self, serial: Serial, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let Some(ending) = job.ending() else { return };
        if ending.kills >= KILLS {
            let Ending { cause, command_ended, .. } = *ending;
            self.remark(serial, "a process of this job cannot be ended; it was left behind");
            if let Some(job) = self.jobs.get_mut(&serial).filter(|_| !command_ended) {
                job.end_command(-libc::SIGKILL, true);
            }
            self.finish(serial, Some(cause), now);
            return;
        }
        ending.kills += 1;
        self.effects.push_back(Effect::Signal { serial, kill: true });
        self.timers.set((serial, Timer::Grace), Some(now.instant + self.limits.kill_grace));
    }

    pub(super) fn finish(&mut self, serial: Serial, cause: Option<Cause>, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        if let Some(Ending { cause, .. }) = job.ending().copied() {
            if cause == Cause::Interrupted {
                // Only now: should this daemon die too, the next one finds the job unchanged.
                job.end_command(-1, true);
            }
            self.remark(serial, remark(cause));
        }
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let uptime = self.uptime_before + (now.instant - self.began).as_secs();
        job.is_restartable &= job.asked.environment_bytes() <= self.limits.retain_environment;
        job.end(cause, uptime, now);
        for timer in [Timer::Tell, Timer::Timeout, Timer::Grace] {
            self.timers.set((serial, timer), None);
        }
        self.doomed.remove(&serial);
        self.ended.insert(serial);
        self.timers.set((serial, Timer::End), Some(now.instant + self.end_patience()));
        self.leave_queue(serial);
        self.forget_dependencies(serial);
        self.effects.push_back(Effect::Release { serial });
        if let Some(job) = self.jobs.get(&serial)
            && let Some((outcome, at)) = job.failure()
        {
            let (job, outcome) = (job.head.clone(), Box::new(outcome.clone()));
            self.effects.push_back(Effect::Failed { job, outcome, at });
        }
        self.persist(serial, Step::Finish);
        self.start_ready_jobs();
    }

    /// Shorter during shutdown.
    pub(super) fn end_patience(&self) -> Duration {
        let patience = self.limits.end_patience;
        if self.stopping { patience.min(STOP_PATIENCE) } else { patience }
    }

    /// The end of a job is reported: it is durable, or cannot be.
    pub(super) fn report_end(&mut self, serial: Serial, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        self.ended.remove(&serial);
        self.timers.set((serial, Timer::End), None);
        match job.finish() {
            Some(event) => {
                self.effects.push_back(Effect::Publish(Event::Job(event)));
                self.retain(serial, self.limits.retain_time, now);
                self.forget_surplus();
            }
            // It is not forgotten before it is reported.
            None => self.effects.push_back(Effect::PublishOutcome { serial }),
        }
        self.settle_dependents(serial);
    }
}
