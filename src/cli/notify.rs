//! `notify`: targets of notifications, and what waits for them.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::Duration;

use serde_json::{Value, json};

use super::exit::Exit;
use super::table::table;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, unexpected};
use super::{Command, escape, span, write, write_json};
use crate::wire::JsonFields;

pub(super) const COMMAND: Command = Command {
    name: "notify",
    summary: "test notifications, and show what waits",
    help: concat!(
        "\
Shows the targets of notifications ([[notify]] in the configuration) and the
events that wait for them, or sends a message to test a target.

Usage: sysadm-events notify [TARGET] [--queue] [--json]
       sysadm-events notify [TARGET] --test NAME [--json]

Options:
  --queue      the targets, and the events that wait (the default)
  --test NAME  send a message to this target at once, and print what came back;
               exits 1 if the target did not accept it
  --json       the daemon's reply as JSON
  -h, --help   this text
",
        target_help!(),
        "
Example:
  sysadm-events notify --test mail
"
    ),
    main,
};

fn main(words: Words) -> Result<u8, Exit> {
    let (test, json, target) = parse(words)?;
    let mut client = target.connect()?;
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    let args = match &test {
        Some(name) => json!({ "action": "test", "name": name }),
        None => json!({ "action": "queue" }),
    };
    let reply = client.call("rpc", "notify", args)?;
    let exit = u8::from(test.is_some() && reply.field("accepted") != true);
    if json {
        write_json(&format!("{reply}\n"))?;
    } else if let Some(name) = &test {
        write(&tested(name, &reply, terminal))?;
    } else {
        write(&queues(&reply, terminal))?;
    }
    Ok(exit)
}

fn parse(mut words: Words) -> Result<(Option<String>, bool, TargetOptions), Exit> {
    let (mut test, mut queue, mut json) = (None, false, false);
    let mut target = TargetOptions::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--test" => test = Some(words.value()?),
            Word::Option(name) if name == "--queue" => queue = true,
            Word::Option(name) if name == "--json" => json = true,
            other => return Err(unexpected(&other)),
        }
    }
    if queue && test.is_some() {
        return Err(Exit::usage("--queue and --test exclude each other".to_owned()));
    }
    Ok((test, json, target))
}

fn shown(value: &Value, terminal: Terminal) -> String {
    match value {
        Value::String(text) => escape::line(text, terminal.unicode),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn tested(name: &str, reply: &Value, terminal: Terminal) -> String {
    let state = if reply["accepted"] == true { "accepted" } else { "not accepted" };
    let name = escape::line(name, terminal.unicode);
    format!("{name}: {state}: {}\n", shown(&reply["reply"], terminal))
}

fn queues(reply: &Value, terminal: Terminal) -> String {
    let targets = reply["targets"].as_array().map_or(&[][..], Vec::as_slice);
    if targets.is_empty() {
        return "no notification is configured ([[notify]])\n".to_owned();
    }
    let rows: Vec<[String; 7]> = targets
        .iter()
        .map(|target| {
            let next = target["next"].as_u64().map_or(String::new(), |seconds| {
                format!("in {}", span::show(Duration::from_secs(seconds)))
            });
            let of = |key: &str| shown(&target[key], terminal);
            let why = of("error");
            [of("name"), of("state"), of("waiting"), of("delivered"), of("dropped"), next, why]
        })
        .collect();
    let headings = ["NAME", "STATE", "WAITING", "SENT", "DROPPED", "NEXT", "WHY"];
    let mut page = table(headings, &rows);
    let waiting = reply["waiting"].as_array().map_or(&[][..], Vec::as_slice);
    if !waiting.is_empty() {
        page.push('\n');
    }
    for item in waiting {
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "{}  {}: {} ({})",
            shown(&item["at"], terminal),
            shown(&item["target"], terminal),
            shown(&item["message"], terminal),
            shown(&item["priority"], terminal)
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn queue_and_test_exclude_each_other() {
        assert_eq!(parse(words(&["--test", "mail"])).unwrap().0.as_deref(), Some("mail"));
        assert!(parse(words(&["--queue", "--json"])).unwrap().1);
        for wrong in [&["--test"][..], &["--queue", "--test", "a"], &["mail"]] {
            assert!(parse(words(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn targets_are_shown_with_the_reason_of_a_wait() {
        let terminal = Terminal::of_this_process(false);
        let reply = json!({
            "targets": [{ "name": "mail", "state": "retrying", "waiting": 1, "delivered": 2,
                          "dropped": 0, "next": 61, "error": "exit code 75\u{1b}" }],
            "waiting": [{ "target": "mail", "message": "tank DEGRADED", "priority": "9 - Urgent",
                          "at": "2026-11-29T01:00:00Z" }],
        });
        let page = queues(&reply, terminal);
        assert!(page.starts_with("NAME  STATE     WAITING  SENT  DROPPED  NEXT"), "{page}");
        assert!(page.contains("exit code 75") && !page.contains('\u{1b}'), "{page}");
        assert!(page.ends_with("Z  mail: tank DEGRADED (9 - Urgent)\n"), "{page}");
        assert!(queues(&json!({ "targets": [] }), terminal).starts_with("no notification"));
    }
}
