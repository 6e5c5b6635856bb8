//! Finished jobs: how long they are retained, and what of them can be run again.

use std::time::Duration;

use super::job::Job;
use super::{Dispatcher, Effect, MOST_CANCELLED, RETAIN_CANCELLED, Serial, Submission, Timer};
use crate::charge::{Account, Charge};
use crate::moment::Moment;
use crate::wire::{ErrorCode, MAX_NAME, Refusal};

impl Dispatcher {
    pub(super) fn retain(&mut self, serial: Serial, time: Duration, now: Moment) {
        let is_cancelled = self.jobs.get(&serial).is_some_and(Job::is_cancelled);
        let (list, time) = match is_cancelled {
            true => (&mut self.cancelled, time.min(RETAIN_CANCELLED)),
            false => (&mut self.finished, time),
        };
        list.push_back(serial);
        self.charge_environment(serial);
        self.timers.set((serial, Timer::Retain), Some(now.instant + time));
    }

    /// The end of a job was reported by the event with that number.
    pub fn reported(&mut self, serial: Serial, seq: u64, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let is_first = job.finished_seq.replace(seq).is_none();
        if is_first && job.is_restored() {
            self.retain(serial, self.limits.retain_time, now);
            self.forget_surplus();
        }
    }

    /// Forgets finished jobs beyond the limits, the oldest first.
    pub(super) fn forget_surplus(&mut self) {
        let surplus = self.finished.len().saturating_sub(self.limits.retain_jobs);
        let most = MOST_CANCELLED.min(self.limits.retain_jobs);
        let cancelled = self.cancelled.len().saturating_sub(most);
        let surplus = self.finished.iter().take(surplus).copied();
        let surplus: Vec<Serial> =
            surplus.chain(self.cancelled.iter().take(cancelled).copied()).collect();
        surplus.into_iter().for_each(|serial| self.forget(serial));
    }

    /// Charges what a finished job retains for another run, and bounds that of all.
    fn charge_environment(&mut self, serial: Serial) {
        let Some(job) = self.jobs.get_mut(&serial).filter(|job| job.is_restartable) else { return };
        let bytes = job.asked.environment_bytes();
        if bytes > 0 {
            let all = &self.environments;
            let submitter = self.submitters.entry(job.asked.submitted_by.clone());
            let account = submitter.or_insert_with(|| Account::within(all));
            job.environment = Charge::new(account, bytes);
            self.bound_environments();
        }
    }

    /// Drops environments of finished jobs beyond the limit: the oldest of the submitter with the
    /// most bytes.
    pub(super) fn bound_environments(&mut self) {
        while self.environments.used() > self.limits.retain_environment {
            let most = self.submitters.iter().max_by_key(|(_, account)| account.used());
            let Some(submitter) = most.map(|(submitter, _)| submitter.clone()) else { break };
            let jobs = &self.jobs;
            let is_charged = |serial: &&Serial| {
                let job = jobs.get(*serial);
                job.is_some_and(|job| {
                    job.environment.amount() > 0 && job.asked.submitted_by == submitter
                })
            };
            let mut all = self.finished.iter().chain(&self.cancelled);
            let Some(oldest) = all.find(is_charged).copied() else { break };
            if let Some(job) = self.jobs.get_mut(&oldest) {
                job.drop_environment();
            }
        }
        self.submitters.retain(|_, account| account.used() > 0);
    }

    /// The submission of a finished job, under an id that is free.
    ///
    /// # Errors
    /// There is no such job, it is active, or what it takes is not retained.
    pub fn restart(&self, id: &str) -> Result<Submission, Refusal> {
        let serial = self.find(id)?;
        let refuse = |code, why: String| Err(Refusal::new(code, why));
        let Some(job) = self.jobs.get(&serial).filter(|job| !job.is_active()) else {
            let why = format!("job {id:?} is active; restart it when it has finished");
            return refuse(ErrorCode::Conflict, why);
        };
        let Some(asked) = job.again() else {
            let why = format!(
                "job {id:?} cannot be restarted: its environment, directory and user are not \
                 retained (dispatcher.retain_environment); submit it anew"
            );
            return refuse(ErrorCode::NotFound, why);
        };
        Ok(Submission { id: self.next_id(id), ..asked })
    }

    /// `NAME-2` for `NAME`, `NAME-3` for `NAME-2`, or the first id after that which is free.
    pub(super) fn next_id(&self, id: &str) -> String {
        const DIGITS: usize = 20;
        let numbered = id.rsplit_once('-').and_then(|(name, number)| {
            let number = crate::wire::decimal::<u64>(number)?;
            Some((name, number)).filter(|(name, _)| !name.is_empty())
        });
        let (name, number) = numbered.unwrap_or((id, 1));
        let name = &name[..name.floor_char_boundary(MAX_NAME - DIGITS - 1)];
        let mut ids = (number.saturating_add(1)..).map(|number| format!("{name}-{number}"));
        ids.find(|id| !self.ids.contains_key(id)).unwrap_or_default()
    }

    pub(super) fn forget(&mut self, serial: Serial) {
        if self.remove(serial) {
            self.effects.push_back(Effect::Forget { serial });
        }
    }

    pub(super) fn remove(&mut self, serial: Serial) -> bool {
        let Some(job) = self.jobs.remove(&serial) else { return false };
        for list in [&mut self.finished, &mut self.cancelled] {
            if list.front() == Some(&serial) {
                list.pop_front();
            } else {
                list.retain(|other| *other != serial);
            }
        }
        self.unpersisted.remove(&serial);
        self.doomed.remove(&serial);
        self.timers.set((serial, Timer::Retain), None);
        if self.ids.get(&job.head.id) == Some(&serial) {
            self.ids.remove(&job.head.id);
        }
        true
    }
}
