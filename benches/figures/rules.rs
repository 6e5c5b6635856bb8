//! Log rules: how fast lines are judged, those of real programs and those that mean harm.
//!
//! Beside it stand the same lines, found by their ends and no more: what reading a log takes at
//! least. The processor's time counts, so a busy machine matters little. With `BENCH_RULES_ALL` in
//! the environment each set and sort of line is shown.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use memchr::memchr_iter;
use nix::sys::resource::{UsageWho, getrusage};
use support::Outcome;
use sysadm_events::config::Rules;
use sysadm_events::rules::{Reader, RuleSet};

use super::table::{Table, Verdict};

/// Lines that match nothing are to be judged at this many bytes a second.
const TARGET: f64 = 50e6;
/// The longest line that a log has by default.
const LONGEST: usize = 4096;
/// Lines of each hostile sort.
const HOSTILE: usize = 128;
/// Number of runs of each measurement; the fastest counts.
const RUNS: usize = 3;
/// Lines of a log with those of all programs.
const LINES: usize = 20_000;

/// Each is repeated up to the end of a line. They are what some part of the rules looks for: ends
/// of stamps, brackets, fields, quotes, and beginnings of lines of the programs.
const PIECES: [&str; 34] = [
    "x",
    " ",
    "7",
    ": ",
    "] ",
    "[a]",
    "[a] ",
    "a=b ",
    "a=b: ",
    "a=\"",
    "x a=b ",
    "{",
    "{\"a\":",
    "{\"a\":\"b\",",
    "{\"msg\":\"x\"}",
    "\"",
    "\\",
    "'",
    "'\"'\"'",
    "\u{1b}[m",
    "é",
    "<a",
    "@4",
    "17:50:47 ",
    "lorem ipsum dolor sit amet ",
    "lorem: ipsum: ",
    "info: ",
    "S: c: e: ",
    " at /",
    "taking snapshot ",
    "INFO: Sending ",
    "Creating snapshot: ",
    "FAILED replication: task on ",
    "error: ERROR: Failed pruning snapshot: ",
];

/// One of each program, and of programs that have no rules.
const REAL: [&str; 12] = [
    "Mon Nov 23 17:50:47 UTC 2026: Creating snapshot on tank/home",
    "Mon Nov 23 17:50:47 UTC 2026: Starting replication SYNC task on tank: /var/log/lastrep-send",
    "Nov 23 17:50:47 nas sanoid[77]: INFO: taking snapshot tank/a@autosnap_2026-11-23_hourly",
    "INFO: pruning tank/a@autosnap_2026-11-22_17:50:47_hourly ... ",
    "Nov 23 17:50:47 nas syncoid[78]: INFO: Sending incremental tank/a@x ... y (~ 4 KB):",
    "2026-11-23T17:50:47Z [INFO][snap][snapshot][x$y]: end run job plan successful fs=\"tank/a\"",
    "Nov 23 17:50:47 nas zrepl[9]: job=p subsystem=repl msg=\"receive finished\" filesystem=tank/a",
    "{\"fs\":\"tank/a\",\"job\":\"s\",\"level\":\"info\",\"msg\":\"start planning\",\"time\":\"2026-11-23T17:50:47Z\"}",
    "Nov 23 17:50:47 nas kernel: pid 812 (sh), jid 0, uid 0: exited on signal 11",
    "Nov 23 17:50:47 nas sshd[812]: Accepted publickey for root from 192.0.2.1 port 50022 ssh2",
    "Nov 23 17:50:47 nas /usr/sbin/cron[813]: (root) CMD (/usr/libexec/atrun)",
    "a line of a script that nobody has a rule for, of about the usual length",
];

/// Lines of [`REAL`] a second for each that is only split off, before the rules were data: the four
/// programs that were known then, the same lines, optimised alike.
const BEFORE: f64 = 9.0e-5;

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let rules = Rules::default();
    let of_set = |set: &Arc<RuleSet>| (set.name.clone(), Reader::new(vec![set.clone()]));
    let mut readers: Vec<(String, Reader)> = rules.all().map(of_set).collect();
    readers.push(("all".to_owned(), Reader::new(rules.all().cloned().collect())));
    let mut worst: Option<(f64, String)> = None;
    for (name, reader) in &mut readers {
        for piece in PIECES {
            let text = piece.repeat(LONGEST / piece.len());
            let time = least(|| {
                for _ in 0..HOSTILE {
                    black_box(reader.read(black_box(&text)));
                }
            })?;
            let speed = (text.len() * HOSTILE) as f64 / time.as_secs_f64();
            if std::env::var_os("BENCH_RULES_ALL").is_some() {
                println!("  {name:<18}{piece:<42?}{:>10.0} MB/s", speed / 1e6);
            }
            // All sets on one log are no configuration that one has by default.
            if name != "all" && worst.as_ref().is_none_or(|(slowest, _)| speed < *slowest) {
                worst = Some((speed, format!("{name}: {piece:?}")));
            }
        }
    }
    let (speed, sort) = worst.ok_or("no rules")?;
    table.row(
        "hostile log lines, the worst sort",
        &format!("{:.0} MB/s", speed / 1e6),
        &sort,
        &format!(">= {:.0} MB/s", TARGET / 1e6),
        Verdict::of(speed >= TARGET),
    );
    let (_, all) = readers.last_mut().ok_or("no rules")?;
    let text = (0..LINES).map(|at| REAL[at % REAL.len()].to_owned() + "\n").collect::<String>();
    let bare = least(|| {
        black_box(memchr_iter(b'\n', black_box(text.as_bytes())).fold(0, |sum, at| sum ^ at));
    })?;
    let ours = least(|| {
        for line in black_box(&text).lines() {
            black_box(all.read(line));
        }
    })?;
    let ratio = bare.as_secs_f64() / ours.as_secs_f64();
    table.row(
        "log lines, all rules on",
        &format!("{:.0} /s", LINES as f64 / ours.as_secs_f64()),
        &format!("memchr: 1/{:.0}; before: 1/{:.0}", 1.0 / ratio, 1.0 / BEFORE),
        ">= 0.5 x before",
        Verdict::of(ratio >= BEFORE / 2.0),
    );
    Ok(())
}

/// The least processor time of several runs.
fn least(mut run: impl FnMut()) -> Outcome<Duration> {
    let mut least = Duration::MAX;
    for _ in 0..RUNS {
        let before = cpu()?;
        let mut runs = 0;
        // The clock may tick in milliseconds.
        while runs == 0 || cpu()?.saturating_sub(before) < Duration::from_millis(4) {
            run();
            runs += 1;
        }
        least = least.min(cpu()?.saturating_sub(before) / runs);
    }
    Ok(least.max(Duration::from_nanos(1)))
}

fn cpu() -> Outcome<Duration> {
    let time = getrusage(UsageWho::RUSAGE_SELF)?.user_time();
    let (seconds, rest) = (u64::try_from(time.tv_sec())?, u64::try_from(time.tv_usec())?);
    Ok(Duration::from_secs(seconds) + Duration::from_micros(rest))
}
