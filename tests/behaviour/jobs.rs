//! Jobs: accepted and rejected submissions, and the events of a job.

use serde_json::{Value, json};
use support::{Cli, Daemon, Gate, Peer, Setup};

use super::PROGRAM;

/// `2026-11-23T17:50:47Z`
fn is_time(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    let is = |(pattern, c): (char, char)| match pattern {
        '0' => c.is_ascii_digit(),
        other => c == other,
    };
    text.len() == 20 && "0000-00-00T00:00:00Z".chars().zip(text.chars()).all(is)
}

fn states(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["state"].as_str().unwrap()).collect()
}

#[test]
fn the_three_states_have_their_documented_forms() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let second = format!("sh -c 'echo two; {}; exit 3'", gate.wait());
    Peer::local(&daemon).unwrap().run(&json!({ "j": ["echo one", second] })).unwrap();

    let frame = watcher.frame().unwrap();
    let pending =
        json!({ "state": "pending", "cmd_list": ["echo one", second], "process_id": "j" });
    let whole =
        json!({ "namespace": "events", "name": "dispatcher", "id": "none", "args": pending });
    assert_eq!(frame, whole);

    let running = watcher.frame().unwrap()["args"].take();
    let started = running["time_started"].clone();
    assert!(is_time(&started), "{running}");
    assert_eq!(
        running,
        json!({ "state": "running", "cmd_list": ["echo one", second], "process_id": "j",
                "time_started": started, "current_cmd": "echo one" })
    );

    // The output of the first command may have been reported before, if the second was slow.
    let mut events = watcher.job_until("j", |args| args.get(&*second).is_some()).unwrap();
    let received: String = events.iter().filter_map(|args| args["echo one"].as_str()).collect();
    assert_eq!(received, "one\n");
    let mut running = events.pop().unwrap();
    running.as_object_mut().unwrap().shift_remove("echo one");
    assert_eq!(
        running,
        json!({ "state": "running", "cmd_list": ["echo one", second], "process_id": "j",
                "time_started": started, "current_cmd": second,
                "return_codes/echo one": "0", second.clone(): "two\n" })
    );

    gate.open().unwrap();
    let finished = watcher.finished("j").unwrap();
    assert!(is_time(&finished["time_finished"]), "{finished}");
    assert!(finished["time_finished"].as_str() >= started.as_str());
    assert_eq!(
        finished,
        json!({ "state": "finished", "time_started": started,
                "time_finished": finished["time_finished"], "cmd_list": ["echo one", second],
                "process_id": "j", "echo one": "one\n", "return_codes/echo one": "0",
                "result": "failed", "exit_code": 3, "failed_command": 1,
                "submitted_by": finished["submitted_by"], "duration": finished["duration"],
                second.clone(): "two\n", format!("return_codes/{second}"): "3" })
    );
}

#[test]
fn a_chain_stops_at_the_first_command_that_fails() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let ran = Cli::to(&daemon, "run")
        .args(["--id", "chain", "sh -c 'for i in 1 2 3; do echo line $i; done'", "false"])
        .arg("echo never")
        .run()
        .unwrap();
    assert_eq!((ran.code(), ran.out.as_str()), (1, "line 1\nline 2\nline 3\n"));
    let events = watcher.job("chain").unwrap();
    let states = states(&events);
    assert_eq!((states[0], states[1]), ("pending", "running"));
    assert_eq!(states.iter().filter(|state| **state == "finished").count(), 1);
    let finished = events.last().unwrap();
    assert_eq!(finished["return_codes/false"], json!("1"));
    assert_eq!(finished.get("return_codes/echo never"), None);
    assert_eq!(finished.get("echo never"), None);
}

