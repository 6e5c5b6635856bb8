//! Resource use of the daemon: threads, size, memory, wake-ups, processor time per event, jobs a
//! second.
//!
//! A figure alone says little, because machines differ. So each figure that depends on the machine
//! stands beside a bare loop of the same run that does only the unavoidable work (write the bytes,
//! start the process, drain the pipe), and each has its target from the design beside it. Nothing
//! here fails because a machine is slow; it only prints `met` or `MISSED`.
//!
//! `make bench` runs all; `cargo bench --bench figures -- memory flood` runs those two sections.
//! `BENCH_IDLE_SECONDS` (60) shortens the measurement of the idle daemon.

mod attached;
mod bare;
mod checks;
mod copier;
mod doors;
mod durable;
mod fanout;
mod flood;
mod footprint;
mod jobs;
mod notifications;
mod relay;
mod rules;
mod share;
mod table;
mod tail;
mod wakeups;

use std::env;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use support::Outcome;
use table::Table;

/// The program that is measured: the release build, as it is installed.
const PROGRAM: &str = env!("CARGO_BIN_EXE_sysadm-events");

type Section = (&'static str, fn(&mut Table) -> Outcome<()>);

const SECTIONS: [Section; 14] = [
    ("footprint", footprint::measure),
    ("fanout", fanout::measure),
    ("jobs", jobs::measure),
    ("attached", attached::measure),
    ("durable", durable::measure),
    ("notifications", notifications::measure),
    ("flood", flood::measure),
    ("tail", tail::measure),
    ("rules", rules::measure),
    ("checks", checks::measure),
    ("relay", relay::measure),
    ("share", share::measure),
    ("doors", doors::measure),
    ("wakeups", wakeups::measure),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == bare::WRITER) {
        return bare::writer(&arguments[1..]);
    }
    if arguments.first().is_some_and(|first| first == copier::COPIER) {
        return copier::copier(&arguments[1..]);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("these are measurements of minutes: run them with `make bench`");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    if let Some(unknown) =
        wanted.iter().find(|name| !SECTIONS.iter().any(|(known, _)| known == *name))
    {
        let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        eprintln!("no section `{unknown}`; there are: {}", known.join(", "));
        return ExitCode::from(64);
    }
    allow_many_descriptors();
    run(&wanted)
}

/// Runs the wanted sections, or all of them, one after the other: they would disturb each other.
fn run(wanted: &[&str]) -> ExitCode {
    let mut table = Table::begin();
    let mut failed = false;
    for (name, measure) in SECTIONS {
        if !wanted.is_empty() && !wanted.contains(&name) {
            continue;
        }
        if let Err(error) = measure(&mut table) {
            failed = true;
            table.failure(name, error.as_ref());
        }
    }
    table.end();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Hundreds of sockets here and as many in the daemon, which inherits this limit.
fn allow_many_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}
