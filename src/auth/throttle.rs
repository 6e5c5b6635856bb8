//! Throttling of authentication failures by origin.
//!
//! An origin with too many failures is blocked for a time, before TLS. Loopback and the local
//! socket are not blocked, or one user of the host could lock out all others; failures there get
//! delayed replies. The table is bounded, and a flood of addresses evicts the least dangerous ones.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Limits of authentication failures.
#[derive(Clone, Copy, Debug)]
pub struct ThrottleLimits {
    /// Failures until the next one blocks.
    pub failures: usize,
    /// Time after which a failure no longer counts.
    pub window: Duration,
    /// Duration of a block.
    pub block: Duration,
    /// Maximum number of origins stored.
    pub origins: usize,
}

/// Consequence of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// An immediate reply.
    Answer,
    /// A reply after this delay.
    Delay(Duration),
    /// The origin is blocked for this time.
    Block(Duration),
}

/// Limit of the work on legacy keys for throttled origins. A legacy proof does not name its key, so
/// all are tried, and any client can cause that work.
#[derive(Debug, Default)]
pub struct LegacyBudget {
    due: Option<Instant>,
}

/// Approximate time to try one legacy key of 4096 bits.
const LEGACY_KEY: Duration = Duration::from_millis(1);

impl LegacyBudget {
    /// Whether `count` legacy keys may be tried now: limited to a fifth of the time.
    pub fn may_try(&mut self, count: usize, now: Instant) -> bool {
        if self.due.is_some_and(|due| now < due) {
            return false;
        }
        let each = u32::try_from(count).unwrap_or(u32::MAX);
        self.due = Some(now + 5 * LEGACY_KEY.saturating_mul(each));
        true
    }
}

#[derive(Debug, Default)]
struct Record {
    /// Times of failures, at most as many as the limit.
    failures: VecDeque<Instant>,
    blocked_until: Option<Instant>,
    /// When delayed replies are due, even if the client has disconnected: reconnecting does not
    /// save time.
    answers_due: Vec<Instant>,
}

/// Recent failures. `K` is an origin.
#[derive(Debug)]
pub struct Throttle<K> {
    limits: ThrottleLimits,
    records: BTreeMap<K, Record>,
}

const SHORTEST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(8);

impl<K: Copy + Ord> Throttle<K> {
    /// Creates an empty table.
    pub fn new(limits: ThrottleLimits) -> Throttle<K> {
        Throttle { limits, records: BTreeMap::new() }
    }

    /// Changes the limits; existing blocks stay.
    pub fn set_limits(&mut self, limits: ThrottleLimits) {
        self.limits = limits;
    }

