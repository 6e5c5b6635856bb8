//! Tests of the queues, with made-up time.

use super::*;

struct Bench {
    notifier: Notifier,
    start: Moment,
    now: Moment,
}

/// Noon, so that no quiet hours of these tests hold.
fn minute_of(moment: SystemTime) -> Option<u16> {
    let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    Some((seconds / 60 % (24 * 60)) as u16)
}

const START: u64 = 1_795_953_600; // 12:00 of a day

fn target(name: &str) -> Target {
    Target {
        name: name.to_owned(),
        destination: Destination::Command(vec!["/bin/true".into()]),
        priority: Priority::new(6),
        events: vec![EventKind::Alert, EventKind::Notice],
        repeat: None,
        digest: Duration::from_secs(30),
        quiet: None,
        secret_file: None,
        headers_file: None,
        ca_file: None,
        proxy: None,
        deadline: Duration::from_secs(30),
    }
}

fn transition(key: &str, state: AlertState, priority: u8) -> Transition {
    Transition {
        id: format!("t-{key}-{}", state.name()),
        key: key.into(),
        kind: "pool/health".into(),
        state,
        priority: Priority::new(priority),
        message: format!("{key} is wrong"),
        source: "system-state".into(),
        since: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(START)),
        at: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(START)),
        count: 1,
        acknowledged_by: None,
        note: None,
    }
}

fn notice(id: &str, priority: u8) -> Item {
    let names = (id.to_owned(), id.to_owned(), "notice");
    let at = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(START));
    Item::of_event(EventKind::Notice, names, Priority::new(priority), id, &at)
}

fn failed(why: &str) -> Delivered {
    Delivered::Failed { why: why.into(), retry_after: None, refused: false }
}

fn accepted() -> Delivered {
    Delivered::Accepted("ok".into())
}

impl Bench {
    fn new(targets: &[Target]) -> Bench {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(START);
        let start = Moment { instant: Instant::now(), wall };
        let mut notifier = Notifier::new("nas", minute_of);
        notifier.configure(targets, start);
        Bench { notifier, start, now: start }
    }

    fn at(&mut self, seconds: u64) {
        let passed = Duration::from_secs(seconds);
        self.now = Moment { instant: self.start.instant + passed, wall: self.start.wall + passed };
        self.notifier.on_deadline(self.now);
    }

    fn raise(&mut self, key: &str, priority: u8) {
        self.notifier.on_transition(&transition(key, AlertState::Raised, priority), self.now);
    }

    fn transition(&mut self, transition: &Transition) {
        self.notifier.on_transition(transition, self.now);
    }

    /// Makes everything durable, and returns the deliveries and the records.
    fn run(&mut self) -> (Vec<Delivery>, Vec<String>) {
        let (mut deliveries, mut records) = (Vec::new(), Vec::new());
        while let Some(effect) = self.notifier.next_effect() {
            match effect {
                Effect::Persist { serial, step, record } => {
                    records.push(String::from_utf8(record).unwrap());
                    self.notifier.persisted(serial, step, self.now);
                }
                Effect::Deliver(delivery) => deliveries.push(delivery),
                Effect::Standing { .. } | Effect::Tested { .. } | Effect::Remark(_) => {}
            }
        }
        (deliveries, records)
    }

    fn one(&mut self) -> (DeliveryId, Message) {
        let (mut deliveries, _) = self.run();
        assert_eq!(deliveries.len(), 1, "{deliveries:?}");
        let Delivery { id, payload, .. } = deliveries.remove(0);
        match payload {
            Payload::Message(message) => (id, *message),
            Payload::Ping(ping) => panic!("{ping:?}"),
        }
    }

    fn none(&mut self) {
        let (deliveries, _) = self.run();
        assert!(deliveries.is_empty(), "{deliveries:?}");
    }

    fn end(&mut self, id: DeliveryId, outcome: Delivered) {
        self.notifier.delivered(id, outcome, self.now);
    }
}

#[test]
fn events_of_a_digest_become_one_message() {
    let mut bench = Bench::new(&[target("a")]);
    assert_eq!(bench.notifier.due(), None, "an idle queue sets no timer");
    (0..17).for_each(|n| bench.raise(&format!("pool/p{n}/health"), 7));
    bench.none();
    assert_eq!(bench.notifier.due(), Some(bench.start.instant + Duration::from_secs(30)));
    bench.at(30);
    let (id, message) = bench.one();
    assert_eq!(message.entries.len(), 17);
    assert_eq!(message.subject, "nas: 17 pools are not healthy: p0, p1, p2, … (7 Critical)");
    bench.raise("pool/late/health", 7);
    bench.none();
    bench.end(id, accepted());
    bench.none();
    bench.at(60);
    assert_eq!(bench.one().1.entries[0].key, "pool/late/health");
}

