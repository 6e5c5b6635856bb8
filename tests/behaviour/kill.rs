//! Killing a job: all of its processes, whatever they do, and no other ones.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use support::{Daemon, Directory, Gate, PATIENCE, Peer, Process, Setup};

use super::PROGRAM;

/// A daemon with two of its clients, and its processes when no job ran.
struct Scene {
    watcher: Peer,
    peer: Peer,
    /// After its clients: they are dropped first, so that it need not wait for them.
    daemon: Daemon,
    descriptors: usize,
    children: Vec<u32>,
}

impl Scene {
    fn new(setup: Setup) -> Scene {
        let daemon = setup.start().unwrap();
        let (watcher, peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
        let descriptors = daemon.process().descriptors().unwrap();
        let children = daemon.process().children().unwrap();
        Scene { daemon, watcher, peer, descriptors, children }
    }

    /// Runs a job until it has printed `ready`.
    fn run(&mut self, id: &str, command: &str) {
        self.peer.run(&json!({ id: command })).unwrap();
        self.watcher.job_printed(id, command, "ready\n").unwrap();
    }

    /// Kills a job; its finished event.
    fn kill(&mut self, id: &str) -> Value {
        assert_eq!(self.peer.kill(&json!(id)).unwrap(), json!([id]));
        self.watcher.finished(id).unwrap()
    }

    /// Checks that nothing is left of any job: no process under the daemon, no zombie, no
    /// descriptor.
    fn assert_clean(&self) {
        let patience = Instant::now() + PATIENCE;
        loop {
            let children = self.daemon.process().children().unwrap();
            let descriptors = self.daemon.process().descriptors().unwrap();
            // A look-up of groups at the start may have ended since.
            let is_old = |child: &u32| self.children.contains(child);
            if children.iter().all(is_old) && descriptors == self.descriptors {
                return;
            }
            let had = (&self.children, self.descriptors);
            let has = (&children, descriptors);
            assert!(
                Instant::now() < patience,
                "children and descriptors {has:?}, at first {had:?}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn setup() -> Setup {
    Setup::new(PROGRAM).unwrap()
}

/// Processes that write their numbers to a file.
struct Pids(PathBuf);

impl Pids {
    fn new(directory: &Directory) -> Pids {
        Pids(directory.join("pids"))
    }

    /// For a shell: writes its own number.
    fn note(&self) -> String {
        format!("echo $$ >>{}", self.0.display())
    }

    /// For a shell: waits for this number of lines.
    fn wait(&self, count: usize) -> String {
        let file = self.0.display();
        format!("until [ \"$(cat {file} 2>/dev/null | wc -l)\" -ge {count} ]; do sleep 0.01; done")
    }

    fn all(&self) -> Vec<Process> {
        let text = fs::read_to_string(&self.0).unwrap();
        text.lines().map(|line| Process(line.parse().unwrap())).collect()
    }
}

/// A command line of words that a shell in a shell takes apart again.
fn sh(script: &str) -> String {
    shell(&["sh", "-c", script])
}

fn shell(words: &[&str]) -> String {
    let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

/// Detaches a program from its session and its parent.
fn daemonised(script: &str) -> String {
    let inner = sh(script);
    format!(
        "if command -v setsid >/dev/null; then setsid -f {inner} </dev/null >/dev/null 2>&1; \
         else daemon -f {inner}; fi"
    )
}

#[test]
fn a_pending_job_is_finished_at_once() {
    let mut scene = Scene::new(setup().with("dispatcher.max_running", 1));
    scene.run("first", &sh("echo ready; exec sleep 1000"));
    scene.peer.run(&json!({ "waits": ["echo a", "echo b"] })).unwrap();
    scene.watcher.job_until("waits", |args| args["state"] == "pending").unwrap();
    assert_eq!(scene.peer.kill(&json!("waits")).unwrap(), json!(["waits"]));
    let events = scene.watcher.job("waits").unwrap();
    assert_eq!(events.len(), 1, "it never ran: {events:?}");
    assert_eq!(events[0]["cmd_list"], json!(["echo a", "echo b"]));
    assert_eq!(events[0].get("return_codes/echo a"), None);
    assert_eq!(scene.peer.whole_log("waits").unwrap(), "[killed]\n");
    assert_eq!(scene.peer.list().unwrap()["no_queue"]["first"]["state"], "running");
    scene.kill("first");
    scene.assert_clean();
}

#[test]
fn running_job_gets_sigterm_and_its_chain_stops() {
    let mut scene = Scene::new(setup());
    let command = sh("trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    scene.peer.run(&json!({ "j": [command, "echo never"] })).unwrap();
    scene.watcher.job_printed("j", &command, "ready\n").unwrap();
    let finished = scene.kill("j");
    assert_eq!(finished[format!("return_codes/{command}")], "5", "it may end as it likes");
    let log = finished[&*command].as_str().unwrap();
    assert!(log.starts_with("ready\n") && log.ends_with("asked\n[killed]\n"), "{log:?}");
    assert_eq!(finished.get("return_codes/echo never"), None);
    scene.assert_clean();
}

#[test]
fn killed_job_that_exits_0_does_not_continue_its_chain() {
    let mut scene = Scene::new(setup());
    let command = sh("trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    scene.peer.run(&json!({ "j": [command, "echo never"] })).unwrap();
    scene.watcher.job_printed("j", &command, "ready\n").unwrap();
    let finished = scene.kill("j");
    assert_eq!(finished[format!("return_codes/{command}")], "0");
    assert_eq!(finished.get("return_codes/echo never"), None);
    scene.assert_clean();
}

#[test]
fn killed_shell_gets_sigterm_before_its_child_ends() {
    const JOBS: usize = 20;
    let mut scene = Scene::new(setup());
    let directory = Directory::new().unwrap();
    for round in 0..JOBS {
        let went_on = directory.join(&round.to_string());
        let script = format!("echo ready; sleep 1000; echo next >{}", went_on.display());
        let id = format!("shell-{round}");
        scene.run(&id, &sh(&script));
        scene.kill(&id);
    }
    // A shell runs its next command before it ends, and all of a job has ended by now.
    let went_on: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert!(went_on.is_empty(), "{went_on:?}");
    scene.assert_clean();
}

#[test]
fn grandchildren_are_ended_too() {
    let mut scene = Scene::new(setup());
    let pids = Pids::new(scene.daemon.directory());
    let leaf = sh(&format!("{}; exec sleep 1000", pids.note()));
    let middle = sh(&format!("{}; {leaf} & {leaf} & wait", pids.note()));
    let command = sh(&format!("{}; {middle} & {}; echo ready; wait", pids.note(), pids.wait(4)));
    scene.run("j", &command);
    assert!(pids.all().iter().all(|process| process.is_alive()));
    let finished = scene.kill("j");
    assert_eq!(finished[format!("return_codes/{command}")], "-15");
    let alive: Vec<_> = pids.all().into_iter().filter(|process| process.is_alive()).collect();
    assert!(alive.is_empty(), "{alive:?} live on after the finished event");
    scene.assert_clean();
}

#[test]
fn a_grandchild_that_became_a_daemon_is_ended_too() {
    let mut scene = Scene::new(setup());
    let pids = Pids::new(scene.daemon.directory());
    let inner = format!("{}; exec sleep 1000", pids.note());
    let command =
        sh(&format!("{}; {}; echo ready; exec sleep 1000", daemonised(&inner), pids.wait(1)));
    scene.run("j", &command);
    let [grandchild] = pids.all()[..] else { panic!() };
    assert!(grandchild.is_alive());
    // It is a child of the daemon now, in a session that is not the job's.
    assert!(scene.daemon.process().children().unwrap().contains(&grandchild.0));
    scene.kill("j");
    assert!(!grandchild.is_alive(), "it lives on after the finished event");
    scene.assert_clean();
}

#[test]
fn a_daemon_of_an_earlier_command_is_ended_too_and_its_children() {
    let mut scene = Scene::new(setup());
    let pids = Pids::new(scene.daemon.directory());
    let leaf = sh(&format!("{}; exec sleep 1000", pids.note()));
    let inner = format!("{}; {leaf} & wait", pids.note());
    let first = sh(&format!("{}; {}", daemonised(&inner), pids.wait(2)));
    let second = sh("echo ready; exec sleep 1000");
    scene.peer.run(&json!({ "j": [first, second] })).unwrap();
    scene.watcher.job_printed("j", &second, "ready\n").unwrap();
    assert!(pids.all().iter().all(|process| process.is_alive()));
    scene.kill("j");
    assert!(pids.all().iter().all(|process| !process.is_alive()));
    scene.assert_clean();
}

#[test]
fn process_left_by_another_job_is_not_killed() {
    let mut scene = Scene::new(setup());
    let pids = Pids::new(scene.daemon.directory());
    let inner = format!("{}; exec sleep 1000", pids.note());
    let leaves = sh(&format!("{}; {}", daemonised(&inner), pids.wait(1)));
    scene.peer.run(&json!({ "leaves": leaves })).unwrap();
    scene.watcher.finished("leaves").unwrap();
    let [left] = pids.all()[..] else { panic!() };
    scene.run("other", &sh("echo ready; exec sleep 1000"));
    scene.run("bystander", &sh("echo ready; exec sleep 1000"));
    scene.kill("other");
    assert!(left.is_alive(), "a finished job's daemon is nobody's");
    assert_eq!(scene.peer.list().unwrap()["no_queue"]["bystander"]["state"], "running");
    scene.kill("bystander");
    assert!(left.is_alive());
    kill(Pid::from_raw(i32::try_from(left.0).unwrap()), Signal::SIGKILL).unwrap();
    // It was adopted, so it must be reaped.
    scene.assert_clean();
}

#[test]
fn a_job_that_ignores_sigterm_is_killed_after_the_grace() {
    let mut scene = Scene::new(setup().with("dispatcher.kill_grace", "\"200ms\""));
    let pids = Pids::new(scene.daemon.directory());
    let stubborn = sh(&format!("trap '' TERM; {}; while :; do sleep 0.05; done", pids.note()));
    let command = sh(&format!(
        "trap '' TERM; {}; {stubborn} & {}; echo ready; while :; do sleep 0.05; done",
        daemonised(&format!("trap '' TERM; {}; while :; do sleep 0.05; done", pids.note())),
        pids.wait(2)
    ));
    scene.run("j", &command);
    let asked = Instant::now();
    let finished = scene.kill("j");
    assert!(asked.elapsed() >= Duration::from_millis(200), "{:?}", asked.elapsed());
    assert_eq!(finished[format!("return_codes/{command}")], "-9");
    assert!(pids.all().iter().all(|process| !process.is_alive()));
    scene.assert_clean();
}

#[test]
fn a_stopped_job_is_ended_within_the_grace() {
    let mut scene = Scene::new(setup().with("dispatcher.kill_grace", "\"1h\""));
    let pids = Pids::new(scene.daemon.directory());
    let stopped = sh(&format!("{}; kill -STOP $$", pids.note()));
    let command = sh(&format!(
        "{}; {stopped} & {}; echo ready; kill -STOP $$; wait",
        pids.note(),
        pids.wait(2)
    ));
    scene.run("j", &command);
    let finished = scene.kill("j");
    assert_eq!(finished[format!("return_codes/{command}")], "-15");
    assert!(pids.all().iter().all(|process| !process.is_alive()));
    scene.assert_clean();
}

#[test]
fn job_that_keeps_forking_is_ended() {
    let mut scene = Scene::new(setup().with("dispatcher.kill_grace", "\"100ms\""));
    // Each ignores SIGTERM, forks and ends: between a listing and a signal there is another one.
    let script = scene.daemon.directory().join("hydra");
    fs::write(&script, "trap '' TERM\nsh \"$0\" &\n").unwrap();
    // They are too quick for `ps`, but each has this pipe open.
    let pipe = scene.daemon.directory().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let (script, path) = (script.display(), pipe.display());
    let command = sh(&format!("trap '' TERM; exec 9>{path}; sh {script} & echo ready; sleep 1000"));
    scene.peer.run(&json!({ "j": command })).unwrap();
    let mut pipe = fs::File::open(&pipe).unwrap();
    scene.watcher.job_printed("j", &command, "ready\n").unwrap();
    let finished = scene.kill("j");
    assert_eq!(finished["state"], "finished");
    let log = finished[&*command].as_str().unwrap();
    assert!(!log.contains("cannot be ended"), "{log:?}");
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    assert_eq!(pipe.read(&mut [0]).unwrap(), 0, "nobody has it any more");
    scene.assert_clean();
}

#[test]
fn job_killed_right_after_its_start_needs_no_sigkill() {
    let mut scene = Scene::new(setup().with("dispatcher.kill_grace", "\"1h\""));
    for number in 0..100 {
        let id = format!("j{number}");
        // Both requests have arrived when the daemon reads: it has just forked when it is to kill.
        let run = json!({ "action": "run", &*id: "sleep 1000" });
        scene.peer.post("rpc", "dispatcher", &run).unwrap();
        scene.peer.post("rpc", "dispatcher", &json!({ "action": "kill", "job_id": id })).unwrap();
    }
    let mut over = 0;
    scene
        .watcher
        .frames_until(|frame| {
            over += usize::from(frame["args"]["state"] == "finished");
            over == 100
        })
        .unwrap();
    scene.assert_clean();
}

#[test]
fn kill_returns_the_active_ids() {
    let mut scene = Scene::new(setup());
    scene.run("a", &sh("echo ready; exec sleep 1000"));
    scene.run("b", &sh("echo ready; exec sleep 1000"));
    scene.peer.run(&json!({ "over": "true" })).unwrap();
    scene.watcher.finished("over").unwrap();
    assert_eq!(scene.peer.kill(&json!("unknown")).unwrap(), json!([]));
    assert_eq!(scene.peer.kill(&json!("over")).unwrap(), json!([]));
    let ids = json!(["b", "unknown", "a", "over", "b"]);
    assert_eq!(scene.peer.kill(&ids).unwrap(), json!(["b", "a"]));
    for _ in 0..2 {
        let end = scene.watcher.frames_until(|f| f["args"]["state"] == "finished").unwrap();
        let args = &end.last().unwrap()["args"];
        let command = args["cmd_list"][0].as_str().unwrap();
        assert_eq!(args[format!("return_codes/{command}")], "-15");
    }
    for bad in [json!([]), json!(""), json!(5), json!(["a", 5]), json!(null), json!({})] {
        let kill = json!({ "action": "kill", "job_id": bad });
        assert_eq!(scene.peer.refused("rpc", "dispatcher", &kill).unwrap().code, 400, "{bad}");
    }
    scene.assert_clean();
}

#[test]
fn second_kill_does_not_end_a_job_twice() {
    let mut scene = Scene::new(setup());
    let mut gate = Gate::new(scene.daemon.directory(), "gate").unwrap();
    let command =
        sh(&format!("trap : TERM; echo ready; {0}; {0}; echo asked; exit 1", gate.wait()));
    scene.run("j", &command);
    assert_eq!(scene.peer.kill(&json!("j")).unwrap(), json!(["j"]));
    assert_eq!(scene.peer.kill(&json!("j")).unwrap(), json!(["j"]), "still active");
    gate.open().unwrap();
    gate.open().unwrap();
    scene.watcher.finished("j").unwrap();
    assert_eq!(scene.peer.kill(&json!("j")).unwrap(), json!([]));
    scene.peer.run(&json!({ "after": "true" })).unwrap();
    assert_eq!(scene.watcher.frame().unwrap()["args"]["process_id"], "after");
    scene.assert_clean();
}

#[test]
fn next_job_of_a_queue_waits_for_the_killed_one() {
    let mut scene = Scene::new(setup());
    let mut gate = Gate::new(scene.daemon.directory(), "gate").unwrap();
    // Its grandchild takes its time; the next job must not start meanwhile.
    let slow = sh(&format!(
        "trap 'exec 3>&-; {}; exit 0' TERM; echo ready; while :; do sleep 0.01; done",
        gate.wait()
    ));
    let command = sh(&format!("{slow} & exec sleep 1000"));
    scene.peer.submit(&json!({ "id": "a", "commands": [command], "queue": "q" })).unwrap();
    scene.peer.submit(&json!({ "id": "b", "commands": ["echo b"], "queue": "q" })).unwrap();
    scene.watcher.job_printed("a", &command, "ready\n").unwrap();
    scene.peer.kill(&json!("a")).unwrap();
    let list = scene.peer.list().unwrap();
    assert_eq!(
        (&list["q"]["a"]["state"], &list["q"]["b"]["state"]),
        (&json!("running"), &json!("pending"))
    );
    gate.open().unwrap();
    let frames = scene.watcher.frames_until(|f| f["args"]["state"] == "finished").unwrap();
    assert_eq!(frames.last().unwrap()["args"]["process_id"], "a");
    scene.watcher.finished("b").unwrap();
    scene.assert_clean();
}

#[test]
fn many_jobs_leave_nothing_behind() {
    let mut scene = Scene::new(setup());
    for round in 0..10 {
        let batch: Value = (0..20)
            .map(|number| {
                let command =
                    ["true", "false", "/nowhere", "sh -c '(true &)'", "sh -c 'kill -9 $$'"];
                (format!("{round}.{number}"), json!(command[number % command.len()]))
            })
            .collect();
        scene.peer.run(&batch).unwrap();
        let mut over = 0;
        scene
            .watcher
            .frames_until(|frame| {
                over += usize::from(frame["args"]["state"] == "finished");
                over == 20
            })
            .unwrap();
    }
    scene.assert_clean();
}

#[test]
fn all_jobs_at_once_are_killed() {
    let mut scene = Scene::new(setup().with("dispatcher.max_running", 64));
    let ids: Vec<String> = (0..80).map(|number| format!("j{number}")).collect();
    let batch: Value = ids.iter().map(|id| (id.clone(), json!("sleep 1000"))).collect();
    scene.peer.run(&batch).unwrap();
    assert_eq!(scene.peer.kill(&json!(ids)).unwrap(), json!(ids));
    let mut over = 0;
    scene
        .watcher
        .frames_until(|frame| {
            over += usize::from(frame["args"]["state"] == "finished");
            over == 80
        })
        .unwrap();
    scene.assert_clean();
}
