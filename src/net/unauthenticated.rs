//! The pool of connections that have not authenticated yet.
//!
//! Three stages: nothing received, handshake (TLS and HTTP) in progress, handshake complete. The
//! last stage has a limit of its own, so a flood of bare connects does not evict peers that have
//! completed the handshake. The evicted connection is chosen at random among those of the origin
//! that has the most: a fixed choice would be predictable. Below the limit, connections of one
//! origin are limited only if they stall; many simultaneous authentications are no attack.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use log::info;

use super::socket::Source;

/// Maximum number of stalled connections of one origin in one stage.
const DAWDLERS: usize = 4;
/// A connection is stalled after this fraction of the authentication timeout without progress.
const DAWDLE_PART: u32 = 10;
/// Minimum interval between log lines about evicted and refused connections.
const SHORTAGE_LOG: Duration = Duration::from_secs(60);
/// All peers behind one relay together have this fraction of the pool.
const BRIDGED_PART: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Silent,
    Handshake,
    Ready,
}

#[derive(Debug)]
struct Entry<I> {
    id: I,
    source: Source,
    stage: Stage,
    since: Instant,
}

impl<I> Entry<I> {
    /// Origin of the connection: all peers behind one relay are one.
    fn origin(&self) -> Source {
        origin(self.source)
    }
}

fn origin(source: Source) -> Source {
    match source {
        Source::Caller(link, _) => Source::Caller(link, 0),
        Source::Address(_) | Source::ProxiedLoopback | Source::User(_) => source,
    }
}

/// Admission of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room<I> {
    /// Admitted.
    Free,
    /// Admitted after eviction of this connection.
    Instead(I),
    /// Refused: all others make progress.
    None,
}

/// All unauthenticated connections. `I` is the owner's identifier of a connection.
#[derive(Debug)]
pub struct UnauthenticatedPool<I> {
    entries: Vec<Entry<I>>,
    dawdle: Duration,
    /// Refused or evicted since the last line in the log, and the time of that line.
    short: u64,
    logged: Option<Instant>,
}

impl<I: Copy + PartialEq> UnauthenticatedPool<I> {
    /// Creates an empty pool; `auth` is the authentication timeout.
    pub fn new(auth: Duration) -> UnauthenticatedPool<I> {
        let dawdle = auth / DAWDLE_PART;
        UnauthenticatedPool { entries: Vec::new(), dawdle, short: 0, logged: None }
    }

    /// Changes the authentication timeout.
    pub fn set_time(&mut self, auth: Duration) {
        self.dawdle = auth / DAWDLE_PART;
    }

