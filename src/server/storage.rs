//! The store in the loop: its process, its socket, and the recipients of its replies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::child::Child;
use super::clients::{ClientId, Until};
use super::{PollToken, Server};
use crate::dispatcher::{Serial, Step, Ticket};
use crate::helper::store::{
    self, HistoryQuestion, KeysQuestion, Outcome, Part, RequestId, Store, StoreLocation,
};
use crate::moment::Moment;
use crate::notify;
use crate::reactor::Reactor;
use crate::seal::{seal, unseal};
use crate::wire::{ErrorCode, Event, Excerpt, Refusal, Reply, ReplyTo};

/// Purpose of a request.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// A client requested a part of a log.
    Log(ClientId),
    /// The outcome of a job is to be published.
    Publish(Serial),
    /// The outcome of a job is to be sent to a client.
    Retell(ClientId, Serial),
    /// An attached client is behind.
    Output(ClientId, Serial),
    /// A client wants a page of the history.
    History(ClientId),
    /// Names of the paused queues, for a client that waits for the reply.
    Queues(Option<(ClientId, Reply)>),
    /// Positions of logs, and the number of bytes of logs up to them.
    Logs(u64),
    /// Records of a part of the alerts.
    Alerts(usize),
    /// Times of expected jobs.
    Expectations,
    /// All orders before this one were carried out, for a client that waits for that.
    Barrier(ClientId, Reply),
    /// The registered keys, possibly changed for a client; its action, for the log.
    Keys(Option<(ClientId, String)>),
}

/// A record that becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    /// A step of a job.
    Job(Ticket),
    /// A step of a notification.
    Notification(notify::Serial, notify::Step),
}

/// The store and its state.
pub(super) struct Storage {
    pub(super) store: Store<Durable>,
    place: StoreLocation,
    lock: File,
    /// The state directory: open, so that its identity cannot be reused.
    _directory: File,
    pub(super) child: Option<Child>,
    pub(super) questions: BTreeMap<RequestId, Purpose>,
    /// Clients that wait for jobs to be durable.
    filing: BTreeMap<Serial, ClientId>,
    /// Jobs whose output is not read until their log has room.
    held: BTreeSet<Serial>,
    /// The names of the paused queues could not be stored.
    has_unstored_queues: bool,
}

/// Bytes of events in one page of the history.
const HISTORY_PAGE: usize = 128 * 1024;

/// File of the state directory with the names of the paused queues.
const QUEUES: &str = "queues";

/// The queues that were paused when the daemon before this one ended. For the start, before there is
/// a loop to be held up.
pub(super) fn paused_queues(state: &Path) -> Vec<String> {
    let path = state.join(QUEUES);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            warn!("cannot read which queues are paused: {}: {error}", path.display());
            return Vec::new();
        }
    };
    let names = unseal(text.trim_end()).and_then(|object| {
        let object: Value = serde_json::from_str(&object).ok()?;
        let names = object.get("paused")?.as_array()?.iter();
        Some(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
    });
    names.unwrap_or_else(|| {
        warn!("{} is damaged: no queue is paused", path.display());
        Vec::new()
    })
}

impl Storage {
    pub(super) fn new(
        place: StoreLocation,
        limits: store::StoreLimits,
        (lock, directory): (File, File),
        now: Instant,
    ) -> Storage {
        Storage {
            store: Store::new(limits, now),
            place,
            lock,
            _directory: directory,
            child: None,
            questions: BTreeMap::new(),
            filing: BTreeMap::new(),
            held: BTreeSet::new(),
            has_unstored_queues: false,
        }
    }

    /// Whether the log of a job accepts more; otherwise it is reported when it does.
    pub(super) fn takes_output(&mut self, serial: Serial) -> bool {
        let room = self.store.has_room();
        if !room {
            self.held.insert(serial);
        }
        room
    }

    /// Whether the job's output is not read now.
    pub(super) fn holds(&self, serial: Serial) -> bool {
        self.held.contains(&serial)
    }

    /// Starts the first child early, before files are watched. If the daemon is killed early, a
    /// child that had inherited the watches would have to release them, which can take the kernel
    /// seconds, while the child holds the lock.
    pub(super) fn begin_early(&mut self, reactor: &mut Reactor<PollToken>, now: Instant) {
        if let Some(Outcome::Begin) = self.store.next_outcome() {
            self.begin(reactor, now);
        }
    }

