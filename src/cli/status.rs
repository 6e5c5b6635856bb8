//! `status`: the state of the daemon.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::Duration;

use serde_json::Value;

use super::exit::Exit;
use super::table::table;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, unexpected};
use super::{Command, escape, relay_status, span, state, write, write_json};
use crate::wire::JsonFields;
use crate::wording::counted;

pub(super) const COMMAND: Command = Command {
    name: "status",
    summary: "how the daemon is doing",
    help: concat!(
        "\
Shows the state of the daemon: active alerts, host, pools, last snapshot and
replication, jobs and clients.

Usage: sysadm-events status [TARGET] [--json | --check] [--bridge]

Options:
  --check     one line for monitoring systems, and their exit codes: 0 no open
              alert, 1 warning (priority up to 5), 2 critical, 3 unknown;
              acknowledged alerts do not count
  --json      the daemon's reply as JSON
  --bridge    the relay of this host: its peers and their queues
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events status --json | jq .jobs.running
"
    ),
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let (mut target, mut json, mut bridge) = (TargetOptions::default(), false, false);
    let mut check = false;
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => json = true,
            Word::Option(name) if name == "--bridge" => bridge = true,
            Word::Option(name) if name == "--check" => check = true,
            other => return Err(unexpected(&other)),
        }
    }
    if check {
        if json || bridge {
            return Err(Exit::usage("--check goes with neither --json nor --bridge"));
        }
        let status = target
            .connect()
            .and_then(|mut client| Ok(client.call("rpc", "status", Value::Null)?));
        let terminal = Terminal::of_this_process(io::stdout().is_terminal());
        let (code, line) = match status {
            Ok(status) => plugin_line(&status, terminal),
            Err(Exit::Failed { message, .. }) => {
                let why = message.lines().next().unwrap_or_default();
                (3, format!("UNKNOWN - {}\n", escape::line(why, terminal.unicode)))
            }
            Err(exit) => return Err(exit),
        };
        write(&line)?;
        return Ok(code);
    }
    let mut client = if bridge { target.connect_to_bridge()? } else { target.connect()? };
    let status = client.call("rpc", "status", Value::Null)?;
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    if json {
        write_json(&format!("{status}\n"))?;
    } else if status.field("type") == "bridge" {
        write(&relay_status::page(&status, terminal))?;
    } else {
        write(&page(&status, terminal))?;
    }
    Ok(0)
}

