//! One job: its state, its output, and the part of the output that was reported.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::class::{self, Reading};
use super::command::Command;
use super::record::{JobRecord, OutcomeRecord, Progress};
use super::submission::Submission;
use crate::charge::Charge;
use crate::helper::store::{Kind, LogEnd, TextQuestion};
use crate::moment::Moment;
use crate::wire::{
    Decoder, Event, Excerpt, Finished, JobEvent, JobHead, JobResult, JsonFields, Outcome, Phase,
    Pieces, Running, fair_share, parse_rfc3339, rfc3339,
};

/// Reason for an early end of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A client killed it.
    Killed,
    /// Its timeout expired.
    TimedOut,
    /// The daemon shuts down.
    Stopped,
    /// The daemon that ran it died.
    Interrupted,
    /// It may have run.
    Doubtful,
    /// A job that it was to run after did not succeed.
    Dependency,
}

/// Progress of ending a job early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) cause: Cause,
    /// Number of SIGKILLs sent.
    pub(super) kills: u32,
    /// The command has ended; its descendants may be alive.
    pub(super) command_ended: bool,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    /// Accepted, but not durable yet: not visible to clients.
    Filed {
        /// The record states that it starts at once.
        recorded: bool,
        /// It starts at once.
        chosen: bool,
    },
    /// Waiting in its queue.
    Pending,
    /// Chosen to start, but that is not durable yet.
    Starting,
    /// A command runs.
    Running { current: usize, ending: Option<Ending> },
    /// Ended, but that is not durable yet; its event, unless the log must be read for it.
    Ended(Option<Box<JobEvent>>),
    /// Ended, and reported.
    Finished,
}

/// Limits of a job's stored output, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogLimits {
    /// The whole log.
    pub(super) job: usize,
    /// Of each command, for events.
    pub(super) command: usize,
    /// Of all commands together, for events.
    pub(super) event: usize,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) head: Rc<JobHead>,
    pub(super) asked: Submission,
    pub(super) state: State,
    /// The finished job with the same id, which is forgotten when this one is durable.
    pub(super) replaces: Option<u64>,
    /// Jobs that have to finish before it may start.
    pub(super) after: Vec<u64>,
    /// The one of them that did not succeed, where it is not run for that.
    pub(super) failed_dependency: Option<String>,
    /// All that another run takes is retained when it has finished.
    pub(super) is_restartable: bool,
    /// Bytes of that.
    pub(super) environment: Charge,
    codes: Vec<i32>,
    /// The last command could not be started.
    not_startable: bool,
    /// When this daemon started its first command.
    begun: Option<Instant>,
    /// User who killed it.
    pub(super) killed_by: Option<String>,
    /// Its outcome.
    outcome: Outcome,
    limits: LogLimits,
    /// Output that running events have reported, by command.
    reported: Pieces,
    /// Output that is not reported yet.
    fresh: Pieces,
    /// Total number of bytes printed, and of those reported by running events.
    total: u64,
    reported_total: u64,
    /// Ranges of these bytes that are remarks of the dispatcher, in order.
    remarks: Vec<Range<u64>>,
    /// Output of the current command that is in no excerpt yet.
    unread: Vec<u8>,
    decoder: Decoder,
    /// Offsets at which the output of each started command begins.
    begins: Vec<u64>,
    /// Complete output, where the class parses it at the end.
    to_be_read: Option<Excerpt>,
    /// The output ends with a line end, or is empty.
    at_line_start: bool,
    /// Number and start of its leader processes.
    leaders: Vec<(i32, String)>,
    mark: String,
    /// A previous daemon ran it: its output is in its file alone.
    restored: bool,
    /// Number of its finished event, in this run of the daemon.
    pub(super) finished_seq: Option<u64>,
    time_started: Option<Rc<str>>,
    time_finished: Option<Rc<str>>,
    /// Total uptime of the daemons of this journal at its end, in seconds.
    uptime: u64,
    /// Fields of the class, as last reported.
    fields: Vec<(&'static str, Value)>,
    /// An event is pending.
    pub(super) news: bool,
    /// Not before this time.
    pub(super) next_tell: Option<Instant>,
}

