//! Cost of an idle daemon: threads, bytes on disk, resident memory alone and for each client.

use std::fs;
use std::thread;
use std::time::Duration;

use support::{Daemon, Outcome, Peer, Transport};

use super::PROGRAM;
use super::table::{Table, Verdict};

const CLIENTS: usize = 500;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let daemon = Daemon::start(PROGRAM)?;
    settle();
    let threads = daemon.process().threads()?;
    table.row("threads", &threads.to_string(), "", "= 1", Verdict::of(threads == 1));
    let size = fs::metadata(PROGRAM)?.len();
    let stripped = format!("{:.2} MiB", in_units(size, MIB));
    table.row(
        "size of the stripped program",
        &stripped,
        "",
        "<= 2 MiB",
        Verdict::of(size <= 2 * MIB),
    );
    let idle = daemon.process().resident()?;
    table.row(
        "resident memory, idle, no client",
        &format!("{:.2} MiB", in_units(idle, MIB)),
        "",
        "<= 4 MiB",
        Verdict::of(idle <= 4 * MIB),
    );
    drop(daemon);
    each_client(table, Transport::Unix, 4 * KIB)?;
    each_client(table, Transport::Plain, 4 * KIB)?;
    each_client(table, Transport::Tls, 20 * KIB)
}

/// Memory of one more idle subscribed client, on a daemon that never had any.
fn each_client(table: &mut Table, transport: Transport, limit: u64) -> Outcome<()> {
    let daemon = Daemon::start(PROGRAM)?;
    // The first one pays for what is made once (tables, the first page of everything).
    let first = Peer::subscribers(&daemon, transport, 1)?;
    settle();
    let before = daemon.process().resident()?;
    let clients = Peer::subscribers(&daemon, transport, CLIENTS)?;
    settle();
    let after = daemon.process().resident()?;
    let each = after.saturating_sub(before) as f64 / CLIENTS as f64;
    drop((first, clients));
    table.row(
        &format!("memory for each idle client, {}", transport.name()),
        &format!("{:.2} KiB", each / KIB as f64),
        &format!("{:.2} MiB with {} of them", in_units(after, MIB), CLIENTS + 1),
        &format!("<= {} KiB", limit / KIB),
        Verdict::of(each <= limit as f64),
    );
    Ok(())
}

/// Lets what was under way come to rest.
fn settle() {
    thread::sleep(Duration::from_millis(500));
}

fn in_units(bytes: u64, unit: u64) -> f64 {
    bytes as f64 / unit as f64
}
