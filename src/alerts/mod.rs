//! Alerts: conditions that are wrong until they are right again.
//!
//! Sources report conditions; this state machine decides what becomes of them. It damps conditions
//! that hover, recognises those that flap, counts, and holds acknowledgements. Its results are
//! [`Transition`]s, for subscribers and for notification, and records, which the owner stores, so
//! that alerts survive a restart. It does no I/O and has no clock.
//!
//! Everything is bounded: the number of alerts, their bytes, and the alerts of one user. Beyond
//! that the ones with the lowest priority are counted only, and one more alert reports their number.

mod entry;
mod expect;
mod kind;
mod listing;
mod transition;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::glob::Glob;
use crate::moment::Moment;
use crate::wire::{ErrorCode, Priority, Refusal};
use entry::{Acknowledgement, DAY, Entry, Phase, seconds, time};

pub use expect::{Expectation, Expectations, Subject};
pub use kind::Kind;
pub use listing::Summary;
pub use transition::{AlertState, Transition};

/// Limits and thresholds of alerts.
#[derive(Clone, Copy, Debug)]
pub struct AlertLimits {
    /// Maximum number of alerts, cleared ones of the last day included.
    pub most: usize,
    /// Maximum number of bytes of all alerts together.
    pub bytes: usize,
    /// Maximum number of active alerts of one user.
    pub most_per_user: usize,
    /// Time for which an observed condition must be over until its alert is cleared.
    pub clear_after: Duration,
    /// Number of raises in an hour beyond which an alert counts as flapping.
    pub flap_limit: usize,
    /// Time without a change after which a flapping alert is steady.
    pub flap_hold: Duration,
}

/// Maximum length of a message, in bytes; the rest is cut.
pub const MESSAGE: usize = 512;
/// Maximum length of a key, in bytes.
pub const KEY: usize = 400;
/// Maximum length of the text of an acknowledgement, in bytes.
pub const NOTE: usize = 256;
/// Number of parts in which records are stored: a change rewrites one of them.
pub const PARTS: usize = 16;
/// Maximum number of conditions that are counted because they are not shown.
const HIDDEN: usize = 16384;
/// Cause of the end of a condition that no source reports after a restart.
const NOT_AFTER_RESTART: &str = "no longer so after a restart";
/// Cause of the end of an alert about an event that has no end of its own.
const NOT_AGAIN: &str = "it has not happened again";
const NOT_SHOWN: &str = "alerts/not-shown";

/// A condition, as a source reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Key of the alert; control characters become spaces.
    pub key: String,
    /// Kind of the alert.
    pub kind: Kind,
    /// Source of it, for people.
    pub source: String,
    /// Its priority.
    pub priority: Priority,
    /// One line; a longer text than [`MESSAGE`] is cut.
    pub message: String,
    /// The condition must hold for this time until it is reported.
    pub raise_after: Duration,
}

/// Result of a reported condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The alert is active now, and was not.
    Raised,
    /// It is active, as before.
    Active,
    /// It is not reported yet, see [`Condition::raise_after`].
    Pending,
    /// It is only counted: there are too many alerts.
    NotShown,
}

/// Result of the end of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is cleared.
    Cleared,
    /// It is cleared later, unless the condition returns.
    Held,
    /// There was no active alert.
    NotActive,
}

/// All alerts.
#[derive(Debug)]
pub struct Alerts {
    limits: AlertLimits,
    /// Identifies this run of the daemon.
    run: String,
    last_number: u64,
    entries: BTreeMap<String, Entry>,
    bytes: usize,
    /// Deadlines, each with the key of its alert.
    timers: BTreeSet<(Instant, String)>,
    /// Digests of the keys of active conditions that are not shown.
    hidden: BTreeSet<u64>,
    /// Parts whose records have changed, as bits.
    changed: u16,
    transitions: VecDeque<Transition>,
}

const _: () = assert!(PARTS == u16::BITS as usize);

