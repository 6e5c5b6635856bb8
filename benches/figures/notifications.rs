//! Notifications: events through the queue to a webhook, many at once and one after the other.

use std::time::Instant;

use serde_json::{Value, json};
use support::{Outcome, Peer, Setup, Webhook, append, snapshots};

use super::PROGRAM;
use super::table::{Table, Verdict};

/// Fewer than wait in a queue at most.
const EVENTS: usize = 800;
const SINGLE: usize = 50;

fn entries(message: &Value) -> usize {
    message["entries"].as_array().map_or(0, Vec::len)
}

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let server = Webhook::start([])?;
    let lines = format!(
        "[[notify]]\nname = \"a\"\nwebhook = \"http://{}/\"\ndigest = \"0s\"\npriority = 0\n\
         events = [\"life-preserver\", \"dispatcher\"]\n",
        server.address()
    );
    let setup = Setup::following(PROGRAM)?.with_lines(&lines);
    append(&setup.log(), "")?;
    let daemon = setup.start()?;
    let before = daemon.process().cpu()?;
    let start = Instant::now();
    append(&setup.log(), snapshots(0..EVENTS))?;
    let (mut got, mut messages) = (0, 0);
    while got < EVENTS {
        got += entries(&server.next()?.json()?);
        messages += 1;
    }
    let rate = EVENTS as f64 / start.elapsed().as_secs_f64();
    let cpu = (daemon.process().cpu()? - before).as_micros() as f64 / EVENTS as f64;
    table.row(
        "notifications, many at once",
        &format!("{rate:.0} events/s"),
        &format!(
            "{EVENTS} events in {messages} messages, {cpu:.0} us of the daemon for each event"
        ),
        "",
        Verdict::Told,
    );
    let mut peer = Peer::local(&daemon)?;
    let start = Instant::now();
    for number in 0..SINGLE {
        peer.submit(&json!({ "id": format!("job-{number}"), "commands": ["false"] }))?;
        let mut left = 1;
        while left > 0 {
            left -= entries(&server.next()?.json()?);
        }
    }
    let rate = SINGLE as f64 / start.elapsed().as_secs_f64();
    table.row(
        "notifications, one after the other",
        &format!("{rate:.0} /s"),
        "a job that fails, three durable records, a child and a request for each",
        "",
        Verdict::Told,
    );
    Ok(())
}
