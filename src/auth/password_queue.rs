//! Passwords that wait until one of their origin may be checked.
//!
//! The number of failures of an origin is limited for a time, so that a password cannot be guessed.
//! Attempts beyond it wait here: otherwise a right password would be refused while another peer at
//! the same address guesses. Origins are served in turn, and within an origin its accounts, with any
//! number of attempts for each: guesses at one account delay the right password of another by one
//! check. Within an account the next attempt is a random one. An attempt too many evicts a random
//! one of the account with the most, so neither an early nor a late attempt is excluded.

use std::collections::VecDeque;

/// Accounts of one origin, in the order of their queue, with the attempts for each.
type Accounts<T> = VecDeque<(String, Vec<T>)>;

/// Pending attempts. `O` is an origin, `T` an attempt.
#[derive(Debug)]
pub struct PasswordQueue<O, T>(VecDeque<(O, Accounts<T>)>);

impl<O, T> Default for PasswordQueue<O, T> {
    fn default() -> PasswordQueue<O, T> {
        PasswordQueue(VecDeque::new())
    }
}

impl<O: Copy + PartialEq, T> PasswordQueue<O, T> {
    /// Adds an attempt for an account.
    pub fn push(&mut self, origin: O, account: &str, item: T) {
        let at = self.0.iter().position(|(other, _)| *other == origin).unwrap_or_else(|| {
            self.0.push_back((origin, VecDeque::new()));
            self.0.len() - 1
        });
        let Some((_, accounts)) = self.0.get_mut(at) else { return };
        match accounts.iter_mut().find(|(name, _)| name == account) {
            Some((_, items)) => items.push(item),
            None => accounts.push_back((account.to_owned(), vec![item])),
        }
    }

    /// Removes and returns a random attempt of the account with the most, of the origin with the
    /// most, if more than `most` are pending.
    pub fn give_up(&mut self, most: usize, random: u64) -> Option<T> {
        if self.len() <= most {
            return None;
        }
        let (_, accounts) = self.0.iter_mut().max_by_key(|(_, accounts)| total(accounts))?;
        let most = accounts.iter().map(|(_, items)| items.len()).max()?;
        // There may be several accounts with as many.
        let full = || accounts.iter().enumerate().filter(|(_, (_, items))| items.len() == most);
        let chosen = index(random, full().count() * most)?;
        let (at, _) = full().nth(chosen / most)?;
        let item = accounts.get_mut(at).map(|(_, items)| items.swap_remove(chosen % most));
        self.forget_empty();
        item
    }

    /// Removes and returns the next attempt of an origin that `may` admits.
    pub fn take_next(&mut self, may: impl Fn(O) -> bool, random: u64) -> Option<T> {
        let at = self.0.iter().position(|(origin, _)| may(*origin))?;
        let (origin, mut accounts) = self.0.remove(at)?;
        let (name, mut items) = accounts.pop_front()?;
        let item = index(random, items.len()).map(|at| items.swap_remove(at));
        accounts.push_back((name, items));
        self.0.push_back((origin, accounts));
        self.forget_empty();
        item
    }

    /// Removes attempts that `is_wanted` rejects.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&T) -> bool) {
        let items = self.0.iter_mut().flat_map(|(_, accounts)| accounts);
        items.for_each(|(_, items)| items.retain(&mut is_wanted));
        self.forget_empty();
    }

    /// All pending attempts.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|(_, accounts)| accounts).flat_map(|(_, items)| items)
    }

    /// Origins with pending attempts.
    pub fn origins(&self) -> impl Iterator<Item = O> {
        self.0.iter().map(|(origin, _)| *origin)
    }

    /// Number of pending attempts of this origin.
    pub fn of(&self, origin: O) -> usize {
        let of = self.0.iter().find(|(other, _)| *other == origin);
        of.map_or(0, |(_, accounts)| total(accounts))
    }

    /// Number of pending attempts.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(_, accounts)| total(accounts)).sum()
    }

    /// Whether no attempt is pending.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn forget_empty(&mut self) {
        self.0.iter_mut().for_each(|(_, accounts)| accounts.retain(|(_, i)| !i.is_empty()));
        self.0.retain(|(_, accounts)| !accounts.is_empty());
    }
}

fn total<T>(accounts: &VecDeque<(String, Vec<T>)>) -> usize {
    accounts.iter().map(|(_, items)| items.len()).sum()
}

fn index(random: u64, length: usize) -> Option<usize> {
    usize::try_from(random.checked_rem(u64::try_from(length).ok()?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_waits_for_one_check_of_each_other_account() {
        let mut queue = PasswordQueue::default();
        for guess in 0..10 {
            queue.push(1, "root", guess);
        }
        queue.push(1, "ann", 100);
        assert!(queue.take_next(|_| true, 5).is_some_and(|guess| guess < 10));
        assert_eq!(queue.take_next(|_| true, 5), Some(100));
        assert_eq!((queue.len(), queue.of(1), queue.of(2)), (9, 9, 0));
    }

    #[test]
    fn origin_waits_for_one_check_of_each_other_origin() {
        let mut queue = PasswordQueue::default();
        for name in 0..8 {
            queue.push(1, &format!("u{name}"), name);
        }
        queue.push(2, "ann", 100);
        assert!(queue.take_next(|_| true, 0).is_some());
        assert_eq!(queue.take_next(|_| true, 0), Some(100));
        assert_eq!(queue.take_next(|origin| origin == 2, 0), None);
        assert_eq!(queue.origins().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn surplus_attempt_is_one_of_the_fullest_account_at_random() {
        let fill = |random| {
            let mut queue = PasswordQueue::default();
            queue.push(2, "bob", 50);
            queue.push(1, "ann", 100);
            (1..=3).for_each(|guess| queue.push(1, "root", guess));
            let given_up = queue.give_up(4, random);
            assert_eq!((queue.len(), queue.give_up(4, random)), (4, None));
            given_up
        };
        assert_eq!([0, 1, 2, 3].map(fill), [Some(1), Some(2), Some(3), Some(1)]);
        // Where all accounts have one, it is one of all.
        let one_of_all = |random| {
            let mut queue = PasswordQueue::default();
            ["a", "b", "c"].iter().for_each(|name| queue.push(1, name, *name));
            queue.give_up(2, random)
        };
        assert_eq!([0, 1, 2].map(one_of_all), [Some("a"), Some("b"), Some("c")]);
    }

    #[test]
    fn waiting_attempt_is_served_despite_later_attempts() {
        // An attempt for the account that is guessed at, and each check makes room for a new guess.
        let mut random = 1_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for _ in 0..100 {
            let mut queue = PasswordQueue::default();
            (0..7).for_each(|guess| queue.push(1, "root", guess));
            queue.push(1, "root", 100);
            let mut checks = 1;
            while queue.take_next(|_| true, next()) != Some(100) {
                queue.push(1, "root", 1);
                checks += 1;
                assert!(checks < 200);
            }
        }
    }

    #[test]
    fn attempts_of_clients_that_left_are_forgotten() {
        let mut queue = PasswordQueue::default();
        queue.push(1, "root", 1);
        queue.push(1, "ann", 2);
        queue.retain(|item| *item != 1);
        assert_eq!(queue.take_next(|_| true, 0), Some(2));
        assert!(queue.is_empty() && queue.take_next(|_| true, 0).is_none());
    }
}
