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
