//! `run`: runs a job like local commands.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Cli, Daemon, Finished, Gate, Peer, Setup};

use super::PROGRAM;

fn run(daemon: &Daemon, words: &[&str]) -> Finished {
    // With input, though the job gets none: so its output is returned unchanged.
    Cli::to(daemon, "run").args(words).run_with_input(b"").unwrap()
}

#[test]
fn standard_output_is_the_output_and_nothing_else() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let ran = run(
        &daemon,
        &["sh -c 'echo out; echo err >&2; printf midway'", "printf '\\303\\274\\000'"],
    );
    assert_eq!((ran.code(), &*ran.out, &*ran.err), (0, "out\nerr\nmidwayü\0", ""));
    let ran = run(&daemon, &["true"]);
    assert_eq!((ran.code(), &*ran.out, &*ran.err), (0, "", ""));
}

#[test]
fn lines_arrive_while_the_job_runs() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_interval", "\"10ms\"").start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let script = format!("for i in 1 2 3; do echo line $i; {}; done", gate.wait());
    let running = Cli::to(&daemon, "run").arg(format!("sh -c '{script}'")).start().unwrap();
    for line in ["line 1", "line 2", "line 3"] {
        // The job is held behind this line, so it does run.
        running.out.wait(line).unwrap();
        gate.open().unwrap();
    }
    let ran = running.wait().unwrap();
    assert_eq!((ran.code(), &*ran.out), (0, "line 1\nline 2\nline 3\n"));
}

#[test]
fn run_exits_with_the_code_of_the_last_command() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for (commands, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh -c 'exit 42'"], 42),
        (&["sh -c 'exit 255'"], 255),
        (&["true", "sh -c 'exit 3'", "echo never"], 3),
        (&["sh -c 'kill -9 $$'"], 128 + 9),
        (&["sh -c 'kill -TERM $$'"], 128 + 15),
        (&["sh -c 'kill -INT $$'"], 128 + 2),
        (&["true", "sh -c 'kill -SEGV $$'"], 128 + 11),
    ] {
        let ran = run(&daemon, commands);
        assert_eq!((ran.code(), &*ran.out, &*ran.err), (code, "", ""), "{commands:?}");
    }
}

#[test]
fn unstartable_command_exits_127_and_prints_no_output() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let ran = run(&daemon, &["echo first", "/nowhere/program x", "echo never"]);
    assert_eq!((ran.code(), &*ran.out), (127, "first\n"));
    assert!(ran.err.starts_with("sysadm-events: cannot run /nowhere/program: "), "{}", ran.err);
    let hint = ran.err.lines().nth(1).unwrap();
    assert!(hint.contains("3 commands") && hint.contains("run -- echo"), "{hint}");
    assert_eq!(ran.err.lines().count(), 2);
    let ran = run(&daemon, &["/nowhere/program x"]);
    assert_eq!((ran.code(), ran.err.lines().count()), (127, 1), "{}", ran.err);
}

#[test]
fn words_after_the_separator_are_one_command() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let ran = run(&daemon, &["--", "printf", "%s.", "a b", "|", "-x", "l\n2"]);
    assert_eq!((ran.code(), &*ran.out, &*ran.err), (0, "a b.|.-x.l\n2.", ""));
}

#[test]
fn sh_runs_each_command_as_a_script() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let ran = run(&daemon, &["--sh", "echo a b | wc -w | tr -d ' '", "echo c; exit 3\ntrue"]);
    assert_eq!((ran.code(), &*ran.out, &*ran.err), (3, "2\nc\n", ""));
}

#[test]
fn a_hangup_is_a_signal_and_not_a_command_that_could_not_be_run() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let ran = run(&daemon, &["sh -c 'echo out; kill -HUP $$'"]);
    assert_eq!((ran.code(), &*ran.out, &*ran.err), (129, "out\n", ""));
    let ran = run(&daemon, &["sh -c 'kill -HUP $$'"]);
    assert_eq!((ran.code(), &*ran.out, &*ran.err), (129, "", ""));
}

#[test]
fn a_detached_job_is_left_to_itself_and_its_id_is_printed() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let command = format!("sh -c '{}; echo done'", gate.wait());
    let ran = run(&daemon, &["--detach", "--id", "nightly", &command]);
    assert_eq!((ran.code(), &*ran.out, &*ran.err), (0, "nightly\n", ""));
    let ran = run(&daemon, &["--detach", "true"]);
    assert!(ran.code() == 0 && ran.out.starts_with("true-") && ran.out.ends_with('\n'), "{ran:?}");
    watcher.finished(ran.out.trim_end()).unwrap();
    gate.open().unwrap();
    assert_eq!(watcher.finished("nightly").unwrap()[&*command], "done\n");
}

