//! Order of jobs as the operator sets it: pause, parallel queues, priorities, dependencies, restart.

use serde_json::{Value, json};
use support::{Cli, Daemon, Finished, Gate, Peer, Setup};

use super::PROGRAM;

fn setup() -> Setup {
    Setup::new(PROGRAM).unwrap()
}

fn ran(daemon: &Daemon, command: &str, words: &[&str]) -> Finished {
    Cli::to(daemon, command).args(words).run().unwrap()
}

/// Runs a command that has to succeed; what it printed.
fn done(daemon: &Daemon, command: &str, words: &[&str]) -> String {
    let ran = ran(daemon, command, words);
    assert_eq!(ran.code(), 0, "{command} {words:?}: {}", ran.err);
    ran.out
}

fn submit(peer: &mut Peer, id: &str, command: &str, more: &Value) {
    let mut args = json!({ "action": "submit", "id": id, "commands": [command], "queue": "q" });
    for (key, value) in more.as_object().unwrap() {
        args[key] = value.clone();
    }
    peer.request("rpc", "dispatcher", &args).unwrap();
}

fn held(gate: &Gate) -> String {
    format!("sh -c '{}'", gate.wait())
}

/// Waits until a job's event has this state.
fn wait_for(watcher: &mut Peer, id: &str, state: &str) -> Value {
    watcher.job_until(id, |args| args["state"] == state).unwrap().pop().unwrap()
}

#[test]
fn paused_queue_stays_paused_over_a_crash_until_resumed() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    submit(&mut peer, "first", "true", &json!({}));
    assert_eq!(done(&daemon, "wait", &["first"]), "");
    assert_eq!(done(&daemon, "pause", &["q"]), "q: paused\n");
    daemon.log().wait("audit: paused queue=\"q\" user=").unwrap();
    submit(&mut peer, "second", "true", &json!({}));
    done(&daemon, "run", &["--queue", "r", "true"]);
    let table = done(&daemon, "jobs", &["--state", "pending"]);
    assert!(table.contains("second  q      paused"), "{table}");
    assert!(done(&daemon, "status", &[]).contains("q 1 (paused)"));
    daemon.crash().unwrap();

    let daemon = setup.start().unwrap();
    let table = done(&daemon, "queues", &[]);
    assert_eq!(
        table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["q", "paused", "0", "1", "1"]
    );
    assert_eq!(done(&daemon, "jobs", &["--queues"]), "q\nr\n");
    // A later job runs, so the paused one had its chance.
    done(&daemon, "run", &["--queue", "r", "true"]);
    let mut peer = Peer::local(&daemon).unwrap();
    assert_eq!(peer.list().unwrap()["q"]["second"]["state"], "pending");
    assert_eq!(done(&daemon, "resume", &["q"]), "q: resumed\n");
    done(&daemon, "wait", &["second"]);
    daemon.crash().unwrap();

    let daemon = setup.start().unwrap();
    done(&daemon, "run", &["--queue", "q", "true"]);
    daemon.stop().unwrap();
}

#[test]
fn pause_of_an_unknown_queue_is_refused() {
    let daemon = setup().start().unwrap();
    let refused = ran(&daemon, "pause", &["nosuch"]);
    assert_eq!(refused.code(), 64, "{}", refused.err);
    assert!(refused.err.contains("no such queue: \"nosuch\""), "{}", refused.err);
    let mut peer = Peer::local(&daemon).unwrap();
    for (args, code) in [
        (json!({ "action": "pause" }), 400),
        (json!({ "action": "pause", "queue": 5 }), 400),
        (json!({ "action": "pause", "queue": "" }), 400),
        (json!({ "action": "pause", "queue": "no_queue" }), 400),
        (json!({ "action": "resume", "queue": "nosuch" }), 404),
        (json!({ "action": "queues", "page": 5 }), 400),
        (json!({ "action": "restart" }), 400),
        (json!({ "action": "restart", "job_id": "nosuch" }), 404),
        (json!({ "action": "restart", "job_id": "j", "env": {} }), 400),
        (json!({ "action": "submit", "commands": ["true"], "after": "nosuch" }), 404),
        (json!({ "action": "submit", "commands": ["true"], "after": [5] }), 400),
        (json!({ "action": "submit", "commands": ["true"], "after": vec!["j"; 17] }), 400),
        (json!({ "action": "submit", "commands": ["true"], "after_any": "yes" }), 400),
        (json!({ "action": "submit", "commands": ["true"], "priority": 101 }), 400),
        (json!({ "action": "submit", "commands": ["true"], "priority": 0.5 }), 400),
    ] {
        let refused = peer.refused("rpc", "dispatcher", &args).unwrap();
        assert_eq!(refused.code, code, "{args}: {refused:?}");
    }
    daemon.stop().unwrap();
}

#[test]
fn subscriber_of_the_extended_form_gets_pause_and_resume() {
    let daemon = setup().start().unwrap();
    let mut plain = Peer::watcher(&daemon).unwrap();
    let mut extended = Peer::local(&daemon).unwrap();
    let args = json!({ "events": ["dispatcher"] });
    extended.request("events", "subscribe", &args).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for action in ["pause", "pause", "resume"] {
        let args = json!({ "action": action, "queue": "pkg_queue" });
        peer.request("rpc", "dispatcher", &args).unwrap();
    }
    for state in ["paused", "resumed"] {
        let frame = extended.frame().unwrap();
        assert_eq!(frame["name"], "queue", "{frame}");
        assert_eq!(
            (&frame["args"]["queue"], &frame["args"]["state"]),
            (&json!("pkg_queue"), &json!(state))
        );
        assert!(frame["seq"].is_u64() && frame["args"]["by"].is_string(), "{frame}");
    }
    peer.run(&json!({ "j": "true" })).unwrap();
    assert_eq!(plain.frame().unwrap()["args"]["process_id"], "j", "the first that it gets");
    daemon.stop().unwrap();
}

