//! Authentication by password and key, and the consequences of failures.
//!
//! Each failure and each block is logged in a fixed form, for fail2ban(1) and other log readers:
//! `authentication failure from ADDRESS: …` and `blocked ADDRESS for N s: …`. Text chosen by the
//! peer stands after the address, quoted and escaped.

use std::time::Instant;

use log::{info, warn};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::clients::{Client, ClientId, Until, Wait};
use super::{PollToken, Server};
use crate::auth::key::{KeyId, Search};
use crate::auth::{Consequence, Identity, Proof};
use crate::daemon::{Front, random_number};
use crate::helper::accounts::{Account, Password, TooMany, Verdict};
use crate::moment::Moment;
use crate::net::{CloseReason, Source};
use crate::sys::account_state::AccountState;
use crate::sys::pam;
use crate::wire::{Command, Credentials, ErrorCode, Refusal, ReplyTo};

/// An authentication attempt. It counts even after its client has disconnected.
pub(super) struct Attempt {
    client: ClientId,
    source: Source,
    /// Address of the peer, for the log.
    from: String,
    user: String,
    proof: Proof,
}

impl Attempt {
    /// The claimed user name, and the address.
    pub(super) fn said(&self) -> (&str, &str) {
        (&self.user, &self.from)
    }

    /// Its origin.
    pub(super) fn source(&self) -> Source {
        self.source
    }

    pub(super) fn is_password(&self) -> bool {
        self.proof == Proof::Password
    }
}

/// A password that waits for its turn to be verified.
pub(super) struct WaitingPassword {
    attempt: Attempt,
    /// `None` for one that no account can have.
    secret: Option<Zeroizing<String>>,
    /// When it has waited too long.
    end: Instant,
}

/// Maximum number of pending attempts of one origin: being verified, or failed with a delayed
/// reply.
const PENDING: usize = 4;
const OTHERS_PENDING: &str = "other authentications from there are pending; try again later";
/// Maximum length of a user name in bytes (utmp and PAM have lower limits).
const NAME: usize = 255;

/// Callers of a link get a new number each time, so they are throttled together.
fn origin(source: Source) -> Source {
    match source {
        Source::Caller(link, _) => Source::Caller(link, 0),
        Source::Address(_) | Source::ProxiedLoopback | Source::User(_) => source,
    }
}

impl Server {
    /// Whether failures of the origin have no consequences.
    pub(super) fn is_exempt(&self, source: Source) -> bool {
        source.is_of_this_host()
            && (matches!(source, Source::User(_)) || !self.config.auth.throttle_loopback)
    }

    /// Whether an attempt may be made now. A token or a signature always may: its verification is
    /// cheap, it cannot be guessed, and failures of others must not lock its owner out. Attempts
    /// are counted by origin, not by connection: reconnecting must not allow more of them.
    pub(super) fn may_attempt(
        &mut self,
        id: ClientId,
        command: &Command,
        now: Moment,
    ) -> Result<(), Refusal> {
        let Command::Authenticate(credentials) = command else { return Ok(()) };
        let Some(client) = self.clients.get(id) else { return Ok(()) };
        let peer = client.peer.clone();
        let source = self.clients.guests.source_of(&peer);
        match credentials {
            Credentials::Transport
            | Credentials::Challenge { .. }
            | Credentials::Token(_)
            | Credentials::Signature { .. } => Ok(()),
            // It waits for its turn where others from there are pending.
            Credentials::Password { .. } => self.check_block(source, now),
            // All legacy keys are tried.
            Credentials::LegacySignature { .. } => {
                self.check_throttle(source, now).or_else(|refusal| {
                    let most = self.config.auth.max_legacy_keys;
                    let count = self.keys.store.legacy().count().min(most);
                    let may = self.keys.legacy_budget.may_try(count, now.instant);
                    if may { Ok(()) } else { Err(refusal) }
                })
            }
        }
    }

    fn check_block(&self, source: Source, now: Moment) -> Result<(), Refusal> {
        if let Some(left) = self.throttle.blocked(source, now.instant)
            && !self.is_exempt(source)
        {
            let why = format!("too many failures; try again in {} s", left.as_secs() + 1);
            return Err(Refusal::new(ErrorCode::Forbidden, why));
        }
        Ok(())
    }

