//! Code common to tests and benchmarks: a real daemon in a directory of its own, clients that share
//! only the framing library with it, the command line, and observation of processes.

mod account;
mod bridge;
mod cli;
mod daemon;
mod directory;
mod gate;
mod jobs;
mod key;
mod log;
mod namespace;
mod news;
mod peer;
mod process;
mod pty;
mod raw;
mod scene;
mod skip;
mod stuck;
mod test_relay;
mod webhook;
mod zfs;

use std::error::Error;
use std::time::{Duration, Instant};

pub use account::{Group, PamService, User};
pub use bridge::{BridgePeer, PeerKey, register};
pub use cli::{Cli, Finished, Running};
pub use daemon::{Daemon, Setup};
pub use directory::Directory;
pub use gate::Gate;
pub use key::{Key, base64, decrypt};
pub use log::Log;
pub use namespace::Sites;
pub use news::{Counter, append, snapshot, snapshot_message, snapshot_messages, snapshots};
pub use nix::sys::signal::Signal;
pub use peer::{Peer, Refused, Stream, Transport, server_frame};
pub use process::Process;
pub use pty::{Pty, PtySize};
pub use raw::{client_frame, client_header, upgrade_request};
pub use scene::{Person, register_server};
pub use skip::{has_loopback_addresses, skip};
pub use stuck::StuckFs;
pub use test_relay::{Bridge, BridgeIdentity, Meddler, RelayedClient, RelayedTunnel, Routed};
pub use webhook::{Received, Reply, Webhook};
pub use zfs::Zfs;

/// Result of every step; any error ends the test or the section.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Factor of all times: 10 in a build with `SLOW_HOST` in its environment, for an emulated processor.
pub const SLOWNESS: u32 = if option_env!("SLOW_HOST").is_some() { 10 } else { 1 };

/// Time limit of every wait.
pub const PATIENCE: Duration = Duration::from_secs(30 * SLOWNESS as u64);

/// Polls until `is_so`: for states without a notification. Panics after the time limit; `what`
/// names the awaited state.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < patience, "{what}: it does not come to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}
