//! Identifiers on the wire.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::quoted::Quoted;
use super::reply::Refusal;

/// Maximum length of a job's id and of a queue's name, in bytes.
pub const MAX_NAME: usize = 128;

/// Rejects text that cannot be a job's id or a queue's name; `what` names which of them it is.
pub fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let why = format!(
            "{what} {} must have 1 to {MAX_NAME} bytes and no control characters",
            Quoted(name)
        );
        return Err(Refusal::bad_request(why));
    }
    Ok(())
}

/// Identifier of a job. It may be one that no job can have: then no job has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// Parses an id that a job can have; `what` names the field, for the error.
    pub fn parse(what: &str, text: &str) -> Result<JobId, Refusal> {
        check_name(what, text)?;
        Ok(JobId(text.to_owned()))
    }
}

impl From<String> for JobId {
    fn from(text: String) -> JobId {
        JobId(text)
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.0
    }
}

impl Borrow<str> for JobId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Deref for JobId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Identifier of a key: the SHA-256 of its SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// Takes the digest.
    pub const fn new(digest: [u8; 32]) -> KeyId {
        KeyId(digest)
    }

    /// Parses base64, the form of [`Display`](fmt::Display).
    pub fn parse(text: &str) -> Option<KeyId> {
        STANDARD.decode(text).ok()?.try_into().ok().map(KeyId)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
