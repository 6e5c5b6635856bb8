//! The server daemon: owns all subsystems and dispatches events of the loop.
//!
//! Each turn of the loop has three parts: events are dispatched; effects (jobs started, events
//! published, current state sent) are carried out until there are none; output is sent. Nothing in
//! a turn blocks.

mod accounts;
mod alert_requests;
mod alerts;
mod attachments;
mod authentication;
mod callers;
mod carrier;
mod child;
mod clients;
mod connections;
mod errands;
mod expectations;
mod files;
mod jobs;
mod keys;
mod life_preserver;
mod link_io;
mod links;
mod notify;
mod queued;
mod reload;
mod requests;
mod start;
mod status;
mod storage;
mod system_state;
mod trees;
mod users;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use log::{debug, error, info};

use crate::auth::{Roles, Throttle, Tokens};
use crate::config::{Config, Home};
use crate::daemon::{Address, Listening, prepare};
use crate::dispatcher::{Dispatcher, Effect, Serial};
use crate::helper::files::WorkerId;
use crate::hub::{Hub, Item};
use crate::moment::{Budget, Moment};
use crate::net::certificate::ServerSide;
use crate::net::{AllowedOrigins, CloseReason, End, Full, Source};
use crate::reactor::{Reactor, Ready, Signal, TurnTimer};
use crate::sys::children;
use crate::system_state::SystemState;
use crate::wire::{Event, Published, Spelling, gap};
use accounts::AccountsHelper;
use alerts::AlertDesk;
use attachments::Attachments;
use child::Child;
use clients::{ClientId, Clients};
use errands::{Errand, Errands};
use expectations::{ExpectationDesk, Pipe};
use files::FileWorkers;
use jobs::Jobs;
use keys::Keys;
use life_preserver::Logs;
use links::Links;
use notify::Notifications;
use storage::{Durable, Storage};
use system_state::{Part, Probes};

pub use crate::daemon::StartError;

/// Poll token of a registration, or key of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PollToken {
    Listener(u64),
    Client(ClientId),
    /// The next turn of clients, where the last one ended before all were served.
    Turn,
    /// The output of a job; its deadline is for the output to end after the command.
    Output(u64),
    /// The output of a left-behind process; its deadline ends a pause.
    Leftover(u64),
    /// The dispatcher's next deadline.
    Dispatcher,
    /// The accounts helper.
    Accounts,
    /// A link to a bridge.
    Link(u64),
    /// A file worker; the deadline of number 0 is that of all.
    Files(WorkerId),
    /// A child that does one thing which may hang; its deadline is when that is said.
    Errand(Errand),
    /// The turn of all logs that are followed; their next deadline.
    Logs,
    /// The retry of persisting their positions.
    Persisting,
    /// The next re-check of accounts.
    Recheck,
    /// The directory of the file with groups; the deadline is for a look-up after a change.
    Groups,
    /// A delayed reply.
    Delayed(ClientId),
    /// The registered keys: the next lines of their file; its deadline is for another try to read it.
    Keys,
    /// Host name and pools.
    SystemState(Part),
    /// `zfs list` for expectations.
    Expect(Pipe),
    /// The next deadline of an alert, or more transitions than fit into a turn.
    Alerts,
    /// The store process.
    Store,
    /// A turn of a waiting password.
    Passwords,
    /// The helper that finds and signals processes of jobs; its deadline is for the next order.
    Trees,
    /// Ended children that were not reaped in the last turn.
    Children,
    /// A client that holds a job owes an acknowledgement.
    Attachments,
    /// The next step of a notification.
    Notifications,
    /// The end of an orderly shutdown.
    Stop,
}

/// A listening socket in use.
struct OpenListener {
    number: u64,
    listening: Listening,
    configured: Address,
}

/// An event, and its recipients that have not got it yet. To join it with what waits for a slow one
/// takes time.
struct Delivery {
    event: Rc<Published>,
    recipients: VecDeque<(ClientId, Spelling)>,
}

/// Phase of an orderly shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Jobs are being killed.
    EndingJobs,
    /// Clients are being disconnected.
    Leaving,
    Over,
}

