//! Index of claimed keys.

use std::collections::BTreeSet;

use super::PeerNumber;
use crate::wire::{PeerKind, Sum};

/// All claims, sorted so that those of one checksum and one kind are adjacent.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeSet<(Sum, PeerKind, PeerNumber)>);

impl Claims {
    /// Replaces the claims of a peer. Both lists are sorted.
    pub(super) fn replace(
        &mut self,
        kind: PeerKind,
        number: PeerNumber,
        before: &[Sum],
        now: &[Sum],
    ) {
        for sum in before.iter().filter(|sum| now.binary_search(sum).is_err()) {
            self.0.remove(&(*sum, kind, number));
        }
        for sum in now.iter().filter(|sum| before.binary_search(sum).is_err()) {
            self.0.insert((*sum, kind, number));
        }
    }

    /// The peers available to a peer of that kind with these checksums: sorted, without duplicates.
    pub(super) fn available(&self, kind: PeerKind, sums: &[Sum]) -> Vec<PeerNumber> {
        let other = kind.other();
        let of_sum = |sum: &Sum| self.0.range((*sum, other, 0)..=(*sum, other, PeerNumber::MAX));
        let mut numbers: Vec<PeerNumber> =
            sums.iter().flat_map(of_sum).map(|(_, _, number)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}
