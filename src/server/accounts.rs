//! Roles of users, by accounts and groups that the helper looks up.
//!
//! Groups are looked up at the start, at each reload and when `/etc/group` changes; an account when
//! a client authenticates as it; the accounts of all connected clients at each re-check, so that a
//! role does not outlive its account or group. While the helper does not reply, roles stay for a
//! limited time; then no account has one. This is the shell around [`Helper`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::unistd::geteuid;
use serde_json::{Value, json};

use super::authentication::{Attempt, WaitingPassword};
use super::child::Child;
use super::clients::{ClientId, Until};
use super::{PollToken, Server};
use crate::auth::{Identity, PasswordQueue, Proof, Role, Roles, number_as_name};
use crate::config::Config;
use crate::helper::accounts::{
    self, Account, Accounts, Asked, Found, Helper, Outcome, RequestId, UserQuery, Verdict,
};
use crate::moment::Moment;
use crate::net::{CloseReason, Source};
use crate::reactor::Reactor;
use crate::sys::account_state::AccountState;
use crate::sys::may_block::MayBlock;
use crate::sys::peer_credentials::PeerCredentials;
use crate::wire::ReplyTo;

/// Purpose of a look-up.
enum Purpose {
    /// The configured groups.
    Groups,
    /// A re-check of these users.
    Revision(Vec<UserQuery>),
    /// An authentication. The address of a link's relay.
    Host(u64),
    Proof(Attempt),
    /// The name of a client's user.
    Name(ClientId),
}

/// The helper and its state.
pub(super) struct AccountsHelper {
    pub(super) helper: Helper,
    /// Passwords that are not checked yet, so that others have their turns.
    pub(super) passwords: PasswordQueue<Source, WaitingPassword>,
    pub(super) child: Option<Child>,
    purposes: BTreeMap<RequestId, Purpose>,
    /// When all users are re-checked; `None` where no user depends on an account.
    recheck_due: Option<Instant>,
    /// Number of consecutive re-checks that failed.
    unanswered: u32,
    /// Some groups could not be looked up; retried at the next re-check.
    groups_missing: bool,
    /// Names of local users without a role.
    names: BTreeMap<u32, String>,
    /// Local users whose accounts grant less than the groups of their processes.
    ceilings: Vec<Ceiling>,
}

/// Role that an account grants to a local user. A process keeps its initial groups, which the
/// kernel reports; without this a user who has lost a role would regain it with each connection.
struct Ceiling {
    uid: u32,
    role: Option<Role>,
    /// When the account was last looked up because its user connected.
    asked: Instant,
}

