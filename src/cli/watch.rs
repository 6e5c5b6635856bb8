//! `watch`: events as they happen, for a person or for a pipe.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::SystemTime;

use nix::poll::{PollFd, PollFlags};
use serde_json::json;

use super::exit::Exit;
use super::screen::Screen;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, write};
use crate::client::{Client, Frame, Incoming, Wait};
use crate::sys::local_time::local_time;
use crate::wire::EventName;

pub(super) const COMMAND: Command = Command {
    name: "watch",
    summary: "follow events",
    help: concat!(
        "\
Follows events as they happen, until it is interrupted.

Usage: sysadm-events watch [EVENT...] [TARGET] [--json]

  EVENT       dispatcher (jobs), life-preserver (snapshots, replication) or
              system-state (host name, pools); all three where none is named

On a terminal: a line an event, the output of a job beneath it. Into a pipe, or
with --json: the frames as they came, one a line.

Options:
  --json      frames also on a terminal
  -h, --help  this text
",
        target_help!(),
        "
Examples:
  sysadm-events watch
  sysadm-events watch system-state --json | jq .args.zpools
"
    ),
    main,
};

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    events: Vec<EventName>,
    json: bool,
    since: Option<u64>,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let arguments = parse(words)?;
    if arguments.since.is_some() {
        complain(
            "--since is not supported by this version; only what happens from now on is shown",
        );
    }
    let mut client = arguments.target.connect()?;
    subscribe(&mut client, &arguments.events)?;
    let stdout = io::stdout();
    if arguments.json || !stdout.is_terminal() {
        return follow(&mut client, |frame| write(&format!("{}\n", frame.text())));
    }
    let mut screen = Screen::new(Terminal::of_this_process(true), local_time);
    let followed =
        follow(&mut client, |frame| write(&screen.show(&frame.value()?, SystemTime::now())));
    write(&screen.end())?;
    followed
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => arguments.json = true,
            Word::Option(name) if name == "--since" => {
                let number = words.value()?;
                let wrong =
                    || Exit::usage(format!("--since {number:?} is not the number of an event"));
                arguments.since = Some(number.parse().map_err(|_| wrong())?);
            }
            Word::Option(_) => return Err(unexpected(&word)),
            Word::Value(name) => {
                let name = event_name(&text(name)?)?;
                if !arguments.events.contains(&name) {
                    arguments.events.push(name);
                }
            }
        }
    }
    if arguments.events.is_empty() {
        arguments.events = EventName::ALL.to_vec();
    }
    Ok(arguments)
}

fn event_name(name: &str) -> Result<EventName, Exit> {
    EventName::parse(name).ok_or_else(|| {
        let known = EventName::ALL.map(EventName::canonical).join(", ");
        Exit::usage(format!("there is no event {name:?}; there are {known}"))
    })
}

fn subscribe(client: &mut Client, events: &[EventName]) -> Result<(), Exit> {
    let names: Vec<&str> = events.iter().map(|event| event.canonical()).collect();
    // The object form: so that each event has its number and time.
    client.call("events", "subscribe", json!({ "events": names }))?;
    Ok(())
}

/// Hands on each event until the daemon or the reader goes. A reader is missed at once, not only
/// when there is something to be written to it.
fn follow(
    client: &mut Client,
    mut show: impl FnMut(&Frame) -> Result<(), Exit>,
) -> Result<u8, Exit> {
    let stdout = io::stdout();
    let wake = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let wait = Wait { deadline: None, wake: &wake };
    loop {
        match client.next(&wait)? {
            Incoming::Event(frame) => show(&frame)?,
            Incoming::Woken => return Err(Exit::ReaderGone),
            Incoming::Reply(_) | Incoming::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn all_events_where_none_is_named() {
        assert_eq!(parse(words(&[])).unwrap().events, EventName::ALL);
        let some = parse(words(&["system_state", "--json", "dispatcher", "System-State"])).unwrap();
        assert_eq!(some.events, [EventName::SystemState, EventName::Dispatcher]);
        assert!(some.json);
    }

    #[test]
    fn the_target_may_stand_anywhere() {
        let arguments = parse(words(&["--socket", "/s", "dispatcher", "--since=5"])).unwrap();
        assert_eq!(arguments.events, [EventName::Dispatcher]);
        assert_eq!(arguments.since, Some(5));
        assert_ne!(arguments.target, TargetOptions::default());
    }

    #[test]
    fn what_is_no_event_is_refused_with_those_there_are() {
        let Err(Exit::Usage(said)) = parse(words(&["weather"])) else { panic!() };
        assert!(said.contains("dispatcher, life-preserver, system-state"), "{said}");
        assert!(matches!(parse(words(&["--since", "yesterday"])), Err(Exit::Usage(_))));
        assert!(matches!(parse(words(&["--jsn"])), Err(Exit::Usage(_))));
    }
}
