//! `watch`: events as they happen, for a person or for a pipe.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags};
use serde_json::{Map, Value, json};

use super::exit::Exit;
use super::finished_jobs::{Admission, FinishedJobs};
use super::fleet;
use super::screen::Screen;
use super::target::{TargetOptions, target_help};
use super::terminal::{Terminal, can_be_drawn_over};
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, write, write_json};
use crate::client::{Client, Feed, Frame, Incoming, News, StreamPosition, Target, Wait};
use crate::config::Home;
use crate::sys::local_time::local_time;
use crate::sys::window;
use crate::wire::{EventName, decimal};

pub(super) const COMMAND: Command = Command {
    name: "watch",
    summary: "follow events",
    help: concat!(
        "\
Follows events as they happen, until it is interrupted. A lost connection is
made again, and what was missed is told, or that something was (a gap).

Usage: sysadm-events watch [EVENT...] [TARGET] [--json] [--since SEQ]
                           [--verbose]

  EVENT       dispatcher (jobs), life-preserver (snapshots, replication) or
              system-state (host name, pools); all three where none is named

With --url of a bridge, and --key, but no --via: the events of all hosts behind
it whose certificates known_hosts has, each with its host.

On a terminal: a line an event, the output of a job beneath it; a replication
under way is a bar at the foot. Into a pipe, or with --json: the frames as they
came, one a line. Each finished job is shown once: those that ended while the
daemon or the connection was away are counted in one line.

Options:
  --json       frames also on a terminal
  --since SEQ  begin behind the event of this number (seq in the frames), or
               EPOCH:SEQ where the daemon may have been restarted since
  --verbose    also jobs that ended meanwhile, each with its time
  -h, --help   this text
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
    verbose: bool,
    since: Option<Since>,
    target: TargetOptions,
}

/// Start of the events.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Since {
    /// Defaults to that of the running daemon.
    epoch: Option<String>,
    seq: u64,
}

fn main(words: Words) -> Result<u8, Exit> {
    let arguments = parse(words)?;
    let home = Home::of_this_process();
    let names: Vec<&str> = arguments.events.iter().map(|event| event.canonical()).collect();
    // The object form: so that each event has its number and time.
    let mut subscription = Map::new();
    subscription.insert("events".to_owned(), json!(names));
    if let Some(bridge) = arguments.target.bridge_of_all(&home)? {
        if arguments.since.is_some() {
            return Err(Exit::usage("--since is for one host: see --via"));
        }
        return fleet::watch(bridge, subscription, arguments.json);
    }
    let target = arguments.target.target(&home)?;
    let since = arguments.since.map(|since| place(since, &target)).transpose()?;
    let mut feed = Feed::begin(target, subscription, since)?;
    let stdout = io::stdout();
    if arguments.json || !stdout.is_terminal() {
        return follow(&mut feed, true, |news| match news {
            Shown::Event(frame) => write_json(&format!("{}\n", frame.text())),
            Shown::Remark(remark) => {
                complain(&remark);
                Ok(())
            }
        });
    }
    let mut screen = Screen::new(Terminal::of_this_process(true), local_time);
    if can_be_drawn_over(|name| std::env::var_os(name)) {
        screen = screen.with_bars(window::columns);
    }
    let followed = follow(&mut feed, arguments.verbose, |news| match news {
        Shown::Event(frame) => write(&screen.show(&frame.value()?, SystemTime::now())),
        Shown::Remark(remark) => write(&screen.remark(&remark, SystemTime::now())),
    });
    write(&screen.end())?;
    followed
}

/// The position given by `--since`.
fn place(since: Since, target: &Target) -> Result<StreamPosition, Exit> {
    let seq = since.seq;
    if let Some(epoch) = since.epoch {
        return Ok(StreamPosition { epoch, seq });
    }
    let status = Client::connect(target)?.call("rpc", "status", Value::Null)?;
    let epoch = status["epoch"].as_str().unwrap_or_default().to_owned();
    Ok(StreamPosition { epoch, seq })
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => arguments.json = true,
            Word::Option(name) if name == "--verbose" => arguments.verbose = true,
            Word::Option(name) if name == "--since" => {
                let number = words.value()?;
                let wrong =
                    || Exit::usage(format!("--since {number:?} is not the number of an event"));
                let (epoch, seq) = match number.split_once(':') {
                    Some((epoch, seq)) => (Some(epoch.to_owned()), seq),
                    None => (None, number.as_str()),
                };
                let seq = decimal(seq).ok_or_else(wrong)?;
                arguments.since = Some(Since { epoch, seq });
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

/// Missed ends are reported after this time without a further one.
const MISSED: Duration = Duration::from_millis(300);

/// Item for the reader.
enum Shown {
    Event(Frame),
    /// A message of this program.
    Remark(String),
}

/// Prints each event until an error, or until the reader closes standard output, which is noticed
/// at once. `verbose` shows missed ends one by one.
fn follow(
    feed: &mut Feed,
    verbose: bool,
    mut show: impl FnMut(Shown) -> Result<(), Exit>,
) -> Result<u8, Exit> {
    let stdout = io::stdout();
    let wake = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let mut finished_jobs = FinishedJobs::default();
    loop {
        // Missed ends arrive one after the other: they are reported after a short silence.
        let deadline = finished_jobs.has_missed().then(|| Instant::now() + MISSED);
        let news = feed.next(&Wait { deadline, wake: &wake })?;
        let admission = match &news {
            News::Incoming(Incoming::Event(frame)) => finished_jobs.admit(&frame.value()?),
            News::Incoming(_) | News::Lost(_) | News::Back => Admission::Show,
        };
        if admission == Admission::Show || verbose {
            let missed = finished_jobs.take_missed().filter(|_| !verbose);
            missed.map_or(Ok(()), |missed| show(Shown::Remark(missed)))?;
        }
        match news {
            News::Incoming(Incoming::Event(_)) if admission == Admission::Repeated => {}
            News::Incoming(Incoming::Event(_)) if admission == Admission::Missed && !verbose => {}
            News::Incoming(Incoming::Event(frame)) => show(Shown::Event(frame))?,
            News::Incoming(Incoming::Woken) => return Err(Exit::ReaderGone),
            News::Incoming(Incoming::Reply(_) | Incoming::Nothing) => {}
            News::Lost(error) => {
                show(Shown::Remark(format!("{error}; trying to come back")))?;
            }
            News::Back => show(Shown::Remark("connected again".to_owned()))?,
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
    fn target_options_are_accepted_in_any_position() {
        let arguments = parse(words(&["--socket", "/s", "dispatcher", "--since=5"])).unwrap();
        assert_eq!(arguments.events, [EventName::Dispatcher]);
        assert_eq!(arguments.since, Some(Since { epoch: None, seq: 5 }));
        let since = parse(words(&["--since", "e1:7"])).unwrap().since;
        assert_eq!(since, Some(Since { epoch: Some("e1".into()), seq: 7 }));
        assert_ne!(arguments.target, TargetOptions::default());
    }

    #[test]
    fn unknown_event_is_rejected_with_the_known_ones() {
        let Err(Exit::Usage(said)) = parse(words(&["weather"])) else { panic!() };
        assert!(said.contains("dispatcher, life-preserver, system-state"), "{said}");
        assert!(matches!(parse(words(&["--since", "yesterday"])), Err(Exit::Usage(_))));
        assert!(matches!(parse(words(&["--jsn"])), Err(Exit::Usage(_))));
    }
}
