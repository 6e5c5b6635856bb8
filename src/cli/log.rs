//! `log`: what a job has printed.

use std::io::{self, IsTerminal};

use serde_json::json;

use super::exit::Exit;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, escape, write};
use crate::client::sysexits;

pub(super) const COMMAND: Command = Command {
    name: "log",
    summary: "print a job's output",
    help: concat!(
        "\
Prints what a job has printed, as long as the daemon keeps it; of a job that
still runs, what there is so far.

Usage: sysadm-events log [TARGET] [--raw] ID

On a terminal control characters are made harmless and colours are dropped; into
a pipe the output goes as it is.

Options:
  --raw       as it is on a terminal too
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events log nightly | less
"
    ),
    main,
};

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    id: String,
    raw: bool,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let arguments = parse(words)?;
    let mut client = arguments.target.connect()?;
    let is_terminal = io::stdout().is_terminal();
    let terminal = Terminal::of_this_process(is_terminal);
    let mut offset = 0;
    loop {
        let page = json!({ "action": "log", "job_id": arguments.id, "offset": offset });
        let page = client.call("rpc", "dispatcher", page)?;
        let (Some(data), Some(next)) = (page["data"].as_str(), page["next"].as_u64()) else {
            return Err(Exit::failed(
                sysexits::PROTOCOL,
                "the daemon's answer holds no part of a log",
            ));
        };
        if is_terminal && !arguments.raw {
            write(&escape::text(data, terminal.unicode))?;
        } else {
            write(data)?;
        }
        if page["eof"] == true {
            return Ok(0);
        }
        // No end, and nothing more: it still runs.
        if next <= offset {
            if is_terminal {
                complain("the job still runs; this is its output so far");
            }
            return Ok(0);
        }
        offset = next;
    }
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    let mut id = None;
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--raw" => arguments.raw = true,
            Word::Value(value) if id.is_none() => id = Some(text(value)?),
            other => return Err(unexpected(&other)),
        }
    }
    arguments.id = id.ok_or_else(|| Exit::usage("the log of which job?"))?;
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn one_id() {
        let arguments = parse(words(&["--raw", "j"])).unwrap();
        assert!(arguments.raw && arguments.id == "j");
        for wrong in [&[][..], &["a", "b"], &["--json", "a"]] {
            assert!(matches!(parse(words(wrong)), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }
}
