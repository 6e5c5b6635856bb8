//! One job: where it stands, what it printed, and what of that has been told.

use std::rc::Rc;
use std::time::Instant;

use serde_json::{Value, json};

use super::class::{self, Reading};
use super::submission::Submission;
use crate::moment::Moment;
use crate::wire::{Event, Excerpt, Finished, JobEvent, JobHead, Phase, Pieces, Running, rfc3339};

/// Why a job is brought to its end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody asked for it.
    Killed,
    /// Its time is over.
    TimedOut,
    /// The daemon stops.
    Stopped,
}

/// The way to the end of a job that is brought to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) cause: Cause,
    /// How often SIGKILL was sent.
    pub(super) kills: u32,
    /// The command itself has ended; what it started may live on.
    pub(super) command_ended: bool,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Pending,
    Running { current: usize, ending: Option<Ending> },
    Finished,
}

/// Limits of what is kept of a job's output, in bytes.
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
    codes: Vec<i32>,
    limits: LogLimits,
    /// Output that running events have told, by command.
    told: Pieces,
    /// Output that none has told yet.
    fresh: Pieces,
    /// The whole of it.
    pub(super) log: Excerpt,
    /// The log ends with a line end, or is empty.
    at_line_start: bool,
    time_started: Option<Rc<str>>,
    time_finished: Option<Rc<str>>,
    /// Fields of the class, as last told.
    fields: Vec<(&'static str, Value)>,
    /// Something is to be told.
    pub(super) news: bool,
    /// Not before this.
    pub(super) next_tell: Option<Instant>,
}

