//! Roles of users.

use serde::{Deserialize, Serialize};

/// A role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Only `emit`: for keys of scripts.
    Emit,
    /// Subscribe, list and read logs: command lines and output of all jobs.
    Read,
    /// Also run and kill jobs, and therefore everything that the daemon's user may do.
    Full,
}

impl Role {
    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Emit => "emit",
            Role::Read => "read",
            Role::Full => "full",
        }
    }
}

/// Requirement of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// None: unauthenticated clients too.
    Nothing,
    /// At least this role.
    Role(Role),
    /// The role full, or a key for `emit` alone.
    Emit,
}
