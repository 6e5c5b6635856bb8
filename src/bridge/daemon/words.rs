//! Queued messages for a peer, in order. They are never coalesced, because their content is opaque
//! to the relay.

use std::rc::Rc;

use crate::net::OutgoingMessage;

/// One message.
#[derive(Debug)]
pub(super) struct Words(pub(super) Rc<[u8]>);

/// Approximate overhead of a message in bytes: queue entry, counters, allocator.
pub(super) const BESIDE: usize = 64;

impl OutgoingMessage for Words {
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
