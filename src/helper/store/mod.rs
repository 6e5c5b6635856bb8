//! The store: a child that does all durable writing, because a disk may block; and its state
//! machine in the loop.
//!
//! Data is sent through a socket that never blocks the loop. Records that must be durable before an
//! effect carry a ticket, which is returned when they are, or with the reason why they are not.
//! Tickets of one turn of the loop share one commit. A store that does not reply in time is killed
//! and replaced; pending tickets fail, and the owner submits them again when the store is back.
//!
//! [`Store`] is a state machine: bytes, exits and time come in, bytes and [`Outcome`]s go out.

mod departed;
mod event_backlog;
mod history;
mod journal;
mod keys;
mod message;
mod segments;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use event_backlog::EventBacklog;
use message::{Order, Report, put_event, put_log};
use worker::PiecesQuestion;

pub use history::HistoryQuestion;
pub use journal::{Kind, Loaded, Record, load};
pub use keys::{KeysAnswer, KeysQuestion, Stamp};
pub use segments::{LogEnd, Part};
pub use worker::{StoreLocation, TextQuestion, log_ends, prepare};

use super::channel::Channel;
use crate::backoff::Backoff;
use crate::sys::fork::with_socket;

/// Limits of the store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Time limit of a reply; beyond it the store counts as hung.
    pub deadline: Duration,
    /// Maximum number of bytes of job logs in flight.
    pub backlog: usize,
    /// Bytes of the history of events; 0 for none.
    pub history: u64,
}

/// Number of a request, repeated in its reply.
pub type RequestId = u64;

/// An action or result for the owner.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<K> {
    /// The record of that ticket is durable.
    Persisted(K),
    /// It is not; the reason.
    NotPersisted(K, String),
    /// The reply to a request, as JSON.
    Answer(RequestId, Vec<u8>),
    /// The request failed; the reason.
    NoAnswer(RequestId, String),
    /// A line for the log.
    Remark(String),
    /// Start a child, and report [`Store::begun`].
    Begin,
    /// Kill the child, and report its exit to [`Store::ended`].
    Kill,
    /// Nothing can be persisted from now on; the reason.
    Unavailable(String),
    /// Submit failed records once more; their result decides whether the store is back.
    Retry,
    /// Records can be persisted again.
    Available,
}

/// State of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// The child replies.
    Working,
    /// The child runs and cannot write; retried at that time.
    Failing { why: String, retry: Option<Instant> },
    /// The child was killed; its exit has not been reported.
    Killed { why: String },
    /// There is no child; one is started at that time.
    Gone { why: String, again: Instant },
    /// A new child has the failed records, and has not replied.
    Trying { why: String },
}

/// A record that is not durable yet.
#[derive(Debug)]
struct Waiting<K> {
    ticket: K,
    /// Held until it is durable: a new child gets it again.
    line: Order,
    since: Instant,
    /// `None` where no child has it.
    commit: Option<u64>,
}

/// A part of a job's log that no child has acknowledged: a new child gets it again, and skips bytes
/// that are in the file already.
#[derive(Debug)]
struct LogOutput {
    serial: u64,
    at: u64,
    limit: u64,
    output: Vec<u8>,
}

