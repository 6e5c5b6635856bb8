//! Status of a relay, for people.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::status::size;
use super::table::table;
use super::terminal::Terminal;
use super::{escape, span};
use crate::wire::JsonFields;

/// Unknown fields of a newer relay are shown by `--json` only.
pub(super) fn page(status: &Value, terminal: Terminal) -> String {
    let text = |value: &Value| match value {
        Value::Null => "?".to_owned(),
        Value::String(text) => escape::line(text, terminal.unicode),
        other => escape::line(&other.to_string(), terminal.unicode),
    };
    let bytes = |value: &Value| value.as_u64().map_or("?".to_owned(), size);
    let uptime =
        status["uptime"].as_u64().map_or("?".to_owned(), |s| span::show(Duration::from_secs(s)));
    let mut page = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(page, "{name:<9} {value}");
    };
    line("host", text(&status["hostname"]));
    let (version, pid) = (text(&status["version"]), text(&status["pid"]));
    line("bridge", format!("sysadm-events {version}, pid {pid}, up {uptime}"));
    line("sha256", text(&status["certificate"]));
    line("keys", format!("{} registered", text(&status["registered"])));
    let forwarded = &status["forwarded"];
    let frames = text(&forwarded["frames"]);
    line("passed on", format!("{frames} frames, {}", bytes(&forwarded["bytes"])));
    line(
        "memory",
        format!("{} resident at most", bytes(status.field("memory").field("peak_resident"))),
    );
    line("queues", format!("{} wait to be sent", bytes(&status["queue_total"])));
    let unauthenticated = text(&status["strangers"]);
    line("peers", format!("{}, {unauthenticated} not authenticated", text(&status["connected"])));
    let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
    if peers.is_empty() {
        return page;
    }
    let rows: Vec<[String; 7]> = peers
        .iter()
        .map(|peer| {
            let [name, kind, host, at, keys, available] =
                ["name", "type", "hostname", "peer", "keys", "available"].map(|k| text(&peer[k]));
            [name, kind, host, at, keys, available, bytes(&peer["queue"])]
        })
        .collect();
    let head = ["NAME", "TYPE", "HOST", "PEER", "KEYS", "AVAILABLE", "QUEUE"];
    for row in table(head, &rows).lines() {
        let _ = writeln!(page, "  {row}");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn relay_status_page_shows_all_fields() {
        let terminal = Terminal { colour: false, unicode: true };
        let status = json!({"type": "bridge", "hostname": "relay", "version": "0.1.0", "pid": 7,
            "uptime": 65, "certificate": "ab12", "registered": 3, "connected": 2, "strangers": 1,
            "forwarded": {"frames": 12, "bytes": 2048}, "queue_total": 0,
            "memory": {"peak_resident": 3_500_000}, "peers": [
                {"id": "x", "name": "office", "type": "server", "hostname": "nas", "peer": "192.0.2.1:5",
                 "keys": 2, "available": 1, "queue": 0},
                {"id": "y", "name": "ann", "type": null, "hostname": "\u{1b}", "peer": "192.0.2.2:6",
                 "keys": 0, "available": 0, "queue": 1536}]});
        assert_eq!(
            page(&status, terminal),
            "\
host      relay
bridge    sysadm-events 0.1.0, pid 7, up 1 m 05 s
sha256    ab12
keys      3 registered
passed on 12 frames, 2.0 KiB
memory    3.3 MiB resident at most
queues    0 B wait to be sent
peers     2, 1 not authenticated
  NAME    TYPE    HOST  PEER         KEYS  AVAILABLE  QUEUE
  office  server  nas   192.0.2.1:5  2     1          0 B
  ann     ?       ^[    192.0.2.2:6  0     0          1.5 KiB
"
        );
        let shown = page(&json!({}), terminal);
        assert!(shown.ends_with("peers     ?, ? not authenticated\n"), "{shown}");
    }
}
