//! The relay: connects hosts and clients behind address translation.
//!
//! * [`relay`]: introduction of peers and forwarding of frames (protocol section 5), as a state
//!   machine.
//! * [`daemon`]: `sysadm-events bridge`, the daemon around it.
//! * [`link`]: a server's connection to each configured relay.
//! * [`tunnel`]: end-to-end TLS between client and server through a relay.

pub mod daemon;
pub mod link;
pub mod relay;
pub mod tunnel;
