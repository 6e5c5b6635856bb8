//! The dispatcher: jobs from the request to the finished event, without I/O.
//!
//! It is told what was asked for, what a command printed and how it ended, and what time it is; it
//! says through [`Effect`]s what is to be started, signalled and published. The processes
//! themselves are in [`process`](self::process).

mod class;
mod command;
mod decoder;
mod job;
mod process;
mod submission;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::moment::Moment;
use crate::reactor::Deadlines;
use crate::wire::{ErrorCode, Event, JobEvent, Refusal};
use job::{Cause, Ending, Job, LogLimits, State};

pub use crate::sys::children::Exit;
pub use command::Command;
pub use process::{Environment, Output, Process};
pub use submission::{Bounds, Submission, check_name, read_run, read_submit};

/// Number of a job in this run of the daemon; one more for each.
pub type Serial = u64;

/// The limits of the configuration that concern jobs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs that run at a time.
    pub max_running: usize,
    /// Jobs that wait.
    pub max_pending: usize,
    /// Commands of one job.
    pub max_commands: usize,
    /// Bytes kept of a job's output.
    pub log_limit: usize,
    /// Bytes of a command's output in an event.
    pub event_log_limit: usize,
    /// Bytes of one encoded event.
    pub max_event: usize,
    /// Finished jobs that are kept.
    pub retain_jobs: usize,
    /// How long they are.
    pub retain_time: Duration,
    /// Between running events of a job.
    pub output_interval: Duration,
    /// Between SIGTERM and SIGKILL, and between one SIGKILL and the next.
    pub kill_grace: Duration,
}

impl Limits {
    /// Bounds on a submission. A command stands up to five times in an event, and its output has to
    /// have room beside it.
    pub fn bounds(&self) -> Bounds {
        const MOST: usize = 32 * 1024;
        Bounds { max_commands: self.max_commands, max_command_bytes: MOST.min(self.max_event / 8) }
    }

    /// As many jobs as can be known at a time.
    pub fn max_known(&self) -> usize {
        self.max_running + self.max_pending + self.retain_jobs
    }

    fn logs(&self) -> LogLimits {
        LogLimits { job: self.log_limit, command: self.event_log_limit, event: self.max_event }
    }

    /// What the logs of finished jobs may take in memory together, in bytes.
    fn retained_log_bytes(&self) -> usize {
        self.retain_jobs.saturating_mul(self.event_log_limit)
    }
}

/// The first output of a job is not held back for a whole interval, only for so long that a quick
/// command's output goes out with its end.
const FIRST_OUTPUT: Duration = Duration::from_millis(50);
/// After so many SIGKILLs a process cannot be ended: it waits in the kernel, for a disk perhaps.
const KILLS: u32 = 3;
/// The most that `log` gives at once, in bytes.
const LOG_PART: u64 = 64 * 1024;

/// Something to be done for the dispatcher.
#[derive(Debug)]
pub enum Effect {
    /// Tell everybody.
    Publish(Event),
    /// Start the command of that number.
    Start {
        /// The job.
        serial: Serial,
        /// Index of its command.
        command: usize,
    },
    /// Send a signal to all processes of the job, then say with [`Dispatcher::tree_is_gone`]
    /// whether there are none left.
    Signal {
        /// The job.
        serial: Serial,
        /// SIGKILL; else SIGTERM.
        kill: bool,
    },
    /// The job is over: its processes are no longer ours.
    Release {
        /// The job.
        serial: Serial,
    },
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself or by a signal.
    Exit(Exit),
    /// It was never started.
    NotStarted(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Tell,
    Timeout,
    Grace,
    Retain,
}

impl Ended {
    /// As it stands in events: the code, the signal's number below zero, or -1.
    fn code(&self) -> i32 {
        match self {
            Ended::Exit(Exit::Code(code)) => *code,
            Ended::Exit(Exit::Signal(signal)) => -signal,
            Ended::NotStarted(_) => -1,
        }
    }
}

/// Counts of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting.
    pub pending: usize,
    /// At work.
    pub running: usize,
    /// Over, and still known.
    pub finished: usize,
}

/// All jobs.
#[derive(Debug)]
pub struct Dispatcher {
    limits: Limits,
    jobs: BTreeMap<Serial, Job>,
    ids: HashMap<String, Serial>,
    /// Jobs of each queue that are not over, in order; only the first may run.
    queues: BTreeMap<String, VecDeque<Serial>>,
    pending: BTreeSet<Serial>,
    /// Pending jobs that wait for nothing but room.
    startable: BTreeSet<Serial>,
    running: BTreeSet<Serial>,
    finished: VecDeque<Serial>,
    /// Bytes of their logs.
    finished_bytes: usize,
    last_serial: Serial,
    timers: Deadlines<(Serial, Timer)>,
    effects: VecDeque<Effect>,
    stopping: bool,
}

