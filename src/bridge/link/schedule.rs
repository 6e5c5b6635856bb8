//! Reconnection to a relay: back-off with jitter.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// Back-off of one link.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    longest: Duration,
    /// The intervals, without jitter.
    backoff: Backoff,
    /// Time of successful authentication.
    known: Option<Instant>,
}

impl Schedule {
    /// Creates the initial state.
    pub fn new(shortest: Duration, longest: Duration) -> Schedule {
        Schedule { longest, backoff: Backoff::new(shortest, longest), known: None }
    }

    /// Changes the bounds.
    pub fn set_bounds(&mut self, shortest: Duration, longest: Duration) {
        self.longest = longest;
        self.backoff.set_limits(shortest, longest);
    }

    /// Authentication succeeded.
    pub fn known(&mut self, now: Instant) {
        self.known = Some(now);
    }

    /// The connection failed or was lost: returns the time of the next attempt. `chance` is a
    /// random number. The interval also grows for a relay that disconnects soon after
    /// authentication.
    pub fn failed(&mut self, chance: u8, now: Instant) -> Instant {
        let lived = self.known.take().map(|since| now.saturating_duration_since(since));
        if lived.is_some_and(|lived| lived >= self.backoff.pause()) {
            self.backoff.reset();
        }
        let pause = self.backoff.take();
        let spread = pause / 2 * u32::from(chance) / 255;
        let after = (pause + spread).min(self.longest);
        // At the upper bound jitter shortens the interval.
        now + if after == self.longest {
            after - after / 4 * u32::from(chance) / 255
        } else {
            after
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pauses(schedule: &mut Schedule, chance: u8, now: Instant) -> Vec<u64> {
        (0..8).map(|_| (schedule.failed(chance, now) - now).as_millis() as u64).collect()
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_chance_spreads_them() {
        let now = Instant::now();
        let schedule = || Schedule::new(SECOND, 60 * SECOND);
        let least = [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000];
        assert_eq!(pauses(&mut schedule(), 0, now), least);
        let most = [1500, 3000, 6000, 12_000, 24_000, 48_000, 45_000, 45_000];
        assert_eq!(pauses(&mut schedule(), 255, now), most);
    }

    #[test]
    fn reconnection_is_early_after_a_long_link_and_late_otherwise() {
        let now = Instant::now();
        let mut schedule = Schedule::new(SECOND, 60 * SECOND);
        pauses(&mut schedule, 0, now);
        schedule.known(now);
        assert_eq!(schedule.failed(0, now + 60 * SECOND), now + 61 * SECOND);
        schedule.known(now);
        assert_eq!(schedule.failed(0, now + SECOND), now + 3 * SECOND);
        schedule.known(now);
        assert_eq!(schedule.failed(0, now + SECOND), now + 5 * SECOND, "it is sent away each time");
    }
}
