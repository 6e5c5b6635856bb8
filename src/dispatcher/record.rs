//! A job's record in the journal: complete, so that any one of them describes the job.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::command::Command;
use super::submission::Submission;
use crate::helper::store::Kind;
use crate::sys::spawn::RunAs;
use crate::sys::survivors::Traces;
use crate::wire::Outcome;

/// One record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) serial: u64,
    pub(super) is: Kind,
    pub(super) id: String,
    /// As lines: [`Command::from_recorded`] restores the words.
    pub(super) commands: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<String>,
    /// In seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeout: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cwd: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<RunAs>,
    /// Name of the user who submitted it; absent in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) submitted_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nonce: Option<String>,
    /// Absent in records of earlier versions, like the fields that follow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) priority: i8,
    /// Jobs that have to finish before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) after: Vec<u64>,
    /// However they end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) after_any: bool,
    /// The one of them that did not succeed, where it is not run for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed_dependency: Option<String>,
    /// It is over, and this record has all that another run takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) restartable: bool,
    /// Maximum size of its stored output, in bytes.
    pub(super) log_limit: usize,
    /// It was to start at once: it may have run, even without a record of its start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) starts: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<Progress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<OutcomeRecord>,
}

fn is_zero(number: &i8) -> bool {
    *number == 0
}

/// Progress of a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// RFC 3339; empty if it never started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) time_started: String,
    /// Return codes of ended commands.
    #[serde(default)]
    pub(super) codes: Vec<i32>,
    /// Offsets in the job's output at which the output of each started command begins.
    #[serde(default)]
    pub(super) begins: Vec<u64>,
    /// Ranges of its output that are remarks of the dispatcher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) remarks: Vec<std::ops::Range<u64>>,
    /// Number and start of its leader processes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) leaders: Vec<(i32, String)>,
    /// The mark in the environment of all its processes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) mark: String,
}

/// Outcome of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OutcomeRecord {
    /// RFC 3339.
    pub(super) time_finished: String,
    /// Total uptime of the daemons of this journal at that time, in seconds: unlike `time_finished`
    /// independent of clock changes.
    #[serde(default)]
    pub(super) uptime: u64,
    /// Number of bytes printed.
    pub(super) total: u64,
    /// Number of those reported by running events.
    #[serde(rename = "told")]
    pub(super) reported: u64,
    /// Fields of its class in the finished event.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) fields: Map<String, Value>,
    /// Empty in records of earlier versions.
    #[serde(default)]
    pub(super) outcome: Outcome,
}

impl JobRecord {
    pub(super) fn to_line(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The submission; `None` if it is no longer valid.
    pub(super) fn submission(&self) -> Option<Submission> {
        let commands = self.commands.iter().map(|line| Command::from_recorded(line).ok().flatten());
        Some(Submission {
            id: self.id.clone(),
            commands: commands.collect::<Option<Vec<Command>>>().filter(|list| !list.is_empty())?,
            queue: self.queue.clone(),
            timeout: self.timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            user: self.user.clone(),
            nonce: self.nonce.clone(),
            submitted_by: self.submitted_by.clone(),
            priority: self.priority,
            after: Vec::new(),
            after_any: self.after_any,
        })
    }

    /// Identification of its processes.
    pub(super) fn traces(&self) -> Traces {
        let progress = self.progress.clone().unwrap_or_default();
        let user = self.user.clone();
        Traces { leaders: progress.leaders, mark: progress.mark, user }
    }
}
