//! Clients attached to jobs over TLS and through a relay.

use std::io::Read;
use std::process::Stdio;

use support::{Cli, Daemon, Outcome, Person, Process, Setup};

use super::attached::random;
use super::via::Sites;
use super::{PROGRAM, ourselves};

const MIB: usize = 1 << 20;
const SIZE: usize = 12 * MIB;
/// Maximum growth of a process that holds only windows and buffers.
const GROWTH: u64 = 4 << 20;

/// Runs `cat` on random bytes on a daemon's host, and requires these bytes and the code of the job;
/// the memory of client and daemon must not grow with the output.
fn require_identical_output(run: Cli, daemon: &Daemon) -> Outcome<()> {
    let file = daemon.directory().join("random");
    let bytes = random(SIZE);
    std::fs::write(&file, &bytes)?;
    let script = format!("cat {}; exit 3", file.display());
    let mut command = run.args(["--sh", &script]).into_command();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdout = child.stdout.take().ok_or("no output")?;
    let mut received = vec![0; MIB];
    stdout.read_exact(&mut received)?;
    let processes = [Process(child.id()), daemon.process()];
    let before = processes.map(Process::peak);
    received.resize(SIZE, 0);
    stdout.read_exact(&mut received[MIB..])?;
    let after = processes.map(Process::peak);
    let rest = stdout.read_to_end(&mut Vec::new())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(received == bytes && rest == 0, "the output is another one: {said}");
    assert_eq!(output.status.code(), Some(3), "{said}");
    for (before, after) in before.into_iter().zip(after) {
        let growth = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        assert!(growth.is_none_or(|growth| growth < GROWTH), "{growth:?} bytes");
    }
    Ok(())
}

#[test]
fn output_over_tls_is_identical_and_costs_no_memory() -> Outcome<()> {
    let setup = Setup::new(PROGRAM)?.with("auth.pam", false);
    let daemon = setup.start()?;
    let person = Person::new(PROGRAM)?;
    person.register(&setup, &ourselves().0)?;
    let run = person.at("run", &format!("wss://{}", daemon.tls()));
    require_identical_output(run.args(["--fingerprint", daemon.fingerprint()]), &daemon)
}

#[test]
fn output_through_a_bridge_is_identical_and_costs_no_memory() -> Outcome<()> {
    let sites = Sites::new()?;
    require_identical_output(sites.via("run"), sites.server())
}

#[test]
fn run_through_a_relay_reports_the_death_of_the_daemon() -> Outcome<()> {
    let mut sites = Sites::new()?;
    let run =
        sites.via("run").args(["--id", "j", "--sh", "seq 1 1000; exec sleep 1000"]).start()?;
    run.out.wait("1000")?;
    sites.restart_server()?;
    let ran = run.wait()?;
    let all: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    assert_eq!((ran.code(), &*ran.out), (143, &*all), "{}", ran.err);
    assert!(ran.err.contains("waiting for the daemon"), "{}", ran.err);
    Ok(())
}

#[test]
fn attach_over_tls_reports_the_death_of_the_daemon() -> Outcome<()> {
    let mut setup = Setup::new(PROGRAM)?.with("auth.pam", false);
    let daemon = setup.start()?;
    let address = daemon.tls().to_owned();
    setup.set("server.listen", format!("[{address:?}]"));
    let person = Person::new(PROGRAM)?;
    person.register(&setup, &ourselves().0)?;
    let fingerprint = daemon.fingerprint().to_owned();
    let at = |command: &str| {
        let cli = person.at(command, &format!("wss://{address}"));
        cli.args(["--fingerprint", &fingerprint])
    };
    let submitted =
        at("run").args(["--detach", "--id", "j", "--sh", "seq 1 1000; exec sleep 1000"]);
    assert_eq!(submitted.run()?.code(), 0);
    let attach = at("attach").arg("j").start()?;
    attach.out.wait("1000")?;
    daemon.crash()?;
    attach.err.wait("waiting for the daemon")?;
    let _daemon = setup.start()?;
    let ran = attach.wait()?;
    let all: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    assert_eq!((ran.code(), &*ran.out), (143, &*all), "{}", ran.err);
    Ok(())
}
