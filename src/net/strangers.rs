//! The places of those who have not said yet who they are.
//!
//! They are few, and fewer for one address, and who came first goes first: so strangers can crowd
//! out each other and nobody else.

use std::collections::VecDeque;

use super::socket::Source;

/// Strangers of one address.
const OF_ONE: usize = 4;
/// All behind one bridge have one part of so many of the places.
const BRIDGED_PART: usize = 4;

/// All of them, in the order in which they came. `I` is what the owner knows them by.
#[derive(Debug)]
pub struct Strangers<I>(VecDeque<(I, Source)>);

impl<I: Copy + PartialEq> Strangers<I> {
    /// None yet.
    pub fn new() -> Strangers<I> {
        Strangers(VecDeque::new())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One more.
    pub fn add(&mut self, id: I, source: Source) {
        self.0.push_back((id, source));
    }

    /// It has gone, or is no stranger any more.
    pub fn remove(&mut self, id: I) {
        self.0.retain(|(other, _)| *other != id);
    }

    /// Who has to go so that one of that origin may come, where there may be `most` of them.
    pub fn in_the_way(&self, source: Source, most: usize) -> Option<I> {
        let is_of_one = |other: Source| match (source, other) {
            (Source::Caller(link, _), Source::Caller(other, _)) => link == other,
            (one, other) => one == other,
        };
        let most_of_one = match source {
            Source::Caller(..) => (most / BRIDGED_PART).max(OF_ONE),
            Source::Address(_) | Source::User(_) => OF_ONE,
        };
        let of_one = self.0.iter().filter(|(_, other)| is_of_one(*other));
        if of_one.clone().count() >= most_of_one {
            return of_one.map(|(id, _)| *id).next();
        }
        let full = self.0.len() >= most;
        self.0.front().filter(|_| full).map(|(id, _)| *id)
    }
}

impl<I: Copy + PartialEq> Default for Strangers<I> {
    fn default() -> Strangers<I> {
        Strangers::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_of_its_own_address_or_of_all() {
        let at = |last: u8| Source::Address([192, 0, 2, last].into());
        let mut strangers = Strangers::new();
        for id in 0..4 {
            assert_eq!(strangers.in_the_way(at(1), 6), None);
            strangers.add(id, at(1));
        }
        assert_eq!(strangers.in_the_way(at(1), 6), Some(0));
        assert_eq!(strangers.in_the_way(at(2), 6), None);
        strangers.remove(0);
        strangers.add(4, at(2));
        strangers.add(5, at(2));
        strangers.add(6, at(3));
        assert_eq!(strangers.in_the_way(at(2), 6), Some(1));
        assert_eq!(strangers.len(), 6);
    }

    #[test]
    fn those_behind_one_bridge_share_a_quarter() {
        let mut strangers = Strangers::new();
        for caller in 0..16 {
            assert_eq!(strangers.in_the_way(Source::Caller(1, caller), 64), None);
            strangers.add(caller, Source::Caller(1, caller));
        }
        assert_eq!(strangers.in_the_way(Source::Caller(1, 16), 64), Some(0));
        assert_eq!(strangers.in_the_way(Source::Caller(2, 0), 64), None);
        assert_eq!(strangers.in_the_way(Source::User(0), 64), None);
    }
}
