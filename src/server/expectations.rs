//! Expectations in the loop: the process of `zfs list`, and the times to be stored.

use std::path::Path;
use std::time::Duration;

use log::warn;
use mio::Interest;
use nix::unistd::Pid;

use super::{PollToken, Server};
use crate::alerts::{Expectation, Expectations, Subject};
use crate::config::{Config, Expected};
use crate::moment::{Budget, Moment};
use crate::reactor::{Reactor, Registered};
use crate::seal::{seal, unseal};
use crate::sys::children::Exit;
use crate::sys::may_block::MayBlock;
use crate::system_state::{Complaint, Process, drain, zfs_beside};
use crate::wire::{JobEvent, JobResult, Phase, Priority};

/// Poll tokens of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pipe {
    /// Standard output; its deadline is that of the command.
    Output,
    /// Standard error; its deadline is the next check.
    Errors,
}

/// File of the state directory with the times of jobs and `emit`.
const FILE: &str = "expectations";
/// Maximum number of bytes of output that are parsed in a turn.
const TURN_BYTES: usize = 256 * 1024;
/// Time limit of the evaluation in a turn.
const EVALUATION: Duration = Duration::from_millis(2);

/// A running `zfs`.
struct Running {
    process: Process,
    output: Option<Registered>,
    errors: Option<Registered>,
    complaint: Complaint,
}

/// Expectations, and the process that answers.
pub(super) struct ExpectationDesk {
    pub(super) expectations: Expectations,
    running: Option<Running>,
    /// A killed process that has not ended.
    dying: Option<Pid>,
}

fn list(config: &Config) -> Vec<Expectation> {
    let expectation = |it: &crate::config::Expectation| Expectation {
        subject: match &it.of {
            Expected::Snapshot(glob) => Subject::Snapshot(glob.clone()),
            Expected::Replication(glob) => Subject::Replication(glob.clone()),
            Expected::Job(glob) => Subject::Job(glob.clone()),
            Expected::Emit(key) => Subject::Emit(key.clone()),
        },
        every: it.every,
        grace: it.grace,
        priority: Priority::new(u8::try_from(it.priority).unwrap_or(u8::MAX)),
    };
    config.expect.iter().map(expectation).collect()
}

impl ExpectationDesk {
    pub(super) fn begin(config: &Config, may_block: MayBlock, now: Moment) -> ExpectationDesk {
        let text = read(&config.paths.state.join(FILE), may_block);
        let memory = text.as_deref().and_then(|text| unseal(text.trim_end()));
        if text.is_some() && memory.is_none() {
            warn!("{FILE} is damaged: the times of expected jobs begin anew");
        }
        let interval = config.alerts.expect_interval;
        let expectations = Expectations::new(list(config), interval, memory.as_deref(), now);
        ExpectationDesk { expectations, running: None, dying: None }
    }

    fn take_running(&mut self, reactor: &mut Reactor<PollToken>) -> Option<Running> {
        reactor.set_deadline(PollToken::Expect(Pipe::Output), None);
        let mut running = self.running.take()?;
        if let Some(registered) = running.output.take() {
            reactor.deregister(&mut running.process.output, registered);
        }
        if let Some(registered) = running.errors.take() {
            reactor.deregister(&mut running.process.errors, registered);
        }
        Some(running)
    }
}

fn read(path: &Path, _: MayBlock) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!("cannot read {}: {error}", path.display());
            None
        }
    }
}

impl Server {
    /// Begins a check that is due, and evaluates for a part of the turn.
    pub(super) fn run_expectations(&mut self, now: Moment) {
        let desk = &mut self.expectations;
        let is_serving = self.phase == super::Phase::Serving;
        let is_free = desk.running.is_none() && desk.dying.is_none();
        if is_serving
            && is_free
            && let Some(arguments) = desk.expectations.next_check(now)
        {
            let zfs = zfs_beside(&self.config.system_state.zpool);
            self.begin_zfs(&zfs, &arguments, now);
        }
        let budget = Budget::of(EVALUATION);
        let desk = &mut self.expectations;
        if desk.expectations.run(&mut self.alerts.alerts, budget, now) {
            self.reactor.again(PollToken::Expect(Pipe::Errors));
        }
        if let Some(memory) = desk.expectations.memory() {
            self.store_expectations(FILE, seal(&memory).into_bytes(), now);
        }
        let is_free = self.expectations.running.is_none() && self.expectations.dying.is_none();
        let due = self.expectations.expectations.due().filter(|_| is_serving && is_free);
        self.reactor.set_deadline(PollToken::Expect(Pipe::Errors), due);
    }

    /// Result of storing the times.
    pub(super) fn on_expectations_stored(&mut self, stored: Result<(), String>) {
        // Stored again with the next change: a restart counts from an earlier success.
        if let Err(why) = stored {
            warn!("cannot store the times of expected jobs: {why}");
        }
    }

