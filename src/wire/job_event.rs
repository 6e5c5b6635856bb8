//! Events about jobs, and their JSON.
//!
//! The documented form uses commands as keys, so a command may collide with a key of the protocol
//! or with an equal command of the chain; this module has the rules for that. It also divides an
//! event's limit among its logs, and coalesces running events.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::excerpt::{Excerpt, Shown};
use super::json::encoded_len;
use super::outcome::{OUTCOME_KEYS, Outcome};

/// Keys of the documented form; a command that equals one never replaces it.
const RESERVED: [&str; 7] =
    ["state", "cmd_list", "process_id", "time_started", "time_finished", "current_cmd", "log"];
const RETURN_CODES: &str = "return_codes/";

/// Output, by index of the command that printed it.
pub type Pieces = Vec<(usize, Excerpt)>;

/// The part common to all events of a job.
#[derive(Debug, PartialEq, Eq)]
pub struct JobHead {
    /// The daemon's own number of the job, consecutive; never reused in an epoch.
    pub serial: u64,
    /// The id chosen by its submitter (`process_id` on the wire).
    pub id: String,
    /// The chain, as written or, for argv forms, quoted for a shell.
    pub commands: Vec<String>,
    /// Its queue, if it has one.
    pub queue: Option<String>,
    /// The envelope of this job's events, if it belongs to a class.
    pub class: Option<Class>,
}

/// The envelope of a job's class (protocol section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// `sysadm/pkg` and the like.
    pub event_system: &'static str,
    /// The field with unreported output, where the class has one.
    pub log_field: Option<&'static str>,
    /// Fields with the same value in each event.
    pub fixed: Vec<(&'static str, String)>,
}

/// One event of a job.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// The job.
    pub job: Rc<JobHead>,
    /// Its phase.
    pub phase: Phase,
    /// Fields of the class that change from event to event.
    pub fields: Vec<(&'static str, Value)>,
}

/// Phase of a job.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Waiting in its queue.
    Pending,
    /// One of its commands runs.
    Running(Running),
    /// Ended.
    Finished(Finished),
}

/// Content of a running event.
#[derive(Clone, Debug)]
pub struct Running {
    /// RFC 3339.
    pub time_started: Rc<str>,
    /// Index of the running command.
    pub current: usize,
    /// Return codes of ended commands, in order.
    pub codes: Vec<i32>,
    /// New output, by index of the command.
    pub output: Pieces,
}

/// Content of a finished event.
#[derive(Clone, Debug)]
pub struct Finished {
    /// RFC 3339.
    pub time_started: Rc<str>,
    /// RFC 3339.
    pub time_finished: Rc<str>,
    /// Return codes of the commands that ran, in order.
    pub codes: Vec<i32>,
    /// Its outcome.
    pub outcome: Box<Outcome>,
    /// Complete output, by index of the command, of all commands that ran.
    pub output: Pieces,
    /// The part of the output that no running event had.
    pub fresh: Pieces,
}

impl JobHead {
    /// Whether the documented form alone cannot distinguish the logs.
    fn is_ambiguous(&self) -> bool {
        self.commands.iter().enumerate().any(|(i, command)| {
            is_reserved(command) || self.commands.iter().take(i).any(|other| other == command)
        })
    }
}

/// Whether a key belongs to the protocol and is never replaced by a command.
pub fn is_reserved(command: &str) -> bool {
    RESERVED.contains(&command)
        || OUTCOME_KEYS.contains(&command)
        || command.starts_with(RETURN_CODES)
}

