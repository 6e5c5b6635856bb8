//! The helper process: a child that calls the system, and may block.
//!
//! It does look-ups itself, one after the other. A password is verified in a child of its own, so
//! that a delay of PAM blocks nothing else, and the memory of PAM's modules and the password are
//! gone with the child.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Group, Pid, Uid, User, geteuid, getgrouplist};

use super::super::channel::{put, read};
use super::{Account, Accounts, Asked, Found, Kind, RequestId, UserQuery, UsersQuestion, Verdict};
use crate::sys::account_state;
use crate::sys::fork::in_child;
use crate::sys::pam::{self, Judgement};

/// A check or look-up in a child of its own.
struct Check {
    request: RequestId,
    kind: Kind,
    pid: Pid,
    pipe: File,
    answer: Vec<u8>,
}

/// Maximum size of a reply, in bytes: some thousand accounts with all their groups.
const ANSWER: usize = 4 * 1024 * 1024;
/// Maximum size of a request, in bytes: some hundred thousand users.
const BODY: usize = 16 * 1024 * 1024;

/// Serves requests from `socket` until its other end is closed.
pub(super) fn run(mut socket: UnixStream) {
    let mut checks: Vec<Check> = Vec::new();
    loop {
        let mut asked = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        asked.extend(checks.iter().map(|c| PollFd::new(c.pipe.as_fd(), PollFlags::POLLIN)));
        if poll(&mut asked, PollTimeout::NONE).is_err() {
            // Interrupted: retry.
            continue;
        }
        let is_asked = asked.first().is_some_and(|fd| fd.any().unwrap_or(true));
        let ended: Vec<RequestId> =
            checks.iter_mut().filter_map(|check| check.read().then_some(check.request)).collect();
        for request in ended {
            if let Some(at) = checks.iter().position(|check| check.request == request)
                && socket.write_all(&checks.swap_remove(at).end()).is_err()
            {
                return;
            }
        }
        if !is_asked {
            continue;
        }
        // The daemon sends whole messages, so the rest of one arrives at once.
        let Ok(Some(frame)) = read(&mut socket, BODY) else { return };
        let Some(kind) = Kind::of(&frame) else { return };
        let (request, body) = (frame.number, &frame.body);
        let answer = match kind {
            Kind::Groups => {
                serde_json::from_slice(body).map(|asked: Asked| to_json(&look_up(&asked)))
            }
            Kind::Check | Kind::Host | Kind::Users => match Check::begin(kind, request, body) {
                Ok(check) => {
                    checks.push(check);
                    continue;
                }
                Err(error) => Ok(failed(kind, error.to_string())),
            },
            Kind::Forget => {
                let unwanted = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                if let Some(at) = checks.iter().position(|c| Some(c.request) == unwanted) {
                    checks.swap_remove(at).end();
                }
                Ok(b"[]".to_vec())
            }
        };
        let answer = report(request, &answer.unwrap_or_default());
        if socket.write_all(&answer).is_err() {
            return;
        }
    }
}

/// The frame of a reply. The daemon knows its kind.
fn report(request: RequestId, answer: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, request, &[answer]);
    bytes
}

fn to_json(answer: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_default()
}

impl Check {
    fn begin(kind: Kind, request: RequestId, body: &[u8]) -> io::Result<Check> {
        let (pid, pipe) = in_child(|mut out, _| {
            let answer = match kind {
                Kind::Host => to_json(&addresses(body)),
                Kind::Users => users(body),
                Kind::Check | Kind::Groups | Kind::Forget => to_json(&judge(body)),
            };
            // A failed write means that there is no reply, which is noticed.
            let _ = out.write_all(&answer);
        })?;
        Ok(Check { request, kind, pid, pipe: File::from(pipe), answer: Vec::new() })
    }

    /// Reads available bytes; true at end of file.
    fn read(&mut self) -> bool {
        let room = ANSWER.saturating_sub(self.answer.len()) as u64;
        match (&mut self.pipe).take(room).read_to_end(&mut self.answer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Ok(_) | Err(_) => true,
        }
    }

    /// Kills the child, and returns its reply.
    fn end(self) -> Vec<u8> {
        // It fails where the child has just ended.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
        let answer = if self.answer.is_empty() {
            failed(self.kind, "the check ended without an answer".to_owned())
        } else {
            self.answer
        };
        report(self.request, &answer)
    }
}

/// The reply where there is no other.
fn failed(kind: Kind, why: String) -> Vec<u8> {
    match kind {
        Kind::Host => to_json(&Addresses::Err(why)),
        Kind::Check => to_json(&Verdict::Failed(why)),
        // Not a valid reply, and therefore a failure; its text is the reason.
        Kind::Users | Kind::Groups | Kind::Forget => to_json(&why),
    }
}

/// In a child of the helper: looks up users, including PAM's account checks.
fn users(body: &[u8]) -> Vec<u8> {
    let question = match serde_json::from_slice::<UsersQuestion>(body) {
        Ok(question) => question,
        Err(error) => return to_json(&error.to_string()),
    };
    let service = CString::new(question.service).unwrap_or_default();
    let found = question.users.iter().map(|who| {
        // PAM did not admit a user of the local socket.
        let UserQuery::Proven { name, from } = who else { return look_up_user(who) };
        let (Ok(name), Ok(from)) = (CString::new(name.as_str()), CString::new(from.as_str()))
        else {
            return Found::Nobody;
        };
        if service.is_empty() {
            return look_up_user(who);
        }
        match pam::check(&service, &name, &from, None) {
            Judgement::Good(name) => look_up_user(&UserQuery::Name(name)),
            Judgement::Wrong | Judgement::Refused(_) => Found::Nobody,
            Judgement::Failed(why) => Found::Failed(why),
        }
    });
    to_json(&found.collect::<Vec<Found>>())
}

