//! `rpc/settings`: registered keys and their owners (protocol section 3).
//!
//! Parses requests and determines their effect; the owner of the key file makes the changes. The
//! form of the replies is that of the original server, for its clients.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::auth::key::{
    Entry, InsertError, KeyChange, KeyId, KeyLimits, KeyStore, PublicKey, check_text,
};
use crate::auth::{Identity, Role};
use crate::wire::{ErrorCode, Refusal};

/// The actions, each with its longer name.
pub(super) const LIST: [&str; 2] = ["list_ssl_certs", "list_ssl_certificates"];
pub(super) const REGISTER: [&str; 2] = ["register_ssl_cert", "register_ssl_certificate"];
pub(super) const CHECKSUMS: &str = "list_ssl_checksums";

/// Maximum number of keys in one page of a list: encoding one takes some microseconds and up to two
/// kilobytes.
const LIST_PAGE: usize = 64;
/// Keys in one page of checksums.
const CHECKSUMS_PAGE: usize = 512;
/// The field that names the next page of a list. It cannot be a user name, so clients without
/// support for pages take it for a user without keys.
const NEXT: &str = "/next";

/// A parsed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// List the keys: one page.
    List {
        /// The last key of the previous page; `None` for the first page.
        page: Option<String>,
    },
    /// Their checksums: a page of them.
    Checksums {
        /// The last key of the page before; without one it is the first page.
        page: Option<String>,
    },
    /// Register this key for the requesting user.
    Register(Box<Entry>),
    /// Revoke this key.
    Revoke {
        /// Its identifier.
        id: KeyId,
        /// Its owner, if not the requesting user.
        user: Option<String>,
    },
}

/// The effect.
#[derive(Clone, Debug)]
pub enum Settled {
    /// This reply.
    Answer(Value),
    /// The key file must be changed; then the reply is empty, and this text is logged.
    Change(KeyChange, String),
}

impl Settings {
    /// Parses a request; `added` is the current time.
    pub(super) fn read(
        action: &str,
        fields: &Map<String, Value>,
        added: String,
    ) -> Result<Settings, Refusal> {
        if LIST.contains(&action) {
            Ok(Settings::List { page: super::read_page(fields)?.map(str::to_owned) })
        } else if action == CHECKSUMS {
            Ok(Settings::Checksums { page: super::read_page(fields)?.map(str::to_owned) })
        } else if REGISTER.contains(&action) {
            let key = read_key(fields)?;
            let legacy = match fields.get("legacy") {
                // Only the original client registers RSA keys without stating the kind.
                None | Some(Value::Null) => key.can_be_legacy(),
                Some(Value::Bool(legacy)) => *legacy,
                Some(_) => return Err(Refusal::bad_request("legacy must be true or false")),
            };
            if legacy && !key.can_be_legacy() {
                return Err(Refusal::bad_request(InsertError::NotLegacy.to_string()));
            }
            let (nickname, email) = (text(fields, "nickname")?, text(fields, "email")?);
            // The session determines owner and role.
            let (user, role, checksums) = (String::new(), Role::Read, Vec::new());
            let entry = Entry { user, key, nickname, email, added, legacy, role, checksums };
            Ok(Settings::Register(Box::new(entry)))
        } else {
            // The table in `auth` admits only `revoke_ssl_cert`, by either name.
            let user = match fields.get("user") {
                None | Some(Value::Null) => None,
                Some(Value::String(user)) => Some(user.clone()),
                Some(_) => return Err(Refusal::bad_request("user must be a string")),
            };
            Ok(Settings::Revoke { id: read_key(fields)?.id(), user })
        }
    }

