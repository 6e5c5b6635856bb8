//! The share of each user: the resources of its connections, and the order of turns.
//!
//! A user is an account of the host (its number, however the peer proved it), or the origin of
//! connections that are not authenticated. They are served in [`Turns`].

use std::collections::BTreeMap;

use super::clients::ClientId;
use crate::charge::Account;
use crate::net::Source;
use crate::turns::Turns;

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
    /// Requests that wait for the store or for a worker.
    pub(super) requests: Account,
}

/// All users with connections.
#[derive(Debug, Default)]
pub(super) struct Users {
    shares: BTreeMap<Owner, Share>,
    /// Connections that have something to be read.
    turns: Turns<Owner>,
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
            requests: Account::default(),
        })
    }

    /// Number of connections of a user.
    pub(super) fn connections(&self, owner: Owner) -> usize {
        self.shares.get(&owner).map_or(0, |share| share.connections.used())
    }

    /// Requests of a user that wait for the store or for a worker.
    pub(super) fn requests(&self, owner: Owner) -> usize {
        self.shares.get(&owner).map_or(0, |share| share.requests.used())
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
        let unused = |share: &Share| share.connections.used() == 0;
        if self.shares.get(&owner).is_some_and(unused) {
            self.shares.remove(&owner);
        }
    }

    /// Gives a connection of `owner` a turn, after those that wait for theirs.
    pub(super) fn enqueue(&mut self, owner: Owner, id: ClientId) {
        self.turns.enqueue(owner, id);
    }

    /// The connection whose turn it is.
    pub(super) fn next(&mut self) -> Option<ClientId> {
        self.turns.take_next()
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
    fn user_without_connections_is_forgotten() {
        let mut users = Users::default();
        let connection = Charge::new(&users.share(AMY).connections, 1);
        users.forget_unused(AMY);
        assert_eq!(users.shares.len(), 1);
        drop(connection);
        users.forget_unused(AMY);
        assert!(users.shares.is_empty());
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