#[test]
fn urgent_event_ends_a_digest() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/a/health", 6);
    bench.none();
    bench.raise("pool/b/health", 9);
    assert_eq!(bench.one().1.entries.len(), 2);
}

#[test]
fn events_below_the_priority_or_of_another_kind_are_not_selected() {
    let mut bench = Bench::new(&[Target { events: vec![EventKind::Alert], ..target("a") }]);
    bench.raise("pool/a/health", 5);
    bench.notifier.on_event(&notice("n", 10), bench.now);
    assert!(bench.run().1.is_empty(), "nothing is stored");
    // It got worse, and then its end is of interest, whatever its priority was then.
    bench.transition(&transition("pool/a/health", AlertState::Changed, 9));
    let (id, message) = bench.one();
    assert_eq!(message.entries[0].state, ItemState::Changed);
    bench.end(id, accepted());
    bench.transition(&transition("pool/a/health", AlertState::Changed, 3));
    bench.none();
    bench.transition(&transition("pool/a/health", AlertState::Cleared, 3));
    bench.at(60);
    assert_eq!(bench.one().1.entries[0].state, ItemState::Cleared);
}

#[test]
fn message_is_sent_once_its_composition_is_durable() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/a/health", 9);
    let Some(Effect::Persist { serial: 1, step: Step::File, .. }) = bench.notifier.next_effect()
    else {
        panic!()
    };
    assert!(bench.notifier.next_effect().is_none());
    bench.notifier.persisted(1, Step::File, bench.now);
    let Some(Effect::Persist { serial: 1, step: Step::Start, record }) =
        bench.notifier.next_effect()
    else {
        panic!()
    };
    assert_eq!(record, br#"{"serial":1,"is":"started","batch":[1]}"#);
    assert!(bench.notifier.next_effect().is_none());
    bench.notifier.persisted(1, Step::Start, bench.now);
    let (id, _) = bench.one();
    bench.end(id, accepted());
    assert_eq!(bench.run().1, [r#"{"serial":1,"is":"forgotten"}"#]);
    assert_eq!(bench.notifier.due(), None);
}

#[test]
fn message_is_sent_where_nothing_can_be_made_durable() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/a/health", 9);
    let mut sent = None;
    while let Some(effect) = bench.notifier.next_effect() {
        match effect {
            Effect::Persist { serial, step, .. } => {
                bench.notifier.not_persisted(serial, step, bench.now);
            }
            Effect::Deliver(delivery) => sent = Some(delivery.id),
            other => panic!("{other:?}"),
        }
    }
    bench.notifier.persist_again();
    let (_, records) = bench.run();
    assert_eq!(records.len(), 2, "{records:?}");
    bench.end(sent.unwrap(), accepted());
    assert_eq!(bench.run().1.len(), 1);
}

#[test]
fn restart_at_any_point_repeats_the_same_message_or_none() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/a/health", 7);
    bench.raise("pool/b/health", 7);
    let (_, mut records) = bench.run();
    bench.at(30);
    let (deliveries, more) = bench.run();
    records.extend(more);
    let [Delivery { id, payload, .. }] = &deliveries[..] else { panic!() };
    let restored = |records: &[String], extra: bool| {
        let mut bench = Bench::new(&[target("a")]);
        let texts = records.iter().map(String::as_str);
        bench.notifier.restore(texts, 2, bench.now);
        if extra {
            bench.raise("pool/c/health", 9);
        }
        bench.run()
    };
    // It was composed: the same message, whatever came in between.
    for extra in [false, true] {
        let (again, _) = restored(&records, extra);
        assert_eq!(&again[0].payload, payload);
    }
    // Only one of its records was lost with the store: the rest is sent.
    let (again, _) = restored(&records[1..], false);
    let Payload::Message(message) = &again[0].payload else { panic!() };
    assert_eq!((message.entries.len(), again.len()), (1, 1));
    bench.end(*id, accepted());
    let (_, gone) = bench.run();
    assert_eq!(gone.len(), 2);
    // The journal leaves out what is forgotten.
    assert!(restored(&[], false).0.is_empty());
}

#[test]
fn failed_delivery_is_retried_with_the_same_id_and_growing_pauses() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/a/health", 9);
    let (mut id, first) = bench.one();
    let mut last = 0;
    for attempt in 0..14 {
        bench.end(id, failed("no route"));
        bench.none();
        let due = bench.notifier.due().unwrap();
        let pause = due.duration_since(bench.now.instant).as_secs_f64();
        let full = f64::from(1 << attempt.min(20)).min(900.0);
        assert!(pause > 0.74 * full && pause <= full, "{attempt}: {pause}");
        last = (due - bench.start.instant).as_secs() + 1;
        bench.at(last);
        let (again, message) = bench.one();
        assert_eq!(message, first);
        id = again;
    }
    bench.end(id, Delivered::Failed { why: "429".into(), retry_after: Some(1800), refused: false });
    let due = bench.notifier.due().unwrap();
    assert_eq!(due, bench.start.instant + Duration::from_secs(last + 1800));
    let status = &bench.notifier.status(bench.now)[0];
    assert_eq!((status.state, status.attempts, status.waiting), ("retrying", 15, 1));
}

