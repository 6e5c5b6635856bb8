//! Accounts: a child that asks the system about users, groups and passwords, since that may hang;
//! and the loop's end of it.
//!
//! A name service behind LDAP can take minutes, PAM delays a failure on purpose, and the modules
//! that the C library loads for both take memory that a daemon would keep for ever. So a child has
//! the trouble. It is forked when first needed and ends when nothing was asked for a while. It is
//! forked and not executed anew for the reasons of [`crate::sys::fork`]; a clean memory would not
//! keep anything from PAM's modules, which run as root and may read every file of ours.
//!
//! Whatever it does not answer in time is answered for it: there is no answer, so nobody gets in. A
//! look-up that hangs costs the helper its life. Passwords are checked side by side, each in a
//! child of its own, a bounded number at once; others wait, a bounded number too.
//!
//! [`Helper`] is a state machine: bytes, exits and time come in, bytes and [`Outcome`]s go out.

mod message;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use message::{Frame, Kind};

pub use worker::look_up_now;

use crate::sys::account_state::AccountState;
use crate::sys::fork::with_socket;

/// The limits of the configuration that concern the helper.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a look-up may take; after that the helper counts as hung.
    pub lookup: Duration,
    /// How long a password check may take, waiting for its turn included.
    pub check: Duration,
    /// Password checks at once.
    pub at_once: usize,
    /// Password checks that may wait, and [`PROVEN`] times as many of accounts of keys.
    pub waiting: usize,
    /// After such a time without a question the helper ends.
    pub idle: Duration,
}

/// Number of a question, as its answer comes back under it.
pub type RequestId = u64;

/// Names of groups that are to be looked up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Groups with full access.
    pub full: Vec<String>,
    /// Groups with read access.
    pub read: Vec<String>,
}

/// What was found of groups, and of the daemon's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// Numbers of the groups with full access that there are.
    pub full: Vec<u32>,
    /// Numbers of the groups with read access that there are.
    pub read: Vec<u32>,
    /// Groups that there are not.
    pub unknown: Vec<String>,
    /// Groups that could not be looked up, with the reason.
    pub failed: Vec<String>,
    /// Name of the daemon's own user; its number where it has none.
    pub user: String,
    /// Home of the daemon's own user; `/` where it has none.
    pub home: PathBuf,
}

/// A user to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Who {
    /// By number.
    Uid(u32),
    /// By name.
    Name(String),
    /// By name, and PAM's account checks count too.
    Proven {
        /// The name.
        name: String,
        /// Where they proved it, for PAM: it may let somebody in from there and not from elsewhere.
        from: String,
    },
}

/// What is asked of users.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct UsersQuestion {
    /// The PAM service whose account checks count too; empty for none.
    service: String,
    users: Vec<Who>,
}

/// A user as the system knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// All groups that it is in.
    pub groups: Vec<u32>,
    /// Whether it may be used.
    pub state: AccountState,
}

/// What a look-up of users found, in the order of the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// This one.
    Account(Account),
    /// There is no such user.
    Nobody,
    /// It could not be found out, and why.
    Failed(String),
}

/// What became of a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is right, and the account may be used.
    Right(Account),
    /// It is wrong, or there is no such user.
    Wrong,
    /// It is right, and the account may not be used, for this reason.
    Refused(String),
    /// It could not be checked, and why.
    Failed(String),
}

/// A password to be checked.
pub struct Password {
    /// The PAM service.
    pub service: String,
    /// The user.
    pub user: String,
    /// The secret.
    pub secret: Zeroizing<String>,
    /// Address of whoever shows it, for PAM's modules and their logs.
    pub from: String,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password of {:?} from {}", self.user, self.from)
    }
}

/// So many wait already that it is not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

/// Something for the owner.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer to a question, as JSON.
    Answer(RequestId, Vec<u8>),
    /// There is none, and why.
    NoAnswer(RequestId, String),
    /// Start a child, and say [`Helper::begun`] or [`Helper::ended`].
    Begin,
    /// Kill the child, whose exit is to be said with [`Helper::ended`].
    Kill,
    /// Close the child's socket; its exit is to be said with [`Helper::ended`].
    Close,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// There is no child, and nothing is asked.
    Absent,
    /// One is being started.
    Beginning,
    /// It answers.
    Working,
    /// It was killed, or has nothing to do; its exit has not been seen.
    Ending,
}

/// A check that waits for its turn.
#[derive(Debug)]
struct Waiting {
    request: RequestId,
    frame: Frame,
    end: Instant,
    /// Whoever it is for showed a key. Strangers can ask for as many passwords to be checked as they
    /// like, and who has a key does not wait behind them.
    is_proven: bool,
}

