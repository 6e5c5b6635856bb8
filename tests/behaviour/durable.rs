//! Durability: jobs, outcomes and logs survive the daemon; consequences of a failing store.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Cli, Daemon, Gate, Outcome, Peer, Process, Setup};

use super::PROGRAM;

fn setup() -> Setup {
    Setup::new(PROGRAM).unwrap()
}

/// Subscribes to certain jobs in the extended form, from a position if given.
fn follow(peer: &mut Peer, jobs: &[&str], since: Option<&Value>) {
    let mut args = json!({ "events": ["dispatcher"], "jobs": jobs });
    if let Some(since) = since {
        args["since"] = since.clone();
    }
    peer.request("events", "subscribe", &args).unwrap();
}

fn run(peer: &mut Peer, jobs: &Value) -> Value {
    let mut args = jobs.clone();
    args["action"] = "run".into();
    peer.request("rpc", "dispatcher", &args).unwrap()
}

fn list(peer: &mut Peer) -> Value {
    let mut list = peer.request("rpc", "dispatcher", &json!({ "action": "list" })).unwrap();
    list["jobs"].take()
}

/// Process number of the store.
fn store_of(peer: &mut Peer) -> i32 {
    let status = peer.request("rpc", "status", &Value::Null).unwrap();
    i32::try_from(status["store"]["pid"].as_i64().unwrap()).unwrap()
}

/// Waits until the store has this state; returns the last status.
fn wait_for_store(peer: &mut Peer, is: impl Fn(&Value) -> bool) -> Value {
    let patience = std::time::Instant::now() + support::PATIENCE;
    loop {
        let status = peer.request("rpc", "status", &Value::Null).unwrap();
        if is(&status["store"]) {
            return status;
        }
        assert!(std::time::Instant::now() < patience, "the store stays {}", status["store"]);
        // Waits between polls: each is a round trip.
        peer.idle(Duration::from_millis(20)).unwrap();
    }
}

fn crash_and_start(daemon: Daemon, setup: &Setup) -> Daemon {
    daemon.crash().unwrap();
    setup.start().unwrap()
}

#[test]
fn outcome_and_output_survive_a_crash() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &["j"], None);
    run(&mut peer, &json!({ "j": ["sh -c 'echo one; exit 0'", "sh -c 'echo two >&2; exit 3'"] }));
    let received = peer.job("j").unwrap().pop().unwrap();
    let daemon = crash_and_start(daemon, &setup);
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &["j"], None);
    let again = peer.job("j").unwrap();
    assert_eq!(again, [received], "once, and to the byte as before");
    let log = Cli::to(&daemon, "log").arg("j").run().unwrap();
    assert_eq!((log.code(), log.out.as_str()), (0, "one\ntwo\n"));
    let entry = &list(&mut peer)["no_queue"]["j"];
    assert_eq!((&entry["state"], &entry["return_codes"]), (&json!("finished"), &json!(["0", "3"])));
}

#[test]
fn job_of_a_class_is_reported_again_unchanged() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let id = "sysadm_pkg_check_upgrade-1";
    follow(&mut peer, &[id], None);
    run(&mut peer, &json!({ id: "echo Your packages are up to date." }));
    let received = peer.job(id).unwrap().pop().unwrap();
    assert_eq!(received["updates_available"], "false");
    let daemon = crash_and_start(daemon, &setup);
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &[id], None);
    assert_eq!(peer.job(id).unwrap(), [received]);
}

#[test]
fn crash_runs_pending_jobs_and_never_repeats_running_ones() {
    let setup = setup();
    let marker = setup.directory().join("ran");
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let first =
        format!("sh -c 'echo x >>{0}; echo begun; sleep 600 & sleep 600'", marker.display());
    // A separate client: a client that waits for a reply drops events.
    let mut watcher = Peer::watcher(&daemon).unwrap();
    for (id, command) in [("first", first.as_str()), ("second", "echo mine")] {
        let args = json!({ "action": "submit", "id": id, "queue": "q", "commands": [command] });
        peer.request("rpc", "dispatcher", &args).unwrap();
    }
    let begun = |frame: &Value| frame["args"].to_string().contains("begun\\n");
    watcher.frames_until(begun).unwrap();
    let sleepers = descendants(daemon.process());
    assert!(sleepers.len() >= 3, "{sleepers:?}");
    let daemon = crash_and_start(daemon, &setup);
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &["first", "second"], None);
    let events = peer.job("first").unwrap();
    let ended = events.last().unwrap();
    assert_eq!(ended[format!("return_codes/{first}")], "-1");
    let log = ended[&first].as_str().unwrap();
    assert!(log.starts_with("begun\n[interrupted: "), "{log:?}");
    // The queue waited until its processes were gone.
    let second = peer.job("second").unwrap().pop().unwrap();
    assert_eq!(
        (&second["echo mine"], &second["return_codes/echo mine"]),
        (&json!("mine\n"), &json!("0"))
    );
    assert!(sleepers.iter().all(|pid| !Process(*pid).is_alive()));
    daemon.stop().unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &["first"], None);
    assert_eq!(peer.job("first").unwrap(), std::slice::from_ref(ended), "it is over for good");
    assert_eq!(fs::read_to_string(&marker).unwrap(), "x\n", "it ran once");
}

