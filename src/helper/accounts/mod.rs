//! Accounts helper: a child that looks up users, groups and passwords, which may block; and its
//! state machine in the loop.
//!
//! A name service behind LDAP can take minutes, PAM delays failures deliberately, and the modules
//! that the C library loads for both use memory that a daemon would hold for ever. So a child calls
//! them. It is forked on demand and ends when idle. It is forked without exec for the reasons of
//! [`crate::sys::fork`]; a clean memory would not hide anything from PAM's modules, which run as
//! root and may read every file of the daemon.
//!
//! A request without a timely reply fails, so authentication is denied. A look-up that hangs gets
//! the helper killed. Passwords are verified in parallel, each in a child of its own, a bounded
//! number at once; a bounded number of others wait.
//!
//! [`Helper`] is a state machine: bytes, exits and time come in, bytes and [`Outcome`]s go out.

mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use worker::look_up_now;

use super::channel::{Channel, Condition, Frame};
use crate::sys::account_state::AccountState;
use crate::sys::fork::with_socket;

/// Limits of the helper.
#[derive(Clone, Copy, Debug)]
pub struct AccountsLimits {
    /// Time limit of a look-up; beyond it the helper counts as hung.
    pub lookup: Duration,
    /// Time limit of a password check, including the wait for its turn.
    pub check: Duration,
    /// Maximum number of concurrent password checks.
    pub at_once: usize,
    /// Maximum number of waiting password checks, and 1/[`PROVEN`] of that of waiting account
    /// checks.
    pub waiting: usize,
    /// The helper ends after this time without a request.
    pub idle: Duration,
}

/// Number of a request, repeated in its reply.
pub type RequestId = u64;

/// Names of groups to look up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Groups with full access.
    pub full: Vec<String>,
    /// Groups with read access.
    pub read: Vec<String>,
}

/// Result of looking up groups and the daemon's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// Numbers of the existing groups with full access.
    pub full: Vec<u32>,
    /// Numbers of the existing groups with read access.
    pub read: Vec<u32>,
    /// Groups that do not exist.
    pub unknown: Vec<String>,
    /// Groups that could not be looked up, with the reason.
    pub failed: Vec<String>,
    /// Name of the daemon's own user; its number where it has none.
    pub user: String,
    /// Home of the daemon's own user; `/` where it has none.
    pub home: PathBuf,
}

/// A user to look up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UserQuery {
    /// By number.
    Uid(u32),
    /// By name.
    Name(String),
    /// By name, including PAM's account checks.
    Proven {
        /// The name.
        name: String,
        /// Address of the peer, for PAM, whose decision may depend on it.
        from: String,
    },
}

/// A look-up of users.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct UsersQuestion {
    /// The PAM service for account checks; empty for none.
    service: String,
    users: Vec<UserQuery>,
}

/// An account of the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
    /// Its status.
    pub state: AccountState,
}

/// Result of looking up a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// The account.
    Account(Account),
    /// There is no such user.
    Nobody,
    /// The look-up failed; the reason.
    Failed(String),
}

/// Result of a password check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Right, and the account may be used.
    Right(Account),
    /// Wrong, or there is no such user.
    Wrong,
    /// Right, but the account must not be used; the reason.
    Refused(String),
    /// The check failed; the reason.
    Failed(String),
}

/// A password to verify.
pub struct Password {
    /// The PAM service.
    pub service: String,
    /// The user.
    pub user: String,
    /// The password.
    pub secret: Zeroizing<String>,
    /// Address of the peer, for PAM's modules and their logs.
    pub from: String,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password of {:?} from {}", self.user, self.from)
    }
}

/// The maximum number of checks is waiting.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

/// An action or result for the owner.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply to a request, as JSON.
    Answer(RequestId, Vec<u8>),
    /// The request failed; the reason.
    NoAnswer(RequestId, String),
    /// Start a child, and report [`Helper::begun`] or [`Helper::ended`].
    Begin,
    /// Kill the child, and report its exit to [`Helper::ended`].
    Kill,
    /// Close the child's socket, and report its exit to [`Helper::ended`].
    Close,
}

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Look up numbers of groups; [`Asked`] as JSON.
    Groups,
    /// Look up users; a [`UsersQuestion`] as JSON.
    Users,
    /// Verify a password, or check an account; service, user, address and, for the first, password,
    /// separated by NULs.
    Check,
    /// Look up the addresses of a host; its name.
    Host,
    /// Cancel the check or look-up with that number. The reply is an empty list.
    Forget,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Groups, Kind::Users, Kind::Check, Kind::Host, Kind::Forget];

    /// The kind of a frame.
    fn of(frame: &Frame) -> Option<Kind> {
        Kind::ALL.get(usize::from(frame.kind)).copied()
    }
}

