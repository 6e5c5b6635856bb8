//! The dispatcher: jobs from the request to the finished event, without I/O.
//!
//! Inputs are requests, output and exits of commands, and the time; outputs are [`Effect`]s:
//! commands to start, signals, records and events. The processes are in [`process`](self::process).
//!
//! Three facts of a job are durable before they have an effect: that it was accepted, before the
//! reply; that it starts, before its first command runs, so that no job ever runs twice; and its
//! outcome, before the finished event. Each is a [`Step`].

mod class;
mod command;
mod job;
mod process;
mod record;
mod submission;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::helper::store::{Kind, Loaded, LogEnd, TextQuestion};
use crate::moment::Moment;
use crate::reactor::Deadlines;
use crate::sys::survivors::Traces;
use crate::wire::{ErrorCode, Event, Excerpt, JobEvent, Refusal, encoded_len, parse_rfc3339};
use job::{Cause, Ending, Job, LogLimits, State};
use record::JobRecord;

pub use crate::sys::children::Exit;
pub use command::Command;
pub use job::JobOutput;
pub use process::{Environment, Output, Process};
pub use submission::{Bounds, Submission, check_name, read_run, read_submit};

/// A step of a job that becomes durable.
pub type Ticket = (Serial, Step);

/// Number of a job in this run of the daemon, consecutive.
pub type Serial = u64;

/// Maximum number of bytes of a job's output read at once.
pub const OUTPUT_READ: usize = process::READ;

/// Limits of jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobLimits {
    /// Maximum number of running jobs.
    pub max_running: usize,
    /// Maximum number of pending jobs.
    pub max_pending: usize,
    /// Maximum number of commands of one job.
    pub max_commands: usize,
    /// Maximum size of a job's stored output, in bytes.
    pub log_limit: usize,
    /// Maximum size of a command's output in an event, in bytes.
    pub event_log_limit: usize,
    /// Maximum size of an encoded event, in bytes.
    pub max_event: usize,
    /// Maximum number of retained finished jobs.
    pub retain_jobs: usize,
    /// Time for which they are retained.
    pub retain_time: Duration,
    /// Minimum interval between running events of a job.
    pub output_interval: Duration,
    /// Between SIGTERM and SIGKILL, and between two SIGKILLs.
    pub kill_grace: Duration,
    /// Maximum delay of a finished event while the outcome cannot be made durable.
    pub end_patience: Duration,
}

impl JobLimits {
    /// Limits of a submission. A command occurs up to five times in an event, with room for its
    /// output.
    pub fn bounds(&self) -> Bounds {
        const MOST: usize = 32 * 1024;
        Bounds { max_commands: self.max_commands, max_command_bytes: MOST.min(self.max_event / 8) }
    }

    /// Maximum number of jobs known at a time.
    pub fn max_known(&self) -> usize {
        self.max_running + self.max_pending + self.retain_jobs + MOST_CANCELLED
    }

    fn logs(&self) -> LogLimits {
        LogLimits { job: self.log_limit, command: self.event_log_limit, event: self.max_event }
    }
}

/// The first output of a job is delayed only this long, not for a whole interval, so that a quick
/// command's output is sent together with its end.
const FIRST_OUTPUT: Duration = Duration::from_millis(50);
/// After this number of SIGKILLs a process counts as unkillable: blocked in the kernel, perhaps by
/// a disk.
const KILLS: u32 = 3;
/// Time limit of shutdown for the end of a job to be durable: time to replace a hung store.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// A clock that differs by more from the times of the journal is logged. A host may be off for a
/// season, but time does not run backwards.
const CLOCK_AHEAD: Duration = Duration::from_secs(366 * 86_400);
const CLOCK_BEHIND: Duration = Duration::from_secs(60);
/// Jobs that were cancelled before they ran are retained separately, so that they do not displace
/// the history: this many, this long.
const MOST_CANCELLED: usize = 16;
const RETAIN_CANCELLED: Duration = Duration::from_secs(10 * 60);
/// Maximum size of one reply to `log`.
const LOG_PART: u64 = 64 * 1024;

/// Maximum size of one page of a list, in bytes of JSON.
const LIST_PAGE: usize = 128 * 1024;

