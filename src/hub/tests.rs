//! Subscriptions and current state, driven by hand.

use super::*;
use crate::alerts::{AlertLimits, Condition, Kind};
use crate::dispatcher::{Effect, Ended, Exit, JobLimits, Submission};
use crate::wire::{CommandText, JobRequest};
use serde_json::{Value, json};
use std::time::Duration;

struct Fixture {
    hub: Hub,
    dispatcher: Dispatcher,
    alerts: Alerts,
    /// Effects that are held back.
    held: VecDeque<Effect>,
}

impl Fixture {
    fn new() -> Fixture {
        let limits = JobLimits {
            max_running: 2,
            max_pending: 300,
            max_commands: 10,
            log_limit: 1000,
            event_log_limit: 1000,
            max_event: 100_000,
            retain_jobs: 10,
            retain_time: Duration::from_secs(100),
            retain_environment: 0,
            output_interval: Duration::ZERO,
            kill_grace: Duration::from_secs(1),
            end_patience: Duration::from_secs(60),
        };
        Fixture {
            hub: Hub::new("e", 100_000, 10_000),
            dispatcher: Dispatcher::new(limits, false),
            alerts: Alerts::new(
                AlertLimits {
                    most: 100,
                    bytes: 100_000,
                    most_per_user: 100,
                    clear_after: Duration::ZERO,
                    flap_limit: 10,
                    flap_hold: Duration::ZERO,
                },
                "e",
            ),
            held: VecDeque::new(),
        }
    }

    /// Publishes the dispatcher's events; returns the recipients and texts.
    fn publish(&mut self) -> Vec<(SessionId, String)> {
        let mut got = vec![];
        loop {
            let Some(effect) = self.held.pop_front().or_else(|| self.dispatcher.next_effect())
            else {
                if self.dispatcher.go_on(Moment::now()) {
                    continue;
                }
                break;
            };
            match effect {
                Effect::Publish(event) => {
                    if let Event::Job(event) = &event
                        && event.is_finished()
                    {
                        let (serial, seq) = (event.job.serial, self.hub.seq() + 1);
                        self.dispatcher.reported(serial, seq, Moment::now());
                    }
                    self.hub.publish(event, Moment::now(), |session, event, spelling| {
                        got.push((session, show(event, spelling)));
                    });
                }
                Effect::Persist { serial, step, .. } => {
                    self.dispatcher.persisted(serial, step, Moment::now());
                }
                Effect::PublishOutcome { .. }
                | Effect::Failed { .. }
                | Effect::Note { .. }
                | Effect::Log { .. }
                | Effect::Forget { .. }
                | Effect::Start { .. }
                | Effect::Signal { .. }
                | Effect::Release { .. } => {}
            }
        }
        got
    }

    fn run(&mut self, args: Value) {
        let bounds = self.dispatcher.limits().bounds();
        let line = |value: &Value| CommandText::Line(value.as_str().unwrap().to_owned());
        let job = |(id, lines): (&String, &Value)| {
            let one = std::slice::from_ref(lines);
            let lines = lines.as_array().map_or(one, Vec::as_slice);
            let (id, commands) = (Some(id.clone().into()), lines.iter().map(line).collect());
            let job = JobRequest { id, commands, ..JobRequest::default() };
            Submission::new(job, &self.dispatcher, bounds).unwrap()
        };
        let batch = args.as_object().unwrap().iter().map(job).collect();
        self.dispatcher.submit(batch).unwrap();
        // Records are durable at once; other effects are for `publish`.
        while let Some(effect) = self.dispatcher.next_effect() {
            match effect {
                Effect::Persist { serial, step, .. } => {
                    self.dispatcher.persisted(serial, step, Moment::now());
                }
                other => self.held.push_back(other),
            }
        }
    }

    fn pull(&mut self, session: SessionId) -> Option<String> {
        Some(match self.hub.pull(session, &self.dispatcher, &self.alerts, Moment::now())? {
            Item::Event(event, spelling) => show(&event, spelling),
            Item::Outcome(serial) => format!("outcome {serial}"),
            Item::Gap { seq, missed } => format!("{seq} gap {missed:?}"),
        })
    }

    fn subscribe_plain(&mut self, session: SessionId, hyphens: bool) {
        let spelling = Spelling { hyphens, extended: false };
        let names = [EventName::Dispatcher];
        self.hub.subscribe(session, &names, Filter::default(), spelling, None);
        while self.pull(session).is_some() {}
    }

