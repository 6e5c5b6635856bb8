//! All connections: peers, unauthenticated connections, and operators on this host.
//!
//! The queue of a peer is bounded, and a peer whose queue overflows is closed: no other peer waits
//! for it. Only while a sender is faster than a peer that does read, the sender is not read, so
//! that a burst closes no connection. Senders that wait for one peer take turns.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::Interest;
use zeroize::Zeroizing;

use super::PollToken;
use super::reading::Reading;
use super::words::Words;
use crate::auth::key::{KeyId, LegacySearch};
use crate::bridge::relay::PeerNumber;
use crate::charge::{Account, Charge};
use crate::daemon::{FrontLimits, Guest, Guests};
use crate::moment::Budget;
use crate::net::{
    Accepted, Answer, CloseReason, Connection, End, Flushed, Full, Outbox, Peer, Source,
    TransportLimits,
};
use crate::reactor::{Reactor, Registered};
use crate::turns::Turns;
use crate::wire::ReplyTo;

/// The payer for what a connection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// The key that the peer has shown.
    Key(KeyId),
    /// Peers that are not authenticated, by origin, and operators.
    Origin(Source),
}

/// One connection.
pub(super) struct Connected {
    pub(super) connection: Connection<Words>,
    pub(super) origin: Peer,
    /// The user who is charged for its resources.
    owner: Owner,
    /// A message that has begun and not ended.
    inbox: Charge,
    /// It waits for its turn to be served.
    queued: bool,
    /// Only this host can have connected: see [`Accepted`].
    pub(super) on_loopback: bool,
    /// Its name after the relay state has dropped it.
    pub(super) name: String,
    /// SHA-256 of the certificate presented to it.
    pub(super) certificate: [u8; 32],
    registered: Option<Registered>,
    /// The socket may have more input.
    pub(super) readable: bool,
    /// A delayed reply; reading is paused until it is sent.
    pub(super) delayed: Option<String>,
    /// The legacy key that it has shown is looked for; it is not read until that is over.
    pub(super) search: Option<(ReplyTo, LegacySearch)>,
    /// Reading is paused because this peer reads more slowly.
    held_by: Option<PeerNumber>,
    held_since: Instant,
    /// The message received then, accounted like an incomplete one.
    pub(super) waiting: Option<Zeroizing<String>>,
    /// Senders paused because of this peer, in the order in which they began to wait.
    holds: VecDeque<PeerNumber>,
    reading: Reading,
    dirty: bool,
    /// Deadline for authentication.
    auth_due: Option<Instant>,
    admitted: bool,
}

impl Connected {
    pub(super) fn is_local(&self) -> bool {
        matches!(self.origin, Peer::Local(_))
    }

    /// Whether it is to be read.
    pub(super) fn is_heard(&self) -> bool {
        !self.is_held_up() && self.held_by.is_none()
    }

    /// Whether it reads so little of its queue that no sender should wait for it.
    fn is_stuck(&mut self, limits: &ConnectionLimits, now: Instant) -> bool {
        self.reading.is_stuck(self.connection.sent(), limits.queue, limits.pause, now)
    }

    /// Bytes that it holds: what waits for it, and what it has sent of a message.
    fn used(&self) -> usize {
        self.connection.outbox.used() + self.inbox.amount()
    }

    fn due(&self) -> Option<Instant> {
        // A peer whose reply is delayed is not late.
        let auth_due = self.auth_due.filter(|_| !self.is_held_up());
        [self.connection.due(), auth_due].into_iter().flatten().min()
    }

    pub(super) fn is_authentication_overdue(&self, now: Instant) -> bool {
        !self.is_held_up() && self.auth_due.is_some_and(|due| due <= now)
    }
}

impl Guest for Connected {
    fn peer(&self) -> &Peer {
        &self.origin
    }

    fn is_admitted(&self) -> bool {
        self.admitted
    }

    fn is_held_up(&self) -> bool {
        self.delayed.is_some() || self.search.is_some()
    }

    fn has_unread_start(&self) -> bool {
        self.connection.has_unread_start()
    }

    fn is_silent(&self) -> bool {
        self.connection.is_silent()
    }

    fn answer(&mut self, answer: Answer, now: Instant) {
        self.connection.answer(answer, now);
    }

    fn queued(&mut self) -> &mut bool {
        &mut self.queued
    }

    fn dirty(&mut self) -> &mut bool {
        &mut self.dirty
    }
}

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    pub(super) max_peers: usize,
    pub(super) front: FrontLimits,
    pub(super) max_message: usize,
    pub(super) queue: usize,
    pub(super) queue_total: usize,
    pub(super) pause: Duration,
    pub(super) connection: TransportLimits,
}

