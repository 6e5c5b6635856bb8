//! `run`: a job as if its commands had been run here: its output as it comes, its code at the end.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use std::os::fd::AsFd;

use super::exit::Exit;
use super::interrupt::Interrupts;
use super::job::{JobEvent, JobOutput, State};
use super::target::{TargetOptions, target_help};
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, span, write};
use crate::client::{Client, Frame, Incoming, Reply, Wait, sysexits};

pub(super) const COMMAND: Command = Command {
    name: "run",
    summary: "run a job, show its output, exit with its code",
    help: concat!(
        "\
Runs commands one after the other, until one fails, as one job of the daemon;
shows their output as it comes and exits with the last return code.

Usage: sysadm-events run [TARGET] [OPTIONS] COMMAND [COMMAND...]

Each COMMAND is one argument: a program and its arguments, in quotes. It is
split into words like a shell does, but run without one: no pipes, no variables,
no wildcards; say sh -c '...' where they are wanted. A job runs in / with an
environment of its own, and nothing to read from.

Options:
  --queue Q      wait for the jobs of this queue that came before; without it
                 the job starts at once
  --id ID        name the job; without it the name is random
  --timeout T    end the job after so long: seconds, or 10s, 5m, 2h, 1d
  --detach       print the job's id and leave it to itself
  -h, --help     this text
",
        target_help!(),
        "
Ctrl-C ends the job, and shows how it ended; a second one leaves at once.
Exits with the last return code, 128 + N after signal N, 127 where a command
could not be run.

Examples:
  sysadm-events run 'pkg update' 'pkg upgrade -y'
  sysadm-events run --queue backup --timeout 2h 'tar -cf /b/home.tar /home'
  sysadm-events run 'sh -c \"df -h | sort\"'
"
    ),
    main,
};

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    commands: Vec<String>,
    queue: Option<String>,
    id: Option<String>,
    timeout: Option<Duration>,
    detach: bool,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let arguments = parse(words)?;
    let mut client = arguments.target.connect()?;
    let id = match &arguments.id {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let submission = submission(&arguments, &id);
    if arguments.detach {
        client.call("rpc", "dispatcher", submission)?;
        write(&format!("{id}\n"))?;
        return Ok(0);
    }
    // From here on Ctrl-C is the job's, even if it comes before the job runs.
    let interrupts = Interrupts::watch().map_err(|error| {
        Exit::failed(sysexits::UNAVAILABLE, format!("cannot listen for Ctrl-C: {error}"))
    })?;
    let bygone = match &arguments.id {
        Some(id) => bygone(&mut client, id)?,
        None => None,
    };
    client.call("events", "subscribe", json!({ "events": ["dispatcher"], "jobs": [id] }))?;
    client.call("rpc", "dispatcher", submission)?;
    let job =
        Job { id, bygone, seen: false, output: JobOutput::default(), reader: Reader::default() };
    job.follow(&mut client, interrupts)
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--queue" => arguments.queue = Some(words.value()?),
            Word::Option(name) if name == "--id" => arguments.id = Some(words.value()?),
            Word::Option(name) if name == "--detach" => arguments.detach = true,
            Word::Option(name) if name == "--timeout" => {
                let given = words.value()?;
                let wrong =
                    || Exit::usage(format!("--timeout {given:?}: say seconds, or 10s, 5m, 2h, 1d"));
                arguments.timeout = Some(span::parse(&given).ok_or_else(wrong)?);
            }
            Word::Option(_) if !arguments.commands.is_empty() => {
                let Exit::Usage(said) = unexpected(&word) else { return Err(unexpected(&word)) };
                return Err(Exit::usage(format!(
                    "{said} (a command and its arguments are one word: quote them)"
                )));
            }
            Word::Option(_) => return Err(unexpected(&word)),
            Word::Value(command) => arguments.commands.push(text(command)?),
        }
    }
    if arguments.commands.is_empty() {
        return Err(Exit::usage("which command is to be run?"));
    }
    Ok(arguments)
}

fn submission(arguments: &Arguments, id: &str) -> Value {
    let mut submission = json!({ "action": "submit", "id": id, "commands": arguments.commands });
    if let Some(queue) = &arguments.queue {
        submission["queue"] = queue.as_str().into();
    }
    if let Some(timeout) = arguments.timeout {
        submission["timeout"] = timeout.as_secs().into();
    }
    submission
}

