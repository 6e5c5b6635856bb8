//! The dispatcher driven by hand, with made-up time.

use super::*;
use serde_json::json;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

struct Driver {
    dispatcher: Dispatcher,
    start: Instant,
    elapsed: Duration,
}

fn limits() -> Limits {
    Limits {
        max_running: 2,
        max_pending: 3,
        max_commands: 10,
        log_limit: 1000,
        event_log_limit: 200,
        max_event: 100_000,
        retain_jobs: 3,
        retain_time: Duration::from_secs(100),
        output_interval: Duration::from_secs(1),
        kill_grace: Duration::from_secs(10),
    }
}

impl Driver {
    fn new() -> Driver {
        Driver {
            dispatcher: Dispatcher::new(limits()),
            start: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    fn now(&self) -> Moment {
        let wall: SystemTime = UNIX_EPOCH + Duration::from_secs(1_795_456_247) + self.elapsed;
        Moment { instant: self.start + self.elapsed, wall }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.elapsed += Duration::from_millis(milliseconds);
        let now = self.now();
        self.dispatcher.on_deadline(now);
    }

    fn run(&mut self, args: Value) -> Result<Vec<String>, Refusal> {
        let bounds = self.dispatcher.limits().bounds();
        let batch = read_run(args.as_object().unwrap(), bounds)?;
        let now = self.now();
        self.dispatcher.submit(batch, now)
    }

    fn submit(&mut self, args: Value) {
        let bounds = self.dispatcher.limits().bounds();
        let job = read_submit(args.as_object().unwrap(), || "random".into(), bounds).unwrap();
        let now = self.now();
        self.dispatcher.submit(vec![job], now).unwrap();
    }

    fn exit(&mut self, serial: Serial, code: i32) {
        let now = self.now();
        self.dispatcher.ended(serial, &Ended::Exit(Exit::Code(code)), false, now);
    }

    fn kill(&mut self, id: &str) -> Vec<String> {
        let now = self.now();
        self.dispatcher.kill(&[id.to_owned()], now)
    }

    fn gone(&mut self, serial: Serial) {
        let now = self.now();
        self.dispatcher.tree_is_gone(serial, now);
    }

    /// What is to be done, a word each; events as `state:id`.
    fn effects(&mut self) -> Vec<String> {
        let mut shown = vec![];
        while let Some(effect) = self.dispatcher.next_effect() {
            shown.push(match effect {
                Effect::Start { serial, command } => format!("start {serial}.{command}"),
                Effect::Signal { serial, kill } => {
                    format!("signal {serial} {}", if kill { 9 } else { 15 })
                }
                Effect::Release { serial } => format!("release {serial}"),
                Effect::Publish(event) => {
                    let args = args(&event);
                    format!(
                        "{}:{}",
                        args["state"].as_str().unwrap(),
                        args["process_id"].as_str().unwrap()
                    )
                }
            });
        }
        shown
    }

    /// The `args` of the events that are to be published.
    fn events(&mut self) -> Vec<Value> {
        let mut events = vec![];
        while let Some(effect) = self.dispatcher.next_effect() {
            if let Effect::Publish(event) = effect {
                events.push(args(&event));
            }
        }
        events
    }
}

#[test]
fn the_longest_chain_that_is_taken_fits_into_an_event() {
    const MAX_EVENT: usize = 64 * 1024;
    // As the configuration allows them.
    let max_commands = MAX_EVENT / 256;
    let limits = Limits { max_commands, max_event: MAX_EVENT, ..limits() };
    let mut d = Driver::new();
    d.dispatcher = Dispatcher::new(limits);
    let length = limits.bounds().max_command_bytes / max_commands;
    // All keys of their own, each as long as it may be (a backslash takes two bytes in JSON), and
    // two equal ones so that there is the list as well.
    let command = |n| format!("{n:04}{}", "\\".repeat((length - 4) / 4 * 2));
    let mut chain: Vec<String> = (1..max_commands).map(command).collect();
    chain.push(chain[0].clone());
    d.run(json!({ "j": chain })).unwrap();
    for _ in 0..max_commands {
        d.dispatcher.printed(1, &"\u{1}".repeat(1000));
        d.pass(1000);
        d.exit(1, 0);
    }
    let mut finished = false;
    while let Some(effect) = d.dispatcher.next_effect() {
        if let Effect::Publish(Event::Job(event)) = effect {
            let length = event.args(MAX_EVENT).len();
            assert!(length <= MAX_EVENT, "{length}");
            finished |= !event.is_running();
        }
    }
    assert!(finished);
}

fn args(event: &Event) -> Value {
    match event {
        Event::Job(event) => serde_json::from_str(&event.args(100_000)).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_is_pending_running_finished_and_its_chain_runs_in_order() {
    let mut d = Driver::new();
    assert_eq!(d.run(json!({"j": ["a", "b"]})).unwrap(), ["j"]);
    assert_eq!(d.effects(), ["pending:j", "start 1.0", "running:j"]);
    d.exit(1, 0);
    assert_eq!(d.effects(), ["start 1.1"]);
    d.exit(1, 3);
    assert_eq!(d.effects(), ["release 1", "finished:j"]);
}

#[test]
fn a_chain_stops_at_the_first_failure() {
    let mut d = Driver::new();
    d.run(json!({"j": ["a", "b", "c"]})).unwrap();
    d.exit(1, 0);
    d.events();
    d.exit(1, 1);
    let finished = d.events().pop().unwrap();
    assert_eq!(finished["return_codes/a"], "0");
    assert_eq!(finished["return_codes/b"], "1");
    assert_eq!(finished.get("return_codes/c"), None);
    assert_eq!(finished["time_started"], "2026-11-23T17:50:47Z");
    assert_eq!(finished["time_finished"], "2026-11-23T17:50:47Z");
}

#[test]
fn output_goes_out_soon_at_first_then_once_an_interval_and_all_of_it_once() {
    let mut d = Driver::new();
    d.run(json!({"j": "a"})).unwrap();
    d.events();
    d.dispatcher.printed(1, "1\n");
    d.pass(49);
    assert_eq!(d.events().len(), 0);
    d.pass(1);
    let first = d.events();
    assert_eq!(first[0]["a"], "1\n");
    d.dispatcher.printed(1, "2\n");
    d.pass(500);
    d.dispatcher.printed(1, "3\n");
    d.pass(499);
    assert_eq!(d.events().len(), 0);
    d.pass(1);
    assert_eq!(d.events()[0]["a"], "2\n3\n");
    d.pass(5000);
    assert_eq!(d.events().len(), 0, "nothing new, nothing told");
    d.dispatcher.printed(1, "4\n");
    d.exit(1, 0);
    let finished = d.events();
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0]["a"], "1\n2\n3\n4\n");
}

#[test]
fn a_late_subscriber_gets_what_was_told_and_no_more() {
    let mut d = Driver::new();
    d.run(json!({"j": "a"})).unwrap();
    d.dispatcher.printed(1, "told\n");
    d.pass(50);
    d.dispatcher.printed(1, "not yet\n");
    let (serial, event) = d.dispatcher.present(0).unwrap();
    assert_eq!((serial, &args(&Event::Job(event))["a"]), (1, &json!("told\n")));
    assert!(d.dispatcher.present(2).is_none());
}

#[test]
fn a_program_that_cannot_be_started_says_why_in_its_log() {
    let mut d = Driver::new();
    d.run(json!({"j": ["a", "b"]})).unwrap();
    d.events();
    let now = d.now();
    d.dispatcher.ended(1, &Ended::NotStarted("cannot run: a: no".into()), false, now);
    let finished = d.events().pop().unwrap();
    assert_eq!(finished["return_codes/a"], "-1");
    assert_eq!(finished["a"], "cannot run: a: no\n");
    assert_eq!(finished.get("return_codes/b"), None);
}

#[test]
fn a_signal_is_a_negative_code() {
    let mut d = Driver::new();
    d.run(json!({"j": "a"})).unwrap();
    let now = d.now();
    d.dispatcher.ended(1, &Ended::Exit(Exit::Signal(11)), true, now);
    let finished = d.events().pop().unwrap();
    assert_eq!(finished["return_codes/a"], "-11");
    assert!(finished["a"].as_str().unwrap().starts_with("[output was still open"));
}

#[test]
fn as_many_run_as_may_and_the_rest_waits_up_to_a_number() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x", "d": "x", "e": "x"})).unwrap();
    let effects = d.effects();
    assert_eq!(effects.iter().filter(|e| e.starts_with("start")).count(), 2);
    assert_eq!(d.run(json!({"f": "x"})).unwrap_err().code, ErrorCode::TooMany);
    d.exit(1, 0);
    assert!(d.effects().contains(&"start 3.0".to_owned()));
    assert_eq!(d.run(json!({"f": "x", "g": "x"})).unwrap_err().code, ErrorCode::TooMany);
    assert_eq!(d.dispatcher.counts(), Counts { pending: 2, running: 2, finished: 1 });
    d.run(json!({"f": "x"})).unwrap();
}

#[test]
fn an_active_id_is_a_conflict_and_all_or_nothing_holds() {
    let mut d = Driver::new();
    d.run(json!({"a": "x"})).unwrap();
    assert_eq!(d.run(json!({"b": "x", "a": "x"})).unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(d.dispatcher.counts().running, 1);
    d.exit(1, 0);
    assert_eq!(d.run(json!({"a": "x"})).unwrap(), ["a"]);
    assert_eq!(d.dispatcher.counts().finished, 0, "the old one of that id is forgotten");
}

#[test]
fn jobs_of_one_queue_run_one_at_a_time_and_others_pass_by() {
    let mut d = Driver::new();
    d.submit(json!({"id": "q1", "commands": ["x"], "queue": "q"}));
    d.submit(json!({"id": "q2", "commands": ["x"], "queue": "q"}));
    d.submit(json!({"id": "free", "commands": ["x"]}));
    let started: Vec<_> = d.effects().into_iter().filter(|e| e.starts_with("start")).collect();
    assert_eq!(started, ["start 1.0", "start 3.0"]);
    assert_eq!(d.dispatcher.list()["jobs"]["q"]["q2"]["queue_position"], "1");
    d.exit(3, 0);
    assert!(!d.effects().contains(&"start 2.0".to_owned()));
    d.exit(1, 1);
    assert!(d.effects().contains(&"start 2.0".to_owned()));
}

#[test]
fn a_pending_job_that_is_killed_is_finished_at_once() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    d.events();
    assert_eq!(d.kill("c"), ["c"]);
    assert_eq!(d.kill("c"), Vec::<String>::new());
    let events = d.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["state"], "finished");
    assert_eq!(events[0]["cmd_list"], json!(["x"]));
    assert_eq!(events[0].get("return_codes/x"), None);
}

