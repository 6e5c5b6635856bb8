//! Jobs a second: what the daemon adds to starting a process and waiting for it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Map, Value, json};
use support::{Daemon, Outcome, Peer};

use super::PROGRAM;
use super::table::{Table, Verdict};

pub(crate) const JOBS: usize = 1000;
const TURNS: usize = 3;
/// Jobs of one request; two requests are under way at a time, so that the daemon is never idle.
const BATCH: usize = 20;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let daemon = Daemon::start(PROGRAM)?;
    let mut peer = Peer::local(&daemon)?;
    peer.subscribe()?;
    let (mut jobs, mut bare, mut events) = (0.0_f64, 0.0_f64, 0);
    for turn in 0..TURNS {
        let start = Instant::now();
        events += run_jobs(&mut peer, turn)?;
        jobs = jobs.max(JOBS as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        spawn_and_wait()?;
        bare = bare.max(JOBS as f64 / start.elapsed().as_secs_f64());
    }
    let ratio = jobs / bare;
    table.row(
        "jobs of `true`",
        &format!("{jobs:.0} /s"),
        &format!("bare spawn and wait {bare:.0} /s: {ratio:.2} x"),
        ">= 0.5 x bare",
        Verdict::of(ratio >= 0.5),
    );
    table.row(
        "  events of these jobs to the one subscriber",
        &format!("{:.2} a job", events as f64 / (TURNS * JOBS) as f64),
        "",
        "",
        Verdict::Told,
    );
    Ok(())
}

/// Runs [`JOBS`] jobs and waits until each is finished; how many events told of them.
pub(crate) fn run_jobs(peer: &mut Peer, turn: usize) -> Outcome<usize> {
    let (mut asked, mut finished, mut events) = (0, 0, 0);
    while finished < JOBS {
        while asked < JOBS && asked - finished <= BATCH {
            let mut request = Map::new();
            request.insert("action".to_owned(), json!("run"));
            for number in asked..asked + BATCH {
                request.insert(format!("jobs-{turn}-{number}"), json!("true"));
            }
            peer.post("rpc", "dispatcher", &Value::Object(request))?;
            asked += BATCH;
        }
        let text = peer.event()?;
        if text.contains(r#""name":"dispatcher""#) {
            events += 1;
            finished += usize::from(text.contains(r#""state":"finished""#));
        } else if text.contains(r#""name":"error""#) {
            return Err(text.into());
        }
    }
    Ok(events)
}

/// One `true` after the other; the standard library uses `posix_spawn` for a command as plain as
/// this.
fn spawn_and_wait() -> Outcome<()> {
    let program = ["/bin/true", "/usr/bin/true"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .ok_or("no program `true`")?;
    for _ in 0..JOBS {
        Command::new(program).stdin(Stdio::null()).status()?;
    }
    Ok(())
}
