//! All connections: authenticated clients, and a separate pool of unauthenticated ones.
//!
//! An unauthenticated connection never takes an authenticated client's place; see
//! [`UnauthenticatedPool`] for its limits. And no client can delay another: each is read a little
//! at a time, and unread output stays in the client's own outbox until that is full.

use std::ops::Bound;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::Interest;
use zeroize::Zeroize;

use super::PollToken;
use super::carrier::Carrier;
use super::queued::QueuedMessage;
use super::users::{Owner, Users};
use crate::auth::Proof;
use crate::auth::key::LegacySearch;
use crate::bridge::link::Caller;
use crate::charge::Charge;
use crate::daemon::{FrontLimits, Guest, Guests};
use crate::moment::Budget;
use crate::net::{
    Accepted, Answer, CloseReason, Connection, End, Flushed, Full, Outbox, Peer, TransportLimits,
};
use crate::reactor::{Reactor, Registered};
use crate::session::{Known, Session};
use crate::wire::{KeyCommand, Published, Refusal, Reply, ReplyTo, Spelling};

pub(super) type ClientId = u64;

/// A request whose reply is pending. The client is not read meanwhile, so that replies stay in
/// order.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) reply_to: ReplyTo,
    pub(super) until: Until,
}

/// End of a wait.
#[derive(Debug)]
pub(super) enum Until {
    /// The jobs of the client are durable; then this is the reply.
    Filed {
        reply: Reply,
        /// Number of those that are not.
        left: usize,
        failed: Option<String>,
    },
    /// The store has answered.
    Stored,
    /// A password, or the account of a key's owner, was checked.
    Proven,
    /// The client's name was looked up for this request; without one, keys were changed.
    Keys(Option<KeyCommand>),
    /// The key of a signature was looked for among the legacy keys, one in each turn of the client.
    LegacyKey(LegacySearch),
    /// The name of a user without a role was looked up, for the refusal of a request.
    Named,
    /// A target of notifications was tested.
    Tested,
    /// The delay of this error is over.
    Delayed(Refusal),
}

/// One connection with its session.
pub(super) struct Client {
    pub(super) connection: Carrier,
    pub(super) session: Session,
    pub(super) peer: Peer,
    /// The user whose share it is charged to.
    owner: Owner,
    /// Charge for the connection.
    place: Charge,
    /// Charge for an incomplete message.
    inbox: Charge,
    /// The request that waits.
    request: Charge,
    /// It waits for its turn.
    queued: bool,
    tls: bool,
    /// Only this host can have connected: see [`Accepted`].
    pub(super) on_loopback: bool,
    registered: Option<Registered>,
    /// The socket may have more input.
    pub(super) readable: bool,
    /// Reading is paused until its outbox has room.
    pub(super) stalled: bool,
    /// Reading is paused until this is complete.
    pub(super) waiting: Option<Wait>,
    /// A job's outcome is being read for it; its backlog is paused meanwhile.
    pub(super) reads_outcome: bool,
    /// It has output.
    dirty: bool,
    /// Deadline for authentication.
    auth_due: Option<Instant>,
    admitted: bool,
    /// Its identity and the proof of it, when last checked.
    pub(super) seen_as: Option<(u32, Proof)>,
}

impl Client {
    /// The client gets no reply to this request, and is not read, before `until`.
    pub(super) fn wait(&mut self, reply_to: ReplyTo, until: Until) {
        self.waiting = Some(Wait { reply_to, until });
    }

    /// The end of the wait; `None` for a client that does not wait.
    pub(super) fn waits_until(&mut self) -> Option<&mut Until> {
        self.waiting.as_mut().map(|wait| &mut wait.until)
    }

    /// True where the connection is its own and not a link's.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.connection, Carrier::Direct(_))
    }

    /// Name for the log.
    pub(super) fn name(&self) -> String {
        let way = if self.tls { " over TLS" } else { "" };
        match (self.session.identity(), &self.peer) {
            (Some(who), Peer::Remote(_) | Peer::Proxied(_) | Peer::Bridged { .. }) => {
                format!("{} at {}{way}", who.user, self.peer)
            }
            (Some(_) | None, _) => format!("{}{way}", self.peer),
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        // A client that waits for the server is not late.
        let auth_due = self.auth_due.filter(|_| self.waiting.is_none());
        [self.connection.due(), auth_due].into_iter().flatten().min()
    }

    pub(super) fn is_authentication_overdue(&self, now: Instant) -> bool {
        self.waiting.is_none() && self.auth_due.is_some_and(|due| due <= now)
    }
}

