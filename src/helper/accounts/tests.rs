//! The state machine of the helper, with made-up time and a simulated child.

use super::super::channel::{put, read};
use super::*;

const LIMITS: AccountsLimits = AccountsLimits {
    lookup: Duration::from_secs(10),
    check: Duration::from_secs(20),
    at_once: 2,
    waiting: 2,
    idle: Duration::from_secs(60),
};

fn report(request: RequestId, answer: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, request, &[answer]);
    bytes
}

struct Bench {
    helper: Helper,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        let start = Instant::now();
        Bench { helper: Helper::new(LIMITS, start), start, now: start }
    }

    /// `seconds` after the start.
    fn at(&mut self, seconds: u64) -> &mut Helper {
        self.now = self.start + Duration::from_secs(seconds);
        if self.helper.due().is_some_and(|due| due <= self.now) {
            self.helper.on_deadline(self.now);
        }
        &mut self.helper
    }

    fn ask(&mut self) -> RequestId {
        self.helper.ask_for_users("", &[UserQuery::Uid(0)], self.now)
    }

    fn check(&mut self) -> Result<RequestId, TooMany> {
        let secret = Zeroizing::new("secret".to_owned());
        let (service, user, from) = ("s".to_owned(), "u".to_owned(), "f".to_owned());
        self.helper.check(&Password { service, user, secret, from }, self.now)
    }

    /// All actions and results.
    fn wanted(&mut self) -> Vec<Outcome> {
        std::iter::from_fn(|| self.helper.next_outcome()).collect()
    }

    /// Requests that a child would read now.
    fn read(&mut self) -> Vec<(Kind, RequestId)> {
        let (channel, mut bytes) = (self.helper.channel(), Vec::new());
        while let Some(slice) = channel.bytes().first() {
            // A socket may accept a little at a time.
            bytes.push(slice[0]);
            channel.sent(1);
        }
        let mut source = bytes.as_slice();
        std::iter::from_fn(|| read(&mut source, 1000).unwrap())
            .map(|frame| (Kind::of(&frame).unwrap(), frame.number))
            .collect()
    }

    fn answer(&mut self, request: RequestId) {
        self.helper.received(&report(request, b"[]"), self.now);
    }
}

fn answered(request: RequestId) -> Outcome {
    Outcome::Answer(request, b"[]".to_vec())
}

fn silent(request: RequestId) -> Outcome {
    Outcome::NoAnswer(request, SILENT.to_owned())
}

#[test]
fn helper_starts_on_demand_and_ends_when_idle() {
    let mut bench = Bench::new();
    assert_eq!((bench.helper.due(), bench.wanted()), (None, vec![]));
    let request = bench.ask();
    assert_eq!(bench.wanted(), [Outcome::Begin]);
    assert_eq!(bench.read(), [], "there is nobody yet to read it");
    bench.helper.begun();
    assert_eq!(bench.read(), [(Kind::Users, request)]);
    bench.at(1);
    bench.answer(request);
    assert_eq!(bench.wanted(), [answered(request)]);
    bench.at(60);
    assert_eq!(bench.wanted(), []);
    bench.at(61);
    assert_eq!(bench.wanted(), [Outcome::Close]);
    // Just requested: the next one is replied to.
    let request = bench.ask();
    assert_eq!(bench.wanted(), []);
    bench.helper.ended("exit code 0", bench.now);
    assert_eq!(bench.wanted(), [Outcome::Begin]);
    bench.helper.begun();
    assert_eq!(bench.read(), [(Kind::Users, request)]);
}

#[test]
fn hanging_look_up_fails_and_kills_the_helper() {
    let mut bench = Bench::new();
    let (look_up, check) = (bench.ask(), bench.check().unwrap());
    bench.helper.begun();
    bench.read();
    bench.wanted();
    bench.at(9);
    assert_eq!(bench.wanted(), []);
    bench.at(10);
    assert_eq!(bench.wanted(), [silent(look_up), silent(check), Outcome::Kill]);
    // Later replies are ignored.
    bench.answer(look_up);
    assert_eq!(bench.wanted(), []);
    let next = bench.ask();
    bench.helper.ended("signal 9", bench.now);
    assert_eq!(bench.wanted(), [Outcome::Begin]);
    bench.helper.begun();
    assert_eq!(bench.read(), [(Kind::Users, next)]);
}

