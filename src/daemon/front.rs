//! The front of both daemons: connections that have not authenticated yet, their admission, and the
//! connections whose turn it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use super::random_number;
use crate::moment::Moment;
use crate::net::{
    Accepted, Answer as HttpAnswer, Listener, Peer, Room, Source, UnauthenticatedPool,
    is_about_one_connection,
};
use crate::reactor::{Reactor, Registered};

/// A connection of a daemon.
pub trait Guest {
    /// The other end.
    fn peer(&self) -> &Peer;
    /// Whether it has authenticated and has a place.
    fn is_admitted(&self) -> bool;
    /// Whether it waits for the reply to its credentials.
    fn is_held_up(&self) -> bool;
    /// Whether the system has the beginning of its handshake, which was not read.
    fn has_unread_start(&self) -> bool;
    /// Whether nothing was received.
    fn is_silent(&self) -> bool;
    /// Answers its request over HTTP, which ends it.
    fn answer(&mut self, answer: HttpAnswer, now: Instant);
    /// Whether it waits for its turn.
    fn queued(&mut self) -> &mut bool;
    /// Whether it has output, or a changed deadline.
    fn dirty(&mut self) -> &mut bool;
}

/// Limits of connections that have not authenticated.
#[derive(Clone, Copy, Debug)]
pub struct FrontLimits {
    /// Maximum number of them.
    pub max_unauthenticated: usize,
    /// Loopback addresses count as one origin.
    pub loopback_is_one: bool,
    /// Time in which they have to authenticate.
    pub auth: Duration,
}

/// All connections of a daemon, by numbers that are never reused.
pub struct Guests<G> {
    limits: FrontLimits,
    /// The connections.
    pub map: BTreeMap<u64, G>,
    last: u64,
    /// Those that have not authenticated.
    pub unauthenticated: UnauthenticatedPool<u64>,
    /// Those that have output or a changed deadline.
    pub dirty: Vec<u64>,
}

impl<G: Guest> Guests<G> {
    /// Creates a daemon's connections.
    pub fn new(limits: FrontLimits) -> Guests<G> {
        Guests {
            limits,
            map: BTreeMap::new(),
            last: 0,
            unauthenticated: UnauthenticatedPool::new(limits.auth),
            dirty: Vec::new(),
        }
    }

    /// Changes the limits; all connections count as changed.
    pub fn set_limits(&mut self, limits: FrontLimits) {
        self.limits = limits;
        self.unauthenticated.set_time(limits.auth);
        for number in self.numbers() {
            self.touch(number);
        }
    }

    /// The number of a new connection.
    pub fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The numbers of all connections.
    pub fn numbers(&self) -> Vec<u64> {
        self.map.keys().copied().collect()
    }

    /// Origin of a peer, which failures and connections are accounted to.
    pub fn source_of(&self, peer: &Peer) -> Source {
        let source = peer.source();
        if self.limits.loopback_is_one { source.with_loopback_as_one() } else { source }
    }

    /// Admission of a new unauthenticated connection of that origin.
    pub fn room_for_new(&mut self, source: Source, now: Instant) -> Room<u64> {
        let most = self.limits.max_unauthenticated;
        let has_unread_start = |number| self.map.get(&number).is_some_and(Guest::has_unread_start);
        self.unauthenticated.room_for_new_after_unread(
            source,
            most,
            random_number,
            has_unread_start,
            now,
        )
    }

    /// The same for one whose handshake is complete.
    pub fn room_for_ready(&self, source: Source, now: Instant) -> Room<u64> {
        let most = self.limits.max_unauthenticated;
        let is_held_up = |number| self.map.get(&number).is_some_and(Guest::is_held_up);
        self.unauthenticated.room_for_ready(source, most, random_number(), is_held_up, now)
    }

    /// Records that an unauthenticated connection was read.
    pub fn note_progress(&mut self, number: u64, now: Instant) {
        if self.map.get(&number).is_some_and(|guest| !guest.is_silent()) {
            self.unauthenticated.begin(number, now);
        }
    }

    /// Marks a connection for output, or for a changed deadline.
    pub fn touch(&mut self, number: u64) {
        if let Some(guest) = self.map.get_mut(&number)
            && !std::mem::replace(guest.dirty(), true)
        {
            self.dirty.push(number);
        }
    }

    /// A connection is to get a turn; false where it waits for one already.
    pub fn is_to_be_enqueued(&mut self, number: u64) -> bool {
        self.map.get_mut(&number).is_some_and(|guest| !std::mem::replace(guest.queued(), true))
    }

    /// The turn of a connection has come.
    pub fn begin_turn(&mut self, number: u64) {
        if let Some(guest) = self.map.get_mut(&number) {
            *guest.queued() = false;
        }
    }
}

/// A listening socket in use.
pub struct Listening {
    /// The socket.
    pub listener: Listener,
    /// Its registration in the poll loop; `None` once it is closed.
    registered: Option<Registered>,
    /// The system had no resources for the last connection.
    is_full: bool,
}

/// Result of accepting connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptEnd {
    /// There are no more.
    Done,
    /// There may be more.
    Again,
    /// The system has no resources: retried then.
    Retry(Instant),
}

/// Maximum number of connections accepted in a turn from one listener.
const ACCEPTS: usize = 16;
/// Retry interval of a listener for which the system had no resources.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