#[test]
fn a_running_job_is_asked_then_forced_and_finished_when_its_tree_is_gone() {
    let mut d = Driver::new();
    d.run(json!({"a": ["x", "y"]})).unwrap();
    d.effects();
    assert_eq!(d.kill("a"), ["a"]);
    assert_eq!(d.kill("a"), ["a"], "still active");
    assert_eq!(d.effects(), ["signal 1 15"]);
    d.gone(1);
    assert_eq!(d.effects(), Vec::<String>::new(), "the command itself has not ended");
    let now = d.now();
    d.dispatcher.ended(1, &Ended::Exit(Exit::Signal(15)), false, now);
    assert_eq!(d.effects(), ["signal 1 15"], "grandchildren are asked again");
    d.pass(10_000);
    assert!(d.effects().contains(&"signal 1 9".to_owned()));
    d.gone(1);
    let finished = d.events().pop().unwrap();
    assert_eq!(finished["return_codes/x"], "-15");
    assert_eq!(finished["x"], "[killed]\n");
    assert_eq!(finished.get("return_codes/y"), None);
}

#[test]
fn a_process_that_is_ended_with_its_job_was_not_left_behind() {
    let mut d = Driver::new();
    d.run(json!({"a": "x"})).unwrap();
    d.kill("a");
    let now = d.now();
    d.dispatcher.ended(1, &Ended::Exit(Exit::Signal(15)), true, now);
    d.gone(1);
    assert_eq!(d.events().pop().unwrap()["x"], "[killed]\n");
}

