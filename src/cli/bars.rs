//! Progress bars of replications at the bottom of the screen.
//!
//! The lines are redrawn when one of them changes, and erased before anything else is written, so
//! that earlier text stays. A line is never wider than the terminal, which would wrap it and leave
//! its first half behind.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::terminal::{Terminal, Tone};
use crate::wire::decimal;

/// Maximum number of lines; beyond it the most recently updated ones.
const LINES: usize = 8;
/// A replication without progress for this long is hidden: its end was not reported.
const SILENCE: Duration = Duration::from_secs(300);
/// Width of the bar in columns, without brackets.
const BAR: usize = 24;

/// Returns the current width of the terminal, if known.
pub(super) type Width = fn() -> Option<usize>;

/// The lines at the bottom of the screen.
pub(super) struct Bars {
    width: Width,
    /// In the order in which they began.
    bars: Vec<Bar>,
    /// Number of lines on the screen.
    drawn: usize,
}

struct Bar {
    dataset: String,
    /// `12.3M/1.23G`, or the known part of it.
    amount: String,
    /// In tenths of a per cent.
    share: Option<usize>,
    percent: String,
    heard: SystemTime,
}

impl Bars {
    pub(super) fn new(width: Width) -> Bars {
        Bars { width, bars: Vec::new(), drawn: 0 }
    }

