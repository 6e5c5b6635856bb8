//! `jobs`: what runs, what waits and what has finished.

use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::exit::Exit;
use super::table::table;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, unexpected};
use super::{Command, escape, outcome, span, write, write_json};
use crate::wire::parse_rfc3339;

pub(super) const COMMAND: Command = Command {
    name: "jobs",
    summary: "list jobs",
    help: concat!(
        "\
Lists the jobs that run, wait or have finished lately.

Usage: sysadm-events jobs [TARGET] [--json]

POS is the place in the queue, STARTED how long ago, TOOK how long it ran,
RESULT how it ended and BY the user who submitted it.

Options:
  --json      the daemon's answer as it is, its pages together
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events jobs
"
    ),
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let (mut target, mut json) = (TargetOptions::default(), false);
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => json = true,
            other => return Err(unexpected(&other)),
        }
    }
    let list = target.connect()?.jobs()?;
    if json {
        write_json(&format!("{list}\n"))?;
        return Ok(0);
    }
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    let rows = rows(&list, SystemTime::now(), terminal);
    write(&table(COLUMNS, &rows))?;
    Ok(0)
}

const COLUMNS: [&str; 9] =
    ["ID", "QUEUE", "STATE", "POS", "STARTED", "TOOK", "RESULT", "BY", "COMMANDS"];

/// A job of the list, with what it is sorted by.
struct Entry<'a> {
    id: &'a str,
    queue: &'a str,
    job: &'a Value,
}

impl Entry<'_> {
    fn text(&self, key: &str) -> &str {
        self.job[key].as_str().unwrap_or("")
    }

    /// What runs first, then what waits in the order of its queue, then the past, newest first.
    fn key(&self) -> (u8, &str, u64, std::cmp::Reverse<&str>) {
        let position = self.text("queue_position").parse().unwrap_or(u64::MAX);
        match self.text("state") {
            "running" => (0, "", 0, std::cmp::Reverse(self.text("time_started"))),
            "pending" => (1, self.queue, position, std::cmp::Reverse("")),
            _ => (2, "", 0, std::cmp::Reverse(self.text("time_finished"))),
        }
    }
}

fn rows(list: &Value, now: SystemTime, terminal: Terminal) -> Vec<[String; COLUMNS.len()]> {
    let queues = list["jobs"].as_object().into_iter().flatten();
    let mut entries: Vec<Entry<'_>> = queues
        .flat_map(|(queue, jobs)| {
            let jobs = jobs.as_object().into_iter().flatten();
            jobs.map(move |(id, job)| Entry { id, queue, job })
        })
        .collect();
    entries.sort_by(|a, b| a.key().cmp(&b.key()));
    entries.iter().map(|entry| row(entry, now, terminal)).collect()
}

fn row(entry: &Entry<'_>, now: SystemTime, terminal: Terminal) -> [String; COLUMNS.len()] {
    let harmless = |text: &str| escape::line(text, terminal.unicode);
    let texts =
        |key: &str| entry.job[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    let started = parse_rfc3339(entry.text("time_started"))
        .and_then(|started| now.duration_since(started).ok())
        .map_or(String::new(), span::show);
    let codes: Vec<i32> = texts("return_codes").filter_map(|code| code.parse().ok()).collect();
    let outcome = outcome::outcome(entry.job, &codes, texts("commands").count());
    let result = match entry.text("state") {
        "finished" => outcome::event(&outcome),
        _ => String::new(),
    };
    let took = outcome.duration.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let took = took.map_or(String::new(), span::show);
    let queue = if entry.queue == "no_queue" { "-" } else { entry.queue };
    [
        harmless(entry.id),
        harmless(queue),
        harmless(entry.text("state")),
        harmless(entry.text("queue_position")),
        started,
        took,
        harmless(&result),
        harmless(entry.text("submitted_by")),
        harmless(&texts("commands").collect::<Vec<_>>().join(" && ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::UNIX_EPOCH;

    #[test]
    fn running_before_pending_before_finished() {
        let list = json!({"jobs": {
            "no_queue": {
                "old": {"state": "finished", "commands": ["a", "b"], "return_codes": ["0", "-15"],
                        "result": "timed_out", "duration": 5.4, "submitted_by": "root",
                        "time_started": "2026-11-23T17:00:00Z", "time_finished": "2026-11-23T17:00:05Z"},
                "new": {"state": "finished", "commands": ["c"], "return_codes": ["0"],
                        "time_started": "2026-11-23T17:30:00Z", "time_finished": "2026-11-23T17:30:05Z"},
                "now": {"state": "running", "commands": ["sh -c \"\u{1b}[2J\""], "return_codes": [],
                        "queue_position": "0", "time_started": "2026-11-23T17:50:00Z"}},
            "pkg": {
                "third": {"state": "pending", "commands": ["e"], "queue_position": "10"},
                "second": {"state": "pending", "commands": ["d"], "queue_position": "9"}}}});
        let now = UNIX_EPOCH + Duration::from_secs(1_795_456_247);
        let rows = rows(&list, now, Terminal { colour: false, unicode: true });
        let shown = table(COLUMNS, &rows);
        assert_eq!(
            shown,
            "\
ID      QUEUE  STATE     POS  STARTED    TOOK  RESULT     BY    COMMANDS
now     -      running   0    47 s                              sh -c \"^[[2J\"
second  pkg    pending   9                                      d
third   pkg    pending   10                                     e
new     -      finished       20 m 47 s        ok               c
old     -      finished       50 m 47 s  5 s   timed out  root  a && b
"
        );
    }

    #[test]
    fn no_jobs_are_no_rows() {
        let terminal = Terminal { colour: false, unicode: true };
        assert!(rows(&json!({"jobs": {"no_queue": {}}}), UNIX_EPOCH, terminal).is_empty());
        assert!(rows(&json!(null), UNIX_EPOCH, terminal).is_empty());
    }
}
