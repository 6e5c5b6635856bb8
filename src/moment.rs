//! What time it is, passed in as a value.
//!
//! State machines take the time as an argument: so they can be driven by hand in a test, and a turn
//! of the loop has one time for all that happens in it.

use std::time::{Instant, SystemTime};

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For waits: never set back.
    pub instant: Instant,
    /// For people.
    pub wall: SystemTime,
}

impl Moment {
    /// This moment.
    pub fn now() -> Moment {
        Moment { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// How long one part of a turn may take: what exceeds it is continued in the next turn, so that
/// others wait no longer than that.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// `None` for a budget that never ends.
    until: Option<Instant>,
}

impl Budget {
    /// A budget of `time` from now on.
    pub fn of(time: std::time::Duration) -> Budget {
        Budget { until: Some(Instant::now() + time) }
    }

    /// A budget that never ends.
    pub fn endless() -> Budget {
        Budget { until: None }
    }

    /// Whether the time is over.
    pub fn is_spent(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}
