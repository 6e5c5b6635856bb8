//! Authentication and authorization.

pub mod key;
mod password_queue;
mod role;
mod throttle;
mod token;

pub use crate::wire::Role;
pub use password_queue::PasswordQueue;
pub use role::{Identity, Proof, Roles, number_as_name};
pub use throttle::{Consequence, LegacyBudget, Throttle, ThrottleLimits};
pub use token::{Token, Tokens};
