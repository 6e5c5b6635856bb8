//! Durable facts of jobs, their effects, and the state that a restart finds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::job::{Cause, Ending, Job, State};
use super::record::JobRecord;
use super::{CLOCK_AHEAD, CLOCK_BEHIND, Dispatcher, Effect, Interrupted, Serial, Step, Timer};
use crate::helper::store::{Kind, Loaded, LogEnd};
use crate::moment::Moment;
use crate::wire::parse_rfc3339;

impl Dispatcher {
    pub(super) fn persist(&mut self, serial: Serial, step: Step) {
        let Some(job) = self.jobs.get(&serial) else { return };
        let kind = match step {
            Step::File => Kind::Filed,
            Step::Start => Kind::Started,
            Step::Finish => Kind::Finished,
        };
        let record = job.record(kind).to_line();
        self.effects.push_back(Effect::Persist { serial, step, record });
    }

    /// A step of a job is durable.
    pub fn persisted(&mut self, serial: Serial, step: Step, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        match (step, &job.state) {
            (Step::File, State::Filed { recorded, chosen }) => {
                let (recorded, chosen) = (*recorded, *chosen);
                let replaced = job.replaces.take();
                job.state = if chosen { State::Starting } else { State::Pending };
                self.effects.push_back(Effect::Publish(job.pending_event()));
                if let Some(over) = replaced {
                    self.forget(over);
                }
                if self.end_if_doomed(serial, now) {
                    // Before anything else: it was never to run.
                } else if self.stopping && (recorded || !self.durable) {
                    // The record states that it ran, so no other daemon will run it, or there is no
                    // record.
                    self.end(serial, Cause::Stopped, now);
                } else if self.stopping {
                    self.wait_again(serial);
                } else if recorded {
                    self.begin(serial, now);
                } else if chosen {
                    self.persist(serial, Step::Start);
                }
            }
            (Step::Start, State::Starting) => self.begin(serial, now),
            (Step::Finish, State::Ended(_)) => {
                self.unpersisted.remove(&serial);
                self.report_end(serial, now);
            }
            (Step::Finish, State::Finished) => {
                self.unpersisted.remove(&serial);
            }
            // It was ended meanwhile.
            (
                Step::File | Step::Start | Step::Finish,
                State::Filed { .. }
                | State::Pending
                | State::Starting
                | State::Running { .. }
                | State::Ended(_)
                | State::Finished,
            ) => {}
        }
    }

