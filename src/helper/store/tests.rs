//! The state machine of the store driven by hand, and the child driven over a real socket.

use super::super::channel::{first, read};
use super::*;

const DEADLINE: Duration = Duration::from_secs(5);

struct Driver {
    store: Store<&'static str>,
    start: Instant,
    elapsed: Duration,
}

impl Driver {
    /// A store whose child runs.
    fn new() -> Driver {
        let start = Instant::now();
        let limits = StoreLimits { deadline: DEADLINE, backlog: 1000, history: 1 };
        let mut driver =
            Driver { store: Store::new(limits, start), start, elapsed: Duration::ZERO };
        assert_eq!(driver.outcomes(), [Outcome::Begin]);
        driver.store.begun(driver.now());
        driver
    }

    fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    fn pass(&mut self, milliseconds: u64) {
        self.elapsed += Duration::from_millis(milliseconds);
        self.store.on_deadline(self.now());
    }

    fn persist(&mut self, ticket: &'static str) {
        self.store.persist(ticket, ticket.as_bytes().to_vec(), self.now());
        self.store.end_of_turn(self.now());
    }

    fn say(&mut self, report: Report) {
        let mut bytes = Vec::new();
        report.put(&mut bytes);
        self.store.received(&bytes, self.now());
    }

    fn outcomes(&mut self) -> Vec<Outcome<&'static str>> {
        std::iter::from_fn(|| self.store.next_outcome()).collect()
    }

    /// Orders for the child, one word each; removes them.
    fn orders(&mut self) -> Vec<String> {
        let channel = self.store.channel();
        let mut bytes = Vec::new();
        while channel.queued() > 0 && !channel.bytes().is_empty() {
            let some: Vec<u8> = channel.bytes().iter().flat_map(|slice| slice.to_vec()).collect();
            channel.sent(some.len());
            bytes.extend(some);
        }
        if !bytes.is_empty() {
            let now = self.now();
            self.store.moved(now);
        }
        let mut shown = Vec::new();
        let mut at = 0;
        while let Some((frame, length)) = first(&bytes[at..]) {
            at += length;
            shown.push(match Order::read(&frame).unwrap() {
                Order::Line(line) => String::from_utf8(line).unwrap(),
                Order::Commit(commit) => format!("commit {commit}"),
                Order::Log { serial, at, .. } => format!("log {serial} at {at}"),
                Order::ReadText { request, .. } => format!("question {request}"),
                other => format!("{other:?}"),
            });
        }
        shown
    }

    fn ask(&mut self) -> RequestId {
        let question =
            TextQuestion { serial: 1, total: 0, limit: 1, active: false, offset: 0, length: 1 };
        self.store.ask_for_text(&question, self.now())
    }
}