impl Dispatcher {
    /// A dispatcher without jobs.
    pub fn new(limits: Limits) -> Dispatcher {
        Dispatcher {
            limits,
            jobs: BTreeMap::new(),
            ids: HashMap::new(),
            queues: BTreeMap::new(),
            pending: BTreeSet::new(),
            startable: BTreeSet::new(),
            running: BTreeSet::new(),
            finished: VecDeque::new(),
            finished_bytes: 0,
            last_serial: 0,
            timers: Deadlines::new(),
            effects: VecDeque::new(),
            stopping: false,
        }
    }

    /// Other limits from now on; jobs that there are keep those of their logs.
    pub fn set_limits(&mut self, limits: Limits, now: Moment) {
        self.limits = limits;
        self.forget_surplus();
        self.start_what_may(now);
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is to be done next.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Dispatcher::on_deadline`] wants to be called.
    pub fn due(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// How many jobs there are.
    pub fn counts(&self) -> Counts {
        let (pending, running) = (self.pending.len(), self.running.len());
        Counts { pending, running, finished: self.finished.len() }
    }

    /// Takes jobs in, all of them or none. Returns their ids in order.
    pub fn submit(&mut self, batch: Vec<Submission>, now: Moment) -> Result<Vec<String>, Refusal> {
        if self.stopping {
            return Err(Refusal::new(ErrorCode::Internal, "the daemon is stopping"));
        }
        for (i, asked) in batch.iter().enumerate() {
            let twice = batch[..i].iter().any(|other| other.id == asked.id);
            if twice || self.active(&asked.id).is_some() {
                let why = format!("job {:?} is active already; kill it or wait for it", asked.id);
                return Err(Refusal::new(ErrorCode::Conflict, why));
            }
        }
        let slots = self.limits.max_running.saturating_sub(self.running.len());
        if self.pending.len() + batch.len() > self.limits.max_pending + slots {
            let why = format!(
                "{} jobs wait and {} run; at most {} may wait",
                self.pending.len(),
                self.running.len(),
                self.limits.max_pending
            );
            return Err(Refusal::new(ErrorCode::TooMany, why));
        }
        let ids = batch.iter().map(|asked| asked.id.clone()).collect();
        for asked in batch {
            self.add(asked);
        }
        self.start_what_may(now);
        Ok(ids)
    }

    fn active(&self, id: &str) -> Option<Serial> {
        let serial = *self.ids.get(id)?;
        self.jobs.get(&serial).filter(|job| job.is_active()).map(|_| serial)
    }

    fn add(&mut self, asked: Submission) {
        if let Some(over) = self.ids.get(&asked.id).copied() {
            self.forget(over);
        }
        self.last_serial += 1;
        let serial = self.last_serial;
        self.ids.insert(asked.id.clone(), serial);
        self.pending.insert(serial);
        match &asked.queue {
            None => {
                self.startable.insert(serial);
            }
            Some(name) => {
                let queue = self.queues.entry(name.clone()).or_default();
                queue.push_back(serial);
                if queue.len() == 1 {
                    self.startable.insert(serial);
                }
            }
        }
        let job = Job::new(serial, asked, self.limits.logs());
        self.effects.push_back(Effect::Publish(job.pending_event()));
        self.jobs.insert(serial, job);
    }

    fn start_what_may(&mut self, now: Moment) {
        while !self.stopping
            && self.running.len() < self.limits.max_running
            && let Some(serial) = self.startable.pop_first()
        {
            let Some(job) = self.jobs.get_mut(&serial) else { continue };
            self.pending.remove(&serial);
            self.running.insert(serial);
            job.begin(now);
            self.effects.push_back(Effect::Start { serial, command: 0 });
            self.effects.push_back(Effect::Publish(job.running_event()));
            job.next_tell = Some(now.instant + FIRST_OUTPUT);
            if let Some(timeout) = job.asked.timeout {
                self.timers.set((serial, Timer::Timeout), Some(now.instant + timeout));
            }
        }
    }

    /// What a job was asked to be, while it is active.
    pub fn submission(&self, serial: Serial) -> Option<&Submission> {
        self.jobs.get(&serial).filter(|job| job.is_active()).map(|job| &job.asked)
    }

    /// True while a job waits or runs.
    pub fn is_active(&self, serial: Serial) -> bool {
        self.jobs.get(&serial).is_some_and(Job::is_active)
    }

    /// The current command of a job printed something.
    pub fn printed(&mut self, serial: Serial, text: &str) {
        if let Some(job) = self.jobs.get_mut(&serial).filter(|job| job.is_active()) {
            job.print(text);
            self.tell_later(serial);
        }
    }

    fn tell_later(&mut self, serial: Serial) {
        if let Some(job) = self.jobs.get(&serial)
            && job.news
            && job.is_active()
        {
            self.timers.set((serial, Timer::Tell), job.next_tell);
        }
    }

    /// The current command of a job ended; `left_open` says that a process which it left behind
    /// still holds its output.
    pub fn ended(&mut self, serial: Serial, ended: &Ended, left_open: bool, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial).filter(|job| job.is_active()) else { return };
        if left_open {
            job.remark(
                "output was still open: a process that this command left behind was not waited for",
            );
        }
        if let Ended::NotStarted(why) = ended {
            job.print(&format!("{why}\n"));
        }
        let goes_on = job.end_command(ended.code());
        if goes_on {
            self.effects.push_back(Effect::Start { serial, command: job.current() });
            self.tell_later(serial);
        } else if let Some(ending) = job.ending() {
            ending.command_ended = true;
            // The rest of the tree is asked for; whether it is gone comes back.
            let kill = ending.kills > 0;
            self.effects.push_back(Effect::Signal { serial, kill });
            self.tell_later(serial);
        } else {
            self.finish(serial, now);
        }
    }

    /// No process of a job that is being ended lives any more. Says nothing while its command has
    /// not been seen to end.
    pub fn tree_is_gone(&mut self, serial: Serial, now: Moment) {
        if let Some(job) = self.jobs.get_mut(&serial)
            && job.ending().is_some_and(|ending| ending.command_ended)
        {
            self.finish(serial, now);
        }
    }

    /// Ends jobs; returns the ids of those that were active. Their events follow.
    pub fn kill(&mut self, ids: &[String], now: Moment) -> Vec<String> {
        let mut active: Vec<String> = Vec::new();
        for id in ids {
            if let Some(serial) = self.active(id)
                && !active.contains(id)
            {
                active.push(id.clone());
                self.end(serial, Cause::Killed, now);
            }
        }
        self.start_what_may(now);
        active
    }

    fn end(&mut self, serial: Serial, cause: Cause, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        match &mut job.state {
            State::Pending => {
                job.remark(remark(cause));
                self.finish(serial, now);
            }
            State::Running { ending: ending @ None, .. } => {
                *ending = Some(Ending { cause, kills: 0, command_ended: false });
                self.effects.push_back(Effect::Signal { serial, kill: false });
                self.timers.set((serial, Timer::Grace), Some(now.instant + self.limits.kill_grace));
            }
            State::Running { ending: Some(_), .. } | State::Finished => {}
        }
    }

    /// Nothing new is started, and what runs is ended.
    pub fn stop(&mut self, now: Moment) {
        self.stopping = true;
        let active: Vec<Serial> = self.pending.iter().chain(&self.running).copied().collect();
        for serial in active {
            self.end(serial, Cause::Stopped, now);
        }
    }

    /// After [`Dispatcher::stop`]: what still runs is ended by force, now.
    pub fn hurry(&mut self, now: Moment) {
        for serial in self.running.clone() {
            self.timers.set((serial, Timer::Grace), Some(now.instant));
        }
    }

    /// True where no job waits or runs.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.running.is_empty()
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Moment) {
        while let Some((serial, timer)) = self.timers.take_due(now.instant) {
            match timer {
                Timer::Tell => self.tell(serial, now),
                Timer::Timeout => self.end(serial, Cause::TimedOut, now),
                Timer::Grace => self.kill_harder(serial, now),
                Timer::Retain => self.forget(serial),
            }
        }
    }

    fn tell(&mut self, serial: Serial, now: Moment) {
        let interval = self.limits.output_interval;
        if let Some(job) = self.jobs.get_mut(&serial).filter(|job| job.is_active() && job.news) {
            self.effects.push_back(Effect::Publish(job.running_event()));
            job.next_tell = Some(now.instant + interval);
        }
    }

    fn kill_harder(&mut self, serial: Serial, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let Some(ending) = job.ending() else { return };
        if ending.kills >= KILLS {
            job.remark("a process of this job cannot be ended; it was left behind");
            if !job.ending().is_some_and(|ending| ending.command_ended) {
                job.end_command(-libc::SIGKILL);
            }
            self.finish(serial, now);
            return;
        }
        ending.kills += 1;
        self.effects.push_back(Effect::Signal { serial, kill: true });
        self.timers.set((serial, Timer::Grace), Some(now.instant + self.limits.kill_grace));
    }

    fn finish(&mut self, serial: Serial, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        if let Some(Ending { cause, .. }) = job.ending().copied() {
            job.remark(remark(cause));
        }
        let event = job.finish(now);
        self.finished_bytes += job.log.held();
        for timer in [Timer::Tell, Timer::Timeout, Timer::Grace] {
            self.timers.set((serial, timer), None);
        }
        self.timers.set((serial, Timer::Retain), Some(now.instant + self.limits.retain_time));
        self.pending.remove(&serial);
        self.startable.remove(&serial);
        self.running.remove(&serial);
        self.finished.push_back(serial);
        self.leave_queue(serial);
        self.effects.push_back(Effect::Release { serial });
        self.effects.push_back(Effect::Publish(event));
        self.forget_surplus();
        self.start_what_may(now);
    }

    fn leave_queue(&mut self, serial: Serial) {
        let Some(name) = self.jobs.get(&serial).and_then(|job| job.asked.queue.clone()) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&name) else { return };
        queue.retain(|other| *other != serial);
        match queue.front() {
            None => {
                self.queues.remove(&name);
            }
            Some(next) if self.pending.contains(next) => {
                self.startable.insert(*next);
            }
            Some(_) => {}
        }
    }

    /// Finished jobs beyond what is retained, the oldest first.
    fn forget_surplus(&mut self) {
        while self.finished.len() > self.limits.retain_jobs
            || self.finished_bytes > self.limits.retained_log_bytes() && self.finished.len() > 1
        {
            let Some(oldest) = self.finished.front().copied() else { break };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, serial: Serial) {
        let Some(job) = self.jobs.remove(&serial) else { return };
        self.finished_bytes = self.finished_bytes.saturating_sub(job.log.held());
        self.finished.retain(|other| *other != serial);
        self.timers.set((serial, Timer::Retain), None);
        if self.ids.get(&job.head.id) == Some(&serial) {
            self.ids.remove(&job.head.id);
        }
    }

    /// The state of the first pending or running job whose number is `from` or more, for who comes
    /// late: its log as far as it was told.
    pub fn present(&self, from: Serial) -> Option<(Serial, JobEvent)> {
        let pending = self.pending.range(from..).next();
        let running = self.running.range(from..).next();
        let serial = *[pending, running].into_iter().flatten().min()?;
        Some((serial, self.jobs.get(&serial)?.present()?))
    }

    /// The number that the next job will have.
    pub fn next_serial(&self) -> Serial {
        self.last_serial + 1
    }

    /// All jobs that are known, by queue.
    pub fn list(&self) -> Value {
        let mut queues: Map<String, Value> = Map::new();
        queues.insert("no_queue".into(), json!({}));
        let mut unqueued = 0;
        for (serial, job) in &self.jobs {
            let position = match &job.asked.queue {
                _ if !job.is_active() => None,
                Some(name) => {
                    self.queues.get(name).and_then(|q| q.iter().position(|s| s == serial))
                }
                None if self.pending.contains(serial) => {
                    unqueued += 1;
                    Some(unqueued)
                }
                None => Some(0),
            };
            let name = job.asked.queue.as_deref().unwrap_or("no_queue");
            let queue = queues.entry(name).or_insert_with(|| json!({}));
            queue[&job.head.id] = job.entry(position);
        }
        json!({ "jobs": queues })
    }

    /// A part of a job's log.
    pub fn log(&self, id: &str, offset: u64, length: Option<u64>) -> Result<Value, Refusal> {
        let job = self.ids.get(id).and_then(|serial| self.jobs.get(serial));
        let Some(job) = job else {
            let why = format!("no job {id:?} is known; \"list\" says which are");
            return Err(Refusal::new(ErrorCode::NotFound, why));
        };
        let length = length.unwrap_or(LOG_PART).min(LOG_PART);
        Ok(job.log_part(offset, usize::try_from(length).unwrap_or(usize::MAX)))
    }
}

fn remark(cause: Cause) -> &'static str {
    match cause {
        Cause::Killed => "killed",
        Cause::TimedOut => "timed out",
        Cause::Stopped => "ended because the daemon stopped",
    }
}

#[cfg(test)]
mod tests;
