//! The processes of jobs, between the dispatcher and the reactor.
//!
//! A command has ended when its process has ended *and* its output has. If a process that it left
//! behind holds the output open, the end is awaited for a grace period only; later output is read
//! and discarded, because closing the pipe would kill that process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mio::Interest;
use mio::unix::pipe::Receiver;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Key;
use crate::dispatcher::{Dispatcher, Ended, Environment, Output, Process, Serial};
use crate::moment::Moment;
use crate::reactor::{Reactor, Registered};
use crate::sys::children::Exit;
use crate::sys::process_table;
use crate::sys::process_tree::{Descendants, Orphans, Roots};
use crate::sys::survivors::{Traces, survivors};

/// Number of times that the processes of a job are listed again because one may have forked between
/// the listing and the signal.
const ROUNDS: usize = 16;

/// Maximum number of outputs of left-behind processes that are still read; beyond it the oldest is
/// closed.
const LEFTOVERS: usize = 64;
/// Interval between two reads of one, so that discarded output does not occupy the daemon.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(100);

/// Interval of checks whether processes of a previous daemon's jobs have ended.
const SURVIVORS_LOOK: Duration = Duration::from_millis(200);

/// All processes of jobs.
pub(super) struct Jobs {
    environment: Environment,
    epoch: String,
    at_work: BTreeMap<Serial, AtWork>,
    /// Running leaders.
    by_pid: BTreeMap<Pid, Serial>,
    /// Reaped leaders of jobs that have not ended.
    ended: BTreeMap<Pid, Serial>,
    /// Jobs that are being killed and had processes when last checked.
    ending: BTreeSet<Serial>,
    orphans: Orphans,
    leftovers: BTreeMap<u64, Leftover>,
    last_leftover: u64,
    /// Grace period of the output after its command has ended.
    grace: Duration,
}

/// The output of a left-behind process.
struct Leftover {
    output: Receiver,
    registered: Registered,
    /// It was read recently.
    paused: bool,
}

/// A running job.
struct AtWork {
    roots: Roots,
    /// Identification of its processes, if a previous daemon started them.
    traces: Option<Traces>,
    /// Index of the command.
    command: usize,
    process: Option<(Process, Option<Registered>)>,
}

impl Jobs {
    pub(super) fn new(environment: Environment, epoch: &str, grace: Duration) -> Jobs {
        Jobs {
            environment,
            epoch: epoch.to_owned(),
            at_work: BTreeMap::new(),
            by_pid: BTreeMap::new(),
            ended: BTreeMap::new(),
            ending: BTreeSet::new(),
            orphans: Orphans::default(),
            leftovers: BTreeMap::new(),
            last_leftover: 0,
            grace,
        }
    }

    pub(super) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Starts a command.
    pub(super) fn start(
        &mut self,
        serial: Serial,
        command: usize,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<Key>,
        now: Moment,
    ) {
        let Some(asked) = dispatcher.submission(serial) else { return };
        let Some(line) = asked.commands.get(command) else { return };
        let mark = Environment::mark(&self.epoch, serial);
        let started = Process::start(line, asked, &mark, &self.environment);
        let job = self.at_work.entry(serial).or_insert_with(|| AtWork {
            roots: Roots { leader: None, ended: Vec::new(), mark: mark.clone() },
            traces: None,
            command,
            process: None,
        });
        job.command = command;
        match started {
            Err(why) => dispatcher.ended(serial, &Ended::NotStarted(why), false, now),
            Ok(mut process) => {
                let output = process.output();
                let registered = output.and_then(|output| {
                    reactor.register(output, Interest::READABLE, Key::Output(serial)).ok()
                });
                let pid = process.pid;
                job.roots.leader = Some(pid);
                if registered.is_none() {
                    // The kernel has no resources to poll the pipe: its end is noticed at the exit.
                    log::error!("cannot watch the output of job {serial}");
                }
                job.process = Some((process, registered));
                self.by_pid.insert(pid, serial);
                // The number was reused: it belongs to this job now.
                if let Some(before) = self.ended.remove(&pid)
                    && let Some(other) = self.at_work.get_mut(&before)
                {
                    other.roots.ended.retain(|ended| *ended != pid);
                }
                let start = process_table::start_of(pid.as_raw()).unwrap_or_default();
                dispatcher.started(serial, (pid.as_raw(), start), &mark);
            }
        }
    }

