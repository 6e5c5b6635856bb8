//! Jobs are neither lost nor run twice when files of the state directory are lost: a journal that was
//! cut, a directory that was moved away, a store that was killed with text in flight.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Daemon, Peer, Setup};

use super::PROGRAM;

fn setup() -> Setup {
    Setup::new(PROGRAM).unwrap()
}

fn status(peer: &mut Peer) -> Value {
    peer.request("rpc", "status", &Value::Null).unwrap()
}

fn list(peer: &mut Peer) -> Value {
    let mut list = peer.request("rpc", "dispatcher", &json!({ "action": "list" })).unwrap();
    list["jobs"].take()
}

fn store_of(peer: &mut Peer) -> i32 {
    i32::try_from(status(peer)["store"]["pid"].as_i64().unwrap()).unwrap()
}

/// Polls until `is_so`; each poll is a round trip.
fn wait_for(peer: &mut Peer, mut is_so: impl FnMut(&mut Peer) -> bool) {
    let patience = std::time::Instant::now() + support::PATIENCE;
    while !is_so(peer) {
        assert!(std::time::Instant::now() < patience, "{}", status(peer));
        peer.idle(Duration::from_millis(5)).unwrap();
    }
}

fn are_done(peer: &mut Peer, ids: &[&str]) -> bool {
    let jobs = list(peer);
    let queues = jobs.as_object().unwrap();
    ids.iter().all(|id| queues.values().any(|queue| queue[id]["state"] == "finished"))
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-Rp").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Kills the daemon and waits for the end of its store, which holds the lock: until then it may
/// still write the files that the test is about to replace.
fn crash(daemon: Daemon, state: &Path) {
    daemon.crash().unwrap();
    fs::File::open(state.join("lock")).unwrap().lock().unwrap();
}

/// Number of runs of each command, from the line that each appends.
fn runs(ran: &Path) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    for line in fs::read_to_string(ran).unwrap_or_default().lines() {
        *runs.entry(line.to_owned()).or_default() += 1;
    }
    runs
}

/// Jobs that waited and ran, with output and without, one of an id that was used again, one that
/// was killed while it waited, one that runs and two that wait at the crash.
#[test]
fn journal_cut_anywhere_runs_no_command_twice() {
    let setup = setup().with("dispatcher.retain_jobs", 2).with("store.deadline", r#""30s""#);
    let ran = setup.directory().join("ran");
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let mut commands = Vec::new();
    let mut submit = |peer: &mut Peer, id: &str, name: &str, then: &str| {
        let command = format!("sh -c 'echo {name} >>{}; {then}'", ran.display());
        commands.push(name.to_owned());
        let args = json!({ "action": "submit", "id": id, "queue": "q", "commands": [command] });
        peer.request("rpc", "dispatcher", &args).unwrap();
    };
    // A gate blocks the jobs behind it until it is killed.
    submit(&mut peer, "gate", "gate", "sleep 600");
    submit(&mut peer, "quiet", "quiet", "true");
    submit(&mut peer, "loud", "loud", "echo out");
    submit(&mut peer, "never", "never", "true");
    submit(&mut peer, "again", "again-1", "true");
    for id in ["never", "gate"] {
        wait_for(&mut peer, |_| ran.exists());
        peer.request("rpc", "dispatcher", &json!({ "action": "kill", "job_id": id })).unwrap();
    }
    wait_for(&mut peer, |peer| are_done(peer, &["again"]));
    submit(&mut peer, "again", "again-2", "true");
    wait_for(&mut peer, |_| runs(&ran).contains_key("again-2"));
    wait_for(&mut peer, |peer| are_done(peer, &["again"]));
    submit(&mut peer, "runs", "runs", "sleep 600");
    submit(&mut peer, "waits-1", "waits-1", "true");
    submit(&mut peer, "waits-2", "waits-2", "echo out");
    wait_for(&mut peer, |_| runs(&ran).contains_key("runs"));
    let before = runs(&ran);
    assert!(before.values().all(|count| *count == 1) && !before.contains_key("never"));
    let state = setup.directory().join("state");
    crash(daemon, &state);

    let saved = setup.directory().join("saved");
    copy(&state, &saved);
    let marks = fs::read(&ran).unwrap();
    let journal = fs::read(saved.join("journal")).unwrap();
    let ends = journal.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let mut cuts: Vec<usize> = [0].into_iter().chain(ends.map(|(at, _)| at + 1)).collect();
    let mut seed = 7_usize;
    for _ in 0..8 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        cuts.push((seed >> 33) % journal.len());
    }
    for cut in cuts {
        copy(&saved, &state);
        fs::write(&ran, &marks).unwrap();
        fs::write(state.join("journal"), &journal[..cut]).unwrap();
        let daemon = setup.start().unwrap();
        let mut peer = Peer::local(&daemon).unwrap();
        wait_for(&mut peer, |peer| {
            let jobs = &status(peer)["jobs"];
            jobs["pending"] == 0 && jobs["running"] == 0
        });
        let after = runs(&ran);
        for (name, count) in &after {
            assert!(commands.contains(name), "cut at {cut}: {name} is invented");
            assert_eq!(*count, 1, "cut at {cut}: {name} ran again");
        }
        assert!(!after.contains_key("never"), "cut at {cut}: a killed job ran");
        if cut == journal.len() {
            assert!(after.contains_key("waits-1") && after.contains_key("waits-2"));
        }
        crash(daemon, &state);
    }
}

