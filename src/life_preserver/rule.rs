//! Rules for the logs of other programs: a pattern, and what a line that it matches tells.
//!
//! There are ready ones for programs that many use. Each was made from what the program's source
//! prints, at the place named beside it; the patterns and messages are ours. What stands before a
//! line that syslogd wrote (`Nov 23 17:50:47 nas sanoid[77]: `) becomes the message's stamp.

use super::{REPLICATION, SNAPSHOT};
use crate::pattern::{Message, Pattern};
use crate::wire::{LifePreserverEvent, Priority};

/// What a line tells, where it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// It has to match somewhere in the line.
    pub pattern: Pattern,
    /// `snapshot` or `replication`.
    pub class: &'static str,
    /// How much it matters.
    pub priority: Priority,
    /// The text of the event.
    pub message: Message,
}

impl Rule {
    /// The event that a line is.
    pub(super) fn read(&self, line: &str) -> Option<LifePreserverEvent> {
        let matched = self.pattern.captures(line)?;
        let message = self.message.fill(line, &matched);
        Some(LifePreserverEvent { message, priority: self.priority, class: self.class })
    }
}

/// A program with ready rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Takes and prunes snapshots.
    Sanoid,
    /// Replicates; of the same makers.
    Syncoid,
    /// Does both, as a daemon.
    Zrepl,
}

impl Program {
    /// Its rules, in the order in which they are tried.
    pub fn rules(self) -> Vec<Rule> {
        let ready = match self {
            Program::Sanoid => SANOID,
            Program::Syncoid => SYNCOID,
            Program::Zrepl => ZREPL,
        };
        ready.iter().flat_map(Ready::rules).collect()
    }
}

struct Ready {
    line: Form,
    class: &'static str,
    priority: u8,
    message: &'static str,
}

/// How a line is recognised.
enum Form {
    /// By a pattern for what follows the stamp.
    Plain(&'static str),
    /// By a message of zrepl, with the name of the field that holds the dataset.
    Zrepl(&'static str, &'static str),
}

impl Ready {
    const fn new(line: Form, class: &'static str, priority: u8, message: &'static str) -> Ready {
        Ready { line, class, priority, message }
    }

