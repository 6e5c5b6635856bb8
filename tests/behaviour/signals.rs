//! Processes of jobs that are being ended: a child of the daemon finds and signals them, so the
//! daemon waits for none, and nobody else's process is among them.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::json;
use support::{Daemon, Peer, Process, Setup, skip, until};

use super::PROGRAM;

/// The child that finds and signals processes.
fn signaller(daemon: &Daemon) -> Option<Pid> {
    let children = daemon.process().children().unwrap();
    let is_it =
        |pid: &&u32| Process(**pid).name().is_ok_and(|name| name.contains("sysadm-signals"));
    children.iter().find(is_it).map(|pid| Pid::from_raw(*pid as i32))
}

#[test]
fn requests_and_jobs_go_on_while_a_look_at_processes_hangs() {
    let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.kill_grace", r#""3s""#);
    let daemon = setup.start().unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    let stubborn = "sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.05; done'";
    let other = "sh -c 'echo ready; exec sleep 1000'";
    peer.run(&json!({ "stubborn": stubborn, "other": other })).unwrap();
    watcher.job_printed("stubborn", stubborn, "ready\n").unwrap();
    watcher.job_printed("other", other, "ready\n").unwrap();
    assert_eq!(signaller(&daemon), None, "it is there while a job is being ended only");
    assert_eq!(peer.kill(&json!("stubborn")).unwrap(), json!(["stubborn"]));
    until("the child is there", || signaller(&daemon).is_some());
    let child = signaller(&daemon).unwrap();
    kill(child, Signal::SIGSTOP).unwrap();
    assert_eq!(peer.kill(&json!("other")).unwrap(), json!(["other"]));
    peer.run(&json!({ "third": "echo done" })).unwrap();
    let third = watcher.finished("third").unwrap();
    assert_eq!(third["return_codes/echo done"], "0");
    assert_eq!(peer.list().unwrap()["no_queue"]["other"]["state"], "running");
    kill(child, Signal::SIGCONT).unwrap();
    let other = watcher.finished("other").unwrap();
    assert_eq!(other["return_codes/sh -c 'echo ready; exec sleep 1000'"], "-15");
    watcher.finished("stubborn").unwrap();
    until("the child has ended", || signaller(&daemon).is_none());
}

#[test]
fn job_ends_though_the_child_that_signals_is_killed() {
    let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.kill_grace", r#""2s""#);
    let daemon = setup.start().unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    let command = "sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.05; done'";
    peer.run(&json!({ "j": command })).unwrap();
    watcher.job_printed("j", command, "ready\n").unwrap();
    peer.kill(&json!("j")).unwrap();
    until("the child is there", || signaller(&daemon).is_some());
    kill(signaller(&daemon).unwrap(), Signal::SIGKILL).unwrap();
    let finished = watcher.finished("j").unwrap();
    assert_eq!(finished[format!("return_codes/{command}")], "-9");
    daemon.log().wait("the child that signals processes ended (signal 9)").unwrap();
}

#[test]
fn survivor_by_its_mark_is_of_the_jobs_user_only() {
    if !geteuid().is_root() {
        return skip("only root has processes of other users");
    }
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    let directory = daemon.directory();
    let (mark, pid) = (directory.join("mark"), directory.join("pid"));
    // In a session of its own, and not a child of anything that is known.
    let away = format!("echo $$ >{}; exec sleep 1000", pid.display());
    let command = format!(
        "sh -c 'echo $SYSADM_JOB >{0}; if command -v setsid >/dev/null; then \
         setsid -f sh -c \"{1}\" >/dev/null 2>&1; else daemon -f sh -c \"{1}\"; fi; \
         until [ -s {2} ]; do sleep 0.01; done; echo ready; exec sleep 1000'",
        mark.display(),
        away.replace('$', "\\$"),
        pid.display()
    );
    peer.run(&json!({ "j": command })).unwrap();
    watcher.job_printed("j", &command, "ready\n").unwrap();
    let mark = fs::read_to_string(mark).unwrap().trim().to_owned();
    let own = Process(fs::read_to_string(pid).unwrap().trim().parse().unwrap());
    assert!(mark.contains('.') && own.is_alive());
    let sleep = |user: u32| {
        let mut command = Command::new("sleep");
        command.arg("1000").env("SYSADM_JOB", &mark).uid(user).spawn().unwrap()
    };
    let (mut other, mut same) = (sleep(65534), sleep(0));
    daemon.crash().unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    until("it is over", || {
        let list = peer.list().unwrap();
        list["no_queue"]["j"]["state"] == "finished"
    });
    let spared = other.try_wait().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(spared, None, "a process of another user");
    assert!(!own.is_alive());
    // The mark does count for a process of the same user.
    assert!(!same.wait().unwrap().success());
}
