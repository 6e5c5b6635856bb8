//! What waits for a peer: whole messages, in their order. None becomes one with another, since the
//! bridge does not know what stands in them.

use std::rc::Rc;

use crate::net::Parcel;

/// One message.
#[derive(Debug)]
pub(super) struct Words(pub(super) Rc<[u8]>);

/// Bytes that a message takes beside its own, about: its place, its counters, what the allocator adds.
pub(super) const BESIDE: usize = 64;

impl Parcel for Words {
    type Key = ();

    fn weight(&self) -> usize {
        self.0.len() + BESIDE
    }

    fn key(&self) -> Option<()> {
        None
    }

    fn join(self, newer: Words) -> Words {
        newer
    }

    fn bytes(&self) -> Rc<[u8]> {
        self.0.clone()
    }
}