/// All processes below one.
fn descendants(of: Process) -> Vec<u32> {
    let mut found = of.children().unwrap();
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        found.extend(Process(pid).children().unwrap());
        at += 1;
    }
    found
}

#[test]
fn shutdown_ends_running_jobs_and_leaves_pending_ones() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &["runs", "waits"], None);
    for (id, command) in [("runs", "sleep 600"), ("waits", "echo done")] {
        let args = json!({ "action": "submit", "id": id, "queue": "q", "commands": [command] });
        peer.request("rpc", "dispatcher", &args).unwrap();
    }
    daemon.signal(Signal::SIGTERM).unwrap();
    let runs = peer.job("runs").unwrap().pop().unwrap();
    assert_eq!(runs["return_codes/sleep 600"], "-15");
    assert_eq!(peer.closed().unwrap(), 1001, "and no other event comes");
    daemon.stop().unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &["runs", "waits"], None);
    assert_eq!(peer.job("runs").unwrap(), [runs]);
    assert_eq!(peer.job("waits").unwrap().pop().unwrap()["return_codes/echo done"], "0");
}

#[test]
fn without_a_journal_nothing_outlives_the_daemon() {
    let setup = setup().with("store.journal", false);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &["j", "waits"], None);
    run(&mut peer, &json!({ "j": "echo x" }));
    assert_eq!(peer.job("j").unwrap().pop().unwrap()["echo x"], "x\n");
    assert_eq!(Cli::to(&daemon, "log").arg("j").run().unwrap().out, "x\n");
    for (id, command) in [("runs", "sleep 600"), ("waits", "echo done")] {
        let args = json!({ "action": "submit", "id": id, "queue": "q", "commands": [command] });
        peer.request("rpc", "dispatcher", &args).unwrap();
    }
    daemon.signal(Signal::SIGTERM).unwrap();
    let waits = peer.job("waits").unwrap().pop().unwrap();
    assert_eq!(waits["echo done"], "[ended because the daemon stopped]\n");
    daemon.stop().unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    assert_eq!(list(&mut peer), json!({ "no_queue": {} }));
    assert_eq!(fs::read_dir(setup.directory().join("state/log")).unwrap().count(), 0);
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut other = Setup::new(PROGRAM).unwrap();
    other.set("paths.state", format!("{:?}", setup.directory().join("state")));
    let mut second = other.launch().unwrap();
    let (status, lines) = second.wait().unwrap();
    assert_eq!(status.code(), Some(78));
    assert!(lines.iter().any(|line| line.contains("another daemon")), "{lines:?}");
    let mut peer = Peer::local(&daemon).unwrap();
    run(&mut peer, &json!({ "j": "true" }));
}

#[test]
fn dead_store_is_replaced_and_no_promise_is_broken() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let mut watcher = Peer::local(&daemon).unwrap();
    watcher.subscribe().unwrap();
    let mut taken = Vec::new();
    for round in 0..20 {
        if round % 4 == 1 {
            let _ = kill(Pid::from_raw(store_of(&mut peer)), Signal::SIGKILL);
        }
        let id = format!("j{round}");
        let args = json!({ "action": "run", &id: format!("echo {id}") });
        // While it is being replaced a job waits, and is not refused.
        peer.request("rpc", "dispatcher", &args).unwrap();
        taken.push(id);
    }
    let mut finished: Vec<String> = Vec::new();
    while finished.len() < taken.len() {
        let frame = watcher.frame().unwrap();
        if frame["args"]["state"] == "finished" {
            finished.push(frame["args"]["process_id"].as_str().unwrap().to_owned());
        }
    }
    let daemon = crash_and_start(daemon, &setup);
    let mut peer = Peer::local(&daemon).unwrap();
    let jobs = list(&mut peer);
    for id in &taken {
        assert_eq!(jobs["no_queue"][id]["return_codes"], json!(["0"]), "{id}");
    }
    assert_eq!(jobs["no_queue"].as_object().unwrap().len(), taken.len());
}