/// Maximum number of operators at a time.
const LOCAL_PLACES: usize = 8;
/// Maximum size of a message of an unauthenticated client, in bytes.
const UNAUTHENTICATED_MESSAGE: usize = 8 * 1024;
/// Maximum size of the queue of an unauthenticated client, in bytes.
const UNAUTHENTICATED_QUEUE: usize = 64 * 1024;

/// All connections.
pub(super) struct Connections {
    pub(super) limits: ConnectionLimits,
    pub(super) guests: Guests<Connected>,
    locals: usize,
    total: Account,
    /// Peers that have something to be read.
    turns: Turns<Owner>,
    /// Those whose queue overflowed.
    pub(super) overflowing: Vec<PeerNumber>,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Connections {
        Connections {
            limits,
            guests: Guests::new(limits.front),
            locals: 0,
            total: Account::default(),
            turns: Turns::default(),
            overflowing: Vec::new(),
        }
    }

    pub(super) fn set_limits(&mut self, limits: ConnectionLimits, now: Instant) {
        self.limits = limits;
        for connected in self.guests.map.values_mut() {
            connected.connection.set_limits(limits.connection, now);
            if connected.admitted {
                connected.connection.outbox.set_limit(limits.queue);
                connected.connection.max_message = limits.max_message;
            }
        }
        self.guests.set_limits(limits.front);
    }

    pub(super) fn get(&mut self, number: PeerNumber) -> Option<&mut Connected> {
        self.guests.map.get_mut(&number)
    }

    pub(super) fn peek(&self, number: PeerNumber) -> Option<&Connected> {
        self.guests.map.get(&number)
    }

    /// Whether its queue is less than half full.
    pub(super) fn has_room_for(&self, number: PeerNumber) -> bool {
        self.guests.map.get(&number).is_none_or(|c| c.connection.outbox.is_below_half())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerNumber, &Connected)> {
        self.guests.map.iter().map(|(number, connected)| (*number, connected))
    }

    pub(super) fn numbers(&self) -> Vec<PeerNumber> {
        self.guests.numbers()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.guests.map.is_empty()
    }

    pub(super) fn unauthenticated(&self) -> usize {
        self.guests.unauthenticated.len()
    }

    /// Number of authenticated peers.
    pub(super) fn peers(&self) -> usize {
        self.guests.map.len() - self.guests.unauthenticated.len() - self.locals
    }

    /// Bytes in all queues.
    pub(super) fn waiting(&self) -> usize {
        self.total.used()
    }

    /// A proxy has named the client of a connection, which is charged for it from now on.
    pub(super) fn set_peer(&mut self, number: PeerNumber, client: Peer) {
        if let Some(connected) = self.guests.map.get_mut(&number) {
            connected.owner = Owner::Origin(client.source());
            (connected.origin, connected.on_loopback) = (client, false);
        }
    }

    pub(super) fn has_place_for_local(&self) -> bool {
        self.locals < LOCAL_PLACES
    }

    /// Whether there is a place for one more peer with this key: a key has at most half of the places
    /// that the others leave.
    pub(super) fn has_place_for_peer(&self, key: KeyId) -> bool {
        let of_key = |connected: &&Connected| connected.owner == Owner::Key(key);
        let own = self.guests.map.values().filter(of_key).count();
        own < self.limits.max_peers.saturating_sub(self.peers())
    }

