//! `emit`: a notice of a script, or its alert.

use std::io::{self, IsTerminal};

use serde_json::{Map, Value};

use super::exit::Exit;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use super::{Command, escape, write};
use crate::wire::{EMITTED, JsonFields, decimal};

pub(super) const COMMAND: Command = Command {
    name: "emit",
    summary: "report something from a script",
    help: concat!(
        "\
Publishes a message. With a key it raises the alert custom/USER/KEY, or clears
it with --ok; without one it is an event \"notice\". Ends when that is durable.

Usage: sysadm-events emit [TARGET] [OPTIONS] MESSAGE...
       sysadm-events emit [TARGET] --key KEY --ok [MESSAGE...]

Options:
  --key KEY     the alert: letters, digits and -_.:/; a private key for another
                host is the default one, or that of its entry in hosts.toml
  --ok          all is well: clears the alert, and satisfies an [[expect]]
  --priority N  0 to 10; 5 for an alert and 1 for a notice by default
  --class C     class of a notice, for its receivers
  -h, --help    this text
",
        target_help!(),
        "
Examples:
  sysadm-events emit --key offsite --priority 7 'no tape in the drive'
  sysadm-events emit --key offsite --ok
"
    ),
    main,
};

fn main(words: Words) -> Result<u8, Exit> {
    let (mut args, target) = parse(words)?;
    args.insert("action".to_owned(), "emit".into());
    let reply = target.connect()?.call("rpc", "events", Value::Object(args))?;
    if let (Some(key), Some(state)) = (reply.field("key").as_str(), reply.field("state").as_str()) {
        let terminal = Terminal::of_this_process(io::stdout().is_terminal());
        let shown = escape::line(&format!("{key}: {state}"), terminal.unicode);
        write(&format!("{shown}\n"))?;
    }
    Ok(0)
}

fn parse(mut words: Words) -> Result<(Map<String, Value>, TargetOptions), Exit> {
    let (mut args, mut target) = (Map::new(), TargetOptions::default());
    let mut message: Vec<String> = Vec::new();
    while let Some(word) = words.next()? {
        match word {
            // Here it is not that of the target.
            Word::Option(name) if name == "--key" || name == "--class" => {
                args.insert(name[2..].to_owned(), words.value()?.into());
            }
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--ok" => {
                args.insert("ok".to_owned(), true.into());
            }
            Word::Option(name) if name == "--priority" => {
                let given = words.value()?;
                let number = decimal::<u8>(&given).filter(|number| *number <= 10);
                let wrong = || Exit::usage(format!("--priority {given:?}: say 0 to 10"));
                args.insert("priority".to_owned(), number.ok_or_else(wrong)?.into());
            }
            Word::Option(_) => return Err(unexpected(&word)),
            Word::Value(value) => message.push(text(value)?),
        }
    }
    let message = message.join(" ");
    if args.contains_key("ok") && !args.contains_key("key") {
        return Err(Exit::usage("--ok needs --key"));
    }
    if message.is_empty() && !args.contains_key("ok") {
        return Err(Exit::usage("which message?"));
    }
    if message.len() > EMITTED {
        let length = message.len();
        return Err(Exit::usage(format!("the message has {length} bytes: at most {EMITTED}")));
    }
    if !message.is_empty() {
        args.insert("message".to_owned(), message.into());
    }
    Ok((args, target))
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;
    use serde_json::json;

    #[test]
    fn words_of_the_message_are_joined() {
        let (args, _) = parse(words(&["--key", "a", "no", "tape", "--priority", "7"])).unwrap();
        let expected = json!({"key": "a", "priority": 7, "message": "no tape"});
        assert_eq!(Value::Object(args), expected);
        assert!(parse(words(&["--key", "a", "--ok"])).is_ok());
        let long = "x".repeat(EMITTED + 1);
        for wrong in [&[][..], &["--ok"], &["--key"], &["--priority", "11", "a"], &[long.as_str()]]
        {
            assert!(matches!(parse(words(wrong)), Err(Exit::Usage(_))), "{}", wrong.len());
        }
    }
}
