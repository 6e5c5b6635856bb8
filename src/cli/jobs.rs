//! `jobs`: lists running, pending and finished jobs.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::exit::Exit;
use super::table::table;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, escape, outcome, queues, span, write, write_json};
use crate::wire::{Outcome, parse_rfc3339};

pub(super) const COMMAND: Command = Command {
    name: "jobs",
    summary: "list jobs",
    help: concat!(
        "\
Lists running, pending and recently finished jobs, or shows all details of some
of them.

Usage: sysadm-events jobs [TARGET] [OPTIONS] [ID...]

POS is the position in the queue, STARTED the time since the start, TOOK the
duration, RESULT the outcome and BY the user who submitted it.

Options:
  --state S   only jobs that are running, pending or finished
  --queue Q   only jobs of this queue; no_queue for those without one
  --since T   only jobs that are active, or finished at most so long ago:
              seconds, or 10s, 5m, 2h, 1d
  --ids       only their ids, one a line
  --queues    only the names of their queues, one a line
  --json      the daemon's reply, with all pages merged
  -h, --help  this text
",
        target_help!(),
        "
Exits 0, or 1 if an ID is unknown.

Examples:
  sysadm-events jobs
  sysadm-events jobs nightly
  sysadm-events jobs --state finished --since 1d
"
    ),
    main,
};

/// Form in which the jobs are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Show {
    #[default]
    Table,
    Ids,
    Queues,
    Json,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    ids: Vec<String>,
    state: Option<String>,
    queue: Option<String>,
    since: Option<Duration>,
    show: Show,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let arguments = parse(words)?;
    let mut daemon = arguments.target.connect()?;
    let mut list = daemon.jobs()?;
    // Also those that have no job; a daemon of an earlier version has no such list.
    let queues = match arguments.show {
        Show::Queues => queues::queues(&mut daemon).unwrap_or_default(),
        Show::Table | Show::Ids | Show::Json => Default::default(),
    };
    let now = SystemTime::now();
    arguments.select(&mut list, now);
    let entries = entries(&list);
    let unknown: Vec<&String> =
        arguments.ids.iter().filter(|id| entries.iter().all(|entry| entry.id != **id)).collect();
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    match arguments.show {
        Show::Json => write_json(&format!("{list}\n"))?,
        Show::Ids => write(&lines(entries.iter().map(|entry| entry.id)))?,
        Show::Queues => {
            let named = entries.iter().map(|entry| entry.queue).filter(|queue| *queue != NO_QUEUE);
            let known = queues.keys().map(String::as_str);
            write(&lines(named.chain(known).collect::<BTreeSet<_>>()))?;
        }
        Show::Table if arguments.ids.is_empty() => {
            let rows: Vec<_> = entries.iter().map(|entry| row(entry, now, terminal)).collect();
            write(&table(COLUMNS, &rows))?;
        }
        Show::Table => {
            let texts: Vec<String> =
                entries.iter().map(|entry| details(entry, now, terminal)).collect();
            write(&texts.join("\n"))?;
        }
    }
    unknown.iter().for_each(|id| complain(&format!("no such job: {id:?}")));
    Ok(u8::from(!unknown.is_empty()))
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => arguments.show = Show::Json,
            Word::Option(name) if name == "--ids" => arguments.show = Show::Ids,
            Word::Option(name) if name == "--queues" => arguments.show = Show::Queues,
            Word::Option(name) if name == "--queue" => arguments.queue = Some(words.value()?),
            Word::Option(name) if name == "--state" => {
                let state = words.value()?;
                if !["running", "pending", "finished"].contains(&&*state) {
                    let wrong = format!("--state {state:?}: say running, pending or finished");
                    return Err(Exit::usage(wrong));
                }
                arguments.state = Some(state);
            }
            Word::Option(name) if name == "--since" => {
                let given = words.value()?;
                let wrong =
                    || Exit::usage(format!("--since {given:?}: say seconds, or 10s, 5m, 2h, 1d"));
                arguments.since = Some(span::parse(&given).ok_or_else(wrong)?);
            }
            Word::Value(id) => arguments.ids.push(text(id)?),
            other @ Word::Option(_) => return Err(unexpected(&other)),
        }
    }
    Ok(arguments)
}

impl Arguments {
    /// Removes unrequested jobs from a list.
    fn select(&self, list: &mut Value, now: SystemTime) {
        let Some(queues) = list.get_mut("jobs").and_then(Value::as_object_mut) else { return };
        queues.retain(|queue, _| self.queue.as_ref().is_none_or(|only| only == queue));
        for jobs in queues.values_mut().filter_map(Value::as_object_mut) {
            jobs.retain(|id, job| self.takes(id, job, now));
        }
    }

