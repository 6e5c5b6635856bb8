//! Who has which role, by accounts and groups that the helper looks up.
//!
//! Groups are looked up at the start and at each reload, an account when somebody proves to be it,
//! and all accounts of those who are connected again and again: a right does not outlive what it
//! came from. While there is no answer things stay as they are for a while, and then nobody has a
//! right by an account any more. This is the shell around [`Helper`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::{Value, json};

use super::authentication::Attempt;
use super::child::Child;
use super::clients::ClientId;
use super::{Key, Server};
use crate::auth::{Identity, Proof, Role, Roles};
use crate::config::Config;
use crate::helper::accounts::{
    self, Account, Accounts, Asked, Found, Helper, Outcome, RequestId, Verdict, Who,
};
use crate::moment::Moment;
use crate::net::{CloseReason, Source};
use crate::reactor::Reactor;
use crate::sys::account_state::AccountState;
use crate::sys::children::Exit;
use crate::sys::peer_credentials::PeerCredentials;

/// For what a question was asked.
enum Purpose {
    /// The configured groups.
    Groups,
    /// Whether these still are who they were.
    Revision(Vec<Who>),
    /// Whether somebody is who they say.
    /// Where the bridge of that link is.
    Host(u64),
    Proof(Attempt),
    /// How a client is called.
    Name(ClientId),
}

/// The helper and what belongs to it.
pub(super) struct AccountsHelper {
    pub(super) helper: Helper,
    child: Option<Child>,
    purposes: BTreeMap<RequestId, Purpose>,
    /// When everybody is looked up again; `None` where nobody is here by an account.
    recheck_due: Option<Instant>,
    /// Such look-ups in a row that had no answer.
    unanswered: u32,
    /// Not all that was asked of groups was answered; it is asked again with the next of these.
    groups_missing: bool,
    /// Local users whose accounts allow less than the groups of their processes.
    ceilings: Vec<Ceiling>,
}

/// What an account allows a local user. A process keeps the groups that it began with, and the
/// kernel tells of these; so who has lost a right would have it again with each connection.
struct Ceiling {
    uid: u32,
    role: Option<Role>,
    /// When the account was last asked about because its user came.
    asked: Instant,
}