/// Retry interval of a failed look-up.
const RETRY: Duration = Duration::from_secs(60);
/// Number of consecutive failed re-checks after which all roles that depend on accounts are
/// dropped.
const MOST_UNANSWERED: u32 = 3;
/// Maximum number of ceilings stored; the oldest is evicted.
const CEILINGS: usize = 256;
/// The file that holds groups, beside other sources that the system may have.
const GROUP_FILE: (&str, &str) = ("/etc", "group");
/// From its change to the look-up, in which an editor has the time to write all of it.
const GROUP_FILE_DELAY: Duration = Duration::from_secs(1);
/// Names of users without a role that are remembered.
const NAMES: usize = 64;
/// Minimum interval between look-ups of an account because its user connects.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl AccountsHelper {
    pub(super) fn new(limits: accounts::AccountsLimits, now: Instant) -> AccountsHelper {
        AccountsHelper {
            helper: Helper::new(limits, now),
            passwords: PasswordQueue::default(),
            child: None,
            purposes: BTreeMap::new(),
            recheck_due: None,
            unanswered: 0,
            groups_missing: false,
            ceilings: Vec::new(),
            names: BTreeMap::new(),
        }
    }

    /// Watches for a new file with groups: groupadd(8), pw(8) and vigr(8) replace it by a rename. The
    /// watch lasts as long as the daemon.
    pub(super) fn watch_group_file(reactor: &mut Reactor<PollToken>, may_block: MayBlock) {
        let (directory, name) = GROUP_FILE;
        let (path, name) = (Path::new(directory), OsStr::new(name));
        if let Err(error) = reactor.watch_directory(path, name, PollToken::Groups, may_block) {
            warn!("cannot watch {directory}: {error}; a new group counts after a restart");
        }
    }

    /// Groups could not be looked up: schedules a retry.
    pub(super) fn miss_groups(&mut self, interval: Duration, now: Instant) {
        let again = now + interval.min(RETRY);
        self.groups_missing = true;
        self.recheck_due = Some(self.recheck_due.map_or(again, |due| due.min(again)));
    }

    fn begin(&mut self, reactor: &mut Reactor<PollToken>, now: Instant) {
        let begun = accounts::begin(&mut self.helper, || self.passwords.retain(|_| false))
            .and_then(|begun| Child::watch(begun, PollToken::Accounts, reactor));
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

    /// Writes as much as the child accepts.
    pub(super) fn flush(&mut self, reactor: &mut Reactor<PollToken>) {
        if let Some(child) = &mut self.child {
            child.flush(self.helper.channel());
        }
        reactor.set_deadline(PollToken::Accounts, self.helper.due());
        reactor.set_deadline(PollToken::Recheck, self.recheck_due);
    }

    /// Reads the child's replies.
    pub(super) fn read(
        &mut self,
        scratch: &mut [u8],
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) {
        let Some(child) = &mut self.child else { return };
        let helper = &mut self.helper;
        child.read(scratch, PollToken::Accounts, reactor, |bytes| helper.received(bytes, now));
    }

    /// Sets the role that the account grants this user; `by_kernel` is the role by the kernel's
    /// groups, if any.
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

    /// Requests the verification of a password.
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

    /// Requests the check of an account after its key was proven. Without a `service` PAM is not
    /// used.
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

    /// Number of passwords from origins accepted by `is_there` that are being verified or queued
    /// for it.
    pub(super) fn passwords_of(&self, is_there: impl Fn(Source) -> bool) -> usize {
        let is_counted = |purpose: &&Purpose| match purpose {
            Purpose::Proof(attempt) => attempt.is_password() && is_there(attempt.source()),
            Purpose::Groups | Purpose::Revision(_) | Purpose::Name(_) | Purpose::Host(_) => false,
        };
        self.purposes.values().filter(is_counted).count()
    }

    /// Requests the addresses of a link's relay.
    pub(super) fn ask_for_addresses(&mut self, host: &str, link: u64, now: Instant) {
        let request = self.helper.ask_for_addresses(host, now);
        self.purposes.insert(request, Purpose::Host(link));
    }

    /// The status, for people.
    pub(super) fn status(&self) -> Value {
        json!({
            "pid": self.child.as_ref().map(|child| child.pid.as_raw()),
            "questions": self.purposes.len() + self.passwords.len(),
        })
    }
}

/// The look-up for this configuration.
pub(super) fn asked(config: &Config) -> Asked {
    Asked {
        full: config.auth.full_access_groups.clone(),
        read: config.auth.read_only_groups.clone(),
    }
}

/// The roles that result from a look-up; logs failures.
pub(super) fn roles(found: &Accounts, config: &Config) -> Roles {
    for group in &found.unknown {
        info!("there is no group {group:?} on this host");
    }
    for failure in &found.failed {
        warn!("cannot look up a group: {failure}; it grants no role");
    }
    let own = geteuid();
    Roles {
        full: found.full.clone(),
        read: found.read.clone(),
        own_uid: (!own.is_root()).then(|| own.as_raw()),
        names: [&config.auth.full_access_groups, &config.auth.read_only_groups].map(Vec::clone),
    }
}

/// The look-up key of an identity.
fn user_query(identity: &Identity) -> UserQuery {
    match identity.proof {
        Proof::Kernel => UserQuery::Uid(identity.uid),
        Proof::Password | Proof::Key(_) => {
            UserQuery::Proven { name: identity.user.clone(), from: identity.from.clone() }
        }
    }
}