impl Job {
    pub(super) fn new(serial: u64, asked: Submission, limits: LogLimits) -> Job {
        let head = JobHead {
            serial,
            id: asked.id.clone(),
            commands: asked.commands.iter().map(|command| command.shown.clone()).collect(),
            queue: asked.queue.clone(),
            class: class::class(&asked.id),
        };
        let to_be_read = class::reads_all_output(&asked.id).then(|| Excerpt::new(limits.job));
        Job {
            head: Rc::new(head),
            asked,
            state: State::Filed { recorded: false, chosen: false },
            replaces: None,
            after: Vec::new(),
            failed_dependency: None,
            is_restartable: true,
            environment: Charge::default(),
            codes: Vec::new(),
            not_startable: false,
            begun: None,
            killed_by: None,
            outcome: Outcome::default(),
            limits,
            reported: Vec::new(),
            fresh: Vec::new(),
            total: 0,
            reported_total: 0,
            remarks: Vec::new(),
            unread: Vec::new(),
            decoder: Decoder::default(),
            begins: Vec::new(),
            to_be_read,
            at_line_start: true,
            leaders: Vec::new(),
            mark: String::new(),
            restored: false,
            finished_seq: None,
            time_started: None,
            time_finished: None,
            uptime: 0,
            fields: Vec::new(),
            news: false,
            next_tell: None,
        }
    }

    /// True until its end was reported.
    pub(super) fn is_active(&self) -> bool {
        match self.state {
            State::Filed { .. }
            | State::Pending
            | State::Starting
            | State::Running { .. }
            | State::Ended(_) => true,
            State::Finished => false,
        }
    }

    /// Whether it is visible to clients and has not ended.
    pub(super) fn can_be_killed(&self) -> bool {
        matches!(self.state, State::Pending | State::Starting | State::Running { .. })
    }

    /// Whether it ended before it ran.
    pub(super) fn is_cancelled(&self) -> bool {
        self.outcome.result == Some(JobResult::Cancelled)
    }

    /// True where it is over and all its commands returned 0.
    pub(super) fn has_succeeded(&self) -> bool {
        self.outcome.result == Some(JobResult::Ok)
    }

    /// Its submission, for another run; `None` where that is not retained.
    pub(super) fn again(&self) -> Option<Submission> {
        let commands = self.head.commands.iter();
        let commands = commands.map(|line| Command::from_recorded(line).ok().flatten());
        let commands =
            commands.collect::<Option<Vec<Command>>>().filter(|_| self.is_restartable)?;
        Some(Submission {
            commands,
            nonce: None,
            submitted_by: None,
            after: Vec::new(),
            after_any: false,
            ..self.asked.clone()
        })
    }

    /// Forgets what only another run would take.
    pub(super) fn drop_environment(&mut self) {
        self.is_restartable = false;
        self.environment = Charge::default();
        self.asked.env.clear();
        (self.asked.cwd, self.asked.user) = (None, None);
    }

