//! Selection of the events of a `watch`: by queue, time and number.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::finished_jobs::{Admission, FinishedJobs};
use crate::client::Frame;
use crate::wire::{JsonFields, parse_rfc3339};

/// After this time without an event all past events have been received.
pub(super) const QUIET: Duration = Duration::from_millis(300);
/// Maximum time of waiting for past events.
const HISTORY: Duration = Duration::from_secs(5);

/// Requested events.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Only events of jobs of this queue; `no_queue` for those without one.
    pub(super) queue: Option<String>,
    /// Past events of at most this age.
    pub(super) since: Option<Duration>,
    /// Maximum number of past events.
    pub(super) count: Option<usize>,
    /// Jobs that ended meanwhile are shown one by one.
    pub(super) verbose: bool,
}

/// An item to show.
#[derive(Debug, PartialEq)]
pub(super) enum Shown {
    Event(Frame, Value),
    Remark(String),
}

/// Decides which events are shown, and in which order.
pub(super) struct Selection {
    wanted: Wanted,
    finished_jobs: FinishedJobs,
    /// Until then events may be past ones.
    history: Option<Instant>,
    /// Time of the oldest past event that is shown.
    cutoff: Option<SystemTime>,
    /// Received past events, where only the last of them are shown; `true` marks counted ones.
    past: VecDeque<(bool, Frame, Value)>,
    counted: usize,
    /// The daemon lacks older events; the first event that it has is examined.
    has_gap: bool,
}

impl Selection {
    pub(super) fn new(wanted: Wanted, now: SystemTime) -> Selection {
        let has_history = wanted.since.is_some() || wanted.count.is_some();
        Selection {
            finished_jobs: FinishedJobs::default(),
            history: has_history.then(|| Instant::now() + HISTORY),
            cutoff: wanted.since.and_then(|since| now.checked_sub(since)),
            past: VecDeque::new(),
            counted: 0,
            has_gap: false,
            wanted,
        }
    }

    /// Whether the queue of an event is selected.
    pub(super) fn passes(&self, frame: &Value) -> bool {
        match &self.wanted.queue {
            Some(queue) if frame["name"] == "dispatcher" => {
                frame["queue"].as_str().unwrap_or("no_queue") == queue
            }
            Some(_) | None => true,
        }
    }

    /// Deadline of waiting for the next event; then [`Selection::after_silence`] must be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = self.finished_jobs.has_missed() || self.history.is_some();
        waits.then(|| Instant::now() + QUIET)
    }

    /// Processes an event; returns the items to show now.
    pub(super) fn take(&mut self, frame: Frame, value: Value) -> Vec<Shown> {
        let mut shown = Vec::new();
        let is_present = value.field("present") == true;
        if self.history.is_some_and(|until| until <= Instant::now()) {
            shown = self.end_history();
        }
        let in_history = self.history.is_some();
        if in_history && value.field("name") == "gap" {
            // All events of the daemon were requested.
            self.has_gap = true;
            return shown;
        }
        if !self.passes(&value) {
            return shown;
        }
        let is_state = is_present && end_of(&value).is_none();
        if in_history && !is_state {
            let moment = end_of(&value).filter(|_| is_present).or(value.field("time").as_str());
            let moment = moment.and_then(parse_rfc3339);
            let (Some(moment), cutoff) = (moment, self.cutoff) else { return shown };
            if cutoff.is_some_and(|cutoff| moment < cutoff) {
                // The oldest event of the daemon.
                self.has_gap &= is_present;
                return shown;
            }
            let is_first = !is_present && std::mem::take(&mut self.has_gap);
            if is_first && cutoff.is_some() && value.field("seq").as_u64() > Some(1) {
                let text = "what happened before is not known to the daemon any more";
                shown.push(Shown::Remark(text.to_owned()));
            }
        }
        let admission = self.finished_jobs.admit(&value);
        let is_expanded = self.wanted.verbose || in_history;
        if admission == Admission::Show || is_expanded {
            let missed = self.finished_jobs.take_missed().filter(|_| !is_expanded);
            shown.extend(missed.map(Shown::Remark));
        }
        let is_shown = match admission {
            Admission::Show => true,
            Admission::Repeated => false,
            Admission::Missed => is_expanded,
        };
        if !is_shown {
            return shown;
        }
        match self.wanted.count.filter(|_| in_history) {
            None => shown.push(Shown::Event(frame, value)),
            Some(count) => {
                self.counted += usize::from(!is_state);
                self.past.push_back((!is_state, frame, value));
                while self.counted > count {
                    let first = self.past.iter().position(|(counts, ..)| *counts);
                    self.counted -= 1;
                    first.map(|at| self.past.remove(at));
                }
            }
        }
        shown
    }

    /// Processes the deadline; returns the items to show now.
    pub(super) fn after_silence(&mut self) -> Vec<Shown> {
        let mut shown = self.end_history();
        shown.extend(self.finished_jobs.take_missed().map(Shown::Remark));
        shown
    }

    fn end_history(&mut self) -> Vec<Shown> {
        self.history = None;
        self.past.drain(..).map(|(_, frame, value)| Shown::Event(frame, value)).collect()
    }
}