/// The page after a job that was active, or finished, when it was listed: active jobs after the
/// first number, if any, and finished ones before the second.
fn read_page(page: &str) -> Option<(Option<Serial>, Serial)> {
    match page.split_at_checked(1)? {
        ("a", serial) => Some((Some(serial.parse().ok()?), Serial::MAX)),
        ("f", serial) => Some((None, serial.parse().ok()?)),
        _ => None,
    }
}

/// A fact of a job that becomes durable, and its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It was accepted: then the submitter gets a reply.
    File,
    /// It starts: then it runs.
    Start,
    /// Its outcome: then it is reported.
    Finish,
}

/// An action for the owner.
#[derive(Debug)]
pub enum Effect {
    /// Publish an event.
    Publish(Event),
    /// Publish the outcome of a job, which requires its log: run the query of
    /// [`Dispatcher::outcome_question`], and pass the result to [`Dispatcher::outcome`].
    PublishOutcome {
        /// The job.
        serial: Serial,
    },
    /// Make a record durable, a JSON object, and report [`Dispatcher::persisted`] or
    /// [`Dispatcher::not_persisted`].
    Persist {
        /// The job.
        serial: Serial,
        /// The effect that depends on it.
        step: Step,
        /// The record.
        record: Vec<u8>,
    },
    /// Write a record on which nothing depends.
    Note {
        /// The record.
        record: Vec<u8>,
    },
    /// Append to a job's log.
    Log {
        /// The job.
        serial: Serial,
        /// Offset of these bytes in the job's output.
        at: u64,
        /// Maximum size of the stored log, in bytes.
        limit: usize,
        /// The output.
        bytes: Vec<u8>,
    },
    /// Delete the job's record and log.
    Forget {
        /// The job.
        serial: Serial,
    },
    /// Start a command.
    Start {
        /// The job.
        serial: Serial,
        /// Index of its command.
        command: usize,
    },
    /// Send a signal to all processes of the job, and report [`Dispatcher::tree_is_gone`] if there
    /// are none left.
    Signal {
        /// The job.
        serial: Serial,
        /// SIGKILL, else SIGTERM.
        kill: bool,
    },
    /// The job has ended: release its processes.
    Release {
        /// The job.
        serial: Serial,
    },
}

/// The logs of a finished event, as ranges of the job's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeQuestion {
    /// The ranges, in bytes.
    pub ranges: Vec<std::ops::Range<u64>>,
    /// Maximum size of each, in bytes.
    pub limit: usize,
}

/// A job that ran when its daemon died, and the identification of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// The job.
    pub serial: Serial,
    /// Identification of its processes.
    pub traces: Traces,
}

/// End of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an exit code or by a signal.
    Exit(Exit),
    /// It was never started.
    NotStarted(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Tell,
    Timeout,
    Grace,
    /// The end of a job is reported, durable or not.
    End,
    Retain,
}

impl Ended {
    /// The code in events: the exit code, the negative signal number, or -1.
    fn code(&self) -> i32 {
        match self {
            Ended::Exit(Exit::Code(code)) => *code,
            Ended::Exit(Exit::Signal(signal)) => -signal,
            Ended::NotStarted(_) => -1,
        }
    }
}

/// Numbers of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pending.
    pub pending: usize,
    /// Running.
    pub running: usize,
    /// Finished and retained.
    pub finished: usize,
}

/// All jobs.
#[derive(Debug)]
pub struct Dispatcher {
    limits: JobLimits,
    jobs: BTreeMap<Serial, Job>,
    ids: HashMap<String, Serial>,
    /// Unfinished jobs of each queue, in order of submission; only the first may run.
    queues: BTreeMap<String, BTreeSet<Serial>>,
    pending: BTreeSet<Serial>,
    /// Pending jobs that wait only for a free slot.
    startable: BTreeSet<Serial>,
    /// Jobs that have started.
    running: BTreeSet<Serial>,
    /// Jobs that have ended, but not durably.
    ended: BTreeSet<Serial>,
    finished: VecDeque<Serial>,
    /// Finished jobs that never ran, which are retained separately.
    cancelled: VecDeque<Serial>,
    last_serial: Serial,
    timers: Deadlines<(Serial, Timer)>,
    effects: VecDeque<Effect>,
    stopping: bool,
    /// Whether jobs survive the daemon.
    durable: bool,
    /// Why nothing can be persisted, if so.
    no_storage: Option<String>,
    /// Ended jobs whose outcome could not be persisted.
    unpersisted: BTreeSet<Serial>,
    /// Total uptime of previous daemons in seconds, according to the journal, and the start of this
    /// one.
    uptime_before: u64,
    began: Instant,
}

