use std::time::SystemTime;

use super::super::tests::limits;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: u64 = 1_800_000_000;

struct Machine {
    expectations: Expectations,
    alerts: Alerts,
    now: Moment,
}

fn expectation(subject: Subject) -> Expectation {
    let grace = Duration::from_secs(900);
    Expectation { subject, every: HOUR, grace, priority: Priority::new(7) }
}

fn glob(text: &str) -> Glob {
    Glob::parse(text).unwrap()
}

impl Machine {
    fn new(subjects: Vec<Subject>) -> Machine {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let now = Moment { instant: Instant::now(), wall };
        let list = subjects.into_iter().map(expectation).collect();
        let expectations = Expectations::new(list, Duration::from_secs(300), None, now);
        Machine { expectations, alerts: Alerts::new(limits(), "e"), now }
    }

    fn pass(&mut self, time: Duration) {
        self.now = Moment { instant: self.now.instant + time, wall: self.now.wall + time };
        self.run();
    }

    fn run(&mut self) {
        while self.expectations.run(&mut self.alerts, Budget::endless(), self.now) {}
    }

    /// A check with this output. Ages are in seconds.
    fn check(&mut self, lines: &[(&str, u64)]) {
        assert!(self.expectations.next_check(self.now).is_some());
        let at = seconds(self.now.wall);
        for (name, age) in lines {
            self.expectations.printed(format!("{name}\t{}\n", at - age).as_bytes());
        }
        self.expectations.ended(Ok(()), &mut self.alerts, self.now);
        self.run();
    }

    fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        while let Some(it) = self.alerts.next_transition() {
            news.push(format!("{} {}", it.state.name(), it.key));
        }
        news.sort_unstable();
        news
    }
}

#[test]
fn newest_snapshot_of_each_dataset_counts() {
    let mut machine = Machine::new(vec![Subject::Snapshot(glob("tank/**"))]);
    machine.check(&[
        ("tank", 900_000),
        ("tank@a", 900_000),
        ("tank/home", 900_000),
        ("tank/home@old", 9000),
        ("tank/home@new", 60),
        ("tank/home@older", 9999),
        ("tank/vm", 900_000),
        ("tank/vm@a", 5000),
        ("tank/empty", 900_000),
        ("tank/fresh", 10),
        ("other/a@x", 900_000),
    ]);
    assert_eq!(
        machine.news(),
        ["raised snapshot/tank/empty/stale", "raised snapshot/tank/vm/stale"]
    );
    assert_eq!(machine.expectations.datasets(), 4);
    machine.pass(Duration::from_secs(300));
    machine.check(&[
        ("tank/home@new", 360),
        ("tank/vm@b", 1),
        ("tank/empty@x", 5),
        ("tank/fresh@x", 2),
    ]);
    assert_eq!(
        machine.news(),
        ["cleared snapshot/tank/empty/stale", "cleared snapshot/tank/vm/stale"]
    );
}

#[test]
fn check_is_due_when_a_dataset_may_become_stale() {
    let mut machine = Machine::new(vec![Subject::Snapshot(glob("tank/home"))]);
    machine.check(&[("tank/home@a", 4400)]);
    assert_eq!(machine.news(), [""; 0]);
    // 4500 s are allowed.
    let due = machine.expectations.due().unwrap() - machine.now.instant;
    assert_eq!(due, Duration::from_secs(101));
    machine.pass(due);
    machine.check(&[("tank/home@a", 4501)]);
    assert_eq!(machine.news(), ["raised snapshot/tank/home/stale"]);
    // After that at the interval.
    let due = machine.expectations.due().unwrap() - machine.now.instant;
    assert_eq!(due, Duration::from_secs(300));
    machine.pass(Duration::from_secs(10));
    machine.expectations.request(machine.now);
    assert!(machine.expectations.due().unwrap() <= machine.now.instant);
}

