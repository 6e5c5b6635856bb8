//! Wake-ups of an idle daemon: on a laptop or an appliance each costs energy, and an unnecessary
//! timer shows.

use std::env;
use std::time::Duration;

use support::{Daemon, Outcome, Peer};

use super::PROGRAM;
use super::table::{Table, Verdict};

/// `server.ping_interval`, the default.
const PING_INTERVAL: u64 = 30;
/// `system_state.interval`, the default; its probe may take a few wake-ups (start, answer, exit).
const CHECK_INTERVAL: u64 = 60;
const WAKEUPS_PER_CHECK: u64 = 4;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let seconds = match env::var("BENCH_IDLE_SECONDS") {
        Ok(text) => text.parse()?,
        Err(_) => 60,
    };
    let daemon = Daemon::start(PROGRAM)?;
    let mut client = Peer::local(&daemon)?;
    client.subscribe()?;
    client.idle(Duration::from_secs(1))?;
    let (sleeps, cpu) = (daemon.process().sleeps()?, daemon.process().cpu()?);
    client.idle(Duration::from_secs(seconds))?;
    let woken = daemon.process().sleeps()? - sleeps;
    let used = daemon.process().cpu()?.saturating_sub(cpu);
    // A ping is two: the time to send it, and the answer. One interval more may begin in the window.
    let pings = 2 * seconds.div_ceil(PING_INTERVAL);
    let checks = WAKEUPS_PER_CHECK * seconds.div_ceil(CHECK_INTERVAL);
    table.row(
        &format!("wake-ups in {seconds} s, idle, one client"),
        &woken.to_string(),
        &format!("{:.2} ms of processor time", used.as_secs_f64() * 1e3),
        &format!("<= {} (its work)", pings + checks),
        Verdict::of(woken <= pings + checks),
    );
    Ok(())
}
