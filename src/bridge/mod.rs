//! The bridge: hosts and clients behind address translation, introduced to each other.
//!
//! * [`relay`]: the rules by which peers are introduced and their frames forwarded (protocol
//!   section 5), as a state machine.
//! * [`daemon`]: `sysadm-events bridge`, the process that carries it.

pub mod daemon;
pub mod relay;
