//! Messages of a daemon: replies, events, and others.

use std::borrow::Cow;

use memchr::memchr;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tungstenite::Bytes;

use super::error::{ClientError, Refused};
use crate::wire::{JsonFields, decimal};

/// An event as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    text: String,
    payload: Option<Bytes>,
}

impl Frame {
    /// The event of a binary message: a line of JSON, and behind it bytes. `None` where it is none.
    pub(super) fn of_binary(message: &Bytes) -> Option<Frame> {
        let end = memchr(b'\n', message)?;
        let text = std::str::from_utf8(message.get(..end)?).ok()?;
        let is_object = text.starts_with('{') && text.ends_with('}');
        is_object.then(|| Frame { text: text.to_owned(), payload: Some(message.slice(end + 1..)) })
    }

    /// The event of a text message: one line of JSON.
    pub(crate) fn of_text(text: String) -> Frame {
        Frame { text, payload: None }
    }

    /// The bytes of a binary message, whose JSON is the `args` of an event.
    pub fn payload(&self) -> Option<&Bytes> {
        self.payload.as_ref()
    }

    /// The frame's JSON, on one line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The frame as a value.
    pub fn value(&self) -> Result<Value, ClientError> {
        serde_json::from_str(&self.text).map_err(|error| not_json(&error))
    }
}

/// The reply to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The request's id; empty for one that the daemon could not parse.
    pub id: String,
    /// The result, or the error.
    pub outcome: Result<Value, Refused>,
}

/// A message of the daemon.
#[derive(Debug)]
pub(super) enum Message {
    Event(Frame),
    Reply(Reply),
    /// The daemon closes the tunnel through a relay with a reason, like a close frame.
    Close {
        /// RFC 6455 section 7.4.
        code: u16,
        /// For people.
        reason: String,
    },
    /// A request, or an unknown message of a newer daemon.
    Other,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(default)]
    id: Value,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
}

impl Message {
    /// Parses a text message.
    pub(super) fn parse(text: String) -> Result<Message, ClientError> {
        // Output of jobs comes in bulk, and is parsed by its reader.
        if text.starts_with(r#"{"namespace":"events","name":"output","#) && !text.contains('\n') {
            return Ok(Message::Event(Frame::of_text(text)));
        }
        let envelope: Envelope<'_> =
            serde_json::from_str(&text).map_err(|error| not_json(&error))?;
        let args = || match envelope.args {
            Some(args) => serde_json::from_str(args.get()).map_err(|error| not_json(&error)),
            None => Ok(Value::Null),
        };
        let id = || match &envelope.id {
            Value::String(id) => id.clone(),
            other => other.to_string(),
        };
        Ok(match &*envelope.name {
            "response" => Message::Reply(Reply { id: id(), outcome: Ok(args()?) }),
            "error" => Message::Reply(Reply { id: id(), outcome: Err(refused(&args()?)) }),
            "close" if envelope.namespace.eq_ignore_ascii_case("rpc") => {
                let args = args()?;
                let code = args.field("code").as_u64().and_then(|code| u16::try_from(code).ok());
                let reason = args.field("reason").as_str().unwrap_or_default().to_owned();
                Message::Close { code: code.unwrap_or(1005), reason }
            }
            _ if envelope.namespace.eq_ignore_ascii_case("events") => {
                drop(envelope);
                Message::Event(Frame::of_text(on_one_line(text)?))
            }
            _ => Message::Other,
        })
    }
}

/// A frame is printed on one line, however the daemon formatted it.
fn on_one_line(text: String) -> Result<String, ClientError> {
    // A search for one character at a time is a memchr; a set of characters is slower.
    if !text.contains('\n') && !text.contains('\r') {
        return Ok(text);
    }
    let value: Value = serde_json::from_str(&text).map_err(|error| not_json(&error))?;
    Ok(value.to_string())
}

/// The original server sends a string, this one a code and a message.
fn refused(args: &Value) -> Refused {
    let code = &args["code"];
    let code = code.as_i64().or_else(|| code.as_str().and_then(decimal));
    let message = match (args, args["message"].as_str()) {
        (_, Some(message)) => message.to_owned(),
        (Value::String(message), None) => message.clone(),
        (other, None) => other.to_string(),
    };
    Refused { code, message }
}

fn not_json(error: &serde_json::Error) -> ClientError {
    ClientError::Protocol(format!("it sent a message that is not the JSON it should be ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Message {
        Message::parse(value.to_string()).unwrap()
    }

    #[test]
    fn replies_carry_their_id_and_outcome() {
        let reply = |value| match parse(&value) {
            Message::Reply(reply) => reply,
            other => panic!("{other:?}"),
        };
        let good =
            reply(json!({"namespace": "rpc", "name": "response", "id": "7", "args": {"a": 1}}));
        assert_eq!(good, Reply { id: "7".into(), outcome: Ok(json!({"a": 1})) });
        let args = json!({"code": 401, "message": "Unauthorized: no"});
        let bad = reply(json!({"name": "error", "id": 7, "args": args}));
        let refused = Refused { code: Some(401), message: "Unauthorized: no".into() };
        assert_eq!(bad, Reply { id: "7".into(), outcome: Err(refused) });
    }

    #[test]
    fn error_of_the_original_server_is_passed_on() {
        let args = [json!("no"), json!({"code": "401", "message": "Unauthorized"}), json!([1])];
        let parsed = args.map(|args| refused(&args));
        assert_eq!(parsed[0], Refused { code: None, message: "no".into() });
        assert_eq!(parsed[1], Refused { code: Some(401), message: "Unauthorized".into() });
        assert_eq!(parsed[2], Refused { code: None, message: "[1]".into() });
    }

    #[test]
    fn event_is_unchanged_except_for_line_breaks() {
        let text =
            r#"{ "namespace":"events", "name":"dispatcher","id":"none","args":{"b":1,"a":2} }"#;
        let Message::Event(frame) = Message::parse(text.to_owned()).unwrap() else { panic!() };
        assert_eq!(frame.text(), text);
        let text = "{\"namespace\":\"events\",\n\"name\":\"x\",\"args\":{\"b\":1,\"a\":2}}";
        let Message::Event(frame) = Message::parse(text.to_owned()).unwrap() else { panic!() };
        assert_eq!(frame.text(), r#"{"namespace":"events","name":"x","args":{"b":1,"a":2}}"#);
    }

    #[test]
    fn other_messages_are_skipped_and_invalid_json_is_an_error() {
        let request = json!({"namespace": "rpc", "name": "identify", "id": "x", "args": ""});
        assert!(matches!(parse(&request), Message::Other));
        assert!(Message::parse("{".to_owned()).is_err());
        assert!(Message::parse("[]".to_owned()).is_err());
    }
}
