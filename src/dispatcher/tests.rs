//! The dispatcher driven by hand, with made-up time.

mod order;

use super::*;
use crate::helper::store::{Kind, Loaded, LogEnd, Record};
use crate::sys::spawn::RunAs;
use crate::wire::{Command, Event, Excerpt, Frame, JobCommand, JobId, Request};
use serde_json::{Value, json};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The request of that action with these arguments.
fn parse(action: &str, mut args: Value) -> Result<JobCommand, Refusal> {
    args["action"] = action.into();
    let text = json!({"namespace": "rpc", "name": "dispatcher", "args": args}).to_string();
    match Request::parse(&text) {
        Ok(Frame::Request(Request { command: Ok(Command::Job(command)), .. })) => Ok(command),
        Ok(Frame::Request(Request { command: Err(refusal), .. })) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

pub(super) struct Driver {
    pub(super) dispatcher: Dispatcher,
    start: Instant,
    /// Wall-clock time at the start.
    epoch: SystemTime,
    elapsed: Duration,
    /// Effects that were not examined yet.
    done: Vec<Effect>,
    /// Records become durable at once.
    keeps: bool,
    /// Durable records, in order.
    records: Vec<Value>,
}

fn limits() -> JobLimits {
    JobLimits {
        max_running: 2,
        max_pending: 3,
        max_commands: 10,
        log_limit: 1000,
        event_log_limit: 200,
        max_event: 100_000,
        retain_jobs: 3,
        retain_time: Duration::from_secs(100),
        retain_environment: 1000,
        output_interval: Duration::from_secs(1),
        kill_grace: Duration::from_secs(10),
        end_patience: Duration::from_secs(60),
    }
}

impl Driver {
    pub(super) fn new() -> Driver {
        Driver {
            dispatcher: Dispatcher::new(limits(), true),
            start: Instant::now(),
            epoch: UNIX_EPOCH + Duration::from_secs(1_795_456_247),
            elapsed: Duration::ZERO,
            done: vec![],
            keeps: true,
            records: vec![],
        }
    }

    /// A daemon that finds these records in its journal.
    fn restarted(records: &[Value], damaged: bool) -> (Driver, Vec<Interrupted>) {
        Driver::restarted_with(records, Loaded { damaged, ..Loaded::default() }, Driver::new())
    }

    fn restarted_with(
        records: &[Value],
        loaded: Loaded,
        mut driver: Driver,
    ) -> (Driver, Vec<Interrupted>) {
        let records = records.iter().map(|record| Record {
            serial: record["serial"].as_u64().unwrap(),
            kind: serde_json::from_value(record["is"].clone()).unwrap(),
            text: record.to_string(),
        });
        let loaded = Loaded { records: records.collect(), ..loaded };
        let now = driver.now();
        // Jobs that ran have printed something.
        let ran = |serial| {
            let of_job = loaded.records.iter().filter(|record| record.serial == serial);
            of_job.into_iter().any(|record| record.kind != Kind::Filed)
        };
        let end = |serial| LogEnd { total: if ran(serial) { 10 } else { 0 }, midway: true };
        let interrupted = driver.dispatcher.restore(&loaded, end, now);
        driver.settle();
        (driver, interrupted)
    }

    /// Carries out effects like the daemon.
    fn settle(&mut self) {
        loop {
            self.carry_out_effects();
            let now = self.now();
            if !self.dispatcher.go_on(now) {
                break;
            }
        }
    }

    fn carry_out_effects(&mut self) {
        while let Some(effect) = self.dispatcher.next_effect() {
            match effect {
                Effect::Persist { serial, step, record } if self.keeps => {
                    self.records.push(serde_json::from_slice(&record).unwrap());
                    let now = self.now();
                    self.dispatcher.persisted(serial, step, now);
                }
                Effect::Note { record } => {
                    self.records.push(serde_json::from_slice(&record).unwrap());
                }
                other => self.done.push(other),
            }
        }
    }

    fn now(&self) -> Moment {
        Moment { instant: self.start + self.elapsed, wall: self.epoch + self.elapsed }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.elapsed += Duration::from_millis(milliseconds);
        let now = self.now();
        self.dispatcher.on_deadline(now);
        self.settle();
    }

    fn print(&mut self, serial: Serial, text: &str) {
        self.dispatcher.printed(serial, text.as_bytes());
        self.settle();
    }

    fn run(&mut self, args: Value) -> Result<Vec<String>, Refusal> {
        let bounds = self.dispatcher.limits().bounds();
        let JobCommand::Run(batch) = parse("run", args)? else { panic!() };
        let batch = batch.into_iter().map(|job| Submission::new(job, &self.dispatcher, bounds));
        let batch = batch.collect::<Result<_, _>>()?;
        let serials = self.dispatcher.submit(batch)?;
        let id = |serial: &Serial| self.dispatcher.id(*serial).unwrap().to_owned();
        let ids = serials.iter().map(id).collect();
        self.settle();
        Ok(ids)
    }

    fn submission(&self, args: Value) -> Submission {
        let bounds = self.dispatcher.limits().bounds();
        let JobCommand::Submit(job) = parse("submit", args).unwrap() else { panic!() };
        Submission::new(*job, &self.dispatcher, bounds).unwrap()
    }

    fn submit(&mut self, args: Value) {
        let job = self.submission(args);
        self.dispatcher.submit(vec![job]).unwrap();
        self.settle();
    }

    fn exit(&mut self, serial: Serial, code: i32) {
        let now = self.now();
        self.dispatcher.ended(serial, &Ended::Exit(Exit::Code(code)), false, now);
        self.settle();
    }

    fn ended(&mut self, serial: Serial, ended: &Ended, left_open: bool) {
        let now = self.now();
        self.dispatcher.ended(serial, ended, left_open, now);
        self.settle();
    }

    fn kill(&mut self, id: &str) -> Vec<String> {
        let now = self.now();
        let killed = self.dispatcher.kill(&[JobId::from(id.to_owned())], Some("root"), now);
        self.settle();
        killed.unwrap().into_iter().map(String::from).collect()
    }

    fn gone(&mut self, serial: Serial) {
        let now = self.now();
        self.dispatcher.tree_is_gone(serial, now);
        self.settle();
    }

    fn stop(&mut self) {
        let now = self.now();
        self.dispatcher.stop(now);
        self.settle();
    }

    /// The effects, one word each; events as `state:id`.
    fn effects(&mut self) -> Vec<String> {
        let mut shown = vec![];
        for effect in self.done.drain(..) {
            shown.push(match effect {
                Effect::Start { serial, command } => format!("start {serial}.{command}"),
                Effect::Signal { serial, kill } => {
                    format!("signal {serial} {}", if kill { 9 } else { 15 })
                }
                Effect::Release { serial } => format!("release {serial}"),
                Effect::Persist { serial, step, .. } => format!("keep {serial} {step:?}"),
                Effect::Forget { serial } => format!("forget {serial}"),
                Effect::PublishOutcome { serial } => format!("publish outcome {serial}"),
                Effect::Note { .. }
                | Effect::Log { .. }
                | Effect::Failed { .. }
                | Effect::Publish(Event::Queue(_)) => {
                    continue;
                }
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

    /// The `args` of published events.
    fn events(&mut self) -> Vec<Value> {
        let mut events = vec![];
        for effect in self.done.drain(..) {
            if let Effect::Publish(event) = effect {
                events.push(args(&event));
            }
        }
        events
    }

    /// Output appended to logs.
    fn logged(&mut self) -> String {
        let mut logged = String::new();
        for effect in self.done.drain(..) {
            if let Effect::Log { at, bytes, .. } = effect {
                assert_eq!(at, logged.len() as u64, "pieces join");
                logged += std::str::from_utf8(&bytes).unwrap();
            }
        }
        logged
    }
}

#[test]
fn the_longest_chain_that_is_taken_fits_into_an_event() {
    const MAX_EVENT: usize = 64 * 1024;
    // The limits of the configuration.
    let max_commands = MAX_EVENT / 256;
    let limits = JobLimits { max_commands, max_event: MAX_EVENT, ..limits() };
    let mut d = Driver::new();
    d.dispatcher = Dispatcher::new(limits, true);
    let length = limits.bounds().max_command_bytes / max_commands;
    // All keys distinct, each of maximum length (a backslash takes two bytes in JSON), and two
    // equal ones so that the list is included.
    let command = |n| format!("{n:04}{}", "\\".repeat((length - 4) / 4 * 2));
    let mut chain: Vec<String> = (1..max_commands).map(command).collect();
    chain.push(chain[0].clone());
    d.run(json!({ "j": chain })).unwrap();
    for _ in 0..max_commands {
        d.print(1, &"\u{1}".repeat(1000));
        d.pass(1000);
        d.exit(1, 0);
    }
    let mut finished = false;
    for effect in d.done {
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
fn job_is_pending_running_finished_and_its_chain_is_in_order() {
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
fn output_is_sent_early_then_once_an_interval_without_repetition() {
    let mut d = Driver::new();
    d.run(json!({"j": "a"})).unwrap();
    d.events();
    d.print(1, "1\n");
    d.pass(49);
    assert_eq!(d.events().len(), 0);
    d.pass(1);
    let first = d.events();
    assert_eq!(first[0]["a"], "1\n");
    d.print(1, "2\n");
    d.pass(500);
    d.print(1, "3\n");
    d.pass(499);
    assert_eq!(d.events().len(), 0);
    d.pass(1);
    assert_eq!(d.events()[0]["a"], "2\n3\n");
    d.pass(5000);
    assert_eq!(d.events().len(), 0, "nothing new, nothing told");
    d.print(1, "4\n");
    d.exit(1, 0);
    let finished = d.events();
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0]["a"], "1\n2\n3\n4\n");
}

#[test]
fn late_subscriber_gets_exactly_the_reported_output() {
    let mut d = Driver::new();
    d.run(json!({"j": "a"})).unwrap();
    d.print(1, "told\n");
    d.pass(50);
    d.print(1, "not yet\n");
    let (serial, event) = d.dispatcher.present(0).unwrap();
    assert_eq!((serial, &args(&Event::Job(event))["a"]), (1, &json!("told\n")));
    assert!(d.dispatcher.present(2).is_none());
}

#[test]
fn short_log_leaves_its_room_to_a_long_one() {
    let limits = JobLimits { max_event: 1000, event_log_limit: 4000, log_limit: 4000, ..limits() };
    let dispatcher = Dispatcher::new(limits, true);
    let mut d = Driver { dispatcher, ..Driver::new() };
    d.run(json!({"j": ["long", "short"]})).unwrap();
    d.print(1, &"x".repeat(2000));
    d.pass(1000);
    d.exit(1, 0);
    d.print(1, "short\n");
    d.pass(1000);
    d.exit(1, 0);
    let finished = d.events().pop().unwrap();
    assert_eq!(finished["short"], "short\n");
    let long = finished["long"].as_str().unwrap().len();
    assert!(long > 900, "{long} bytes");
}

#[test]
fn unstartable_program_has_the_reason_in_its_log() {
    let mut d = Driver::new();
    d.run(json!({"j": ["a", "b"]})).unwrap();
    d.events();
    d.ended(1, &Ended::NotStarted("cannot run: a: no".into()), false);
    let finished = d.events().pop().unwrap();
    assert_eq!(finished["return_codes/a"], "-1");
    assert_eq!(finished["a"], "cannot run: a: no\n");
    assert_eq!(finished.get("return_codes/b"), None);
}

#[test]
fn a_signal_is_a_negative_code() {
    let mut d = Driver::new();
    d.run(json!({"j": "a"})).unwrap();
    d.ended(1, &Ended::Exit(Exit::Signal(11)), true);
    let finished = d.events().pop().unwrap();
    assert_eq!(finished["return_codes/a"], "-11");
    assert!(finished["a"].as_str().unwrap().starts_with("[output was still open"));
}

#[test]
fn running_and_pending_jobs_are_limited() {
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
fn queue_runs_one_job_at_a_time_and_blocks_no_other() {
    let mut d = Driver::new();
    d.submit(json!({"id": "q1", "commands": ["x"], "queue": "q"}));
    d.submit(json!({"id": "q2", "commands": ["x"], "queue": "q"}));
    d.submit(json!({"id": "free", "commands": ["x"]}));
    let started: Vec<_> = d.effects().into_iter().filter(|e| e.starts_with("start")).collect();
    assert_eq!(started, ["start 1.0", "start 3.0"]);
    assert_eq!(d.dispatcher.list(None).unwrap()["jobs"]["q"]["q2"]["queue_position"], "1");
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
fn killed_job_gets_sigterm_then_sigkill_until_its_tree_is_gone() {
    let mut d = Driver::new();
    d.run(json!({"a": ["x", "y"]})).unwrap();
    d.effects();
    assert_eq!(d.kill("a"), ["a"]);
    assert_eq!(d.kill("a"), ["a"], "still active");
    assert_eq!(d.effects(), ["signal 1 15"]);
    d.gone(1);
    assert_eq!(d.effects(), Vec::<String>::new(), "the command itself has not ended");
    d.ended(1, &Ended::Exit(Exit::Signal(15)), false);
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
    d.ended(1, &Ended::Exit(Exit::Signal(15)), true);
    d.gone(1);
    assert_eq!(d.events().pop().unwrap()["x"], "[killed]\n");
}

#[test]
fn list_has_pages_of_bounded_size_that_are_complete_together() {
    let mut d = Driver::new();
    d.dispatcher.limits.max_pending = 1000;
    // Each takes twice its length as JSON.
    let long = format!("x '{}'", "\"".repeat(2000));
    let mut asked = Vec::new();
    for number in 0..200 {
        asked.push(format!("j{number}"));
        d.run(json!({ asked[number].as_str(): long })).unwrap();
    }
    for serial in 1..=2 {
        d.exit(serial, 0);
    }
    let (mut listed, mut page, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let list = d.dispatcher.list(page.as_deref()).unwrap();
        assert!(list.to_string().len() < LIST_PAGE + 4096);
        let jobs = list["jobs"]["no_queue"].as_object().unwrap();
        listed.extend(jobs.iter().map(|(id, job)| (id.clone(), job["state"].clone())));
        pages += 1;
        match &list["next"] {
            Value::Null => break,
            next => page = Some(next.as_str().unwrap().to_owned()),
        }
    }
    assert!(pages > 5, "{pages}");
    let (mut active, mut finished): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|(_, state)| state != "finished");
    // Finished jobs are on the last pages, and each page is in the order of the jobs.
    active.append(&mut finished);
    let ids: Vec<&String> = active.iter().map(|(id, _)| id).collect();
    let order: Vec<&String> = asked[2..].iter().chain(&asked[..2]).collect();
    assert_eq!(ids, order);
    for wrong in ["", "x1", "a", "f-1", "é"] {
        assert_eq!(d.dispatcher.list(Some(wrong)).unwrap_err().code, ErrorCode::BadRequest);
    }
}

#[test]
fn kill_of_many_jobs_ends_a_few_at_once_and_the_rest_in_steps() {
    const JOBS: usize = 100;
    let mut d = Driver::new();
    let limits = JobLimits { max_pending: JOBS, max_running: 1, ..limits() };
    d.dispatcher = Dispatcher::new(limits, true);
    let jobs: serde_json::Map<String, Value> =
        (0..JOBS).map(|number| (format!("j{number}"), json!("x"))).collect();
    let ids = d.run(Value::Object(jobs)).unwrap();
    d.exit(1, 0);
    d.effects();
    let now = d.now();
    let ids: Vec<JobId> = ids.into_iter().map(JobId::from).collect();
    assert_eq!(d.dispatcher.kill(&ids, None, now).unwrap().len(), JOBS - 1);
    let ended = |d: &Driver| d.records.iter().filter(|record| record["is"] == "finished").count();
    d.carry_out_effects();
    assert_eq!(ended(&d), AT_ONCE);
    assert!(d.dispatcher.go_on(now) && d.dispatcher.has_effects());
    d.carry_out_effects();
    assert_eq!(ended(&d), AT_ONCE + 1);
    d.settle();
    assert_eq!(ended(&d), JOBS - 1);
    // The second was running.
    let effects = d.effects();
    let started = effects.iter().filter(|effect| effect.starts_with("start"));
    assert_eq!(started.count(), 0, "no job starts that is to be killed: {effects:?}");
    assert!(!d.dispatcher.has_effects());
}

#[test]
fn job_that_is_to_be_killed_does_not_run_when_its_start_is_durable() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    d.keeps = false;
    d.exit(1, 0);
    d.dispatcher.end_later(3, Cause::Killed);
    d.effects();
    let now = d.now();
    d.dispatcher.persisted(3, Step::Start, now);
    d.carry_out_effects();
    assert_eq!(d.effects(), ["release 3", "keep 3 Finish"]);
}

#[test]
fn deadlines_of_many_jobs_are_served_a_few_at_a_time() {
    const JOBS: usize = 40;
    let mut d = Driver::new();
    let limits = JobLimits { max_pending: JOBS, retain_jobs: JOBS, max_running: JOBS, ..limits() };
    d.dispatcher = Dispatcher::new(limits, true);
    let jobs = (0..JOBS).map(|number| (format!("j{number}"), json!("x")));
    d.run(Value::Object(jobs.collect())).unwrap();
    (1..=JOBS as u64).for_each(|serial| d.exit(serial, 0));
    d.effects();
    for left in [JOBS - AT_ONCE, JOBS - 2 * AT_ONCE, 0] {
        d.pass(100_000);
        assert_eq!(d.dispatcher.counts().finished, left);
    }
    assert_eq!(d.dispatcher.due(), None);
}

#[test]
fn kill_of_more_jobs_than_can_be_known_is_refused() {
    let mut d = Driver::new();
    let ids = vec![JobId::from("a".to_owned()); d.dispatcher.limits.max_known() + 1];
    let now = d.now();
    assert_eq!(d.dispatcher.kill(&ids, None, now).unwrap_err().code, ErrorCode::TooLarge);
    assert_eq!(d.dispatcher.kill(&ids[1..], None, now), Ok(Vec::new()));
}

#[test]
fn unkillable_job_is_abandoned_after_a_bounded_time() {
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
fn timeout_ends_a_job_and_is_reported() {
    let mut d = Driver::new();
    d.submit(json!({"id": "a", "commands": ["x"], "timeout": 5}));
    d.events();
    d.pass(4999);
    assert_eq!(d.effects(), Vec::<String>::new());
    d.pass(1);
    assert_eq!(d.effects(), ["signal 1 15"]);
    d.ended(1, &Ended::Exit(Exit::Code(0)), false);
    d.gone(1);
    assert_eq!(d.events().pop().unwrap()["x"], "[timed out]\n");
}

#[test]
fn shutdown_ends_running_jobs_and_leaves_pending_ones() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    d.effects();
    d.stop();
    assert_eq!(d.effects(), ["signal 1 15", "signal 2 15"]);
    assert!(d.run(json!({"d": "x"})).is_err());
    for serial in [1, 2] {
        assert!(!d.dispatcher.is_idle());
        d.exit(serial, 0);
        d.gone(serial);
    }
    assert!(d.dispatcher.is_idle());
    let finished = d.effects();
    assert_eq!(finished.iter().filter(|e| e.starts_with("finished")).count(), 2);
    let (mut next, interrupted) = Driver::restarted(&d.records, false);
    assert_eq!(interrupted, []);
    assert_eq!(next.effects(), ["pending:c", "start 3.0", "running:c"]);
}

#[test]
fn shutdown_while_jobs_are_filed_starts_none_and_completes() {
    for durable in [true, false] {
        let mut d = Driver::new();
        d.dispatcher = Dispatcher::new(limits(), durable);
        d.submit(json!({"id": "a", "commands": ["x"], "queue": "q"}));
        d.keeps = false;
        d.submit(json!({"id": "b", "commands": ["x"], "queue": "q"}));
        d.submit(json!({"id": "c", "commands": ["x"]}));
        // "b" is chosen before it is durable.
        d.exit(1, 0);
        d.stop();
        d.effects();
        let now = d.now();
        for serial in [2, 3] {
            d.dispatcher.persisted(serial, Step::File, now);
        }
        d.dispatcher.persisted(1, Step::Finish, now);
        d.keeps = true;
        d.settle();
        let effects = d.effects();
        assert!(!effects.iter().any(|effect| effect.starts_with("start")), "{effects:?}");
        for serial in [2, 3] {
            d.dispatcher.persisted(serial, Step::Finish, now);
        }
        d.settle();
        assert!(d.dispatcher.is_idle(), "{durable}");
        let waits = d.dispatcher.counts().pending;
        assert_eq!(waits, usize::from(durable), "what waited waits for the next daemon");
    }
}

#[test]
fn shutdown_without_journal_finishes_every_job_once() {
    let mut d = Driver::new();
    d.dispatcher = Dispatcher::new(limits(), false);
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    d.effects();
    d.stop();
    assert_eq!(d.effects(), ["signal 1 15", "signal 2 15", "release 3", "finished:c"]);
}

#[test]
fn steps_have_no_effect_before_they_are_durable() {
    let mut d = Driver::new();
    d.keeps = false;
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    assert_eq!(d.effects(), ["keep 1 File", "keep 2 File", "keep 3 File"]);
    assert_eq!(
        d.dispatcher.list(None).unwrap(),
        json!({"jobs": {"no_queue": {}}}),
        "no event is published yet"
    );
    assert!(d.dispatcher.present(0).is_none());
    assert_eq!(d.kill("a"), Vec::<String>::new());
    assert_eq!(d.run(json!({"a": "x"})).unwrap_err().code, ErrorCode::Conflict);
    let persisted = |d: &mut Driver, serial, step| {
        let now = d.now();
        d.dispatcher.persisted(serial, step, now);
        d.settle();
        d.effects()
    };
    // A job that starts at once says so in its first record; a pending one gets another record.
    assert_eq!(persisted(&mut d, 1, Step::File), ["pending:a", "start 1.0", "running:a"]);
    assert_eq!(persisted(&mut d, 3, Step::File), ["pending:c"]);
    d.exit(1, 0);
    assert_eq!(d.effects(), ["release 1", "keep 1 Finish", "keep 3 Start"]);
    assert_eq!(d.run(json!({"a": "x"})).unwrap_err().code, ErrorCode::Conflict, "not told yet");
    assert_eq!(persisted(&mut d, 3, Step::Start), ["start 3.0", "running:c"]);
    assert_eq!(persisted(&mut d, 1, Step::Finish), ["finished:a"]);
    assert_eq!(persisted(&mut d, 1, Step::Finish), Vec::<String>::new());
}

#[test]
fn unpersisted_job_is_refused_and_its_end_is_reported_late() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    d.effects();
    d.keeps = false;
    let not_persisted = |d: &mut Driver, serial, step| {
        d.dispatcher.not_persisted(serial, step);
        d.settle();
        d.effects()
    };
    d.run(json!({"d": "x"})).unwrap();
    d.exit(1, 0);
    assert_eq!(d.effects(), ["keep 4 File", "release 1", "keep 1 Finish", "keep 3 Start"]);
    d.dispatcher.set_storage(Err("the disk is full".into()));
    assert_eq!(not_persisted(&mut d, 4, Step::File), ["forget 4"], "a record may be there");
    assert_eq!(not_persisted(&mut d, 1, Step::Finish), Vec::<String>::new());
    assert_eq!(d.run(json!({"a": "x"})).unwrap_err().code, ErrorCode::Internal);
    assert_eq!(not_persisted(&mut d, 3, Step::Start), Vec::<String>::new());
    let refused = d.run(json!({"e": "x"})).unwrap_err();
    assert_eq!((refused.code, refused.why.as_str()), (ErrorCode::Internal, "the disk is full"));
    assert_eq!(d.dispatcher.counts(), Counts { pending: 1, running: 1, finished: 0 });
    d.pass(59_999);
    assert_eq!(d.effects(), Vec::<String>::new());
    d.pass(1);
    assert_eq!(d.effects(), ["finished:a"], "nobody waits for ever");
    assert_eq!(d.dispatcher.counts(), Counts { pending: 1, running: 1, finished: 1 });
    // The storage is back: failed records are returned again.
    d.dispatcher.persist_again();
    d.settle();
    assert_eq!(d.effects(), ["keep 1 Finish"]);
    d.dispatcher.set_storage(Ok(()));
    d.settle();
    assert_eq!(d.effects(), ["keep 3 Start"]);
    let now = d.now();
    d.dispatcher.persisted(1, Step::Finish, now);
    d.dispatcher.persist_again();
    d.settle();
    assert_eq!(d.effects(), Vec::<String>::new(), "once is enough");
}

#[test]
fn unpersisted_job_does_not_replace_the_one_with_its_id() {
    let mut d = Driver::new();
    d.run(json!({"a": "x"})).unwrap();
    d.exit(1, 0);
    d.effects();
    d.keeps = false;
    d.run(json!({"a": "y"})).unwrap();
    assert_eq!(d.effects(), ["keep 2 File"]);
    d.dispatcher.not_persisted(2, Step::File);
    d.settle();
    assert_eq!(d.effects(), ["forget 2"]);
    assert_eq!(d.dispatcher.list(None).unwrap()["jobs"]["no_queue"]["a"]["commands"], json!(["x"]));
    assert!(d.dispatcher.log_question("a", 0, None).is_ok());
    d.keeps = true;
    d.run(json!({"a": "y"})).unwrap();
    assert!(d.effects().contains(&"forget 1".to_owned()));
    assert_eq!(d.dispatcher.list(None).unwrap()["jobs"]["no_queue"]["a"]["commands"], json!(["y"]));
}

#[test]
fn restart_after_crash_runs_pending_jobs_only() {
    let mut d = Driver::new();
    d.run(json!({"over": "x", "ran": ["x", "y"], "waits": "x"})).unwrap();
    d.submit(json!({"id": "next", "commands": [["a b", "c"]], "queue": "q", "env": {"A": "1"},
                    "timeout": 2.5, "cwd": "/tmp", "user": "nobody"}));
    d.print(1, "out\n");
    d.dispatcher.started(2, (77, "boot.5".into()), "SYSADM_JOB=e.2");
    d.exit(2, 0);
    d.dispatcher.started(2, (78, "boot.6".into()), "SYSADM_JOB=e.2");
    let finished = {
        d.exit(1, 3);
        d.events().into_iter().find(|event| event["state"] == "finished").unwrap()
    };
    // The daemon is killed here. "waits" was chosen at the end of "over".
    let records: Vec<Value> = d.records.iter().filter(|r| r["id"] != "waits").cloned().collect();
    let waits = d.records.iter().find(|r| r["id"] == "waits" && r["is"] == "filed").cloned();
    let records: Vec<Value> = records.into_iter().chain(waits).collect();
    let (mut d, interrupted) = Driver::restarted(&records, false);
    let leaders = vec![(77, "boot.5".to_owned()), (78, "boot.6".to_owned())];
    let traces = Traces { leaders, mark: "SYSADM_JOB=e.2".into(), user: None };
    assert_eq!(interrupted, [Interrupted { serial: 2, traces }]);
    let effects = d.effects();
    assert_eq!(effects[..3], ["signal 2 15", "pending:waits", "pending:next"]);
    assert_eq!(effects[3..], ["start 3.0", "running:waits"], "one is still being ended");
    let next = d.dispatcher.jobs.get(&4).unwrap().asked.clone();
    assert_eq!(next.commands[0].words, ["a b", "c"]);
    assert_eq!(
        (next.timeout, next.cwd.as_deref()),
        (Some(Duration::from_millis(2500)), Some("/tmp"))
    );
    assert_eq!((next.env["A"].as_str(), next.queue.as_deref()), ("1", Some("q")));
    assert_eq!(next.user, Some(RunAs::Name("nobody".into())));
    // Its processes have ended: it has ended, and its log is read for the event.
    d.gone(2);
    assert_eq!(d.effects()[..2], ["release 2", "publish outcome 2"]);
    let question = d.dispatcher.outcome_question(2).unwrap();
    let pieces: Vec<Excerpt> = question
        .ranges
        .iter()
        .map(|range| Excerpt::from_ends(100, range.end - range.start, "p".into(), String::new()))
        .collect();
    let event = Event::Job(d.dispatcher.outcome(2, Ok(pieces)).unwrap());
    assert_eq!(args(&event)["return_codes/x"], "0");
    assert_eq!(args(&event)["return_codes/y"], "-1");
    // The other one can be reported again unchanged.
    let question = d.dispatcher.outcome_question(1).unwrap();
    assert_eq!(question.ranges[0], 0..4);
    let piece = Excerpt::from_ends(100, 4, "out\n".into(), String::new());
    let event = d.dispatcher.outcome(1, Ok(vec![piece])).unwrap();
    assert_eq!(args(&Event::Job(event)), finished);
    let unreadable = d.dispatcher.outcome(1, Err("gone".into())).unwrap();
    assert!(args(&Event::Job(unreadable))["x"].as_str().unwrap().contains("gone"));
    assert_eq!(d.run(json!({"new": "x"})).unwrap(), ["new"]);
    assert_eq!(d.dispatcher.last_serial, 5, "numbers are not used again");
}

#[test]
fn interrupted_job_is_looked_for_as_its_user() {
    let mut d = Driver::new();
    d.submit(json!({"id": "a", "commands": [["x"]], "user": 65534}));
    d.submit(json!({"id": "b", "commands": [["x"]], "user": "nobody"}));
    d.settle();
    let (_, interrupted) = Driver::restarted(&d.records.clone(), false);
    let users: Vec<_> = interrupted.into_iter().map(|job| job.traces.user).collect();
    assert_eq!(users, [RunAs::Number(65534), RunAs::Name("nobody".into())].map(Some));
}

#[test]
fn crash_while_survivors_are_ended_changes_nothing() {
    let mut d = Driver::new();
    d.run(json!({"a": ["x", "y"]})).unwrap();
    d.exit(1, 0);
    d.dispatcher.started(1, (77, "boot.5".into()), "SYSADM_JOB=e.1");
    d.settle();
    let (mut d, _) = Driver::restarted(&d.records.clone(), false);
    d.dispatcher.persist_again();
    d.settle();
    let (mut d, interrupted) = Driver::restarted(&d.records.clone(), false);
    assert_eq!(interrupted[0].traces.leaders, [(77, "boot.5".to_owned())]);
    d.gone(1);
    let event = d.dispatcher.outcome(1, Ok(vec![])).unwrap();
    let args = args(&Event::Job(event));
    assert_eq!((&args["return_codes/x"], &args["return_codes/y"]), (&json!("0"), &json!("-1")));
}

#[test]
fn interrupted_job_is_reported_before_it_is_forgotten() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x"})).unwrap();
    let (mut d, _) = Driver::restarted(&d.records.clone(), false);
    d.dispatcher.set_limits(JobLimits { retain_jobs: 1, ..limits() });
    d.effects();
    for serial in [1, 2] {
        d.gone(serial);
        assert!(d.effects().contains(&format!("publish outcome {serial}")));
        assert_eq!(d.dispatcher.next_outcome(0, 100), None, "everybody will be told");
    }
    let now = d.now();
    for serial in [1, 2] {
        assert!(d.dispatcher.outcome_question(serial).is_some());
        d.dispatcher.reported(serial, 7 + serial, now);
    }
    d.settle();
    assert_eq!(d.effects(), ["forget 1"]);
}

#[test]
fn pending_job_after_restart_has_all_fields_of_its_class() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x"})).unwrap();
    d.run(json!({"sysadm_pkg_check_upgrade": "pkg upgrade -n"})).unwrap();
    let filed = d.records.iter().filter(|r| r["id"] == "sysadm_pkg_check_upgrade").cloned();
    let (mut d, _) = Driver::restarted(&filed.collect::<Vec<_>>(), false);
    d.print(3, "Your packages are up to date.\n");
    d.exit(3, 0);
    let finished = d.events().into_iter().find(|event| event["state"] == "finished").unwrap();
    assert_eq!(finished["updates_available"], "false");
}

#[test]
fn damaged_journal_runs_no_job_that_may_have_run() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    let waits = d.records.iter().find(|record| record["id"] == "c").cloned().unwrap();
    let (mut d, interrupted) = Driver::restarted(&[waits], true);
    assert_eq!(interrupted, []);
    assert_eq!(d.effects(), ["release 3", "finished:c"]);
}

#[test]
fn repeated_events_contain_only_reported_output() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x"})).unwrap();
    d.exit(1, 0);
    d.exit(2, 0);
    let now = d.now();
    d.dispatcher.reported(1, 10, now);
    d.dispatcher.reported(2, 20, now);
    assert_eq!(d.dispatcher.next_outcome(0, 20), Some((1, "a")));
    assert_eq!(d.dispatcher.next_outcome(2, 20), None);
    assert_eq!(d.dispatcher.next_outcome(2, 21), Some((2, "b")));
}

#[test]
fn finished_jobs_are_retained_by_number_and_age() {
    let mut d = Driver::new();
    for id in ["a", "b", "c", "d"] {
        d.run(json!({ id: "x" })).unwrap();
        let serial = d.dispatcher.last_serial;
        d.exit(serial, 0);
    }
    let list = d.dispatcher.list(None).unwrap();
    let ids: Vec<&String> = list["jobs"]["no_queue"].as_object().unwrap().keys().collect();
    assert_eq!(ids, ["b", "c", "d"]);
    d.pass(100_000);
    assert_eq!(d.dispatcher.list(None).unwrap(), json!({"jobs": {"no_queue": {}}}));
    assert_eq!(d.dispatcher.log_question("d", 0, None).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn retention_after_a_restart_follows_running_time_not_the_clock() {
    let mut d = Driver::new();
    // The first daemon has run for a while, after a previous one.
    d.dispatcher.uptime_before = 1000;
    d.pass(10_000);
    for (id, serial) in [("a", 1), ("b", 2)] {
        d.run(json!({ id: "x" })).unwrap();
        d.pass(40_000);
        d.exit(serial, 0);
    }
    const YEARS: Duration = Duration::from_secs(20 * 366 * 86_400);
    let epoch = d.epoch;
    for clock in [epoch, epoch + YEARS, epoch - YEARS, UNIX_EPOCH] {
        let fresh = Driver { epoch: clock, ..Driver::new() };
        let (mut d, _) = Driver::restarted_with(&d.records, Loaded::default(), fresh);
        assert_eq!(d.dispatcher.counts().finished, 2, "clock at {clock:?}");
        // "a" had ended 40 s before "b", of the 100 s that it is retained.
        d.pass(59_999);
        assert_eq!(d.dispatcher.counts().finished, 2, "clock at {clock:?}");
        d.pass(1);
        assert_eq!(d.dispatcher.counts().finished, 1, "clock at {clock:?}");
        d.pass(40_000);
        assert_eq!(d.dispatcher.counts().finished, 0, "clock at {clock:?}");
    }
}

#[test]
fn a_filed_job_with_any_trace_of_a_start_is_interrupted() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x", "d": "x"})).unwrap();
    let filed = d.records.iter().filter(|record| record["is"] == "filed" && record["serial"] != 1);
    let filed: Vec<Value> = filed.filter(|record| record["starts"] != true).cloned().collect();
    assert_eq!(filed.len(), 2, "two waited");
    let loaded = Loaded { departed: [3].into(), ..Loaded::default() };
    let (mut d, interrupted) = Driver::restarted_with(&filed, loaded, Driver::new());
    assert_eq!(interrupted.iter().map(|job| job.serial).collect::<Vec<_>>(), [3]);
    assert!(d.effects().contains(&"start 4.0".to_owned()), "the other one waited");
    d.gone(3);
    assert!(d.logged().contains("[interrupted: "), "{}", d.logged());
}

#[test]
fn log_contains_all_output_and_remarks() {
    let mut d = Driver::new();
    d.run(json!({"a": "x"})).unwrap();
    d.print(1, "one\ntwo");
    d.kill("a");
    d.exit(1, 0);
    d.gone(1);
    assert_eq!(d.logged(), "one\ntwo\n[killed]\n");
    let question = d.dispatcher.log_question("a", 3, Some(1 << 40)).unwrap();
    assert_eq!((question.total, question.offset, question.active), (17, 3, false));
    assert_eq!(question.length, LOG_PART as usize);
}

#[test]
fn output_beyond_the_limit_is_reported_as_omitted() {
    let mut d = Driver::new();
    d.run(json!({"a": "x"})).unwrap();
    d.events();
    for _ in 0..100 {
        d.print(1, "0123456789\n");
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
    d.print(1, "Checking\n");
    d.pass(50);
    d.print(1, "Your packages are up to date.\n");
    d.exit(1, 0);
    let events = d.events();
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

#[test]
fn finished_event_names_result_and_deciding_command() {
    let mut d = Driver::new();
    let mut results = Vec::new();
    let mut finish = |d: &mut Driver, act: &dyn Fn(&mut Driver, Serial)| {
        d.run(json!({"j": ["a", "b", "c"]})).unwrap();
        let serial = d.dispatcher.last_serial;
        d.pass(1500);
        act(d, serial);
        let event = d.events().pop().unwrap();
        assert_eq!(event["state"], "finished");
        let list = d.dispatcher.list(None).unwrap()["jobs"]["no_queue"]["j"].clone();
        let keys = ["result", "exit_code", "signal", "failed_command", "killed_by", "duration"];
        keys.iter().for_each(|key| assert_eq!(event[key], list[key], "{key}"));
        results.push(json!(keys.map(|key| event[key].clone())));
    };
    finish(&mut d, &|d, serial| (0..3).for_each(|_| d.exit(serial, 0)));
    finish(&mut d, &|d, serial| [0, 5].into_iter().for_each(|code| d.exit(serial, code)));
    finish(&mut d, &|d, serial| d.ended(serial, &Ended::Exit(Exit::Signal(9)), false));
    finish(&mut d, &|d, serial| d.ended(serial, &Ended::NotStarted("no".into()), false));
    finish(&mut d, &|d, serial| {
        d.kill("j");
        d.ended(serial, &Ended::Exit(Exit::Signal(15)), false);
        d.gone(serial);
    });
    d.submit(json!({"id": "j", "commands": ["a"], "timeout": 1}));
    let serial = d.dispatcher.last_serial;
    d.pass(1000);
    d.ended(serial, &Ended::Exit(Exit::Signal(15)), false);
    d.gone(serial);
    let timed_out = d.events().pop().unwrap();
    d.run(json!({"x": "a", "y": "a"})).unwrap();
    d.run(json!({"j": "a"})).unwrap();
    d.kill("j");
    let cancelled = d.events().pop().unwrap();
    assert_eq!(
        json!(results),
        json!([
            ["ok", 0, null, null, null, 1.5],
            ["failed", 5, null, 1, null, 1.5],
            ["failed", null, 9, 0, null, 1.5],
            ["not_startable", null, null, 0, null, 1.5],
            ["killed", null, 15, 0, "root", 1.5],
        ])
    );
    assert_eq!((&timed_out["result"], &timed_out["signal"]), (&json!("timed_out"), &json!(15)));
    assert_eq!(
        (&cancelled["result"], &cancelled["killed_by"], cancelled.get("duration")),
        (&json!("cancelled"), &json!("root"), None)
    );
}

#[test]
fn outcome_is_in_the_journal_and_older_records_are_still_read() {
    let mut d = Driver::new();
    d.run(json!({"new": ["a", "b"], "plain": "a", "signalled": "a"})).unwrap();
    d.exit(1, 3);
    d.exit(2, 0);
    d.ended(3, &Ended::Exit(Exit::Signal(9)), false);
    let (restarted, _) = Driver::restarted(&d.records.clone(), false);
    let entry =
        |d: &Driver, id: &str| d.dispatcher.list(None).unwrap()["jobs"]["no_queue"][id].clone();
    assert_eq!(entry(&restarted, "new"), entry(&d, "new"));
    assert_eq!(entry(&d, "new")["failed_command"], 0);
    // In the form of an earlier version.
    let mut old = d.records.clone();
    for outcome in old.iter_mut().filter_map(|record| record["outcome"].as_object_mut()) {
        outcome.remove("outcome");
    }
    let (restarted, _) = Driver::restarted(&old, false);
    let failed = entry(&restarted, "new");
    assert_eq!((&failed["result"], &failed["exit_code"]), (&json!("failed"), &json!(3)));
    assert_eq!(entry(&restarted, "plain")["result"], "ok");
    assert_eq!(entry(&restarted, "signalled").get("result"), None, "a signal of any origin");
}

#[test]
fn cancelled_jobs_do_not_evict_the_history() {
    let mut d = Driver::new();
    d.dispatcher.set_limits(JobLimits { max_pending: 100, retain_jobs: 20, ..limits() });
    d.run(json!({"history": "a"})).unwrap();
    d.exit(1, 0);
    d.run(json!({"x": "a", "y": "a"})).unwrap();
    for number in 0..50 {
        d.run(json!({format!("waits-{number}"): "a"})).unwrap();
    }
    for number in 0..50 {
        assert_eq!(d.kill(&format!("waits-{number}")).len(), 1);
    }
    let known =
        |d: &Driver, id: &str| !d.dispatcher.list(None).unwrap()["jobs"]["no_queue"][id].is_null();
    assert!(known(&d, "history"));
    let cancelled = (0..50).filter(|number| known(&d, &format!("waits-{number}"))).count();
    assert_eq!(cancelled, 16, "the last ones");
    assert!(known(&d, "waits-49"));
    d.dispatcher.set_limits(JobLimits { retain_time: Duration::from_secs(3600), ..limits() });
    d.exit(2, 0);
    d.pass(11 * 60 * 1000);
    assert!(!known(&d, "waits-49") && known(&d, "x"), "cancelled jobs are retained briefly");
}