    /// Whether a previous daemon ran it.
    pub(super) fn is_restored(&self) -> bool {
        self.restored
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    pub(super) fn begin(&mut self, now: Moment) {
        self.time_started = Some(rfc3339(now.wall).into());
        self.begun = Some(now.instant);
        self.begins.push(self.total);
        self.state = State::Running { current: 0, ending: None };
    }

    /// The running command, or the last one.
    pub(super) fn current(&self) -> usize {
        match self.state {
            State::Filed { .. } | State::Pending | State::Starting => 0,
            State::Running { current, .. } => current,
            State::Ended(_) | State::Finished => self.codes.len().saturating_sub(1),
        }
    }

    pub(super) fn ending(&mut self) -> Option<&mut Ending> {
        match &mut self.state {
            State::Running { ending, .. } => ending.as_mut(),
            State::Filed { .. }
            | State::Pending
            | State::Starting
            | State::Ended(_)
            | State::Finished => None,
        }
    }

    /// A process was started for it.
    pub(super) fn started(&mut self, leader: (i32, String), mark: &str) {
        self.leaders.push(leader);
        mark.clone_into(&mut self.mark);
    }

    /// Offset of its next output.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Maximum size of its stored output, in bytes.
    pub(super) fn log_limit(&self) -> usize {
        self.limits.job
    }

    /// Appends output of the current command.
    pub(super) fn print(&mut self, bytes: &[u8]) {
        if self.begins.is_empty() {
            self.begins.push(self.total);
        }
        self.unread.extend_from_slice(bytes);
        self.news = true;
        match self.cut_log().is_some() {
            false if self.unread.len() > self.limits.command => self.read_output(),
            true if self.unread.len() > 2 * self.limits.command => self.skip_unread(),
            false | true => {}
        }
        self.total += bytes.len() as u64;
        self.at_line_start = bytes.ends_with(b"\n");
    }

    /// Appends a remark of the dispatcher, output that no command printed.
    pub(super) fn print_remark(&mut self, remark: &str) {
        let start = self.total;
        self.print(remark.as_bytes());
        self.remarks.push(start..self.total);
    }

    /// The log of the current command, if it is cut already and the class does not parse all output.
    fn cut_log(&mut self) -> Option<&mut Excerpt> {
        let current = self.current();
        let fresh = self.fresh.iter_mut().find(|(index, _)| *index == current);
        let cut = fresh.filter(|(_, log)| log.is_cut() && self.to_be_read.is_none());
        cut.map(|(_, log)| log)
    }

    /// Drops unread output beyond the size of a log's tail.
    fn skip_unread(&mut self) {
        let is_continuation = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
        let skipped = self.unread.len().saturating_sub(self.limits.command);
        let rest = self.unread.iter().skip(skipped).take(3).take_while(is_continuation).count();
        self.unread.drain(..skipped + rest);
        if let Some(log) = self.cut_log() {
            log.skip((skipped + rest) as u64);
        }
        self.decoder = Decoder::default();
    }

    /// Moves unread output into the excerpts. Of a log that is cut already only as much as its tail
    /// holds is decoded: a program may print faster than all of it could be processed.
    fn read_output(&mut self) {
        if self.unread.len() > self.limits.command && self.cut_log().is_some() {
            self.skip_unread();
        }
        let bytes = std::mem::take(&mut self.unread);
        let text = self.decoder.decode(&bytes);
        self.show(&text);
    }

    fn show(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let (current, limit) = (self.current(), self.limits.command);
        match self.fresh.iter_mut().find(|(index, _)| *index == current) {
            Some((_, log)) => log.push(text),
            None => {
                let before = self.reported.iter().find(|(index, _)| *index == current);
                let start = before.map_or(0, |(_, log)| log.end());
                let mut log = Excerpt::starting_at(start, limit);
                log.push(text);
                self.fresh.push((current, log));
            }
        }
        if let Some(all) = &mut self.to_be_read {
            all.push(text);
        }
    }

    /// A remark of the dispatcher, on a line of its own.
    pub(super) fn remark(&self, text: &str) -> String {
        let before = if self.at_line_start { "" } else { "\n" };
        format!("{before}[{text}]\n")
    }

    /// The current command ended with this code, or was never started; true where another one
    /// follows.
    pub(super) fn end_command(&mut self, code: i32, is_started: bool) -> bool {
        self.read_output();
        let rest = self.decoder.finish();
        self.show(&rest);
        self.codes.push(code);
        self.not_startable = !is_started;
        self.bound_reported();
        let next = self.codes.len();
        let goes_on = code == 0 && next < self.head.commands.len();
        match &mut self.state {
            State::Running { current, ending: None } if goes_on => {
                *current = next;
                self.begins.push(self.total);
                self.news = true;
                true
            }
            State::Filed { .. }
            | State::Pending
            | State::Starting
            | State::Running { .. }
            | State::Ended(_)
            | State::Finished => false,
        }
    }

    /// A long chain of commands with much output must not store a full log of each.
    fn bound_reported(&mut self) {
        let sizes: Vec<usize> = self.reported.iter().map(|(_, log)| log.held()).collect();
        if sizes.iter().sum::<usize>() > self.limits.event {
            let share = fair_share(&sizes, self.limits.event);
            for (_, log) in self.reported.iter_mut().filter(|(_, log)| log.held() > share) {
                *log = log.with_limit(share);
            }
        }
    }

    fn report(&mut self) -> Pieces {
        self.read_output();
        let fresh = std::mem::take(&mut self.fresh);
        for (index, piece) in &fresh {
            match self.reported.iter_mut().find(|(i, _)| i == index) {
                Some((_, log)) => log.append(piece),
                None => self.reported.push((*index, piece.clone())),
            }
        }
        self.news = false;
        self.reported_total = self.total;
        fresh
    }

    pub(super) fn pending_event(&self) -> Event {
        Event::Job(JobEvent { job: self.head.clone(), phase: Phase::Pending, fields: vec![] })
    }

    /// The news since the last running event.
    pub(super) fn running_event(&mut self) -> Event {
        let fresh = self.report();
        if class::reads_output(&self.head.id) {
            let log: String = fresh.iter().map(|(_, piece)| piece.text()).collect();
            let fields = self.read_fields(&log, false);
            if !fields.is_empty() {
                self.fields = fields;
            }
        }
        Event::Job(self.running(fresh))
    }

    /// The current state for a new subscriber: everything reported so far. `None` where nothing was
    /// reported yet, or the end is about to be reported.
    pub(super) fn present(&self) -> Option<JobEvent> {
        match self.state {
            State::Pending | State::Starting => {
                Some(JobEvent { job: self.head.clone(), phase: Phase::Pending, fields: vec![] })
            }
            State::Running { .. } => Some(self.running(self.reported.clone())),
            State::Filed { .. } | State::Ended(_) | State::Finished => None,
        }
    }

    fn running(&self, output: Pieces) -> JobEvent {
        let running = Running {
            time_started: self.time_started.clone().unwrap_or_default(),
            current: self.current(),
            codes: self.codes.clone(),
            output,
        };
        let phase = Phase::Running(running);
        JobEvent { job: self.head.clone(), phase, fields: self.fields.clone() }
    }

    /// Ends the job, early if there is a cause. `uptime` is the total uptime of the daemons of this
    /// journal in seconds. Its event is published when that is durable.
    pub(super) fn end(&mut self, cause: Option<Cause>, uptime: u64, now: Moment) {
        self.uptime = uptime;
        let time_finished: Rc<str> = rfc3339(now.wall).into();
        self.time_finished = Some(time_finished);
        self.outcome = self.outcome_now(cause, now);
        let reported_total = self.reported_total;
        let fresh = self.report();
        self.reported_total = reported_total;
        if class::reads_output(&self.head.id) && !self.restored {
            let all = self.to_be_read.take();
            let log = all.map_or_else(
                || self.reported.iter().map(|(_, log)| log.text()).collect(),
                |all| all.text(),
            );
            let fields = self.read_fields(&log, true);
            if !fields.is_empty() {
                self.fields = fields;
            }
        }
        self.next_tell = None;
        let reported = std::mem::take(&mut self.reported);
        // Output reported by a previous daemon is only in the file.
        let event = (!self.restored).then(|| Box::new(self.finished(reported, fresh)));
        self.state = State::Ended(event);
    }

    fn outcome_now(&self, cause: Option<Cause>, now: Moment) -> Outcome {
        let has_run = self.time_started.is_some();
        let early = cause.map(|cause| match cause {
            Cause::Killed if has_run => JobResult::Killed,
            Cause::Stopped if has_run => JobResult::Interrupted,
            Cause::Killed | Cause::Stopped | Cause::Dependency => JobResult::Cancelled,
            Cause::TimedOut => JobResult::TimedOut,
            Cause::Interrupted | Cause::Doubtful => JobResult::Interrupted,
        });
        let since = |begun| now.instant.saturating_duration_since(begun);
        let duration = self.begun.map(since).or_else(|| {
            // A previous daemon started it.
            let begun = parse_rfc3339(self.time_started.as_deref()?)?;
            now.wall.duration_since(begun).ok()
        });
        let milliseconds = duration.and_then(|duration| u32::try_from(duration.as_millis()).ok());
        Outcome {
            submitted_by: self.asked.submitted_by.clone(),
            killed_by: self.killed_by.clone(),
            failed_dependency: self.failed_dependency.clone(),
            duration: milliseconds.map(|milliseconds| f64::from(milliseconds) / 1000.0),
            ..Outcome::of_codes(&self.codes, self.head.commands.len(), early, !self.not_startable)
        }
    }

    fn finished(&self, mut output: Pieces, fresh: Pieces) -> JobEvent {
        for index in 0..self.codes.len() {
            if !output.iter().any(|(i, _)| *i == index) {
                output.push((index, Excerpt::new(0)));
            }
        }
        output.sort_unstable_by_key(|(index, _)| *index);
        let time_finished = self.time_finished.clone().unwrap_or_default();
        let phase = Phase::Finished(Finished {
            time_started: self.time_started.clone().unwrap_or_else(|| time_finished.clone()),
            time_finished,
            codes: self.codes.clone(),
            outcome: Box::new(self.outcome.clone()),
            output,
            fresh,
        });
        JobEvent { job: self.head.clone(), phase, fields: self.fields.clone() }
    }

    /// Its outcome and the time of its end, if it has failed.
    pub(super) fn failure(&self) -> Option<(&Outcome, Rc<str>)> {
        let has_failed = match self.outcome.result? {
            JobResult::Failed
            | JobResult::TimedOut
            | JobResult::NotStartable
            | JobResult::Interrupted => true,
            JobResult::Ok | JobResult::Killed | JobResult::Cancelled => false,
        };
        let at = self.time_finished.clone()?;
        has_failed.then_some((&self.outcome, at))
    }

    /// Its end is durable, or never will be: returns its event, unless the log must be read for it.
    pub(super) fn finish(&mut self) -> Option<JobEvent> {
        // Another run reads them from the lines.
        self.asked.commands.clear();
        if !self.is_restartable {
            self.drop_environment();
        }
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Ended(event) => event.map(|event| *event),
            State::Filed { .. }
            | State::Pending
            | State::Starting
            | State::Running { .. }
            | State::Finished => None,
        }
    }

