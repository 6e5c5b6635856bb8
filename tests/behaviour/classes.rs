//! Classes of jobs: the envelope that the old server's subsystems put around a job's events.
//!
//! Ids, commands and what is expected of them are from recorded frames of the original server. Where
//! ours differs from it, it is by rule: a second event without the envelope is not sent, and times
//! are UTC with a `Z`.

use serde_json::{Value, json};
use support::{Daemon, Gate, Peer, Setup};

use super::PROGRAM;

/// A daemon with short intervals, so that each chunk is reported separately.
fn prompt() -> Daemon {
    let setup = Setup::new(PROGRAM).unwrap();
    setup.with("dispatcher.output_interval", "\"10ms\"").start().unwrap()
}

/// The events of a job that runs to its end.
fn events(daemon: &Daemon, id: &str, commands: &Value) -> Vec<Value> {
    let mut watcher = Peer::watcher(daemon).unwrap();
    Peer::local(daemon).unwrap().run(&json!({ id: commands })).unwrap();
    watcher.job(id).unwrap()
}

fn finished(daemon: &Daemon, id: &str, commands: &Value) -> Value {
    events(daemon, id, commands).pop().unwrap()
}

/// A field of the class, joined over all events.
fn joined(events: &[Value], field: &str) -> String {
    events.iter().map(|event| event[field].as_str().unwrap()).collect()
}

