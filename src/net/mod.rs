//! Streams of bytes that carry messages: listeners, TLS, the request before the upgrade, WebSocket
//! framing and bounded outboxes. What the messages say is none of this room's business.

pub mod certificate;
mod connection;
mod http;
mod listener;
mod origin;
mod outbox;
pub mod pin;
mod socket;
mod unauthenticated;
mod upgrade;
mod websocket;

pub use connection::{Connection, End, Incoming, Limits};
pub use http::{Answer, Head, Upgrade};
pub use listener::{Accepted, Listener, Transport, is_about_one_connection};
pub use origin::AllowedOrigins;
pub use outbox::{Full, Outbox, Parcel};
pub use socket::{Peer, Socket, Source};
pub use unauthenticated::{Room, UnauthenticatedPool};
pub use upgrade::{NoUpgrade, UpgradeRequest};
pub use websocket::{Arrived, Assembler, CloseReason, Masked};
