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
mod dependencies;
mod durability;
mod job;
mod lifecycle;
mod listing;
mod process;
mod queue;
mod record;
mod retention;
mod submission;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::charge::Account;
use crate::moment::Moment;
use crate::reactor::Deadlines;
use crate::sys::survivors::Traces;
use crate::wire::{ErrorCode, Event, JobHead, Outcome, Refusal};
use job::{Cause, Job, LogLimits, State};
use queue::Queues;

pub use crate::sys::children::Exit;
pub use command::Command;
pub use job::JobOutput;
pub use process::{Environment, Output, Process};
pub use submission::{Bounds, Submission};

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
    /// Bytes of their environments that are retained, for jobs that are to be run again.
    pub retain_environment: usize,
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
const LIST_PAGE: usize = 64 * 1024;
/// Bytes as which each command of a job counts in addition: short ones take as much time as long
/// ones.
const LIST_COMMAND: usize = 32;
/// Jobs that one call ends, or serves for their deadlines. [`Dispatcher::go_on`] does the rest.
const AT_ONCE: usize = 16;

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
    /// A job has failed; its last record follows, so that both can become durable at once.
    Failed {
        /// The job.
        job: Rc<JobHead>,
        /// Its outcome.
        outcome: Box<Outcome>,
        /// End of the job, RFC 3339.
        at: Rc<str>,
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
    queues: Queues,
    pending: BTreeSet<Serial>,
    /// Unfinished jobs, each with one that waits for its end.
    dependents: BTreeSet<(Serial, Serial)>,
    /// Jobs that have started.
    running: BTreeSet<Serial>,
    /// Jobs that have ended, but not durably.
    ended: BTreeSet<Serial>,
    finished: VecDeque<Serial>,
    /// Finished jobs that never ran, which are retained separately.
    cancelled: VecDeque<Serial>,
    /// Bytes of environments of finished jobs: of all, and of those of each submitter.
    environments: Account,
    submitters: HashMap<Option<String>, Account>,
    last_serial: Serial,
    timers: Deadlines<(Serial, Timer)>,
    /// Jobs to be ended and the cause: see [`Dispatcher::go_on`].
    doomed: BTreeMap<Serial, Cause>,
    /// Jobs whose records are to be submitted once more.
    resubmitted: BTreeSet<Serial>,
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
            queues: Queues::default(),
            pending: BTreeSet::new(),
            dependents: BTreeSet::new(),
            environments: Account::default(),
            submitters: HashMap::new(),
            running: BTreeSet::new(),
            finished: VecDeque::new(),
            cancelled: VecDeque::new(),
            last_serial: 0,
            timers: Deadlines::new(),
            doomed: BTreeMap::new(),
            resubmitted: BTreeSet::new(),
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
        self.bound_environments();
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

    /// Whether there is an action, or a step of [`Dispatcher::go_on`].
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty() || !self.doomed.is_empty() || !self.resubmitted.is_empty()
    }

    /// Whether output or events are among the actions: until these are carried out, the state of
    /// the jobs is ahead of their logs and of the last event.
    pub fn has_pending_output(&self) -> bool {
        self.effects.iter().any(|effect| match effect {
            Effect::Publish(_) | Effect::PublishOutcome { .. } | Effect::Log { .. } => true,
            Effect::Persist { .. }
            | Effect::Failed { .. }
            | Effect::Note { .. }
            | Effect::Forget { .. }
            | Effect::Start { .. }
            | Effect::Signal { .. }
            | Effect::Release { .. } => false,
        })
    }

    /// The next step of work on many jobs, which the caller divides among turns. To be called when
    /// there is no action left; false where there is nothing to do.
    pub fn go_on(&mut self, now: Moment) -> bool {
        if let Some((serial, cause)) = self.doomed.pop_first() {
            self.end(serial, cause, now);
            return true;
        }
        let Some(serial) = self.resubmitted.pop_first() else { return false };
        if self.unpersisted.contains(&serial) {
            self.persist(serial, Step::Finish);
        } else {
            self.note(serial);
        }
        true
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
        let after = batch.iter().map(|asked| self.find_all(&asked.after));
        let after: Vec<Vec<Serial>> = after.collect::<Result<_, _>>()?;
        let jobs = batch.into_iter().zip(after);
        let serials: Vec<Serial> = jobs.map(|(asked, after)| self.add(asked, after)).collect();
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

    fn add(&mut self, asked: Submission, after: Vec<Serial>) -> Serial {
        self.last_serial += 1;
        let serial = self.last_serial;
        let mut job = Job::new(serial, asked, self.limits.logs());
        job.after = after;
        self.admit(job);
        serial
    }

    /// Adds a pending job to the indexes.
    fn admit(&mut self, mut job: Job) {
        let serial = job.head.serial;
        job.replaces = self.ids.insert(job.head.id.clone(), serial);
        self.pending.insert(serial);
        self.await_dependencies(&mut job);
        if job.is_free() {
            let (queue, rank) = job.place();
            self.queues.wait(&queue, rank);
        }
        self.jobs.insert(serial, job);
    }

    /// Does what is due, for a few jobs: [`Dispatcher::due`] says when to call it again.
    pub fn on_deadline(&mut self, now: Moment) {
        for _ in 0..AT_ONCE {
            let Some((serial, timer)) = self.timers.take_due(now.instant) else { return };
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
}

fn remark(cause: Cause) -> &'static str {
    match cause {
        Cause::Killed => "killed",
        Cause::TimedOut => "timed out",
        Cause::Stopped => "ended because the daemon stopped",
        Cause::Interrupted => {
            "interrupted: the daemon that ran this job died; it was not run again"
        }
        Cause::Dependency => "not run: a job that it was to run after did not succeed",
        Cause::Doubtful => "not run: the journal was damaged, and it may have run before",
    }
}

#[cfg(test)]
mod tests;