#[test]
fn vanished_dataset_and_pattern_without_one_are_alerts() {
    let subjects = [
        Subject::Snapshot(glob("tank/**")),
        Subject::Replication(glob("backup/nas")),
        Subject::Replication(glob("backup/x/*")),
    ];
    let mut machine = Machine::new(subjects.to_vec());
    machine.check(&[("tank/a@x", 1), ("tank/b@x", 9000)]);
    assert_eq!(
        machine.news(),
        [
            "raised replication/backup/nas/missing",
            "raised replication/backup/x/*/missing",
            "raised snapshot/tank/b/stale"
        ]
    );
    machine.pass(Duration::from_secs(300));
    machine.check(&[("tank/a@x", 1), ("backup/nas@x", 1), ("backup/x/1@x", 1)]);
    assert_eq!(
        machine.news(),
        [
            "cleared replication/backup/nas/missing",
            "cleared replication/backup/x/*/missing",
            "cleared snapshot/tank/b/stale",
            "raised snapshot/tank/b/missing"
        ]
    );
    machine.pass(Duration::from_secs(300));
    let again = [("tank/a@x", 1), ("backup/nas@x", 1), ("backup/x/1@x", 1)];
    machine.check(&again);
    assert_eq!(machine.news(), [""; 0]);
    machine.alerts.acknowledge("snapshot/tank/b/*", "ann", None, None, machine.now).unwrap();
    machine.pass(Duration::from_secs(300));
    machine.check(&again);
    assert_eq!(
        machine.news(),
        ["acknowledged snapshot/tank/b/missing", "cleared snapshot/tank/b/missing"]
    );
}

#[test]
fn failed_check_is_an_alert_and_changes_no_other() {
    let mut machine = Machine::new(vec![Subject::Snapshot(glob("tank/**"))]);
    machine.check(&[("tank/a@x", 9000)]);
    machine.pass(Duration::from_secs(300));
    machine.expectations.next_check(machine.now).unwrap();
    let why = Err("did not answer within 60s".to_owned());
    machine.expectations.ended(why, &mut machine.alerts, machine.now);
    machine.run();
    assert_eq!(machine.news(), ["raised snapshot/tank/a/stale", "raised zfs/unresponsive"]);
    machine.pass(Duration::from_secs(300));
    machine.check(&[("tank/a@x", 9000)]);
    assert_eq!(machine.news(), ["cleared zfs/unresponsive"]);
}

#[test]
fn output_is_the_same_in_any_pieces() {
    let lines = "tank/a\t1799990000\ntank/a@1\t1799999990\nnonsense\ntank/b\tx\ntank/b@1\t5\n";
    let long = format!("{}\t5\n", "x".repeat(2 * LINE));
    for size in [1, 2, 3, 7, 64, 100_000] {
        let mut machine = Machine::new(vec![Subject::Snapshot(glob("tank/*"))]);
        machine.expectations.next_check(machine.now).unwrap();
        for piece in format!("{long}{lines}{long}").as_bytes().chunks(size) {
            machine.expectations.printed(piece);
        }
        machine.expectations.ended(Ok(()), &mut machine.alerts, machine.now);
        machine.run();
        assert_eq!(machine.news(), ["raised snapshot/tank/b/stale"], "{size}");
        assert_eq!(machine.expectations.datasets(), 2);
    }
}

#[test]
fn job_and_emit_are_due_across_restarts() {
    let subjects = vec![Subject::Job(glob("nightly*")), Subject::Emit("offsite".to_owned())];
    let mut machine = Machine::new(subjects.clone());
    assert!(machine.expectations.next_check(machine.now).is_none(), "no question to ZFS");
    machine.run();
    machine.pass(HOUR);
    machine.expectations.on_job("nightly-1", &mut machine.alerts, machine.now);
    let memory = machine.expectations.memory().unwrap();
    assert_eq!(machine.expectations.memory(), None);
    machine.run();
    machine.pass(Duration::from_secs(899));
    assert_eq!(machine.news(), [""; 0]);
    machine.pass(Duration::from_secs(1));
    assert_eq!(machine.news(), ["raised emit/offsite/stale"]);
    let list = subjects.into_iter().map(expectation).collect();
    machine.expectations = Expectations::new(list, HOUR, Some(&memory), machine.now);
    machine.run();
    assert_eq!(machine.news(), [""; 0], "still active");
    machine.pass(HOUR);
    assert_eq!(machine.news(), ["raised job/nightly*/stale"]);
    machine.expectations.on_emit("offsite", &mut machine.alerts, machine.now);
    machine.expectations.on_emit("other", &mut machine.alerts, machine.now);
    assert_eq!(machine.news(), ["cleared emit/offsite/stale"]);
    machine.expectations.configure(Vec::new(), HOUR, machine.now);
    machine.run();
    assert_eq!(machine.news(), ["cleared job/nightly*/stale"]);
}
