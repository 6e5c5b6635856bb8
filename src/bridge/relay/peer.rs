//! A peer in the relay's state.

use std::time::Instant;

use super::PeerNumber;
use crate::auth::key::{Challenge, KeyId};
use crate::wire::{KeyChecksum, PeerKind};

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
    pub checksums: Option<Vec<KeyChecksum>>,
}

/// Authentication state of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Unauthenticated.
    Unauthenticated,
    /// Authenticated by a registered key.
    Known(Registration),
    /// The key was revoked; its former name.
    Revoked(String),
}

impl Standing {
    /// The key.
    pub fn registration(&self) -> Option<&Registration> {
        match self {
            Standing::Unauthenticated | Standing::Revoked(_) => None,
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
    pub(super) claimed: Vec<KeyChecksum>,
    /// Those of them that it may claim; sorted.
    pub(super) checksums: Vec<KeyChecksum>,
    /// Available peers; sorted.
    pub(super) available: Vec<PeerNumber>,
    /// The list that was last sent.
    pub(super) sent_list: Vec<PeerNumber>,
    /// Earliest time of the next rate-limited list.
    pub(super) next_list: Option<Instant>,
}

impl Peer {
    pub(super) fn new(id: String) -> Peer {
        Peer {
            id,
            kind: None,
            hostname: String::new(),
            standing: Standing::Unauthenticated,
            challenge: Challenge::default(),
            asked: false,
            claimed: Vec::new(),
            checksums: Vec::new(),
            available: Vec::new(),
            sent_list: Vec::new(),
            next_list: None,
        }
    }

    /// Number of available peers.
    pub fn available(&self) -> usize {
        self.available.len()
    }

    /// Number of valid claims.
    pub fn keys(&self) -> usize {
        self.checksums.len()
    }

    /// The claims that are allowed; sorted.
    pub(super) fn allowed(&self) -> Vec<KeyChecksum> {
        let Some(registration) = self.standing.registration() else { return Vec::new() };
        let limit = registration.checksums.as_ref();
        let may = |checksum: &&KeyChecksum| {
            limit.is_none_or(|limit| limit.binary_search(checksum).is_ok())
        };
        self.claimed.iter().filter(may).copied().collect()
    }
}
