//! Notifications: which event goes to which target, when, in which message, and what waits.
//!
//! Each target has a queue of items, in order. Items are collected for the time of its digest and
//! then become one message, whose composition is made durable before it is sent: each attempt, also
//! one after a restart, has the same id and the same events. An item leaves the queue when the target
//! has accepted the message, and that is made durable too. So an event arrives at least once, and
//! twice, with the same id, only where the acceptance did not reach the disk.
//!
//! Where nothing can be made durable, messages are sent all the same: a disk that fails is what a
//! person wants to know of.
//!
//! [`Notifier`] is a state machine: events, outcomes of deliveries and time come in, [`Effect`]s go
//! out.

mod format;
mod item;
mod target;
mod text;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::alerts::{AlertState, Transition};
use crate::backoff::Backoff;
use crate::moment::Moment;
use crate::wire::{Priority, parse_rfc3339, rfc3339};

pub use format::{
    HttpRequest, Ping, json_line, mail, ping, request, shown, signature, with_suffix,
};
pub use item::{Item, ItemState};
pub use target::{Destination, EventKind, Format, QuietHours, Target, URGENT, Webhook};
pub use text::Message;

/// Items that wait for one target at most.
pub const MOST_ITEMS: usize = 1000;
/// Bytes of items that wait for one target at most.
pub const MOST_BYTES: usize = 1024 * 1024;
/// Items of one message at most.
const MOST_IN_MESSAGE: usize = 500;
/// Items that no target accepted for this long are dropped.
pub const LONGEST_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Pauses between attempts, before jitter.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The longest pause that a target may ask for.
const LONGEST_REQUESTED: Duration = Duration::from_secs(3600);
/// Failed attempts in succession after which a target counts as failing.
const FAILING_AFTER: u32 = 3;
/// Attempts for a message whose content the target refuses.
const ATTEMPTS_REFUSED: u32 = 5;
/// Time limit of a test.
const LONGEST_TEST: Duration = Duration::from_secs(20);
/// Deliveries at a time; others wait.
const MOST_DELIVERIES: usize = 8;
/// Until the queue is looked at again in quiet hours: the clock may be set meanwhile.
const QUIET_CHECK: Duration = Duration::from_secs(15 * 60);

/// Number of a queue record; consecutive, and never reused in a state directory.
pub type Serial = u64;
/// Number of a delivery in this run.
pub type DeliveryId = u64;

/// Step that must be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// An item waits.
    File,
    /// A message was composed, and may be sent from now on.
    Start,
    /// An item is no longer wanted.
    Forget,
}

/// The content of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A message.
    Message(Box<Message>),
    /// The state of a check.
    Ping(Ping),
}

/// A message on its way to a target.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Number for [`Notifier::delivered`].
    pub id: DeliveryId,
    /// The target.
    pub target: Arc<Target>,
    /// The message or ping.
    pub payload: Payload,
}

/// Outcome of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivered {
    /// The target has accepted it; one line that it replied.
    Accepted(String),
    /// It has not.
    Failed {
        /// The reason, one line.
        why: String,
        /// Seconds to wait that the target asked for.
        retry_after: Option<u64>,
        /// The content is the reason: another attempt will hardly succeed.
        refused: bool,
    },
}

/// An action for the owner.
#[derive(Debug)]
pub enum Effect {
    /// Make a record durable, and report it.
    Persist {
        /// The item.
        serial: Serial,
        /// Its step.
        step: Step,
        /// A JSON object.
        record: Vec<u8>,
    },
    /// Deliver, and report [`Notifier::delivered`].
    Deliver(Delivery),
    /// A target fails since several attempts; the reason. Or it accepts again.
    Standing {
        /// Name of the target.
        target: String,
        /// `None` where it accepts again.
        failing: Option<String>,
    },
    /// A delivery for a test has ended.
    Tested {
        /// Number that the test was requested with.
        test: u64,
        /// Its outcome.
        outcome: Delivered,
    },
    /// A line for the log.
    Remark(String),
}

#[derive(Debug)]
struct Entry {
    serial: Serial,
    /// `None` for the count of dropped items alone.
    item: Option<Item>,
    dropped: u64,
    weight: usize,
    /// It is durable, or cannot be made so at present.
    is_filed: bool,
    since: SystemTime,
}

impl Entry {
    fn priority(&self) -> Priority {
        self.item.as_ref().map_or(Priority::new(6), |item| item.priority)
    }
}

/// A composed message.
#[derive(Debug)]
struct Batch {
    serials: Vec<Serial>,
    /// Durable, or cannot be made so at present.
    is_filed: bool,
    message: Box<Message>,
}

#[derive(Debug)]
struct Queue {
    target: Arc<Target>,
    entries: VecDeque<Entry>,
    bytes: usize,
    batch: Option<Batch>,
    /// The delivery on its way.
    in_flight: Option<DeliveryId>,
    /// End of the digest.
    window: Option<Instant>,
    /// No attempt before this.
    not_before: Option<Instant>,
    backoff: Backoff,
    attempts: u32,
    last_error: Option<String>,
    is_failing: bool,
    delivered: u64,
    dropped: u64,
    /// Time of the last look for alerts to repeat, and the next one.
    repeats_seen: Instant,
    repeat_due: Option<Instant>,
    /// Of a check: state of the last accepted ping, and when the next is due.
    pinged: Option<bool>,
    ping_due: Instant,
    /// State of the ping in flight.
    pinging: bool,
}

