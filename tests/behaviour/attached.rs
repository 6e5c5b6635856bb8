//! Clients attached to jobs get all of their output, and the jobs print as fast as the clients
//! read.

use std::io::Read;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Cli, Daemon, Gate, Peer, Setup};

use super::PROGRAM;

/// Bytes without any order, the same each time.
pub(super) fn random(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn spawn(cli: Cli) -> Child {
    let mut command = cli.into_command();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Output to the byte, and the exit code.
fn output(cli: Cli) -> (Vec<u8>, i32) {
    let output = spawn(cli).wait_with_output().unwrap();
    (output.stdout, output.status.code().unwrap_or(-1))
}

/// A job that prints endlessly as soon as its output is read.
const ENDLESS: &str = "sh -c 'echo begin; exec cat /dev/zero'";

/// Reads output of a job without acknowledging it, until the job must be held: until less than a
/// quarter of the window is left. Returns the number of bytes.
fn fill_window(peer: &mut Peer, attached: &Value) -> u64 {
    let window = attached["window"].as_u64().unwrap();
    let mut received = 0;
    while received <= window - window / 4 {
        let frame = peer.frame().unwrap();
        if frame["name"] == "output" {
            assert_eq!(frame["args"]["offset"], received);
            received += frame["args"]["data"].as_str().unwrap().len() as u64;
        }
    }
    assert!(received <= window, "{received} bytes in a window of {window}");
    received
}

/// Number of bytes of output that the daemon has read from a job.
fn printed(peer: &mut Peer, id: &str) -> u64 {
    let ask =
        json!({"action": "attach", "job_id": id, "hold": false, "follow": false, "output": false});
    peer.request("rpc", "dispatcher", &ask).unwrap();
    loop {
        let frame = peer.frame().unwrap();
        if frame["name"] == "output" && frame["args"]["end"] == true {
            return frame["args"]["offset"].as_u64().unwrap();
        }
    }
}

#[test]
fn run_shows_all_of_many_lines() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let (out, code) = output(Cli::to(&daemon, "run").arg("seq 1 400000"));
    assert_eq!((out.iter().filter(|byte| **byte == b'\n').count(), code), (400_000, 0));
    assert!(out.starts_with(b"1\n2\n") && out.ends_with(b"\n399999\n400000\n"));
}

#[test]
fn run_prints_any_bytes_unchanged() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let file = daemon.directory().join("file");
    let mut bytes = random(3_000_000);
    bytes.extend([0; 100_000]);
    bytes.extend("zeile \u{fc} \u{1f600}\n".repeat(50_000).as_bytes());
    bytes.extend([0xff, 0x80, 0xc3]);
    std::fs::write(&file, &bytes).unwrap();
    let cat = format!("cat {}", file.display());
    let (out, code) = output(Cli::to(&daemon, "run").args([&cat, "printf end"]));
    bytes.extend(b"end");
    assert!(out == bytes && code == 0, "{} of {} bytes, code {code}", out.len(), bytes.len());
}

#[test]
fn job_is_held_until_its_client_acknowledges() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut client = Peer::local(&daemon).unwrap();
    let job = json!({"action": "submit", "id": "j", "commands": ["yes"],
                     "attach": {"window": 65536}});
    let attached = client.request("rpc", "dispatcher", &job).unwrap();
    let received = fill_window(&mut client, &attached);
    // Another job runs to its end meanwhile, and this one prints nothing.
    let (out, code) = output(Cli::to(&daemon, "run").arg("seq 1 100000"));
    assert_eq!((out.len(), code), (588_895, 0));
    let mut other = Peer::local(&daemon).unwrap();
    assert_eq!(printed(&mut other, "j"), received);
    let stream = &attached["stream"];
    let args = json!({"action": "acknowledge", "stream": stream, "offset": received});
    client.post("rpc", "dispatcher", &args).unwrap();
    let frames = client.frames_until(|frame| frame["name"] == "output").unwrap();
    assert_eq!(frames.last().unwrap()["args"]["offset"], received);
    other.kill(&json!("j")).unwrap();
}

#[test]
fn output_in_binary_messages_is_sent_on_request() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let file = daemon.directory().join("file");
    let bytes = random(1 << 20);
    std::fs::write(&file, &bytes).unwrap();
    let mut client = Peer::local(&daemon).unwrap();
    let job = json!({"action": "submit", "id": "j", "attach": {"binary": true},
                     "commands": [format!("cat {}", file.display())]});
    let attached = client.request("rpc", "dispatcher", &job).unwrap();
    assert_eq!(attached["binary"], true);
    let mut received: Vec<u8> = Vec::new();
    loop {
        let message = client.any_message().unwrap();
        let Some(end) = message.iter().position(|byte| *byte == b'\n') else {
            let frame: Value = serde_json::from_slice(&message).unwrap();
            assert!(frame["name"] != "output" || frame["args"]["end"] == true, "{frame}");
            if frame["args"]["end"] == true {
                break;
            }
            continue;
        };
        let head: Value = serde_json::from_slice(&message[..end]).unwrap();
        let expected = json!({"process_id": "j", "stream": attached["stream"], "command": 0,
                              "offset": received.len()});
        assert_eq!(head, expected);
        received.extend(&message[end + 1..]);
        let args = json!({"action": "acknowledge", "stream": attached["stream"],
                          "offset": received.len()});
        let request = json!({"namespace": "rpc", "name": "dispatcher", "id": "a", "args": args});
        client.send(&request).unwrap();
    }
    assert!(received == bytes, "{} bytes", received.len());
}

