//! Cost of a check of the pools, which is made once a minute for as long as the host runs.
//!
//! On a real pool; without one this section is skipped with a message.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};
use support::{Outcome, Peer, Zfs};

use super::PROGRAM;
use super::table::{Table, Verdict};

/// Long enough for some fifty checks.
const TIME: Duration = Duration::from_secs(5);
/// Runs of `zpool` alone, for comparison.
const RUNS: u32 = 50;
/// Of the daemon's own processor time a check may take so much.
const TARGET: Duration = Duration::from_millis(1);
/// The timer and the end of `zpool list`; each fifth time that of `zpool status` too.
const WAKEUPS_PER_CHECK: f64 = 4.0;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let Some(zfs) = Zfs::start()? else { return Ok(()) };
    let device = zfs.device("device", 64)?;
    let device = device.to_str().ok_or("a path that is no text")?;
    zfs.zpool(&["create", "-m", "none", "tank", device])?;
    let setup = zfs.setup(PROGRAM)?.with("system_state.interval", "\"100ms\"");
    let daemon = setup.start()?;
    let mut client = Peer::local(&daemon)?;
    client.request("events", "subscribe", &json!(["system-state"]))?;
    client.idle(Duration::from_secs(1))?;

    let first = checks(&mut client)?;
    let (sleeps, cpu) = (daemon.process().sleeps()?, daemon.process().cpu()?);
    client.idle(TIME)?;
    let woken = daemon.process().sleeps()? - sleeps;
    let cpu = daemon.process().cpu()?.saturating_sub(cpu);
    let made = checks(&mut client)? - first;
    if made == 0 {
        return Err("no check was made".into());
    }
    let (each, wakeups) = (cpu.as_secs_f64() / made as f64, woken as f64 / made as f64);
    table.row(
        &format!("a check of one pool ({made} checks): daemon"),
        &format!("{:.2} ms", each * 1e3),
        &format!("its zpool: {:.2} ms", zpool_alone(&zfs)?.as_secs_f64() * 1e3),
        &format!("<= {} ms", TARGET.as_millis()),
        Verdict::of(each <= TARGET.as_secs_f64()),
    );
    table.row(
        "wake-ups for a check",
        &format!("{wakeups:.2}"),
        "",
        &format!("<= {WAKEUPS_PER_CHECK}"),
        Verdict::of(wakeups <= WAKEUPS_PER_CHECK),
    );
    Ok(())
}

fn checks(client: &mut Peer) -> Outcome<u64> {
    let status = client.request("rpc", "status", &Value::Null)?;
    status["system_state"]["checks"].as_u64().ok_or_else(|| "a status without checks".into())
}

/// Processor time of one `zpool list` that nobody reads, entering its namespace included.
fn zpool_alone(zfs: &Zfs) -> Outcome<Duration> {
    let before = children()?;
    for _ in 0..RUNS {
        zfs.zpool(&["list", "-H"])?;
    }
    Ok(children()?.saturating_sub(before) / RUNS)
}

fn children() -> Outcome<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |part: nix::sys::time::TimeVal| -> Outcome<Duration> {
        let (seconds, rest) = (u64::try_from(part.tv_sec())?, u64::try_from(part.tv_usec())?);
        Ok(Duration::from_secs(seconds) + Duration::from_micros(rest))
    };
    Ok(time(usage.user_time())? + time(usage.system_time())?)
}
