//! A job as it stands in the journal: complete in each record, so that any one of them is enough to
//! know what the job was.

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
    /// As lines: [`Command::from_recorded`] gives the same words again.
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
    pub(super) user: Option<Who>,
    /// Name of the user who submitted it; absent in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) submitted_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nonce: Option<String>,
    /// Bytes kept of its output.
    pub(super) log_limit: usize,
    /// It was to be run at once: it may have been, even if no record says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) starts: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<Progress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<OutcomeRecord>,
}

/// Whom it runs as.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Who {
    Number(u32),
    Name(String),
}

/// How far it has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// RFC 3339; empty where it never began.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) time_started: String,
    /// Of the commands that ended.
    #[serde(default)]
    pub(super) codes: Vec<i32>,
    /// Where the output of each command that began begins in all that the job printed, in bytes.
    #[serde(default)]
    pub(super) begins: Vec<u64>,
    /// Ranges of its output that are remarks of the dispatcher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) remarks: Vec<std::ops::Range<u64>>,
    /// Number and start of the processes that were started for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) leaders: Vec<(i32, String)>,
    /// What is in the environment of all of them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) mark: String,
}

/// How it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OutcomeRecord {
    /// RFC 3339.
    pub(super) time_finished: String,
    /// Running time of the daemons of this journal until then, in seconds: unlike `time_finished` it
    /// says how old the outcome is whatever the clock does.
    #[serde(default)]
    pub(super) uptime: u64,
    /// Bytes that it printed.
    pub(super) total: u64,
    /// Of those, told by running events.
    pub(super) told: u64,
    /// Fields of its class, as the finished event has them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) fields: Map<String, Value>,
    /// Without fields in records of earlier versions.
    #[serde(default)]
    pub(super) outcome: Outcome,
}

impl JobRecord {
    pub(super) fn to_line(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What it was asked to be; `None` where that makes no sense any more.
    pub(super) fn submission(&self) -> Option<Submission> {
        let commands = self.commands.iter().map(|line| Command::from_recorded(line).ok().flatten());
        Some(Submission {
            id: self.id.clone(),
            commands: commands.collect::<Option<Vec<Command>>>().filter(|list| !list.is_empty())?,
            queue: self.queue.clone(),
            timeout: self.timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            user: self.user.clone().map(|who| match who {
                Who::Number(number) => RunAs::Number(number),
                Who::Name(name) => RunAs::Name(name),
            }),
            nonce: self.nonce.clone(),
            submitted_by: self.submitted_by.clone(),
        })
    }

    /// What its processes can be known by.
    pub(super) fn traces(&self) -> Traces {
        let progress = self.progress.clone().unwrap_or_default();
        Traces { leaders: progress.leaders, mark: progress.mark }
    }
}

impl From<&RunAs> for Who {
    fn from(who: &RunAs) -> Who {
        match who {
            RunAs::Number(number) => Who::Number(*number),
            RunAs::Name(name) => Who::Name(name.clone()),
        }
    }
}
