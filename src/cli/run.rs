//! `run`: runs a job like a local command: prints its output, and exits with its code.

use std::io::{self, IsTerminal};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value, json};

use super::attached::{Attachment, End, Happened, INTERRUPTED, Show};
use super::exit::Exit;
use super::interrupt::Interrupts;
use super::target::{TargetOptions, target_help};
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, span, write};
use crate::client::{Client, ClientError, Feed, Reply, sysexits};
use crate::config::Home;
use crate::sys::leave;
use crate::wire::{JobResult, JsonFields};

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
split into words like in a shell, but run without one: no pipes, no variables,
no wildcards. A line break or an unquoted operator such as | or > is refused.
After -- stands one command, word by word. A job runs in / with an environment
of its own, and nothing to read from.

Options:
  --sh           each COMMAND is a script: run it with sh -c
  --queue Q      wait for the jobs of this queue that came before; without it
                 the job starts at once
  --id ID        name the job; without it the name is the program and a number
  --priority N   place in the queue: -100 to 100, the highest first; default 0
  --after ID     start when this job has finished; may be repeated. Where it
                 does not succeed, or was cancelled, this one is cancelled
  --after-any    with --after: start however those jobs have ended
  --timeout T    end the job after this time: seconds, or 10s, 5m, 2h, 1d
  --cwd DIR      run it in this directory, an absolute path
  --env K=V      a variable of its environment; may be repeated
  --as USER      run it as this user, by name or number; only root's daemon can
  --detach       print the job's id and do not attach to it
  -h, --help     this text
",
        target_help!(),
        "
The output is that of the job, byte for byte. The job prints only as
fast as its output is read; a client that reads nothing for attach_timeout
no longer holds it back. Remarks of the daemon go to standard error.

Ctrl-C or SIGTERM ends the job, and shows its outcome; a second one exits at
once, and so do 2 s without a reply of the daemon after Ctrl-C, or 30 s without
the end of the job. If the daemon restarts meanwhile, the command reconnects.
Exits with the last return code, 128 + N after signal N, 127 where a command
could not be run, 143 where the job was ended before its last command ran or
when the daemon died, 75 where the id is in use, 74 where a part of the output
was lost.

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
    /// In the form of the request: a line, or a list of words.
    commands: Vec<Value>,
    sh: bool,
    /// Words after `--`, which form one command.
    words: Vec<String>,
    queue: Option<String>,
    id: Option<String>,
    timeout: Option<Duration>,
    cwd: Option<String>,
    env: Map<String, Value>,
    user: Option<String>,
    priority: Option<i8>,
    after: Vec<String>,
    after_any: bool,
    detach: bool,
    target: TargetOptions,
}

fn main(words: Words) -> Result<u8, Exit> {
    let arguments = parse(words)?;
    submit_and_follow(submission(&arguments), arguments.detach, &arguments.target)
}

/// Sends a request that submits a job, and shows the job until it has finished, or only its id where
/// it is to be left to itself; the exit code.
pub(super) fn submit_and_follow(
    mut submission: Value,
    detach: bool,
    target: &TargetOptions,
) -> Result<u8, Exit> {
    let target = target.target(&Home::of_this_process())?;
    if detach {
        let reply = Client::connect(&target)?.call("rpc", "dispatcher", submission)?;
        write(&format!("{}\n", started(&reply)?))?;
        return Ok(0);
    }
    // From here on Ctrl-C is for the job, even before the job runs.
    let interrupts = Interrupts::watch()?;
    leave::after_interrupt(REPLY, INTERRUPTED.into(), LAST_WORDS).map_err(|error| {
        Exit::failed(sysexits::UNAVAILABLE, format!("cannot limit a Ctrl-C: {error}"))
    })?;
    submission.set_field("nonce", nonce()?);
    submission.set_field("attach", json!({ "binary": true }));
    let feed = Feed::connect(target)?;
    let attachment = Attachment::new(String::new(), Show::Exactly);
    Job { submission, attachment }.follow(feed, interrupts)
}