    /// The refusal of a wrong secret while others from there are pending, or passwords from there
    /// wait for their turn, or the origin is blocked.
    fn check_throttle(&self, source: Source, now: Moment) -> Result<(), Refusal> {
        self.check_block(source, now)?;
        let from = origin(source);
        let is_searching = |(_, client): &(&ClientId, &Client)| {
            matches!(client.waiting, Some(Wait { until: Until::LegacyKey(_), .. }))
                && origin(self.clients.guests.source_of(&client.peer)) == from
        };
        let searched = self.clients.iter().filter(is_searching).count();
        if self.pending(from, now) + self.accounts.passwords.of(from) + searched < PENDING {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::TooMany, OTHERS_PENDING))
    }

    /// Attempts of an origin that are checked, or failed and not answered yet.
    fn pending(&self, from: Source, now: Moment) -> usize {
        let checked = self.accounts.passwords_of(|other| origin(other) == from);
        self.throttle.pending(from, now.instant) + checked
    }

    /// A client presents a password.
    pub(super) fn take_password(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        user: String,
        secret: Zeroizing<String>,
        now: Moment,
    ) {
        let Some(client) = self.clients.get(id) else { return };
        let (peer, from) = (client.peer.clone(), client.peer.place());
        let source = self.clients.guests.source_of(&peer);
        let refuse = |code, why: &str| Refusal::new(code, why);
        let refusal = if !self.config.auth.pam {
            Some(refuse(ErrorCode::Forbidden, "passwords are switched off here (pam = false)"))
        } else if !geteuid().is_root() {
            let why = "this daemon is not root and cannot check passwords; use a token";
            Some(refuse(ErrorCode::Forbidden, why))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.reply(id, &reply_to, Err(refusal));
        }
        let attempt = Attempt { client: id, source, from, user, proof: Proof::Password };
        let is_name = |c: char| !c.is_control() && c != ':' && c != '/';
        let is_sane = !attempt.user.is_empty()
            && attempt.user.len() <= NAME
            && attempt.user.chars().all(is_name)
            && !secret.is_empty()
            && secret.len() < pam::LONGEST
            && !secret.contains('\0');
        self.wait(id, reply_to, Until::Proven);
        let from = origin(source);
        let name: String = attempt.user.chars().take(NAME).collect();
        let end = now.instant + self.config.auth.check_deadline;
        let waiting = WaitingPassword { attempt, secret: is_sane.then_some(secret), end };
        self.accounts.passwords.push(from, &name, waiting);
        self.serve_passwords(now);
        let most = self.config.auth.max_waiting_checks;
        if let Some(surplus) = self.accounts.passwords.give_up(most, random_number()) {
            let refusal = refuse(ErrorCode::TooMany, OTHERS_PENDING);
            self.refuse_waiting(surplus.attempt.client, &refusal);
        }
    }

    /// Has passwords checked whose turn it is. To be called at the end of a turn of the loop.
    pub(super) fn serve_passwords(&mut self, now: Moment) {
        if self.accounts.passwords.is_empty() {
            return;
        }
        let (clients, mut late) = (&mut self.clients, Vec::new());
        self.accounts.passwords.retain(|WaitingPassword { attempt, end, .. }| {
            let client = clients.get(attempt.client);
            let is_there = matches!(client, Some(client) if client.waiting.is_some());
            let is_late = is_there && *end <= now.instant;
            late.extend(is_late.then_some(attempt.client));
            is_there && !is_late
        });
        for client in late {
            self.refuse_waiting(client, &Refusal::new(ErrorCode::TooMany, OTHERS_PENDING));
        }
        while self.accounts.helper.has_turn() {
            let origins = self.accounts.passwords.origins();
            let free: Vec<Source> =
                origins.filter(|from| self.pending(*from, now) < PENDING).collect();
            let passwords = &mut self.accounts.passwords;
            let Some(next) = passwords.take_next(|from| free.contains(&from), random_number())
            else {
                break;
            };
            self.check_password(next, now);
        }
        let origins = self.accounts.passwords.origins();
        let slots = origins.filter_map(|from| self.throttle.next_answer(from, now.instant));
        let due = slots.chain(self.accounts.passwords.iter().map(|waiting| waiting.end)).min();
        self.reactor.set_deadline(PollToken::Passwords, due);
    }

    fn check_password(&mut self, waiting: WaitingPassword, now: Moment) {
        let WaitingPassword { attempt, secret, .. } = waiting;
        let id = attempt.client;
        if let Err(refusal) = self.check_block(attempt.source, now) {
            return self.refuse_waiting(id, &refusal);
        }
        let Some(secret) = secret else { return self.on_verdict(attempt, Verdict::Wrong, now) };
        let password = Password {
            service: self.config.auth.pam_service.clone(),
            user: attempt.user.clone(),
            secret,
            from: attempt.from.clone(),
        };
        if let Err(TooMany) = self.accounts.check(attempt, &password, now.instant) {
            self.refuse_waiting(id, &Refusal::new(ErrorCode::TooMany, OTHERS_PENDING));
        }
    }

    /// A client has proven a key of this user: the account is checked as for a password.
    pub(super) fn take_key(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        user: String,
        key: KeyId,
        now: Moment,
    ) {
        let Some(client) = self.clients.get(id) else { return };
        let (peer, from) = (client.peer.clone(), client.peer.place());
        let source = self.clients.guests.source_of(&peer);
        self.wait(id, reply_to, Until::Proven);
        let attempt = Attempt { client: id, source, from, user, proof: Proof::Key(key) };
        let service = self.account_service().to_owned();
        if let Err(TooMany) = self.accounts.check_account(attempt, &service, now.instant) {
            let why = "too many authentications wait; try again later";
            self.refuse_waiting(id, &Refusal::new(ErrorCode::TooMany, why));
        }
    }

    /// Makes one step of the search for the legacy key that a client has shown.
    pub(super) fn try_legacy_key(&mut self, id: ClientId, now: Moment) {
        let most = self.config.auth.max_legacy_keys;
        let Some(client) = self.clients.get(id) else { return };
        let Some(Until::LegacyKey(search)) = client.waits_until() else { return };
        let found = match search.step(&self.keys.store, most) {
            Search::Pending => return,
            Search::Found(entry) => Some((entry.user.clone(), entry.key.id())),
            Search::NotFound => None,
        };
        let Some(Wait { reply_to, .. }) = client.waiting.take() else { return };
        match found {
            Some((user, key)) => self.take_key(id, reply_to, user, key, now),
            None => self.on_wrong(id, reply_to, "legacy key", "no registered key made this", now),
        }
    }

    /// Whether one more request may wait, of a kind that does.
    pub(super) fn may_wait(&self, id: ClientId, command: &Command) -> Result<(), Refusal> {
        if !command.may_wait() || self.clients.may_wait(id) {
            return Ok(());
        }
        let why = "too many requests of this user wait for their replies; try again later";
        Err(Refusal::new(ErrorCode::TooMany, why))
    }

    fn refuse_waiting(&mut self, id: ClientId, refusal: &Refusal) {
        let client = self.clients.get(id);
        if matches!(client.and_then(|client| client.waits_until()), Some(Until::Proven)) {
            self.end_wait(id, Err(refusal.clone()));
        }
    }

    /// The result of a verification.
    pub(super) fn on_verdict(&mut self, attempt: Attempt, verdict: Verdict, now: Moment) {
        let Attempt { client: id, user, from, .. } = &attempt;
        let refusal = match verdict {
            Verdict::Right(account) => match self.let_in(&attempt, account, now) {
                Ok(()) => return,
                Err(refusal) => refusal,
            },
            Verdict::Wrong => {
                let why = "wrong name or password";
                let wait = self.clients.get(*id).and_then(|client| {
                    client.waiting.take_if(|wait| matches!(wait.until, Until::Proven))
                });
                let reply_to = wait.map(|wait| wait.reply_to);
                let (source, what) = (attempt.source, format!("password of {:?}", short(user)));
                return self.on_failure(*id, source, from, &what, reply_to, why, now);
            }
            Verdict::Refused(why) => {
                info!("refused {:?} from {from}: {why}", short(user));
                Refusal::new(ErrorCode::Forbidden, why)
            }
            Verdict::Failed(why) => {
                warn!("cannot check the account of {:?} from {from}: {why}", short(user));
                Refusal::new(ErrorCode::Internal, format!("accounts cannot be checked: {why}"))
            }
        };
        self.refuse_waiting(*id, &refusal);
    }

    /// Authentication succeeded: a token, if the user has a role.
    fn let_in(&mut self, attempt: &Attempt, account: Account, now: Moment) -> Result<(), Refusal> {
        let (id, proof) = (attempt.client, attempt.proof);
        let state = match (proof, account.state) {
            // PAM has checked more than this.
            (Proof::Kernel | Proof::Password, _) | (_, AccountState::Usable) => None,
            (Proof::Key(_), AccountState::Locked) => Some("the account is locked"),
            (Proof::Key(_), AccountState::Expired) => Some("the account has expired"),
        };
        if let Some(why) = state {
            info!("refused {:?} from {}: {why}", account.name, attempt.from);
            return Err(Refusal::new(ErrorCode::Forbidden, why));
        }
        let Some(role) = self.roles.role(account.uid, &account.groups) else {
            let refusal = self.roles.refuse(&account.name);
            info!("refused: {}", refusal.why);
            return Err(refusal);
        };
        let role = self.keys.role_of(&proof).map_or(role, |most| role.min(most));
        let from = attempt.from.clone();
        let identity = Identity { user: account.name, uid: account.uid, role, proof, from };
        if !self.keys.back(&identity) {
            let why = "the key has been revoked";
            info!("refused {:?} from {}: {why}", identity.user, attempt.from);
            return Err(Refusal::new(ErrorCode::Unauthorized, why));
        }
        let Some(client) = self.clients.get(id) else { return Ok(()) };
        let Some(Until::Proven) = client.waits_until() else { return Ok(()) };
        let reply = client.session.authenticated(identity, &mut self.tokens, now)?;
        self.end_wait(id, Ok(reply));
        self.look_at_standing(id, now);
        Ok(())
    }

    /// Authentication failed. `what` is for the log, `why` for the client.
    #[allow(
        clippy::too_many_arguments,
        reason = "the client may be gone, so its parts are arguments"
    )]
    pub(super) fn on_failure(
        &mut self,
        id: ClientId,
        source: Source,
        from: &str,
        what: &str,
        reply_to: Option<ReplyTo>,
        why: &str,
        now: Moment,
    ) {
        warn!("authentication failure from {from}: {what}");
        let exempt = self.is_exempt(source);
        let refusal = Refusal::new(ErrorCode::Unauthorized, why);
        let consequence = match (self.throttle.fail(source, exempt, now.instant), source) {
            // Callers get a new id each time: so all behind one relay are throttled.
            (Consequence::Answer, Source::Caller(link, _)) => {
                self.throttle.fail(Source::Caller(link, 0), true, now.instant)
            }
            (consequence, _) => consequence,
        };
        match consequence {
            Consequence::Answer => {
                if let Some(reply_to) = reply_to {
                    self.reply(id, &reply_to, Err(refusal));
                    self.reactor.again(PollToken::Client(id));
                }
            }
            Consequence::Delay(delay) => {
                if let Some(client) = self.clients.get(id)
                    && let Some(reply_to) = reply_to
                {
                    client.wait(reply_to, Until::Delayed(refusal));
                    self.reactor.set_deadline(PollToken::Delayed(id), Some(now.instant + delay));
                }
            }
            Consequence::Block(time) => {
                let seconds = time.as_secs();
                warn!("blocked {from} for {seconds} s: too many failures");
                self.end_unauthenticated_of(source, id, now);
                let why = format!("too many failures; try again in {seconds} s");
                if let Some(reply_to) = reply_to {
                    self.reply(id, &reply_to, Err(Refusal::new(ErrorCode::Forbidden, why)));
                }
                self.hub.leave(id);
                let reason = CloseReason::new(1008, "too many failures");
                self.clients.close_when_sent(id, &reason, now.instant);
            }
        }
    }

    /// A secret that the session verified itself was wrong.
    pub(super) fn on_wrong(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        what: &str,
        why: &str,
        now: Moment,
    ) {
        let Some(client) = self.clients.get(id) else { return };
        let (peer, from) = (client.peer.clone(), client.peer.place());
        let source = self.clients.guests.source_of(&peer);
        if let Err(refusal) = self.check_throttle(source, now) {
            return self.reply(id, &reply_to, Err(refusal));
        }
        self.on_failure(id, source, &from, what, Some(reply_to), why, now);
    }

    /// The delay of a reply is over.
    pub(super) fn on_delay_over(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(id) else { return };
        if let Some(Until::Delayed(refusal)) = client.waits_until() {
            let refusal = refusal.clone();
            self.end_wait(id, Err(refusal));
        }
    }
}

/// A name chosen by an unauthenticated peer, for the log.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}