    fn dawdles(&self, entry: &Entry<I>, now: Instant) -> bool {
        now.saturating_duration_since(entry.since) >= self.dawdle
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an accepted connection.
    pub fn add(&mut self, id: I, source: Source, now: Instant) {
        self.entries.push(Entry { id, source, stage: Stage::Silent, since: now });
    }

    /// Adds a connection that has given up its identity.
    pub fn add_ready(&mut self, id: I, source: Source, now: Instant) {
        self.entries.push(Entry { id, source, stage: Stage::Ready, since: now });
    }

    /// The connection has sent bytes; false where that was known.
    pub fn begin(&mut self, id: I, now: Instant) -> bool {
        let Some(entry) = self.entry(id).filter(|entry| entry.stage == Stage::Silent) else {
            return false;
        };
        (entry.stage, entry.since) = (Stage::Handshake, now);
        true
    }

    /// The handshake of the connection is complete.
    pub fn end_handshake(&mut self, id: I, now: Instant) {
        if let Some(entry) = self.entry(id) {
            (entry.stage, entry.since) = (Stage::Ready, now);
        }
    }

    fn entry(&mut self, id: I) -> Option<&mut Entry<I>> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Removes a connection that has ended or authenticated.
    pub fn remove(&mut self, id: I) {
        self.entries.retain(|entry| entry.id != id);
    }

    /// Admission of a new connection from that origin, with at most `most` in the handshake stages.
    /// Never [`Room::None`]: a refusal could only be sent after a handshake.
    pub fn room_for_new(&self, source: Source, most: usize, random: u64, now: Instant) -> Room<I> {
        let here: Vec<_> = self.entries.iter().filter(|e| e.stage < Stage::Ready).collect();
        let of_one: Vec<_> =
            here.iter().copied().filter(|e| e.origin() == origin(source)).collect();
        let dawdlers: Vec<_> = of_one.iter().copied().filter(|e| self.dawdles(e, now)).collect();
        let is_bridged = matches!(source, Source::Caller(..));
        let victims = if is_bridged && of_one.len() >= part(most) {
            if dawdlers.is_empty() { of_one } else { dawdlers }
        } else if !is_bridged && dawdlers.len() >= DAWDLERS {
            dawdlers
        } else if here.len() >= most {
            let silent: Vec<_> =
                here.iter().copied().filter(|e| e.stage == Stage::Silent).collect();
            of_fullest_origin(if silent.is_empty() { &here } else { &silent })
        } else {
            return Room::Free;
        };
        pick(&victims, random).map_or(Room::Free, Room::Instead)
    }

    /// As [`UnauthenticatedPool::room_for_new`], with `random` called for each attempt. A candidate
    /// for eviction that has sent bytes, as `has_unread_start` says, moves to the next stage
    /// instead.
    pub fn room_for_new_after_unread(
        &mut self,
        source: Source,
        most: usize,
        random: impl Fn() -> u64,
        has_unread_start: impl Fn(I) -> bool,
        now: Instant,
    ) -> Room<I> {
        loop {
            let room = self.room_for_new(source, most, random(), now);
            let Room::Instead(id) = room else { return room };
            if !has_unread_start(id) || !self.begin(id, now) {
                return room;
            }
        }
    }

    /// Admission of a connection from that origin to the last stage, with at most `most` in it. A
    /// connection that waits for the server, as `is_held_up` says, is not stalled.
    pub fn room_for_ready(
        &self,
        source: Source,
        most: usize,
        random: u64,
        is_held_up: impl Fn(I) -> bool,
        now: Instant,
    ) -> Room<I> {
        let here: Vec<_> = self.entries.iter().filter(|e| e.stage == Stage::Ready).collect();
        let dawdlers: Vec<_> =
            here.iter().copied().filter(|e| self.dawdles(e, now) && !is_held_up(e.id)).collect();
        let own: Vec<_> =
            dawdlers.iter().copied().filter(|e| e.origin() == origin(source)).collect();
        let victims = if own.len() >= DAWDLERS {
            own
        } else if here.len() >= most {
            of_fullest_origin(&dawdlers)
        } else {
            return Room::Free;
        };
        pick(&victims, random).map_or(Room::None, Room::Instead)
    }

    /// Counts a refused or evicted connection, and logs the number at most once a minute.
    pub fn log_shortage(&mut self, now: Instant) {
        if let Some(count) = self.count_shortage(now) {
            info!(
                "connections that had not authenticated were refused or dropped: {count}, since \
                 others needed their places (max_unauthenticated)"
            );
        }
    }

    fn count_shortage(&mut self, now: Instant) -> Option<u64> {
        self.short += 1;
        let is_due = |at: Instant| now.saturating_duration_since(at) >= SHORTAGE_LOG;
        if !self.logged.is_none_or(is_due) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.short))
    }
}

fn part(most: usize) -> usize {
    (most / BRIDGED_PART).max(DAWDLERS)
}

/// The connections of the origin that has the most of these; of all such origins if several.
fn of_fullest_origin<'e, I>(entries: &[&'e Entry<I>]) -> Vec<&'e Entry<I>> {
    let mut counts: BTreeMap<Source, usize> = BTreeMap::new();
    for entry in entries {
        *counts.entry(entry.origin()).or_default() += 1;
    }
    let most = counts.values().copied().max();
    entries.iter().copied().filter(|e| counts.get(&e.origin()).copied() == most).collect()
}