    /// Adds a connection.
    pub(super) fn add(
        &mut self,
        accepted: Accepted,
        tls: Option<rustls::ServerConnection>,
        certificate: [u8; 32],
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> std::io::Result<PeerNumber> {
        let Accepted { socket, peer: origin, on_loopback, is_proxy, .. } = accepted;
        let number = self.guests.next_number();
        let outbox = Outbox::new(UNAUTHENTICATED_QUEUE, &self.total);
        let limits = self.limits.connection;
        let mut connection =
            Connection::new(socket, tls, outbox, UNAUTHENTICATED_MESSAGE, limits, now);
        if is_proxy {
            connection.expect_proxy_header();
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered =
            reactor.register(connection.socket(), interest, PollToken::Peer(number))?;
        let is_local = matches!(origin, Peer::Local(_));
        if is_local {
            self.locals += 1;
            connection.outbox.set_limit(self.limits.queue);
        } else {
            self.guests.unauthenticated.add(number, self.guests.source_of(&origin), now);
        }
        let connected = Connected {
            connection,
            owner: Owner::Origin(origin.source()),
            inbox: Charge::new(&self.total, 0),
            queued: false,
            origin,
            on_loopback,
            name: String::new(),
            certificate,
            registered: Some(registered),
            readable: true,
            delayed: None,
            search: None,
            held_by: None,
            held_since: now,
            waiting: None,
            holds: VecDeque::new(),
            reading: Reading::default(),
            dirty: false,
            auth_due: (!is_local).then_some(now + self.limits.front.auth),
            admitted: is_local,
        };
        self.guests.map.insert(number, connected);
        Ok(number)
    }

    /// An unauthenticated peer has shown this key, and there is a place for it.
    pub(super) fn admit(&mut self, number: PeerNumber, key: KeyId) {
        let Some(connected) = self.guests.map.get_mut(&number) else { return };
        connected.owner = Owner::Key(key);
        connected.admitted = true;
        connected.auth_due = None;
        connected.connection.outbox.set_limit(self.limits.queue);
        connected.connection.max_message = self.limits.max_message;
        self.guests.unauthenticated.remove(number);
    }

    /// Moves a peer that has given up its identity back into the pool.
    pub(super) fn make_unauthenticated(&mut self, number: PeerNumber, now: Instant) {
        if let Some(connected) = self.guests.map.get_mut(&number).filter(|c| c.admitted) {
            connected.owner = Owner::Origin(connected.origin.source());
            connected.admitted = false;
            connected.auth_due = Some(now + self.limits.front.auth);
            connected.connection.outbox.set_limit(UNAUTHENTICATED_QUEUE);
            connected.connection.max_message = UNAUTHENTICATED_MESSAGE;
            let origin = connected.origin.clone();
            self.guests.unauthenticated.add_ready(number, self.guests.source_of(&origin), now);
        }
    }

    pub(super) fn remove(
        &mut self,
        number: PeerNumber,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> Option<Connected> {
        let mut connected = self.guests.map.remove(&number)?;
        self.guests.unauthenticated.remove(number);
        self.locals -= usize::from(connected.is_local());
        for key in [PollToken::Peer(number), PollToken::Delayed(number), PollToken::Held(number)] {
            reactor.set_deadline(key, None);
        }
        if let Some(registered) = connected.registered.take() {
            reactor.deregister(connected.connection.socket(), registered);
        }
        for held in std::mem::take(&mut connected.holds) {
            self.resume(held, number, reactor, now);
        }
        Some(connected)
    }

    /// Queues a message for a peer, unless that is being closed.
    pub(super) fn push(&mut self, number: PeerNumber, text: String) {
        let Some(connected) = self.guests.map.get_mut(&number).filter(|c| c.connection.is_open())
        else {
            return;
        };
        if let Err(Full) = connected.connection.outbox.push(Words(Rc::from(text.into_bytes()))) {
            self.overflowing.push(number);
        }
        self.touch(number);
    }

    /// Whether a peer has a long queue and reads it.
    pub(super) fn is_to_be_waited_for(&mut self, reader: PeerNumber, now: Instant) -> bool {
        let limits = &self.limits;
        let reader = self.guests.map.get_mut(&reader);
        reader.is_some_and(|r| !r.connection.outbox.is_below_half() && !r.is_stuck(limits, now))
    }

    /// Pauses `sender` together with its last message until `reader` has read enough.
    pub(super) fn hold(
        &mut self,
        sender: PeerNumber,
        text: Zeroizing<String>,
        reader: PeerNumber,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) {
        let Some(fast) = self.guests.map.get_mut(&sender) else { return };
        fast.held_by = Some(reader);
        fast.held_since = now;
        fast.waiting = Some(text);
        fast.connection.pause();
        reactor.set_deadline(PollToken::Held(sender), Some(now + self.limits.pause));
        if let Some(slow) = self.guests.map.get_mut(&reader) {
            slow.holds.push_back(sender);
        }
    }

    /// The maximum pause of a sender is over: it is read again, unless its peer has read enough
    /// meanwhile.
    pub(super) fn on_held(
        &mut self,
        sender: PeerNumber,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) {
        let Some(fast) = self.guests.map.get(&sender) else { return };
        let Some(reader) = fast.held_by else { return };
        let waited = now.saturating_duration_since(fast.held_since);
        let limits = &self.limits;
        let is_given_up = |slow: &mut Connected| {
            let sent = slow.connection.sent();
            slow.reading.is_given_up(waited, sent, limits.queue, limits.pause, now)
        };
        if self.guests.map.get_mut(&reader).is_some_and(|slow| !is_given_up(slow)) {
            return reactor.set_deadline(PollToken::Held(sender), Some(now + limits.pause));
        }
        self.resume_all(reader, reactor, now);
    }

    /// Resumes all senders that wait for this peer.
    pub(super) fn resume_all(
        &mut self,
        reader: PeerNumber,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) {
        let Some(slow) = self.guests.map.get_mut(&reader) else { return };
        for held in std::mem::take(&mut slow.holds) {
            self.resume(held, reader, reactor, now);
        }
    }

    /// Resumes the sender that has waited longest; the next one follows in the next turn.
    fn resume_first(&mut self, reader: PeerNumber, reactor: &mut Reactor<PollToken>, now: Instant) {
        while let Some(slow) = self.guests.map.get_mut(&reader)
            && let Some(first) = slow.holds.pop_front()
        {
            if self.resume(first, reader, reactor, now) {
                return self.touch(reader);
            }
        }
    }

    /// False where it is gone.
    fn resume(
        &mut self,
        sender: PeerNumber,
        reader: PeerNumber,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> bool {
        let Some(fast) =
            self.guests.map.get_mut(&sender).filter(|fast| fast.held_by == Some(reader))
        else {
            return false;
        };
        fast.held_by = None;
        fast.connection.excuse(now);
        reactor.set_deadline(PollToken::Held(sender), None);
        reactor.again(PollToken::Peer(sender));
        true
    }

    /// Marks a connection for output, or for a changed deadline.
    pub(super) fn touch(&mut self, number: PeerNumber) {
        self.guests.touch(number);
    }

    /// Gives a peer a turn, unless it waits for one already.
    pub(super) fn enqueue(&mut self, number: PeerNumber) {
        if self.guests.is_to_be_enqueued(number)
            && let Some(connected) = self.guests.map.get(&number)
        {
            self.turns.enqueue(connected.owner, number);
        }
    }

    /// The peer whose turn it is. It may be gone.
    pub(super) fn next_turn(&mut self) -> Option<PeerNumber> {
        let number = self.turns.take_next()?;
        self.guests.begin_turn(number);
        Some(number)
    }

    /// Whether a peer waits for its turn, or to be flushed.
    pub(super) fn is_busy(&self) -> bool {
        !self.turns.is_empty() || !self.guests.dirty.is_empty()
    }

    /// Charges the unfinished message of a peer.
    pub(super) fn count_unfinished(&mut self, number: PeerNumber) {
        if let Some(connected) = self.guests.map.get_mut(&number) {
            connected.inbox.set(connected.connection.unfinished());
        }
    }

    /// Discards the unfinished message of a peer; its connection ends.
    pub(super) fn give_up_unfinished(&mut self, number: PeerNumber) {
        if let Some(connected) = self.guests.map.get_mut(&number).filter(|c| c.inbox.amount() > 0) {
            connected.connection.give_up_unfinished();
        }
        self.count_unfinished(number);
    }

    /// Sends as much as possible to all marked connections, until `budget` is spent. Returns those
    /// that ended.
    pub(super) fn flush(
        &mut self,
        budget: Budget,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> Vec<(PeerNumber, End)> {
        let (mut over, mut unfinished) = (Vec::new(), Vec::new());
        let mut waiting = std::mem::take(&mut self.guests.dirty).into_iter();
        for number in waiting.by_ref() {
            let Some(connected) = self.guests.map.get_mut(&number) else { continue };
            connected.dirty = false;
            match connected.connection.flush(now) {
                Err(end) => {
                    over.push((number, end));
                    continue;
                }
                Ok(Flushed::InPart) => {
                    connected.dirty = true;
                    unfinished.push(number);
                }
                Ok(Flushed::All | Flushed::Blocked) => {}
            }
            reactor.set_deadline(PollToken::Peer(number), connected.due());
            if connected.connection.outbox.is_below_half() {
                connected.reading.has_room(connected.connection.outbox.is_empty());
                self.resume_first(number, reactor, now);
            }
            if budget.is_spent() {
                break;
            }
        }
        self.guests.dirty.extend(waiting.chain(unfinished));
        over
    }

    /// The one that holds the most, of the key or origin that does, if all together hold more than
    /// they may.
    pub(super) fn fullest(&self) -> Option<PeerNumber> {
        if self.total.used() <= self.limits.queue_total {
            return None;
        }
        let mut sums: BTreeMap<Owner, usize> = BTreeMap::new();
        for connected in self.guests.map.values() {
            *sums.entry(connected.owner).or_default() += connected.used();
        }
        let (owner, _) = sums.into_iter().max_by_key(|(_, sum)| *sum)?;
        let of_owner = self.guests.map.iter().filter(|(_, connected)| connected.owner == owner);
        of_owner.max_by_key(|(_, connected)| connected.used()).map(|(number, _)| *number)
    }

    /// Closes a connection with a reason, after its queue if requested.
    pub(super) fn close(
        &mut self,
        number: PeerNumber,
        reason: &CloseReason,
        what_waits_too: bool,
        now: Instant,
    ) {
        if let Some(connected) = self.guests.map.get_mut(&number) {
            connected.auth_due = None;
            if what_waits_too {
                connected.connection.close_when_sent(reason, now);
            } else {
                connected.connection.close(reason, now);
            }
            self.touch(number);
        }
    }
}