#[test]
fn parallel_of_a_queue_follows_the_configuration_at_a_reload() {
    let setup = setup().with_lines("[[dispatcher.queue]]\nname = \"q\"\nparallel = 2\n");
    let daemon = setup.start().unwrap();
    let gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for id in ["a", "b", "c", "d"] {
        submit(&mut peer, id, &held(&gate), &json!({}));
    }
    wait_for(&mut watcher, "b", "running");
    let states = |peer: &mut Peer| {
        let list = peer.list().unwrap();
        ["a", "b", "c", "d"].map(|id| list["q"][id]["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(states(&mut peer), ["running", "running", "pending", "pending"]);
    std::fs::write(
        setup.file(),
        std::fs::read_to_string(setup.file()).unwrap().replace("parallel = 2", "parallel = 3"),
    )
    .unwrap();
    daemon.reload().unwrap();
    wait_for(&mut watcher, "c", "running");
    assert_eq!(states(&mut peer), ["running", "running", "running", "pending"]);
    done(&daemon, "kill", &["a"]);
    wait_for(&mut watcher, "d", "running");
    daemon.stop().unwrap();
}

#[test]
fn job_after_a_failed_one_is_cancelled_also_over_a_crash() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    done(&daemon, "run", &["--id", "good", "--detach", &held(&gate)]);
    let after = ["--after", "good", "--id", "next", "--detach", "true"];
    assert_eq!(done(&daemon, "run", &after), "next\n");
    let details = done(&daemon, "jobs", &["next"]);
    assert!(details.contains("starts after        good"), "{details}");
    gate.open().unwrap();
    done(&daemon, "wait", &["next"]);

    let failed = ran(&daemon, "run", &["--id", "bad", "false"]);
    assert_eq!(failed.code(), 1, "{}", failed.err);
    let cancelled = ran(&daemon, "run", &["--after", "bad", "--id", "never", "echo x"]);
    assert!(cancelled.code() != 0 && cancelled.out.is_empty(), "{cancelled:?}");
    let details = done(&daemon, "jobs", &["never"]);
    assert!(details.contains("cancelled: job bad did not succeed"), "{details}");
    assert_eq!(done(&daemon, "run", &["--after", "bad", "--after-any", "echo ran"]), "ran\n");

    let gate = Gate::new(daemon.directory(), "gate2").unwrap();
    done(&daemon, "run", &["--id", "dies", "--detach", &held(&gate)]);
    done(&daemon, "run", &["--after", "dies", "--id", "orphan", "--detach", "true"]);
    let mut watcher = Peer::watcher(&daemon).unwrap();
    wait_for(&mut watcher, "dies", "running");
    daemon.crash().unwrap();
    let daemon = setup.start().unwrap();
    let waited = ran(&daemon, "wait", &["orphan"]);
    assert!(waited.code() != 0, "{waited:?}");
    let details = done(&daemon, "jobs", &["orphan"]);
    assert!(details.contains("cancelled: job dies did not succeed"), "{details}");
    daemon.stop().unwrap();
}

#[test]
fn job_is_restarted_as_it_was_also_after_a_crash() {
    let setup = setup();
    let daemon = setup.start().unwrap();
    let words = ["--id", "nightly", "--env", "TOKEN=s3cret", "--cwd", "/tmp", "--sh"];
    let script = "echo $TOKEN in $(pwd)";
    let first = done(&daemon, "run", &[&words[..], &[script]].concat());
    assert_eq!(done(&daemon, "restart", &["nightly"]), first);
    daemon.log().wait("audit: restarted \"nightly\" as job=\"nightly-2\" user=").unwrap();
    let journal = setup.directory().join("state/journal");
    daemon.crash().unwrap();
    if let Ok(about) = std::fs::metadata(&journal) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
    }

    let daemon = setup.start().unwrap();
    assert_eq!(done(&daemon, "restart", &["--detach", "nightly"]), "nightly-3\n");
    done(&daemon, "wait", &["nightly-3"]);
    assert_eq!(done(&daemon, "log", &["nightly-3"]), first);
    assert!(!done(&daemon, "jobs", &["--json"]).contains("s3cret"), "it is not sent");

    let gate = Gate::new(daemon.directory(), "gate").unwrap();
    done(&daemon, "run", &["--id", "active", "--detach", &held(&gate)]);
    let refused = ran(&daemon, "restart", &["active"]);
    assert!(refused.code() == 75 && refused.err.contains("is active"), "{refused:?}");
    done(&daemon, "kill", &["active"]);
    daemon.stop().unwrap();
}

#[test]
fn job_without_retained_environment_is_not_restarted() {
    let daemon = setup().with("dispatcher.retain_environment", 0).start().unwrap();
    done(&daemon, "run", &["--id", "a", "--env", "A=1", "true"]);
    done(&daemon, "run", &["--id", "b", "true"]);
    let refused = ran(&daemon, "restart", &["a"]);
    assert_eq!(refused.code(), 64, "{refused:?}");
    assert!(refused.err.contains("retain_environment"), "{}", refused.err);
    done(&daemon, "restart", &["b"]);
    daemon.stop().unwrap();
}