/// State machine of the store. `K` is the type of tickets.
#[derive(Debug)]
pub struct Store<K> {
    limits: StoreLimits,
    condition: Condition,
    channel: Channel,
    waiting: VecDeque<Waiting<K>>,
    logs: VecDeque<LogOutput>,
    /// Bytes of output in `logs`.
    logs_held: usize,
    /// Log orders that this child has acknowledged.
    logged: u64,
    events: EventBacklog,
    questions: BTreeMap<RequestId, (Order, Instant)>,
    last_request: RequestId,
    last_commit: u64,
    /// Lines since the last commit.
    uncommitted: bool,
    /// Time of the child's last reply to a commit, or of the first commit without one; `None` where
    /// all have replies.
    unanswered: Option<Instant>,
    /// Jobs to be deleted, and the commit that covers it, where the child has it.
    forgotten: BTreeMap<u64, Option<u64>>,
    /// Time of the last write, while output is pending.
    moved: Instant,
    /// Retry interval; grows while attempts fail.
    backoff: Backoff,
    /// The owner knows that nothing can be persisted.
    announced: bool,
    outcomes: VecDeque<Outcome<K>>,
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SILENT: &str = "state storage does not answer";

/// Starts a store process, which holds `lock` open.
pub fn begin(place: &StoreLocation, lock: OwnedFd) -> std::io::Result<(Pid, OwnedFd)> {
    with_socket(c"sysadm-store", lock, |socket, _lock, may_block| {
        worker::run(UnixStream::from(socket), place, may_block);
    })
}

impl LogOutput {
    fn put(&self, out: &mut Channel) {
        put_log(out, self.serial, self.at, self.limit, &self.output);
    }
}

impl<K: Copy> Store<K> {
    /// Creates a store without a child: its first action is [`Outcome::Begin`].
    pub fn new(limits: StoreLimits, now: Instant) -> Store<K> {
        let mut channel = Channel::default();
        // Records from before the child runs are queued.
        channel.start();
        channel.started();
        Store {
            limits,
            condition: Condition::Working,
            channel,
            waiting: VecDeque::new(),
            logs: VecDeque::new(),
            logs_held: 0,
            logged: 0,
            events: EventBacklog::default(),
            questions: BTreeMap::new(),
            last_request: 0,
            last_commit: 0,
            uncommitted: false,
            unanswered: None,
            forgotten: BTreeMap::new(),
            moved: now,
            backoff: Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE),
            announced: false,
            outcomes: VecDeque::from([Outcome::Begin]),
        }
    }

    /// Changes the limits. Without a history the existing one is removed.
    pub fn set_limits(&mut self, limits: StoreLimits, now: Instant) {
        let is_off = limits.history == 0 && self.limits.history > 0;
        self.limits = limits;
        if is_off {
            self.events.clear();
            self.remove_history(now);
        }
    }

    fn remove_history(&mut self, now: Instant) {
        if self.hears() {
            self.order(&Order::Event { lost: 0, limit: 0, frame: Vec::new() }, now);
        }
    }

    /// Whether records can be persisted, or why not.
    pub fn standing(&self) -> Result<(), &str> {
        match &self.condition {
            Condition::Working => Ok(()),
            Condition::Failing { why, .. }
            | Condition::Killed { why }
            | Condition::Gone { why, .. }
            | Condition::Trying { why } => Err(why),
        }
    }

    /// The next action or result.
    pub fn next_outcome(&mut self) -> Option<Outcome<K>> {
        self.outcomes.pop_front()
    }

