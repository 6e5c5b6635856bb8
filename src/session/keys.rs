//! Requests about registered keys and their owners (protocol section 3).
//!
//! Determines the effect of a request; the owner of the key file makes the changes. The form of the
//! replies is that of the original server, for its clients.

use std::fmt;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, json};

use super::Audit;
use crate::auth::Identity;
use crate::auth::key::{
    Entry, InsertError, KeyChange, KeyId, KeyLimits, KeyStore, PublicKey, check_text,
};
use crate::wire::{ErrorCode, JsonFields, KeyCommand, NewKey, Quoted, Refusal, Reply, rfc3339};

/// Maximum number of keys in one page of a list: encoding one takes some microseconds and up to two
/// kilobytes.
const LIST_PAGE: usize = 64;
/// Keys in one page of checksums.
const CHECKSUMS_PAGE: usize = 512;
/// The field that names the next page of a list. It cannot be a user name, so clients without
/// support for pages take it for a user without keys.
const NEXT: &str = "/next";

/// Effect of a request.
#[derive(Clone, Debug)]
pub enum KeyEffect {
    /// This reply.
    Reply(Reply),
    /// The key file must be changed; then the reply is empty, and the action is logged.
    Change(KeyChange, Audit),
}

/// Determines the effect of a request of the user `identity`; `now` is the time of registration.
pub fn settle_key_command(
    command: KeyCommand,
    identity: &Identity,
    keys: &KeyStore,
    limits: KeyLimits,
    now: SystemTime,
) -> Result<KeyEffect, Refusal> {
    let shown = keys.iter().filter(|entry| identity.may_manage_keys_of(&entry.user));
    match command {
        KeyCommand::List { page } => {
            let (entries, next) = page_of(shown, page, LIST_PAGE)?;
            let mut users = Map::new();
            for entry in entries {
                let details = format!(
                    "Nickname: {}\nEmail: {}\nDate Registered: {}\nRole: {}",
                    entry.nickname,
                    entry.email,
                    entry.added,
                    entry.role.name()
                );
                let of_user = users.entry(entry.user.as_str()).or_insert_with(|| json!({}));
                of_user.set_field(&STANDARD.encode(entry.key.pem()), details);
            }
            users.extend(next.map(|next| (NEXT.to_owned(), next.into())));
            Ok(KeyEffect::Reply(Reply::Table(users.into())))
        }
        KeyCommand::Checksums { page } => {
            let (entries, next) = page_of(shown, page, CHECKSUMS_PAGE)?;
            let md5_keys = entries.iter().map(|entry| entry.key.checksum()).collect();
            Ok(KeyEffect::Reply(Reply::Checksums { md5_keys, next }))
        }
        KeyCommand::Register(key) => {
            let entry = new_entry(*key, identity, now)?;
            let action = Audit::Registered(entry.key.id());
            Ok(KeyEffect::Change(KeyChange::Insert(Box::new(entry), limits), action))
        }
        KeyCommand::Revoke { pem, user } => {
            let id = parse_key(&pem)?.id();
            let user = user.unwrap_or_else(|| identity.user.clone());
            if !identity.may_manage_keys_of(&user) {
                let why = format!("{} may revoke own keys only", identity.user);
                return Err(Refusal::new(ErrorCode::Forbidden, why));
            }
            if keys.find(&id).is_none_or(|entry| entry.user != user) {
                let why = format!("{} has no such key", Quoted(&user));
                return Err(Refusal::new(ErrorCode::NotFound, why));
            }
            let action = Audit::Revoked { id, of: user.clone() };
            Ok(KeyEffect::Change(KeyChange::Revoke { user, id: id.to_string() }, action))
        }
    }
}

fn new_entry(new: NewKey, identity: &Identity, now: SystemTime) -> Result<Entry, Refusal> {
    let NewKey { pem, nickname, email, legacy } = new;
    let key = parse_key(&pem)?;
    // Only the original client registers RSA keys without stating the kind.
    let legacy = legacy.unwrap_or(key.can_be_legacy());
    if legacy && !key.can_be_legacy() {
        return Err(Refusal::bad_request(InsertError::NotLegacy.to_string()));
    }
    check_text("nickname", &nickname).map_err(Refusal::bad_request)?;
    check_text("email", &email).map_err(Refusal::bad_request)?;
    let (user, role) = (identity.user.clone(), identity.role);
    let (added, checksums) = (rfc3339(now), Vec::new());
    Ok(Entry { user, key, nickname, email, added, legacy, role, checksums })
}