/// The time of a job's end in an event that reports it.
fn end_of(frame: &Value) -> Option<&str> {
    let args = &frame["args"];
    args.get("process_details").unwrap_or(args)["time_finished"].as_str()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::json;

    use super::*;

    /// 1970-01-01T01:00:00Z
    const NOW: Duration = Duration::from_secs(3600);

    fn selection(wanted: Wanted) -> Selection {
        Selection::new(wanted, UNIX_EPOCH + NOW)
    }

    /// Items shown for frames: their numbers, and remarks.
    fn take(selection: &mut Selection, frames: &[Value]) -> Vec<String> {
        let taken = frames
            .iter()
            .flat_map(|value| selection.take(Frame::of_text(value.to_string()), value.clone()));
        taken.map(text).collect()
    }

    fn text(shown: Shown) -> String {
        match shown {
            Shown::Event(_, value) => value["seq"].to_string(),
            Shown::Remark(text) => text,
        }
    }

    fn rest(selection: &mut Selection) -> Vec<String> {
        selection.after_silence().into_iter().map(text).collect()
    }

    fn snapshot(seq: u64, minute: u64) -> Value {
        json!({"name": "life_preserver", "seq": seq, "time": format!("1970-01-01T00:{minute:02}:00Z")})
    }

    fn finished(seq: u64, id: &str, minute: u64, present: bool) -> Value {
        let time = format!("1970-01-01T00:{minute:02}:00Z");
        json!({"name": "dispatcher", "seq": seq, "time": "1970-01-01T00:59:59Z", "present": present,
               "args": {"state": "finished", "process_id": id, "cmd_list": ["x"],
                        "time_finished": time}})
    }

    #[test]
    fn queue_leaves_out_events_of_other_jobs() {
        let mut of_queue = selection(Wanted { queue: Some("q".into()), ..Wanted::default() });
        let event =
            |seq: u64, queue: Value| json!({"name": "dispatcher", "seq": seq, "queue": queue});
        let frames =
            [event(1, json!("q")), event(2, json!("p")), event(3, json!(null)), snapshot(4, 0)];
        assert_eq!(take(&mut of_queue, &frames), ["1", "4"]);
        let mut without = selection(Wanted { queue: Some("no_queue".into()), ..Wanted::default() });
        assert_eq!(take(&mut without, &frames), ["3", "4"]);
        assert_eq!(take(&mut selection(Wanted::default()), &frames), ["1", "2", "3", "4"]);
    }

    #[test]
    fn since_shows_recent_events_and_reports_missing_ones() {
        let since = || selection(Wanted { since: Some(NOW / 2), ..Wanted::default() });
        let gap = json!({"name": "gap", "seq": 0, "args": {"missed": null}});
        let ends = [finished(0, "old", 10, true), finished(0, "new", 40, true)];
        let frames = [&[gap][..], &ends, &[snapshot(7, 20), snapshot(8, 50)]].concat();
        assert_eq!(take(&mut since(), &frames), ["0", "8"]);
        let late = [&frames[..3], &frames[4..]].concat();
        let remark = "what happened before is not known to the daemon any more";
        assert_eq!(take(&mut since(), &late), ["0", remark, "8"]);
        // After the past events, missed ends are counted.
        let mut selection = since();
        take(&mut selection, &frames);
        assert!(rest(&mut selection).is_empty() && selection.deadline().is_none());
        assert!(take(&mut selection, &[finished(9, "gone", 50, true)]).is_empty());
        assert_eq!(rest(&mut selection), ["1 job finished meanwhile"]);
    }

    #[test]
    fn count_shows_the_last_events_and_the_present_state() {
        let mut last = selection(Wanted { count: Some(2), ..Wanted::default() });
        let state = json!({"name": "system_state", "seq": 5, "present": true});
        let frames =
            [finished(1, "j", 1, true), snapshot(2, 1), snapshot(3, 1), snapshot(4, 1), state];
        assert!(take(&mut last, &frames).is_empty());
        assert_eq!(rest(&mut last), ["3", "4", "5"]);
        assert_eq!(take(&mut last, &[snapshot(6, 1)]), ["6"]);
        let mut none = selection(Wanted { count: Some(0), ..Wanted::default() });
        take(&mut none, &frames);
        assert_eq!(rest(&mut none), ["5"]);
    }

    #[test]
    fn missed_ends_are_counted_or_shown_on_request() {
        let frames = [finished(1, "a", 1, true), finished(2, "b", 1, true), snapshot(3, 1)];
        let mut folded = selection(Wanted::default());
        assert_eq!(take(&mut folded, &frames), ["2 jobs finished meanwhile", "3"]);
        let mut verbose = selection(Wanted { verbose: true, ..Wanted::default() });
        assert_eq!(take(&mut verbose, &frames), ["1", "2", "3"]);
        assert!(take(&mut verbose, &frames[..2]).is_empty(), "each is shown once");
    }
}
