//! The first start in a bare environment: no syslogd, no directories, a restrictive umask.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use support::{Setup, skip};

use super::PROGRAM;

/// Places of syslogd's socket on Linux and FreeBSD.
const SYSLOG_SOCKETS: [&str; 2] = ["/dev/log", "/var/run/log"];

/// A program that runs another one without syslogd, or `None` where syslogd cannot be hidden.
fn without_syslogd() -> Option<Vec<String>> {
    let sockets: Vec<&str> = SYSLOG_SOCKETS
        .into_iter()
        .filter(|path| fs::metadata(path).is_ok_and(|about| about.file_type().is_socket()))
        .collect();
    if sockets.is_empty() {
        return Some(Vec::new());
    }
    if !cfg!(target_os = "linux") || !nix::unistd::geteuid().is_root() {
        skip("hiding syslogd needs a mount namespace of Linux, and root");
        return None;
    }
    let mounts: String =
        sockets.iter().map(|path| format!("mount --bind /dev/null {path} && ")).collect();
    let script = format!("{mounts}exec \"$@\"");
    Some(["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec())
}

#[test]
fn log_without_syslogd_goes_to_standard_error() {
    let Some(hiding) = without_syslogd() else { return };
    for target in [r#""auto""#, r#""syslog""#] {
        for setup in [Setup::new(PROGRAM).unwrap(), Setup::bridge(PROGRAM).unwrap()] {
            // Readiness is announced by a line of the log; no terminal is involved.
            let daemon = setup.with("log.target", target).under(hiding.clone()).start().unwrap();
            let lines = daemon.stop().unwrap();
            assert_eq!(
                lines.iter().filter(|line| line.contains("stopped")).count(),
                1,
                "{lines:?}"
            );
        }
    }
}

#[test]
fn directories_above_the_state_are_passable_by_others() {
    for (setup, state, socket) in [
        (Setup::new(PROGRAM).unwrap(), "paths.state", "server.socket"),
        (Setup::bridge(PROGRAM).unwrap(), "relay.state", "relay.socket"),
    ] {
        let directory = setup.directory().path().to_owned();
        let mode =
            |path: &str| fs::metadata(directory.join(path)).unwrap().permissions().mode() & 0o777;
        let setup = setup
            .with(state, format!("{:?}", directory.join("db/deep/state")))
            .with(socket, format!("{:?}", directory.join("run/deep/socket")));
        let restricted = setup.after_shell("umask 077");
        let _daemon = restricted.start().unwrap();
        for made in ["db", "db/deep", "run", "run/deep"] {
            assert_eq!(mode(made), 0o755, "{made}");
        }
        assert_eq!(mode("db/deep/state"), 0o700);
    }
}

#[test]
fn existing_directories_above_the_state_are_not_changed() {
    let setup = Setup::new(PROGRAM).unwrap();
    let above = setup.directory().join("db");
    fs::create_dir(&above).unwrap();
    fs::set_permissions(&above, Permissions::from_mode(0o750)).unwrap();
    let _daemon = setup.with("paths.state", format!("{:?}", above.join("state"))).start().unwrap();
    assert_eq!(fs::metadata(&above).unwrap().permissions().mode() & 0o777, 0o750);
}