impl Guest for Client {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn is_admitted(&self) -> bool {
        self.admitted
    }

    fn is_held_up(&self) -> bool {
        let until = self.waiting.as_ref().map(|wait| &wait.until);
        matches!(until, Some(Until::Proven | Until::LegacyKey(_)))
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

/// Limits of clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientLimits {
    pub(super) max_clients: usize,
    pub(super) front: FrontLimits,
    pub(super) max_message: usize,
    pub(super) outbox: usize,
    pub(super) outbox_total: usize,
    pub(super) inbox_total: usize,
    pub(super) connection: TransportLimits,
}

/// Places beyond `max_clients` for root and the daemon's own user at the local socket.
const RESERVED_PLACES: usize = 8;
/// Requests of one user that wait for the store or for a worker.
const REQUESTS: usize = 128;
/// Replies to one user take at most this fraction of `outbox_total`.
const REPLY_PART: usize = 2;
/// Maximum size of a message of an unauthenticated client, in bytes.
pub(super) const UNAUTHENTICATED_MESSAGE: usize = 8 * 1024;
/// Maximum size of the outbox of an unauthenticated client, in bytes: a reply is hardly longer than
/// its request. All of them together must not use up `outbox_total`.
const UNAUTHENTICATED_OUTBOX: usize = 64 * 1024;

/// All connections.
pub(super) struct Clients {
    pub(super) limits: ClientLimits,
    pub(super) guests: Guests<Client>,
    users: Users,
    /// Clients whose outbox overflowed.
    pub(super) overflowing: Vec<ClientId>,
    /// Clients behind a relay that have output for their link.
    pub(super) speaking: Vec<ClientId>,
}

impl Clients {
    pub(super) fn new(limits: ClientLimits) -> Clients {
        Clients {
            limits,
            guests: Guests::new(limits.front),
            users: Users::default(),
            overflowing: Vec::new(),
            speaking: Vec::new(),
        }
    }

    pub(super) fn set_limits(&mut self, limits: ClientLimits, now: Instant) {
        self.limits = limits;
        for client in self.guests.map.values_mut() {
            client.connection.set_limits(limits.connection, now);
            if client.admitted {
                client.connection.set_bounds(limits.max_message, limits.outbox);
            }
        }
        self.guests.set_limits(limits.front);
    }

    pub(super) fn get(&mut self, id: ClientId) -> Option<&mut Client> {
        self.guests.map.get_mut(&id)
    }

    /// User name of a session.
    pub(super) fn user(&self, id: ClientId) -> Option<String> {
        Some(self.guests.map.get(&id)?.session.identity()?.user.clone())
    }

    /// The clients after that one, by number.
    pub(super) fn after(&self, id: ClientId) -> impl Iterator<Item = (&ClientId, &Client)> {
        self.guests.map.range((Bound::Excluded(id), Bound::Unbounded))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ClientId, &Client)> {
        self.guests.map.iter()
    }

    pub(super) fn ids(&self) -> Vec<ClientId> {
        self.guests.numbers()
    }

    pub(super) fn len(&self) -> usize {
        self.guests.map.len()
    }

    pub(super) fn unauthenticated(&self) -> usize {
        self.guests.unauthenticated.len()
    }

    /// Bytes in all outboxes.
    pub(super) fn outbox_bytes(&self) -> usize {
        self.users.outbox_bytes()
    }

    fn admitted(&self) -> usize {
        self.guests.map.len() - self.guests.unauthenticated.len()
    }

