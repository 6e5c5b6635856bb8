//! Events on their way to the history: each is held until a child has written it, so that a new child
//! gets it again. Bounded by bytes; events beyond that are counted.

use std::collections::VecDeque;
use std::rc::Rc;

/// Bytes of events that are held.
const MOST: usize = 1 << 20;

/// An event, and how many before it were left out.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) lost: u64,
    pub(super) frame: Rc<[u8]>,
}

#[derive(Debug, Default)]
pub(super) struct EventBacklog {
    events: VecDeque<Held>,
    held: usize,
    /// Events that this child has acknowledged.
    acknowledged: u64,
    /// Events that were left out since the last one that is held.
    lost: u64,
}

impl EventBacklog {
    /// Takes an event in, for a child. The first one for which there is no room is an error.
    pub(super) fn push(&mut self, frame: Rc<[u8]>) -> Result<Option<Held>, ()> {
        if self.held.saturating_add(frame.len()) > MOST {
            self.lost = self.lost.saturating_add(1);
            return if self.lost == 1 { Err(()) } else { Ok(None) };
        }
        self.held += frame.len();
        let held = Held { lost: std::mem::take(&mut self.lost), frame };
        self.events.push_back(held.clone());
        Ok(Some(held))
    }

    /// The child has written all up to this number since it began.
    pub(super) fn acknowledge(&mut self, count: u64) {
        while self.acknowledged < count {
            self.acknowledged += 1;
            self.held -= self.events.pop_front().map_or(0, |held| held.frame.len());
        }
        if self.events.is_empty() {
            self.events.shrink_to(16);
        }
    }

    /// A new child has begun: all that it is to get.
    pub(super) fn begin(&mut self) -> impl Iterator<Item = &Held> {
        self.acknowledged = 0;
        self.events.retain(|held| !held.frame.is_empty());
        self.events.iter()
    }

    /// Forgets all events.
    pub(super) fn clear(&mut self) {
        // Those that the child has are acknowledged still.
        for held in &mut self.events {
            held.frame = Rc::new([]);
        }
        (self.held, self.lost) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_beyond_the_bound_are_counted_with_the_next_one() {
        let mut backlog = EventBacklog::default();
        let half: Rc<[u8]> = vec![b'x'; MOST / 2].into();
        for _ in 0..2 {
            assert_eq!(backlog.push(half.clone()).unwrap().unwrap().lost, 0);
        }
        assert!(backlog.push(half.clone()).is_err(), "said once");
        assert!(backlog.push(half.clone()).unwrap().is_none());
        backlog.acknowledge(1);
        assert_eq!(backlog.push(half.clone()).unwrap().unwrap().lost, 2);
        // The next child gets what was not acknowledged, with the count.
        let again: Vec<u64> = backlog.begin().map(|held| held.lost).collect();
        assert_eq!(again, [0, 2]);
        backlog.acknowledge(2);
        assert_eq!((backlog.held, backlog.begin().count()), (0, 0));
        backlog.push(half).unwrap();
        backlog.clear();
        backlog.acknowledge(1);
        assert_eq!(backlog.held, 0);
    }
}
