//! Links to relays: the sockets for the state machines in `bridge::link`, and the clients behind
//! them.
//!
//! Connecting does not block (`link_io`); the accounts helper looks the relay's name up. Each
//! client behind a relay is a client like any other, with a session and an outbox; a link takes
//! from them in turn, a message at a time, while the relay accepts more.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use log::{info, warn};
use mio::net::TcpStream;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::clients::ClientId;
use super::errands::{Answer, Errand};
use super::{PollToken, Server};
use crate::auth::key::{OwnKey, PrivateKey};
use crate::bridge::link::{Channel, Dialogue, Schedule};
use crate::config::{BridgeLink, Config};
use crate::moment::Moment;
use crate::reactor::{Reactor, Registered};
use crate::sys::may_block::MayBlock;
use crate::wire::{MOST_CHECKSUMS, rfc3339, routed};

/// Maximum number of queued replies in clear; beyond it the newest are dropped.
const ASIDES: usize = 64;
/// Maximum number of clients without a session that the status names: a relay can invent thousands.
const SHOWN: usize = 256;

/// Connection state of a link.
pub(super) enum State {
    /// Until its deadline.
    Waiting,
    LookingUp,
    Connecting {
        stream: TcpStream,
        registered: Registered,
        rest: VecDeque<IpAddr>,
        due: Instant,
    },
    Talking {
        stream: TcpStream,
        registered: Registered,
        channel: Box<Channel>,
        dialogue: Box<Dialogue>,
        /// Deadline for authentication.
        due: Option<Instant>,
    },
}

/// A client reported by the relay.
pub(super) struct Behind {
    pub(super) id: Rc<str>,
    /// Never reused on one link.
    pub(super) number: u64,
    pub(super) client: Option<ClientId>,
}

/// One link.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) config: BridgeLink,
    pub(super) state: State,
    pub(super) since: Moment,
    /// Why it was lost, or could not be established.
    pub(super) error: Option<String>,
    pub(super) schedule: Schedule,
    pub(super) behind: Vec<Behind>,
    pub(super) last_behind: u64,
    /// Callers with output, in turn.
    pub(super) speaking: VecDeque<ClientId>,
    /// Frames for the relay that belong to no session.
    pub(super) asides: VecDeque<String>,
}

/// All links.
#[derive(Default)]
pub(super) struct Links {
    pub(super) lines: Vec<Line>,
    last: u64,
    own: Option<PrivateKey>,
    legacy: Option<PrivateKey>,
    /// Checksums of the keys of all users.
    pub(super) checksums: Vec<String>,
    /// They may have changed; sent to relays at the end of the turn.
    pub(super) keys_changed: bool,
}

impl Links {
    /// Creates missing keys for this configuration: at start-up.
    pub(super) fn begin(config: &Config, may_block: MayBlock) -> Links {
        let mut links = Links::default();
        let is_needed = |legacy| config.bridge.link.iter().any(|link| link.legacy == legacy);
        let ensure = |which: OwnKey, needed: bool| {
            let key = needed.then(|| which.ensure(&config.paths.state, may_block));
            key.and_then(|key| key.map_err(|error| warn!("links to bridges: {error}")).ok())
        };
        links.own = ensure(OwnKey::Link, is_needed(false));
        links.legacy = ensure(OwnKey::Legacy, is_needed(true));
        links
    }

    fn slot(&mut self, legacy: bool) -> &mut Option<PrivateKey> {
        if legacy { &mut self.legacy } else { &mut self.own }
    }

    /// The key for a relay.
    ///
    /// # Errors
    /// It has not been read yet; see [`Server::ask_for_own_key`].
    pub(super) fn key(&mut self, legacy: bool) -> Result<&PrivateKey, String> {
        self.slot(legacy).as_ref().ok_or_else(|| "the key of this server is being read".to_owned())
    }