#[test]
fn id_queue_and_timeout_are_the_jobs() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let first = Cli::to(&daemon, "run").args(["--queue", "q", "--id", "first"]);
    let first = first.arg(format!("sh -c '{}; echo 1'", gate.wait())).start().unwrap();
    watcher.job_until("first", |args| args["state"] == "running").unwrap();
    let second =
        Cli::to(&daemon, "run").args(["--queue=q", "--id=second", "echo 2"]).start().unwrap();
    watcher.job_until("second", |args| args["state"] == "pending").unwrap();
    let list = Peer::local(&daemon).unwrap().list().unwrap();
    assert_eq!(list["q"]["second"]["state"], "pending");
    // An id that is active is taken.
    let ran = run(&daemon, &["--id", "first", "true"]);
    assert_eq!((ran.code(), &*ran.out), (75, ""));
    assert!(ran.err.contains("first") && ran.err.contains("409"), "{}", ran.err);
    gate.open().unwrap();
    let (first, second) = (first.wait().unwrap(), second.wait().unwrap());
    assert_eq!((first.code(), &*first.out), (0, "1\n"));
    assert_eq!((second.code(), &*second.out), (0, "2\n"));

    let ran = run(&daemon, &["--timeout", "1s", "echo a", "sleep 1000", "echo never"]);
    assert_eq!((ran.code(), &*ran.out), (128 + 15, "a\n"));
    assert!(ran.err.contains("timed out"), "{}", ran.err);
}

#[test]
fn an_id_can_be_used_again_and_shows_only_the_new_job() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for word in ["one", "two", "three"] {
        let ran = run(&daemon, &["--id", "again", &format!("echo {word}")]);
        assert_eq!((ran.code(), ran.out), (0, format!("{word}\n")));
    }
}

#[test]
fn a_chain_that_is_cut_short_is_no_success() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let polite = "sh -c 'trap \"exit 0\" TERM; echo ready; while :; do sleep 0.01; done'";
    let running =
        Cli::to(&daemon, "run").args(["--id", "j", polite, "echo never"]).start().unwrap();
    running.out.wait("ready").unwrap();
    Peer::local(&daemon).unwrap().kill(&json!("j")).unwrap();
    let ran = running.wait().unwrap();
    assert_eq!(ran.code(), 143);
    assert!(ran.err.contains("killed"), "{}", ran.err);
}

#[test]
fn job_killed_before_it_ran_exits_143() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.max_running", 1).start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "first": "sleep 1000" })).unwrap();
    let running = Cli::to(&daemon, "run").args(["--id", "waits", "echo x"]).start().unwrap();
    watcher.job_until("waits", |args| args["state"] == "pending").unwrap();
    peer.kill(&json!("waits")).unwrap();
    let ran = running.wait().unwrap();
    assert_eq!((ran.code(), &*ran.out), (143, ""));
    assert!(ran.err.contains("killed"), "{}", ran.err);
    peer.kill(&json!("first")).unwrap();
}

#[test]
fn ctrl_c_ends_the_job_and_shows_its_outcome() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let command =
        "sh -c 'trap \"echo cleaning up; exit 9\" TERM; echo ready; while :; do sleep 0.01; done'";
    let running = Cli::to(&daemon, "run").args(["--id", "j", command]).start().unwrap();
    running.out.wait("ready").unwrap();
    running.signal(Signal::SIGINT).unwrap();
    let ran = running.wait().unwrap();
    assert_eq!(ran.code(), 9, "the job's own code");
    assert!(ran.out.starts_with("ready\n") && ran.out.ends_with("cleaning up\n"), "{}", ran.out);
    watcher.finished("j").unwrap();

    let running = Cli::to(&daemon, "run")
        .args(["--id", "k", "sh -c 'echo ready; exec sleep 1000'"])
        .start()
        .unwrap();
    running.out.wait("ready").unwrap();
    running.signal(Signal::SIGINT).unwrap();
    assert_eq!(running.wait().unwrap().code(), 128 + 15);
    watcher.finished("k").unwrap();
}

#[test]
fn a_second_ctrl_c_leaves_at_once_while_the_job_is_being_ended() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let command =
        format!("sh -c 'trap \"echo asked\" TERM; echo ready; {0}; {0}; {0}'", gate.wait());
    let running = Cli::to(&daemon, "run").args(["--id", "j", &command]).start().unwrap();
    running.out.wait("ready").unwrap();
    running.signal(Signal::SIGINT).unwrap();
    running.out.wait("asked").unwrap();
    running.signal(Signal::SIGINT).unwrap();
    assert_eq!(running.wait().unwrap().code(), 130);
    (0..3).for_each(|_| gate.open().unwrap());
    watcher.finished("j").unwrap();
}

#[test]
fn sigterm_ends_the_job_as_ctrl_c_does() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let command = "sh -c 'echo ready; exec sleep 1000'";
    let running = Cli::to(&daemon, "run").args(["--id", "j", command]).start().unwrap();
    running.out.wait("ready").unwrap();
    running.signal(Signal::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), 128 + 15);
    assert_eq!(watcher.finished("j").unwrap()["result"], "killed");
}

