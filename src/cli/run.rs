//! `run`: a job as if its commands had been run here: its output as it comes, its code at the end.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value, json};
use std::os::fd::AsFd;

use super::exit::Exit;
use super::interrupt::Interrupts;
use super::job::{JobEvent, JobOutput, MinusOne, State};
use super::target::{TargetOptions, target_help};
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, span, write};
use crate::client::{Client, ClientError, Feed, Frame, Incoming, News, Reply, Wait, sysexits};
use crate::config::Home;
use crate::sys::leave;

pub(super) const COMMAND: Command = Command {
    name: "run",
    summary: "run a job, show its output, exit with its code",
    help: concat!(
        "\
Runs commands one after the other, until one fails, as one job of the daemon;
shows their output as it comes and exits with the last return code.

Usage: sysadm-events run [TARGET] [OPTIONS] COMMAND [COMMAND...]
       sysadm-events run [TARGET] [OPTIONS] -- PROGRAM [ARGUMENT...]

Each COMMAND is one argument: a program and its arguments, in quotes. It is
split into words as a shell does, but run without one: no pipes, no variables,
no wildcards. A line break or an unquoted operator such as | or > is refused.
Behind -- stands one command, word by word. A job runs in / with an environment
of its own, and nothing to read from.

Options:
  --sh           each COMMAND is a script: run it with sh -c
  --queue Q      wait for the jobs of this queue that came before; without it
                 the job starts at once
  --id ID        name the job; without it the name is random
  --timeout T    end the job after so long: seconds, or 10s, 5m, 2h, 1d
  --detach       print the job's id and leave it to itself
  -h, --help     this text
",
        target_help!(),
        "
Ctrl-C ends the job, and shows how it ended; a second one leaves at once, and so
do 2 s without a reply of the daemon, or 30 s without the end of the job. Where
the daemon is restarted meanwhile it is waited for, and told how the job ended.
Exits with the last return code, 128 + N after signal N, 127 where a command
could not be run, 143 where the job was ended before its last command ran or
when the daemon died.

Examples:
  sysadm-events run 'pkg update' 'pkg upgrade -y'
  sysadm-events run --queue backup --timeout 2h 'tar -cf /b/home.tar /home'
  sysadm-events run -- tar -cf /b/home.tar /home
  sysadm-events run --sh 'df -h | sort'
"
    ),
    main,
};

