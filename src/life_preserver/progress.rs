//! Progress of a `zfs send -v`, parsed from its output.
//!
//! It first prints an estimate for each snapshot and their total; then, once a second, the bytes
//! sent of the current snapshot. With `-I` and `-R` the counter restarts for each snapshot, and a
//! small snapshot has no line at all: so the bytes sent before the current one are the sum of the
//! estimates of its predecessors. With `-P` fields are separated by tabs and sizes are plain bytes.
//! All forms were taken from the output of OpenZFS 2.1.11 and 2.3.9.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};

use super::size::Size;

/// Maximum number of snapshots of one `zfs send` whose estimates are stored; beyond it, the last
/// amounts printed are summed instead.
const ESTIMATES: usize = 4096;

/// One `zfs send` in progress.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// By a hash of each snapshot's name: the sum of the estimates before it.
    before: HashMap<u64, Size>,
    /// Sum of all estimates so far.
    estimated: Size,
    /// The total, and its spelling in the output.
    total: Option<(Size, String)>,
    current: Option<Current>,
}

/// The snapshot that is being sent.
#[derive(Debug)]
struct Current {
    name: String,
    before: Size,
    sent: Size,
    printed: String,
}

/// Kind of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// The bytes sent of this snapshot.
    Amount(String),
    /// An estimate, a heading, or irrelevant.
    Else,
}

impl Progress {
    /// Processes a line.
    pub(super) fn hear(&mut self, line: &str) -> LineKind {
        let line = line.trim();
        if let Some((name, sent, printed)) = amount(line) {
            self.go_on_to(name);
            if let Some(current) = &mut self.current {
                (current.sent, current.printed) = (sent, printed.to_owned());
            }
            return LineKind::Amount(name.to_owned());
        }
        if let Some(name) = heading(line) {
            self.go_on_to(name);
        } else if let Some((name, size, printed)) = estimate(line) {
            // After an amount or a total, the estimate belongs to another `zfs send` into the same
            // file.
            if self.current.is_some() || (self.total.is_some() && name.is_some()) {
                *self = Progress::default();
            }
            match name {
                None => self.total = Some((size, printed.to_owned())),
                Some(name) => self.expect(name, size),
            }
        }
        LineKind::Else
    }

    /// The progress for an event: `12.3M/1.23G (0.9%)`, or the amount alone where no total is
    /// known.
    pub(super) fn summary(&self) -> Option<String> {
        let current = self.current.as_ref()?;
        let sent = current.before.plus(current.sent);
        let shown = if current.before.is_zero() && !Size::is_plain(&current.printed) {
            current.printed.clone()
        } else {
            sent.show()
        };
        let (total, total_shown) = match &self.total {
            Some((total, printed)) if !Size::is_plain(printed) => (*total, printed.clone()),
            Some((total, _)) => (*total, total.show()),
            None => (self.estimated, self.estimated.show()),
        };
        Some(match sent.per_mille_of(total) {
            None => shown,
            Some(share) if share % 10 == 0 => format!("{shown}/{total_shown} ({}%)", share / 10),
            Some(share) => format!("{shown}/{total_shown} ({}.{}%)", share / 10, share % 10),
        })
    }

    fn expect(&mut self, name: &str, size: Size) {
        let full = self.before.len() >= ESTIMATES;
        match self.before.entry(hash(name)) {
            Entry::Vacant(entry) if !full => {
                entry.insert(self.estimated);
            }
            Entry::Vacant(_) | Entry::Occupied(_) => {}
        }
        self.estimated = self.estimated.plus(size);
    }

    fn go_on_to(&mut self, name: &str) {
        let before = match &self.current {
            Some(current) if current.name == name => return,
            Some(current) => current.before.plus(current.sent),
            None => Size::default(),
        };
        let before = self.before.get(&hash(name)).copied().unwrap_or(before);
        let printed = "0B".to_owned();
        self.current =
            Some(Current { name: name.to_owned(), before, sent: Size::default(), printed });
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// `18:11:49   29.3M   src/d@b`, or with tabs: snapshot, size, and the size as it is printed.
fn amount(line: &str) -> Option<(&str, Size, &str)> {
    let (time, rest) = split_field(line)?;
    let (printed, name) = split_field(rest)?;
    let is_time = time.split(':').count() == 3
        && time.split(':').all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit()));
    if !is_time || name.is_empty() {
        return None;
    }
    Some((name, Size::parse(printed)?, printed))
}

/// `TIME        SENT   SNAPSHOT src/d@b`: returns the snapshot.
fn heading(line: &str) -> Option<&str> {
    let (time, rest) = split_field(line)?;
    let (sent, rest) = split_field(rest)?;
    let (snapshot, name) = split_field(rest)?;
    (time == "TIME" && sent == "SENT" && snapshot == "SNAPSHOT" && !name.is_empty()).then_some(name)
}

/// An estimate: its snapshot unless it is the total; the size; its spelling.
fn estimate(line: &str) -> Option<(Option<&str>, Size, &str)> {
    const ESTIMATED: &str = " estimated size is ";
    if let Some((what, printed)) = line.rsplit_once(ESTIMATED) {
        let size = Size::parse(printed)?;
        // `send from @a to src/d@b` and `full send of src/d@b`.
        let name = what.rsplit_once(" to ").or(what.split_once("full send of "));
        return Some((name.map(|(_, name)| name), size, printed));
    }
    let fields: Vec<&str> = line.split('\t').collect();
    let (name, printed) = match fields.as_slice() {
        ["size", printed] => (None, *printed),
        ["full", name, printed] | ["incremental", _, name, printed] => (Some(*name), *printed),
        _ => return None,
    };
    Some((name, Size::parse(printed)?, printed))
}

