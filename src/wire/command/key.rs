//! Arguments of `rpc/settings`: registered keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::reply::Refusal;
use super::{Command, Fields};

/// A request about registered keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyCommand {
    /// List the keys: one page.
    List {
        /// The last key of the page before; `None` for the first page.
        page: Option<String>,
    },
    /// List the checksums of keys: one page.
    Checksums {
        /// The last key of the page before; `None` for the first page.
        page: Option<String>,
    },
    /// Register this key for the requesting user.
    Register(Box<NewKey>),
    /// Revoke this key.
    Revoke {
        /// Its PEM.
        pem: Vec<u8>,
        /// Its owner, if not the requesting user.
        user: Option<String>,
    },
}

/// A key to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Its PEM.
    pub pem: Vec<u8>,
    /// Name chosen by its owner.
    pub nickname: String,
    /// Address of its owner.
    pub email: String,
    /// Whether original clients may use it; if missing, its kind decides.
    pub legacy: Option<bool>,
}

pub(super) fn list(args: &mut Value) -> Result<Command, Refusal> {
    Ok(Command::Key(KeyCommand::List { page: Fields::of(args).page()? }))
}

pub(super) fn checksums(args: &mut Value) -> Result<Command, Refusal> {
    Ok(Command::Key(KeyCommand::Checksums { page: Fields::of(args).page()? }))
}

pub(super) fn register(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    let text = |key| Ok(fields.text(key)?.unwrap_or_default().to_owned());
    Ok(Command::Key(KeyCommand::Register(Box::new(NewKey {
        pem: pem(fields)?,
        nickname: text("nickname")?,
        email: text("email")?,
        legacy: fields.flag("legacy")?,
    }))))
}

pub(super) fn revoke(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    let user = fields.text("user")?.map(str::to_owned);
    Ok(Command::Key(KeyCommand::Revoke { pem: pem(fields)?, user }))
}

/// `pub_key`: PEM in base64, as sent by the original client, or plain PEM.
fn pem(fields: Fields<'_>) -> Result<Vec<u8>, Refusal> {
    let Some(text) = fields.get("pub_key").and_then(Value::as_str) else {
        return Err(Refusal::bad_request("pub_key must be a public key: its PEM in base64"));
    };
    if text.trim_start().starts_with("-----BEGIN ") {
        return Ok(text.as_bytes().to_owned());
    }
    let refuse = |_| Refusal::bad_request("pub_key cannot be taken: it is no base64");
    STANDARD.decode(text.trim()).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn key_is_taken_as_pem_and_in_base64() {
        let text = "-----BEGIN PUBLIC KEY-----\n";
        for pub_key in [text.to_owned(), STANDARD.encode(text)] {
            match revoke(&mut json!({ "pub_key": pub_key, "user": null })) {
                Ok(Command::Key(KeyCommand::Revoke { pem, user: None })) => {
                    assert_eq!(pem, text.as_bytes());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn invalid_requests_are_rejected() {
        for bad in [
            json!({}),
            json!({ "pub_key": 7 }),
            json!({ "pub_key": "%%%" }),
            json!({ "pub_key": "", "email": ["a"] }),
            json!({ "pub_key": "", "legacy": "yes" }),
        ] {
            assert!(register(&mut bad.clone()).is_err(), "{bad}");
        }
        assert!(revoke(&mut json!({ "pub_key": "", "user": 7 })).is_err());
    }
}
