//! The processes and the socket of the system state, between its state machine and the reactor.
//!
//! A `zpool` that ends soon, as nearly all do, wakes the loop once, by its end: its output stays in
//! the pipe meanwhile. The pipe is polled only if it takes longer, so that a full pipe does not
//! block it.

use std::path::Path;
use std::time::Duration;

use log::{error, log};
use mio::Interest;
use mio::unix::SourceFd;
use nix::unistd::Pid;
use std::os::fd::AsRawFd;

use super::{PollToken, Server};
use crate::config::{Config, ZpoolWhen};
use crate::daemon::hostname;
use crate::moment::Moment;
use crate::reactor::{Reactor, Registered};
use crate::sys::children::Exit;
use crate::sys::zfs;
use crate::system_state::{
    Complaint, Devd, Effect, Feed, Process, Starter, SystemStateLimits, drain, zdb_beside,
};

/// Poll tokens and deadlines of the system state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The state machine's own deadline.
    Check,
    /// Standard output of `zpool`; its deadline is for it to be polled.
    Output,
    /// Standard error of it.
    Errors,
    /// The feed of kernel events; its deadline is for the next read.
    Feed,
}

/// Time that a `zpool` may take until its pipes are polled.
const UNWATCHED: Duration = Duration::from_millis(100);
/// Maximum number of bytes of a feed read in one turn.
const FEED_TURN: usize = 256 * 1024;

/// All processes.
pub(super) struct Probes {
    starter: Starter,
    asked: Option<Asked>,
    /// A killed process that has not ended.
    dying: Option<Pid>,
    follower: Option<Follower>,
    devd: Option<Devd>,
    /// Registration of the feed.
    feed: Option<Registered>,
}

/// A running `zpool`.
struct Asked {
    process: Process,
    output: Option<Registered>,
    errors: Option<Registered>,
}

/// A running `zpool events`.
struct Follower {
    process: Process,
    errors: Complaint,
}

impl Probes {
    pub(super) fn new(starter: Starter) -> Probes {
        Probes { starter, asked: None, dying: None, follower: None, devd: None, feed: None }
    }

    /// Starts programs of ZFS.
    pub(super) fn starter(&self) -> &Starter {
        &self.starter
    }

    /// Polls the pipes of the running `zpool`; readable bytes are reported at once.
    fn watch(&mut self, reactor: &mut Reactor<PollToken>) {
        let Some(Asked { process, output, errors }) = &mut self.asked else { return };
        let (out, err) =
            (PollToken::SystemState(Part::Output), PollToken::SystemState(Part::Errors));
        // If polling fails, the pipe is read when its process has ended.
        *output = reactor.register(&mut process.output, Interest::READABLE, out).ok();
        *errors = reactor.register(&mut process.errors, Interest::READABLE, err).ok();
    }

    /// Takes the running `zpool`, abandoned or ended.
    fn take_asked(&mut self, reactor: &mut Reactor<PollToken>) -> Option<Process> {
        reactor.set_deadline(PollToken::SystemState(Part::Output), None);
        let Asked { mut process, output, errors } = self.asked.take()?;
        if let Some(registered) = output {
            reactor.deregister(&mut process.output, registered);
        }
        if let Some(registered) = errors {
            reactor.deregister(&mut process.errors, registered);
        }
        Some(process)
    }

    fn watch_feed(&mut self, reactor: &mut Reactor<PollToken>) -> std::io::Result<()> {
        let key = PollToken::SystemState(Part::Feed);
        let registered = match (&self.devd, &mut self.follower) {
            (Some(devd), _) => {
                reactor.register(&mut SourceFd(&devd.as_raw_fd()), Interest::READABLE, key)
            }
            (None, Some(follower)) => {
                reactor.register(&mut follower.process.output, Interest::READABLE, key)
            }
            (None, None) => return Ok(()),
        };
        self.feed = Some(registered?);
        Ok(())
    }

    fn unwatch_feed(&mut self, reactor: &mut Reactor<PollToken>) {
        reactor.set_deadline(PollToken::SystemState(Part::Feed), None);
        let Some(registered) = self.feed.take() else { return };
        if let Some(devd) = &self.devd {
            reactor.deregister(&mut SourceFd(&devd.as_raw_fd()), registered);
        } else if let Some(follower) = &mut self.follower {
            reactor.deregister(&mut follower.process.output, registered);
        }
    }