/// The server.
struct Server {
    config: Config,
    file: Option<PathBuf>,
    home: Home,
    hostname: String,
    started: Moment,
    reactor: Reactor<PollToken>,
    listeners: Vec<OpenListener>,
    last_listener: u64,
    tls: Option<ServerSide>,
    origins: AllowedOrigins,
    roles: Roles,
    accounts: AccountsHelper,
    throttle: Throttle<Source>,
    clients: Clients,
    tokens: Tokens,
    keys: Keys,
    hub: Hub,
    dispatcher: Dispatcher,
    /// Events that subscribers get next, in order.
    deliveries: VecDeque<Delivery>,
    /// Commands to be started, in order: each takes the time of a fork.
    starts: VecDeque<(Serial, usize)>,
    /// The kind of [`Server::next_step`] that came last.
    last_step: usize,
    jobs: Jobs,
    /// Jobs whose output is readable, in the order of their turns.
    outputs: VecDeque<Serial>,
    attachments: Attachments,
    logs: Logs,
    file_workers: FileWorkers,
    errands: Errands,
    notifications: Notifications,
    /// The configuration that was reloaded, until that is reported.
    reloaded: Option<String>,
    links: Links,
    system_state: SystemState,
    probes: Probes,
    alerts: AlertDesk,
    expectations: ExpectationDesk,
    storage: Storage,
    phase: Phase,
    scratch: Vec<u8>,
    /// Clients to be removed at the end of the turn.
    ended: Vec<(ClientId, End)>,
    /// The reply to `rpc/status` of this turn, as JSON text, until it changes.
    status_reply: Option<Rc<str>>,
    /// The subscriber to which the current state was sent last.
    last_served: ClientId,
}

/// Bytes read at once: the size of a pipe, four TLS records.
const SCRATCH: usize = 64 * 1024;
/// Bytes of it for a client.
const CLIENT_READ: usize = 16 * 1024;
/// Time limits of the parts of a turn. The rest continues in the next turn, so that nothing else
/// waits longer than their sum. Each part goes at least one step.
mod limits {
    use std::time::Duration;

    /// Ended children.
    pub(super) const CHILDREN: Duration = Duration::from_micros(500);
    /// Output of jobs.
    pub(super) const OUTPUT: Duration = Duration::from_micros(750);
    /// Requests.
    pub(super) const REQUESTS: Duration = Duration::from_micros(1000);
    /// Effects of these: commands to start, records, events.
    pub(super) const EFFECTS: Duration = Duration::from_micros(1000);
    /// Messages to clients.
    pub(super) const SENDING: Duration = Duration::from_micros(1000);
}
/// Kinds of steps that follow an effect: see [`Server::next_step`].
const STEPS: usize = 3;
/// Maximum number of clients closed in a turn because all outboxes together are full.
const CLOSED_AT_ONCE: usize = 8;

/// Runs the server until a signal stops it. `file` is the path of the configuration, for reloads.
pub fn run(
    config: Config,
    file: Option<PathBuf>,
    home: Home,
    pid_file: Option<&Path>,
) -> Result<(), StartError> {
    prepare(&config);
    let pid_file = start::pid_file(pid_file)?;
    let mut server = start::start(config, file, home)?;
    let mut ready = Vec::new();
    while server.phase != Phase::Over {
        server.turn(&mut ready)?;
    }
    for open in &server.listeners {
        open.listening.listener.end();
    }
    server.storage.close(server.config.server.close_timeout);
    if let Some(pid_file) = pid_file {
        pid_file.remove();
    }
    info!("stopped");
    Ok(())
}

impl Server {
    /// One turn of the loop; `ready` is empty before and after it.
    fn turn(&mut self, ready: &mut Vec<Ready<PollToken>>) -> Result<(), StartError> {
        if let Err(error) = self.reactor.turn(ready) {
            error!("the poll loop failed: {error}");
            return Err(StartError::system("wait for events", error));
        }
        let now = Moment::now();
        let mut timer = TurnTimer::begin();
        self.status_reply = None;
        for ready in ready.drain(..) {
            self.on_ready(ready, now);
        }
        timer.end_part("events");
        self.read_outputs(now);
        timer.end_part("output of jobs");
        self.serve_clients(now);
        timer.end_part("requests");
        self.settle(now, &mut timer);
        self.go_on_stopping(now);
        timer.end();
        Ok(())
    }

    fn on_ready(&mut self, ready: Ready<PollToken>, now: Moment) {
        match ready {
            Ready::Io { key, readable, writable } => self.on_io(key, readable, writable, now),
            Ready::Again(key) => self.on_io(key, true, false, now),
            Ready::Changed(PollToken::Groups) => self.on_group_file_changed(now),
            // The file workers watch all other files.
            Ready::Changed(_) => {}
            Ready::Deadline(key) => self.on_deadline(key, now),
            Ready::Signal(Signal::Child) => self.reap(now),
            Ready::Signal(Signal::Stop) => self.stop(now),
            Ready::Signal(Signal::Reload) => self.reload(now),
            Ready::Signal(Signal::Status) => info!("status: {}", self.status_line(now)),
        }
    }