/// Until a look-up without an answer is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Look-ups in a row without an answer after which nobody has a right by an account.
const MOST_UNANSWERED: u32 = 3;
/// Ceilings that are kept; the oldest makes room.
const CEILINGS: usize = 256;
/// Until an account is asked about again because its user comes again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl AccountsHelper {
    pub(super) fn new(limits: accounts::Limits, now: Instant) -> AccountsHelper {
        AccountsHelper {
            helper: Helper::new(limits, now),
            child: None,
            purposes: BTreeMap::new(),
            recheck_due: None,
            unanswered: 0,
            groups_missing: false,
            ceilings: Vec::new(),
        }
    }

    /// A child of the daemon has ended; true where it was this one.
    pub(super) fn on_child(
        &mut self,
        pid: Pid,
        exit: Exit,
        reactor: &mut Reactor<Key>,
        now: Instant,
    ) -> bool {
        let ended = Child::take_ended(&mut self.child, pid, exit, reactor);
        let Some(how) = ended else { return false };
        self.helper.ended(&how, now);
        true
    }

    /// Groups could not be looked up: that is tried again, and soon.
    pub(super) fn miss_groups(&mut self, interval: Duration, now: Instant) {
        let again = now + interval.min(RETRY);
        self.groups_missing = true;
        self.recheck_due = Some(self.recheck_due.map_or(again, |due| due.min(again)));
    }

    fn begin(&mut self, reactor: &mut Reactor<Key>, now: Instant) {
        let begun = accounts::begin(&mut self.helper)
            .and_then(|begun| Child::watch(begun, Key::Accounts, reactor));
        match begun {
            Ok(child) => {
                self.child = Some(child);
                self.helper.begun();
            }
            Err(error) => {
                error!("cannot start the accounts helper: {error}");
                self.helper.ended(&error.to_string(), now);
            }
        }
    }

    /// Writes what the child takes now.
    pub(super) fn flush(&mut self, reactor: &mut Reactor<Key>) {
        while let Some(child) = &mut self.child {
            let bytes = self.helper.bytes();
            if bytes.is_empty() {
                break;
            }
            match child.socket.write(bytes) {
                Ok(sent) => self.helper.sent(sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Else its end will be seen.
                Err(_) => break,
            }
        }
        reactor.set_deadline(Key::Accounts, self.helper.due());
        reactor.set_deadline(Key::Recheck, self.recheck_due);
    }

    /// Reads what the child says.
    pub(super) fn read(&mut self, scratch: &mut [u8], reactor: &mut Reactor<Key>, now: Instant) {
        let Some(child) = &mut self.child else { return };
        if child.read(scratch, |bytes| self.helper.received(bytes, now)) {
            reactor.again(Key::Accounts);
        }
    }

    /// This user has that role by the account; to a session the kernel gave `by_kernel`, if any.
    fn set_ceiling(&mut self, uid: u32, by_kernel: Option<Role>, role: Option<Role>, now: Instant) {
        match self.ceilings.iter().position(|ceiling| ceiling.uid == uid) {
            Some(at) if role == Some(Role::Full) => drop(self.ceilings.remove(at)),
            Some(at) => self.ceilings.iter_mut().skip(at).take(1).for_each(|c| c.role = role),
            None if role < by_kernel => {
                if self.ceilings.len() == CEILINGS {
                    self.ceilings.remove(0);
                }
                self.ceilings.push(Ceiling { uid, role, asked: now });
            }
            None => {}
        }
    }

    /// Asks about a password for whoever attempts it.
    pub(super) fn check(
        &mut self,
        attempt: Attempt,
        password: &accounts::Password,
        now: Instant,
    ) -> Result<(), accounts::TooMany> {
        let request = self.helper.check(password, now)?;
        self.purposes.insert(request, Purpose::Proof(attempt));
        Ok(())
    }

    /// Asks about the account of whoever showed a key. Without a `service` PAM is not asked.
    pub(super) fn check_account(
        &mut self,
        attempt: Attempt,
        service: &str,
        now: Instant,
    ) -> Result<(), accounts::TooMany> {
        let (user, from) = attempt.said();
        let request = self.helper.check_account(service, user, from, now)?;
        self.purposes.insert(request, Purpose::Proof(attempt));
        Ok(())
    }

    /// Passwords from origins that `is_there` accepts that are being checked, or wait for that.
    pub(super) fn passwords_of(&self, is_there: impl Fn(Source) -> bool) -> usize {
        let is_counted = |purpose: &&Purpose| match purpose {
            Purpose::Proof(attempt) => attempt.is_password() && is_there(attempt.source()),
            Purpose::Groups | Purpose::Revision(_) | Purpose::Name(_) | Purpose::Host(_) => false,
        };
        self.purposes.values().filter(is_counted).count()
    }

    /// Asks where the bridge of a link is.
    pub(super) fn ask_for_addresses(&mut self, host: &str, link: u64, now: Instant) {
        let request = self.helper.ask_for_addresses(host, now);
        self.purposes.insert(request, Purpose::Host(link));
    }

    /// How it is, for people.
    pub(super) fn status(&self) -> Value {
        json!({
            "pid": self.child.as_ref().map(|child| child.pid.as_raw()),
            "questions": self.purposes.len(),
        })
    }
}

/// What is asked for with this configuration.
pub(super) fn asked(config: &Config) -> Asked {
    Asked {
        full: config.auth.full_access_groups.clone(),
        read: config.auth.read_only_groups.clone(),
    }
}

/// The roles that follow from what was found; what was not is said.
pub(super) fn roles(found: &Accounts) -> Roles {
    for group in &found.unknown {
        info!("there is no group {group:?} on this host");
    }
    for failure in &found.failed {
        warn!("cannot look up a group: {failure}; nobody has a role by it");
    }
    let own = geteuid();
    Roles {
        full: found.full.clone(),
        read: found.read.clone(),
        own_uid: (!own.is_root()).then(|| own.as_raw()),
    }
}

