//! Duration of each turn of a loop: a turn that delays everything else for too long is logged.

use std::fmt::Write;
use std::time::{Duration, Instant};

use log::{Level, debug, log_enabled};

use crate::sys::processor_time;

/// Longer turns are logged, at level debug.
const LONG: Duration = Duration::from_millis(5);

/// Measures one turn, and its parts. Does nothing unless messages of level debug are logged.
#[derive(Debug)]
pub struct TurnTimer(Option<Running>);

#[derive(Debug)]
struct Running {
    began: Instant,
    /// Processor time of the thread at the start.
    processor: Duration,
    parts: Vec<(&'static str, Instant)>,
}

impl TurnTimer {
    /// A turn begins.
    pub fn begin() -> TurnTimer {
        TurnTimer(log_enabled!(Level::Debug).then(|| Running {
            began: Instant::now(),
            processor: processor_time::of_thread(),
            parts: Vec::new(),
        }))
    }

    /// A part of the turn ends here; `name` is for the log.
    pub fn end_part(&mut self, name: &'static str) {
        if let Some(running) = &mut self.0 {
            running.parts.push((name, Instant::now()));
        }
    }

    /// The turn ends.
    pub fn end(self) {
        if let Some(running) = self.0 {
            let took = running.began.elapsed();
            if took >= LONG {
                let processor = processor_time::of_thread().saturating_sub(running.processor);
                debug!("{}", running.describe(took, processor));
            }
        }
    }
}

impl Running {
    fn describe(&self, took: Duration, processor: Duration) -> String {
        let mut text = format!("a turn took {took:.1?}, {processor:.1?} of processor time");
        let (mut before, mut separator) = (self.began, ": ");
        for (name, at) in &self.parts {
            let part = at.saturating_duration_since(before);
            let _ = write!(text, "{separator}{name} {part:.1?}");
            (before, separator) = (*at, ", ");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_names_the_parts_in_order_with_their_times() {
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        let parts = vec![("events", at(2)), ("requests", at(9))];
        let running = Running { began, processor: Duration::ZERO, parts };
        assert_eq!(
            running.describe(Duration::from_millis(9), Duration::from_millis(8)),
            "a turn took 9.0ms, 8.0ms of processor time: events 2.0ms, requests 7.0ms"
        );
    }
}
