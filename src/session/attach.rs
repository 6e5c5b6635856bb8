//! Arguments of requests that attach a client to a job.

use serde_json::{Map, Value};

use crate::wire::Refusal;

/// Options of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Offset of the first byte to send.
    pub offset: u64,
    /// Maximum number of bytes sent and not acknowledged.
    pub window: Option<u64>,
    /// The job's output is throttled to the client's acknowledgements.
    pub hold: bool,
    /// Later output is sent too.
    pub follow: bool,
    /// Output is sent; otherwise only the end.
    pub output: bool,
}

impl Attach {
    /// Parses `attach`: the job's id, and the options.
    pub fn read(fields: &Map<String, Value>) -> Result<(&str, Attach), Refusal> {
        const KNOWN: [&str; 6] = ["job_id", "offset", "window", "hold", "follow", "output"];
        let is_known = |key: &str| key == "action" || KNOWN.contains(&key);
        if let Some(unknown) = fields.keys().find(|key| !is_known(key)) {
            let why = format!("attach does not know {unknown:?}; it knows {}", KNOWN.join(", "));
            return Err(Refusal::bad_request(why));
        }
        let Some(id) = fields.get("job_id").and_then(Value::as_str) else {
            return Err(Refusal::bad_request("attach needs a job_id"));
        };
        let attach = Attach {
            offset: number(fields, "offset")?.unwrap_or(0),
            window: number(fields, "window")?,
            hold: flag(fields, "hold")?.unwrap_or(true),
            follow: flag(fields, "follow")?.unwrap_or(true),
            output: flag(fields, "output")?.unwrap_or(true),
        };
        Ok((id, attach))
    }

    /// Parses the `attach` of a submission: `true`, or an object with a `window`.
    pub fn of_submission(fields: &Map<String, Value>) -> Result<Option<Attach>, Refusal> {
        let window = match fields.get("attach") {
            None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
            Some(Value::Bool(true)) => None,
            Some(Value::Object(options)) if options.keys().all(|key| key == "window") => {
                number(options, "window")?
            }
            Some(_) => {
                let why = "attach must be true, or {\"window\": number of bytes}";
                return Err(Refusal::bad_request(why));
            }
        };
        Ok(Some(Attach { offset: 0, window, hold: true, follow: true, output: true }))
    }
}

/// A number of bytes, or the number of an attachment.
pub(super) fn number(fields: &Map<String, Value>, key: &str) -> Result<Option<u64>, Refusal> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| Refusal::bad_request(format!("{key} must be a number of bytes"))),
    }
}

/// The same, required.
pub(super) fn required(fields: &Map<String, Value>, key: &str) -> Result<u64, Refusal> {
    number(fields, key)?.ok_or_else(|| Refusal::bad_request(format!("{key} must be a number")))
}

fn flag(fields: &Map<String, Value>, key: &str) -> Result<Option<bool>, Refusal> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(Refusal::bad_request(format!("{key} must be true or false"))),
    }
}
