//! `attach`: the output of a running job, shown like by `run`.

use serde_json::json;

use super::Command;
use super::attached::{Attachment, Happened, INTERRUPTED, Show, attach};
use super::exit::Exit;
use super::interrupt::Interrupts;
use super::target::{TargetOptions, target_help};
use super::words::{Word, Words, text, unexpected};
use crate::client::Feed;
use crate::config::Home;

pub(super) const COMMAND: Command = Command {
    name: "attach",
    summary: "show a job's output so far, then live, exit with its code",
    help: concat!(
        "\
Shows the output of a job so far, then live, and exits with its code like run.
The job prints only as fast as its output is read. Ctrl-C detaches from the job.

Usage: sysadm-events attach [TARGET] [--no-hold] ID

Options:
  --no-hold   do not throttle the job: output beyond this command's speed is
              read from the job's log. Needs only the role read.
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events attach nightly
"
    ),
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let (mut target, mut hold, mut id) = (TargetOptions::default(), true, None);
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--no-hold" => hold = false,
            Word::Value(value) if id.is_none() => id = Some(text(value)?),
            other => return Err(unexpected(&other)),
        }
    }
    let id = id.ok_or_else(|| Exit::usage("attach to which job?"))?;
    let how = json!({ "hold": hold });
    let mut interrupts = Interrupts::watch()?;
    let mut feed = Feed::connect(target.target(&Home::of_this_process())?)?;
    let mut attachment = Attachment::new(id, Show::Exactly);
    attach(&mut attachment, &mut feed, &how)?;
    loop {
        match attachment.next(&mut feed, &mut interrupts)? {
            Happened::Ended(end) => return Ok(end.exit_code()),
            Happened::Interrupted => return Ok(INTERRUPTED),
            Happened::Back => attach(&mut attachment, &mut feed, &how)?,
            Happened::Reply(_) => {}
        }
    }
}