#[test]
fn a_job_outlives_a_client_that_is_killed() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let command = format!("sh -c 'echo ready; {}; echo end'", gate.wait());
    let running = Cli::to(&daemon, "run").args(["--id", "j", &command]).start().unwrap();
    running.out.wait("ready").unwrap();
    running.signal(Signal::SIGKILL).unwrap();
    assert_eq!(running.wait().unwrap().code(), -1, "ended by the signal");
    gate.open().unwrap();
    assert_eq!(watcher.finished("j").unwrap()[&*command], "ready\nend\n");
}

#[test]
fn a_reader_that_leaves_does_not_end_the_job() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_interval", "\"10ms\"").start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let command = format!("sh -c 'echo first; {0}; echo second; {0}; exit 5'", gate.wait());
    let run = Cli::to(&daemon, "run").args(["--id", "j", &command]).into_command();
    // The reader is a process of its own: a copy of its end, in a child that another test forks at
    // this moment, would take the next line.
    let script = r#"{ "$0" "$@"; echo "code $?" >&2; } | { read line; exec <&-; echo "$line"; }"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(run.get_program()).args(run.get_args());
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut shell = shell.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    gate.open().unwrap();
    let mut err = BufReader::new(shell.stderr.take().unwrap());
    line.clear();
    err.read_line(&mut line).unwrap();
    assert!(line.contains("the reader of the output is gone") && line.contains("job j"), "{line}");
    gate.open().unwrap();
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    shell.wait().unwrap();
    assert_eq!(rest, "code 5\n");
}

#[test]
fn shutdown_of_the_daemon_reports_the_jobs_outcome() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let command = "sh -c 'echo ready; exec sleep 1000'";
    let running = Cli::to(&daemon, "run").arg(command).start().unwrap();
    running.out.wait("ready").unwrap();
    daemon.stop().unwrap();
    let ran = running.wait().unwrap();
    assert_eq!((ran.code(), &*ran.out), (143, "ready\n"));
    assert!(ran.err.contains("ended because the daemon stopped"), "{}", ran.err);
}

#[test]
fn run_waits_for_a_new_daemon_and_reports_the_interruption() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let command = "sh -c 'echo ready; exec sleep 1000'";
    let running = Cli::to(&daemon, "run").args(["--id", "j", command, "echo never"]);
    let running = running.start().unwrap();
    running.out.wait("ready").unwrap();
    daemon.crash().unwrap();
    running.err.wait("waiting for the daemon").unwrap();
    let daemon = setup.start().unwrap();
    let ran = running.wait().unwrap();
    assert_eq!(ran.code(), 143, "{}", ran.err);
    assert_eq!(ran.out, "ready\n");
    let remark = "interrupted: the daemon that ran this job died; it was not run again";
    assert!(ran.err.contains(remark), "{}", ran.err);
    let list = Peer::local(&daemon).unwrap().list().unwrap();
    assert_eq!(list["no_queue"]["j"]["return_codes"], json!(["-1"]));
}

#[test]
fn run_on_a_terminal_prints_the_outcome() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let running =
        Cli::to(&daemon, "run").args(["--id", "j", "printf midway", "false"]).start_on_terminal();
    let running = running.unwrap();
    let ran = running.wait().unwrap();
    assert_eq!(ran.code(), 1);
    let expected = "midway\nsysadm-events: job j finished: [2/2] false: exit 1 after 0 s\n";
    assert_eq!(ran.out.replace("after 1 s", "after 0 s"), expected);
}

#[test]
fn invalid_job_is_reported_before_anything_runs() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for (words, code, said) in [
        (&[][..], 64, "which command"),
        (&["ls", "-l"], 64, "quote"),
        (&["echo a | wc"], 64, "run --sh"),
        (&["rm -rf D\nls F"], 64, "line break"),
        (&["--qeue", "q", "true"], 64, "unknown option --qeue"),
        (&["--timeout", "soon", "true"], 64, "soon"),
        (&["--timeout"], 64, "--timeout"),
        (&["echo 'x"], 64, "quote is not closed"),
        (&[" "], 64, "no command"),
        (&["--id", "a\nb", "true"], 64, "control"),
    ] {
        let ran = run(&daemon, words);
        assert_eq!((ran.code(), &*ran.out), (code, ""), "{words:?}: {}", ran.err);
        assert!(ran.err.contains(said), "{words:?}: {}", ran.err);
    }
    assert_eq!(Peer::local(&daemon).unwrap().list().unwrap(), json!({ "no_queue": {} }));
}

#[test]
fn interrupt_ends_run_although_the_daemon_is_silent() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let run = Cli::to(&daemon, "run").arg("sh -c 'echo begun; sleep 600'").start().unwrap();
    run.out.wait("begun").unwrap();
    daemon.signal(Signal::SIGSTOP).unwrap();
    run.signal(Signal::SIGINT).unwrap();
    let ended = run.wait();
    daemon.signal(Signal::SIGCONT).unwrap();
    let ended = ended.unwrap();
    assert_eq!(ended.code(), 130, "{}", ended.err);
    assert!(ended.err.contains("may go on"), "{}", ended.err);
}