#[test]
fn hanging_store_refuses_jobs_keeps_events_and_recovers() {
    let setup = setup().with("store.deadline", r#""300ms""#);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.subscribe().unwrap();
    let commands = ["sh -c 'read x </dev/null; kill -STOP $0; sleep 0.2; echo after' PID"];
    let store = store_of(&mut peer);
    let command = commands[0].replace("PID", &store.to_string());
    run(&mut peer, &json!({ "stops": command }));
    // Its output is reported at once, its end when it is durable, after the store is back.
    let ended = peer.job("stops").unwrap().pop().unwrap();
    assert_eq!(ended[&command], "after\n");
    daemon.log().wait("state storage does not answer").unwrap();
    // Refused until it is back; the stopped one was killed and replaced.
    let args = json!({ "action": "run", "next": "true" });
    let status = wait_for_store(&mut peer, |store| store["state"] == "working");
    assert_ne!(status["store"]["pid"], store);
    daemon.log().wait("state storage answers again").unwrap();
    peer.request("rpc", "dispatcher", &args).unwrap();
    peer.job("next").unwrap();
    let daemon = crash_and_start(daemon, &setup);
    let mut peer = Peer::local(&daemon).unwrap();
    follow(&mut peer, &["stops"], None);
    let again = peer.job("stops").unwrap().pop().unwrap();
    assert_eq!(again["time_finished"], ended["time_finished"], "it was kept later");
}

#[test]
fn full_disk_refuses_jobs_with_the_reason_until_there_is_room() {
    // A file size limit has the same effect, and needs no root.
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.subscribe().unwrap();
    // Not a byte of the journal is written yet.
    let store = store_of(&mut peer);
    let limit = |bytes: &str| {
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &store.to_string(), &format!("--fsize={bytes}")])
            .status();
        set.is_ok_and(|status| status.success())
    };
    if !limit("1:unlimited") {
        eprintln!("not shown here: there is no prlimit, or it may not");
        return;
    }
    let refused =
        peer.refused("rpc", "dispatcher", &json!({ "action": "run", "j": "true" })).unwrap();
    assert_eq!(refused.code, 500);
    assert!(refused.message.contains("cannot write"), "{}", refused.message);
    daemon.log().wait("no job is taken").unwrap();
    assert!(list(&mut peer)["no_queue"].get("j").is_none());
    assert!(limit("unlimited:unlimited"));
    wait_for_store(&mut peer, |store| store["state"] == "working");
    run(&mut peer, &json!({ "j": "true" }));
    peer.job("j").unwrap();
    let daemon = crash_and_start(daemon, &setup);
    let jobs = list(&mut Peer::local(&daemon).unwrap());
    assert_eq!(jobs["no_queue"].as_object().unwrap().len(), 1, "{jobs}");
    let log = daemon.log().lines();
    assert!(!log.iter().any(|line| line.contains("cannot be read")), "{log:#?}");
}

#[test]
fn damaged_journal_is_set_aside_and_its_readable_part_used() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.subscribe().unwrap();
    for id in ["a", "b"] {
        run(&mut peer, &json!({ id: "true" }));
        peer.job(id).unwrap();
    }
    daemon.stop().unwrap();
    let state = setup.directory().join("state");
    let journal = state.join("journal");
    let mut bytes = fs::read(&journal).unwrap();
    // The outcome of "a".
    let text = String::from_utf8(bytes.clone()).unwrap();
    let at = text.find(r#""is":"finished","id":"a""#).unwrap();
    bytes[at + 3] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    let daemon = setup.start().unwrap();
    let said = daemon.log().wait("cannot be read; it is set aside").unwrap();
    assert!(said.contains("1 of "), "{said}");
    let mut peer = Peer::local(&daemon).unwrap();
    let jobs = list(&mut peer);
    assert_eq!(jobs["no_queue"]["b"]["return_codes"], json!(["0"]));
    // Its outcome is lost, but not its start, so it is looked for and not run again.
    wait_for_list(&mut peer, |jobs| jobs["no_queue"]["a"]["return_codes"] == json!(["-1"]));
    let aside = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<_> = aside.filter(|path| path.to_string_lossy().contains("damaged-")).collect();
    assert_eq!(fs::read(&aside[0]).unwrap(), bytes);
}

