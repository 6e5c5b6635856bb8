//! What the daemon does, seen from outside: the real executable, real sockets, real children.
//!
//! A file a theme, a test a rule, named by what is to be seen. Every test has a daemon of its own.

mod bad_input;
mod durable;
mod envelope;
mod http;
mod identity;
mod jobs;
mod merciless;
mod reload;
mod slow_clients;
mod stop;
mod subscriptions;
mod transports;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_sysadm-events");