    /// The output of a job is readable or has ended.
    pub(super) fn on_output(
        &mut self,
        serial: Serial,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<Key>,
        scratch: &mut [u8],
        now: Moment,
    ) {
        let Some(job) = self.at_work.get_mut(&serial) else { return };
        let Some((process, registered)) = &mut job.process else { return };
        match process.read(scratch) {
            Output::Read(length) => {
                dispatcher.printed(serial, scratch.get(..length).unwrap_or_default());
                reactor.again(Key::Output(serial));
            }
            Output::Blocked => {}
            Output::End => {
                if let (Some(mut output), Some(registered)) =
                    (process.take_output(), registered.take())
                {
                    reactor.deregister(&mut output, registered);
                }
                if process.exit.is_some() {
                    self.command_over(serial, false, dispatcher, reactor, now);
                }
            }
        }
    }

    /// The output of an ended command stayed open for too long.
    pub(super) fn on_output_overdue(
        &mut self,
        serial: Serial,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<Key>,
        now: Moment,
    ) {
        let Some(job) = self.at_work.get_mut(&serial) else { return };
        let Some((process, registered)) = &mut job.process else { return };
        if process.exit.is_none() || !process.is_open() {
            return;
        }
        if let (Some(mut output), Some(registered)) = (process.take_output(), registered.take()) {
            reactor.deregister(&mut output, registered);
            self.adopt_leftover(output, reactor);
        }
        self.command_over(serial, true, dispatcher, reactor, now);
    }

    fn adopt_leftover(&mut self, mut output: Receiver, reactor: &mut Reactor<Key>) {
        if self.leftovers.len() >= LEFTOVERS
            && let Some(oldest) = self.leftovers.keys().next().copied()
        {
            self.let_go(oldest, reactor);
        }
        self.last_leftover += 1;
        let key = Key::Leftover(self.last_leftover);
        if let Ok(registered) = reactor.register(&mut output, Interest::READABLE, key) {
            let leftover = Leftover { output, registered, paused: false };
            self.leftovers.insert(self.last_leftover, leftover);
        }
    }

    fn let_go(&mut self, number: u64, reactor: &mut Reactor<Key>) {
        reactor.set_deadline(Key::Leftover(number), None);
        if let Some(Leftover { mut output, registered, .. }) = self.leftovers.remove(&number) {
            reactor.deregister(&mut output, registered);
        }
    }

    /// A left-behind process printed something, which is discarded.
    pub(super) fn on_leftover(
        &mut self,
        number: u64,
        reactor: &mut Reactor<Key>,
        scratch: &mut [u8],
        now: Moment,
    ) {
        use std::io::{ErrorKind, Read};
        let Some(leftover) = self.leftovers.get_mut(&number).filter(|one| !one.paused) else {
            return;
        };
        match leftover.output.read(scratch) {
            Ok(1..) => {
                leftover.paused = true;
                let due = now.instant + LEFTOVER_PAUSE;
                reactor.set_deadline(Key::Leftover(number), Some(due));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                reactor.again(Key::Leftover(number));
            }
            Ok(0) | Err(_) => self.let_go(number, reactor),
        }
    }

    /// The interval has elapsed.
    pub(super) fn on_leftover_due(
        &mut self,
        number: u64,
        reactor: &mut Reactor<Key>,
        scratch: &mut [u8],
        now: Moment,
    ) {
        if let Some(leftover) = self.leftovers.get_mut(&number) {
            leftover.paused = false;
            self.on_leftover(number, reactor, scratch, now);
        }
    }

    /// A child has ended; true where it was a command of a job.
    pub(super) fn on_child(
        &mut self,
        pid: Pid,
        exit: Exit,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<Key>,
        now: Moment,
    ) -> bool {
        let Some(serial) = self.by_pid.remove(&pid) else { return false };
        self.on_exit(serial, pid, exit, dispatcher, reactor, now);
        true
    }

    /// Checks whether jobs that are being killed still have processes.
    pub(super) fn look_after_all(&mut self, dispatcher: &mut Dispatcher, now: Moment) {
        if self.ending.is_empty() {
            return;
        }
        let by_pid = &self.by_pid;
        let living = Descendants::now(|pid| by_pid.contains_key(&pid), &mut self.orphans);
        let is_gone = |serial: &Serial| {
            let job = self.at_work.get(serial);
            job.is_none_or(|job| job.traces.is_none() && living.are_gone(&job.roots))
        };
        let gone: Vec<Serial> = self.ending.iter().copied().filter(is_gone).collect();
        for serial in gone {
            dispatcher.tree_is_gone(serial, now);
        }
    }

    /// Takes over a job that ran when the previous daemon died.
    pub(super) fn adopt(&mut self, serial: Serial, traces: Traces) {
        let job =
            AtWork { roots: Roots::default(), traces: Some(traces), command: 0, process: None };
        self.at_work.insert(serial, job);
    }

