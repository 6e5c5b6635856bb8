//! Arguments of a request for the history of events.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;

use super::{one_or_more, read_priority};
use crate::helper::store::{Cursor, HistoryQuestion};
use crate::wire::{EventName, Refusal, parse_rfc3339, rfc3339};

/// Reads `since`, `until`, `priority`, `events` and `cursor`, none of which is needed.
pub(super) fn read(args: &Value, now: SystemTime) -> Result<HistoryQuestion, Refusal> {
    const KNOWN: [&str; 5] = ["since", "until", "priority", "events", "cursor"];
    let unknown = args.as_object().and_then(|args| args.keys().find(|k| !KNOWN.contains(&&***k)));
    if let Some(unknown) = unknown {
        let why = format!("history does not know {unknown:?}; it knows {}", KNOWN.join(", "));
        return Err(Refusal::bad_request(why));
    }
    let given = |key: &str| args.get(key).filter(|value| !value.is_null());
    let time = |key: &str| given(key).map(|value| read_time(key, value, now)).transpose();
    let mut kinds = Vec::new();
    for name in
        given("events").map_or(Ok(Vec::new()), |names| one_or_more(Some(names), "events"))?
    {
        let known = || EventName::ALL.map(EventName::canonical).join(", ");
        let name = EventName::parse(&name).ok_or_else(|| {
            Refusal::bad_request(format!("no event {name:?}; there are {}", known()))
        })?;
        kinds.push(name.in_event().to_owned());
        if name == EventName::Dispatcher {
            kinds.push("queue".to_owned());
        }
    }
    let cursor = given("cursor").map_or(Ok(Cursor::default()), |cursor| {
        let why = "cursor must be what \"next\" was in the page before";
        Cursor::deserialize(cursor).map_err(|_| Refusal::bad_request(why))
    })?;
    Ok(HistoryQuestion {
        cursor,
        since: time("since")?,
        until: time("until")?,
        priority: given("priority").map(read_priority).transpose()?,
        kinds,
        room: 0,
    })
}

/// A time as events have it, of a number of seconds before now or a time of RFC 3339.
fn read_time(key: &str, value: &Value, now: SystemTime) -> Result<String, Refusal> {
    let time = match value {
        Value::String(text) => parse_rfc3339(text),
        value => value.as_u64().map(|seconds| {
            now.checked_sub(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH).max(UNIX_EPOCH)
        }),
    };
    time.map(rfc3339).ok_or_else(|| {
        let why = "must be a number of seconds before now, or a time as 2026-11-23T17:50:47Z";
        Refusal::bad_request(format!("{key} {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn history_request_is_read_with_all_its_arguments() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_456_247);
        let args = json!({"since": 47, "until": "2026-11-23T17:50:47Z", "priority": 6,
                          "events": ["dispatcher", "system_state"],
                          "cursor": {"segment": 2, "offset": 3}});
        let kinds = ["dispatcher", "queue", "system_state"].map(str::to_owned).to_vec();
        assert_eq!(
            read(&args, now).unwrap(),
            HistoryQuestion {
                cursor: Cursor { segment: 2, offset: 3 },
                since: Some("2026-11-23T17:50:00Z".into()),
                until: Some("2026-11-23T17:50:47Z".into()),
                priority: Some(6),
                kinds,
                room: 0,
            }
        );
        assert_eq!(read(&Value::Null, now).unwrap(), HistoryQuestion::default());
        let long_ago = read(&json!({"since": u64::MAX}), now).unwrap().since.unwrap();
        assert_eq!(long_ago, "1970-01-01T00:00:00Z");
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
            assert!(read(&bad, now).is_err(), "{bad}");
        }
    }
}