#[derive(Debug)]
struct ActiveAlert {
    item: Item,
    is_acknowledged: bool,
    /// The highest priority since it was raised.
    peak: Priority,
    /// Its age when it was seen first in this run, and when that was.
    age: Duration,
    seen: Instant,
}

impl ActiveAlert {
    fn age(&self, at: Instant) -> Duration {
        self.age.saturating_add(at.saturating_duration_since(self.seen))
    }
}

/// A record of the queue on disk.
#[derive(Serialize, Deserialize)]
struct Record {
    serial: Serial,
    is: RecordKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item: Option<Item>,
    #[serde(default, skip_serializing_if = "is_zero")]
    dropped: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    batch: Vec<Serial>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RecordKind {
    Filed,
    Started,
    Forgotten,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// State of the queue of a target, for a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// Name of the target.
    pub name: String,
    /// Its destination, without secrets.
    pub destination: String,
    /// Items that wait.
    pub waiting: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Messages that were accepted in this run.
    pub delivered: u64,
    /// Items that were dropped in this run.
    pub dropped: u64,
    /// `idle`, `collecting`, `quiet`, `sending`, `retrying` or `waiting`.
    pub state: &'static str,
    /// Seconds until the next attempt or the end of the digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The queues of all targets.
#[derive(Debug)]
pub struct Notifier {
    hostname: String,
    /// Minute of the local day.
    minute_of: fn(SystemTime) -> Option<u16>,
    queues: Vec<Queue>,
    active: BTreeMap<String, ActiveAlert>,
    last_serial: Serial,
    last_delivery: DeliveryId,
    /// Deliveries under way whose target may have changed since.
    deliveries: usize,
    tests: BTreeMap<DeliveryId, u64>,
    /// Records that could not be made durable: lines of items, and serials to forget.
    unfiled: BTreeSet<(Serial, Step)>,
    effects: VecDeque<Effect>,
}

impl Notifier {
    /// Without targets nothing is stored and nothing happens. `minute_of` gives the minute of the
    /// local day, 0 to 1439.
    pub fn new(hostname: &str, minute_of: fn(SystemTime) -> Option<u16>) -> Notifier {
        Notifier {
            hostname: hostname.to_owned(),
            minute_of,
            queues: Vec::new(),
            active: BTreeMap::new(),
            last_serial: 0,
            last_delivery: 0,
            deliveries: 0,
            tests: BTreeMap::new(),
            unfiled: BTreeSet::new(),
            effects: VecDeque::new(),
        }
    }

    /// The next action.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether there is no target.
    pub fn is_off(&self) -> bool {
        self.queues.is_empty()
    }

    /// Name of the host in messages from now on.
    pub fn set_hostname(&mut self, hostname: &str) {
        hostname.clone_into(&mut self.hostname);
    }

    /// Sets the targets. A queue stays where its name does; items of others are dropped.
    pub fn configure(&mut self, targets: &[Target], now: Moment) {
        let mut old = std::mem::take(&mut self.queues);
        for target in targets {
            let target = Arc::new(target.clone());
            match old.iter().position(|queue| queue.target.name == target.name) {
                Some(at) => {
                    let mut queue = old.swap_remove(at);
                    if queue.target != target {
                        // Another address deserves another try at once.
                        queue.not_before = None;
                        queue.backoff.reset();
                        queue.ping_due = now.instant;
                        queue.target = target;
                    }
                    self.queues.push(queue);
                }
                None => self.queues.push(Queue::new(target, now.instant)),
            }
        }
        for queue in old {
            if !queue.entries.is_empty() {
                let (name, count) = (&queue.target.name, queue.entries.len());
                let remark = format!("{name} is no longer configured: {count} events are dropped");
                self.effects.push_back(Effect::Remark(remark));
            }
            if queue.is_failing {
                let target = queue.target.name.clone();
                self.effects.push_back(Effect::Standing { target, failing: None });
            }
            for entry in &queue.entries {
                self.forget(entry.serial);
            }
        }
        for at in 0..self.queues.len() {
            self.schedule_repeats(at, now.instant);
        }
        self.advance_all(now);
    }

    /// Restores the queues from the records of the run before, once, after
    /// [`Notifier::configure`]. `last` is the highest serial ever used.
    pub fn restore<'r>(
        &mut self,
        records: impl IntoIterator<Item = &'r str>,
        last: Serial,
        now: Moment,
    ) {
        self.last_serial = self.last_serial.max(last);
        let mut batches: Vec<(Serial, Vec<Serial>)> = Vec::new();
        let mut missing: BTreeMap<String, usize> = BTreeMap::new();
        for record in records {
            let Ok(record) = serde_json::from_str::<Record>(record) else { continue };
            self.last_serial = self.last_serial.max(record.serial);
            match record.is {
                RecordKind::Started => batches.push((record.serial, record.batch)),
                RecordKind::Forgotten => {}
                RecordKind::Filed => {
                    let name = record.target.unwrap_or_default();
                    let queue = self.queues.iter_mut().find(|queue| queue.target.name == name);
                    let Some(queue) = queue.filter(|queue| !queue.target.is_pinged()) else {
                        *missing.entry(name).or_default() += 1;
                        self.forget(record.serial);
                        continue;
                    };
                    let mut entry =
                        Entry::new(record.serial, record.item, record.dropped, now.wall);
                    entry.is_filed = true;
                    queue.push(entry);
                }
            }
        }
        for queue in &mut self.queues {
            queue.entries.make_contiguous().sort_by_key(|entry| entry.serial);
        }
        for (first, serials) in batches {
            let hostname = &self.hostname;
            let queue = self.queues.iter_mut().find(|queue| queue.has(first));
            if let Some(queue) = queue.filter(|queue| queue.batch.is_none()) {
                let known: Vec<Serial> =
                    serials.into_iter().filter(|serial| queue.has(*serial)).collect();
                queue.batch = Some(queue.compose(known, hostname, true));
            }
        }
        for (name, count) in missing {
            let remark = format!("{name:?} is no longer configured: {count} events are dropped");
            self.effects.push_back(Effect::Remark(remark));
        }
        for queue in &mut self.queues {
            // A digest that was interrupted by a restart is over.
            if !queue.entries.is_empty() {
                queue.window = Some(now.instant);
            }
        }
        self.advance_all(now);
    }

    /// The alerts that are active at the start, in place of those known so far.
    pub fn set_active<'t>(
        &mut self,
        alerts: impl IntoIterator<Item = &'t Transition>,
        now: Moment,
    ) {
        self.active.clear();
        for transition in alerts {
            self.note_alert(transition, now);
        }
        for at in 0..self.queues.len() {
            self.schedule_repeats(at, now.instant);
        }
        self.advance_all(now);
    }