    fn takes(&self, id: &String, job: &Value, now: SystemTime) -> bool {
        let finished = job["time_finished"].as_str().and_then(parse_rfc3339);
        let age = finished.map(|finished| now.duration_since(finished).unwrap_or_default());
        (self.ids.is_empty() || self.ids.contains(id))
            && self.state.as_ref().is_none_or(|state| job["state"] == **state)
            && self.since.is_none_or(|since| age.is_none_or(|age| age <= since))
    }
}

/// One per line, unescaped, for scripts. Ids and queues have no control characters.
fn lines<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().flat_map(|name| [name, "\n"]).collect()
}

/// Key of jobs without a queue in the list.
const NO_QUEUE: &str = "no_queue";

const COLUMNS: [&str; 9] =
    ["ID", "QUEUE", "STATE", "POS", "STARTED", "TOOK", "RESULT", "BY", "COMMANDS"];

/// A job of the list, with its sort key.
struct Entry<'a> {
    id: &'a str,
    queue: &'a str,
    job: &'a Value,
}

impl Entry<'_> {
    fn text(&self, key: &str) -> &str {
        self.job[key].as_str().unwrap_or("")
    }

    /// Running jobs first, then pending ones in the order of their queue, then finished ones,
    /// newest first.
    fn key(&self) -> (u8, &str, u64, std::cmp::Reverse<&str>) {
        let position = self.text("queue_position").parse().unwrap_or(u64::MAX);
        match self.text("state") {
            "running" => (0, "", 0, std::cmp::Reverse(self.text("time_started"))),
            "pending" => (1, self.queue, position, std::cmp::Reverse("")),
            _ => (2, "", 0, std::cmp::Reverse(self.text("time_finished"))),
        }
    }
}

/// All jobs of a list, in display order.
fn entries(list: &Value) -> Vec<Entry<'_>> {
    let queues = list["jobs"].as_object().into_iter().flatten();
    let mut entries: Vec<Entry<'_>> = queues
        .flat_map(|(queue, jobs)| {
            let jobs = jobs.as_object().into_iter().flatten();
            jobs.map(move |(id, job)| Entry { id, queue, job })
        })
        .collect();
    entries.sort_by(|a, b| a.key().cmp(&b.key()));
    entries
}

impl<'a> Entry<'a> {
    /// The state, and why a job waits where that is not its turn.
    fn state(&self) -> &str {
        if self.job["paused"] == true { "paused" } else { self.text("state") }
    }

    fn texts(&self, key: &str) -> Vec<&'a str> {
        let list = self.job[key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).collect()
    }

    fn codes(&self) -> Vec<i32> {
        self.texts("return_codes").iter().filter_map(|code| code.parse().ok()).collect()
    }

    fn outcome(&self) -> Outcome {
        outcome::outcome(self.job, &self.codes(), self.texts("commands").len())
    }

    /// Time since an event.
    fn since(&self, key: &str, now: SystemTime) -> Option<String> {
        let time = parse_rfc3339(self.text(key))?;
        now.duration_since(time).ok().map(span::show)
    }

    fn took(&self) -> Option<String> {
        let took = Duration::try_from_secs_f64(self.outcome().duration?).ok()?;
        Some(span::show(took))
    }
}

fn row(entry: &Entry<'_>, now: SystemTime, terminal: Terminal) -> [String; COLUMNS.len()] {
    let harmless = |text: &str| escape::line(text, terminal.unicode);
    let result = match entry.text("state") {
        "finished" => outcome::event(&entry.outcome()),
        _ => String::new(),
    };
    let queue = if entry.queue == NO_QUEUE { "-" } else { entry.queue };
    [
        harmless(entry.id),
        harmless(queue),
        harmless(entry.state()),
        harmless(entry.text("queue_position")),
        entry.since("time_started", now).unwrap_or_default(),
        entry.took().unwrap_or_default(),
        harmless(&result),
        harmless(entry.text("submitted_by")),
        harmless(&entry.texts("commands").join(" && ")),
    ]
}

