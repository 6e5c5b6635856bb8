//! Hundreds of jobs while random faults are injected: no job is lost, none runs twice, each has one
//! outcome, and reconnecting subscribers get it.
//!
//! The seed is printed, and `MERCILESS_SEED` repeats it. A seed does not fix the system's timing,
//! so a failure may need a few runs to recur.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Daemon, Outcome, PATIENCE, Peer, Setup};

use super::PROGRAM;

const FAULTS: usize = 100;
const JOBS_A_FAULT: usize = 3;

/// Pseudo-random numbers (the multiplier is Knuth's for 64 bits).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Submits jobs, and restarts broken processes.
struct Fixture {
    setup: Setup,
    daemon: Option<Daemon>,
    control: Option<Peer>,
    dice: Dice,
    /// Accepted jobs.
    taken: BTreeSet<String>,
}

impl Fixture {
    fn daemon(&mut self) -> &Daemon {
        let setup = &self.setup;
        self.daemon.get_or_insert_with(|| setup.start().unwrap())
    }

    fn control(&mut self) -> Outcome<&mut Peer> {
        if self.control.is_none() {
            self.control = Some(Peer::local(self.daemon())?);
        }
        self.control.as_mut().ok_or_else(|| "no connection".into())
    }

    /// Submits a job until it is accepted. After a lost reply the list says whether it was.
    fn submit(&mut self, number: usize) {
        let id = format!("job{number}");
        let marker = self.setup.directory().join("ran").join(&id);
        let pause = self.dice.roll(15) as f64 / 100.0;
        let script =
            format!("echo x >>{}; echo begin {id}; sleep {pause}; echo end {id}", marker.display());
        let mut args = json!({ "action": "submit", "id": id, "commands": [["sh", "-c", script]] });
        if self.dice.roll(3) == 0 {
            args["queue"] = format!("q{}", self.dice.roll(4)).into();
        }
        let patience = Instant::now() + PATIENCE;
        while !self.try_submit(&id, &args) {
            assert!(Instant::now() < patience, "{id} is never taken");
        }
        self.taken.insert(id);
    }

    fn try_submit(&mut self, id: &str, args: &Value) -> bool {
        let Ok(control) = self.control() else { return false };
        let tried = control.request("rpc", "dispatcher", args);
        match tried {
            Ok(_) => return true,
            // Refused: the limit is reached, or nothing can be persisted.
            Err(error) if error.to_string().contains("was answered") => {
                let _ = control.idle(Duration::from_millis(20));
            }
            Err(_) => self.control = None,
        }
        let Ok(control) = self.control() else { return false };
        match list(control) {
            Ok(jobs) => jobs.contains_key(id),
            Err(_) => {
                self.control = None;
                false
            }
        }
    }

    fn store(&mut self) -> Option<Pid> {
        let status = self.control().ok()?.request("rpc", "status", &Value::Null).ok()?;
        Some(Pid::from_raw(i32::try_from(status["store"]["pid"].as_i64()?).ok()?))
    }

    /// Injects a fault.
    fn fault(&mut self) {
        match self.dice.roll(6) {
            0 => {
                if let Some(daemon) = self.daemon.take() {
                    daemon.crash().unwrap();
                }
                self.control = None;
            }
            1 => {
                if let Some(daemon) = self.daemon.take() {
                    daemon.stop().unwrap();
                }
                self.control = None;
            }
            2 => {
                // Both at once: the store is stopped, and then its daemon dies.
                if let (Some(store), Some(daemon)) = (self.store(), self.daemon.take()) {
                    let _ = kill(store, Signal::SIGSTOP);
                    daemon.crash().unwrap();
                    self.control = None;
                }
            }
            3 => {
                let _ = self.store().map(|store| kill(store, Signal::SIGKILL));
            }
            4 => {
                let _ = self.store().map(|store| kill(store, Signal::SIGSTOP));
            }
            _ => {
                if let Some(store) = self.store() {
                    let limit = |bytes: &str| {
                        let pid = store.to_string();
                        let fsize = format!("--fsize={bytes}");
                        // Without prlimit, or without the privilege, this fault is skipped.
                        let _ = Command::new("prlimit").args(["--pid", &pid, &fsize]).output();
                    };
                    limit("1:unlimited");
                    let refused = json!({ "action": "submit", "id": "no", "commands": ["true"] });
                    if let Ok(control) = self.control()
                        && control.request("rpc", "dispatcher", &refused).is_ok()
                    {
                        self.taken.insert("no".to_owned());
                    }
                    limit("unlimited:unlimited");
                }
            }
        }
    }
}

