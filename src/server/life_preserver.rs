//! Logs, between their reader, the hub and the disk.
//!
//! Reading is paused for three reasons, each with a time limit:
//! * for a subscribed client with a long queue (protocol section 2.2): it gets time to read, then
//!   it is closed;
//! * for positions to be persisted: lines read since are repeated after a crash. They are persisted
//!   after the system has accepted the events of all earlier lines for all subscribers, so that a
//!   crash loses none;
//! * at the start, for lines written while the daemon was down: former subscribers are about to
//!   reconnect.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::clients::ClientId;
use super::{Phase, PollToken, Server};
use crate::config::{self, Config};
use crate::life_preserver::{FollowId, FollowLimits, LifePreserver, LogTrouble, Next, Source};
use crate::moment::{Budget, Moment};
use crate::rules::RuleSet;
use crate::sys::may_block::MayBlock;
use crate::wire::{Event, EventName, LifePreserverEvent};

/// File name in the state directory.
const FILE: &str = "life_preserver.json";
/// Maximum size of that file, in bytes.
const LARGEST: u64 = 4 * 1024 * 1024;
/// Maximum number of deliveries in a turn.
const DELIVERIES: usize = 4096;

/// Time limit of log lines in a turn.
const LINES: Duration = Duration::from_millis(3);

/// The logs, and the reasons for a pause.
pub(super) struct Logs {
    room: LifePreserver,
    /// It needs a turn.
    awake: bool,
    /// Until then lines written before the start wait for a subscriber.
    wait_until: Option<Instant>,
    /// Clients with a long queue when they got their last event.
    crowded: BTreeSet<ClientId>,
    /// Start of the pause for them.
    paused: Option<Instant>,
    /// All outboxes together are full, and the pause for that is over.
    ignores_total: bool,
    /// Start of the wait for positions to be persisted.
    held: Option<Instant>,
    /// Reading continues although they are not.
    unbound: bool,
    /// Bytes of logs that were read for the last persisted state.
    persisted: u64,
    mark: Option<Mark>,
    /// Persisting is in progress.
    persisting: bool,
    /// The state that is being persisted has the position of every log.
    completes: bool,
    /// The position of every log was persisted once, or could not be.
    anchored: bool,
    /// Why persisting failed, logged once; and the time of the next attempt.
    failed: Option<(String, Instant)>,
}

/// State to be persisted when its events have been sent.
struct Mark {
    memory: Vec<u8>,
    consumed: u64,
    /// No log was still being found.
    complete: bool,
    /// Recipients of unsent events; up to which outbox position, where known.
    unsent: BTreeMap<ClientId, Option<u64>>,
}

impl Logs {
    /// Starts to follow the configured logs.
    pub(super) fn begin(config: &Config, may_block: MayBlock, now: Moment) -> Logs {
        let file = config.paths.state.join(FILE);
        let persisted = read(&file, may_block);
        let (limits, sources) = (limits(config), sources(config));
        let waits = !sources.is_empty();
        let (room, wrong) = LifePreserver::begin(limits, sources, persisted.as_deref(), now);
        if let Some(wrong) = wrong {
            set_aside(&file, &wrong, may_block);
        }
        Logs {
            room,
            awake: true,
            wait_until: waits.then(|| now.instant + config.life_preserver.start_wait),
            crowded: BTreeSet::new(),
            paused: None,
            ignores_total: false,
            held: None,
            unbound: false,
            persisted: 0,
            mark: None,
            persisting: false,
            completes: false,
            anchored: !waits,
            failed: None,
        }
    }

    /// The status for a request.
    pub(super) fn status(&self, now: Moment) -> serde_json::Value {
        self.room.status(now.wall)
    }

    /// A digest of the troubles of the logs; `None` while one is still being found.
    pub(super) fn troubles_version(&self) -> Option<u64> {
        (!self.room.is_finding()).then(|| self.room.troubles_version())
    }

    /// Logs that cannot be read, or of which nothing matches.
    pub(super) fn troubles(&self) -> Vec<LogTrouble> {
        self.room.troubles()
    }

