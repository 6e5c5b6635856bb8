//! Which job starts when: queues, priorities, dependencies; and jobs that run again.

use super::*;

fn started(d: &mut Driver) -> Vec<String> {
    let effects = d.effects();
    effects.into_iter().filter(|effect| effect.starts_with("start ")).collect()
}

fn job(id: &str, more: Value) -> Value {
    let mut job = json!({ "id": id, "commands": ["a"], "queue": "q" });
    let Value::Object(more) = more else { panic!("{more}") };
    more.into_iter().for_each(|(key, value)| job[key] = value);
    job
}

fn roomy() -> Driver {
    let mut d = Driver::new();
    let limits = JobLimits { max_running: 10, max_pending: 100, retain_jobs: 20, ..limits() };
    d.dispatcher.set_limits(limits);
    d
}

fn parallel(d: &mut Driver, number: usize) {
    d.dispatcher.set_parallel([("q".to_owned(), number)]);
    d.settle();
}

fn entry(d: &Driver, queue: &str, id: &str) -> Value {
    d.dispatcher.list(None).unwrap()["jobs"][queue][id].clone()
}

#[test]
fn queue_starts_by_priority_then_by_submission() {
    let mut d = roomy();
    d.submit(job("first", json!({})));
    for (id, priority) in [("low", -1), ("b", 0), ("high", 100), ("c", 0)] {
        d.submit(job(id, json!({ "priority": priority })));
    }
    assert_eq!(entry(&d, "q", "high")["queue_position"], "1");
    assert_eq!(entry(&d, "q", "low")["queue_position"], "4");
    assert_eq!(entry(&d, "q", "low")["priority"], -1);
    for (serial, next) in [(1, "start 4.0"), (4, "start 3.0"), (3, "start 5.0"), (5, "start 2.0")] {
        d.effects();
        d.exit(serial, 0);
        assert_eq!(started(&mut d), [next]);
    }
}

#[test]
fn priority_orders_jobs_that_wait_for_room() {
    let mut d = Driver::new();
    d.run(json!({"a": "x", "b": "x", "c": "x"})).unwrap();
    d.submit(json!({"id": "urgent", "commands": ["x"], "priority": 1}));
    d.effects();
    d.exit(1, 0);
    assert_eq!(started(&mut d), ["start 4.0"]);
}

#[test]
fn queue_runs_as_many_jobs_at_a_time_as_configured() {
    let mut d = roomy();
    parallel(&mut d, 2);
    (1..=5).for_each(|number| d.submit(job(&number.to_string(), json!({}))));
    assert_eq!(started(&mut d), ["start 1.0", "start 2.0"]);
    d.exit(2, 0);
    assert_eq!(started(&mut d), ["start 3.0"]);
    // Reduced, it starts none until there is room; another queue is not concerned.
    parallel(&mut d, 1);
    d.exit(1, 0);
    assert!(started(&mut d).is_empty());
    d.submit(json!({"id": "other", "commands": ["a"], "queue": "r"}));
    assert_eq!(started(&mut d), ["start 6.0"]);
    d.exit(3, 0);
    assert_eq!(started(&mut d), ["start 4.0"]);
    parallel(&mut d, 3);
    assert_eq!(started(&mut d), ["start 5.0"]);
    let queues = d.dispatcher.list_queues(None);
    assert_eq!(
        queues["queues"]["q"],
        json!({"pending": 0, "running": 2, "parallel": 3, "paused": false})
    );
}

#[test]
fn paused_queue_starts_nothing_until_resumed() {
    let mut d = roomy();
    d.submit(job("a", json!({})));
    d.submit(job("b", json!({})));
    d.effects();
    assert!(d.dispatcher.set_paused("q", true, Some("root")).unwrap());
    assert!(!d.dispatcher.set_paused("q", true, Some("root")).unwrap());
    d.submit(job("c", json!({})));
    d.run(json!({"free": "x"})).unwrap();
    d.exit(1, 0);
    assert_eq!(started(&mut d), ["start 4.0"], "only the job without a queue");
    assert_eq!(entry(&d, "q", "b")["paused"], true);
    assert_eq!(d.dispatcher.paused_queues(), ["q"]);
    assert!(d.dispatcher.set_paused("q", false, None).unwrap());
    d.settle();
    assert_eq!(started(&mut d), ["start 2.0"]);
    assert_eq!(entry(&d, "q", "c").get("paused"), None);
    let code = |result: Result<bool, Refusal>| result.unwrap_err().code;
    assert_eq!(code(d.dispatcher.set_paused("none", true, None)), ErrorCode::NotFound);
    assert_eq!(code(d.dispatcher.set_paused("no_queue", true, None)), ErrorCode::BadRequest);
    assert!(d.dispatcher.set_paused("pkg_queue", true, None).unwrap());
}

