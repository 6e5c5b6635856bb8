//! When a lost connection is made again: at growing intervals, and never all clients in one moment.

use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use crate::backoff::Backoff;

const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The pauses of one connection that is made again and again.
pub(super) struct Pace {
    /// Since when there is a connection.
    since: Instant,
    /// Not before this is it tried again, and then not before so much later.
    retry: Instant,
    backoff: Backoff,
}

impl Pace {
    /// There is a connection.
    pub(super) fn new() -> Pace {
        let now = Instant::now();
        Pace { since: now, retry: now, backoff: Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE) }
    }

    /// When it may be tried again.
    pub(super) fn retry(&self) -> Instant {
        self.retry
    }

    /// There is a connection again.
    pub(super) fn is_back(&mut self) {
        self.since = Instant::now();
    }

    /// It is lost.
    pub(super) fn is_lost(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) > LONGEST_PAUSE {
            self.backoff.reset();
            self.retry = now;
        } else {
            self.wait_longer();
        }
    }

    /// Many clients of one daemon must not come back in one moment, and none again and again to one
    /// that sends it away.
    pub(super) fn wait_longer(&mut self) {
        self.retry = Instant::now() + jittered(self.backoff.take());
    }
}

/// Between three quarters and five quarters of it.
fn jittered(pause: Duration) -> Duration {
    let mut random = [128];
    // Without random bits it is just the pause.
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