    /// An alert has changed.
    pub fn on_transition(&mut self, transition: &Transition, now: Moment) {
        let peak_before = self.active.get(&transition.key).map(|alert| alert.peak);
        let cleared = transition.state == AlertState::Cleared;
        if cleared {
            self.active.remove(&transition.key);
        } else {
            self.note_alert(transition, now);
        }
        if let Some(item) = Item::of_transition(transition) {
            // The end of what was selected once is selected; a change only where it got worse.
            let peak = peak_before.unwrap_or(transition.priority).max(transition.priority);
            let is_news = transition.state != AlertState::Changed
                || peak_before.is_none_or(|before| transition.priority > before);
            for at in 0..self.queues.len() {
                let Some(queue) = self.queues.get(at) else { continue };
                let target = &queue.target;
                let is_selected = target.events.contains(&EventKind::Alert)
                    && peak >= target.priority
                    && item.key != target.failing_key()
                    && !target.is_pinged();
                if is_selected && is_news {
                    self.enqueue(at, item.clone(), now);
                }
            }
        }
        for at in 0..self.queues.len() {
            if !cleared {
                self.schedule_repeats_of(at, &transition.key, now.instant);
            }
            self.advance(at, now);
        }
    }

    /// Whether an event of this id waits.
    pub fn has_event(&self, id: &str) -> bool {
        let entries = self.queues.iter().flat_map(|queue| &queue.entries);
        entries.filter_map(|entry| entry.item.as_ref()).any(|item| item.id == id)
    }

    /// An event that is no alert.
    pub fn on_event(&mut self, item: &Item, now: Moment) {
        for at in 0..self.queues.len() {
            let Some(queue) = self.queues.get(at) else { continue };
            let target = &queue.target;
            if target.events.contains(&item.event)
                && item.priority >= target.priority
                && !target.is_pinged()
            {
                self.enqueue(at, item.clone(), now);
                self.advance(at, now);
            }
        }
    }

    fn note_alert(&mut self, transition: &Transition, now: Moment) {
        let Some(mut item) =
            Item::of_transition(&Transition { state: AlertState::Raised, ..transition.clone() })
        else {
            return;
        };
        item.bound();
        let since = parse_rfc3339(&item.since).unwrap_or(now.wall);
        let before = self.active.get(&transition.key);
        let alert = ActiveAlert {
            is_acknowledged: transition.acknowledged_by.is_some(),
            peak: before.map_or(item.priority, |before| before.peak.max(item.priority)),
            age: now.wall.duration_since(since).unwrap_or_default(),
            seen: now.instant,
            item,
        };
        self.active.insert(transition.key.clone(), alert);
    }

    fn enqueue(&mut self, at: usize, mut item: Item, now: Moment) {
        item.bound();
        self.last_serial += 1;
        let serial = self.last_serial;
        let Some(queue) = self.queues.get_mut(at) else { return };
        let entry = Entry::new(serial, Some(item), 0, now.wall);
        let end = now.instant + queue.target.digest;
        queue.window.get_or_insert(end);
        queue.push(entry);
        self.file(at, serial);
        self.drop_surplus(at, now);
    }

