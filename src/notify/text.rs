//! Messages for people: a subject that fits a phone, and a body with the next step.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::item::{Item, ItemState, one_line};
use super::target::EventKind;
use crate::wire::Priority;

/// A message for one target, before a format is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The same at each attempt to deliver it, and unlike that of any other.
    pub id: String,
    /// Host that the events are of.
    pub host: String,
    /// Time of the newest event, RFC 3339.
    pub time: String,
    /// The highest priority of its events.
    pub priority: Priority,
    /// One line, at most 100 bytes.
    pub subject: String,
    /// Lines for people.
    pub text: String,
    /// Number of events before these that the target does not get: its queue was full, or it did
    /// not accept them for a week.
    pub dropped: u64,
    /// It was sent for a test.
    #[serde(default, skip_serializing_if = "is_false")]
    pub test: bool,
    /// The events.
    pub entries: Vec<Item>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The longest subject, in bytes.
const SUBJECT: usize = 100;
/// Alike items that the text lists; of more the number is stated.
const LISTED: usize = 50;
/// Subjects of alike items that a heading names.
const NAMED: usize = 3;

/// Makes one message of the items, in their order. The last item of an alert counts.
pub(super) fn compose(id: String, host: &str, items: Vec<Item>, dropped: u64) -> Message {
    let entries = latest(items);
    let priority = entries.iter().map(|item| item.priority).max().unwrap_or(Priority::new(6));
    let time = entries.iter().map(|item| item.at.as_str()).max().unwrap_or_default().to_owned();
    let groups = groups(&entries);
    let headline = match groups.as_slice() {
        [] if dropped == 1 => "1 notification was dropped".to_owned(),
        [] => format!("{dropped} notifications were dropped"),
        [group] => heading(group, SUBJECT),
        groups => summary(groups),
    };
    // A category beside the end of a condition would read as if it lasted.
    let is_over =
        !entries.is_empty() && entries.iter().all(|item| item.state == ItemState::Cleared);
    let tail = if is_over {
        String::new()
    } else {
        format!(" ({} {})", priority.number(), priority.category())
    };
    let room = SUBJECT.saturating_sub(host.len() + 2 + tail.len()).max(16);
    let subject = format!("{host}: {}{tail}", one_line(&headline, room));
    let mut text = String::new();
    for group in &groups {
        describe(&mut text, group);
    }
    if dropped > 0 {
        let events = if dropped == 1 { "event is" } else { "events are" };
        let _ = writeln!(
            text,
            "{dropped} earlier {events} missing here: the queue of this target was full, or it\n\
             accepted nothing for a week. All current alerts: sysadm-events alerts\n"
        );
    }
    let text = text.trim_end().to_owned() + "\n";
    Message {
        id,
        host: host.to_owned(),
        time,
        priority,
        subject,
        text,
        dropped,
        test: false,
        entries,
    }
}

/// The last item of each alert, at the position of its first one; other events as they are.
fn latest(items: Vec<Item>) -> Vec<Item> {
    let mut positions: BTreeMap<String, usize> = BTreeMap::new();
    let mut entries: Vec<Item> = Vec::new();
    for item in items {
        if item.state == ItemState::Event {
            entries.push(item);
            continue;
        }
        match positions.get(&item.key).and_then(|at| entries.get_mut(*at)) {
            Some(known) => *known = item,
            None => {
                positions.insert(item.key.clone(), entries.len());
                entries.push(item);
            }
        }
    }
    entries
}