/// Unknown fields of a newer daemon are shown by `--json` only.
fn page(status: &Value, terminal: Terminal) -> String {
    let text = |value: &Value| match value {
        Value::Null => "?".to_owned(),
        Value::String(text) => escape::line(text, terminal.unicode),
        other => escape::line(&other.to_string(), terminal.unicode),
    };
    let uptime =
        status["uptime"].as_u64().map_or("?".to_owned(), |s| span::show(Duration::from_secs(s)));
    let jobs = &status["jobs"];
    let clients = status["clients"].as_array().map_or(&[][..], Vec::as_slice);
    let mut page = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(page, "{name:<9} {value}");
    };
    for (number, alert) in open_alerts(status, terminal).into_iter().enumerate() {
        line(if number == 0 { "alerts" } else { "" }, alert);
    }
    line("host", text(&status["hostname"]));
    if status["system_state"].is_object() {
        pools(&status["system_state"], terminal).lines().enumerate().for_each(|(number, row)| {
            line(if number == 0 { "pools" } else { "" }, row.to_owned());
        });
    }
    line(
        "daemon",
        format!(
            "sysadm-events {}, pid {}, up {uptime}",
            text(&status["version"]),
            text(&status["pid"])
        ),
    );
    line(
        "jobs",
        format!(
            "{} running, {} pending, {} finished",
            text(&jobs["running"]),
            text(&jobs["pending"]),
            text(&jobs["finished"])
        ),
    );
    let logs = &status["life_preserver"];
    for (name, class) in [("snapshot", "snapshot"), ("replica", "replication")] {
        if let Some(text_line) = last(&logs[class], terminal) {
            line(name, text_line);
        }
    }
    for running in logs["running"].as_array().into_iter().flatten() {
        let progress = running["progress"].as_str().unwrap_or("just begun");
        let progress = escape::line(progress, terminal.unicode);
        line("", format!("running: {}, {progress}", text(&running["dataset"])));
    }
    for log in logs["logs"].as_array().into_iter().flatten() {
        line("log", log_line(log, terminal));
    }
    for hanging in status["hanging"].as_array().into_iter().flatten() {
        let (path, since) = (text(&hanging["path"]), text(&hanging["since"]));
        line("hangs", format!("{path} does not answer since {since}"));
    }
    if let Some(queues) = jobs_in_queues(status, terminal) {
        line("queues", queues);
    }
    if let Some(state) = status.field("store").field("state").as_str() {
        line("store", escape::line(state, terminal.unicode));
    }
    line(
        "events",
        format!("{} since its start, epoch {}", text(&status["seq"]), text(&status["epoch"])),
    );
    if let Some(bytes) = status.field("memory").field("peak_resident").as_u64() {
        line("memory", format!("{} resident at most", size(bytes)));
    }
    if let Some(bytes) = status["outbox_total"].as_u64() {
        line("outboxes", format!("{} wait to be sent", size(bytes)));
    }
    for link in status["links"].as_array().into_iter().flatten() {
        line("link", link_line(link, terminal));
    }
    let count = status["client_count"].as_u64().unwrap_or(clients.len() as u64);
    line(
        "clients",
        match clients.len() as u64 {
            shown if shown < count => format!("{count}, of which the first {shown}:"),
            _ => count.to_string(),
        },
    );
    if clients.is_empty() {
        return page;
    }
    let rows: Vec<[String; 3]> = clients
        .iter()
        .map(|client| {
            let user = client["user"].as_str().unwrap_or("(not authenticated)");
            let outbox = client["outbox"].as_u64().map_or(String::new(), size);
            [text(&client["peer"]), escape::line(user, terminal.unicode), outbox]
        })
        .collect();
    for row in table(["PEER", "USER", "OUTBOX"], &rows).lines() {
        let _ = writeln!(page, "  {row}");
    }
    page
}