    fn print(&mut self, serial: Serial, text: &str) {
        self.dispatcher.printed(serial, text.as_bytes());
        self.publish_pending();
    }

    fn publish_pending(&mut self) {
        let later = std::time::Instant::now() + Duration::from_secs(1);
        self.dispatcher.on_deadline(Moment { instant: later, ..Moment::now() });
    }

    fn exit(&mut self, serial: Serial) {
        self.dispatcher.ended(serial, &Ended::Exit(Exit::Code(0)), false, Moment::now());
    }
}

/// `seq state id log` of a job's event.
fn show(event: &Published, spelling: Spelling) -> String {
    let frame: Value = serde_json::from_slice(&event.frame(spelling)).unwrap();
    let args = &frame["args"];
    let text = |key: &str| args[key].as_str().unwrap_or("").to_owned();
    let shown = format!("{} {} {} {}", event.seq, text("state"), text("process_id"), text("x"));
    shown.trim().replace('\n', ",")
}

const ALL: [EventName; 3] = EventName::ORIGINAL;

#[test]
fn subscribing_twice_changes_nothing_and_doubles_nothing() {
    let mut h = Fixture::new();
    let plain = Spelling::default();
    assert_eq!(h.hub.subscribe(1, &ALL, Filter::default(), plain, None), ALL);
    assert_eq!(h.hub.subscribe(1, &ALL[..1], Filter::default(), plain, None), []);
    assert_eq!(h.pull(1), None);
    h.run(json!({"j": "x"}));
    assert_eq!(h.publish(), [(1, "1 pending j".into()), (1, "2 running j".into())]);
    assert_eq!(h.hub.unsubscribe(1, &ALL), ALL);
    assert_eq!(h.hub.unsubscribe(1, &ALL), []);
    h.exit(1);
    assert_eq!(h.publish(), []);
}

#[test]
fn current_state_and_live_events_join_without_loss_or_repetition() {
    let mut h = Fixture::new();
    h.run(json!({"a": "x", "b": "x", "c": "x"}));
    h.print(1, "1\n");
    h.publish();
    h.hub.subscribe(7, &ALL[..1], Filter::default(), Spelling::default(), None);
    assert_eq!(h.hub.behind(), [7]);
    assert_eq!(h.pull(7).unwrap(), "6 running a 1");
    // Until b has received the current state its output is held back; a's output and its end are
    // not.
    h.print(1, "2\n");
    h.print(2, "early\n");
    assert_eq!(h.publish(), [(7, "7 running a 2".into())]);
    assert_eq!(h.pull(7).unwrap(), "8 running b early");
    // c ends before it was sent as pending: its end is sent, and it is not part of the current
    // state.
    h.dispatcher.kill(&["c".to_owned().into()], None, Moment::now()).unwrap();
    assert_eq!(h.publish().len(), 1);
    assert_eq!(h.pull(7), None);
    assert!(h.hub.behind().is_empty());
    h.run(json!({"d": "x"}));
    assert_eq!(h.publish(), [(7, "10 pending d".into())]);
}

#[test]
fn job_submitted_during_the_backlog_is_sent_once() {
    let mut h = Fixture::new();
    h.run(json!({"a": "x"}));
    h.publish();
    h.hub.subscribe(7, &ALL[..1], Filter::default(), Spelling::default(), None);
    h.run(json!({"b": "x"}));
    assert_eq!(h.publish(), []);
    assert_eq!(h.pull(7).unwrap(), "4 running a");
    assert_eq!(h.pull(7).unwrap(), "4 running b");
    assert_eq!(h.pull(7), None);
}

#[test]
fn filters_choose_jobs_and_priorities() {
    let mut h = Fixture::new();
    let filter = Filter {
        jobs: Some([JobId::from("a".to_owned())].into()),
        priority: Some(Priority::new(3)),
    };
    h.hub.subscribe(1, &ALL, filter, Spelling::default(), None);
    assert_eq!(h.pull(1), None);
    h.run(json!({"a": "x", "b": "x"}));
    let got: Vec<String> = h.publish().into_iter().map(|(_, shown)| shown).collect();
    assert_eq!(got, ["1 pending a", "2 running a"]);
    for (priority, reaches) in [(2, 0), (3, 1)] {
        let event = Event::LifePreserver(crate::wire::LifePreserverEvent {
            message: "m".into(),
            priority: Priority::new(priority),
            class: "snapshot",
        });
        let mut count = 0;
        h.hub.publish(event, Moment::now(), |_, _, _| count += 1);
        assert_eq!(count, reaches, "priority {priority}");
    }
}