impl Dispatcher {
    /// Creates a dispatcher without jobs; `durable` states whether jobs survive the daemon.
    pub fn new(limits: JobLimits, durable: bool) -> Dispatcher {
        Dispatcher {
            limits,
            durable,
            no_storage: None,
            unpersisted: BTreeSet::new(),
            ended: BTreeSet::new(),
            jobs: BTreeMap::new(),
            ids: HashMap::new(),
            queues: BTreeMap::new(),
            pending: BTreeSet::new(),
            startable: BTreeSet::new(),
            running: BTreeSet::new(),
            finished: VecDeque::new(),
            cancelled: VecDeque::new(),
            last_serial: 0,
            timers: Deadlines::new(),
            effects: VecDeque::new(),
            stopping: false,
            uptime_before: 0,
            began: Instant::now(),
        }
    }

    /// Changes the limits; existing jobs retain the limits of their logs.
    pub fn set_limits(&mut self, limits: JobLimits) {
        self.limits = limits;
        self.forget_surplus();
        self.start_ready_jobs();
    }

    /// The limits in force.
    pub fn limits(&self) -> &JobLimits {
        &self.limits
    }

    /// The next action.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Dispatcher::on_deadline`] must be called.
    pub fn due(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Numbers of jobs.
    pub fn counts(&self) -> Counts {
        let (pending, running) = (self.pending.len(), self.running.len());
        Counts { pending, running, finished: self.finished.len() + self.cancelled.len() }
    }

    /// Accepts all jobs or none. Returns their serials in order; each becomes a job with
    /// [`Dispatcher::persisted`], after which the submitter gets a reply first.
    pub fn submit(&mut self, batch: Vec<Submission>) -> Result<Vec<Serial>, Refusal> {
        if self.stopping {
            return Err(Refusal::new(ErrorCode::Internal, "the daemon is stopping"));
        }
        if let Some(why) = &self.no_storage {
            return Err(Refusal::new(ErrorCode::Internal, why.clone()));
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
        let mut asked_for = HashSet::new();
        for asked in &batch {
            if !asked_for.insert(&asked.id) || self.active(&asked.id).is_some() {
                let why = format!("job {:?} is active already; kill it or wait for it", asked.id);
                return Err(Refusal::new(ErrorCode::Conflict, why));
            }
        }
        let serials: Vec<Serial> = batch.into_iter().map(|asked| self.add(asked)).collect();
        self.start_ready_jobs();
        for serial in &serials {
            if let Some(job) = self.jobs.get_mut(serial)
                && let State::Filed { recorded, chosen } = &mut job.state
            {
                *recorded = *chosen;
                self.persist(*serial, Step::File);
            }
        }
        Ok(serials)
    }

    fn active(&self, id: &str) -> Option<Serial> {
        let serial = *self.ids.get(id)?;
        self.jobs.get(&serial).filter(|job| job.is_active()).map(|_| serial)
    }

    fn add(&mut self, asked: Submission) -> Serial {
        self.last_serial += 1;
        let serial = self.last_serial;
        let job = Job::new(serial, asked, self.limits.logs());
        self.admit(job);
        serial
    }

    /// Adds a pending job to the indexes.
    fn admit(&mut self, mut job: Job) {
        let serial = job.head.serial;
        job.replaces = self.ids.insert(job.head.id.clone(), serial);
        self.pending.insert(serial);
        match &job.asked.queue {
            None => {
                self.startable.insert(serial);
            }
            Some(name) => {
                let queue = self.queues.entry(name.clone()).or_default();
                queue.insert(serial);
                if queue.len() == 1 {
                    self.startable.insert(serial);
                }
            }
        }
        self.jobs.insert(serial, job);
    }

    fn persist(&mut self, serial: Serial, step: Step) {
        let Some(job) = self.jobs.get(&serial) else { return };
        let kind = match step {
            Step::File => Kind::Filed,
            Step::Start => Kind::Started,
            Step::Finish => Kind::Finished,
        };
        let record = job.record(kind).to_line();
        self.effects.push_back(Effect::Persist { serial, step, record });
    }

    fn start_ready_jobs(&mut self) {
        while !self.stopping
            && self.no_storage.is_none()
            && self.running.len() < self.limits.max_running
            && let Some(serial) = self.startable.pop_first()
        {
            let Some(job) = self.jobs.get_mut(&serial) else { continue };
            self.pending.remove(&serial);
            self.running.insert(serial);
            match &mut job.state {
                State::Filed { chosen, .. } => *chosen = true,
                State::Pending => {
                    job.state = State::Starting;
                    self.persist(serial, Step::Start);
                }
                State::Starting | State::Running { .. } | State::Ended(_) | State::Finished => {}
            }
        }
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
                if self.stopping && (recorded || !self.durable) {
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
                self.running.remove(&serial);
                self.pending.remove(&serial);
                self.startable.remove(&serial);
                self.leave_queue(serial);
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

    /// A job that was chosen to start is pending again.
    fn wait_again(&mut self, serial: Serial) {
        if let Some(job) = self.jobs.get_mut(&serial) {
            job.state = State::Pending;
            self.running.remove(&serial);
            self.pending.insert(serial);
            self.startable.insert(serial);
        }
    }

    /// Sets whether records can be persisted, or why not: without storage no job is accepted and
    /// none starts.
    pub fn set_storage(&mut self, standing: Result<(), String>) {
        self.no_storage = standing.err();
        self.start_ready_jobs();
    }

    /// The storage is retried: returns failed records once more.
    pub fn persist_again(&mut self) {
        for serial in self.unpersisted.clone() {
            self.persist(serial, Step::Finish);
        }
        for serial in self.running.clone() {
            self.note(serial);
        }
    }

    fn note(&mut self, serial: Serial) {
        if let Some(job) = self.jobs.get(&serial).filter(|job| job.is_running()) {
            let record = job.record(Kind::Started).to_line();
            self.effects.push_back(Effect::Note { record });
        }
    }

    fn begin(&mut self, serial: Serial, now: Moment) {
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

    fn remark(&mut self, serial: Serial, text: &str) {
        if let Some(remark) = self.jobs.get(&serial).map(|job| job.remark(text)) {
            self.print_remark(serial, remark);
        }
    }

    fn print_remark(&mut self, serial: Serial, remark: String) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let (at, limit) = (job.total(), job.log_limit());
        job.print_remark(&remark);
        self.effects.push_back(Effect::Log { serial, at, limit, bytes: remark.into_bytes() });
    }

    fn report_later(&mut self, serial: Serial) {
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
        ids: &[String],
        by: Option<&str>,
        now: Moment,
    ) -> Result<Vec<String>, Refusal> {
        let most = self.limits.max_known();
        if ids.len() > most {
            let why = format!("{} jobs; this server knows at most {most}", ids.len());
            return Err(Refusal::new(ErrorCode::TooLarge, why));
        }
        let mut active: Vec<String> = Vec::new();
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
                self.end(serial, Cause::Killed, now);
            }
        }
        self.start_ready_jobs();
        Ok(active)
    }

    fn end(&mut self, serial: Serial, cause: Cause, now: Moment) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        match &mut job.state {
            State::Pending | State::Starting => {
                self.remark(serial, remark(cause));
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
            self.end(serial, Cause::Stopped, now);
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

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Moment) {
        while let Some((serial, timer)) = self.timers.take_due(now.instant) {
            match timer {
                Timer::Tell => self.report(serial, now),
                Timer::Timeout => self.end(serial, Cause::TimedOut, now),
                Timer::Grace => self.kill_harder(serial, now),
                Timer::End => {
                    log::warn!("the outcome of a job is published although it is not durable");
                    self.report_end(serial, now);
                }
                Timer::Retain => self.forget(serial),
            }
        }
    }

    fn report(&mut self, serial: Serial, now: Moment) {
        let interval = self.limits.output_interval;
        if let Some(job) = self.jobs.get_mut(&serial).filter(|job| job.is_running() && job.news) {
            self.effects.push_back(Effect::Publish(job.running_event()));
            job.next_tell = Some(now.instant + interval);
        }
    }

    fn kill_harder(&mut self, serial: Serial, now: Moment) {
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

    fn finish(&mut self, serial: Serial, cause: Option<Cause>, now: Moment) {
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
        job.end(cause, uptime, now);
        for timer in [Timer::Tell, Timer::Timeout, Timer::Grace] {
            self.timers.set((serial, timer), None);
        }
        self.pending.remove(&serial);
        self.startable.remove(&serial);
        self.running.remove(&serial);
        self.ended.insert(serial);
        self.timers.set((serial, Timer::End), Some(now.instant + self.end_patience()));
        self.leave_queue(serial);
        self.effects.push_back(Effect::Release { serial });
        self.persist(serial, Step::Finish);
        self.start_ready_jobs();
    }

    /// Shorter during shutdown.
    fn end_patience(&self) -> Duration {
        let patience = self.limits.end_patience;
        if self.stopping { patience.min(STOP_PATIENCE) } else { patience }
    }

    /// The end of a job is reported: it is durable, or cannot be.
    fn report_end(&mut self, serial: Serial, now: Moment) {
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
    }

    fn retain(&mut self, serial: Serial, time: Duration, now: Moment) {
        let is_cancelled = self.jobs.get(&serial).is_some_and(Job::is_cancelled);
        let (list, time) = match is_cancelled {
            true => (&mut self.cancelled, time.min(RETAIN_CANCELLED)),
            false => (&mut self.finished, time),
        };
        list.push_back(serial);
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

    /// The first finished job with serial `from` or more whose end was reported before event
    /// `before`, or by a previous daemon.
    pub fn next_outcome(&self, from: Serial, before: u64) -> Option<(Serial, &str)> {
        let finished = self.jobs.range(from..).find(|(_, job)| {
            let is_finished = matches!(job.state, State::Finished);
            is_finished && job.finished_seq.is_some_and(|seq| seq < before)
        });
        finished.map(|(serial, job)| (*serial, job.head.id.as_str()))
    }

    /// The query for the finished event of a job.
    pub fn outcome_question(&self, serial: Serial) -> Option<OutcomeQuestion> {
        let job = self.jobs.get(&serial).filter(|job| !job.is_active())?;
        Some(OutcomeQuestion { ranges: job.ranges(), limit: job.piece_limit() })
    }

    /// The finished event from the result of the query; `Err` is why it failed.
    pub fn outcome(&self, serial: Serial, read: Result<Vec<Excerpt>, String>) -> Option<JobEvent> {
        let job = self.jobs.get(&serial).filter(|job| !job.is_active())?;
        Some(job.outcome(read.unwrap_or_else(|why| {
            let mut piece = Excerpt::new(job.piece_limit());
            piece.push(&format!("[the log cannot be shown: {why}]\n"));
            vec![piece]
        })))
    }

    fn leave_queue(&mut self, serial: Serial) {
        let Some(name) = self.jobs.get(&serial).and_then(|job| job.asked.queue.clone()) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&name) else { return };
        queue.remove(&serial);
        match queue.first() {
            None => {
                self.queues.remove(&name);
            }
            Some(next) if self.pending.contains(next) => {
                self.startable.insert(*next);
            }
            Some(_) => {}
        }
    }

    /// Forgets finished jobs beyond the limits, the oldest first.
    fn forget_surplus(&mut self) {
        let surplus = self.finished.len().saturating_sub(self.limits.retain_jobs);
        let most = MOST_CANCELLED.min(self.limits.retain_jobs);
        let cancelled = self.cancelled.len().saturating_sub(most);
        let surplus = self.finished.iter().take(surplus).copied();
        let surplus: Vec<Serial> =
            surplus.chain(self.cancelled.iter().take(cancelled).copied()).collect();
        surplus.into_iter().for_each(|serial| self.forget(serial));
    }

    fn forget(&mut self, serial: Serial) {
        if self.remove(serial) {
            self.effects.push_back(Effect::Forget { serial });
        }
    }

    fn remove(&mut self, serial: Serial) -> bool {
        let Some(job) = self.jobs.remove(&serial) else { return false };
        for list in [&mut self.finished, &mut self.cancelled] {
            if list.front() == Some(&serial) {
                list.pop_front();
            } else {
                list.retain(|other| *other != serial);
            }
        }
        self.unpersisted.remove(&serial);
        self.timers.set((serial, Timer::Retain), None);
        if self.ids.get(&job.head.id) == Some(&serial) {
            self.ids.remove(&job.head.id);
        }
        true
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
            }
        }
        self.warn_of_clock(now);
        self.forget_surplus();
        self.start_ready_jobs();
        interrupted
    }

    /// Logs a clock that differs much from the times of the journal. Nothing is forgotten because
    /// of it.
    fn warn_of_clock(&self, now: Moment) {
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

    fn restore_finished(&mut self, job: Job, now: Moment) {
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

    fn interrupt(&mut self, serial: Serial, now: Moment) {
        self.pending.remove(&serial);
        self.startable.remove(&serial);
        self.running.insert(serial);
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let ending = Ending { cause: Cause::Interrupted, kills: 0, command_ended: true };
        job.interrupt(ending, now);
        self.effects.push_back(Effect::Signal { serial, kill: false });
        self.timers.set((serial, Timer::Grace), Some(now.instant + self.limits.kill_grace));
    }

    /// The current state of the first pending or running job with serial `from` or more: its log as
    /// far as it was reported.
    pub fn present(&self, from: Serial) -> Option<(Serial, JobEvent)> {
        let mut from = from;
        loop {
            let pending = self.pending.range(from..).next();
            let running = self.running.range(from..).next();
            let serial = *[pending, running].into_iter().flatten().min()?;
            match self.jobs.get(&serial)?.present() {
                Some(event) => return Some((serial, event)),
                None => from = serial + 1,
            }
        }
    }

    /// The first pending job with serial `from` or more.
    pub fn present_pending(&self, from: Serial) -> Option<(Serial, JobEvent)> {
        self.pending.range(from..).find_map(|serial| {
            let event = self.jobs.get(serial)?.present()?;
            Some((*serial, event))
        })
    }

    /// Numbers of unfinished jobs of each named queue.
    pub fn queues(&self) -> Value {
        let queues = self.queues.iter().map(|(name, jobs)| (name.clone(), jobs.len().into()));
        Value::Object(queues.collect())
    }

    /// The known jobs, by queue: the active ones in order of submission, then the finished ones,
    /// the newest first. At most [`LIST_PAGE`] bytes of jobs, but at least one job; `next` names
    /// the next page, if any.
    ///
    /// # Errors `page` is not the name of a page.
    pub fn list(&self, page: Option<&str>) -> Result<Value, Refusal> {
        // The last job of the previous page.
        let (active_after, finished_before) = match page {
            None => (Some(0), Serial::MAX),
            Some(page) => read_page(page)
                .ok_or_else(|| Refusal::bad_request(format!("no list has a page {page:?}")))?,
        };
        let active = active_after.into_iter().flat_map(|after| {
            let later = self.jobs.range((Bound::Excluded(after), Bound::Unbounded));
            later.filter(|(_, job)| job.is_active())
        });
        let finished = self.jobs.range(..finished_before).rev().filter(|(_, job)| !job.is_active());
        let queued = self.queues.values().flat_map(|queue| queue.iter().zip(0..));
        let has_no_queue =
            |serial: &&Serial| self.jobs.get(serial).is_some_and(|job| job.asked.queue.is_none());
        let places: HashMap<&Serial, usize> =
            queued.chain(self.pending.iter().filter(has_no_queue).zip(1..)).collect();
        let mut entries = BTreeMap::new();
        let (mut bytes, mut last, mut next) = (0, None, None);
        for (serial, job) in active.chain(finished) {
            if matches!(job.state, State::Filed { .. }) {
                continue;
            }
            let position = match &job.asked.queue {
                _ if !job.is_active() => None,
                Some(_) => places.get(serial).copied(),
                None => Some(places.get(serial).copied().unwrap_or(0)),
            };
            let entry = job.entry(position);
            bytes += encoded_len(&job.head.id) + entry.to_string().len();
            if last.is_some() && bytes > LIST_PAGE {
                next = last;
                break;
            }
            last = Some(format!("{}{serial}", if job.is_active() { 'a' } else { 'f' }));
            entries.insert(*serial, (job, entry));
        }
        // Within a page in order of submission.
        let mut queues: Map<String, Value> = Map::new();
        queues.insert("no_queue".into(), json!({}));
        for (job, entry) in entries.into_values() {
            let name = job.asked.queue.as_deref().unwrap_or("no_queue");
            let queue = queues.entry(name).or_insert_with(|| json!({}));
            queue[&job.head.id] = entry;
        }
        let mut reply = json!({ "jobs": queues });
        if let Some(next) = next {
            reply["next"] = next.into();
        }
        Ok(reply)
    }

    /// The query for a part of a job's log.
    pub fn log_question(
        &self,
        id: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<TextQuestion, Refusal> {
        let serial = self.find(id)?;
        let gone = || Refusal::new(ErrorCode::NotFound, format!("no such job: {id:?}"));
        let job = self.jobs.get(&serial).ok_or_else(gone)?;
        let length = length.unwrap_or(LOG_PART).min(LOG_PART);
        Ok(job.log_question(offset, usize::try_from(length).unwrap_or(usize::MAX)))
    }

    /// Generates an id for a job without one: its program and an unused number.
    pub fn new_id(&self, program: &str) -> String {
        const MOST: usize = 24;
        let name = program.rsplit('/').next().unwrap_or_default();
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(c);
        let name: String = name.chars().filter(is_plain).take(MOST).collect();
        let name = if name.is_empty() { "job" } else { &name };
        let numbers = self.last_serial.saturating_add(1)..;
        let mut ids = numbers.map(|number| format!("{name}-{number}"));
        ids.find(|id| !self.ids.contains_key(id)).unwrap_or_default()
    }

    /// The job that a user submitted with that nonce before.
    pub fn find_submitted(&self, nonce: &str, by: Option<&str>) -> Option<(Serial, &str)> {
        let is_it = |job: &&Job| {
            job.asked.nonce.as_deref() == Some(nonce) && job.asked.submitted_by.as_deref() == by
        };
        self.jobs.values().find(is_it).map(|job| (job.head.serial, job.head.id.as_str()))
    }

    /// Whether a job is not durable yet.
    pub fn is_filed(&self, serial: Serial) -> bool {
        self.jobs.get(&serial).is_some_and(|job| matches!(job.state, State::Filed { .. }))
    }

    /// The serial of the job with that id.
    pub fn find(&self, id: &str) -> Result<Serial, Refusal> {
        let serial = self.ids.get(id).copied();
        let is_filed = |serial: &Serial| {
            let job = self.jobs.get(serial);
            job.is_some_and(|job| !matches!(job.state, State::Filed { .. }))
        };
        serial.filter(is_filed).ok_or_else(|| {
            let why = format!(
                "no such job: {id:?}; \"sysadm-events jobs\" lists those that are retained"
            );
            Refusal::new(ErrorCode::NotFound, why)
        })
    }

    /// The output of a job for an attached client.
    pub fn output(&self, serial: Serial) -> Option<JobOutput<'_>> {
        self.jobs.get(&serial).map(Job::output)
    }

    /// The id of a job.
    pub fn id(&self, serial: Serial) -> Option<&str> {
        self.jobs.get(&serial).map(|job| job.head.id.as_str())
    }

    /// Whether a job is known.
    pub fn knows(&self, serial: Serial) -> bool {
        self.jobs.contains_key(&serial)
    }
}

fn remark(cause: Cause) -> &'static str {
    match cause {
        Cause::Killed => "killed",
        Cause::TimedOut => "timed out",
        Cause::Stopped => "ended because the daemon stopped",
        Cause::Interrupted => {
            "interrupted: the daemon that ran this job died; it was not run again"
        }
        Cause::Doubtful => "not run: the journal was damaged, and it may have run before",
    }
}

#[cfg(test)]
mod tests;