#[test]
fn a_list_of_long_commands_tells_how_they_begin() {
    let mut d = Driver::new();
    let long = format!("{}ü", "x".repeat(5999));
    d.run(json!({"a": [long, "short"], "b": long})).unwrap();
    let commands =
        |d: &Driver, id: &str| d.dispatcher.list()["jobs"]["no_queue"][id]["commands"].clone();
    assert_eq!(commands(&d, "a"), json!([long, "short"]));
    d.dispatcher.limits.max_event = 9000;
    let cut = format!("{}[… 3001 bytes left out …]", "x".repeat(3000));
    assert_eq!(commands(&d, "a"), json!([cut, "short"]));
    d.dispatcher.limits.max_event = 3 * 6000;
    assert_eq!(commands(&d, "b"), json!([long]), "all of them fit");
}

#[test]
fn what_cannot_be_ended_is_left_behind_after_a_bounded_time() {
    let mut d = Driver::new();
    d.run(json!({"a": "x"})).unwrap();
    d.kill("a");
    d.events();
    for _ in 0..3 {
        d.pass(10_000);
        assert_eq!(d.effects(), ["signal 1 9"]);
    }
    d.pass(10_000);
    let finished = d.events().pop().unwrap();
    assert_eq!(finished["state"], "finished");
    assert_eq!(finished["return_codes/x"], "-9");
    assert!(finished["x"].as_str().unwrap().contains("cannot be ended"));
}