    fn begin(&mut self, reactor: &mut Reactor<PollToken>, now: Instant) {
        let begun = self.lock.try_clone().and_then(|lock| {
            let begun = store::begin(&self.place, OwnedFd::from(lock))?;
            Child::watch(begun, PollToken::Store, reactor)
        });
        match begun {
            Ok(child) => {
                self.child = Some(child);
                self.store.begun(now);
            }
            Err(error) => {
                error!("cannot start the store: {error}");
                self.store.ended(&error.to_string(), now);
            }
        }
    }

    /// Writes as much as the child accepts.
    pub(super) fn flush(&mut self, reactor: &mut Reactor<PollToken>, now: Instant) {
        if let Some(child) = &mut self.child
            && child.flush(self.store.channel()) > 0
        {
            self.store.moved(now);
        }
        if self.store.has_room() {
            for serial in std::mem::take(&mut self.held) {
                reactor.again(PollToken::Output(serial));
            }
        }
        reactor.set_deadline(PollToken::Store, self.store.due());
    }

    /// Reads the child's replies.
    pub(super) fn read(
        &mut self,
        scratch: &mut [u8],
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) {
        let Some(child) = &mut self.child else { return };
        let store = &mut self.store;
        child.read(scratch, PollToken::Store, reactor, |bytes| store.received(bytes, now));
    }

    /// After the loop: closes the socket, and waits a little for the child to end, so that a next
    /// daemon need not.
    pub(super) fn close(&mut self, patience: Duration) {
        let Some(child) = self.child.take() else { return };
        child.close();
        let due = Instant::now() + patience;
        let mut rest = [0; 4096];
        let mut socket = child.socket;
        loop {
            match socket.read(&mut rest) {
                Ok(0) => return,
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            use std::os::fd::AsFd;
            let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut asked, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        }
    }

    /// The status, for people.
    pub(super) fn status(&self) -> Value {
        json!({
            "state": self.store.standing().err().unwrap_or("working"),
            "journal": self.place.journal,
            "waiting": self.store.waiting(),
            "backlog": self.store.outgoing(),
            "pid": self.child.as_ref().map(|child| child.pid.as_raw()),
        })
    }
}

impl Server {
    /// Processes a result of the store.
    pub(super) fn on_store_outcome(&mut self, outcome: Outcome<Durable>, now: Moment) {
        match outcome {
            Outcome::Persisted(Durable::Notification(serial, step)) => {
                self.notifications.notifier.persisted(serial, step, now);
            }
            Outcome::NotPersisted(Durable::Notification(serial, step), _) => {
                self.notifications.notifier.not_persisted(serial, step, now);
            }
            Outcome::Persisted(Durable::Job((serial, step))) => {
                if step == Step::File {
                    self.on_filed(serial, Ok(()));
                }
                self.dispatcher.persisted(serial, step, now);
            }
            Outcome::NotPersisted(Durable::Job((serial, step)), why) => {
                if step == Step::File {
                    self.on_filed(serial, Err(why));
                }
                self.dispatcher.not_persisted(serial, step);
            }
            Outcome::Answer(request, answer) => self.on_answer(request, Ok(answer), now),
            Outcome::NoAnswer(request, why) => self.on_answer(request, Err(why), now),
            Outcome::Remark(remark) => warn!("store: {remark}"),
            Outcome::Begin => self.storage.begin(&mut self.reactor, now.instant),
            Outcome::Kill => self.storage.child.iter().for_each(Child::kill),
            Outcome::Unavailable(why) => {
                error!("{why}: no job is taken until it does again; events go on");
                self.dispatcher.set_storage(Err(why));
            }
            Outcome::Retry => {
                self.dispatcher.persist_again();
                self.notifications.notifier.persist_again();
            }
            Outcome::Available => {
                info!("state storage answers again");
                self.dispatcher.set_storage(Ok(()));
                // A failure just before is not covered by any `Retry`.
                self.dispatcher.persist_again();
                if self.storage.has_unstored_queues {
                    self.store_queues(None, now);
                }
            }
        }
    }

