//! The rc.d scripts with the real daemons. Without rc.subr(8) and daemon(8), stand-ins in
//! `tests/rc` replace them.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use support::{Cli, Finished, Log, PATIENCE, Process, Setup};

use super::PROGRAM;

const SCRIPT: &str = include_str!("../../rc.d/sysadm_events");
const BRIDGE: &str = include_str!("../../rc.d/sysadm_bridge");

/// The service of one test; its processes end with the test.
pub(super) struct Service {
    /// `sysadm_events` or `sysadm_bridge`.
    name: &'static str,
    setup: Setup,
    script: PathBuf,
    /// Output of the daemons, one after the other.
    log: Log,
    /// daemon(8) ends after its child, not at once.
    waits: bool,
}

impl Service {
    fn new() -> Service {
        let setup = Setup::new(PROGRAM).unwrap();
        let service = Service::of(setup, &SCRIPT.replace("%%PREFIX%%/bin/sysadm-events", PROGRAM));
        service.configure("YES", 1);
        service
    }

    fn bridge() -> Service {
        let setup = Setup::bridge(PROGRAM).unwrap();
        let mut service =
            Service::of(setup, &BRIDGE.replace("%%PREFIX%%/bin/sysadm-events", PROGRAM));
        service.name = "sysadm_bridge";
        service.configure("YES", 1);
        service
    }

    /// One of a script as it is installed.
    pub(super) fn of(setup: Setup, script: &str) -> Service {
        let directory = setup.directory();
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rc");
        let text = script
            .replace("/etc/rc.subr", stand_ins.join("rc.subr").to_str().unwrap())
            .replace("/usr/sbin/daemon", stand_ins.join("daemon").to_str().unwrap());
        let script = directory.join("sysadm_events");
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let said = directory.join("said");
        mkfifo(&said, Mode::S_IRWXU).unwrap();
        // Open for writing too, so that it does not end with the first daemon.
        let log = Log::of(OpenOptions::new().read(true).write(true).open(&said).unwrap());
        setup.write().unwrap();
        Service { name: "sysadm_events", setup, script, log, waits: false }
    }

    /// rc.conf(5)
    fn configure(&self, enable: &str, restart_delay: u32) {
        let directory = self.setup.directory().path().display().to_string();
        let file = self.setup.file();
        self.write_rc_conf(&[
            &format!("enable={enable}"),
            &format!("config={}", file.display()),
            &format!("restart_delay={restart_delay}"),
            &format!("rundir={directory}/run"),
        ]);
    }

    pub(super) fn write_rc_conf(&self, variables: &[&str]) {
        let lines = variables.iter().map(|variable| format!("{}_{variable}\n", self.name));
        let file = self.setup.directory().join("rc.conf");
        fs::write(file, lines.collect::<String>()).unwrap();
    }

    fn call(&self, what: &str) -> Finished {
        let mut cli = Cli::of("sh", self.script.to_str().unwrap())
            .arg(what)
            .env("RC_CONF", self.setup.directory().join("rc.conf"))
            .env("DAEMON_OUTPUT", self.setup.directory().join("said"));
        if self.waits {
            cli = cli.env("DAEMON_WAITS", "yes");
        }
        cli.run().unwrap()
    }

    /// Runs an action that must succeed; returns its output.
    pub(super) fn well(&self, what: &str) -> String {
        let finished = self.call(what);
        assert_eq!(finished.code(), 0, "{what}: {}{}", finished.out, finished.err);
        finished.out
    }

    /// Runs an action that must fail; returns its output.
    fn refused(&self, what: &str) -> String {
        let finished = self.call(what);
        assert_eq!(finished.code(), 1, "{what}: {}{}", finished.out, finished.err);
        finished.out + &finished.err
    }

    /// Waits for a daemon to be ready, from a line of the log on; returns its pid, and the next
    /// line.
    pub(super) fn ready(&self, from: usize) -> (i32, usize) {
        let (line, next) = self.log.wait_from(from, "ready, pid ").unwrap();
        let (_, pid) = line.split_once("ready, pid ").unwrap();
        (pid.split(',').next().unwrap().parse().unwrap(), next)
    }