    /// Processes the message of a replication's progress; false for any other message.
    pub(super) fn take(&mut self, message: &str, now: SystemTime) -> bool {
        let Some(bar) = read(message, now) else { return false };
        match self.bars.iter_mut().find(|known| known.dataset == bar.dataset) {
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

    /// Removes the replication that a message reports as ended.
    pub(super) fn end(&mut self, message: &str) {
        let first = message.lines().next().unwrap_or("");
        self.bars.retain(|bar| {
            ["Finished replication for ", "Replication Failed for "].iter().all(|ends| {
                let end = format!("{ends}{}", bar.dataset);
                first != end && !first.ends_with(&format!(": {end}"))
            })
        });
    }

    /// Events were missed, possibly ends: running replications reappear with their next progress.
    pub(super) fn miss(&mut self) {
        self.bars.clear();
    }

    /// The text that erases the lines.
    pub(super) fn wipe(&mut self) -> String {
        let drawn = std::mem::take(&mut self.drawn);
        match drawn {
            0 => String::new(),
            1 => "\r\x1b[J".to_owned(),
            drawn => format!("\r\x1b[{}A\x1b[J", drawn - 1),
        }
    }

    /// The text that draws them, with the cursor at the beginning of a line.
    pub(super) fn draw(&mut self, terminal: Terminal, now: SystemTime) -> String {
        self.bars.retain(|bar| {
            now.duration_since(bar.heard).is_ok_and(|age| age < SILENCE) || bar.heard > now
        });
        let columns = (self.width)();
        let name_width = self.bars.iter().map(|bar| bar.dataset.chars().count()).max().unwrap_or(0);
        let lines: Vec<String> =
            self.bars.iter().map(|bar| bar.line(terminal, name_width, columns)).collect();
        self.drawn = lines.len();
        lines.join("\n")
    }

    /// Whether lines are on the screen.
    pub(super) fn are_drawn(&self) -> bool {
        self.drawn > 0
    }
}

impl Bar {
    fn line(&self, terminal: Terminal, name_width: usize, columns: Option<usize>) -> String {
        let (full, empty) = (terminal.either("█", "#"), terminal.either("░", "."));
        let name = super::escape::line(&self.dataset, terminal.unicode);
        let sign = terminal.either("▶", ">");
        let mut line = format!("          {sign} {name:<name_width$}  ");
        if let Some(share) = self.share {
            let filled = share * BAR / 1000;
            let _ = write!(
                line,
                "[{}{}]  {:>6}  ",
                full.repeat(filled),
                empty.repeat(BAR - filled),
                self.percent
            );
        }
        line.push_str(&super::escape::line(&self.amount, terminal.unicode));
        let line: String = match columns {
            // Some terminals wrap in the last column.
            Some(columns) => line.chars().take(columns.saturating_sub(1)).collect(),
            None => line,
        };
        terminal.paint(Tone::Active, &line)
    }
}

/// Parses `Replicating tank/home: 12.3M/1.23G (0.9%)`, protocol section 2.2.
fn read(message: &str, heard: SystemTime) -> Option<Bar> {
    let (dataset, rest) = message.strip_prefix("Replicating ")?.rsplit_once(": ")?;
    let (amount, percent) = match rest.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (")) {
        Some((amount, percent)) if percent.ends_with('%') => (amount, percent),
        Some(_) | None => (rest, ""),
    };
    Some(Bar {
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
    fn a_bar_is_as_long_as_the_share() {
        let mut bars = Bars::new(|| None);
        for (message, line) in [
            ("Replicating tank: 0B/10M (0%)", "> tank  [........................]      0%  0B/10M"),
            (
                "Replicating tank: 5M/10M (50%)",
                "> tank  [############............]     50%  5M/10M",
            ),
            (
                "Replicating tank: 9.99M/10M (99.9%)",
                "> tank  [#######################.]   99.9%  9.99M/10M",
            ),
            (
                "Replicating tank: 10M/10M (100%)",
                "> tank  [########################]    100%  10M/10M",
            ),
            ("Replicating tank: 12M", "> tank  12M"),
            ("Replicating tank: 12M/1M (1200%)", "> tank  12M/1M"),
        ] {
            assert!(bars.take(message, at(0)));
            assert_eq!(bars.draw(ASCII, at(0)).trim_start(), line);
        }
        assert!(!bars.take("now: New snapshot of tank", at(0)));
        assert!(!bars.take("Replicating", at(0)));
    }

    #[test]
    fn bar_is_redrawn_in_place() {
        let mut bars = Bars::new(|| None);
        assert_eq!((bars.wipe(), bars.draw(ASCII, at(0))), (String::new(), String::new()));
        bars.take("Replicating a: 1M", at(0));
        bars.draw(ASCII, at(0));
        assert!(bars.are_drawn());
        assert_eq!(bars.wipe(), "\r\x1b[J");
        bars.take("Replicating bb: 1M", at(0));
        bars.take("Replicating a: 2M", at(0));
        assert_eq!(bars.draw(ASCII, at(0)), "          > a   2M\n          > bb  1M");
        assert_eq!(bars.wipe(), "\r\x1b[1A\x1b[J");
        assert_eq!(bars.wipe(), "");
    }

    #[test]
    fn bar_vanishes_with_the_end_or_after_silence() {
        let mut bars = Bars::new(|| None);
        for dataset in ["tank", "tank/a", "pool", "old"] {
            bars.take(&format!("Replicating {dataset}: 1M"), at(0));
        }
        bars.end("Mon: Finished replication for tank/a");
        bars.end("Replication Failed for pool\nLogfile available at: /f");
        bars.end("Mon: New snapshot of tank");
        bars.take("Replicating tank: 2M", at(200));
        assert_eq!(bars.draw(ASCII, at(299)).lines().count(), 2);
        assert_eq!(bars.draw(ASCII, at(300)), "          > tank  2M");
    }

    #[test]
    fn bar_with_a_missed_end_is_erased() {
        let mut bars = Bars::new(|| None);
        bars.take("Replicating tank: 1M", at(0));
        bars.draw(ASCII, at(0));
        bars.miss();
        assert_eq!((bars.wipe(), bars.draw(ASCII, at(0))), ("\r\x1b[J".into(), String::new()));
    }

    #[test]
    fn bar_never_wraps_or_emits_foreign_control_characters() {
        let mut bars = Bars::new(|| Some(20));
        bars.take("Replicating \u{1b}[2Jx\u{9b}: 5M/10M (50%)", at(0));
        for unicode in [true, false] {
            let line = bars.draw(Terminal { colour: false, unicode }, at(0));
            assert_eq!(line.chars().count(), 19, "{line:?}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn only_so_many_are_shown() {
        let mut bars = Bars::new(|| None);
        for number in 0..20 {
            bars.take(&format!("Replicating d{number}: 1M"), at(number));
        }
        let shown = bars.draw(ASCII, at(20));
        assert_eq!(shown.lines().count(), LINES);
        assert!(shown.contains("d19") && !shown.contains("d11"), "{shown}");
    }
}