    /// The output of the commands as ranges of the total output, followed by those of the
    /// unreported part.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let ends = self.begins.iter().skip(1).chain([&self.total]);
        let whole: Vec<Range<u64>> =
            self.begins.iter().zip(ends).map(|(begin, end)| *begin..*end).collect();
        let fresh = whole
            .iter()
            .map(|range| range.start.max(self.reported_total)..range.end.max(self.reported_total));
        let fresh: Vec<Range<u64>> = fresh.collect();
        whole.into_iter().chain(fresh).collect()
    }

    /// The finished event, rebuilt from the pieces requested by [`Job::ranges`].
    pub(super) fn outcome(&self, pieces: Vec<Excerpt>) -> JobEvent {
        let commands = self.begins.len();
        let number = |(at, piece): (usize, Excerpt)| (at % commands.max(1), piece);
        let mut pieces: Pieces = pieces.into_iter().enumerate().map(number).collect();
        let mut fresh = pieces.split_off(commands.min(pieces.len()));
        pieces.retain(|(index, piece)| *index < self.codes.len() || !piece.is_empty());
        fresh.retain(|(_, piece)| !piece.is_empty());
        self.finished(pieces, fresh)
    }

    /// Maximum size of each piece of an outcome, in bytes.
    pub(super) fn piece_limit(&self) -> usize {
        self.limits.command.min(self.limits.event / self.begins.len().max(1))
    }

    fn read_fields(&self, log: &str, finished: bool) -> Vec<(&'static str, Value)> {
        let command = self.head.commands.get(self.current()).map_or("", String::as_str);
        let room = self.limits.event / 16;
        class::fields(&Reading { id: &self.head.id, command, log, finished, room })
    }

    /// The job's entry in a list, with at most this many bytes of each command.
    pub(super) fn entry(&self, position: Option<usize>) -> Value {
        let state = match self.state {
            State::Filed { .. } | State::Pending | State::Starting => "pending",
            State::Running { .. } | State::Ended(_) => "running",
            State::Finished => "finished",
        };
        let mut entry = json!({ "commands": self.head.commands, "state": state });
        if let Some(position) = position {
            entry.set_field("queue_position", position.to_string());
        }
        if let Some(time) = &self.time_started {
            entry.set_field("time_started", &**time);
        }
        if let Some(time) = &self.time_finished {
            entry.set_field("time_finished", &**time);
        }
        entry.set_field("return_codes", self.codes.iter().map(i32::to_string).collect::<Value>());
        let asked = &self.asked;
        // Values of variables may be secrets.
        let names = asked.env.keys().map(String::as_str).collect::<Vec<_>>();
        for (key, value) in [
            ("cwd", asked.cwd.as_deref().map(Value::from)),
            ("env", Some(names.into()).filter(|_| !asked.env.is_empty())),
            ("user", asked.user.as_ref().map(|user| json!(user))),
            ("timeout", asked.timeout.map(|timeout| timeout.as_secs_f64().into())),
        ] {
            if let Some(value) = value {
                entry.set_field(key, value);
            }
        }
        if let Some(fields) = entry.as_object_mut() {
            let by = self.asked.submitted_by.as_deref();
            fields.extend(by.map(|by| ("submitted_by".to_owned(), by.into())));
            if self.asked.priority != 0 {
                fields.insert("priority".to_owned(), self.asked.priority.into());
            }
            if matches!(self.state, State::Finished) {
                fields.extend(self.outcome.fields());
            }
        }
        entry
    }

    /// The query for a part of the log, from byte `offset`, at most `length` bytes.
    pub(super) fn log_question(&self, offset: u64, length: usize) -> TextQuestion {
        TextQuestion {
            serial: self.head.serial,
            total: self.total,
            limit: self.limits.job,
            active: self.is_active(),
            offset,
            length,
        }
    }

    /// Its record for the journal.
    pub(super) fn record(&self, is: Kind) -> JobRecord {
        let progress = Progress {
            time_started: self.time_started.as_deref().unwrap_or_default().to_owned(),
            codes: self.codes.clone(),
            begins: self.begins.clone(),
            remarks: self.remarks.clone(),
            leaders: if is == Kind::Finished { Vec::new() } else { self.leaders.clone() },
            mark: if is == Kind::Finished { String::new() } else { self.mark.clone() },
        };
        let outcome = (is == Kind::Finished).then(|| OutcomeRecord {
            time_finished: self.time_finished.as_deref().unwrap_or_default().to_owned(),
            uptime: self.uptime,
            total: self.total,
            reported: self.reported_total,
            fields: self
                .fields
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
            outcome: self.outcome.clone(),
        });
        let asked = &self.asked;
        let is_retained = is != Kind::Finished || self.is_restartable;
        JobRecord {
            serial: self.head.serial,
            is,
            id: self.head.id.clone(),
            commands: self.head.commands.clone(),
            queue: asked.queue.clone(),
            timeout: asked.timeout.map(|timeout| timeout.as_secs_f64()),
            cwd: asked.cwd.clone().filter(|_| is_retained),
            env: if is_retained { asked.env.clone() } else { Default::default() },
            user: asked.user.clone().filter(|_| is_retained),
            priority: asked.priority,
            after: self.after.clone(),
            after_any: asked.after_any,
            failed_dependency: self.failed_dependency.clone(),
            restartable: is == Kind::Finished && self.is_restartable,
            submitted_by: asked.submitted_by.clone(),
            nonce: asked.nonce.clone(),
            log_limit: self.limits.job,
            starts: matches!(self.state, State::Filed { recorded: true, .. }),
            progress: (is != Kind::Filed).then_some(progress),
            outcome,
        }
    }

    /// Restores a job from the journal. `end` is the end of its log on disk.
    pub(super) fn restore(record: JobRecord, limits: LogLimits, end: LogEnd) -> Option<Job> {
        let asked = record.submission()?;
        let (after, failed_dependency) = (record.after, record.failed_dependency);
        let is_restartable = record.outcome.is_none() || record.restartable;
        let limits = LogLimits { job: record.log_limit, ..limits };
        let job = Job::new(record.serial, asked, limits);
        let mut job = Job { after, failed_dependency, is_restartable, ..job };
        let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Rc::from);
        if let Some(progress) = record.progress {
            job.time_started = text(&progress.time_started);
            job.codes = progress.codes;
            job.begins = progress.begins;
            job.remarks = progress.remarks;
            job.leaders = progress.leaders;
            job.mark = progress.mark;
        }
        job.total = end.total.max(job.begins.last().copied().unwrap_or(0));
        job.reported_total = job.total;
        job.at_line_start = !end.midway;
        match record.outcome {
            Some(outcome) => {
                job.restored = true;
                // Reported by a previous daemon, before any event of this one.
                job.finished_seq = Some(0);
                job.time_finished = text(&outcome.time_finished);
                job.uptime = outcome.uptime;
                (job.total, job.reported_total) = (outcome.total, outcome.reported);
                job.fields = class::known_fields(outcome.fields);
                job.outcome = outcome.outcome;
                if job.outcome.result.is_none() {
                    job.outcome = job.outcome_of_codes();
                }
                job.state = State::Finished;
                job.asked.commands.clear();
            }
            None => job.state = State::Pending,
        }
        Some(job)
    }

    /// The outcome of a job of an earlier version, as far as its codes are unambiguous: a negative
    /// code may be a signal of any origin.
    fn outcome_of_codes(&self) -> Outcome {
        let commands = self.head.commands.len();
        match self.codes.last() {
            None => Outcome::of_codes(&[], commands, Some(JobResult::Cancelled), true),
            Some(0..) => Outcome::of_codes(&self.codes, commands, None, true),
            Some(..0) => Outcome::default(),
        }
    }

    /// It ran when its daemon died: starts to end it.
    pub(super) fn interrupt(&mut self, ending: Ending, now: Moment) {
        self.restored = true;
        self.time_started.get_or_insert_with(|| rfc3339(now.wall).into());
        let current = self.codes.len();
        while self.begins.len() <= current {
            self.begins.push(self.total);
        }
        self.state = State::Running { current, ending: Some(ending) };
    }

    /// State of the output and of the end, for attached clients.
    pub(super) fn output(&self) -> JobOutput<'_> {
        let end = matches!(self.state, State::Finished).then(|| {
            let mut end = self.outcome.fields();
            let codes: Vec<String> = self.codes.iter().map(i32::to_string).collect();
            end.insert("return_codes".to_owned(), codes.into());
            end.insert("cmd_list".to_owned(), self.head.commands.clone().into());
            end
        });
        let is_ending = matches!(self.state, State::Running { ending: Some(_), .. });
        JobOutput {
            id: &self.head.id,
            commands: &self.head.commands,
            total: self.total,
            begins: &self.begins,
            remarks: &self.remarks,
            is_ending,
            end,
        }
    }

    /// The latest time of the job in events.
    pub(super) fn latest_time(&self) -> Option<&str> {
        self.time_finished.as_deref().or(self.time_started.as_deref())
    }

    /// Time since the job ended, by the uptime of daemons.
    pub(super) fn age(&self, uptime: u64) -> Duration {
        Duration::from_secs(uptime.saturating_sub(self.uptime))
    }
}

/// The output of a job for attached clients.
#[derive(Debug)]
pub struct JobOutput<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its chain.
    pub commands: &'a [String],
    /// Total number of bytes so far.
    pub total: u64,
    /// Offsets at which the output of each started command begins.
    pub begins: &'a [u64],
    /// Ranges that are remarks of the dispatcher, in order.
    pub remarks: &'a [Range<u64>],
    /// The daemon is killing it.
    pub is_ending: bool,
    /// The fields of its outcome, once that was published.
    pub end: Option<serde_json::Map<String, Value>>,
}
