//! A `scan:` of `zpool status`: a scrub or a resilver, running or ended.
//!
//! Source: `print_scan_scrub_resilver_status`, `print_rebuild_status_impl` and
//! `print_err_scrub_status` in `cmd/zpool/zpool_main.c` of OpenZFS; ZFS before pool version 28 says
//! `scrub:` and words it otherwise (`scrub completed after 0h1m with 0 errors on …`).

use serde_json::{Map, Value};

/// Maximum length of one value, in bytes.
const VALUE: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Running,
    Paused,
    Finished,
    Canceled,
}

/// A scrub or a resilver. Values are as printed by `zpool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) is_resilver: bool,
    pub(super) progress: Progress,
    /// When it began, was paused or ended; local time.
    time: Option<String>,
    /// Share that is done, as `12.34%`.
    pub(super) done: Option<String>,
    /// Amount that was repaired or resilvered, as `1.5M`.
    repaired: Option<String>,
    /// Number of errors that a finished scan could not repair.
    pub(super) errors: Option<String>,
}

impl Scan {
    /// Parses the text after the key, its lines joined by single blanks. `None` where there was no
    /// scan, or where the text is unknown.
    pub(super) fn parse(text: &str) -> Option<Scan> {
        let words: Vec<&str> = text.split_whitespace().collect();
        // The beginning states the kind; "(mirror-0)" after "resilver" may be any name.
        let is_resilver = words.first()?.starts_with("resilver");
        let has = |part: &str| text.contains(part);
        let progress = if has("in progress") {
            Progress::Running
        } else if has(" paused since") {
            Progress::Paused
        } else if has(" canceled") || has(" cancelled") || has(" stopped") {
            Progress::Canceled
        } else if has(" repaired")
            || has(" completed")
            || words.first() == Some(&"scrubbed")
            || (is_resilver && has(" with "))
        {
            Progress::Finished
        } else {
            return None;
        };
        let before = |word: &str| {
            let at = words.iter().position(|known| known.trim_end_matches(',') == word)?;
            words.get(at.checked_sub(1)?).copied()
        };
        let is_active = matches!(progress, Progress::Running | Progress::Paused);
        let amount = |word: &&&str| word.starts_with(|first: char| first.is_ascii_digit());
        let repaired = match (is_active, is_resilver) {
            (true, true) => before("resilvered"),
            (true, false) => before("repaired"),
            (false, _) => {
                let verb = if is_resilver { "resilvered" } else { "repaired" };
                let behind = words.iter().skip_while(|word| **word != verb).skip(1);
                // "resilvered (NAME) 28M in".
                behind.take_while(|word| **word != "in").find(amount).copied()
            }
        };
        let done = words.iter().find(|word| word.trim_end_matches(',').ends_with('%'));
        let errors = before("errors").filter(|_| !is_active);
        let dates = [" since ", " on "];
        let date = dates.iter().find_map(|word| text.split_once(word)).map(|(_, date)| date);
        // `ctime`: "Mon Nov 23 18:09:22 2026".
        let date = date.map(|date| date.split(' ').take(5).collect::<Vec<_>>().join(" "));
        let value = |text: &str| {
            let text = text.trim_end_matches(',');
            text.chars().take(VALUE).collect::<String>()
        };
        Some(Scan {
            is_resilver,
            progress,
            time: date.map(|date| value(&date)),
            done: done.filter(|_| is_active).map(|done| value(done)),
            repaired: repaired.map(value),
            errors: errors.map(value),
        })
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.progress, Progress::Running | Progress::Paused)
    }

    /// Its priority. A resilver that runs or was aborted has 3; a scan with unrepaired errors has 7
    /// until the next scan.
    pub(super) fn priority(&self) -> u8 {
        match (&self.errors, self.progress) {
            (Some(errors), _) if errors != "0" => 7,
            (_, Progress::Running | Progress::Paused | Progress::Canceled) if self.is_resilver => 3,
            _ => 0,
        }
    }

    fn function(&self) -> &'static str {
        if self.is_resilver { "resilver" } else { "scrub" }
    }

    fn state(&self) -> &'static str {
        match self.progress {
            Progress::Running => "running",
            Progress::Paused => "paused",
            Progress::Finished => "finished",
            Progress::Canceled => "canceled",
        }
    }

    /// The part whose change makes an event at once: all but its progress.
    pub(super) fn essence(&self) -> Scan {
        let is_active = self.is_active();
        let ended = |value: &Option<String>| value.clone().filter(|_| !is_active);
        Scan { done: None, repaired: ended(&self.repaired), ..self.clone() }
    }

    /// The text for the log.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{} {}", self.function(), self.state());
        let values = [("repaired ", &self.repaired, ""), ("", &self.errors, " errors")];
        for (before, value, after) in values.into_iter().filter(|_| !self.is_active()) {
            if let Some(value) = value {
                line.push_str(&format!(", {before}{value}{after}"));
            }
        }
        line
    }

    /// The JSON for an event.
    pub(super) fn entry(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("function".into(), self.function().into());
        entry.insert("state".into(), self.state().into());
        let values = [
            ("time", &self.time),
            ("done", &self.done),
            ("repaired", &self.repaired),
            ("errors", &self.errors),
        ];
        for (key, value) in values {
            if let Some(value) = value {
                entry.insert(key.into(), value.clone().into());
            }
        }
        Value::Object(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scan_of_each_version_is_read() {
        let on = "Mon Nov 23 18:09:22 2026";
        for (text, expected, priority) in [
            (
                format!("scrub repaired 0B in 00:00:01 with 0 errors on {on}"),
                json!({"function": "scrub", "state": "finished", "time": on, "repaired": "0B",
                       "errors": "0"}),
                0,
            ),
            (
                format!("thorough scrub repaired 1.2M in 2 days 00:00:01 with 5 errors on {on}"),
                json!({"function": "scrub", "state": "finished", "time": on, "repaired": "1.2M",
                       "errors": "5"}),
                7,
            ),
            (
                format!("scrub repaired 0 in 0h0m with 0 errors on {on}"),
                json!({"function": "scrub", "state": "finished", "time": on, "repaired": "0",
                       "errors": "0"}),
                0,
            ),
            (
                format!("scrub completed after 0h1m with 2 errors on {on}"),
                json!({"function": "scrub", "state": "finished", "time": on, "errors": "2"}),
                7,
            ),
            (
                format!(
                    "scrub in progress since {on} 56.2M / 1.2T scanned at 9.37M/s, 23.1M / 56.2M \
                     issued at 3.9M/s 0B repaired, 41,10% done, 00:00:08 to go"
                ),
                json!({"function": "scrub", "state": "running", "time": on, "done": "41,10%",
                       "repaired": "0B"}),
                0,
            ),
            (
                "scrub in progress for 0h0m, 12.50% done, 0h1m to go".to_owned(),
                json!({"function": "scrub", "state": "running", "done": "12.50%"}),
                0,
            ),
            (
                format!(
                    "scrub paused since {on} scrub started on {on} 1M / 2M scanned, 1M / 2M \
                         issued 0B repaired, 50.00% done"
                ),
                json!({"function": "scrub", "state": "paused", "time": on, "done": "50.00%",
                       "repaired": "0B"}),
                0,
            ),
            (
                format!("scrub canceled on {on}"),
                json!({"function": "scrub", "state": "canceled", "time": on}),
                0,
            ),
            (
                format!(
                    "resilver (raidz1-0) in progress since {on} 1M / 2M scanned at 3M/s, 1M / \
                         2M issued 28M resilvered, 49.98% done, no estimated completion time"
                ),
                json!({"function": "resilver", "state": "running", "time": on, "done": "49.98%",
                       "repaired": "28M"}),
                3,
            ),
            (
                format!("resilvered (mirror-0) 28.1M in 00:00:01 with 0 errors on {on}"),
                json!({"function": "resilver", "state": "finished", "time": on,
                       "repaired": "28.1M", "errors": "0"}),
                0,
            ),
            (
                format!("resilvered 28.1M in 00:00:01 with 3 errors on {on}"),
                json!({"function": "resilver", "state": "finished", "time": on,
                       "repaired": "28.1M", "errors": "3"}),
                7,
            ),
            (
                format!("scrubbed 12 error blocks in 0 days 00:00:01 on {on}"),
                json!({"function": "scrub", "state": "finished", "time": on}),
                0,
            ),
            (
                format!(
                    "error scrub in progress since {on} 10.00% done, issued I/O for 3 error \
                         blocks"
                ),
                json!({"function": "scrub", "state": "running", "time": on, "done": "10.00%"}),
                0,
            ),
        ] {
            let scan = Scan::parse(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((scan.entry(), scan.priority()), (expected, priority), "{text}");
        }
        for text in ["", "none requested", "none", "something new"] {
            assert_eq!(Scan::parse(text), None, "{text}");
        }
    }
}
