//! The lines of Life Preserver's log, and the events that they are.
//!
//! A line is `<output of date(1)>: <text>` (`echo_log` in `backend/functions.sh` of
//! trueos/lpreserver). The date may be of any locale, with colons of its own: the stamp is what
//! stands before the first `: ` that is followed by a text that is known. Of the texts the case
//! does not matter; a dataset keeps its own.

use std::path::PathBuf;

use super::{News, REPLICATION, SNAPSHOT, Turn};
use crate::wire::{LifePreserverEvent, Priority};

/// What a line of the log tells, if it tells anything.
pub(super) fn read(line: &str) -> Option<News> {
    let mut from = 0;
    while let Some(at) = line[from..].find(": ") {
        let (stamp, text) = (&line[..from + at], &line[from + at + 2..]);
        if let Some(told) = read_text(text.trim_end())
            && !stamp.is_empty()
        {
            let message = format!("{stamp}: {}", told.message);
            let event = LifePreserverEvent {
                message,
                priority: Priority::new(told.priority),
                class: told.class,
            };
            return Some(News { event, turn: told.turn });
        }
        from += at + 2;
    }
    None
}

struct Told {
    class: &'static str,
    priority: u8,
    message: String,
    turn: Option<Turn>,
}

impl Told {
    fn new(class: &'static str, priority: u8, message: String) -> Told {
        Told { class, priority, message, turn: None }
    }

    fn with(mut self, turn: Turn) -> Told {
        self.turn = Some(turn);
        self
    }
}

/// The table of protocol section 2.2, row by row.
fn read_text(text: &str) -> Option<Told> {
    if let Some(rest) = after(text, "creating snapshot ") {
        let rest = after(rest, "on ").unwrap_or(rest);
        let dataset = rest.split_whitespace().next_back()?;
        return Some(Told::new(SNAPSHOT, 1, format!("New snapshot of {dataset}")));
    }
    if let Some(dataset) = after(text, "ERROR: Failed creating snapshot on ") {
        return Some(Told::new(SNAPSHOT, 7, format!("Snapshot failed for {}", filled(dataset)?)));
    }
    if let Some(snapshot) = after(text, "Pruning old snapshot: ") {
        return Some(Told::new(SNAPSHOT, 0, format!("Pruned snapshot {}", filled(snapshot)?)));
    }
    if let Some(rest) = after(text, "Destroying snapshot ") {
        let snapshot = filled(split(rest, " on ").map_or(rest, |(snapshot, _)| snapshot))?;
        return Some(Told::new(SNAPSHOT, 0, format!("Pruned snapshot {snapshot}")));
    }
    if after(text, "ERROR: ").is_some()
        && let Some((_, rest)) = split(text, "Failed pruning snapshot ")
        && let Some((snapshot, dataset)) = split(rest, " on ")
    {
        let message = format!("Pruning failed for {} on {}", filled(snapshot)?, filled(dataset)?);
        return Some(Told::new(SNAPSHOT, 4, message));
    }
    if let Some(rest) = after(text, "Starting replication SYNC task on ")
        .or(after(text, "Starting replication SCHEDULED task on "))
    {
        // A dataset may have a colon in it, a path begins with a slash.
        let (dataset, file) = match rest.find(": /") {
            Some(at) => (&rest[..at], Some(PathBuf::from(&rest[at + 2..]))),
            None => (rest.trim_end_matches(':'), None),
        };
        let dataset = filled(dataset)?.to_owned();
        let message = format!("Starting replication for {dataset}");
        return Some(Told::new(REPLICATION, 1, message).with(Turn::Started { dataset, file }));
    }
    if let Some(rest) = after(text, "Finished replication task on ") {
        let dataset = filled(split(rest, " -> ").map_or(rest, |(dataset, _)| dataset))?;
        let message = format!("Finished replication for {dataset}");
        return Some(Told::new(REPLICATION, 1, message).with(Turn::Ended(dataset.to_owned())));
    }
    if let Some(rest) = after(text, "FAILED replication task on ") {
        let (what, file) = log_file(rest);
        let dataset = filled(split(what, " -> ").map_or(what, |(dataset, _)| dataset))?;
        let message = format!("Replication Failed for {dataset}{file}");
        return Some(Told::new(REPLICATION, 7, message).with(Turn::Ended(dataset.to_owned())));
    }
    if let Some(rest) = after(text, "Skipped replication on ") {
        let end = ", previous replication is still running.";
        let dataset = filled(split(rest, end).map_or(rest, |(dataset, _)| dataset))?;
        return Some(Told::new(REPLICATION, 3, format!("Replication skipped for {dataset}")));
    }
    if let Some(rest) = after(text, "Cannot locate remote dataset ") {
        let (dataset, file) = log_file(rest);
        let message = format!("Remote dataset {} not found{file}", filled(dataset)?);
        return Some(Told::new(REPLICATION, 7, message).with(Turn::LastEnded));
    }
    let priority = [("ERROR:", 4), ("WARNING:", 3), ("FAILED", 7)]
        .into_iter()
        .find(|(word, _)| after(text, word).is_some_and(is_word_end))
        .map(|(_, priority)| priority)?;
    Some(Told::new(class_of(text)?, priority, text.to_owned()))
}