#[test]
fn run_with_slow_reader_slows_its_own_job_only() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let mut slow = spawn(Cli::to(&daemon, "run").args(["--id", "slow", ENDLESS]));
    let mut stdout = slow.stdout.take().unwrap();
    let mut first = [0; 6];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"begin\n");
    let (out, code) = output(Cli::to(&daemon, "run").arg("seq 1 100000"));
    assert_eq!((out.len(), code), (588_895, 0));
    let mut some = vec![1; 3 << 20];
    stdout.read_exact(&mut some).unwrap();
    assert!(some.iter().all(|byte| *byte == 0));
    let (out, code) = output(Cli::to(&daemon, "run").arg("seq 1 100000"));
    assert_eq!((out.len(), code), (588_895, 0));
    peer.kill(&json!("slow")).unwrap();
    // Only output in flight was left: a window and some pipes.
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 2 << 20, "{} bytes were under way", rest.len());
    assert_eq!(slow.wait().unwrap().code(), Some(143));
}

#[test]
fn job_continues_at_once_when_its_client_vanishes() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut client = Peer::local(&daemon).unwrap();
    let job = json!({"action": "submit", "id": "j", "commands": ["seq 1 1000000"], "attach": true});
    let attached = client.request("rpc", "dispatcher", &job).unwrap();
    fill_window(&mut client, &attached);
    drop(client);
    assert_eq!(watcher.finished("j").unwrap()["result"], "ok");
}

#[test]
fn job_continues_when_the_run_that_holds_it_is_killed() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    // More than a window and all pipes hold.
    let command = "sh -c 'echo begin; seq 1 1000000'";
    let mut slow = spawn(Cli::to(&daemon, "run").args(["--id", "j", command]));
    slow.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    slow.kill().unwrap();
    slow.wait().unwrap();
    assert_eq!(watcher.finished("j").unwrap()["result"], "ok");
}

#[test]
fn job_continues_without_acknowledgements_after_timeout() {
    let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.attach_timeout", "\"200ms\"");
    let daemon = setup.start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let job = json!({"action": "submit", "id": "j", "commands": ["seq 1 1000000"], "attach": true});
    let reply = peer.request("rpc", "dispatcher", &job).unwrap();
    assert_eq!(watcher.finished("j").unwrap()["result"], "ok");
    // It may still get the stored output, and learns how much was omitted.
    let (mut received, mut left_out) = (0, 0);
    loop {
        let frame = peer.frame().unwrap();
        let args = &frame["args"];
        if frame["name"] != "output" {
            continue;
        }
        assert_eq!(args["stream"], reply["stream"]);
        assert_eq!(args["offset"], received + left_out);
        if args["end"] == true {
            assert_eq!((&args["result"], &args["exit_code"]), (&json!("ok"), &json!(0)));
            break;
        }
        left_out += args["left_out"].as_u64().unwrap_or(0);
        received += args["data"].as_str().map_or(0, str::len) as u64;
        let offset = received + left_out;
        let stream = &reply["stream"];
        let args = json!({"action": "acknowledge", "stream": stream, "offset": offset});
        let request = json!({"namespace": "rpc", "name": "dispatcher", "id": "a", "args": args});
        peer.send(&request).unwrap();
    }
    assert_eq!(received + left_out, 6_888_896);
    assert!(left_out > 0 && received >= 1 << 20, "{received} {left_out}");
}

#[test]
fn two_attached_clients_both_get_everything() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let command = format!("sh -c 'echo begin; {}; seq 1 300000; exit 7'", gate.wait());
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let first = spawn(Cli::to(&daemon, "run").args(["--id", "j", &command]));
    watcher.job_printed("j", &command, "begin\n").unwrap();
    let mut second = Cli::to(&daemon, "attach").arg("j").into_command();
    second.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut second = second.spawn().unwrap();
    let mut begin = [0; 6];
    second.stdout.as_mut().unwrap().read_exact(&mut begin).unwrap();
    gate.open().unwrap();
    let second = std::thread::spawn(move || {
        let mut rest = Vec::new();
        second.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
        (rest, second.wait().unwrap().code())
    });
    let first = first.wait_with_output().unwrap();
    let (rest, code) = second.join().unwrap();
    assert_eq!((first.status.code(), code), (Some(7), Some(7)));
    let all = [&begin[..], &rest].concat();
    assert!(first.stdout == all, "{} and {} bytes", first.stdout.len(), all.len());
    assert_eq!(all.len(), 6 + 1_988_895);
}

