//! Cost of the relay: forwarded messages, memory for each peer, and the time until all peers know
//! of a new one.
//!
//! Beside it a bare loop copies the same bytes from one socket to another, without TLS and frames,
//! in the same run.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::{BridgePeer, Daemon, Outcome, PeerKey, Process, Setup, register, server_frame};

use super::PROGRAM;
use super::copier::Copier;
use super::table::{Table, Verdict};

const SUM: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
/// In a flood, and one at a time.
const FLOOD: usize = 40_000;
const SINGLE: usize = 4_000;
/// Bytes of a payload: a TLS record of a small event, in base64.
const PAYLOAD: usize = 1024;
const PEERS: usize = 500;
const WAITING: usize = 1000;

/// Processor time of the one in the middle, and the time that it took.
struct Cost {
    cpu: Duration,
    time: Duration,
    messages: usize,
}

impl Cost {
    fn rate(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64()
    }

    /// Microseconds of processor time a message.
    fn each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.messages as f64
    }
}

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    messages(table)?;
    memory(table)?;
    convergence(table)
}

fn bridge() -> Outcome<(Daemon, PeerKey)> {
    let setup = Setup::bridge(PROGRAM)?.with("relay.max_peers", 4096);
    let key = PeerKey::new()?;
    register(&setup.directory().join("state"), &[("all", &key, &[])])?;
    Ok((setup.start()?, key))
}

fn messages(table: &mut Table) -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let mut server = BridgePeer::join(&bridge, "server", &key, &[SUM])?;
    server.so_far()?;
    let mut client = BridgePeer::join(&bridge, "client", &key, &[SUM])?;
    let of_client = server.list()?.pop().ok_or("the server sees nobody")?;
    client.list()?;
    let payload = "x".repeat(PAYLOAD);
    let flood = counted(bridge.process(), FLOOD, || {
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                (0..FLOOD).try_for_each(|_| {
                    server.send_to(&of_client, &payload).map_err(|error| error.to_string())
                })
            });
            for _ in 0..FLOOD {
                client.heard()?;
            }
            Ok(sender.join().map_err(|_| "the sender failed")??)
        })
    })?;
    let single = counted(bridge.process(), SINGLE, || {
        for _ in 0..SINGLE {
            server.send_to(&of_client, &payload)?;
            client.heard()?;
        }
        Ok(())
    })?;
    let (bare_flood, bare_single) = bare(&format!("{of_client}\n{payload}"))?;
    row(table, "in a flood", &flood, &bare_flood);
    row(table, "one at a time", &single, &bare_single);
    Ok(())
}

fn row(table: &mut Table, how: &str, ours: &Cost, bare: &Cost) {
    table.row(
        &format!("messages passed on a second, {how}"),
        &format!("{:.0}", ours.rate()),
        &format!("bare copy {:.0}", bare.rate()),
        "",
        Verdict::Told,
    );
    table.row(
        &format!("  processor time of one, {how}"),
        &format!("{:.2} us", ours.each()),
        &format!("bare {:.2} us: {:.1} x", bare.each(), ours.each() / bare.each()),
        "",
        Verdict::Told,
    );
}

/// The same bytes through the bare loop.
fn bare(message: &str) -> Outcome<(Cost, Cost)> {
    let mut copier = Copier::start()?;
    let frame = server_frame(message);
    let process = copier.process();
    let (mut into, mut out) = (copier.into.try_clone()?, copier.out.try_clone()?);
    let mut buffer = vec![0; frame.len()];
    let flood = counted(process, FLOOD, || {
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| (0..FLOOD).try_for_each(|_| into.write_all(&frame)));
            for _ in 0..FLOOD {
                out.read_exact(&mut buffer)?;
            }
            Ok(sender.join().map_err(|_| "the sender failed")??)
        })
    })?;
    let single = counted(process, SINGLE, || {
        for _ in 0..SINGLE {
            copier.into.write_all(&frame)?;
            copier.out.read_exact(&mut buffer)?;
        }
        Ok(())
    })?;
    Ok((flood, single))
}

fn counted(process: Process, messages: usize, work: impl FnOnce() -> Outcome<()>) -> Outcome<Cost> {
    let (before, begun) = (process.cpu()?, Instant::now());
    work()?;
    let time = begun.elapsed();
    Ok(Cost { cpu: process.cpu()?.saturating_sub(before), time, messages })
}

/// Clients that wait for a server, on a bridge that never had any.
fn waiting(bridge: &Daemon, key: &PeerKey, count: usize) -> Outcome<Vec<BridgePeer>> {
    (0..count)
        .map(|_| {
            let mut client = BridgePeer::join(bridge, "client", key, &[SUM])?;
            client.so_far()?;
            Ok(client)
        })
        .collect()
}

fn memory(table: &mut Table) -> Outcome<()> {
    const LIMIT: f64 = 24.0;
    let (bridge, key) = bridge()?;
    // The first one pays for what is made once.
    let first = waiting(&bridge, &key, 1)?;
    let before = bridge.process().resident()?;
    let peers = waiting(&bridge, &key, PEERS)?;
    let after = bridge.process().resident()?;
    let each = after.saturating_sub(before) as f64 / PEERS as f64 / 1024.0;
    drop((first, peers));
    table.row(
        "memory for each peer of a bridge",
        &format!("{each:.2} KiB"),
        &format!("{:.2} MiB with {}", after as f64 / f64::from(1 << 20), PEERS + 1),
        &format!("<= {LIMIT} KiB"),
        Verdict::of(each <= LIMIT),
    );
    Ok(())
}

/// One server comes, for which a thousand clients wait.
fn convergence(table: &mut Table) -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let mut clients = waiting(&bridge, &key, WAITING)?;
    let mut server = BridgePeer::dial(&bridge, "server")?;
    server.authenticate(bridge.fingerprint(), &key)?;
    let cost = counted(bridge.process(), WAITING, || {
        server.claim_when_asked(&[SUM])?;
        if server.list()?.len() != WAITING {
            return Err("the server does not see all".into());
        }
        for client in &mut clients {
            if client.list()?.len() != 1 {
                return Err("a client does not see the server".into());
            }
        }
        Ok(())
    })?;
    table.row(
        &format!("until {WAITING} clients know of a server"),
        &format!("{:.1} ms", cost.time.as_secs_f64() * 1e3),
        &format!("{:.1} ms of the bridge's processor", cost.cpu.as_secs_f64() * 1e3),
        "",
        Verdict::Told,
    );
    Ok(())
}