fn parse_key(pem: &[u8]) -> Result<PublicKey, Refusal> {
    let refuse =
        |why: &dyn fmt::Display| Refusal::bad_request(format!("pub_key cannot be taken: {why}"));
    PublicKey::from_pem(pem).map_err(|why| refuse(&why))
}

/// The page of at most `most` keys behind the key that `page` names, and the name of the page after
/// it where there is one.
fn page_of<'a>(
    mut entries: impl Iterator<Item = &'a Entry>,
    page: Option<String>,
    most: usize,
) -> Result<(Vec<&'a Entry>, Option<String>), Refusal> {
    if let Some(page) = page {
        let id = KeyId::parse(&page);
        if !entries.by_ref().any(|entry| Some(entry.key.id()) == id) {
            return Err(Refusal::bad_request(format!(
                "no list of keys has a page {}",
                Quoted(&page)
            )));
        }
    }
    let found: Vec<&Entry> = entries.by_ref().take(most).collect();
    let last = found.last().filter(|_| entries.next().is_some());
    let next = last.map(|last| last.key.id().to_string());
    Ok((found, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key::{Kind, PrivateKey};
    use crate::auth::{Proof, Role};
    use serde_json::Value;

    const LIMITS: KeyLimits = KeyLimits { of_user: 2, total: 3, legacy: 1, legacy_of_user: 1 };

    fn identity(user: &str, role: Role) -> Identity {
        Identity { user: user.into(), uid: 1000, role, proof: Proof::Password, from: String::new() }
    }

    fn register(pem: impl Into<Vec<u8>>, legacy: Option<bool>) -> KeyCommand {
        let (nickname, email) = ("n".to_owned(), String::new());
        KeyCommand::Register(Box::new(NewKey { pem: pem.into(), nickname, email, legacy }))
    }

    fn settle(
        command: KeyCommand,
        identity: &Identity,
        keys: &KeyStore,
    ) -> Result<KeyEffect, Refusal> {
        settle_key_command(command, identity, keys, LIMITS, SystemTime::UNIX_EPOCH)
    }

    fn registered(command: KeyCommand, identity: &Identity) -> Result<(Entry, Audit), Refusal> {
        match settle(command, identity, &store())? {
            KeyEffect::Change(KeyChange::Insert(entry, _), action) => Ok((*entry, action)),
            other => panic!("{other:?}"),
        }
    }

    fn rsa() -> String {
        include_str!("../../tests/keys/rsa-public.pem").to_owned()
    }

    fn store() -> KeyStore {
        let mut store = KeyStore::default();
        for (user, pem) in [("amy", rsa()), ("bob", new_key())] {
            let key = PublicKey::from_pem(pem.as_bytes()).unwrap();
            let (nickname, email) = ("mine".to_owned(), "me@example.org".to_owned());
            let (added, checksums) = ("2026-11-23T17:59:04Z".to_owned(), Vec::new());
            let legacy = key.is_rsa();
            let role = Role::Full;
            let entry =
                Entry { user: user.into(), key, nickname, email, added, legacy, role, checksums };
            store.insert(entry, &LIMITS).unwrap();
        }
        store
    }

    fn new_key() -> String {
        PrivateKey::generate(Kind::Ed25519).unwrap().public().pem()
    }

    fn json_of(effect: Result<KeyEffect, Refusal>) -> Value {
        match effect.unwrap() {
            KeyEffect::Reply(reply) => serde_json::to_value(reply).unwrap(),
            KeyEffect::Change(..) => panic!("a change"),
        }
    }

    fn answer(command: KeyCommand, identity: &Identity) -> Value {
        json_of(settle(command, identity, &store()))
    }

    #[test]
    fn list_has_own_keys_and_with_full_access_all() {
        let own = answer(KeyCommand::List { page: None }, &identity("amy", Role::Read));
        let details = "Nickname: mine\nEmail: me@example.org\nDate Registered: 2026-11-23T17:59:04Z\nRole: full";
        assert_eq!(own, json!({ "amy": { STANDARD.encode(rsa()): details } }));
        let all = answer(KeyCommand::List { page: None }, &identity("root", Role::Full));
        assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["amy", "bob"]);
        let own = answer(KeyCommand::Checksums { page: None }, &identity("amy", Role::Read));
        assert_eq!(own, json!({ "md5_keys": ["vztZL9XWakpyTZ34lrEDCQ=="] }));
        let all = answer(KeyCommand::Checksums { page: None }, &identity("root", Role::Full));
        assert_eq!(all["md5_keys"].as_array().unwrap().len(), 2);
        assert_eq!(
            answer(KeyCommand::List { page: None }, &identity("eve", Role::Read)),
            json!({})
        );
    }

    #[test]
    fn list_of_checksums_has_pages() {
        let mut store = KeyStore::default();
        let limits = KeyLimits { of_user: 4096, total: 4096, legacy: 1, legacy_of_user: 1 };
        for number in 0..CHECKSUMS_PAGE + 1 {
            let key = PublicKey::from_pem(new_key().as_bytes()).unwrap();
            let (nickname, email, added) = (number.to_string(), String::new(), String::new());
            let (user, role, checksums) = ("amy".to_owned(), Role::Full, Vec::new());
            let entry = Entry { user, key, nickname, email, added, legacy: false, role, checksums };
            store.insert(entry, &limits).unwrap();
        }
        let page = |page: Option<&str>| {
            let page = page.map(str::to_owned);
            let root = identity("root", Role::Full);
            json_of(settle(KeyCommand::Checksums { page }, &root, &store))
        };
        let count = |reply: &Value| reply["md5_keys"].as_array().unwrap().len();
        let first = page(None);
        assert_eq!(count(&first), CHECKSUMS_PAGE);
        let second = page(first["next"].as_str());
        assert_eq!((count(&second), second.get("next")), (1, None));
        assert_ne!(first["md5_keys"][0], second["md5_keys"][0]);
    }

    #[test]
    fn rsa_keys_are_legacy_by_default() {
        let legacy = |pem: String, legacy: Option<bool>| {
            registered(register(pem, legacy), &identity("eve", Role::Read)).unwrap().0.legacy
        };
        assert!(legacy(rsa(), None));
        assert!(legacy(rsa(), Some(true)));
        assert!(!legacy(rsa(), Some(false)));
        assert!(!legacy(new_key(), None));
    }

    #[test]
    fn key_is_registered_for_the_requesting_user_only() {
        let (entry, action) =
            registered(register(rsa(), None), &identity("eve", Role::Read)).unwrap();
        assert_eq!((entry.user.as_str(), entry.nickname.as_str()), ("eve", "n"));
        assert_eq!(entry.role, Role::Read, "a key has at most the role of its registrar");
        let line = "registered key=\"Q1mNoZp8dqafa1IQ/ga4oRQqTUkaHGrejcxYgzKUx1c=\"";
        assert_eq!(action.to_string(), line);
    }

    #[test]
    fn another_users_key_is_revoked_with_full_access_only() {
        let revoke = |of: Option<&str>, user: &str, role| {
            let command = KeyCommand::Revoke { pem: rsa().into(), user: of.map(str::to_owned) };
            settle(command, &identity(user, role), &store()).map_err(|refusal| refusal.code)
        };
        assert!(revoke(None, "amy", Role::Read).is_ok());
        assert!(revoke(Some("amy"), "root", Role::Full).is_ok());
        let refused = revoke(Some("amy"), "bob", Role::Read);
        assert_eq!(refused.unwrap_err(), ErrorCode::Forbidden);
        assert_eq!(revoke(None, "bob", Role::Read).unwrap_err(), ErrorCode::NotFound);
        assert_eq!(revoke(None, "root", Role::Full).unwrap_err(), ErrorCode::NotFound);
    }

    #[test]
    fn invalid_keys_and_texts_are_rejected() {
        let with = |nickname: String| {
            let (pem, email) = (rsa().into_bytes(), String::new());
            KeyCommand::Register(Box::new(NewKey { pem, nickname, email, legacy: None }))
        };
        for command in [
            register("", None),
            register("no key", None),
            register(new_key(), Some(true)),
            with("a\nb".to_owned()),
            with("a".repeat(255)),
        ] {
            let refusal = registered(command.clone(), &identity("eve", Role::Read)).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::BadRequest, "{command:?}");
        }
    }
}