/// As whom somebody is looked up again.
fn who(identity: &Identity) -> Who {
    match identity.proof {
        Proof::Kernel => Who::Uid(identity.uid),
        Proof::Password | Proof::Key(_) => {
            Who::Proven { name: identity.user.clone(), from: identity.from.clone() }
        }
    }
}

/// The identity after a re-check: the inner `None` has lost all access, the outer `None` could not
/// be re-checked. A re-check lowers a role and never raises it: the account can have groups that the
/// kernel did not grant to the process that connected.
fn recheck(identity: &Identity, found: &Found, roles: &Roles) -> Option<Option<Identity>> {
    let role = role_of(identity.uid, found, roles)?;
    let user = match found {
        Found::Account(Account { name, .. }) => name,
        Found::Nobody | Found::Failed(_) => &identity.user,
    };
    let identity = Identity { user: user.clone(), ..identity.clone() };
    Some(role.map(|role| identity.with_at_most(role)))
}

/// The role that the account of this number gives; outside, that it is not known.
fn role_of(number: u32, found: &Found, roles: &Roles) -> Option<Option<Role>> {
    match found {
        Found::Account(Account { uid, groups, state: AccountState::Usable, .. })
            if *uid == number =>
        {
            Some(roles.role(*uid, groups))
        }
        Found::Account(_) | Found::Nobody => Some(None),
        Found::Failed(_) => None,
    }
}

impl Server {
    /// Begins to look up the groups of the present configuration.
    pub(super) fn ask_for_groups(&mut self, now: Moment) {
        let asked = asked(&self.config);
        let request = self.accounts.helper.ask_for_groups(&asked, now.instant);
        self.accounts.purposes.insert(request, Purpose::Groups);
    }

    /// The PAM service whose account checks count; empty where PAM is not to be asked.
    pub(super) fn account_service(&self) -> &str {
        let auth = &self.config.auth;
        if auth.pam && geteuid().is_root() { &auth.pam_service } else { "" }
    }

    /// Asks how the user of that number is called, for a client.
    pub(super) fn ask_for_name(&mut self, id: ClientId, uid: u32, now: Moment) {
        let request = self.accounts.helper.ask_for_users("", &[Who::Uid(uid)], now.instant);
        self.accounts.purposes.insert(request, Purpose::Name(id));
    }

    /// Somebody is here, or has a token, by an account: that is looked at again in time.
    pub(super) fn expect_recheck_of(&mut self, id: ClientId, now: Moment) {
        let identity = self.clients.get(id).and_then(|client| client.session.identity());
        if self.accounts.recheck_due.is_none()
            && identity.is_some_and(|identity| !self.roles.is_beyond_accounts(identity))
        {
            let due = now.instant + self.config.auth.recheck_interval;
            self.accounts.recheck_due = Some(due);
        }
    }

    /// What somebody at the local socket may do: what the groups of their process say, and no more
    /// than their account was last seen to allow.
    pub(super) fn local_identity(
        &mut self,
        peer: &PeerCredentials,
        now: Moment,
    ) -> Option<Identity> {
        let who = self.roles.of(peer)?;
        let Some(ceiling) = self.accounts.ceilings.iter_mut().find(|c| c.uid == who.uid) else {
            return Some(who);
        };
        let role = ceiling.role;
        if now.instant.saturating_duration_since(ceiling.asked) >= ASK_AGAIN {
            ceiling.asked = now.instant;
            self.ask_for_accounts(vec![Who::Uid(who.uid)], now);
        }
        Some(Identity { role: who.role.min(role?), ..who })
    }

    fn ask_for_accounts(&mut self, users: Vec<Who>, now: Moment) {
        let service = self.account_service().to_owned();
        let request = self.accounts.helper.ask_for_users(&service, &users, now.instant);
        self.accounts.purposes.insert(request, Purpose::Revision(users));
    }