/// The identity after a re-check: the inner `None` has lost all access, the outer `None` could not
/// be re-checked. A re-check lowers a role and never raises it: the account can have groups that
/// the kernel did not grant to the process that connected.
fn recheck(identity: &Identity, found: &Found, roles: &Roles) -> Option<Option<Identity>> {
    let role = role_of(identity.uid, found, roles)?;
    let user = match found {
        Found::Account(Account { name, .. }) => name,
        Found::Nobody | Found::Failed(_) => &identity.user,
    };
    let identity = Identity { user: user.clone(), ..identity.clone() };
    Some(role.map(|role| identity.with_at_most(role)))
}

/// The role that the account of this number grants; the outer `None`: unknown.
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
    /// Starts the look-up of the configured groups.
    pub(super) fn ask_for_groups(&mut self, now: Moment) {
        let asked = asked(&self.config);
        let request = self.accounts.helper.ask_for_groups(&asked, now.instant);
        self.accounts.purposes.insert(request, Purpose::Groups);
    }

    /// The file with groups has changed: groups are looked up again after a moment.
    pub(super) fn on_group_file_changed(&mut self, now: Moment) {
        self.reactor.set_deadline(PollToken::Groups, Some(now.instant + GROUP_FILE_DELAY));
    }

    pub(super) fn on_group_file_due(&mut self, now: Moment) {
        info!("groups are looked up again, since {}/{} has changed", GROUP_FILE.0, GROUP_FILE.1);
        self.ask_for_groups(now);
    }

    /// The PAM service for account checks; empty where PAM is not used.
    pub(super) fn account_service(&self) -> &str {
        let auth = &self.config.auth;
        if auth.pam && geteuid().is_root() { &auth.pam_service } else { "" }
    }

    /// Refuses the request of a local user without a role, by name. Where that is not known, it is
    /// looked up, and the reply waits.
    pub(super) fn refuse_without_role(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        uid: u32,
        now: Moment,
    ) {
        let Some(client) = self.clients.get(id) else { return };
        if let Some(name) = self.accounts.names.get(&uid) {
            client.session.set_name(name.clone());
            return self.reply(id, &reply_to, Err(self.roles.refuse(name)));
        }
        client.wait(reply_to, Until::Named);
        self.ask_for_name(id, uid, now);
    }

    /// The name of a client without a role was looked up: its request is refused with that.
    pub(super) fn on_name_without_role(&mut self, id: ClientId, found: &Found) {
        let Some(client) = self.clients.get(id) else { return };
        let Some(uid) = client.session.unnamed() else { return };
        let name = match found {
            Found::Account(account) => format!("{} ({})", account.name, number_as_name(uid)),
            Found::Nobody | Found::Failed(_) => number_as_name(uid),
        };
        client.session.set_name(name.clone());
        if self.accounts.names.len() == NAMES {
            self.accounts.names.pop_first();
        }
        let refusal = self.roles.refuse(&name);
        self.accounts.names.insert(uid, name);
        self.end_wait(id, Err(refusal));
    }

    /// Requests the name of a user number, for a client.
    pub(super) fn ask_for_name(&mut self, id: ClientId, uid: u32, now: Moment) {
        let request = self.accounts.helper.ask_for_users("", &[UserQuery::Uid(uid)], now.instant);
        self.accounts.purposes.insert(request, Purpose::Name(id));
    }

    /// Schedules the re-check of an identity or a token that depends on an account.
    pub(super) fn expect_recheck_of(&mut self, id: ClientId, now: Moment) {
        let identity = self.clients.get(id).and_then(|client| client.session.identity());
        if self.accounts.recheck_due.is_none()
            && identity.is_some_and(|identity| !self.roles.is_beyond_accounts(identity))
        {
            let due = now.instant + self.config.auth.recheck_interval;
            self.accounts.recheck_due = Some(due);
        }
    }

    /// Role of a peer at the local socket: by the groups of its process, limited by the last known
    /// state of its account.
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
            self.ask_for_accounts(vec![UserQuery::Uid(who.uid)], now);
        }
        Some(Identity { role: who.role.min(role?), ..who })
    }

    fn ask_for_accounts(&mut self, users: Vec<UserQuery>, now: Moment) {
        let service = self.account_service().to_owned();
        let request = self.accounts.helper.ask_for_users(&service, &users, now.instant);
        self.accounts.purposes.insert(request, Purpose::Revision(users));
    }

    /// Re-checks all users that depend on accounts.
    pub(super) fn recheck(&mut self, now: Moment) {
        let sessions = self.clients.iter().flat_map(|(_, client)| {
            [client.session.identity(), client.session.known()].into_iter().flatten()
        });
        let here = sessions.chain(self.tokens.identities());
        let here = here.filter(|identity| !self.roles.is_beyond_accounts(identity));
        let users: BTreeSet<UserQuery> = here.map(user_query).collect();
        self.accounts.recheck_due = None;
        if std::mem::take(&mut self.accounts.groups_missing) {
            self.ask_for_groups(now);
        }
        // Where another host changes the file, the kernel does not report it.
        self.ask_for_keys(now);
        if !users.is_empty() {
            self.ask_for_accounts(users.into_iter().collect(), now);
        }
    }

    /// Processes the helper's results; false where there were none.
    pub(super) fn take_accounts_outcomes(&mut self, now: Moment) -> bool {
        let mut any = false;
        while let Some(outcome) = self.accounts.helper.next_outcome() {
            any = true;
            match outcome {
                Outcome::Answer(request, answer) => self.on_accounts(request, Ok(answer), now),
                Outcome::NoAnswer(request, why) => self.on_accounts(request, Err(why), now),
                Outcome::Begin => self.accounts.begin(&mut self.reactor, now.instant),
                Outcome::Kill => self.accounts.child.iter().for_each(Child::kill),
                Outcome::Close => self.accounts.child.iter().for_each(Child::close),
            }
        }
        any
    }

    fn on_accounts(&mut self, request: RequestId, answer: Result<Vec<u8>, String>, now: Moment) {
        let Some(purpose) = self.accounts.purposes.remove(&request) else { return };
        match purpose {
            Purpose::Groups => match read(answer) {
                Ok(found) => {
                    self.roles = roles(&found, &self.config);
                    self.accounts.names.clear();
                    self.recheck(now);
                    if !found.failed.is_empty() {
                        self.accounts.miss_groups(self.config.auth.recheck_interval, now.instant);
                    }
                }
                Err(why) => {
                    warn!("cannot look up groups: {why}; roles are unchanged until then");
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

    fn revise(&mut self, users: &[UserQuery], found: Result<Vec<Found>, String>, now: Moment) {
        let failed = |why: &String| Found::Failed(why.clone());
        let found: Vec<Found> = match &found {
            Ok(found) => found.clone(),
            Err(why) => users.iter().map(|_| failed(why)).collect(),
        };
        let mut known: BTreeMap<&UserQuery, &Found> = users.iter().zip(&found).collect();
        let why = found.iter().find_map(|found| match found {
            Found::Failed(why) => Some(why),
            Found::Account(_) | Found::Nobody => None,
        });
        match why {
            None => self.accounts.unanswered = 0,
            Some(why) => {
                self.accounts.unanswered += 1;
                warn!("cannot re-check connected users: {why}");
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
            known.get(&user_query(identity)).copied()
        };
        let judge = |identity: &Identity| recheck(identity, found_of(identity)?, roles);
        for (who, found) in &known {
            if let UserQuery::Uid(uid) = *who
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
        Roles { full: vec![10], read: vec![20], ..Roles::default() }
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
            // A lowered role stays, whatever the account has later.
            let lowered = recheck(&with(Role::Full), &account(&[20]), &roles()).unwrap().unwrap();
            let later = recheck(&lowered, &account(&[10]), &roles()).unwrap().unwrap();
            assert_eq!(later.role, Role::Read);
        }
    }

    #[test]
    fn recheck_without_a_reply_is_inconclusive() {
        let from = String::new();
        let proof = Proof::Kernel;
        let ann = Identity { user: "uid 1000".into(), uid: 1000, role: Role::Read, proof, from };
        assert_eq!(recheck(&ann, &Found::Failed("down".into()), &roles()), None);
        assert_eq!(recheck(&ann, &Found::Nobody, &roles()), Some(None));
        // The name may now belong to another account.
        let other = Identity { uid: 1001, ..ann };
        assert_eq!(recheck(&other, &account(&[10]), &roles()), Some(None));
    }
}
