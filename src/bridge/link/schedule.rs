//! When a bridge is dialled again: soon, then ever later, and never all servers in one moment.

use std::time::{Duration, Instant};

/// The pauses of one link.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    shortest: Duration,
    longest: Duration,
    /// The next pause, before chance has its say.
    pause: Duration,
    /// Since when the bridge knows us.
    known: Option<Instant>,
}

impl Schedule {
    /// Nothing was tried yet.
    pub fn new(shortest: Duration, longest: Duration) -> Schedule {
        Schedule { shortest, longest, pause: shortest, known: None }
    }

    /// Other bounds from now on.
    pub fn set_bounds(&mut self, shortest: Duration, longest: Duration) {
        (self.shortest, self.longest) = (shortest, longest);
        self.pause = self.pause.clamp(shortest, longest);
    }

    /// The bridge has let us in.
    pub fn known(&mut self, now: Instant) {
        self.known = Some(now);
    }

    /// It cannot be reached, or the connection is lost: when it is tried again. `chance` is any
    /// number. A bridge that lets us in and soon sends us away is not asked ever faster.
    pub fn failed(&mut self, chance: u8, now: Instant) -> Instant {
        let lived = self.known.take().map(|since| now.saturating_duration_since(since));
        if lived.is_some_and(|lived| lived >= self.pause) {
            self.pause = self.shortest;
        }
        let spread = self.pause / 2 * u32::from(chance) / 255;
        let after = (self.pause + spread).min(self.longest);
        self.pause = (2 * self.pause).min(self.longest);
        // At the upper bound chance makes it shorter.
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
    fn a_link_that_lived_is_dialled_soon_and_one_that_did_not_later() {
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
