//! When a kernel event or a request starts a check.
//!
//! One change causes dozens of events, so they are coalesced for a moment. One wounded pool causes
//! hundreds a second for as long as it lasts, and each check costs it more: so while events
//! continue, the pauses between the checks that they cause grow.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// The first pause, and the minimum between two requested checks.
const LEAST: Duration = Duration::from_secs(1);

/// Rate at which events lead to checks.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Time in which events are coalesced.
    delay: Duration,
    /// Pauses between two checks that events cause.
    backoff: Backoff,
    /// Start of the last check that an event or a request caused.
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Pacing {
    pub(super) fn new(delay: Duration, longest: Duration) -> Pacing {
        Pacing { delay, backoff: Backoff::new(LEAST, longest), last: None, due: None }
    }

    pub(super) fn set_limits(&mut self, delay: Duration, longest: Duration) {
        self.delay = delay;
        self.backoff.set_limits(LEAST, longest);
    }

    /// Records a ZFS event.
    pub(super) fn event(&mut self, now: Instant) {
        self.want(now + self.delay, self.backoff.pause());
    }

    /// Records a request.
    pub(super) fn request(&mut self, now: Instant) {
        self.want(now, LEAST);
    }

    fn want(&mut self, when: Instant, pause: Duration) {
        let when = self.last.map_or(when, |last| when.max(last + pause));
        self.due = Some(self.due.map_or(when, |due| due.min(when)));
    }

    /// When the next caused check begins.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A check begins, which serves all events and requests so far. True where there were any.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        if self.due.take().is_none() {
            return false;
        }
        let goes_on =
            self.last.is_some_and(|last| now.duration_since(last) <= 2 * self.backoff.pause());
        if goes_on {
            self.backoff.take();
        } else {
            self.backoff.reset();
        }
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(200);

    fn pacing() -> (Pacing, Instant) {
        (Pacing::new(DELAY, Duration::from_secs(30)), Instant::now())
    }

    #[test]
    fn burst_of_events_causes_one_check() {
        let (mut pacing, start) = pacing();
        assert_eq!(pacing.due(), None);
        for n in 0..100 {
            pacing.event(start + n * Duration::from_millis(1));
        }
        assert_eq!(pacing.due(), Some(start + DELAY));
        assert!(pacing.begin(start + DELAY));
        assert_eq!(pacing.due(), None);
        assert!(!pacing.begin(start + DELAY));
    }

    #[test]
    fn events_without_end_lead_to_checks_that_grow_rare() {
        let (mut pacing, start) = pacing();
        let (mut now, mut checks) = (start, Vec::new());
        while now < start + Duration::from_secs(200) {
            pacing.event(now);
            if pacing.due().is_some_and(|due| due <= now) {
                pacing.begin(now);
                checks.push((now - start).as_secs());
            }
            now += Duration::from_millis(100);
        }
        assert_eq!(checks, [0, 1, 3, 7, 15, 31, 61, 91, 121, 151, 181]);
        // After a minute of silence, the next event is served at once.
        now = pacing.due().unwrap();
        pacing.begin(now);
        now += Duration::from_secs(61);
        pacing.event(now);
        assert_eq!(pacing.due(), Some(now + DELAY));
        pacing.begin(now + DELAY);
        pacing.event(now + DELAY);
        assert_eq!(pacing.due(), Some(now + DELAY + LEAST));
    }

    #[test]
    fn a_request_waits_for_nothing_but_the_request_before() {
        let (mut pacing, start) = pacing();
        pacing.request(start);
        assert_eq!(pacing.due(), Some(start));
        pacing.begin(start);
        pacing.request(start);
        pacing.event(start);
        assert_eq!(pacing.due(), Some(start + LEAST));
    }
}
