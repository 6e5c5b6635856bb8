//! Exponential back-off: pauses between attempts that double up to a limit.

use std::time::Duration;

/// The pauses of one thing that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    pause: Duration,
}

impl Backoff {
    /// Pauses from `shortest` up to `longest`, which is not shorter.
    pub const fn new(shortest: Duration, longest: Duration) -> Backoff {
        Backoff { shortest, longest, pause: shortest }
    }

    /// Applies other limits to the pauses from now on.
    pub fn set_limits(&mut self, shortest: Duration, longest: Duration) {
        (self.shortest, self.longest) = (shortest, longest);
        self.pause = self.pause.clamp(shortest, longest);
    }

    /// Begins anew with the shortest pause, after a success.
    pub fn reset(&mut self) {
        self.pause = self.shortest;
    }

    /// The next pause, without a change.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Returns the next pause; the one after it is twice as long.
    pub fn take(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_until_reset() {
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        assert_eq!([0; 5].map(|_| backoff.take().as_secs()), [1, 2, 4, 5, 5]);
        backoff.set_limits(SECOND, 3 * SECOND);
        assert_eq!(backoff.pause(), 3 * SECOND);
        backoff.reset();
        assert_eq!(backoff.take(), SECOND);
    }
}
