//! Looking up the configured groups, and the user that the daemon runs as.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::pipe::Receiver;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Group, Pid, User, geteuid};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;

use crate::sys::fork::in_child;

/// What is to be looked up: names of groups.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Groups with full access.
    pub full: Vec<String>,
    /// Groups with read access.
    pub read: Vec<String>,
}

/// What was found.
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

/// Why nothing was found.
#[derive(Debug)]
pub enum LookupError {
    /// There was no answer in time.
    Overdue,
    /// The child ended without an answer.
    NoAnswer,
    /// It could not be asked.
    System(io::Error),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::Overdue => f.write_str("the name service does not answer"),
            LookupError::NoAnswer => f.write_str("the look-up ended without an answer"),
            LookupError::System(error) => error.fmt(f),
        }
    }
}

/// A look-up under way.
#[derive(Debug)]
pub struct Lookup {
    pid: Pid,
    answer: Receiver,
    bytes: Vec<u8>,
}

/// The longest answer, in bytes: groups are named in a file of bounded size.
const ANSWER: u64 = 1024 * 1024;
/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

impl Lookup {
    /// Begins.
    pub fn begin(asked: &Asked) -> Result<Lookup, LookupError> {
        let (pid, answer) = in_child(|mut out| {
            // A failed write leaves no answer, and that is noticed.
            let _ = out.write_all(&serde_json::to_vec(&look_up(asked)).unwrap_or_default());
        })
        .map_err(LookupError::System)?;
        Ok(Lookup { pid, answer: Receiver::from(answer), bytes: Vec::new() })
    }

    /// How long it may take.
    pub fn patience() -> Duration {
        PATIENCE
    }

    /// For the reactor.
    pub fn source(&mut self) -> &mut Receiver {
        &mut self.answer
    }

    /// Reads what has come; `None` while the answer is not whole.
    pub fn read(&mut self) -> Option<Result<Accounts, LookupError>> {
        let room = ANSWER.saturating_sub(self.bytes.len() as u64);
        match (&mut self.answer).take(room).read_to_end(&mut self.bytes) {
            Ok(_) => Some(serde_json::from_slice(&self.bytes).map_err(|_| LookupError::NoAnswer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(LookupError::System(error))),
        }
    }

    /// Waits for the answer: only for the start, when there is no loop yet to be held up.
    pub fn wait(mut self) -> Result<Accounts, LookupError> {
        let due = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = self.read() {
                return answer;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.give_up();
                return Err(LookupError::Overdue);
            }
            let mut asked = [PollFd::new(self.answer.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            // An interruption is no more than another look.
            let _ = poll(&mut asked, timeout);
        }
    }

    /// Ends the child, whose answer will not be wanted any more.
    pub fn give_up(&self) {
        // It fails where the child has just ended.
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

/// In the child.
fn look_up(asked: &Asked) -> Accounts {
    let mut found = Accounts::default();
    let mut numbers = |names: &[String]| -> Vec<u32> {
        let mut numbers = Vec::new();
        for name in names {
            match Group::from_name(name) {
                Ok(Some(group)) => numbers.push(group.gid.as_raw()),
                Ok(None) => found.unknown.push(name.clone()),
                Err(error) => found.failed.push(format!("{name}: {error}")),
            }
        }
        numbers
    };
    let (full, read) = (numbers(&asked.full), numbers(&asked.read));
    (found.full, found.read) = (full, read);
    match User::from_uid(geteuid()) {
        Ok(Some(user)) => (found.user, found.home) = (user.name, user.dir),
        Ok(None) | Err(_) => (found.user, found.home) = (geteuid().to_string(), PathBuf::from("/")),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_our_own_user_are_found() {
        let own = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
        let asked = Asked { full: vec![own.name], read: vec!["no-such-group".into()] };
        let found = look_up(&asked);
        assert_eq!(found.full, [nix::unistd::getegid().as_raw()]);
        assert_eq!((found.read, found.unknown), (vec![], vec!["no-such-group".to_owned()]));
        assert!(!found.user.is_empty());
    }
}
