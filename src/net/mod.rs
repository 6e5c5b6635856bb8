//! Transport of messages: listeners, TLS, the upgrade request, WebSocket framing and bounded
//! outboxes. The content of messages is opaque here.

pub mod certificate;
mod connection;
mod http;
mod listener;
mod origin;
mod outbox;
pub mod pin;
mod proxy;
mod socket;
mod unauthenticated;
mod upgrade;
mod validity;
mod websocket;

pub use connection::{Connection, End, Flushed, Incoming, TransportLimits};
pub use http::{Answer, Head, Upgrade};
pub use listener::{Accepted, Listener, Transport, is_about_one_connection};
pub use origin::AllowedOrigins;
pub use outbox::{Full, Outbox, OutgoingMessage};
pub use socket::{Peer, Socket, Source};
pub use unauthenticated::{Room, UnauthenticatedPool};
pub use upgrade::{NoUpgrade, UpgradeRequest};
pub use websocket::{Arrived, Assembler, CloseReason, Masked};