/// The lines about active alerts, the most urgent first.
fn open_alerts(status: &Value, terminal: Terminal) -> Vec<String> {
    let alerts = &status["alerts"];
    let text = |value: &Value| escape::line(value.as_str().unwrap_or("?"), terminal.unicode);
    let list = alerts["list"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines: Vec<String> = list
        .iter()
        .map(|alert| {
            let (key, since) = (text(&alert["key"]), text(&alert["since"]));
            let (priority, message) = (text(&alert["priority"]), text(&alert["message"]));
            format!("{priority}: {message} ({key}, since {since})")
        })
        .collect();
    let count = |name: &str| alerts[name].as_u64().unwrap_or(0);
    let more = (count("active") - count("acknowledged").min(count("active")))
        .saturating_sub(list.len() as u64);
    if more > 0 {
        lines.push(format!("{} more: sysadm-events alerts", counted(more, "alert")));
    }
    if count("acknowledged") > 0 {
        lines.push(format!("{} acknowledged", count("acknowledged")));
    }
    lines
}

/// The line and the exit code of a monitoring plugin (Monitoring Plugins Development Guidelines).
fn plugin_line(status: &Value, terminal: Terminal) -> (u8, String) {
    let alerts = &status["alerts"];
    let Some(active) = alerts["active"].as_u64() else {
        return (3, "UNKNOWN - the daemon is too old to report alerts\n".to_owned());
    };
    let acknowledged = alerts["acknowledged"].as_u64().unwrap_or(0);
    let list = alerts["list"].as_array().map_or(&[][..], Vec::as_slice);
    let highest = list.iter().map(super::alerts::priority).max();
    let (code, word) = match highest {
        None => (0, "OK"),
        Some(0..=5) => (1, "WARNING"),
        Some(_) => (2, "CRITICAL"),
    };
    let open = active.saturating_sub(acknowledged);
    let mut line = format!("{word} - {}", counted(open, "alert"));
    for (number, alert) in list.iter().take(3).enumerate() {
        // The bar separates the text from the figures.
        let message = alert["message"].as_str().unwrap_or("?").replace('|', "/");
        let sign = if number == 0 { ": " } else { "; " };
        let _ = write!(line, "{sign}{}", escape::line(&message, terminal.unicode));
    }
    let highest = highest.unwrap_or(0);
    let _ = writeln!(
        line,
        " | alerts={open};0;;0; acknowledged={acknowledged};;;0; priority={highest};0;5;0;10"
    );
    (code, line)
}

/// A link to a relay: its state and its error.
fn link_line(link: &Value, terminal: Terminal) -> String {
    let text = |key: &str| escape::line(link[key].as_str().unwrap_or("?"), terminal.unicode);
    let clients = link["available"].as_u64().unwrap_or(0);
    let mut text_line = format!("{} to {}: {}", text("name"), text("url"), text("state"));
    // Writing to a string does not fail.
    let _ = write!(text_line, " since {}", text("since"));
    if link["state"] == "connected" {
        let _ = write!(text_line, ", clients behind it: {clients}");
    }
    if link["error"].is_string() {
        let _ = write!(text_line, "; {}", text("error"));
    }
    text_line
}

/// The last event of a class, with its age.
fn last(event: &Value, terminal: Terminal) -> Option<String> {
    let message = event["message"].as_str()?.lines().next().unwrap_or("");
    let message = escape::line(message, terminal.unicode);
    let age = event["age"].as_u64().map(|age| span::show(Duration::from_secs(age)));
    let ago = age.map_or(String::new(), |age| format!("{age} ago, "));
    let priority = escape::line(event["priority"].as_str().unwrap_or("?"), terminal.unicode);
    Some(format!("{ago}{priority}: {message}"))
}

/// The pools, the age of their figures, and the time of the next check.
fn pools(state: &Value, terminal: Terminal) -> String {
    let text = |value: &Value| escape::line(value.as_str().unwrap_or(""), terminal.unicode);
    let shown = |seconds: &Value| {
        seconds
            .as_f64()
            .map_or("?".to_owned(), |s| span::show(Duration::from_secs_f64(s.clamp(0.0, 1e9))))
    };
    let mut page = state::count(state);
    if let Some(source) = state["source"].as_str() {
        let source = escape::line(source, terminal.unicode);
        let _ = write!(page, ", from {source} {} ago", shown(&state["age"]));
    }
    let _ = write!(page, "; checked every {}", shown(&state["interval"]));
    if state["woken_by"].is_string() {
        let _ = write!(page, " and when {} reports a change", text(&state["woken_by"]));
    }
    page.push('\n');
    if state["zpool_error"].is_string() {
        let _ = writeln!(page, "{}", text(&state["zpool_error"]));
    }
    let rows: Vec<[String; 7]> = state::pools(state)
        .map(|(name, pool)| {
            let name = escape::line(name, terminal.unicode);
            let [health, capacity, size, free, priority] =
                ["health", "capacity", "size", "free", "priority"].map(|k| text(&pool[k]));
            [name, health, capacity, size, free, priority, state::remarks(pool, None, terminal)]
        })
        .chain(state::gone(state, terminal).map(|[name, health, priority, _, how]| {
            let [capacity, size, free] = [(); 3].map(|()| String::new());
            [name, health, capacity, size, free, priority, how]
        }))
        .collect();
    if !rows.is_empty() {
        page.push_str(&table(
            ["POOL", "HEALTH", "CAP", "SIZE", "FREE", "PRIORITY", "STATUS"],
            &rows,
        ));
    }
    page
}

/// Each named queue with its number of unfinished jobs.
fn jobs_in_queues(status: &Value, terminal: Terminal) -> Option<String> {
    let queues = status["queues"].as_object()?.iter().map(|(name, jobs)| (name.as_str(), jobs));
    let paused = status["paused_queues"].as_array().into_iter().flatten();
    let paused: Vec<&str> = paused.filter_map(Value::as_str).collect();
    let mut all: std::collections::BTreeMap<&str, &Value> = queues.collect();
    for name in &paused {
        all.entry(name).or_insert(&Value::Null);
    }
    let one = |(name, jobs): (&&str, &&Value)| {
        let state = if paused.contains(name) { " (paused)" } else { "" };
        let jobs = jobs.as_u64().unwrap_or(0);
        format!("{} {jobs}{state}", escape::line(name, terminal.unicode))
    };
    Some(all.iter().map(one).collect::<Vec<_>>().join(", ")).filter(|shown| !shown.is_empty())
}

/// The number of lines read and matched of a log; a log without matches is marked.
fn log_line(log: &Value, terminal: Terminal) -> String {
    let text = |value: &Value| escape::line(value.as_str().unwrap_or("?"), terminal.unicode);
    let count = |name: &str| log[name].as_u64().unwrap_or(0);
    let number = |name: &str| thousands(count(name));
    let mut shown = text(&log["log"]);
    let rules: Vec<String> = log["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|name| format!("\"{}\"", text(name)))
        .collect();
    if count("lines") > 0 && count("matched") == 0 {
        let (lines, rules) = (counted(number("lines"), "line"), rules.join(", "));
        let _ = write!(shown, ": nothing in {lines} matched rule {rules}");
    } else {
        let (lines, matched) = (counted(number("lines"), "line"), number("matched"));
        let _ = write!(shown, ": {lines}, {matched} matched");
    }
    if count("unknown") > 0 {
        let _ = write!(shown, ", {} errors and warnings that no rule knows", number("unknown"));
    }
    if let Some(last) = log["last_match"].as_str() {
        let _ = write!(shown, ", last event {}", escape::line(last, terminal.unicode));
    }
    if let Some(failure) = log["trouble"].as_str() {
        let _ = write!(shown, "; {}", escape::line(failure, terminal.unicode));
    }
    shown
}

