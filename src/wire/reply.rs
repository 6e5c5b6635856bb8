//! Replies: a response with the result, or an error with the reason.

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

/// The response to `request`, as JSON text.
pub fn response(request: &Request, args: &Value) -> String {
    frame(&request.namespace, "response", &request.id, args)
}

/// The same with arguments that are JSON text already.
pub fn response_of_text(request: &Request, args: &str) -> String {
    frame(&request.namespace, "response", &request.id, &args)
}

/// The error reply to `request`, as JSON text; without a request (it could not be parsed) the
/// namespace is `rpc` and the id empty.
pub fn error(request: Option<&Request>, refusal: &Refusal) -> String {
    let args = json!({ "code": refusal.code.number(), "message": refusal.to_string() });
    match request {
        Some(request) => frame(&request.namespace, "error", &request.id, &args),
        None => frame("rpc", "error", &Id::default(), &args),
    }
}

fn frame(namespace: &str, name: &str, id: &Id, args: &dyn fmt::Display) -> String {
    let (namespace, id) = (Value::from(namespace).to_string(), id.as_json());
    // Room for a token: a buffer that grows leaves a copy behind.
    let mut text = String::with_capacity(namespace.len() + id.len() + 256);
    // Writing to a string does not fail.
    let _ = write!(text, r#"{{"namespace":{namespace},"name":"{name}","id":{id},"args":{args}}}"#);
    text
}