#[test]
fn target_that_fails_three_times_is_reported_until_it_accepts() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/a/health", 9);
    let (mut id, _) = bench.one();
    let mut standing = Vec::new();
    for round in 1..=4 {
        bench.end(id, if round == 4 { accepted() } else { failed("down") });
        while let Some(effect) = bench.notifier.next_effect() {
            if let Effect::Standing { failing, .. } = effect {
                standing.push((round, failing));
            }
        }
        bench.at(round * 1000);
        if round < 4 {
            id = bench.one().0;
        }
    }
    assert_eq!(standing, [(3, Some("down".to_owned())), (4, None)]);
    // Its own alert never goes to it.
    bench.transition(&transition("notify/a/failing", AlertState::Raised, 9));
    bench.none();
    let mut bench = Bench::new(&[target("b")]);
    bench.transition(&transition("notify/a/failing", AlertState::Raised, 9));
    assert_eq!(bench.one().1.entries[0].key, "notify/a/failing");
}

#[test]
fn refused_content_does_not_block_a_queue() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/a/health", 9);
    let (mut id, _) = bench.one();
    bench.raise("pool/b/health", 9);
    for round in 1..=ATTEMPTS_REFUSED {
        bench.end(id, Delivered::Failed { why: "400".into(), retry_after: None, refused: true });
        bench.none();
        bench.at(u64::from(round) * 1000);
        let (next, message) = bench.one();
        id = next;
        let is_next = message.entries[0].key == "pool/b/health";
        assert_eq!(is_next, round == ATTEMPTS_REFUSED);
        assert_eq!(message.dropped, u64::from(is_next));
    }
}

#[test]
fn full_queue_drops_the_oldest_of_the_lowest_priority() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/first/health", 9);
    let (id, _) = bench.one();
    for n in 0..MOST_ITEMS + 20 {
        let priority = if n % 2 == 0 { 7 } else { 8 };
        bench.notifier.on_event(&notice(&format!("n{n}"), priority), bench.now);
    }
    let (_, records) = bench.run();
    let forgotten = records.iter().filter(|record| record.contains("forgotten")).count();
    // The one in flight and the count itself have their places.
    assert_eq!(forgotten, 22);
    assert_eq!(bench.notifier.status(bench.now)[0].dropped, 22);
    bench.end(id, accepted());
    bench.at(31);
    let (id, message) = bench.one();
    assert_eq!(message.entries.len() as u64 + message.dropped, MOST_IN_MESSAGE as u64 - 1 + 22);
    let lost: Vec<&str> = ["n0", "n2", "n42"].into();
    let has = |key: &str| message.entries.iter().any(|item| item.key == key);
    assert!(!has(lost[0]) && !has(lost[1]) && !has(lost[2]) && has("n44") && has("n1"));
    bench.end(id, accepted());
    // A restart knows the count too.
    let mut again = Bench::new(&[target("a")]);
    let texts: Vec<&str> =
        records.iter().filter(|record| !record.contains("forgotten")).map(String::as_str).collect();
    again.notifier.restore(texts, 2000, again.now);
    let (deliveries, _) = again.run();
    assert_eq!(deliveries.len(), 1);
}

#[test]
fn quiet_hours_let_only_urgent_events_pass() {
    let quiet = QuietHours::parse("11:00-13:00").ok();
    let mut bench = Bench::new(&[Target { quiet, ..target("a") }]);
    bench.raise("pool/a/health", 8);
    bench.none();
    bench.at(31);
    bench.none();
    assert_eq!(bench.notifier.status(bench.now)[0].state, "quiet");
    bench.raise("pool/b/health", 9);
    let (id, message) = bench.one();
    assert_eq!(message.entries.len(), 1);
    bench.end(id, accepted());
    let mut looks = 0;
    while let Some(due) = bench.notifier.due() {
        looks += 1;
        let seconds = (due - bench.start.instant).as_secs() + 1;
        bench.at(seconds);
        let (deliveries, _) = bench.run();
        if let [Delivery { payload: Payload::Message(message), .. }] = &deliveries[..] {
            assert_eq!(message.entries[0].key, "pool/a/health");
            assert!((3600..3700).contains(&seconds), "{seconds}");
            break;
        }
    }
    assert!((1..10).contains(&looks), "{looks}");
}

