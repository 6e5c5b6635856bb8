//! Order and limits of jobs, and retention of finished ones.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, Gate, PATIENCE, Peer, Setup};

use super::PROGRAM;

/// Gates for jobs that are released one by one.
fn gates<const N: usize>(daemon: &Daemon) -> [Gate; N] {
    std::array::from_fn(|number| Gate::new(daemon.directory(), &format!("gate-{number}")).unwrap())
}

fn held(gate: &Gate) -> String {
    format!("sh -c '{}'", gate.wait())
}

/// Waits until a job's event has this state.
fn wait_for(watcher: &mut Peer, id: &str, state: &str) -> Value {
    watcher.job_until(id, |args| args["state"] == state).unwrap().pop().unwrap()
}

#[test]
fn queue_runs_jobs_one_at_a_time_in_order() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gates = gates::<3>(&daemon);
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for (gate, id) in gates.iter().zip(["c", "a", "b"]) {
        let command = format!("sh -c '{}; exit 1'", gate.wait());
        peer.submit(&json!({ "id": id, "commands": [command], "queue": "q" })).unwrap();
    }
    wait_for(&mut watcher, "b", "pending");
    let list = peer.list().unwrap();
    let shown = |id: &str| {
        let job = &list["q"][id];
        (job["state"].clone(), job["queue_position"].clone())
    };
    assert_eq!(shown("c"), (json!("running"), json!("0")));
    assert_eq!(shown("a"), (json!("pending"), json!("1")));
    assert_eq!(shown("b"), (json!("pending"), json!("2")));
    // Each starts when the previous one has failed, not before.
    for (gate, id) in gates.iter_mut().zip(["c", "a", "b"]) {
        gate.open().unwrap();
        let args =
            watcher.frames_until(|f| f["args"]["state"] == "finished").unwrap().pop().unwrap();
        assert_eq!(args["args"]["process_id"], id);
    }
}

#[test]
fn queues_and_unqueued_jobs_are_independent() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let mut submit = |id: &str, command: &str, queue: Value| {
        peer.submit(&json!({ "id": id, "commands": [command], "queue": queue })).unwrap();
    };
    submit("first", &held(&gate), json!("one"));
    submit("second", "true", json!("one"));
    submit("other", "true", json!("two"));
    submit("free", "true", json!("no_queue"));
    submit("none", "true", json!(null));
    let mut over = Vec::new();
    while over.len() < 3 {
        let args = watcher.frame().unwrap()["args"].take();
        if args["state"] == "finished" {
            over.push(args["process_id"].as_str().unwrap().to_owned());
        }
    }
    over.sort();
    assert_eq!(over, ["free", "none", "other"]);
    let list = peer.list().unwrap();
    assert_eq!(list["one"]["second"]["state"], "pending");
    assert_eq!(list["two"]["other"]["state"], "finished");
    let free: Vec<&String> = list["no_queue"].as_object().unwrap().keys().collect();
    assert_eq!(free, ["free", "none"]);
    gate.open().unwrap();
    watcher.finished("second").unwrap();
}

#[test]
fn as_many_run_as_are_allowed_and_the_others_follow_in_order() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.max_running", 2).start().unwrap();
    let mut gates = gates::<4>(&daemon);
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let jobs: Value = gates
        .iter()
        .zip(["a", "b", "c", "d"])
        .map(|(gate, id)| (id.to_owned(), json!(held(gate))))
        .collect();
    peer.run(&jobs).unwrap();
    wait_for(&mut watcher, "b", "running");
    let list = peer.list().unwrap();
    let states =
        ["a", "b", "c", "d"].map(|id| list["no_queue"][id]["state"].as_str().unwrap().to_owned());
    assert_eq!(states, ["running", "running", "pending", "pending"]);
    assert_eq!(list["no_queue"]["c"]["queue_position"], "1");
    assert_eq!(list["no_queue"]["d"]["queue_position"], "2");
    gates[1].open().unwrap();
    wait_for(&mut watcher, "c", "running");
    gates[0].open().unwrap();
    wait_for(&mut watcher, "d", "running");
    gates[2].open().unwrap();
    gates[3].open().unwrap();
    wait_for(&mut watcher, "d", "finished");
}

