//! The state machine, driven by hand.

use super::super::channel::{first, put};
use super::*;

struct Bench {
    files: Files,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        let now = Instant::now();
        Bench { files: Files::default(), start: now, now }
    }

    fn ask(&mut self, subject: Subject) {
        let path = PathBuf::from(format!("/{subject}"));
        self.files.ask(subject, &path, vec![1, 2, 3], self.now);
    }

    /// The outcomes that there are; workers that are wanted start.
    fn outcomes(&mut self) -> Vec<Outcome> {
        let outcomes: Vec<Outcome> = std::iter::from_fn(|| self.files.next_outcome()).collect();
        for outcome in &outcomes {
            if let Outcome::Start(id) = outcome {
                self.files.started(*id);
            }
        }
        outcomes
    }

    /// Frames that a worker reads now.
    fn read(&mut self, id: WorkerId) -> Vec<(u8, Subject)> {
        let Some(channel) = self.files.channel(id) else { return Vec::new() };
        let bytes: Vec<u8> = channel.bytes().iter().flat_map(|slice| slice.to_vec()).collect();
        channel.sent(bytes.len());
        let mut rest = bytes.as_slice();
        let mut read = Vec::new();
        while let Some((frame, length)) = first(rest) {
            read.push((frame.kind, frame.number));
            rest = &rest[length..];
        }
        read
    }

    fn answer(&mut self, id: WorkerId, subject: Subject) {
        let mut bytes = Vec::new();
        put(&mut bytes, kind::ANSWER, subject, &[b"answer"]);
        let (first, second) = bytes.split_at(7);
        self.files.received(id, first, self.now);
        self.files.received(id, second, self.now);
    }

    fn at(&mut self, seconds: u64) {
        self.now = self.start + Duration::from_secs(seconds);
        self.files.on_deadline(self.now);
    }
}

fn answered(subject: Subject) -> Outcome {
    Outcome::Answer(subject, b"answer".to_vec())
}

fn hangs(subject: Subject) -> Outcome {
    Outcome::Hangs(subject, format!("/{subject}").into())
}

fn answers(subject: Subject) -> Outcome {
    Outcome::Answers(subject, format!("/{subject}").into())
}

#[test]
fn questions_are_asked_one_at_a_time() {
    let mut bench = Bench::new();
    assert_eq!(bench.files.due(), None);
    bench.ask(1);
    bench.ask(2);
    assert_eq!(bench.outcomes(), [Outcome::Start(1)]);
    assert_eq!(bench.read(1), [(kind::ASK, 1)]);
    bench.answer(1, 1);
    assert_eq!(bench.read(1), [(kind::ASK, 2)]);
    bench.answer(1, 2);
    assert_eq!(bench.outcomes(), [answered(1), answered(2)]);
    assert_eq!(bench.files.due(), None, "an idle worker sets no timer");
}

#[test]
fn question_that_hangs_has_its_worker_and_others_a_new_one() {
    let mut bench = Bench::new();
    bench.ask(1);
    bench.ask(2);
    bench.outcomes();
    bench.read(1);
    bench.at(5);
    assert_eq!(bench.outcomes(), [Outcome::Restarted, hangs(1), Outcome::Start(2)]);
    assert_eq!(bench.files.hanging().map(|(path, _)| path).collect::<Vec<_>>(), [Path::new("/1")]);
    assert_eq!(bench.read(2), [(kind::ASK, 2)]);
    bench.answer(2, 2);
    bench.answer(1, 1);
    assert_eq!(bench.outcomes(), [answered(2), Outcome::Close(1), answers(1), answered(1)]);
    assert_eq!(bench.files.hanging().count(), 0);
    bench.files.ended(1, bench.now);
    assert_eq!((bench.outcomes(), bench.files.due()), (vec![], None));
}

#[test]
fn question_that_hangs_is_asked_again_once_its_worker_is_gone() {
    let mut bench = Bench::new();
    bench.ask(1);
    bench.outcomes();
    bench.at(5);
    bench.outcomes();
    bench.at(19);
    assert_eq!(bench.outcomes(), []);
    bench.at(20);
    assert_eq!(bench.outcomes(), [Outcome::Kill(1)]);
    // It cannot be killed: nothing more is done.
    assert_eq!(bench.files.due(), None);
    bench.at(1000);
    assert_eq!(bench.outcomes(), []);
    bench.files.ended(1, bench.now);
    bench.at(1001);
    assert_eq!(bench.outcomes(), [Outcome::Start(2)]);
    assert_eq!(bench.read(2), [(kind::ASK, 1)]);
    bench.answer(2, 1);
    assert_eq!(bench.outcomes(), [Outcome::Close(2), answers(1), answered(1)]);
}

#[test]
fn more_questions_that_hang_than_workers_wait_for_one() {
    let mut bench = Bench::new();
    let count = MOST_HANGING as u64 + 2;
    (1..=count).for_each(|subject| bench.ask(subject));
    for round in 1..=count {
        bench.outcomes();
        bench.at(5 * round);
    }
    let killed = |outcome: &Outcome| matches!(outcome, Outcome::Kill(_));
    assert_eq!(bench.files.hanging().count(), MOST_HANGING + 2);
    let with_worker = bench.files.hanging.iter().filter(|hanging| hanging.worker.is_some());
    assert_eq!(with_worker.count(), MOST_HANGING);
    // The first is answered, and the fifth has its place, when that one is due.
    bench.outcomes();
    let first = bench.files.hanging[0].worker.as_ref().unwrap().id;
    bench.answer(first, 1);
    assert!(!bench.outcomes().iter().any(killed));
    bench.at(1000);
    assert!(bench.outcomes().iter().any(|outcome| matches!(outcome, Outcome::Start(_))));
}

#[test]
fn forgotten_question_is_no_longer_waited_for() {
    let mut bench = Bench::new();
    bench.ask(1);
    bench.outcomes();
    bench.at(5);
    bench.outcomes();
    bench.files.forget(1, bench.now);
    assert_eq!(bench.outcomes(), [Outcome::Kill(1)]);
    assert_eq!((bench.files.hanging().count(), bench.files.due()), (0, None));
    // One that is forgotten before its deadline is not reported.
    bench.ask(2);
    bench.ask(3);
    bench.outcomes();
    bench.files.forget(2, bench.now);
    bench.files.forget(3, bench.now);
    bench.at(10);
    assert_eq!(bench.outcomes(), [Outcome::Restarted, Outcome::Kill(2)]);
    assert_eq!(bench.files.hanging().count(), 0);
}

#[test]
fn worker_that_ends_is_replaced_and_asked_again() {
    let mut bench = Bench::new();
    bench.ask(1);
    bench.outcomes();
    bench.read(1);
    bench.files.ended(1, bench.now);
    assert_eq!(bench.outcomes(), []);
    bench.at(1);
    assert_eq!(bench.outcomes(), [Outcome::Restarted, Outcome::Start(2)]);
    assert_eq!(bench.read(2), [(kind::ASK, 1)]);
}

#[test]
fn changes_are_reported_between_answers() {
    let mut bench = Bench::new();
    bench.ask(1);
    bench.outcomes();
    let mut bytes = Vec::new();
    put(&mut bytes, kind::CHANGED, 7, &[]);
    bench.files.received(1, &bytes, bench.now);
    bench.answer(1, 1);
    assert_eq!(bench.outcomes(), [Outcome::Changed(7), answered(1)]);
}
