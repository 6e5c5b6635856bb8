//! `sysadm-events bridge`: the daemon that relays.
//!
//! As in the server, each turn of the loop dispatches events, carries out their effects, and sends
//! output; nothing in a turn blocks. The daemon starts no process, opens no path after start-up,
//! and drops its privileges at the start (see `start`).

mod anchored_file;
mod connections;
mod judge;
mod reading;
mod reload;
mod start;
mod status;
mod words;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use log::{debug, error, info, warn};
use nix::unistd::geteuid;
use zeroize::{Zeroize, Zeroizing};

use super::relay::{Effect, PeerNumber, Registration, Relay, Standing};
use crate::auth::key::{KeyReader, KeyStore};
use crate::auth::{LegacyBudget, Throttle};
use crate::config::{Config, Home};
use crate::daemon::{AcceptEnd, Front, Guest, Guests, Listening, StartError, is_proxy, random_hex};
use crate::moment::{Budget, Moment};
use crate::net::{
    Accepted, AllowedOrigins, Answer as HttpAnswer, CloseReason, End, Incoming, Peer, Source,
};
use crate::reactor::{Reactor, Ready, Signal, TurnTimer, Watch};
use crate::sys::files::Files;
use crate::wire::{Command, ErrorCode, Frame, Refusal, Reply, Request, reply};
use connections::{Connected, Connections};
use start::{AnchoredFiles, Identity};

/// Poll token of a registration, or key of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PollToken {
    /// By index.
    Listener(usize),
    Peer(PeerNumber),
    /// A delayed reply to this peer.
    Delayed(PeerNumber),
    /// Reading of this peer is paused.
    Held(PeerNumber),
    /// The file of registered keys: its next lines; its deadline is for another try to read it.
    Keys,
    /// The turn of the searches for legacy keys.
    Searches,
    /// The next turn of peers, where the last one ended before all were served.
    Turn,
    /// A list that is sent later.
    News,
    /// The end of an orderly shutdown.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Peers are being disconnected.
    Leaving,
    Over,
}

/// Counters of forwarded frames.
#[derive(Clone, Copy, Debug, Default)]
struct Forwarded {
    frames: u64,
    bytes: u64,
}

/// The relay daemon.
struct Bridge {
    /// For a reload, which may block this loop.
    files: Files,
    config: Config,
    home: Home,
    hostname: String,
    started: Moment,
    reactor: Reactor<PollToken>,
    listeners: Vec<Listening>,
    identity: Identity,
    places: AnchoredFiles,
    origins: AllowedOrigins,
    throttle: Throttle<Source>,
    /// For throttled origins.
    legacy_budget: LegacyBudget,
    connections: Connections,
    relay: Relay,
    keys: KeyStore,
    /// Peers whose legacy key is looked for, in the order of their turns.
    searches: VecDeque<PeerNumber>,
    /// The last attempt to read them failed.
    keys_are_old: bool,
    /// New content of their file, which is read in several turns.
    key_reader: Option<KeyReader>,
    /// Watch of the directory with the key file.
    _watch: Option<Watch>,
    forwarded: Forwarded,
    phase: Phase,
    scratch: Vec<u8>,
    /// Connections to be removed at the end of the turn.
    ended: Vec<(PeerNumber, End)>,
}

/// The `Origin` of servers. The original one crashes on a close frame.
const ORIGINAL_SERVER: &str = "sysadm-server";

/// Bytes read at once from a peer: one TLS record.
const SCRATCH: usize = 16 * 1024;
/// The time that peers take of a turn, and the sending after that.
const TURN: Duration = Duration::from_millis(2);
/// Maximum number of messages of a peer processed in a turn.
const MESSAGES: usize = 16;
/// Bytes for the relay itself that count as one more message: it must parse them, and they may
/// affect every peer.
const OBJECT: usize = 512;
/// Maximum number of peers closed in a turn because all queues together are full.
const CLOSED_AT_ONCE: usize = 8;
/// Retry interval for reading keys: one of them may have been revoked.
const KEYS_PAUSE: Duration = Duration::from_secs(1);
/// Random bytes of a peer's id: unguessable.
const ID: usize = 16;

