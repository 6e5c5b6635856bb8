//! The current time, passed as a value.
//!
//! State machines take the time as an argument, so that tests can drive them by hand, and all work
//! of one turn of the loop has the same time.

use std::time::{Instant, SystemTime};

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic, for waits.
    pub instant: Instant,
    /// Wall-clock time, for people.
    pub wall: SystemTime,
}

impl Moment {
    /// The current time.
    pub fn now() -> Moment {
        Moment { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// Time limit for one part of a turn: work beyond it continues in the next turn, so that other
/// sources wait no longer than that.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// `None`: unlimited.
    until: Option<Instant>,
}

impl Budget {
    /// A budget of `time` from now on.
    pub fn of(time: std::time::Duration) -> Budget {
        Budget { until: Some(Instant::now() + time) }
    }

    /// An unlimited budget.
    pub fn endless() -> Budget {
        Budget { until: None }
    }

    /// Whether the time is over.
    pub fn is_spent(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}
