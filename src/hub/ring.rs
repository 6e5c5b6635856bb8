//! The last events, for those who come back.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::wire::{Published, Spelling};

/// Events without a hole between the oldest and the newest, bounded by what they weigh.
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
        // The event is kept as a value, and mostly once more encoded.
        let weight = 2 * event.weight(Spelling::default());
        self.events.push_back((event.clone(), weight));
        self.weight += weight;
        self.forget_surplus();
    }

    /// The newest stays in any case: `ring` holds an event of `max_event`, the configuration says.
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

    /// The event of that number.
    pub(super) fn get(&self, seq: u64) -> Option<Rc<Published>> {
        let at = seq.checked_sub(self.oldest()?)?;
        self.events.get(usize::try_from(at).ok()?).map(|(event, _)| event.clone())
    }
}