#[test]
fn every_job_is_reported_pending_running_and_finished_once() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let jobs: Vec<String> = (0..60).map(|number| format!("job {number}")).collect();
    let batch: Value = jobs.iter().map(|id| (id.clone(), json!("echo x"))).collect();
    assert_eq!(peer.run(&batch).unwrap(), json!(jobs), "in the order given");
    // One after all of them, behind which no more can come.
    let mut over = 0;
    let frames = watcher.frames_until(|frame| {
        over += usize::from(frame["args"]["state"] == "finished");
        over == jobs.len()
    });
    let mut frames = frames.unwrap();
    peer.run(&json!({ "last": "true" })).unwrap();
    frames.extend(watcher.frames_until(|f| f["args"]["process_id"] == "last").unwrap());
    for id in &jobs {
        let of_job = frames.iter().map(|frame| &frame["args"]).filter(|a| a["process_id"] == **id);
        let of_job: Vec<Value> = of_job.cloned().collect();
        let states = states(&of_job);
        assert_eq!((states[0], states[1]), ("pending", "running"), "{id}");
        assert_eq!(states.iter().filter(|state| **state == "finished").count(), 1, "{id}");
        assert_eq!(states.last(), Some(&"finished"), "{id}");
    }
}

/// A rejected request has no effect: the next event is of the job submitted after it.
fn assert_untouched(watcher: &mut Peer, peer: &mut Peer) {
    peer.run(&json!({ "after": "true" })).unwrap();
    let next = watcher.frame().unwrap();
    assert_eq!(next["args"]["process_id"], "after", "{next}");
    watcher.finished("after").unwrap();
}

#[test]
fn invalid_job_gets_400_and_nothing_of_the_request_runs() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for (bad, word) in [
        (json!({}), "needs a job"),
        (json!({ "ok": "true", "j": "" }), "no command"),
        (json!({ "ok": "true", "j": " \t\n" }), "no command"),
        (json!({ "ok": "true", "j": [] }), "no command"),
        (json!({ "ok": "true", "j": ["", "  "] }), "no command"),
        (json!({ "ok": "true", "j": "echo 'a" }), "quote"),
        (json!({ "ok": "true", "j": "echo \"a" }), "quote"),
        (json!({ "ok": "true", "j": "'' a" }), "empty"),
        (json!({ "ok": "true", "j": "echo a\u{0}b" }), "NUL"),
        (json!({ "ok": "true", "j": 5 }), "string"),
        (json!({ "ok": "true", "j": null }), "string"),
        (json!({ "ok": "true", "j": { "a": "true" } }), "string"),
        (json!({ "ok": "true", "j": ["true", 5] }), "string"),
        (json!({ "ok": "true", "j": [["true"]] }), "string"),
        (json!({ "ok": "true", "": "true" }), "1 to 128 bytes"),
        (json!({ "ok": "true", "a\nb": "true" }), "control"),
        (json!({ "ok": "true", "a\u{0}": "true" }), "control"),
        (json!({ "ok": "true", "a\u{7f}": "true" }), "control"),
        (json!({ "ok": "true", "a\u{85}": "true" }), "control"),
        (json!({ "ok": "true", "x".repeat(129): "true" }), "1 to 128 bytes"),
        (json!({ "ok": "true", "ü".repeat(65): "true" }), "1 to 128 bytes"),
    ] {
        let refused = peer.run_refused(&bad).unwrap();
        assert_eq!(refused.code, 400, "{bad}: {refused:?}");
        assert!(refused.message.contains(word), "{bad}: {refused:?}");
    }
    assert_untouched(&mut watcher, &mut peer);
    let longest = "ü".repeat(64);
    assert_eq!(peer.run(&json!({ &*longest: "true" })).unwrap(), json!([longest]));
    watcher.finished(&longest).unwrap();
}

#[test]
fn an_id_that_is_active_is_a_conflict_for_the_whole_request() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "busy": format!("sh -c '{}'", gate.wait()) })).unwrap();
    peer.submit(&json!({ "id": "q1", "commands": ["sleep 1000"], "queue": "q" })).unwrap();
    peer.submit(&json!({ "id": "q2", "commands": ["true"], "queue": "q" })).unwrap();
    watcher.job_until("q2", |args| args["state"] == "pending").unwrap();
    for active in ["busy", "q1", "q2"] {
        let refused = peer.run_refused(&json!({ "new": "true", active: "true" })).unwrap();
        assert_eq!(refused.code, 409, "{refused:?}");
        assert!(refused.message.contains(active), "{refused:?}");
    }
    assert_untouched(&mut watcher, &mut peer);
    gate.open().unwrap();
    watcher.finished("busy").unwrap();
    peer.run(&json!({ "busy": "echo again" })).unwrap();
    assert_eq!(watcher.finished("busy").unwrap()["echo again"], "again\n");
    assert_eq!(peer.kill(&json!(["q1", "q2"])).unwrap(), json!(["q1", "q2"]));
}

