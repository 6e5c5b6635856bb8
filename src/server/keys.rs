//! The registered keys in the loop: authentication, registration, and sessions whose key was
//! revoked.
//!
//! The store reads and changes the file. The loop has the last known content, and has it read again
//! when the kernel reports a change (`sysadm-events key`), at each re-check of accounts, and at a
//! reload.

use std::path::Path;
use std::time::Duration;

use log::{error, info, warn};

use super::clients::{ClientId, Until};
use super::files::KEYS;
use super::{PollToken, Server};
use crate::auth::key::{Damaged, InsertError, KeyLimits, KeyReader, KeyStore};
use crate::auth::{Identity, LegacyBudget, Proof, Role};
use crate::config::Config;
use crate::daemon::log_damaged;
use crate::helper::accounts::{Account, Found};
use crate::helper::store::{KeysAnswer, KeysQuestion, Stamp};
use crate::moment::{Budget, Moment};
use crate::net::CloseReason;
use crate::session::{KeyEffect, settle_key_command};
use crate::sys::may_block::MayBlock;
use crate::wire::{ErrorCode, KeyCommand, Refusal, Reply, ReplyTo};

/// Retry interval of a failed read.
const RETRY: Duration = Duration::from_secs(10);
/// Time of a turn for the lines of the file.
const READING: Duration = Duration::from_micros(1000);

/// The content of the file, as far as it has been read.
struct Reading {
    reader: KeyReader,
    /// Clients that changed the file, and their error replies, if any: a reply is sent when the
    /// change is in force.
    clients: Vec<(ClientId, Option<Refusal>)>,
}

/// The known keys.
pub(super) struct Keys {
    pub(super) store: KeyStore,
    stamp: Option<Stamp>,
    /// A file worker was asked to watch the directory, and has not answered.
    watch_asked: bool,
    /// It is to be asked once more then.
    watch_again: bool,
    /// A request to the store is pending.
    asked: bool,
    /// Another one must follow.
    again: bool,
    /// The failure was logged.
    failing: bool,
    /// New content of the file, which is read in several turns.
    reading: Option<Reading>,
    /// For throttled origins.
    pub(super) legacy_budget: LegacyBudget,
}

impl Keys {
    /// Reads the file at start-up, where blocking is allowed. Without a readable file there are no
    /// keys.
    pub(super) fn begin(state: &Path, limit: usize, may_block: MayBlock) -> Keys {
        let path = KeyStore::path(state);
        let store = match KeyStore::read(&path, may_block) {
            Ok((store, damaged)) => {
                log_faults(&store, &damaged, &path, limit);
                store
            }
            Err(error) => {
                error!(
                    "cannot read {}: {error}; key authentication is unavailable",
                    path.display()
                );
                KeyStore::default()
            }
        };
        Keys {
            store,
            stamp: None,
            watch_asked: false,
            watch_again: false,
            asked: false,
            again: false,
            failing: false,
            reading: None,
            legacy_budget: LegacyBudget::default(),
        }
    }

    /// False where an identity depends on a key that is no longer registered for its user, or now
    /// has a lower role.
    pub(super) fn back(&self, identity: &Identity) -> bool {
        match identity.proof {
            Proof::Key(id) => self
                .store
                .find(&id)
                .is_some_and(|key| key.user == identity.user && key.role >= identity.role),
            Proof::Kernel | Proof::Password => true,
        }
    }

    /// Maximum role of this proof, if limited.
    pub(super) fn role_of(&self, proof: &Proof) -> Option<Role> {
        match proof {
            Proof::Key(id) => self.store.find(id).map(|key| key.role),
            Proof::Kernel | Proof::Password => None,
        }
    }
}

/// The configured limits of keys.
pub(super) fn limits(config: &Config) -> KeyLimits {
    KeyLimits {
        of_user: config.auth.max_keys_per_user,
        total: config.auth.max_keys,
        legacy: config.auth.max_legacy_keys,
        legacy_of_user: config.auth.max_legacy_keys_per_user,
    }
}

fn code(why: &InsertError) -> ErrorCode {
    match why {
        InsertError::Taken(_) => ErrorCode::Conflict,
        InsertError::NotLegacy => ErrorCode::BadRequest,
        InsertError::OfUser(_)
        | InsertError::Total(_)
        | InsertError::Legacy(_)
        | InsertError::LegacyOfUser(_) => ErrorCode::TooMany,
    }
}

