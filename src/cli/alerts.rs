//! `alerts`, `ack` and `unack`: alerts and their acknowledgements.

use std::io::{self, IsTerminal};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::exit::Exit;
use super::table::table;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use super::{Command, escape, span, write, write_json};
use crate::client::Client;
use crate::wire::{JsonFields, parse_rfc3339};

pub(super) const COMMAND: Command = Command {
    name: "alerts",
    summary: "list alerts",
    help: concat!(
        "\
Lists active alerts, the most urgent first: priority, state, age, number of
raises in the last 24 hours, key and message. See sysadm-events-alerts(7).

Usage: sysadm-events alerts [TARGET] [--all] [--json]

Options:
  --all       also those that were cleared in the last 24 hours
  --json      the daemon's answer, its pages together
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events alerts
"
    ),
    main: list,
};

pub(super) const ACK: Command = Command {
    name: "ack",
    summary: "acknowledge alerts",
    help: concat!(
        "\
Acknowledges active alerts: they are no longer repeated. The acknowledgement
ends with the alert, with a higher priority, and after the given time.

Usage: sysadm-events ack [TARGET] KEY|PATTERN [--for TIME] [NOTE...]

In a PATTERN, * stands for any characters of one level, ** for any characters
of all levels, and ? for one character.

Options:
  --for TIME  seconds, or 10s, 5m, 2h, 1d
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events ack pool/tank/health --for 8h disk is ordered
"
    ),
    main: acknowledge,
};

pub(super) const UNACK: Command = Command {
    name: "unack",
    summary: "withdraw acknowledgements",
    help: concat!(
        "\
Withdraws the acknowledgements of alerts.

Usage: sysadm-events unack [TARGET] KEY|PATTERN

Options:
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events unack 'pool/**'
"
    ),
    main: unacknowledge,
};

#[derive(Debug, Default)]
struct Arguments {
    plain: Vec<String>,
    all: bool,
    json: bool,
    lasts: Option<u64>,
    target: TargetOptions,
}

fn parse(mut words: Words, command: &str) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--all" && command == "alerts" => arguments.all = true,
            Word::Option(name) if name == "--json" && command == "alerts" => arguments.json = true,
            Word::Option(name) if name == "--for" && command == "ack" => {
                let given = words.value()?;
                let wrong =
                    || Exit::usage(format!("--for {given:?}: say seconds, or 10s, 5m, 2h, 1d"));
                let lasts = span::parse(&given).filter(|span| span.as_secs() > 0);
                arguments.lasts = Some(lasts.ok_or_else(wrong)?.as_secs());
            }
            Word::Option(_) => return Err(unexpected(&word)),
            Word::Value(value) if command == "alerts" => {
                return Err(unexpected(&Word::Value(value)));
            }
            Word::Value(value) => arguments.plain.push(text(value)?),
        }
    }
    match (command, arguments.plain.len()) {
        ("alerts", _) | ("ack", 1..) | ("unack", 1) => Ok(arguments),
        _ => Err(Exit::usage("which alert? a KEY or a PATTERN is needed")),
    }
}

fn list(words: Words) -> Result<u8, Exit> {
    let Arguments { all, json, target, .. } = parse(words, "alerts")?;
    let mut alerts = alerts(&mut target.connect()?, all)?;
    if json {
        write_json(&format!("{}\n", json!({ "alerts": alerts })))?;
        return Ok(0);
    }
    if alerts.is_empty() {
        write("no alert is active\n")?;
        return Ok(0);
    }
    sort(&mut alerts);
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    write(&page(&alerts, SystemTime::now(), terminal))?;
    Ok(0)
}

/// All alerts of the daemon, its pages together.
pub(super) fn alerts(daemon: &mut Client, all: bool) -> Result<Vec<Value>, Exit> {
    let (mut alerts, mut page) = (Vec::new(), Value::Null);
    loop {
        let question = json!({ "action": "list", "all": all, "page": page });
        let reply = daemon.call("rpc", "alerts", question)?;
        alerts.extend(reply.field("alerts").as_array().into_iter().flatten().cloned());
        let next = reply.field("next").clone();
        // A daemon that repeats itself would be asked for ever.
        if !next.is_string() || next == page {
            return Ok(alerts);
        }
        page = next;
    }
}