/// All jobs that the daemon knows, by id.
fn list(peer: &mut Peer) -> Outcome<BTreeMap<String, Value>> {
    let list = peer.list()?;
    let queues = list.as_object().ok_or("no jobs in the list")?;
    let jobs = queues.values().filter_map(Value::as_object).flatten();
    Ok(jobs.map(|(id, job)| (id.clone(), job.clone())).collect())
}

/// Ends received by the reconnecting subscriber, by job.
#[derive(Default)]
struct Heard {
    ends: Mutex<BTreeMap<String, BTreeSet<String>>>,
    gaps: Mutex<usize>,
    over: AtomicBool,
}

/// Subscribes, disconnects at random, resumes, and so on.
fn come_and_go(socket: &Path, mut dice: Dice, heard: &Heard) {
    let mut since = Value::Null;
    while !heard.over.load(Ordering::Relaxed) {
        // It ends where the daemon does; then it is retried.
        let _ = listen(socket, &mut dice, &mut since, heard);
    }
}

fn listen(socket: &Path, dice: &mut Dice, since: &mut Value, heard: &Heard) -> Outcome<()> {
    let mut peer = Peer::at(socket)?;
    let mut args = json!({ "events": ["dispatcher"] });
    if since.is_null() {
        args["jobs"] = Value::Null;
    } else {
        args["since"] = since.clone();
    }
    let reply = peer.request("events", "subscribe", &args)?;
    if since.is_null() {
        *since = json!({ "epoch": reply["epoch"], "seq": reply["seq"] });
    }
    peer.set_patience(Duration::from_millis(200))?;
    let mut last = 0;
    // Often in the middle of a replay; sometimes at its end.
    let longest = [60, 1000][dice.roll(2)];
    for _ in 0..dice.roll(longest) {
        let frame = peer.frame()?;
        let seq = frame["seq"].as_u64().ok_or("an event without a number")?;
        assert!(seq >= last, "the numbers fell from {last} to {seq}");
        last = seq;
        if frame["name"] == "gap" {
            *heard.gaps.lock().unwrap() += 1;
        }
        let args = &frame["args"];
        if args["state"] == "finished" {
            let id = args["process_id"].as_str().ok_or("no id")?.to_owned();
            let codes = args.as_object().into_iter().flatten();
            let codes: Vec<String> = codes
                .filter(|(key, _)| key.starts_with("return_codes/"))
                .map(|(_, code)| code.to_string())
                .collect();
            let end = format!("{} {codes:?}", args["time_finished"]);
            heard.ends.lock().unwrap().entry(id).or_default().insert(end);
        }
        // Only now: a read event counts as received.
        *since = json!({ "epoch": frame["epoch"], "seq": seq });
    }
    Ok(())
}

/// Reads a frame now and then.
fn read_slowly(socket: &Path, heard: &Heard) {
    while !heard.over.load(Ordering::Relaxed) {
        let slowly = || -> Outcome<()> {
            let mut peer = Peer::at(socket)?;
            peer.subscribe()?;
            peer.set_patience(Duration::from_millis(200))?;
            loop {
                peer.frame()?;
                thread::park_timeout(Duration::from_millis(30));
            }
        };
        let _ = slowly();
    }
}

/// Subscribes and never reads.
fn never_read(socket: &Path, heard: &Heard) {
    while !heard.over.load(Ordering::Relaxed) {
        let silent = Peer::at(socket).and_then(|mut peer| {
            peer.subscribe()?;
            Ok(peer)
        });
        thread::park_timeout(Duration::from_millis(500));
        drop(silent);
    }
}

