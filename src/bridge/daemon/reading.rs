//! How much a peer reads while much waits for it: only then is it worth to wait for.

use std::time::{Duration, Instant};

/// The part of its queue that a peer has to take in a `pause` at least for others to wait for it.
const SLOWEST: usize = 64;
/// In as many `pause`s whoever waits has to have had its turn, however many wait: who is not read does
/// not get its pings answered either, and has others to speak to.
const LONGEST: u32 = 8;

/// What was seen of it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// When it was looked at last, and the bytes that its socket had taken until then.
    looked_at: Option<(Instant, u64)>,
    is_stuck: bool,
}

impl Reading {
    /// True where it takes so little of what waits for it that nobody should wait too. `sent` are
    /// the bytes that its socket has taken so far.
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

    /// True where somebody has waited for too long, or is to wait no longer for another reason. Then
    /// nobody waits for a `pause` at least.
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

    /// There is room for more.
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
    fn who_reads_a_little_now_and_then_is_waited_for_no_longer_than_who_reads_nothing() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for rate in [0, 1, 1023] {
            let mut reading = Reading::default();
            assert!(!reading.is_stuck(5000, QUEUE, PAUSE, at(0)));
            assert!(!reading.is_stuck(5000, QUEUE, PAUSE, at(999)));
            assert!(reading.is_stuck(5000 + rate, QUEUE, PAUSE, at(1000)), "{rate}");
            // What it takes by and by counts, even if there was room for one more in between.
            reading.has_room(false);
            assert!(!reading.is_stuck(5000 + rate, QUEUE, PAUSE, at(1500)));
            assert!(reading.is_stuck(5000 + 2 * rate, QUEUE, PAUSE, at(2000)), "{rate}");
        }
    }

    #[test]
    fn nobody_waits_for_ever_where_many_do() {
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
    fn who_reads_on_is_waited_for_as_long_as_that_takes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reading = Reading::default();
        for second in 0..100 {
            assert!(!reading.is_stuck(second * 1024, QUEUE, PAUSE, at(second)));
        }
        // It had nothing to read for a while.
        reading.has_room(true);
        assert!(!reading.is_stuck(99 * 1024, QUEUE, PAUSE, at(200)));
        assert!(reading.is_stuck(99 * 1024, QUEUE, PAUSE, at(201)));
        assert!(!reading.is_stuck(100 * 1024, QUEUE, PAUSE, at(202)));
    }
}