#[test]
fn late_subscriber_gets_the_last_event_unless_superseded() {
    let mut h = Fixture::new();
    let state = |host: &str| {
        Event::SystemState(crate::wire::SystemStateEvent {
            args: serde_json::Map::from_iter([("hostname".to_owned(), host.into())]),
            priority: Priority::new(0),
            news: crate::wire::StateNews::default(),
        })
    };
    h.hub.publish(state("old"), Moment::now(), |_, _, _| panic!("nobody is there"));
    h.hub.subscribe(1, &ALL, Filter::default(), Spelling::default(), None);
    h.hub.subscribe(2, &ALL, Filter::default(), Spelling::default(), None);
    let Some(Item::Event(event, _)) = h.hub.pull(1, &h.dispatcher, &h.alerts, Moment::now()) else {
        panic!()
    };
    assert!(String::from_utf8_lossy(&event.frame(Spelling::default())).contains("old"));
    let mut got = vec![];
    h.hub.publish(state("new"), Moment::now(), |session, _, _| got.push(session));
    assert_eq!(got, [1, 2]);
    assert_eq!(h.pull(2), None);
}

fn since(epoch: &str, seq: u64) -> Since {
    Since { epoch: epoch.into(), seq }
}

impl Fixture {
    fn resume(&mut self, session: SessionId, since: &Since) {
        let spelling = Spelling { hyphens: false, extended: true };
        self.hub.subscribe(session, &ALL, Filter::default(), spelling, Some(since));
    }

    fn pull_all(&mut self, session: SessionId) -> Vec<String> {
        std::iter::from_fn(|| self.pull(session)).collect()
    }
}

#[test]
fn resuming_subscriber_gets_exactly_the_missed_events() {
    let mut h = Fixture::new();
    h.run(json!({"a": "x"}));
    h.publish();
    h.print(1, "1\n");
    h.publish();
    h.resume(1, &since("e", 2));
    // An event during the replay is sent in order, once.
    h.print(1, "2\n");
    assert_eq!(h.publish(), []);
    assert_eq!(h.pull_all(1), ["3 running a 1", "4 running a 2"]);
    h.exit(1);
    assert_eq!(h.publish(), [(1, "5 finished a 1,2".into())]);
}

#[test]
fn resuming_subscriber_without_missed_events_gets_nothing() {
    let mut h = Fixture::new();
    h.run(json!({"a": "x"}));
    h.publish();
    h.resume(1, &since("e", 2));
    assert_eq!(h.pull_all(1), Vec::<String>::new());
}

#[test]
fn another_epoch_is_a_gap_of_unknown_size_then_current_state() {
    let mut h = Fixture::new();
    h.run(json!({"a": "x", "b": "x"}));
    h.publish();
    h.exit(1);
    h.publish();
    let expected = ["0 gap None", "1 pending a", "2 running a", "5 finished a", "5 running b"];
    for (session, since) in [(1, since("other", 3)), (2, since("e", 99))] {
        h.resume(session, &since);
        assert_eq!(h.pull_all(session), expected);
    }
}

#[test]
fn where_the_ring_no_longer_reaches_the_gap_is_counted() {
    let mut h = Fixture::new();
    h.run(json!({"a": "x"}));
    h.publish();
    for i in 0..100 {
        h.print(1, &format!("{i:0100}\n"));
        h.publish();
    }
    h.resume(1, &since("e", 5));
    let received = h.pull_all(1);
    let oldest = h.hub.ring.oldest().unwrap();
    assert!(oldest > 6, "the ring holds all");
    // The job is active: its events in the ring are covered by the current state.
    assert_eq!(received[0], format!("{} gap Some({})", oldest - 2, oldest - 6));
    assert_eq!(received.len(), 2);
    assert!(received[1].starts_with("102 running a 0"), "{}", received[1]);
}