    /// Whether there is an action or result.
    pub fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Whether nothing is pending.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.channel.queued() == 0 && self.questions.is_empty()
    }

    /// Number of records that are not durable yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes in flight.
    pub fn outgoing(&self) -> usize {
        self.channel.queued()
    }

    fn hears(&self) -> bool {
        match self.condition {
            Condition::Working | Condition::Failing { .. } | Condition::Trying { .. } => true,
            Condition::Killed { .. } | Condition::Gone { .. } => false,
        }
    }

    fn order(&mut self, order: &Order, now: Instant) {
        self.begin_to_move(now);
        order.put(&mut self.channel);
    }

    fn begin_to_move(&mut self, now: Instant) {
        if self.channel.queued() == 0 {
            self.moved = now;
        }
    }

    /// Persists a record, a JSON object; the ticket is returned when it is durable, or has failed.
    pub fn persist(&mut self, ticket: K, line: Vec<u8>, now: Instant) {
        self.persist_line(ticket, Order::Line(line), now);
    }

    /// The same of a record in the journal of notifications.
    pub fn persist_notification(&mut self, ticket: K, line: Vec<u8>, now: Instant) {
        self.persist_line(ticket, Order::Notification(line), now);
    }

    fn persist_line(&mut self, ticket: K, line: Order, now: Instant) {
        if self.hears() {
            self.order(&line, now);
            self.uncommitted = true;
        }
        let commit = self.hears().then_some(self.last_commit + 1);
        self.waiting.push_back(Waiting { ticket, line, since: now, commit });
    }

    /// Writes a record on which nothing depends.
    pub fn note(&mut self, line: Vec<u8>, now: Instant) {
        if self.hears() {
            self.order(&Order::Line(line), now);
        }
    }

    /// Whether more of a job's log can be accepted without omission. Output is held back for a
    /// store that is slow or is being restarted, never for one that cannot write.
    pub fn has_room(&self) -> bool {
        self.has_log_room() || self.announced || matches!(self.condition, Condition::Killed { .. })
    }

    fn has_log_room(&self) -> bool {
        self.channel.queued().max(self.logs_held) < self.limits.backlog
    }

    /// Appends to a job's log; `at` is the offset in the job's output, `limit` the maximum size of
    /// the whole log in bytes. Held until a child acknowledges it; omitted where a store that
    /// cannot write has filled the backlog.
    pub fn log(&mut self, serial: u64, at: u64, limit: usize, output: Vec<u8>, now: Instant) {
        if !self.has_log_room() && self.has_room() {
            return;
        }
        let log = LogOutput { serial, at, limit: limit as u64, output };
        if self.hears() {
            self.begin_to_move(now);
            log.put(&mut self.channel);
        }
        self.logs_held += log.output.len();
        self.logs.push_back(log);
    }

    /// Appends an event to the history: the frame of its extended form.
    pub fn record(&mut self, frame: Rc<[u8]>, now: Instant) {
        let limit = self.limits.history;
        if limit == 0 {
            return;
        }
        match self.events.push(frame) {
            Ok(Some(held)) if self.hears() => {
                self.begin_to_move(now);
                put_event(&mut self.channel, held.lost, limit, &held.frame);
            }
            Ok(_) => {}
            Err(()) => {
                let remark = "it is behind: events are missing in the history".to_owned();
                self.outcomes.push_back(Outcome::Remark(remark));
            }
        }
    }

    /// Asks for a page of the history; the answer is the JSON of a reply.
    pub fn ask_for_history(&mut self, question: &HistoryQuestion, now: Instant) -> RequestId {
        let question = serde_json::to_vec(question).unwrap_or_default();
        self.ask(now, |request| Order::History { request, question })
    }

    /// No more output of that job follows.
    pub fn close_log(&mut self, serial: u64, now: Instant) {
        if self.hears() {
            self.order(&Order::CloseLog(serial), now);
        }
    }

    /// Deletes a job.
    pub fn forget(&mut self, serial: u64, now: Instant) {
        // Its place in the order stays, for a child that has it.
        for log in self.logs.iter_mut().filter(|log| log.serial == serial) {
            self.logs_held -= std::mem::take(&mut log.output).len();
        }
        self.forgotten.insert(serial, None);
        if self.hears() {
            self.forget_again(now);
        }
    }

    /// Sends the child all pending deletions that it does not know.
    fn forget_again(&mut self, now: Instant) {
        let commit = self.last_commit + 1;
        let mut orders = Vec::new();
        for (serial, covered) in self.forgotten.iter_mut().filter(|(_, given)| given.is_none()) {
            *covered = Some(commit);
            orders.push(Order::Forget(*serial));
        }
        orders.iter().for_each(|order| self.order(order, now));
        self.uncommitted |= !orders.is_empty();
    }

    /// Replaces a file in the state directory. The reply, which is empty, means that it is durable;
    /// without one, it may have been replaced or not.
    pub fn replace(&mut self, name: &str, bytes: Vec<u8>, now: Instant) -> RequestId {
        let name = name.to_owned();
        self.ask(now, |request| Order::Persist { request, name, bytes })
    }

    /// Requests a part of a job's log as one text.
    pub fn ask_for_text(&mut self, question: &TextQuestion, now: Instant) -> RequestId {
        let question = serde_json::to_vec(&question).unwrap_or_default();
        self.ask(now, |request| Order::ReadText { request, question })
    }

    /// Requests the logs of a job's commands, each a range of the job's output, head and tail of at
    /// most `limit` bytes.
    pub fn ask_for_pieces(
        &mut self,
        serial: u64,
        ranges: Vec<Range<u64>>,
        limit: usize,
        now: Instant,
    ) -> RequestId {
        let question = PiecesQuestion { serial, ranges, limit };
        let question = serde_json::to_vec(&question).unwrap_or_default();
        self.ask(now, |request| Order::ReadPieces { request, question })
    }

    /// Requests at most `length` bytes of a job's output, the first available ones from `from` on.
    /// [`output_of_answer`] decodes the reply.
    pub fn ask_for_output(
        &mut self,
        serial: u64,
        from: u64,
        length: u64,
        now: Instant,
    ) -> RequestId {
        self.ask(now, |request| Order::ReadOutput { request, serial, from, length })
    }

    /// Requests the registered keys, after a change if there is one; the reply is a [`KeysAnswer`].
    pub fn ask_for_keys(&mut self, question: &KeysQuestion, now: Instant) -> RequestId {
        let question = serde_json::to_vec(question).unwrap_or_default();
        self.ask(now, |request| Order::Keys { request, question })
    }

    fn ask(&mut self, now: Instant, order: impl FnOnce(RequestId) -> Order) -> RequestId {
        self.last_request += 1;
        let request = self.last_request;
        let order = order(request);
        if self.hears() {
            self.order(&order, now);
            self.questions.insert(request, (order, now));
        } else {
            let why = self.standing().err().unwrap_or(SILENT).to_owned();
            self.outcomes.push_back(Outcome::NoAnswer(request, why));
        }
        request
    }

    /// To be called at the end of each turn of the loop: commits its records.
    pub fn end_of_turn(&mut self, now: Instant) {
        if self.uncommitted {
            self.commit(now);
        }
    }

    fn commit(&mut self, now: Instant) {
        self.uncommitted = false;
        self.last_commit += 1;
        self.unanswered.get_or_insert(now);
        self.order(&Order::Commit(self.last_commit), now);
    }

    /// The channel to the child.
    pub fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// The child's socket has accepted bytes.
    pub fn moved(&mut self, now: Instant) {
        self.moved = now;
    }

    /// Bytes from the child.
    pub fn received(&mut self, bytes: &[u8], now: Instant) {
        for frame in self.channel.received(bytes) {
            if let Some(report) = Report::read(&frame) {
                self.on_report(report, now);
            }
        }
    }

    fn on_report(&mut self, report: Report, now: Instant) {
        match report {
            Report::Persisted(commit) => {
                self.answered(commit, now);
                self.forgotten.retain(|_, covered| covered.is_none_or(|by| by > commit));
                for ticket in self.up_to(commit) {
                    self.outcomes.push_back(Outcome::Persisted(ticket));
                }
                // A reply to an order before the failure does not mean that it is back.
                if self.standing().is_err() && commit == self.last_commit && self.hears() {
                    self.condition = Condition::Working;
                    self.backoff.reset();
                    if std::mem::take(&mut self.announced) {
                        self.outcomes.push_back(Outcome::Available);
                    }
                }
            }
            Report::Failed { commit, why } => {
                let why = format!("state storage cannot write: {why}");
                self.answered(commit, now);
                for covered in self.forgotten.values_mut() {
                    *covered = covered.filter(|by| *by > commit);
                }
                for ticket in self.up_to(commit) {
                    self.outcomes.push_back(Outcome::NotPersisted(ticket, why.clone()));
                }
                self.announce(&why);
                if self.hears() {
                    let retry = Some(now + self.backoff.take());
                    self.condition = Condition::Failing { why, retry };
                }
            }
            Report::Answer { request, answer } => {
                if self.questions.remove(&request).is_some() {
                    self.outcomes.push_back(Outcome::Answer(request, answer));
                }
            }
            Report::NoAnswer { request, why } => {
                if self.questions.remove(&request).is_some() {
                    self.outcomes.push_back(Outcome::NoAnswer(request, why));
                }
            }
            Report::Remark(remark) => self.outcomes.push_back(Outcome::Remark(remark)),
            Report::Recorded(count) => self.events.acknowledge(count),
            Report::Logged(count) => {
                while self.logged < count {
                    self.logged += 1;
                    let done = self.logs.pop_front();
                    self.logs_held -= done.map_or(0, |log| log.output.len());
                }
                if self.logs.is_empty() {
                    self.logs.shrink_to(16);
                }
            }
        }
    }

    fn answered(&mut self, commit: u64, now: Instant) {
        self.unanswered = (commit < self.last_commit).then_some(now);
    }

    fn up_to(&mut self, commit: u64) -> Vec<K> {
        let mut tickets = Vec::new();
        while self.waiting.front().is_some_and(|w| w.commit.is_some_and(|c| c <= commit)) {
            tickets.extend(self.waiting.pop_front().map(|waiting| waiting.ticket));
        }
        tickets
    }

    /// A child runs: it gets everything that is not written or not durable yet.
    pub fn begun(&mut self, now: Instant) {
        let Condition::Gone { why, .. } = &self.condition else { return };
        self.condition = Condition::Trying { why: why.clone() };
        self.channel.start();
        self.channel.started();
        let commit = self.last_commit + 1;
        self.begin_to_move(now);
        self.logged = 0;
        self.logs.retain(|log| !log.output.is_empty());
        self.logs.iter().for_each(|log| log.put(&mut self.channel));
        let limit = self.limits.history;
        for held in self.events.begin() {
            put_event(&mut self.channel, held.lost, limit, &held.frame);
        }
        if limit == 0 {
            self.remove_history(now);
        }
        let mut orders: Vec<Order> = Vec::new();
        for waiting in &mut self.waiting {
            waiting.commit = Some(commit);
            orders.push(waiting.line.clone());
        }
        orders.extend(self.questions.values().map(|(question, _)| question.clone()));
        orders.iter().for_each(|order| self.order(order, now));
        self.forget_again(now);
        self.outcomes.push_back(Outcome::Retry);
        self.uncommitted = true;
    }

    /// The child has ended, or could not be started; the reason is `why`.
    pub fn ended(&mut self, why: &str, now: Instant) {
        self.channel.ended();
        self.uncommitted = false;
        self.unanswered = None;
        for waiting in &mut self.waiting {
            waiting.commit = None;
        }
        self.forgotten.values_mut().for_each(|covered| *covered = None);
        let (why, again) = match &self.condition {
            // The first one is replaced at once, without a failure.
            Condition::Working => {
                let remark = format!("it has ended, {why}, and is started anew");
                self.outcomes.push_back(Outcome::Remark(remark));
                (format!("the store has ended: {why}"), now)
            }
            Condition::Killed { why } => (why.clone(), now),
            Condition::Failing { why, .. }
            | Condition::Gone { why, .. }
            | Condition::Trying { why } => {
                let why = why.clone();
                self.announce(&why);
                (why, now + self.backoff.take())
            }
        };
        self.condition = Condition::Gone { why, again };
        self.on_deadline(now);
    }

    fn announce(&mut self, why: &str) {
        if !std::mem::replace(&mut self.announced, true) {
            self.outcomes.push_back(Outcome::Unavailable(why.to_owned()));
        }
    }

    /// When [`Store::on_deadline`] must be called.
    pub fn due(&self) -> Option<Instant> {
        let own = match &self.condition {
            Condition::Gone { again, .. } => Some(*again),
            Condition::Failing { retry, .. } => *retry,
            Condition::Working | Condition::Killed { .. } | Condition::Trying { .. } => None,
        };
        [own, self.patience_ends()].into_iter().flatten().min()
    }

    /// When the pending replies are overdue.
    fn patience_ends(&self) -> Option<Instant> {
        let record = self.waiting.front().map(|waiting| waiting.since);
        let question = self.questions.values().map(|(_, since)| *since).min();
        let bytes = (self.channel.queued() > 0).then_some(self.moved);
        let oldest = [record, question, bytes, self.unanswered].into_iter().flatten().min()?;
        Some(oldest + self.limits.deadline)
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Instant) {
        if self.patience_ends().is_some_and(|end| end <= now) {
            self.give_up(now);
        }
        match &mut self.condition {
            Condition::Gone { again, .. } if *again <= now => {
                // Requested once; `begun` or `ended` follows.
                *again = now + LONGEST_PAUSE;
                self.outcomes.push_back(Outcome::Begin);
            }
            Condition::Failing { retry, .. } if retry.is_some_and(|retry| retry <= now) => {
                *retry = None;
                self.forget_again(now);
                self.outcomes.push_back(Outcome::Retry);
                self.uncommitted = true;
            }
            Condition::Working
            | Condition::Failing { .. }
            | Condition::Killed { .. }
            | Condition::Gone { .. }
            | Condition::Trying { .. } => {}
        }
    }

    /// It has not replied in time: everything pending fails, and a running child has hung.
    fn give_up(&mut self, now: Instant) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.outcomes.push_back(Outcome::NotPersisted(waiting.ticket, SILENT.to_owned()));
        }
        for request in std::mem::take(&mut self.questions).into_keys() {
            self.outcomes.push_back(Outcome::NoAnswer(request, SILENT.to_owned()));
        }
        self.channel.end();
        self.moved = now;
        self.unanswered = None;
        self.forgotten.values_mut().for_each(|covered| *covered = None);
        self.announce(SILENT);
        if self.hears() {
            self.condition = Condition::Killed { why: SILENT.to_owned() };
            self.outcomes.push_back(Outcome::Kill);
        }
    }
}

/// Decodes the reply to [`Store::ask_for_output`]: the offset of the bytes, and the bytes.
pub fn output_of_answer(answer: &[u8]) -> Option<(u64, &[u8])> {
    let (start, bytes) = answer.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*start), bytes))
}

#[cfg(test)]
mod tests;