#[test]
fn where_there_is_no_room_for_all_none_is_taken() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon =
        setup.with("dispatcher.max_running", 1).with("dispatcher.max_pending", 2).start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "first": format!("sh -c '{}'", gate.wait()), "second": "true" })).unwrap();
    watcher.job_until("second", |args| args["state"] == "pending").unwrap();
    let refused = peer.run_refused(&json!({ "a": "true", "b": "true" })).unwrap();
    assert_eq!(refused.code, 429, "{refused:?}");
    peer.run(&json!({ "third": "true" })).unwrap();
    assert_eq!(peer.run_refused(&json!({ "fourth": "true" })).unwrap().code, 429);
    assert_eq!(peer.submit_refused(&json!({ "commands": ["true"] })).unwrap().code, 429);
    gate.open().unwrap();
    let ran = watcher.frames_until(|frame| {
        frame["args"]["process_id"] == "third" && frame["args"]["state"] == "finished"
    });
    let ran = ran.unwrap();
    assert!(ran.iter().all(|frame| {
        !["a", "b", "fourth"].map(Value::from).contains(&frame["args"]["process_id"])
    }));
    assert_untouched(&mut watcher, &mut peer);
}

#[test]
fn request_with_very_many_jobs_is_refused_quickly() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("server.max_message", "\"16MiB\"").start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let batch: Value = (0..200_000).map(|id| (format!("job {id}"), json!("true"))).collect();
    assert_eq!(peer.run_refused(&batch).unwrap().code, 400);
}

#[test]
fn commands_that_are_too_long_or_too_many_are_refused_with_413() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.max_commands", 4).start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    const MOST: usize = 32 * 1024;
    let long = |bytes: usize| format!("true {}", "x".repeat(bytes - "true ".len()));
    for bad in [
        json!({ "ok": "true", "j": long(MOST + 1) }),
        json!({ "ok": "true", "j": [long(MOST / 2), long(MOST / 2 + 1)] }),
        json!({ "ok": "true", "j": ["true", "true", "true", "true", "true"] }),
    ] {
        let refused = peer.run_refused(&bad).unwrap();
        assert_eq!(refused.code, 413, "{refused:?}");
        assert!(refused.message.contains("allowed"), "{refused:?}");
    }
    assert_untouched(&mut watcher, &mut peer);
    peer.run(&json!({ "j": [long(MOST / 2), long(MOST / 2)] })).unwrap();
    let finished = watcher.finished("j").unwrap();
    assert_eq!(finished[format!("return_codes/{}", long(MOST / 2))], "0");
}

#[test]
fn unknown_action_is_rejected_with_the_known_ones() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for args in
        [json!({}), json!({ "action": "dance" }), json!({ "action": 5 }), json!([]), json!("run")]
    {
        let refused = peer.refused("rpc", "dispatcher", &args).unwrap();
        assert_eq!(refused.code, 400, "{args}: {refused:?}");
        for action in ["run", "submit", "list", "log", "kill"] {
            assert!(refused.message.contains(action), "{args}: {refused:?}");
        }
    }
}

#[test]
fn command_is_split_like_in_a_shell_and_run_without_one() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let command = r#"printf '%s\n' 'a b' "c'd" e\ f '' $HOME ~ * '|' \; ">" /dev/null "&&" x # y"#;
    Peer::local(&daemon).unwrap().run(&json!({ "j": command })).unwrap();
    let finished = watcher.finished("j").unwrap();
    let expected = "a b\nc'd\ne f\n\n$HOME\n~\n*\n|\n;\n>\n/dev/null\n&&\nx\n";
    assert_eq!(finished[command], expected);
}