/// In a child of the helper: verifies a password and checks the account. Without a password only
/// the latter; without a service PAM is not used.
fn judge(body: &[u8]) -> Verdict {
    let mut parts = body.splitn(4, |byte| *byte == 0);
    let mut part = || parts.next().and_then(|part| CString::new(part).ok());
    let (Some(service), Some(user), Some(from)) = (part(), part(), part()) else {
        return Verdict::Wrong;
    };
    let secret = parts.next();
    if secret.is_some_and(|secret| secret.is_empty() || secret.contains(&0)) {
        return Verdict::Wrong;
    }
    let judgement = match (secret, service.is_empty()) {
        (Some(_), true) => return Verdict::Wrong,
        (None, true) => Judgement::Good(user.to_string_lossy().into_owned()),
        (_, false) => pam::check(&service, &user, &from, secret),
    };
    match judgement {
        Judgement::Good(user) => match look_up_user(&UserQuery::Name(user)) {
            Found::Account(account) => Verdict::Right(account),
            Found::Nobody => Verdict::Refused("it is no account of this host".to_owned()),
            Found::Failed(why) => Verdict::Failed(why),
        },
        Judgement::Wrong => Verdict::Wrong,
        Judgement::Refused(why) => Verdict::Refused(why),
        Judgement::Failed(why) => Verdict::Failed(why),
    }
}

/// Addresses of a host, or why there are none.
type Addresses = Result<Vec<IpAddr>, String>;

/// In a child of the helper: the addresses of a host, in the order of the system, at most some.
fn addresses(host: &[u8]) -> Addresses {
    const MOST: usize = 16;
    let host = std::str::from_utf8(host).map_err(|error| error.to_string())?;
    let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip()) {
        if !addresses.contains(&address) && addresses.len() < MOST {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn look_up_user(who: &UserQuery) -> Found {
    let found = match who {
        UserQuery::Uid(uid) => User::from_uid(Uid::from_raw(*uid)),
        UserQuery::Name(name) | UserQuery::Proven { name, .. } => User::from_name(name),
    };
    let user = match found {
        Ok(Some(user)) => user,
        Ok(None) => return Found::Nobody,
        Err(error) => return Found::Failed(error.to_string()),
    };
    let groups = CString::new(user.name.as_str())
        .map_err(|_| nix::errno::Errno::EINVAL)
        .and_then(|name| getgrouplist(&name, user.gid));
    match (groups, account_state::of(&user)) {
        (Ok(groups), Ok(state)) => Found::Account(Account {
            uid: user.uid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            state,
            name: user.name,
        }),
        (Err(error), _) => Found::Failed(error.to_string()),
        (_, Err(error)) => Found::Failed(error.to_string()),
    }
}

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

/// Looks up groups and waits for the reply, in a child: at start-up, when blocking is allowed.
///
/// # Errors No reply within `patience`, or no child could be created; a text for the log.
pub fn look_up_now(asked: &Asked, patience: Duration) -> Result<Accounts, String> {
    let (pid, answer): (Pid, OwnedFd) = in_child(|mut out, _| {
        let _ = out.write_all(&to_json(&look_up(asked)));
    })
    .map_err(|error| error.to_string())?;
    let mut check =
        Check { request: 0, kind: Kind::Groups, pid, pipe: File::from(answer), answer: Vec::new() };
    let due = Instant::now() + patience;
    while !check.read() {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            check.end();
            return Err("the name service does not answer".to_owned());
        }
        let mut asked = [PollFd::new(check.pipe.as_fd(), PollFlags::POLLIN)];
        // Interrupted: retry.
        let _ = poll(&mut asked, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    }
    let found = serde_json::from_slice(&check.answer);
    check.end();
    found.map_err(|_| "the look-up ended without an answer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_our_own_user_are_found() {
        let own = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
        let asked = Asked { full: vec![own.name], read: vec!["no-such-group".into()] };
        let found = look_up_now(&asked, Duration::from_secs(30)).unwrap();
        assert_eq!(found.full, [nix::unistd::getegid().as_raw()]);
        assert_eq!((found.read, found.unknown), (vec![], vec!["no-such-group".to_owned()]));
        assert!(!found.user.is_empty());
    }

    #[test]
    fn users_are_found_by_number_and_by_name() {
        let Found::Account(root) = look_up_user(&UserQuery::Uid(0)) else { panic!("no root") };
        assert_eq!((root.name.as_str(), root.uid), ("root", 0));
        assert!(root.groups.contains(&0));
        assert_eq!(look_up_user(&UserQuery::Name("root".into())), Found::Account(root));
        assert_eq!(look_up_user(&UserQuery::Name("no-such-user".into())), Found::Nobody);
    }

    #[test]
    fn hosts_are_resolved_or_the_reason_is_reported() {
        let local = addresses(b"localhost").unwrap();
        assert!(local.iter().all(IpAddr::is_loopback) && !local.is_empty());
        assert_eq!(addresses(b"::1").unwrap(), [std::net::Ipv6Addr::LOCALHOST]);
        assert!(addresses(b"no-such-host.invalid").is_err());
    }
}