    pub(super) fn configure_expectations(&mut self, now: Moment) {
        let (list, interval) = (list(&self.config), self.config.alerts.expect_interval);
        self.expectations.expectations.configure(list, interval, now);
    }

    fn begin_zfs(&mut self, zfs: &Path, arguments: &[String], now: Moment) {
        let started = self.probes.starter().start(zfs, arguments);
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                return self.end_check(Err(format!("could not be started: {error}")), now);
            }
        };
        let reactor = &mut self.reactor;
        let (out, err) = (PollToken::Expect(Pipe::Output), PollToken::Expect(Pipe::Errors));
        // If polling fails, the pipe is read when its process has ended.
        let output = reactor.register(&mut process.output, Interest::READABLE, out).ok();
        let errors = reactor.register(&mut process.errors, Interest::READABLE, err).ok();
        reactor.set_deadline(out, Some(now.instant + self.config.alerts.zfs_deadline));
        let complaint = Complaint::default();
        self.expectations.running = Some(Running { process, output, errors, complaint });
    }

    fn end_check(&mut self, result: Result<(), String>, now: Moment) {
        self.expectations.expectations.ended(result, &mut self.alerts.alerts, now);
    }

    /// `zfs` has printed something; at most a part of it is parsed in one turn.
    pub(super) fn on_zfs_io(&mut self, pipe: Pipe) {
        let desk = &mut self.expectations;
        let Some(running) = &mut desk.running else { return };
        let mut left = TURN_BYTES;
        let is_open = match pipe {
            Pipe::Output => {
                let expectations = &mut desk.expectations;
                drain(&mut running.process.output, &mut self.scratch, |bytes| {
                    expectations.printed(bytes);
                    left = left.saturating_sub(bytes.len());
                    left > 0
                })
            }
            Pipe::Errors => {
                let complaint = &mut running.complaint;
                drain(&mut running.process.errors, &mut self.scratch, |bytes| {
                    complaint.push(bytes);
                    left = left.saturating_sub(bytes.len());
                    left > 0
                })
            }
        };
        if is_open && left == 0 {
            self.reactor.again(PollToken::Expect(pipe));
        } else if !is_open {
            let (pipe, registered) = match pipe {
                Pipe::Output => (&mut running.process.output, running.output.take()),
                Pipe::Errors => (&mut running.process.errors, running.errors.take()),
            };
            if let Some(registered) = registered {
                self.reactor.deregister(pipe, registered);
            }
        }
    }

    /// The deadline of the command, or of the next check.
    pub(super) fn on_zfs_deadline(&mut self, pipe: Pipe, now: Moment) {
        if pipe == Pipe::Output
            && let Some(running) = self.expectations.take_running(&mut self.reactor)
        {
            running.process.kill();
            self.expectations.dying = Some(running.process.pid);
            let limit = self.config.alerts.zfs_deadline;
            self.end_check(
                Err(format!("did not answer within {limit:?} (alerts.zfs_deadline)")),
                now,
            );
        }
    }

    /// A child has ended; true where it was `zfs`.
    pub(super) fn on_zfs_exit(&mut self, pid: Pid, exit: Exit, now: Moment) -> bool {
        let desk = &mut self.expectations;
        if desk.dying == Some(pid) {
            desk.dying = None;
            return true;
        }
        if desk.running.as_ref().is_none_or(|running| running.process.pid != pid) {
            return false;
        }
        let Some(mut running) = desk.take_running(&mut self.reactor) else { return true };
        let expectations = &mut desk.expectations;
        drain(&mut running.process.output, &mut self.scratch, |bytes| {
            expectations.printed(bytes);
            true
        });
        let complaint = &mut running.complaint;
        drain(&mut running.process.errors, &mut self.scratch, |bytes| {
            complaint.push(bytes);
            true
        });
        let said = running.complaint.first_line();
        let result = match (running.process.failure(), exit) {
            (Some((_, error)), _) => Err(format!("could not be started: {error}")),
            (None, Exit::Code(0)) => Ok(()),
            (None, Exit::Code(code)) if said.is_empty() => Err(format!("ended with code {code}")),
            (None, Exit::Code(code)) => Err(format!("ended with code {code}: {said}")),
            (None, Exit::Signal(signal)) => Err(format!("was ended by signal {signal}")),
        };
        self.end_check(result, now);
        true
    }

    /// The daemon stops: no check continues.
    pub(super) fn stop_expectations(&mut self) {
        if let Some(running) = self.expectations.take_running(&mut self.reactor) {
            running.process.kill();
            self.expectations.dying = Some(running.process.pid);
        }
    }

    /// A job has an event: its success may be expected.
    pub(super) fn expect_job(&mut self, event: &JobEvent, now: Moment) {
        if let Phase::Finished(finished) = &event.phase
            && finished.outcome.result == Some(JobResult::Ok)
        {
            let id = &event.job.id;
            self.expectations.expectations.on_job(id, &mut self.alerts.alerts, now);
        }
    }
}