impl JobEvent {
    /// Whether a newer event of the same job may be coalesced with this one.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    /// Whether this event reports the end of the job.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished(_))
    }

    /// The event without its output; `None` for a running one that is not the first of its job.
    pub fn without_output(&self) -> Option<JobEvent> {
        let mut event = self.clone();
        match &mut event.phase {
            Phase::Pending => {}
            Phase::Running(running) if running.output.is_empty() && running.codes.is_empty() => {}
            Phase::Running(_) => return None,
            Phase::Finished(finished) => {
                (finished.output, finished.fresh) = (Vec::new(), Vec::new());
            }
        }
        Some(event)
    }

    /// Coalesces `newer` with this running event; unless both are running events of one job,
    /// returns `newer` unchanged.
    pub fn join(&mut self, newer: JobEvent) -> Result<(), Box<JobEvent>> {
        if self.job.serial != newer.job.serial {
            return Err(Box::new(newer));
        }
        match (&mut self.phase, newer.phase) {
            (Phase::Running(mine), Phase::Running(theirs)) => {
                for (index, piece) in &theirs.output {
                    match mine.output.iter_mut().find(|(i, _)| i == index) {
                        Some((_, log)) => log.append(piece),
                        None => mine.output.push((*index, piece.clone())),
                    }
                }
                mine.current = theirs.current;
                mine.codes = theirs.codes;
                self.fields = newer.fields;
                Ok(())
            }
            (_, phase) => Err(Box::new(JobEvent { phase, ..newer })),
        }
    }

    /// Approximate size as JSON in bytes, without encoding: for the accounting of queues.
    pub fn weight(&self) -> usize {
        let commands: usize = self.job.commands.iter().map(String::len).sum();
        let output: usize = match &self.phase {
            Phase::Pending => 0,
            Phase::Running(running) => running.output.iter().map(|(_, log)| log.held()).sum(),
            Phase::Finished(finished) => {
                finished.output.iter().chain(&finished.fresh).map(|(_, log)| log.held()).sum()
            }
        };
        let fields: usize = self.fields.iter().map(|(_, value)| weight(value)).sum();
        256 + 2 * commands + output + fields
    }

    /// The event's `args` as JSON, at most `budget` bytes: beyond it, the middle of each log is
    /// omitted, from short ones last.
    pub fn args(&self, budget: usize) -> String {
        self.args_and_ranges(budget).0
    }

    /// The same, and the parts of the commands' output in the event: a list as JSON. Both together
    /// have at most `budget` bytes.
    pub fn args_and_ranges(&self, budget: usize) -> (String, String) {
        const RANGE: usize = 128;
        let ranges = Logs::of(&self.phase).0.len() * RANGE;
        let bare = self.assemble(&Logs::empty(&self.phase)).to_string().len() + ranges;
        let tells_fresh = self.job.class.as_ref().is_some_and(|class| class.log_field.is_some());
        let room = budget.saturating_sub(bare);
        let logs = Logs::within(&self.phase, room, self.copies(), tells_fresh);
        (self.assemble(&logs).to_string(), logs.ranges().to_string())
    }

    /// Number of times that the text of a log stands in the event.
    fn copies(&self) -> usize {
        let in_class_log = self.job.class.as_ref().is_some_and(|class| class.log_field.is_some());
        let in_list = matches!(self.phase, Phase::Finished(_)) && self.job.is_ambiguous();
        1 + usize::from(in_class_log && self.is_running()) + usize::from(in_list)
    }

    fn assemble(&self, logs: &Logs) -> Value {
        let details = self.details(logs);
        let Some(class) = &self.job.class else { return Value::Object(details) };
        let mut args = Map::new();
        args.insert("event_system".into(), class.event_system.into());
        args.insert("state".into(), self.state().into());
        if let Some(field) = class.log_field {
            args.insert(field.into(), logs.fresh_text(&self.phase).into());
        }
        for (key, value) in &class.fixed {
            args.insert((*key).into(), value.as_str().into());
        }
        for (key, value) in &self.fields {
            args.insert((*key).into(), value.clone());
        }
        args.insert("process_details".into(), Value::Object(details));
        Value::Object(args)
    }

    fn state(&self) -> &'static str {
        match self.phase {
            Phase::Pending => "pending",
            Phase::Running(_) => "running",
            Phase::Finished(_) => "finished",
        }
    }

    fn details(&self, logs: &Logs) -> Map<String, Value> {
        let job = &*self.job;
        let mut args = Map::new();
        args.insert("state".into(), self.state().into());
        args.insert("process_id".into(), job.id.as_str().into());
        args.insert("cmd_list".into(), job.commands.clone().into());
        match &self.phase {
            Phase::Pending => {}
            Phase::Running(running) => {
                args.insert("time_started".into(), (*running.time_started).into());
                let current = job.commands.get(running.current).map_or("", String::as_str);
                args.insert("current_cmd".into(), current.into());
                self.list_commands(&mut args, &running.codes, logs);
            }
            Phase::Finished(finished) => {
                args.insert("time_started".into(), (*finished.time_started).into());
                args.insert("time_finished".into(), (*finished.time_finished).into());
                args.extend(finished.outcome.fields());
                self.list_commands(&mut args, &finished.codes, logs);
                if job.is_ambiguous() {
                    args.insert("log".into(), self.list(&finished.codes, logs));
                }
            }
        }
        args
    }

    fn list_commands(&self, args: &mut Map<String, Value>, codes: &[i32], logs: &Logs) {
        for (command, code) in self.job.commands.iter().zip(codes) {
            args.insert(format!("{RETURN_CODES}{command}"), code.to_string().into());
        }
        for (index, text) in &logs.output {
            let Some(command) = self.job.commands.get(*index) else { continue };
            if is_reserved(command) {
                continue;
            }
            match args.get_mut(command) {
                Some(Value::String(before)) => before.push_str(text),
                Some(_) | None => {
                    args.insert(command.clone(), text.as_str().into());
                }
            }
        }
    }

    fn list(&self, codes: &[i32], logs: &Logs) -> Value {
        let entry = |(index, code): (usize, &i32)| {
            let output = logs.output.iter().find(|(i, _)| *i == index).map_or("", |(_, text)| text);
            json!({
                "command": self.job.commands.get(index),
                "output": output,
                "return_code": code.to_string(),
            })
        };
        codes.iter().enumerate().map(entry).collect()
    }
}