    fn let_feed_go(&mut self, reactor: &mut Reactor<PollToken>) {
        self.unwatch_feed(reactor);
        self.devd = None;
        if let Some(follower) = self.follower.take() {
            follower.process.kill();
        }
    }
}

pub(super) fn limits(config: &Config) -> SystemStateLimits {
    let state = &config.system_state;
    SystemStateLimits {
        interval: state.interval,
        report_interval: state.report_interval,
        zpool_deadline: state.zpool_deadline,
        zpool_output: state.zpool_output,
        capacity_warning: state.capacity_warning,
        event_delay: state.event_delay,
        event_pause: state.event_pause,
        max_event: config.events.max_event,
    }
}

impl Server {
    /// Carries out the state machine's effects until there are none.
    pub(super) fn run_system_state(&mut self, now: Moment) {
        while let Some(effect) = self.system_state.next_effect() {
            match effect {
                Effect::Look => {
                    let zfs = match self.config.system_state.zpool_when {
                        ZpoolWhen::Loaded => zfs::is_there(),
                        ZpoolWhen::Always => true,
                    };
                    self.system_state.looked(hostname(), zfs, now);
                }
                Effect::Ask(arguments) => {
                    let zpool = self.config.system_state.zpool.clone();
                    self.ask_program(&zpool, &arguments, now);
                }
                Effect::AskLabel(arguments) => {
                    let zdb = zdb_beside(&self.config.system_state.zpool);
                    self.ask_program(&zdb, &arguments, now);
                }
                Effect::Kill => {
                    if let Some(process) = self.probes.take_asked(&mut self.reactor) {
                        process.kill();
                        self.probes.dying = Some(process.pid);
                    }
                }
                Effect::Attach { events } => self.attach(events.as_deref(), now),
                Effect::Detach => self.probes.let_feed_go(&mut self.reactor),
                Effect::Publish(event) => {
                    if self.hostname != self.system_state.hostname() {
                        self.hostname = self.system_state.hostname().to_owned();
                        self.find_origins();
                    }
                    self.publish(event, now);
                }
                Effect::Say(level, text) => log!(level, "{text}"),
            }
        }
    }

    fn ask_program(&mut self, program: &Path, arguments: &[String], now: Moment) {
        match self.probes.starter.start(program, arguments) {
            Ok(process) => {
                self.probes.asked = Some(Asked { process, output: None, errors: None });
                let key = PollToken::SystemState(Part::Output);
                self.reactor.set_deadline(key, Some(now.instant + UNWATCHED));
            }
            Err(error) => self.system_state.not_started(&error, now),
        }
    }

    /// Finds a feed of events: devd, or else `zpool events`.
    fn attach(&mut self, events: Option<&[String]>, now: Moment) {
        let state = &self.config.system_state;
        let probes = &mut self.probes;
        probes.devd = state.devd.as_ref().and_then(|path| Devd::connect(path).ok());
        if probes.devd.is_none()
            && let Some(arguments) = events.filter(|_| state.zpool_events)
        {
            match probes.starter.start(&state.zpool, arguments) {
                Ok(process) => {
                    probes.follower = Some(Follower { process, errors: Complaint::default() })
                }
                Err(error) => error!("cannot follow zpool events: {error}"),
            }
        }
        let feed = match (&probes.devd, &probes.follower) {
            (Some(_), _) => Some(Feed::Devd),
            (None, Some(_)) => Some(Feed::Events),
            (None, None) => None,
        };
        if let Err(error) = probes.watch_feed(&mut self.reactor) {
            error!("cannot watch events of ZFS: {error}");
            self.probes.let_feed_go(&mut self.reactor);
            return self.system_state.attached(None, now);
        }
        self.system_state.attached(feed, now);
    }

    pub(super) fn on_zpool_io(&mut self, part: Part, now: Moment) {
        match part {
            Part::Output | Part::Errors => self.on_zpool_output(part),
            Part::Feed => self.on_feed(now),
            Part::Check => {}
        }
    }

