//! Arguments of requests about events and about the state of the daemon.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::event::EventName;
use super::super::id::JobId;
use super::super::priority::Priority;
use super::super::quoted::Quoted;
use super::super::reply::Refusal;
use super::super::time::parse_rfc3339;
use super::fields::one_or_more;
use super::{Command, Fields};

/// Position of a subscriber before it disconnected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// The run of the daemon.
    pub epoch: String,
    /// The number of the last event that it received.
    pub seq: u64,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The events; not empty.
    pub names: Vec<EventName>,
    /// The arguments were an object: replies and events have numbers.
    pub is_extended: bool,
    /// Only events of these jobs, among those of jobs.
    pub jobs: Option<BTreeSet<JobId>>,
    /// Only events of at least this priority, among those that have one.
    pub priority: Option<Priority>,
    /// Events behind this one are sent first.
    pub since: Option<Since>,
}

/// Position in the history, between two events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Number of the segment.
    pub segment: u64,
    /// Byte in it.
    pub offset: u64,
}

/// A time in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    At(SystemTime),
    /// Time before now.
    Ago(Duration),
}

/// A request for events on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Position to continue from; the beginning by default.
    pub cursor: Cursor,
    since: Option<Time>,
    until: Option<Time>,
    /// Events with at least this priority only; those without a priority are left out.
    pub priority: Option<u8>,
    /// Events of these names only; all if empty.
    pub events: Vec<EventName>,
}

impl HistoryQuery {
    /// The times of the first and of the last event, seen from `now`.
    pub fn bounds(&self, now: SystemTime) -> [Option<SystemTime>; 2] {
        [self.since, self.until].map(|time| match time? {
            Time::At(time) => Some(time),
            Time::Ago(time) => Some(now.checked_sub(time).unwrap_or(UNIX_EPOCH).max(UNIX_EPOCH)),
        })
    }
}

pub(super) fn status(args: &mut Value) -> Result<Command, Refusal> {
    Ok(Command::Status { after: args.get("after").and_then(Value::as_u64).unwrap_or(0) })
}

pub(super) fn subscribe(args: &mut Value) -> Result<Command, Refusal> {
    let (names, fields) = (read_names(args)?, Fields::of(args));
    fields.only("subscribe", &["events", "since", "jobs", "priority"])?;
    let read_jobs = |jobs| {
        let ids = one_or_more(Some(jobs), "jobs")?;
        ids.iter().map(|id| JobId::parse("job", id)).collect::<Result<_, _>>()
    };
    Ok(Command::Subscribe(Subscription {
        names,
        is_extended: args.is_object(),
        jobs: fields.get("jobs").map(read_jobs).transpose()?,
        priority: fields.get("priority").map(read_priority).transpose()?.map(Priority::new),
        since: fields.get("since").map(read_since).transpose()?,
    }))
}

pub(super) fn unsubscribe(args: &mut Value) -> Result<Command, Refusal> {
    Ok(Command::Unsubscribe(read_names(args)?))
}

/// Reads `since`, `until`, `priority`, `events` and `cursor`, none of which is needed.
pub(super) fn history(args: &mut Value) -> Result<Command, Refusal> {
    let fields = Fields::of(args);
    fields.only("history", &["since", "until", "priority", "events", "cursor"])?;
    let time = |key| fields.get(key).map(|value| read_time(key, value)).transpose();
    let names = fields.get("events").map(|names| one_or_more(Some(names), "events")).transpose()?;
    let cursor = fields.get("cursor").map(|cursor| {
        let why = "cursor must be what \"next\" was in the page before";
        Cursor::deserialize(cursor).map_err(|_| Refusal::bad_request(why))
    });
    Ok(Command::History(HistoryQuery {
        cursor: cursor.transpose()?.unwrap_or_default(),
        since: time("since")?,
        until: time("until")?,
        priority: fields.get("priority").map(read_priority).transpose()?,
        events: parse_names(&names.unwrap_or_default())?,
    }))
}

/// Maximum number of names in a request about events, which may be repeated.
const MOST_NAMES: usize = 64;

fn known_names() -> String {
    EventName::ALL.map(EventName::canonical).join(", ")
}

fn parse_names(names: &[String]) -> Result<Vec<EventName>, Refusal> {
    if names.len() > MOST_NAMES {
        return Err(Refusal::bad_request(format!("more than {MOST_NAMES} names of events")));
    }
    let parse = |name: &String| {
        EventName::parse(name).ok_or_else(|| {
            Refusal::bad_request(format!("no event {}; there are {}", Quoted(name), known_names()))
        })
    };
    names.iter().map(parse).collect()
}

/// Names of events: the arguments themselves, or their field `events`.
fn read_names(args: &Value) -> Result<Vec<EventName>, Refusal> {
    let list = if args.is_object() { args.get("events") } else { Some(args) };
    let names = one_or_more(list, "events")
        .map_err(|_| Refusal::bad_request(format!("args must name events: {}", known_names())))?;
    parse_names(&names)
}

fn read_priority(number: &Value) -> Result<u8, Refusal> {
    let number = number.as_u64().and_then(|number| u8::try_from(number).ok());
    let number = number.filter(|number| *number <= Priority::MAX.number());
    number.ok_or_else(|| Refusal::bad_request("priority must be a number from 0 to 10"))
}

fn read_since(since: &Value) -> Result<Since, Refusal> {
    let epoch = since.get("epoch").and_then(Value::as_str);
    let (Some(epoch), Some(seq)) = (epoch, since.get("seq").and_then(Value::as_u64)) else {
        return Err(Refusal::bad_request("since must be {\"epoch\": \"…\", \"seq\": number}"));
    };
    Ok(Since { epoch: epoch.to_owned(), seq })
}

/// A number of seconds before now, or a time of RFC 3339.
fn read_time(key: &str, value: &Value) -> Result<Time, Refusal> {
    let time = match value {
        Value::String(text) => parse_rfc3339(text).map(Time::At),
        value => value.as_u64().map(|seconds| Time::Ago(Duration::from_secs(seconds))),
    };
    time.ok_or_else(|| {
        let why = "must be a number of seconds before now, or a time as 2026-11-23T17:50:47Z";
        Refusal::bad_request(format!("{key} {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(mut args: Value) -> Result<HistoryQuery, Refusal> {
        match history(&mut args)? {
            Command::History(query) => Ok(query),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn history_request_is_read_with_all_its_arguments() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_456_247);
        let args = json!({"since": 47, "until": "2026-11-23T17:50:47Z", "priority": 6,
                          "events": ["dispatcher", "system_state"],
                          "cursor": {"segment": 2, "offset": 3}});
        let query = read(args).unwrap();
        assert_eq!(query.bounds(now), [Some(now - Duration::from_secs(47)), Some(now)]);
        assert_eq!(query.cursor, Cursor { segment: 2, offset: 3 });
        assert_eq!(query.priority, Some(6));
        assert_eq!(query.events, [EventName::Dispatcher, EventName::SystemState]);
        assert_eq!(read(Value::Null).unwrap(), HistoryQuery::default());
        let long_ago = read(json!({"since": u64::MAX})).unwrap();
        assert_eq!(long_ago.bounds(now), [Some(UNIX_EPOCH), None]);
        for bad in [
            json!({"sinse": 1}),
            json!({"since": -1}),
            json!({"since": "yesterday"}),
            json!({"until": 1.5}),
            json!({"priority": 11}),
            json!({"events": ["bogus"]}),
            json!({"events": []}),
            json!({"cursor": 7}),
            json!({"cursor": {"segment": -1, "offset": 0}}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
