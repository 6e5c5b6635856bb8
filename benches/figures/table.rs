//! The one table that `make bench` prints: figure, what stands beside it, target, verdict.
//!
//! Rows appear as they are measured, so that a run of minutes is seen to move.

use std::env;
use std::error::Error;
use std::process::Command;
use std::thread;

/// A figure was held against its target, or has none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// It is within the target.
    Met,
    /// It is not.
    Missed,
    /// There is no target: the figure explains another one.
    Told,
}

impl Verdict {
    /// `Met` where the condition holds.
    pub(crate) fn of(met: bool) -> Verdict {
        if met { Verdict::Met } else { Verdict::Missed }
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Told => "",
        }
    }
}

/// The table under way: it counts what was met and what was missed.
#[derive(Debug)]
pub(crate) struct Table {
    met: usize,
    missed: Vec<String>,
}

impl Table {
    /// Prints the head: which program, on which machine.
    pub(crate) fn begin() -> Table {
        println!(
            "sysadm-events {} (release build) on {}, {} processors\n",
            env!("CARGO_PKG_VERSION"),
            system(),
            thread::available_parallelism().map_or(0, usize::from),
        );
        line("figure", "measured", "beside it, in this run", "target", "");
        println!("{}", "-".repeat(122));
        Table { met: 0, missed: Vec::new() }
    }

    /// Prints one figure; `beside` and `target` may be empty.
    pub(crate) fn row(
        &mut self,
        figure: &str,
        measured: &str,
        beside: &str,
        target: &str,
        verdict: Verdict,
    ) {
        match verdict {
            Verdict::Met => self.met += 1,
            Verdict::Missed => self.missed.push(figure.to_owned()),
            Verdict::Told => {}
        }
        line(figure, measured, beside, target, verdict.word());
    }

    /// Says that a section could not be measured.
    pub(crate) fn failure(&mut self, section: &str, error: &dyn Error) {
        self.missed.push(section.to_owned());
        println!("{section}: could not be measured: {error}");
    }

    /// Prints the closing line.
    pub(crate) fn end(self) {
        println!();
        if self.missed.is_empty() {
            println!("all {} targets met", self.met);
        } else {
            println!(
                "{} targets met, {} missed: {}",
                self.met,
                self.missed.len(),
                self.missed.join("; ")
            );
        }
    }
}

fn line(figure: &str, measured: &str, beside: &str, target: &str, verdict: &str) {
    let text = format!("{figure:<44}{measured:>14}  {beside:<38}{target:<18}{verdict}");
    println!("{}", text.trim_end());
}

/// The system's name, release and processor, as `uname` has them.
fn system() -> String {
    Command::new("uname")
        .args(["-s", "-r", "-m"])
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| env::consts::OS.to_owned(), |text| text.trim().to_owned())
}
