//! A log that grows: how fast its lines reach a subscriber, how soon, and what that costs.
//!
//! Beside the daemon `tail -F` reads the same lines, and its output is counted and no more: what it
//! takes to read a growing file at all.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Counter, Outcome, Peer, Setup, append, snapshot, snapshots};

use super::PROGRAM;
use super::table::{Table, Verdict};

const LINES: usize = 500_000;
/// Lines that are written one after the other, each when the one before has come.
const SINGLE: usize = 2000;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    append(&setup.log(), "")?;
    let daemon = setup.start()?;
    let mut reader = Peer::reader(&daemon)?.into_counter();
    let bare_log = setup.directory().join("bare.log");
    let mut bare = Tail::follow(&bare_log)?;

    let (ours, theirs) = (
        one_by_one(&setup.log(), |number| reader.expect(number..number + 1))?,
        one_by_one(&bare_log, |_| bare.expect(1))?,
    );
    let cpu = daemon.process().cpu()?;
    let burst = SINGLE..SINGLE + LINES;
    let ours_fast = burst_of(&setup.log(), &burst, |lines| read(&mut reader, lines))?;
    let cpu = daemon.process().cpu()?.saturating_sub(cpu);
    let theirs_fast = burst_of(&bare_log, &burst, |lines| bare.expect(lines.len()))?;

    table.row(
        "lines of a log, from the file to a client",
        &format!("{:.0} /s", ours_fast),
        &format!("tail -F, counted: {theirs_fast:.0} /s: {:.2} x", ours_fast / theirs_fast),
        "",
        Verdict::Told,
    );
    table.row(
        "  processor time of a line",
        &format!("{:.2} us", cpu.as_secs_f64() * 1e6 / LINES as f64),
        "",
        "",
        Verdict::Told,
    );
    for (name, share) in [("half", 50), ("99 of 100", 99)] {
        table.row(
            &format!("  from write() to the frame, {name} within"),
            &format!("{:.0} us", percentile(&ours, share).as_secs_f64() * 1e6),
            &format!("tail -F: {:.0} us", percentile(&theirs, share).as_secs_f64() * 1e6),
            "",
            Verdict::Told,
        );
    }
    Ok(())
}

fn read(reader: &mut Counter, lines: &Range<usize>) -> Outcome<()> {
    reader.expect(lines.clone())
}

/// Latency of each line.
fn one_by_one(log: &Path, mut come: impl FnMut(usize) -> Outcome<()>) -> Outcome<Vec<Duration>> {
    let mut times = Vec::with_capacity(SINGLE);
    for number in 0..SINGLE {
        let line = snapshot(number);
        let begin = Instant::now();
        append(log, line)?;
        come(number)?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times)
}

/// Lines a second where all are written at once.
fn burst_of(
    log: &Path,
    lines: &Range<usize>,
    mut come: impl FnMut(&Range<usize>) -> Outcome<()>,
) -> Outcome<f64> {
    let text = snapshots(lines.clone());
    let begin = Instant::now();
    append(log, text)?;
    come(lines)?;
    Ok(lines.len() as f64 / begin.elapsed().as_secs_f64())
}

fn percentile(sorted: &[Duration], share: usize) -> Duration {
    sorted.get(sorted.len() * share / 100).copied().unwrap_or_default()
}

/// `tail -F` of a log.
struct Tail {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Tail {
    fn follow(log: &Path) -> Outcome<Tail> {
        append(log, "first\n")?;
        let mut child = Command::new("tail")
            .args(["-n", "1", "-F"])
            .arg(log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::with_capacity(64 * 1024, child.stdout.take().ok_or("no output")?);
        let mut tail = Tail { child, lines };
        // It follows from here on.
        tail.expect(1)?;
        Ok(tail)
    }

    /// Reads so many lines.
    fn expect(&mut self, mut lines: usize) -> Outcome<()> {
        while lines > 0 {
            let bytes = self.lines.fill_buf()?;
            if bytes.is_empty() {
                return Err("tail has ended".into());
            }
            let length = bytes.len();
            lines = lines.saturating_sub(bytes.iter().filter(|byte| **byte == b'\n').count());
            self.lines.consume(length);
        }
        Ok(())
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
