//! Arguments of `rpc/alerts`, and of `emit`.

use std::time::Duration;

use serde_json::Value;

use super::super::priority::Priority;
use super::super::reply::{ErrorCode, Refusal};
use super::{Command, Fields};
use crate::glob::check_key;

/// A request about alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertCommand {
    /// List alerts: one page.
    List {
        /// The last key of the page before; `None` for the first page.
        page: Option<String>,
        /// Those cleared in the last day too.
        all: bool,
    },
    /// Acknowledge active alerts.
    Acknowledge {
        /// A key or a pattern.
        key: String,
        /// Text of the acknowledgement.
        note: Option<String>,
        /// Its duration; without one it lasts until the alert is cleared.
        lasts: Option<Duration>,
    },
    /// Withdraw acknowledgements.
    Unacknowledge {
        /// A key or a pattern.
        key: String,
    },
}

/// A message of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emission {
    /// One line.
    pub message: String,
    /// The alert that it raises or clears; a notice without one.
    pub key: Option<String>,
    /// Success: the alert is cleared.
    pub is_ok: bool,
    /// Priority of the alert or notice.
    pub priority: Priority,
    /// Class of a notice.
    pub class: Option<String>,
}

/// Maximum length of a message, in bytes.
pub const EMITTED: usize = 512;
/// Maximum length of a class and of a note, in bytes.
const SHORT: usize = 256;
/// Default priority of an alert and of a notice.
const PRIORITIES: (u8, u8) = (5, 1);
/// The longest acknowledgement: a year.
const LONGEST: u64 = 365 * 24 * 3600;

pub(super) fn list(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    fields.only("list", &["action", "page", "all"])?;
    let all = fields.flag("all")?.unwrap_or(false);
    Ok(Command::Alert(AlertCommand::List { page: fields.page()?, all }))
}

pub(super) fn acknowledge(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    fields.only("acknowledge", &["action", "key", "note", "for"])?;
    let note = fields.text("note")?.map(|note| line("note", note, SHORT)).transpose()?;
    let lasts = match fields.get("for").map(Value::as_u64) {
        None => None,
        Some(Some(seconds @ 1..=LONGEST)) => Some(Duration::from_secs(seconds)),
        Some(_) => {
            let why = format!("for must be a number of seconds from 1 to {LONGEST}");
            return Err(Refusal::bad_request(why));
        }
    };
    let key = required(fields, "acknowledge")?;
    Ok(Command::Alert(AlertCommand::Acknowledge { key, note, lasts }))
}

pub(super) fn unacknowledge(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    fields.only("unacknowledge", &["action", "key"])?;
    let key = required(fields, "unacknowledge")?;
    Ok(Command::Alert(AlertCommand::Unacknowledge { key }))
}

fn required(fields: Fields<'_>, what: &str) -> Result<String, Refusal> {
    let key = fields.text("key")?;
    let key =
        key.ok_or_else(|| Refusal::bad_request(format!("{what} needs a key or a pattern")))?;
    Ok(key.to_owned())
}

pub(super) fn emit(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    fields.only("emit", &["action", "message", "key", "ok", "priority", "class"])?;
    let message = fields.text("message")?.unwrap_or_default();
    let message = line("message", message, EMITTED)?;
    let is_ok = fields.flag("ok")?.unwrap_or(false);
    let key = fields.text("key")?;
    if let Some(key) = key {
        check_key(key).map_err(|why| Refusal::bad_request(format!("key {why}")))?;
    } else if is_ok {
        return Err(Refusal::bad_request("ok needs a key: it clears the alert of that key"));
    }
    if message.is_empty() && !is_ok {
        return Err(Refusal::bad_request("emit needs a message"));
    }
    let priority = match fields.get("priority").map(Value::as_u64) {
        None if key.is_some() => PRIORITIES.0,
        None => PRIORITIES.1,
        Some(Some(number @ 0..=10)) => number as u8,
        Some(_) => return Err(Refusal::bad_request("priority must be a number from 0 to 10")),
    };
    let class = fields.text("class")?.map(|class| line("class", class, SHORT)).transpose()?;
    Ok(Command::Emit(Emission {
        message,
        key: key.map(str::to_owned),
        is_ok,
        priority: Priority::new(priority),
        class,
    }))
}

/// A text without control characters, of at most `longest` bytes.
fn line(what: &str, text: &str, longest: usize) -> Result<String, Refusal> {
    if text.len() > longest {
        let why = format!("{what} has {} bytes: at most {longest} are possible", text.len());
        return Err(Refusal::new(ErrorCode::TooLarge, why));
    }
    if let Some((at, c)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(Refusal::bad_request(format!(
            "{what} has the control character {c:?} at byte {at}"
        )));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn why(result: Result<Command, Refusal>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn emit_has_a_message_and_perhaps_a_key() {
        let emitted = |mut args: Value| match emit(&mut args) {
            Ok(Command::Emit(emission)) => emission,
            other => panic!("{other:?}"),
        };
        let notice = emitted(json!({"message": "done", "class": "backup"}));
        assert_eq!((notice.key, notice.priority.number()), (None, 1));
        let alert = emitted(json!({"message": "late", "key": "off/site", "priority": 9}));
        assert_eq!((alert.key.as_deref(), alert.priority.number()), (Some("off/site"), 9));
        let ok = emitted(json!({"key": "off/site", "ok": true}));
        assert!(ok.is_ok && ok.message.is_empty());
    }

    #[test]
    fn faulty_emission_is_refused_with_its_place() {
        for (args, expected) in [
            (json!({}), "emit needs a message"),
            (json!({"message": "a\nb"}), "message has the control character '\\n' at byte 1"),
            (
                json!({"message": "x".repeat(513)}),
                "message has 513 bytes: at most 512 are possible",
            ),
            (json!({"message": "a", "key": "a b"}), "key has ' ' at byte 1"),
            (json!({"message": "a", "key": ""}), "key is empty"),
            (json!({"ok": true}), "ok needs a key"),
            (json!({"message": "a", "priority": 11}), "priority must be a number from 0 to 10"),
            (json!({"message": 7}), "message must be a string"),
            (json!({"message": "a", "clas": "b"}), "emit does not know \"clas\""),
        ] {
            let why = why(emit(&mut args.clone()));
            assert!(why.contains(expected), "{args}: {why}");
        }
    }

    #[test]
    fn acknowledgement_has_a_key_and_a_bounded_time() {
        assert!(acknowledge(&mut json!({"key": "pool/**", "for": 3600, "note": "a"})).is_ok());
        for wrong in [json!({}), json!({"key": "a", "for": 0}), json!({"key": "a", "for": "1h"})] {
            assert!(acknowledge(&mut wrong.clone()).is_err(), "{wrong}");
        }
        assert!(why(unacknowledge(&mut json!({"key": 7}))).contains("key must be a string"));
        assert!(list(&mut json!({"action": "list", "all": true})).is_ok());
    }
}