fn pick<I: Copy>(entries: &[&Entry<I>], random: u64) -> Option<I> {
    let at = random.checked_rem(entries.len() as u64)?;
    entries.get(usize::try_from(at).unwrap_or(0)).map(|entry| entry.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTH: Duration = Duration::from_secs(20);
    const DAWDLE: Duration = Duration::from_secs(2);

    fn at(last: u8) -> Source {
        Source::Address([192, 0, 2, last].into())
    }

    #[test]
    fn pool_limits_stalled_connections_of_one_origin() {
        let (mut pool, now) = (UnauthenticatedPool::new(AUTH), Instant::now());
        for id in 0..64 {
            assert_eq!(pool.room_for_new(at(1), 64, id, now), Room::Free);
            pool.add(id, at(1), now);
            pool.begin(id, now);
            assert_eq!(pool.room_for_ready(at(1), 64, id, |_| false, now), Room::Free);
            pool.end_handshake(id, now);
        }
        // All make progress: the newest is refused, and none of these is dropped.
        assert_eq!(pool.room_for_ready(at(1), 64, 7, |_| false, now), Room::None);
        assert_eq!(pool.room_for_ready(at(2), 64, 7, |_| false, now), Room::None);
        let later = now + DAWDLE;
        assert_eq!(pool.room_for_ready(at(2), 64, 7, |_| false, later), Room::Instead(7));
        assert_eq!(pool.room_for_ready(at(2), 64, 64 + 9, |_| false, later), Room::Instead(9));
        // A connection that waits for the server is not stalled.
        assert_eq!(pool.room_for_ready(at(2), 64, 7, |id| id != 5, later), Room::Instead(5));
        assert_eq!(pool.room_for_ready(at(2), 64, 7, |_| true, later), Room::None);
        // The handshake stages have a separate limit.
        assert_eq!(pool.room_for_new(at(2), 64, 7, later), Room::Free);
    }

    #[test]
    fn pool_fifth_stalled_connection_evicts_one_of_its_origin() {
        let (mut pool, now) = (UnauthenticatedPool::new(AUTH), Instant::now());
        pool.add(99, at(2), now);
        for id in 0..4 {
            pool.add(id, at(1), now);
        }
        assert_eq!(pool.room_for_new(at(1), 64, 2, now), Room::Free);
        assert_eq!(pool.room_for_new(at(1), 64, 2, now + DAWDLE), Room::Instead(2));
        assert_eq!(pool.room_for_new(at(2), 64, 2, now + DAWDLE), Room::Free);
        for id in 0..4 {
            pool.end_handshake(id, now);
        }
        assert_eq!(pool.room_for_ready(at(1), 64, 3, |_| false, now + DAWDLE), Room::Instead(3));
        assert_eq!(pool.room_for_ready(at(2), 64, 3, |_| false, now + DAWDLE), Room::Free);
    }

    #[test]
    fn flood_of_silent_connects_drops_no_handshake() {
        let (mut pool, now) = (UnauthenticatedPool::new(AUTH), Instant::now());
        pool.add(1000, at(200), now);
        pool.begin(1000, now);
        for id in 0..999_u16 {
            let source = Source::Address([10, 0, 0, u8::try_from(id % 256).unwrap()].into());
            match pool.room_for_new(source, 64, u64::from(id) * 7919, now) {
                Room::Free => {}
                Room::Instead(other) => {
                    assert_ne!(other, 1000);
                    pool.remove(other);
                }
                Room::None => panic!("nothing could be said"),
            }
            pool.add(id, source, now);
            assert!(pool.len() <= 64);
        }
    }

    #[test]
    fn pool_evicts_at_random_from_the_origin_with_the_most() {
        let (mut pool, now) = (UnauthenticatedPool::new(AUTH), Instant::now());
        pool.add(0, at(1), now);
        for id in 1..4 {
            pool.add(id, at(2), now);
        }
        let victims: Vec<_> = (0..3).map(|r| pool.room_for_new(at(3), 4, r, now)).collect();
        assert_eq!(victims, [Room::Instead(1), Room::Instead(2), Room::Instead(3)]);
    }

    #[test]
    fn pool_share_of_one_relay_is_a_quarter() {
        let (mut pool, now) = (UnauthenticatedPool::new(AUTH), Instant::now());
        for caller in 0..16 {
            let source = Source::Caller(1, caller);
            assert_eq!(pool.room_for_new(source, 64, 0, now), Room::Free);
            pool.add(caller, source, now);
        }
        assert_eq!(pool.room_for_new(Source::Caller(1, 16), 64, 5, now), Room::Instead(5));
        assert_eq!(pool.room_for_new(Source::Caller(2, 0), 64, 5, now), Room::Free);
        assert_eq!(pool.room_for_new(Source::User(0), 64, 5, now), Room::Free);
    }

    #[test]
    fn shortage_is_logged_once_a_minute_with_its_count() {
        let (mut pool, now) = (UnauthenticatedPool::<u64>::new(AUTH), Instant::now());
        assert_eq!(pool.count_shortage(now), Some(1));
        for second in 1..60 {
            assert_eq!(pool.count_shortage(now + Duration::from_secs(second)), None);
        }
        assert_eq!(pool.count_shortage(now + SHORTAGE_LOG), Some(60));
    }
}