    /// A step of a job could not be made durable.
    pub fn not_persisted(&mut self, serial: Serial, step: Step) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        match (step, &job.state) {
            (Step::File, State::Filed { .. }) => {
                // A record of it may exist nevertheless.
                self.effects.push_back(Effect::Forget { serial });
                let (id, over) = (job.head.id.clone(), job.replaces.take());
                self.leave_queue(serial);
                self.forget_dependencies(serial);
                self.remove(serial);
                if let Some(over) = over.filter(|over| self.jobs.contains_key(over)) {
                    self.ids.insert(id, over);
                }
                self.start_ready_jobs();
            }
            (Step::Start, State::Starting) => {
                self.wait_again(serial);
                self.start_ready_jobs();
            }
            // It is retried, and reported when it is durable, or after a time limit.
            (Step::Finish, State::Ended(_) | State::Finished) => {
                self.unpersisted.insert(serial);
            }
            (
                Step::File | Step::Start | Step::Finish,
                State::Filed { .. }
                | State::Pending
                | State::Starting
                | State::Running { .. }
                | State::Ended(_)
                | State::Finished,
            ) => {}
        }
    }

    /// Sets whether records can be persisted, or why not: without storage no job is accepted and
    /// none starts.
    pub fn set_storage(&mut self, standing: Result<(), String>) {
        self.no_storage = standing.err();
        self.start_ready_jobs();
    }

    /// The storage is retried: failed records are returned once more, by [`Dispatcher::go_on`].
    pub fn persist_again(&mut self) {
        self.resubmitted.extend(self.unpersisted.iter().chain(&self.running));
    }

    pub(super) fn note(&mut self, serial: Serial) {
        if let Some(job) = self.jobs.get(&serial).filter(|job| job.is_running()) {
            let record = job.record(Kind::Started).to_line();
            self.effects.push_back(Effect::Note { record });
        }
    }

    /// Restores the jobs of the journal, before anything else: pending jobs are pending again,
    /// running ones are ended and never run again automatically, finished ones are known. `log_end`
    /// returns the end of a job's log on disk.
    pub fn restore(
        &mut self,
        loaded: &Loaded,
        log_end: impl Fn(Serial) -> LogEnd,
        now: Moment,
    ) -> Vec<Interrupted> {
        self.last_serial = self.last_serial.max(loaded.last_serial);
        // The last record of each job is complete.
        let mut last: BTreeMap<Serial, JobRecord> = BTreeMap::new();
        for record in &loaded.records {
            if let Ok(record) = serde_json::from_str::<JobRecord>(&record.text) {
                self.last_serial = self.last_serial.max(record.serial);
                last.insert(record.serial, record);
            }
        }
        let outcomes = last.values().filter_map(|record| record.outcome.as_ref());
        self.uptime_before = outcomes.map(|outcome| outcome.uptime).max().unwrap_or(0);
        self.began = now.instant;
        let mut interrupted = Vec::new();
        for (serial, record) in last {
            let traces = record.traces();
            let (is_over, end) = (record.outcome.is_some(), log_end(serial));
            // Any trace of a start counts: the record of it may be the one that is lost.
            let ran = record.starts
                || record.progress.is_some()
                || loaded.departed.contains(&serial)
                || end.total > 0;
            let Some(job) = Job::restore(record, self.limits.logs(), end) else {
                self.effects.push_back(Effect::Forget { serial });
                continue;
            };
            if is_over {
                self.restore_finished(job, now);
                continue;
            }
            self.admit(job);
            let over = self.jobs.get_mut(&serial).and_then(|job| job.replaces.take());
            if let Some(over) = over {
                self.forget(over);
            }
            if ran {
                self.interrupt(serial, now);
                interrupted.push(Interrupted { serial, traces });
            } else if loaded.damaged {
                // A record of its start may be among the lost ones.
                self.end(serial, Cause::Doubtful, now);
            } else if let Some(job) = self.jobs.get(&serial) {
                self.effects.push_back(Effect::Publish(job.pending_event()));
                self.end_if_doomed(serial, now);
            }
        }
        self.warn_of_clock(now);
        self.forget_surplus();
        self.start_ready_jobs();
        interrupted
    }

    /// Logs a clock that differs much from the times of the journal. Nothing is forgotten because
    /// of it.
    pub(super) fn warn_of_clock(&self, now: Moment) {
        let times = self.jobs.values().filter_map(|job| parse_rfc3339(job.latest_time()?));
        let Some(newest) = times.max() else { return };
        let days = |span: Duration| span.as_secs() / 86_400;
        match now.wall.duration_since(newest) {
            Ok(ahead) if ahead > CLOCK_AHEAD => {
                log::warn!("the clock is {} days ahead of the last job's end", days(ahead));
            }
            Ok(_) => {}
            Err(behind) if behind.duration() > CLOCK_BEHIND => {
                let behind = behind.duration();
                let (days, seconds) = (days(behind), behind.as_secs() % 86_400);
                log::warn!("the clock is {days} days and {seconds} s behind the last job's end");
            }
            Err(_) => {}
        }
    }

    pub(super) fn restore_finished(&mut self, job: Job, now: Moment) {
        let serial = job.head.serial;
        let age = job.age(self.uptime_before);
        let left = self.limits.retain_time.saturating_sub(age);
        let known = self.ids.insert(job.head.id.clone(), serial);
        self.jobs.insert(serial, job);
        if let Some(older) = known {
            self.forget(older);
        }
        self.retain(serial, left, now);
    }

    pub(super) fn interrupt(&mut self, serial: Serial, now: Moment) {
        self.forget_dependencies(serial);
        self.pending.remove(&serial);
        self.running.insert(serial);
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let (queue, rank) = job.place();
        self.queues.begin(&queue, rank);
        let ending = Ending { cause: Cause::Interrupted, kills: 0, command_ended: true };
        job.interrupt(ending, now);
        self.effects.push_back(Effect::Signal { serial, kill: false });
        self.timers.set((serial, Timer::Grace), Some(now.instant + self.limits.kill_grace));
    }
}
