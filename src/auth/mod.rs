//! Authentication and authorization.

pub mod key;
mod role;
mod throttle;
mod token;

pub use role::{Identity, Need, Proof, Role, Roles, need, reachable};
pub use throttle::{Consequence, Throttle, ThrottleLimits};
pub use token::{Token, Tokens};
