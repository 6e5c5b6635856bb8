//! Requests: one JSON object per frame.
//!
//! The `id` is chosen by the client and returned byte for byte: a number too large for any integer
//! type, or an escape in a string, must not be changed. So it is stored as JSON text.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroize;

use super::command::{self, Command};
use super::json::count_values;
use super::reply::Refusal;
use super::role::Need;

/// Maximum number of values in the arguments of one request: no request needs more, and each takes
/// time of the loop.
const MAX_VALUES: usize = 8192;
/// Maximum number of fields in all objects of them, which take several times as long.
const MAX_FIELDS: usize = 2048;

/// Maximum size of a namespace or a name in JSON, in bytes. None is longer, and replies repeat them.
const MAX_NAME: usize = 256;

/// The `id` of a request: JSON text of a string or a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

impl Default for Id {
    /// The id of a request without one: the empty string.
    fn default() -> Id {
        Id(r#""""#.to_owned())
    }
}

/// Parts of a request that its reply repeats. By default those of a reply to a frame that cannot be
/// parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// As the client wrote it.
    pub namespace: String,
    /// Returned byte for byte.
    pub id: Id,
}

impl Default for ReplyTo {
    fn default() -> ReplyTo {
        ReplyTo { namespace: "rpc".to_owned(), id: Id::default() }
    }
}

/// A parsed request.
#[derive(Clone, Debug)]
pub struct Request {
    /// For its reply.
    pub reply_to: ReplyTo,
    /// Its requirement; `None` where there is no such request.
    pub need: Option<Need>,
    /// The request, or the fault in its arguments: to be reported to clients that meet the
    /// requirement.
    pub command: Result<Command, Refusal>,
}

/// Kind of a frame.
#[derive(Debug)]
pub enum Frame {
    /// A request, to be replied to.
    Request(Request),
    /// A `response` or `error`: never replied to, or two daemons would reply to each other for
    /// ever.
    Answer,
}

/// The envelope; each part is parsed separately, so that an error can name it and still carry the
/// right id.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    namespace: Option<&'a RawValue>,
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

/// An invalid frame.
#[derive(Debug)]
pub struct BadFrame {
    /// To be replied with.
    pub refusal: Refusal,
    /// Namespace and id of the reply, as far as they could be parsed.
    pub reply_to: ReplyTo,
}

impl Request {
    /// Parses a frame.
    pub fn parse(text: &str) -> Result<Frame, BadFrame> {
        let bad = |why: String| BadFrame {
            refusal: Refusal::bad_request(why),
            reply_to: ReplyTo::default(),
        };
        if text.trim_ascii_start().as_bytes().first() != Some(&b'{') {
            return Err(bad("a frame is one JSON object, beginning with '{'".to_owned()));
        }
        let envelope: Envelope<'_> =
            serde_json::from_str(text).map_err(|error| bad(format!("not JSON: {error}")))?;

        let mut reply_to = ReplyTo::default();
        let mut fill = || -> Result<Option<(String, Value)>, String> {
            let name = text_of(envelope.name, "name")?;
            if ["response", "error"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
                return Ok(None);
            }
            if let Some(id) = envelope.id.filter(|id| id.get() != "null") {
                reply_to.id = read_id(id.get())?;
            }
            reply_to.namespace = text_of(envelope.namespace, "namespace")?;
            let Some(args) = envelope.args else { return Ok(Some((name, Value::Null))) };
            let (values, fields) = count_values(args.get());
            if values > MAX_VALUES || fields > MAX_FIELDS {
                return Err(format!(
                    "args have more than {MAX_VALUES} values, or {MAX_FIELDS} fields"
                ));
            }
            let args = serde_json::from_str(args.get());
            Ok(Some((name, args.map_err(|error| format!("args cannot be read: {error}"))?)))
        };
        match fill() {
            Ok(None) => Ok(Frame::Answer),
            Ok(Some((name, mut args))) => {
                let (need, command) = command::parse(&reply_to.namespace, &name, &mut args);
                if need == Some(Need::Nothing) {
                    // One of its texts may be a secret.
                    wipe(&mut args);
                }
                Ok(Frame::Request(Request { reply_to, need, command }))
            }
            Err(why) => {
                // The id may stand after the invalid part.
                if let Some(Ok(id)) = envelope.id.map(|id| read_id(id.get())) {
                    reply_to.id = id;
                }
                Err(BadFrame { refusal: Refusal::bad_request(why), reply_to })
            }
        }
    }
}