/// Runs the relay until a signal stops it. `file` is the path of the configuration, for reloads.
///
/// # Errors Why it did not start, or had to stop.
pub fn run(config: Config, file: Option<PathBuf>, home: Home) -> Result<(), StartError> {
    let mut bridge = start::start(config, file, home)?;
    let mut ready = Vec::new();
    while bridge.phase != Phase::Over {
        if let Err(error) = bridge.reactor.turn(&mut ready) {
            error!("the poll loop failed: {error}");
            return Err(StartError::system("wait for events", error));
        }
        let now = Moment::now();
        let mut timer = TurnTimer::begin();
        for ready in ready.drain(..) {
            bridge.on_ready(ready, now);
        }
        timer.end_part("events");
        bridge.serve_peers(now);
        timer.end_part("requests");
        bridge.settle(now);
        timer.end_part("sending");
        timer.end();
    }
    info!("stopped");
    Ok(())
}

/// Its share of [`MESSAGES`].
fn cost(incoming: &Incoming) -> usize {
    match incoming {
        Incoming::Message(text) if text.starts_with('{') => 1 + text.len() / OBJECT,
        Incoming::Message(_) | Incoming::Upgrade(_) | Incoming::ProxyHeader(_) => 1,
    }
}

impl Front for Bridge {
    type Guest = Connected;

    fn guests(&mut self) -> &mut Guests<Connected> {
        &mut self.connections.guests
    }

    fn is_blocked(&self, source: Source, now: Moment) -> bool {
        self.throttle.blocked(source, now.instant).is_some() && !self.is_exempt(source)
    }

    fn end_guest(&mut self, number: PeerNumber, why: &str, now: Moment) {
        self.end(number, why, now);
    }

    fn set_peer(&mut self, number: PeerNumber, peer: Peer) {
        self.connections.set_peer(number, peer);
    }
}

impl Bridge {
    fn on_ready(&mut self, ready: Ready<PollToken>, now: Moment) {
        match ready {
            Ready::Io { key, readable, writable } => self.on_io(key, readable, writable, now),
            Ready::Again(key) => self.on_io(key, true, false, now),
            Ready::Changed(_) => self.read_keys(now),
            Ready::Deadline(key) => self.on_deadline(key, now),
            Ready::Signal(Signal::Stop) => self.stop(now),
            Ready::Signal(Signal::Reload) => self.reload(now),
            Ready::Signal(Signal::Status) => info!("status: {}", self.status_line(now)),
            // It has no children.
            Ready::Signal(Signal::Child) => {}
        }
    }

    fn on_io(&mut self, key: PollToken, readable: bool, writable: bool, now: Moment) {
        match key {
            // New connections do not shorten the retry interval.
            PollToken::Listener(place)
                if self.listeners.get(place).is_some_and(Listening::is_full) => {}
            PollToken::Listener(place) => self.accept(place, now),
            PollToken::Peer(number) => {
                if readable {
                    if let Some(connected) = self.connections.get(number) {
                        connected.readable = true;
                    }
                    self.connections.enqueue(number);
                }
                if writable {
                    self.connections.touch(number);
                }
            }
            PollToken::Searches => self.go_on_searching(now),
            PollToken::Keys => self.go_on_reading_keys(),
            PollToken::Delayed(_)
            | PollToken::Held(_)
            | PollToken::News
            | PollToken::Turn
            | PollToken::Stop => {}
        }
    }

    fn on_deadline(&mut self, key: PollToken, now: Moment) {
        match key {
            PollToken::Listener(place) => self.accept(place, now),
            PollToken::Peer(number) => self.on_peer_deadline(number, now),
            PollToken::Delayed(number) => self.on_delay_over(number),
            PollToken::Held(number) => {
                self.connections.on_held(number, &mut self.reactor, now.instant);
            }
            PollToken::Stop => self.phase = Phase::Over,
            PollToken::Keys => self.read_keys(now),
            // Sent at the end of the turn.
            PollToken::News | PollToken::Searches | PollToken::Turn => {}
        }
    }

    fn accept(&mut self, place: usize, now: Moment) {
        let Some(listening) = self.listeners.get_mut(place) else { return };
        let (accepted, end) = listening.accept(now.instant);
        for accepted in accepted {
            self.welcome(accepted, now);
        }
        match end {
            AcceptEnd::Done => {}
            AcceptEnd::Again => self.reactor.again(PollToken::Listener(place)),
            AcceptEnd::Retry(due) => {
                self.reactor.set_deadline(PollToken::Listener(place), Some(due));
            }
        }
    }