/// Alike items: of one kind, in one state. The most urgent group is first.
fn groups(entries: &[Item]) -> Vec<Vec<&Item>> {
    let mut groups: Vec<Vec<&Item>> = Vec::new();
    let mut positions: BTreeMap<(EventKind, &str, ItemState), usize> = BTreeMap::new();
    for item in entries {
        let at = *positions.entry((item.event, &item.kind, item.state)).or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    let rank = |group: &Vec<&Item>| {
        let is_over = group.iter().all(|item| item.state == ItemState::Cleared);
        (is_over, std::cmp::Reverse(group.iter().map(|item| item.priority).max()))
    };
    groups.sort_by_key(rank);
    groups
}

fn summary(groups: &[Vec<&Item>]) -> String {
    let mut counts: [(usize, &str, &str); 4] = [
        (0, "problem", "problems"),
        (0, "still active", "still active"),
        (0, "cleared", "cleared"),
        (0, "event", "events"),
    ];
    for item in groups.iter().flatten() {
        let at = match item.state {
            ItemState::Raised | ItemState::Changed => 0,
            ItemState::Active => 1,
            ItemState::Cleared => 2,
            ItemState::Event => 3,
        };
        if let Some(count) = counts.get_mut(at) {
            count.0 += 1;
        }
    }
    let parts = counts.iter().filter(|(count, ..)| *count > 0);
    let parts =
        parts.map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many }));
    parts.collect::<Vec<_>>().join(", ")
}

/// Kinds of alerts, and what is said of several of one kind.
const PLURALS: [(&str, &str); 13] = [
    ("pool/health", "pools are not healthy"),
    ("pool/capacity", "pools are almost full"),
    ("pool/errors", "pools have errors"),
    ("snapshot/failed", "snapshots failed"),
    ("snapshot/stale", "datasets have no recent snapshot"),
    ("replication/failed", "replications failed"),
    ("replication/stale", "datasets have no recent replication"),
    ("job/failed", "jobs failed"),
    ("job/stale", "jobs are overdue"),
    ("emit/stale", "reports are overdue"),
    ("log/unreadable", "logs cannot be read"),
    ("link/down", "links are down"),
    ("notify/failing", "targets of notifications fail"),
];

/// One line for a group, of `longest` bytes or a little more.
fn heading(group: &[&Item], longest: usize) -> String {
    let Some(first) = group.first() else { return String::new() };
    let prefix = match first.state {
        ItemState::Raised | ItemState::Changed | ItemState::Event => "",
        ItemState::Active => "still: ",
        ItemState::Cleared => "cleared: ",
    };
    if group.len() == 1 {
        return match first.state {
            ItemState::Cleared => format!("{prefix}{} ({})", first.key, first.message),
            _ => format!("{prefix}{}", first.message),
        };
    }
    let plural = PLURALS.iter().find(|(kind, _)| *kind == first.kind).map(|(_, plural)| *plural);
    let plural = match (plural, first.state) {
        (_, ItemState::Cleared) => format!("{} alerts of {}", group.len(), first.kind),
        (Some(plural), _) => format!("{} {plural}", group.len()),
        (None, ItemState::Event) => format!("{} events of {}", group.len(), first.kind),
        (None, _) => format!("{} alerts of {}", group.len(), first.kind),
    };
    let mut line = format!("{prefix}{plural}: ");
    for (number, item) in group.iter().take(NAMED).enumerate() {
        let subject = subject_of(item);
        if number > 0 && line.len() + subject.len() > longest {
            break;
        }
        if number > 0 {
            line.push_str(", ");
        }
        line.push_str(subject);
    }
    if group.len() > NAMED {
        line.push_str(", …");
    }
    line
}

/// The part of a key that is not its kind: `tank/home` of `snapshot/tank/home/stale`.
fn subject_of(item: &Item) -> &str {
    let (Some((first, _)), Some((_, last))) =
        (item.kind.split_once('/'), item.kind.rsplit_once('/'))
    else {
        return &item.key;
    };
    let rest = item.key.strip_prefix(first).and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.unwrap_or(&item.key);
    rest.strip_suffix(last).and_then(|rest| rest.strip_suffix('/')).unwrap_or(rest)
}

/// `2026-11-29 03:12 UTC` of an RFC 3339 time; another text as it is.
fn readable(time: &str) -> String {
    match (time.get(..10), time.get(10..11), time.get(11..16), time.strip_suffix('Z')) {
        (Some(day), Some("T"), Some(minute), Some(_)) => format!("{day} {minute} UTC"),
        _ => time.to_owned(),
    }
}

