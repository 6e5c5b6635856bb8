//! Logs across restarts: no line is lost, however the daemon ended.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Daemon, Outcome, PATIENCE, Peer, Setup, append, snapshot, snapshot_message, snapshot_messages,
    snapshots,
};

use super::PROGRAM;

/// The state, in its directory.
const STATE: &str = "state/life_preserver.json";
/// `life_preserver.slice`, the default, in bytes.
const SLICE: usize = 64 * 1024;

#[test]
fn lines_written_while_down_reach_the_first_subscriber() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    append(&setup.log(), snapshots(0..10))?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), snapshots(10..12))?;
    peer.messages(2)?;
    drop(peer);
    daemon.stop()?;
    append(&setup.log(), snapshots(12..20))?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    assert_eq!(peer.messages(8)?, snapshot_messages(12..20));
    append(&setup.log(), snapshot(20))?;
    assert_eq!(peer.message()?, snapshot_message(20));
    Ok(())
}

#[test]
fn lines_written_while_down_are_published_without_subscriber() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?.with("life_preserver.start_wait", r#""10ms""#);
    let daemon = setup.start()?;
    append(&setup.log(), snapshot(0))?;
    wait_for_last(&daemon, &snapshot_message(0))?;
    daemon.stop()?;
    append(&setup.log(), snapshots(1..4))?;
    let daemon = setup.start()?;
    wait_for_last(&daemon, &snapshot_message(3))?;
    // A returning subscriber that resumes gets all of it from the ring.
    let mut peer = Peer::local(&daemon)?;
    let since = json!({ "events": ["life-preserver"], "since": { "epoch": "other", "seq": 1 } });
    peer.request("events", "subscribe", &since)?;
    let last = peer.messages(3)?;
    assert_eq!(last, snapshot_messages(1..4));
    Ok(())
}

/// Waits until this is the last snapshot of the daemon.
fn wait_for_last(daemon: &Daemon, message: &str) -> Outcome<()> {
    let mut peer = Peer::local(daemon)?;
    let patience = Instant::now() + PATIENCE;
    while Instant::now() < patience {
        let status = peer.request("rpc", "status", &json!({}))?;
        if status["life_preserver"]["snapshot"]["message"] == message {
            return Ok(());
        }
    }
    Err(format!("it was never told: {message}").into())
}

#[test]
fn rotations_while_down_lose_no_line() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let mut daemon = setup.start()?;
    for round in 0..4 {
        let first = 30 * round;
        let mut peer = Peer::reader(&daemon)?;
        append(&setup.log(), snapshots(first..first + 10))?;
        let received = peer.messages(10 + usize::from(round > 0) * 20)?;
        assert_eq!(received.last(), Some(&snapshot_message(first + 9)));
        drop(peer);
        daemon.stop()?;
        append(&setup.log(), snapshots(first + 10..first + 20))?;
        let old = setup.log().with_extension(format!("log.{round}"));
        if round % 2 == 0 {
            fs::rename(setup.log(), &old)?;
        } else {
            fs::copy(setup.log(), &old)?;
            fs::write(setup.log(), "")?;
        }
        append(&setup.log(), snapshots(first + 20..first + 30))?;
        daemon = setup.start()?;
    }
    let mut peer = Peer::reader(&daemon)?;
    assert_eq!(peer.messages(20)?, snapshot_messages(100..120));
    Ok(())
}

#[test]
fn unusable_state_file_is_set_aside_and_reported() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let state = setup.directory().join(STATE);
    setup.start()?.stop()?;
    let good = fs::read_to_string(&state)?;
    for (content, said) in [
        (&good[..good.len() / 2], "EOF"),
        ("\0\0\0\0", "expected value"),
        ("{\"version\":999}", "it is of version 999, not 1"),
        ("{\"version\":1,\"logs\":[{\"log\":\"/x\"}]}", "log positions"),
    ] {
        fs::write(&state, content)?;
        append(&setup.log(), snapshots(0..5))?;
        let daemon = setup.start()?;
        let line = daemon.log().wait(said)?;
        assert!(line.contains("set aside") && line.contains("from their ends"), "{line}");
        assert_eq!(fs::read_to_string(state.with_extension("json.damaged"))?, content);
        let mut peer = Peer::reader(&daemon)?;
        append(&setup.log(), snapshot(7))?;
        assert_eq!(peer.message()?, snapshot_message(7));
        drop(peer);
        daemon.stop()?;
    }
    // A missing file is a first start.
    fs::remove_file(&state)?;
    append(&setup.log(), snapshots(0..5))?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), snapshot(8))?;
    assert_eq!(peer.message()?, snapshot_message(8));
    Ok(())
}

