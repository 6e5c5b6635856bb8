//! What may hang, in children of our own, and the loop's end of it.
//!
//! A name service behind LDAP can take minutes, and the modules that the C library loads for it
//! take memory that a daemon would keep for ever. A child has the trouble instead of the loop.

mod accounts;
pub mod store;

pub use accounts::{Accounts, Asked, Lookup, LookupError};