#[test]
fn ids_of_the_original_server_select_its_queues() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "sysadm_pkg_a": held(&gate), "sysadm_pkg_b": "true",
                      "sysadm_iocage_a": "true", "sysadm_iohyve_a": "true" }))
        .unwrap();
    peer.submit(&json!({ "id": "sysadm_pkg_c", "commands": ["true"], "queue": "no_queue" }))
        .unwrap();
    peer.submit(&json!({ "id": "sysadm_pkg_d", "commands": ["true"], "queue": "mine" })).unwrap();
    peer.submit(&json!({ "id": "anybody", "commands": ["true"], "queue": "pkg_queue" })).unwrap();
    watcher.finished("sysadm_pkg_d").unwrap();
    let list = peer.list().unwrap();
    let of =
        |queue: &str| -> Vec<String> { list[queue].as_object().unwrap().keys().cloned().collect() };
    assert_eq!(of("pkg_queue"), ["sysadm_pkg_a", "sysadm_pkg_b", "anybody"]);
    assert_eq!(of("iocage_queue"), ["sysadm_iocage_a"]);
    assert_eq!(of("no_queue"), ["sysadm_iohyve_a", "sysadm_pkg_c"]);
    assert_eq!(of("mine"), ["sysadm_pkg_d"]);
    assert_eq!(list["pkg_queue"]["sysadm_pkg_b"]["state"], "pending");
    gate.open().unwrap();
    watcher.finished("anybody").unwrap();
}

#[test]
fn timeout_ends_the_whole_chain_and_is_reported() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let job =
        json!({ "id": "j", "commands": ["true", "sleep 1000", "echo never"], "timeout": 0.2 });
    peer.submit(&job).unwrap();
    let finished = watcher.finished("j").unwrap();
    assert_eq!(finished["return_codes/true"], "0");
    assert_eq!(finished["return_codes/sleep 1000"], "-15");
    assert_eq!(finished["sleep 1000"], "[timed out]\n");
    assert_eq!(finished.get("return_codes/echo never"), None);
    // The time in a queue does not count.
    peer.submit(&json!({ "id": "slow", "commands": ["sleep 0.5"], "queue": "q" })).unwrap();
    peer.submit(&json!({ "id": "waits", "commands": ["true"], "queue": "q", "timeout": 0.3 }))
        .unwrap();
    assert_eq!(watcher.finished("waits").unwrap()["return_codes/true"], "0");
}

#[test]
fn list_describes_each_job() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    assert_eq!(peer.list().unwrap(), json!({ "no_queue": {} }));
    let running = held(&gate);
    peer.run(&json!({ "over": ["true", "false", "true"] })).unwrap();
    let over = watcher.finished("over").unwrap();
    peer.run(&json!({ "runs": ["true", running] })).unwrap();
    watcher.job_until("runs", |args| args["current_cmd"] == *running).unwrap();
    peer.submit(&json!({ "id": "held", "commands": [running], "queue": "q" })).unwrap();
    peer.submit(&json!({ "id": "waits", "commands": [["echo", "a b"]], "queue": "q" })).unwrap();
    let held = wait_for(&mut watcher, "held", "running");
    let list = peer.list().unwrap();
    let runs = &list["no_queue"]["runs"];
    let (user, _) = super::ourselves();
    assert_eq!(
        list,
        json!({
            "no_queue": {
                "over": { "commands": ["true", "false", "true"], "state": "finished",
                          "time_started": over["time_started"],
                          "time_finished": over["time_finished"], "return_codes": ["0", "1"],
                          "result": "failed", "exit_code": 1, "failed_command": 1,
                          "duration": over["duration"], "submitted_by": user },
                "runs": { "commands": ["true", running], "state": "running", "queue_position": "0",
                          "time_started": runs["time_started"], "return_codes": ["0"],
                          "submitted_by": user },
            },
            "q": {
                "held": { "commands": [running], "state": "running", "queue_position": "0",
                          "time_started": held["time_started"], "return_codes": [],
                          "submitted_by": user },
                "waits": { "commands": ["echo 'a b'"], "state": "pending", "queue_position": "1",
                           "return_codes": [], "submitted_by": user },
            }
        })
    );
    gate.open().unwrap();
    gate.open().unwrap();
    watcher.finished("waits").unwrap();
}

