//! Progress bars of replications at the bottom of the screen.

use std::time::{Duration, SystemTime};

use super::columns::{columns, pad};
use super::escape;
use super::terminal::{Terminal, Tone};
use crate::wire::decimal;

/// Maximum number of lines; beyond it the most recently updated ones.
const LINES: usize = 8;
/// One that had no news for so long is not shown any more: its end was missed.
const SILENCE: Duration = Duration::from_secs(300);
/// Width of the bar in columns, without brackets.
const BAR: usize = 24;

/// The replications, in the order in which they began.
#[derive(Default)]
pub(super) struct Bars {
    bars: Vec<Bar>,
}

struct Bar {
    /// Where it is; empty where all are on one host.
    host: String,
    dataset: String,
    /// `12.3M/1.23G`, or the known part of it.
    amount: String,
    /// In tenths of a per cent.
    share: Option<usize>,
    percent: String,
    heard: SystemTime,
}

impl Bars {
    /// Processes the message of a replication's progress; false for any other message.
    pub(super) fn take(&mut self, host: &str, message: &str, now: SystemTime) -> bool {
        let Some(bar) = read(host, message, now) else { return false };
        let is_same = |known: &&mut Bar| known.host == host && known.dataset == bar.dataset;
        match self.bars.iter_mut().find(is_same) {
            Some(known) => *known = bar,
            None => self.bars.push(bar),
        }
        while self.bars.len() > LINES {
            let oldest = self.bars.iter().enumerate().min_by_key(|(_, bar)| bar.heard);
            let Some((at, _)) = oldest else { break };
            self.bars.remove(at);
        }
        true
    }

    /// Removes the replication that a message says has ended.
    pub(super) fn end(&mut self, host: &str, message: &str) {
        let first = message.lines().next().unwrap_or("");
        self.bars.retain(|bar| {
            bar.host != host
                || ["Finished replication for ", "Replication Failed for "].iter().all(|ends| {
                    let end = format!("{ends}{}", bar.dataset);
                    first != end && !first.ends_with(&format!(": {end}"))
                })
        });
    }

    /// Events were missed, possibly ends: running replications reappear with their next progress.
    pub(super) fn miss(&mut self, host: &str) {
        self.bars.retain(|bar| bar.host != host);
    }

    /// A line for each, at the time `now`.
    pub(super) fn lines(&mut self, terminal: Terminal, now: SystemTime) -> Vec<String> {
        self.bars.retain(|bar| {
            now.duration_since(bar.heard).is_ok_and(|age| age < SILENCE) || bar.heard > now
        });
        let name = |bar: &Bar| {
            let between = if bar.host.is_empty() { "" } else { " " };
            let name = format!("{}{between}{}", bar.host, bar.dataset);
            escape::line(&name, terminal.unicode)
        };
        let width = self.bars.iter().map(|bar| columns(&name(bar))).max().unwrap_or(0);
        self.bars.iter().map(|bar| bar.line(terminal, &pad(&name(bar), width))).collect()
    }
}

impl Bar {
    /// The share comes first: it has to be seen on a narrow terminal as well.
    fn line(&self, terminal: Terminal, name: &str) -> String {
        let (full, empty) = (terminal.either("█", "#"), terminal.either("░", "."));
        let sign = terminal.either("▶", ">");
        let bar = self.share.map_or(String::new(), |share| {
            let filled = share * BAR / 1000;
            let (full, empty) = (full.repeat(filled), empty.repeat(BAR - filled));
            format!("{:>6}  [{full}{empty}]  ", self.percent)
        });
        let amount = escape::line(&self.amount, terminal.unicode);
        terminal.paint(Tone::Active, &format!("{sign} {name}  {bar}{amount}"))
    }
}

