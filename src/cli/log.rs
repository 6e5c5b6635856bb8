//! `log`: the output of a job.

use std::io::{self, IsTerminal};

use serde_json::json;

use super::Command;
use super::attached::{Attachment, Happened, INTERRUPTED, Show, attach};
use super::exit::Exit;
use super::interrupt::Interrupts;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use crate::client::Feed;
use crate::config::Home;

pub(super) const COMMAND: Command = Command {
    name: "log",
    summary: "print a job's output",
    help: concat!(
        "\
Prints the stored output of a job; of a running job, its output so far.

Usage: sysadm-events log [TARGET] [-f] [--raw] ID

On a terminal control characters are escaped, colours are dropped and the
commands of a chain are separated; to a pipe the output is written unchanged.
The number of bytes that are no longer stored (log_limit) is printed on standard
error.

Options:
  -f, --follow
              continue with live output until the job ends
  --raw       unchanged output on a terminal too
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
    follow: bool,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let arguments = parse(words)?;
    let is_terminal = io::stdout().is_terminal();
    let show = match Terminal::of_this_process(is_terminal) {
        Terminal { unicode, .. } if is_terminal && !arguments.raw => Show::Harmless { unicode },
        Terminal { .. } => Show::Log,
    };
    let how = json!({ "hold": false, "follow": arguments.follow });
    let mut interrupts = Interrupts::watch()?;
    let mut feed = Feed::connect(arguments.target.target(&Home::of_this_process())?)?;
    let mut attachment = Attachment::new(arguments.id, show);
    attach(&mut attachment, &mut feed, &how)?;
    loop {
        match attachment.next(&mut feed, &mut interrupts)? {
            Happened::Ended(end) => {
                let id = attachment.id.clone();
                match end.unknown() {
                    Some("running") if is_terminal => {
                        attachment.say("the job still runs; this is its output so far");
                    }
                    Some("running") => {}
                    Some(state) => attachment.say(&format!("the job is {state}")),
                    None if is_terminal => {
                        attachment.say(&format!("job {id} finished: {}", end.verdict().how));
                    }
                    None => {}
                }
                return Ok(0);
            }
            Happened::Interrupted => return Ok(INTERRUPTED),
            Happened::Back => attach(&mut attachment, &mut feed, &how)?,
            Happened::Reply(_) => {}
        }
    }
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    let mut id = None;
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--raw" => arguments.raw = true,
            Word::Option(name) if name == "-f" || name == "--follow" => arguments.follow = true,
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
    fn log_requires_one_id() {
        let arguments = parse(words(&["--raw", "j"])).unwrap();
        assert!(arguments.raw && !arguments.follow && arguments.id == "j");
        assert!(parse(words(&["-f", "j"])).unwrap().follow);
        for wrong in [&[][..], &["a", "b"], &["--json", "a"]] {
            assert!(matches!(parse(words(wrong)), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }
}