#[test]
fn a_state_ahead_of_its_log_repeats_nothing_and_loses_nothing() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), snapshots(0..50))?;
    peer.messages(50)?;
    drop(peer);
    daemon.stop()?;
    // The log's file system was rolled back.
    fs::write(setup.log(), snapshots(0..30))?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), snapshot(30))?;
    assert_eq!(peer.message()?, snapshot_message(30));
    Ok(())
}

#[test]
fn unwritable_state_keeps_events_and_is_reported() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?.with("life_preserver.poll_interval", r#""200ms""#);
    setup.start()?.stop()?;
    let Some(full) = FullDisk::over(&setup)? else {
        // Without the privilege to mount, a directory takes the place of the file.
        let state = setup.directory().join(STATE);
        fs::remove_file(&state)?;
        fs::create_dir_all(state.join("in the way"))?;
        return events_go_on(&setup, None);
    };
    events_go_on(&setup, Some(full))
}

fn events_go_on(setup: &Setup, full: Option<FullDisk>) -> Outcome<()> {
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    for number in 0..3 {
        append(&setup.log(), snapshot(number))?;
        assert_eq!(peer.message()?, snapshot_message(number));
    }
    // More than a slice, which would wait for positions to be persisted.
    append(&setup.log(), snapshots(3..5000))?;
    assert_eq!(peer.messages(4997)?, snapshot_messages(3..5000));
    daemon.log().wait("cannot save log positions: ")?;
    if let Some(full) = &full {
        full.make_room()?;
        daemon.log().wait("log positions are saved again")?;
        drop(peer);
        daemon.stop()?;
        let daemon = setup.start()?;
        let mut peer = Peer::reader(&daemon)?;
        append(&setup.log(), snapshot(5000))?;
        assert_eq!(peer.message()?, snapshot_message(5000));
    }
    Ok(())
}

/// A file system in memory over the state directory, with no room left in it.
struct FullDisk(std::path::PathBuf);

impl FullDisk {
    fn over(setup: &Setup) -> Outcome<Option<FullDisk>> {
        let state = setup.directory().join("state");
        let before: Vec<_> = fs::read_dir(&state)?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                // Nothing for a directory.
                Some((fs::read(entry.path()).ok(), entry.file_name()))
            })
            .collect();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs"])
            .arg(&state)
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            return Ok(None);
        }
        let full = FullDisk(state);
        // All of them: on FreeBSD a full one has no room for an empty file or directory either.
        for (content, name) in before {
            match content {
                Some(content) => fs::write(full.0.join(name), content)?,
                None => fs::create_dir(full.0.join(name))?,
            }
        }
        let mut filler = fs::File::create(full.0.join("filler"))?;
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        Ok(Some(full))
    }

    fn make_room(&self) -> Outcome<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let at_once = if cfg!(target_os = "linux") { "-l" } else { "-f" };
        let _ = Command::new("umount").arg(at_once).arg(&self.0).output();
    }
}

#[test]
fn position_of_a_new_log_is_durable_once_the_daemon_is_ready() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    append(&setup.log(), snapshots(0..3))?;
    let daemon = setup.start()?;
    let state = fs::read_to_string(setup.directory().join("state/life_preserver.json"))?;
    assert!(state.contains(&*setup.log().to_string_lossy()), "{state}");
    daemon.crash()?;
    // Written while no daemon runs.
    append(&setup.log(), snapshots(3..6))?;
    let daemon = setup.start()?;
    assert_eq!(Peer::reader(&daemon)?.messages(3)?, snapshot_messages(3..6));
    Ok(())
}