    fn on_io(&mut self, key: PollToken, readable: bool, writable: bool, now: Moment) {
        match key {
            // New connections do not shorten the retry interval.
            PollToken::Listener(number) if self.is_full(number) => {}
            PollToken::Listener(number) => self.accept(number, now),
            PollToken::Client(id) => {
                if readable {
                    if let Some(client) = self.clients.get(id) {
                        client.readable = true;
                    }
                    self.clients.enqueue(id);
                }
                if writable {
                    self.clients.touch(id);
                }
            }
            PollToken::Output(serial) => {
                if !self.outputs.contains(&serial) {
                    self.outputs.push_back(serial);
                }
            }
            PollToken::Leftover(number) => {
                self.jobs.on_leftover(number, &mut self.reactor, &mut self.scratch, now);
            }
            PollToken::Accounts => {
                self.accounts.read(&mut self.scratch, &mut self.reactor, now.instant);
            }
            // Output is written at the end of the turn.
            PollToken::Link(number) => self.on_link_io(number, readable, now),
            PollToken::Files(id) => {
                let now = now.instant;
                self.file_workers.read(id, &mut self.scratch, &mut self.reactor, now);
            }
            PollToken::Errand(errand) => self.on_errand(errand, now),
            PollToken::Logs => self.logs.wake(),
            PollToken::SystemState(part) => self.on_zpool_io(part, now),
            PollToken::Expect(pipe) => self.on_zfs_io(pipe),
            PollToken::Store => {
                let now = now.instant;
                self.storage.read(&mut self.scratch, &mut self.reactor, now);
                self.storage.flush(&mut self.reactor, now);
            }
            PollToken::Trees => {
                let (dispatcher, reactor) = (&mut self.dispatcher, &mut self.reactor);
                self.jobs.on_trees(dispatcher, reactor, &mut self.scratch, now);
            }
            PollToken::Children => self.reap(now),
            PollToken::Keys => self.go_on_reading_keys(now),
            PollToken::Dispatcher
            | PollToken::Alerts
            | PollToken::Turn
            | PollToken::Passwords
            | PollToken::Persisting
            | PollToken::Recheck
            | PollToken::Groups
            | PollToken::Delayed(_)
            | PollToken::Attachments
            | PollToken::Notifications
            | PollToken::Stop => {}
        }
    }

    fn on_errand(&mut self, errand: Errand, now: Moment) {
        let answer = self.errands.read(errand, &mut self.scratch, &mut self.reactor);
        let Some(answer) = answer else { return };
        match errand {
            Errand::Reload => self.on_reload_read(&answer, now),
            Errand::OwnKey { legacy } => self.on_own_key(legacy, &answer, now),
            Errand::Delivery(id) => self.on_delivered(id, &answer, now),
        }
    }

    fn on_deadline(&mut self, key: PollToken, now: Moment) {
        match key {
            PollToken::Listener(number) => self.accept(number, now),
            PollToken::Client(id) => self.on_client_deadline(id, now),
            PollToken::Link(number) => self.on_link_deadline(number, now),
            PollToken::Output(serial)
                if self.storage.holds(serial)
                    || self.attachments.holds(serial)
                    || self.outputs.contains(&serial) =>
            {
                // Reading is paused by back-pressure, or it waits for its turn.
                self.jobs.wait_for_output(serial, &mut self.reactor, now);
            }
            PollToken::Output(serial) => {
                self.jobs.on_output_overdue(serial, &mut self.dispatcher, &mut self.reactor, now);
            }
            PollToken::Store => self.storage.store.on_deadline(now.instant),
            // After the effects of the last turn. It is set again at the end of this one.
            PollToken::Dispatcher if self.has_effects() => {}
            PollToken::Dispatcher => self.dispatcher.on_deadline(now),
            PollToken::Accounts => self.accounts.helper.on_deadline(now.instant),
            PollToken::Recheck => self.recheck(now),
            PollToken::Groups => self.on_group_file_due(now),
            PollToken::Delayed(id) => self.on_delay_over(id),
            PollToken::Keys => self.ask_for_keys(now),
            PollToken::Logs => self.on_logs_deadline(now),
            PollToken::SystemState(part) => self.on_zpool_deadline(part, now),
            PollToken::Expect(pipe) => self.on_zfs_deadline(pipe, now),
            PollToken::Attachments => self.on_attachments_due(now),
            PollToken::Notifications => self.notifications.notifier.on_deadline(now),
            PollToken::Stop => self.phase = Phase::Over,
            PollToken::Leftover(number) => {
                self.jobs.on_leftover_due(number, &mut self.reactor, &mut self.scratch, now);
            }
            PollToken::Files(_) => self.file_workers.files.on_deadline(now.instant),
            PollToken::Errand(errand) => self.errands.on_deadline(errand),
            // All due work is done at the end of the turn.
            PollToken::Trees
            | PollToken::Alerts
            | PollToken::Passwords
            | PollToken::Persisting
            | PollToken::Turn
            | PollToken::Children => {}
        }
    }

