//! The processes of jobs, between the dispatcher and the reactor.
//!
//! A command is over when its process has ended *and* its output has. Where a process that it left
//! behind holds the output open, the end is waited for a little and then done without; what that
//! process prints later is read and thrown away, since to close its pipe would kill it.

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
use crate::sys::process_tree::{Roots, members};
use crate::sys::survivors::{Traces, survivors};

/// Outputs of processes left behind that are still read; the oldest is closed beyond that.
const LEFTOVERS: usize = 64;

/// How often it is looked whether processes of another daemon's jobs are gone.
const SURVIVORS_LOOK: Duration = Duration::from_millis(200);

/// All processes of jobs.
pub(super) struct Jobs {
    environment: Environment,
    epoch: String,
    at_work: BTreeMap<Serial, AtWork>,
    by_pid: BTreeMap<Pid, Serial>,
    /// Jobs that are being ended and had processes when last looked at.
    ending: BTreeSet<Serial>,
    leftovers: BTreeMap<u64, (Receiver, Registered)>,
    last_leftover: u64,
    /// How long the output may stay open when its command has ended.
    grace: Duration,
}

impl AtWork {
    /// Its living processes.
    fn members(&self) -> Vec<Pid> {
        match &self.traces {
            Some(traces) => survivors(traces),
            None => members(&self.roots),
        }
    }
}

/// A job whose commands are run.
struct AtWork {
    roots: Roots,
    /// By what its processes can be known, where another daemon started them.
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
            ending: BTreeSet::new(),
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
            roots: Roots { leaders: Vec::new(), mark: mark.clone() },
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
                job.roots.leaders.push(process.pid);
                self.by_pid.insert(process.pid, serial);
                let pid = process.pid.as_raw();
                let leader = (pid, process_table::start_of(pid).unwrap_or_default());
                dispatcher.started(serial, leader, &mark);
                if registered.is_none() {
                    // No room in the kernel to watch the pipe: its end will be found at the exit.
                    log::error!("cannot watch the output of job {serial}");
                }
                job.process = Some((process, registered));
            }
        }
    }

    /// The output of a job has something, or has ended.
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
            Output::Text(text) => {
                dispatcher.printed(serial, text);
                reactor.again(Key::Output(serial));
            }
            Output::Blocked => {}
            Output::End(rest) => {
                dispatcher.printed(serial, rest);
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

    /// The output of a command that has ended stayed open for too long.
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
        dispatcher.printed(serial, process.rest());
        if let (Some(mut output), Some(registered)) = (process.take_output(), registered.take()) {
            reactor.deregister(&mut output, registered);
            self.keep_leftover(output, reactor);
        }
        self.command_over(serial, true, dispatcher, reactor, now);
    }

    fn keep_leftover(&mut self, mut output: Receiver, reactor: &mut Reactor<Key>) {
        if self.leftovers.len() >= LEFTOVERS
            && let Some((_, (mut oldest, registered))) = self.leftovers.pop_first()
        {
            reactor.deregister(&mut oldest, registered);
        }
        self.last_leftover += 1;
        let key = Key::Leftover(self.last_leftover);
        if let Ok(registered) = reactor.register(&mut output, Interest::READABLE, key) {
            self.leftovers.insert(self.last_leftover, (output, registered));
        }
    }

    /// A process left behind printed something that nobody wants any more.
    pub(super) fn on_leftover(
        &mut self,
        number: u64,
        reactor: &mut Reactor<Key>,
        scratch: &mut [u8],
    ) {
        use std::io::Read;
        let Some((output, _)) = self.leftovers.get_mut(&number) else { return };
        match output.read(scratch) {
            Ok(1..) => reactor.again(Key::Leftover(number)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => {
                if let Some((mut output, registered)) = self.leftovers.remove(&number) {
                    reactor.deregister(&mut output, registered);
                }
            }
        }
    }

    /// A child of the daemon has ended; true where it was a command of a job.
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

    /// Looks whether jobs that are being ended still have processes.
    pub(super) fn look_after_all(&mut self, dispatcher: &mut Dispatcher, now: Moment) {
        for serial in self.ending.clone() {
            if self.at_work.get(&serial).is_none_or(|job| job.traces.is_none()) {
                self.look_after(serial, dispatcher, now);
            }
        }
    }

    /// A job ran when the daemon before this one died.
    pub(super) fn adopt(&mut self, serial: Serial, traces: Traces) {
        let roots = Roots { leaders: Vec::new(), mark: String::new() };
        let job = AtWork { roots, traces: Some(traces), command: 0, process: None };
        self.at_work.insert(serial, job);
    }

    /// Looks whether processes of another daemon's jobs are gone: nobody tells of their end.
    pub(super) fn look_after_survivors(
        &mut self,
        dispatcher: &mut Dispatcher,
        reactor: &mut Reactor<Key>,
        now: Moment,
    ) {
        for serial in self.ending.clone() {
            if self.at_work.get(&serial).is_some_and(|job| job.traces.is_some()) {
                self.look_after(serial, dispatcher, now);
            }
        }
        let left = self.at_work.values().any(|job| job.traces.is_some());
        reactor.set_deadline(Key::Survivors, left.then(|| now.instant + SURVIVORS_LOOK));
    }

    /// The output of a command that has ended is waited for once more.
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
        let Some((process, registered)) = &mut job.process else { return };
        if process.pid != pid {
            return;
        }
        process.exit = Some(exit);
        if !process.is_open() {
            self.command_over(serial, false, dispatcher, reactor, now);
        } else if registered.is_none() {
            self.command_over(serial, true, dispatcher, reactor, now);
        } else {
            // What it printed last may still be in the pipe.
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

    /// Sends the signal that ends to every process of a job, and says whether there was none.
    pub(super) fn signal(
        &mut self,
        serial: Serial,
        hard: bool,
        dispatcher: &mut Dispatcher,
        now: Moment,
    ) {
        let signal = if hard { Signal::SIGKILL } else { Signal::SIGTERM };
        if let Some(job) = self.at_work.get(&serial) {
            for pid in job.members() {
                // It fails where the process has just ended.
                let _ = kill(pid, signal);
                // One that is stopped would not see SIGTERM.
                let _ = kill(pid, Signal::SIGCONT);
            }
        }
        self.ending.insert(serial);
        self.look_after(serial, dispatcher, now);
    }

    fn look_after(&mut self, serial: Serial, dispatcher: &mut Dispatcher, now: Moment) {
        let gone = self.at_work.get(&serial).is_none_or(|job| job.members().is_empty());
        if gone {
            dispatcher.tree_is_gone(serial, now);
        }
    }

    /// The job is over.
    pub(super) fn release(&mut self, serial: Serial, reactor: &mut Reactor<Key>) {
        self.ending.remove(&serial);
        reactor.set_deadline(Key::Output(serial), None);
        let Some(job) = self.at_work.remove(&serial) else { return };
        for leader in &job.roots.leaders {
            self.by_pid.remove(leader);
        }
        // A process that could not be ended: its output is given up with it.
        if let Some((mut process, registered)) = job.process
            && let (Some(mut output), Some(registered)) = (process.take_output(), registered)
        {
            reactor.deregister(&mut output, registered);
        }
    }

    /// Outputs that are open.
    pub(super) fn open_outputs(&self) -> usize {
        self.leftovers.len() + self.at_work.values().filter(|job| job.process.is_some()).count()
    }
}