fn random_id() -> Result<String, Exit> {
    let mut random = [0; 8];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Exit::failed(sysexits::UNAVAILABLE, "the system gives no random numbers"))?;
    Ok(format!("run-{:016x}", u64::from_be_bytes(random)))
}

/// When the last job of this id finished, if the daemon still knows it: who subscribes to an id is
/// told of that one too, and must not take it for the new one.
fn bygone(client: &mut Client, id: &str) -> Result<Option<String>, Exit> {
    let list = client.call("rpc", "dispatcher", json!({ "action": "list" }))?;
    let queues = list["jobs"].as_object().into_iter().flatten();
    let job = queues.filter_map(|(_, jobs)| jobs.get(id)).find(|job| job["state"] == "finished");
    Ok(job.and_then(|job| job["time_finished"].as_str()).map(str::to_owned))
}

/// A job that was submitted, and what was shown of it.
struct Job {
    id: String,
    bygone: Option<String>,
    /// An event came that can only be this job's.
    seen: bool,
    output: JobOutput,
    reader: Reader,
}

impl Job {
    /// Shows the job until it has finished; the exit code.
    fn follow(mut self, client: &mut Client, mut interrupts: Interrupts) -> Result<u8, Exit> {
        let mut killed = false;
        loop {
            let wake = [PollFd::new(interrupts.as_fd(), PollFlags::POLLIN)];
            let incoming = client.next(&Wait { deadline: None, wake: &wake });
            match incoming.map_err(|error| self.lost(Exit::from(error)))? {
                Incoming::Event(frame) => {
                    if let Some(code) = self.event(&frame)? {
                        return Ok(code);
                    }
                }
                Incoming::Reply(Reply { outcome: Err(refused), .. }) => {
                    complain(&format!("the job is not ended: {refused}"));
                }
                Incoming::Reply(_) | Incoming::Nothing => {}
                Incoming::Woken => match interrupts.count() {
                    0 => {}
                    1 if !killed => {
                        killed = true;
                        // Its answer is not waited for: a second Ctrl-C must be heard meanwhile.
                        let kill = json!({ "action": "kill", "job_id": self.id });
                        client.send("rpc", "dispatcher", kill)?;
                        if io::stderr().is_terminal() {
                            complain("ending the job; Ctrl-C again leaves at once");
                        }
                    }
                    _ => return Ok(INTERRUPTED),
                },
            }
        }
    }

    /// The exit code, if the job has finished.
    fn event(&mut self, frame: &Frame) -> Result<Option<u8>, Exit> {
        let frame = frame.value()?;
        let Some(event) = JobEvent::read(&frame["args"]).filter(|event| event.id == self.id) else {
            return Ok(None);
        };
        let is_bygone = event.state == State::Finished
            && !self.seen
            && self.bygone.is_some()
            && event.time_finished() == self.bygone.as_deref();
        if is_bygone {
            self.bygone = None;
            return Ok(None);
        }
        self.seen = true;
        let not_run = match event.state {
            State::Finished => event.not_run(),
            State::Pending | State::Running => None,
        };
        let reason_of = not_run.filter(|command| !self.output.has_told(command));
        for (command, text) in self.output.fresh(&event) {
            if reason_of == Some(command) {
                // Not output, but the reason why there is none.
                self.reader.end_line();
                complain(&text);
            } else {
                self.reader.give(&text, &self.id)?;
            }
        }
        if event.state != State::Finished {
            return Ok(None);
        }
        self.reader.end_line();
        if io::stderr().is_terminal() {
            complain(&format!("job {} finished: {}", self.id, event.verdict().how));
        }
        Ok(Some(exit_code(&event.codes(), event.commands.len(), not_run.is_some())))
    }

    /// Without the daemon nobody knows how the job ends.
    fn lost(&self, exit: Exit) -> Exit {
        match exit {
            Exit::Failed { code, message } => {
                let id = &self.id;
                let message = format!(
                    "{message}\nhow the job {id} ends is not known; \"sysadm-events log {id}\" may tell"
                );
                Exit::Failed { code, message }
            }
            Exit::Help(_) | Exit::Usage(_) | Exit::ReaderGone => exit,
        }
    }
}

