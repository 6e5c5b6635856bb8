//! The share of each user: the resources of its connections, and the order of turns.
//!
//! A user is an account of the host (its number, however the peer authenticated), or the origin of
//! unauthenticated connections. Users are served in turn, and the connections of one user in turn:
//! a user with a thousand busy connections delays another user's request by one request, and its
//! own by a thousand.

use std::collections::{BTreeMap, VecDeque};

use super::clients::ClientId;
use crate::charge::Account;
use crate::net::Source;

/// The user that a connection is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// An account of the host.
    Account(u32),
    /// Unauthenticated peers, by origin.
    Origin(Source),
}

/// Resources of the connections of one user.
#[derive(Debug)]
pub(super) struct Share {
    /// Connections.
    pub(super) connections: Account,
    /// Queued bytes.
    pub(super) outboxes: Account,
    /// Bytes of incomplete messages.
    pub(super) inboxes: Account,
    /// Connections with input, in the order of their turns.
    ready: VecDeque<ClientId>,
}

/// All users with connections.
#[derive(Debug, Default)]
pub(super) struct Users {
    shares: BTreeMap<Owner, Share>,
    /// Users with a ready connection, each once, in the order of their turns.
    turns: VecDeque<Owner>,
    outboxes: Account,
    inboxes: Account,
}

impl Users {
    /// The share of a user; initially empty.
    pub(super) fn share(&mut self, owner: Owner) -> &Share {
        self.shares.entry(owner).or_insert_with(|| Share {
            connections: Account::default(),
            outboxes: Account::within(&self.outboxes),
            inboxes: Account::within(&self.inboxes),
            ready: VecDeque::new(),
        })
    }

    /// Number of connections of a user.
    pub(super) fn connections(&self, owner: Owner) -> usize {
        self.shares.get(&owner).map_or(0, |share| share.connections.used())
    }

    /// Bytes queued for a user's connections.
    pub(super) fn outbox_bytes_of(&self, owner: Owner) -> usize {
        self.shares.get(&owner).map_or(0, |share| share.outboxes.used())
    }

    /// Bytes queued for all.
    pub(super) fn outbox_bytes(&self) -> usize {
        self.outboxes.used()
    }

    /// Bytes of incomplete messages.
    pub(super) fn inbox_bytes(&self) -> usize {
        self.inboxes.used()
    }

    /// The user with the most queued bytes.
    pub(super) fn fullest_outbox(&self) -> Option<Owner> {
        self.most(|share| &share.outboxes)
    }

    /// The user with the most bytes of incomplete messages.
    pub(super) fn fullest_inbox(&self) -> Option<Owner> {
        self.most(|share| &share.inboxes)
    }

    fn most(&self, account: impl Fn(&Share) -> &Account) -> Option<Owner> {
        let used = |share: &Share| account(share).used();
        self.shares.iter().max_by_key(|(_, share)| used(share)).map(|(owner, _)| *owner)
    }

    /// Removes a user without connections.
    pub(super) fn forget_unused(&mut self, owner: Owner) {
        let unused = |share: &Share| share.connections.used() == 0 && share.ready.is_empty();
        if self.shares.get(&owner).is_some_and(unused) {
            self.shares.remove(&owner);
        }
    }

    /// Gives a connection of `owner` a turn, after those that wait for theirs.
    pub(super) fn enqueue(&mut self, owner: Owner, id: ClientId) {
        let Some(share) = self.shares.get_mut(&owner) else { return };
        if share.ready.is_empty() {
            self.turns.push_back(owner);
        }
        share.ready.push_back(id);
    }

    /// The connection whose turn it is.
    pub(super) fn next(&mut self) -> Option<ClientId> {
        let owner = self.turns.pop_front()?;
        let share = self.shares.get_mut(&owner)?;
        let id = share.ready.pop_front();
        if share.ready.is_empty() {
            self.forget_unused(owner);
        } else {
            self.turns.push_back(owner);
        }
        id
    }

    /// Whether a connection waits for its turn.
    pub(super) fn has_ready_client(&self) -> bool {
        !self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::Charge;

    const AMY: Owner = Owner::Account(1);
    const BOB: Owner = Owner::Account(2);

    #[test]
    fn users_are_served_in_turn_despite_many_connections() {
        let mut users = Users::default();
        users.share(AMY);
        users.share(BOB);
        (1..=1000).for_each(|id| users.enqueue(AMY, id));
        users.enqueue(BOB, 2000);
        users.enqueue(BOB, 2001);
        let order: Vec<ClientId> = std::iter::from_fn(|| users.next()).take(6).collect();
        assert_eq!(order, [1, 2000, 2, 2001, 3, 4]);
        assert!(users.has_ready_client());
        assert_eq!(std::iter::from_fn(|| users.next()).count(), 996);
        assert!(!users.has_ready_client());
    }

    #[test]
    fn user_without_connections_is_forgotten() {
        let mut users = Users::default();
        let connection = Charge::new(&users.share(AMY).connections, 1);
        users.enqueue(AMY, 1);
        drop(connection);
        users.forget_unused(AMY);
        assert_eq!(users.shares.len(), 1, "its turn is still to come");
        assert_eq!(users.next(), Some(1));
        assert!(users.shares.is_empty());
        assert_eq!(users.next(), None);
    }

    #[test]
    fn fullest_user_has_the_most_in_all_its_connections() {
        let mut users = Users::default();
        let small: Vec<Charge> =
            (0..10).map(|_| Charge::new(&users.share(AMY).outboxes, 10)).collect();
        let large = Charge::new(&users.share(BOB).outboxes, 50);
        assert_eq!(users.fullest_outbox(), Some(AMY));
        assert_eq!(users.outbox_bytes(), 150);
        drop(small);
        assert_eq!(users.fullest_outbox(), Some(BOB));
        drop(large);
        assert_eq!(users.outbox_bytes(), 0);
    }
}
