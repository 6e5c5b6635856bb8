//! What may hang, in children of our own, and the loop's end of it.

pub mod accounts;
pub mod store;