    fn rules(&self) -> Vec<Rule> {
        let patterns = match self.line {
            Form::Plain(text) => vec![format!("^(?:(?P<stamp>.*?): )??{text}")],
            // The formats `human`, `logfmt` and `json` of `HumanFormatter`, `LogfmtFormatter` and
            // `JSONFormatter` in zrepl/zrepl, internal/daemon/logging/logging_formatters.go: the
            // second without a colon before the message, the third with its keys in order.
            Form::Zrepl(text, field) => vec![
                format!(
                    r#"^(?:(?P<stamp>.*?): |.*\bmsg="){text}"?(?: .*?)? {field}="?(?P<dataset>[^"]*?)"?(?: \w+=|$)"#
                ),
                format!(r#""{field}":"(?P<dataset>[^"]+)".*"msg":"{text}""#),
            ],
        };
        let rule = |pattern: String| {
            Some(Rule {
                pattern: Pattern::parse(&pattern).ok()?,
                class: self.class,
                priority: Priority::new(self.priority),
                message: Message::parse(self.message).ok()?,
            })
        };
        patterns.into_iter().filter_map(rule).collect()
    }
}

/// jimsalterjrs/sanoid, file `sanoid`, versions 1.4.17 and 2.1.0: `take_snapshots`,
/// `prune_snapshots` and the warnings beside them.
const SANOID: &[Ready] = &[
    Ready::new(
        Form::Plain("(?:INFO: )?taking (?:dst )?snapshot (?P<dataset>[^@]+)@"),
        SNAPSHOT,
        1,
        "New snapshot of {dataset}",
    ),
    Ready::new(
        Form::Plain(r"CRITICAL ERROR: \S*zfs snapshot (?:-r )?(?P<dataset>[^@]+)@.* failed, "),
        SNAPSHOT,
        7,
        "Snapshot failed for {dataset}",
    ),
    Ready::new(
        Form::Plain(r"INFO: pruning (?P<dataset>[^@]+)@(?P<snapshot>\S+)"),
        SNAPSHOT,
        0,
        "Pruned snapshot {snapshot} on {dataset}",
    ),
    Ready::new(
        Form::Plain(r"could not remove (?P<dataset>[^@]+)@(?P<snapshot>\S+)"),
        SNAPSHOT,
        4,
        "Pruning failed for {snapshot} on {dataset}",
    ),
    Ready::new(Form::Plain("(?P<text>(?:CRITICAL|FATAL)[A-Z ]*: .*)"), SNAPSHOT, 7, "{text}"),
    Ready::new(Form::Plain("(?P<text>ERROR: .*)"), SNAPSHOT, 4, "{text}"),
    Ready::new(Form::Plain("(?P<text>WARN(?:ING)?: .*)"), SNAPSHOT, 3, "{text}"),
];

/// jimsalterjrs/sanoid, file `syncoid`, versions 2.1.0 (`syncdataset`) and 2.2.0 (`syncfull`,
/// `syncincremental`, `syncbookmark`, `syncresume`, `syncclone`, `runsynccmd`, `writelog`). A
/// source on another host is `user@host:dataset@snapshot`.
const SYNCOID: &[Ready] = &[
    Ready::new(
        Form::Plain(
            r"(?:INFO: )?(?:--no-stream selected; )?(?:[Ss]ending (?:oldest full snapshot|newest full snapshot|incremental)|Updating new target filesystem with incremental) (?P<dataset>.+?)[@#][^@#\s]+ (?:\.\.\.|to|\(~)",
        ),
        REPLICATION,
        1,
        "Starting replication for {dataset}",
    ),
    Ready::new(
        Form::Plain("(?:INFO: )?Resuming interrupted zfs send/receive from (?P<dataset>.+?) to "),
        REPLICATION,
        1,
        "Resuming replication for {dataset}",
    ),
    Ready::new(
        Form::Plain("INFO: Clone is recreated on target (?P<dataset>.+?) based on "),
        REPLICATION,
        1,
        "Starting replication for {dataset}",
    ),
    Ready::new(
        Form::Plain(r"INFO: no snapshots on source newer than (?P<snapshot>\S+) on target"),
        REPLICATION,
        0,
        "Nothing to replicate: no snapshot is newer than {snapshot}",
    ),
    Ready::new(
        Form::Plain(
            "(?:WARNING: )?Cannot sync now: (?P<dataset>.+?) is already target of a zfs receive",
        ),
        REPLICATION,
        3,
        "Replication skipped for {dataset}",
    ),
    Ready::new(
        Form::Plain(r"CRITICAL ERROR: .*zfs send .*?'(?P<dataset>[^']+)'[@#].* failed: "),
        REPLICATION,
        7,
        "Replication failed for {dataset}",
    ),
    Ready::new(Form::Plain("(?P<text>CRIT(?:ICAL)?(?: ERROR)?: .*)"), REPLICATION, 7, "{text}"),
    Ready::new(Form::Plain("(?P<text>ERROR:? .*)"), REPLICATION, 4, "{text}"),
    Ready::new(Form::Plain("(?P<text>WARN(?:ING)?:? .*)"), REPLICATION, 3, "{text}"),
];

/// zrepl/zrepl: `execute` in internal/daemon/snapper/impl.go, `doReplication` and `doPlanning` in
/// internal/replication/logic/replication_logic.go. A snapshot that was taken is told at level
/// info, a replication that ended well at level debug only.
const ZREPL: &[Ready] = &[
    Ready::new(
        Form::Zrepl("end run job plan successful", "fs"),
        SNAPSHOT,
        1,
        "New snapshot of {dataset}",
    ),
    Ready::new(
        Form::Zrepl("cannot create snapshot", "fs"),
        SNAPSHOT,
        7,
        "Snapshot failed for {dataset}",
    ),
    Ready::new(
        Form::Zrepl("end run job plan with error", "fs"),
        SNAPSHOT,
        4,
        "A snapshot hook failed for {dataset}",
    ),
    Ready::new(
        Form::Zrepl("initiate receive request", "filesystem"),
        REPLICATION,
        1,
        "Starting replication for {dataset}",
    ),
    Ready::new(
        Form::Zrepl("receive finished", "filesystem"),
        REPLICATION,
        1,
        "Finished replication for {dataset}",
    ),
    Ready::new(
        Form::Zrepl(
            r"(?:receive request failed \(might also be error on sender\)|send request failed)",
            "filesystem",
        ),
        REPLICATION,
        7,
        "Replication failed for {dataset}",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first rule that matches makes of a line.
    fn told(program: Program, line: &str) -> Option<(&'static str, u8, String)> {
        let event = program.rules().iter().find_map(|rule| rule.read(line))?;
        Some((event.class, event.priority.number(), event.message))
    }

    #[test]
    fn every_ready_rule_can_be_read() {
        for (program, rules) in [
            (Program::Sanoid, SANOID.len()),
            (Program::Syncoid, SYNCOID.len()),
            (Program::Zrepl, 2 * ZREPL.len()),
        ] {
            assert_eq!(program.rules().len(), rules, "{program:?}");
            for rule in program.rules() {
                assert_eq!(rule.message.place_without_group(&rule.pattern), None, "{rule:?}");
            }
        }
    }

    #[test]
    fn sanoid() {
        let rows = [
            (
                "taking snapshot tank/my data@autosnap_2026-11-23_17:50:47_hourly",
                (SNAPSHOT, 1, "New snapshot of tank/my data"),
            ),
            (
                "Nov 23 17:50:47 nas sanoid[77]: INFO: taking snapshot tank@autosnap_x (zfs recursive)",
                (SNAPSHOT, 1, "Nov 23 17:50:47 nas sanoid[77]: New snapshot of tank"),
            ),
            (
                "CRITICAL ERROR: /sbin/zfs snapshot -r tank/a@autosnap_x failed, 256 at /usr/sbin/sanoid line 625.",
                (SNAPSHOT, 7, "Snapshot failed for tank/a"),
            ),
            (
                "INFO: pruning tank/a@autosnap_x ... ",
                (SNAPSHOT, 0, "Pruned snapshot autosnap_x on tank/a"),
            ),
            (
                "could not remove tank/a@autosnap_x : 256 at /usr/sbin/sanoid line 343.",
                (SNAPSHOT, 4, "Pruning failed for autosnap_x on tank/a"),
            ),
            (
                "FATAL: cannot load /etc/sanoid/sanoid.conf - please create one",
                (SNAPSHOT, 7, "FATAL: cannot load /etc/sanoid/sanoid.conf - please create one"),
            ),
            (
                "nas: WARN: pre_snapshot_script failed, 256",
                (SNAPSHOT, 3, "nas: WARN: pre_snapshot_script failed, 256"),
            ),
        ];
        for (line, (class, priority, message)) in rows {
            let wanted = Some((class, priority, message.to_owned()));
            assert_eq!(told(Program::Sanoid, line), wanted, "{line}");
        }
        for line in
            ["INFO: taking snapshots...", "INFO: pruning snapshots...", "INFO: cache expired"]
        {
            assert_eq!(told(Program::Sanoid, line), None, "{line}");
        }
    }

    #[test]
    fn syncoid() {
        let starts =
            |dataset: &str| Some((REPLICATION, 1, format!("Starting replication for {dataset}")));
        for (line, dataset) in [
            // 2.1.0
            (
                "INFO: Sending oldest full snapshot tank/a@x (~ 1.2 GB) to new target filesystem:",
                "tank/a",
            ),
            ("Sending incremental tank/a@x ... syncoid_nas_y (~ 4 KB):", "tank/a"),
            ("Sending incremental tank/a#x ... y (~ UNKNOWN):", "tank/a"),
            (
                "INFO: Updating new target filesystem with incremental tank/a@x ... y (~ 4 KB):",
                "tank/a",
            ),
            // 2.2.0
            (
                "INFO: Sending oldest full snapshot root@nas:tank/a b@x to new target filesystem backup/a (~ 1.2 GB):",
                "root@nas:tank/a b",
            ),
            ("INFO: Sending incremental tank/a@x ... y to root@b:backup/a (~ 4 KB):", "tank/a"),
            (
                "INFO: --no-stream selected; sending newest full snapshot tank/a@x to new target filesystem b: (~ 1 KB)",
                "tank/a",
            ),
        ] {
            assert_eq!(told(Program::Syncoid, line), starts(dataset), "{line}");
        }
        let rows = [
            (
                "Resuming interrupted zfs send/receive from tank/a to backup/a (~ 1 GB remaining):",
                (1, "Resuming replication for tank/a"),
            ),
            (
                "INFO: no snapshots on source newer than syncoid_x on target. Nothing to do, not syncing.",
                (0, "Nothing to replicate: no snapshot is newer than syncoid_x"),
            ),
            (
                "Cannot sync now: backup/a is already target of a zfs receive process.",
                (3, "Replication skipped for backup/a"),
            ),
            (
                "now: WARNING: Cannot sync now: backup/a is already target of a zfs receive process.",
                (3, "now: Replication skipped for backup/a"),
            ),
            (
                "CRITICAL ERROR:  zfs send  -I 'tank/a'@'x' 'tank/a'@'y' | mbuffer  -q -s 128k -m 16M | pv -p -t -e -r -b -s 624 |  zfs receive  -s -F 'backup/a' 2>&1 failed: 256",
                (7, "Replication failed for tank/a"),
            ),
            (
                "CRITICAL ERROR: ssh connection echo test failed for root@b with exit code 255",
                (
                    7,
                    "CRITICAL ERROR: ssh connection echo test failed for root@b with exit code 255",
                ),
            ),
            (
                "WARN: mbuffer not available on source nas - sync will continue without source buffering.",
                (
                    3,
                    "WARN: mbuffer not available on source nas - sync will continue without source buffering.",
                ),
            ),
        ];
        for (line, (priority, message)) in rows {
            let wanted = Some((REPLICATION, priority, message.to_owned()));
            assert_eq!(told(Program::Syncoid, line), wanted, "{line}");
        }
        assert_eq!(
            told(Program::Syncoid, "INFO: Skipping dataset (syncoid:sync=false): tank/a..."),
            None
        );
    }

    #[test]
    fn zrepl() {
        let rows = [
            // zrepl/zrepl, issue 757: syslog, format human.
            (
                r#"Oct 23 18:44:48 puller zrepl[49445]: [pull_tls][repl][zyCd$+7dH]: receive request failed (might also be error on sender) filesystem="ice/abcd" err="zfs exited with error: exit status 1\n" errType="*zfs.ZFSError""#,
                (
                    REPLICATION,
                    7,
                    "Oct 23 18:44:48 puller zrepl[49445]: [pull_tls][repl][zyCd$+7dH]: Replication failed for ice/abcd",
                ),
            ),
            // Fields behind the message have no order.
            (
                r#"2026-11-23T17:50:47Z [INFO][snap][snapshot][x$y]: end run job plan successful report="1 ok" snap="zrepl_1" fs="tank/my data""#,
                (
                    SNAPSHOT,
                    1,
                    "2026-11-23T17:50:47Z [INFO][snap][snapshot][x$y]: New snapshot of tank/my data",
                ),
            ),
            (
                r#"[snap][snapshot]: cannot create snapshot fs="tank/a" snap="zrepl_1" err="out of space""#,
                (SNAPSHOT, 7, "[snap][snapshot]: Snapshot failed for tank/a"),
            ),
            // Format logfmt, as in zrepl/zrepl, issue 291.
            (
                r#"Mar 18 21:16:21 fs02 zrepl[58435]: job=prod subsystem=repl msg="receive finished" filesystem=data/homes invocation=1"#,
                (REPLICATION, 1, "Finished replication for data/homes"),
            ),
            // Format json.
            (
                r#"{"fs":"tank/a","job":"snap","level":"info","msg":"end run job plan successful","report":"","snap":"zrepl_1","time":"2026-11-23T17:50:47Z"}"#,
                (SNAPSHOT, 1, "New snapshot of tank/a"),
            ),
        ];
        for (line, (class, priority, message)) in rows {
            let wanted = Some((class, priority, message.to_owned()));
            assert_eq!(told(Program::Zrepl, line), wanted, "{line}");
        }
        // zrepl/zrepl, issue 291.
        let line = r#"Mar 18 21:15:50 fs02 zrepl[58435]: job=_control msg="starting job" "#;
        assert_eq!(told(Program::Zrepl, line), None);
    }
}