/// A waiting check.
#[derive(Debug)]
struct Waiting {
    request: RequestId,
    body: Zeroizing<Vec<u8>>,
    end: Instant,
    /// The client has proven a key. Unauthenticated clients can request any number of password
    /// checks, and owners of keys do not wait behind those.
    is_proven: bool,
}

/// State machine of the helper.
#[derive(Debug)]
pub struct Helper {
    limits: AccountsLimits,
    channel: Channel,
    /// Requests in flight, by number, with their kinds and deadlines.
    questions: BTreeMap<RequestId, (Kind, Instant)>,
    /// Waiting checks: those of keys, then those of passwords.
    waiting: VecDeque<Waiting>,
    last_request: RequestId,
    /// Time of the last request or reply.
    busy: Instant,
    outcomes: VecDeque<Outcome>,
}

/// Number of account checks that may wait for each password check: only owners of keys can request
/// them.
pub const PROVEN: usize = 16;
const NO_RESOLVER: &str = "the name service does not answer";
const SILENT: &str = "the accounts of this host do not answer";

/// Starts the child of this helper. In the child `forget` is called, for secrets of the caller.
pub fn begin(helper: &mut Helper, forget: impl FnOnce()) -> std::io::Result<(Pid, OwnedFd)> {
    let nothing = std::fs::File::open("/dev/null")?;
    with_socket(c"sysadm-accounts", nothing.into(), |socket, _, _| {
        // Copies of queued passwords, none of which the child needs.
        helper.channel.clear();
        helper.waiting.clear();
        forget();
        worker::run(socket.into());
    })
}

impl Helper {
    /// Creates a helper without a child.
    pub fn new(limits: AccountsLimits, now: Instant) -> Helper {
        Helper {
            limits,
            channel: Channel::default(),
            questions: BTreeMap::new(),
            waiting: VecDeque::new(),
            last_request: 0,
            busy: now,
            outcomes: VecDeque::new(),
        }
    }

    /// Changes the limits.
    pub fn set_limits(&mut self, limits: AccountsLimits) {
        self.limits = limits;
    }

    /// The next action or result.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// Looks up groups; the reply is [`Accounts`].
    pub fn ask_for_groups(&mut self, asked: &Asked, now: Instant) -> RequestId {
        let asked = serde_json::to_vec(asked).unwrap_or_default();
        self.look_up(Kind::Groups, &asked, now)
    }

    /// Looks up users; the reply is a list of [`Found`]. PAM is not used where `service` is empty.
    pub fn ask_for_users(&mut self, service: &str, users: &[UserQuery], now: Instant) -> RequestId {
        let question = UsersQuestion { service: service.to_owned(), users: users.to_vec() };
        let question = serde_json::to_vec(&question).unwrap_or_default();
        self.look_up(Kind::Users, &question, now)
    }

    /// Looks up the addresses of a host; the reply is a `Result<Vec<IpAddr>, String>`. One that
    /// hangs blocks no other.
    pub fn ask_for_addresses(&mut self, host: &str, now: Instant) -> RequestId {
        self.look_up(Kind::Host, host.as_bytes(), now)
    }

    fn look_up(&mut self, kind: Kind, asked: &[u8], now: Instant) -> RequestId {
        let request = self.number();
        self.order(kind, request, &[asked], now + self.limits.lookup, now);
        request
    }

    /// Verifies a password; the reply is a [`Verdict`].
    pub fn check(&mut self, password: &Password, now: Instant) -> Result<RequestId, TooMany> {
        let Password { service, user, secret, from } = password;
        let (service, user, from) = (service.as_bytes(), user.as_bytes(), from.as_bytes());
        self.check_parts(&[service, b"\0", user, b"\0", from, b"\0", secret.as_bytes()], false, now)
    }

