//! Links to bridges: the sockets of the machines in `bridge::link`, and who is behind them.
//!
//! A link is dialled without waiting, its bridge's name looked up by the accounts helper. Each client
//! behind it is a client like any other, with a session and an outbox; a link takes from them in
//! turn, a message at a time, while the bridge takes more.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use log::{debug, info, warn};
use mio::Interest;
use mio::net::TcpStream;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::clients::ClientId;
use super::{Key, Phase, Server};
use crate::auth::key::{NO_CERTIFICATE, OwnKey, PrivateKey, Purpose};
use crate::bridge::link::{Channel, Dialogue, News, Proof, Schedule, Trouble};
use crate::config::{BridgeLink, Config};
use crate::moment::Moment;
use crate::net::pin;
use crate::reactor::{Reactor, Registered};
use crate::sys::fork::in_child;
use crate::wire::{MOST_SUMS, PeerKind, rfc3339, routed};

/// Reads of a link in a turn: each may bring some forty handshakes.
const READS: usize = 2;
/// How long the making of a key may take before it is tried again.
const MAKING: Duration = Duration::from_secs(60);
/// The longest string of a bridge's that is signed, in bytes: ours has 160.
const CHALLENGE: usize = 1024;
/// Answers to questions in clear that wait; of more the newest are forgotten.
const ASIDES: usize = 64;

/// A link's name in status and log, and how far it is.
enum State {
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
        /// By when the bridge has to have let us in.
        due: Option<Instant>,
    },
}

/// A client that the bridge says is there.
pub(super) struct Behind {
    pub(super) id: Rc<str>,
    /// Never given twice on one link.
    pub(super) number: u64,
    pub(super) client: Option<ClientId>,
}

/// One link.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) config: BridgeLink,
    state: State,
    since: Moment,
    /// Why it was lost, or could not be made.
    error: Option<String>,
    schedule: Schedule,
    pub(super) behind: Vec<Behind>,
    last_behind: u64,
    /// Those that have something to say, in turn.
    speaking: VecDeque<ClientId>,
    /// Whole frames for the bridge that belong to no session.
    asides: VecDeque<String>,
}

/// All links, and what they need.
#[derive(Default)]
pub(super) struct Links {
    pub(super) lines: Vec<Line>,
    last: u64,
    own: Option<PrivateKey>,
    legacy: Option<PrivateKey>,
    /// Since when a child makes a key.
    making: Option<Instant>,
    /// Of the keys of all users.
    sums: Vec<String>,
    /// They may be others now; bridges are told at the end of the turn.
    pub(super) keys_changed: bool,
}

impl Links {
    /// With the keys that this configuration needs, made where there are none: for the start.
    pub(super) fn begin(config: &Config) -> Links {
        let mut links = Links::default();
        let is_needed = |legacy| config.bridge.link.iter().any(|link| link.legacy == legacy);
        let ensure = |which: OwnKey, needed: bool| {
            let key = needed.then(|| which.ensure(&config.paths.state));
            key.and_then(|key| key.map_err(|error| warn!("links to bridges: {error}")).ok())
        };
        links.own = ensure(OwnKey::Link, is_needed(false));
        links.legacy = ensure(OwnKey::Legacy, is_needed(true));
        links
    }

    /// The key for a bridge; one that was not needed before is read, or made by a child.
    fn key(&mut self, legacy: bool, state: &Path, now: Instant) -> Result<&PrivateKey, String> {
        let which = if legacy { OwnKey::Legacy } else { OwnKey::Link };
        let slot = if legacy { &mut self.legacy } else { &mut self.own };
        if slot.is_none() {
            if which.path(state).exists() {
                *slot = Some(which.ensure(state).map_err(|error| error.to_string())?);
                self.making = None;
            } else {
                let since = |since| now.saturating_duration_since(since);
                if self.making.is_none_or(|begun| since(begun) > MAKING) {
                    let made = in_child(|_| drop(which.ensure(state)));
                    made.map_err(|error| error.to_string())?;
                    self.making = Some(now);
                }
                return Err("the key of this server is being made".to_owned());
            }
        }
        slot.as_ref().ok_or_else(|| "there is no key".to_owned())
    }

