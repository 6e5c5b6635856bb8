//! Cost of durability: jobs a second with the journal and without, records through the store's
//! child, the latency of a durable record, and the speed of a replay.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::wait::waitpid;
use serde_json::json;
use support::{Directory, Outcome, Peer, Setup};
use sysadm_events::helper::store::{self, Outcome as Persisted, Store, StoreLimits, StoreLocation};

use super::PROGRAM;
use super::jobs::{JOBS, run_jobs};
use super::table::{Table, Verdict};

const TURNS: usize = 3;
const RECORDS: usize = 20_000;
const BATCH: usize = 50;
const SINGLE: usize = 1_000;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    jobs(table)?;
    records(table)?;
    replay(table)
}

/// The same jobs on a daemon that keeps them and on one that does not, in turns.
fn jobs(table: &mut Table) -> Outcome<()> {
    let persisted = Setup::new(PROGRAM)?.start()?;
    let forgotten = Setup::new(PROGRAM)?.with("store.journal", false).start()?;
    let (mut with, mut without) = (Peer::local(&persisted)?, Peer::local(&forgotten)?);
    with.subscribe()?;
    without.subscribe()?;
    let (mut durable, mut volatile) = (0.0_f64, 0.0_f64);
    for turn in 0..TURNS {
        for (peer, rate) in [(&mut with, &mut durable), (&mut without, &mut volatile)] {
            let start = Instant::now();
            run_jobs(peer, turn)?;
            *rate = rate.max(JOBS as f64 / start.elapsed().as_secs_f64());
        }
    }
    table.row(
        "jobs of `true`, with the journal",
        &format!("{durable:.0} /s"),
        &format!("without it {volatile:.0} /s: {:.2} x", durable / volatile),
        "",
        Verdict::Told,
    );
    Ok(())
}

/// A store with its child, driven as the loop does it.
struct Driver {
    store: Store<usize>,
    socket: UnixStream,
}

impl Driver {
    /// Writes what there is, and waits until that many records are durable.
    fn until_persisted(&mut self, records: usize) -> Outcome<()> {
        let now = Instant::now();
        self.store.end_of_turn(now);
        let mut persisted = 0;
        let mut said = [0; 4096];
        while persisted < records {
            let channel = self.store.channel();
            while channel.queued() > 0 {
                let sent = self.socket.write_vectored(&channel.bytes())?;
                channel.sent(sent);
            }
            self.store.moved(now);
            let read = self.socket.read(&mut said)?;
            self.store.received(&said[..read], now);
            while let Some(outcome) = self.store.next_outcome() {
                match outcome {
                    Persisted::Persisted(_) => persisted += 1,
                    other => return Err(format!("the store says {other:?}").into()),
                }
            }
        }
        Ok(())
    }

    fn persist(&mut self, number: usize) {
        // About what a record of a small job takes.
        let more = "x".repeat(150);
        let line = json!({ "serial": number, "is": "filed", "more": more }).to_string();
        self.store.persist(number, line.into_bytes(), Instant::now());
    }
}

fn records(table: &mut Table) -> Outcome<()> {
    let directory = Directory::new()?;
    let (place, _identity) = StoreLocation::open(directory.path(), true)?;
    store::prepare(&place, |_| true)?;
    let lock = fs::File::create(directory.join("lock"))?;
    let (pid, socket) = store::begin(&place, lock.into())?;
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false)?;
    let limits = StoreLimits { deadline: Duration::from_secs(60), backlog: 1 << 20, history: 0 };
    let mut driver = Driver { store: Store::new(limits, Instant::now()), socket };
    driver.store.next_outcome();
    let start = Instant::now();
    for batch in 0..RECORDS / BATCH {
        (0..BATCH).for_each(|number| driver.persist(batch * BATCH + number));
        driver.until_persisted(BATCH)?;
    }
    let rate = RECORDS as f64 / start.elapsed().as_secs_f64();
    let bare = bare_records(&directory)?;
    table.row(
        &format!("records through the store, {BATCH} a commit"),
        &format!("{rate:.0} /s"),
        &format!("bare write and fdatasync {bare:.0} /s: {:.2} x", rate / bare),
        "",
        Verdict::Told,
    );
    let mut waits = Vec::with_capacity(SINGLE);
    for number in 0..SINGLE {
        let start = Instant::now();
        driver.persist(RECORDS + number);
        driver.until_persisted(1)?;
        waits.push(start.elapsed());
    }
    waits.sort_unstable();
    let at = |share: usize| waits[(SINGLE - 1) * share / 100].as_secs_f64() * 1e3;
    table.row(
        "  what one waits to be durable",
        &format!("p50 {:.2} ms", at(50)),
        &format!("p99 {:.2} ms, longest {:.2} ms", at(99), at(100)),
        "",
        Verdict::Told,
    );
    drop(driver.socket);
    waitpid(pid, None)?;
    Ok(())
}

/// As many bytes to a file of the same directory, as often made durable.
fn bare_records(directory: &Directory) -> Outcome<f64> {
    let mut file = fs::File::create(directory.join("bare"))?;
    let batch = vec![b'x'; 220 * BATCH];
    let start = Instant::now();
    for _ in 0..RECORDS / BATCH {
        file.write_all(&batch)?;
        file.sync_data()?;
    }
    Ok(RECORDS as f64 / start.elapsed().as_secs_f64())
}

/// A subscriber that resumes after as many events as the ring holds.
fn replay(table: &mut Table) -> Outcome<()> {
    let daemon = Setup::new(PROGRAM)?.with("server.outbox", r#""1MiB""#).start()?;
    let mut peer = Peer::local(&daemon)?;
    let reply = peer.request("events", "subscribe", &json!({ "events": ["dispatcher"] }))?;
    let begin = reply["seq"].as_u64().ok_or("no place in the stream")?;
    run_jobs(&mut peer, 0)?;
    let status = peer.request("rpc", "status", &json!({}))?;
    let end = status["seq"].as_u64().ok_or("no number of events")?;
    let mut again = Peer::local(&daemon)?;
    let since = json!({ "epoch": status["epoch"], "seq": begin });
    let start = Instant::now();
    again.request("events", "subscribe", &json!({ "events": ["dispatcher"], "since": since }))?;
    let (mut events, mut bytes) = (0, 0);
    loop {
        let text = again.event()?;
        (events, bytes) = (events + 1, bytes + text.len());
        if text.contains(&format!("\"seq\":{end},")) {
            break;
        }
    }
    let took = start.elapsed();
    table.row(
        &format!("a replay of {events} events from the ring"),
        &format!("{:.1} ms", took.as_secs_f64() * 1e3),
        &format!(
            "{:.2} MiB, {:.0} events a ms",
            bytes as f64 / f64::from(1 << 20),
            f64::from(events) / took.as_secs_f64() / 1e3
        ),
        "",
        Verdict::Told,
    );
    Ok(())
}
