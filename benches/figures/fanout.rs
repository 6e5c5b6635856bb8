//! Cost of fan-out: processor time of the daemon for each event and subscriber.
//!
//! Beside the daemon a bare loop writes the same frames to as many sockets, and the same code reads
//! both. Two loads:
//!
//! * *lines*: one job prints a line now and then, each is an event; the bare loop has its turn
//!   after each one, so that both run under the same conditions. This is the cost of an event.
//! * *jobs*: job after job of `true`, each three events, each a fork of the daemon, which then pays
//!   for its memory being shared with the child. This is the cost of events where there is a
//!   process behind every few of them.

use std::time::Duration;

use serde_json::json;
use support::{Daemon, Outcome, Peer, Process, Setup, Transport, server_frame};

use super::PROGRAM;
use super::bare::Bare;
use super::table::{Table, Verdict};

const SUBSCRIBERS: usize = 300;
const LINES: usize = 300;
/// Stands for the end of the job behind its lines.
const END: usize = usize::MAX;
/// Daemon and bare loop take turns, so that a busy moment of the machine falls on both.
const TURNS: usize = 4;
const JOBS_A_TURN: usize = 60;
const WARM_UP: usize = 10;
const PLAIN_LIMIT: f64 = 1.5;

/// One round as the first subscriber read it: its frames as they were on the wire.
type Round = Vec<Vec<u8>>;

/// Processor time and the events that it delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    cpu: Duration,
    events: usize,
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.cpu += other.cpu;
        self.events += other.events;
    }

    /// Microseconds an event.
    fn each(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events.max(1) as f64
    }
}

/// The daemon's cost and the bare loop's.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    daemon: Cost,
    bare: Cost,
}

/// A daemon with subscribers, and a bare loop with as many readers.
struct Stage {
    daemon: Daemon,
    control: Peer,
    subscribers: Vec<Peer>,
    bare: Bare,
}

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let mut stage = Stage::set(Transport::Plain)?;
    let plain = stage.lines()?;
    row(table, "an event", Transport::Plain, plain);
    row(table, "an event of short jobs", Transport::Plain, stage.jobs()?);
    drop(stage);
    let mut stage = Stage::set(Transport::Tls)?;
    let tls = stage.lines()?;
    row(table, "an event", Transport::Tls, tls);
    row(table, "an event of short jobs", Transport::Tls, stage.jobs()?);
    table.row(
        "  what TLS adds to an event",
        &format!("{:.2} us", tls.daemon.each() - plain.daemon.each()),
        &format!("{:.2} x of plain", tls.daemon.each() / plain.daemon.each()),
        "",
        Verdict::Told,
    );
    Ok(())
}

fn row(table: &mut Table, what: &str, transport: Transport, cost: Pair) {
    let (daemon, bare) = (cost.daemon.each(), cost.bare.each());
    let ratio = daemon / bare;
    let (target, verdict) = match transport {
        Transport::Plain | Transport::Unix => {
            (format!("<= {PLAIN_LIMIT} x bare"), Verdict::of(ratio <= PLAIN_LIMIT))
        }
        Transport::Tls | Transport::Tls12 => (String::new(), Verdict::Told),
    };
    table.row(
        &format!("{what}, to {SUBSCRIBERS} {} clients", transport.name()),
        &format!("{daemon:.2} us"),
        &format!("bare plain writes {bare:.2} us: {ratio:.2} x"),
        &target,
        verdict,
    );
}