    /// Adds a connection; `tls` includes the SHA-256 of the presented certificate. A peer with a
    /// role by the kernel is authenticated from the start.
    pub(super) fn add(
        &mut self,
        accepted: Accepted,
        tls: Option<(rustls::ServerConnection, [u8; 32])>,
        known: Known,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> std::io::Result<ClientId> {
        let Accepted { socket, peer, tls: is_tls, on_loopback, is_proxy } = accepted;
        let id = self.guests.next_number();
        let share = self.users.share(Owner::Origin(peer.source()));
        let outbox = Outbox::new(UNAUTHENTICATED_OUTBOX, &share.outboxes);
        let limits = self.limits.connection;
        let mut session = Session::new(id, known);
        let tls = tls.map(|(tls, certificate)| {
            session.set_certificate(certificate);
            tls
        });
        let mut connection =
            Connection::new(socket, tls, outbox, UNAUTHENTICATED_MESSAGE, limits, now);
        if is_proxy {
            connection.expect_proxy_header();
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = reactor.register(connection.socket(), interest, PollToken::Client(id))?;
        let carrier = Carrier::Direct(Box::new(connection));
        self.take_in(id, carrier, session, peer, now);
        if let Some(client) = self.guests.map.get_mut(&id) {
            client.registered = Some(registered);
            client.readable = true;
            client.tls = is_tls;
            client.on_loopback = on_loopback;
        }
        Ok(id)
    }

    /// Adds a client behind a relay.
    pub(super) fn add_caller(
        &mut self,
        peer: Peer,
        make: impl FnOnce(
            Outbox<QueuedMessage>,
            usize,
            Duration,
        ) -> Result<Caller<QueuedMessage>, rustls::Error>,
        now: Instant,
    ) -> Result<ClientId, rustls::Error> {
        let id = self.guests.next_number();
        let share = self.users.share(Owner::Origin(peer.source()));
        let outbox = Outbox::new(UNAUTHENTICATED_OUTBOX, &share.outboxes);
        let caller = make(outbox, UNAUTHENTICATED_MESSAGE, self.limits.connection.close)?;
        let carrier = Carrier::Bridged(Box::new(caller));
        self.take_in(id, carrier, Session::new(id, Known::Nothing), peer, now);
        self.touch(id);
        Ok(id)
    }

    fn take_in(
        &mut self,
        id: ClientId,
        carrier: Carrier,
        session: Session,
        peer: Peer,
        now: Instant,
    ) {
        self.guests.unauthenticated.add(id, self.guests.source_of(&peer), now);
        let auth_due = Some(now + self.limits.front.auth);
        let owner = Owner::Origin(peer.source());
        let share = self.users.share(owner);
        let client = Client {
            connection: carrier,
            session,
            peer,
            owner,
            place: Charge::new(&share.connections, 1),
            inbox: Charge::new(&share.inboxes, 0),
            request: Charge::new(&share.requests, 0),
            queued: false,
            tls: false,
            on_loopback: false,
            registered: None,
            readable: false,
            stalled: false,
            waiting: None,
            reads_outcome: false,
            dirty: false,
            auth_due,
            admitted: false,
            seen_as: None,
        };
        self.guests.map.insert(id, client);
    }

    /// Whether there is a place for one more authenticated client of this account. Root and the
    /// daemon's own user may use all places, and some at the local socket that are reserved for
    /// them; any other user has at most half of the places that the others leave.
    pub(super) fn has_place_for(&self, peer: &Peer, uid: u32) -> bool {
        let is_local = matches!(peer, Peer::Local(_));
        let own = self.users.connections(Owner::Account(uid));
        has_place(self.limits.max_clients, self.admitted(), own, is_exempt(uid), is_local)
    }

    /// Whether one more request of this client's user may wait for the store or for a worker.
    pub(super) fn may_wait(&self, id: ClientId) -> bool {
        self.guests.map.get(&id).is_none_or(|client| match client.owner {
            Owner::Account(uid) if is_exempt(uid) => true,
            owner => self.users.requests(owner) < REQUESTS,
        })
    }

    /// An unauthenticated connection has authenticated as this account, and is admitted.
    pub(super) fn admit(&mut self, id: ClientId, uid: u32) {
        self.change_owner(id, Owner::Account(uid));
        let Some(client) = self.guests.map.get_mut(&id) else { return };
        client.admitted = true;
        client.auth_due = None;
        client.connection.set_bounds(self.limits.max_message, self.limits.outbox);
        self.guests.unauthenticated.remove(id);
    }

    /// Moves the charges of a client to another user.
    pub(super) fn change_owner(&mut self, id: ClientId, owner: Owner) {
        let Some(client) = self.guests.map.get_mut(&id).filter(|client| client.owner != owner)
        else {
            return;
        };
        let before = std::mem::replace(&mut client.owner, owner);
        let share = self.users.share(owner);
        client.place.move_to(&share.connections);
        client.inbox.move_to(&share.inboxes);
        client.request.move_to(&share.requests);
        client.connection.outbox_mut().move_to(&share.outboxes);
        self.users.forget_unused(before);
    }

    /// A client has given up its identity.
    pub(super) fn make_unauthenticated(&mut self, id: ClientId, now: Instant) {
        if let Some(client) = self.guests.map.get(&id) {
            self.change_owner(id, Owner::Origin(client.peer.source()));
        }
        if let Some(client) = self.guests.map.get_mut(&id).filter(|client| client.admitted) {
            client.admitted = false;
            client.auth_due = Some(now + self.limits.front.auth);
            client.connection.set_bounds(UNAUTHENTICATED_MESSAGE, UNAUTHENTICATED_OUTBOX);
            let peer = client.peer.clone();
            self.guests.unauthenticated.add_ready(id, self.guests.source_of(&peer), now);
        }
    }

    pub(super) fn remove(
        &mut self,
        id: ClientId,
        reactor: &mut Reactor<PollToken>,
    ) -> Option<Client> {
        let mut client = self.guests.map.remove(&id)?;
        self.guests.unauthenticated.remove(id);
        reactor.set_deadline(PollToken::Client(id), None);
        if let Some(registered) = client.registered.take()
            && let Some(socket) = client.connection.socket()
        {
            reactor.deregister(socket, registered);
        }
        client.place.set(0);
        self.users.forget_unused(client.owner);
        Some(client)
    }

    /// Queues an event for a client.
    pub(super) fn deliver(&mut self, id: ClientId, event: &Rc<Published>, spelling: Spelling) {
        self.push(id, QueuedMessage::Event(event.clone(), spelling));
    }

    /// Queues a reply for a client, unless that is being closed.
    pub(super) fn answer(&mut self, id: ClientId, mut text: String) -> Result<(), Full> {
        let Some(client) =
            self.guests.map.get_mut(&id).filter(|client| client.connection.is_open())
        else {
            return Ok(());
        };
        let pushed =
            client.connection.outbox_mut().push(QueuedMessage::Answer(text.as_bytes().into()));
        // It may contain a token.
        text.zeroize();
        self.touch(id);
        pushed
    }

    /// Queues a text message for a client.
    pub(super) fn send(&mut self, id: ClientId, message: Rc<[u8]>) {
        self.push(id, QueuedMessage::Answer(message));
    }

    /// Queues a binary message for a client whose connection is its own.
    pub(super) fn send_binary(&mut self, id: ClientId, message: Rc<[u8]>) {
        self.push(id, QueuedMessage::Binary(message));
    }

    fn push(&mut self, id: ClientId, message: QueuedMessage) {
        if let Some(client) =
            self.guests.map.get_mut(&id).filter(|client| client.connection.is_open())
            && let Err(Full) = client.connection.outbox_mut().push(message)
        {
            self.overflowing.push(id);
        }
        self.touch(id);
    }

    /// Marks a client for output, or for a changed deadline.
    pub(super) fn touch(&mut self, id: ClientId) {
        let Some(client) = self.guests.map.get_mut(&id) else { return };
        client.request.set(usize::from(client.waiting.is_some()));
        self.guests.touch(id);
    }

    /// Gives a client a turn, unless it waits for one already.
    pub(super) fn enqueue(&mut self, id: ClientId) {
        if self.guests.is_to_be_enqueued(id)
            && let Some(client) = self.guests.map.get(&id)
        {
            self.users.enqueue(client.owner, id);
        }
    }

    /// The client whose turn it is. It may be gone.
    pub(super) fn next_turn(&mut self) -> Option<ClientId> {
        let id = self.users.next()?;
        self.guests.begin_turn(id);
        Some(id)
    }

    /// Whether a client waits for its turn.
    pub(super) fn has_ready_client(&self) -> bool {
        self.users.has_ready_client()
    }

    /// Whether more output may be generated for a client: replies, and the current state. More than
    /// half of its outbox must be free, and either the outbox is empty, or its user's clients
    /// together have less than their part of `outbox_total`.
    pub(super) fn may_get_more(&self, id: ClientId) -> bool {
        self.guests.map.get(&id).is_some_and(|client| self.has_room(client))
    }

    fn has_room(&self, client: &Client) -> bool {
        let outbox = client.connection.outbox();
        let of_user = self.users.outbox_bytes_of(client.owner);
        let share = self.limits.outbox_total / REPLY_PART;
        outbox.is_below_half() && (outbox.used() == 0 || of_user < share)
    }

    /// Charges an incomplete message to its client.
    pub(super) fn count_unfinished(&mut self, id: ClientId) {
        if let Some(client) = self.guests.map.get_mut(&id) {
            client.inbox.set(client.connection.unfinished());
        }
    }

    /// The client with the longest incomplete message of the user who has the most, if all together
    /// exceed their limit: `inbox_total`, or two messages where that is less.
    pub(super) fn most_unfinished(&self) -> Option<ClientId> {
        let limit = self.limits.inbox_total.max(2 * self.limits.max_message);
        if self.users.inbox_bytes() <= limit {
            return None;
        }
        let owner = self.users.fullest_inbox()?;
        self.of_user(owner).max_by_key(|(_, client)| client.inbox.amount()).map(|(id, _)| *id)
    }

    fn of_user(&self, owner: Owner) -> impl Iterator<Item = (&ClientId, &Client)> {
        self.guests.map.iter().filter(move |(_, client)| client.owner == owner)
    }

    /// Whether there is output.
    pub(super) fn is_dirty(&self) -> bool {
        !self.guests.dirty.is_empty()
    }

    /// Sends output to marked clients, until `budget` is spent. Returns those that ended.
    pub(super) fn flush(
        &mut self,
        budget: Budget,
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) -> Vec<(ClientId, End)> {
        let (mut over, mut unfinished) = (Vec::new(), Vec::new());
        let mut waiting = std::mem::take(&mut self.guests.dirty).into_iter();
        for id in waiting.by_ref() {
            let Some(client) = self.guests.map.get_mut(&id) else { continue };
            client.dirty = false;
            match client.connection.flush(now) {
                Err(end) => {
                    over.push((id, end));
                    continue;
                }
                Ok(Flushed::InPart) => {
                    client.dirty = true;
                    unfinished.push(id);
                }
                Ok(Flushed::All | Flushed::Blocked) => {}
            }
            if client.connection.speaking() {
                self.speaking.push(id);
            }
            reactor.set_deadline(PollToken::Client(id), client.due());
            let is_stalled = client.stalled;
            if is_stalled && self.may_get_more(id) {
                if let Some(client) = self.guests.map.get_mut(&id) {
                    client.stalled = false;
                }
                reactor.again(PollToken::Client(id));
            }
            if budget.is_spent() {
                break;
            }
        }
        self.guests.dirty.extend(waiting.chain(unfinished));
        over
    }

    /// The client with the fullest outbox, of the user with the most queued bytes, if all together
    /// exceed their limit.
    pub(super) fn fullest(&self) -> Option<ClientId> {
        if self.users.outbox_bytes() <= self.limits.outbox_total {
            return None;
        }
        let owner = self.users.fullest_outbox()?;
        let used = |client: &Client| client.connection.outbox().used();
        self.of_user(owner).max_by_key(|(_, client)| used(client)).map(|(id, _)| *id)
    }

    /// Closes a client with a reason.
    pub(super) fn close(&mut self, id: ClientId, reason: &CloseReason, now: Instant) {
        if let Some(client) = self.guests.map.get_mut(&id) {
            client.auth_due = None;
            client.connection.close(reason, now);
            self.touch(id);
        }
    }

    /// Closes a client and drops its incomplete message.
    pub(super) fn give_up_unfinished(&mut self, id: ClientId, reason: &CloseReason, now: Instant) {
        self.close(id, reason, now);
        if let Some(client) = self.guests.map.get_mut(&id) {
            client.connection.give_up_unfinished();
        }
        self.count_unfinished(id);
    }

    /// Closes a client after its queued output.
    pub(super) fn close_when_sent(&mut self, id: ClientId, reason: &CloseReason, now: Instant) {
        if let Some(client) = self.guests.map.get_mut(&id) {
            client.auth_due = None;
            client.connection.close_when_sent(reason, now);
            self.touch(id);
        }
    }
}

/// Root and the daemon's own user.
fn is_exempt(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// See [`Clients::has_place_for`]: of `most` places `taken` are taken, `own` of them by the user.
fn has_place(most: usize, taken: usize, own: usize, is_exempt: bool, is_local: bool) -> bool {
    match (is_exempt, is_local) {
        (true, true) => taken < most + RESERVED_PLACES,
        (true, false) => taken < most,
        (false, _) => own < most.saturating_sub(taken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places that a user gets one after the other where others have `taken`.
    fn places(most: usize, taken: usize, is_exempt: bool, is_local: bool) -> usize {
        let has = |own: &usize| has_place(most, taken + own, *own, is_exempt, is_local);
        (0..).take_while(has).count()
    }

    #[test]
    fn user_gets_half_of_the_places_that_others_leave() {
        assert_eq!(places(1024, 0, false, true), 512);
        assert_eq!(places(1024, 512, false, false), 256);
        assert_eq!(places(1024, 1023, false, true), 1);
        assert_eq!(places(1024, 1024, false, true), 0);
    }

    #[test]
    fn root_gets_all_places_and_reserved_ones_at_the_local_socket() {
        assert_eq!(places(1024, 0, true, false), 1024);
        assert_eq!(places(1024, 1024, true, false), 0);
        assert_eq!(places(1024, 1024, true, true), RESERVED_PLACES);
    }
}
