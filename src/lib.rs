//! The events server of SysAdm: it watches a FreeBSD host and tells whoever subscribed.
//!
//! One thread, one poll loop. This page is the way through the house, in the order in which a
//! request or an event takes it; each room's own page says more.
//!
//! * [`wire`]: what stands on the wire, as values and their JSON. No I/O, no clock.
//! * [`config`]: the file, its defaults, every limit by name.
//! * [`reactor`]: the poll loop's engine: what is ready, deadlines, signals. Knows no protocol.
//! * [`sys`]: the few system calls that no crate wraps. All `unsafe` is there.
//! * [`net`]: listeners, TLS, WebSocket framing, bounded outboxes. Knows no message.
//! * [`auth`]: who is at the other end, and what they may do.
//! * [`dispatcher`]: jobs, as a state machine, and the thin shell around their processes.
//! * [`system_state`]: host name and pools, watched, as a state machine and the shell around it.
//! * [`helper`]: what may hang, in children of our own.
//! * [`life_preserver`]: snapshots and replications, read from growing logs.
//! * [`literals`]: literals that a regular expression requires.
//! * [`rules`]: what lines of logs mean: data, one file per program, and what applies it.
//! * [`pattern`]: what the configuration says about lines of a log.
//! * [`seal`]: checksums of lines in the files of the state directory.
//! * [`wording`]: messages to people: singular and plural, errors without their numbers.
//! * [`hub`]: who wants which events.
//! * [`session`]: one conversation: a request in, an answer out.
//! * [`bridge`]: hosts and clients that cannot reach each other, introduced.
//! * [`charge`]: what each user holds of a bounded resource.
//! * [`daemon`]: what both daemons begin with.
//! * [`server`]: the daemon. It owns all of the above and turns readiness into calls.
//! * [`client`] and [`cli`]: the other end, for people and scripts.
//!
//! A state machine takes bytes and time as arguments and gives effects back; only `server` and the
//! shells touch the system. So every rule of the protocol is tested without a socket or a clock.

pub mod auth;
pub mod bridge;
pub mod charge;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod dispatcher;
pub mod helper;
pub mod hub;
pub mod life_preserver;
pub mod literals;
pub mod logger;
pub mod moment;
pub mod net;
pub mod pattern;
pub mod reactor;
pub mod rules;
pub mod seal;
pub mod server;
pub mod session;
pub mod sys;
pub mod system_state;
pub mod wire;
pub mod wording;
