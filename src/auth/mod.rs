//! Authentication and authorization.

pub mod key;
mod role;
mod throttle;
mod token;
mod turns;

pub use role::{Identity, Need, Proof, Role, Roles, need, number_as_name, reachable};
pub use throttle::{Consequence, LegacyBudget, Throttle, ThrottleLimits};
pub use token::{Token, Tokens};
pub use turns::Turns;