/// The first word, and the text after the blanks or the tab behind it.
fn split_field(text: &str) -> Option<(&str, &str)> {
    let (field, rest) = text.split_once([' ', '\t'])?;
    Some((field, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The progress reported after each line with an amount.
    fn summary(text: &str) -> Vec<String> {
        let mut progress = Progress::default();
        let amounts = text.lines().filter_map(|line| match progress.hear(line) {
            LineKind::Amount(_) => progress.summary(),
            LineKind::Else => None,
        });
        amounts.collect()
    }

    #[test]
    fn progress_of_one_snapshot() {
        // `zfs send -v src/d@b`, OpenZFS 2.3.9.
        let text = "\
full send of src/d@b estimated size is 280M
total estimated size is 280M
TIME        SENT   SNAPSHOT src/d@b
18:11:49   29.3M   src/d@b
18:11:50   70.0M   src/d@b
18:11:52    158M   src/d@b
";
        assert_eq!(summary(text), ["29.3M/280M (10.4%)", "70.0M/280M (25%)", "158M/280M (56.4%)"]);
    }

    #[test]
    fn an_increment_names_both_ends() {
        // `zfs send -v -i @a src/d@b`, OpenZFS 2.3.9.
        let text = "\
send from src/d@a to src/d@b estimated size is 220M
total estimated size is 220M
TIME        SENT   SNAPSHOT src/d@b
18:11:56   24.6M   src/d@b
";
        assert_eq!(summary(text), ["24.6M/220M (11.1%)"]);
    }

    #[test]
    fn several_snapshots_are_counted_together() {
        // `zfs send -v -R src/d@c`, OpenZFS 2.3.9.
        let text = "\
full send of src/d@a estimated size is 60.1M
send from @a to src/d@b estimated size is 220M
send from @b to src/d@c estimated size is 20.0M
total estimated size is 301M
TIME        SENT   SNAPSHOT src/d@a
18:12:10   37.5M   src/d@a
TIME        SENT   SNAPSHOT src/d@b
18:12:11   42.2M   src/d@b
18:12:15    217M   src/d@b
TIME        SENT   SNAPSHOT src/d@c
18:12:16   10.0M   src/d@c
";
        assert_eq!(
            summary(text),
            ["37.5M/301M (12.4%)", "102M/301M (33.9%)", "277M/301M (92%)", "290M/301M (96.3%)"]
        );
    }

    #[test]
    fn a_snapshot_without_a_line_counts_too() {
        let text = "\
full send of src/d@a estimated size is 60M
send from @a to src/d@b estimated size is 20M
send from @b to src/d@c estimated size is 20M
18:12:10   10M   src/d@c
";
        assert_eq!(summary(text), ["90M/100M (90%)"]);
    }

    #[test]
    fn plain_bytes_are_made_readable() {
        // `zfs send -vP -i @a src/d@b`, OpenZFS 2.3.9 and 2.1.11.
        let text = "\
incremental\tsrc/d@a\tsrc/d@b\t231091568
size\t231091568
18:12:18\t30878088\tsrc/d@b
18:12:19\t86716288\tsrc/d@b
";
        assert_eq!(summary(text), ["29.4M/220M (13.3%)", "82.7M/220M (37.5%)"]);
    }

    #[test]
    fn without_an_estimate_the_amount_stands_alone() {
        assert_eq!(summary("17:50:48   12.3M   tank/home@x\n"), ["12.3M"]);
        assert_eq!(summary("17:50:48   624B   tank/my data@x\n"), ["624B"]);
    }

    #[test]
    fn the_documented_line() {
        let text = "total estimated size is 1.23G\n17:50:48   12.3M   tank/home@auto-1\n";
        assert_eq!(summary(text), ["12.3M/1.23G (0.9%)"]);
    }

    #[test]
    fn progress_is_at_most_the_total() {
        assert_eq!(
            summary("total estimated size is 10M\n17:50:48   10.5M   t@x\n"),
            ["10.5M/10M (100%)"]
        );
    }

    #[test]
    fn another_send_into_the_same_file_begins_anew() {
        let text = "\
total estimated size is 10.0M
17:50:48   5.00M   tank@a
send from @a to tank@b estimated size is 100M
total estimated size is 100M
17:50:49   5.00M   tank@b
";
        assert_eq!(summary(text), ["5.00M/10.0M (50%)", "5.00M/100M (5%)"]);
        let quick = "full send of t@a estimated size is 1K\ntotal estimated size is 1K\n";
        assert_eq!(summary(&format!("{quick}{text}")), summary(text));
    }

    #[test]
    fn other_lines_are_no_amount() {
        let mut progress = Progress::default();
        for line in [
            "",
            "send from @a to tank@b estimated size is 10.0M",
            "TIME        SENT   SNAPSHOT tank@b",
            "warning: cannot send 'tank@b': Broken pipe",
            "17:50   12.3M   tank@b",
            "17:50:48   12.3   ",
            "17:50:48   much   tank@b",
            "cannot receive new filesystem stream: destination 'dst/d' exists",
        ] {
            assert_eq!(progress.hear(line), LineKind::Else, "{line:?}");
        }
    }

    #[test]
    fn estimates_are_bounded() {
        let mut progress = Progress::default();
        for number in 0..2 * ESTIMATES {
            progress.hear(&format!("send from @x to t@{number} estimated size is 1K"));
        }
        assert_eq!(progress.before.len(), ESTIMATES);
        assert_eq!(progress.estimated, Size::parse("8M").unwrap());
    }
}
