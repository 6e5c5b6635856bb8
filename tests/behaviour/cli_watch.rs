//! `watch`: events for a script, and for a person on a terminal.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Cli, Daemon, Gate, Peer, Setup};

use super::PROGRAM;
use super::impostor::Impostor;

/// Only events of jobs: those of the host may arrive at any time.
fn watch_jobs(daemon: &Daemon) -> Cli {
    Cli::to(daemon, "watch").arg("dispatcher")
}

/// On a terminal with colours and UTF-8, in UTC.
fn on_terminal(cli: Cli) -> Cli {
    cli.env("TERM", "xterm-256color")
}

/// On a terminal without colours.
fn in_plain_text(cli: Cli) -> Cli {
    cli.env("NO_COLOR", "1").env("TERM", "dumb")
}

/// Without colours.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        plain.push_str(&rest[..at]);
        rest = rest[at..].split_once('m').map_or("", |(_, behind)| behind);
    }
    plain + rest
}

#[test]
fn watch_writes_one_frame_per_line_to_a_pipe() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    for more in [&[][..], &["--json"], &["dispatcher"]] {
        let watch = Cli::to(&daemon, "watch").args(more).start().unwrap();
        let mut peer = Peer::watcher(&daemon).unwrap();
        // Only subscribers see it.
        wait_for_subscribers(&mut peer, 2);
        let command = format!("sh -c 'echo a; {}'", gate.wait());
        Peer::local(&daemon).unwrap().run(&json!({ "j": command })).unwrap();
        watch.out.wait("a\\n").unwrap();
        gate.open().unwrap();
        watch.out.wait("\"finished\"").unwrap();
        let mut seq = 0;
        let mut states = Vec::new();
        for line in watch.out.lines() {
            let frame: Value = serde_json::from_str(&line).unwrap();
            if frame["name"] != "dispatcher" {
                continue;
            }
            assert_eq!(
                (&frame["namespace"], &frame["name"], &frame["id"]),
                (&json!("events"), &json!("dispatcher"), &json!("none"))
            );
            assert!(frame["seq"].as_u64().unwrap() > seq, "{line}");
            seq = frame["seq"].as_u64().unwrap();
            assert!(frame["time"].as_str().unwrap().ends_with('Z') && frame["epoch"].is_string());
            states.push(frame["args"]["state"].as_str().unwrap().to_owned());
        }
        assert_eq!(states, ["pending", "running", "running", "finished"]);
        watch.signal(Signal::SIGINT).unwrap();
        let ended = watch.wait().unwrap();
        assert_eq!(ended.err, "");
    }
}

/// Waits until so many clients are subscribed.
pub(super) fn wait_for_subscribers(peer: &mut Peer, count: u64) {
    let patience = std::time::Instant::now() + support::PATIENCE;
    while peer.request("rpc", "status", &json!({})).unwrap()["subscribers"] != count {
        assert!(std::time::Instant::now() < patience, "it does not subscribe");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The main case: three lines a second apart, a failure, and a command that is not run.
#[test]
fn watch_beside_a_failing_chain_shows_all_of_it() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let watch = watch_jobs(&daemon).arg("--json").start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    wait_for_subscribers(&mut peer, 1);
    let first = "sh -c \"for i in 1 2 3; do echo line $i; sleep 0.3; done\"";
    let ran = Cli::to(&daemon, "run").args([first, "false", "echo never"]).run().unwrap();
    assert_eq!((ran.code(), &*ran.out), (1, "line 1\nline 2\nline 3\n"));
    watch.out.wait("\"finished\"").unwrap();
    let frames: Vec<Value> =
        watch.out.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<&str> =
        frames.iter().map(|frame| frame["args"]["state"].as_str().unwrap()).collect();
    assert_eq!(states.first(), Some(&"pending"));
    assert!(
        states[1..states.len() - 1].iter().all(|state| *state == "running") && states.len() > 3,
        "{states:?}"
    );
    let finished = &frames.last().unwrap()["args"];
    assert_eq!(finished[format!("return_codes/{first}")], "0");
    assert_eq!(finished["return_codes/false"], "1");
    assert_eq!(finished.get("return_codes/echo never"), None);
}

#[test]
fn lines_have_the_colour_of_their_state() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let watch = on_terminal(watch_jobs(&daemon)).start_on_terminal().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    wait_for_subscribers(&mut peer, 1);
    peer.run(&json!({ "bad": "false" })).unwrap();
    let bad = watch.out.wait("exit 1").unwrap();
    peer.run(&json!({ "good": "true" })).unwrap();
    let good = watch.out.wait("ok after").unwrap();
    for (line, colour, head) in [(bad, "31", "✖ bad"), (good, "32", "✔ good")] {
        assert!(line.contains(&format!("\u{1b}[{colour}m{head}\u{1b}[0m ")), "{line:?}");
    }
    let lines = watch.out.lines().join("\n");
    for (colour, head) in [("34", "○ bad"), ("36", "▶ bad")] {
        assert!(lines.contains(&format!("\u{1b}[{colour}m{head}\u{1b}[0m ")), "{lines:?}");
    }
}