#[test]
fn moved_state_directory_refuses_jobs_until_it_is_back() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let run = |id: &str| json!({ "action": "run", id: "true" });
    peer.request("rpc", "dispatcher", &run("before")).unwrap();
    wait_for(&mut peer, |peer| are_done(peer, &["before"]));
    let (state, away) = (setup.directory().join("state"), setup.directory().join("away"));
    fs::rename(&state, &away).unwrap();
    let refused = peer.refused("rpc", "dispatcher", &run("lost")).unwrap();
    assert_eq!(refused.code, 500);
    assert!(refused.message.contains("state directory is lost"), "{}", refused.message);
    let shown = status(&mut peer)["store"]["state"].clone();
    assert!(shown.as_str().unwrap().contains("state directory is lost"), "{shown}");
    // Another directory of that name is not accepted either.
    fs::create_dir(&state).unwrap();
    wait_for(&mut peer, |peer| {
        let shown = status(peer)["store"]["state"].to_string();
        shown.contains("another directory")
    });
    peer.refused("rpc", "dispatcher", &run("lost")).unwrap();
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "nothing is written into it");
    fs::remove_dir(&state).unwrap();
    fs::rename(&away, &state).unwrap();
    wait_for(&mut peer, |peer| status(peer)["store"]["state"] == "working");
    peer.request("rpc", "dispatcher", &run("after")).unwrap();
    wait_for(&mut peer, |peer| are_done(peer, &["after"]));
    daemon.crash().unwrap();
    let daemon = setup.start().unwrap();
    let jobs = list(&mut Peer::local(&daemon).unwrap())["no_queue"].clone();
    let ids: Vec<&String> = jobs.as_object().unwrap().keys().collect();
    assert_eq!(ids, ["before", "after"]);
}

/// Kills the store each time that a job has printed, before the text can have been acknowledged.
#[test]
fn killed_store_loses_no_log_text() {
    let setup =
        setup().with("store.deadline", r#""60s""#).with("dispatcher.output_interval", r#""10ms""#);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let go = setup.directory().join("go");
    let mkfifo = std::process::Command::new("mkfifo").arg(&go).status().unwrap();
    assert!(mkfifo.success());
    let rounds = 10;
    let command = format!(
        "sh -c 'exec 3<>{}; for n in $(seq {rounds}); do read x <&3; echo line $x; done; read x <&3'",
        go.display()
    );
    let run = json!({ "action": "run", "j": command });
    peer.request("rpc", "dispatcher", &run).unwrap();
    let mut expected = String::new();
    for round in 1..=rounds {
        // Stopped, the store has read nothing of what is killed with it.
        let store = Pid::from_raw(store_of(&mut peer));
        kill(store, Signal::SIGSTOP).unwrap();
        fs::write(&go, format!("{round}\n")).unwrap();
        expected += &format!("line {round}\n");
        let printed = format!("line {round}\\n");
        watcher.frames_until(|frame| frame["args"].to_string().contains(&printed)).unwrap();
        kill(store, Signal::SIGKILL).unwrap();
        wait_for(&mut peer, |peer| {
            let now = status(peer)["store"].clone();
            now["state"] == "working" && now["pid"] != store.as_raw()
        });
    }
    fs::write(&go, "end\n").unwrap();
    wait_for(&mut peer, |peer| are_done(peer, &["j"]));
    let log = json!({ "action": "log", "job_id": "j" });
    assert_eq!(peer.request("rpc", "dispatcher", &log).unwrap()["data"], expected);
}

/// The times of the journal are twenty years ahead of the clock or behind it, which is the same as
/// a clock that jumped.
#[test]
fn clock_far_from_the_journal_forgets_no_finished_job() {
    let setup = setup().with("dispatcher.retain_time", r#""1h""#);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.request("rpc", "dispatcher", &json!({ "action": "run", "j": "echo out" })).unwrap();
    wait_for(&mut peer, |peer| are_done(peer, &["j"]));
    let mut daemon = daemon;
    for (shift, said) in [(-20, "days ahead"), (40, "behind")] {
        daemon.stop().unwrap();
        shift_years(&setup.directory().join("state/journal"), shift);
        daemon = setup.start().unwrap();
        let mut peer = Peer::local(&daemon).unwrap();
        assert!(are_done(&mut peer, &["j"]), "{}", list(&mut peer));
        daemon.log().wait(said).unwrap();
    }
}

/// Moves every time of a journal by years, and seals its lines anew.
fn shift_years(journal: &Path, years: i64) {
    let text = fs::read_to_string(journal).unwrap();
    let mut moved = String::new();
    for line in text.lines() {
        let (object, _) = line.rsplit_once(",\"sum\":\"").unwrap();
        let mut object = object.to_owned();
        for key in ["\"time_started\":\"", "\"time_finished\":\""] {
            if let Some(at) = object.find(key).map(|at| at + key.len()) {
                let year: i64 = object[at..at + 4].parse().unwrap();
                object.replace_range(at..at + 4, &(year + years).to_string());
            }
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, object.as_bytes());
        let sum: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        moved += &format!("{object},\"sum\":\"{sum}\"}}\n");
    }
    assert_ne!(moved, text, "there are times in it");
    fs::write(journal, moved).unwrap();
}