    /// Checks an account after authentication by other means; the reply is a [`Verdict`]. Without a
    /// `service` PAM is not used.
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
        let takes_turn = self.has_turn();
        let proven = self.waiting.iter().take_while(|other| other.is_proven).count();
        let of_kind = if is_proven { proven } else { self.waiting.len() - proven };
        let most = if is_proven { self.limits.waiting * PROVEN } else { self.limits.waiting };
        if !takes_turn && of_kind >= most {
            return Err(TooMany);
        }
        let request = self.number();
        let end = now + self.limits.check;
        if takes_turn {
            self.order(Kind::Check, request, parts, end, now);
        } else {
            // In one allocation: another one would leave a copy of the password.
            let length = parts.iter().map(|part| part.len()).sum();
            let mut body = Zeroizing::new(Vec::with_capacity(length));
            parts.iter().for_each(|part| body.extend_from_slice(part));
            let at = if is_proven { proven } else { self.waiting.len() };
            self.waiting.insert(at, Waiting { request, body, end, is_proven });
        }
        Ok(request)
    }

    /// Whether a check would begin at once.
    pub fn has_turn(&self) -> bool {
        self.checking() < self.limits.at_once
    }

    fn checking(&self) -> usize {
        self.questions.values().filter(|(kind, _)| *kind == Kind::Check).count()
    }

    fn number(&mut self) -> RequestId {
        self.last_request += 1;
        self.last_request
    }

    fn order(
        &mut self,
        kind: Kind,
        request: RequestId,
        parts: &[&[u8]],
        end: Instant,
        now: Instant,
    ) {
        self.busy = now;
        self.questions.insert(request, (kind, end));
        self.channel.send(kind as u8, request, parts);
        self.begin_if_absent();
    }

    fn begin_if_absent(&mut self) {
        if self.channel.start() {
            self.outcomes.push_back(Outcome::Begin);
        }
    }

    fn next_check(&mut self, now: Instant) {
        while self.has_turn()
            && let Some(Waiting { request, body, end, .. }) = self.waiting.pop_front()
        {
            self.order(Kind::Check, request, &[&body], end, now);
        }
    }

    /// The channel to the child.
    pub fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Bytes from the child.
    pub fn received(&mut self, bytes: &[u8], now: Instant) {
        if self.channel.condition() != Condition::Running {
            return;
        }
        self.busy = now;
        for mut frame in self.channel.received(bytes) {
            match self.questions.remove(&frame.number) {
                Some((Kind::Forget, _)) | None => {}
                Some((Kind::Groups | Kind::Users | Kind::Check | Kind::Host, _)) => {
                    let answer = std::mem::take(&mut *frame.body);
                    self.outcomes.push_back(Outcome::Answer(frame.number, answer));
                }
            }
        }
        self.next_check(now);
    }

    /// The child runs.
    pub fn begun(&mut self) {
        self.channel.started();
    }

    /// The child has ended, or could not be started; the reason is `why`.
    pub fn ended(&mut self, why: &str, now: Instant) {
        if self.channel.condition() != Condition::Ending {
            self.fail_all(&format!("the accounts helper has ended: {why}"));
        }
        self.channel.ended();
        self.next_check(now);
        if self.channel.queued() > 0 {
            self.begin_if_absent();
        }
    }

    /// Fails all requests in flight.
    fn fail_all(&mut self, why: &str) {
        for (request, (kind, _)) in std::mem::take(&mut self.questions) {
            if kind != Kind::Forget {
                self.outcomes.push_back(Outcome::NoAnswer(request, why.to_owned()));
            }
        }
        self.channel.clear();
    }

    /// When [`Helper::on_deadline`] must be called.
    pub fn due(&self) -> Option<Instant> {
        let asked = self.questions.values().map(|(_, end)| *end);
        let ends = asked.chain(self.waiting.iter().map(|waiting| waiting.end));
        match (ends.min(), self.channel.condition()) {
            (None, Condition::Running) => Some(self.busy + self.limits.idle),
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
            if self.channel.end() {
                self.outcomes.push_back(Outcome::Kill);
            }
        } else {
            for (request, kind) in late {
                self.questions.remove(&request);
                let why = if kind == Kind::Host { NO_RESOLVER } else { SILENT };
                self.outcomes.push_back(Outcome::NoAnswer(request, why.to_owned()));
                // A living helper replies to it at once.
                let forget = self.number();
                let body = request.to_le_bytes();
                self.order(Kind::Forget, forget, &[&body], now + self.limits.lookup, now);
            }
        }
        self.next_check(now);
        let is_idle = self.questions.is_empty() && self.channel.queued() == 0;
        if is_idle && self.due().is_some_and(|due| due <= now) && self.channel.end() {
            self.outcomes.push_back(Outcome::Close);
        }
    }
}

#[cfg(test)]
mod tests;