    /// Looks up everybody who is here by an account.
    pub(super) fn recheck(&mut self, now: Moment) {
        let sessions = self.clients.iter().flat_map(|(_, client)| {
            [client.session.identity(), client.session.known()].into_iter().flatten()
        });
        let here = sessions.chain(self.tokens.identities());
        let here = here.filter(|identity| !self.roles.is_beyond_accounts(identity));
        let users: BTreeSet<Who> = here.map(who).collect();
        self.accounts.recheck_due = None;
        if std::mem::take(&mut self.accounts.groups_missing) {
            self.ask_for_groups(now);
        }
        // Where another host changes the file the kernel does not tell.
        self.ask_for_keys(now);
        if !users.is_empty() {
            self.ask_for_accounts(users.into_iter().collect(), now);
        }
    }

    /// Hands on what the helper has said; false where that was nothing.
    pub(super) fn take_accounts_outcomes(&mut self, now: Moment) -> bool {
        let mut any = false;
        while let Some(outcome) = self.accounts.helper.next_outcome() {
            any = true;
            match outcome {
                Outcome::Answer(request, answer) => self.on_accounts(request, Ok(answer), now),
                Outcome::NoAnswer(request, why) => self.on_accounts(request, Err(why), now),
                Outcome::Begin => self.accounts.begin(&mut self.reactor, now.instant),
                Outcome::Kill => {
                    if let Some(child) = &self.accounts.child {
                        // It fails where it has just ended.
                        let _ = kill(child.pid, Signal::SIGKILL);
                    }
                }
                Outcome::Close => {
                    if let Some(child) = &self.accounts.child {
                        let _ = child.socket.shutdown(std::net::Shutdown::Write);
                    }
                }
            }
        }
        any
    }

    fn on_accounts(&mut self, request: RequestId, answer: Result<Vec<u8>, String>, now: Moment) {
        let Some(purpose) = self.accounts.purposes.remove(&request) else { return };
        match purpose {
            Purpose::Groups => match read(answer) {
                Ok(found) => {
                    self.roles = roles(&found);
                    self.recheck(now);
                    if !found.failed.is_empty() {
                        self.accounts.miss_groups(self.config.auth.recheck_interval, now.instant);
                    }
                }
                Err(why) => {
                    warn!("cannot look up groups: {why}; roles stay as they are until they can be");
                    self.accounts.miss_groups(self.config.auth.recheck_interval, now.instant);
                }
            },
            Purpose::Revision(users) => {
                self.revise(&users, read::<Vec<Found>>(answer), now);
                if self.accounts.recheck_due.is_none() {
                    let interval = self.config.auth.recheck_interval;
                    let again =
                        if self.accounts.unanswered > 0 { interval.min(RETRY) } else { interval };
                    self.accounts.recheck_due = Some(now.instant + again);
                }
            }
            Purpose::Host(link) => {
                let found = read(answer).and_then(|found: Result<_, String>| found);
                self.on_addresses(link, found, now);
            }
            Purpose::Proof(attempt) => {
                let verdict = read(answer).unwrap_or_else(Verdict::Failed);
                self.on_verdict(attempt, verdict, now);
            }
            Purpose::Name(client) => {
                let found = read::<Vec<Found>>(answer)
                    .map_or_else(Found::Failed, |mut found| found.pop().unwrap_or(Found::Nobody));
                self.on_name(client, found, now);
            }
        }
    }