/// The fields of an envelope that are not in every one of them.
fn own_fields(event: &Value) -> Value {
    let common = ["event_system", "state", "process_details"];
    let fields = event.as_object().unwrap().iter();
    fields
        .filter(|(key, _)| !common.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// Recorded: `sysadm_pkg_update-{abc}` with `["echo p1", "echo p2"]` was told `pkg_log` `""`, `""`,
/// `"p1\n"` and, finished, `"p2\n"`, and the action `pkg_update` in each.
#[test]
fn pkg_job_has_its_envelope_and_reports_its_log_once() {
    let daemon = prompt();
    let id = "sysadm_pkg_update-{abc}";
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let first = format!("sh -c 'echo p1; {}'", gate.wait());
    let commands = json!([first, "echo p2"]);
    Peer::local(&daemon).unwrap().run(&json!({ id: commands })).unwrap();

    let pending = watcher.frame().unwrap();
    let details = json!({ "state": "pending", "process_id": id, "cmd_list": commands });
    assert_eq!(
        pending,
        json!({ "namespace": "events", "name": "dispatcher", "id": "none", "args": {
            "event_system": "sysadm/pkg", "state": "pending", "action": "pkg_update",
            "pkg_log": "", "process_details": details } })
    );
    let running = watcher.job_until(id, |args| args["pkg_log"] == "p1\n").unwrap();
    let details = &running.last().unwrap()["process_details"];
    assert_eq!(running[0]["pkg_log"], "");
    assert_eq!(
        running.last().unwrap(),
        &json!({ "event_system": "sysadm/pkg", "state": "running", "action": "pkg_update",
                 "pkg_log": "p1\n", "process_details": {
                     "state": "running", "process_id": id, "cmd_list": commands,
                     "time_started": details["time_started"], "current_cmd": first,
                     &*first: "p1\n" } })
    );

    gate.open().unwrap();
    let rest = watcher.job(id).unwrap();
    assert_eq!(joined(&rest, "pkg_log"), "p2\n");
    let finished = rest.last().unwrap();
    let times = &finished["process_details"];
    assert_eq!(
        finished,
        &json!({ "event_system": "sysadm/pkg", "state": "finished", "action": "pkg_update",
                 "pkg_log": finished["pkg_log"], "process_details": {
                     "state": "finished", "process_id": id, "cmd_list": commands,
                     "time_started": times["time_started"], "time_finished": times["time_finished"],
                     "result": "ok", "exit_code": 0, "submitted_by": times["submitted_by"],
                     "duration": times["duration"],
                     &*first: "p1\n", format!("return_codes/{first}"): "0",
                     "echo p2": "p2\n", "return_codes/echo p2": "0" } })
    );
}

/// Recorded: `sysadm_update_runupdates::1` with `["echo u1", "false", "echo u3"]` was told
/// `update_log` `"u1\n"`, then, finished with the failed command, `""`.
#[test]
fn an_update_job_stops_at_its_failure_and_repeats_nothing() {
    let daemon = prompt();
    let id = "sysadm_update_runupdates::1";
    let events = events(&daemon, id, &json!(["echo u1", "false", "echo u3"]));
    assert!(events.iter().all(|event| event["event_system"] == "sysadm/update"), "{events:?}");
    assert_eq!(joined(&events, "update_log"), "u1\n");
    let finished = events.last().unwrap();
    assert_eq!(own_fields(finished), json!({ "update_log": finished["update_log"] }));
    let details = &finished["process_details"];
    assert_eq!((&details["echo u1"], &details["false"]), (&json!("u1\n"), &json!("")));
    assert_eq!((&details["return_codes/false"], details.get("echo u3")), (&json!("1"), None));
}

#[test]
fn sourcectl_job_has_the_envelope_of_an_update() {
    let daemon = prompt();
    let events = events(&daemon, "sysadm_sourcectl_getsource", &json!(["echo s1", "echo s2"]));
    assert!(events.iter().all(|event| event["event_system"] == "sysadm/sourcectl"), "{events:?}");
    assert_eq!(joined(&events, "update_log"), "s1\ns2\n");
}

/// Recorded: `sysadm_iohyve_x::1` with a loop that prints a line a second and `echo end`: an envelope
/// without fields of its own.
#[test]
fn an_iohyve_job_that_fetches_nothing_has_no_fields_of_its_own() {
    let daemon = prompt();
    let lines = "sh -c \"for i in 1 2 3 4 5; do echo line $i; sleep 0.02; done\"";
    let events = events(&daemon, "sysadm_iohyve_x::1", &json!([lines, "echo end"]));
    for event in &events {
        assert_eq!(event["event_system"], "sysadm/iohyve");
        assert_eq!(own_fields(event), json!({}));
        assert_eq!(event["state"], event["process_details"]["state"]);
    }
    let running = events.iter().filter(|event| event["state"] == "running");
    let received: String =
        running.filter_map(|event| event["process_details"][lines].as_str()).collect();
    assert_eq!(received, "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(events.last().unwrap()["process_details"]["echo end"], "end\n");
}

#[test]
fn iohyve_fetch_reports_its_progress() {
    let daemon = prompt();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let wait = gate.wait();
    let script = daemon.directory().join("fetch");
    let lines = format!(
        "echo Fetching http://example.org/FreeBSD.iso\n{wait}\n\
         printf 'FreeBSD.iso\\t  12%% of  600 MB  900 kBps\\t01m\\r'\n{wait}\n\
         printf 'FreeBSD.iso\\t  37%% of  600 MB 1200 kBps 00m40s\\r'\n{wait}\n\
         printf 'FreeBSD.iso\\t100%%\\t600 MB\\t1300 Bps\\n'\n{wait}\necho done\n"
    );
    std::fs::write(&script, lines).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let command = format!("sh {}", script.display());
    let id = "sysadm_iohyve_fetch::{1}";
    peer.run(&json!({ id: command })).unwrap();
    let progress = |percent: &str, rate: &str| json!({ "filename": "FreeBSD.iso", "percent_done": percent, "download_rate": rate });
    for (word, expected) in [
        ("Fetching", json!({})),
        ("12%", progress("12% of 600 MB", "900 kBps")),
        ("37%", progress("37% of 600 MB", "1200 kBps")),
        ("100%", progress("100%", "1300 Bps")),
    ] {
        let printed = |args: &Value| {
            args["process_details"][&*command].as_str().is_some_and(|text| text.contains(word))
        };
        let event = watcher.job_until(id, printed).unwrap().pop().unwrap();
        assert_eq!(own_fields(&event), expected, "{event}");
        gate.open().unwrap();
    }
    // The last known value stays, also for late subscribers and at the end.
    let done = watcher.job_until(id, |args| args["state"] == "finished").unwrap().pop().unwrap();
    assert_eq!(own_fields(&done), progress("100%", "1300 Bps"));
    assert_eq!(done["event_system"], "sysadm/iohyve");
}

#[test]
fn the_command_iohyve_fetch_makes_a_fetch_of_any_iohyve_job() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = prompt();
    let program = daemon.directory().join("iohyve");
    std::fs::write(&program, "#!/bin/sh\nprintf 'x.iso\\t50%% of 1 MB 7 kBps\\n'\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let path = format!("{}:/bin:/usr/bin", daemon.directory().path().display());
    for (command, expected) in [
        (
            "iohyve fetch http://example.org/x.iso",
            json!({ "filename": "x.iso", "percent_done": "50% of 1 MB", "download_rate": "7 kBps" }),
        ),
        ("iohyve list", json!({})),
    ] {
        let job =
            json!({ "id": "sysadm_iohyve_any", "commands": [command], "env": { "PATH": path } });
        Peer::local(&daemon).unwrap().submit(&job).unwrap();
        let finished = watcher.finished("sysadm_iohyve_any").unwrap();
        assert_eq!(own_fields(&finished), expected, "{command}");
    }
}

#[test]
fn finished_upgrade_check_reports_available_updates() {
    let daemon = prompt();
    for (output, available) in [
        ("Checking for upgrades\nYour packages are up to date.\n", "false"),
        ("The following 3 package(s) will be affected\n", "true"),
        ("", "true"),
    ] {
        let command = format!("printf '{}'", output.replace('\n', "\\n"));
        for event in events(&daemon, "sysadm_pkg_check_upgrade-{abc}", &json!([command])) {
            assert_eq!(event["action"], "pkg_check_upgrade");
            if event["state"] == "finished" {
                assert_eq!(event["updates_available"], available, "{event}");
            } else {
                assert_eq!(event.get("updates_available"), None, "{event}");
            }
        }
    }
    let other = finished(&daemon, "sysadm_pkg_update", &json!("true"));
    assert_eq!(own_fields(&other), json!({ "action": "pkg_update", "pkg_log": "" }));
}

#[test]
fn finished_audit_reports_vulnerable_packages_and_dependents() {
    let daemon = prompt();
    let audit = "curl-8.1 is vulnerable:\n  Packages that depend on curl: git, php, \n\n\
                 libxml2-2.9 is vulnerable:\n  Packages that depend on libxml2: php, ruby\n\
                 Packages that depend on zsh:\n2 problem(s) found.\n";
    let command = format!("printf '{}'", audit.replace('\n', "\\n"));
    let event = finished(&daemon, "sysadm_pkg_audit", &json!([command]));
    assert_eq!(
        own_fields(&event),
        json!({ "action": "pkg_audit", "pkg_log": event["pkg_log"],
                "vulnerable_pkgs": ["curl", "libxml2", "zsh"], "impacts_pkgs": ["git", "php", "ruby"] })
    );
    let event = finished(&daemon, "sysadm_pkg_audit", &json!("echo 0 problems"));
    assert_eq!((&event["vulnerable_pkgs"], &event["impacts_pkgs"]), (&json!([]), &json!([])));
}

#[test]
fn the_class_follows_from_the_beginning_of_the_id_alone() {
    let daemon = prompt();
    for (id, class) in [
        ("sysadm_pkg_", Some("sysadm/pkg")),
        ("sysadm_pkg_x-y-z", Some("sysadm/pkg")),
        ("sysadm_iohyve", Some("sysadm/iohyve")),
        ("sysadm_update_runupdates", Some("sysadm/update")),
        ("sysadm_update_x", None),
        ("sysadm_pkg", None),
        ("SYSADM_PKG_x", None),
        ("my sysadm_pkg_x", None),
    ] {
        let event = finished(&daemon, id, &json!("pkg-stand-in"));
        assert_eq!(event["event_system"].as_str(), class, "{id}: {event}");
        let details = if class.is_some() { &event["process_details"] } else { &event };
        assert_eq!(details["return_codes/pkg-stand-in"], "-1", "{id}");
    }
}

#[test]
fn class_field_and_equally_named_command_are_distinguished() {
    let daemon = prompt();
    use std::os::unix::fs::PermissionsExt;
    let directory = daemon.directory().join("bin");
    std::fs::create_dir(&directory).unwrap();
    let program = directory.join("state");
    std::fs::write(&program, "#!/bin/sh\necho x\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let job = json!({ "id": "sysadm_pkg_x", "commands": ["state", "state"], "env": { "PATH": directory } });
    Peer::local(&daemon).unwrap().submit(&job).unwrap();
    let events = watcher.job("sysadm_pkg_x").unwrap();
    assert_eq!(
        joined(&events, "pkg_log"),
        "x\nx\n",
        "a class reports more than the documented form"
    );
    let event = events.last().unwrap();
    assert_eq!(
        (&event["state"], &event["process_details"]["state"]),
        (&json!("finished"), &json!("finished"))
    );
    let entry = json!({ "command": "state", "output": "x\n", "return_code": "0" });
    assert_eq!(event["process_details"]["log"], json!([entry, entry]));
}

#[test]
fn late_subscriber_of_a_class_gets_all_reported_output() {
    let daemon = prompt();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut first = Peer::watcher(&daemon).unwrap();
    let command = format!("sh -c 'echo a; {0}; echo b; {0}; echo c'", gate.wait());
    let id = "sysadm_pkg_install-1";
    Peer::local(&daemon).unwrap().run(&json!({ id: command })).unwrap();
    first.job_until(id, |args| args["pkg_log"] == "a\n").unwrap();
    gate.open().unwrap();
    first.job_until(id, |args| args["pkg_log"] == "b\n").unwrap();
    let mut late = Peer::watcher(&daemon).unwrap();
    let state = late.frame().unwrap()["args"].take();
    assert_eq!((&state["pkg_log"], &state["action"]), (&json!("a\nb\n"), &json!("pkg_install")));
    assert_eq!(state["process_details"][&*command], "a\nb\n");
    gate.open().unwrap();
    let end = late.job(id).unwrap();
    assert_eq!(joined(&end, "pkg_log"), "c\n");
    assert_eq!(end.last().unwrap()["process_details"][&*command], "a\nb\nc\n");
}

#[test]
fn class_event_stays_within_its_limit() {
    let daemon = prompt();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    // As many names as a log can hold, and a file whose name is as long as a line can be.
    let names = "seq -f 'Packages that depend on p%.0f: a%.0f, b%.0f' 1 40000";
    let names = names.replace("a%.0f, b%.0f", "a");
    let long = "sh -c 'head -c 60000 /dev/zero | tr \"\\\\000\" \"\\\\001\"; echo \" 5% of  1 MB 7 kBps\"'";
    for (id, command) in [("sysadm_pkg_audit-1", &*names), ("sysadm_iohyve_fetch-1", long)] {
        peer.run(&json!({ id: command })).unwrap();
        loop {
            let text = watcher.event().unwrap();
            assert!(text.len() <= 256 * 1024, "{id}: an event of {} bytes", text.len());
            let event: Value = serde_json::from_str(&text).unwrap();
            if event["args"]["state"] != "finished" {
                continue;
            }
            let command_log = event["args"]["process_details"][command].as_str().unwrap();
            assert!(
                command_log.len() > 10_000,
                "{id}: the log has room beside: {}",
                command_log.len()
            );
            break;
        }
    }
}