fn not_persisted(ticket: &'static str, why: &str) -> Outcome<&'static str> {
    Outcome::NotPersisted(ticket, why.to_owned())
}

#[test]
fn records_of_a_turn_share_a_commit() {
    let mut d = Driver::new();
    d.store.persist("a", b"a".to_vec(), d.now());
    d.store.note(b"note".to_vec(), d.now());
    d.store.persist("b", b"b".to_vec(), d.now());
    d.store.end_of_turn(d.now());
    d.store.end_of_turn(d.now());
    d.persist("c");
    assert_eq!(d.orders(), ["a", "note", "b", "commit 1", "c", "commit 2"]);
    assert_eq!(d.outcomes(), []);
    d.say(Report::Persisted(1));
    assert_eq!(d.outcomes(), [Outcome::Persisted("a"), Outcome::Persisted("b")]);
    d.say(Report::Persisted(2));
    assert_eq!(d.outcomes(), [Outcome::Persisted("c")]);
    assert!(d.store.is_idle() && d.store.due().is_none(), "an idle store sets no timer");
}

#[test]
fn dead_child_is_replaced_and_gets_undurable_records_again() {
    let mut d = Driver::new();
    d.persist("a");
    d.orders();
    let request = d.ask();
    d.store.ended("killed", d.now());
    assert!(matches!(&d.outcomes()[..], [Outcome::Remark(_), Outcome::Begin]), "nobody waits");
    d.persist("while it is away");
    d.store.begun(d.now());
    assert_eq!(d.outcomes(), [Outcome::Retry]);
    d.persist("what the owner gives again");
    assert_eq!(
        d.orders(),
        ["a", "while it is away", "question 1", "what the owner gives again", "commit 2"]
    );
    d.say(Report::Persisted(2));
    assert_eq!(d.outcomes().len(), 3, "all three are kept");
    assert_eq!(d.store.standing(), Ok(()));
    d.say(Report::Answer { request, answer: b"1".to_vec() });
    assert_eq!(d.outcomes(), [Outcome::Answer(request, b"1".to_vec())]);
}

#[test]
fn file_replacement_survives_a_dead_child() {
    let mut driver = Driver::new();
    let ordered = |driver: &mut Driver| driver.orders().iter().any(|it| it.starts_with("Persist"));
    let request = driver.store.replace("tail", b"17".to_vec(), driver.now());
    assert!(ordered(&mut driver));
    driver.store.ended("signal 9", driver.now());
    driver.store.begun(driver.now());
    assert!(ordered(&mut driver), "the new child gets it again");
    driver.say(Report::Answer { request, answer: vec![] });
    assert!(driver.outcomes().contains(&Outcome::Answer(request, vec![])));
    let request = driver.store.replace("tail", b"18".to_vec(), driver.now());
    driver.pass(5000);
    let refused = Outcome::NoAnswer(request, "state storage does not answer".to_owned());
    assert!(driver.outcomes().contains(&refused));
}

#[test]
fn hanging_child_is_killed_and_blocks_nothing() {
    let mut d = Driver::new();
    d.persist("a");
    d.orders();
    d.pass(4999);
    let request = d.ask();
    assert_eq!(d.outcomes(), []);
    d.pass(1);
    let silent = SILENT.to_owned();
    assert_eq!(
        d.outcomes(),
        [
            not_persisted("a", SILENT),
            Outcome::NoAnswer(request, silent.clone()),
            Outcome::Unavailable(silent.clone()),
            Outcome::Kill
        ]
    );
    assert_eq!(d.store.standing(), Err(SILENT));
    // Late reports and new requests change nothing.
    d.say(Report::Persisted(1));
    let request = d.ask();
    assert_eq!(d.outcomes(), [Outcome::NoAnswer(request, silent)]);
    d.store.log(1, 0, 100, b"text".to_vec(), d.now());
    assert_eq!(d.orders(), Vec::<String>::new());
    assert!(d.store.due().is_none(), "its end is waited for, however long that takes");
    d.store.ended("signal 9", d.now());
    assert_eq!(d.outcomes(), [Outcome::Begin]);
    d.store.begun(d.now());
    assert_eq!(d.outcomes(), [Outcome::Retry]);
    d.store.end_of_turn(d.now());
    let orders = ["log 1 at 0", "commit 2"];
    assert_eq!(d.orders(), orders, "a commit of nothing tells whether it is back");
    d.say(Report::Persisted(2));
    assert_eq!(d.outcomes(), [Outcome::Available]);
    assert_eq!(d.store.standing(), Ok(()));
}

#[test]
fn a_child_that_takes_no_bytes_hangs_too() {
    let mut d = Driver::new();
    d.store.log(1, 0, 100, b"text".to_vec(), d.now());
    d.pass(5000);
    assert!(d.outcomes().contains(&Outcome::Kill));
}

#[test]
fn a_disk_that_is_full_is_tried_again_at_growing_intervals() {
    let mut d = Driver::new();
    d.persist("a");
    d.orders();
    let full = || Report::Failed { commit: 1, why: "No space left".into() };
    let why = "state storage cannot write: No space left";
    d.say(full());
    assert_eq!(d.outcomes(), [not_persisted("a", why), Outcome::Unavailable(why.into())]);
    d.pass(100);
    assert_eq!(d.outcomes(), [Outcome::Retry]);
    d.store.end_of_turn(d.now());
    assert_eq!(d.orders(), ["commit 2"]);
    d.say(Report::Failed { commit: 2, why: "No space left".into() });
    d.pass(199);
    assert_eq!(d.outcomes(), []);
    d.pass(1);
    assert_eq!(d.outcomes(), [Outcome::Retry]);
    d.persist("a once more");
    assert_eq!(d.orders(), ["a once more", "commit 3"]);
    d.say(Report::Persisted(3));
    assert_eq!(d.outcomes(), [Outcome::Persisted("a once more"), Outcome::Available]);
}

#[test]
fn unstartable_child_is_retried_and_pending_records_fail_in_time() {
    let mut d = Driver::new();
    d.store.ended("killed", d.now());
    d.persist("a");
    let mut begins = 0;
    let mut failed = false;
    for _ in 0..600 {
        for outcome in d.outcomes() {
            match outcome {
                Outcome::Begin => {
                    begins += 1;
                    d.store.ended("fork: Cannot allocate memory", d.now());
                }
                Outcome::NotPersisted("a", _) => failed = true,
                Outcome::Unavailable(_) | Outcome::Remark(_) => {}
                other => panic!("{other:?}"),
            }
        }
        d.pass(100);
    }
    assert!(failed && (5..20).contains(&begins), "{begins} tries in a minute");
}

#[test]
fn logs_are_held_for_a_slow_store_and_omitted_for_a_failing_one() {
    let mut d = Driver::new();
    let log = |d: &mut Driver, at: u64| {
        d.store.log(1, 100 * at, 10_000, vec![b'x'; 100], d.now());
    };
    for at in 0..8 {
        assert!(d.store.has_room(), "{at}");
        log(&mut d, at);
    }
    assert!(!d.store.has_room(), "the owner is to wait with more");
    assert_eq!(d.orders()[7], "log 1 at 700");
    assert!(d.store.has_room());
    d.persist("a");
    d.orders();
    d.say(Report::Failed { commit: 1, why: "No space left".into() });
    for at in 8..100 {
        assert!(d.store.has_room(), "nobody waits for a full disk");
        log(&mut d, at);
    }
    assert!(d.store.outgoing() < 1200, "{}", d.store.outgoing());
}

#[test]
fn log_text_not_acknowledged_goes_to_the_next_child() {
    let mut d = Driver::new();
    for at in 0..4 {
        d.store.log(at % 2, 10 * at, 100, format!("text {at}").into(), d.now());
    }
    assert_eq!(d.orders().len(), 4);
    d.say(Report::Logged(2));
    d.store.ended("signal 9", d.now());
    // Printed while there is no child.
    d.store.log(1, 40, 100, "text 4".into(), d.now());
    d.store.begun(d.now());
    assert_eq!(d.orders(), ["log 0 at 20", "log 1 at 30", "log 1 at 40"]);
    d.say(Report::Logged(1));
    d.store.forget(1, d.now());
    d.store.ended("signal 9", d.now());
    d.pass(1000);
    d.store.begun(d.now());
    assert_eq!(d.orders(), ["Forget(1)"], "no text of a forgotten job");
    assert_eq!(d.store.logs_held, 0);
}

#[test]
fn log_text_beyond_the_backlog_waits_for_the_next_child() {
    let mut d = Driver::new();
    d.store.ended("signal 9", d.now());
    for at in 0..10 {
        assert!(d.store.has_room(), "{at}");
        d.store.log(1, 100 * at, 10_000, vec![b'x'; 100], d.now());
    }
    assert!(!d.store.has_room(), "the child is being replaced");
    d.store.begun(d.now());
    assert_eq!(d.orders().len(), 10);
    d.say(Report::Logged(10));
    assert!(d.store.has_room());
}

#[test]
fn a_new_child_that_hangs_too_is_killed_too() {
    let mut d = Driver::new();
    d.persist("a");
    d.pass(5000);
    assert!(d.outcomes().contains(&Outcome::Kill));
    d.store.ended("signal 9", d.now());
    d.store.begun(d.now());
    d.store.end_of_turn(d.now());
    d.outcomes();
    assert_eq!(d.orders(), ["commit 2"], "nothing else is under way");
    d.pass(4999);
    assert_eq!(d.outcomes(), []);
    d.pass(1);
    assert_eq!(d.outcomes(), [Outcome::Kill]);
}

#[test]
fn deletions_are_repeated_until_durable() {
    let mut d = Driver::new();
    d.store.forget(7, d.now());
    d.store.end_of_turn(d.now());
    assert_eq!(d.orders(), ["Forget(7)", "commit 1"]);
    d.say(Report::Failed { commit: 1, why: "No space left".into() });
    d.store.forget(8, d.now());
    d.store.end_of_turn(d.now());
    assert_eq!(d.orders(), ["Forget(7)", "Forget(8)", "commit 2"]);
    d.store.ended("killed", d.now());
    d.pass(1000);
    d.store.begun(d.now());
    d.store.end_of_turn(d.now());
    assert_eq!(d.orders(), ["Forget(7)", "Forget(8)", "commit 3"]);
    d.say(Report::Persisted(3));
    d.store.forget(9, d.now());
    d.store.end_of_turn(d.now());
    assert_eq!(d.orders(), ["Forget(9)", "commit 4"]);
}

/// A child in a directory of its own.
struct Child {
    socket: UnixStream,
    place: StoreLocation,
    pid: Pid,
}

impl Child {
    fn new(name: &str) -> Child {
        let directory =
            std::env::temp_dir().join(format!("se-store-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (place, _) = StoreLocation::open(&directory, true).unwrap();
        prepare(&place, |_| true).unwrap();
        Child::on(place)
    }

    fn on(place: StoreLocation) -> Child {
        let lock = std::fs::File::open("/dev/null").unwrap();
        let (pid, socket) = begin(&place, lock.into()).unwrap();
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Child { socket, place, pid }
    }

    fn order(&mut self, orders: &[Order]) {
        use std::io::Write;
        let mut bytes = Vec::new();
        orders.iter().for_each(|order| order.put(&mut bytes));
        self.socket.write_all(&bytes).unwrap();
    }

    /// The next report; skips acknowledgements of log texts.
    fn report(&mut self) -> Report {
        loop {
            let frame = read(&mut self.socket, 1 << 20).unwrap().unwrap();
            match Report::read(&frame).unwrap() {
                Report::Logged(_) => {}
                report => return report,
            }
        }
    }

    /// Closes its socket, and waits for its end.
    fn end(self) -> StoreLocation {
        drop(self.socket);
        nix::sys::wait::waitpid(self.pid, None).unwrap();
        self.place
    }
}

fn line(serial: u64, is: &str) -> Order {
    Order::Line(format!(r#"{{"serial":{serial},"is":"{is}"}}"#).into_bytes())
}

#[test]
fn child_carries_out_all_orders_up_to_the_last() {
    let mut child = Child::new("keeps");
    child.order(&[
        line(1, "filed"),
        Order::Commit(1),
        line(2, "filed"),
        Order::Commit(2),
        Order::Log { serial: 1, at: 0, limit: 1000, text: b"out\n".to_vec() },
        Order::Persist { request: 8, name: "tail".into(), bytes: b"17".to_vec() },
        Order::Persist { request: 9, name: "no/tail".into(), bytes: b"17".to_vec() },
    ]);
    // The two commits may be reported as one.
    let (mut committed, mut replaced, mut refused) = (false, false, false);
    while !(committed && replaced && refused) {
        match child.report() {
            Report::Persisted(commit) => committed |= commit == 2,
            Report::Answer { request, answer } => replaced |= request == 8 && answer.is_empty(),
            Report::NoAnswer { request, why } => {
                refused |= request == 9 && why.contains("no/tail");
            }
            other => panic!("{other:?}"),
        }
    }
    let question = br#"{"serial":1,"total":4,"limit":1000,"active":false,"offset":0,"length":9}"#;
    child.order(&[Order::ReadText { request: 3, question: question.to_vec() }]);
    let Report::Answer { request: 3, answer } = child.report() else { panic!() };
    let part: Part = serde_json::from_slice(&answer).unwrap();
    assert_eq!((part.data.as_str(), part.eof), ("out\n", true));
    let question =
        br#"{"serial":1,"ranges":[{"start":0,"end":1},{"start":1,"end":4}],"limit":100}"#;
    child.order(&[Order::ReadPieces { request: 4, question: question.to_vec() }]);
    let Report::Answer { request: 4, answer } = child.report() else { panic!() };
    let pieces: Vec<crate::wire::Excerpt> = serde_json::from_slice(&answer).unwrap();
    assert_eq!(pieces.iter().map(crate::wire::Excerpt::text).collect::<Vec<_>>(), ["o", "ut\n"]);
    // Without a commit and with the socket closed: still written.
    child.order(&[line(3, "filed"), Order::Forget(1)]);
    let place = child.end();
    let serials: Vec<u64> = load(&place.journal()).records.iter().map(|r| r.serial).collect();
    assert_eq!(serials, [2, 3]);
    assert_eq!(std::fs::read(place.directory.join("tail")).unwrap(), b"17");
    assert_eq!(std::fs::read_dir(place.logs()).unwrap().count(), 0);
    std::fs::remove_dir_all(&place.directory).unwrap();
}

#[test]
fn child_that_cannot_write_reports_why_and_recovers() {
    let mut child = Child::new("full");
    // An obstacle to the journal's replacement is one to its creation too.
    let place = child.place.clone();
    child.end();
    std::fs::remove_file(place.journal()).unwrap();
    std::fs::create_dir(place.journal()).unwrap();
    child = Child::on(place);
    child.order(&[line(1, "filed"), Order::Commit(1), line(1, "started")]);
    assert!(matches!(child.report(), Report::Failed { commit: 1, .. }));
    std::fs::remove_dir(child.place.journal()).unwrap();
    // Records after the first commit are lost too, which only the next one can report.
    child.order(&[Order::Commit(2)]);
    assert!(matches!(child.report(), Report::Failed { commit: 2, .. }));
    child.order(&[Order::Commit(3)]);
    assert_eq!(child.report(), Report::Persisted(3), "a commit of nothing opens the journal anew");
    child.order(&[line(1, "filed"), Order::Commit(4)]);
    assert_eq!(child.report(), Report::Persisted(4));
    let place = child.end();
    let loaded = load(&place.journal());
    assert_eq!((loaded.records.len(), loaded.damaged), (1, false), "{:?}", loaded.remarks);
    std::fs::remove_dir_all(&place.directory).unwrap();
}

#[test]
fn a_child_in_another_directory_acknowledges_nothing() {
    let mut child = Child::new("moved");
    child.order(&[line(1, "filed"), Order::Commit(1)]);
    assert_eq!(child.report(), Report::Persisted(1));
    let directory = child.place.directory.clone();
    let away = directory.with_extension("away");
    std::fs::rename(&directory, &away).unwrap();
    let persist = Order::Persist { request: 1, name: "tail".into(), bytes: b"17".to_vec() };
    for (commit, is_replaced) in [(2, false), (3, true)] {
        if is_replaced {
            std::fs::create_dir(&directory).unwrap();
        }
        child.order(&[line(commit, "filed"), Order::Commit(commit)]);
        let report = child.report();
        assert!(
            matches!(&report, Report::Failed { commit: of, .. } if *of == commit),
            "{report:?}"
        );
        child.order(std::slice::from_ref(&persist));
        let report = child.report();
        assert!(matches!(report, Report::NoAnswer { request: 1, .. }), "{report:?}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::rename(&away, &directory).unwrap();
    child.order(&[line(4, "filed"), Order::Commit(4)]);
    assert_eq!(child.report(), Report::Persisted(4), "the directory is back");
    let place = child.end();
    let serials: Vec<u64> = load(&place.journal()).records.iter().map(|r| r.serial).collect();
    assert_eq!(serials, [1, 4]);
    std::fs::remove_dir_all(&place.directory).unwrap();
}

#[test]
fn a_journal_removed_from_its_directory_is_written_anew() {
    let mut child = Child::new("unlinked");
    child.order(&[line(1, "filed"), line(2, "filed"), line(2, "started"), Order::Commit(1)]);
    assert_eq!(child.report(), Report::Persisted(1));
    for name in ["journal", "departed"] {
        std::fs::remove_file(child.place.directory.join(name)).unwrap();
    }
    std::fs::remove_dir(child.place.logs()).unwrap();
    let text = Order::Log { serial: 3, at: 0, limit: 1000, text: b"out\n".to_vec() };
    child.order(&[text, line(3, "filed"), Order::Commit(2)]);
    loop {
        match child.report() {
            Report::Persisted(2) => break,
            Report::Remark(remark) => assert!(remark.contains("written anew"), "{remark}"),
            other => panic!("{other:?}"),
        }
    }
    let place = child.end();
    let loaded = load(&place.journal());
    let serials: Vec<u64> = loaded.records.iter().map(|record| record.serial).collect();
    assert_eq!((serials, loaded.departed), (vec![1, 2, 2, 3], [2].into()));
    assert_eq!(std::fs::read(place.logs().join("3.0")).unwrap(), b"out\n");
    std::fs::remove_dir_all(&place.directory).unwrap();
}
