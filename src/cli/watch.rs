//! `watch`: events as they happen, for a person or for a pipe.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::SystemTime;

use nix::poll::{PollFd, PollFlags};
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGCONT, SIGWINCH};

use super::canvas::Canvas;
use super::exit::Exit;
use super::interrupt::Notice;
use super::job::remove_output;
use super::screen::Screen;
use super::selection::{Selection, Shown, Wanted};
use super::target::{TargetOptions, target_help};
use super::terminal::{Terminal, can_be_drawn_over};
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, fleet, span, write, write_json};
use crate::client::{Client, Feed, Frame, Incoming, News, StreamPosition, Target, Wait};
use crate::config::Home;
use crate::sys::local_time::local_time;
use crate::sys::window;
use crate::wire::{EventName, JsonFields, decimal};

pub(super) const COMMAND: Command = Command {
    name: "watch",
    summary: "follow events",
    help: concat!(
        "\
Follows events as they happen, until it is interrupted. Reconnects after a lost
connection, and shows missed events, or that some are not available (a gap).

Usage: sysadm-events watch [EVENT...] [TARGET] [OPTIONS]

  EVENT       dispatcher (jobs), life-preserver (snapshots, replication) or
              system-state (host name, pools); these three by default,
              dispatcher if a job or a queue is named; alert, notice

On a terminal, or with --text: a line per event, and a line for each line that a
job prints, after the job's name. Lines are cut to the width of the terminal.
At the bottom are running replications, and the incomplete line of each job; a
line that a job overwrites is shown in its last state. To a pipe, or with
--json: the frames unchanged, one per line. Each finished job is shown once:
those that ended while the daemon or the connection was down are counted in one
line.

Options:
  --job ID      only this job; may be repeated
  --queue Q     only jobs of this queue; no_queue for those without one
  --priority N  only snapshots, replications and states of at least this
                priority, 0 to 10
  --no-output   without output of jobs
  --since T     also past events, as far as the daemon has them: of at most this
                age (10s, 5m, 2h, 1d), or after the event of this number
                (seq in the frames; EPOCH:SEQ where the daemon may have been
                restarted since)
  -n COUNT      also this many past events
  --text        text to a pipe too
  --wide        lines are not cut
  --json        frames on a terminal too
  --verbose     also jobs that ended meanwhile, each with its time
  -h, --help    this text

With --url of a bridge, and --key, but no --via: the events of all hosts behind
it whose certificates known_hosts has, each with its host.
",
        target_help!(),
        "
Examples:
  sysadm-events watch
  sysadm-events watch --queue backup --since 1h
  sysadm-events watch system-state --json | jq .args.zpools
"
    ),
    main,
};

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    events: Vec<EventName>,
    jobs: Vec<String>,
    priority: Option<u8>,
    json: bool,
    text: bool,
    wide: bool,
    no_output: bool,
    since: Option<Since>,
    wanted: Wanted,
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
    let subscription = arguments.subscription();
    let is_terminal = io::stdout().is_terminal();
    let is_text = arguments.text || (is_terminal && !arguments.json);
    if let Some(bridge) = arguments.target.bridge_of_all(&home)? {
        let wanted = &arguments.wanted;
        if arguments.since.is_some() || wanted.since.is_some() || wanted.count.is_some() {
            return Err(Exit::usage("--since and -n are for one host: see --via"));
        }
        let view = arguments.view(is_text, is_terminal);
        return fleet::watch(bridge, subscription, arguments.wanted, view);
    }
    let target = arguments.target.target(&home)?;
    let since = match &arguments.since {
        Some(since) => Some(place(since, &target)?),
        // No daemon has this epoch: it sends all its events.
        None if arguments.wanted.since.is_some() || arguments.wanted.count.is_some() => {
            Some(StreamPosition { epoch: String::new(), seq: 0 })
        }
        None => None,
    };
    let mut view = arguments.view(is_text, is_terminal);
    let selection = Selection::new(arguments.wanted, SystemTime::now());
    let mut feed = Feed::begin(target, subscription, since)?;
    let followed = follow(&mut feed, selection, &mut view);
    view.end()?;
    followed
}