/// The loop's end of the helper.
#[derive(Debug)]
pub struct Helper {
    limits: Limits,
    condition: Condition,
    outgoing: VecDeque<Frame>,
    /// Bytes of the first frame that are out already.
    sent: usize,
    incoming: Vec<u8>,
    /// Look-ups and checks that are on their way, by number, with what they are and their end.
    questions: BTreeMap<RequestId, (Kind, Instant)>,
    /// Checks that wait for their turn: those of keys, then those of passwords.
    waiting: VecDeque<Waiting>,
    last_request: RequestId,
    /// When something was asked or answered last.
    busy: Instant,
    outcomes: VecDeque<Outcome>,
}

/// So many accounts of keys may wait for each password: only owners of keys can ask for these.
pub const PROVEN: usize = 16;
const NO_RESOLVER: &str = "the name service does not answer";
const SILENT: &str = "the accounts of this host do not answer";

/// Starts the child of this helper.
pub fn begin(helper: &mut Helper) -> std::io::Result<(Pid, OwnedFd)> {
    let nothing = std::fs::File::open("/dev/null")?;
    with_socket(c"sysadm-accounts", nothing.into(), |socket, _| {
        // Copies of passwords that wait to be sent, of which the child needs none.
        helper.outgoing.clear();
        helper.waiting.clear();
        worker::run(socket.into());
    })
}

impl Helper {
    /// One without a child.
    pub fn new(limits: Limits, now: Instant) -> Helper {
        Helper {
            limits,
            condition: Condition::Absent,
            outgoing: VecDeque::new(),
            sent: 0,
            incoming: Vec::new(),
            questions: BTreeMap::new(),
            waiting: VecDeque::new(),
            last_request: 0,
            busy: now,
            outcomes: VecDeque::new(),
        }
    }

    /// Other limits from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What it has for its owner.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// Asks for groups; the answer is [`Accounts`].
    pub fn ask_for_groups(&mut self, asked: &Asked, now: Instant) -> RequestId {
        let asked = serde_json::to_vec(asked).unwrap_or_default();
        self.look_up(Kind::Groups, &asked, now)
    }

    /// Asks for users; the answer is a list of [`Found`]. PAM is not asked where `service` is empty.
    pub fn ask_for_users(&mut self, service: &str, users: &[Who], now: Instant) -> RequestId {
        let question = UsersQuestion { service: service.to_owned(), users: users.to_vec() };
        let question = serde_json::to_vec(&question).unwrap_or_default();
        self.look_up(Kind::Users, &question, now)
    }

    /// Asks for the addresses of a host; the answer is a `Result<Vec<IpAddr>, String>`. One that
    /// hangs holds up nobody else.
    pub fn ask_for_addresses(&mut self, host: &str, now: Instant) -> RequestId {
        self.look_up(Kind::Host, host.as_bytes(), now)
    }

    fn look_up(&mut self, kind: Kind, asked: &[u8], now: Instant) -> RequestId {
        let request = self.number();
        let frame = message::order(kind, request, &[asked]);
        self.order(kind, request, frame, now + self.limits.lookup, now);
        request
    }

    /// Asks whether a password is right; the answer is a [`Verdict`].
    pub fn check(&mut self, password: &Password, now: Instant) -> Result<RequestId, TooMany> {
        let Password { service, user, secret, from } = password;
        let (service, user, from) = (service.as_bytes(), user.as_bytes(), from.as_bytes());
        self.check_parts(&[service, b"\0", user, b"\0", from, b"\0", secret.as_bytes()], false, now)
    }

    /// Asks whether an account may be used, for somebody who proved in another way who they are;
    /// the answer is a [`Verdict`]. Without a `service` PAM is not asked.
    pub fn check_account(
        &mut self,
        service: &str,
        user: &str,
        from: &str,
        now: Instant,
    ) -> Result<RequestId, TooMany> {
        let parts = [service.as_bytes(), b"\0", user.as_bytes(), b"\0", from.as_bytes()];
        self.check_parts(&parts, true, now)
    }

    fn check_parts(
        &mut self,
        parts: &[&[u8]],
        is_proven: bool,
        now: Instant,
    ) -> Result<RequestId, TooMany> {
        let takes_turn = self.checking() < self.limits.at_once;
        let proven = self.waiting.iter().take_while(|other| other.is_proven).count();
        let of_kind = if is_proven { proven } else { self.waiting.len() - proven };
        let most = if is_proven { self.limits.waiting * PROVEN } else { self.limits.waiting };
        if !takes_turn && of_kind >= most {
            return Err(TooMany);
        }
        let request = self.number();
        let frame = message::order(Kind::Check, request, parts);
        let end = now + self.limits.check;
        if takes_turn {
            self.order(Kind::Check, request, frame, end, now);
        } else {
            let at = if is_proven { proven } else { self.waiting.len() };
            self.waiting.insert(at, Waiting { request, frame, end, is_proven });
        }
        Ok(request)
    }

    fn checking(&self) -> usize {
        self.questions.values().filter(|(kind, _)| *kind == Kind::Check).count()
    }

    fn number(&mut self) -> RequestId {
        self.last_request += 1;
        self.last_request
    }

