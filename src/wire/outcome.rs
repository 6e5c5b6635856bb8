//! Outcome of a job, in fields that need no interpretation of return codes.

use serde::{Deserialize, Serialize};

/// Result of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobResult {
    /// All commands returned 0.
    Ok,
    /// A command returned another code, or a signal that the daemon did not send ended it.
    Failed,
    /// A client killed it while it ran.
    Killed,
    /// Its timeout expired.
    TimedOut,
    /// A command could not be started.
    NotStartable,
    /// The daemon stopped or died while it ran.
    Interrupted,
    /// It ended before its first command ran.
    Cancelled,
}

impl JobResult {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            JobResult::Ok => "ok",
            JobResult::Failed => "failed",
            JobResult::Killed => "killed",
            JobResult::TimedOut => "timed_out",
            JobResult::NotStartable => "not_startable",
            JobResult::Interrupted => "interrupted",
            JobResult::Cancelled => "cancelled",
        }
    }
}

/// Outcome of a job, in its finished event, in the list and in the journal. Fields that do not
/// apply are omitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `None` only for a job of an earlier version whose codes are ambiguous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Code that the deciding command, the last one that ran, returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the deciding command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Index, from 0, of the command that ended the chain early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_command: Option<usize>,
    /// User who submitted the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_by: Option<String>,
    /// User who killed the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<String>,
    /// Job that did not succeed, after which this one was to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_dependency: Option<String>,
    /// Seconds from the start of the first command to the end, by the monotonic clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
}

/// Keys of an [`Outcome`] in JSON.
pub(super) const OUTCOME_KEYS: [&str; 8] = [
    "result",
    "exit_code",
    "signal",
    "failed_command",
    "submitted_by",
    "killed_by",
    "failed_dependency",
    "duration",
];

impl Outcome {
    /// The outcome of a job with these return codes, of `commands`. `early` is the reason for an
    /// early end; `is_started` states that the last command could be started.
    pub fn of_codes(
        codes: &[i32],
        commands: usize,
        early: Option<JobResult>,
        is_started: bool,
    ) -> Outcome {
        let last = codes.last().copied();
        let result = early.unwrap_or(match last {
            _ if !is_started => JobResult::NotStartable,
            Some(0) if codes.len() == commands => JobResult::Ok,
            Some(_) | None => JobResult::Failed,
        });
        // The code of a command whose end was not observed is meaningless.
        let is_seen = is_started && (result != JobResult::Interrupted || last != Some(-1));
        let failed = !matches!(result, JobResult::Ok | JobResult::Cancelled);
        Outcome {
            result: Some(result),
            exit_code: last.filter(|code| is_seen && *code >= 0),
            signal: last.filter(|code| is_seen && *code < 0).map(i32::saturating_neg),
            failed_command: codes.len().checked_sub(1).filter(|_| failed),
            ..Outcome::default()
        }
    }

    /// Its fields as JSON.
    pub fn fields(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(fields)) => fields,
            Ok(_) | Err(_) => serde_json::Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn outcome_names_result_code_and_deciding_command() {
        let of = |codes: &[i32], commands, early, is_started| {
            Outcome::of_codes(codes, commands, early, is_started).fields().into()
        };
        let same = |fields: serde_json::Value, expected| assert_eq!(fields, expected);
        same(of(&[0, 0], 2, None, true), json!({"result": "ok", "exit_code": 0}));
        same(
            of(&[0, 5], 3, None, true),
            json!({"result": "failed", "exit_code": 5, "failed_command": 1}),
        );
        same(
            of(&[-9], 1, None, true),
            json!({"result": "failed", "signal": 9, "failed_command": 0}),
        );
        same(of(&[0, -1], 2, None, false), json!({"result": "not_startable", "failed_command": 1}));
        same(
            of(&[-1], 1, Some(JobResult::Interrupted), true),
            json!({"result": "interrupted", "failed_command": 0}),
        );
        same(
            of(&[-15], 2, Some(JobResult::TimedOut), true),
            json!({"result": "timed_out", "signal": 15, "failed_command": 0}),
        );
        same(of(&[], 1, Some(JobResult::Cancelled), true), json!({"result": "cancelled"}));
        same(
            of(&[0], 2, Some(JobResult::Killed), true),
            json!({"result": "killed", "exit_code": 0, "failed_command": 0}),
        );
    }

    #[test]
    fn keys_of_an_outcome_are_all_listed() {
        let text = || Some("x".to_owned());
        let outcome = Outcome {
            result: Some(JobResult::TimedOut),
            exit_code: Some(0),
            signal: Some(0),
            failed_command: Some(0),
            submitted_by: text(),
            killed_by: text(),
            failed_dependency: text(),
            duration: Some(0.5),
        };
        let fields = outcome.fields();
        assert_eq!(fields.keys().collect::<Vec<_>>(), OUTCOME_KEYS);
        assert_eq!(fields["result"], JobResult::TimedOut.name());
    }
}
