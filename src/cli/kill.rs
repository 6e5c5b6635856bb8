//! `kill`: ends jobs, including all their processes.

use std::io::{self, IsTerminal};

use serde_json::{Value, json};

use super::exit::Exit;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use super::{Command, escape, write};
use crate::wire::JsonFields;

pub(super) const COMMAND: Command = Command {
    name: "kill",
    summary: "end jobs",
    help: concat!(
        "\
Ends jobs: a pending one at once; a running one gets SIGTERM, with all its
descendants, and after a grace period SIGKILL.

Usage: sysadm-events kill [TARGET] ID [ID...]

Options:
  -h, --help  this text
",
        target_help!(),
        "
Exits 0 if at least one of the jobs was active, else 1. The others are reported
as finished or unknown; \"sysadm-events jobs\" lists the known ones.

Example:
  sysadm-events kill nightly
"
    ),
    main,
};

fn main(words: Words) -> Result<u8, Exit> {
    let (ids, target) = parse(words)?;
    let kill = json!({ "action": "kill", "job_id": ids });
    let mut daemon = target.connect()?;
    let reply = daemon.call("rpc", "dispatcher", kill)?;
    let active: Vec<&str> = reply
        .field("killed")
        .field("jobs")
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    // The reply names active jobs only. The jobs are being killed, whether they can be listed or
    // not.
    let is_complete = ids.iter().all(|id| active.contains(&&**id));
    let retained = (!is_complete)
        .then(|| daemon.call("rpc", "dispatcher", json!({ "action": "list" })).ok())
        .flatten();
    let is_retained = |id: &str| {
        retained.as_ref().is_none_or(|list| {
            let mut queues = list["jobs"].as_object().into_iter().flatten();
            queues.any(|(_, jobs)| jobs.get(id).is_some())
        })
    };
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    for id in &ids {
        let was = match id.as_str() {
            id if active.contains(&id) => "is being ended",
            id if is_retained(id) => "was not active",
            _ => "no such job",
        };
        write(&format!("{}: {was}\n", escape::line(id, terminal.unicode || id.is_ascii())))?;
    }
    Ok(u8::from(active.is_empty()))
}

fn parse(mut words: Words) -> Result<(Vec<String>, TargetOptions), Exit> {
    let (mut ids, mut target) = (Vec::new(), TargetOptions::default());
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(_) => return Err(unexpected(&word)),
            Word::Value(id) => ids.push(text(id)?),
        }
    }
    if ids.is_empty() {
        return Err(Exit::usage("which job is to be ended?"));
    }
    Ok((ids, target))
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn kill_requires_at_least_one_id() {
        assert_eq!(parse(words(&["a", "--socket", "/s", "b"])).unwrap().0, ["a", "b"]);
        assert!(matches!(parse(words(&[])), Err(Exit::Usage(_))));
        assert!(matches!(parse(words(&["-9", "a"])), Err(Exit::Usage(_))));
    }
}
