//! Commands that attach to a job: `run`, `attach`, `log` and `wait`.
//!
//! Output is written as fast as standard output accepts it, and acknowledged when it is written.
//! The daemon never has more than a window in flight, so memory is bounded here, and a slow reader
//! slows the job instead of losing output.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use serde::Deserialize;
use serde_json::{Value, json};
use tungstenite::Bytes;

use super::exit::Exit;
use super::interrupt::Interrupts;
use super::outcome::{self, Verdict};
use super::standard_output::StandardOutput;
use super::{complain, escape};
use crate::client::{Client, ClientError, Feed, Frame, Incoming, News, Reply, Wait, sysexits};
use crate::wire::{Decoder, JobResult, JsonFields, Outcome};

/// Maximum delay of an acknowledgement.
const ACKNOWLEDGE: Duration = Duration::from_millis(500);
/// Ended by Ctrl-C, like in a shell.
pub(super) const INTERRUPTED: u8 = 130;
/// A command could not be run, like in a shell.
const NOT_RUN: u8 = 127;
/// Ended before its last command ran, or by the death of the daemon: as if by SIGTERM.
const ENDED_BEFORE: u8 = 143;

/// An event for an attached command.
pub(super) enum Happened {
    /// The job has ended, and all of its output is written.
    Ended(End),
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// Reconnected; the command must attach again.
    Back,
    /// The reply to a request sent without waiting.
    Reply(Reply),
}

/// Form in which output is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Unchanged bytes. Remarks of the daemon go to standard error.
    Exactly,
    /// The log as it is stored, including remarks.
    Log,
    /// The same for a terminal: control characters are escaped, and commands of a chain are
    /// separated; `unicode` says whether the terminal can show it.
    Harmless { unicode: bool },
}

/// The fields of an `output` event.
#[derive(Deserialize)]
struct Output<'a> {
    stream: u64,
    offset: u64,
    #[serde(default)]
    command: usize,
    #[serde(borrow, default)]
    data: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    base64: Option<Cow<'a, str>>,
    #[serde(default)]
    remark: bool,
    #[serde(default)]
    left_out: u64,
    #[serde(default)]
    end: bool,
}

#[derive(Deserialize)]
struct OutputFrame<'a> {
    #[serde(borrow)]
    args: Output<'a>,
}

/// End of an attachment.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) commands: Vec<String>,
    /// Number of bytes that were no longer available.
    pub(super) left_out: u64,
    /// Why the job's outcome is unknown, in the daemon's word: `running`, `forgotten`.
    state: Option<String>,
}

/// One attachment.
pub(super) struct Attachment {
    pub(super) id: String,
    show: Show,
    stream: Option<u64>,
    /// Everything before this offset was received.
    offset: u64,
    acknowledged: u64,
    acknowledge_due: Option<Instant>,
    window: u64,
    commands: Vec<String>,
    /// The command that printed the last output.
    current: Option<usize>,
    left_out: u64,
    pending: Pending,
    remarks: Vec<String>,
    decoder: Decoder,
    end: Option<End>,
}

impl Attachment {
    pub(super) fn new(id: String, show: Show) -> Attachment {
        Attachment {
            id,
            show,
            stream: None,
            offset: 0,
            acknowledged: 0,
            acknowledge_due: None,
            window: 0,
            commands: Vec::new(),
            current: None,
            left_out: 0,
            pending: Pending::default(),
            remarks: Vec::new(),
            decoder: Decoder::default(),
            end: None,
        }
    }

    /// Processes the reply to `attach`, or to a submission with it.
    pub(super) fn begin(&mut self, reply: &Value) {
        self.stream = reply["stream"].as_u64();
        self.window = reply["window"].as_u64().unwrap_or_default();
        // After a crash the log may end before this offset.
        self.offset = reply["offset"].as_u64().unwrap_or(self.offset);
        self.acknowledged = self.offset;
        let commands = reply["cmd_list"].as_array().into_iter().flatten();
        self.commands = commands.filter_map(Value::as_str).map(str::to_owned).collect();
    }