    fn revise(&mut self, users: &[Who], found: Result<Vec<Found>, String>, now: Moment) {
        let failed = |why: &String| Found::Failed(why.clone());
        let found: Vec<Found> = match &found {
            Ok(found) => found.clone(),
            Err(why) => users.iter().map(|_| failed(why)).collect(),
        };
        let mut known: BTreeMap<&Who, &Found> = users.iter().zip(&found).collect();
        let why = found.iter().find_map(|found| match found {
            Found::Failed(why) => Some(why),
            Found::Account(_) | Found::Nobody => None,
        });
        match why {
            None => self.accounts.unanswered = 0,
            Some(why) => {
                self.accounts.unanswered += 1;
                warn!("cannot look up who is connected: {why}");
            }
        }
        if self.accounts.unanswered >= MOST_UNANSWERED {
            for found in known.values_mut().filter(|found| matches!(found, Found::Failed(_))) {
                *found = &Found::Nobody;
            }
        }
        let roles = &self.roles;
        let found_of = |identity: &Identity| -> Option<&Found> {
            if roles.is_beyond_accounts(identity) {
                return None;
            }
            known.get(&who(identity)).copied()
        };
        let judge = |identity: &Identity| recheck(identity, found_of(identity)?, roles);
        for (who, found) in &known {
            if let Who::Uid(uid) = *who
                && let Some(role) = role_of(*uid, found, roles)
            {
                self.accounts.set_ceiling(*uid, None, role, now.instant);
            }
        }
        self.tokens.revise(|identity| judge(identity).unwrap_or_else(|| Some(identity.clone())));
        let mut lost = Vec::new();
        for id in self.clients.ids() {
            let Some(client) = self.clients.get(id) else { continue };
            if let Some(known) = client.session.known()
                && let Some(found) = found_of(known)
                && let Some(role) = role_of(known.uid, found, roles)
            {
                self.accounts.set_ceiling(known.uid, Some(known.role), role, now.instant);
                let revised = recheck(known, found, roles).flatten();
                client.session.revise_known(revised);
            }
            let Some(identity) = client.session.identity() else { continue };
            let Some(revised) = judge(identity) else { continue };
            if let Some(revised) = &revised
                && revised.role != identity.role
            {
                info!("client {id}: {} has {} access now", client.name(), revised.role.name());
            }
            if revised.is_none() {
                warn!("closing client {}: its account has no access any more, 1008", client.name());
                lost.push(id);
            }
            client.session.revise(revised);
        }
        for id in lost {
            self.hub.leave(id);
            let reason = CloseReason::new(1008, "the account has no access any more");
            self.clients.close(id, &reason, now.instant);
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: Result<Vec<u8>, String>) -> Result<T, String> {
    answer.and_then(|answer| serde_json::from_slice(&answer).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key::{Kind, PrivateKey};

    fn roles() -> Roles {
        Roles { full: vec![10], read: vec![20], own_uid: None }
    }

    fn account(groups: &[u32]) -> Found {
        let (name, groups) = ("ann".to_owned(), groups.to_vec());
        Found::Account(Account { name, uid: 1000, groups, state: AccountState::Usable })
    }

    #[test]
    fn recheck_lowers_a_role_and_never_raises_it() {
        let key = PrivateKey::generate(Kind::Ed25519).unwrap().public().id();
        for proof in [Proof::Kernel, Proof::Password, Proof::Key(key)] {
            let from = String::new();
            let with =
                |role| Identity { user: "ann".into(), uid: 1000, role, proof, from: from.clone() };
            let after = |role, groups: &[u32]| {
                let rechecked = recheck(&with(role), &account(groups), &roles()).unwrap();
                rechecked.map(|identity| identity.role)
            };
            assert_eq!(after(Role::Read, &[10, 20]), Some(Role::Read));
            assert_eq!(after(Role::Full, &[10, 20]), Some(Role::Full));
            assert_eq!(after(Role::Full, &[20]), Some(Role::Read));
            assert_eq!(after(Role::Read, &[]), None);
            // A role that was lowered stays so, whatever the account has later.
            let lowered = recheck(&with(Role::Full), &account(&[20]), &roles()).unwrap().unwrap();
            let later = recheck(&lowered, &account(&[10]), &roles()).unwrap().unwrap();
            assert_eq!(later.role, Role::Read);
        }
    }

    #[test]
    fn recheck_without_an_answer_says_nothing() {
        let from = String::new();
        let proof = Proof::Kernel;
        let ann = Identity { user: "uid 1000".into(), uid: 1000, role: Role::Read, proof, from };
        assert_eq!(recheck(&ann, &Found::Failed("down".into()), &roles()), None);
        assert_eq!(recheck(&ann, &Found::Nobody, &roles()), Some(None));
        // The name of another account may have become that of this number.
        let other = Identity { uid: 1001, ..ann };
        assert_eq!(recheck(&other, &account(&[10]), &roles()), Some(None));
    }
}
