use std::time::SystemTime;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Alerts with a clock of their own.
struct Machine {
    alerts: Alerts,
    now: Moment,
}

pub(super) fn limits() -> AlertLimits {
    AlertLimits {
        most: 100,
        bytes: 1024 * 1024,
        most_per_user: 10,
        clear_after: MINUTE,
        flap_limit: 3,
        flap_hold: 10 * MINUTE,
    }
}

fn condition(key: &str, kind: Kind, priority: u8, message: &str) -> Condition {
    Condition {
        key: key.to_owned(),
        kind,
        source: "test".to_owned(),
        priority: Priority::new(priority),
        message: message.to_owned(),
        raise_after: Duration::ZERO,
    }
}

impl Machine {
    fn new() -> Machine {
        Machine::with(limits())
    }

    fn with(limits: AlertLimits) -> Machine {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let now = Moment { instant: Instant::now(), wall };
        Machine { alerts: Alerts::new(limits, "e1"), now }
    }

    fn pass(&mut self, time: Duration) {
        self.now = Moment { instant: self.now.instant + time, wall: self.now.wall + time };
        self.alerts.on_deadline(usize::MAX, self.now);
    }

    fn report(&mut self, key: &str, kind: Kind, priority: u8, message: &str) -> Reported {
        self.alerts.report(condition(key, kind, priority, message), self.now)
    }

    fn pool(&mut self, priority: u8, message: &str) -> Reported {
        self.report("pool/tank/health", Kind::PoolHealth, priority, message)
    }

    fn resolve(&mut self, key: &str, cause: &str) -> Ended {
        self.alerts.resolve(key, cause, self.now)
    }

    /// State, priority and message of each transition since the last call.
    fn news(&mut self) -> Vec<(&'static str, u8, String)> {
        let mut news = Vec::new();
        while let Some(transition) = self.alerts.next_transition() {
            news.push((transition.state.name(), transition.priority.number(), transition.message));
        }
        news
    }

    fn states(&mut self) -> Vec<&'static str> {
        self.news().into_iter().map(|(state, ..)| state).collect()
    }

    /// The alerts of a daemon that starts after this one was killed.
    fn restarted(&self) -> Machine {
        let mut next = Machine { alerts: Alerts::new(self.alerts.limits, "e2"), now: self.now };
        for part in 0..PARTS {
            let records: Vec<String> = self.alerts.records(part).collect();
            let unknown = next.alerts.restore(records.iter().map(String::as_str), next.now);
            assert_eq!(unknown, 0);
        }
        next
    }
}

#[test]
fn condition_raises_once_and_its_end_clears() {
    let mut machine = Machine::new();
    assert_eq!(machine.pool(9, "tank is DEGRADED"), Reported::Raised);
    assert_eq!(machine.pool(9, "tank is DEGRADED"), Reported::Active);
    assert_eq!(machine.news(), [("raised", 9, "tank is DEGRADED".to_owned())]);
    assert_eq!(machine.resolve("pool/tank/health", "tank is ONLINE"), Ended::Held);
    machine.pass(MINUTE - SECOND);
    assert_eq!(machine.news(), []);
    machine.pass(SECOND);
    assert_eq!(machine.news(), [("cleared", 9, "tank is ONLINE".to_owned())]);
    assert_eq!(machine.resolve("pool/tank/health", "x"), Ended::NotActive);
    assert_eq!(machine.alerts.due(), None);
}

#[test]
fn end_that_is_a_fact_clears_at_once() {
    let mut machine = Machine::new();
    machine.report("snapshot/tank/failed", Kind::SnapshotFailed, 7, "no space");
    assert_eq!(machine.resolve("snapshot/tank/failed", "New snapshot of tank"), Ended::Cleared);
    assert_eq!(machine.states(), ["raised", "cleared"]);
}

#[test]
fn condition_shorter_than_raise_after_is_not_reported() {
    let mut machine = Machine::new();
    let mut down = condition("link/office/down", Kind::LinkDown, 5, "down");
    down.raise_after = 5 * MINUTE;
    assert_eq!(machine.alerts.report(down.clone(), machine.now), Reported::Pending);
    machine.pass(4 * MINUTE);
    assert_eq!(machine.resolve("link/office/down", "up"), Ended::NotActive);
    machine.pass(5 * MINUTE);
    assert_eq!(machine.states(), [""; 0]);
    assert_eq!(machine.alerts.entries.len(), 0);
    machine.alerts.report(down, machine.now);
    machine.pass(5 * MINUTE);
    assert_eq!(machine.states(), ["raised"]);
    assert!(machine.alerts.is_active("link/office/down"));
}

