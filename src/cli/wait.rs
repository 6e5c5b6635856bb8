//! `wait`: waits until jobs have ended.

use serde_json::json;

use super::attached::{Attachment, End, Show, attach};
use super::exit::Exit;
use super::target::{TargetOptions, target_help};
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain};
use crate::client::{Feed, Incoming, News, Wait};
use crate::config::Home;

pub(super) const COMMAND: Command = Command {
    name: "wait",
    summary: "wait for the end of jobs",
    help: concat!(
        "\
Waits until jobs have ended. Exits 0 if all of them succeeded, else with the
code of the first one named that did not, like run.

Usage: sysadm-events wait [TARGET] [--any] ID [ID...]

Options:
  --any       until one of them has ended; exit with its code
  -h, --help  this text
",
        target_help!(),
        "
Example:
  sysadm-events wait nightly weekly
"
    ),
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let (mut target, mut any, mut ids) = (TargetOptions::default(), false, Vec::new());
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--any" => any = true,
            Word::Value(value) => ids.push(text(value)?),
            other @ Word::Option(_) => return Err(unexpected(&other)),
        }
    }
    if ids.is_empty() {
        return Err(Exit::usage("wait for which job?"));
    }
    let mut feed = Feed::connect(target.target(&Home::of_this_process())?)?;
    let new = |id| (Attachment::new(id, Show::Exactly), None);
    let mut jobs: Vec<(Attachment, Option<End>)> = ids.into_iter().map(new).collect();
    attach_all(&mut jobs, &mut feed)?;
    loop {
        match feed.next(&Wait::default())? {
            News::Incoming(Incoming::Event(frame)) => {
                for (attachment, end) in &mut jobs {
                    attachment.take(&frame)?;
                    let new = attachment.take_end();
                    if let Some(end) = new.as_ref().filter(|_| any) {
                        return Ok(end.exit_code());
                    }
                    *end = end.take().or(new);
                }
            }
            News::Incoming(_) => {}
            News::Lost(error) => complain(&format!("{error}; waiting for the daemon")),
            News::Back => attach_all(&mut jobs, &mut feed)?,
        }
        if jobs.iter().all(|(_, end)| end.is_some()) {
            let codes = jobs.iter().filter_map(|(_, end)| Some(end.as_ref()?.exit_code()));
            return Ok(codes.into_iter().find(|code| *code != 0).unwrap_or(0));
        }
    }
}

fn attach_all(jobs: &mut [(Attachment, Option<End>)], feed: &mut Feed) -> Result<(), Exit> {
    let how = json!({ "hold": false, "output": false });
    jobs.iter_mut()
        .filter(|(_, end)| end.is_none())
        .try_for_each(|(attachment, _)| attach(attachment, feed, &how))
}
