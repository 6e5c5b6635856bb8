//! Arguments of a request by name.

use serde_json::{Map, Value};

use super::super::id::JobId;
use super::super::quoted::Quoted;
use super::super::reply::Refusal;

/// The fields of the object that a request has as arguments; none without one. A field of null is
/// one that is missing.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(Option<&'a Map<String, Value>>);

impl<'a> Fields<'a> {
    pub(super) fn of(args: &'a Value) -> Fields<'a> {
        Fields(args.as_object())
    }

    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0?.get(key).filter(|value| !value.is_null())
    }

    /// Whether there is a field of that name, be it null.
    pub(super) fn has(self, key: &str) -> bool {
        self.0.is_some_and(|fields| fields.contains_key(key))
    }

    pub(super) fn iter(self) -> impl Iterator<Item = (&'a str, &'a Value)> + Clone {
        self.0.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    /// Rejects any field but these; `what` names the request.
    pub(super) fn only(self, what: &str, known: &[&str]) -> Result<(), Refusal> {
        let Some((unknown, _)) = self.iter().find(|(key, _)| !known.contains(key)) else {
            return Ok(());
        };
        let known: Vec<&str> = known.iter().copied().filter(|key| *key != "action").collect();
        let known = known.join(", ");
        Err(Refusal::bad_request(format!(
            "{what} does not know {}; it knows {known}",
            Quoted(unknown)
        )))
    }

    pub(super) fn text(self, key: &str) -> Result<Option<&'a str>, Refusal> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn flag(self, key: &str) -> Result<Option<bool>, Refusal> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A number of bytes.
    pub(super) fn bytes(self, key: &str) -> Result<Option<u64>, Refusal> {
        self.typed(key, "a number of bytes", Value::as_u64)
    }

    /// A number that is required.
    pub(super) fn number(self, key: &str) -> Result<u64, Refusal> {
        self.bytes(key)?.ok_or_else(|| Refusal::bad_request(format!("{key} must be a number")))
    }

    /// The page of a list, as named by the page before; `None` for the first.
    pub(super) fn page(self) -> Result<Option<String>, Refusal> {
        let page = self.typed("page", "a string: what \"next\" was", Value::as_str)?;
        Ok(page.map(str::to_owned))
    }

    /// The job that a request is about.
    pub(super) fn job(self, what: &str) -> Result<JobId, Refusal> {
        let id = self.get("job_id").and_then(Value::as_str);
        let id = id.ok_or_else(|| Refusal::bad_request(format!("{what} needs a job_id")))?;
        Ok(JobId::from(id.to_owned()))
    }

    fn typed<T>(
        self,
        key: &str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let refuse = || Refusal::bad_request(format!("{key} must be {what}"));
        self.get(key).map(|value| read(value).ok_or_else(refuse)).transpose()
    }
}

/// A string, or a non-empty list of strings; `what` names it.
pub(super) fn one_or_more(value: Option<&Value>, what: &str) -> Result<Vec<String>, Refusal> {
    let refuse = || Refusal::bad_request(format!("{what} must be a string or a list of strings"));
    let list = match value {
        Some(Value::String(one)) if !one.is_empty() => return Ok(vec![one.clone()]),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(_) | None => return Err(refuse()),
    };
    list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(refuse)).collect()
}