    /// Attaches to the job after the received output; `how` has more fields of the request.
    pub(super) fn attach(&mut self, client: &mut Client, how: Value) -> Result<(), ClientError> {
        let mut request = json!({"action": "attach", "job_id": self.id, "offset": self.offset,
                                 "binary": true});
        if let (Value::Object(request), Value::Object(how)) = (&mut request, how) {
            request.extend(how);
        }
        let reply = client.call("rpc", "dispatcher", request)?;
        self.begin(&reply);
        Ok(())
    }

    /// Waits for the next event of the command. Output is written meanwhile.
    pub(super) fn next(
        &mut self,
        feed: &mut Feed,
        interrupts: &mut Interrupts,
    ) -> Result<Happened, Exit> {
        loop {
            self.pending.update(&self.id)?;
            if self.pending.is_empty() {
                std::mem::take(&mut self.remarks).iter().for_each(|remark| self.say(remark));
                if let Some(end) = self.end.take() {
                    return Ok(Happened::Ended(end));
                }
            }
            self.acknowledge(feed)?;
            let mut wake = vec![PollFd::new(interrupts.as_fd(), PollFlags::POLLIN)];
            if let Some(output) = self.pending.output.as_ref().filter(|_| !self.pending.is_closed) {
                wake.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
            }
            let deadline = self.acknowledge_due.filter(|_| self.unacknowledged() > 0);
            let news = feed.next(&Wait { deadline, wake: &wake })?;
            drop(wake);
            match news {
                News::Incoming(Incoming::Event(frame)) => self.take(&frame)?,
                News::Incoming(Incoming::Reply(reply)) => return Ok(Happened::Reply(reply)),
                News::Incoming(Incoming::Woken) if interrupts.count_new() => {
                    return Ok(Happened::Interrupted);
                }
                News::Incoming(Incoming::Woken | Incoming::Nothing) => {}
                News::Lost(_) if self.end.is_some() => {}
                News::Lost(error) => {
                    self.stream = None;
                    self.say(&format!("{error}; waiting for the daemon"));
                }
                News::Back if self.end.is_some() => {}
                News::Back => return Ok(Happened::Back),
            }
        }
    }

    /// Writes a message to standard error, on a line of its own where both are one terminal.
    pub(super) fn say(&mut self, text: &str) {
        self.pending.end_line();
        complain(text);
    }

    fn unacknowledged(&self) -> u64 {
        let written = self.offset.saturating_sub(self.pending.length);
        written.saturating_sub(self.acknowledged)
    }

    fn acknowledge(&mut self, feed: &mut Feed) -> Result<(), Exit> {
        let unacknowledged = self.unacknowledged();
        let is_due = self.acknowledge_due.is_some_and(|due| due <= Instant::now());
        let (Some(stream), Some(client)) = (self.stream, feed.client()) else { return Ok(()) };
        if unacknowledged == 0 || (unacknowledged < self.window / 4 && !is_due) {
            return Ok(());
        }
        self.acknowledged += unacknowledged;
        self.acknowledge_due = Some(Instant::now() + ACKNOWLEDGE);
        let offset = self.acknowledged;
        let request = json!({"action": "acknowledge", "stream": stream, "offset": offset});
        if let Err(error) = client.send("rpc", "dispatcher", request) {
            let error = feed.lose(error)?;
            self.stream = None;
            self.say(&format!("{error}; waiting for the daemon"));
        }
        Ok(())
    }