#[test]
fn crash_loses_no_line_and_repeats_at_most_one_slice() -> Outcome<()> {
    const KILLS: usize = 50;
    let setup = Setup::following(PROGRAM)?;
    append(&setup.log(), "")?;
    let mut random = 17_u64;
    let mut choose = move |of: u64| {
        // Knuth's MMIX constants; which moments they are does not matter, only that they differ.
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % of
    };
    let mut daemon = setup.start()?;
    let mut client = Resuming::connect(&daemon, None)?;
    let writer = Writer::begin(&setup);
    let (mut got, mut sessions) = (BTreeSet::new(), Vec::new());
    for _ in 0..KILLS {
        for _ in 0..choose(300) {
            client.read()?;
        }
        daemon.crash()?;
        client.read_to_end();
        got.extend(client.numbers.iter().copied());
        let since = client.since.clone();
        sessions.push(std::mem::take(&mut client.numbers));
        daemon = setup.start()?;
        if choose(8) == 0 {
            // Before any client has reconnected.
            daemon.crash()?;
            daemon = setup.start()?;
        }
        client = Resuming::connect(&daemon, Some(since))?;
    }
    let written = writer.end()?;
    while client.numbers.last() != Some(&(written - 1)) {
        client.read()?;
    }
    got.extend(client.numbers.iter().copied());
    sessions.push(client.numbers);

    assert_eq!(got, (0..written).collect(), "a line is missing");
    let mut last = None;
    for numbers in &sessions {
        for pair in numbers.windows(2) {
            assert_eq!(pair[0] + 1, pair[1], "out of order while it ran");
        }
        if let (Some(last), Some(first)) = (last, numbers.first()) {
            let repeated: usize = (*first..=last).map(|number| snapshot(number).len()).sum();
            assert!(repeated <= SLICE, "{repeated} bytes were repeated");
        }
        last = numbers.last().copied().or(last);
    }
    Ok(())
}

/// A client that resumes from its last position.
struct Resuming {
    peer: Peer,
    since: Value,
    /// Numbers of the snapshots reported in this session.
    numbers: Vec<usize>,
}

impl Resuming {
    fn connect(daemon: &Daemon, since: Option<Value>) -> Outcome<Resuming> {
        let mut peer = Peer::local(daemon)?;
        let args = json!({ "events": ["life-preserver"], "since": since });
        let reply = peer.request("events", "subscribe", &args)?;
        let since = json!({ "epoch": reply["epoch"], "seq": 0 });
        Ok(Resuming { peer, since, numbers: Vec::new() })
    }

    fn read(&mut self) -> Outcome<()> {
        let frame = self.peer.frame()?;
        if frame["name"] == "life_preserver" {
            let message = frame["args"]["message"].as_str().unwrap_or_default();
            let number = message.rsplit_once('/').and_then(|(_, number)| number.parse().ok());
            self.numbers.push(number.ok_or("no number")?);
            self.since = json!({ "epoch": frame["epoch"], "seq": frame["seq"] });
        }
        Ok(())
    }

    /// Reads everything that the system accepted before the daemon died.
    fn read_to_end(&mut self) {
        while self.read().is_ok() {}
    }
}

/// Appends line after line, whatever happens to the daemon.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<std::io::Result<usize>>,
}

impl Writer {
    fn begin(setup: &Setup) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (setup.log(), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut log = fs::OpenOptions::new().append(true).open(log)?;
            let mut written = 0;
            while !stopped.load(Ordering::Relaxed) {
                // Now one line, now many.
                let many = 1 + written % 13;
                std::io::Write::write_all(&mut log, snapshots(written..written + many).as_bytes())?;
                written += many;
                // Limits the size of the log on a busy machine.
                thread::sleep(Duration::from_millis(1));
            }
            Ok(written)
        });
        Writer { stop, thread }
    }

    /// Stops; returns the number of lines written.
    fn end(self) -> Outcome<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let written = self.thread.join().map_err(|_| "the writer failed")?;
        Ok(written?)
    }
}

#[test]
fn unsent_events_of_a_slow_client_are_repeated_after_a_crash() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut slow = Peer::reader(&daemon)?;
    let mut quick = Peer::reader(&daemon)?;
    // More than its socket accepts, less than would pause the log.
    let written = 1800;
    append(&setup.log(), snapshots(0..written))?;
    assert_eq!(quick.messages(written)?, snapshot_messages(0..written));
    daemon.crash()?;
    let mut got = BTreeSet::new();
    while let Ok(message) = slow.message() {
        got.insert(message);
    }
    assert!(got.len() < written, "it had got all, and nothing is shown");
    let daemon = setup.start()?;
    let mut slow = Peer::reader(&daemon)?;
    while got.len() < written {
        got.insert(slow.message()?);
    }
    Ok(())
}