    /// Determines the effect for the user `identity`.
    pub fn settle(
        self,
        identity: &Identity,
        keys: &KeyStore,
        limits: KeyLimits,
    ) -> Result<Settled, Refusal> {
        let shown = || keys.iter().filter(|entry| identity.may_manage_keys_of(&entry.user));
        match self {
            Settings::List { page } => {
                let (entries, next) = page_of(shown(), page, LIST_PAGE)?;
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
                    of_user[STANDARD.encode(entry.key.pem())] = details.into();
                }
                users.extend(next.map(|next| (NEXT.to_owned(), next.into())));
                Ok(Settled::Answer(Value::Object(users)))
            }
            Settings::Checksums { page } => {
                let (entries, next) = page_of(shown(), page, CHECKSUMS_PAGE)?;
                let checksums: Vec<String> =
                    entries.iter().map(|entry| entry.key.checksum()).collect();
                let mut reply = json!({ "md5_keys": checksums });
                if let Some(next) = next {
                    reply["next"] = next.into();
                }
                Ok(Settled::Answer(reply))
            }
            Settings::Register(mut entry) => {
                (entry.user, entry.role) = (identity.user.clone(), identity.role);
                let did = format!("registered key=\"{}\"", entry.key.id());
                Ok(Settled::Change(KeyChange::Insert(entry, limits), did))
            }
            Settings::Revoke { id, user } => {
                let user = user.unwrap_or_else(|| identity.user.clone());
                if !identity.may_manage_keys_of(&user) {
                    let why = format!("{} may revoke own keys only", identity.user);
                    return Err(Refusal::new(ErrorCode::Forbidden, why));
                }
                if keys.find(&id).is_none_or(|entry| entry.user != user) {
                    let why = format!("{user:?} has no such key");
                    return Err(Refusal::new(ErrorCode::NotFound, why));
                }
                let did = format!("revoked key=\"{id}\" of={user:?}");
                Ok(Settled::Change(KeyChange::Revoke { user, id: id.to_string() }, did))
            }
        }
    }
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
            return Err(Refusal::bad_request(format!("no list of keys has a page {page:?}")));
        }
    }
    let found: Vec<&Entry> = entries.by_ref().take(most).collect();
    let last = found.last().filter(|_| entries.next().is_some());
    let next = last.map(|last| last.key.id().to_string());
    Ok((found, next))
}

