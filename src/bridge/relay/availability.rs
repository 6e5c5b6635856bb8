//! Index of claimed keys.

use std::collections::BTreeSet;

use super::PeerNumber;
use crate::wire::{KeyChecksum, PeerKind};

/// All claims, sorted so that those of one checksum and one kind are adjacent.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeSet<(KeyChecksum, PeerKind, PeerNumber)>);

impl Claims {
    /// Replaces the claims of a peer. Both lists are sorted.
    pub(super) fn replace(
        &mut self,
        kind: PeerKind,
        number: PeerNumber,
        before: &[KeyChecksum],
        now: &[KeyChecksum],
    ) {
        for checksum in before.iter().filter(|checksum| now.binary_search(checksum).is_err()) {
            self.0.remove(&(*checksum, kind, number));
        }
        for checksum in now.iter().filter(|checksum| before.binary_search(checksum).is_err()) {
            self.0.insert((*checksum, kind, number));
        }
    }

    /// The peers available to a peer of that kind with these checksums: sorted, without duplicates.
    pub(super) fn available(&self, kind: PeerKind, checksums: &[KeyChecksum]) -> Vec<PeerNumber> {
        let other = kind.other();
        let of_sum = |checksum: &KeyChecksum| {
            self.0.range((*checksum, other, 0)..=(*checksum, other, PeerNumber::MAX))
        };
        let mut numbers: Vec<PeerNumber> =
            checksums.iter().flat_map(of_sum).map(|(_, _, number)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}