/// Commands that show more about an item, quoted as they are typed.
fn next_steps(item: &Item) -> Vec<String> {
    let subject = quoted(subject_of(item));
    let first = item.kind.split('/').next().unwrap_or_default();
    let show = match (item.event, first) {
        (EventKind::Alert, "pool") => format!("zpool status -v {subject}"),
        (EventKind::Alert, "zpool") => "zpool status -x".to_owned(),
        (EventKind::Alert, "snapshot" | "replication") => {
            format!("zfs list -t snapshot -d 1 -s creation {subject}")
        }
        (EventKind::Alert, "store") => "sysadm-events status".to_owned(),
        (EventKind::Alert, "notify") => "sysadm-events notify --queue".to_owned(),
        (EventKind::Dispatcher, _) => format!("sysadm-events log {}", quoted(&item.key)),
        (EventKind::LifePreserver, _) => "sysadm-events events".to_owned(),
        (EventKind::Notice, _) => return Vec::new(),
        (EventKind::Alert, _) => "sysadm-events alerts".to_owned(),
    };
    let mut steps = vec![show];
    if item.event == EventKind::Alert && item.state != ItemState::Cleared {
        steps.push(format!("sysadm-events ack {}", quoted(&item.key)));
    }
    steps
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+,=%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn describe(text: &mut String, group: &[&Item]) {
    let Some(first) = group.first() else { return };
    if let [item] = group {
        let _ = writeln!(text, "{}", heading(group, usize::MAX));
        let priority = item.priority;
        let _ = writeln!(text, "  priority: {} {}", priority.number(), priority.category());
        match item.state {
            ItemState::Raised | ItemState::Changed | ItemState::Active => {
                let _ = writeln!(text, "  since:    {}", readable(&item.since));
                let _ = writeln!(text, "  alert:    {}", item.key);
            }
            ItemState::Cleared => {
                let _ = writeln!(
                    text,
                    "  lasted:   from {} to {}",
                    readable(&item.since),
                    readable(&item.at)
                );
            }
            ItemState::Event => {
                let _ = writeln!(text, "  at:       {}", readable(&item.at));
            }
        }
        let _ = writeln!(text, "  source:   {}", item.source);
        if item.count > 1 {
            let _ = writeln!(text, "  raised:   {} times in 24 hours", item.count);
        }
        for (number, step) in next_steps(item).iter().enumerate() {
            let label = if number == 0 { "show:" } else { "ack:" };
            let _ = writeln!(text, "  {label:9} {step}");
        }
    } else {
        let _ = writeln!(text, "{}", heading(group, usize::MAX).trim_end_matches(", …"));
        for item in group.iter().take(LISTED) {
            let priority = item.priority;
            let _ = writeln!(
                text,
                "  {} ({} {}, {})",
                item.message,
                priority.number(),
                priority.category(),
                readable(&item.since)
            );
        }
        if group.len() > LISTED {
            let _ = writeln!(text, "  and {} more", group.len() - LISTED);
        }
        if first.event == EventKind::Alert {
            let _ = writeln!(text, "  show:     sysadm-events alerts");
            if first.state != ItemState::Cleared
                && let Some(pattern) = pattern_of(&first.kind)
            {
                let _ = writeln!(text, "  ack:      sysadm-events ack '{pattern}'");
            }
        }
    }
    text.push('\n');
}

/// The pattern of all keys of a kind: `snapshot/**/stale` of `snapshot/stale`.
fn pattern_of(kind: &str) -> Option<String> {
    let (first, last) = kind.split_once('/')?;
    Some(format!("{first}/**/{last}"))
}

/// A message that tests a target.
pub(super) fn test_message(id: String, host: &str, name: &str, at: &str) -> Message {
    Message {
        id,
        host: host.to_owned(),
        time: at.to_owned(),
        priority: Priority::new(1),
        subject: format!("{host}: test of the notification {name}"),
        text: format!(
            "A test of the notification {name}, requested with: sysadm-events notify --test {name}\n\
             Nothing is wrong.\n"
        ),
        dropped: 0,
        test: true,
        entries: Vec::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn alert(
        key: &str,
        kind: &str,
        state: ItemState,
        priority: u8,
        message: &str,
    ) -> Item {
        Item {
            event: EventKind::Alert,
            id: format!("e-{key}"),
            key: key.into(),
            kind: kind.into(),
            state,
            priority: Priority::new(priority),
            message: message.into(),
            source: "system-state".into(),
            since: "2026-11-29T01:00:00Z".into(),
            at: "2026-11-29T01:05:00Z".into(),
            count: 1,
        }
    }

    fn composed(items: Vec<Item>) -> Message {
        compose("1-2".into(), "nas", items, 0)
    }

    #[test]
    fn message_of_one_alert_has_time_and_next_step() {
        let item = alert("pool/tank/health", "pool/health", ItemState::Raised, 9, "tank DEGRADED");
        let message = composed(vec![Item { count: 3, ..item }]);
        assert_eq!(message.subject, "nas: tank DEGRADED (9 Urgent)");
        assert_eq!(
            message.text,
            "tank DEGRADED\n  priority: 9 Urgent\n  since:    2026-11-29 01:00 UTC\n  \
             alert:    pool/tank/health\n  source:   system-state\n  raised:   3 times in 24 hours\n  \
             show:     zpool status -v tank\n  ack:      sysadm-events ack pool/tank/health\n"
        );
    }

    #[test]
    fn many_alike_become_one_line_and_a_list() {
        let stale = |n: usize| {
            let key = format!("snapshot/tank/home/{n}/stale");
            let message = format!("tank/home/{n} has no snapshot since yesterday");
            alert(&key, "snapshot/stale", ItemState::Raised, 7, &message)
        };
        let message = composed((1..=17).map(stale).collect());
        assert_eq!(
            message.subject,
            "nas: 17 datasets have no recent snapshot: tank/home/1, tank/home/2, tank/home/3, … (7 Critical)"
        );
        assert_eq!(message.text.lines().count(), 1 + 17 + 2, "{}", message.text);
        assert!(message.text.contains("sysadm-events ack 'snapshot/**/stale'"), "{}", message.text);
        let many = composed((1..=10_000).map(stale).collect());
        assert!(many.text.contains("and 9950 more"), "{}", many.text);
        assert!(many.text.len() < 8192);
    }

    #[test]
    fn alert_that_cleared_meanwhile_is_one_entry() {
        let raised = alert("pool/a/health", "pool/health", ItemState::Raised, 9, "a DEGRADED");
        let cleared = alert("pool/a/health", "pool/health", ItemState::Cleared, 9, "a is ONLINE");
        let message = composed(vec![raised.clone(), cleared]);
        assert_eq!(message.subject, "nas: cleared: pool/a/health (a is ONLINE)");
        assert!(
            message.text.contains("lasted:   from 2026-11-29 01:00 UTC to 2026-11-29 01:05 UTC")
        );
        assert!(!message.text.contains("ack"), "{}", message.text);
        let other =
            alert("log/x/unreadable", "log/unreadable", ItemState::Cleared, 6, "it is back");
        let message = composed(vec![other, raised]);
        assert_eq!(message.subject, "nas: 1 problem, 1 cleared (9 Urgent)");
        assert!(message.text.starts_with("a DEGRADED\n"), "the problem is first: {}", message.text);
    }

    #[test]
    fn subject_is_bounded_and_states_missing_events() {
        let long = "x".repeat(2000);
        let item = alert("custom/a/b", "custom", ItemState::Raised, 6, &long);
        let message = compose("1".into(), "nas", vec![item], 2);
        assert!(message.subject.len() <= SUBJECT, "{}", message.subject.len());
        assert!(message.subject.ends_with("… (6 Critical)"), "{}", message.subject);
        assert!(message.text.contains("\n2 earlier events are missing here"), "{}", message.text);
        let none = compose("1".into(), "nas", Vec::new(), 1);
        assert_eq!(none.subject, "nas: 1 notification was dropped (6 Critical)");
    }

    #[test]
    fn words_for_a_shell_are_quoted() {
        assert_eq!(quoted("tank/vm-1@a"), "tank/vm-1@a");
        assert_eq!(quoted("it's $(here)"), "'it'\\''s $(here)'");
        assert_eq!(quoted(""), "''");
    }
}