    /// Reads the output of jobs, in turn, as long as the time for that allows, and nothing is left to
    /// do about what was read before.
    fn read_outputs(&mut self, now: Moment) {
        let budget = Budget::of(limits::OUTPUT);
        while !self.has_effects()
            && let Some(serial) = self.outputs.pop_front()
        {
            self.read_output(serial, now);
            // Its output is processed before the next command runs.
            self.carry_out_effects(budget, now);
            if budget.is_spent() {
                break;
            }
        }
        if !self.outputs.is_empty() {
            self.reactor.again(PollToken::Turn);
        }
    }

    fn read_output(&mut self, serial: Serial, now: Moment) {
        if !self.storage.takes_output(serial) {
            return;
        }
        let output = self.dispatcher.output(serial);
        let limit = self.attachments.output_limit(serial, output.as_ref());
        if limit > 0 {
            let (dispatcher, reactor) = (&mut self.dispatcher, &mut self.reactor);
            let scratch = self.scratch.get_mut(..limit).unwrap_or_default();
            self.jobs.on_output(serial, dispatcher, reactor, scratch, now);
        }
    }

    /// Reaps ended children, as many as fit into a turn: thousands of orphans may end at once.
    fn reap(&mut self, now: Moment) {
        if self.has_effects() {
            return self.reactor.again(PollToken::Children);
        }
        let budget = Budget::of(limits::CHILDREN);
        while let Some((pid, exit)) = children::reap() {
            let reactor = &mut self.reactor;
            if self.jobs.on_child(pid, exit, &mut self.dispatcher, reactor, now) {
            } else if let Some(how) = Child::take_ended(&mut self.storage.child, pid, exit, reactor)
            {
                self.storage.store.ended(&how, now.instant);
            } else if let Some(how) =
                Child::take_ended(&mut self.accounts.child, pid, exit, reactor)
            {
                self.accounts.helper.ended(&how, now.instant);
            } else if let Some((id, how)) = self.file_workers.take_ended(pid, exit, reactor) {
                debug!("file worker {id} has ended: {how}");
                self.file_workers.files.ended(id, now.instant);
            } else if !self.on_zfs_exit(pid, exit, now) {
                self.on_zpool_exit(pid, exit, now);
            }
            if budget.is_spent() {
                self.reactor.again(PollToken::Children);
                break;
            }
        }
        self.jobs.look_after_all();
    }

    /// Carries out effects, and sends output, as long as the time for that allows.
    fn settle(&mut self, now: Moment, timer: &mut TurnTimer) {
        loop {
            let any = self.take_file_outcomes(now);
            self.follow_logs(now);
            if !any {
                break;
            }
        }
        timer.end_part("logs");
        let (effects, mut sending) = (Budget::of(limits::EFFECTS), None);
        loop {
            self.carry_out_effects(effects, now);
            timer.end_part("effects");
            self.carry_out_notifications(now);
            self.take_accounts_outcomes(now);
            self.serve_passwords(now);
            self.run_system_state(now);
            timer.end_part("accounts and pools");
            self.run_expectations(now);
            self.run_alerts(now);
            timer.end_part("alerts");
            let sending = *sending.get_or_insert_with(|| Budget::of(limits::SENDING));
            if self.deliveries.is_empty() && !self.dispatcher.has_pending_output() {
                // Both read jobs as they are now, so they follow what was printed and published.
                self.send_current_state(sending, now);
                self.advance_attachments(now);
            }
            self.close_overflowing(now);
            let over = self.clients.flush(sending, &mut self.reactor, now.instant);
            self.ended.extend(over);
            self.flush_links(now);
            timer.end_part("sending");
            if self.ended.is_empty() && !self.clients.is_dirty() {
                break;
            }
            if self.ended.is_empty() && sending.is_spent() {
                self.reactor.again(PollToken::Turn);
                break;
            }
            for (id, end) in std::mem::take(&mut self.ended) {
                self.end(id, &end.to_string());
            }
        }
        if std::mem::take(&mut self.links.keys_changed) {
            self.send_checksums(now);
            self.flush_links(now);
        }
        self.go_on_with_logs(now);
        self.carry_out_notifications(now);
        self.storage.store.end_of_turn(now.instant);
        self.storage.flush(&mut self.reactor, now.instant);
        self.accounts.flush(&mut self.reactor);
        self.jobs.ask_trees(&mut self.reactor, now);
        // Questions since the turn of the logs.
        self.take_file_outcomes(now);
        self.file_workers.flush(&mut self.reactor);
        self.report_reload();
        if self.has_effects() || self.storage.store.has_outcomes() {
            self.reactor.again(PollToken::Turn);
        }
        self.reactor.set_deadline(PollToken::Dispatcher, self.dispatcher.due());
        self.reactor.set_deadline(PollToken::SystemState(Part::Check), self.system_state.due());
        timer.end_part("workers");
    }