    fn welcome(&mut self, mut accepted: Accepted, now: Moment) {
        let source = self.connections.guests.source_of(&accepted.peer);
        accepted.is_proxy = is_proxy(&accepted.peer, &self.config.relay.proxy_protocol);
        if !accepted.is_proxy && self.is_blocked(source, now) {
            return;
        }
        let tls = match &accepted.peer {
            Peer::Local(_) if !self.connections.has_place_for_local() => {
                return warn!("refused {}: too many local connections", accepted.peer);
            }
            Peer::Local(_) => None,
            Peer::Remote(_) | Peer::Proxied(_) | Peer::Bridged { .. } => {
                match rustls::ServerConnection::new(self.identity.tls.config.clone()) {
                    Ok(tls) => Some(tls),
                    Err(error) => {
                        return error!("TLS cannot begin for {}: {error}", accepted.peer);
                    }
                }
            }
        };
        if let Peer::Remote(_) = accepted.peer {
            self.make_room_for_new(source, now);
        }
        let origin = accepted.peer.to_string();
        let certificate = self.identity.sha256;
        let reactor = &mut self.reactor;
        match self.connections.add(accepted, tls, certificate, reactor, now.instant) {
            Err(error) => error!("cannot watch the connection of {origin}: {error}"),
            Ok(number) => debug!("peer {number}: {origin} connected"),
        }
    }

    /// Serves peers in turn until all are served or the time for that is over.
    fn serve_peers(&mut self, now: Moment) {
        let budget = Budget::of(TURN);
        while let Some(number) = self.connections.next_turn() {
            self.serve(number, now);
            if budget.is_spent() {
                break;
            }
        }
    }

    /// Reads from a peer and processes a bounded number of messages.
    fn serve(&mut self, number: PeerNumber, now: Moment) {
        let mut may_read = true;
        let mut messages = 0;
        loop {
            let Some(connected) = self.connections.get(number) else { return };
            if !connected.is_heard() {
                break;
            }
            if messages >= MESSAGES {
                self.reactor.again(PollToken::Peer(number));
                break;
            }
            if let Some(text) = connected.waiting.take() {
                messages += 1;
                self.on_message(number, text, now);
                continue;
            }
            match connected.connection.next(now.instant) {
                Err(end) => return self.ended.push((number, end)),
                Ok(Some(incoming)) => {
                    messages += cost(&incoming);
                    self.on_incoming(number, incoming, now);
                    continue;
                }
                Ok(None) if !connected.readable => break,
                Ok(None) if !may_read => {
                    self.reactor.again(PollToken::Peer(number));
                    break;
                }
                Ok(None) => {}
            }
            may_read = false;
            match connected.connection.read(&mut self.scratch, now.instant) {
                Err(end) => return self.ended.push((number, end)),
                Ok(more) => connected.readable = more,
            }
            if !connected.is_admitted() {
                // It may contain a secret.
                self.scratch[..].zeroize();
                self.connections.guests.note_progress(number, now.instant);
            }
        }
        self.look_at_end(number);
        self.connections.count_unfinished(number);
        self.connections.touch(number);
    }

    /// Removes a peer that is closing from the relay state at once: its connection may take time to
    /// end.
    fn look_at_end(&mut self, number: PeerNumber) {
        let connected = self.connections.peek(number);
        if connected.is_some_and(|connected| !connected.connection.is_open()) {
            self.take_out(number);
        }
    }

    fn take_out(&mut self, number: PeerNumber) {
        if self.relay.peer(number).is_none() {
            return;
        }
        let name = self.name(number);
        if let Some(connected) = self.connections.get(number) {
            connected.name = name;
        }
        self.relay.disconnect(number);
    }

    fn on_incoming(&mut self, number: PeerNumber, incoming: Incoming, now: Moment) {
        let Some(connected) = self.connections.get(number) else { return };
        match incoming {
            Incoming::ProxyHeader(address) => self.on_proxy_header(number, address, now),
            Incoming::Upgrade(upgrade) => {
                let origin = upgrade.origin.as_deref();
                if !self.origins.allows(origin, connected.on_loopback) {
                    connected.connection.answer(HttpAnswer::OriginRefused, now.instant);
                    let (place, origin) = (&connected.origin, origin.unwrap_or_default());
                    return warn!("refused {place}: origin {origin:?} is not ours");
                }
                let is_original = origin == Some(ORIGINAL_SERVER);
                if !self.end_handshake(number, now) {
                    return;
                }
                let Some(connected) = self.connections.get(number) else { return };
                if is_original {
                    connected.connection.end_bare();
                }
                connected.connection.accept(now.instant);
                if !connected.is_local() {
                    match random_hex(ID) {
                        Ok(id) => self.relay.connect(number, id),
                        Err(why) => {
                            error!("closing peer at {}: {why}, 1011", connected.origin);
                            let reason = CloseReason::new(1011, "no random bits");
                            return self.close(number, &reason, true, now);
                        }
                    }
                    self.carry_out_effects(now);
                }
            }
            Incoming::Message(text) => {
                let text = Zeroizing::new(text);
                if connected.is_local() {
                    self.answer_operator(number, &text, now);
                } else {
                    self.on_message(number, text, now);
                }
            }
        }
    }

