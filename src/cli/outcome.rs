//! The outcome of a job in words: the same in `jobs`, `watch`, `log` and `run`.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use super::span;
use crate::wire::{JobResult, Outcome};

/// The outcome in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// All commands ran and returned 0.
    pub(super) good: bool,
    pub(super) how: String,
}

/// The outcome in `fields`, a finished event or an entry of the list. A daemon of an earlier
/// version sends no result: then it is derived from `codes`.
pub(super) fn outcome(fields: &Value, codes: &[i32], commands: usize) -> Outcome {
    let outcome = Outcome::deserialize(fields).unwrap_or_default();
    if outcome.result.is_some() {
        return outcome;
    }
    let early = codes.is_empty().then_some(JobResult::Cancelled);
    Outcome { duration: outcome.duration, ..Outcome::of_codes(codes, commands, early, true) }
}

/// End of the deciding command: `exit 5`, `timed out`.
pub(super) fn event(outcome: &Outcome) -> String {
    let by = |what: &str| match &outcome.killed_by {
        Some(user) => format!("{what} by {user}"),
        None => what.to_owned(),
    };
    match outcome.result {
        Some(JobResult::Ok) => "ok".to_owned(),
        Some(JobResult::Killed) => by("killed"),
        Some(JobResult::TimedOut) => "timed out".to_owned(),
        Some(JobResult::NotStartable) => "could not be run".to_owned(),
        Some(JobResult::Interrupted) => "interrupted".to_owned(),
        Some(JobResult::Cancelled) => match &outcome.failed_dependency {
            Some(id) => format!("cancelled: job {id} did not succeed"),
            None => by("cancelled"),
        },
        Some(JobResult::Failed) | None => match (outcome.exit_code, outcome.signal) {
            (Some(0), _) => "ended early".to_owned(),
            (Some(code), _) => format!("exit {code}"),
            (None, Some(number)) => match Signal::try_from(number) {
                Ok(signal) => format!("killed by {signal}"),
                Err(_) => format!("killed by signal {number}"),
            },
            (None, None) => "failed".to_owned(),
        },
    }
}

/// One line: `[2/3] sh -c 'exit 5': exit 5 after 3 s`.
pub(super) fn verdict(outcome: &Outcome, commands: &[&str]) -> Verdict {
    let good = outcome.result == Some(JobResult::Ok);
    let command = outcome.failed_command.and_then(|at| Some((at, commands.get(at)?)));
    let before = match (command, commands.len()) {
        (Some((at, command)), of @ 2..) => format!("[{}/{of}] {command}: ", at.saturating_add(1)),
        (None, of @ 2..) if good => format!("{of} commands "),
        (Some(_) | None, _) => String::new(),
    };
    let took = outcome.duration.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let took = took.map_or(String::new(), |took| format!(" after {}", span::show(took)));
    Verdict { good, how: format!("{before}{}{took}", event(outcome)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn how(fields: &Value, codes: &[i32], commands: &[&str]) -> (bool, String) {
        let verdict = verdict(&outcome(fields, codes, commands.len()), commands);
        (verdict.good, verdict.how)
    }

    #[test]
    fn verdict_names_the_deciding_command_of_a_chain() {
        let bad = |how: &str| (false, how.to_owned());
        let chain = ["true", "sh -c 'exit 5'", "x"];
        for (fields, commands, expected) in [
            (json!({"result": "ok", "exit_code": 0, "duration": 3.2}), &["a"][..], "ok after 3 s"),
            (json!({"result": "ok", "exit_code": 0}), &["a", "b"], "2 commands ok"),
        ] {
            assert_eq!(how(&fields, &[], commands), (true, expected.to_owned()));
        }
        for (fields, expected) in [
            (
                json!({"result": "failed", "exit_code": 5, "failed_command": 1, "duration": 3.0}),
                "[2/3] sh -c 'exit 5': exit 5 after 3 s",
            ),
            (
                json!({"result": "failed", "signal": 9, "failed_command": 0}),
                "[1/3] true: killed by SIGKILL",
            ),
            (
                json!({"result": "failed", "signal": 99, "failed_command": 0}),
                "[1/3] true: killed by signal 99",
            ),
            (
                json!({"result": "killed", "signal": 15, "failed_command": 0, "killed_by": "eva"}),
                "[1/3] true: killed by eva",
            ),
            (json!({"result": "timed_out", "failed_command": 2}), "[3/3] x: timed out"),
            (json!({"result": "not_startable", "failed_command": 2}), "[3/3] x: could not be run"),
            (json!({"result": "interrupted", "failed_command": 0}), "[1/3] true: interrupted"),
            (json!({"result": "cancelled", "killed_by": "eva"}), "cancelled by eva"),
            (
                json!({"result": "cancelled", "failed_dependency": "nightly"}),
                "cancelled: job nightly did not succeed",
            ),
            (json!({"failed_command": 99, "result": "failed"}), "failed"),
        ] {
            assert_eq!(how(&fields, &[], &chain), bad(expected), "{fields}");
        }
    }

    #[test]
    fn outcome_of_an_earlier_daemon_follows_from_its_codes() {
        let old = json!({"state": "finished"});
        assert_eq!(how(&old, &[0], &["a"]), (true, "ok".to_owned()));
        assert_eq!(how(&old, &[0, 3], &["a", "b"]), (false, "[2/2] b: exit 3".to_owned()));
        assert_eq!(how(&old, &[0], &["a", "b"]), (false, "[1/2] a: ended early".to_owned()));
        assert_eq!(how(&old, &[-15], &["a"]), (false, "killed by SIGTERM".to_owned()));
        assert_eq!(how(&old, &[], &["a"]), (false, "cancelled".to_owned()));
        assert_eq!(how(&json!({"result": "new"}), &[3], &["a"]), (false, "exit 3".to_owned()));
    }
}
