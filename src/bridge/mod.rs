//! The bridge: what introduces servers and clients that cannot reach each other.
//!
//! A server keeps a [`link`] to each bridge that it is told of. What a client behind one says to it
//! goes through a [`tunnel`], which the bridge cannot look into.

pub mod link;
pub mod tunnel;