/// A directory with programs of these names, each of which prints its name and ends with 3.
fn programs(daemon: &Daemon, names: &[&str]) -> String {
    use std::os::unix::fs::PermissionsExt;
    let directory = daemon.directory().join("bin");
    for name in names {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\necho this is {name}\nexit 3\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory.display().to_string()
}

const RESERVED: [&str; 14] = [
    "state",
    "cmd_list",
    "process_id",
    "time_started",
    "time_finished",
    "current_cmd",
    "log",
    "result",
    "exit_code",
    "signal",
    "failed_command",
    "submitted_by",
    "killed_by",
    "duration",
];

#[test]
fn command_equal_to_a_protocol_key_does_not_replace_it() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let names: Vec<&str> = RESERVED.into_iter().chain(["return_codes/true"]).collect();
    let directory = programs(&daemon, &names);
    for name in names {
        let id = format!("j {name}");
        let path = format!("{directory}:/bin:/usr/bin");
        let job = json!({ "id": id, "commands": ["true", name], "cwd": directory,
                          "env": { "PATH": path } });
        peer.submit(&job).unwrap();
        for event in watcher.job(&id).unwrap() {
            assert!(["pending", "running", "finished"].contains(&event["state"].as_str().unwrap()));
            assert_eq!(event["cmd_list"], json!(["true", name]));
            assert_eq!(event["process_id"], *id);
            if event["state"] == "running" {
                assert!(is_time(&event["time_started"]), "{event}");
                assert!(event["current_cmd"] == "true" || event["current_cmd"] == name);
            }
            if event["state"] != "finished" {
                assert_eq!(event.get("log"), None, "{event}");
                continue;
            }
            assert!(is_time(&event["time_started"]) && is_time(&event["time_finished"]));
            assert_eq!(event["return_codes/true"], "0");
            assert_eq!(event[format!("return_codes/{name}")], "3");
            let output = format!("this is {name}\n");
            assert_eq!(
                event["log"],
                json!([{ "command": "true", "output": "", "return_code": "0" },
                       { "command": name, "output": output, "return_code": "3" }])
            );
        }
    }
}

/// From the recorded frames of the original server: `["echo x", "echo x"]` had one log `"x\nx\n"`
/// and one code.
#[test]
fn repeated_command_has_joined_logs_and_a_list() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "job13": ["echo x", "echo x"] })).unwrap();
    let finished = watcher.finished("job13").unwrap();
    assert_eq!(finished["cmd_list"], json!(["echo x", "echo x"]));
    assert_eq!(finished["echo x"], "x\nx\n");
    assert_eq!(finished["return_codes/echo x"], "0");
    let each = json!({ "command": "echo x", "output": "x\n", "return_code": "0" });
    assert_eq!(finished["log"], json!([each, each]));

    // The second of two equal commands fails: the last code stands in the documented form.
    let flag = daemon.directory().join("flag");
    let once = format!("sh -c 'echo try; mkdir {}'", flag.display());
    peer.run(&json!({ "twice": [once, once, "true"] })).unwrap();
    let finished = watcher.finished("twice").unwrap();
    assert_eq!(finished[format!("return_codes/{once}")], "1");
    let list = finished["log"].as_array().unwrap();
    assert_eq!(list.len(), 2, "only what ran");
    assert_eq!((&list[0]["return_code"], &list[1]["return_code"]), (&json!("0"), &json!("1")));
    assert_eq!(list[0]["output"], "try\n");
    let whole = [list[0]["output"].as_str().unwrap(), list[1]["output"].as_str().unwrap()].concat();
    assert_eq!(finished[&*once], whole);
}

#[test]
fn distinct_commands_have_no_list() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let commands = json!(["echo x", "echo x ", "true state", "printf log"]);
    Peer::local(&daemon).unwrap().run(&json!({ "j": commands })).unwrap();
    let events = watcher.job("j").unwrap();
    assert!(events.iter().all(|event| event.get("log").is_none()), "{events:?}");
    let finished = events.last().unwrap();
    assert_eq!(finished["echo x "], "x\n", "a command is told as it was written");
    assert_eq!(finished["printf log"], "log");
    assert_eq!(finished["true state"], "");
}

