//! A dispatcher event as a reader wants it: which job, what state, what is new.
//!
//! The commands of a job are keys of its event beside the protocol's own, and a class wraps all of it
//! in an envelope (protocol section 2.1); after this file nobody has to know.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::outcome::{self, Verdict};
use super::told::Told;
use crate::wire::{Outcome, is_reserved, parse_rfc3339};

const RETURN_CODES: &str = "return_codes/";
/// How the reasons begin why a command could not be run.
const REASONS: [&str; 5] = [
    "cannot run ",
    "cannot start ",
    "cannot enter the directory ",
    "cannot become the user",
    "there is no user ",
];

/// How the last line begins of what was interrupted.
const INTERRUPTED: &str = "[interrupted: ";

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Pending,
    Running,
    Finished,
}

/// One event of one job.
pub(super) struct JobEvent<'a> {
    pub(super) id: &'a str,
    pub(super) state: State,
    pub(super) commands: Vec<&'a str>,
    details: &'a Map<String, Value>,
}

impl<'a> JobEvent<'a> {
    /// Reads the `args` of a dispatcher event; `None` where they are not what they should be.
    pub(super) fn read(args: &'a Value) -> Option<JobEvent<'a>> {
        let details = args.get("process_details").unwrap_or(args).as_object()?;
        let text = |key: &str| details.get(key).and_then(Value::as_str);
        let state = match text("state")? {
            "pending" => State::Pending,
            "running" => State::Running,
            "finished" => State::Finished,
            _ => return None,
        };
        let commands = details.get("cmd_list").and_then(Value::as_array);
        let commands = commands.into_iter().flatten().filter_map(Value::as_str).collect();
        Some(JobEvent { id: text("process_id")?, state, commands, details })
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.details.get(key).and_then(Value::as_str)
    }

    /// The command that runs.
    pub(super) fn current(&self) -> Option<&'a str> {
        self.text("current_cmd")
    }

    /// When it was over, RFC 3339.
    pub(super) fn time_finished(&self) -> Option<&'a str> {
        self.text("time_finished")
    }

    /// How long it took.
    pub(super) fn duration(&self) -> Option<Duration> {
        let started = parse_rfc3339(self.text("time_started")?)?;
        let finished = parse_rfc3339(self.time_finished()?)?;
        // A clock that was set back makes nonsense of it.
        finished.duration_since(started).ok()
    }

    /// Codes of the commands that ended, in order. Of equal commands only the finished event knows.
    pub(super) fn codes(&self) -> Vec<i32> {
        let number = |value: &Value| match value {
            Value::String(code) => code.parse().ok(),
            other => other.as_i64().and_then(|code| i32::try_from(code).ok()),
        };
        if let Some(list) = self.list() {
            return list.iter().map_while(|entry| number(&entry["return_code"])).collect();
        }
        let code = |command: &&str| number(self.details.get(&format!("{RETURN_CODES}{command}"))?);
        self.commands.iter().map_while(code).collect()
    }

    /// The list that tells logs apart where the documented form cannot.
    fn list(&self) -> Option<&'a Vec<Value>> {
        (self.state == State::Finished).then(|| self.details.get("log")?.as_array())?
    }

    /// Output by command, in the order of the chain; of equal commands joined.
    fn texts(&self) -> Vec<(&'a str, Cow<'a, str>)> {
        let mut texts: Vec<(&str, Cow<'_, str>)> = Vec::new();
        if let Some(list) = self.list() {
            for entry in list {
                let (Some(command), Some(output)) =
                    (entry["command"].as_str(), entry["output"].as_str())
                else {
                    continue;
                };
                match texts.iter_mut().find(|(known, _)| *known == command) {
                    Some((_, text)) => text.to_mut().push_str(output),
                    None => texts.push((command, output.into())),
                }
            }
            return texts;
        }
        for &command in &self.commands {
            if !is_reserved(command)
                && !texts.iter().any(|(known, _)| *known == command)
                && let Some(text) = self.text(command)
            {
                texts.push((command, text.into()));
            }
        }
        texts
    }

    /// What the code -1 of the last command stands for, which only its log tells.
    pub(super) fn minus_one(&self) -> Option<MinusOne<'a>> {
        let codes = self.codes();
        let command = *self.commands.get(codes.len().checked_sub(1)?)?;
        codes.last().filter(|code| **code == -1)?;
        let log = match self.list() {
            Some(list) => list.last().and_then(|entry| entry["output"].as_str()),
            None => self.text(command).filter(|_| !is_reserved(command)),
        };
        let lines: Vec<&str> = log.unwrap_or_default().lines().collect();
        let is_reason = |line: &&&str| REASONS.iter().any(|begin| line.starts_with(begin));
        Some(match (lines.first().filter(is_reason), lines.last()) {
            (Some(_), _) if lines.len() == 1 => MinusOne::NotRun(command),
            (_, Some(last)) if last.starts_with(INTERRUPTED) => MinusOne::Interrupted,
            (Some(_) | None, _) => MinusOne::HungUp,
        })
    }

    /// How a finished job ended.
    pub(super) fn outcome(&self) -> Outcome {
        let fields = Value::Object(self.details.clone());
        let mut outcome = outcome::outcome(&fields, &self.codes(), self.commands.len());
        let duration = || Some(self.duration()?.as_secs_f64());
        outcome.duration = outcome.duration.or_else(duration);
        outcome
    }

    /// The same in words.
    pub(super) fn verdict(&self) -> Verdict {
        outcome::verdict(&self.outcome(), &self.commands)
    }
}

