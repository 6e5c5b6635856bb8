//! The output of a job to a client that is attached to it: bytes a second and processor time.
//!
//! Beside it the same file goes through a bare copier: out of a pipe, through a process and two
//! sockets, to a reader.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use support::{Cli, Daemon, Outcome, Process};

use super::PROGRAM;
use super::copier::Copier;
use super::table::{Table, Verdict};

const MIB: usize = 1 << 20;
const SIZE: usize = 256 * MIB;
const TURNS: usize = 3;

/// Result of a copy.
struct Copy {
    /// MiB a second.
    speed: f64,
    /// Processor time of the processes between the program and the reader, in ms a MiB.
    cpu: f64,
}

impl Copy {
    fn new(took: Duration, cpu: Duration) -> Copy {
        let size = (SIZE / MIB) as f64;
        Copy { speed: size / took.as_secs_f64(), cpu: cpu.as_secs_f64() * 1000.0 / size }
    }
}

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let daemon = Daemon::start(PROGRAM)?;
    let file = daemon.directory().join("output");
    let lines: Vec<u8> =
        (0..).flat_map(|n: u64| format!("line {n} of it\n").into_bytes()).take(SIZE).collect();
    let mut state = 1_u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(SIZE)
    .collect();
    for (name, bytes) in [("lines", lines), ("random bytes", random)] {
        fs::write(&file, &bytes)?;
        drop(bytes);
        let command = format!("cat {}", file.display());
        let mut attached = Copy { speed: 0.0, cpu: f64::MAX };
        let mut bare = Copy { speed: 0.0, cpu: f64::MAX };
        for _ in 0..TURNS {
            let better = |best: Copy, new: Copy| if new.speed > best.speed { new } else { best };
            attached = better(attached, run(&daemon, &command)?);
            bare = better(bare, copy(&file)?);
        }
        let ratio = attached.speed / bare.speed;
        table.row(
            &format!("attached run of {} MiB of {name}", SIZE / MIB),
            &format!("{:.0} MiB/s", attached.speed),
            &format!("bare copy {:.0} MiB/s: {ratio:.2} x", bare.speed),
            ">= 0.5 x bare",
            Verdict::of(ratio >= 0.5),
        );
        table.row(
            "  processor time of daemon, store and client",
            &format!("{:.2} ms/MiB", attached.cpu),
            &format!("bare copier {:.2} ms/MiB", bare.cpu),
            "",
            Verdict::Told,
        );
    }
    Ok(())
}

fn drain(mut from: impl Read) -> Outcome<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match from.read(&mut buffer)? {
            0 if total == SIZE => return Ok(()),
            0 => return Err(format!("{total} of {SIZE} bytes came").into()),
            read => total += read,
        }
    }
}

fn run(daemon: &Daemon, command: &str) -> Outcome<Copy> {
    let processes = daemon.process().children()?;
    let cpu = || -> Outcome<Duration> {
        let own = daemon.process().cpu()?;
        processes.iter().try_fold(own, |sum, pid| Ok(sum + Process(*pid).cpu()?))
    };
    let mut run = Cli::to(daemon, "run").arg(command).into_command();
    run.stdin(Stdio::null()).stdout(Stdio::piped());
    let (before, children, start) = (cpu()?, of_children()?, Instant::now());
    let mut run = run.spawn()?;
    drain(run.stdout.take().ok_or("no output")?)?;
    let took = start.elapsed();
    if !run.wait()?.success() {
        return Err("the job failed".into());
    }
    Ok(Copy::new(took, cpu()? - before + of_children()? - children))
}

fn of_children() -> Outcome<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

fn copy(file: &std::path::Path) -> Outcome<Copy> {
    let copier = Copier::start()?;
    let (mut into, out) = (copier.into.try_clone()?, copier.out.try_clone()?);
    let mut cat = Command::new("cat").arg(file).stdout(Stdio::piped()).spawn()?;
    let mut pipe = cat.stdout.take().ok_or("no output")?;
    let (before, start) = (copier.process().cpu()?, Instant::now());
    let feeder = thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match pipe.read(&mut buffer)? {
                0 => break,
                read => into.write_all(&buffer[..read])?,
            }
        }
        into.shutdown(std::net::Shutdown::Write)
    });
    let cpu = drain(out).and_then(|()| copier.process().cpu());
    let took = start.elapsed();
    feeder.join().map_err(|_| "the feeder failed")??;
    cat.wait()?;
    // The copier has ended with its input, and its time is gone with it where nobody waited.
    Ok(Copy::new(took, cpu.unwrap_or(before).saturating_sub(before)))
}