/// The number of a priority: `9 - Urgent`.
pub(super) fn priority(alert: &Value) -> u64 {
    let number = alert["priority"].as_str().and_then(|text| text.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Active ones first, those with the highest priority first.
fn sort(alerts: &mut [Value]) {
    let rank = |alert: &Value| match alert["state"].as_str() {
        Some("cleared") => 2,
        Some("acknowledged") => 1,
        _ => 0,
    };
    alerts.sort_by_key(|alert| (rank(alert), std::cmp::Reverse(priority(alert))));
}

fn page(alerts: &[Value], now: SystemTime, terminal: Terminal) -> String {
    let text = |value: &Value| escape::line(value.as_str().unwrap_or("?"), terminal.unicode);
    let rows: Vec<[String; 6]> = alerts
        .iter()
        .map(|alert| {
            let since = alert["since"].as_str().and_then(parse_rfc3339);
            let age = since.and_then(|since| now.duration_since(since).ok());
            let mut message = text(&alert["message"]);
            if alert["flapping"] == true {
                message = format!("(flapping) {message}");
            }
            if let Some(by) = alert["acknowledged_by"].as_str() {
                let note =
                    alert["note"].as_str().map(|note| format!(": {note}")).unwrap_or_default();
                let by = escape::line(&format!("{by}{note}"), terminal.unicode);
                message = format!("{message} (acknowledged by {by})");
            }
            [
                priority(alert).to_string(),
                text(&alert["state"]),
                age.map_or("?".to_owned(), span::show),
                alert["count"].as_u64().map_or("?".to_owned(), |count| count.to_string()),
                text(&alert["key"]),
                message,
            ]
        })
        .collect();
    table(["PRIO", "STATE", "AGE", "24H", "KEY", "MESSAGE"], &rows)
}

fn acknowledge(words: Words) -> Result<u8, Exit> {
    let Arguments { plain, lasts, target, .. } = parse(words, "ack")?;
    let mut plain = plain.into_iter();
    let key = plain.next().unwrap_or_default();
    let note = plain.collect::<Vec<String>>().join(" ");
    let mut args = Map::new();
    args.insert("action".to_owned(), "acknowledge".into());
    args.insert("key".to_owned(), key.into());
    if !note.is_empty() {
        args.insert("note".to_owned(), note.into());
    }
    if let Some(lasts) = lasts {
        args.insert("for".to_owned(), lasts.into());
    }
    let reply = target.connect()?.call("rpc", "alerts", Value::Object(args))?;
    show(reply.field("acknowledged"), "acknowledged")
}

fn unacknowledge(words: Words) -> Result<u8, Exit> {
    let Arguments { plain, target, .. } = parse(words, "unack")?;
    let args = json!({ "action": "unacknowledge", "key": plain.first() });
    let reply = target.connect()?.call("rpc", "alerts", args)?;
    show(reply.field("unacknowledged"), "no longer acknowledged")
}

fn show(keys: &Value, what: &str) -> Result<u8, Exit> {
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    for key in keys.as_array().into_iter().flatten().filter_map(Value::as_str) {
        write(&format!("{}: {what}\n", escape::line(key, terminal.unicode || key.is_ascii())))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;
    use std::time::Duration;

    #[test]
    fn arguments_are_a_key_a_time_and_a_note() {
        let parsed = parse(words(&["a/b", "--for", "8h", "disk", "ordered"]), "ack").unwrap();
        assert_eq!((parsed.plain.len(), parsed.lasts), (3, Some(8 * 3600)));
        for (command, wrong) in [
            ("ack", &[][..]),
            ("ack", &["a", "--for", "soon"]),
            ("ack", &["a", "--for", "0"]),
            ("ack", &["a", "--json"]),
            ("unack", &["a", "b"]),
            ("alerts", &["a"]),
            ("alerts", &["--for", "1h"]),
        ] {
            assert!(matches!(parse(words(wrong), command), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn list_begins_with_the_most_urgent() {
        let mut alerts = vec![
            json!({"key": "a", "state": "cleared", "priority": "9 - Urgent", "message": "x\u{1b}",
                   "since": "2026-11-29T00:00:00Z", "count": 1}),
            json!({"key": "b", "state": "raised", "priority": "5 - Warning", "message": "y",
                   "since": "2026-11-29T00:00:00Z", "count": 7, "flapping": true}),
            json!({"key": "c", "state": "acknowledged", "priority": "10 - Urgent", "message": "z",
                   "since": "2026-11-29T00:00:00Z", "acknowledged_by": "ann", "note": "n"}),
        ];
        sort(&mut alerts);
        let now = parse_rfc3339("2026-11-29T00:00:00Z").unwrap() + Duration::from_secs(125);
        let shown = page(&alerts, now, Terminal { colour: false, unicode: true });
        assert_eq!(
            shown,
            "\
PRIO  STATE         AGE       24H  KEY  MESSAGE
5     raised        2 m 05 s  7    b    (flapping) y
10    acknowledged  2 m 05 s  ?    c    z (acknowledged by ann: n)
9     cleared       2 m 05 s  1    a    x^[
"
        );
    }
}
