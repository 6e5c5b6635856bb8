//! Answers: a response with what was asked for, or an error that says what is wrong.

use std::fmt::{self, Write};

use serde_json::{Value, json};

use super::request::{Id, Request};

/// The number in an error (protocol section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404: no such namespace or name.
    NotFound,
    /// 409: a job of that id is active.
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

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of wrong.
    pub code: ErrorCode,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: ErrorCode, why: impl Into<String>) -> Refusal {
        Refusal { code, why: why.into() }
    }

    /// 400 with its reason.
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

/// The answer to `request`, as JSON text.
pub fn response(request: &Request, args: &Value) -> String {
    frame(&request.namespace, "response", &request.id, args)
}

/// The same where the arguments are JSON text already.
pub fn response_of_text(request: &Request, args: &str) -> String {
    frame(&request.namespace, "response", &request.id, &args)
}

/// The refusal of `request`, as JSON text; without a request (it could not be read) the namespace
/// is `rpc` and the id empty.
pub fn error(request: Option<&Request>, refusal: &Refusal) -> String {
    let args = json!({ "code": refusal.code.number(), "message": refusal.to_string() });
    match request {
        Some(request) => frame(&request.namespace, "error", &request.id, &args),
        None => frame("rpc", "error", &Id::default(), &args),
    }
}

fn frame(namespace: &str, name: &str, id: &Id, args: &dyn fmt::Display) -> String {
    let (namespace, id) = (Value::from(namespace).to_string(), id.as_json());
    // Room for a token: a text that grows leaves a copy behind.
    let mut text = String::with_capacity(namespace.len() + id.len() + 256);
    // Nothing fails that is written to a text.
    let _ = write!(text, r#"{{"namespace":{namespace},"name":"{name}","id":{id},"args":{args}}}"#);
    text
}