/// In the recorded frames of the original server `"/nonexistent/cmd arg"` has the code -1 and an
/// empty log.
#[test]
fn unstartable_program_has_code_minus_one_and_the_reason() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let file = daemon.directory().join("no-program");
    std::fs::write(&file, "x").unwrap();
    let (file, directory) =
        (file.display().to_string(), daemon.directory().path().display().to_string());
    for (command, why) in [
        ("/nonexistent/cmd arg", "cannot run /nonexistent/cmd: No such file or directory"),
        (
            "no-such-program-anywhere",
            "cannot run no-such-program-anywhere: No such file or directory",
        ),
        (&file, "Permission denied"),
        (&directory, "Permission denied"),
        ("/dev/null/x", "cannot run /dev/null/x: "),
    ] {
        peer.run(&json!({ "j": [command, "echo after"] })).unwrap();
        let events = watcher.job("j").unwrap();
        let finished = events.last().unwrap();
        assert_eq!(states(&events)[..2], ["pending", "running"]);
        assert_eq!(finished[format!("return_codes/{command}")], "-1");
        let log = finished[command].as_str().unwrap();
        assert!(log.contains(why) && log.ends_with('\n') && log.lines().count() == 1, "{log:?}");
        assert_eq!(finished.get("return_codes/echo after"), None);
        assert_eq!(peer.whole_log("j").unwrap(), log);
    }
}

#[test]
fn command_ended_by_a_signal_has_its_negative_number() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    // Also one of the real-time signals, which begin at 32 (Linux) and 65 (FreeBSD).
    let real_time = if cfg!(target_os = "linux") { 40 } else { 70 };
    // sh(1) of FreeBSD catches 3, QUIT.
    let quit = Some(3).filter(|_| cfg!(not(target_os = "freebsd")));
    for signal in [1, 2, 9, 13, 14, 15, real_time].into_iter().chain(quit) {
        let command = format!("sh -c 'echo before; kill -{signal} $$'");
        peer.run(&json!({ "j": [command, "echo after"] })).unwrap();
        let finished = watcher.finished("j").unwrap();
        assert_eq!(finished[format!("return_codes/{command}")], format!("-{signal}"));
        assert_eq!(finished[&*command], "before\n");
        assert_eq!(finished.get("echo after"), None);
    }
}

#[test]
fn exit_code_is_reported_unchanged() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for code in ["1", "2", "126", "127", "128", "255"] {
        let command = format!("sh -c 'exit {code}'");
        peer.run(&json!({ "j": command })).unwrap();
        let finished = watcher.finished("j").unwrap();
        assert_eq!(finished[format!("return_codes/{command}")], code);
        assert_eq!(finished[&*command], "");
    }
}

#[test]
fn a_chain_runs_in_order_to_its_end() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let file = daemon.directory().join("order").display().to_string();
    let commands: Vec<String> =
        (0..50).map(|number| format!("sh -c 'echo {number} >>{file}; wc -l <{file}'")).collect();
    Peer::local(&daemon).unwrap().run(&json!({ "chain": commands })).unwrap();
    let finished = watcher.finished("chain").unwrap();
    for (number, command) in commands.iter().enumerate() {
        assert_eq!(finished[format!("return_codes/{command}")], "0");
        assert_eq!(finished[&**command].as_str().unwrap().trim(), (number + 1).to_string());
    }
}

#[test]
fn command_that_only_a_shell_understands_is_refused() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for command in ["echo first\necho second", "echo a | wc", "echo a; ls", "ls 2>&1", "a && b"] {
        for job in [json!({ "j": command }), json!({ "j": ["true", command] })] {
            let refused = peer.run_refused(&job).unwrap();
            assert_eq!(refused.code, 400, "{command}");
            assert!(refused.message.contains("sh -c"), "{}", refused.message);
        }
        let refused = peer.submit_refused(&json!({ "commands": [command] })).unwrap();
        assert_eq!(refused.code, 400, "{command}");
    }
    assert_eq!(peer.list().unwrap(), json!({ "no_queue": {} }));
    let mut watcher = Peer::watcher(&daemon).unwrap();
    peer.submit(&json!({"id": "j", "commands": [["printf", "%s.", "a\nb", "|", ";"]]})).unwrap();
    watcher.finished("j").unwrap();
    assert_eq!(peer.whole_log("j").unwrap(), "a\nb.|.;.");
}

