//! A job that prints without end: how fast it is read, and that our memory does not grow with it.

use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;
use support::{Daemon, Outcome, Peer};

use super::PROGRAM;
use super::table::{Table, Verdict};

const BYTES: u64 = 1024 * 1024 * 1024;
const MIB: f64 = 1024.0 * 1024.0;
const PEAK_LIMIT: u64 = 8 * 1024 * 1024;
const TURNS: usize = 2;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let daemon = Daemon::start(PROGRAM)?;
    let mut peer = Peer::local(&daemon)?;
    peer.subscribe()?;
    let flood = format!("yes | head -c {BYTES}");
    let (mut ours, mut bare) = (0.0_f64, 0.0_f64);
    for turn in 0..TURNS {
        let start = Instant::now();
        run_flood(&mut peer, turn, &flood)?;
        ours = ours.max(BYTES as f64 / MIB / start.elapsed().as_secs_f64());
        let start = Instant::now();
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("{flood} | cat >/dev/null"))
            .stdin(Stdio::null())
            .status()?;
        if !status.success() {
            return Err("the bare pipe failed".into());
        }
        bare = bare.max(BYTES as f64 / MIB / start.elapsed().as_secs_f64());
    }
    table.row(
        "one job that floods (1 GiB)",
        &format!("{ours:.0} MiB/s"),
        &format!("into cat {bare:.0} MiB/s: {:.2} x", ours / bare),
        "",
        Verdict::Told,
    );
    match daemon.process().peak() {
        Some(peak) => table.row(
            "  peak memory of the daemon while it does",
            &format!("{:.2} MiB", peak as f64 / MIB),
            "",
            "<= 8 MiB",
            Verdict::of(peak <= PEAK_LIMIT),
        ),
        None => table.row(
            "  peak memory of the daemon while it does",
            "not told here",
            "",
            "<= 8 MiB",
            Verdict::Told,
        ),
    }
    Ok(())
}

fn run_flood(peer: &mut Peer, turn: usize, flood: &str) -> Outcome<()> {
    let id = format!("flood-{turn}");
    let request = json!({ "action": "run", id: format!("sh -c '{flood}'") });
    peer.request("rpc", "dispatcher", &request)?;
    loop {
        let text = peer.event()?;
        if text.contains(r#""state":"finished""#) {
            return Ok(());
        }
    }
}
