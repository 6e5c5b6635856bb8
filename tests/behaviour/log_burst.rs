//! A log that grows faster than it can be told: everybody gets all of it, and nobody else waits.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{
    Counter, Outcome, PATIENCE, Peer, Setup, append, snapshot, snapshots, snapshots_told,
};

use super::PROGRAM;

const LINES: usize = 1_000_000;

/// How many read the burst. `BURST_SUBSCRIBERS` makes it fewer where a minute is too long.
fn subscribers() -> usize {
    std::env::var("BURST_SUBSCRIBERS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

#[test]
fn a_million_lines_at_once_are_told_to_all_while_requests_are_answered() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    append(&setup.log(), "")?;
    let daemon = setup.start()?;
    let mut caller = Peer::local(&daemon)?;
    let mut call = || -> Outcome<Duration> {
        let begin = Instant::now();
        caller.request("rpc", "identify", &json!({}))?;
        Ok(begin.elapsed())
    };
    let quiet = (0..100).map(|_| call()).collect::<Outcome<Vec<Duration>>>()?;
    let readers: Vec<Counter> = (0..subscribers())
        .map(|_| Peer::reader(&daemon).map(Peer::into_counter))
        .collect::<Outcome<_>>()?;
    let burst = snapshots(0..LINES);
    append(&setup.log(), &burst)?;
    let threads: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            thread::spawn(move || {
                let read = reader.expect(0..LINES).map_err(|error| error.to_string());
                read.map(|()| reader)
            })
        })
        .collect();
    let mut busy = Vec::new();
    while threads.iter().any(|thread| !thread.is_finished()) {
        busy.push(call()?);
    }
    let mut readers = Vec::new();
    for thread in threads {
        readers.push(thread.join().map_err(|_| "a reader failed")??);
    }
    // No more than the lines that there were.
    append(&setup.log(), snapshot(LINES))?;
    for reader in &mut readers {
        reader.expect(LINES..LINES + 1)?;
    }
    let longest = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    println!(
        "{} calls during the burst took {:?} at most; {} before it {:?}",
        busy.len(),
        longest(&busy),
        quiet.len(),
        longest(&quiet)
    );
    assert!(busy.len() > 10, "only {} calls were answered during the burst", busy.len());
    assert!(longest(&busy) < PATIENCE, "a call took {:?}", longest(&busy));
    Ok(())
}

#[test]
fn a_client_that_does_not_read_is_given_time_and_then_closed() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?.with("life_preserver.pause", r#""300ms""#);
    append(&setup.log(), "")?;
    let daemon = setup.start()?;
    let mut deaf = Peer::reader(&daemon)?;
    let mut reader = Peer::reader(&daemon)?;
    let mut stranger = Peer::local(&daemon)?;
    append(&setup.log(), snapshots(0..20_000))?;
    assert_eq!(reader.messages(20_000)?, snapshots_told(0..20_000));
    let said = daemon.log().wait("1013")?;
    assert!(said.contains("closing client local uid") && said.contains("300ms"), "{said}");
    assert_eq!(deaf.closed()?, 1013);
    stranger.request("rpc", "identify", &json!({}))?;
    Ok(())
}