/// A name or a number; empty for anything else.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// All details of a job: one field per line, and its commands with their return codes.
fn details(entry: &Entry<'_>, now: SystemTime, terminal: Terminal) -> String {
    let commands = entry.texts("commands");
    let time = |key: &str| {
        let ago = entry.since(key, now).map_or(String::new(), |ago| format!(" ({ago} ago)"));
        format!("{}{ago}", entry.text(key))
    };
    let result = match entry.text("state") {
        "finished" => outcome::verdict(&entry.outcome(), &commands).how,
        _ => String::new(),
    };
    let queue = if entry.queue == NO_QUEUE { "" } else { entry.queue };
    let timeout = entry.job["timeout"].as_f64();
    let timeout = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let fields = [
        ("job", entry.id.to_owned()),
        ("queue", queue.to_owned()),
        ("state", entry.state().to_owned()),
        ("place in the queue", entry.text("queue_position").to_owned()),
        ("priority", entry.job["priority"].as_i64().map_or(String::new(), |n| n.to_string())),
        ("starts after", entry.texts("after").join(", ")),
        ("submitted by", entry.text("submitted_by").to_owned()),
        ("runs as", scalar(&entry.job["user"])),
        ("directory", entry.text("cwd").to_owned()),
        ("variables", entry.texts("env").join(" ")),
        ("timeout", timeout.map(span::show).unwrap_or_default()),
        ("started", time("time_started")),
        ("finished", time("time_finished")),
        ("result", result),
    ];
    let codes = entry.codes();
    let commands = commands.iter().enumerate().map(|(at, command)| {
        let ended = codes.get(at).map_or(String::new(), |code| format!(" (returned {code})"));
        (if at == 0 { "commands" } else { "" }, format!("{command}{ended}"))
    });
    let shown = fields.into_iter().filter(|(_, value)| !value.is_empty()).chain(commands);
    shown
        .map(|(name, value)| format!("{name:<18}  {}\n", escape::line(&value, terminal.unicode)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;
    use serde_json::json;
    use std::time::UNIX_EPOCH;

    fn sample() -> (Value, SystemTime) {
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
                "third": {"state": "pending", "commands": ["e"], "queue_position": "10",
                          "cwd": "/tmp", "env": ["A", "B\u{1b}"], "user": 1001, "timeout": 300.0},
                "second": {"state": "pending", "commands": ["d"], "queue_position": "9"}}}});
        (list, UNIX_EPOCH + Duration::from_secs(1_795_456_247))
    }

    const TERMINAL: Terminal = Terminal { colour: false, unicode: true };

    #[test]
    fn running_before_pending_before_finished() {
        let (list, now) = sample();
        let entries = entries(&list);
        let rows: Vec<_> = entries.iter().map(|entry| row(entry, now, TERMINAL)).collect();
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
    fn list_contains_only_requested_jobs() {
        let ids = |line: &[&str]| {
            let (mut list, now) = sample();
            parse(words(line)).unwrap().select(&mut list, now);
            entries(&list).iter().map(|entry| entry.id.to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(&[]), "now second third new old");
        assert_eq!(ids(&["--state", "pending"]), "second third");
        assert_eq!(ids(&["--queue", "no_queue", "--state=finished"]), "new old");
        assert_eq!(ids(&["--queue", "pkg"]), "second third");
        assert_eq!(ids(&["--since", "30m"]), "now second third new");
        assert_eq!(ids(&["old", "third", "none"]), "third old");
        for wrong in [&["--state", "done"][..], &["--since", "soon"], &["--page", "1"]] {
            assert!(matches!(parse(words(wrong)), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn job_details_show_all_known_fields() {
        let (list, now) = sample();
        let entries = entries(&list);
        let shown = |id: &str| {
            let entry = entries.iter().find(|entry| entry.id == id).unwrap();
            details(entry, now, TERMINAL)
        };
        assert_eq!(
            shown("old"),
            "\
job                 old
state               finished
submitted by        root
started             2026-11-23T17:00:00Z (50 m 47 s ago)
finished            2026-11-23T17:00:05Z (50 m 42 s ago)
result              timed out after 5 s
commands            a (returned 0)
                    b (returned -15)
"
        );
        assert_eq!(
            shown("third"),
            "\
job                 third
queue               pkg
state               pending
place in the queue  10
runs as             1001
directory           /tmp
variables           A B^[
timeout             5 m 00 s
commands            e
"
        );
        assert!(shown("now").contains("sh -c \"^[[2J\""));
    }

    #[test]
    fn list_without_jobs_has_no_entries() {
        assert!(entries(&json!({"jobs": {"no_queue": {}}})).is_empty());
        assert!(entries(&json!(null)).is_empty());
    }
}
