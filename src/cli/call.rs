//! `call`: sends any request, for those without a command.

use std::io::{self, IsTerminal};

use serde_json::Value;

use super::exit::Exit;
use super::target::{TargetOptions, target_help};
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, write_json};
use crate::client::ClientError;

pub(super) const COMMAND: Command = Command {
    name: "call",
    summary: "send any request, print the reply",
    help: concat!(
        "\
Sends a request and prints the arguments of the reply.

Usage: sysadm-events call [TARGET] NAMESPACE NAME [ARGS-JSON]

Options:
  -h, --help  this text
",
        target_help!(),
        "
Exits 1 if the reply is an error, which is printed on standard error.

Examples:
  sysadm-events call rpc query
  sysadm-events call rpc dispatcher '{\"action\": \"list\"}'
"
    ),
    main,
};

#[derive(Debug, PartialEq)]
struct Arguments {
    namespace: String,
    name: String,
    args: Value,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let Arguments { namespace, name, args, target } = parse(words)?;
    let mut client = target.connect()?;
    let reply = match client.call(&namespace, &name, args) {
        Ok(reply) => reply,
        Err(ClientError::Refused(refused)) => {
            complain(&refused.to_string());
            return Ok(1);
        }
        Err(error) => return Err(error.into()),
    };
    let is_terminal = io::stdout().is_terminal();
    write_json(&if is_terminal { format!("{reply:#}\n") } else { format!("{reply}\n") })?;
    Ok(0)
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let (mut target, mut plain) = (TargetOptions::default(), Vec::new());
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Value(value) if plain.len() < 3 => plain.push(text(value)?),
            other => return Err(unexpected(&other)),
        }
    }
    let mut plain = plain.into_iter();
    let (Some(namespace), Some(name)) = (plain.next(), plain.next()) else {
        return Err(Exit::usage("a request has a NAMESPACE and a NAME"));
    };
    let args = match plain.next() {
        None => Value::Null,
        Some(json) => serde_json::from_str(&json)
            .map_err(|error| Exit::usage(format!("the arguments are not JSON: {error}")))?,
    };
    Ok(Arguments { namespace, name, args, target })
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request() {
        let arguments = parse(words(&["rpc", "dispatcher", r#"{"action": "list"}"#])).unwrap();
        assert_eq!((&*arguments.namespace, &*arguments.name), ("rpc", "dispatcher"));
        assert_eq!(arguments.args, json!({"action": "list"}));
        assert_eq!(parse(words(&["rpc", "query"])).unwrap().args, Value::Null);
        for wrong in
            [&["rpc"][..], &["rpc", "x", "{"], &["rpc", "x", "1", "2"], &["rpc", "x", "--y"]]
        {
            assert!(matches!(parse(words(wrong)), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }
}
