//! `pause`, `resume` and `queues`: queues of jobs.

use std::io::{self, IsTerminal};

use serde_json::{Value, json};

use super::exit::Exit;
use super::table::table;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use super::{Command, escape, write, write_json};
use crate::client::{Client, ClientError};
use crate::wire::JsonFields;

pub(super) const PAUSE: Command = Command {
    name: "pause",
    summary: "start no more jobs of a queue",
    help: concat!(
        "\
Pauses queues: no job of them starts until they are resumed, also after a
restart of the daemon. Jobs that run go on.

Usage: sysadm-events pause [TARGET] QUEUE [QUEUE...]

Options:
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events pause backup
"
    ),
    main: |words| set_paused(words, "pause", "paused"),
};

pub(super) const RESUME: Command = Command {
    name: "resume",
    summary: "start jobs of a paused queue again",
    help: concat!(
        "\
Resumes queues that were paused: their jobs start again.

Usage: sysadm-events resume [TARGET] QUEUE [QUEUE...]

Options:
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events resume backup
"
    ),
    main: |words| set_paused(words, "resume", "resumed"),
};

pub(super) const COMMAND: Command = Command {
    name: "queues",
    summary: "list queues of jobs",
    help: concat!(
        "\
Lists the queues that have active jobs, are configured or paused.

Usage: sysadm-events queues [TARGET] [--json]

PARALLEL is how many jobs of the queue run at a time.

Options:
  --json      the daemon's answer, its pages together
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events queues
"
    ),
    main: list,
};

fn set_paused(words: Words, action: &str, done: &str) -> Result<u8, Exit> {
    let (names, json, target) = parse(words)?;
    if names.is_empty() || json {
        return Err(Exit::usage(format!("which queue is to be {done}?")));
    }
    let mut daemon = target.connect()?;
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    for name in &names {
        daemon.call("rpc", "dispatcher", json!({ "action": action, "queue": name }))?;
        write(&format!("{}: {done}\n", escape::line(name, terminal.unicode || name.is_ascii())))?;
    }
    Ok(0)
}

fn list(words: Words) -> Result<u8, Exit> {
    let (names, json, target) = parse(words)?;
    if let Some(name) = names.first() {
        return Err(Exit::usage(format!("unexpected argument {name:?}")));
    }
    let queues = queues(&mut target.connect()?)?;
    if json {
        write_json(&format!("{}\n", json!({ "queues": queues })))?;
        return Ok(0);
    }
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    let rows: Vec<[String; 5]> = queues
        .iter()
        .map(|(name, queue)| {
            let state = if queue["paused"] == true { "paused" } else { "active" };
            let number = |key: &str| queue[key].as_u64().map_or("?".into(), |n| n.to_string());
            let name = escape::line(name, terminal.unicode);
            [name, state.into(), number("running"), number("pending"), number("parallel")]
        })
        .collect();
    write(&table(["QUEUE", "STATE", "RUNNING", "PENDING", "PARALLEL"], &rows))?;
    Ok(0)
}

/// All queues of the daemon, by name.
pub(super) fn queues(daemon: &mut Client) -> Result<serde_json::Map<String, Value>, ClientError> {
    match daemon.queues()?.field("queues").clone() {
        Value::Object(queues) => Ok(queues),
        _ => Ok(serde_json::Map::new()),
    }
}

fn parse(mut words: Words) -> Result<(Vec<String>, bool, TargetOptions), Exit> {
    let (mut names, mut json, mut target) = (Vec::new(), false, TargetOptions::default());
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => json = true,
            Word::Option(_) => return Err(unexpected(&word)),
            Word::Value(name) => names.push(text(name)?),
        }
    }
    Ok((names, json, target))
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn pause_and_resume_take_names_of_queues() {
        assert_eq!(parse(words(&["a", "--socket", "/s", "b"])).unwrap().0, ["a", "b"]);
        for wrong in [&[][..], &["--json", "a"], &["-x", "a"]] {
            for main in [PAUSE.main, RESUME.main] {
                assert!(matches!(main(words(wrong)), Err(Exit::Usage(_))), "{wrong:?}");
            }
        }
        assert!(matches!((COMMAND.main)(words(&["a"])), Err(Exit::Usage(_))));
    }
}
