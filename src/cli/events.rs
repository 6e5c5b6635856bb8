//! `events`: events of the last days, from the history of the daemon.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};

use serde_json::{Map, Value};

use super::exit::Exit;
use super::job::JobEvent;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, unexpected};
use super::{Command, complain, escape, span, state, write, write_json};
use crate::wire::{JsonFields, decimal, parse_rfc3339};
use crate::wording::counted;

pub(super) const COMMAND: Command = Command {
    name: "events",
    summary: "list events of the last days",
    help: concat!(
        "\
Lists events that the daemon has published, from its history on disk: when, the
priority, the kind and what happened. Of jobs without their output.

Usage: sysadm-events events [TARGET] [OPTIONS]

Options:
  --since T     events of this time or later: so long ago (seconds, or 10s, 5m,
                2h, 1d), or a time as 2026-11-23T17:50:47Z
  --until T     events of this time or earlier
  --priority N  events of this priority or a higher one, 0 to 10; those of jobs
                have none and are left out
  --kind K      dispatcher, life-preserver, system-state, alert or notice; may
                be repeated
  -n COUNT      only the last ones
  --json        the events as they are, one a line
  -h, --help    this text
",
        target_help!(),
        "
A line on missing events stands where the history lost some. Exits 0.

Examples:
  sysadm-events events --since 2d --priority 6
  sysadm-events events --since 12h --kind dispatcher -n 20
"
    ),
    main,
};

#[derive(Debug, Default, PartialEq)]
struct Arguments {
    /// As it goes to the daemon.
    question: Map<String, Value>,
    kinds: Vec<String>,
    last: Option<usize>,
    json: bool,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let Arguments { mut question, kinds, last, json, target } = parse(words)?;
    if !kinds.is_empty() {
        question.insert("events".into(), kinds.into());
    }
    let mut daemon = target.connect()?;
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    let show = |event: &Value| if json { format!("{event}\n") } else { line(event, terminal) };
    let print = |text: &str| if json { write_json(text) } else { write(text) };
    let mut tail: VecDeque<String> = VecDeque::new();
    loop {
        let page = daemon.call("rpc", "history", Value::Object(question.clone()))?;
        if page.field("lost") == true {
            complain("the oldest of these events were removed from the history meanwhile");
        }
        let events = page.field("events").as_array().map_or(&[][..], Vec::as_slice);
        match last {
            None => print(&events.iter().map(show).collect::<String>())?,
            Some(count) => {
                tail.extend(events.iter().map(show));
                tail.drain(..tail.len().saturating_sub(count));
            }
        }
        let next = page.field("next").clone();
        // A daemon that repeats itself would be asked for ever.
        if page.field("eof") != false || question.get("cursor") == Some(&next) {
            break;
        }
        question.insert("cursor".into(), next);
    }
    print(&String::from_iter(tail))?;
    Ok(0)
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => arguments.json = true,
            Word::Option(name) if name == "--kind" => arguments.kinds.push(words.value()?),
            Word::Option(name) if name == "--since" || name == "--until" => {
                let given = words.value()?;
                let time = match span::parse(&given) {
                    Some(span) => span.as_secs().into(),
                    None if parse_rfc3339(&given).is_some() => Value::from(given),
                    None => {
                        let how = "say seconds, or 10s, 5m, 2h, 1d, or 2026-11-23T17:50:47Z";
                        return Err(Exit::usage(format!("{name} {given:?}: {how}")));
                    }
                };
                arguments.question.insert(name[2..].to_owned(), time);
            }
            Word::Option(name) if name == "--priority" => {
                let given = words.value()?;
                let number = decimal::<u8>(&given).filter(|number| *number <= 10);
                let wrong = || Exit::usage(format!("--priority {given:?}: say 0 to 10"));
                arguments.question.insert("priority".into(), number.ok_or_else(wrong)?.into());
            }
            Word::Option(name) if name == "-n" => {
                let given = words.value()?;
                let count = decimal(&given).filter(|count| (1..=100_000).contains(count));
                let wrong = || Exit::usage(format!("-n {given:?}: say 1 to 100000"));
                arguments.last = Some(count.ok_or_else(wrong)?);
            }
            other => return Err(unexpected(&other)),
        }
    }
    Ok(arguments)
}