    /// Requests that an entry is made durable.
    fn file(&mut self, at: usize, serial: Serial) {
        let Some(queue) = self.queues.get(at) else { return };
        let Some(entry) = queue.entries.iter().rfind(|entry| entry.serial == serial) else {
            return;
        };
        let record = Record {
            serial,
            is: RecordKind::Filed,
            target: Some(queue.target.name.clone()),
            item: entry.item.clone(),
            dropped: entry.dropped,
            batch: Vec::new(),
        };
        self.persist(serial, Step::File, &record);
    }

    fn persist(&mut self, serial: Serial, step: Step, record: &Record) {
        let record = serde_json::to_vec(record).unwrap_or_default();
        self.effects.push_back(Effect::Persist { serial, step, record });
    }

    fn forget(&mut self, serial: Serial) {
        self.unfiled.remove(&(serial, Step::File));
        let is = RecordKind::Forgotten;
        let record = Record { serial, is, target: None, item: None, dropped: 0, batch: Vec::new() };
        self.persist(serial, Step::Forget, &record);
    }

    /// Drops the oldest entries of the lowest priority until the queue is within its bounds, and
    /// counts them in an entry of their own.
    fn drop_surplus(&mut self, at: usize, now: Moment) {
        let mut dropped = Vec::new();
        let Some(queue) = self.queues.get_mut(at) else { return };
        while queue.entries.len() > MOST_ITEMS || queue.bytes > MOST_BYTES {
            let in_batch = queue.batch.as_ref().map_or(&[][..], |batch| &batch.serials);
            let droppable = queue
                .entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.item.is_some() && !in_batch.contains(&entry.serial));
            let Some((position, _)) = droppable.min_by_key(|(_, entry)| entry.priority()) else {
                break;
            };
            dropped.extend(queue.remove_at(position).map(|entry| entry.serial));
        }
        self.count_dropped(at, dropped, now);
    }

    fn count_dropped(&mut self, at: usize, serials: Vec<Serial>, now: Moment) {
        let count = serials.len() as u64;
        if count == 0 {
            return;
        }
        for serial in serials {
            self.forget(serial);
        }
        let Some(queue) = self.queues.get_mut(at) else { return };
        queue.dropped += count;
        let in_batch = queue.batch.as_ref().map_or(&[][..], |batch| &batch.serials);
        let counter = queue
            .entries
            .iter_mut()
            .find(|entry| entry.item.is_none() && !in_batch.contains(&entry.serial));
        let serial = match counter {
            Some(entry) => {
                entry.dropped += count;
                entry.serial
            }
            None => {
                self.last_serial += 1;
                queue.push(Entry::new(self.last_serial, None, count, now.wall));
                self.last_serial
            }
        };
        self.file(at, serial);
    }

    /// A record is durable.
    pub fn persisted(&mut self, serial: Serial, step: Step, now: Moment) {
        self.unfiled.remove(&(serial, step));
        self.on_filed(serial, step, now);
    }

    /// A record could not be made durable. It is retried by [`Notifier::persist_again`], and what
    /// depends on it goes on.
    pub fn not_persisted(&mut self, serial: Serial, step: Step, now: Moment) {
        self.unfiled.insert((serial, step));
        self.on_filed(serial, step, now);
    }

    fn on_filed(&mut self, serial: Serial, step: Step, now: Moment) {
        let Some(at) = self.queues.iter().position(|queue| queue.has(serial)) else { return };
        let Some(queue) = self.queues.get_mut(at) else { return };
        match step {
            Step::File => {
                let entry = queue.entries.iter_mut().find(|entry| entry.serial == serial);
                if let Some(entry) = entry {
                    entry.is_filed = true;
                }
            }
            Step::Start => {
                let batch = queue.batch.as_mut();
                if let Some(batch) = batch.filter(|batch| batch.serials.first() == Some(&serial)) {
                    batch.is_filed = true;
                }
            }
            Step::Forget => {}
        }
        self.advance(at, now);
    }

    /// Requests all records once more that could not be made durable.
    pub fn persist_again(&mut self) {
        for (serial, step) in std::mem::take(&mut self.unfiled) {
            match step {
                Step::Forget => self.forget(serial),
                Step::File => {
                    if let Some(at) = self.queues.iter().position(|queue| queue.has(serial)) {
                        self.file(at, serial);
                    }
                }
                Step::Start => {
                    let batches = self.queues.iter().filter_map(|queue| queue.batch.as_ref());
                    let mut batches = batches.map(|batch| batch.serials.clone());
                    if let Some(serials) = batches.find(|s| s.first() == Some(&serial)) {
                        self.start_record(serial, serials);
                    }
                }
            }
        }
    }

    fn start_record(&mut self, serial: Serial, batch: Vec<Serial>) {
        let is = RecordKind::Started;
        let record = Record { serial, is, target: None, item: None, dropped: 0, batch };
        self.persist(serial, Step::Start, &record);
    }

    fn advance_all(&mut self, now: Moment) {
        for at in 0..self.queues.len() {
            self.advance(at, now);
        }
    }

    /// Does what is possible for a target: composes a message, or sends it.
    fn advance(&mut self, at: usize, now: Moment) {
        let Some(queue) = self.queues.get_mut(at) else { return };
        if queue.in_flight.is_some()
            || queue.not_before.is_some_and(|not_before| not_before > now.instant)
        {
            return;
        }
        queue.not_before = None;
        if queue.target.is_pinged() {
            return self.advance_ping(at, now);
        }
        if queue.batch.is_none() {
            let minute = (self.minute_of)(now.wall);
            let serials = queue.eligible(now.instant, minute);
            let Some(first) = serials.first().copied() else { return };
            queue.batch = Some(queue.compose(serials.clone(), &self.hostname, false));
            queue.window = None;
            return self.start_record(first, serials);
        }
        let Some(batch) = queue.batch.as_ref().filter(|batch| batch.is_filed) else { return };
        if self.deliveries < MOST_DELIVERIES {
            let payload = Payload::Message(batch.message.clone());
            let target = queue.target.clone();
            let id = self.deliver(target, payload);
            if let Some(queue) = self.queues.get_mut(at) {
                queue.in_flight = Some(id);
            }
        }
    }

    fn deliver(&mut self, target: Arc<Target>, payload: Payload) -> DeliveryId {
        self.last_delivery += 1;
        let id = self.last_delivery;
        self.deliveries += 1;
        self.effects.push_back(Effect::Deliver(Delivery { id, target, payload }));
        id
    }

    fn advance_ping(&mut self, at: usize, now: Moment) {
        let Some(queue) = self.queues.get(at) else { return };
        let target = queue.target.clone();
        let own = target.failing_key();
        let selected = self.active.values().filter(|alert| {
            alert.item.priority >= target.priority
                && !alert.is_acknowledged
                && alert.item.key != own
        });
        let mut lines = String::new();
        let mut count = 0_usize;
        for alert in selected {
            count += 1;
            if count <= 100 {
                lines.push_str(&format!("{}: {}\n", alert.item.key, alert.item.message));
            }
        }
        let fails = count > 0;
        if queue.pinged == Some(fails) && queue.ping_due > now.instant {
            return;
        }
        if self.deliveries >= MOST_DELIVERIES {
            return;
        }
        let text = if fails {
            format!("{}: {count} active alerts\n{lines}", self.hostname)
        } else {
            format!("{}: no active alert\n", self.hostname)
        };
        let id = self.deliver(target, Payload::Ping(Ping { fails, text }));
        if let Some(queue) = self.queues.get_mut(at) {
            (queue.in_flight, queue.pinging) = (Some(id), fails);
        }
    }

    /// Sends a message to test a target; [`Effect::Tested`] with the number `test` follows.
    ///
    /// # Errors
    /// There is no target of that name, or too many deliveries are under way.
    pub fn test(&mut self, name: &str, test: u64, now: Moment) -> Result<(), String> {
        let target = self.queues.iter().find(|queue| queue.target.name == name);
        let Some(target) = target.map(|queue| queue.target.clone()) else {
            let names: Vec<&str> =
                self.queues.iter().map(|queue| queue.target.name.as_str()).collect();
            let known = match names.as_slice() {
                [] => "none is configured ([[notify]])".to_owned(),
                names => format!("configured: {}", names.join(", ")),
            };
            return Err(format!("no notification is called {name:?}; {known}"));
        };
        // A place of its own: a test is wanted most while deliveries hang.
        if self.tests.len() >= MOST_DELIVERIES {
            return Err("too many tests are under way; try again later".to_owned());
        }
        let at = rfc3339(now.wall);
        // The client waits for the outcome, half a minute as a rule.
        let deadline = target.deadline.min(LONGEST_TEST);
        let target = Arc::new(Target { deadline, ..Target::clone(&target) });
        let id = format!("test-{}-{}", unix_hex(now.wall), self.last_delivery + 1);
        let message = text::test_message(id, &self.hostname, name, &at);
        let id = self.deliver(target, Payload::Message(Box::new(message)));
        self.tests.insert(id, test);
        Ok(())
    }

    /// A delivery has ended.
    pub fn delivered(&mut self, id: DeliveryId, outcome: Delivered, now: Moment) {
        self.deliveries = self.deliveries.saturating_sub(1);
        if let Some(test) = self.tests.remove(&id) {
            self.effects.push_back(Effect::Tested { test, outcome });
            return self.advance_all(now);
        }
        if let Some(at) = self.queues.iter().position(|queue| queue.in_flight == Some(id)) {
            match outcome {
                Delivered::Accepted(_) => self.on_accepted(at, now),
                Delivered::Failed { why, retry_after, refused } => {
                    self.on_failed(at, id, &why, (retry_after, refused), now);
                }
            }
        }
        // Others may have waited for the place.
        self.advance_all(now);
    }

    fn on_accepted(&mut self, at: usize, now: Moment) {
        let Some(queue) = self.queues.get_mut(at) else { return };
        queue.in_flight = None;
        queue.attempts = 0;
        queue.last_error = None;
        queue.backoff.reset();
        queue.delivered += 1;
        if queue.target.is_pinged() {
            queue.pinged = Some(queue.pinging);
            queue.ping_due = now.instant + queue.target.repeat.unwrap_or(LONGEST_PAUSE);
        }
        if std::mem::take(&mut queue.is_failing) {
            let target = queue.target.name.clone();
            self.effects.push_back(Effect::Standing { target, failing: None });
        }
        if let Some(batch) = self.queues.get_mut(at).and_then(|queue| queue.batch.take()) {
            self.remove(at, &batch.serials);
        }
        self.open_window(at, now);
    }

    fn remove(&mut self, at: usize, serials: &[Serial]) {
        let Some(queue) = self.queues.get_mut(at) else { return };
        queue.remove_all(serials);
        for serial in serials {
            self.forget(*serial);
        }
    }

    /// Begins a digest for items that came during a delivery.
    fn open_window(&mut self, at: usize, now: Moment) {
        if let Some(queue) = self.queues.get_mut(at)
            && !queue.entries.is_empty()
        {
            let end = now.instant + queue.target.digest;
            queue.window.get_or_insert(end);
        }
    }

    fn on_failed(
        &mut self,
        at: usize,
        id: DeliveryId,
        why: &str,
        (retry_after, refused): (Option<u64>, bool),
        now: Moment,
    ) {
        let Some(queue) = self.queues.get_mut(at) else { return };
        queue.in_flight = None;
        // Whether a ping arrived all the same is unknown.
        queue.pinged = None;
        queue.attempts = queue.attempts.saturating_add(1);
        queue.last_error = Some(why.to_owned());
        let pause = jittered(queue.backoff.take(), id);
        let requested = Duration::from_secs(retry_after.unwrap_or(0)).min(LONGEST_REQUESTED);
        let pause = pause.max(requested);
        queue.not_before = Some(now.instant + pause);
        let name = queue.target.name.clone();
        let attempts = queue.attempts;
        let becomes_failing = attempts >= FAILING_AFTER && !queue.is_failing;
        queue.is_failing |= becomes_failing;
        let is_refused = refused && attempts >= ATTEMPTS_REFUSED;
        let serials = queue.batch.as_ref().map(|batch| batch.serials.clone()).unwrap_or_default();
        if attempts == 1 || becomes_failing {
            let seconds = pause.as_secs().max(1);
            let remark = format!("{name}: {why}; next attempt in {seconds} s");
            self.effects.push_back(Effect::Remark(remark));
        }
        if becomes_failing {
            let failing = Some(why.to_owned());
            self.effects.push_back(Effect::Standing { target: name.clone(), failing });
        }
        let is_expired = |entry: &Entry| {
            let age = now.wall.duration_since(entry.since).unwrap_or_default();
            age > LONGEST_WAIT && serials.contains(&entry.serial)
        };
        let is_over = is_refused || queue_all_expired(self.queues.get(at), &serials, is_expired);
        if is_over && !serials.is_empty() {
            let reason = if is_refused { "refuses it" } else { "accepted nothing for a week" };
            let remark = format!("{name} {reason}: a message is dropped");
            self.effects.push_back(Effect::Remark(remark));
            if let Some(queue) = self.queues.get_mut(at) {
                queue.batch = None;
                queue.attempts = 0;
                let counters = queue.remove_all(&serials);
                // The count of a message that is dropped goes on to the next.
                let count: u64 = counters.iter().map(|entry| entry.dropped).sum();
                let items = counters.iter().filter(|entry| entry.item.is_some());
                let items: Vec<Serial> = items.map(|entry| entry.serial).collect();
                for entry in counters.iter().filter(|entry| entry.item.is_none()) {
                    self.forget(entry.serial);
                }
                self.count_dropped(at, items, now);
                self.add_dropped(at, count);
            }
        }
    }

    fn add_dropped(&mut self, at: usize, count: u64) {
        let Some(queue) = self.queues.get_mut(at).filter(|_| count > 0) else { return };
        let counter = queue.entries.iter_mut().find(|entry| entry.item.is_none());
        if let Some(entry) = counter {
            entry.dropped += count;
            let serial = entry.serial;
            self.file(at, serial);
        }
    }

    /// Sets the time at which an alert of any kind is repeated to the target next.
    fn schedule_repeats(&mut self, at: usize, now: Instant) {
        let keys: Vec<String> = self.active.keys().cloned().collect();
        if let Some(queue) = self.queues.get_mut(at) {
            queue.repeat_due = None;
        }
        for key in keys {
            self.schedule_repeats_of(at, &key, now);
        }
    }

    fn schedule_repeats_of(&mut self, at: usize, key: &str, now: Instant) {
        let (Some(queue), Some(alert)) = (self.queues.get_mut(at), self.active.get(key)) else {
            return;
        };
        if !queue.repeats(alert) {
            return;
        }
        if let Some(repeat) = queue.target.repeat.filter(|repeat| !repeat.is_zero()) {
            let passed = alert.age(now).as_millis() % repeat.as_millis().max(1);
            let passed = Duration::from_millis(u64::try_from(passed).unwrap_or(0));
            let due = now + repeat.saturating_sub(passed);
            queue.repeat_due = Some(queue.repeat_due.map_or(due, |known| known.min(due)));
        }
    }

    /// Queues the alerts whose repetition is due.
    fn repeat(&mut self, at: usize, now: Moment) {
        let Some(queue) = self.queues.get_mut(at) else { return };
        let Some(repeat) = queue.target.repeat.filter(|repeat| !repeat.is_zero()) else { return };
        let before = std::mem::replace(&mut queue.repeats_seen, now.instant);
        let waiting: BTreeSet<&str> =
            queue.entries.iter().filter_map(|e| Some(e.item.as_ref()?.key.as_str())).collect();
        let periods = |age: Duration| age.as_millis() / repeat.as_millis().max(1);
        let due = self.active.values().filter(|alert| {
            queue.repeats(alert)
                && periods(alert.age(now.instant)) > periods(alert.age(before.max(alert.seen)))
                && !waiting.contains(alert.item.key.as_str())
        });
        let time = rfc3339(now.wall);
        let items: Vec<Item> = due
            .map(|alert| Item { state: ItemState::Active, at: time.clone(), ..alert.item.clone() })
            .collect();
        for item in items {
            self.enqueue(at, item, now);
        }
        self.schedule_repeats(at, now.instant);
    }

    /// When [`Notifier::on_deadline`] must be called.
    pub fn due(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.due(self.deliveries < MOST_DELIVERIES)).min()
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Moment) {
        for at in 0..self.queues.len() {
            let is_due = |queue: &Queue| queue.repeat_due.is_some_and(|due| due <= now.instant);
            if self.queues.get(at).is_some_and(is_due) {
                self.repeat(at, now);
            }
            self.advance(at, now);
            let minute = (self.minute_of)(now.wall);
            if let Some(queue) = self.queues.get_mut(at)
                && let Some(left) = minute.and_then(|minute| queue.target.quiet?.left(minute))
                && queue.batch.is_none()
                && queue.in_flight.is_none()
                && queue.window.is_some_and(|window| window <= now.instant)
            {
                // Nothing was composed: look again when the quiet hours may be over.
                let pause = Duration::from_secs(60 * u64::from(left)).min(QUIET_CHECK);
                queue.window = Some(now.instant + pause);
            }
        }
    }

    /// State of all queues.
    pub fn status(&self, now: Moment) -> Vec<QueueStatus> {
        let minute = (self.minute_of)(now.wall);
        self.queues.iter().map(|queue| queue.status(now.instant, minute)).collect()
    }

    /// The items that wait, at most `most` of each target: name of the target, item, and whether
    /// it is part of a message that is being sent.
    pub fn waiting(&self, most: usize) -> impl Iterator<Item = (&str, &Item, bool)> {
        self.queues.iter().flat_map(move |queue| {
            let serials = queue.batch.as_ref().map_or(&[][..], |batch| &batch.serials);
            let items = queue.entries.iter().filter_map(move |entry| {
                Some((entry.item.as_ref()?, serials.contains(&entry.serial)))
            });
            items.take(most).map(|(item, sending)| (queue.target.name.as_str(), item, sending))
        })
    }
}