/// Parses `Replicating tank/home: 12.3M/1.23G (0.9%)`, protocol section 2.2.
fn read(host: &str, message: &str, heard: SystemTime) -> Option<Bar> {
    let (dataset, rest) = message.strip_prefix("Replicating ")?.rsplit_once(": ")?;
    let (amount, percent) = match rest.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (")) {
        Some((amount, percent)) if percent.ends_with('%') => (amount, percent),
        Some(_) | None => (rest, ""),
    };
    Some(Bar {
        host: host.to_owned(),
        dataset: dataset.to_owned(),
        amount: amount.to_owned(),
        share: tenths(percent),
        percent: percent.to_owned(),
        heard,
    })
}

/// Parses `12%` or `12.3%`, in tenths of a per cent.
fn tenths(percent: &str) -> Option<usize> {
    let number = percent.strip_suffix('%')?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let (whole, part) = (decimal::<usize>(whole)?, decimal::<usize>(part)?);
    (whole <= 100 && part <= 9).then(|| (whole * 10 + part).min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const ASCII: Terminal = Terminal { colour: false, unicode: false };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn bar_is_as_long_as_the_share_and_the_share_comes_first() {
        let mut bars = Bars::default();
        for (message, line) in [
            ("Replicating tank: 0B/10M (0%)", "> tank      0%  [........................]  0B/10M"),
            (
                "Replicating tank: 5M/10M (50%)",
                "> tank     50%  [############............]  5M/10M",
            ),
            (
                "Replicating tank: 9.99M/10M (99.9%)",
                "> tank   99.9%  [#######################.]  9.99M/10M",
            ),
            (
                "Replicating tank: 10M/10M (100%)",
                "> tank    100%  [########################]  10M/10M",
            ),
            ("Replicating tank: 12M", "> tank  12M"),
            ("Replicating tank: 12M/1M (1200%)", "> tank  12M/1M"),
        ] {
            assert!(bars.take("", message, at(0)));
            assert_eq!(bars.lines(ASCII, at(0)), [line]);
        }
        assert!(!bars.take("", "now: New snapshot of tank", at(0)));
        assert!(!bars.take("", "Replicating", at(0)));
    }

    #[test]
    fn names_are_aligned_by_columns() {
        let mut bars = Bars::default();
        bars.take("", "Replicating 東: 1M", at(0));
        bars.take("", "Replicating abc: 1M", at(0));
        let unicode = Terminal { colour: false, unicode: true };
        assert_eq!(bars.lines(unicode, at(0)), ["▶ 東   1M", "▶ abc  1M"]);
    }

    #[test]
    fn bar_goes_with_the_end_or_when_nothing_is_heard() {
        let mut bars = Bars::default();
        for dataset in ["tank", "tank/a", "pool", "old"] {
            bars.take("", &format!("Replicating {dataset}: 1M"), at(0));
        }
        bars.end("", "Mon: Finished replication for tank/a");
        bars.end("", "Replication Failed for pool\nLogfile available at: /f");
        bars.end("", "Mon: New snapshot of tank");
        bars.end("other", "Mon: Finished replication for tank");
        bars.take("", "Replicating tank: 2M", at(200));
        assert_eq!(bars.lines(ASCII, at(299)).len(), 2);
        assert_eq!(bars.lines(ASCII, at(300)), ["> tank  2M"]);
        bars.miss("");
        assert!(bars.lines(ASCII, at(300)).is_empty(), "its end may have been missed");
    }

    #[test]
    fn bar_has_no_control_character() {
        let mut bars = Bars::default();
        bars.take("", "Replicating \u{1b}[2Jx\u{9b}: 5M/10M (50%)", at(0));
        for unicode in [true, false] {
            let lines = bars.lines(Terminal { colour: false, unicode }, at(0));
            assert!(!lines.concat().chars().any(char::is_control), "{lines:?}");
        }
    }

    #[test]
    fn bars_of_the_replications_with_the_last_news_are_shown() {
        let mut bars = Bars::default();
        for number in 0..20 {
            bars.take("", &format!("Replicating d{number}: 1M"), at(number));
        }
        let shown = bars.lines(ASCII, at(20)).join("\n");
        assert_eq!(shown.lines().count(), LINES);
        assert!(shown.contains("d19") && !shown.contains("d11"), "{shown}");
    }
}