#[test]
fn run_exits_with_the_right_code_despite_daemon_crashes() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let held = Cli::to(&daemon, "run").args(["--id", "held", "--queue", "q", "sleep 600"]);
    let held = held.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let runs = |queues: &Value, id: &str, state: &str| queues["q"][id]["state"] == state;
    wait_for_list(&mut peer, |queues| runs(queues, "held", "running"));
    let waits = Cli::to(&daemon, "run")
        .args(["--id", "waits", "--queue", "q", "sh -c 'echo late; exit 5'"])
        .start()
        .unwrap();
    wait_for_list(&mut peer, |queues| runs(queues, "waits", "pending"));
    daemon.crash().unwrap();
    held.err.wait("waiting for the daemon").unwrap();
    let _daemon = setup.start().unwrap();
    let held = held.wait().unwrap();
    // As if by SIGTERM, which ends the survivors of a dead daemon: its program was started.
    assert_eq!(held.code(), 143, "{held:?}");
    assert!((held.out + &held.err).contains("interrupted"));
    let waits = waits.wait().unwrap();
    assert_eq!((waits.code(), waits.out.as_str()), (5, "late\n"), "{}", waits.err);
}

fn wait_for_list(peer: &mut Peer, is: impl Fn(&Value) -> bool) {
    let patience = std::time::Instant::now() + support::PATIENCE;
    while !is(&list(peer)) {
        assert!(std::time::Instant::now() < patience, "{}", list(peer));
        peer.idle(Duration::from_millis(10)).unwrap();
    }
}