/// `rest` in `…: LOGFILE: F`, and the second line of the message. The path is empty where the
/// script had not set it yet.
fn log_file(text: &str) -> (&str, String) {
    let (what, file) = match split(text, ": LOGFILE:") {
        Some((what, file)) => (what, file.trim()),
        None => (text, ""),
    };
    let second =
        if file.is_empty() { String::new() } else { format!("\nLogfile available at: {file}") };
    (what, second)
}

/// By the word that comes first.
fn class_of(text: &str) -> Option<&'static str> {
    let snapshot = find(text, "snapshot");
    let replication = find(text, "replication");
    match (snapshot, replication) {
        (Some(one), Some(other)) if one < other => Some(SNAPSHOT),
        (_, Some(_)) => Some(REPLICATION),
        (Some(_), None) => Some(SNAPSHOT),
        (None, None) => None,
    }
}

fn filled(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

fn is_word_end(rest: &str) -> bool {
    !rest.starts_with(|c: char| c.is_alphanumeric())
}

/// What follows a text, whatever its case.
fn after<'t>(text: &'t str, beginning: &str) -> Option<&'t str> {
    let start = text.get(..beginning.len())?;
    start.eq_ignore_ascii_case(beginning).then(|| &text[beginning.len()..])
}

/// What stands around a text, whatever its case.
fn split<'t>(text: &'t str, middle: &str) -> Option<(&'t str, &'t str)> {
    let at = find(text, middle)?;
    Some((&text[..at], &text[at + middle.len()..]))
}