/// An event in a line.
fn line(event: &Value, terminal: Terminal) -> String {
    let args = &event["args"];
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let priority = args["priority"].as_str().and_then(|priority| priority.split(' ').next());
    let kind = event["name"].as_str().unwrap_or("?").replace('_', "-");
    let what = match &*kind {
        "dispatcher" => match JobEvent::read(args) {
            Some(job) if args_of(args)["state"] == "finished" => {
                format!("{}: {}", job.id, job.verdict().how)
            }
            Some(job) => format!("{}: {}", job.id, text(&args_of(args)["state"])),
            None => args.to_string(),
        },
        "life-preserver" | "notice" => text(&args["message"]),
        "alert" => {
            format!("{} {}: {}", text(&args["key"]), text(&args["state"]), text(&args["message"]))
        }
        "system-state" => format!("{}: {}", text(&args["hostname"]), state::count(args)),
        "queue" => format!("queue {}: {}", text(&args["queue"]), text(&args["state"])),
        "gap" => match args["missed"].as_u64() {
            Some(missed) => format!("{} missing here", counted(missed.to_string(), "event")),
            None => "events are missing here".to_owned(),
        },
        _ => args.to_string(),
    };
    let shown =
        format!("{}  {:>2}  {kind:<14}  {what}", text(&event["time"]), priority.unwrap_or("-"));
    format!("{}\n", escape::line(&shown, terminal.unicode))
}

/// The event of a job that a class has in an envelope.
fn args_of(args: &Value) -> &Value {
    args.get("process_details").unwrap_or(args)
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_of_events_go_to_the_daemon() {
        let line = ["--since", "2d", "--until=2026-11-23T17:50:47Z", "--priority", "6", "-n", "5"];
        let arguments = parse(words(&[&line[..], &["--kind", "dispatcher"]].concat())).unwrap();
        let question = json!({"since": 172_800, "until": "2026-11-23T17:50:47Z", "priority": 6});
        assert_eq!(Value::Object(arguments.question), question);
        assert_eq!((arguments.last, arguments.kinds.len()), (Some(5), 1));
        for wrong in [
            &["--since", "yesterday"][..],
            &["--until", "0"],
            &["--priority", "11"],
            &["-n", "0"],
            &["-n", "x"],
            &["dispatcher"],
        ] {
            assert!(matches!(parse(words(wrong)), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn each_kind_of_event_has_a_line() {
        let terminal = Terminal { colour: false, unicode: true };
        let shown = |name: &str, args: Value| {
            line(&json!({"name": name, "time": "T", "args": args}), terminal)
        };
        let message = json!({"message": "New \u{1b}snapshot", "priority": "1 - Information"});
        assert_eq!(shown("life_preserver", message), "T   1  life-preserver  New ^[snapshot\n");
        let job = json!({"state": "finished", "process_id": "j", "cmd_list": ["a"],
                         "return_codes/a": "3", "result": "failed", "exit_code": 3,
                         "failed_command": 0});
        assert_eq!(shown("dispatcher", job), "T   -  dispatcher      j: exit 3\n");
        let job = json!({"state": "pending", "process_id": "j", "cmd_list": ["a"]});
        assert_eq!(shown("dispatcher", job), "T   -  dispatcher      j: pending\n");
        let queue = json!({"queue": "q", "state": "paused"});
        assert_eq!(shown("queue", queue), "T   -  queue           queue q: paused\n");
        let gap = shown("gap", json!({"missed": 12}));
        assert_eq!(gap, "T   -  gap             12 events missing here\n");
        assert!(
            shown("system_state", json!({"hostname": "h", "priority": "9 - X"})).contains(" 9 ")
        );
        assert!(shown("new_kind", json!({"x": 1})).contains("{\"x\":1}"));
    }
}