#[test]
fn paused_queues_are_bounded_and_outlive_the_daemon() {
    let mut d = roomy();
    let names: Vec<String> = (0..64).map(|number| format!("q{number}")).collect();
    d.dispatcher.set_parallel(names.iter().map(|name| (name.clone(), 1)).chain([("q".into(), 1)]));
    names.iter().for_each(|name| assert!(d.dispatcher.set_paused(name, true, None).unwrap()));
    assert_eq!(d.dispatcher.set_paused("q", true, None).unwrap_err().code, ErrorCode::TooMany);
    let mut next = roomy();
    next.dispatcher.restore_paused(vec!["q".into(), String::new()]);
    next.submit(job("a", json!({})));
    next.run(json!({"free": "x"})).unwrap();
    assert_eq!(started(&mut next), ["start 2.0"]);
}

#[test]
fn job_starts_after_the_jobs_that_it_names() {
    let mut d = roomy();
    d.run(json!({"a": "x", "b": "x"})).unwrap();
    d.submit(job("late", json!({ "after": ["a", "b"], "priority": 9 })));
    // It takes no place in its queue meanwhile.
    d.submit(job("early", json!({})));
    assert_eq!(started(&mut d), ["start 1.0", "start 2.0", "start 4.0"]);
    assert_eq!(entry(&d, "q", "late")["after"], json!(["a", "b"]));
    assert_eq!(entry(&d, "q", "late").get("queue_position"), None);
    d.exit(4, 0);
    d.exit(1, 0);
    assert!(started(&mut d).is_empty());
    d.exit(2, 0);
    assert_eq!(started(&mut d), ["start 3.0"]);
    // Jobs that are over are not waited for.
    d.run(json!({"c": "x"})).unwrap();
    d.submit(job("now", json!({ "after": "a", "queue": "r" })));
    assert_eq!(started(&mut d), ["start 5.0", "start 6.0"]);
    let unknown = d.dispatcher.submit(vec![Submission {
        id: "new".into(),
        after: vec!["never".into()],
        ..d.submission(job("x", json!({})))
    }]);
    assert_eq!(unknown.unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn job_after_one_that_failed_is_cancelled_and_names_it() {
    let mut d = roomy();
    d.run(json!({"a": "x"})).unwrap();
    d.submit(job("b", json!({ "after": "a" })));
    d.submit(job("c", json!({ "after": "b" })));
    d.submit(job("any", json!({ "after": ["a", "b"], "after_any": true, "queue": "r" })));
    d.events();
    d.exit(1, 3);
    let ends: Vec<Value> =
        d.events().into_iter().filter(|event| event["state"] == "finished").collect();
    let shown = |event: &Value| {
        let text = |key: &str| event[key].as_str().unwrap_or("").to_owned();
        [text("process_id"), text("result"), text("failed_dependency")].join(" ")
    };
    let shown: Vec<String> = ends.iter().map(shown).collect();
    assert_eq!(shown, ["a failed ", "b cancelled a", "c cancelled b"]);
    assert!(ends[1]["x"].is_null() && ends[1].to_string().contains("not run: job"));
    assert_eq!(entry(&d, "r", "any")["state"], "running");
    // One that had failed before is the same.
    d.submit(job("late", json!({ "after": "a" })));
    assert_eq!(d.events().pop().unwrap()["failed_dependency"], "a");
    assert!(d.dispatcher.dependents.is_empty());
    // And one that is killed while it waits leaves nothing behind.
    d.submit(job("killed", json!({ "after": "any" })));
    assert_eq!(d.kill("killed"), ["killed"]);
    assert!(d.dispatcher.dependents.is_empty());
}

#[test]
fn dependencies_outlive_the_daemon() {
    let mut d = roomy();
    d.run(json!({"a": "x", "b": "x"})).unwrap();
    d.exit(2, 1);
    for (id, after) in [("after-a", "a"), ("after-b", "b")] {
        let serials = d.dispatcher.last_serial;
        d.keeps = id != "after-b";
        d.submit(job(id, json!({ "after": after, "queue": format!("q{serials}") })));
    }
    // Its record is written, and nothing of what follows from it.
    let filed = d.done.iter().find_map(|effect| match effect {
        Effect::Persist { record, .. } => Some(serde_json::from_slice::<Value>(record).unwrap()),
        _ => None,
    });
    d.records.extend(filed);
    let (mut next, _) = Driver::restarted(&d.records, false);
    let events = next.events();
    let ended = events.iter().find(|event| event["state"] == "finished").unwrap();
    assert_eq!(
        (&ended["process_id"], &ended["failed_dependency"]),
        (&json!("after-b"), &json!("b"))
    );
    assert_eq!(entry(&next, "q2", "after-a")["after"], json!(["a"]));
    // The job that ran when the daemon died did not succeed.
    next.gone(1);
    let ended = next.events().pop().unwrap();
    assert_eq!((&ended["process_id"], &ended["result"]), (&json!("after-a"), &json!("cancelled")));
}

#[test]
fn order_of_pending_jobs_outlives_the_daemon() {
    let mut d = roomy();
    d.submit(job("runs", json!({})));
    d.submit(job("low", json!({})));
    d.submit(job("high", json!({ "priority": 5 })));
    d.exit(1, 0);
    let records: Vec<Value> =
        d.records.iter().filter(|record| record["is"] == "filed").skip(1).cloned().collect();
    let (mut next, _) = Driver::restarted(&records, false);
    assert_eq!(started(&mut next), ["start 3.0"]);
}

fn again(d: &mut Driver, id: &str) -> Result<Submission, Refusal> {
    d.dispatcher.restart(id)
}

#[test]
fn finished_job_is_run_again_as_it_was() {
    let mut d = roomy();
    let asked = json!({
        "commands": [["sh", "-c", "a\n| b"], "c 'd e'"], "env": {"TOKEN": "s"}, "cwd": "/tmp",
        "user": "eva", "timeout": 5, "priority": 3, "nonce": "n"
    });
    d.submit(job("nightly", asked));
    let before = d.dispatcher.jobs[&1].asked.clone();
    assert_eq!(again(&mut d, "nightly").unwrap_err().code, ErrorCode::Conflict);
    d.exit(1, 1);
    for restarted in [false, true] {
        if restarted {
            (d, _) = Driver::restarted(&d.records, false);
        }
        let expected = Submission {
            id: "nightly-2".into(),
            nonce: None,
            submitted_by: None,
            ..before.clone()
        };
        assert_eq!(again(&mut d, "nightly").unwrap(), expected);
    }
    let second = again(&mut d, "nightly").unwrap();
    d.dispatcher.submit(vec![second]).unwrap();
    d.settle();
    assert_eq!(again(&mut d, "nightly").unwrap().id, "nightly-3");
    d.exit(2, 0);
    d.exit(2, 0);
    assert_eq!(again(&mut d, "nightly-2").unwrap().id, "nightly-3");
    assert_eq!(again(&mut d, "none").unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn id_of_a_restarted_job_is_bounded() {
    let mut d = roomy();
    let id = "\u{20ac}".repeat(42);
    d.submit(job(&id, json!({})));
    d.exit(1, 0);
    let next = again(&mut d, &id).unwrap().id;
    assert!(next.ends_with("\u{20ac}-2") && JobId::parse("id", &next).is_ok(), "{next}");
    for (id, next) in [("-5", "-5-2"), ("a-", "a--2"), ("a-x", "a-x-2"), ("7", "7-2")] {
        assert_eq!(d.dispatcher.next_id(id), next);
    }
}

#[test]
fn environments_of_finished_jobs_are_bounded_by_bytes() {
    let mut d = roomy();
    let limits = JobLimits { retain_environment: 100, ..*d.dispatcher.limits() };
    d.dispatcher.set_limits(limits);
    let mut finish = |id: &str, by: &str, bytes: usize| {
        let env = json!({ "env": {"A": "x".repeat(bytes)} });
        let args = job(id, env);
        let mut asked = d.submission(args);
        asked.submitted_by = Some(by.to_owned());
        let serial = d.dispatcher.submit(vec![asked]).unwrap()[0];
        d.settle();
        d.exit(serial, 0);
    };
    finish("eva", "eva", 20);
    finish("first", "root", 30);
    finish("second", "root", 40);
    finish("large", "root", 101);
    finish("plain", "root", 0);
    let mut can = |id: &str| again(&mut d, id).is_ok();
    assert!(can("eva"), "the user with the most loses first");
    assert!(!can("first") && can("second") && !can("large") && can("plain"));
    let held = d.dispatcher.environments.used();
    assert!(held <= 100, "{held}");
    let large = d.records.iter().rfind(|r| r["id"] == "large" && r["is"] == "finished").unwrap();
    assert!(large.get("env").is_none() && large.get("restartable").is_none(), "{large}");
    let none = JobLimits { retain_environment: 0, ..*d.dispatcher.limits() };
    d.dispatcher.set_limits(none);
    assert_eq!(d.dispatcher.environments.used(), 0);
    assert!(again(&mut d, "second").is_err());
}

#[test]
fn job_of_an_earlier_journal_cannot_be_restarted() {
    let mut d = roomy();
    d.submit(job("old", json!({})));
    d.exit(1, 0);
    let mut records = d.records.clone();
    for record in &mut records {
        record.as_object_mut().unwrap().shift_remove("restartable");
    }
    let (mut next, _) = Driver::restarted(&records, false);
    assert_eq!(next.dispatcher.restart("old").unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(entry(&next, "q", "old")["state"], "finished");
    next.pass(1);
}