impl Stage {
    fn set(transport: Transport) -> Outcome<Stage> {
        let daemon =
            Setup::new(PROGRAM)?.with("dispatcher.output_interval", r#""10ms""#).start()?;
        let control = Peer::local(&daemon)?;
        let subscribers = Peer::subscribers(&daemon, transport, SUBSCRIBERS)?;
        let bare = Bare::start(SUBSCRIBERS)?;
        let mut stage = Stage { daemon, control, subscribers, bare };
        let rounds = stage.jobs_of_daemon("warm", WARM_UP)?.1;
        stage.bare_turn(&rounds)?;
        Ok(stage)
    }

    /// One job that prints; the bare loop has its turn after each event.
    fn lines(&mut self) -> Outcome<Pair> {
        let command = format!(
            "sh -c 'i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.02; done'"
        );
        let (ours, theirs) = (self.daemon.process(), self.bare.process());
        let before = (ours.cpu()?, theirs.cpu()?);
        self.control.request("rpc", "dispatcher", &json!({ "action": "run", "lines": command }))?;
        let (mut events, mut bare_events) = (0, 0);
        // The last line that each has read: events that wait are joined, for some and not for others.
        let mut read = vec![0; SUBSCRIBERS];
        while read[0] < END {
            let mut frame = Vec::new();
            let mut line = 0;
            for (number, subscriber) in self.subscribers.iter_mut().enumerate() {
                while read[number] < line || number == 0 {
                    let text = subscriber.event()?;
                    events += 1;
                    read[number] = last_line(&text).unwrap_or(read[number]);
                    if number == 0 {
                        line = read[0];
                        frame = server_frame(&text);
                        break;
                    }
                }
            }
            self.bare.write(&[frame])?;
            for reader in &mut self.bare.readers {
                reader.event()?;
            }
            bare_events += SUBSCRIBERS;
        }
        Ok(Pair {
            daemon: Cost { cpu: ours.cpu()?.saturating_sub(before.0), events },
            bare: Cost { cpu: theirs.cpu()?.saturating_sub(before.1), events: bare_events },
        })
    }

    /// Short jobs, one after the other; daemon and bare loop in turns.
    fn jobs(&mut self) -> Outcome<Pair> {
        let mut pair = Pair::default();
        for turn in 0..TURNS {
            let (cost, rounds) = self.jobs_of_daemon(&format!("turn{turn}"), JOBS_A_TURN)?;
            pair.daemon.add(cost);
            pair.bare.add(self.bare_turn(&rounds)?);
        }
        Ok(pair)
    }

    /// Runs jobs, each when all have read all of the one before; also gives back what the first
    /// subscriber read.
    fn jobs_of_daemon(&mut self, name: &str, jobs: usize) -> Outcome<(Cost, Vec<Round>)> {
        let mut recorded = Vec::with_capacity(jobs);
        let cost = counted(self.daemon.process(), || {
            let mut events = 0;
            for number in 0..jobs {
                let id = format!("{name}-{number}");
                let request = json!({ "action": "run", id: "true" });
                self.control.request("rpc", "dispatcher", &request)?;
                let (read, frames) = read_round(&mut self.subscribers)?;
                events += read;
                recorded.push(frames);
            }
            Ok(events)
        })?;
        Ok((cost, recorded))
    }

    /// Has the bare loop write recorded rounds, and reads them.
    fn bare_turn(&mut self, rounds: &[Round]) -> Outcome<Cost> {
        counted(self.bare.process(), || {
            let mut events = 0;
            for frames in rounds {
                self.bare.write(frames)?;
                events += read_round(&mut self.bare.readers)?.0;
            }
            Ok(events)
        })
    }
}

/// Reads each subscriber up to the last event of the round. Returns the total number of events, and
/// the first subscriber's frames.
fn read_round(subscribers: &mut [Peer]) -> Outcome<(usize, Round)> {
    let mut events = 0;
    let mut frames = Vec::new();
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        loop {
            let text = subscriber.event()?;
            events += 1;
            if number == 0 {
                frames.push(server_frame(&text));
            }
            if is_last(&text) {
                break;
            }
        }
    }
    Ok((events, frames))
}

/// The number of the last line in an event of the job that prints lines, [`END`] of its end.
fn last_line(text: &str) -> Option<usize> {
    if is_last(text) {
        return Some(END);
    }
    let (_, rest) = text.rsplit_once("line ")?;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// A job's one finished event.
fn is_last(text: &str) -> bool {
    text.contains(r#""state":"finished""#)
}

/// The processor time that a process used while the work was done.
fn counted(process: Process, work: impl FnOnce() -> Outcome<usize>) -> Outcome<Cost> {
    let before = process.cpu()?;
    let events = work()?;
    let cpu = process.cpu()?.saturating_sub(before);
    Ok(Cost { cpu, events })
}
