//! Who is at the other end, and what they may do.

mod role;
mod token;

pub use role::{Identity, Need, Role, Roles, need, reachable};
pub use token::{Token, Tokens};
