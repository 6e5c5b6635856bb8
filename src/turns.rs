//! Turns: owners are served in turn, and the connections of one owner in turn.
//!
//! An owner with a thousand busy connections delays another owner's request by one request, and its
//! own by a thousand.

use std::collections::{BTreeMap, VecDeque};

/// Connections that wait for their turn. `O` is an owner.
#[derive(Debug)]
pub struct Turns<O> {
    /// In the order of their turns; no entry is empty.
    ready: BTreeMap<O, VecDeque<u64>>,
    /// Each owner of these once, in the order of their turns.
    owners: VecDeque<O>,
}

impl<O> Default for Turns<O> {
    fn default() -> Turns<O> {
        Turns { ready: BTreeMap::new(), owners: VecDeque::new() }
    }
}

impl<O: Copy + Ord> Turns<O> {
    /// Gives a connection of `owner` a turn, behind those that wait for theirs.
    pub fn enqueue(&mut self, owner: O, id: u64) {
        let ready = self.ready.entry(owner).or_default();
        if ready.is_empty() {
            self.owners.push_back(owner);
        }
        ready.push_back(id);
    }

    /// The connection whose turn it is.
    pub fn take_next(&mut self) -> Option<u64> {
        let owner = self.owners.pop_front()?;
        let ready = self.ready.get_mut(&owner)?;
        let id = ready.pop_front();
        if ready.is_empty() {
            self.ready.remove(&owner);
        } else {
            self.owners.push_back(owner);
        }
        id
    }

    /// Whether no connection waits for its turn.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_served_in_turn_with_any_connections() {
        let mut turns = Turns::default();
        (1..=1000).for_each(|id| turns.enqueue("amy", id));
        turns.enqueue("bob", 2000);
        turns.enqueue("bob", 2001);
        let order: Vec<u64> = std::iter::from_fn(|| turns.take_next()).take(6).collect();
        assert_eq!(order, [1, 2000, 2, 2001, 3, 4]);
        assert!(!turns.is_empty());
        assert_eq!(std::iter::from_fn(|| turns.take_next()).count(), 996);
        assert!(turns.is_empty());
    }
}