/// The position given by `--since`.
fn place(since: &Since, target: &Target) -> Result<StreamPosition, Exit> {
    let seq = since.seq;
    if let Some(epoch) = &since.epoch {
        return Ok(StreamPosition { epoch: epoch.clone(), seq });
    }
    let status = Client::connect(target)?.call("rpc", "status", Value::Null)?;
    let epoch = status.field("epoch").as_str().unwrap_or_default().to_owned();
    Ok(StreamPosition { epoch, seq })
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => arguments.json = true,
            Word::Option(name) if name == "--text" => arguments.text = true,
            Word::Option(name) if name == "--wide" => arguments.wide = true,
            Word::Option(name) if name == "--no-output" => arguments.no_output = true,
            Word::Option(name) if name == "--verbose" => arguments.wanted.verbose = true,
            Word::Option(name) if name == "--job" => arguments.jobs.push(words.value()?),
            Word::Option(name) if name == "--queue" => {
                arguments.wanted.queue = Some(words.value()?);
            }
            Word::Option(name) if name == "--priority" => {
                let given = words.value()?;
                let priority = decimal(&given).filter(|priority| *priority <= 10);
                let wrong = || Exit::usage(format!("--priority {given:?}: say 0 to 10"));
                arguments.priority = Some(priority.ok_or_else(wrong)?);
            }
            Word::Option(name) if name == "-n" => {
                let given = words.value()?;
                let wrong = || Exit::usage(format!("-n {given:?}: say how many events"));
                arguments.wanted.count = Some(decimal(&given).ok_or_else(wrong)?);
            }
            Word::Option(name) if name == "--since" => {
                let given = words.value()?;
                let (epoch, seq) = match given.split_once(':') {
                    Some((epoch, seq)) => (Some(epoch.to_owned()), seq),
                    None => (None, given.as_str()),
                };
                arguments.since = decimal(seq).map(|seq| Since { epoch, seq });
                arguments.wanted.since = span::parse(&given).filter(|_| arguments.since.is_none());
                if arguments.since.is_none() && arguments.wanted.since.is_none() {
                    return Err(Exit::usage(format!(
                        "--since {given:?}: say 10s, 5m, 2h, 1d, or the number of an event"
                    )));
                }
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
    if arguments.text && arguments.json {
        return Err(Exit::usage("--text or --json: only one can be had"));
    }
    let is_of_jobs = !arguments.jobs.is_empty() || arguments.wanted.queue.is_some();
    if arguments.events.is_empty() && is_of_jobs {
        arguments.events.push(EventName::Dispatcher);
    } else if arguments.events.is_empty() {
        arguments.events = EventName::ORIGINAL.to_vec();
    }
    // The end of a named job is of interest.
    arguments.wanted.verbose |= !arguments.jobs.is_empty();
    Ok(arguments)
}

fn event_name(name: &str) -> Result<EventName, Exit> {
    EventName::parse(name).ok_or_else(|| {
        let known = EventName::ALL.map(EventName::canonical).join(", ");
        Exit::usage(format!("there is no event {name:?}; there are {known}"))
    })
}

impl Arguments {
    /// The object form: so that each event has its number and time.
    fn subscription(&self) -> Map<String, Value> {
        let names: Vec<&str> = self.events.iter().map(|event| event.canonical()).collect();
        let mut subscription = Map::new();
        subscription.insert("events".to_owned(), json!(names));
        if !self.jobs.is_empty() {
            subscription.insert("jobs".to_owned(), json!(self.jobs));
        }
        if let Some(priority) = self.priority {
            subscription.insert("priority".to_owned(), priority.into());
        }
        subscription
    }

    fn view(&self, is_text: bool, is_terminal: bool) -> View {
        if !is_text {
            return View::Frames { without_output: self.no_output };
        }
        let terminal = Terminal::of_this_process(is_terminal);
        let canvas = if is_terminal {
            let has_foot = can_be_drawn_over(|name| std::env::var_os(name));
            Canvas::of_terminal(terminal, window::size, has_foot, !self.wide)
        } else {
            Canvas::of_pipe()
        };
        let screen = Screen::new(terminal, local_time, canvas);
        let screen = if self.no_output { screen.without_output() } else { screen };
        View::Text(Box::new(screen))
    }
}

/// Output form of events.
pub(super) enum View {
    Frames { without_output: bool },
    Text(Box<Screen>),
}

impl View {
    /// Shows an event; `host` is its host, where there are several.
    pub(super) fn event(
        &mut self,
        host: &str,
        frame: &Frame,
        mut value: Value,
    ) -> Result<(), Exit> {
        let without_output = match self {
            View::Text(screen) => return write(&screen.show(host, &value, SystemTime::now())),
            View::Frames { without_output } => *without_output,
        };
        let text = if without_output {
            remove_output(&mut value);
            value.to_string()
        } else {
            frame.text().to_owned()
        };
        write_json(&if host.is_empty() { text + "\n" } else { fleet::with_host(host, &text) })
    }

    /// Shows a message of this program.
    pub(super) fn remark(&mut self, host: &str, text: &str) -> Result<(), Exit> {
        match self {
            View::Text(screen) => write(&screen.remark(host, text, SystemTime::now())),
            View::Frames { .. } => {
                complain(text);
                Ok(())
            }
        }
    }

    pub(super) fn end(&mut self) -> Result<(), Exit> {
        match self {
            View::Text(screen) => write(&screen.end(SystemTime::now())),
            View::Frames { .. } => Ok(()),
        }
    }

    /// Signals after which the foot is redrawn.
    pub(super) fn notices(&self) -> io::Result<Vec<(Notice, bool)>> {
        match self {
            View::Text(screen) if screen.has_foot() => {
                Ok(vec![(Notice::of(SIGWINCH)?, false), (Notice::of(SIGCONT)?, true)])
            }
            View::Text(_) | View::Frames { .. } => Ok(Vec::new()),
        }
    }

    /// A wait has ended: by a notice, or because the reader has closed the pipe.
    pub(super) fn woken(&mut self, notices: &mut [(Notice, bool)]) -> Result<(), Exit> {
        let mut is_noticed = false;
        for (notice, is_resumed) in notices {
            if notice.take()
                && let View::Text(screen) = self
            {
                is_noticed = true;
                let now = SystemTime::now();
                write(&if *is_resumed { screen.resume(now) } else { screen.redraw(now) })?;
            }
        }
        if is_noticed { Ok(()) } else { Err(Exit::ReaderGone) }
    }
}

/// Shows each event until an error, or until the reader closes standard output, which is noticed at
/// once.
fn follow(feed: &mut Feed, mut selection: Selection, view: &mut View) -> Result<u8, Exit> {
    let stdout = io::stdout();
    let mut notices = view.notices()?;
    loop {
        let mut wake = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
        wake.extend(notices.iter().map(|(it, _)| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
        let news = feed.next(&Wait { deadline: selection.deadline(), wake: &wake })?;
        drop(wake);
        let shown = match news {
            News::Incoming(Incoming::Event(frame)) => {
                let value = frame.value()?;
                selection.take(frame, value)
            }
            News::Incoming(Incoming::Nothing) => selection.after_silence(),
            News::Incoming(Incoming::Reply(_)) => Vec::new(),
            News::Incoming(Incoming::Woken) => {
                view.woken(&mut notices)?;
                Vec::new()
            }
            News::Lost(error) => vec![Shown::Remark(format!("{error}; reconnecting"))],
            News::Back => vec![Shown::Remark("connected again".to_owned())],
        };
        for shown in shown {
            match shown {
                Shown::Event(frame, value) => view.event("", &frame, value)?,
                Shown::Remark(text) => view.remark("", &text)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn all_events_where_none_is_named() {
        assert_eq!(parse(words(&[])).unwrap().events, EventName::ORIGINAL);
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
        for wrong in [
            &["--since", "yesterday"][..],
            &["--jsn"],
            &["--priority", "11"],
            &["-n", "x"],
            &["--text", "--json"],
        ] {
            assert!(matches!(parse(words(wrong)), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn options_become_a_subscription_and_a_selection() {
        let line =
            ["--job", "a", "--job=b", "--priority", "6", "--since", "1h", "-n5", "--queue", "q"];
        let arguments = parse(words(&line)).unwrap();
        assert_eq!(
            Value::Object(arguments.subscription()),
            json!({"events": ["dispatcher"], "jobs": ["a", "b"], "priority": 6})
        );
        let Wanted { queue, since, count, verbose } = arguments.wanted;
        assert_eq!((queue.as_deref(), count, verbose), (Some("q"), Some(5), true));
        assert_eq!((since.map(|since| since.as_secs()), arguments.since), (Some(3600), None));
        let plain = parse(words(&["--since", "7"])).unwrap();
        assert_eq!((plain.since.map(|since| since.seq), plain.wanted.since), (Some(7), None));
    }
}