#[test]
fn list_and_events_have_the_submission_of_a_job() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.request("events", "subscribe", &json!({"events": ["dispatcher"]})).unwrap();
    let me = nix::unistd::geteuid().as_raw();
    let command = gate.wait();
    let command = ["sh", "-c", &command];
    peer.submit(&json!({"id": "j", "commands": [command], "queue": "q\"", "cwd": "/tmp",
                        "env": {"SECRET": "value"}, "user": me, "timeout": 300}))
        .unwrap();
    let frames = peer.frames_until(|frame| frame["args"]["state"] == "running").unwrap();
    assert_eq!(frames.last().unwrap()["queue"], "q\"");
    let list = peer.list().unwrap();
    let job = &list["q\""]["j"];
    assert_eq!((&job["cwd"], &job["env"]), (&json!("/tmp"), &json!(["SECRET"])), "{job}");
    assert_eq!((&job["user"], job["timeout"].as_f64()), (&json!(me), Some(300.0)), "{job}");
    assert!(!list.to_string().contains("value"), "{list}");
    let shown = Cli::to(&daemon, "jobs").arg("j").run().unwrap().out;
    for line in ["directory           /tmp", "variables           SECRET"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    gate.open().unwrap();
    peer.submit(&json!({"id": "plain", "commands": ["true"]})).unwrap();
    let of_plain = |frame: &Value| frame["args"]["process_id"] == "plain";
    let frames = peer.frames_until(of_plain).unwrap();
    assert_eq!(frames.last().unwrap().get("queue"), None);
    let entry = &peer.list().unwrap()["no_queue"]["plain"];
    assert!(["cwd", "env", "user", "timeout"].iter().all(|key| entry.get(key).is_none()));
}

#[test]
fn result_of_a_job_is_in_event_and_list_and_outlives_the_daemon() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let me = if nix::unistd::geteuid().is_root() {
        "root".to_owned()
    } else {
        nix::unistd::geteuid().to_string()
    };
    peer.submit(&json!({"id": "failed", "commands": ["true", "sh -c 'exit 5'", "true"]})).unwrap();
    let failed = watcher.finished("failed").unwrap();
    assert_eq!(failed["result"], "failed");
    assert_eq!((&failed["exit_code"], &failed["failed_command"]), (&json!(5), &json!(1)));
    assert!(failed["submitted_by"].as_str().is_some_and(|user| user.contains(&me)), "{failed}");
    assert!(failed["duration"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{failed}");
    peer.submit(&json!({"id": "late", "commands": ["sleep 1000"], "timeout": 0.01})).unwrap();
    let late = watcher.finished("late").unwrap();
    assert_eq!((&late["result"], &late["signal"]), (&json!("timed_out"), &json!(15)));
    peer.submit(&json!({"id": "killed", "commands": ["sleep 1000"]})).unwrap();
    watcher.job_until("killed", |args| args["state"] == "running").unwrap();
    peer.kill(&json!("killed")).unwrap();
    let killed = watcher.finished("killed").unwrap();
    assert_eq!(killed["result"], "killed");
    assert_eq!(killed["killed_by"], killed["submitted_by"]);
    peer.submit(&json!({"id": "none", "commands": ["/nowhere/x"]})).unwrap();
    assert_eq!(watcher.finished("none").unwrap()["result"], "not_startable");
    peer.submit(&json!({"id": "cut", "commands": ["sleep 1000"]})).unwrap();
    watcher.job_until("cut", |args| args["state"] == "running").unwrap();
    daemon.crash().unwrap();
    let daemon = setup.start().unwrap();
    let mut watcher = Peer::local(&daemon).unwrap();
    let cut = json!({"events": ["dispatcher"], "jobs": ["cut"]});
    watcher.request("events", "subscribe", &cut).unwrap();
    assert_eq!(watcher.finished("cut").unwrap()["result"], "interrupted");
    let list = watcher.list().unwrap()["no_queue"].take();
    let results = ["failed", "late", "killed", "none", "cut"].map(|id| list[id]["result"].clone());
    assert_eq!(
        json!(results),
        json!(["failed", "timed_out", "killed", "not_startable", "interrupted"])
    );
    assert_eq!(list["failed"]["duration"], failed["duration"]);
}