#[test]
fn helper_dead_or_unstartable_fails_all_requests() {
    let mut bench = Bench::new();
    let request = bench.ask();
    bench.wanted();
    bench.helper.ended("no memory", bench.now);
    let why = "the accounts helper has ended: no memory".to_owned();
    assert_eq!(bench.wanted(), [Outcome::NoAnswer(request, why)]);
    let request = bench.ask();
    assert_eq!(bench.wanted(), [Outcome::Begin]);
    bench.helper.begun();
    bench.read();
    bench.helper.ended("signal 11", bench.now);
    let why = "the accounts helper has ended: signal 11".to_owned();
    assert_eq!(bench.wanted(), [Outcome::NoAnswer(request, why)]);
    assert_eq!(bench.helper.due(), None);
}

#[test]
fn passwords_are_checked_a_few_at_a_time_and_few_wait() {
    let mut bench = Bench::new();
    let asked: Vec<RequestId> = (0..4).map(|_| bench.check().unwrap()).collect();
    assert_eq!(bench.check(), Err(TooMany));
    bench.helper.begun();
    bench.wanted();
    assert_eq!(bench.read(), [(Kind::Check, asked[0]), (Kind::Check, asked[1])]);
    bench.answer(asked[1]);
    assert_eq!(bench.wanted(), [answered(asked[1])]);
    assert_eq!(bench.read(), [(Kind::Check, asked[2])]);
    bench.check().unwrap();
    assert_eq!(bench.check(), Err(TooMany));
}

#[test]
fn account_check_of_a_key_does_not_wait_behind_passwords() {
    let mut bench = Bench::new();
    let guesses: Vec<RequestId> = (0..4).map(|_| bench.check().unwrap()).collect();
    assert_eq!(bench.check(), Err(TooMany));
    let mut show = || bench.helper.check_account("s", "u", "f", bench.now);
    let (first, second) = (show().unwrap(), show().unwrap());
    let others: Vec<RequestId> = (2..2 * PROVEN).map(|_| show().unwrap()).collect();
    assert_eq!(show(), Err(TooMany), "they are bounded too");
    bench.helper.begun();
    let mut turns = Vec::new();
    for _ in 0..6 + others.len() {
        for (_, request) in bench.read() {
            turns.push(request);
            bench.helper.received(&report(request, b"\"Wrong\""), bench.now);
        }
    }
    assert_eq!(turns[..4], [guesses[0], guesses[1], first, second]);
    assert_eq!(turns[turns.len() - 2..], guesses[2..]);
}

#[test]
fn a_password_that_hangs_is_given_up_alone() {
    let mut bench = Bench::new();
    let asked: Vec<RequestId> = (0..3).map(|_| bench.check().unwrap()).collect();
    bench.helper.begun();
    bench.read();
    bench.wanted();
    bench.at(15);
    let later = bench.check().unwrap();
    bench.at(20);
    let waited = "too many authentications wait".to_owned();
    let no_turn = Outcome::NoAnswer(asked[2], waited);
    assert_eq!(bench.wanted(), [no_turn, silent(asked[0]), silent(asked[1])]);
    let read = bench.read();
    let kinds: Vec<Kind> = read.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::Forget, Kind::Forget, Kind::Check]);
    assert_eq!(read[2].1, later);
    for (kind, request) in read {
        if kind == Kind::Forget {
            bench.answer(request);
        }
    }
    assert_eq!(bench.wanted(), [], "that it was forgotten is nobody's business");
    bench.at(34);
    bench.answer(later);
    assert_eq!(bench.wanted(), [answered(later)]);
}

#[test]
fn a_helper_that_does_not_even_forget_is_killed() {
    let mut bench = Bench::new();
    let asked = bench.check().unwrap();
    bench.helper.begun();
    bench.wanted();
    bench.at(20);
    assert_eq!(bench.wanted(), [silent(asked)]);
    bench.at(30);
    assert_eq!(bench.wanted(), [Outcome::Kill]);
    bench.helper.ended("signal 9", bench.now);
    assert_eq!((bench.wanted(), bench.helper.due()), (vec![], None));
}

#[test]
fn a_host_that_is_not_found_in_time_is_given_up_alone() {
    let mut bench = Bench::new();
    let host = bench.helper.ask_for_addresses("bridge.example.org", bench.now);
    bench.helper.begun();
    bench.read();
    let users = {
        bench.at(9);
        bench.ask()
    };
    bench.read();
    bench.wanted();
    bench.at(10);
    let reported = bench.wanted();
    assert_eq!(reported, [Outcome::NoAnswer(host, NO_RESOLVER.to_owned())]);
    assert_eq!(bench.read().iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Kind::Forget]);
    bench.answer(users);
    assert_eq!(bench.wanted(), [answered(users)]);
}