#[test]
fn change_of_figures_alone_is_no_transition() {
    let mut machine = Machine::new();
    let key = "pool/tank/capacity";
    machine.report(key, Kind::PoolCapacity, 6, "tank is 91% full, 1.2G free");
    machine.report(key, Kind::PoolCapacity, 6, "tank is 92% full, 1.1G free");
    assert_eq!(machine.states(), ["raised"]);
    let list = machine.alerts.list(None, false, machine.now);
    assert_eq!(list["alerts"][0]["message"], "tank is 92% full, 1.1G free");
    machine.report(key, Kind::PoolCapacity, 8, "tank is 99% full, 0.1G free");
    assert_eq!(machine.news(), [("changed", 8, "tank is 99% full, 0.1G free".to_owned())]);
}

#[test]
fn twenty_changes_within_a_minute_are_one_notice_of_flapping() {
    let mut machine = Machine::new();
    for _ in 0..20 {
        machine.pool(9, "tank is DEGRADED");
        machine.pass(SECOND);
        machine.resolve("pool/tank/health", "tank is ONLINE");
        machine.pass(SECOND);
    }
    machine.pass(10 * MINUTE);
    let news = machine.news();
    let states: Vec<&str> = news.iter().map(|(state, ..)| *state).collect();
    assert_eq!(states, ["raised", "changed", "cleared"]);
    assert_eq!(news[1].2, "flapping: raised 4 times within an hour; last: tank is DEGRADED");
    assert_eq!(machine.alerts.due(), None);
}

#[test]
fn slow_flapping_is_held_until_it_has_been_steady() {
    let mut machine = Machine::new();
    for _ in 0..10 {
        machine.pool(9, "tank is DEGRADED");
        machine.pass(MINUTE);
        machine.resolve("pool/tank/health", "tank is ONLINE");
        machine.pass(2 * MINUTE);
    }
    let states = machine.states();
    assert_eq!(states, ["raised", "cleared", "raised", "cleared", "raised", "cleared", "raised"]);
    machine.pass(9 * MINUTE);
    assert_eq!(machine.news(), [("cleared", 9, "tank is ONLINE".to_owned())]);
    // One that stays is steady too.
    machine.pool(9, "tank is DEGRADED");
    assert!(machine.news()[0].2.starts_with("flapping: raised 11 times"));
    machine.pass(10 * MINUTE);
    assert!(!machine.alerts.entries["pool/tank/health"].is_flapping);
    machine.pass(2 * 60 * MINUTE);
    machine.resolve("pool/tank/health", "tank is ONLINE");
    machine.pass(MINUTE);
    assert_eq!(machine.states(), ["cleared"]);
}

#[test]
fn count_is_that_of_the_last_day() {
    let mut machine = Machine::new();
    let mut counts = Vec::new();
    for hours in [0, 2, 2, 23, 2] {
        machine.pass(60 * MINUTE * hours);
        machine.report("job/a/failed", Kind::JobFailed, 6, "a failed");
        machine.resolve("job/a/failed", "a succeeded");
        let raised = machine.alerts.next_transition().unwrap();
        counts.push(raised.count);
        let cleared = machine.alerts.next_transition().unwrap();
        machine.alerts.on_queued(&cleared.key, &cleared.id);
    }
    assert_eq!(counts, [1, 2, 3, 2, 2]);
    machine.pass(25 * 60 * MINUTE);
    machine.alerts.forget_old(machine.now);
    assert_eq!((machine.alerts.entries.len(), machine.alerts.bytes), (0, 0));
}

