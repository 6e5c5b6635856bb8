//! Reconnection with back-off and jitter.

use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use crate::backoff::Backoff;

const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Back-off of one connection.
pub(super) struct Pace {
    /// Time of the connection.
    since: Instant,
    /// Earliest time of the next attempt, and the interval after that.
    retry: Instant,
    backoff: Backoff,
}

impl Pace {
    /// Connected.
    pub(super) fn new() -> Pace {
        let now = Instant::now();
        Pace { since: now, retry: now, backoff: Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE) }
    }

    /// Earliest time of the next attempt.
    pub(super) fn retry(&self) -> Instant {
        self.retry
    }

    /// Reconnected.
    pub(super) fn is_back(&mut self) {
        self.since = Instant::now();
    }

    /// Connection lost.
    pub(super) fn is_lost(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) > LONGEST_PAUSE {
            self.backoff.reset();
            self.retry = now;
        } else {
            self.wait_longer();
        }
    }

    /// Many clients of one daemon must not reconnect at the same moment, and none constantly to a
    /// daemon that disconnects it.
    pub(super) fn wait_longer(&mut self) {
        self.retry = Instant::now() + jittered(self.backoff.take());
    }
}

/// Between three quarters and five quarters of it.
fn jittered(pause: Duration) -> Duration {
    let mut random = [128];
    // Without random bits there is no jitter.
    let _ = SystemRandom::new().fill(&mut random);
    pause * 3 / 4 + pause * u32::from(random[0]) / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_jittered_by_a_quarter() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(8));
            assert!((Duration::from_secs(6)..Duration::from_secs(10)).contains(&pause));
        }
    }
}
