//! Replies: a response with the result, or an error with the reason.

use std::fmt;
use std::rc::Rc;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::id::JobId;
use super::request::ReplyTo;

/// The number in an error (protocol section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404: unknown namespace or name.
    NotFound,
    /// 409: a job with that id is active.
    Conflict,
    /// 413
    TooLarge,
    /// 429
    TooMany,
    /// 500
    Internal,
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 400,
            ErrorCode::Unauthorized => 401,
            ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::Conflict => 409,
            ErrorCode::TooLarge => 413,
            ErrorCode::TooMany => 429,
            ErrorCode::Internal => 500,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "Bad Request",
            ErrorCode::Unauthorized => "Unauthorized",
            ErrorCode::Forbidden => "Forbidden",
            ErrorCode::NotFound => "Not Found",
            ErrorCode::Conflict => "Conflict",
            ErrorCode::TooLarge => "Too Large",
            ErrorCode::TooMany => "Too Many",
            ErrorCode::Internal => "Internal Error",
        }
    }
}

impl Reply {
    /// The identity of a relay.
    pub fn relay_identity(hostname: &str) -> Reply {
        Reply::Identity {
            kind: "bridge",
            hostname: hostname.to_owned(),
            version: None,
            protocol: None,
        }
    }
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kind of error.
    pub code: ErrorCode,
    /// Description of the fault and the remedy.
    pub why: String,
}

impl Refusal {
    /// Creates an error reply.
    pub fn new(code: ErrorCode, why: impl Into<String>) -> Refusal {
        Refusal { code, why: why.into() }
    }

    /// Creates an error reply with 400.
    pub fn bad_request(why: impl Into<String>) -> Refusal {
        Refusal::new(ErrorCode::BadRequest, why)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.why.is_empty() {
            return f.write_str(self.code.title());
        }
        write!(f, "{}: {}", self.code.title(), self.why)
    }
}

/// Result of a request.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// The identity of the program.
    Identity {
        /// Kind of program: `server` or `bridge`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// Name of the host.
        hostname: String,
        /// Version of a server.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<&'static str>,
        /// Level of the protocol of a server.
        #[serde(skip_serializing_if = "Option::is_none")]
        protocol: Option<u32>,
    },
    /// A token, and its lifetime in seconds without use.
    Token(#[serde(serialize_with = "text_of_secret")] Zeroizing<String>, u64),
    /// A string to sign.
    Challenge {
        /// The string.
        test_string: String,
        /// A key that original clients expect.
        #[serde(skip_serializing_if = "Option::is_none")]
        new_ssl_key: Option<String>,
    },
    /// The client's identity; `null` without one.
    WhoAmI(Option<WhoAmI>),
    /// Jobs were submitted.
    Started(Started),
    /// Jobs are being killed.
    Killed {
        /// Those of the requested jobs that were active.
        killed: Killed,
    },
    /// The client is attached to a job.
    Attached(Attached),
    /// A part of a job's output.
    Log {
        /// The text.
        data: String,
        /// Its offset, in bytes of the whole text.
        offset: u64,
        /// Its end.
        next: u64,
        /// It is the last part.
        eof: bool,
    },
    /// A queue is paused, or no longer.
    Paused {
        /// The queue.
        queue: String,
        /// Whether it is paused.
        paused: bool,
    },
    /// A message was sent to test a target of notifications.
    NotificationTested {
        /// Whether the target has accepted it.
        accepted: bool,
        /// One line: the target's reply, or why it was not accepted.
        reply: String,
    },
    /// A check of the pools: `begun`, or `pending` where one was on its way.
    Check {
        /// Which of them.
        check: &'static str,
    },
    /// Names of events that are new in a subscription.
    Subscribed {
        /// The names.
        subscribe: Vec<&'static str>,
        /// Position of the subscription, if it is extended.
        #[serde(flatten)]
        position: Option<Position>,
    },
    /// Names of events that are no longer in a subscription.
    Unsubscribed {
        /// The names.
        unsubscribe: Vec<&'static str>,
    },
    /// Checksums of registered keys, one page.
    Checksums {
        /// MD5 in base64.
        md5_keys: Vec<String>,
        /// Name of the next page.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// Done, without a result.
    Done {},
    /// A list, one page, or other names with values.
    Table(Value),
    /// JSON text, made by another part of the program.
    #[serde(skip)]
    Encoded(Rc<str>),
}

/// The identity of a client.
#[derive(Clone, Debug, Serialize)]
pub struct WhoAmI {
    /// User name.
    pub user: String,
    /// User number.
    pub uid: u32,
    /// Name of the role.
    pub role: &'static str,
    /// Name of the method of authentication.
    pub proof: &'static str,
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Jobs that were submitted.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    /// Their ids.
    pub started: Vec<JobId>,
    /// The finished job whose commands run again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarted: Option<JobId>,
    /// The client is attached to the last of them.
    #[serde(flatten)]
    pub attached: Option<Attached>,
}

/// Jobs that are being killed.
#[derive(Clone, Debug, Serialize)]
pub struct Killed {
    /// Their ids.
    pub jobs: Vec<JobId>,
}

/// An attachment.
#[derive(Clone, Debug, Serialize)]
pub struct Attached {
    /// Its number.
    pub stream: u64,
    /// Offset of the first byte that is sent.
    pub offset: u64,
    /// Maximum number of bytes sent and not acknowledged.
    pub window: u64,
    /// The commands of the job.
    pub cmd_list: Vec<String>,
    /// Output comes in binary messages.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub binary: bool,
}

/// Position of a subscription.
#[derive(Clone, Debug, Serialize)]
pub struct Position {
    /// The run of the daemon.
    pub epoch: String,
    /// Number of the last event.
    pub seq: u64,
}

fn text_of_secret<S: Serializer>(
    secret: &Zeroizing<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret)
}

/// The reply to a request, as JSON text.
pub fn reply(to: &ReplyTo, result: &Result<Reply, Refusal>) -> String {
    match result {
        Ok(Reply::Encoded(text)) => frame(to, "response", |out| out.extend(text.as_bytes())),
        Ok(reply) => frame(to, "response", |out| write_json(out, reply)),
        Err(refusal) => error(to, refusal),
    }
}

/// The error reply to a request, as JSON text.
pub fn error(to: &ReplyTo, refusal: &Refusal) -> String {
    let args = json!({ "code": refusal.code.number(), "message": refusal.to_string() });
    frame(to, "error", |out| write_json(out, &args))
}

fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to memory does not fail, and no key of a map is anything but a string.
    let _ = serde_json::to_writer(out, value);
}

fn frame(to: &ReplyTo, name: &str, write_args: impl FnOnce(&mut Vec<u8>)) -> String {
    // Room for a token: a buffer that grows leaves a copy behind.
    let mut text = Vec::with_capacity(to.namespace.len() + to.id.as_json().len() + 256);
    text.extend(b"{\"namespace\":");
    write_json(&mut text, &to.namespace);
    text.extend(format!(r#","name":"{name}","id":{},"args":"#, to.id.as_json()).into_bytes());
    write_args(&mut text);
    text.push(b'}');
    String::from_utf8(text).unwrap_or_default()
}