#[test]
fn watch_without_colour_support_uses_no_colours() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let watch = |name: &str, value: &str| {
        let cli = on_terminal(watch_jobs(&daemon)).env(name, value);
        cli.start_on_terminal().unwrap()
    };
    let watches =
        [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", ""), ("NO_COLOR", ""), ("LC_ALL", "C")];
    let watches = watches.map(|(name, value)| (name, value, watch(name, value)));
    let mut peer = Peer::local(&daemon).unwrap();
    wait_for_subscribers(&mut peer, 5);
    peer.run(&json!({ "j": "echo ü" })).unwrap();
    for (name, value, watch) in watches {
        watch.out.wait("ok after").unwrap();
        let shown = watch.out.lines().join("\n");
        let coloured = shown.contains('\u{1b}');
        assert_eq!(
            coloured,
            (name, value) == ("NO_COLOR", "") || name == "LC_ALL",
            "{name}={value}: {shown}"
        );
        if name == "LC_ALL" {
            assert!(
                shown.is_ascii() && shown.contains("<U+00FC>") && plain(&shown).contains("+ j ok"),
                "{shown}"
            );
        } else {
            let shown = plain(&shown);
            assert!(shown.contains("j │ ü") && shown.contains("✔ j ok"), "{shown}");
        }
    }
}

#[test]
fn watch_escapes_terminal_control_characters() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let watch = in_plain_text(watch_jobs(&daemon)).start_on_terminal().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    wait_for_subscribers(&mut peer, 1);
    let command =
        r"printf 'red \033[31mtext\033[0m\r\nover\rwrite\n\033]0;title\007\302\233\000end\n'";
    peer.run(&json!({ "id\u{202e}": [command, "printf '\u{1b}[2J'"] })).unwrap();
    watch.out.wait("2 commands ok").unwrap();
    let shown = watch.out.lines().join("\n");
    assert!(
        !shown.chars().any(|c| c.is_control() && c != '\n') && !shown.contains('\u{202e}'),
        "{shown:?}"
    );
    for line in ["│ red text", "│ write", "end"] {
        assert!(shown.contains(line), "{line:?} in {shown}");
    }
    assert!(shown.contains("id<U+202E>") && shown.contains("printf '^[[2J'"), "{shown}");
}

#[test]
fn events_are_coloured_by_their_priority() {
    let snapshot = |priority: &str, message: &str| {
        json!({ "namespace": "events", "name": "life_preserver", "id": "none", "time": "2026-11-23T17:50:47Z",
                "args": { "message": message, "priority": priority, "class": "snapshot" } })
    };
    let pool = |priority: &str, health: &str| json!({ "health": health, "capacity": "12%", "priority": priority });
    let state = json!({ "namespace": "events", "name": "system_state", "id": "none", "time": "2026-11-23T17:50:48Z",
        "args": { "hostname": "nas", "priority": "9 - Urgent", "hostnamechanged": "true",
                  "zpools": { "tank": pool("0 - Information", "ONLINE"), "backup": pool("9 - Urgent", "FAULTED") } } });
    let impostor = Impostor::with_events(vec![
        snapshot("1 - Information", "New snapshot of tank"),
        snapshot("4 - Warning", "Pruning failed"),
        snapshot("7 - Critical", "Snapshot failed\nLogfile available at: /x"),
        state,
    ]);
    let watch =
        Cli::of(PROGRAM, "watch").arg("--socket").arg(impostor.socket()).env("TERM", "xterm");
    let watch = watch.start_on_terminal().unwrap();
    watch.out.wait("backup").unwrap();
    watch.signal(Signal::SIGINT).unwrap();
    let ended = watch.wait().unwrap();
    let shown = plain(&ended.out);
    assert!(
        shown.starts_with(
            "\
17:50:47  1 snapshot New snapshot of tank
17:50:47  4 snapshot Warning: Pruning failed
17:50:47  7 snapshot Critical: Snapshot failed
            snapshot │ Logfile available at: /x
17:50:48  9 nas      Urgent: 2 pools, the host name changed
            nas      │ tank    ONLINE   0 - Information  cap 12%
            nas      │ backup  FAULTED  9 - Urgent       cap 12%
"
        ),
        "{shown}"
    );
    for (colour, priority) in [
        ("32", "1 snapshot"),
        ("33", "4 snapshot"),
        ("31", "7 snapshot"),
        ("1;31", "9 nas"),
        ("32", "0 - Information"),
    ] {
        assert!(
            ended.out.contains(&format!("\u{1b}[{colour}m{priority}")),
            "{priority}: {:?}",
            ended.out
        );
    }
}