    pub(super) fn line(&mut self, number: u64) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.number == number)
    }

    /// This client is no more.
    pub(super) fn forget(&mut self, link: u64, behind: u64, client: ClientId) {
        let Some(line) = self.line(link) else { return };
        if let Some(behind) = line.behind.iter_mut().find(|it| it.number == behind)
            && behind.client == Some(client)
        {
            behind.client = None;
        }
        line.speaking.retain(|id| *id != client);
    }

    /// True where the system has all that was to be sent.
    pub(super) fn are_flushed(&self) -> bool {
        self.lines.iter().all(|line| match &line.state {
            State::Talking { channel, .. } => channel.is_flushed(),
            State::Waiting | State::LookingUp | State::Connecting { .. } => true,
        })
    }

    /// How they are, for people.
    pub(super) fn status(&self, user: impl Fn(ClientId) -> Option<String>) -> Value {
        let line = |line: &Line| {
            let clients: Vec<Value> = line
                .behind
                .iter()
                .map(|it| json!({ "id": &*it.id, "client": it.client, "user": it.client.and_then(&user) }))
                .collect();
            json!({
                "name": line.config.name,
                "url": line.config.url.to_string(),
                "legacy": line.config.legacy,
                "state": line.state.name(),
                "since": rfc3339(line.since.wall),
                "error": line.error,
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

    fn due(&self) -> Option<Instant> {
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

    /// Lets the socket go, if there is one.
    fn hang_up(&mut self, reactor: &mut Reactor<Key>) {
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

    /// Sends a frame that belongs to no session, when its turn comes.
    pub(super) fn say_aside(&mut self, to: &str, payload: &str) {
        if self.asides.len() < ASIDES {
            self.asides.push_back(routed(to, payload));
        }
    }

    /// One more has something to say.
    fn speaks(&mut self, client: ClientId) {
        if !self.speaking.contains(&client) {
            self.speaking.push_back(client);
        }
    }
}

/// The largest text of a bridge, in bytes: a message in base64, and the id of who sends it.
fn max_text(config: &Config) -> usize {
    (config.server.max_message / 3 * 4).max(24 * 1024) + 1024
}

fn chance() -> u8 {
    let mut random = [0];
    // Without random bits there is no spread.
    let _ = SystemRandom::new().fill(&mut random);
    random[0]
}

impl Server {
    /// Makes links what the configuration says: new ones are dialled, those that are as they were
    /// stay.
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
            self.reactor.set_deadline(Key::Link(number), None);
        }
        let (text, ping) = (max_text(&self.config), self.config.server.ping_interval);
        for line in &mut self.links.lines {
            line.schedule.set_bounds(shortest, longest);
            if let State::Talking { channel, .. } = &mut line.state {
                channel.set_max_text(text);
                channel.set_ping(ping);
            }
            // What went wrong may have been mended: it is tried at once.
            let at_once = matches!(line.state, State::Waiting).then_some(now.instant);
            self.reactor.set_deadline(Key::Link(line.number), line.state.due().or(at_once));
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

    /// Bridges are told the sums of the registered keys, where they are others than before. That is
    /// done last in a turn: who loses a key is told so while the bridge still knows them by it.
    pub(super) fn tell_sums(&mut self) {
        let all = self.keys.store.len();
        let keys = self.keys.store.iter().take(MOST_SUMS);
        let sums: Vec<String> = keys.map(|entry| entry.key.checksum()).collect();
        if all > MOST_SUMS && !self.config.bridge.link.is_empty() {
            warn!("bridges are told of the first {MOST_SUMS} of {all} keys");
        }
        for line in &mut self.links.lines {
            if let State::Talking { dialogue, channel, .. } = &mut line.state {
                dialogue.set_sums(sums.clone());
                dialogue.take_texts().iter().for_each(|text| channel.push(text));
            }
        }
        self.links.sums = sums;
    }

    fn dial(&mut self, number: u64, now: Moment) {
        if self.phase != Phase::Serving {
            return;
        }
        let Some(line) = self.links.line(number) else { return };
        line.since = now;
        let host = line.config.url.host.clone();
        match host.parse::<IpAddr>() {
            Ok(address) => self.connect_link(number, [address].into(), None, now),
            Err(_) => {
                line.state = State::LookingUp;
                self.accounts.ask_for_addresses(&host, number, now.instant);
            }
        }
    }

    /// The name of a bridge was looked up.
    pub(super) fn on_addresses(
        &mut self,
        number: u64,
        found: Result<Vec<IpAddr>, String>,
        now: Moment,
    ) {
        let Some(line) = self.links.line(number) else { return };
        if !matches!(line.state, State::LookingUp) {
            return;
        }
        match found {
            Ok(addresses) => self.connect_link(number, addresses.into(), None, now),
            Err(why) => self.lose_link(number, &format!("cannot look up its name: {why}"), now),
        }
    }

    /// Tries the addresses one after the other; `why` the one before could not be reached.
    fn connect_link(
        &mut self,
        number: u64,
        mut addresses: VecDeque<IpAddr>,
        mut why: Option<io::Error>,
        now: Moment,
    ) {
        let due = now.instant + self.config.server.handshake_timeout;
        let Some(line) = self.links.line(number) else { return };
        line.hang_up(&mut self.reactor);
        while let Some(address) = addresses.pop_front() {
            let address = SocketAddr::new(address, line.config.url.port);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let connecting = TcpStream::connect(address).and_then(|mut stream| {
                let registered = self.reactor.register(&mut stream, interest, Key::Link(number))?;
                Ok((stream, registered))
            });
            match connecting {
                Ok((stream, registered)) => {
                    line.state = State::Connecting { stream, registered, rest: addresses, due };
                    self.reactor.set_deadline(Key::Link(number), Some(due));
                    return;
                }
                Err(error) => why = Some(error),
            }
        }
        let why = why.map_or("its name has no address".to_owned(), |error| error.to_string());
        self.lose_link(number, &format!("cannot connect: {why}"), now);
    }

    /// The connection is there, or could not be made.
    fn on_link_connected(&mut self, number: u64, now: Moment) {
        let Some(line) = self.links.lines.iter_mut().find(|line| line.number == number) else {
            return;
        };
        let State::Connecting { stream, rest, .. } = &mut line.state else { return };
        let failed = stream.take_error().and_then(|error| match error {
            Some(error) => Err(error),
            None => stream.peer_addr().map(drop),
        });
        match failed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
            Err(error) => {
                let rest = std::mem::take(rest);
                return self.connect_link(number, rest, Some(error), now);
            }
        }
        let _ = stream.set_nodelay(true);
        let url = &line.config.url;
        let ping = self.config.server.ping_interval;
        let channel = pin::connect(&url.host, vec![digest(&line.config.fingerprint)], pin::SOCKETS)
            .map_err(|error| Trouble::Tls(error.to_string()))
            .and_then(|tls| {
                let authority = url.to_string();
                let authority = authority.strip_prefix("wss://").unwrap_or(&authority);
                Channel::new(tls, authority, max_text(&self.config), ping, now.instant)
            });
        let channel = match channel {
            Ok(channel) => Box::new(channel),
            Err(trouble) => return self.lose_link(number, &trouble.to_string(), now),
        };
        let State::Connecting { stream, registered, .. } =
            std::mem::replace(&mut line.state, State::Waiting)
        else {
            return;
        };
        let sums = self.links.sums.clone();
        let dialogue = Box::new(Dialogue::new(PeerKind::Server, &self.hostname, sums));
        let due = Some(now.instant + self.config.server.auth_timeout);
        line.state = State::Talking { stream, registered, channel, dialogue, due };
        self.reactor.again(Key::Link(number));
    }

    pub(super) fn on_link_io(&mut self, number: u64, readable: bool, now: Moment) {
        let Some(line) = self.links.line(number) else { return };
        match &line.state {
            State::Waiting | State::LookingUp => {}
            State::Connecting { .. } => self.on_link_connected(number, now),
            State::Talking { .. } if readable => self.read_link(number, now),
            State::Talking { .. } => {}
        }
    }

    fn read_link(&mut self, number: u64, now: Moment) {
        for _ in 0..READS {
            let Some(line) = self.links.line(number) else { return };
            let State::Talking { stream, channel, dialogue, .. } = &mut line.state else { return };
            let mut news = Vec::new();
            let was_open = channel.is_open();
            let more = channel.read(stream, now.instant).and_then(|more| {
                while let Some(text) = channel.next_text()? {
                    news.extend(dialogue.take(&text));
                }
                Ok(more)
            });
            if channel.is_open() && !was_open {
                dialogue.take_texts().iter().for_each(|text| channel.push(text));
            }
            for news in news {
                self.on_link_news(number, news, now);
            }
            match more {
                Ok(true) => {}
                Ok(false) => return self.push_dialogue(number),
                Err(trouble) => return self.lose_link(number, &trouble.to_string(), now),
            }
            self.push_dialogue(number);
        }
        self.reactor.again(Key::Link(number));
    }

    /// Hands what the dialogue has to say to the channel.
    fn push_dialogue(&mut self, number: u64) {
        let Some(line) = self.links.line(number) else { return };
        if let State::Talking { channel, dialogue, .. } = &mut line.state
            && channel.is_open()
        {
            dialogue.take_texts().iter().for_each(|text| channel.push(text));
        }
    }

    fn on_link_news(&mut self, number: u64, news: News, now: Moment) {
        match news {
            News::Challenge(string) => self.prove_to_bridge(number, &string, now),
            News::Known => {
                let Some(line) = self.links.line(number) else { return };
                line.schedule.known(now.instant);
                (line.since, line.error) = (now, None);
                if let State::Talking { due, .. } = &mut line.state {
                    *due = None;
                }
                info!("link {}: connected to {}", line.config.name, line.config.url);
            }
            News::Available(ids) => self.on_available(number, &ids),
            News::Payload { from, text } => self.on_payload(number, &from, &text, now),
            News::Refused(why) => {
                let why = format!(
                    "the bridge does not let us in: {why} (does it know our key? \
                     \"sysadm-events key export\" prints it)"
                );
                self.leave_link(number, &why, self.config.bridge.refused_pause, now);
            }
            News::Complaint(why) => {
                let Some(line) = self.links.line(number) else { return };
                debug!("link {}: the bridge says: {why}", line.config.name);
            }
        }
    }

    fn prove_to_bridge(&mut self, number: u64, string: &str, now: Moment) {
        let Some(line) = self.links.line(number) else { return };
        let legacy = line.config.legacy;
        let State::Talking { channel, .. } = &line.state else { return };
        let certificate = channel.certificate().unwrap_or(NO_CERTIFICATE);
        if string.len() > CHALLENGE {
            return self.lose_link(number, "it wants an endless string signed", now);
        }
        let proof = self.links.key(legacy, &self.config.paths.state, now.instant).and_then(|key| {
            let proof = if legacy {
                key.sign_raw(string).map(|bytes| Proof::Encrypted(STANDARD.encode(bytes)))
            } else {
                key.sign(Purpose::Bridge, &certificate, string).map(|signature| Proof::Signature {
                    key: key.public().id().to_string(),
                    signature: STANDARD.encode(signature),
                })
            };
            proof.map_err(|error| error.to_string())
        });
        match proof {
            Err(why) => self.lose_link(number, &why, now),
            Ok(proof) => {
                let Some(line) = self.links.line(number) else { return };
                if let State::Talking { dialogue, .. } = &mut line.state {
                    dialogue.prove(&proof);
                }
            }
        }
    }

    /// The whole list of clients that are there.
    fn on_available(&mut self, number: u64, ids: &[String]) {
        let Some(line) = self.links.line(number) else { return };
        let mut gone = Vec::new();
        line.behind.retain(|behind| {
            let stays = ids.binary_search_by(|id| (**id).cmp(&behind.id)).is_ok();
            if !stays {
                gone.extend(behind.client);
            }
            stays
        });
        let mut known: Vec<Rc<str>> = line.behind.iter().map(|behind| behind.id.clone()).collect();
        known.sort_unstable();
        for id in ids {
            if known.binary_search_by(|known| (**known).cmp(id)).is_err() {
                line.last_behind += 1;
                let number = line.last_behind;
                line.behind.push(Behind { id: id.as_str().into(), number, client: None });
            }
        }
        for client in gone {
            self.end(client, "the bridge says that it has gone");
        }
    }

    fn drop_callers(&mut self, number: u64, why: &str) {
        let Some(line) = self.links.line(number) else { return };
        let behind = std::mem::take(&mut line.behind);
        for client in behind.iter().filter_map(|behind| behind.client) {
            self.end(client, why);
        }
    }

    /// The link is over; it is dialled again later.
    fn lose_link(&mut self, number: u64, why: &str, now: Moment) {
        self.leave_link(number, why, Duration::ZERO, now);
    }

    /// The same, not before `least` has passed.
    fn leave_link(&mut self, number: u64, why: &str, least: Duration, now: Moment) {
        self.drop_callers(number, "its link to the bridge is lost");
        let Some(line) = self.links.lines.iter_mut().find(|line| line.number == number) else {
            return;
        };
        line.hang_up(&mut self.reactor);
        line.since = now;
        let again = line.schedule.failed(chance(), now.instant).max(now.instant + least);
        self.reactor.set_deadline(Key::Link(number), Some(again));
        // What goes wrong again and again is said once.
        if line.error.as_deref() == Some(why) {
            debug!("link {}: {why}", line.config.name);
        } else {
            let seconds = (again - now.instant).as_secs_f32();
            let (name, url) = (&line.config.name, &line.config.url);
            warn!("link {name} to {url} is lost, tried again in {seconds:.1} s: {why}");
            line.error = Some(why.to_owned());
        }
    }

    pub(super) fn on_link_deadline(&mut self, number: u64, now: Moment) {
        let Some(line) = self.links.line(number) else { return };
        match &mut line.state {
            State::Waiting => self.dial(number, now),
            State::LookingUp => {}
            State::Connecting { rest, .. } => {
                let rest = std::mem::take(rest);
                let late = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                self.connect_link(number, rest, Some(late), now);
            }
            State::Talking { due: Some(due), .. } if *due <= now.instant => {
                self.lose_link(number, "the bridge does not let us in in time", now);
            }
            State::Talking { channel, .. } => {
                if let Err(trouble) = channel.on_deadline(now.instant) {
                    self.lose_link(number, &trouble.to_string(), now);
                }
            }
        }
    }

    /// Takes from callers in turn what their links take, and writes it.
    pub(super) fn flush_links(&mut self, now: Moment) {
        for id in std::mem::take(&mut self.clients.speaking) {
            if let Some((number, _)) = self.clients.behind(id)
                && let Some(line) = self.links.line(number)
            {
                line.speaks(id);
            }
        }
        let numbers: Vec<u64> = self.links.lines.iter().map(|line| line.number).collect();
        for number in numbers {
            if let Err(trouble) = self.flush_link(number) {
                self.lose_link(number, &trouble.to_string(), now);
            }
            let Some(line) = self.links.line(number) else { continue };
            if let Some(due) = line.state.due() {
                self.reactor.set_deadline(Key::Link(number), Some(due));
            }
        }
    }

    fn flush_link(&mut self, number: u64) -> Result<(), Trouble> {
        let Some(line) = self.links.lines.iter_mut().find(|line| line.number == number) else {
            return Ok(());
        };
        let State::Talking { stream, channel, .. } = &mut line.state else { return Ok(()) };
        while channel.write(stream)? {
            let mut any = false;
            while channel.has_room()
                && let Some(aside) = line.asides.pop_front()
            {
                channel.push(&aside);
                any = true;
            }
            while channel.has_room()
                && let Some(id) = line.speaking.pop_front()
            {
                let Some(caller) = self.clients.caller(id) else { continue };
                let Some(behind) = line.behind.iter().find(|it| it.client == Some(id)) else {
                    continue;
                };
                let payload = caller.next_payload();
                let (is_midway, has_more) = (caller.is_midway(), caller.has_something());
                if let Some(payload) = payload {
                    channel.push(&routed(&behind.id, &payload));
                    any = true;
                    // The rest of a message comes before another one's.
                    if is_midway {
                        line.speaking.push_front(id);
                    } else if has_more {
                        line.speaking.push_back(id);
                    }
                }
                self.clients.touch(id);
            }
            if !any {
                break;
            }
        }
        Ok(())
    }
}

/// The fingerprint of the configuration, which has been checked there.
pub(super) fn digest(hex: &str) -> pin::Digest {
    let byte = |at: usize| hex.get(2 * at..2 * at + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    std::array::from_fn(|at| byte(at).unwrap_or(0))
}