fn log_faults(store: &KeyStore, damaged: &[Damaged], path: &Path, legacy: usize) {
    log_damaged(path, damaged);
    let beyond = store.legacy().count().saturating_sub(legacy);
    if beyond > 0 {
        warn!("the last {beyond} legacy keys are not tried (max_legacy_keys)");
    }
}

impl Server {
    /// The state directory may have changed.
    pub(super) fn on_keys_changed(&mut self, now: Moment) {
        // The directory itself may have gone, and its watch with it.
        self.watch_keys(now);
        self.ask_for_keys(now);
    }

    /// Has the directory watched, if it is not.
    pub(super) fn watch_keys(&mut self, now: Moment) {
        if std::mem::replace(&mut self.keys.watch_asked, true) {
            self.keys.watch_again = true;
            return;
        }
        let path = KeyStore::path(&self.config.paths.state);
        let question = serde_json::to_vec(&path).unwrap_or_default();
        self.file_workers.files.ask(KEYS, &path, question, now.instant);
    }

    /// The directory is watched, or cannot be: then changed keys are read at the next re-check of
    /// accounts. Changes before a new watch were not reported, so the file is read again.
    pub(super) fn on_keys_watched(&mut self, is_new: bool, now: Moment) {
        self.keys.watch_asked = false;
        if is_new {
            self.ask_for_keys(now);
        }
        if std::mem::take(&mut self.keys.watch_again) {
            self.watch_keys(now);
        }
    }

    /// Requests a read of the file.
    pub(super) fn ask_for_keys(&mut self, now: Moment) {
        if std::mem::replace(&mut self.keys.asked, true) {
            self.keys.again = true;
            return;
        }
        let question = KeysQuestion { change: None, known: self.keys.stamp };
        self.ask_store_for_keys(&question, None, now);
    }

    /// The store has read the file, or changed it for a client; or failed.
    pub(super) fn on_keys(
        &mut self,
        client: Option<(ClientId, String)>,
        answer: Result<Vec<u8>, String>,
        now: Moment,
    ) {
        let answer =
            answer.and_then(|answer| KeysAnswer::decode(answer).map_err(|error| error.to_string()));
        let (refusal, file) = match answer {
            Ok((KeysAnswer { refused, stamp, .. }, file)) => {
                self.keys.stamp = stamp;
                self.keys.failing = false;
                (refused.map(|why| Refusal::new(code(&why), why.to_string())), file)
            }
            Err(why) => {
                if client.is_none() {
                    if !std::mem::replace(&mut self.keys.failing, true) {
                        warn!("cannot read the registered keys: {why}; they stay as they were");
                    }
                    self.reactor.set_deadline(PollToken::Keys, Some(now.instant + RETRY));
                }
                let why = format!("cannot save keys: {why}");
                (Some(Refusal::new(ErrorCode::Internal, why)), None)
            }
        };
        if let Some(file) = file {
            // Later content replaces what is being read.
            let before = self.keys.reading.take();
            let clients = before.map(|reading| reading.clients).unwrap_or_default();
            self.keys.reading = Some(Reading { reader: KeyReader::new(file), clients });
        }
        let is_ours = client.is_none();
        if let Some((id, did)) = client {
            // Even if the client has disconnected.
            if refusal.is_none() {
                info!("{did}");
            }
            match &mut self.keys.reading {
                Some(reading) => reading.clients.push((id, refusal)),
                None => self.answer_change(id, refusal),
            }
        }
        self.go_on_reading_keys(now);
        if is_ours {
            self.keys.asked = false;
            if std::mem::take(&mut self.keys.again) {
                self.ask_for_keys(now);
            }
        }
    }

    /// Reads lines of new content as long as the time for that allows; then the keys are in force.
    pub(super) fn go_on_reading_keys(&mut self, now: Moment) {
        let Some(reading) = &mut self.keys.reading else { return };
        let budget = Budget::of(READING);
        while reading.reader.read_line() {
            if budget.is_spent() {
                return self.reactor.again(PollToken::Keys);
            }
        }
        let Some(Reading { reader, clients }) = self.keys.reading.take() else { return };
        let askers: Vec<ClientId> = clients.iter().map(|(id, _)| *id).collect();
        // The replies first: a client's own key may have been revoked.
        for (id, refusal) in clients {
            self.answer_change(id, refusal);
        }
        self.take_keys(reader, &askers, now);
    }