/// Bytes of a field's text.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(weight).sum(),
        Value::Object(fields) => fields.values().map(weight).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The logs of an event as texts, cut to fit.
struct Logs {
    output: Vec<(usize, String)>,
    fresh: Vec<String>,
    /// One for each output.
    ranges: Vec<Range>,
}

/// The part of a command's output in one text of an event: its first `head` bytes and its last
/// `tail` bytes; where bytes are omitted, a marker line stands between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Index of the command.
    pub command: usize,
    /// Offset of its first byte in all output of the command.
    pub from: u64,
    /// Offset after its last byte.
    pub to: u64,
    /// Bytes.
    pub head: usize,
    /// Bytes.
    pub tail: usize,
    /// Bytes of the text, including that line.
    pub length: usize,
}

impl Logs {
    fn of(phase: &Phase) -> (&Pieces, &Pieces) {
        const NONE: &Pieces = &Pieces::new();
        match phase {
            Phase::Pending => (NONE, NONE),
            Phase::Running(running) => (&running.output, NONE),
            Phase::Finished(finished) => (&finished.output, &finished.fresh),
        }
    }

    fn empty(phase: &Phase) -> Logs {
        let (output, _) = Logs::of(phase);
        let output = output.iter().map(|(i, _)| (*i, String::new())).collect();
        Logs { output, fresh: vec![], ranges: vec![] }
    }

    /// `budget` is for all texts together; each of `output` stands `copies` times in the event, and
    /// unreported output only where the class has a field for it.
    fn within(phase: &Phase, budget: usize, copies: usize, tells_fresh: bool) -> Logs {
        let (output, fresh) = Logs::of(phase);
        let fresh: &[(usize, Excerpt)] = if tells_fresh { fresh } else { &[] };
        let whole = |logs: &[(usize, Excerpt)]| -> Vec<Shown> {
            logs.iter().map(|(_, log)| log.shown()).collect()
        };
        let mut texts = [whole(output), whole(fresh)];
        let mut wants: Vec<usize> =
            texts[0].iter().map(|shown| copies * encoded_len(&shown.text)).collect();
        wants.extend(texts[1].iter().map(|shown| encoded_len(&shown.text)));
        if wants.iter().sum::<usize>() > budget {
            let share = fair_share(&wants, budget);
            for (text, (_, log)) in texts[0].iter_mut().zip(output) {
                *text = log.shown_within(share / copies);
            }
            for (text, (_, log)) in texts[1].iter_mut().zip(fresh) {
                *text = log.shown_within(share);
            }
        }
        let [shown, fresh] = texts;
        let range = |((command, log), shown): (&(usize, Excerpt), &Shown)| Range {
            command: *command,
            from: log.start(),
            to: log.end(),
            head: shown.head,
            tail: shown.tail,
            length: shown.text.len(),
        };
        let ranges = output.iter().zip(&shown).map(range).collect();
        let numbered = output.iter().map(|(i, _)| *i);
        let output = numbered.zip(shown.into_iter().map(|shown| shown.text)).collect();
        let fresh = fresh.into_iter().map(|shown| shown.text).collect();
        Logs { output, fresh, ranges }
    }