fn queue_all_expired(
    queue: Option<&Queue>,
    serials: &[Serial],
    is_expired: impl Fn(&Entry) -> bool,
) -> bool {
    queue.is_some_and(|queue| {
        let mut of_batch = queue.entries.iter().filter(|entry| serials.contains(&entry.serial));
        of_batch.all(is_expired)
    })
}

impl Entry {
    fn new(serial: Serial, item: Option<Item>, dropped: u64, now: SystemTime) -> Entry {
        let since = item.as_ref().and_then(|item| parse_rfc3339(&item.at)).unwrap_or(now);
        let weight = item.as_ref().map_or(0, Item::weight);
        Entry { serial, item, dropped, weight, is_filed: false, since }
    }
}

impl Queue {
    fn new(target: Arc<Target>, now: Instant) -> Queue {
        Queue {
            target,
            entries: VecDeque::new(),
            bytes: 0,
            batch: None,
            in_flight: None,
            window: None,
            not_before: None,
            backoff: Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE),
            attempts: 0,
            last_error: None,
            is_failing: false,
            delivered: 0,
            dropped: 0,
            repeats_seen: now,
            repeat_due: None,
            pinged: None,
            ping_due: now,
            pinging: false,
        }
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.weight;
        self.entries.push_back(entry);
    }

    fn remove_at(&mut self, at: usize) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        self.bytes = self.bytes.saturating_sub(entry.weight);
        Some(entry)
    }

    fn remove_all(&mut self, serials: &[Serial]) -> Vec<Entry> {
        let serials: BTreeSet<Serial> = serials.iter().copied().collect();
        let (removed, rest): (Vec<Entry>, Vec<Entry>) =
            self.entries.drain(..).partition(|entry| serials.contains(&entry.serial));
        self.bytes = rest.iter().map(|entry| entry.weight).sum();
        self.entries = rest.into();
        removed
    }

    fn has(&self, serial: Serial) -> bool {
        self.entries.iter().any(|entry| entry.serial == serial)
    }

    fn repeats(&self, alert: &ActiveAlert) -> bool {
        let target = &self.target;
        !target.is_pinged()
            && target.events.contains(&EventKind::Alert)
            && !alert.is_acknowledged
            && alert.item.priority >= target.priority
            && alert.item.key != target.failing_key()
    }

    /// The entries that a message may have now, in order; empty where it is too early.
    fn eligible(&self, now: Instant, minute: Option<u16>) -> Vec<Serial> {
        let is_quiet = self.is_quiet(minute);
        let filed = self.entries.iter().filter(|entry| entry.is_filed);
        let eligible: Vec<&Entry> = filed
            .filter(|entry| {
                let is_urgent = entry.item.is_some() && entry.priority() >= URGENT;
                !is_quiet || is_urgent
            })
            .collect();
        let is_urgent =
            self.entries.iter().any(|entry| entry.is_filed && entry.priority() >= URGENT);
        let is_over = self.window.is_none_or(|window| window <= now);
        if !(is_over || is_urgent) {
            return Vec::new();
        }
        // The count of what is missing is in the next message.
        let counts = eligible.iter().filter(|entry| entry.item.is_none());
        let items = eligible.iter().filter(|entry| entry.item.is_some());
        counts.chain(items).take(MOST_IN_MESSAGE).map(|entry| entry.serial).collect()
    }

    fn is_quiet(&self, minute: Option<u16>) -> bool {
        let quiet = self.target.quiet.zip(minute);
        quiet.is_some_and(|(quiet, minute)| quiet.left(minute).is_some())
    }

    fn compose(&self, serials: Vec<Serial>, hostname: &str, is_filed: bool) -> Batch {
        let of_batch: BTreeSet<Serial> = serials.iter().copied().collect();
        let entries = self.entries.iter().filter(|entry| of_batch.contains(&entry.serial));
        let (mut items, mut dropped) = (Vec::new(), 0);
        let (mut serial, mut since) = (0, SystemTime::UNIX_EPOCH);
        for entry in entries {
            if serials.first() == Some(&entry.serial) {
                (serial, since) = (entry.serial, entry.since);
            }
            items.extend(entry.item.clone());
            dropped += entry.dropped;
        }
        let id = format!("{}-{serial}", unix_hex(since));
        let message = Box::new(text::compose(id, hostname, items, dropped));
        Batch { serials, is_filed, message }
    }

    fn due(&self, has_place: bool) -> Option<Instant> {
        if self.in_flight.is_some() {
            return self.repeat_due;
        }
        let next = if self.target.is_pinged() {
            has_place.then_some(self.ping_due)
        } else if let Some(batch) = &self.batch {
            // Without a pause it waits for a record or for a place.
            (batch.is_filed && has_place).then_some(self.not_before).flatten()
        } else {
            self.entries.iter().any(|entry| entry.is_filed).then_some(self.window).flatten()
        };
        let next = next.map(|next| self.not_before.map_or(next, |at| at.max(next)));
        [next, self.repeat_due].into_iter().flatten().min()
    }

    fn status(&self, now: Instant, minute: Option<u16>) -> QueueStatus {
        let is_waiting = self.entries.iter().any(|entry| entry.item.is_some());
        let next = self.not_before.or(self.window).filter(|_| self.in_flight.is_none());
        let state = if self.in_flight.is_some() {
            "sending"
        } else if self.not_before.is_some() {
            "retrying"
        } else if !is_waiting {
            "idle"
        } else if self.batch.is_some() {
            "waiting"
        } else if self.is_quiet(minute) {
            "quiet"
        } else {
            "collecting"
        };
        QueueStatus {
            name: self.target.name.clone(),
            destination: self.target.destination.to_string(),
            waiting: self.entries.iter().filter(|entry| entry.item.is_some()).count(),
            bytes: self.bytes,
            delivered: self.delivered,
            dropped: self.dropped,
            state,
            next: next.map(|at| at.saturating_duration_since(now).as_secs()),
            attempts: self.attempts,
            error: self.last_error.clone(),
        }
    }
}

fn unix_hex(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    format!("{seconds:x}")
}

/// Three quarters of a pause to all of it, so that hosts that failed together do not return
/// together.
fn jittered(pause: Duration, id: DeliveryId) -> Duration {
    // Knuth's multiplicative hash: no randomness is needed, only differences.
    let mixed = id.wrapping_add(u64::from(std::process::id())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let share = u32::try_from(mixed >> 48).unwrap_or(0);
    pause - pause / 4 * share / 65_536
}

#[cfg(test)]
mod tests;
