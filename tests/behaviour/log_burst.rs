//! A log that grows faster than its lines can be sent: each subscriber gets all, requests are answered.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{
    Counter, Outcome, PATIENCE, Peer, Setup, append, snapshot, snapshot_messages, snapshots,
};

use super::PROGRAM;

/// Lines of the burst: many times the queue of a subscriber, and a few seconds of an unoptimised build.
const LINES: usize = 100_000;

/// Subscribers that read the burst.
const SUBSCRIBERS: usize = 20;

#[test]
fn burst_of_lines_reaches_all_while_requests_get_replies() -> Outcome<()> {
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
    let readers: Vec<Counter> = (0..SUBSCRIBERS)
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
    // The next message follows at once: no line was sent twice.
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
fn client_that_does_not_read_is_closed_after_pause() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?.with("life_preserver.pause", r#""300ms""#);
    // The test reads the close frame only when the other client has read all.
    let setup = setup.with("server.close_timeout", r#""60s""#);
    append(&setup.log(), "")?;
    let daemon = setup.start()?;
    let mut deaf = Peer::reader(&daemon)?;
    let mut reader = Peer::reader(&daemon)?;
    let mut other = Peer::local(&daemon)?;
    append(&setup.log(), snapshots(0..20_000))?;
    assert_eq!(reader.messages(20_000)?, snapshot_messages(0..20_000));
    let said = daemon.log().wait("1013")?;
    assert!(said.contains("closing client local uid") && said.contains("300ms"), "{said}");
    assert_eq!(deaf.closed()?, 1013);
    other.request("rpc", "identify", &json!({}))?;
    Ok(())
}
