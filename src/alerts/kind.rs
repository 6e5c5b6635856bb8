//! Kinds of alerts: a new source of alerts adds its kinds to [`KINDS`].

use std::time::Duration;

/// Kind of an alert: alerts of one kind are alike, and notifications may join them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A pool is not ONLINE, or has disappeared.
    PoolHealth,
    /// A pool has errors.
    PoolErrors,
    /// A pool is nearly full.
    PoolCapacity,
    /// `zpool` does not answer, or fails.
    ZpoolUnresponsive,
    /// A snapshot was reported as failed.
    SnapshotFailed,
    /// The newest snapshot of a dataset is too old.
    SnapshotStale,
    /// A dataset with an expectation has disappeared, or a pattern matches none.
    SnapshotMissing,
    /// A replication was reported as failed.
    ReplicationFailed,
    /// The newest snapshot of a received dataset is too old.
    ReplicationStale,
    /// A received dataset with an expectation has disappeared, or a pattern matches none.
    ReplicationMissing,
    /// `zfs list` does not answer, or fails.
    ZfsUnresponsive,
    /// A job has failed.
    JobFailed,
    /// An expected job has not succeeded in time.
    JobStale,
    /// An expected `emit` has not come in time.
    EmitStale,
    /// The store cannot write.
    StoreStalled,
    /// A log cannot be read.
    LogUnreadable,
    /// No line of a log matches its rules.
    LogUnmatched,
    /// A link to a relay is down.
    LinkDown,
    /// A certificate expires soon, or has expired.
    CertificateExpires,
    /// The clock has jumped.
    ClockJumped,
    /// A target of notifications fails.
    NotifyFailing,
    /// Raised by `emit`.
    Custom,
    /// More alerts are active than can be shown.
    NotShown,
}

/// Behaviour of a kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct KindRule {
    kind: Kind,
    name: &'static str,
    /// The end of the condition counts only after the configured time: it is observed, and may
    /// hover. The end of the others is a fact of its own, such as a success.
    pub(super) is_damped: bool,
    /// The condition is an event without an end: the alert is cleared after this time.
    pub(super) ends_after: Option<Duration>,
}

const fn rule(kind: Kind, name: &'static str, is_damped: bool) -> KindRule {
    KindRule { kind, name, is_damped, ends_after: None }
}

/// All kinds.
const KINDS: [KindRule; 23] = [
    rule(Kind::PoolHealth, "pool/health", true),
    rule(Kind::PoolErrors, "pool/errors", true),
    rule(Kind::PoolCapacity, "pool/capacity", true),
    rule(Kind::ZpoolUnresponsive, "zpool/unresponsive", true),
    rule(Kind::SnapshotFailed, "snapshot/failed", false),
    rule(Kind::SnapshotStale, "snapshot/stale", false),
    rule(Kind::SnapshotMissing, "snapshot/missing", false),
    rule(Kind::ReplicationFailed, "replication/failed", false),
    rule(Kind::ReplicationStale, "replication/stale", false),
    rule(Kind::ReplicationMissing, "replication/missing", false),
    rule(Kind::ZfsUnresponsive, "zfs/unresponsive", false),
    rule(Kind::JobFailed, "job/failed", false),
    rule(Kind::JobStale, "job/stale", false),
    rule(Kind::EmitStale, "emit/stale", false),
    rule(Kind::StoreStalled, "store/stalled", true),
    rule(Kind::LogUnreadable, "log/unreadable", true),
    rule(Kind::LogUnmatched, "log/unmatched", false),
    rule(Kind::LinkDown, "link/down", true),
    rule(Kind::CertificateExpires, "certificate/expires", false),
    KindRule {
        kind: Kind::ClockJumped,
        name: "clock/jumped",
        is_damped: false,
        ends_after: Some(Duration::from_secs(3600)),
    },
    rule(Kind::NotifyFailing, "notify/failing", true),
    rule(Kind::Custom, "custom", false),
    rule(Kind::NotShown, "alerts/not-shown", false),
];

impl Kind {
    /// Its name on the wire and in records.
    pub fn name(self) -> &'static str {
        self.rule().name
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Kind> {
        KINDS.iter().find(|rule| rule.name == name).map(|rule| rule.kind)
    }

    pub(super) fn rule(self) -> KindRule {
        let found = KINDS.iter().find(|rule| rule.kind == self).copied();
        found.unwrap_or(rule(self, "custom", false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        for (at, rule) in KINDS.iter().enumerate() {
            assert_eq!(Kind::parse(rule.name), Some(rule.kind));
            assert_eq!(rule.kind.name(), rule.name);
            // The table has all of them: the last one of the enum is the last of the table.
            assert_eq!(rule.kind as usize, at, "{}", rule.name);
        }
        assert_eq!(Kind::NotShown as usize, KINDS.len() - 1);
    }
}
