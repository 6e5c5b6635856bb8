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

use super::PollToken;
use super::trees::TreesHelper;
use crate::dispatcher::{Dispatcher, Ended, Environment, Output, Process, Serial};
use crate::helper::trees::{Action, Job, Order, Origin};
use crate::moment::Moment;
use crate::reactor::{Reactor, Registered};
use crate::sys::children::Exit;
use crate::sys::process_table::{self, ProcessId};
use crate::sys::process_tree::Roots;
use crate::sys::survivors::Traces;

/// Maximum number of outputs of left-behind processes that are still read; beyond it the oldest is
/// closed.
const LEFTOVERS: usize = 64;
/// Interval between two reads of one, so that discarded output does not occupy the daemon.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(100);

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
    helper: TreesHelper,
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
    origin: Origin,
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
            helper: TreesHelper::default(),
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
        reactor: &mut Reactor<PollToken>,
        now: Moment,
    ) {
        let Some(asked) = dispatcher.submission(serial) else { return };
        let Some(line) = asked.commands.get(command) else { return };
        let mark = Environment::mark(&self.epoch, serial);
        let started = Process::start(line, asked, &mark, &self.environment);
        let job = self.at_work.entry(serial).or_insert_with(|| AtWork {
            origin: Origin::Own(Roots { mark: mark.clone(), ..Roots::default() }),
            command,
            process: None,
        });
        job.command = command;
        match started {
            Err(why) => dispatcher.ended(serial, &Ended::NotStarted(why), false, now),
            Ok(mut process) => {
                let output = process.output();
                let registered = output.and_then(|output| {
                    reactor.register(output, Interest::READABLE, PollToken::Output(serial)).ok()
                });
                let pid = process.pid;
                let start = process_table::start_of(pid.as_raw()).unwrap_or_default();
                if let Origin::Own(roots) = &mut job.origin {
                    roots.leader = Some(ProcessId { pid: pid.as_raw(), start: start.clone() });
                }
                if registered.is_none() {
                    // The kernel has no resources to poll the pipe: its end is noticed at the exit.
                    log::error!("cannot watch the output of job {serial}");
                }
                job.process = Some((process, registered));
                self.by_pid.insert(pid, serial);
                // The number was reused: it belongs to this job now.
                if let Some(before) = self.ended.remove(&pid)
                    && let Some(AtWork { origin: Origin::Own(roots), .. }) =
                        self.at_work.get_mut(&before)
                {
                    roots.ended.retain(|ended| *ended != pid.as_raw());
                }
                dispatcher.started(serial, (pid.as_raw(), start), &mark);
            }
        }
    }

    /// The output of a job is readable or has ended.
    pub(super) fn on_output(
        &mut self,
        serial: Serial,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<PollToken>,
        scratch: &mut [u8],
        now: Moment,
    ) {
        let Some(job) = self.at_work.get_mut(&serial) else { return };
        let Some((process, registered)) = &mut job.process else { return };
        match process.read(scratch) {
            Output::Read(length) => {
                dispatcher.printed(serial, scratch.get(..length).unwrap_or_default());
                reactor.again(PollToken::Output(serial));
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
        reactor: &mut Reactor<PollToken>,
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

    fn adopt_leftover(&mut self, mut output: Receiver, reactor: &mut Reactor<PollToken>) {
        if self.leftovers.len() >= LEFTOVERS
            && let Some(oldest) = self.leftovers.keys().next().copied()
        {
            self.let_go(oldest, reactor);
        }
        self.last_leftover += 1;
        let key = PollToken::Leftover(self.last_leftover);
        if let Ok(registered) = reactor.register(&mut output, Interest::READABLE, key) {
            let leftover = Leftover { output, registered, paused: false };
            self.leftovers.insert(self.last_leftover, leftover);
        }
    }

    fn let_go(&mut self, number: u64, reactor: &mut Reactor<PollToken>) {
        reactor.set_deadline(PollToken::Leftover(number), None);
        if let Some(Leftover { mut output, registered, .. }) = self.leftovers.remove(&number) {
            reactor.deregister(&mut output, registered);
        }
    }

    /// A left-behind process printed something, which is discarded.
    pub(super) fn on_leftover(
        &mut self,
        number: u64,
        reactor: &mut Reactor<PollToken>,
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
                reactor.set_deadline(PollToken::Leftover(number), Some(due));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                reactor.again(PollToken::Leftover(number));
            }
            Ok(0) | Err(_) => self.let_go(number, reactor),
        }
    }

    /// The interval has elapsed.
    pub(super) fn on_leftover_due(
        &mut self,
        number: u64,
        reactor: &mut Reactor<PollToken>,
        scratch: &mut [u8],
        now: Moment,
    ) {
        if let Some(leftover) = self.leftovers.get_mut(&number) {
            leftover.paused = false;
            self.on_leftover(number, reactor, scratch, now);
        }
    }

    /// A child has ended; true where it was a command of a job, or the helper that signals
    /// processes.
    pub(super) fn on_child(
        &mut self,
        pid: Pid,
        exit: Exit,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<PollToken>,
        now: Moment,
    ) -> bool {
        if self.helper.on_child(pid, exit, reactor, now.instant) {
            return true;
        }
        let Some(serial) = self.by_pid.remove(&pid) else { return false };
        self.on_exit(serial, pid, exit, dispatcher, reactor, now);
        true
    }

    /// Requests a check whether jobs that are being killed still have processes.
    pub(super) fn look_after_all(&mut self) {
        for serial in &self.ending {
            if self.at_work.get(serial).is_some_and(|job| matches!(job.origin, Origin::Own(_))) {
                self.helper.trees.want(*serial, Action::Look);
            }
        }
    }

    /// Takes over a job that ran when the previous daemon died.
    pub(super) fn adopt(&mut self, serial: Serial, traces: Traces) {
        let job = AtWork { origin: Origin::Before(traces), command: 0, process: None };
        self.at_work.insert(serial, job);
    }

    /// The helper that signals processes is readable or writable.
    pub(super) fn on_trees(
        &mut self,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<PollToken>,
        scratch: &mut [u8],
        now: Moment,
    ) {
        self.helper.flush();
        if let Some(gone) = self.helper.read(scratch, reactor) {
            for serial in gone.into_iter().filter(|serial| self.ending.contains(serial)) {
                dispatcher.tree_is_gone(serial, now);
            }
            let is_left = self.survivors().next().is_some();
            self.helper.trees.replied(is_left, now.instant);
        }
    }

    /// Jobs of another daemon that are being ended.
    fn survivors(&self) -> impl Iterator<Item = Serial> {
        self.ending.iter().copied().filter(|serial| {
            self.at_work.get(serial).is_some_and(|job| matches!(job.origin, Origin::Before(_)))
        })
    }

    /// Sends pending requests to the helper, and ends a helper without work. To be called at the end
    /// of a turn.
    pub(super) fn ask_trees(&mut self, reactor: &mut Reactor<PollToken>, now: Moment) {
        let now = now.instant;
        if self.helper.trees.is_overdue(now) {
            let lost = self.helper.give_up(reactor, now);
            self.signal_leaders(&lost);
        }
        let survivors: Vec<Serial> = self.survivors().collect();
        if let Some(jobs) = self.helper.trees.next_order(survivors.into_iter(), now) {
            let leaders = self.by_pid.keys().map(|pid| pid.as_raw()).collect();
            let jobs = jobs.into_iter().filter_map(|(serial, action)| {
                let origin = self.at_work.get(&serial)?.origin.clone();
                Some(Job { serial, action, origin })
            });
            let order = Order { leaders, jobs: jobs.collect() };
            if let Some(lost) = self.helper.send(&order, reactor, now) {
                self.signal_leaders(&lost);
            }
        }
        if self.ending.is_empty() && self.helper.trees.is_idle() {
            self.helper.end(reactor);
        }
        reactor.set_deadline(PollToken::Trees, self.helper.trees.deadline(now));
    }

    /// Signals the leaders of these jobs where the helper cannot: the number of a leader is not
    /// reused until it is reaped.
    fn signal_leaders(&self, jobs: &[(Serial, Action)]) {
        for (serial, action) in jobs {
            let signal = match action {
                Action::Look => continue,
                Action::Terminate => Signal::SIGTERM,
                Action::Kill => Signal::SIGKILL,
            };
            if let Some(AtWork {
                origin: Origin::Own(Roots { leader: Some(leader), .. }), ..
            }) = self.at_work.get(serial)
            {
                // It fails where it has just ended.
                let _ = kill(Pid::from_raw(leader.pid), signal);
            }
        }
    }

    /// Restarts the wait for the output of an ended command.
    pub(super) fn wait_for_output(
        &self,
        serial: Serial,
        reactor: &mut Reactor<PollToken>,
        now: Moment,
    ) {
        reactor.set_deadline(PollToken::Output(serial), Some(now.instant + self.grace));
    }

    fn on_exit(
        &mut self,
        serial: Serial,
        pid: Pid,
        exit: Exit,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<PollToken>,
        now: Moment,
    ) {
        let Some(job) = self.at_work.get_mut(&serial) else { return };
        if let Origin::Own(roots) = &mut job.origin {
            roots.leader = None;
            roots.ended.push(pid.as_raw());
        }
        self.ended.insert(pid, serial);
        let Some((process, registered)) = &mut job.process else { return };
        process.exit = Some(exit);
        if !process.is_open() {
            self.command_over(serial, false, dispatcher, reactor, now);
        } else if registered.is_none() {
            self.command_over(serial, true, dispatcher, reactor, now);
        } else {
            // Its last output may still be in the pipe.
            reactor.again(PollToken::Output(serial));
            reactor.set_deadline(PollToken::Output(serial), Some(now.instant + self.grace));
        }
    }

    fn command_over(
        &mut self,
        serial: Serial,
        left_open: bool,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<PollToken>,
        now: Moment,
    ) {
        reactor.set_deadline(PollToken::Output(serial), None);
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

    /// Requests a terminating signal to every process of a job.
    pub(super) fn signal(&mut self, serial: Serial, hard: bool) {
        let action = if hard { Action::Kill } else { Action::Terminate };
        self.helper.trees.want(serial, action);
        self.ending.insert(serial);
    }

    /// Releases an ended job.
    pub(super) fn release(&mut self, serial: Serial, reactor: &mut Reactor<PollToken>) {
        self.ending.remove(&serial);
        self.helper.trees.forget(serial);
        reactor.set_deadline(PollToken::Output(serial), None);
        let Some(job) = self.at_work.remove(&serial) else { return };
        if let Origin::Own(roots) = job.origin {
            roots.leader.map(|leader| self.by_pid.remove(&Pid::from_raw(leader.pid)));
            for leader in roots.ended {
                self.ended.remove(&Pid::from_raw(leader));
            }
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