    fn order(&mut self, kind: Kind, request: RequestId, frame: Frame, end: Instant, now: Instant) {
        self.busy = now;
        self.questions.insert(request, (kind, end));
        self.outgoing.push_back(frame);
        if self.condition == Condition::Absent {
            self.condition = Condition::Beginning;
            self.outcomes.push_back(Outcome::Begin);
        }
    }

    fn next_check(&mut self, now: Instant) {
        while self.checking() < self.limits.at_once
            && let Some(Waiting { request, frame, end, .. }) = self.waiting.pop_front()
        {
            self.order(Kind::Check, request, frame, end, now);
        }
    }

    /// What is to be written to the child next.
    pub fn bytes(&self) -> &[u8] {
        match (self.condition, self.outgoing.front()) {
            (Condition::Working, Some(frame)) => frame.get(self.sent..).unwrap_or_default(),
            (
                Condition::Absent | Condition::Beginning | Condition::Working | Condition::Ending,
                _,
            ) => &[],
        }
    }

    /// The child's socket took so many of them.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.outgoing.front().is_some_and(|frame| frame.len() <= self.sent) {
            self.outgoing.pop_front();
            self.sent = 0;
        }
    }

    /// The child said something.
    pub fn received(&mut self, bytes: &[u8], now: Instant) {
        if self.condition != Condition::Working {
            return;
        }
        self.busy = now;
        self.incoming.extend_from_slice(bytes);
        let incoming = std::mem::take(&mut self.incoming);
        let mut done = 0;
        while let Some((request, answer, length)) = message::take_report(&incoming[done..]) {
            done += length;
            match self.questions.remove(&request) {
                Some((Kind::Forget, _)) | None => {}
                Some((Kind::Groups | Kind::Users | Kind::Check | Kind::Host, _)) => {
                    self.outcomes.push_back(Outcome::Answer(request, answer.to_vec()));
                }
            }
        }
        self.incoming = incoming[done..].to_vec();
        self.next_check(now);
    }

    /// The child runs.
    pub fn begun(&mut self) {
        self.condition = Condition::Working;
    }

    /// The child has ended, or could not be started for the reason `why`.
    pub fn ended(&mut self, why: &str, now: Instant) {
        if self.condition != Condition::Ending {
            self.fail_all(&format!("the accounts helper has ended: {why}"));
        }
        self.incoming.clear();
        self.condition = Condition::Absent;
        self.next_check(now);
        if !self.outgoing.is_empty() && self.condition == Condition::Absent {
            self.condition = Condition::Beginning;
            self.outcomes.push_back(Outcome::Begin);
        }
    }

    /// All that is on its way has no answer.
    fn fail_all(&mut self, why: &str) {
        for (request, (kind, _)) in std::mem::take(&mut self.questions) {
            if kind != Kind::Forget {
                self.outcomes.push_back(Outcome::NoAnswer(request, why.to_owned()));
            }
        }
        self.outgoing.clear();
        self.sent = 0;
    }

    /// When [`Helper::on_deadline`] wants to be called.
    pub fn due(&self) -> Option<Instant> {
        let asked = self.questions.values().map(|(_, end)| *end);
        let ends = asked.chain(self.waiting.iter().map(|waiting| waiting.end));
        match (ends.min(), self.condition) {
            (None, Condition::Working) => Some(self.busy + self.limits.idle),
            (end, _) => end,
        }
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Instant) {
        let is_over = |end: &Instant| *end <= now;
        let late = self.waiting.iter().filter(|waiting| is_over(&waiting.end));
        for request in late.map(|waiting| waiting.request).collect::<BTreeSet<_>>() {
            self.waiting.retain(|other| other.request != request);
            let why = "too many authentications wait".to_owned();
            self.outcomes.push_back(Outcome::NoAnswer(request, why));
        }
        let late = self.questions.iter().filter(|(_, (_, end))| is_over(end));
        let late: Vec<_> = late.map(|(request, (kind, _))| (*request, *kind)).collect();
        if late.iter().any(|(_, kind)| !matches!(kind, Kind::Check | Kind::Host)) {
            self.fail_all(SILENT);
            if self.condition == Condition::Working {
                self.condition = Condition::Ending;
                self.outcomes.push_back(Outcome::Kill);
            }
        } else {
            for (request, kind) in late {
                self.questions.remove(&request);
                let why = if kind == Kind::Host { NO_RESOLVER } else { SILENT };
                self.outcomes.push_back(Outcome::NoAnswer(request, why.to_owned()));
                // Answered at once by a helper that lives.
                let forget = self.number();
                let frame = message::order(Kind::Forget, forget, &[&request.to_le_bytes()]);
                self.order(Kind::Forget, forget, frame, now + self.limits.lookup, now);
            }
        }
        self.next_check(now);
        let is_idle = self.questions.is_empty() && self.outgoing.is_empty();
        if self.condition == Condition::Working && is_idle && self.due().is_some_and(|d| d <= now) {
            self.condition = Condition::Ending;
            self.outcomes.push_back(Outcome::Close);
        }
    }
}

#[cfg(test)]
mod tests;