    /// A job for which a client waits is durable, or failed to be.
    fn on_filed(&mut self, serial: Serial, persisted: Result<(), String>) {
        let Some(id) = self.storage.filing.remove(&serial) else { return };
        let Some(client) = self.clients.get(id) else { return };
        let Some(Until::Filed { reply, left, failed }) = client.waits_until() else { return };
        *left -= 1;
        if let Err(why) = persisted {
            *failed = Some(why);
        }
        if *left > 0 {
            return;
        }
        let result = match failed.take() {
            None => Ok(reply.clone()),
            Some(why) => Err(Refusal::new(ErrorCode::Internal, why)),
        };
        self.end_wait(id, result);
    }

    /// The store has answered the request of a client.
    pub(super) fn on_stored(&mut self, id: ClientId, result: Result<Reply, String>) {
        let client = self.clients.get(id);
        if matches!(client.and_then(|client| client.waits_until()), Some(Until::Stored)) {
            self.end_wait(id, result.map_err(|why| Refusal::new(ErrorCode::Internal, why)));
        }
    }

    fn on_answer(&mut self, request: RequestId, answer: Result<Vec<u8>, String>, now: Moment) {
        let Some(purpose) = self.storage.questions.remove(&request) else { return };
        match purpose {
            Purpose::Log(id) => {
                let part = answer.and_then(|answer| {
                    serde_json::from_slice::<Part>(&answer).map_err(|error| error.to_string())
                });
                let reply =
                    |Part { data, offset, next, eof }| Reply::Log { data, offset, next, eof };
                self.on_stored(id, part.map(reply));
            }
            Purpose::Output(id, serial) => self.on_output_read(id, serial, answer, now),
            Purpose::Publish(serial) => {
                if let Some(event) = self.outcome(serial, answer) {
                    self.publish(event, now);
                }
            }
            Purpose::Retell(id, serial) => {
                if let Some(Event::Job(event)) = self.outcome(serial, answer)
                    && let Some((event, spelling)) = self.hub.outcome_event(id, event, now)
                {
                    self.clients.deliver(id, &event, spelling);
                }
                if let Some(client) = self.clients.get(id) {
                    client.reads_outcome = false;
                }
            }
            Purpose::History(id) => {
                let page =
                    answer.and_then(|page| String::from_utf8(page).map_err(|e| e.to_string()));
                self.on_stored(id, page.map(|page| Reply::Encoded(page.into())));
            }
            Purpose::Queues(client) => self.on_queues_stored(client, answer.map(drop)),
            Purpose::Logs(consumed) => self.on_logs_persisted(consumed, answer.map(drop), now),
            Purpose::Alerts(part) => self.on_alerts_stored(part, answer.map(drop), now),
            Purpose::Barrier(client, reply) => self.on_stored(client, answer.map(|_| reply)),
            Purpose::Expectations => self.on_expectations_stored(answer.map(drop)),
            Purpose::Keys(client) => self.on_keys(client, answer, now),
        }
    }

    fn outcome(&self, serial: Serial, answer: Result<Vec<u8>, String>) -> Option<Event> {
        let read = answer.and_then(|answer| {
            serde_json::from_slice::<Vec<Excerpt>>(&answer).map_err(|error| error.to_string())
        });
        self.dispatcher.outcome(serial, read).map(Event::Job)
    }

    /// Requests the registered keys, after a change for a client if there is one.
    pub(super) fn ask_store_for_keys(
        &mut self,
        question: &KeysQuestion,
        client: Option<(ClientId, String)>,
        now: Moment,
    ) {
        let request = self.storage.store.ask_for_keys(question, now.instant);
        self.storage.questions.insert(request, Purpose::Keys(client));
    }

    /// A client waits for these jobs to be durable.
    pub(super) fn wait_for_jobs(
        &mut self,
        id: ClientId,
        serials: &[Serial],
        reply_to: ReplyTo,
        until: Until,
    ) {
        self.wait(id, reply_to, until);
        self.storage.filing.extend(serials.iter().map(|serial| (*serial, id)));
    }

