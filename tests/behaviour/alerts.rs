//! Alerts, from the condition to the event; and expectations.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{Daemon, Outcome, Peer, Setup, Zfs};

use super::PROGRAM;
use super::system_state::{await_checks, checks, write_program};

/// A client that subscribes to alerts.
pub(super) fn subscribed(daemon: &Daemon) -> Outcome<Peer> {
    let mut peer = Peer::local(daemon)?;
    let args = json!({"events": ["alert", "notice"]});
    peer.request("events", "subscribe", &args)?;
    Ok(peer)
}

/// The next alert.
pub(super) fn next_alert(peer: &mut Peer) -> Value {
    let frames = peer.frames_until(|frame| frame["name"] == "alert").unwrap();
    frames.last().map_or(Value::Null, |frame| frame["args"].clone())
}

/// State and key of an alert.
fn of(alert: &Value) -> String {
    format!("{} {}", alert["state"].as_str().unwrap(), alert["key"].as_str().unwrap())
}

/// A daemon whose `zpool` prints a file, and whose `zfs` prints another one.
struct StandIn(Setup);

impl StandIn {
    fn new(lines: &str) -> StandIn {
        let setup = Setup::new(PROGRAM).unwrap();
        let directory = setup.directory().path().display().to_string();
        let zpool = setup.directory().join("zpool");
        let script = "case $1 in list) cat \"$d/list\" ;; status) echo all pools are healthy ;; \
                      events) exit 2 ;; esac";
        write_program(&zpool, &format!("#!/bin/sh\nd={directory}\n{script}\n"));
        let zfs = setup.directory().join("zfs");
        let script =
            "[ -e \"$d/fails\" ] && { echo no such pool >&2; exit 1; }; cat \"$d/snapshots\"";
        write_program(&zfs, &format!("#!/bin/sh\nd={directory}\n{script}\n"));
        let stand_in = StandIn(
            setup
                .with("system_state.zpool", format!("{zpool:?}"))
                .with("system_state.zpool_when", r#""always""#)
                .with("system_state.interval", r#""1h""#)
                .with("system_state.report_interval", r#""1h""#)
                .with("system_state.devd", r#""""#)
                .with("alerts.clear_after", r#""0s""#)
                .with("alerts.expect_interval", r#""100ms""#)
                .with_lines(lines),
        );
        stand_in.pool("ONLINE", 50);
        stand_in.writes("snapshots", "");
        stand_in
    }

    /// Replaces the content of a file atomically.
    fn writes(&self, name: &str, text: &str) {
        let directory = self.0.directory();
        fs::write(directory.join("new"), text).unwrap();
        fs::rename(directory.join("new"), directory.join(name)).unwrap();
    }

    fn pool(&self, health: &str, capacity: usize) {
        let text = format!("tank\t100G\t50G\t50G\t-\t-\t0%\t{capacity}%\t1.00x\t{health}\t-\n");
        self.writes("list", &text);
    }

    /// Snapshots, each with its age in seconds.
    fn snapshots(&self, snapshots: &[(&str, u64)]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let line = |(name, age): &(&str, u64)| format!("{name}\t{}\n", now - age);
        self.writes("snapshots", &snapshots.iter().map(line).collect::<String>());
    }
}

fn check(peer: &mut Peer) {
    peer.request("rpc", "system_state", &json!({"action": "check"})).unwrap();
}

#[test]
fn degraded_pool_is_an_alert_until_it_is_healed_also_across_a_kill() {
    let Some(zfs) = Zfs::start().unwrap() else { return };
    let setup = zfs
        .setup(PROGRAM)
        .unwrap()
        .with("system_state.interval", r#""2s""#)
        .with("alerts.clear_after", r#""0s""#);
    let (a, b) = (zfs.device("a", 64).unwrap(), zfs.device("b", 64).unwrap());
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (a, b) = (text(&a), text(&b));
    zfs.zpool(&["create", "-m", "none", "tank", "mirror", &a, &b]).unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    zfs.zpool(&["offline", "tank", &b]).unwrap();
    let raised = next_alert(&mut peer);
    assert_eq!(of(&raised), "raised pool/tank/health");
    assert_eq!(raised["priority"], "9 - Urgent");
    let message = raised["message"].as_str().unwrap();
    assert!(message.starts_with("tank is DEGRADED: One or more devices"), "{message}");

    // The record is durable before the next request of this client is answered, or soon after.
    let file = |part: usize| setup.directory().join(&format!("state/alerts-{part:x}"));
    let is_stored =
        || (0..16).any(|part| fs::read_to_string(file(part)).is_ok_and(|it| it.contains("tank")));
    while !is_stored() {
        peer.request("rpc", "identify", &Value::Null).unwrap();
    }
    daemon.crash().unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    let present = next_alert(&mut peer);
    assert_eq!((of(&present), &present["since"]), (of(&raised), &raised["since"]));
    let status = peer.request("rpc", "status", &Value::Null).unwrap();
    assert_eq!(status["alerts"]["active"], 1, "{}", status["alerts"]);

    // A pool that is healed before the first check has another cause.
    loop {
        let status = peer.request("rpc", "status", &Value::Null).unwrap();
        if status["system_state"]["zpools"]["tank"]["health"] == "DEGRADED" {
            break;
        }
    }
    zfs.zpool(&["online", "tank", &b]).unwrap();
    let cleared = next_alert(&mut peer);
    assert_eq!(of(&cleared), "cleared pool/tank/health");
    assert_eq!(cleared["message"], "tank is ONLINE");
    peer.request("rpc", "status", &Value::Null).unwrap();
    daemon.stop().unwrap();

    // A condition that ended while no daemon ran is cleared with that cause.
    zfs.zpool(&["offline", "tank", &b]).unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    assert_eq!(of(&next_alert(&mut peer)), "raised pool/tank/health");
    daemon.stop().unwrap();
    zfs.zpool(&["online", "tank", &b]).unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    let history = json!({"events": ["alert"]});
    let is_cleared = |peer: &mut Peer| {
        let page = peer.request("rpc", "history", &history).unwrap();
        let last = page["events"].as_array().and_then(|events| events.last().cloned());
        last.is_some_and(|last| last["args"]["message"] == "no longer so after a restart")
    };
    while !is_cleared(&mut peer) {
        check(&mut peer);
    }
}

#[test]
fn pool_that_flaps_twenty_times_is_reported_twice() {
    let mut stand_in = StandIn::new("");
    stand_in.0.set("alerts.clear_after", r#""1h""#);
    stand_in.0.set("system_state.event_pause", r#""1s""#);
    stand_in.0.set("system_state.event_delay", r#""10ms""#);
    stand_in.0.set("system_state.interval", r#""100ms""#);
    let daemon = stand_in.0.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    let seen = |peer: &mut Peer, health: &str| loop {
        let status = peer.request("rpc", "status", &Value::Null).unwrap();
        if status["system_state"]["zpools"]["tank"]["health"] == health {
            break;
        }
    };
    let mut asker = Peer::local(&daemon).unwrap();
    for _ in 0..20 {
        stand_in.pool("DEGRADED", 50);
        seen(&mut asker, "DEGRADED");
        stand_in.pool("ONLINE", 50);
        seen(&mut asker, "ONLINE");
    }
    let (raised, flapping) = (next_alert(&mut peer), next_alert(&mut peer));
    assert_eq!(of(&raised), "raised pool/tank/health");
    assert_eq!(of(&flapping), "changed pool/tank/health");
    let message = flapping["message"].as_str().unwrap();
    assert!(message.starts_with("flapping: raised 4 times within an hour"), "{message}");
    let page = peer.request("rpc", "history", &json!({"events": ["alert"]})).unwrap();
    assert_eq!(page["events"].as_array().unwrap().len(), 2);
}

#[test]
fn full_pool_is_cleared_below_another_threshold() {
    let stand_in = StandIn::new("");
    let daemon = stand_in.0.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    stand_in.pool("ONLINE", 91);
    check(&mut peer);
    let raised = next_alert(&mut peer);
    assert_eq!(of(&raised), "raised pool/tank/capacity");
    assert_eq!(raised["message"], "tank is 91% full, 50.0 GiB free");
    let mut asker = Peer::local(&daemon).unwrap();
    for (capacity, is_active) in [(89, 1), (88, 1), (87, 0)] {
        let before = checks(&mut asker);
        stand_in.pool("ONLINE", capacity);
        check(&mut asker);
        await_checks(&mut asker, before + 1);
        let status = asker.request("rpc", "status", &Value::Null).unwrap();
        assert_eq!(status["system_state"]["zpools"]["tank"]["capacity"], format!("{capacity}%"));
        assert_eq!(status["alerts"]["active"], is_active, "{capacity}");
    }
    assert_eq!(of(&next_alert(&mut peer)), "cleared pool/tank/capacity");
}

#[test]
fn client_of_the_three_original_names_sees_no_alert() {
    let stand_in = StandIn::new("");
    let daemon = stand_in.0.start().unwrap();
    let mut old = Peer::local(&daemon).unwrap();
    let names = json!(["dispatcher", "life-preserver", "system-state"]);
    old.request("events", "subscribe", &names).unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    old.frames_until(|frame| frame["name"] == "system_state").unwrap();
    stand_in.pool("DEGRADED", 50);
    check(&mut peer);
    next_alert(&mut peer);
    stand_in.pool("ONLINE", 50);
    check(&mut peer);
    next_alert(&mut peer);
    let is_online = |frame: &Value| frame["args"]["zpools"]["tank"]["health"] == "ONLINE";
    let frames = old.frames_until(is_online).unwrap();
    let names: Vec<&Value> = frames.iter().map(|frame| &frame["name"]).collect();
    assert_eq!(names, ["system_state", "system_state"]);
}

#[test]
fn failed_job_is_an_alert_until_the_next_success() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("alerts.jobs", r#"["nightly*"]"#)
        .with_lines("[[dispatcher.queue]]\nname = \"backup\"\nparallel = 2\nalert = true\n");
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    let mut run = |id: &str, queue: Option<&str>, command: &str| {
        let mut args = json!({"action": "submit", "id": id, "commands": [command]});
        if let Some(queue) = queue {
            args["queue"] = queue.into();
        }
        peer.request("rpc", "dispatcher", &args).unwrap();
    };
    run("other", None, "false");
    run("nightly-1", None, "sh -c 'exit 3'");
    let mut watcher = subscribed(&daemon).unwrap();
    let raised = next_alert(&mut watcher);
    assert_eq!(of(&raised), "raised job/nightly-1/failed");
    assert_eq!(raised["message"], "job nightly-1 failed, exit code 3: sh -c 'exit 3'");
    run("x", Some("backup"), "false");
    assert_eq!(of(&next_alert(&mut watcher)), "raised job/backup/failed");
    run("nightly-1", None, "true");
    assert_eq!(of(&next_alert(&mut watcher)), "cleared job/nightly-1/failed");
    run("y", Some("backup"), "true");
    assert_eq!(of(&next_alert(&mut watcher)), "cleared job/backup/failed");
}

#[test]
fn failed_replication_is_an_alert_until_the_next_success() {
    let setup = Setup::new(PROGRAM).unwrap();
    let log = setup.directory().join("zrepl.log");
    fs::write(&log, "").unwrap();
    let source = format!("[[life_preserver.source]]\nlog = {log:?}\nrule = \"zrepl\"\n");
    let setup = setup.with_lines(&source);
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    let append = |line: &str| {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
        writeln!(file, "{line}").unwrap();
    };
    append(r#"[a][repl]: receive request failed filesystem="ice/a" err="out of space""#);
    let raised = next_alert(&mut peer);
    assert_eq!(of(&raised), "raised replication/ice/a/failed");
    assert!(
        raised["message"].as_str().unwrap().ends_with("Replication failed for ice/a: out of space")
    );
    append(r#"[a][repl]: receive finished filesystem="ice/b""#);
    append(r#"[a][repl]: receive finished filesystem="ice/a""#);
    assert_eq!(of(&next_alert(&mut peer)), "cleared replication/ice/a/failed");
}

#[test]
fn expected_snapshots_are_asked_of_zfs() {
    let stand_in = StandIn::new(
        "[[expect]]\nsnapshot = \"tank/**\"\nevery = \"1h\"\n\
         [[expect]]\nreplication = \"backup/nas\"\nevery = \"24h\"\npriority = 8\n",
    );
    stand_in.snapshots(&[
        ("tank", 900_000),
        ("tank/home", 900_000),
        ("tank/home@a", 9000),
        ("tank/home@b", 30),
        ("tank/vm", 900_000),
        ("tank/vm@a", 4000),
    ]);
    let daemon = stand_in.0.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    let mut next: Vec<String> = (0..2).map(|_| of(&next_alert(&mut peer))).collect();
    next.sort();
    assert_eq!(next, ["raised replication/backup/nas/missing", "raised snapshot/tank/vm/stale"]);
    stand_in.snapshots(&[("tank/home@b", 60), ("tank/vm@b", 1), ("backup/nas@x", 90_000)]);
    let mut next: Vec<String> = (0..3).map(|_| of(&next_alert(&mut peer))).collect();
    next.sort();
    assert_eq!(
        next,
        [
            "cleared replication/backup/nas/missing",
            "cleared snapshot/tank/vm/stale",
            "raised replication/backup/nas/stale"
        ]
    );
    stand_in.writes("fails", "");
    let failed = next_alert(&mut peer);
    assert_eq!(of(&failed), "raised zfs/unresponsive");
    assert_eq!(
        failed["message"],
        "cannot check snapshots: zfs list ended with code 1: no such pool"
    );
    fs::remove_file(stand_in.0.directory().join("fails")).unwrap();
    assert_eq!(of(&next_alert(&mut peer)), "cleared zfs/unresponsive");
}
