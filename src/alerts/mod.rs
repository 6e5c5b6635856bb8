//! Alerts: conditions that are wrong until they are right again.

mod transition;

pub use transition::{AlertState, Transition};