#[test]
fn acknowledgement_ends_with_its_time_or_a_higher_priority() {
    let mut machine = Machine::new();
    machine.pool(6, "tank has errors");
    machine.news();
    let hours = Some(8 * 60 * MINUTE);
    let done =
        machine.alerts.acknowledge("pool/**", "ann", Some("disk ordered"), hours, machine.now);
    assert_eq!(done.unwrap(), ["pool/tank/health"]);
    let transition = machine.alerts.next_transition().unwrap();
    assert_eq!(transition.acknowledged_by.as_deref(), Some("ann"));
    assert_eq!(transition.note.as_deref(), Some("disk ordered"));
    machine.pool(6, "tank has other errors");
    machine.pool(4, "tank has other errors");
    assert_eq!(machine.states(), ["changed", "changed"]);
    assert!(machine.alerts.entries["pool/tank/health"].acknowledgement.is_some());
    machine.pool(9, "tank is DEGRADED");
    assert!(machine.alerts.entries["pool/tank/health"].acknowledgement.is_none());
    machine.news();
    machine.alerts.acknowledge("pool/tank/health", "ann", None, hours, machine.now).unwrap();
    machine.pass(8 * 60 * MINUTE);
    assert_eq!(machine.states(), ["acknowledged", "changed"]);
    assert!(machine.alerts.entries["pool/tank/health"].acknowledgement.is_none());
    machine.alerts.acknowledge("pool/tank/health", "ann", None, None, machine.now).unwrap();
    assert_eq!(machine.alerts.unacknowledge("**", machine.now).unwrap(), ["pool/tank/health"]);
    assert_eq!(machine.alerts.unacknowledge("**", machine.now).unwrap(), [""; 0]);
    for wrong in ["pool/x/health", "", "a***", "a\nb"] {
        assert!(machine.alerts.acknowledge(wrong, "ann", None, None, machine.now).is_err());
    }
}

#[test]
fn alerts_and_acknowledgements_survive_a_restart() {
    let mut machine = Machine::new();
    machine.pool(9, "tank is DEGRADED");
    machine.report("custom/ann/offsite", Kind::Custom, 5, "not there");
    machine.report("job/a/failed", Kind::JobFailed, 6, "a failed");
    machine.resolve("job/a/failed", "a succeeded");
    let hour = Some(60 * MINUTE);
    machine.alerts.acknowledge("pool/**", "ann", Some("I know"), hour, machine.now).unwrap();
    let mut next = machine.restarted();
    assert_eq!(next.news(), [], "nothing is reported anew");
    assert_eq!(
        next.alerts.list(None, true, next.now),
        machine.alerts.list(None, true, machine.now)
    );
    // Confirmed by its source, and cleared later for the cause that the source has.
    next.pool(9, "tank is DEGRADED");
    next.resolve("pool/tank/health", "tank is ONLINE");
    next.pass(MINUTE);
    assert_eq!(next.news(), [("cleared", 9, "tank is ONLINE".to_owned())]);
    // Not confirmed.
    let mut next = machine.restarted();
    let is_own = |kind, _: &str| kind == Kind::PoolHealth;
    next.alerts.report_all(Vec::new(), is_own, |_| "tank is ONLINE".into(), next.now);
    assert_eq!(next.news(), [("cleared", 9, "no longer so after a restart".to_owned())]);
    assert!(next.alerts.is_active("custom/ann/offsite"));
    // The end of an acknowledgement is not forgotten.
    let mut next = machine.restarted();
    next.pass(60 * MINUTE);
    assert_eq!(next.states(), ["changed"]);
}

#[test]
fn unqueued_transition_is_repeated_after_a_restart() {
    let mut machine = Machine::new();
    machine.pool(9, "tank is DEGRADED");
    machine.report("custom/ann/a", Kind::Custom, 5, "a");
    let first = machine.alerts.next_transition().unwrap();
    let second = machine.alerts.next_transition().unwrap();
    assert_eq!(machine.restarted().alerts.unqueued(), [second.clone(), first.clone()]);
    machine.alerts.on_queued(&first.key, &first.id);
    machine.alerts.on_queued(&second.key, "another");
    assert_eq!(machine.restarted().alerts.unqueued(), [second]);
}

#[test]
fn changed_parts_are_stored_and_no_others() {
    let mut machine = Machine::new();
    machine.pool(9, "tank is DEGRADED");
    let part = Alerts::part_of("pool/tank/health");
    assert_eq!(machine.alerts.next_changed(|free| free != part), None);
    assert_eq!(machine.alerts.next_changed(|_| true), Some(part));
    assert_eq!(machine.alerts.next_changed(|_| true), None);
    machine.alerts.store_again(part);
    assert_eq!(machine.alerts.next_changed(|_| true), Some(part));
    assert_eq!(machine.alerts.records(part).count(), 1);
}

