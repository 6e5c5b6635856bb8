//! Authentication and authorization.

pub mod key;
mod role;
mod throttle;
mod token;
mod turns;

pub use role::{Identity, Need, Proof, Role, Roles, need, reachable};
pub use throttle::{Consequence, LegacyBudget, Throttle, ThrottleLimits};
pub use token::{Token, Tokens};
pub use turns::Turns;