#[test]
fn watch_started_late_shows_running_jobs() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut first = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let command = format!("sh -c 'echo before; {0}; echo after'", gate.wait());
    peer.run(&json!({ "j": command })).unwrap();
    first.job_printed("j", &command, "before\n").unwrap();
    let watch = in_plain_text(watch_jobs(&daemon)).start_on_terminal().unwrap();
    watch.out.wait("│ before").unwrap();
    gate.open().unwrap();
    watch.out.wait("ok after").unwrap();
    let shown = plain(&watch.out.lines().join("\n"));
    assert_eq!(
        (
            shown.matches("before").count() - shown.matches("echo before").count(),
            shown.matches("│ after").count()
        ),
        (1, 1),
        "{shown}"
    );
}

#[test]
fn watch_shows_selected_events_and_rejects_unknown_names() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let other = Cli::to(&daemon, "watch");
    let other = other.args(["system-state", "life_preserver"]).start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    wait_for_subscribers(&mut peer, 1);
    let all = Cli::to(&daemon, "watch").start().unwrap();
    wait_for_subscribers(&mut peer, 2);
    peer.run(&json!({ "j": "true" })).unwrap();
    all.out.wait("finished").unwrap();
    assert!(!other.out.lines().join("\n").contains("\"dispatcher\""));
    let wrong = Cli::to(&daemon, "watch").arg("dispacher").run().unwrap();
    assert_eq!((wrong.code(), &*wrong.out), (64, ""));
    assert!(wrong.err.contains("dispatcher, life-preserver, system-state"), "{}", wrong.err);
}

#[test]
fn watch_survives_the_daemon_and_continues_with_the_next() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let watch = watch_jobs(&daemon).start().unwrap();
    wait_for_subscribers(&mut Peer::local(&daemon).unwrap(), 1);
    daemon.stop().unwrap();
    watch.err.wait("the daemon stopped").unwrap();
    let daemon = setup.start().unwrap();
    Peer::local(&daemon).unwrap().run(&json!({ "j": "echo again" })).unwrap();
    watch.out.wait("again\\n").unwrap();
    watch.out.wait("\"finished\"").unwrap();
}

#[test]
fn watch_ends_when_its_reader_closes_the_pipe() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watch = watch_jobs(&daemon).into_command();
    watch.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    wait_for_subscribers(&mut peer, 1);
    peer.run(&json!({ "j": "true" })).unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"finished\"") {
        line.clear();
        lines.read_line(&mut line).unwrap();
    }
    drop(lines);
    let output = watch.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}

#[test]
fn watch_after_restart_repeats_no_finished_job() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::watcher(&daemon).unwrap();
    peer.run(&json!({ "before": "echo unseen" })).unwrap();
    peer.finished("before").unwrap();
    let watch = on_terminal(watch_jobs(&daemon)).start_on_terminal().unwrap();
    wait_for_subscribers(&mut Peer::local(&daemon).unwrap(), 2);
    peer.run(&json!({ "seen": "echo output of it" })).unwrap();
    watch.out.wait("✔ seen").unwrap();
    peer.run(&json!({ "cut": "sleep 1000" })).unwrap();
    watch.out.wait("sleep 1000").unwrap();
    daemon.crash().unwrap();
    watch.out.wait("reconnecting").unwrap();
    let _daemon = setup.start().unwrap();
    watch.out.wait("1 job finished meanwhile").unwrap();
    // The end of a job that was shown is not folded.
    watch.out.wait("✖ cut").unwrap();
    let lines = plain(&watch.out.lines().join("\n"));
    assert_eq!(lines.matches("│ output of it").count(), 1, "{lines}");
    assert!(lines.contains("✖ cut  interrupted"), "{lines}");
    assert!(!lines.contains("│ unseen"), "{lines}");
}
