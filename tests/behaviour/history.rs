//! The history of events on disk: what is asked for later, also of a daemon that died.

use std::fs;

use serde_json::{Value, json};
use support::{Cli, Daemon, Peer, Setup, append};

use super::PROGRAM;

const LIMIT: u64 = 1024 * 1024;

fn setup() -> Setup {
    Setup::following(PROGRAM).unwrap().with("store.history", "\"1MiB\"")
}

fn events(daemon: &Daemon, words: &[&str]) -> String {
    let events = Cli::to(daemon, "events").args(words).run().unwrap();
    assert_eq!((events.code(), &*events.err), (0, ""), "{words:?}");
    events.out
}

/// Frames as `events --json` prints them.
fn frames(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    let printed = events(daemon, &[&["--json"], words].concat());
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn messages(frames: &[Value]) -> Vec<&str> {
    frames.iter().filter_map(|frame| frame["args"]["message"].as_str()).collect()
}

fn submit_and_wait(daemon: &Daemon, words: &[&str]) {
    Cli::to(daemon, "run").args(words).run().unwrap();
}

/// Lets these lines of the log become events.
fn log(setup: &Setup, reader: &mut Peer, lines: &[String]) {
    append(&setup.log(), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    reader.messages(lines.len()).unwrap();
}

#[test]
fn history_is_there_after_a_crash_and_goes_on() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut reader = Peer::reader(&daemon).unwrap();
    let good = "s: creating snapshot tank".to_owned();
    let bad = "s: ERROR: Failed creating snapshot on tank".to_owned();
    log(&setup, &mut reader, &[good, bad]);
    submit_and_wait(&daemon, &["--id", "j", "--sh", "echo secret output; exit 3"]);
    let before = frames(&daemon, &[]);
    daemon.crash().unwrap();

    let daemon = setup.start().unwrap();
    let after = frames(&daemon, &[]);
    assert_eq!(after[..before.len()], before[..], "nothing is lost or repeated");
    let critical =
        frames(&daemon, &["--since", "2d", "--priority", "6", "--kind", "life-preserver"]);
    assert_eq!(messages(&critical), ["s: Snapshot failed for tank"]);
    for frame in &before {
        assert!(frame["seq"].is_u64() && frame["epoch"] == before[0]["epoch"], "{frame}");
    }
    let jobs = frames(&daemon, &["--kind", "dispatcher"]);
    let states: Vec<&Value> = jobs.iter().map(|frame| &frame["args"]["state"]).collect();
    assert_eq!(states, ["pending", "running", "finished"]);
    let ended = &jobs[2]["args"];
    assert_eq!((&ended["result"], &ended["exit_code"]), (&json!("failed"), &json!(3)));
    assert!(!jobs[2].to_string().contains("secret output\\n"), "{ended}");
    let lines = events(&daemon, &["--kind", "dispatcher", "-n", "1"]);
    assert!(lines.contains("dispatcher      j: ") && lines.contains("exit 3"), "{lines}");
    assert_eq!(lines.lines().count(), 1);
    assert_eq!(frames(&daemon, &["--until", "2001-01-01T00:00:00Z"]), [] as [Value; 0]);
    daemon.stop().unwrap();
}

#[test]
fn history_is_paged_and_bounded_and_keeps_the_newest() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut reader = Peer::reader(&daemon).unwrap();
    let long = "x".repeat(900);
    // Three times as much as there is room for.
    for round in 0..30 {
        let line = |n| format!("s: ERROR: Failed creating snapshot on {round}-{n}-{long}");
        log(&setup, &mut reader, &(0..100).map(line).collect::<Vec<_>>());
    }
    let found = frames(&daemon, &["--kind", "life-preserver"]);
    let seqs: Vec<u64> = found.iter().map(|frame| frame["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted() && seqs.len() > 500, "{}", seqs.len());
    assert!(messages(&found).last().unwrap().contains(" 29-99-"));
    let files = fs::read_dir(setup.directory().join("state/history")).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= LIMIT && bytes > LIMIT / 2, "{bytes}");
    // A cursor goes on where its page ended, and gives what is published later.
    let mut peer = Peer::local(&daemon).unwrap();
    let mut cursor = Value::Null;
    let mut pages = 0;
    let mut count = 0;
    loop {
        let args = json!({ "cursor": cursor, "events": "life-preserver" });
        let page = peer.request("rpc", "history", &args).unwrap();
        assert!(page.to_string().len() < 160 * 1024);
        count += page["events"].as_array().unwrap().len();
        cursor = page["next"].clone();
        pages += 1;
        if page["eof"] == true {
            break;
        }
    }
    assert!(count == seqs.len() && pages > 3, "{count} on {pages} pages");
    log(&setup, &mut reader, &["s: creating snapshot later".to_owned()]);
    let args = json!({ "cursor": cursor, "events": "life-preserver" });
    let page = peer.request("rpc", "history", &args).unwrap();
    assert_eq!(messages(page["events"].as_array().unwrap()), ["s: New snapshot of later"]);
    daemon.stop().unwrap();
}

#[test]
fn history_with_a_torn_line_goes_on_behind_it() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    submit_and_wait(&daemon, &["--id", "first", "true"]);
    let before = frames(&daemon, &["--kind", "dispatcher"]);
    daemon.crash().unwrap();
    let file = setup.directory().join("state/history/1");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 10]).unwrap();
    let daemon = setup.start().unwrap();
    submit_and_wait(&daemon, &["--id", "second", "true"]);
    let after = frames(&daemon, &["--kind", "dispatcher"]);
    let ids: Vec<&str> =
        after.iter().filter_map(|frame| frame["args"]["process_id"].as_str()).collect();
    assert_eq!(ids.iter().filter(|id| **id == "second").count(), 3, "{ids:?}");
    assert!(ids.iter().filter(|id| **id == "first").count() >= before.len() - 1, "{ids:?}");
    daemon.stop().unwrap();
}

