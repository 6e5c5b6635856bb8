//! Actions of users, for the audit log.

use std::fmt;

use crate::auth::key::KeyId;
use crate::wire::{JobId, Reply};

/// An action of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Authentication succeeded.
    Authenticated,
    /// A job was submitted.
    Submitted(JobId),
    /// A finished job was submitted again.
    Restarted {
        /// The finished job.
        of: JobId,
        /// The new one.
        job: JobId,
    },
    /// A job is being killed.
    Killed(JobId),
    /// A queue was paused or resumed.
    Queue {
        /// The queue.
        name: String,
        /// Whether it is paused.
        paused: bool,
    },
    /// A target of notifications is tested.
    TestedNotification(String),
    /// Alerts were acknowledged, or acknowledgements withdrawn.
    Acknowledged {
        /// The key or pattern.
        key: String,
        /// Whether they are acknowledged now.
        acknowledged: bool,
    },
    /// The user registered a key.
    Registered(KeyId),
    /// A key was revoked.
    Revoked {
        /// The key.
        id: KeyId,
        /// Its owner.
        of: String,
    },
}

impl Audit {
    /// The actions that a reply reports as done. Those on keys are done when the store has changed
    /// the file, and authentication when a place was found for the client.
    pub fn of(reply: &Reply) -> Vec<Audit> {
        match reply {
            Reply::Started(reply) => {
                let action = |job: &JobId| match &reply.restarted {
                    Some(of) => Audit::Restarted { of: of.clone(), job: job.clone() },
                    None => Audit::Submitted(job.clone()),
                };
                reply.started.iter().map(action).collect()
            }
            Reply::Killed { killed } => killed.jobs.iter().cloned().map(Audit::Killed).collect(),
            Reply::Paused { queue, paused } => {
                vec![Audit::Queue { name: queue.clone(), paused: *paused }]
            }
            Reply::Identity { .. }
            | Reply::Token(..)
            | Reply::Challenge { .. }
            | Reply::WhoAmI(_)
            | Reply::Attached(_)
            | Reply::Log { .. }
            | Reply::Check { .. }
            | Reply::NotificationTested { .. }
            | Reply::Subscribed { .. }
            | Reply::Unsubscribed { .. }
            | Reply::Checksums { .. }
            | Reply::Done {}
            | Reply::Table(_)
            | Reply::Encoded(_) => Vec::new(),
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Audit::Authenticated => f.write_str("authenticated"),
            Audit::Submitted(job) => write!(f, "submitted job={:?}", &**job),
            Audit::Restarted { of, job } => {
                write!(f, "restarted {:?} as job={:?}", &**of, &**job)
            }
            Audit::Killed(job) => write!(f, "killed job={:?}", &**job),
            Audit::Queue { name, paused } => {
                write!(f, "{} queue={name:?}", if *paused { "paused" } else { "resumed" })
            }
            Audit::TestedNotification(name) => write!(f, "tested notification={name:?}"),
            Audit::Acknowledged { key, acknowledged } => {
                let done = if *acknowledged { "acknowledged" } else { "unacknowledged" };
                write!(f, "{done} alert={key:?}")
            }
            Audit::Registered(id) => write!(f, "registered key=\"{id}\""),
            Audit::Revoked { id, of } => write!(f, "revoked key=\"{id}\" of={of:?}"),
        }
    }
}