/// Who reads the output.
#[derive(Default)]
struct Reader {
    gone: bool,
    /// The output so far does not end with a line end.
    midway: bool,
}

impl Reader {
    /// A reader who leaves does not end the job: half an upgrade is worse than an unread one.
    fn give(&mut self, text: &str, id: &str) -> Result<(), Exit> {
        if self.gone {
            return Ok(());
        }
        match write(text) {
            Err(Exit::ReaderGone) => {
                self.gone = true;
                complain(&format!(
                    "nobody reads the output any more; waiting for job {id}, Ctrl-C ends it"
                ));
                Ok(())
            }
            written => {
                self.midway = !text.ends_with('\n');
                written
            }
        }
    }

    /// On a terminal what we say ourselves begins on a line of its own.
    fn end_line(&mut self) {
        if self.midway && io::stdout().is_terminal() && io::stderr().is_terminal() {
            let _ = io::stderr().write_all(b"\n");
        }
        self.midway = false;
    }
}

/// Left by a second Ctrl-C: as a shell tells SIGINT.
const INTERRUPTED: u8 = 130;
/// A command could not be run: as a shell tells it.
const NOT_RUN: u8 = 127;
/// Ended before its last command ran: as if by the SIGTERM that a running one gets.
const ENDED_BEFORE: u8 = 143;

/// The exit code that tells how the last of `commands` ended.
fn exit_code(codes: &[i32], commands: usize, not_run: bool) -> u8 {
    match codes.last() {
        None => ENDED_BEFORE,
        // The chain was cut short between two commands, which is no success.
        Some(0) if codes.len() < commands => ENDED_BEFORE,
        Some(-1) if not_run => NOT_RUN,
        Some(&code @ ..=-1) => {
            u8::try_from(code.unsigned_abs().saturating_add(128)).unwrap_or(u8::MAX)
        }
        Some(&code @ 0..) => u8::try_from(code).unwrap_or(u8::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn refused(line: &[&str]) -> String {
        match parse(words(line)) {
            Err(Exit::Usage(said)) => said,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_chain_with_its_options() {
        let line = ["--queue", "q", "ls -l", "--id=j", "--timeout", "5m", "--detach", "true"];
        let arguments = parse(words(&line)).unwrap();
        assert_eq!(
            submission(&arguments, "j"),
            json!({"action": "submit", "id": "j", "commands": ["ls -l", "true"], "queue": "q", "timeout": 300})
        );
        assert_eq!(arguments.id.as_deref(), Some("j"));
        assert!(arguments.detach);
        let plain = parse(words(&["--", "--odd"])).unwrap();
        assert_eq!(
            submission(&plain, "x"),
            json!({"action": "submit", "id": "x", "commands": ["--odd"]})
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(refused(&[]).contains("which command"));
        assert!(refused(&["ls", "-l"]).contains("quote"));
        assert_eq!(refused(&["--qeue", "x", "ls"]), "unknown option --qeue");
        assert!(refused(&["--timeout", "soon", "ls"]).contains("soon"));
        assert!(refused(&["--timeout", "0", "ls"]).contains("seconds"));
    }

    #[test]
    fn exit_codes_are_a_shells() {
        let codes = [
            &[][..],
            &[0],
            &[0, 3],
            &[255],
            &[-1],
            &[-2],
            &[-9],
            &[-15],
            &[-127],
            &[-1000],
            &[1000],
        ];
        let exit = |codes: &[i32]| exit_code(codes, codes.len(), false);
        assert_eq!(codes.map(exit), [143, 0, 3, 255, 129, 130, 137, 143, 255, 255, 255]);
        assert_eq!(exit_code(&[0, -1], 2, true), 127);
        assert_eq!(exit_code(&[0, -1], 3, true), 127);
        assert_eq!([exit_code(&[0], 2, false), exit_code(&[3], 2, false)], [143, 3]);
    }

    #[test]
    fn random_ids_differ() {
        let ids = [random_id().unwrap(), random_id().unwrap()];
        assert!(ids[0].starts_with("run-") && ids[0].len() == 20);
        assert_ne!(ids[0], ids[1]);
    }
}