fn find(text: &str, middle: &str) -> Option<usize> {
    let (text, middle) = (text.as_bytes(), middle.as_bytes());
    text.windows(middle.len()).position(|window| window.eq_ignore_ascii_case(middle))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: &str = "Mon Nov 23 17:50:47 UTC 2026";

    /// Class, priority and message of a line with a stamp, the stamp taken off again.
    fn told(text: &str) -> Option<(&'static str, u8, String)> {
        let News { event, .. } = read(&format!("{STAMP}: {text}"))?;
        let message = event.message.strip_prefix(STAMP)?.strip_prefix(": ")?.to_owned();
        Some((event.class, event.priority.number(), message))
    }

    fn turn(text: &str) -> Option<Turn> {
        read(&format!("{STAMP}: {text}"))?.turn
    }

    #[test]
    fn each_row_of_the_table() {
        let rows = [
            ("Creating snapshot on tank/home", SNAPSHOT, 1, "New snapshot of tank/home"),
            ("creating snapshot tank", SNAPSHOT, 1, "New snapshot of tank"),
            (
                "ERROR: Failed creating snapshot on tank/home",
                SNAPSHOT,
                7,
                "Snapshot failed for tank/home",
            ),
            (
                "Pruning old snapshot: auto-2026-11-22-17-50-47",
                SNAPSHOT,
                0,
                "Pruned snapshot auto-2026-11-22-17-50-47",
            ),
            ("Destroying snapshot auto-1 on tank/home", SNAPSHOT, 0, "Pruned snapshot auto-1"),
            ("Destroying snapshot auto-1", SNAPSHOT, 0, "Pruned snapshot auto-1"),
            (
                "ERROR: Failed pruning snapshot auto-1 on tank",
                SNAPSHOT,
                4,
                "Pruning failed for auto-1 on tank",
            ),
            (
                "ERROR: (Low Disk Space) Failed pruning snapshot auto-1 on tank",
                SNAPSHOT,
                4,
                "Pruning failed for auto-1 on tank",
            ),
            (
                "Starting replication SYNC task on tank: /var/log/lpreserver/lastrep-send-log",
                REPLICATION,
                1,
                "Starting replication for tank",
            ),
            (
                "Starting replication SCHEDULED task on tank/a: /f",
                REPLICATION,
                1,
                "Starting replication for tank/a",
            ),
            (
                "Finished replication task on tank/home -> backuphost",
                REPLICATION,
                1,
                "Finished replication for tank/home",
            ),
            (
                "FAILED replication task on tank -> host: LOGFILE: /var/log/lpreserver_failed.log",
                REPLICATION,
                7,
                "Replication Failed for tank\nLogfile available at: /var/log/lpreserver_failed.log",
            ),
            (
                "Skipped replication on tank, previous replication is still running.",
                REPLICATION,
                3,
                "Replication skipped for tank",
            ),
            (
                "Cannot locate remote dataset backup/tank: LOGFILE: /f",
                REPLICATION,
                7,
                "Remote dataset backup/tank not found\nLogfile available at: /f",
            ),
        ];
        for (text, class, priority, message) in rows {
            assert_eq!(told(text), Some((class, priority, message.to_owned())), "{text}");
            let shouted = told(&text.to_uppercase()).map(|told| (told.0, told.1));
            assert_eq!(shouted, Some((class, priority)), "{text}");
        }
    }

    #[test]
    fn other_complaints_keep_their_text_and_have_the_class_of_the_first_word() {
        let rows = [
            // All of trueos/lpreserver.
            ("WARNING: Skipped pruning snapshots on tank while replication/pruning is running.", 3),
            ("FAILED Removing old snapshot backup/tank@auto-1", 7),
            ("ERROR: no snapshot for this", 4),
        ];
        for (text, priority) in rows {
            assert_eq!(told(text), Some((SNAPSHOT, priority, text.to_owned())));
        }
        let text = "ERROR: Replication without a snapshot";
        assert_eq!(told(text), Some((REPLICATION, 4, text.to_owned())));
    }

    #[test]
    fn what_it_does_not_know_is_nothing() {
        for text in [
            "Rotate Logfile",
            "Starting scrub on tank",
            "Saving dataset properties for: tank",
            "WARNING: Failed to set lifepreserver-prop:x=y property on tank",
            "FAILEDNESS of a snapshot",
            "Creating snapshot ",
            "Finished replication task on ",
            "",
        ] {
            assert_eq!(told(text), None, "{text:?}");
        }
        assert_eq!(read("garbage line without date"), None);
        assert_eq!(read("a:b:c:creating snapshot on x:y:z"), None);
        assert_eq!(read(": creating snapshot on x"), None);
    }

    #[test]
    fn a_stamp_may_be_of_any_locale() {
        for stamp in [
            "lundi 23 novembre 2026, 17:50:47 (UTC+0000)",
            "Mo 23. Nov 17:50:47 CET 2026",
            "2026年11月23日 月曜日 17時50分47秒 UTC",
            "a: b: c",
        ] {
            let news = read(&format!("{stamp}: Creating snapshot on tank/Été")).unwrap();
            assert_eq!(news.event.message, format!("{stamp}: New snapshot of tank/Été"));
        }
    }

    #[test]
    fn the_first_text_that_is_known_ends_the_stamp() {
        let news = read("now: creating snapshot on a: creating snapshot on b").unwrap();
        assert_eq!(news.event.message, "now: New snapshot of b");
        let news = read("now: zfs: ERROR: snapshot lost").unwrap();
        assert_eq!(news.event.message, "now: zfs: ERROR: snapshot lost");
    }

    #[test]
    fn a_dataset_keeps_its_case_and_its_colons() {
        assert_eq!(told("CREATING SNAPSHOT ON Tank/HOME").unwrap().2, "New snapshot of Tank/HOME");
        assert_eq!(
            turn("Starting replication SYNC task on tank/a:b: /F/x y"),
            Some(Turn::Started { dataset: "tank/a:b".into(), file: Some("/F/x y".into()) })
        );
    }

    #[test]
    fn replications_begin_and_end() {
        assert_eq!(
            turn("Starting replication SYNC task on tank"),
            Some(Turn::Started { dataset: "tank".into(), file: None })
        );
        // Older scripts named neither the host nor the log file.
        assert_eq!(turn("Finished replication task on tank"), Some(Turn::Ended("tank".into())));
        assert_eq!(
            turn("FAILED replication task on tank: LOGFILE: /f"),
            Some(Turn::Ended("tank".into()))
        );
        assert_eq!(turn("Cannot locate remote dataset r: LOGFILE: /f"), Some(Turn::LastEnded));
        assert_eq!(turn("Creating snapshot on tank"), None);
    }

    #[test]
    fn a_log_file_that_was_not_named_is_left_out() {
        assert_eq!(
            told("Cannot locate remote dataset backup/x: LOGFILE: ").unwrap().2,
            "Remote dataset backup/x not found"
        );
    }

    #[test]
    fn no_line_makes_it_panic() {
        let pieces = [
            ": ",
            "creating snapshot ",
            "on ",
            "é",
            "\u{fffd}",
            " -> ",
            "ERROR: ",
            "FAILED",
            ": /",
            "\0",
        ];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    read(&format!("x{a}{b}{c}"));
                    read(&format!("{a}{b}{c}"));
                }
            }
        }
    }
}