/// Seconds from Ctrl-C to the daemon's reply, and from that to the end of the job.
const REPLY: u32 = 2;
const END: u32 = 30;
const LAST_WORDS: &str =
    "sysadm-events: the daemon does not say that the job has ended; it may go on\n";

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    /// As they go to the daemon: a line, or a list of words.
    commands: Vec<Value>,
    sh: bool,
    /// Words behind `--`, of which one command is made.
    words: Vec<String>,
    queue: Option<String>,
    id: Option<String>,
    timeout: Option<Duration>,
    detach: bool,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let arguments = parse(words)?;
    let target = arguments.target.target(&Home::of_this_process())?;
    let id = match &arguments.id {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let submission = submission(&arguments, &id);
    if arguments.detach {
        Client::connect(&target)?.call("rpc", "dispatcher", submission)?;
        write(&format!("{id}\n"))?;
        return Ok(0);
    }
    // From here on Ctrl-C is the job's, even if it comes before the job runs.
    let interrupts = Interrupts::watch().map_err(|error| {
        Exit::failed(sysexits::UNAVAILABLE, format!("cannot listen for Ctrl-C: {error}"))
    })?;
    leave::after_interrupt(REPLY, INTERRUPTED.into(), LAST_WORDS).map_err(|error| {
        Exit::failed(sysexits::UNAVAILABLE, format!("cannot limit a Ctrl-C: {error}"))
    })?;
    let mut subscription = Map::new();
    subscription.insert("events".to_owned(), json!(["dispatcher"]));
    subscription.insert("jobs".to_owned(), json!([id]));
    let mut feed = Feed::begin(target, subscription, None)?;
    let bygone = match (&arguments.id, feed.client()) {
        (Some(id), Some(client)) => entry(client, id)?.and_then(|entry| finished_at(&entry)),
        (Some(_) | None, _) => None,
    };
    let (output, reader) = (JobOutput::default(), Reader::default());
    let job = Job { id, submission, taken: false, bygone, seen: false, output, reader };
    job.follow(feed, interrupts)
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--queue" => arguments.queue = Some(words.value()?),
            Word::Option(name) if name == "--id" => arguments.id = Some(words.value()?),
            Word::Option(name) if name == "--detach" => arguments.detach = true,
            Word::Option(name) if name == "--sh" => arguments.sh = true,
            Word::Option(name) if name == "--timeout" => {
                let given = words.value()?;
                let wrong =
                    || Exit::usage(format!("--timeout {given:?}: say seconds, or 10s, 5m, 2h, 1d"));
                arguments.timeout = Some(span::parse(&given).ok_or_else(wrong)?);
            }
            Word::Option(_) if !arguments.commands.is_empty() => {
                let Exit::Usage(said) = unexpected(&word) else { return Err(unexpected(&word)) };
                return Err(Exit::usage(format!(
                    "{said} (quote a command with its arguments, or write -- before it)"
                )));
            }
            Word::Option(_) => return Err(unexpected(&word)),
            Word::Value(word) if words.is_separated() => arguments.words.push(text(word)?),
            Word::Value(command) => arguments.commands.push(text(command)?.into()),
        }
    }
    if !arguments.words.is_empty() {
        let words = std::mem::take(&mut arguments.words);
        if !arguments.commands.is_empty() {
            return Err(Exit::usage("write all of the command behind --, or quote every command"));
        }
        match arguments.sh {
            true => arguments.commands.extend(words.into_iter().map(Value::from)),
            false => arguments.commands.push(words.into()),
        }
    }
    if arguments.sh {
        for command in &mut arguments.commands {
            *command = json!(["sh", "-c", command]);
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

/// What the daemon's list says of the job.
fn entry(client: &mut Client, id: &str) -> Result<Option<Value>, ClientError> {
    let list = client.jobs()?;
    let mut queues = list["jobs"].as_object().into_iter().flatten();
    Ok(queues.find_map(|(_, jobs)| jobs.get(id)).cloned())
}

/// When a job of the list finished, if it has: who subscribes to an id is told of the last one of
/// that id too, and must not take it for the new one.
fn finished_at(entry: &Value) -> Option<String> {
    let finished = Some(entry).filter(|entry| entry["state"] == "finished")?;
    finished["time_finished"].as_str().map(str::to_owned)
}

/// A job that is submitted, and what was shown of it.
struct Job {
    id: String,
    submission: Value,
    /// The daemon has said that it took the job.
    taken: bool,
    bygone: Option<String>,
    /// An event came that can only be this job's.
    seen: bool,
    output: JobOutput,
    reader: Reader,
}

impl Job {
    /// Submits the job and shows it until it has finished; the exit code.
    fn follow(mut self, mut feed: Feed, mut interrupts: Interrupts) -> Result<u8, Exit> {
        let mut killed = false;
        if let Err(error) = self.submit(&mut feed) {
            self.lost(&mut feed, error)?;
        }
        let mut is_answered = false;
        loop {
            let wake = [PollFd::new(interrupts.as_fd(), PollFlags::POLLIN)];
            let news = feed.next(&Wait { deadline: None, wake: &wake });
            match news.map_err(|error| self.unknown(error))? {
                News::Incoming(Incoming::Event(frame)) => {
                    if let Some(code) = self.event(&frame)? {
                        return Ok(code);
                    }
                }
                News::Incoming(Incoming::Reply(Reply { outcome, .. })) => {
                    if killed && !std::mem::replace(&mut is_answered, true) {
                        leave::postpone(END);
                    }
                    if let Err(refused) = outcome {
                        complain(&format!("the job is not ended: {refused}"));
                    }
                }
                News::Incoming(Incoming::Nothing | Incoming::Woken) => {}
                News::Lost(error) => {
                    complain(&format!("{error}; waiting for the daemon to come back"));
                }
                News::Back => match self.reconcile(&mut feed) {
                    Ok(None) => {}
                    Ok(Some(code)) => return Ok(code),
                    Err(error) => self.lost(&mut feed, error)?,
                },
            }
            // After each message: a daemon that always has one more hides the descriptor.
            match interrupts.count() {
                0 => {}
                1 if killed => {}
                1 => {
                    killed = true;
                    // Does not wait for the reply: a second Ctrl-C must be seen meanwhile.
                    let kill = json!({ "action": "kill", "job_id": self.id });
                    match feed.client() {
                        Some(client) => {
                            client.send("rpc", "dispatcher", kill)?;
                        }
                        // The daemon is away: nobody could end the job.
                        None => return Ok(INTERRUPTED),
                    }
                    if io::stderr().is_terminal() {
                        complain("ending the job; Ctrl-C again leaves at once");
                    }
                }
                _ => return Ok(INTERRUPTED),
            }
        }
    }

    fn submit(&mut self, feed: &mut Feed) -> Result<(), ClientError> {
        let Some(client) = feed.client() else { return Ok(()) };
        client.call("rpc", "dispatcher", self.submission.clone())?;
        self.taken = true;
        Ok(())
    }

    /// The connection was lost in the middle of a request.
    fn lost(&self, feed: &mut Feed, error: ClientError) -> Result<(), Exit> {
        // A daemon that says no is there, and will say it again.
        if let ClientError::Refused(_) = error {
            return Err(error.into());
        }
        let error = feed.lose(error).map_err(|error| self.unknown(error))?;
        complain(&format!("{error}; waiting for the daemon to come back"));
        Ok(())
    }

    /// There is a daemon again: does it know the job? If it runs or has finished, events tell so.
    /// The exit code where the job is over and no event will tell it.
    fn reconcile(&mut self, feed: &mut Feed) -> Result<Option<u8>, ClientError> {
        let Some(client) = feed.client() else { return Ok(None) };
        let entry = entry(client, &self.id)?;
        let is_new = |entry: &Value| self.bygone.is_none() || finished_at(entry) != self.bygone;
        if entry.filter(is_new).is_some() {
            self.taken = true;
            return Ok(None);
        }
        if self.taken || self.seen {
            self.reader.end_line();
            complain(&format!("the daemon does not know job {} any more", self.id));
            return Ok(Some(sysexits::UNAVAILABLE));
        }
        // Its reply did not come, and a daemon that takes a job keeps it: so it was not taken.
        self.submit(feed)?;
        Ok(None)
    }

    /// The exit code, if the job has finished.
    fn event(&mut self, frame: &Frame) -> Result<Option<u8>, Exit> {
        let frame = frame.value()?;
        if frame["name"] == "gap" {
            self.output.miss();
            return Ok(None);
        }
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
        let minus_one = match event.state {
            State::Finished => event.minus_one(),
            State::Pending | State::Running => None,
        };
        let reason_of = match minus_one {
            Some(MinusOne::NotRun(command)) if !self.output.has_told(command) => Some(command),
            Some(MinusOne::NotRun(_) | MinusOne::Interrupted | MinusOne::HungUp) | None => None,
        };
        for (command, text) in self.output.fresh(&event, frame["present"] == true) {
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
        if let Some(MinusOne::NotRun(_)) = minus_one
            && let [first, .., last] = event.commands.as_slice()
        {
            complain(&format!(
                "{} commands were run one after the other, from {first:?} to {last:?}; one command \
                 of several words is quoted, or stands behind --: run -- {} ...",
                event.commands.len(),
                first.split(' ').next().unwrap_or_default(),
            ));
        }
        Ok(Some(exit_code(&event.codes(), event.commands.len(), minus_one)))
    }

    /// Nobody can tell how the job ends.
    fn unknown(&self, error: ClientError) -> Exit {
        match Exit::from(error) {
            Exit::Failed { code, message } => {
                let id = &self.id;
                let message = format!(
                    "{message}\nhow the job {id} ends is not known; \"sysadm-events log {id}\" may tell"
                );
                Exit::Failed { code, message }
            }
            exit @ (Exit::Help(_) | Exit::Usage(_) | Exit::ReaderGone) => exit,
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
/// Ended before its last command ran, or while it did by the death of the daemon: as if by the SIGTERM that a running one gets.
const ENDED_BEFORE: u8 = 143;

/// The exit code that tells how the last of `commands` ended.
fn exit_code(codes: &[i32], commands: usize, minus_one: Option<MinusOne<'_>>) -> u8 {
    match (codes.last(), minus_one) {
        (None, _) | (Some(_), Some(MinusOne::Interrupted)) => ENDED_BEFORE,
        (Some(_), Some(MinusOne::NotRun(_))) => NOT_RUN,
        // The chain was cut short between two commands, which is no success.
        (Some(0), _) if codes.len() < commands => ENDED_BEFORE,
        (Some(&code @ ..=-1), _) => {
            u8::try_from(code.unsigned_abs().saturating_add(128)).unwrap_or(u8::MAX)
        }
        (Some(&code @ 0..), _) => u8::try_from(code).unwrap_or(u8::MAX),
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
        for (line, commands) in [
            (&["--", "--odd", "a b"][..], json!([["--odd", "a b"]])),
            (&["--sh", "a | b", "c"], json!([["sh", "-c", "a | b"], ["sh", "-c", "c"]])),
            (&["--sh", "--", "-x"], json!([["sh", "-c", "-x"]])),
        ] {
            assert_eq!(submission(&parse(words(line)).unwrap(), "x")["commands"], commands);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(refused(&[]).contains("which command"));
        assert!(refused(&["ls", "-l"]).contains("-- before"));
        assert!(refused(&["ls", "--", "-l"]).contains("behind --"));
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
        let exit = |codes: &[i32]| exit_code(codes, codes.len(), None);
        assert_eq!(codes.map(exit), [143, 0, 3, 255, 129, 130, 137, 143, 255, 255, 255]);
        assert_eq!(exit_code(&[0, -1], 2, Some(MinusOne::NotRun("x"))), 127);
        assert_eq!(exit_code(&[0, -1], 3, Some(MinusOne::NotRun("x"))), 127);
        assert_eq!(exit_code(&[-1], 1, Some(MinusOne::Interrupted)), 143);
        assert_eq!(exit_code(&[-1], 1, Some(MinusOne::HungUp)), 129);
        assert_eq!([exit_code(&[0], 2, None), exit_code(&[3], 2, None)], [143, 3]);
    }

    #[test]
    fn random_ids_differ() {
        let ids = [random_id().unwrap(), random_id().unwrap()];
        assert!(ids[0].starts_with("run-") && ids[0].len() == 20);
        assert_ne!(ids[0], ids[1]);
    }
}
