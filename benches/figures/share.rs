//! Cost of one user's flood of requests: another client's longest wait, memory, time of a request.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Outcome, Peer, Setup, Transport};

use super::PROGRAM;
use super::table::{Table, Verdict};

const CONNECTIONS: usize = 1000;
const REQUESTS: usize = 16;
/// Time for which the flood reads nothing, so that most replies wait.
const UNREAD: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_millis(50);
const MIB: f64 = 1024.0 * 1024.0;
const MOST_MEMORY: f64 = 48.0;
/// Clients while single requests are measured.
const CLIENTS: usize = 900;
const SINGLE: u32 = 2000;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    flood(table)?;
    single(table)
}

fn setup() -> Outcome<Setup> {
    Ok(Setup::new(PROGRAM)?
        .with("server.max_clients", "4096")
        .with("server.auth_timeout", r#""5m""#))
}

/// The observer is another user than the flood: a peer that is not authenticated.
fn flood(table: &mut Table) -> Outcome<()> {
    let daemon = setup()?.start()?;
    let mut observer = Peer::connect(&daemon, Transport::Plain)?;
    let mut flood: Vec<Peer> =
        (0..CONNECTIONS).map(|_| Peer::local(&daemon)).collect::<Outcome<_>>()?;
    let quiet = longest_wait(&mut observer, |begin| begin.elapsed() < UNREAD)?;
    let flooder = thread::spawn(move || -> bool {
        let posted = flood
            .iter_mut()
            .all(|peer| (0..REQUESTS).all(|_| peer.post("rpc", "status", &json!({})).is_ok()));
        thread::sleep(UNREAD);
        posted && flood.iter_mut().all(|peer| (0..REQUESTS).all(|_| peer.event().is_ok()))
    });
    let longest = longest_wait(&mut observer, |_| !flooder.is_finished())?;
    table.row(
        &format!("longest wait, {CONNECTIONS} x {REQUESTS} status of another"),
        &format!("{:.1} ms", longest.as_secs_f64() * 1e3),
        &format!("before the flood {:.1} ms", quiet.as_secs_f64() * 1e3),
        &format!("<= {} ms", LONGEST_WAIT.as_millis()),
        Verdict::of(longest <= LONGEST_WAIT),
    );
    if let Some(peak) = daemon.process().peak() {
        let peak = peak as f64 / MIB;
        table.row(
            "  peak memory of the daemon",
            &format!("{peak:.2} MiB"),
            "",
            &format!("<= {MOST_MEMORY} MiB"),
            Verdict::of(peak <= MOST_MEMORY),
        );
    }
    match flooder.join() {
        Ok(true) => Ok(()),
        _ => Err("the flood was not answered in full".into()),
    }
}

/// The longest wait for an answer while `goes_on`, which is given the begin of the measurement.
fn longest_wait(
    observer: &mut Peer,
    mut goes_on: impl FnMut(Instant) -> bool,
) -> Outcome<Duration> {
    let (begin, mut longest) = (Instant::now(), Duration::ZERO);
    while goes_on(begin) {
        let asked = Instant::now();
        observer.request("rpc", "identify", &json!({}))?;
        longest = longest.max(asked.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    Ok(longest)
}

fn single(table: &mut Table) -> Outcome<()> {
    let daemon = setup()?.start()?;
    let others: Vec<Peer> = (1..CLIENTS).map(|_| Peer::local(&daemon)).collect::<Outcome<_>>()?;
    let mut client = Peer::local(&daemon)?;
    let before = daemon.process().cpu()?;
    for _ in 0..SINGLE {
        client.request("rpc", "status", &json!({}))?;
    }
    let cpu = daemon.process().cpu()?.saturating_sub(before);
    drop(others);
    table.row(
        &format!("processor time of a status, {CLIENTS} clients"),
        &format!("{:.0} us", cpu.as_secs_f64() * 1e6 / f64::from(SINGLE)),
        "",
        "",
        Verdict::Told,
    );
    Ok(())
}
