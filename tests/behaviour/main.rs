//! What the daemon does, seen from outside: the real executable, real sockets, real children.
//!
//! A file a theme, a test a rule, named by what is to be seen. Every test has a daemon of its own.

mod durable;
mod installed;
mod jobs;
mod manual;
mod merciless;
mod pools;
mod service;
mod system_state;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_sysadm-events");