/// Overwrites the texts in a value.
fn wipe(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Array(list) => list.iter_mut().for_each(wipe),
        Value::String(text) => text.zeroize(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn text_of(value: Option<&RawValue>, key: &str) -> Result<String, String> {
    let Some(value) = value else { return Err(format!("{key} is missing")) };
    if value.get().len() > MAX_NAME {
        return Err(format!("{key} has more than {MAX_NAME} bytes"));
    }
    serde_json::from_str(value.get()).map_err(|_| format!("{key} must be a string"))
}

fn read_id(text: &str) -> Result<Id, String> {
    match text.as_bytes().first() {
        Some(b'"' | b'-' | b'0'..=b'9') => Ok(Id(text.to_owned())),
        Some(_) | None => Err("id must be a string or a number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        match Request::parse(text) {
            Ok(Frame::Request(request)) => request,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refusal(text: &str) -> BadFrame {
        match Request::parse(text) {
            Err(bad) => bad,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn order_is_free_and_unknown_keys_are_ignored() {
        let text = r#" {"x":[1],"args":{"after":7},"id":"i","name":"Status","namespace":"Rpc"} "#;
        assert!(matches!(request(text).command, Ok(Command::Status { after: 7 })));
    }

    #[test]
    fn id_is_returned_byte_for_byte() {
        for id in [r#""a\u00e9\/""#, "5", "-1.50", "123456789012345678901234567890", r#""""#] {
            let r = request(&format!(r#"{{"namespace":"rpc","name":"x","id":{id}}}"#));
            assert_eq!(r.reply_to.id.as_json(), id);
        }
        for text in
            [r#"{"namespace":"rpc","name":"x"}"#, r#"{"namespace":"rpc","name":"x","id":null}"#]
        {
            assert_eq!(request(text).reply_to.id.as_json(), r#""""#);
        }
    }

    #[test]
    fn frame_without_object_is_rejected_without_an_id() {
        for text in ["", "[]", "null", "\"str\"", "not json", "{", "{]", r#"{"a":1}{"b":2}"#] {
            let bad = refusal(text);
            assert_eq!(bad.refusal.code.number(), 400, "{text}");
            assert_eq!(bad.reply_to, ReplyTo::default(), "{text}");
        }
    }

    #[test]
    fn request_lacking_a_part_is_rejected_with_its_id() {
        for (text, word) in [
            (r#"{"id":"x"}"#, "name"),
            (r#"{"name":"a","id":"x"}"#, "namespace"),
            (r#"{"namespace":5,"name":"a","id":"x"}"#, "namespace"),
            (r#"{"namespace":"rpc","name":[],"id":"x"}"#, "name"),
            (r#"{"namespace":"rpc","name":"a","args":"\ud800","id":"x"}"#, "args"),
        ] {
            let bad = refusal(text);
            assert!(bad.refusal.why.contains(word), "{text}: {}", bad.refusal.why);
            assert_eq!(bad.reply_to.id.as_json(), r#""x""#, "{text}");
        }
        assert!(refusal(r#"{"namespace":"rpc","name":"a","id":{}}"#).refusal.why.contains("id"));
    }

    #[test]
    fn args_with_too_many_values_are_refused_with_their_id() {
        let text = |values: usize| {
            let list = vec!["1"; values].join(",");
            format!(r#"{{"namespace":"rpc","name":"a","args":[{list}],"id":"x"}}"#)
        };
        assert_eq!(request(&text(MAX_VALUES)).need, None);
        let bad = refusal(&text(MAX_VALUES + 1));
        assert!(bad.refusal.why.contains("8192 values"), "{}", bad.refusal.why);
        assert_eq!(bad.reply_to.id.as_json(), r#""x""#);
        let fields = |count: usize| {
            let fields: Vec<String> = (0..count).map(|number| format!(r#""{number}":1"#)).collect();
            format!(r#"{{"namespace":"rpc","name":"a","args":{{{}}}}}"#, fields.join(","))
        };
        request(&fields(MAX_FIELDS));
        assert!(refusal(&fields(MAX_FIELDS + 1)).refusal.why.contains("2048 fields"));
    }

    #[test]
    fn long_name_is_refused_and_not_repeated() {
        let long = "x".repeat(MAX_NAME);
        for (namespace, name) in [(long.as_str(), "a"), ("rpc", long.as_str())] {
            let text = format!(r#"{{"namespace":"{namespace}","name":"{name}","id":"x"}}"#);
            let bad = refusal(&text);
            assert!(bad.refusal.why.contains("256 bytes"), "{}", bad.refusal.why);
            assert_eq!(bad.reply_to.namespace, "rpc");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = format!(r#"{{"namespace":"rpc","name":"a","args":{}}}"#, "[".repeat(100_000));
        assert_eq!(refusal(&deep).refusal.code.number(), 400);
        let closed = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        let deep = format!(r#"{{"namespace":"rpc","name":"a","args":{closed}}}"#);
        assert_eq!(refusal(&deep).refusal.code.number(), 400);
    }

    #[test]
    fn a_response_and_an_error_are_never_requests() {
        for name in ["response", "error", "Response", "ERROR"] {
            let text =
                format!(r#"{{"namespace":"rpc","name":"{name}","id":{{}},"args":"\ud800"}}"#);
            assert!(matches!(Request::parse(&text), Ok(Frame::Answer)), "{text}");
        }
    }
}