    pub(super) fn line(&mut self, number: u64) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.number == number)
    }

    /// Removes a client.
    pub(super) fn forget(&mut self, link: u64, behind: u64, client: ClientId) {
        let Some(line) = self.line(link) else { return };
        if let Some(behind) = line.behind.iter_mut().find(|it| it.number == behind)
            && behind.client == Some(client)
        {
            behind.client = None;
        }
        line.speaking.retain(|id| *id != client);
    }

    /// Whether all output was written.
    pub(super) fn are_flushed(&self) -> bool {
        self.lines.iter().all(|line| match &line.state {
            State::Talking { channel, .. } => channel.is_flushed(),
            State::Waiting | State::LookingUp | State::Connecting { .. } => true,
        })
    }

    /// The status, for people.
    pub(super) fn status(&self, user: impl Fn(ClientId) -> Option<String>) -> Value {
        let line = |line: &Line| {
            let (sessions, others): (Vec<&Behind>, Vec<&Behind>) =
                line.behind.iter().partition(|it| it.client.is_some());
            let room = SHOWN.saturating_sub(sessions.len());
            let clients: Vec<Value> = sessions
                .into_iter()
                .chain(others.into_iter().take(room))
                .map(|it| json!({ "id": &*it.id, "client": it.client, "user": it.client.and_then(&user) }))
                .collect();
            json!({
                "name": line.config.name,
                "url": line.config.url.to_string(),
                "legacy": line.config.legacy,
                "state": line.state.name(),
                "since": rfc3339(line.since.wall),
                "error": line.error,
                "available": line.behind.len(),
                "clients": clients,
            })
        };
        Value::Array(self.lines.iter().map(line).collect())
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::LookingUp => "looking up",
            State::Connecting { .. } => "connecting",
            State::Talking { dialogue, .. } if dialogue.is_known() => "connected",
            State::Talking { .. } => "authenticating",
        }
    }

    /// Whether the relay has authenticated this server.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self, State::Talking { dialogue, .. } if dialogue.is_known())
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            State::Waiting | State::LookingUp => None,
            State::Connecting { due, .. } => Some(*due),
            State::Talking { channel, due, .. } => {
                [channel.due(), *due].into_iter().flatten().min()
            }
        }
    }
}

impl Line {
    fn new(number: u64, config: BridgeLink, schedule: Schedule, now: Moment) -> Line {
        Line {
            number,
            config,
            state: State::Waiting,
            since: now,
            error: None,
            schedule,
            behind: Vec::new(),
            last_behind: 0,
            speaking: VecDeque::new(),
            asides: VecDeque::new(),
        }
    }

    /// Closes the socket, if there is one.
    pub(super) fn hang_up(&mut self, reactor: &mut Reactor<PollToken>) {
        match std::mem::replace(&mut self.state, State::Waiting) {
            State::Waiting | State::LookingUp => {}
            State::Connecting { mut stream, registered, .. } => {
                reactor.deregister(&mut stream, registered);
            }
            State::Talking { mut stream, registered, mut channel, .. } => {
                channel.push_close();
                let _ = channel.write(&mut stream);
                reactor.deregister(&mut stream, registered);
            }
        }
        self.asides.clear();
        self.speaking.clear();
    }

    /// Queues a frame that belongs to no session.
    pub(super) fn say_aside(&mut self, to: &str, payload: &str) {
        if self.asides.len() < ASIDES {
            self.asides.push_back(routed(to, payload));
        }
    }

    /// Marks a caller with output.
    pub(super) fn speaks(&mut self, client: ClientId) {
        if !self.speaking.contains(&client) {
            self.speaking.push_back(client);
        }
    }
}

/// Default limit of a relay for forwarded texts, in bytes. A longer text ends the link with all its
/// sessions: so no client may cause one.
const FORWARDED: usize = 256 * 1024;

/// Maximum size of a relay's text, in bytes: a message in base64, and the sender's id.
pub(super) fn max_text(config: &Config) -> usize {
    (config.server.max_message / 3 * 4).max(FORWARDED) + 1024
}