    /// Remaining time of a block of this origin.
    pub fn blocked(&self, origin: K, now: Instant) -> Option<Duration> {
        let until = self.records.get(&origin)?.blocked_until?;
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Number of delayed replies of this origin.
    pub fn pending(&self, origin: K, now: Instant) -> usize {
        let due = self.records.get(&origin).map_or(&[][..], |record| &record.answers_due);
        due.iter().filter(|due| **due > now).count()
    }

    /// When the first delayed reply to this origin is due.
    pub fn next_answer(&self, origin: K, now: Instant) -> Option<Instant> {
        let due = &self.records.get(&origin)?.answers_due;
        due.iter().copied().filter(|due| *due > now).min()
    }

    /// Records a failure of an origin. An `exempt` origin is never blocked.
    pub fn fail(&mut self, origin: K, exempt: bool, now: Instant) -> Consequence {
        if !self.records.contains_key(&origin) {
            self.make_room(now);
        }
        let ThrottleLimits { failures: borne, window, block, .. } = self.limits;
        let record = self.records.entry(origin).or_default();
        record.forget_old(window, now);
        if exempt {
            let before = u32::try_from(record.failures.len()).unwrap_or(u32::MAX);
            record.failures.truncate(borne.saturating_sub(1));
            record.failures.push_back(now);
            let delay = SHORTEST_DELAY.saturating_mul(2_u32.saturating_pow(before));
            let delay = delay.min(LONGEST_DELAY);
            record.answers_due.push(now + delay);
            return Consequence::Delay(delay);
        }
        if record.failures.len() < borne {
            record.failures.push_back(now);
            return Consequence::Answer;
        }
        record.failures.clear();
        record.blocked_until = Some(now + block);
        Consequence::Block(block)
    }

    /// Removes expired entries, and then the least dangerous one.
    fn make_room(&mut self, now: Instant) {
        if self.records.len() < self.limits.origins {
            return;
        }
        let window = self.limits.window;
        self.records.retain(|_, record| record.counts(window, now));
        while self.records.len() >= self.limits.origins.max(1) {
            let least = self.records.iter().min_by_key(|(_, record)| record.danger());
            let Some(origin) = least.map(|(origin, _)| *origin) else { return };
            self.records.remove(&origin);
        }
    }

    /// Number of origins stored.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

impl Record {
    fn forget_old(&mut self, window: Duration, now: Instant) {
        self.failures.retain(|at| now.saturating_duration_since(*at) < window);
        self.answers_due.retain(|due| *due > now);
    }

    fn counts(&mut self, window: Duration, now: Instant) -> bool {
        self.forget_old(window, now);
        let is_blocked = self.blocked_until.is_some_and(|until| until > now);
        is_blocked || !self.failures.is_empty() || !self.answers_due.is_empty()
    }

    /// Blocked origins before others, then by number of failures, then by time.
    fn danger(&self) -> (Option<Instant>, usize, Option<Instant>) {
        (self.blocked_until, self.failures.len(), self.failures.back().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ThrottleLimits = ThrottleLimits {
        failures: 5,
        window: Duration::from_secs(600),
        block: Duration::from_secs(3600),
        origins: 16,
    };

    fn moments() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |seconds| start + Duration::from_secs(seconds)
    }

    #[test]
    fn five_failures_are_borne_and_the_sixth_blocks_for_its_time() {
        let at = moments();
        let mut throttle = Throttle::new(LIMITS);
        for second in 0..5 {
            assert_eq!(throttle.fail(1, false, at(second)), Consequence::Answer);
            assert_eq!(throttle.blocked(1, at(second)), None);
        }
        assert_eq!(throttle.fail(1, false, at(5)), Consequence::Block(LIMITS.block));
        assert_eq!(throttle.blocked(1, at(6)), Some(Duration::from_secs(3599)));
        assert_eq!(throttle.blocked(2, at(6)), None);
        assert_eq!(throttle.blocked(1, at(3605)), None);
        assert_eq!(throttle.fail(1, false, at(3605)), Consequence::Answer);
    }

    #[test]
    fn legacy_keys_are_tried_in_a_fifth_of_the_time() {
        let (mut budget, now) = (LegacyBudget::default(), Instant::now());
        let at = |milliseconds| now + Duration::from_millis(milliseconds);
        let tried = (0..1000).filter(|ms| budget.may_try(32, at(*ms))).count();
        assert_eq!(tried, 7, "of 32 ms each");
        assert!(budget.may_try(0, at(2000)) && budget.may_try(1, at(2000)));
    }

    #[test]
    fn a_failure_counts_for_its_window_only() {
        let at = moments();
        let mut throttle = Throttle::new(LIMITS);
        for round in 0..20 {
            assert_eq!(throttle.fail(1, false, at(round * 120)), Consequence::Answer, "{round}");
        }
        assert_eq!(throttle.fail(1, false, at(19 * 120)), Consequence::Block(LIMITS.block));
    }

    #[test]
    fn exempt_origin_gets_growing_delays_and_is_never_blocked() {
        let at = moments();
        let mut throttle = Throttle::new(LIMITS);
        let mut last = Duration::ZERO;
        for second in 0..100 {
            let Consequence::Delay(delay) = throttle.fail(1, true, at(second)) else {
                panic!("blocked")
            };
            assert!(delay >= last && delay <= LONGEST_DELAY);
            last = delay;
        }
        assert_eq!(last, LONGEST_DELAY);
        assert_eq!(throttle.blocked(1, at(100)), None);
        assert_eq!(throttle.fail(1, true, at(700)), Consequence::Delay(SHORTEST_DELAY));
    }

    #[test]
    fn flood_of_addresses_neither_grows_nor_frees_a_blocked_one() {
        let at = moments();
        let mut throttle = Throttle::new(LIMITS);
        for second in 0..6 {
            throttle.fail(0, false, at(second));
        }
        for address in 1..100_000 {
            throttle.fail(address, false, at(6));
            assert!(throttle.len() <= LIMITS.origins);
        }
        assert!(throttle.blocked(0, at(7)).is_some());
        // Expired entries are removed.
        throttle.fail(1, false, at(5000));
        assert_eq!(throttle.len(), 1);
    }

    #[test]
    fn delayed_replies_count_until_due_after_disconnection_too() {
        let at = moments();
        let mut throttle = Throttle::new(LIMITS);
        for _ in 0..6 {
            throttle.fail(1, true, at(0));
        }
        // 250 and 500 ms, 1, 2, 4 and 8 s.
        let pending = [0, 1, 3, 5, 8].map(|second| throttle.pending(1, at(second)));
        assert_eq!(pending, [6, 3, 2, 1, 0]);
        let next = throttle.next_answer(1, at(0)).map(|due| due - at(0));
        assert_eq!(next, Some(Duration::from_millis(250)));
        assert_eq!(throttle.next_answer(1, at(8)), None);
        throttle.fail(2, false, at(0));
        assert_eq!(throttle.pending(2, at(0)), 0);
        assert_eq!(throttle.pending(3, at(0)), 0);
        throttle.fail(1, true, at(700));
        assert_eq!(throttle.pending(1, at(700)), 1, "nothing is kept for ever");
    }
}