    /// A file has changed.
    pub(super) fn on_changed(&mut self, id: FollowId) {
        self.room.mark(id);
        self.awake = true;
    }

    /// A file worker has answered about this file.
    pub(super) fn on_answer(&mut self, id: FollowId, answer: Vec<u8>, now: Moment) {
        self.room.on_answer(id, answer, now);
        self.awake = true;
    }

    /// No file worker answers about this file.
    pub(super) fn on_hanging(&mut self, id: FollowId, now: Moment) {
        self.room.on_hanging(id, now.wall);
        self.awake = true;
    }

    /// Changes may have gone unnoticed.
    pub(super) fn look_at_all(&mut self, now: Instant) {
        self.room.mark_all(now);
        self.awake = true;
    }

    /// Whether it is not known yet of a log where it is read from, and may soon be.
    pub(super) fn is_finding(&self) -> bool {
        self.room.is_finding()
    }

    /// Whether lines written from now on are read, also after a crash: the positions from which the
    /// logs are followed were persisted, or cannot be.
    pub(super) fn is_anchored(&self) -> bool {
        self.anchored
    }

    /// Requests a turn.
    pub(super) fn wake(&mut self) {
        self.awake = true;
    }

    /// Whether there is nothing left to persist.
    pub(super) fn is_persisted(&self) -> bool {
        let nothing_new = !self.room.has_changed() && self.mark.is_none();
        !self.persisting && (nothing_new || self.failed.is_some())
    }
}

impl Server {
    /// Processes logs, if they need a turn.
    pub(super) fn follow_logs(&mut self, now: Moment) {
        if self.phase != Phase::Serving {
            return;
        }
        while let Some((id, path, question)) = self.logs.room.next_to_find(now.instant) {
            self.file_workers.files.ask(id, &path, question, now.instant);
        }
        if self.logs_wait_for_subscriber(now) || !self.logs.awake {
            return;
        }
        if !self.deliveries.is_empty() {
            // Earlier events first.
            return self.reactor.again(PollToken::Logs);
        }
        self.logs.awake = false;
        self.logs.room.begin_turn();
        let mut left = (DELIVERIES / (self.hub.subscribers() + 1)).max(1);
        let (most, budget) = (left, Budget::of(LINES));
        let due = loop {
            if left == 0 || (left < most && budget.is_spent()) {
                self.reactor.again(PollToken::Logs);
                break None;
            }
            if let Some(until) = self.logs_are_paused(now) {
                break Some(until);
            }
            let may_read = self.logs_may_be_read();
            match self.logs.room.next(may_read, budget, now) {
                Next::Ask(id, path, question) => {
                    self.file_workers.files.ask(id, &path, question, now.instant);
                }
                Next::Release(id) => self.file_workers.files.forget(id, now.instant),
                Next::Event(event) => {
                    left -= 1;
                    self.publish_news(event, now);
                }
                Next::More => {
                    self.reactor.again(PollToken::Logs);
                    break None;
                }
                Next::Waiting => {
                    let since = *self.logs.held.get_or_insert(now.instant);
                    break Some(since + self.config.life_preserver.pause);
                }
                Next::Idle => {
                    self.logs.held = None;
                    break self.logs.room.due();
                }
            }
        };
        self.reactor.set_deadline(PollToken::Logs, due);
    }

    fn publish_news(&mut self, event: LifePreserverEvent, now: Moment) {
        let verdict = self.logs.room.take_verdict();
        self.observe_verdict(verdict, (event.priority, event.message.clone()), now);
        let (clients, crowded) = (&mut self.clients, &mut self.logs.crowded);
        let event = Event::LifePreserver(event);
        let published = self.hub.publish(event, now, |id, event, spelling| {
            clients.deliver(id, event, spelling);
            if clients.get(id).is_some_and(|it| !it.connection.outbox().is_below_half()) {
                crowded.insert(id);
            }
        });
        self.notify_of_news(&published, now);
        self.record(&published, now);
    }