    /// Polls whether processes of a previous daemon's jobs have ended, which is not notified.
    pub(super) fn look_after_survivors(
        &mut self,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<Key>,
        now: Moment,
    ) {
        for serial in self.ending.clone() {
            let traces = self.at_work.get(&serial).and_then(|job| job.traces.as_ref());
            if traces.is_some_and(|traces| survivors(traces).is_empty()) {
                dispatcher.tree_is_gone(serial, now);
            }
        }
        let left = self.at_work.values().any(|job| job.traces.is_some());
        reactor.set_deadline(Key::Survivors, left.then(|| now.instant + SURVIVORS_LOOK));
    }

    /// Restarts the wait for the output of an ended command.
    pub(super) fn wait_for_output(&self, serial: Serial, reactor: &mut Reactor<Key>, now: Moment) {
        reactor.set_deadline(Key::Output(serial), Some(now.instant + self.grace));
    }

    fn on_exit(
        &mut self,
        serial: Serial,
        pid: Pid,
        exit: Exit,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<Key>,
        now: Moment,
    ) {
        let Some(job) = self.at_work.get_mut(&serial) else { return };
        job.roots.leader = None;
        job.roots.ended.push(pid);
        self.ended.insert(pid, serial);
        let Some((process, registered)) = &mut job.process else { return };
        process.exit = Some(exit);
        if !process.is_open() {
            self.command_over(serial, false, dispatcher, reactor, now);
        } else if registered.is_none() {
            self.command_over(serial, true, dispatcher, reactor, now);
        } else {
            // Its last output may still be in the pipe.
            reactor.again(Key::Output(serial));
            reactor.set_deadline(Key::Output(serial), Some(now.instant + self.grace));
        }
    }

    fn command_over(
        &mut self,
        serial: Serial,
        left_open: bool,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<Key>,
        now: Moment,
    ) {
        reactor.set_deadline(Key::Output(serial), None);
        let Some(job) = self.at_work.get_mut(&serial) else { return };
        let Some((process, _)) = job.process.take() else { return };
        let Some(exit) = process.exit else { return };
        let asked = dispatcher.submission(serial);
        let failure = asked.and_then(|asked| {
            asked.commands.get(job.command).and_then(|line| process.start_failure(line, asked))
        });
        let ended = failure.map_or(Ended::Exit(exit), Ended::NotStarted);
        dispatcher.ended(serial, &ended, left_open, now);
    }

    /// Sends a terminating signal to every process of a job, and returns whether there was none.
    pub(super) fn signal(
        &mut self,
        serial: Serial,
        hard: bool,
        dispatcher: &mut Dispatcher,
        now: Moment,
    ) {
        let signal = if hard { Signal::SIGKILL } else { Signal::SIGTERM };
        let mut signalled = BTreeSet::new();
        let mut gone = true;
        for _ in 0..ROUNDS {
            let Some(job) = self.at_work.get(&serial) else { break };
            let found = match &job.traces {
                Some(traces) => {
                    let found = survivors(traces);
                    gone = found.is_empty();
                    found
                }
                None => {
                    let by_pid = &self.by_pid;
                    let living =
                        Descendants::now(|pid| by_pid.contains_key(&pid), &mut self.orphans);
                    gone = living.are_gone(&job.roots);
                    living.of(&job.roots)
                }
            };
            let fresh: Vec<Pid> = found.into_iter().filter(|pid| signalled.insert(*pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                // It fails where the process has just ended.
                let _ = kill(pid, signal);
                // A stopped process would not see SIGTERM.
                let _ = kill(pid, Signal::SIGCONT);
            }
        }
        self.ending.insert(serial);
        if gone {
            dispatcher.tree_is_gone(serial, now);
        }
    }

    /// Releases an ended job.
    pub(super) fn release(&mut self, serial: Serial, reactor: &mut Reactor<Key>) {
        self.ending.remove(&serial);
        reactor.set_deadline(Key::Output(serial), None);
        let Some(job) = self.at_work.remove(&serial) else { return };
        if let Some(leader) = job.roots.leader {
            self.by_pid.remove(&leader);
        }
        for leader in &job.roots.ended {
            self.ended.remove(leader);
        }
        // A process that could not be killed: its output is closed.
        if let Some((mut process, registered)) = job.process
            && let (Some(mut output), Some(registered)) = (process.take_output(), registered)
        {
            reactor.deregister(&mut output, registered);
        }
    }

    /// Number of open outputs.
    pub(super) fn open_outputs(&self) -> usize {
        self.leftovers.len() + self.at_work.values().filter(|job| job.process.is_some()).count()
    }
}