fn parse(mut words: Words) -> Result<Arguments, Exit> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if arguments.target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--queue" => arguments.queue = Some(words.value()?),
            Word::Option(name) if name == "--id" => arguments.id = Some(words.value()?),
            Word::Option(name) if name == "--cwd" => arguments.cwd = Some(words.value()?),
            Word::Option(name) if name == "--as" => arguments.user = Some(words.value()?),
            Word::Option(name) if name == "--after" => arguments.after.push(words.value()?),
            Word::Option(name) if name == "--after-any" => arguments.after_any = true,
            Word::Option(name) if name == "--priority" => {
                let given = words.value()?;
                let number = given.parse().ok().filter(|number| (-100..=100).contains(number));
                let wrong = || Exit::usage(format!("--priority {given:?}: say -100 to 100"));
                arguments.priority = Some(number.ok_or_else(wrong)?);
            }
            Word::Option(name) if name == "--env" => {
                let given = words.value()?;
                let wrong = || Exit::usage(format!("--env {given:?}: write NAME=VALUE"));
                let (key, value) = given.split_once('=').ok_or_else(wrong)?;
                arguments.env.insert(key.to_owned(), value.into());
            }
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
    if arguments.after_any && arguments.after.is_empty() {
        return Err(Exit::usage("--after-any needs --after"));
    }
    if arguments.commands.is_empty() {
        return Err(Exit::usage("which command is to be run?"));
    }
    Ok(arguments)
}

fn submission(arguments: &Arguments) -> Value {
    let mut submission = json!({ "action": "submit", "commands": arguments.commands });
    let texts = [("id", &arguments.id), ("queue", &arguments.queue), ("cwd", &arguments.cwd)];
    for (key, text) in texts.into_iter().chain([("user", &arguments.user)]) {
        if let Some(text) = text {
            submission.set_field(key, text.as_str());
        }
    }
    if !arguments.env.is_empty() {
        submission.set_field("env", arguments.env.clone());
    }
    if let Some(priority) = arguments.priority {
        submission.set_field("priority", priority);
    }
    if !arguments.after.is_empty() {
        submission.set_field("after", arguments.after.clone());
        submission.set_field("after_any", arguments.after_any);
    }
    if let Some(timeout) = arguments.timeout {
        submission.set_field("timeout", timeout.as_secs());
    }
    submission
}

/// An idempotency key: identifies the submission if the connection is lost before its reply.
fn nonce() -> Result<String, Exit> {
    let mut random = [0; 8];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Exit::failed(sysexits::UNAVAILABLE, "the system gives no random numbers"))?;
    Ok(format!("{:016x}", u64::from_be_bytes(random)))
}

/// The id of the started job.
fn started(reply: &Value) -> Result<&str, ClientError> {
    let id = reply.field("started").get(0).and_then(Value::as_str);
    id.ok_or_else(|| ClientError::Protocol("it does not name the job that it took".to_owned()))
}

/// A submitted job, and the attachment to it; without an id until the daemon has accepted it.
struct Job {
    submission: Value,
    attachment: Attachment,
}

impl Job {
    /// Submits the job and shows it until it has finished; returns the exit code.
    fn follow(mut self, mut feed: Feed, mut interrupts: Interrupts) -> Result<u8, Exit> {
        let mut killed = false;
        self.connect(&mut feed)?;
        let mut is_answered = false;
        loop {
            let happened = self.attachment.next(&mut feed, &mut interrupts);
            match happened.map_err(|exit| self.unknown(exit))? {
                Happened::Ended(end) => return Ok(self.ended(&end)),
                Happened::Back => self.connect(&mut feed)?,
                Happened::Reply(Reply { outcome, .. }) => {
                    if killed && !std::mem::replace(&mut is_answered, true) {
                        leave::postpone(END);
                    }
                    if let Err(refused) = outcome {
                        self.attachment.say(&format!("the job is not ended: {refused}"));
                    }
                }
                Happened::Interrupted if killed => return Ok(INTERRUPTED),
                Happened::Interrupted => {
                    killed = true;
                    // The reply is not awaited: a second Ctrl-C must be noticed meanwhile.
                    let kill = json!({ "action": "kill", "job_id": self.attachment.id });
                    match feed.client() {
                        Some(client) => {
                            client.send("rpc", "dispatcher", kill)?;
                        }
                        // The daemon is not connected: the job cannot be killed.
                        None => return Ok(INTERRUPTED),
                    }
                    if io::stderr().is_terminal() {
                        self.attachment.say("ending the job; Ctrl-C again leaves at once");
                    }
                }
            }
        }
    }

    /// Submits the job, or attaches to it again after a reconnection.
    fn connect(&mut self, feed: &mut Feed) -> Result<(), Exit> {
        let Some(client) = feed.client() else { return Ok(()) };
        let Err(error) = self.submit_or_attach(client) else { return Ok(()) };
        match error {
            ClientError::Refused(refused)
                if refused.code == Some(404) && !self.attachment.id.is_empty() =>
            {
                let id = &self.attachment.id;
                let message = format!("the daemon does not know job {id} any more");
                Err(Exit::failed(sysexits::UNAVAILABLE, message))
            }
            // A daemon that replies with an error will do so again.
            ClientError::Refused(_) => Err(error.into()),
            error => {
                let error = feed.lose(error).map_err(|error| self.unknown(error.into()))?;
                self.attachment.say(&format!("{error}; waiting for the daemon"));
                Ok(())
            }
        }
    }