    /// Processes a message of a peer. A message for a peer with a long queue waits together with
    /// its sender.
    fn on_message(&mut self, number: PeerNumber, text: Zeroizing<String>, now: Moment) {
        let recipient = self.relay.recipient(number, &text);
        match recipient.filter(|reader| self.connections.is_to_be_waited_for(*reader, now.instant))
        {
            Some(reader) => {
                self.connections.hold(number, text, reader, &mut self.reactor, now.instant);
            }
            None => {
                self.relay.take(number, &text, now.instant);
                self.carry_out_effects(now);
            }
        }
    }

    /// Replies to an operator's status request.
    fn answer_operator(&mut self, number: PeerNumber, text: &str, now: Moment) {
        let Some(connected) = self.connections.get(number) else { return };
        let may = match &connected.origin {
            Peer::Local(who) => who.uid == 0 || who.uid == geteuid().as_raw(),
            Peer::Remote(_) | Peer::Proxied(_) | Peer::Bridged { .. } => false,
        };
        let refuse = |code, why: &str| Err(Refusal::new(code, why));
        let (reply_to, result) = match Request::parse(text) {
            Ok(Frame::Answer) => return,
            Err(bad) => (bad.reply_to, Err(bad.refusal)),
            Ok(Frame::Request(request)) => {
                let result = match request.command {
                    _ if !may => refuse(
                        ErrorCode::Forbidden,
                        "only root and the user of the relay may do this",
                    ),
                    Ok(Command::Identify) => Ok(Reply::relay_identity(&self.hostname)),
                    Ok(Command::Status { .. }) => Ok(Reply::Table(self.status(now))),
                    Ok(_) | Err(_) => refuse(
                        ErrorCode::NotFound,
                        "a bridge answers rpc/status and rpc/identify on its socket",
                    ),
                };
                (request.reply_to, result)
            }
        };
        self.connections.push(number, reply(&reply_to, &result));
    }

    fn carry_out_effects(&mut self, now: Moment) {
        while let Some(effect) = self.relay.next_effect() {
            match effect {
                Effect::Send { to, text } => {
                    self.connections.push(to, text);
                }
                Effect::Forward { to, frame, .. } => {
                    self.forwarded.frames += 1;
                    self.forwarded.bytes += frame.len() as u64;
                    self.connections.push(to, frame);
                }
                Effect::Judge { peer, reply_to, test_string, proof } => {
                    self.judge(peer, reply_to, test_string, proof, now);
                }
                Effect::Deauthenticated(number) => {
                    if let Some(connected) = self.connections.get(number) {
                        let origin = connected.origin.clone();
                        if self.make_room_without_identity(&origin, now) {
                            self.connections.make_unauthenticated(number, now.instant);
                        } else {
                            let why = "it gave up its identity, and the pool of unauthenticated connections is full";
                            self.end(number, why, now);
                        }
                    }
                }
                Effect::Close { peer, reason } => {
                    warn!("closing {}: {}, {}", self.name(peer), reason.why, reason.code);
                    self.close(peer, &reason, true, now);
                }
            }
        }
    }

    /// Name of a peer for the log: its key, kind, host name and address.
    fn name(&self, number: PeerNumber) -> String {
        let Some(connected) = self.connections.peek(number) else { return String::new() };
        let Some(peer) = self.relay.peer(number).filter(|_| connected.name.is_empty()) else {
            return match connected.name.as_str() {
                "" => format!("unauthenticated peer at {}", connected.origin),
                name => name.to_owned(),
            };
        };
        let mut name = match &peer.standing {
            Standing::Known(Registration { name, .. }) | Standing::Revoked(name) => {
                format!("peer {name:?}")
            }
            Standing::Unauthenticated => "unauthenticated peer".to_owned(),
        };
        if let Some(kind) = peer.kind {
            name.push_str(&format!(" ({} {:?})", kind.name(), peer.hostname));
        }
        name.push_str(&format!(" at {}", connected.origin));
        name
    }

    /// Closes a connection, and removes its peer from the relay state at once.
    fn close(
        &mut self,
        number: PeerNumber,
        reason: &CloseReason,
        what_waits_too: bool,
        now: Moment,
    ) {
        self.take_out(number);
        self.connections.close(number, reason, what_waits_too, now.instant);
        self.connections.resume_all(number, &mut self.reactor, now.instant);
    }