    /// Whether effects are left for the next turn. More output and ends of commands wait for that.
    fn has_effects(&self) -> bool {
        self.dispatcher.has_effects() || !self.deliveries.is_empty() || !self.starts.is_empty()
    }

    /// Gives the next recipient its event; false where there is none.
    fn deliver_next(&mut self) -> bool {
        let Some(delivery) = self.deliveries.front_mut() else { return false };
        match delivery.recipients.pop_front() {
            // It may have ended its subscription, or lost its role, since.
            Some((id, spelling)) if self.hub.wants(id, delivery.event.event.name()) => {
                self.clients.deliver(id, &delivery.event, spelling);
            }
            Some(_) => {}
            None => drop(self.deliveries.pop_front()),
        }
        true
    }

    /// Delivers events and carries out effects of the dispatcher; and then, in turn, results of the store, commands to
    /// be started, and work on many jobs, each of which has effects again; until there is nothing
    /// left or the time is over.
    fn carry_out_effects(&mut self, budget: Budget, now: Moment) {
        let mut without_work = 0;
        while without_work < STEPS {
            without_work = if self.next_step(now) { 0 } else { without_work + 1 };
            if budget.is_spent() {
                break;
            }
        }
    }

    /// False where the kind of step whose turn it is had nothing to do.
    fn next_step(&mut self, now: Moment) -> bool {
        if self.deliver_next() {
            return true;
        }
        if let Some(effect) = self.dispatcher.next_effect() {
            self.carry_out(effect, now);
            return true;
        }
        self.last_step = (self.last_step + 1) % STEPS;
        match self.last_step {
            0 => {
                let Some(outcome) = self.storage.store.next_outcome() else { return false };
                self.on_store_outcome(outcome, now);
            }
            1 => {
                let Some((serial, command)) = self.starts.pop_front() else { return false };
                self.start_command(serial, command, now);
            }
            _ => return self.dispatcher.go_on(now),
        }
        true
    }

    fn start_command(&mut self, serial: Serial, command: usize, now: Moment) {
        self.jobs.start(serial, command, &mut self.dispatcher, &mut self.reactor, now);
    }

    fn carry_out(&mut self, effect: Effect, now: Moment) {
        self.serve_attached(&effect, now);
        match effect {
            Effect::Publish(event) => self.publish(event, now),
            Effect::PublishOutcome { serial } => self.request_publication(serial, now),
            Effect::Persist { serial, step, record } => {
                let ticket = Durable::Job((serial, step));
                self.storage.store.persist(ticket, record, now.instant);
            }
            Effect::Failed { job, outcome, at } => {
                self.notify_of_failure(&job, &outcome, &at, now);
            }
            Effect::Note { record } => self.storage.store.note(record, now.instant),
            Effect::Log { serial, at, limit, bytes } => {
                self.storage.store.log(serial, at, limit, bytes, now.instant);
            }
            Effect::Forget { serial } => self.storage.store.forget(serial, now.instant),
            Effect::Start { serial, command } => self.starts.push_back((serial, command)),
            Effect::Signal { serial, kill } => {
                self.start_now(serial, now);
                self.jobs.signal(serial, kill);
            }
            Effect::Release { serial } => {
                self.start_now(serial, now);
                self.jobs.release(serial, &mut self.reactor);
                self.storage.store.close_log(serial, now.instant);
            }
        }
    }