fn seed() -> u64 {
    match std::env::var("MERCILESS_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
    }
}

#[test]
fn random_faults_lose_or_repeat_no_job_and_no_outcome() {
    let seed = seed();
    println!("MERCILESS_SEED={seed}");
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("store.deadline", r#""200ms""#)
        .with("dispatcher.retain_jobs", 1000)
        .with("dispatcher.kill_grace", r#""500ms""#)
        .with("server.close_timeout", r#""200ms""#)
        .with("events.ring", r#""256KiB""#)
        .with("server.outbox", r#""512KiB""#);
    let ran = setup.directory().join("ran");
    fs::create_dir(&ran).unwrap();
    let mut fixture =
        Fixture { setup, daemon: None, control: None, dice: Dice(seed), taken: BTreeSet::new() };
    fixture.daemon();
    let socket: PathBuf = fixture.setup.directory().join("socket");
    let heard = Arc::new(Heard::default());
    let listeners: Vec<_> = {
        let (path, ours, dice) = (socket.clone(), heard.clone(), Dice(seed ^ 1));
        let returning = thread::spawn(move || come_and_go(&path, dice, &ours));
        let (path, ours) = (socket.clone(), heard.clone());
        let slow = thread::spawn(move || read_slowly(&path, &ours));
        let (path, ours) = (socket, heard.clone());
        let silent = thread::spawn(move || never_read(&path, &ours));
        vec![returning, slow, silent]
    };
    for fault in 0..FAULTS {
        for job in 0..JOBS_A_FAULT {
            fixture.submit(fault * JOBS_A_FAULT + job);
        }
        fixture.fault();
    }
    // No more faults; every accepted job ends.
    let patience = Instant::now() + PATIENCE;
    let jobs = loop {
        let jobs = fixture.control().and_then(list);
        match &jobs {
            Ok(done) if done.values().all(|job| job["state"] == "finished") => {
                break done.clone();
            }
            Ok(_) => {}
            Err(_) => fixture.control = None,
        }
        if Instant::now() > patience {
            let status = fixture.control().and_then(|c| c.request("rpc", "status", &Value::Null));
            let log = fixture.daemon().log().lines().join("\n");
            panic!("jobs do not come to their end: {jobs:?}\n{status:?}\n{log}");
        }
    };
    for id in &fixture.taken {
        let job = jobs.get(id).unwrap_or_else(|| panic!("{id} was taken and is not known"));
        let codes = &job["return_codes"];
        let known = [json!(["0"]), json!(["-1"]), json!(["-15"]), json!(["-9"]), json!([])];
        assert!(known.contains(codes), "{id}: {codes}");
        let ran = fs::read_to_string(ran.join(id)).unwrap_or_default();
        assert!(ran.len() <= 2, "{id} ran more than once");
        assert!(*codes != json!(["0"]) || ran == "x\n" || id == "no", "{id} did not run");
    }
    // A resuming subscriber gets every end, and always the same one.
    let patience = Instant::now() + PATIENCE;
    let received = |heard: &Heard| {
        let ends = heard.ends.lock().unwrap();
        fixture.taken.iter().filter(|id| !ends.contains_key(*id)).cloned().collect::<Vec<_>>()
    };
    while !received(&heard).is_empty() {
        assert!(Instant::now() < patience, "no event of {:?}", received(&heard));
        thread::park_timeout(Duration::from_millis(20));
    }
    heard.over.store(true, Ordering::Relaxed);
    for listener in listeners {
        listener.join().unwrap();
    }
    let ends = heard.ends.lock().unwrap();
    for (id, ends) in ends.iter().filter(|(id, _)| fixture.taken.contains(*id) && *id != "no") {
        assert_eq!(ends.len(), 1, "{id} has {ends:?}");
    }
    assert!(*heard.gaps.lock().unwrap() > 0, "so many daemons, and no gap was told");
    fixture.daemon.take().unwrap().stop().unwrap();
}
