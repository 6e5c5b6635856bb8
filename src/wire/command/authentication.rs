//! Arguments of requests that authenticate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use super::super::id::KeyId;
use super::super::reply::Refusal;
use super::{Command, Fields};

/// Proof of an identity.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The identity provided by the transport: a user at the local socket.
    Transport,
    /// Name and password of an account.
    Password {
        /// The name.
        user: String,
        /// The password.
        secret: Zeroizing<String>,
    },
    /// A token.
    Token(Zeroizing<String>),
    /// First stage of a key: request for a string to sign.
    Challenge {
        /// The client has the form of the original server's, which encodes what follows.
        is_legacy: bool,
    },
    /// Second stage: a signature by this key.
    Signature {
        /// `None` for text that is no key's identifier.
        key: Option<KeyId>,
        /// Empty where it is not base64.
        signature: Vec<u8>,
    },
    /// Second stage in the form of the original server, which does not name the key.
    LegacySignature {
        /// Empty where it is not base64.
        signature: Vec<u8>,
    },
}

/// Removes a text from the arguments without a copy.
fn remove(args: &mut Value, key: &str) -> Option<String> {
    match args.get_mut(key).map(Value::take) {
        Some(Value::String(text)) => Some(text),
        Some(_) | None => None,
    }
}

pub(super) fn password(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    if !fields.has("username") && !fields.has("password") {
        return Ok(Command::Authenticate(Credentials::Transport));
    }
    let secret = remove(args, "password").map(Zeroizing::new);
    let (Some(user), Some(secret)) = (remove(args, "username"), secret) else {
        let why = "auth needs {\"username\": \"…\", \"password\": \"…\"}";
        return Err(Refusal::bad_request(why));
    };
    Ok(Command::Authenticate(Credentials::Password { user, secret }))
}

pub(super) fn token(args: &mut Value) -> Result<Command, Refusal> {
    let Some(token) = remove(args, "token") else {
        return Err(Refusal::bad_request("auth_token needs {\"token\": \"…\"}"));
    };
    Ok(Command::Authenticate(Credentials::Token(Zeroizing::new(token))))
}

pub(super) fn key(args: &mut Value) -> Result<Command, Refusal> {
    let text = |key| args.get(key).and_then(Value::as_str);
    // Invalid base64 is an invalid signature.
    let decode = |text: &str| STANDARD.decode(text).unwrap_or_default();
    let credentials = if is_first_stage(args) {
        Credentials::Challenge { is_legacy: args.get("md5_key").is_some() }
    } else {
        match (text("key"), text("signature"), text("encrypted_string")) {
            (Some(key), Some(signature), None) => {
                Credentials::Signature { key: KeyId::parse(key), signature: decode(signature) }
            }
            (None, None, Some(encrypted)) => {
                Credentials::LegacySignature { signature: decode(encrypted) }
            }
            _ => {
                let why = "auth_ssl needs \"\", and then {\"key\": \"…\", \"signature\": \"…\"} or \
                           {\"encrypted_string\": \"…\"}";
                return Err(Refusal::bad_request(why));
            }
        }
    };
    Ok(Command::Authenticate(credentials))
}

/// Whether this is the first stage, without a signature; `md5_key` is sent by the original client
/// through a relay.
fn is_first_stage(args: &Value) -> bool {
    match args {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.keys().all(|key| key == "md5_key"),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
