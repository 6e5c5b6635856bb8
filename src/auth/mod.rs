//! Authentication and authorization.

pub mod key;
mod password_queue;
mod role;
mod throttle;
mod token;

pub use password_queue::PasswordQueue;
pub use role::{Identity, Need, Proof, Role, Roles, need, number_as_name, reachable};
pub use throttle::{Consequence, LegacyBudget, Throttle, ThrottleLimits};
pub use token::{Token, Tokens};