impl Job {
    pub(super) fn new(serial: u64, asked: Submission, limits: LogLimits) -> Job {
        let head = JobHead {
            serial,
            id: asked.id.clone(),
            commands: asked.commands.iter().map(|command| command.shown.clone()).collect(),
            class: class::class(&asked.id),
        };
        Job {
            head: Rc::new(head),
            asked,
            state: State::Pending,
            codes: Vec::new(),
            limits,
            told: Vec::new(),
            fresh: Vec::new(),
            log: Excerpt::new(limits.job),
            at_line_start: true,
            time_started: None,
            time_finished: None,
            fields: Vec::new(),
            news: false,
            next_tell: None,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        !matches!(self.state, State::Finished)
    }

    pub(super) fn begin(&mut self, now: Moment) {
        self.time_started = Some(rfc3339(now.wall).into());
        self.state = State::Running { current: 0, ending: None };
    }

    /// The command that runs, or ran last.
    pub(super) fn current(&self) -> usize {
        match self.state {
            State::Pending => 0,
            State::Running { current, .. } => current,
            State::Finished => self.codes.len().saturating_sub(1),
        }
    }

    pub(super) fn ending(&mut self) -> Option<&mut Ending> {
        match &mut self.state {
            State::Running { ending, .. } => ending.as_mut(),
            State::Pending | State::Finished => None,
        }
    }

    pub(super) fn print(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let (current, limit) = (self.current(), self.limits.command);
        match self.fresh.iter_mut().find(|(index, _)| *index == current) {
            Some((_, log)) => log.push(text),
            None => {
                let mut log = Excerpt::new(limit);
                log.push(text);
                self.fresh.push((current, log));
            }
        }
        self.log.push(text);
        self.at_line_start = text.ends_with('\n');
        self.news = true;
    }

    /// A remark of the dispatcher's own, on a line of its own.
    pub(super) fn remark(&mut self, text: &str) {
        let before = if self.at_line_start { "" } else { "\n" };
        self.print(&format!("{before}[{text}]\n"));
    }

    /// The current command ended so; true where there is another one to be run.
    pub(super) fn end_command(&mut self, code: i32) -> bool {
        self.codes.push(code);
        self.bound_told();
        let next = self.codes.len();
        let goes_on = code == 0 && next < self.head.commands.len();
        match &mut self.state {
            State::Running { current, ending: None } if goes_on => {
                *current = next;
                self.news = true;
                true
            }
            State::Running { .. } | State::Pending | State::Finished => false,
        }
    }

    /// A long chain of talkative commands must not keep a full log of each.
    fn bound_told(&mut self) {
        let held: usize = self.told.iter().map(|(_, log)| log.held()).sum();
        if held > self.limits.event {
            let share = self.limits.event / self.told.len().max(1);
            for (_, log) in self.told.iter_mut().filter(|(_, log)| log.held() > share) {
                *log = log.with_limit(share);
            }
        }
    }

    fn tell(&mut self) -> Pieces {
        let fresh = std::mem::take(&mut self.fresh);
        for (index, piece) in &fresh {
            match self.told.iter_mut().find(|(i, _)| i == index) {
                Some((_, log)) => log.append(piece),
                None => self.told.push((*index, piece.clone())),
            }
        }
        self.news = false;
        fresh
    }

    pub(super) fn pending_event(&self) -> Event {
        Event::Job(JobEvent { job: self.head.clone(), phase: Phase::Pending, fields: vec![] })
    }

    /// What is new since the last one.
    pub(super) fn running_event(&mut self) -> Event {
        let fresh = self.tell();
        if class::reads_output(&self.head.id) {
            let log: String = fresh.iter().map(|(_, piece)| piece.text()).collect();
            let fields = self.read_fields(&log, false);
            if !fields.is_empty() {
                self.fields = fields;
            }
        }
        Event::Job(self.running(fresh, false))
    }

    /// For who comes late: all that has been told so far.
    pub(super) fn present(&self) -> Option<JobEvent> {
        match self.state {
            State::Pending => {
                Some(JobEvent { job: self.head.clone(), phase: Phase::Pending, fields: vec![] })
            }
            State::Running { .. } => Some(self.running(self.told.clone(), true)),
            State::Finished => None,
        }
    }

    fn running(&self, output: Pieces, whole: bool) -> JobEvent {
        let running = Running {
            time_started: self.time_started.clone().unwrap_or_default(),
            current: self.current(),
            codes: self.codes.clone(),
            output,
            whole,
        };
        let phase = Phase::Running(running);
        JobEvent { job: self.head.clone(), phase, fields: self.fields.clone() }
    }

    pub(super) fn finish(&mut self, now: Moment) -> Event {
        let finished: Rc<str> = rfc3339(now.wall).into();
        self.time_finished = Some(finished.clone());
        let fresh = self.tell();
        if class::reads_output(&self.head.id) {
            let fields = self.read_fields(&self.log.text(), true);
            if !fields.is_empty() {
                self.fields = fields;
            }
        }
        let mut output = std::mem::take(&mut self.told);
        for index in 0..self.codes.len() {
            if !output.iter().any(|(i, _)| *i == index) {
                output.push((index, Excerpt::new(0)));
            }
        }
        output.sort_by_key(|(index, _)| *index);
        self.state = State::Finished;
        self.next_tell = None;
        let phase = Phase::Finished(Finished {
            time_started: self.time_started.clone().unwrap_or_else(|| finished.clone()),
            time_finished: finished,
            codes: self.codes.clone(),
            output,
            fresh,
        });
        Event::Job(JobEvent { job: self.head.clone(), phase, fields: self.fields.clone() })
    }

    fn read_fields(&self, log: &str, finished: bool) -> Vec<(&'static str, Value)> {
        let command = self.head.commands.get(self.current()).map_or("", String::as_str);
        class::fields(&Reading { id: &self.head.id, command, log, finished })
    }

    /// The job's entry in a list.
    pub(super) fn entry(&self, position: Option<usize>) -> Value {
        let state = match self.state {
            State::Pending => "pending",
            State::Running { .. } => "running",
            State::Finished => "finished",
        };
        let mut entry = json!({ "commands": self.head.commands, "state": state });
        if let Some(position) = position {
            entry["queue_position"] = position.to_string().into();
        }
        if let Some(time) = &self.time_started {
            entry["time_started"] = (**time).into();
        }
        if let Some(time) = &self.time_finished {
            entry["time_finished"] = (**time).into();
        }
        entry["return_codes"] = self.codes.iter().map(i32::to_string).collect();
        entry
    }

    /// A part of the log, from byte `offset`, at most `length` bytes. While the job runs only what
    /// can no longer change its place is shown: the first half of what the log may hold.
    pub(super) fn log_part(&self, offset: u64, length: usize) -> Value {
        let text = self.log.text();
        let end = if self.is_active() { text.len().min(self.limits.job / 2) } else { text.len() };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(end);
        let start = (start..=end).find(|&at| text.is_char_boundary(at)).unwrap_or(end);
        let stop = start.saturating_add(length).min(end);
        let stop = (start..=stop).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(start);
        let eof = !self.is_active() && stop == text.len();
        json!({ "data": &text[start..stop], "offset": start, "next": stop, "eof": eof })
    }
}