#[test]
fn jobs_with_long_commands_are_listed_whole() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    // Together more than a page, and more than a client's queue.
    let long = format!("true {}", "x".repeat(30_000));
    for number in 0..60 {
        let id = peer.submit(&json!({ "id": format!("j{number}"), "commands": [long] })).unwrap();
        watcher.finished(&id).unwrap();
    }
    let list = peer.list().unwrap();
    for number in 0..60 {
        assert_eq!(list["no_queue"][format!("j{number}")]["commands"], json!([long]));
    }
}

#[test]
fn finished_jobs_are_retained_up_to_a_number() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.retain_jobs", 2).start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for id in ["a", "b", "c"] {
        peer.run(&json!({ id: format!("echo {id}") })).unwrap();
        watcher.finished(id).unwrap();
    }
    let persisted: Vec<String> =
        peer.list().unwrap()["no_queue"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(persisted, ["b", "c"]);
    let ask = json!({ "action": "log", "job_id": "a" });
    assert_eq!(peer.refused("rpc", "dispatcher", &ask).unwrap().code, 404);
    assert_eq!(peer.whole_log("b").unwrap(), "b\n");
    // One with the same id replaces the old one.
    peer.run(&json!({ "b": "echo again" })).unwrap();
    watcher.finished("b").unwrap();
    let persisted: Vec<String> =
        peer.list().unwrap()["no_queue"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(persisted, ["c", "b"]);
    assert_eq!(peer.whole_log("b").unwrap(), "again\n");
}

#[test]
fn finished_job_is_retained_for_a_time() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.retain_time", "\"1s\"").start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let began = Instant::now();
    peer.run(&json!({ "j": "echo x" })).unwrap();
    watcher.finished("j").unwrap();
    assert_eq!(peer.whole_log("j").unwrap(), "x\n");
    // There is no event about it, so it is polled.
    while peer.list().unwrap() != json!({ "no_queue": {} }) {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
    let ask = json!({ "action": "log", "job_id": "j" });
    assert_eq!(peer.refused("rpc", "dispatcher", &ask).unwrap().code, 404);
}

#[test]
fn very_many_jobs_in_one_queue_are_listed_and_killed() {
    const MANY: usize = 50_000;
    let setup = Setup::new(PROGRAM).unwrap();
    let setup = setup.with("dispatcher.max_pending", MANY).with("server.max_message", "\"4MiB\"");
    let setup = setup.with("server.outbox", "\"16MiB\"").with("server.outbox_total", "\"64MiB\"");
    // Only the dispatcher is tested; the time for so many records depends on the disk.
    let setup = setup.with("store.journal", false);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    // The old server's prefix puts them into one queue.
    let ids: Vec<String> = (0..MANY).map(|number| format!("sysadm_pkg_{number}")).collect();
    for ids in ids.chunks(250) {
        let batch: Value = ids.iter().map(|id| (id.clone(), json!("sleep 1000"))).collect();
        peer.run(&batch).unwrap();
    }
    let list = peer.list().unwrap();
    let queue = list["pkg_queue"].as_object().unwrap();
    assert_eq!(queue.len(), MANY);
    assert_eq!(queue[&ids[0]]["queue_position"], "0");
    assert_eq!(queue[&ids[MANY - 1]]["queue_position"], (MANY - 1).to_string());
    for ids in ids.chunks(5000) {
        assert_eq!(peer.kill(&json!(ids)).unwrap(), json!(ids));
    }
}
