//! Read rate of a peer with a long queue: whether senders should wait for it.

use std::time::{Duration, Instant};

/// Fraction of its queue that a peer must read per `pause` for senders to wait for it.
const SLOWEST: usize = 64;
/// Number of `pause`s after which a waiting sender is resumed, however many wait: a sender that is
/// not read gets no pongs, and may have messages for other peers.
const LONGEST: u32 = 8;

/// Observations of a peer.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Time of the last observation, and the bytes sent to its socket until then.
    looked_at: Option<(Instant, u64)>,
    is_stuck: bool,
}

impl Reading {
    /// Whether it reads so little of its queue that no sender should wait. `sent` is the number of
    /// bytes written to its socket.
    pub(super) fn is_stuck(
        &mut self,
        sent: u64,
        queue: usize,
        pause: Duration,
        now: Instant,
    ) -> bool {
        let (since, before) = *self.looked_at.get_or_insert((now, sent));
        if now.saturating_duration_since(since) >= pause {
            self.is_stuck = sent.saturating_sub(before) < (queue / SLOWEST) as u64;
            self.looked_at = Some((now, sent));
        }
        self.is_stuck
    }

    /// Whether a sender has waited too long, or must not wait for another reason. Then none waits
    /// for at least a `pause`.
    pub(super) fn is_given_up(
        &mut self,
        waited: Duration,
        sent: u64,
        queue: usize,
        pause: Duration,
        now: Instant,
    ) -> bool {
        if waited >= pause.saturating_mul(LONGEST) {
            self.looked_at = Some((now, sent));
            self.is_stuck = true;
        }
        self.is_stuck(sent, queue, pause, now)
    }

    /// Its queue has room again.
    pub(super) fn has_room(&mut self, is_empty: bool) {
        self.is_stuck = false;
        if is_empty {
            self.looked_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: usize = 64 * 1024;
    const PAUSE: Duration = Duration::from_secs(1);

    #[test]
    fn slow_reader_delays_senders_no_longer_than_a_silent_one() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for rate in [0, 1, 1023] {
            let mut reading = Reading::default();
            assert!(!reading.is_stuck(5000, QUEUE, PAUSE, at(0)));
            assert!(!reading.is_stuck(5000, QUEUE, PAUSE, at(999)));
            assert!(reading.is_stuck(5000 + rate, QUEUE, PAUSE, at(1000)), "{rate}");
            // Slow reading counts, even if the queue had room in between.
            reading.has_room(false);
            assert!(!reading.is_stuck(5000 + rate, QUEUE, PAUSE, at(1500)));
            assert!(reading.is_stuck(5000 + 2 * rate, QUEUE, PAUSE, at(2000)), "{rate}");
        }
    }

    #[test]
    fn many_waiting_senders_are_resumed_in_bounded_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reading = Reading::default();
        for second in 0..8 {
            let waited = Duration::from_secs(second);
            assert!(!reading.is_given_up(waited, second * 9999, QUEUE, PAUSE, at(second)));
        }
        assert!(reading.is_given_up(Duration::from_secs(8), 8 * 9999, QUEUE, PAUSE, at(8)));
        let later = at(8) + Duration::from_millis(999);
        assert!(reading.is_stuck(9 * 9999, QUEUE, PAUSE, later), "all of them go on");
        assert!(!reading.is_stuck(9 * 9999, QUEUE, PAUSE, at(9)));
    }

    #[test]
    fn steady_reader_is_waited_for_without_limit() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reading = Reading::default();
        for second in 0..100 {
            assert!(!reading.is_stuck(second * 1024, QUEUE, PAUSE, at(second)));
        }
        // Its queue was empty for a while.
        reading.has_room(true);
        assert!(!reading.is_stuck(99 * 1024, QUEUE, PAUSE, at(200)));
        assert!(reading.is_stuck(99 * 1024, QUEUE, PAUSE, at(201)));
        assert!(!reading.is_stuck(100 * 1024, QUEUE, PAUSE, at(202)));
    }
}
