//! A server's way to a bridge, as state machines without I/O.
//!
//! * [`Schedule`]: when it is dialled again.
//! * [`Channel`]: the connection, from TLS to whole texts and back.
//! * [`Dialogue`]: what server and bridge say to each other: who we are, which keys our users have,
//!   who is there.
//! * [`Caller`]: one client behind the bridge, with its own outbox.
//!
//! The daemon has the sockets, and makes each caller one of its clients.

mod caller;
mod channel;
mod dialogue;
mod schedule;

pub use caller::{Caller, Leave, session_is_over};
pub use channel::{Channel, Trouble};
pub use dialogue::{Dialogue, News, Proof, hint};
pub use schedule::Schedule;
