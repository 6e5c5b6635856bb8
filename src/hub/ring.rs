//! The most recent events, for resumption.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::wire::{Published, Spelling};

/// Consecutive events, bounded by their weight.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<(Rc<Published>, usize)>,
    weight: usize,
    /// In bytes.
    limit: usize,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Ring {
        Ring { events: VecDeque::new(), weight: 0, limit }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.forget_surplus();
    }

    pub(super) fn push(&mut self, event: &Rc<Published>) {
        // The event is stored as a value, and usually once more encoded.
        let weight = 2 * event.weight(Spelling::default());
        self.events.push_back((event.clone(), weight));
        self.weight += weight;
        self.forget_surplus();
    }

    /// The newest event always stays: the configuration ensures that `ring` holds an event of
    /// `max_event`.
    fn forget_surplus(&mut self) {
        while self.weight > self.limit
            && self.events.len() > 1
            && let Some((_, weight)) = self.events.pop_front()
        {
            self.weight -= weight;
        }
    }

    /// Number of the oldest event.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.events.front().map(|(event, _)| event.seq)
    }

    /// The event with that number.
    pub(super) fn get(&self, seq: u64) -> Option<Rc<Published>> {
        let at = seq.checked_sub(self.oldest()?)?;
        self.events.get(usize::try_from(at).ok()?).map(|(event, _)| event.clone())
    }
}