    /// A client waits for a part of a log.
    pub(super) fn wait_for_log(
        &mut self,
        id: ClientId,
        question: &store::TextQuestion,
        reply_to: ReplyTo,
        now: Moment,
    ) {
        self.wait(id, reply_to, Until::Stored);
        let request = self.storage.store.ask_for_text(question, now.instant);
        self.storage.questions.insert(request, Purpose::Log(id));
    }

    /// A client waits for a page of the history, of at most a quarter of its outbox.
    pub(super) fn ask_for_history(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        mut question: HistoryQuestion,
        now: Moment,
    ) {
        if self.config.store.history == 0 {
            let why = "no history is recorded: store.history is 0";
            return self.reply(id, &reply_to, Err(Refusal::new(ErrorCode::NotFound, why)));
        }
        question.room = HISTORY_PAGE.min(self.config.server.outbox / 4);
        self.wait(id, reply_to, Until::Stored);
        let asked = self.storage.store.ask_for_history(&question, now.instant);
        self.storage.questions.insert(asked, Purpose::History(id));
    }

    /// Stores the names of the paused queues. A client that waits for that is replied to then.
    pub(super) fn store_queues(&mut self, client: Option<(ClientId, ReplyTo, Reply)>, now: Moment) {
        let names = json!({ "paused": self.dispatcher.paused_queues() });
        let bytes = seal(&names.to_string()).into_bytes();
        let client = client.map(|(id, reply_to, reply)| {
            self.wait(id, reply_to, Until::Stored);
            (id, reply)
        });
        let request = self.storage.store.replace(QUEUES, bytes, now.instant);
        self.storage.questions.insert(request, Purpose::Queues(client));
    }

    fn on_queues_stored(&mut self, client: Option<(ClientId, Reply)>, stored: Result<(), String>) {
        self.storage.has_unstored_queues = stored.is_err();
        if let Err(why) = &stored {
            warn!("cannot store which queues are paused, a restart forgets the change: {why}");
        }
        if let Some((id, reply)) = client {
            let forgets = |why| format!("done, but a restart of the daemon forgets it: {why}");
            self.on_stored(id, stored.map(|()| reply).map_err(forgets));
        }
    }

    /// Persists the positions of the logs.
    pub(super) fn persist_logs(&mut self, name: &str, memory: Vec<u8>, consumed: u64, now: Moment) {
        let request = self.storage.store.replace(name, memory, now.instant);
        self.storage.questions.insert(request, Purpose::Logs(consumed));
    }

    /// Stores the records of a part of the alerts.
    pub(super) fn store_alert_part(
        &mut self,
        part: usize,
        name: &str,
        records: Vec<u8>,
        now: Moment,
    ) {
        let request = self.storage.store.replace(name, records, now.instant);
        self.storage.questions.insert(request, Purpose::Alerts(part));
    }

    /// Replies to a client that waits when the store has carried out all orders up to now.
    pub(super) fn await_store(&mut self, client: ClientId, reply: Reply, now: Moment) {
        let request = self.storage.store.ask_for_pieces(0, Vec::new(), 0, now.instant);
        self.storage.questions.insert(request, Purpose::Barrier(client, reply));
    }

    /// Stores the times of expected jobs.
    pub(super) fn store_expectations(&mut self, name: &str, times: Vec<u8>, now: Moment) {
        let request = self.storage.store.replace(name, times, now.instant);
        self.storage.questions.insert(request, Purpose::Expectations);
    }

    /// Requests the outcome of a job, to be published.
    pub(super) fn request_publication(&mut self, serial: Serial, now: Moment) {
        self.ask_for_outcome(serial, Purpose::Publish(serial), now);
    }

    /// Requests the outcome of a job, for a client. False where the job is no longer known.
    pub(super) fn request_outcome(&mut self, id: ClientId, serial: Serial, now: Moment) -> bool {
        self.ask_for_outcome(serial, Purpose::Retell(id, serial), now)
    }

    fn ask_for_outcome(&mut self, serial: Serial, purpose: Purpose, now: Moment) -> bool {
        let Some(question) = self.dispatcher.outcome_question(serial) else { return false };
        let store = &mut self.storage.store;
        let request = store.ask_for_pieces(serial, question.ranges, question.limit, now.instant);
        self.storage.questions.insert(request, purpose);
        true
    }
}