#[test]
fn damaged_record_is_left_out() {
    let mut machine = Machine::new();
    let unknown = machine.alerts.restore(["", "{}", "[]", "nonsense"].into_iter(), machine.now);
    assert_eq!((unknown, machine.alerts.entries.len()), (4, 0));
}

#[test]
fn alerts_beyond_the_limit_are_counted_and_the_lowest_give_way() {
    let mut machine = Machine::with(AlertLimits { most: 10, ..limits() });
    for number in 0..15 {
        machine.report(&format!("snapshot/t{number}/stale"), Kind::SnapshotStale, 5, "stale");
    }
    machine.pool(9, "tank is DEGRADED");
    assert!(machine.alerts.is_active("pool/tank/health"));
    let list = machine.alerts.list(None, false, machine.now);
    let hidden = list["alerts"].as_array().unwrap().iter().find(|it| it["key"] == NOT_SHOWN);
    let expected = "6 more alerts are active than can be shown (alerts.max)";
    assert_eq!(hidden.unwrap()["message"], expected);
    assert_eq!(machine.alerts.entries.len(), 11);
    let hidden = |machine: &Machine| machine.alerts.hidden.len();
    assert_eq!(hidden(&machine), 6);
    for number in 0..15 {
        machine.resolve(&format!("snapshot/t{number}/stale"), "fresh");
    }
    assert_eq!(hidden(&machine), 0);
    assert!(!machine.alerts.is_active(NOT_SHOWN));
    let counted: usize = machine.alerts.entries.iter().map(|(key, it)| it.weight(key)).sum();
    assert_eq!(machine.alerts.bytes, counted);
}

#[test]
fn bytes_of_alerts_are_bounded() {
    let mut machine = Machine::with(AlertLimits { most: 10_000, bytes: 64 * 1024, ..limits() });
    let long = "x".repeat(10 * MESSAGE);
    for number in 0..1000 {
        machine.report(&format!("custom/ann/{number}"), Kind::Custom, 5, &long);
        assert!(machine.alerts.bytes <= 66 * 1024, "{}", machine.alerts.bytes);
    }
    assert!(machine.alerts.entries.len() > 30);
    assert!(machine.alerts.entries.values().all(|entry| entry.message.len() <= MESSAGE));
}

#[test]
fn text_of_others_is_one_line() {
    let mut machine = Machine::new();
    machine.report("custom/ann/a\nb", Kind::Custom, 5, " one\ntwo\u{1b}[31m ");
    assert_eq!(machine.news(), [("raised", 5, "one two [31m".to_owned())]);
    assert!(machine.alerts.is_active("custom/ann/a b"));
}

#[test]
fn event_without_an_end_is_cleared_after_its_time() {
    let mut machine = Machine::new();
    machine.report("clock/jumped", Kind::ClockJumped, 4, "the clock jumped by 2 h");
    machine.pass(30 * MINUTE);
    machine.report("clock/jumped", Kind::ClockJumped, 4, "the clock jumped by 3 h");
    machine.pass(45 * MINUTE);
    assert_eq!(machine.states(), ["raised"]);
    machine.pass(15 * MINUTE);
    assert_eq!(machine.states(), ["cleared"]);
}

#[test]
fn list_has_pages_and_the_present_alerts_follow_in_order() {
    let mut machine = Machine::with(AlertLimits { most: 1000, ..limits() });
    for number in 0..300 {
        machine.report(&format!("custom/ann/{number:03}"), Kind::Custom, 5, "a");
    }
    machine.resolve("custom/ann/007", "over");
    let (mut after, mut keys) = (None, Vec::new());
    loop {
        let page = machine.alerts.list(after.as_deref(), false, machine.now);
        keys.extend(page["alerts"].as_array().unwrap().iter().map(|it| it["key"].to_string()));
        let Some(next) = page["next"].as_str() else { break };
        after = Some(next.to_owned());
    }
    assert_eq!(keys.len(), 299);
    let (mut after, mut present) = (None, 0);
    while let Some((key, transition)) = machine.alerts.present(after.as_deref()) {
        assert_eq!(key, transition.key);
        (after, present) = (Some(key.to_owned()), present + 1);
    }
    assert_eq!(present, 299);
    let summary = machine.alerts.summary();
    assert_eq!((summary.active, summary.highest), (299, Some(Priority::new(5))));
}
