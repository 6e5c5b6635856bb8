//! Deadlines, one per key, with O(log n) operations.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Deadlines by key and by time.
#[derive(Debug)]
pub struct Deadlines<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: BTreeMap<K, Instant>,
}

impl<K: Copy + Ord> Deadlines<K> {
    /// Creates an empty set.
    pub const fn new() -> Deadlines<K> {
        Deadlines { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }

    /// Sets the only deadline of `key`; `None` removes it.
    pub fn set(&mut self, key: K, when: Option<Instant>) {
        if self.by_key.get(&key).copied() == when {
            return;
        }
        if let Some(before) = self.by_key.remove(&key) {
            self.by_time.remove(&(before, key));
        }
        if let Some(when) = when {
            self.by_key.insert(key, when);
            self.by_time.insert((when, key));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(when, _)| *when)
    }

    /// Removes and returns the earliest deadline if it is due at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<K> {
        let (when, key) = *self.by_time.first()?;
        (when <= now).then(|| {
            self.by_time.pop_first();
            self.by_key.remove(&key);
            key
        })
    }
}

impl<K: Copy + Ord> Default for Deadlines<K> {
    fn default() -> Self {
        Deadlines::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn earliest_deadline_comes_first_and_each_key_has_one() {
        let start = Instant::now();
        let at = |seconds| Some(start + Duration::from_secs(seconds));
        let mut deadlines = Deadlines::new();
        deadlines.set('a', at(3));
        deadlines.set('b', at(2));
        deadlines.set('a', at(1));
        deadlines.set('c', at(4));
        deadlines.set('c', None);
        assert_eq!(deadlines.next(), at(1));
        assert_eq!(deadlines.take_due(start), None);
        assert_eq!(deadlines.take_due(start + Duration::from_secs(9)), Some('a'));
        assert_eq!(deadlines.take_due(start + Duration::from_secs(9)), Some('b'));
        assert_eq!(deadlines.take_due(start + Duration::from_secs(9)), None);
        assert_eq!(deadlines.next(), None);
    }
}