#[test]
fn a_timeout_ends_a_job_and_says_so() {
    let mut d = Driver::new();
    d.submit(json!({"id": "a", "commands": ["x"], "timeout": 5}));
    d.events();
    d.pass(4999);
    assert_eq!(d.effects(), Vec::<String>::new());
    d.pass(1);
    assert_eq!(d.effects(), ["signal 1 15"]);
    let now = d.now();
    d.dispatcher.ended(1, &Ended::Exit(Exit::Code(0)), false, now);
    d.gone(1);
    assert_eq!(d.events().pop().unwrap()["x"], "[timed out]\n");
}

#[test]
fn a_daemon_that_stops_finishes_every_job_once_and_takes_none() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    d.effects();
    let now = d.now();
    d.dispatcher.stop(now);
    assert_eq!(d.effects(), ["release 3", "finished:c", "signal 1 15", "signal 2 15"]);
    assert!(d.run(json!({"d": "x"})).is_err());
    for serial in [1, 2] {
        d.exit(serial, 0);
        d.gone(serial);
    }
    assert!(d.dispatcher.is_idle());
    let finished = d.effects();
    assert_eq!(finished.iter().filter(|e| e.starts_with("finished")).count(), 2);
}

#[test]
fn finished_jobs_are_kept_by_number_and_by_age() {
    let mut d = Driver::new();
    for id in ["a", "b", "c", "d"] {
        d.run(json!({ id: "x" })).unwrap();
        let serial = d.dispatcher.next_serial() - 1;
        d.exit(serial, 0);
    }
    let list = d.dispatcher.list();
    let ids: Vec<&String> = list["jobs"]["no_queue"].as_object().unwrap().keys().collect();
    assert_eq!(ids, ["b", "c", "d"]);
    d.pass(100_000);
    assert_eq!(d.dispatcher.list(), json!({"jobs": {"no_queue": {}}}));
    assert_eq!(d.dispatcher.log("d", 0, None).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn finished_jobs_are_kept_by_the_memory_that_they_hold_too() {
    let mut d = Driver::new();
    for id in ["a", "b", "c"] {
        // Three of them hold more than three logs of the limit.
        d.run(json!({ id: "x".repeat(290) })).unwrap();
        let serial = d.dispatcher.next_serial() - 1;
        d.exit(serial, 0);
    }
    let list = d.dispatcher.list();
    let ids: Vec<&String> = list["jobs"]["no_queue"].as_object().unwrap().keys().collect();
    assert_eq!(ids, ["b", "c"]);
    d.pass(100_000);
    assert_eq!(d.dispatcher.finished_bytes, 0);
}

#[test]
fn a_log_is_read_in_parts_that_join_to_the_whole() {
    let mut d = Driver::new();
    d.run(json!({"a": "x"})).unwrap();
    let text: String = (0..300).map(|i| format!("zeile ü {i}\n")).collect();
    d.dispatcher.printed(1, &text);
    let running = d.dispatcher.log("a", 0, None).unwrap();
    assert_eq!(running["eof"], false);
    assert!(text.starts_with(running["data"].as_str().unwrap()));
    d.exit(1, 0);
    let mut read = String::new();
    loop {
        let part = d.dispatcher.log("a", read.len() as u64, Some(17)).unwrap();
        read += part["data"].as_str().unwrap();
        assert_eq!(part["next"], read.len());
        if part["eof"] == true {
            break;
        }
    }
    assert!(read.contains("bytes left out"));
    assert!(read.starts_with("zeile ü 0\n") && read.ends_with("zeile ü 299\n"));
    assert!(read.starts_with(running["data"].as_str().unwrap()), "offsets hold when the job ends");
    assert_eq!(d.dispatcher.log("a", 1 << 40, None).unwrap()["data"], "");
}

#[test]
fn output_past_the_limit_is_told_as_left_out() {
    let mut d = Driver::new();
    d.run(json!({"a": "x"})).unwrap();
    d.events();
    for _ in 0..100 {
        d.dispatcher.printed(1, "0123456789\n");
    }
    d.pass(50);
    let piece = d.events().pop().unwrap();
    assert!(piece["x"].as_str().unwrap().contains("[… 900 bytes left out …]"), "{piece}");
    d.exit(1, 0);
    let finished = d.events().pop().unwrap();
    assert!(finished["x"].as_str().unwrap().contains("[… 900 bytes left out …]"));
}

#[test]
fn a_class_travels_in_its_envelope() {
    let mut d = Driver::new();
    d.run(json!({"sysadm_pkg_check_upgrade-1": "pkg upgrade -n"})).unwrap();
    d.dispatcher.printed(1, "Checking\n");
    d.pass(50);
    d.dispatcher.printed(1, "Your packages are up to date.\n");
    d.exit(1, 0);
    let events: Vec<Value> = {
        let mut events = vec![];
        while let Some(effect) = d.dispatcher.next_effect() {
            if let Effect::Publish(Event::Job(event)) = effect {
                events.push(serde_json::from_str(&event.args(100_000)).unwrap());
            }
        }
        events
    };
    assert_eq!(events[0]["pkg_log"], "");
    assert_eq!(events[0]["action"], "pkg_check_upgrade");
    assert_eq!(events[2]["pkg_log"], "Checking\n");
    let finished = &events[3];
    assert_eq!(finished["pkg_log"], "Your packages are up to date.\n");
    assert_eq!(finished["updates_available"], "false");
    assert_eq!(
        finished["process_details"]["pkg upgrade -n"],
        "Checking\nYour packages are up to date.\n"
    );
}
