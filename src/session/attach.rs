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
    /// Output may come in binary messages.
    pub binary: bool,
}

impl Attach {
    /// Parses `attach`: the job's id, and the options.
    pub fn read(fields: &Map<String, Value>) -> Result<(&str, Attach), Refusal> {
        const KNOWN: [&str; 7] =
            ["job_id", "offset", "window", "hold", "follow", "output", "binary"];
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
            binary: flag(fields, "binary")?.unwrap_or(false),
        };
        Ok((id, attach))
    }

    /// Parses the `attach` of a submission: `true`, or an object with `window` and `binary`.
    pub fn of_submission(fields: &Map<String, Value>) -> Result<Option<Attach>, Refusal> {
        let is_known = |key: &String| ["window", "binary"].contains(&key.as_str());
        let (window, binary) = match fields.get("attach") {
            None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
            Some(Value::Bool(true)) => (None, false),
            Some(Value::Object(options)) if options.keys().all(is_known) => {
                (number(options, "window")?, flag(options, "binary")?.unwrap_or(false))
            }
            Some(_) => {
                let why = "attach must be true, or an object with \"window\" and \"binary\"";
                return Err(Refusal::bad_request(why));
            }
        };
        Ok(Some(Attach { offset: 0, window, hold: true, follow: true, output: true, binary }))
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