impl Server {
    /// Applies the configuration: new links connect, unchanged ones stay.
    pub(super) fn configure_links(&mut self, now: Moment) {
        let wanted = self.config.bridge.link.clone();
        let (shortest, longest) =
            (self.config.bridge.shortest_pause, self.config.bridge.longest_pause);
        let gone = self.links.lines.iter().filter(|line| !wanted.contains(&line.config));
        let gone: Vec<u64> = gone.map(|line| line.number).collect();
        for number in gone {
            self.drop_callers(number, "its link is no longer configured");
            let Some(at) = self.links.lines.iter().position(|it| it.number == number) else {
                continue;
            };
            let mut line = self.links.lines.remove(at);
            info!("link {}: no longer configured", line.config.name);
            line.hang_up(&mut self.reactor);
            self.reactor.set_deadline(PollToken::Link(number), None);
        }
        let (text, ping) = (max_text(&self.config), self.config.server.ping_interval);
        for line in &mut self.links.lines {
            line.schedule.set_bounds(shortest, longest);
            if let State::Talking { channel, .. } = &mut line.state {
                channel.set_max_text(text);
                channel.set_ping(ping);
            }
            // The cause of the failure may be fixed: connects at once.
            let at_once = matches!(line.state, State::Waiting).then_some(now.instant);
            self.reactor.set_deadline(PollToken::Link(line.number), line.state.due().or(at_once));
        }
        for legacy in [false, true] {
            if wanted.iter().any(|link| link.legacy == legacy) {
                self.ask_for_own_key(legacy, now);
            }
        }
        for config in wanted {
            if self.links.lines.iter().all(|line| line.config != config) {
                self.links.last += 1;
                let (number, schedule) = (self.links.last, Schedule::new(shortest, longest));
                self.links.lines.push(Line::new(number, config, schedule, now));
                self.dial(number, now);
            }
        }
    }

    /// Has a key for links read, or made, if it is not there yet.
    pub(super) fn ask_for_own_key(&mut self, legacy: bool, now: Moment) {
        let errand = Errand::OwnKey { legacy };
        if self.links.slot(legacy).is_some() || self.errands.is_running(errand) {
            return;
        }
        let which = if legacy { OwnKey::Legacy } else { OwnKey::Link };
        let state = &self.config.paths.state;
        let work = |may_block| match which.ensure(state, may_block) {
            Ok(key) => Zeroizing::new([b"+", key.to_pem().as_bytes()].concat()),
            Err(error) => Zeroizing::new(format!("-{error}").into_bytes()),
        };
        let path = which.path(state);
        let started = self.errands.start(errand, &path, &mut self.reactor, now, work);
        if let Err(error) = started {
            warn!("links to bridges: cannot start a child that reads {}: {error}", path.display());
        }
    }

    /// A key for links was read, or could not be. Links that wait are tried at once.
    pub(super) fn on_own_key(&mut self, legacy: bool, answer: &Answer, now: Moment) {
        let key = match answer.split_first() {
            Some((b'+', pem)) => PrivateKey::from_pem(pem).map_err(|error| error.to_string()),
            Some((_, why)) => Err(String::from_utf8_lossy(why).into_owned()),
            None => Err("the child that reads the key has ended".to_owned()),
        };
        match key {
            Ok(key) => *self.links.slot(legacy) = Some(key),
            Err(why) => return warn!("links to bridges: {why}"),
        }
        let waits =
            |line: &&Line| line.config.legacy == legacy && matches!(line.state, State::Waiting);
        for line in self.links.lines.iter().filter(waits) {
            self.reactor.set_deadline(PollToken::Link(line.number), Some(now.instant));
        }
    }

    /// Sends relays the checksums of the registered keys, if changed. At the end of a turn: a user
    /// whose key was revoked is informed while the relay still knows the key.
    pub(super) fn send_checksums(&mut self, now: Moment) {
        let all = self.keys.store.len();
        let keys = self.keys.store.iter().take(MOST_CHECKSUMS);
        let checksums: Vec<String> = keys.map(|entry| entry.key.checksum()).collect();
        if all > MOST_CHECKSUMS && !self.config.bridge.link.is_empty() {
            warn!("relays get only the first {MOST_CHECKSUMS} of {all} keys");
        }
        for line in &mut self.links.lines {
            if let State::Talking { dialogue, .. } = &mut line.state {
                dialogue.set_checksums(checksums.clone());
            }
        }
        self.links.checksums = checksums;
        let numbers: Vec<u64> = self.links.lines.iter().map(|line| line.number).collect();
        for number in numbers {
            self.push_dialogue(number, now);
        }
    }
}
