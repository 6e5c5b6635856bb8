//! Who is at the other end, and what they may do.

pub mod key;
mod role;
mod throttle;
mod token;

pub use role::{Identity, Need, Proof, Role, Roles, need, reachable};
pub use throttle::{Consequence, Limits, Throttle};
pub use token::{Token, Tokens};
