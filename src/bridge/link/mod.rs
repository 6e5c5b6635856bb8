//! A server's link to a relay, as state machines without I/O.
//!
//! * [`Schedule`]: reconnection with back-off.
//! * [`Channel`]: the connection, from TLS to whole texts and back.
//! * [`Dialogue`]: the protocol between server and relay: authentication, keys of the users,
//!   available clients.
//! * [`Caller`]: one client behind the relay, with its own outbox.
//!
//! The daemon owns the sockets, and treats each caller as one of its clients.

mod caller;
mod channel;
mod dialogue;
mod schedule;

pub use caller::{Caller, Leave, session_is_over};
pub use channel::{Channel, LinkError};
pub use dialogue::{Dialogue, News, Proof, hint};
pub use schedule::Schedule;