    fn submit_or_attach(&mut self, client: &mut Client) -> Result<(), ClientError> {
        if !self.attachment.id.is_empty() {
            return self.attachment.attach(client, json!({}));
        }
        let reply = client.call("rpc", "dispatcher", self.submission.clone())?;
        started(&reply)?.clone_into(&mut self.attachment.id);
        match reply.field("stream").as_u64() {
            Some(_) => self.attachment.begin(&reply),
            None => self.attachment.attach(client, json!({}))?,
        }
        Ok(())
    }

    /// Reports the end; returns the exit code.
    fn ended(&mut self, end: &End) -> u8 {
        let id = self.attachment.id.clone();
        if let Some(state) = end.unknown() {
            self.attachment.say(&format!("the outcome of job {id} is unknown: it is {state}"));
        } else if io::stderr().is_terminal() {
            self.attachment.say(&format!("job {id} finished: {}", end.verdict().how));
        }
        if end.outcome.result == Some(JobResult::NotStartable)
            && let [first, .., last] = end.commands.as_slice()
        {
            complain(&format!(
                "{} commands were run one after the other, from {first:?} to {last:?}; one command \
                 of several words is quoted, or stands behind --: run -- {} ...",
                end.commands.len(),
                first.split(' ').next().unwrap_or_default(),
            ));
        }
        end.exit_code_of_all()
    }

    /// The outcome of the job is unknown.
    fn unknown(&self, exit: Exit) -> Exit {
        match exit {
            Exit::Failed { code, message } if !self.attachment.id.is_empty() => {
                let id = &self.attachment.id;
                let message = format!(
                    "{message}\nhow the job {id} ends is not known; \"sysadm-events log {id}\" may show it"
                );
                Exit::Failed { code, message }
            }
            exit => exit,
        }
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
        let more = ["--cwd", "/tmp", "--env", "A=1", "--env=B=x=y", "--as", "eva"];
        let line: Vec<&str> = more.into_iter().chain(line).collect();
        let arguments = parse(words(&line)).unwrap();
        assert_eq!(
            submission(&arguments),
            json!({"action": "submit", "commands": ["ls -l", "true"], "id": "j", "queue": "q",
                   "timeout": 300, "cwd": "/tmp", "user": "eva", "env": {"A": "1", "B": "x=y"}})
        );
        assert_eq!(arguments.id.as_deref(), Some("j"));
        assert!(arguments.detach);
        for (line, commands) in [
            (&["--", "--odd", "a b"][..], json!([["--odd", "a b"]])),
            (&["--sh", "a | b", "c"], json!([["sh", "-c", "a | b"], ["sh", "-c", "c"]])),
            (&["--sh", "--", "-x"], json!([["sh", "-c", "-x"]])),
        ] {
            assert_eq!(submission(&parse(words(line)).unwrap())["commands"], commands);
        }
    }

    #[test]
    fn run_reports_invalid_arguments() {
        assert!(refused(&[]).contains("which command"));
        assert!(refused(&["ls", "-l"]).contains("-- before"));
        assert!(refused(&["ls", "--", "-l"]).contains("behind --"));
        assert_eq!(refused(&["--qeue", "x", "ls"]), "unknown option --qeue");
        assert!(refused(&["--timeout", "soon", "ls"]).contains("soon"));
        assert!(refused(&["--timeout", "0", "ls"]).contains("seconds"));
        assert!(refused(&["--env", "A", "ls"]).contains("NAME=VALUE"));
        assert!(refused(&["--after-any", "ls"]).contains("--after"));
        for wrong in ["101", "-101", "1.5", "high", "+"] {
            assert!(refused(&["--priority", wrong, "ls"]).contains("-100 to 100"), "{wrong}");
        }
    }

    #[test]
    fn order_of_a_job_is_submitted_with_it() {
        let line = ["--priority", "-7", "--after", "a", "--after=b", "--after-any", "ls"];
        assert_eq!(
            submission(&parse(words(&line)).unwrap()),
            json!({"action": "submit", "commands": ["ls"], "priority": -7, "after": ["a", "b"],
                   "after_any": true})
        );
    }
}
