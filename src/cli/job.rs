//! Parser of dispatcher events: job, state and new output.
//!
//! The commands of a job are keys of its event beside the protocol's own, and a class wraps the
//! event in an envelope (protocol section 2.1); other modules need not know either.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::outcome::{self, Verdict};
use crate::wire::{Outcome, Range, is_reserved, left_out_marker, parse_rfc3339};

const RETURN_CODES: &str = "return_codes/";
/// State of a job.
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
    /// Parses the `args` of a dispatcher event; `None` if they are invalid.
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

    /// The running command.
    pub(super) fn current(&self) -> Option<&'a str> {
        self.text("current_cmd")
    }

    /// The index of the command that runs.
    pub(super) fn current_index(&self) -> usize {
        let last = self.commands.len().saturating_sub(1).min(self.codes().len());
        let begun = self.commands.get(..=last).unwrap_or_default();
        // Of equal commands one code stands for all.
        begun.iter().rposition(|command| Some(*command) == self.current()).unwrap_or(last)
    }

    /// Time of its end, RFC 3339.
    pub(super) fn time_finished(&self) -> Option<&'a str> {
        self.text("time_finished")
    }

    /// Its duration.
    pub(super) fn duration(&self) -> Option<Duration> {
        let started = parse_rfc3339(self.text("time_started")?)?;
        let finished = parse_rfc3339(self.time_finished()?)?;
        // Meaningless after the clock was set back.
        finished.duration_since(started).ok()
    }

    /// Return codes of ended commands, in order. Of equal commands only the finished event has all.
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

    /// The list that distinguishes logs where the documented form cannot.
    fn list(&self) -> Option<&'a Vec<Value>> {
        (self.state == State::Finished).then(|| self.details.get("log")?.as_array())?
    }

    /// The texts of the event's ranges. Output of equal commands is joined, in the order of the
    /// chain, and that of a command that equals a key of the protocol is in the list alone.
    fn texts(&self, ranges: &[Range]) -> Vec<&'a str> {
        let mut taken: Vec<(&str, usize)> = Vec::new();
        let text_of = |range: &Range| {
            let command = self.commands.get(range.command).copied().unwrap_or_default();
            if let Some(list) = self.list() {
                let entry = list.get(range.command).and_then(|entry| entry["output"].as_str());
                return entry.unwrap_or_default();
            }
            if is_reserved(command) {
                return "";
            }
            let from = match taken.iter_mut().find(|(known, _)| *known == command) {
                Some((_, end)) => std::mem::replace(end, *end + range.length),
                None => {
                    taken.push((command, range.length));
                    0
                }
            };
            let text = self.text(command).and_then(|text| text.get(from..from + range.length));
            text.unwrap_or_default()
        };
        ranges.iter().map(text_of).collect()
    }

    /// The outcome of a finished job.
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

/// Takes the output of a job's commands out of an extended event.
pub(super) fn remove_output(frame: &mut Value) {
    if let Some(frame) = frame.as_object_mut() {
        frame.remove("output");
    }
    for path in ["/args", "/args/process_details"] {
        let Some(fields) = frame.pointer_mut(path).and_then(Value::as_object_mut) else { continue };
        for command in
            fields.get("cmd_list").cloned().as_ref().and_then(Value::as_array).into_iter().flatten()
        {
            if let Some(command) = command.as_str().filter(|command| !is_reserved(command)) {
                fields.remove(command);
            }
        }
        ["log", "pkg_log", "update_log"].iter().for_each(|key| drop(fields.remove(*key)));
    }
}

/// Tracks the output of one job, so that each byte is shown once: number of bytes shown, by
/// command.
#[derive(Default)]
pub(super) struct JobOutput(BTreeMap<usize, u64>);