    /// The end of the attachment, if it was received.
    pub(super) fn take_end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// Processes an event, which may be about another attachment.
    pub(super) fn take(&mut self, frame: &Frame) -> Result<(), Exit> {
        let text = frame.text();
        let output = match frame.payload() {
            Some(_) => serde_json::from_str(text),
            None => serde_json::from_str(text).map(|OutputFrame { args }| args),
        };
        let Ok(output): Result<Output<'_>, _> = output else { return Ok(()) };
        if Some(output.stream) != self.stream {
            return Ok(());
        }
        if output.end {
            self.end = Some(self.read_end(frame.value()?.field("args")));
            return Ok(());
        }
        self.acknowledge_due.get_or_insert_with(|| Instant::now() + ACKNOWLEDGE);
        if output.left_out > 0 {
            self.offset = output.offset.saturating_add(output.left_out);
            self.left_out += output.left_out;
            self.remarks.push(format!("{} bytes of the output are left out", output.left_out));
            return Ok(());
        }
        let bytes: Bytes = match (frame.payload(), output.data, output.base64) {
            (Some(payload), ..) => payload.clone(),
            (None, Some(text), _) => text.into_owned().into(),
            (None, None, base64) => {
                let decoded = STANDARD.decode(base64.unwrap_or_default().as_bytes());
                let wrong = |_| ClientError::Protocol("its output is no base64".to_owned());
                decoded.map_err(wrong)?.into()
            }
        };
        self.offset = output.offset.saturating_add(bytes.len() as u64);
        match self.show {
            Show::Exactly if output.remark => {
                let remark = String::from_utf8_lossy(&bytes);
                let remark = remark.trim().trim_start_matches('[').trim_end_matches(']');
                self.remarks.push(remark.to_owned());
            }
            Show::Exactly | Show::Log => self.pending.push(bytes)?,
            Show::Harmless { unicode } => {
                if self.current != Some(output.command) && self.commands.len() > 1 {
                    let name = self.commands.get(output.command).map_or("", String::as_str);
                    let (at, of) = (output.command + 1, self.commands.len());
                    let line = escape::text(&format!("[{at}/{of}] {name}"), unicode);
                    self.pending.end_line();
                    complain(&line);
                }
                let text = self.decoder.decode(&bytes);
                self.pending.write_at_once(&escape::text(&text, unicode))?;
            }
        }
        self.current = Some(output.command);
        Ok(())
    }

    fn read_end(&self, args: &Value) -> End {
        let texts = |key: &str| {
            let list = args[key].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).collect::<Vec<_>>()
        };
        let codes: Vec<i32> =
            texts("return_codes").iter().filter_map(|code| code.parse().ok()).collect();
        let commands = texts("cmd_list");
        End {
            outcome: outcome::outcome(args, &codes, commands.len()),
            commands: commands.into_iter().map(str::to_owned).collect(),
            left_out: self.left_out,
            state: args["state"].as_str().map(str::to_owned),
        }
    }
}

/// Attaches, also after a reconnection.
pub(super) fn attach(
    attachment: &mut Attachment,
    feed: &mut Feed,
    how: &Value,
) -> Result<(), Exit> {
    let Some(client) = feed.client() else { return Ok(()) };
    match attachment.attach(client, how.clone()) {
        Ok(()) => Ok(()),
        Err(error @ ClientError::Refused(_)) => Err(error.into()),
        Err(error) => {
            let error = feed.lose(error)?;
            attachment.say(&format!("{error}; waiting for the daemon"));
            Ok(())
        }
    }
}

impl End {
    /// The outcome of the job in words.
    pub(super) fn verdict(&self) -> Verdict {
        let commands: Vec<&str> = self.commands.iter().map(String::as_str).collect();
        outcome::verdict(&self.outcome, &commands)
    }

