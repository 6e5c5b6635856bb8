//! The bridge: hosts and clients behind address translation, introduced to each other.
//!
//! * [`relay`]: the rules by which peers are introduced and their frames forwarded (protocol
//!   section 5), as a state machine.
//! * [`daemon`]: `sysadm-events bridge`, the process that carries it.
//! * [`link`]: what a server keeps to each bridge that it is told of.
//! * [`tunnel`]: what a client says to a server through a bridge, which cannot look into it.

pub mod daemon;
pub mod link;
pub mod relay;
pub mod tunnel;