impl JobOutput {
    /// Output that is new in this event, by index of the command. `ranges` are the event's, as they stand on the wire; a
    /// daemon of an earlier version sends none: then it is assumed that nothing was missed or cut.
    pub(super) fn fresh<'a>(
        &mut self,
        event: &JobEvent<'a>,
        ranges: &Value,
    ) -> Vec<(usize, Cow<'a, str>)> {
        let ranges = match Vec::<Range>::deserialize(ranges) {
            Ok(ranges) => ranges,
            Err(_) => self.assumed(event),
        };
        let texts = event.texts(&ranges).into_iter().zip(&ranges);
        let fresh = texts.map(|(text, range)| (range.command, self.fresh_of(text, range)));
        fresh.filter(|(_, text)| !text.is_empty()).collect()
    }

    fn assumed(&self, event: &JobEvent<'_>) -> Vec<Range> {
        let range = |(command, name): (usize, &&str)| {
            let length = event.text(name)?.len();
            let shown = self.0.get(&command).copied().unwrap_or_default();
            let from = if event.state == State::Running { shown } else { 0 };
            Some(Range { command, from, to: from + length as u64, head: length, tail: 0, length })
        };
        event.commands.iter().enumerate().filter_map(range).collect()
    }

    fn fresh_of<'a>(&mut self, text: &'a str, range: &Range) -> Cow<'a, str> {
        let shown = self.0.entry(range.command).or_default();
        let before = std::mem::replace(shown, range.to.max(*shown));
        let (from, to) = (range.from.max(before), range.to);
        if from >= to {
            return "".into();
        }
        // Missed before the event, and omitted in it.
        let missed = range.from.saturating_sub(before);
        let skip = usize::try_from(from - range.from).unwrap_or(usize::MAX);
        let tail_from = to - range.tail as u64;
        let left_out = tail_from.saturating_sub(range.from + range.head as u64);
        if missed == 0 && (left_out == 0 || skip == 0) {
            return text.get(skip..).unwrap_or_default().into();
        }
        let head = text.get(skip.min(range.head)..range.head).unwrap_or_default();
        let hidden = tail_from.saturating_sub(from.max(range.from + range.head as u64));
        let tail = text.len() - range.tail.min(text.len());
        let into_tail = usize::try_from(from.saturating_sub(tail_from)).unwrap_or(usize::MAX);
        let tail = text.get(tail.saturating_add(into_tail)..).unwrap_or_default();
        let marker = |bytes: u64| if bytes > 0 { left_out_marker(bytes) } else { String::new() };
        let gap = if head.is_empty() || head.ends_with('\n') || hidden == 0 { "" } else { "\n" };
        format!("{}{head}{gap}{}{tail}", marker(missed), marker(hidden)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type Pieces<'a> = &'a [(usize, u64, &'a str)];

    /// An event with output: index of the command, offset, text; and its ranges.
    fn event(state: &str, commands: &[&str], output: Pieces<'_>) -> (Value, Value) {
        let mut args = json!({"state": state, "process_id": "j", "cmd_list": commands});
        let mut ranges = Vec::new();
        for (command, from, text) in output {
            let name = commands[*command];
            let before = args[name].as_str().unwrap_or_default().to_owned();
            args[name] = (before + text).into();
            let (to, length) = (from + text.len() as u64, text.len());
            let (command, from) = (*command, *from);
            ranges.push(Range { command, from, to, head: length, tail: 0, length });
        }
        (args, json!(ranges))
    }

    fn fresh(output: &mut JobOutput, (args, ranges): &(Value, Value)) -> Vec<(String, String)> {
        let event = JobEvent::read(args).unwrap();
        let fresh = output.fresh(&event, ranges).into_iter();
        let name = |command: usize| event.commands[command].to_owned();
        fresh.map(|(command, text)| (name(command), text.into_owned())).collect()
    }

    fn pair(command: &str, text: &str) -> (String, String) {
        (command.to_owned(), text.to_owned())
    }

    #[test]
    fn output_is_new_once_in_any_sequence_of_events() {
        let mut output = JobOutput::default();
        let ab = ["a", "b"];
        assert_eq!(fresh(&mut output, &event("running", &ab, &[])), []);
        assert_eq!(
            fresh(&mut output, &event("running", &ab, &[(0, 0, "1\n")])),
            [pair("a", "1\n")]
        );
        let both = event("running", &ab, &[(0, 2, "2\n"), (1, 0, "3\n")]);
        assert_eq!(fresh(&mut output, &both), [pair("a", "2\n"), pair("b", "3\n")]);
        assert_eq!(fresh(&mut output, &both), [], "said again");
        let finished = event("finished", &ab, &[(0, 0, "1\n2\n"), (1, 0, "3\n4\n")]);
        assert_eq!(fresh(&mut output, &finished), [pair("b", "4\n")]);
    }

    #[test]
    fn output_missed_in_a_gap_is_counted_or_made_good() {
        let mut output = JobOutput::default();
        let a = ["a"];
        fresh(&mut output, &event("running", &a, &[(0, 0, "1\n")]));
        let later = event("running", &a, &[(0, 6, "4\n")]);
        let shown = "[… 4 bytes left out …]\n4\n";
        assert_eq!(fresh(&mut output, &later), [pair("a", shown)]);
        let mut output = JobOutput::default();
        fresh(&mut output, &event("running", &a, &[(0, 0, "1\n")]));
        let present = event("running", &a, &[(0, 0, "1\n2\n3\n")]);
        assert_eq!(fresh(&mut output, &present), [pair("a", "2\n3\n")]);
    }

    #[test]
    fn output_after_an_omission_is_shown_after_the_earlier_output() {
        // "0123456789" with three bytes of each end; the shown output ends in each part in turn.
        let text = "012\n[… 4 bytes left out …]\n789";
        let ranges = json!([{"command": 0, "from": 0, "to": 10, "head": 3, "tail": 3,
                             "length": text.len()}]);
        let args = json!({"state": "finished", "process_id": "j", "cmd_list": ["a"], "a": text});
        for (shown, rest) in [
            (0, text),
            (1, "12\n[… 4 bytes left out …]\n789"),
            (3, "[… 4 bytes left out …]\n789"),
            (5, "[… 2 bytes left out …]\n789"),
            (7, "789"),
            (8, "89"),
            (10, ""),
        ] {
            let mut output = JobOutput::default();
            output.0.insert(0, shown);
            let fresh = fresh(&mut output, &(args.clone(), ranges.clone()));
            let text: String = fresh.into_iter().map(|(_, text)| text).collect();
            assert_eq!(text, rest, "{shown} bytes were shown");
        }
    }

    #[test]
    fn output_of_a_job_that_prints_the_marker_itself_is_whole() {
        let mut output = JobOutput::default();
        let marker = "[… 5 bytes left out …]\n";
        let running = event("running", &["a"], &[(0, 0, marker)]);
        assert_eq!(fresh(&mut output, &running), [pair("a", marker)]);
        let all = format!("{marker}{marker}x");
        assert_eq!(
            fresh(&mut output, &event("finished", &["a"], &[(0, 0, &all)])),
            [pair("a", &format!("{marker}x"))]
        );
    }

    #[test]
    fn output_of_a_command_named_as_a_key_is_read_from_the_list() {
        let mut output = JobOutput::default();
        let commands = ["state", "log", "a"];
        let running = event("running", &commands, &[(2, 0, "x")]);
        assert_eq!(fresh(&mut output, &running), [pair("a", "x")]);
        let list = json!([{"command": "state", "output": "S\n", "return_code": "0"},
                          {"command": "log", "output": "P\n", "return_code": "0"},
                          {"command": "a", "output": "xy", "return_code": "-15"}]);
        let range = |command, length: u64| {
            json!({"command": command, "from": 0, "to": length, "head": length, "tail": 0,
                   "length": length})
        };
        let args = json!({"state": "finished", "process_id": "j", "a": "xy", "log": list,
                          "cmd_list": commands});
        let ranges = json!([range(0, 2), range(1, 2), range(2, 2)]);
        let shown = [pair("state", "S\n"), pair("log", "P\n"), pair("a", "y")];
        assert_eq!(fresh(&mut output, &(args.clone(), ranges)), shown);
        assert_eq!(JobEvent::read(&args).unwrap().codes(), [0, 0, -15]);
    }

    #[test]
    fn output_of_equal_commands_is_distinguished() {
        let mut output = JobOutput::default();
        let aa = ["a", "a"];
        assert_eq!(fresh(&mut output, &event("running", &aa, &[(0, 0, "1")])), [pair("a", "1")]);
        let both = event("running", &aa, &[(0, 1, "2"), (1, 0, "3")]);
        assert_eq!(fresh(&mut output, &both), [pair("a", "2"), pair("a", "3")]);
    }

    #[test]
    fn current_command_among_equal_ones_is_the_one_that_runs() {
        let current = |commands: &[&str], current: &str, ended: &[&str]| {
            let mut args = json!({"state": "running", "process_id": "j", "cmd_list": commands,
                                  "current_cmd": current});
            ended.iter().for_each(|command| args[format!("return_codes/{command}")] = "0".into());
            JobEvent::read(&args).unwrap().current_index()
        };
        assert_eq!(current(&["a", "b"], "a", &[]), 0);
        assert_eq!(current(&["a", "b"], "b", &["a"]), 1);
        assert_eq!(current(&["a", "a", "b"], "a", &["a"]), 1);
        assert_eq!(current(&["a", "a"], "a", &["a"]), 1);
        assert_eq!(current(&["a", "a", "b"], "b", &["a"]), 2);
        assert_eq!(current(&[], "", &[]), 0);
    }

    #[test]
    fn event_without_output_has_all_else() {
        let (mut args, ranges) = event("finished", &["a", "state"], &[(0, 0, "text\n")]);
        args["return_codes/a"] = "0".into();
        args["log"] = json!([{"command": "a", "output": "text\n"}]);
        let mut frame = json!({"name": "dispatcher", "output": ranges, "args": args});
        remove_output(&mut frame);
        let expected = json!({"name": "dispatcher", "args": {
            "state": "finished", "process_id": "j", "cmd_list": ["a", "state"], "return_codes/a": "0"}});
        assert_eq!(frame, expected);
        let mut frame = json!({"args": {"pkg_log": "x", "process_details": args}});
        remove_output(&mut frame);
        assert_eq!(frame, json!({"args": {"process_details": expected["args"]}}));
    }

    #[test]
    fn output_of_an_earlier_daemon_is_that_of_running_events() {
        let mut output = JobOutput::default();
        for text in ["1\n", "2\n"] {
            let (args, _) = event("running", &["a"], &[(0, 0, text)]);
            assert_eq!(fresh(&mut output, &(args, json!(null))), [pair("a", text)]);
        }
        let (args, _) = event("finished", &["a"], &[(0, 0, "1\n2\n")]);
        assert_eq!(fresh(&mut output, &(args, json!(null))), []);
    }

    #[test]
    fn a_class_has_its_details_inside() {
        let details = json!({"state": "running", "process_id": "sysadm_pkg_update", "cmd_list": ["pkg update"],
                             "pkg update": "x\n", "current_cmd": "pkg update"});
        let args = json!({"event_system": "sysadm/pkg", "state": "running", "pkg_log": "x\n",
                          "action": "pkg_update", "process_details": details});
        let event = JobEvent::read(&args).unwrap();
        assert_eq!((event.id, event.current()), ("sysadm_pkg_update", Some("pkg update")));
        let range = Range { to: 2, head: 2, length: 2, ..Range::default() };
        let shown = fresh(&mut JobOutput::default(), &(args.clone(), json!([range])));
        assert_eq!(shown, [pair("pkg update", "x\n")]);
    }

    #[test]
    fn invalid_job_event_is_rejected() {
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
    fn verdict_of_an_earlier_daemon_takes_the_time_from_the_stamps() {
        let args = json!({"state": "finished", "process_id": "j", "cmd_list": ["a", "b"],
            "time_started": "2026-11-23T17:50:47Z", "time_finished": "2026-11-23T17:50:50Z",
            "return_codes/a": "0", "return_codes/b": "3"});
        let verdict = JobEvent::read(&args).unwrap().verdict();
        assert_eq!((verdict.good, &*verdict.how), (false, "[2/2] b: exit 3 after 3 s"));
    }
}