    /// Why the job's outcome is unknown, if so.
    pub(super) fn unknown(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The exit code of the deciding command.
    pub(super) fn exit_code(&self) -> u8 {
        let Outcome { result, exit_code, signal, failed_command, .. } = &self.outcome;
        let is_cut_short = failed_command.is_some_and(|at| at + 1 < self.commands.len());
        match (result, exit_code, signal) {
            _ if self.state.is_some() => sysexits::UNAVAILABLE,
            (Some(JobResult::NotStartable), ..) => NOT_RUN,
            // The chain ended between two commands, which is no success.
            (_, Some(0), _) if is_cut_short => ENDED_BEFORE,
            (_, Some(code), _) => u8::try_from(*code).unwrap_or(u8::MAX),
            (_, None, Some(signal)) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
            (_, None, None) => ENDED_BEFORE,
        }
    }

    /// The same for a command that guarantees complete output.
    pub(super) fn exit_code_of_all(&self) -> u8 {
        match self.exit_code() {
            0 if self.left_out > 0 => sysexits::IO,
            code => code,
        }
    }
}

/// Output that standard output has not accepted yet.
#[derive(Default)]
struct Pending {
    output: Option<StandardOutput>,
    /// Number of bytes, when last polled.
    length: u64,
    /// The reader has closed it.
    is_closed: bool,
    /// The output so far does not end with a line end.
    midway: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn push(&mut self, bytes: Bytes) -> Result<(), Exit> {
        let Some(last) = bytes.last().filter(|_| !self.is_closed) else { return Ok(()) };
        self.midway = *last != b'\n';
        self.length += bytes.len() as u64;
        let output = match &mut self.output {
            Some(output) => output,
            none => none.insert(StandardOutput::start()?),
        };
        output.push(bytes);
        Ok(())
    }

    /// Polls how much is left. A closed reader does not end the job: an interrupted upgrade is worse
    /// than an unread one.
    fn update(&mut self, job: &str) -> Result<(), Exit> {
        let Some(output) = self.output.as_mut().filter(|_| !self.is_closed) else { return Ok(()) };
        match output.pending() {
            Ok(length) => self.length = length,
            Err(Errno::EPIPE) => {
                self.is_closed = true;
                self.midway = false;
                self.length = 0;
                complain(&format!(
                    "the reader of the output is gone; waiting for job {job}, Ctrl-C ends it"
                ));
            }
            Err(error) => return Err(Exit::from(io::Error::from(error))),
        }
        Ok(())
    }

    /// For a terminal, which is never far behind.
    fn write_at_once(&mut self, text: &str) -> Result<(), Exit> {
        self.midway = !text.ends_with('\n');
        super::write(text)
    }

    /// On a terminal the command's own messages begin on a new line.
    fn end_line(&mut self) {
        use std::io::{IsTerminal, Write};
        if self.midway && io::stdout().is_terminal() && io::stderr().is_terminal() {
            let _ = io::stderr().write_all(b"\n");
        }
        self.midway = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(outcome: Outcome, commands: usize, left_out: u64) -> End {
        End { outcome, commands: vec!["c".to_owned(); commands], left_out, state: None }
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let code = |codes: &[i32], commands, early, started| {
            end(Outcome::of_codes(codes, commands, early, started), commands, 0).exit_code()
        };
        let plain = |codes: &[i32]| code(codes, codes.len().max(1), None, true);
        let codes =
            [&[][..], &[0], &[0, 3], &[255], &[-2], &[-9], &[-15], &[-127], &[-1000], &[1000]];
        assert_eq!(codes.map(plain), [143, 0, 3, 255, 130, 137, 143, 255, 255, 255]);
        assert_eq!(code(&[0, -1], 3, None, false), 127);
        assert_eq!(code(&[-1], 1, Some(JobResult::Interrupted), true), 143);
        assert_eq!(code(&[-1], 1, None, true), 129);
        assert_eq!(code(&[0], 2, Some(JobResult::Killed), true), 143);
        assert_eq!(code(&[0], 1, Some(JobResult::Killed), true), 0);
        assert_eq!(code(&[3], 2, None, true), 3);
    }

    #[test]
    fn output_that_is_left_out_is_no_success() {
        let ok = Outcome::of_codes(&[0], 1, None, true);
        assert_eq!(end(ok.clone(), 1, 5).exit_code_of_all(), 74);
        assert_eq!(end(ok, 1, 0).exit_code_of_all(), 0);
        assert_eq!(end(Outcome::of_codes(&[3], 1, None, true), 1, 5).exit_code_of_all(), 3);
    }
}