#[test]
fn run_survives_a_daemon_crash_without_repeated_output() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let command = "sh -c 'seq 1 1000; exec sleep 1000'";
    let running = Cli::to(&daemon, "run").args(["--id", "j", command]).start().unwrap();
    running.out.wait("1000").unwrap();
    daemon.crash().unwrap();
    running.err.wait("waiting for the daemon").unwrap();
    let _daemon = setup.start().unwrap();
    let ran = running.wait().unwrap();
    let all: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    assert_eq!((ran.code(), ran.out), (143, all));
}

#[test]
fn log_shows_stored_output_and_reports_omissions() {
    let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.log_limit", "\"64KiB\"");
    let daemon = setup.start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    Peer::local(&daemon).unwrap().run(&json!({"j": "seq 1 100000"})).unwrap();
    watcher.finished("j").unwrap();
    let ran = Cli::to(&daemon, "log").arg("j").run_with_input(b"").unwrap();
    assert_eq!(ran.code(), 0);
    assert!(ran.out.starts_with("1\n2\n") && ran.out.ends_with("\n100000\n"));
    let left_out = 588_895 - ran.out.len();
    assert!(left_out > 0 && ran.err.contains(&format!("{left_out} bytes")), "{}", ran.err);
}

#[test]
fn log_follows_a_job_to_its_end() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let command = format!("sh -c 'echo one; {0}; echo two; {0}; exit 3'", gate.wait());
    let mut watcher = Peer::watcher(&daemon).unwrap();
    Peer::local(&daemon).unwrap().run(&json!({"j": command})).unwrap();
    watcher.job_printed("j", &command, "one\n").unwrap();
    let so_far = Cli::to(&daemon, "log").arg("j").run_with_input(b"").unwrap();
    assert_eq!((so_far.code(), &*so_far.out), (0, "one\n"));
    let follow = Cli::to(&daemon, "log").args(["-f", "j"]).start().unwrap();
    follow.out.wait("one").unwrap();
    gate.open().unwrap();
    follow.out.wait("two").unwrap();
    gate.open().unwrap();
    let ran = follow.wait().unwrap();
    assert_eq!((ran.code(), &*ran.out), (0, "one\ntwo\n"));
}

#[test]
fn wait_exits_with_the_code_of_the_job() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let held = format!("sh -c '{}; exit 4'", gate.wait());
    peer.run(&json!({"held": held, "ok": "true", "bad": "sh -c \"exit 3\""})).unwrap();
    let wait = |words: &[&str]| Cli::to(&daemon, "wait").args(words);
    assert_eq!(wait(&["ok"]).run().unwrap().code(), 0);
    assert_eq!(wait(&["ok", "bad"]).run().unwrap().code(), 3);
    assert_eq!(wait(&["--any", "held", "bad"]).run().unwrap().code(), 3);
    let all = wait(&["held", "bad"]).start().unwrap();
    gate.open().unwrap();
    assert_eq!(all.wait().unwrap().code(), 4);
    let unknown = wait(&["nothing"]).run().unwrap();
    assert_eq!(unknown.code(), 64, "{}", unknown.err);
}

#[test]
fn attach_interrupted_leaves_the_job_running() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let command = format!("sh -c 'echo one; {}; echo two'", gate.wait());
    Peer::local(&daemon).unwrap().run(&json!({"j": command})).unwrap();
    let attach = Cli::to(&daemon, "attach").arg("j").start().unwrap();
    attach.out.wait("one").unwrap();
    attach.signal(Signal::SIGINT).unwrap();
    assert_eq!(attach.wait().unwrap().code(), 130);
    gate.open().unwrap();
    assert_eq!(watcher.finished("j").unwrap()["result"], "ok");
}

#[test]
fn submission_with_a_nonce_is_taken_once() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let job = json!({"commands": ["true"], "nonce": "n1"});
    let id = peer.submit(&job).unwrap();
    assert!(id.starts_with("true-"), "{id}");
    assert_eq!(peer.submit(&job).unwrap(), id);
    let other = peer.submit(&json!({"commands": ["true"], "nonce": "n2"})).unwrap();
    assert_ne!(other, id);
    let jobs = peer.list().unwrap();
    assert_eq!(jobs["no_queue"].as_object().map(serde_json::Map::len), Some(2));
}

#[test]
fn attach_is_checked() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({"j": "true"})).unwrap();
    let mut refused = |args: Value| peer.refused("rpc", "dispatcher", &args).unwrap().code;
    assert_eq!(refused(json!({"action": "attach"})), 400);
    assert_eq!(refused(json!({"action": "attach", "job_id": "none"})), 404);
    assert_eq!(refused(json!({"action": "attach", "job_id": "j", "windw": 1})), 400);
    assert_eq!(refused(json!({"action": "attach", "job_id": "j", "offset": -1})), 400);
    assert_eq!(refused(json!({"action": "attach", "job_id": "j", "hold": 1})), 400);
    assert_eq!(refused(json!({"action": "acknowledge", "stream": 1})), 400);
    assert_eq!(refused(json!({"action": "submit", "commands": ["true"], "attach": 1})), 400);
}