    /// The logs' deadline has expired.
    pub(super) fn on_logs_deadline(&mut self, now: Moment) {
        let pause = self.config.life_preserver.pause;
        if self.logs.paused.is_some_and(|since| since + pause <= now.instant) {
            self.end_pause(now);
        } else if self.logs.held.is_some_and(|since| since + pause <= now.instant) {
            self.logs.held = None;
            self.logs.unbound = true;
        } else {
            self.logs.room.mark_all(now.instant);
        }
        self.logs.awake = true;
    }

    fn logs_wait_for_subscriber(&mut self, now: Moment) -> bool {
        let Some(until) = self.logs.wait_until else { return false };
        let somebody = self.hub.subscribers_of(EventName::LifePreserver).next().is_some();
        if somebody || until <= now.instant {
            self.logs.wait_until = None;
            self.logs.awake = true;
            return false;
        }
        self.reactor.set_deadline(PollToken::Logs, Some(until));
        true
    }

    /// Limits the bytes read beyond the persisted positions, unless persisting takes too long.
    fn logs_may_be_read(&self) -> bool {
        // A slice is read as a whole, so half of them is the limit.
        let ahead = self.logs.room.consumed().saturating_sub(self.logs.persisted);
        self.logs.unbound || ahead < (self.config.life_preserver.slice / 2) as u64
    }

    /// End of the pause for clients with long queues, if there is one.
    fn logs_are_paused(&mut self, now: Moment) -> Option<Instant> {
        if !self.has_crowded_client() {
            self.logs.paused = None;
            return None;
        }
        let since = *self.logs.paused.get_or_insert(now.instant);
        Some(since + self.config.life_preserver.pause)
    }

    fn has_crowded_client(&mut self) -> bool {
        let (clients, hub) = (&mut self.clients, &self.hub);
        self.logs.crowded.retain(|id| {
            hub.wants(*id, EventName::LifePreserver)
                && clients.get(*id).is_some_and(|client| {
                    client.connection.is_open() && !client.connection.outbox().is_below_half()
                })
        });
        let much = self.clients.outbox_bytes() > self.config.server.outbox_total / 2;
        self.logs.ignores_total &= much;
        !self.logs.crowded.is_empty() || (much && !self.logs.ignores_total)
    }

    /// The pause is over.
    fn end_pause(&mut self, now: Moment) {
        self.logs.paused = None;
        if !self.has_crowded_client() {
            return;
        }
        let pause = self.config.life_preserver.pause;
        for id in std::mem::take(&mut self.logs.crowded) {
            let why = format!("and a log that it wants waited {pause:?} for its outbox");
            self.close_slow(id, &why, now);
        }
        // Of all together the fullest is closed when they are full, not before.
        self.logs.ignores_total = true;
    }

    /// After output was sent: resumes reading, and persists positions.
    pub(super) fn go_on_with_logs(&mut self, now: Moment) {
        if self.logs.paused.is_some() && !self.has_crowded_client() {
            self.reactor.again(PollToken::Logs);
        }
        if self.logs.persisting {
            return;
        }
        if self.logs.failed.as_ref().is_some_and(|(_, again)| *again > now.instant) {
            return;
        }
        if self.logs.mark.is_none() && self.logs.room.has_changed() {
            self.mark_position();
        }
        if let Some(mut mark) = self.logs.mark.take() {
            mark.unsent.retain(|id, place| !self.has_sent(*id, place));
            if mark.unsent.is_empty() {
                self.persist(mark, now);
            } else {
                self.logs.mark = Some(mark);
            }
        }
    }

    fn mark_position(&mut self) {
        let consumed = self.logs.room.consumed();
        let subscribers = self.hub.subscribers_of(EventName::LifePreserver);
        let unsent = subscribers.map(|id| (id, None)).collect();
        let memory = self.logs.room.memory();
        let complete = !self.logs.room.is_finding();
        self.logs.mark = Some(Mark { memory, consumed, complete, unsent });
    }