    fn answer_change(&mut self, id: ClientId, refusal: Option<Refusal>) {
        let client = self.clients.get(id);
        if matches!(client.and_then(|client| client.waits_until()), Some(Until::Keys(_))) {
            self.end_wait(id, refusal.map_or(Ok(Reply::Done {}), Err));
        }
    }

    fn take_keys(&mut self, reader: KeyReader, askers: &[ClientId], now: Moment) {
        let (store, damaged) = reader.finish();
        let path = KeyStore::path(&self.config.paths.state);
        log_faults(&store, &damaged, &path, self.config.auth.max_legacy_keys);
        if store == self.keys.store {
            return;
        }
        info!("registered keys: {}", store.len());
        self.keys.store = store;
        self.end_lost_keys(askers, now);
        self.links.keys_changed = true;
    }

    /// Ends sessions whose key is no longer registered; `askers` get their replies first.
    fn end_lost_keys(&mut self, askers: &[ClientId], now: Moment) {
        let keys = &self.keys;
        self.tokens.revise(|identity| keys.back(identity).then(|| identity.clone()));
        let lost = |identity: &Identity| !keys.back(identity);
        let lost: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, client)| client.session.identity().is_some_and(lost))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            let Some(client) = self.clients.get(id) else { continue };
            warn!("closing client {}: its key has been revoked, 1008", client.name());
            client.session.revise(None);
            self.hub.leave(id);
            let reason = CloseReason::new(1008, "the key has been revoked");
            if askers.contains(&id) {
                self.clients.close_when_sent(id, &reason, now.instant);
            } else {
                self.clients.close(id, &reason, now.instant);
            }
        }
    }

    /// A client requests a list or a change of keys.
    pub(super) fn take_key_command(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        command: KeyCommand,
        now: Moment,
    ) {
        let Some(client) = self.clients.get(id) else { return };
        let Some(identity) = client.session.identity() else { return };
        if identity.is_named() {
            return self.settle_keys(id, reply_to, command, now);
        }
        // Keys are stored by name, and the kernel has reported a number.
        let uid = identity.uid;
        client.wait(reply_to, Until::Keys(Some(command)));
        self.ask_for_name(id, uid, now);
    }

    /// Result of the look-up of the client's name.
    pub(super) fn on_name(&mut self, id: ClientId, found: Found, now: Moment) {
        let Some(client) = self.clients.get(id) else { return };
        let command = match client.waits_until() {
            Some(Until::Named) => return self.on_name_without_role(id, &found),
            Some(Until::Keys(command)) => command.take(),
            Some(_) | None => return,
        };
        let refusal = match (found, client.session.identity(), command) {
            (Found::Account(Account { name, uid, .. }), Some(identity), Some(command))
                if uid == identity.uid =>
            {
                let identity = Identity { user: name, ..identity.clone() };
                client.session.revise(Some(identity));
                let Some(wait) = client.waiting.take() else { return };
                self.settle_keys(id, wait.reply_to, command, now);
                self.reactor.again(PollToken::Client(id));
                return;
            }
            (Found::Failed(why), ..) => {
                let why = format!("your name cannot be looked up: {why}");
                Refusal::new(ErrorCode::Internal, why)
            }
            (Found::Account(_) | Found::Nobody, ..) => {
                Refusal::new(ErrorCode::Forbidden, "you have no name on this host")
            }
        };
        self.end_wait(id, Err(refusal));
    }

    fn settle_keys(&mut self, id: ClientId, reply_to: ReplyTo, command: KeyCommand, now: Moment) {
        let Some(client) = self.clients.get(id) else { return };
        let Some(identity) = client.session.identity() else { return };
        let limits = limits(&self.config);
        let effect = settle_key_command(command, identity, &self.keys.store, limits, now.wall);
        let result = match effect {
            Ok(KeyEffect::Reply(reply)) => Ok(reply),
            Ok(KeyEffect::Change(change, action)) => {
                client.wait(reply_to, Until::Keys(None));
                let line = self.audit_line(id, &action).unwrap_or_else(|| action.to_string());
                let question = KeysQuestion { change: Some(change), known: self.keys.stamp };
                return self.ask_store_for_keys(&question, Some((id, line)), now);
            }
            Err(refusal) => Err(refusal),
        };
        self.reply(id, &reply_to, result);
    }
}