    fn pid_file(&self, name: &str) -> Option<i32> {
        let file = self.setup.directory().join("run").join(name);
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    fn is_alive(pid: i32) -> bool {
        Process(u32::try_from(pid).unwrap()).is_alive()
    }

    pub(super) fn client(&self, command: &str) -> Cli {
        Cli::of(PROGRAM, command).arg("--socket").arg(self.setup.directory().join("socket"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for name in ["supervisor.pid", "sysadm-events.pid", "sysadm-bridge.pid"] {
            if let Some(pid) = self.pid_file(name) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
    }
}

/// Names of variables of a service in a text.
fn variables<'t>(name: &str, script: &str, text: &'t str) -> BTreeSet<&'t str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let is_ours = |word: &&str| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
    let words = text.split(|c| !is_name(c)).filter(is_ours);
    // The script's functions have such names too.
    let functions: Vec<&str> = script.lines().filter_map(|line| line.strip_suffix("()")).collect();
    words.filter(|word| !functions.contains(word)).collect()
}

#[test]
fn its_variables_are_in_the_manual_and_in_its_head() {
    for (name, script) in [("sysadm_events", SCRIPT), ("sysadm_bridge", BRIDGE)] {
        let (head, body) = script.split_once("\n. /etc/rc.subr\n").unwrap();
        let manual = include_str!("../../man/sysadm-events.8");
        let explained = manual.lines().filter_map(|line| line.strip_prefix(".It Va "));
        let explained: BTreeSet<_> = explained.filter(|v| v.starts_with(name)).collect();
        let used = variables(name, script, body);
        assert!(used.len() > 4, "{used:?}");
        assert_eq!(explained, used);
        assert_eq!(variables(name, script, head), used);
        // A value that is given is also the one that is explained.
        for line in body.lines().filter_map(|line| line.strip_prefix(": \"${")) {
            let (name, value) = line.trim_end_matches("\"}\"").split_once(":=\"").unwrap();
            assert!(head.contains(&format!("\n# {name}=\"{value}\"")), "{name}");
            let value = value.replace("%%PREFIX%%", "/usr/local");
            let explanation = manual.split_once(&format!(".It Va {name}\n")).unwrap().1;
            let explanation = explanation.split("\n.It ").next().unwrap();
            assert!(explanation.contains(&value), "{name}: {explanation}");
        }
    }
}

#[test]
fn the_bridge_is_a_service_of_its_own() {
    let service = Service::bridge();
    assert!(service.refused("status").contains("sysadm_bridge is not running."));
    assert_eq!(service.well("start").lines().last(), Some("Starting sysadm_bridge."));
    let (pid, next) = service.ready(0);
    assert_eq!(service.pid_file("sysadm-bridge.pid"), Some(pid));
    assert_eq!(service.well("status"), format!("sysadm_bridge is running as pid {pid}.\n"));
    let status = service.client("status").arg("--bridge").run().unwrap();
    assert!(status.out.contains("peers     0, 0 not authenticated"), "{}", status.out);
    service.well("reload");
    service.log.wait_from(next, "reloaded ").unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let (second, next) = service.ready(next);
    assert_ne!(pid, second);
    fs::write(service.setup.file(), "[relay]\nlisen = []\n").unwrap();
    assert!(service.refused("reload").contains("sysadm-events.toml:2:"));
    assert_eq!(service.well("stop"), "Stopping sysadm_bridge.\n");
    assert!(!Service::is_alive(second));
    service.log.wait_from(next, "stopped").unwrap();
    assert_eq!(service.pid_file("supervisor.pid"), None);
}

#[test]
fn service_starts_shows_its_status_reloads_and_stops() {
    let service = Service::new();
    assert!(service.refused("status").contains("sysadm_events is not running."));
    assert!(service.refused("stop").contains("not running?"));
    assert!(service.refused("reload").contains("not running?"));

    assert_eq!(service.well("start").lines().last(), Some("Starting sysadm_events."));
    let (pid, next) = service.ready(0);
    assert_eq!(service.pid_file("sysadm-events.pid"), Some(pid));
    assert_ne!(service.pid_file("supervisor.pid"), Some(pid));
    assert_eq!(service.well("status"), format!("sysadm_events is running as pid {pid}.\n"));
    assert!(service.refused("start").contains(&format!("already running? (pid={pid})")));

    service.well("reload");
    service.log.wait_from(next, "reloaded ").unwrap();
    assert_eq!(service.well("stop"), "Stopping sysadm_events.\n");
    assert!(!Service::is_alive(pid), "a stop is over when the daemon is");
    service.log.wait_from(next, "stopped").unwrap();
    assert!(service.refused("status").contains("is not running"));
}

#[test]
fn stop_waits_for_jobs_with_or_without_a_supervisor() {
    for waits in [false, true] {
        let mut service = Service::new();
        service.waits = waits;
        service.well("start");
        let (pid, next) = service.ready(0);
        // It ends in order on request, which takes a moment.
        let job = service.client("run").args(["--id", "slow", "--detach"]).arg(
            r#"sh -c 'trap "echo ending; sleep 0.5; exit 7" TERM; while :; do sleep 0.1; done'"#,
        );
        assert_eq!(job.run().unwrap().code(), 0);
        let watch = service.client("watch").arg("--json").start().unwrap();
        watch.out.wait(r#""process_id":"slow""#).unwrap();
        watch.out.wait(r#""state":"running""#).unwrap();
        service.well("stop");
        assert!(!Service::is_alive(pid));
        watch.out.wait(r#""state":"finished""#).unwrap();
        service.log.wait_from(next, "stopping; active jobs: 1").unwrap();
        service.log.wait_from(next, "stopped").unwrap();
    }
}

#[test]
fn killed_daemon_is_restarted_until_the_service_stops() {
    let service = Service::new();
    service.well("start");
    let (first, next) = service.ready(0);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let (second, _) = service.ready(next);
    assert_ne!(first, second);
    assert_eq!(service.well("status"), format!("sysadm_events is running as pid {second}.\n"));
    service.well("stop");
    assert!(!Service::is_alive(second));
    assert_eq!(service.pid_file("supervisor.pid"), None);
}

#[test]
fn stop_ends_a_supervisor_during_its_restart_delay() {
    let service = Service::new();
    service.configure("YES", 600);
    service.well("start");
    let (pid, _) = service.ready(0);
    let supervisor = service.pid_file("supervisor.pid").unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let patience = Instant::now() + PATIENCE;
    while service.call("status").code() == 0 {
        assert!(Instant::now() < patience, "the dead one is still seen");
    }
    service.well("stop");
    assert!(!Service::is_alive(supervisor));
}

#[test]
fn a_daemon_without_its_supervisor_is_stopped_too() {
    let service = Service::new();
    service.well("start");
    let (pid, _) = service.ready(0);
    let supervisor = service.pid_file("supervisor.pid").unwrap();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    service.well("stop");
    assert!(!Service::is_alive(pid));
}

#[test]
fn faulty_configuration_prevents_start_reload_and_restart() {
    let service = Service::new();
    service.well("start");
    let (pid, _) = service.ready(0);
    assert!(service.well("configtest").contains(": ok"));
    fs::write(service.setup.file(), "[server]\nlisen = []\n").unwrap();
    for what in ["configtest", "reload", "restart"] {
        let said = service.refused(what);
        assert!(said.contains("sysadm-events.toml:2:") && said.contains("listen"), "{said}");
        assert_eq!(service.well("status"), format!("sysadm_events is running as pid {pid}.\n"));
    }
    service.well("stop");
    assert!(service.refused("start").contains("sysadm-events.toml:2:"));
    assert_eq!(service.pid_file("supervisor.pid"), None);
    fs::remove_file(service.setup.file()).unwrap();
    assert!(service.refused("start").contains("is not readable"));
}

#[test]
fn a_restart_is_another_daemon_on_the_same_state() {
    let service = Service::new();
    service.well("start");
    let (first, next) = service.ready(0);
    let job = service.client("run").args(["--id", "kept", "echo hello"]).run().unwrap();
    assert_eq!(job.code(), 0, "{}", job.err);
    service.well("restart");
    let (second, _) = service.ready(next);
    assert!(first != second && !Service::is_alive(first));
    assert_eq!(service.client("log").arg("kept").run().unwrap().out, "hello\n");
    service.well("stop");
}

#[test]
fn disabled_service_does_not_start() {
    let service = Service::new();
    service.configure("NO", 1);
    let finished = service.call("start");
    assert!(finished.err.contains("Set sysadm_events_enable to YES"), "{}", finished.err);
    assert_eq!(service.pid_file("supervisor.pid"), None);
    assert!(service.well("configtest").contains(": ok"), "that changes nothing");
}