    fn on_peer_deadline(&mut self, number: PeerNumber, now: Moment) {
        let Some(connected) = self.connections.get(number) else { return };
        if !connected.is_heard() {
            connected.connection.excuse(now.instant);
        }
        if let Err(end) = connected.connection.on_deadline(now.instant) {
            return self.ended.push((number, end));
        }
        if connected.is_authentication_overdue(now.instant) {
            let reason = CloseReason::new(1008, "authentication did not come in time");
            self.close(number, &reason, false, now);
        }
        self.look_at_end(number);
        self.connections.touch(number);
    }

    /// Carries out effects until there are none.
    fn settle(&mut self, now: Moment) {
        let budget = Budget::of(TURN);
        loop {
            let at = now.instant;
            self.relay.send_lists(at, |number| self.connections.has_room_for(number));
            self.carry_out_effects(now);
            self.close_overflowing(now);
            let over = self.connections.flush(budget, &mut self.reactor, now.instant);
            self.ended.extend(over);
            let has_news = self.relay.has_news(at, |number| self.connections.has_room_for(number));
            if self.ended.is_empty() && (!has_news || budget.is_spent()) {
                break;
            }
            for (number, end) in std::mem::take(&mut self.ended) {
                self.end(number, &end.to_string(), now);
            }
        }
        if self.connections.is_busy() {
            self.reactor.again(PollToken::Turn);
        }
        self.reactor.set_deadline(PollToken::News, self.relay.lists_due(now.instant));
        if self.phase == Phase::Leaving && self.connections.is_empty() {
            self.phase = Phase::Over;
        }
    }

    fn close_overflowing(&mut self, now: Moment) {
        for number in std::mem::take(&mut self.connections.overflowing) {
            self.close_slow(number, "its queue is full (queue)", now);
        }
        for _ in 0..CLOSED_AT_ONCE {
            let Some(number) = self.connections.fullest() else { return };
            let why = "all queues together are full (queue_total)";
            if self.connections.peek(number).is_some_and(|c| c.connection.is_open()) {
                self.close_slow(number, why, now);
                self.connections.give_up_unfinished(number);
            } else {
                // It was closed with a reason, but has not even read the rest of a frame in flight.
                self.end(number, why, now);
            }
        }
        self.reactor.again(PollToken::Turn);
    }

    fn close_slow(&mut self, number: PeerNumber, why: &str, now: Moment) {
        let Some(connected) = self.connections.get(number) else { return };
        if !connected.connection.is_open() {
            return;
        }
        warn!("closing {}: it does not read, {why}, 1013", self.name(number));
        let reason = CloseReason::new(1013, "too slow: the queue is full");
        self.close(number, &reason, false, now);
    }

    fn end(&mut self, number: PeerNumber, why: &str, now: Moment) {
        let name = self.name(number);
        self.relay.disconnect(number);
        if let Some(connected) = self.connections.remove(number, &mut self.reactor, now.instant) {
            if connected.is_admitted() && !connected.is_local() {
                info!("{name} is gone: {why}");
            } else {
                debug!("{name} is gone: {why}");
            }
        }
    }

    fn stop(&mut self, now: Moment) {
        match self.phase {
            Phase::Serving => {
                info!("stopping: {} peers are connected", self.connections.peers());
                self.phase = Phase::Leaving;
                for mut listening in self.listeners.drain(..) {
                    listening.stop(&mut self.reactor);
                }
                let reason = CloseReason::new(1001, "the bridge stops");
                for number in self.connections.numbers() {
                    self.close(number, &reason, true, now);
                }
                let due = now.instant + self.config.relay.close_timeout;
                self.reactor.set_deadline(PollToken::Stop, Some(due));
            }
            Phase::Leaving | Phase::Over => self.phase = Phase::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_for_the_relay_cost_more_of_a_turn_than_forwarded_ones() {
        let message = |text: String| cost(&Incoming::Message(text));
        assert_eq!(message(format!("id\n{}", "x".repeat(200_000))), 1);
        assert_eq!(message(r#"{"namespace":"rpc","name":"identify"}"#.to_owned()), 1);
        // The maximum number of keys in a list.
        let checksums = "\"AAAAAAAAAAAAAAAAAAAAAA==\",".repeat(crate::wire::MOST_CHECKSUMS);
        assert!(message(format!("{{{checksums}}}")) > MESSAGES / 2);
    }
}