    /// The form on the wire; commands without output are omitted.
    fn ranges(&self) -> Value {
        json!(self.ranges.iter().filter(|range| range.to > range.from).collect::<Vec<_>>())
    }

    /// Content of the class's own log field: unreported output.
    fn fresh_text(&self, phase: &Phase) -> String {
        match phase {
            Phase::Pending => String::new(),
            Phase::Running(_) => self.output.iter().map(|(_, text)| text.as_str()).collect(),
            Phase::Finished(_) => self.fresh.concat(),
        }
    }
}

/// The largest share such that the sum of what each log takes, its size or the share, is within
/// `budget`: short ones stay whole, long ones divide the rest.
pub fn fair_share(wants: &[usize], budget: usize) -> usize {
    let mut sorted = wants.to_vec();
    sorted.sort_unstable();
    let mut left = budget;
    for (i, want) in sorted.iter().enumerate() {
        let share = left / (sorted.len() - i);
        if *want > share {
            return share;
        }
        left -= want;
    }
    budget
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Excerpt {
        let mut e = Excerpt::new(64 * 1024);
        e.push(text);
        e
    }

    fn head(commands: &[&str], class: Option<Class>) -> Rc<JobHead> {
        let commands = commands.iter().map(|c| (*c).to_owned()).collect();
        Rc::new(JobHead { serial: 1, id: "j".into(), commands, queue: None, class })
    }

    fn finished(commands: &[&str], outputs: &[&str], codes: &[i32]) -> JobEvent {
        let output = outputs.iter().enumerate().map(|(i, o)| (i, log(o))).collect();
        JobEvent {
            job: head(commands, None),
            phase: Phase::Finished(Finished {
                time_started: "S".into(),
                time_finished: "F".into(),
                codes: codes.to_vec(),
                outcome: Box::new(Outcome::of_codes(codes, commands.len(), None, true)),
                output,
                fresh: vec![],
            }),
            fields: vec![],
        }
    }

    fn running(commands: &[&str], output: Pieces) -> JobEvent {
        JobEvent {
            job: head(commands, None),
            phase: Phase::Running(Running {
                time_started: "S".into(),
                current: 0,
                codes: vec![],
                output,
            }),
            fields: vec![],
        }
    }

    fn args(event: &JobEvent) -> Value {
        serde_json::from_str(&event.args(1 << 20)).unwrap()
    }

    #[test]
    fn the_documented_forms() {
        let pending =
            JobEvent { job: head(&["a", "b"], None), phase: Phase::Pending, fields: vec![] };
        assert_eq!(
            args(&pending),
            json!({"state": "pending", "cmd_list": ["a", "b"], "process_id": "j"})
        );
        assert_eq!(
            args(&running(&["a", "b"], vec![(0, log("x\n"))])),
            json!({"state": "running", "cmd_list": ["a", "b"], "process_id": "j",
                   "time_started": "S", "current_cmd": "a", "a": "x\n"})
        );
        assert_eq!(
            args(&finished(&["a", "b"], &["x\n", "y\n"], &[0, -15])),
            json!({"state": "finished", "cmd_list": ["a", "b"], "process_id": "j",
                   "time_started": "S", "time_finished": "F", "a": "x\n", "b": "y\n",
                   "return_codes/a": "0", "return_codes/b": "-15", "result": "failed",
                   "signal": 15, "failed_command": 1})
        );
    }

    #[test]
    fn reserved_key_takes_precedence_and_the_list_has_all() {
        let keys = RESERVED.iter().chain(&OUTCOME_KEYS).copied();
        for command in keys.chain(["return_codes/true"]) {
            let got = args(&finished(&["true", command], &["", "out"], &[0, 3]));
            assert_eq!(got["state"], "finished");
            assert_eq!(got["process_id"], "j");
            assert_eq!(got["return_codes/true"], "0");
            assert_eq!((&got["result"], &got["exit_code"]), (&json!("failed"), &json!(3)));
            assert_eq!(
                got["log"],
                json!([{"command": "true", "output": "", "return_code": "0"},
                       {"command": command, "output": "out", "return_code": "3"}])
            );
        }
    }

    #[test]
    fn equal_commands_have_their_logs_joined_and_the_list() {
        let got = args(&finished(&["a", "a"], &["1", "2"], &[0, 1]));
        assert_eq!(got["a"], "12");
        assert_eq!(got["return_codes/a"], "1");
        assert_eq!(got["log"][1], json!({"command": "a", "output": "2", "return_code": "1"}));
    }

    #[test]
    fn without_ambiguity_there_is_no_list() {
        assert_eq!(args(&finished(&["a", "b"], &["", ""], &[0, 0])).get("log"), None);
    }

    #[test]
    fn an_event_stays_within_its_budget_and_short_logs_stay_whole() {
        let long = "\u{1}x".repeat(50_000);
        let mut event =
            finished(&["long", "short", "long"], &[&long, "whole\n", &long], &[0, 0, 0]);
        for budget in [3000, 10_000, 100_000, 262_144] {
            let text = event.args(budget);
            assert!(text.len() <= budget, "{} > {budget}", text.len());
            let got: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(got["short"], "whole\n");
            assert!(got["long"].as_str().unwrap().contains("bytes left out"));
        }
        let class = Class { event_system: "sysadm/pkg", log_field: Some("pkg_log"), fixed: vec![] };
        event.job = head(&["a", "b", "c"], Some(class));
        if let Phase::Finished(finished) = &mut event.phase {
            finished.fresh = finished.output.clone();
        }
        assert!(event.args(20_000).len() <= 20_000);
    }

    #[test]
    fn fitting_log_is_whole_even_if_unreported() {
        let text = "x".repeat(40_000);
        let mut event = finished(&["a"], &[&text], &[0]);
        if let Phase::Finished(finished) = &mut event.phase {
            finished.fresh = finished.output.clone();
        }
        let got: Value = serde_json::from_str(&event.args(65_000)).unwrap();
        assert_eq!(got["a"], text);
    }

    #[test]
    fn coalesced_running_events_have_all_output_once() {
        let mut first = running(&["a", "b"], vec![(0, log("1\n"))]);
        let mut second = running(&["a", "b"], vec![(0, log("2\n")), (1, log("3\n"))]);
        if let Phase::Running(r) = &mut second.phase {
            r.current = 1;
            r.codes = vec![0];
        }
        first.join(second).unwrap();
        let got = args(&first);
        assert_eq!(got["a"], "1\n2\n");
        assert_eq!(got["b"], "3\n");
        assert_eq!(got["current_cmd"], "b");
        assert_eq!(got["return_codes/a"], "0");
    }

    #[test]
    fn a_finished_event_is_joined_to_nothing() {
        let mut event = running(&["a"], vec![]);
        assert!(event.join(finished(&["a"], &[""], &[0])).is_err());
        assert!(event.is_running());
    }

    #[test]
    fn class_has_new_output_beside_and_the_whole_inside() {
        let class = Class {
            event_system: "sysadm/pkg",
            log_field: Some("pkg_log"),
            fixed: vec![("action", "pkg_update".into())],
        };
        let mut event = finished(&["a"], &["one\ntwo\n"], &[0]);
        event.job = head(&["a"], Some(class));
        if let Phase::Finished(finished) = &mut event.phase {
            finished.fresh = vec![(0, log("two\n"))];
        }
        let got = args(&event);
        assert_eq!(got["event_system"], "sysadm/pkg");
        assert_eq!(got["state"], "finished");
        assert_eq!(got["action"], "pkg_update");
        assert_eq!(got["pkg_log"], "two\n");
        assert_eq!(got["process_details"]["a"], "one\ntwo\n");
        assert_eq!(got["process_details"]["state"], "finished");
    }
}