    /// Whether a client's connection has taken all events up to the mark. Its outbox position is
    /// known as soon as no older event is queued for the client elsewhere.
    fn has_sent(&mut self, id: ClientId, place: &mut Option<u64>) -> bool {
        let Some(client) = self.clients.get(id) else { return true };
        if place.is_none() && !self.hub.is_behind(id) && self.deliveries.is_empty() {
            *place = Some(client.connection.outbox().next_place());
        }
        place.is_some_and(|place| client.connection.has_sent(place))
    }

    fn persist(&mut self, mark: Mark, now: Moment) {
        self.logs.persisting = true;
        self.logs.completes = mark.complete;
        self.persist_logs(FILE, mark.memory, mark.consumed, now);
        if self.storage.store.standing().is_err() {
            // The error is already there.
            self.reactor.again(PollToken::Logs);
        }
    }

    /// Result of persisting.
    pub(super) fn on_logs_persisted(
        &mut self,
        consumed: u64,
        persisted: Result<(), String>,
        now: Moment,
    ) {
        self.logs.persisting = false;
        match persisted {
            Ok(()) => {
                self.logs.persisted = consumed;
                self.logs.anchored |= self.logs.completes;
                (self.logs.held, self.logs.unbound) = (None, false);
                if self.logs.failed.take().is_some() {
                    info!("log positions are saved again");
                }
            }
            Err(why) => {
                if self.logs.failed.as_ref().is_none_or(|(before, _)| *before != why) {
                    warn!("cannot save log positions: {why}; a restart will repeat events");
                }
                let again = now.instant + self.config.life_preserver.poll_interval;
                self.reactor.set_deadline(PollToken::Persisting, Some(again));
                self.logs.failed = Some((why, again));
                (self.logs.unbound, self.logs.anchored) = (true, true);
                self.logs.room.persist_again();
            }
        }
        self.reactor.again(PollToken::Logs);
    }

    /// Applies another configuration.
    pub(super) fn configure_logs(&mut self) {
        let (limits, sources) = (limits(&self.config), sources(&self.config));
        self.logs.room.configure(limits, sources);
        self.logs.awake = true;
    }
}

/// The persisted state, if any, of bounded size.
fn read(file: &Path, _: MayBlock) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|it| it.take(LARGEST + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!("cannot read {}: {error}; logs are followed from their ends", file.display());
            None
        }
    }
}

fn set_aside(file: &Path, wrong: &str, _: MayBlock) {
    let mut aside = file.as_os_str().to_owned();
    aside.push(".damaged");
    let what = match fs::rename(file, &aside) {
        Ok(()) => format!("it is set aside as {}", Path::new(&aside).display()),
        Err(error) => format!("it cannot be set aside: {error}"),
    };
    warn!("{}: {wrong}; {what}; logs are followed from their ends", file.display());
}

fn limits(config: &Config) -> FollowLimits {
    let logs = &config.life_preserver;
    FollowLimits {
        max_line: logs.max_line,
        slice: logs.slice / 2,
        poll_interval: logs.poll_interval,
        check_interval: logs.check_interval,
        rotation_wait: logs.rotation_wait,
        max_replications: logs.max_replications,
        progress_interval: logs.progress_interval,
        progress_timeout: logs.progress_timeout,
    }
}

/// One source per log: rule sets of the same log are tried in their order.
fn sources(config: &Config) -> Vec<Source> {
    let logs = &config.life_preserver;
    let mut sources: Vec<Source> = Vec::new();
    let mut add = |log: &PathBuf, rules: Arc<RuleSet>| match sources
        .iter_mut()
        .find(|source| source.log == *log)
    {
        Some(source) => source.rules.push(rules),
        None => sources.push(Source { log: log.clone(), rules: vec![rules] }),
    };
    if let (Some(log), Some(rules)) = (&logs.log, logs.rules.get("lpreserver")) {
        add(log, rules);
    }
    for config::LogSource { log, rules } in &logs.source {
        add(log, Arc::clone(rules));
    }
    sources
}