#[test]
fn active_alert_is_repeated_until_it_is_acknowledged() {
    let repeat = Some(Duration::from_secs(3600));
    let mut bench = Bench::new(&[Target { repeat, ..target("a") }]);
    bench.raise("pool/a/health", 9);
    let (id, _) = bench.one();
    bench.end(id, accepted());
    bench.none();
    assert_eq!(bench.notifier.due(), Some(bench.start.instant + Duration::from_secs(3600)));
    bench.at(3600);
    let (id, message) = bench.one();
    assert_eq!(message.subject, "nas: still: pool/a/health is wrong (9 Urgent)");
    bench.end(id, accepted());
    bench.none();
    let by = Some("root".to_owned());
    let acknowledged = Transition {
        acknowledged_by: by,
        ..transition("pool/a/health", AlertState::Acknowledged, 9)
    };
    bench.transition(&acknowledged);
    bench.at(7200);
    bench.none();
    bench.at(4 * 3600);
    bench.none();
    // A restart goes on in the same rhythm.
    let mut again = Bench::new(&[Target { repeat, ..target("a") }]);
    again.now.wall += Duration::from_secs(1800);
    again.notifier.set_active([&transition("pool/a/health", AlertState::Raised, 9)], again.now);
    again.none();
    assert_eq!(again.notifier.due(), Some(again.start.instant + Duration::from_secs(1800)));
}

#[test]
fn check_is_pinged_while_nothing_is_active() {
    let url = Webhook::parse("https://hc-ping.com/x").unwrap();
    let check = Target {
        destination: Destination::Webhook { url, format: Format::Healthchecks },
        repeat: Some(Duration::from_secs(300)),
        ..target("hc")
    };
    let mut bench = Bench::new(&[check]);
    let ping = |bench: &mut Bench, fails: bool| {
        let (deliveries, records) = bench.run();
        let [Delivery { id, payload: Payload::Ping(ping), .. }] = &deliveries[..] else {
            panic!("{deliveries:?}")
        };
        assert_eq!((ping.fails, records.len()), (fails, 0), "{ping:?}");
        *id
    };
    let id = ping(&mut bench, false);
    bench.end(id, accepted());
    bench.none();
    bench.at(299);
    bench.none();
    bench.at(300);
    let id = ping(&mut bench, false);
    bench.raise("pool/a/health", 5);
    bench.raise("pool/b/health", 6);
    bench.end(id, accepted());
    let id = ping(&mut bench, true);
    bench.end(id, failed("down"));
    bench.none();
    bench.transition(&transition("pool/b/health", AlertState::Cleared, 6));
    bench.at(302);
    let id = ping(&mut bench, false);
    bench.end(id, accepted());
    bench.none();
    assert_eq!(bench.notifier.due(), Some(bench.start.instant + Duration::from_secs(602)));
}

#[test]
fn test_message_goes_past_the_queue() {
    let mut bench = Bench::new(&[target("a")]);
    assert!(bench.notifier.test("b", 7, bench.now).unwrap_err().contains("configured: a"));
    bench.raise("pool/a/health", 9);
    let (waiting, _) = bench.one();
    bench.notifier.test("a", 7, bench.now).unwrap();
    let (id, message) = bench.one();
    assert!(message.test && message.subject == "nas: test of the notification a");
    bench.end(id, accepted());
    let tested = bench.notifier.next_effect();
    assert!(
        matches!(tested, Some(Effect::Tested { test: 7, outcome: Delivered::Accepted(_) })),
        "{tested:?}"
    );
    bench.end(waiting, accepted());
    bench.none();
}

#[test]
fn removed_target_takes_its_queue_along_and_a_changed_one_does_not() {
    let mut bench = Bench::new(&[target("a"), target("b")]);
    bench.raise("pool/a/health", 7);
    bench.none();
    let changed = Target { digest: Duration::from_secs(5), ..target("a") };
    bench.notifier.configure(&[changed], bench.now);
    let (_, records) = bench.run();
    assert_eq!(records, [r#"{"serial":2,"is":"forgotten"}"#]);
    bench.at(30);
    assert_eq!(bench.one().1.entries.len(), 1);
}

#[test]
fn message_that_nobody_accepts_for_a_week_is_dropped() {
    let mut bench = Bench::new(&[target("a")]);
    bench.raise("pool/a/health", 9);
    let (id, _) = bench.one();
    bench.at(LONGEST_WAIT.as_secs() + 10);
    bench.end(id, failed("down"));
    bench.at(LONGEST_WAIT.as_secs() + 100);
    let (_, message) = bench.one();
    assert_eq!((message.entries.len(), message.dropped), (0, 1));
    assert_eq!(message.subject, "nas: 1 notification was dropped (6 Critical)");
}