/// FNV-1a: the same in all versions, since it decides in which part a record is.
fn digest(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn part_of(key: &str) -> usize {
    (digest(key) % PARTS as u64) as usize
}

/// One line without control characters, of at most `longest` bytes.
fn line(text: &str, longest: usize) -> String {
    let mut line: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > longest {
        line.truncate(line.floor_char_boundary(longest.saturating_sub('…'.len_utf8())));
        line.push('…');
    }
    line
}

/// Whether two messages differ in more than figures.
fn differ(one: &str, other: &str) -> bool {
    let words = |text: &str| -> Vec<char> {
        text.chars().filter(|c| !c.is_ascii_digit() && !matches!(c, '.' | ',')).collect()
    };
    one != other && words(one) != words(other)
}

impl Alerts {
    /// Creates it without alerts. `run` identifies this run of the daemon in the ids of transitions.
    pub fn new(limits: AlertLimits, run: &str) -> Alerts {
        Alerts {
            limits,
            run: run.to_owned(),
            last_number: 0,
            entries: BTreeMap::new(),
            bytes: 0,
            timers: BTreeSet::new(),
            hidden: BTreeSet::new(),
            changed: 0,
            transitions: VecDeque::new(),
        }
    }

    /// Changes the limits for later conditions.
    pub fn set_limits(&mut self, limits: AlertLimits) {
        self.limits = limits;
    }

    /// Restores the records of a part, one JSON object each. Returns the number of those that are
    /// none.
    pub fn restore<'r>(&mut self, records: impl Iterator<Item = &'r str>, now: Moment) -> usize {
        let mut unknown = 0;
        for record in records {
            let Some((key, mut entry)) = Entry::of_record(record) else {
                unknown += 1;
                continue;
            };
            if key == NOT_SHOWN || self.entries.contains_key(&key) {
                continue;
            }
            if self.entries.len() >= self.limits.most {
                break;
            }
            if entry.kind.rule().ends_after.is_some() && entry.is_active() {
                entry.phase = Phase::Ending(now.instant, NOT_AFTER_RESTART.to_owned());
                self.timers.insert((now.instant, key.clone()));
            }
            if let Some(until) = entry.acknowledgement.as_ref().and_then(|it| it.until) {
                entry.acknowledged_until = Some(self.arm(&key, until, now));
            }
            self.bytes += entry.weight(&key);
            self.entries.insert(key, entry);
        }
        unknown
    }

    /// The records of a part, one JSON object each.
    pub fn records(&self, part: usize) -> impl Iterator<Item = String> {
        let of_part = move |key: &&String| part_of(key) == part && key.as_str() != NOT_SHOWN;
        self.entries
            .iter()
            .filter(move |(key, _)| of_part(key))
            .filter_map(|(key, entry)| entry.record(key))
    }

    /// The next part whose records are to be stored. It counts as stored from now on.
    pub fn next_changed(&mut self, is_free: impl Fn(usize) -> bool) -> Option<usize> {
        let part = (0..PARTS).find(|part| self.changed & (1 << part) != 0 && is_free(*part))?;
        self.changed &= !(1 << part);
        Some(part)
    }

    /// Whether the records of a part are to be stored.
    pub fn has_changed(&self, part: usize) -> bool {
        self.changed & (1 << part) != 0
    }

    /// Storing a part has failed: it is to be stored again.
    pub fn store_again(&mut self, part: usize) {
        self.changed |= 1 << part;
    }

    /// The part in which the record of an alert is.
    pub fn part_of(key: &str) -> usize {
        part_of(key)
    }

    /// The next transition, to be published.
    pub fn next_transition(&mut self) -> Option<Transition> {
        self.transitions.pop_front()
    }

    /// The last transition of each active alert.
    pub fn active(&self) -> Vec<Transition> {
        let active = self.entries.iter().filter(|(_, entry)| entry.is_active());
        active.map(|(key, entry)| entry.transition(key, &entry.message)).collect()
    }

    /// Transitions of earlier runs that notification has not taken: see [`Alerts::on_queued`].
    pub fn unqueued(&self) -> Vec<Transition> {
        let unqueued = self.entries.iter().filter(|(_, entry)| entry.is_unqueued);
        unqueued.map(|(key, entry)| entry.transition(key, &entry.message)).collect()
    }

    /// Notification has taken the transition, so that it is not repeated after a restart.
    pub fn on_queued(&mut self, key: &str, id: &str) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.last_id == id
            && std::mem::take(&mut entry.is_unqueued)
        {
            self.changed |= 1 << part_of(key);
        }
    }

    /// When [`Alerts::on_deadline`] must be called.
    pub fn due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Does what is due, for at most `most` alerts.
    pub fn on_deadline(&mut self, most: usize, now: Moment) {
        for _ in 0..most {
            if self.timers.first().is_none_or(|(due, _)| *due > now.instant) {
                break;
            }
            let Some((_, key)) = self.timers.pop_first() else { break };
            self.on_timer(&key, now);
        }
    }

    fn on_timer(&mut self, key: &str, now: Moment) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.acknowledged_until.is_some_and(|due| due <= now.instant) {
            entry.acknowledged_until = None;
            let until = entry.acknowledgement.as_ref().and_then(|it| it.until).unwrap_or(0);
            if until > seconds(now.wall) {
                // The clock was set back.
                let due = self.arm(key, until, now);
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.acknowledged_until = Some(due);
                }
            } else {
                self.edit(key, |entry| entry.acknowledgement = None);
                self.report_transition(key, AlertState::Changed, now);
            }
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.is_flapping && entry.phase == Phase::Active {
            let steady =
                entry.raises.last().copied().unwrap_or(0) + self.limits.flap_hold.as_secs();
            if steady <= seconds(now.wall) {
                self.edit(key, |entry| entry.is_flapping = false);
            } else {
                self.arm(key, steady, now);
            }
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        match &entry.phase {
            Phase::Pending(due) if *due <= now.instant => {
                entry.phase = Phase::Active;
                self.report_transition(key, AlertState::Raised, now);
            }
            Phase::Ending(due, cause) if *due <= now.instant => {
                let cause = cause.clone();
                self.clear(key, &cause, now);
            }
            Phase::Pending(_) | Phase::Active | Phase::Ending(..) | Phase::Cleared => {}
        }
    }

    /// Sets a deadline for that time of the wall clock, in seconds since 1970.
    fn arm(&mut self, key: &str, until: u64, now: Moment) -> Instant {
        let left = time(until).duration_since(now.wall).unwrap_or_default();
        let due = now.instant + left.min(DAY * 400);
        self.timers.insert((due, key.to_owned()));
        due
    }

    /// Changes an alert, and accounts for its size.
    fn edit(&mut self, key: &str, edit: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let before = entry.weight(key);
        edit(entry);
        self.bytes = self.bytes + entry.weight(key) - before;
        self.changed |= 1 << part_of(key);
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.weight(key);
            self.changed |= 1 << part_of(key);
        }
    }

    /// The alert enters a state: that is reported.
    fn report_transition(&mut self, key: &str, state: AlertState, now: Moment) {
        let message = self.entries.get(key).map(|entry| entry.message.clone()).unwrap_or_default();
        self.report_with(key, state, &message, now);
    }

    fn report_with(&mut self, key: &str, state: AlertState, message: &str, now: Moment) {
        self.last_number += 1;
        let id = format!("{}-{}", self.run, self.last_number);
        self.edit(key, |entry| {
            (entry.last_id, entry.last_state) = (id, state);
            (entry.changed, entry.is_unqueued) = (seconds(now.wall), true);
        });
        if let Some(entry) = self.entries.get(key) {
            self.transitions.push_back(entry.transition(key, &line(message, MESSAGE)));
        }
    }

    /// A condition holds.
    pub fn report(&mut self, condition: Condition, now: Moment) -> Reported {
        let Condition { key, kind, source, priority, message, raise_after } = condition;
        let (key, source) = (line(&key, KEY), line(&source, KEY));
        let message = line(&message, MESSAGE);
        let at = seconds(now.wall);
        let (is_active, is_pending) = match self.entries.get(&key) {
            Some(entry) => (entry.is_active(), matches!(entry.phase, Phase::Pending(_))),
            None => (false, false),
        };
        if is_pending {
            self.edit(&key, |entry| (entry.priority, entry.message) = (priority, message));
            return Reported::Pending;
        }
        if is_active {
            self.report_active(&key, priority, message, now);
            return Reported::Active;
        }
        if !self.entries.contains_key(&key) && !self.make_room(&key, &message, priority, now) {
            return Reported::NotShown;
        }
        if !self.entries.contains_key(&key) {
            let entry = Entry {
                kind,
                source,
                priority,
                message,
                phase: Phase::Cleared,
                since: at,
                changed: at,
                raises: Vec::new(),
                is_flapping: false,
                acknowledgement: None,
                is_restored: false,
                last_id: String::new(),
                last_state: AlertState::Cleared,
                is_unqueued: false,
                acknowledged_until: None,
            };
            self.bytes += entry.weight(&key);
            self.entries.insert(key.clone(), entry);
        } else {
            self.edit(&key, |entry| {
                (entry.kind, entry.source) = (kind, source);
                (entry.priority, entry.message) = (priority, message);
            });
        }
        self.raise(&key, raise_after, now)
    }

    /// The condition of an inactive alert begins.
    fn raise(&mut self, key: &str, raise_after: Duration, now: Moment) -> Reported {
        let at = seconds(now.wall);
        let flap_limit = self.limits.flap_limit;
        let ends_after = self.entries.get(key).and_then(|entry| entry.kind.rule().ends_after);
        self.edit(key, |entry| {
            entry.since = at;
            entry.count_raise(at);
            entry.is_flapping = entry.count_in_hour(at) > flap_limit;
        });
        let is_flapping = self.entries.get(key).is_some_and(|entry| entry.is_flapping);
        let phase = match (raise_after, ends_after) {
            (_, Some(after)) => {
                let due = now.instant + after;
                self.timers.insert((due, key.to_owned()));
                Phase::Ending(due, NOT_AGAIN.to_owned())
            }
            (Duration::ZERO, None) => Phase::Active,
            (after, None) => {
                let due = now.instant + after;
                self.timers.insert((due, key.to_owned()));
                self.edit(key, |entry| entry.phase = Phase::Pending(due));
                return Reported::Pending;
            }
        };
        self.edit(key, |entry| entry.phase = phase);
        if is_flapping {
            self.report_flapping(key, AlertState::Raised, now);
        } else {
            self.report_transition(key, AlertState::Raised, now);
        }
        Reported::Raised
    }

    fn report_flapping(&mut self, key: &str, state: AlertState, now: Moment) {
        self.timers.insert((now.instant + self.limits.flap_hold, key.to_owned()));
        let Some(entry) = self.entries.get(key) else { return };
        let (count, message) = (entry.count_in_hour(seconds(now.wall)), &entry.message);
        let text = format!("flapping: raised {count} times within an hour; last: {message}");
        self.report_with(key, state, &text, now);
    }

    /// The condition of an active alert is reported again.
    fn report_active(&mut self, key: &str, priority: Priority, message: String, now: Moment) {
        let Some(entry) = self.entries.get(key) else { return };
        let at = seconds(now.wall);
        let (kind, before) = (entry.kind, entry.priority);
        let has_returned =
            matches!(entry.phase, Phase::Ending(..)) && kind.rule().ends_after.is_none();
        let is_news = differ(&entry.message, &message) || before != priority;
        let was_flapping = entry.is_flapping;
        let flap_limit = self.limits.flap_limit;
        if !is_news && !has_returned && entry.message == message && !entry.is_restored {
            return;
        }
        self.edit(key, |entry| {
            (entry.priority, entry.message, entry.is_restored) = (priority, message, false);
            if has_returned {
                entry.phase = Phase::Active;
                entry.count_raise(at);
                entry.is_flapping |= entry.count_in_hour(at) > flap_limit;
            }
            if priority > before {
                (entry.acknowledgement, entry.acknowledged_until) = (None, None);
            }
        });
        if let Some(after) = kind.rule().ends_after {
            let due = now.instant + after;
            self.timers.insert((due, key.to_owned()));
            self.edit(key, |entry| entry.phase = Phase::Ending(due, NOT_AGAIN.to_owned()));
        }
        let is_flapping = self.entries.get(key).is_some_and(|entry| entry.is_flapping);
        if is_flapping && !was_flapping {
            self.report_flapping(key, AlertState::Changed, now);
        } else if is_news && (!is_flapping || priority > before) {
            self.report_transition(key, AlertState::Changed, now);
        }
    }

    /// The condition of an alert is over; `cause` says why.
    pub fn resolve(&mut self, key: &str, cause: &str, now: Moment) -> Ended {
        let key = line(key, KEY);
        self.hidden_ended(&key, now);
        let Some(entry) = self.entries.get(&key) else { return Ended::NotActive };
        match entry.phase {
            Phase::Cleared => Ended::NotActive,
            Phase::Pending(_) => {
                self.end_pending(&key);
                Ended::NotActive
            }
            Phase::Ending(..) => Ended::Held,
            Phase::Active => {
                if entry.is_restored {
                    self.clear(&key, NOT_AFTER_RESTART, now);
                    return Ended::Cleared;
                }
                let after = match (entry.is_flapping, entry.kind.rule().is_damped) {
                    (true, _) => self.limits.flap_hold,
                    (false, true) => self.limits.clear_after,
                    (false, false) => Duration::ZERO,
                };
                if after.is_zero() {
                    self.clear(&key, cause, now);
                    return Ended::Cleared;
                }
                let due = now.instant + after;
                let cause = line(cause, MESSAGE);
                self.edit(&key, |entry| entry.phase = Phase::Ending(due, cause));
                self.timers.insert((due, key));
                Ended::Held
            }
        }
    }

    /// The condition ended before it was reported.
    fn end_pending(&mut self, key: &str) {
        let mut is_unknown = false;
        self.edit(key, |entry| {
            entry.phase = Phase::Cleared;
            entry.raises.pop();
            is_unknown = entry.last_id.is_empty();
        });
        if is_unknown {
            self.remove(key);
        }
    }

    fn clear(&mut self, key: &str, cause: &str, now: Moment) {
        self.edit(key, |entry| {
            entry.phase = Phase::Cleared;
            (entry.is_flapping, entry.is_restored) = (false, false);
        });
        self.report_with(key, AlertState::Cleared, cause, now);
        let cause = line(cause, MESSAGE);
        self.edit(key, |entry| {
            (entry.acknowledgement, entry.acknowledged_until) = (None, None);
            entry.message = cause;
        });
    }

    /// The conditions of a source that reports all of its conditions at once: an active alert whose
    /// key `is_own` and that is not among them is over, for the cause that `cause` gives.
    pub fn report_all(
        &mut self,
        conditions: Vec<Condition>,
        is_own: impl Fn(Kind, &str) -> bool,
        cause: impl Fn(&str) -> String,
        now: Moment,
    ) {
        let holds: BTreeSet<String> =
            conditions.iter().map(|condition| line(&condition.key, KEY)).collect();
        let is_over = |(key, entry): &(&String, &Entry)| {
            entry.phase != Phase::Cleared && is_own(entry.kind, key) && !holds.contains(*key)
        };
        let over: Vec<String> =
            self.entries.iter().filter(is_over).map(|(key, _)| key.clone()).collect();
        for key in over {
            let cause = cause(&key);
            self.resolve(&key, &cause, now);
        }
        for condition in conditions {
            self.report(condition, now);
        }
    }

    /// Whether an alert of that key is active.
    pub fn is_active(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(Entry::is_active)
    }

    /// The keys of the active alerts of a kind, each with whether it is acknowledged.
    pub fn active_of_kind(&self, kind: Kind) -> Vec<(String, bool)> {
        let active = self.entries.iter().filter(|(_, it)| it.kind == kind && it.is_active());
        active.map(|(key, it)| (key.clone(), it.acknowledgement.is_some())).collect()
    }

    /// Number of active alerts of a source.
    pub fn active_of(&self, source: &str) -> usize {
        self.entries.values().filter(|entry| entry.is_active() && entry.source == source).count()
    }

    /// The alerts that a pattern or a key names, active ones only.
    fn named(&self, pattern: &str) -> Result<Vec<String>, Refusal> {
        if self.is_active(pattern) {
            return Ok(vec![pattern.to_owned()]);
        }
        let wrong = |why| Refusal::bad_request(format!("{pattern:?} {why}"));
        let pattern = Glob::parse(pattern).map_err(wrong)?;
        let active = self.entries.iter().filter(|(_, entry)| entry.is_active());
        let named: Vec<String> =
            active.filter(|(key, _)| pattern.matches(key)).map(|(key, _)| key.clone()).collect();
        if named.is_empty() {
            let why = format!("no active alert has the key {:?}", pattern.as_str());
            return Err(Refusal::new(ErrorCode::NotFound, why));
        }
        Ok(named)
    }

    /// Acknowledges the active alerts that a key or a pattern names. Returns their keys.
    ///
    /// # Errors
    /// No active alert is named, or the pattern is impossible.
    pub fn acknowledge(
        &mut self,
        pattern: &str,
        by: &str,
        note: Option<&str>,
        lasts: Option<Duration>,
        now: Moment,
    ) -> Result<Vec<String>, Refusal> {
        let named = self.named(pattern)?;
        let at = seconds(now.wall);
        for key in &named {
            let acknowledgement = Acknowledgement {
                by: line(by, NOTE),
                at,
                note: note.map(|note| line(note, NOTE)).filter(|note| !note.is_empty()),
                until: lasts.map(|lasts| at.saturating_add(lasts.as_secs().max(1))),
            };
            let due = acknowledgement.until.map(|until| self.arm(key, until, now));
            self.edit(key, |entry| {
                entry.acknowledgement = Some(acknowledgement);
                entry.acknowledged_until = due;
            });
            self.report_transition(key, AlertState::Acknowledged, now);
        }
        Ok(named)
    }

    /// Withdraws acknowledgements. Returns the keys of the alerts that had one.
    ///
    /// # Errors
    /// As [`Alerts::acknowledge`].
    pub fn unacknowledge(&mut self, pattern: &str, now: Moment) -> Result<Vec<String>, Refusal> {
        let named = self.named(pattern)?;
        let has_one = |key: &String| {
            self.entries.get(key).is_some_and(|entry| entry.acknowledgement.is_some())
        };
        let withdrawn: Vec<String> = named.into_iter().filter(has_one).collect();
        for key in &withdrawn {
            self.edit(key, |entry| {
                (entry.acknowledgement, entry.acknowledged_until) = (None, None);
            });
            self.report_transition(key, AlertState::Changed, now);
        }
        Ok(withdrawn)
    }

    /// Makes room for a new alert; false where it can only be counted.
    fn make_room(&mut self, key: &str, message: &str, priority: Priority, now: Moment) -> bool {
        let size = size_of::<Entry>() + 2 * key.len() + 2 * message.len();
        let is_full = |alerts: &Alerts| {
            let number = alerts.entries.len() - usize::from(alerts.entries.contains_key(NOT_SHOWN));
            number >= alerts.limits.most || alerts.bytes + size > alerts.limits.bytes
        };
        if key == NOT_SHOWN || !is_full(self) {
            self.hidden_ended(key, now);
            return true;
        }
        while is_full(self) {
            // Cleared ones first, the oldest first, and then active ones with a lower priority.
            let cleared = self
                .entries
                .iter()
                .filter(|(key, entry)| entry.phase == Phase::Cleared && key.as_str() != NOT_SHOWN);
            let oldest = cleared.min_by_key(|(_, entry)| entry.changed);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.remove(&oldest);
                continue;
            }
            let others = self.entries.iter().filter(|(key, _)| key.as_str() != NOT_SHOWN);
            let lowest = others.min_by_key(|(_, entry)| (entry.priority, entry.since));
            let Some((lowest, _)) = lowest.filter(|(_, entry)| entry.priority < priority) else {
                self.hide(key, now);
                return false;
            };
            let lowest = lowest.clone();
            self.remove(&lowest);
            self.hide(&lowest, now);
        }
        self.hidden_ended(key, now);
        true
    }

    fn hide(&mut self, key: &str, now: Moment) {
        if self.hidden.len() < HIDDEN && self.hidden.insert(digest(key)) {
            self.report_hidden(now);
        }
    }

    fn hidden_ended(&mut self, key: &str, now: Moment) {
        if !self.hidden.is_empty() && self.hidden.remove(&digest(key)) {
            self.report_hidden(now);
        }
    }

    fn report_hidden(&mut self, now: Moment) {
        let number = self.hidden.len();
        if number == 0 {
            self.resolve(NOT_SHOWN, "all alerts are shown", now);
            return;
        }
        let least = if number >= HIDDEN { "at least " } else { "" };
        let message =
            format!("{least}{number} more alerts are active than can be shown (alerts.max)");
        self.report(
            Condition {
                key: NOT_SHOWN.to_owned(),
                kind: Kind::NotShown,
                source: "alerts".to_owned(),
                priority: Priority::new(6),
                message,
                raise_after: Duration::ZERO,
            },
            now,
        );
    }

    /// Forgets alerts that were cleared more than a day ago.
    pub fn forget_old(&mut self, now: Moment) {
        let day_ago = seconds(now.wall).saturating_sub(DAY.as_secs());
        let is_old = |entry: &Entry| {
            entry.phase == Phase::Cleared && entry.changed < day_ago && !entry.is_unqueued
        };
        let old: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_old(entry))
            .map(|(key, _)| key.clone())
            .collect();
        old.iter().for_each(|key| self.remove(key));
    }
}

#[cfg(test)]
mod tests;