impl Listening {
    /// A listener that is in use from now on.
    pub fn new(listener: Listener, registered: Registered) -> Listening {
        Listening { listener, registered: Some(registered), is_full: false }
    }

    /// Whether the listener is to be retried later. New connections do not shorten that time.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Closes the socket, and removes its file.
    pub fn stop<K: Copy + Ord>(&mut self, reactor: &mut Reactor<K>) {
        self.listener.end();
        if let Some(registered) = self.registered.take() {
            reactor.deregister(self.listener.source(), registered);
        }
    }

    /// Accepts a bounded number of connections.
    pub fn accept(&mut self, now: Instant) -> (Vec<Accepted>, AcceptEnd) {
        let mut accepted = Vec::new();
        for _ in 0..ACCEPTS {
            let result = self.listener.accept();
            let is_full = match &result {
                Ok(_) => false,
                Err(error) => {
                    error.kind() != std::io::ErrorKind::WouldBlock
                        && !is_about_one_connection(error)
                }
            };
            let was_full = std::mem::replace(&mut self.is_full, is_full);
            let url = self.listener.url();
            if was_full && !is_full {
                info!("accepting again on {url}");
            }
            match result {
                Ok(connection) => accepted.push(connection),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return (accepted, AcceptEnd::Done);
                }
                Err(error) if is_full => {
                    if !was_full {
                        error!("cannot accept on {url}: {error}; retrying");
                    }
                    return (accepted, AcceptEnd::Retry(now + ACCEPT_PAUSE));
                }
                Err(_) => {}
            }
        }
        (accepted, AcceptEnd::Again)
    }
}

/// A daemon with connections.
pub trait Front {
    /// Its connections.
    type Guest: Guest;

    /// Its connections.
    fn guests(&mut self) -> &mut Guests<Self::Guest>;
    /// Whether an origin is blocked.
    fn is_blocked(&self, source: Source, now: Moment) -> bool;
    /// Removes a connection; `why` is for the log.
    fn end_guest(&mut self, number: u64, why: &str, now: Moment);
    /// A proxy has named the client of a connection, which pays for it from now on.
    fn set_peer(&mut self, number: u64, peer: Peer);

    /// Makes the room that a connection was given; false where there is none.
    fn make_room(&mut self, room: Room<u64>, now: Moment) -> bool {
        if room == Room::Free {
            return true;
        }
        self.guests().unauthenticated.log_shortage(now.instant);
        if let Room::Instead(other) = room {
            self.end_guest(other, "evicted before authentication", now);
        }
        room != Room::None
    }

    /// Makes room for a new unauthenticated connection of that origin.
    fn make_room_for_new(&mut self, source: Source, now: Moment) {
        let room = self.guests().room_for_new(source, now.instant);
        self.make_room(room, now);
    }

    /// A proxy has named its client: from now on the connection is that client's.
    fn on_proxy_header(
        &mut self,
        number: u64,
        address: Result<Option<SocketAddr>, &str>,
        now: Moment,
    ) {
        let Some(guest) = self.guests().map.get(&number) else { return };
        let client = match address {
            Ok(address) => guest.peer().client(address),
            Err(why) => {
                warn!("refused {}: a proxy (proxy_protocol), but {why}", guest.peer());
                return self.end_guest(number, why, now);
            }
        };
        debug!("connection {number}: {} forwards {client}", guest.peer());
        let source = self.guests().source_of(&client);
        if self.is_blocked(source, now) {
            return self.end_guest(number, "its address is blocked", now);
        }
        let guests = self.guests();
        guests.unauthenticated.remove(number);
        let room = guests.room_for_new(source, now.instant);
        guests.unauthenticated.add(number, source, now.instant);
        self.set_peer(number, client);
        self.make_room(room, now);
    }

    /// Admits a connection whose handshake is complete to the last stage of the pool, or answers
    /// with 503; true where it was admitted.
    fn end_handshake(&mut self, number: u64, now: Moment) -> bool {
        let guests = self.guests();
        let Some(guest) = guests.map.get(&number) else { return false };
        if guest.is_admitted() {
            return true;
        }
        let source = guests.source_of(guest.peer());
        let room = guests.room_for_ready(source, now.instant);
        if self.make_room(room, now) {
            self.guests().unauthenticated.end_handshake(number, now.instant);
            return true;
        }
        if let Some(guest) = self.guests().map.get_mut(&number) {
            guest.answer(HttpAnswer::Busy, now.instant);
        }
        false
    }

    /// Whether the pool has room for an authenticated connection that has given up its identity.
    fn make_room_without_identity(&mut self, peer: &Peer, now: Moment) -> bool {
        let guests = self.guests();
        let room = guests.room_for_ready(guests.source_of(peer), now.instant);
        self.make_room(room, now)
    }

    /// An origin is blocked: its unauthenticated connections end, but for the one that `except`
    /// names.
    fn end_unauthenticated_of(&mut self, source: Source, except: u64, now: Moment) {
        let guests = self.guests();
        let is_theirs = |(number, guest): &(&u64, &Self::Guest)| {
            **number != except && guests.source_of(guest.peer()) == source && !guest.is_admitted()
        };
        let theirs: Vec<u64> =
            guests.map.iter().filter(is_theirs).map(|(number, _)| *number).collect();
        for number in theirs {
            self.end_guest(number, "its address is blocked", now);
        }
    }
}