/// `pub_key`: PEM in base64, as sent by the original client, or plain PEM.
fn read_key(fields: &Map<String, Value>) -> Result<PublicKey, Refusal> {
    let Some(text) = fields.get("pub_key").and_then(Value::as_str) else {
        return Err(Refusal::bad_request("pub_key must be a public key: its PEM in base64"));
    };
    let refuse = |why: &dyn std::fmt::Display| {
        Refusal::bad_request(format!("pub_key cannot be taken: {why}"))
    };
    if text.trim_start().starts_with("-----BEGIN ") {
        return PublicKey::from_pem(text.as_bytes()).map_err(|why| refuse(&why));
    }
    let pem = STANDARD.decode(text.trim()).map_err(|_| refuse(&"it is no base64"))?;
    PublicKey::from_pem(&pem).map_err(|why| refuse(&why))
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<String, Refusal> {
    let text = match fields.get(name) {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(_) => return Err(Refusal::bad_request(format!("{name} must be a string"))),
    };
    check_text(name, text).map_err(Refusal::bad_request)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Proof;
    use crate::auth::key::{Kind, PrivateKey};

    const LIMITS: KeyLimits = KeyLimits { of_user: 2, total: 3, legacy: 1, legacy_of_user: 1 };

    fn identity(user: &str, role: Role) -> Identity {
        Identity { user: user.into(), uid: 1000, role, proof: Proof::Password, from: String::new() }
    }

    fn read(action: &str, fields: Value) -> Result<Settings, Refusal> {
        let Value::Object(fields) = fields else { panic!("no object") };
        Settings::read(action, &fields, "2026-11-24T20:00:00Z".into())
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

    fn answer(settings: Settings, identity: &Identity) -> Value {
        match settings.settle(identity, &store(), LIMITS).unwrap() {
            Settled::Answer(answer) => answer,
            Settled::Change(..) => panic!("a change"),
        }
    }

    #[test]
    fn list_has_own_keys_and_with_full_access_all() {
        let own = answer(Settings::List { page: None }, &identity("amy", Role::Read));
        let details = "Nickname: mine\nEmail: me@example.org\nDate Registered: 2026-11-23T17:59:04Z\nRole: full";
        assert_eq!(own, json!({ "amy": { STANDARD.encode(rsa()): details } }));
        let all = answer(Settings::List { page: None }, &identity("root", Role::Full));
        assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["amy", "bob"]);
        let own = answer(Settings::Checksums { page: None }, &identity("amy", Role::Read));
        assert_eq!(own, json!({ "md5_keys": ["vztZL9XWakpyTZ34lrEDCQ=="] }));
        let all = answer(Settings::Checksums { page: None }, &identity("root", Role::Full));
        assert_eq!(all["md5_keys"].as_array().unwrap().len(), 2);
        assert_eq!(answer(Settings::List { page: None }, &identity("eve", Role::Read)), json!({}));
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
        let page = |page: Value| {
            let settings = read(CHECKSUMS, json!({ "page": page })).unwrap();
            match settings.settle(&identity("root", Role::Full), &store, LIMITS).unwrap() {
                Settled::Answer(reply) => reply,
                Settled::Change(..) => panic!("a change"),
            }
        };
        let count = |reply: &Value| reply["md5_keys"].as_array().unwrap().len();
        let first = page(Value::Null);
        assert_eq!(count(&first), CHECKSUMS_PAGE);
        let second = page(first["next"].clone());
        assert_eq!((count(&second), second.get("next")), (1, None));
        assert_ne!(first["md5_keys"][0], second["md5_keys"][0]);
    }

    #[test]
    fn rsa_keys_are_legacy_by_default() {
        let encoded = STANDARD.encode(rsa());
        let legacy = |fields: Value| match read("register_ssl_cert", fields).unwrap() {
            Settings::Register(entry) => entry.legacy,
            other => panic!("{other:?}"),
        };
        assert!(legacy(json!({ "pub_key": encoded })));
        assert!(legacy(json!({ "pub_key": rsa(), "legacy": true })));
        assert!(!legacy(json!({ "pub_key": encoded, "legacy": false })));
        assert!(!legacy(json!({ "pub_key": STANDARD.encode(new_key()) })));
    }

    #[test]
    fn key_is_registered_for_the_requesting_user_only() {
        let fields = json!({ "pub_key": rsa(), "user": "root", "nickname": "n", "email": null });
        let settings = read("register_ssl_certificate", fields).unwrap();
        let settled = settings.settle(&identity("eve", Role::Read), &store(), LIMITS).unwrap();
        let Settled::Change(KeyChange::Insert(entry, _), did) = settled else {
            panic!("no change")
        };
        assert_eq!((entry.user.as_str(), entry.nickname.as_str()), ("eve", "n"));
        assert_eq!(entry.role, Role::Read, "a key has at most the role of its registrar");
        assert_eq!(did, "registered key=\"Q1mNoZp8dqafa1IQ/ga4oRQqTUkaHGrejcxYgzKUx1c=\"");
    }

    #[test]
    fn another_users_key_is_revoked_with_full_access_only() {
        let asked = |user: Option<&str>| {
            let fields = json!({ "pub_key": STANDARD.encode(rsa()), "user": user });
            read("revoke_ssl_cert", fields).unwrap()
        };
        let settle = |settings: Settings, user: &str, role| {
            settings.settle(&identity(user, role), &store(), LIMITS).map_err(|refusal| refusal.code)
        };
        assert!(settle(asked(None), "amy", Role::Read).is_ok());
        assert!(settle(asked(Some("amy")), "root", Role::Full).is_ok());
        let refused = settle(asked(Some("amy")), "bob", Role::Read);
        assert_eq!(refused.unwrap_err(), ErrorCode::Forbidden);
        assert_eq!(settle(asked(None), "bob", Role::Read).unwrap_err(), ErrorCode::NotFound);
        assert_eq!(settle(asked(None), "root", Role::Full).unwrap_err(), ErrorCode::NotFound);
    }

    #[test]
    fn invalid_requests_are_rejected() {
        for fields in [
            json!({}),
            json!({ "pub_key": 7 }),
            json!({ "pub_key": "" }),
            json!({ "pub_key": "%%%" }),
            json!({ "pub_key": STANDARD.encode("no key") }),
            json!({ "pub_key": rsa(), "nickname": "a\nb" }),
            json!({ "pub_key": rsa(), "nickname": "a".repeat(255) }),
            json!({ "pub_key": rsa(), "email": ["a"] }),
            json!({ "pub_key": rsa(), "legacy": "yes" }),
            json!({ "pub_key": new_key(), "legacy": true }),
        ] {
            let refusal = read("register_ssl_cert", fields.clone()).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::BadRequest, "{fields}");
        }
        read("revoke_ssl_cert", json!({ "pub_key": rsa(), "user": 7 })).unwrap_err();
    }
}