#[test]
fn events_that_cannot_be_written_are_counted_in_the_history() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    submit_and_wait(&daemon, &["--id", "first", "true"]);
    frames(&daemon, &[]);
    // As on a full disk: nothing can be made there.
    let directory = setup.directory().join("state/history");
    let aside = setup.directory().join("state/aside");
    fs::rename(&directory, &aside).unwrap();
    fs::write(&directory, "").unwrap();
    submit_and_wait(&daemon, &["--id", "second", "true"]);
    daemon.log().wait("store: cannot write the history").unwrap();
    fs::remove_file(&directory).unwrap();
    fs::rename(&aside, &directory).unwrap();
    submit_and_wait(&daemon, &["--id", "third", "true"]);
    let found = frames(&daemon, &["--kind", "dispatcher"]);
    let missed: Vec<u64> =
        found.iter().filter_map(|frame| frame["args"]["missed"].as_u64()).collect();
    assert!(!missed.is_empty() && missed.iter().sum::<u64>() >= 3, "{missed:?}");
    let ids: Vec<&Value> = found.iter().map(|frame| &frame["args"]["process_id"]).collect();
    assert!(ids.contains(&&json!("first")) && ids.contains(&&json!("third")), "{ids:?}");
    assert!(!ids.contains(&&json!("second")));
    daemon.log().wait("store: the history is written again").unwrap();
    daemon.stop().unwrap();
}

#[test]
fn history_switched_off_is_removed_and_refused() {
    let mut setup = setup();
    let daemon = setup.start().unwrap();
    submit_and_wait(&daemon, &["true"]);
    assert!(!frames(&daemon, &[]).is_empty());
    setup.set("store.history", 0);
    setup.write().unwrap();
    daemon.reload().unwrap();
    let refused = Cli::to(&daemon, "events").run().unwrap();
    assert_eq!(refused.code(), 64, "{refused:?}");
    assert!(refused.err.contains("store.history"), "{}", refused.err);
    daemon.stop().unwrap();
    assert!(!setup.directory().join("state/history").exists());
}

#[test]
fn malformed_history_request_is_refused() {
    let daemon = setup().start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for args in [
        json!({ "since": "yesterday" }),
        json!({ "priority": 11 }),
        json!({ "events": ["x"] }),
        json!({ "cursor": "1:2" }),
        json!({ "until": -5 }),
        json!({ "sinse": 5 }),
    ] {
        assert_eq!(peer.refused("rpc", "history", &args).unwrap().code, 400, "{args}");
    }
    // A cursor that no page has named is no harm.
    for cursor in [
        json!({ "segment": 1, "offset": 7 }),
        json!({ "segment": u64::MAX, "offset": u64::MAX }),
        json!({ "segment": 1, "offset": u64::MAX }),
    ] {
        let args = json!({ "cursor": cursor });
        let reply = peer.request("rpc", "history", &args);
        assert!(reply.is_ok(), "{cursor}: {reply:?}");
    }
    daemon.stop().unwrap();
}