#[test]
fn watch_resumes_and_reports_gaps() -> Outcome<()> {
    let setup = setup();
    let daemon = setup.start()?;
    let watch = Cli::to(&daemon, "watch").arg("dispatcher").start()?;
    let mut peer = Peer::local(&daemon)?;
    let subscribed = |status: &Value| status["subscribers"] == 1;
    let patience = std::time::Instant::now() + support::PATIENCE;
    while !subscribed(&peer.request("rpc", "status", &Value::Null)?) {
        assert!(std::time::Instant::now() < patience);
    }
    run(&mut peer, &json!({ "one": "true" }));
    watch.out.wait(r#""state":"finished""#)?;
    let (_, next) = watch.out.wait_from(0, r#""state":"finished""#)?;
    let epoch = peer.request("rpc", "status", &Value::Null)?["epoch"].clone();
    daemon.stop()?;
    let daemon = setup.start()?;
    let (gap, next) = watch.out.wait_from(next, r#""name":"gap""#)?;
    assert!(gap.contains(r#"{"missed":null}"#), "{gap}");
    let mut peer = Peer::local(&daemon)?;
    run(&mut peer, &json!({ "two": "true" }));
    // A finished job is shown once, although its event comes again after a gap of unknown size.
    let (first, next) = watch.out.wait_from(next, r#""process_id":""#)?;
    assert!(first.contains(r#""process_id":"two""#), "{first}");
    watch.out.wait_from(next, r#""state":"finished","process_id":"two""#)?;
    watch.signal(Signal::SIGTERM)?;
    // A position in an earlier run is a gap, one in this run is not.
    let since = format!("{}:1", epoch.as_str().unwrap());
    let late = Cli::to(&daemon, "watch").args(["--since", &since]).start()?;
    late.out.wait(r#""name":"gap""#)?;
    let late = Cli::to(&daemon, "watch").args(["--since", "0"]).start()?;
    let (pending, next) = late.out.wait_from(0, r#""process_id":"two""#)?;
    assert!(pending.contains(r#""state":"pending""#), "{pending}");
    late.out.wait_from(next, r#""state":"finished""#)?;
    Ok(())
}

#[test]
fn resuming_subscriber_gets_missed_events_once() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut control = Peer::local(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let reply = peer.request("events", "subscribe", &json!({ "events": ["dispatcher"] })).unwrap();
    let mut since = json!({ "epoch": reply["epoch"], "seq": reply["seq"] });
    let mut seqs = Vec::new();
    for round in 0..5 {
        run(&mut control, &json!({ format!("{round}a"): "echo x", format!("{round}b"): "true" }));
        let mut finished = 0;
        while finished < 2 {
            let frame = peer.frame().unwrap();
            seqs.push(frame["seq"].as_u64().unwrap());
            finished += usize::from(frame["args"]["state"] == "finished");
            since["seq"] = frame["seq"].clone();
            if frame["seq"].as_u64().unwrap().is_multiple_of(3) {
                // Away in the middle of it.
                peer = Peer::local(&daemon).unwrap();
                let args = json!({ "events": ["dispatcher"], "since": since });
                peer.request("events", "subscribe", &args).unwrap();
            }
        }
    }
    let expected: Vec<u64> = (seqs[0]..seqs[0] + seqs.len() as u64).collect();
    assert_eq!(seqs, expected, "every number once, in order");
}

#[test]
fn replay_larger_than_an_outbox_arrives_whole() {
    let setup = setup()
        .with("server.outbox", r#""128KiB""#)
        .with("events.max_event", r#""64KiB""#)
        .with("events.ring", r#""4MiB""#)
        .with("dispatcher.max_running", 1)
        .with("dispatcher.max_pending", 300);
    let daemon = setup.start().unwrap();
    let mut control = Peer::local(&daemon).unwrap();
    let mut watcher = Peer::local(&daemon).unwrap();
    let events = json!({ "events": ["dispatcher"] });
    let begin = watcher.request("events", "subscribe", &events).unwrap();
    for round in 0..20 {
        let id = format!("large{round}");
        run(&mut control, &json!({ &id: "sh -c 'head -c 20000 /dev/zero | tr \"\\0\" x'" }));
        watcher.job(&id).unwrap();
    }
    // One has two running events with output, which become one in an outbox.
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let half = r#"head -c 10000 /dev/zero | tr "\0" x"#;
    let halves = format!("sh -c '{half}; {}; {half}'", gate.wait());
    run(&mut control, &json!({ "halves": &halves }));
    watcher.job_printed("halves", &halves, &"x".repeat(10_000)).unwrap();
    gate.open().unwrap();
    watcher.job("halves").unwrap();
    // All of it again for the disconnected client, in order and each once.
    let end = control.request("rpc", "status", &Value::Null).unwrap()["seq"].as_u64().unwrap();
    let mut back = Peer::local(&daemon).unwrap();
    let since = json!({ "epoch": begin["epoch"], "seq": begin["seq"] });
    let resumed = json!({ "events": ["dispatcher"], "since": since });
    back.request("events", "subscribe", &resumed).unwrap();
    let replay = back.frames_until(|frame| frame["seq"] == end).unwrap();
    let seqs: Vec<u64> = replay.iter().map(|frame| frame["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "in order and once: {seqs:?}");
    for id in (0..20).map(|round| format!("large{round}")).chain(["halves".to_owned()]) {
        let of_job = replay.iter().filter(|frame| frame["args"]["process_id"] == *id);
        let states: Vec<&str> =
            of_job.clone().map(|frame| frame["args"]["state"].as_str().unwrap()).collect();
        assert_eq!((states.first(), states.last()), (Some(&"pending"), Some(&"finished")), "{id}");
        // Queued running events are coalesced: numbers are missing, but no output is.
        let mut received = 0;
        for frame in of_job {
            let is_finished = frame["args"]["state"] == "finished";
            for range in frame["output"].as_array().into_iter().flatten() {
                let from = if is_finished { 0 } else { received };
                assert_eq!((&range["from"], &range["tail"]), (&json!(from), &json!(0)), "{id}");
                received = from + range["head"].as_u64().unwrap();
                assert_eq!(range["to"], received, "{id}");
            }
        }
        assert_eq!(received, 20_000, "{id}");
    }
    let bytes: usize = replay.iter().map(|frame| frame.to_string().len()).sum();
    assert!(bytes > 2 * 128 * 1024, "{bytes} bytes are no test of that");
    // One runs, 255 are pending; a late subscriber gets each once.
    let mut jobs = json!({ "action": "run" });
    for number in 0..256 {
        jobs[format!("waits{number:03}")] = "sleep 600".into();
    }
    control.request("rpc", "dispatcher", &jobs).unwrap();
    let mut late = Peer::local(&daemon).unwrap();
    late.subscribe().unwrap();
    let mut received = std::collections::BTreeSet::new();
    for _ in 0..256 {
        let id = late.frame().unwrap()["args"]["process_id"].as_str().unwrap().to_owned();
        assert!(received.insert(id.clone()), "{id} twice");
    }
    // Nothing more: the next frame is the reply.
    late.post("rpc", "identify", &json!({})).unwrap();
    assert_eq!(late.frame().unwrap()["id"], "posted");
    let all: Vec<String> = received.into_iter().collect();
    let kill = json!({ "action": "kill", "job_id": all });
    control.request("rpc", "dispatcher", &kill).unwrap();
}
