//! A peer in the relay's state.

use std::time::Instant;

use super::PeerNumber;
use crate::auth::key::{Challenge, KeyId};
use crate::wire::{PeerKind, Sum};

/// A registered key in the relay's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Registered name.
    pub name: String,
    /// Identifier of the key.
    pub key: KeyId,
    /// It was proven by a string that is encrypted as it is.
    pub legacy: bool,
    /// The checksums that its owner may claim, sorted; `None`: any.
    pub sums: Option<Vec<Sum>>,
}

/// Authentication state of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Unauthenticated.
    Stranger,
    /// Authenticated by a registered key.
    Known(Registration),
    /// The key was revoked; its former name.
    Revoked(String),
}

impl Standing {
    /// The key.
    pub fn registration(&self) -> Option<&Registration> {
        match self {
            Standing::Stranger | Standing::Revoked(_) => None,
            Standing::Known(registration) => Some(registration),
        }
    }
}

/// A peer.
#[derive(Debug)]
pub struct Peer {
    /// Its id, known to other peers.
    pub id: String,
    /// Its kind, once it has identified itself.
    pub kind: Option<PeerKind>,
    /// Its host name, as claimed.
    pub hostname: String,
    /// Its authentication state.
    pub standing: Standing,
    pub(super) challenge: Challenge,
    /// Its keys were requested.
    pub(super) asked: bool,
    /// The claimed checksums.
    pub(super) claimed: Vec<Sum>,
    /// Those of them that it may claim; sorted.
    pub(super) sums: Vec<Sum>,
    /// Available peers; sorted.
    pub(super) available: Vec<PeerNumber>,
    /// The list that was last sent.
    pub(super) told: Vec<PeerNumber>,
    /// Earliest time of the next rate-limited list.
    pub(super) next_list: Option<Instant>,
}

impl Peer {
    pub(super) fn new(id: String) -> Peer {
        Peer {
            id,
            kind: None,
            hostname: String::new(),
            standing: Standing::Stranger,
            challenge: Challenge::default(),
            asked: false,
            claimed: Vec::new(),
            sums: Vec::new(),
            available: Vec::new(),
            told: Vec::new(),
            next_list: None,
        }
    }

    /// Number of available peers.
    pub fn available(&self) -> usize {
        self.available.len()
    }

    /// Number of valid claims.
    pub fn keys(&self) -> usize {
        self.sums.len()
    }

    /// The claims that are allowed; sorted.
    pub(super) fn allowed(&self) -> Vec<Sum> {
        let Some(registration) = self.standing.registration() else { return Vec::new() };
        let limit = registration.sums.as_ref();
        let may = |sum: &&Sum| limit.is_none_or(|limit| limit.binary_search(sum).is_ok());
        self.claimed.iter().filter(may).copied().collect()
    }
}