    /// A slow `zpool` has printed something.
    fn on_zpool_output(&mut self, part: Part) {
        let Some(Asked { process, output, errors }) = &mut self.probes.asked else { return };
        let is_output = part == Part::Output;
        let (pipe, registered) = match is_output {
            true => (&mut process.output, output),
            false => (&mut process.errors, errors),
        };
        let state = &mut self.system_state;
        let mut is_more = false;
        let is_open = drain(pipe, &mut self.scratch, |bytes| {
            is_more = if is_output { state.printed(bytes) } else { state.complained(bytes) };
            false
        });
        if is_more {
            self.reactor.again(PollToken::SystemState(part));
        } else if !is_open && let Some(registered) = registered.take() {
            self.reactor.deregister(pipe, registered);
        }
    }

    /// Reads the feed, and then pauses: one wounded pool causes hundreds of events a second.
    fn on_feed(&mut self, now: Moment) {
        let (probes, state) = (&mut self.probes, &mut self.system_state);
        let mut left = FEED_TURN;
        let mut take = |bytes: &[u8]| {
            state.heard(bytes, now);
            left = left.saturating_sub(bytes.len());
            left > 0
        };
        let is_open = match (&mut probes.devd, &mut probes.follower) {
            (Some(devd), _) => drain(devd, &mut self.scratch, &mut take),
            (None, Some(follower)) => {
                let is_open = drain(&mut follower.process.output, &mut self.scratch, &mut take);
                follower.drain_errors(&mut self.scratch);
                is_open
            }
            (None, None) => return,
        };
        probes.unwatch_feed(&mut self.reactor);
        self.expectations.expectations.request(now);
        if is_open {
            let again = now.instant + self.config.system_state.event_delay;
            self.reactor.set_deadline(PollToken::SystemState(Part::Feed), Some(again));
        } else if let Some(follower) = &probes.follower {
            // Its end is still to be reported; one that closed its output and lives is useless.
            follower.process.kill();
        } else {
            probes.devd = None;
            self.system_state.detached();
        }
    }

    pub(super) fn on_zpool_deadline(&mut self, part: Part, now: Moment) {
        match part {
            Part::Check => self.system_state.on_deadline(now),
            Part::Output => self.probes.watch(&mut self.reactor),
            Part::Feed => {
                if let Err(error) = self.probes.watch_feed(&mut self.reactor) {
                    error!("cannot watch events of ZFS: {error}");
                    self.probes.let_feed_go(&mut self.reactor);
                    self.system_state.detached();
                }
            }
            Part::Errors => {}
        }
    }

    /// A child has ended that belongs to no job and no helper: a `zpool`, or a foreign process.
    pub(super) fn on_zpool_exit(&mut self, pid: Pid, exit: Exit, now: Moment) {
        let probes = &mut self.probes;
        if probes.asked.as_ref().is_some_and(|asked| asked.process.pid == pid) {
            let Some(mut process) = probes.take_asked(&mut self.reactor) else { return };
            let state = &mut self.system_state;
            drain(&mut process.output, &mut self.scratch, |bytes| state.printed(bytes));
            drain(&mut process.errors, &mut self.scratch, |bytes| state.complained(bytes));
            state.ended(exit, process.failure(), now);
        } else if probes.dying == Some(pid) {
            probes.dying = None;
            self.system_state.ended(exit, None, now);
        } else if probes.follower.as_ref().is_some_and(|follower| follower.process.pid == pid) {
            probes.unwatch_feed(&mut self.reactor);
            let Some(mut follower) = probes.follower.take() else { return };
            follower.drain_errors(&mut self.scratch);
            let Follower { process, errors } = follower;
            self.system_state.follower_ended(exit, &errors, process.failure());
        }
    }
}

impl Follower {
    /// Reads standard error, even if it is not stored: a full pipe would block the process.
    fn drain_errors(&mut self, scratch: &mut [u8]) {
        let errors = &mut self.errors;
        let mut left = FEED_TURN;
        drain(&mut self.process.errors, scratch, |bytes| {
            errors.push(bytes);
            left = left.saturating_sub(bytes.len());
            left > 0
        });
    }
}