#[test]
fn overtaken_replay_reports_the_gap_and_numbers_never_decrease() {
    let mut h = Fixture::new();
    h.run(json!({"a": "x"}));
    h.publish();
    for i in 0..10 {
        h.print(1, &format!("{i:0100}\n"));
        h.publish();
    }
    h.resume(1, &since("e", 2));
    assert!(h.pull(1).unwrap().starts_with("3 running"));
    for i in 0..100 {
        h.print(1, &format!("{i:0100}\n"));
        h.publish();
    }
    h.exit(1);
    h.publish();
    let received = h.pull_all(1);
    let oldest = h.hub.ring.oldest().unwrap();
    assert_eq!(received[0], format!("{} gap Some({})", oldest - 2, oldest - 4));
    assert!(received.last().unwrap().contains("finished a"));
    let numbers: Vec<u64> =
        received.iter().map(|t| t.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn pending_jobs_are_repeated_to_original_clients_alone() {
    let mut fixture = Fixture::new();
    fixture.run(json!({"a": "x", "b": "x", "c": "x", "d": "x"}));
    fixture.publish();
    fixture.subscribe_plain(1, true);
    fixture.subscribe_plain(2, false);
    let extended = Spelling { hyphens: true, extended: true };
    fixture.hub.subscribe(3, &[EventName::Dispatcher], Filter::default(), extended, None);
    while fixture.pull(3).is_some() {}
    for _ in 0..2 {
        for session in [1, 2, 3, 4] {
            fixture.hub.repeat_pending(session);
        }
        assert_eq!(fixture.hub.behind(), [1]);
        for id in ["c", "d"] {
            let received = fixture.pull(1).unwrap();
            assert!(received.contains("pending") && received.contains(id), "{received}");
        }
        assert_eq!(fixture.pull(1), None);
        assert!(fixture.hub.behind().is_empty());
    }
}

fn alert(key: &str, priority: u8) -> Condition {
    Condition {
        key: key.to_owned(),
        kind: Kind::Custom,
        source: "test".to_owned(),
        priority: Priority::new(priority),
        message: "wrong".to_owned(),
        raise_after: Duration::ZERO,
    }
}

impl Fixture {
    /// Reports conditions; returns the recipients of their transitions.
    fn report(&mut self, conditions: &[Condition]) -> Vec<(SessionId, String)> {
        let mut got = Vec::new();
        for condition in conditions {
            self.alerts.report(condition.clone(), Moment::now());
        }
        while let Some(transition) = self.alerts.next_transition() {
            self.hub.publish(transition.event(), Moment::now(), |session, event, _| {
                got.push((session, alert_of(event)));
            });
        }
        got
    }

    fn pull_alert(&mut self, session: SessionId) -> Option<String> {
        match self.hub.pull(session, &self.dispatcher, &self.alerts, Moment::now())? {
            Item::Event(event, _) => Some(alert_of(&event)),
            other => panic!("{other:?}"),
        }
    }
}

fn alert_of(event: &Published) -> String {
    let frame: Value = serde_json::from_slice(&event.frame(Spelling::default())).unwrap();
    assert_eq!(frame["name"], "alert");
    format!("{} {}", frame["args"]["state"].as_str().unwrap(), frame["args"]["key"])
}

#[test]
fn subscriber_to_alerts_gets_active_ones_first_and_each_once() {
    let mut h = Fixture::new();
    assert_eq!(h.report(&[alert("a", 5), alert("b", 5), alert("c", 2)]), []);
    let filter = Filter { priority: Some(Priority::new(3)), ..Filter::default() };
    h.hub.subscribe(1, &[EventName::Alert], filter, Spelling::default(), None);
    h.hub.subscribe(2, &EventName::ORIGINAL, Filter::default(), Spelling::default(), None);
    assert_eq!(h.pull_alert(1).unwrap(), "raised \"a\"");
    // One that is still to come as part of the current state is not sent twice.
    assert_eq!(h.report(&[alert("d", 5), alert("a", 6)]), [(1, "changed \"a\"".to_owned())]);
    assert_eq!(h.pull_alert(1).unwrap(), "raised \"b\"");
    assert_eq!(h.pull_alert(1).unwrap(), "raised \"d\"");
    assert_eq!(h.pull_alert(1), None);
    assert_eq!(h.report(&[alert("e", 5)]), [(1, "raised \"e\"".to_owned())]);
}
