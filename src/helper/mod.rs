//! Helper processes for calls that may block, and their state machines in the loop.

pub mod accounts;
pub mod channel;
pub mod files;
pub mod notify;
pub mod store;
pub mod trees;