    /// Starts a command of this job that waits for that, before something else happens to the job.
    fn start_now(&mut self, serial: Serial, now: Moment) {
        if let Some(at) = self.starts.iter().position(|(other, _)| *other == serial)
            && let Some((serial, command)) = self.starts.remove(at)
        {
            self.start_command(serial, command, now);
        }
    }

    fn publish(&mut self, event: Event, now: Moment) {
        let finished = match &event {
            Event::Job(event) => event.is_finished().then_some(event.job.serial),
            Event::LifePreserver(_)
            | Event::SystemState(_)
            | Event::Queue(_)
            | Event::Alert(_)
            | Event::Notice(_) => None,
        };
        if let Event::Job(event) = &event {
            self.observe_job(event, now);
            self.expect_job(event, now);
        }
        if let Some(serial) = finished {
            self.dispatcher.reported(serial, self.hub.seq() + 1, now);
            self.attachments.touch(serial);
        }
        let mut recipients = VecDeque::new();
        let event =
            self.hub.publish(event, now, |id, _, spelling| recipients.push_back((id, spelling)));
        self.record(&event, now);
        self.deliveries.push_back(Delivery { event, recipients });
    }

    /// Appends an event to the history on disk.
    fn record(&mut self, published: &Published, now: Moment) {
        if self.config.store.history > 0
            && let Some(frame) = published.recorded()
        {
            self.storage.store.record(frame, now.instant);
        }
    }

    /// Sends the current state to subscribers, in turn, until `budget` is spent.
    fn send_current_state(&mut self, budget: Budget, now: Moment) {
        let mut behind = self.hub.behind();
        let next = behind.partition_point(|id| *id <= self.last_served);
        behind.rotate_left(next);
        for id in behind {
            let mut pieces = 0;
            loop {
                let may_get_more = self.clients.may_get_more(id);
                let Some(client) = self.clients.get(id).filter(|client| !client.reads_outcome)
                else {
                    break;
                };
                if !may_get_more {
                    // Continues when some of it has been sent.
                    client.stalled = true;
                    break;
                }
                if pieces > 0 && budget.is_spent() {
                    self.last_served = id;
                    return self.reactor.again(PollToken::Turn);
                }
                pieces += 1;
                match self.hub.pull(id, &self.dispatcher, &self.alerts.alerts, now) {
                    None => break,
                    Some(Item::Event(event, spelling)) => {
                        self.clients.deliver(id, &event, spelling)
                    }
                    Some(Item::Outcome(serial)) => {
                        let asked = self.request_outcome(id, serial, now);
                        if let Some(client) = self.clients.get(id) {
                            client.reads_outcome = asked;
                        }
                    }
                    Some(Item::Gap { seq, missed }) => {
                        let text = gap(self.hub.epoch(), seq, missed);
                        if let Err(Full) = self.clients.answer(id, text) {
                            self.clients.overflowing.push(id);
                        }
                    }
                }
            }
        }
    }

    fn stop(&mut self, now: Moment) {
        match self.phase {
            Phase::Serving => {
                info!("stopping; active jobs: {}", {
                    let counts = self.dispatcher.counts();
                    counts.pending + counts.running
                });
                self.phase = Phase::EndingJobs;
                for mut open in self.listeners.drain(..) {
                    open.listening.stop(&mut self.reactor);
                }
                self.dispatcher.stop(now);
                self.system_state.stop();
                self.stop_expectations();
            }
            Phase::EndingJobs => {
                info!("stopping at once");
                self.dispatcher.hurry(now);
            }
            Phase::Leaving | Phase::Over => self.phase = Phase::Over,
        }
    }

    fn go_on_stopping(&mut self, now: Moment) {
        let store = &self.storage.store;
        let idle = self.dispatcher.is_idle()
            && !self.has_effects()
            && store.is_idle()
            && !store.has_outcomes();
        if self.phase == Phase::EndingJobs && idle {
            self.phase = Phase::Leaving;
            let reason = CloseReason::new(1001, "the daemon stops");
            for id in self.clients.ids() {
                self.clients.close_when_sent(id, &reason, now.instant);
            }
            let due = now.instant + self.config.server.close_timeout;
            self.reactor.set_deadline(PollToken::Stop, Some(due));
            self.settle(now, &mut TurnTimer::begin());
        }
        let all_told = self.clients.len() == 0 && self.links.are_flushed();
        if self.phase == Phase::Leaving && all_told && self.logs.is_persisted() {
            self.phase = Phase::Over;
        }
    }
}