/// What the code -1 stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MinusOne<'a> {
    /// This command could not be run.
    NotRun(&'a str),
    /// The daemon died while it ran.
    Interrupted,
    /// SIGHUP ended it.
    HungUp,
}

/// The output of one job, each byte once.
#[derive(Default)]
pub(super) struct JobOutput {
    told: Vec<(String, Told)>,
    /// Pieces were missed: what comes next is known only from an event that is whole.
    holed: bool,
}

impl JobOutput {
    /// True where output of this command was new in an event before.
    pub(super) fn has_told(&self, command: &str) -> bool {
        self.told.iter().any(|(known, _)| known == command)
    }

    /// The output of a job of which the beginning may have been missed.
    pub(super) fn after_gap() -> JobOutput {
        JobOutput { told: Vec::new(), holed: true }
    }

    /// Events were missed.
    pub(super) fn miss(&mut self) {
        self.holed = true;
    }

    /// What is new in this event, by command. `present` says that it tells how things stand: what
    /// it holds is whole, as in a finished event.
    pub(super) fn fresh<'a>(
        &mut self,
        event: &JobEvent<'a>,
        present: bool,
    ) -> Vec<(&'a str, String)> {
        match event.state {
            State::Pending => self.holed = false,
            State::Running if present => {
                self.holed = false;
                return self.fresh_of_whole(event);
            }
            State::Running if self.holed => return Vec::new(),
            State::Running | State::Finished => {}
        }
        let texts = event.texts().into_iter();
        let fresh =
            texts.map(|(command, text)| (command, self.fresh_of(command, &text, event.state)));
        fresh.filter(|(_, text)| !text.is_empty()).collect()
    }

    fn fresh_of_whole<'a>(&mut self, event: &JobEvent<'a>) -> Vec<(&'a str, String)> {
        let mut fresh = Vec::new();
        for (command, text) in event.texts() {
            let mut told = Told::new();
            told.push(&text);
            let before = self.told.iter().position(|(known, _)| known == command);
            let rest = match before {
                Some(at) => std::mem::replace(&mut self.told[at].1, told).rest(&text),
                None => {
                    self.told.push((command.to_owned(), told));
                    text.into_owned()
                }
            };
            if !rest.is_empty() {
                fresh.push((command, rest));
            }
        }
        fresh
    }

    fn fresh_of(&mut self, command: &str, text: &str, state: State) -> String {
        let known = self.told.iter().position(|(known, _)| known == command);
        match (state, known) {
            (State::Pending, _) => String::new(),
            (State::Running, Some(at)) => {
                self.told[at].1.push(text);
                text.to_owned()
            }
            (State::Running, None) => {
                let mut told = Told::new();
                told.push(text);
                self.told.push((command.to_owned(), told));
                text.to_owned()
            }
            (State::Finished, Some(at)) => self.told[at].1.rest(text),
            (State::Finished, None) => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fresh(output: &mut JobOutput, args: &Value) -> Vec<(String, String)> {
        let event = JobEvent::read(args).unwrap();
        output
            .fresh(&event, args["present"] == true)
            .into_iter()
            .map(|(c, t)| (c.to_owned(), t))
            .collect()
    }

    fn pair(command: &str, text: &str) -> (String, String) {
        (command.to_owned(), text.to_owned())
    }

    #[test]
    fn each_byte_is_fresh_once() {
        let mut output = JobOutput::default();
        let running = |more: Value| {
            let mut args = json!({"state": "running", "process_id": "j", "cmd_list": ["a", "b"]});
            args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            args
        };
        assert_eq!(fresh(&mut output, &running(json!({"current_cmd": "a"}))), []);
        assert_eq!(fresh(&mut output, &running(json!({"a": "1\n"}))), [pair("a", "1\n")]);
        let both = running(json!({"b": "3\n", "a": "2\n"}));
        assert_eq!(fresh(&mut output, &both), [pair("a", "2\n"), pair("b", "3\n")]);
        let finished = json!({"state": "finished", "process_id": "j", "cmd_list": ["a", "b"],
                              "a": "1\n2\n", "b": "3\n4\n", "return_codes/a": "0", "return_codes/b": "1"});
        assert_eq!(fresh(&mut output, &finished), [pair("b", "4\n")]);
    }

    #[test]
    fn after_a_gap_only_what_is_whole_tells_what_is_new() {
        let running = |text: &str, present: bool| {
            json!({"state": "running", "process_id": "j", "cmd_list": ["a"], "current_cmd": "a",
                   "a": text, "present": present})
        };
        let mut output = JobOutput::default();
        assert_eq!(fresh(&mut output, &running("1\n", false)), [pair("a", "1\n")]);
        output.miss();
        // A piece behind the hole; then all of it, then a piece that follows.
        assert_eq!(fresh(&mut output, &running("3\n", false)), []);
        assert_eq!(fresh(&mut output, &running("1\n2\n3\n", true)), [pair("a", "2\n3\n")]);
        assert_eq!(fresh(&mut output, &running("4\n", false)), [pair("a", "4\n")]);
        output.miss();
        assert_eq!(fresh(&mut output, &running("6\n", false)), []);
        let finished = json!({"state": "finished", "process_id": "j", "cmd_list": ["a"],
                              "a": "1\n2\n3\n4\n5\n6\n", "return_codes/a": "0"});
        assert_eq!(fresh(&mut output, &finished), [pair("a", "5\n6\n")]);
        let mut unknown = JobOutput::after_gap();
        assert_eq!(fresh(&mut unknown, &running("6\n", false)), []);
        assert_eq!(fresh(&mut unknown, &finished), [pair("a", "1\n2\n3\n4\n5\n6\n")]);
    }

    #[test]
    fn a_command_that_equals_a_reserved_key_is_told_by_the_list() {
        let mut output = JobOutput::default();
        let running = json!({"state": "running", "process_id": "j", "cmd_list": ["state", "process_id", "a"],
                             "current_cmd": "a", "return_codes/state": "0", "a": "x"});
        assert_eq!(fresh(&mut output, &running), [pair("a", "x")]);
        let list = json!([{"command": "state", "output": "S\n", "return_code": "0"},
                          {"command": "process_id", "output": "P\n", "return_code": "0"},
                          {"command": "a", "output": "xy", "return_code": "-15"}]);
        let finished = json!({"state": "finished", "process_id": "j", "a": "xy", "log": list,
                              "cmd_list": ["state", "process_id", "a"]});
        let told = [pair("state", "S\n"), pair("process_id", "P\n"), pair("a", "y")];
        assert_eq!(fresh(&mut output, &finished), told);
        assert_eq!(JobEvent::read(&finished).unwrap().codes(), [0, 0, -15]);
    }

    #[test]
    fn the_command_log_is_told_by_the_list_too() {
        let list = json!([{"command": "log", "output": "L", "return_code": "0"}]);
        let finished =
            json!({"state": "finished", "process_id": "j", "cmd_list": ["log"], "log": list});
        assert_eq!(fresh(&mut JobOutput::default(), &finished), [pair("log", "L")]);
    }

    #[test]
    fn equal_commands_are_one_text() {
        let mut output = JobOutput::default();
        let running = |text: &str| json!({"state": "running", "process_id": "j", "cmd_list": ["a", "a"], "a": text});
        assert_eq!(fresh(&mut output, &running("1")), [pair("a", "1")]);
        assert_eq!(fresh(&mut output, &running("2")), [pair("a", "2")]);
        let list = json!([{"command": "a", "output": "1", "return_code": "0"},
                          {"command": "a", "output": "23", "return_code": "4"}]);
        let finished = json!({"state": "finished", "process_id": "j", "cmd_list": ["a", "a"], "a": "123", "log": list});
        assert_eq!(fresh(&mut output, &finished), [pair("a", "3")]);
        assert_eq!(JobEvent::read(&finished).unwrap().codes(), [0, 4]);
    }

    #[test]
    fn a_class_has_its_details_inside() {
        let details = json!({"state": "running", "process_id": "sysadm_pkg_update", "cmd_list": ["pkg update"],
                             "pkg update": "x\n", "current_cmd": "pkg update"});
        let args = json!({"event_system": "sysadm/pkg", "state": "running", "pkg_log": "x\n",
                          "action": "pkg_update", "process_details": details});
        let event = JobEvent::read(&args).unwrap();
        assert_eq!((event.id, event.current()), ("sysadm_pkg_update", Some("pkg update")));
        assert_eq!(fresh(&mut JobOutput::default(), &args), [pair("pkg update", "x\n")]);
    }

    #[test]
    fn what_is_no_job_is_no_job() {
        for args in [
            json!(null),
            json!([]),
            json!({"state": "dancing", "process_id": "j"}),
            json!({"state": "running"}),
        ] {
            assert!(JobEvent::read(&args).is_none(), "{args}");
        }
    }

    #[test]
    fn what_minus_one_stands_for_is_told_by_the_log() {
        let event = |log: &str| {
            json!({"state": "finished", "process_id": "j", "cmd_list": ["true", "a"],
                   "return_codes/true": "0", "return_codes/a": "-1", "a": log})
        };
        for (log, meaning) in [
            ("cannot run a: No such file\n", MinusOne::NotRun("a")),
            ("there is no user x\n", MinusOne::NotRun("a")),
            ("", MinusOne::HungUp),
            ("cannot be read\n", MinusOne::HungUp),
            ("cannot run a: x\nand more\n", MinusOne::HungUp),
            ("x\ncannot run a: x\n", MinusOne::HungUp),
            ("x\n[interrupted: y]\n", MinusOne::Interrupted),
        ] {
            let args = event(log);
            let event = JobEvent::read(&args).unwrap();
            assert_eq!(event.minus_one(), Some(meaning), "{log}");
        }
        let list =
            json!([{"command": "log", "output": "cannot run log: x\n", "return_code": "-1"}]);
        let args =
            json!({"state": "finished", "process_id": "j", "cmd_list": ["log"], "log": list});
        assert_eq!(JobEvent::read(&args).unwrap().minus_one(), Some(MinusOne::NotRun("log")));
        let args = json!({"state": "finished", "process_id": "j", "cmd_list": ["a"],
                          "a": "cannot run a: x\n", "return_codes/a": "1"});
        assert_eq!(JobEvent::read(&args).unwrap().minus_one(), None);
    }

    #[test]
    fn verdict_of_an_earlier_daemon_takes_the_time_from_the_stamps() {
        let args = json!({"state": "finished", "process_id": "j", "cmd_list": ["a", "b"],
            "time_started": "2026-11-23T17:50:47Z", "time_finished": "2026-11-23T17:50:50Z",
            "return_codes/a": "0", "return_codes/b": "3"});
        let verdict = JobEvent::read(&args).unwrap().verdict();
        assert_eq!((verdict.good, &*verdict.how), (false, "[2/2] b: exit 3 after 3 s"));
    }
}
