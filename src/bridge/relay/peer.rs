//! One peer, as the relay knows it.

use std::time::Instant;

use super::PeerNumber;
use crate::auth::key::{Challenge, KeyId};
use crate::wire::{PeerKind, Sum};

/// A registered key, as far as the relay has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What the key is registered as.
    pub name: String,
    /// Which key it is.
    pub key: KeyId,
    /// It was shown by a string that is encrypted as it is.
    pub legacy: bool,
    /// The sums that its owner may claim, in order; `None`: any.
    pub sums: Option<Vec<Sum>>,
}

/// What a peer has proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Stranger,
    /// That it has a registered key.
    Known(Registration),
    /// That it had one, which was registered as this.
    Revoked(String),
}

impl Standing {
    /// The key that it has.
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
    /// By what others know it.
    pub id: String,
    /// What it is, once it has said so.
    pub kind: Option<PeerKind>,
    /// What it calls itself.
    pub hostname: String,
    /// What it has proved.
    pub standing: Standing,
    pub(super) challenge: Challenge,
    /// It was asked for its keys.
    pub(super) asked: bool,
    /// What it said then.
    pub(super) claimed: Vec<Sum>,
    /// Of that, what it may claim; in order.
    pub(super) sums: Vec<Sum>,
    /// Who is available to it; in order.
    pub(super) available: Vec<PeerNumber>,
    /// Who was, when it was last told.
    pub(super) told: Vec<PeerNumber>,
    /// It is told nothing new before that, if it need not be.
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

    /// How many are available to it.
    pub fn available(&self) -> usize {
        self.available.len()
    }

    /// How many keys it claims, of those that it may.
    pub fn keys(&self) -> usize {
        self.sums.len()
    }

    /// Of what it claims, what it may; in order.
    pub(super) fn allowed(&self) -> Vec<Sum> {
        let Some(registration) = self.standing.registration() else { return Vec::new() };
        let limit = registration.sums.as_ref();
        let may = |sum: &&Sum| limit.is_none_or(|limit| limit.binary_search(sum).is_ok());
        self.claimed.iter().filter(may).copied().collect()
    }
}
