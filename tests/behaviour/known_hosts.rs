//! A server with an unknown certificate is confirmed once, on a terminal, and then known.

use std::fs;
use std::path::PathBuf;

use support::{Cli, Daemon, Setup};

use super::PROGRAM;

/// A command to a daemon over TLS, of a user with this configuration directory.
fn call(daemon: &Daemon) -> Cli {
    Cli::of(PROGRAM, "call")
        .args(["--url", &format!("wss://{}", daemon.tls()), "rpc", "identify"])
        .env("XDG_CONFIG_HOME", daemon.directory().join("config"))
}

fn known_hosts(daemon: &Daemon) -> PathBuf {
    daemon.directory().join("config/sysadm-events/known_hosts")
}

#[test]
fn unknown_certificate_without_a_terminal_is_refused() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let refused = call(&daemon).run().unwrap();
    assert_eq!((refused.code(), refused.out.as_str()), (64, ""));
    let path = known_hosts(&daemon).display().to_string();
    for part in ["--fingerprint", "sysadm-events fingerprint", "on a terminal", &path] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    assert!(!known_hosts(&daemon).exists());
}

#[test]
fn trusted_certificate_is_not_asked_about_again() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let pasted = format!("{}\n", daemon.fingerprint());
    for typed in [&*pasted, "y\nyes\n"] {
        let asked = call(&daemon).start_on_terminal_typing(typed).unwrap().wait().unwrap();
        assert_eq!(asked.code(), 0, "{}", asked.out);
        assert_eq!(asked.out.contains("Please type yes"), typed != pasted, "{}", asked.out);
        fs::remove_file(known_hosts(&daemon)).unwrap();
    }
    let asked = call(&daemon).start_on_terminal_typing("yes\n").unwrap().wait().unwrap();
    assert_eq!(asked.code(), 0, "{}", asked.out);
    assert!(asked.out.contains(daemon.fingerprint()), "{}", asked.out);
    assert!(asked.out.contains("Trust it") && asked.out.contains("\"server\""), "{}", asked.out);
    let persisted = fs::read_to_string(known_hosts(&daemon)).unwrap();
    assert_eq!(persisted, format!("{} sha256:{}\n", daemon.tls(), daemon.fingerprint()));
    let again = call(&daemon).start_on_terminal().unwrap().wait().unwrap();
    assert_eq!(again.code(), 0);
    assert!(!again.out.contains("Trust it"), "{}", again.out);
    let script = call(&daemon).run().unwrap();
    assert_eq!((script.code(), script.err.as_str()), (0, ""));
}

#[test]
fn certificate_that_is_not_confirmed_is_not_trusted() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let other = format!("{}\n", "0".repeat(64));
    for typed in ["no\n", "y\nno\n", "y\ny\nyes\n", "\n\n", &other] {
        let refused = call(&daemon).start_on_terminal_typing(typed).unwrap().wait().unwrap();
        assert_eq!(refused.code(), 77, "{}", refused.out);
        for part in ["is not trusted: ", "nothing was sent"] {
            assert!(refused.out.contains(part), "{}", refused.out);
        }
        assert!(!known_hosts(&daemon).exists());
    }
}

#[test]
fn changed_certificate_is_refused_with_fingerprints_and_line() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let before = daemon.fingerprint().to_owned();
    let path = known_hosts(&daemon);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("# mine\n{} sha256:{before}\n", daemon.tls())).unwrap();
    assert_eq!(call(&daemon).run().unwrap().code(), 0);
    for file in ["cert.pem", "key.pem"] {
        fs::remove_file(daemon.directory().join(file)).unwrap();
    }
    daemon.reload().unwrap();
    // Even with a terminal and a positive answer.
    for finished in [
        call(&daemon).run().unwrap(),
        call(&daemon).start_on_terminal_typing("yes\n").unwrap().wait().unwrap(),
    ] {
        assert_eq!(finished.code(), 76, "{}", finished.err);
        let said = finished.err + &finished.out;
        let place = format!("remove {}:2 ", path.display());
        for part in ["WARNING", &before, &place] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let shown = said.split("shown ").nth(1).unwrap().trim_start();
        let shown = &shown[..64];
        assert!(shown != before && shown.bytes().all(|byte| byte.is_ascii_hexdigit()), "{said}");
        assert!(daemon.log().wait(&format!("certificate sha256 {shown}")).is_ok());
    }
    assert!(fs::read_to_string(&path).unwrap().contains(&before), "it is not replaced");
}

#[test]
fn damaged_entry_is_reported_and_not_treated_as_missing() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let path = known_hosts(&daemon);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("{} sha256:12\n", daemon.tls())).unwrap();
    let refused = call(&daemon).start_on_terminal_typing("yes\n").unwrap().wait().unwrap();
    assert_eq!(refused.code(), 78);
    assert!(refused.out.contains("known_hosts:1: "), "{}", refused.out);
}