/// A number with commas: `1,240`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// In the largest unit with a value of at least one.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let (whole, tenth) = (bytes / unit, bytes % unit * 10 / unit);
            return format!("{whole}.{tenth} {name}");
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_page_shows_all_fields() {
        let status = json!({"hostname": "nas", "version": "0.1.0", "pid": 7, "uptime": 3725, "epoch": "e1",
            "life_preserver": {
                "snapshot": {"message": "Mon: New snapshot of tank", "priority": "1 - Information", "age": 125},
                "replication": {"message": "Tue: Replication Failed for tank\nLogfile available at: /f",
                                "priority": "7 - Critical", "age": 7200},
                "running": [{"dataset": "pool", "progress": "1M/2M (50%)"}, {"dataset": "a\u{1b}", "progress": null}],
                "logs": [
                    {"log": "/a", "rules": ["zrepl"], "lines": 1240, "matched": 0, "unknown": 0, "last_match": null, "trouble": null},
                    {"log": "/b\u{1b}", "rules": ["sanoid"], "lines": 7, "matched": 3, "unknown": 2,
                     "last_match": "2026-11-24T20:00:00Z", "trouble": "cannot be read: x"}]},
            "hanging": [{"path": "/tank/log", "since": "2026-11-24T20:00:00Z"}],
            "seq": 12, "subscribers": 1, "outbox_total": 1536, "memory": {"peak_resident": 3_500_000},
            "jobs": {"running": 1, "pending": 0, "finished": 2}, "queues": {"pkg": 1},
            "store": {"state": "state storage does not answer"},
            "system_state": {"zpools": {
                "tank": {"health": "ONLINE", "capacity": "12%", "size": "107G", "free": "93.9G",
                         "priority": "0 - Information"},
                "my pool": {"health": "DEGRADED", "capacity": "7%", "size": "1T", "free": "930G",
                         "priority": "9 - Urgent", "status": "One device\nis gone."}},
                "priority": "9 - Urgent", "source": "zpool list", "age": 12, "interval": 60.0,
                "woken_by": "devd", "zpool_error": "zpool status did not answer within 10s"},
            "links": [
                {"name": "office", "url": "wss://b:12149", "state": "connected",
                 "since": "2026-11-24T20:00:00Z", "error": null, "available": 1, "clients": [{"id": "x"}]},
                {"name": "home", "url": "wss://h:12149", "state": "waiting",
                 "since": "2026-11-24T21:00:00Z", "error": "cannot connect: refused\u{1b}", "available": 0, "clients": []}],
            "clients": [{"id": 1, "peer": "127.0.0.1:5\u{1b}", "user": null, "local": false, "outbox": 0},
                        {"id": 2, "peer": "uid 0", "user": "root", "local": true, "outbox": 1536}]});
        assert_eq!(
            page(&status, Terminal { colour: false, unicode: true }),
            "\
host      nas
pools     2 pools, from zpool list 12 s ago; checked every 1 m 00 s and when devd reports a change
          zpool status did not answer within 10s
          POOL     HEALTH    CAP  SIZE  FREE   PRIORITY         STATUS
          tank     ONLINE    12%  107G  93.9G  0 - Information
          my pool  DEGRADED  7%   1T    930G   9 - Urgent       One device\\nis gone.
daemon    sysadm-events 0.1.0, pid 7, up 1 h 02 m
jobs      1 running, 0 pending, 2 finished
snapshot  2 m 05 s ago, 1 - Information: Mon: New snapshot of tank
replica   2 h 00 m ago, 7 - Critical: Tue: Replication Failed for tank
          running: pool, 1M/2M (50%)
          running: a^[, just begun
log       /a: nothing in 1,240 lines matched rule \"zrepl\"
log       /b^[: 7 lines, 3 matched, 2 errors and warnings that no rule knows, last event 2026-11-24T20:00:00Z; cannot be read: x
hangs     /tank/log does not answer since 2026-11-24T20:00:00Z
queues    pkg 1
store     state storage does not answer
events    12 since its start, epoch e1
memory    3.3 MiB resident at most
outboxes  1.5 KiB wait to be sent
link      office to wss://b:12149: connected since 2026-11-24T20:00:00Z, clients behind it: 1
link      home to wss://h:12149: waiting since 2026-11-24T21:00:00Z; cannot connect: refused^[
clients   2
  PEER           USER                 OUTBOX
  127.0.0.1:5^[  (not authenticated)  0 B
  uid 0          root                 1.5 KiB
"
        );
    }

    #[test]
    fn alerts_come_first_and_decide_the_exit_code() {
        let terminal = Terminal { colour: false, unicode: true };
        let alert = |priority: &str, message: &str| {
            json!({"key": "k", "priority": priority, "message": message,
                   "since": "2026-11-29T01:00:00Z", "state": "raised"})
        };
        let list = json!([alert("9 - Urgent", "tank is DEGRADED | x"), alert("5 - Warning", "b")]);
        let alerts = json!({"active": 4, "acknowledged": 1, "list": list});
        let status = json!({"hostname": "nas", "alerts": alerts});
        let shown = page(&status, terminal);
        assert!(
            shown.starts_with(
                "\
alerts    9 - Urgent: tank is DEGRADED | x (k, since 2026-11-29T01:00:00Z)
          5 - Warning: b (k, since 2026-11-29T01:00:00Z)
          1 alert more: sysadm-events alerts
          1 acknowledged
host      nas
"
            ),
            "{shown}"
        );
        assert_eq!(
            plugin_line(&status, terminal),
            (
                2,
                "CRITICAL - 3 alerts: tank is DEGRADED / x; b | alerts=3;0;;0; acknowledged=1;;;0; \
                 priority=9;0;5;0;10\n"
                    .to_owned()
            )
        );
        let status = |list| json!({"alerts": {"active": 1, "acknowledged": 0, "list": list}});
        assert_eq!(plugin_line(&status(json!([alert("4 - Warning", "a")])), terminal).0, 1);
        let quiet = json!({"alerts": {"active": 0, "acknowledged": 0, "list": []}});
        assert!(plugin_line(&quiet, terminal).1.starts_with("OK - 0 alerts | "));
        assert_eq!(plugin_line(&json!({}), terminal).0, 3);
    }

    #[test]
    fn incomplete_reply_is_shown_too() {
        let shown = page(&json!({}), Terminal { colour: false, unicode: true });
        let no_zfs = page(
            &json!({"system_state": {"interval": 60}}),
            Terminal { colour: false, unicode: true },
        );
        assert!(no_zfs.contains("pools     no ZFS here; checked every 1 m 00 s\n"), "{no_zfs}");
        assert!(shown.contains("host      ?") && shown.ends_with("clients   0\n"), "{shown}");
    }

    #[test]
    fn sizes() {
        assert_eq!(
            [0, 1023, 1024, 1536, 3 << 20, 5 << 30].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "3.0 MiB", "5.0 GiB"]
        );
    }
}
