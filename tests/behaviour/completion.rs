//! Completion in the real shells: they ask the daemon for ids of jobs and names of queues.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::{Daemon, Peer, skip};

use super::PROGRAM;

fn file(name: &str) -> String {
    format!("{}/etc/completion/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The lines printed by a script of a shell; `None` where the shell is missing. The program is
/// found by its name.
fn shell(name: &str, script: &str, words: &[&str]) -> Option<Vec<String>> {
    let mut path = Path::new(PROGRAM).parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let home = support::Directory::new().unwrap();
    // The first word after the script is the name of the shell itself, except in fish.
    let zeroth = (name != "fish").then_some(name);
    let mut command = Command::new(name);
    command.args(["-c", script]).args(zeroth).args(words);
    let output = command.env("PATH", path).env("HOME", home.path()).output().ok()?;
    assert!(output.stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

fn bash(words: &[&str]) -> Option<Vec<String>> {
    let script = format!(
        r#". '{}'; COMP_WORDS=(sysadm-events "$@"); COMP_CWORD=$#; _sysadm_events
        for name in "${{COMPREPLY[@]}}"; do printf '%s\n' "$name"; done"#,
        file("sysadm-events.bash")
    );
    shell("bash", &script, words)
}

/// Without a terminal zsh completes nothing: the completion function is called directly.
fn zsh(kind: &str, words: &[&str]) -> Option<Vec<String>> {
    let script = format!(
        r#"_describe() {{ : }}; compadd() {{ print -rl -- $names }}
        words=(sysadm-events help ''); CURRENT=3; . '{}'
        words=("$@" ''); CURRENT=$#words; _sysadm_events_names {kind} || :"#,
        file("_sysadm-events")
    );
    shell("zsh", &script, words)
}

fn fish(words: &str) -> Option<Vec<String>> {
    let script =
        format!("source '{}'; complete -C 'sysadm-events {words}'", file("sysadm-events.fish"));
    let lines = shell("fish", &script, &[])?;
    let name = |line: String| line.split('\t').next().unwrap_or_default().to_owned();
    Some(lines.into_iter().map(name).collect())
}

#[test]
fn shells_complete_ids_of_jobs_and_names_of_queues() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for id in ["nightly", "it's late"] {
        peer.submit(&json!({ "id": id, "commands": ["true"], "queue": "backup" })).unwrap();
        watcher.finished(id).unwrap();
    }
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    match bash(&["kill", "--socket", socket, ""]) {
        Some(names) => {
            assert_eq!(sorted(names), [r"it\'s\ late", "nightly"]);
            let names = bash(&["log", "--socket", socket, "ni"]).unwrap();
            assert_eq!(names, ["nightly"]);
            let names = bash(&["run", "--socket", socket, "--queue", ""]).unwrap();
            assert_eq!(names, ["backup"]);
            let names = bash(&["log", "--socket", socket, "--url", "wss://nas", ""]).unwrap();
            assert_eq!(names, [""; 0], "another host is not asked");
        }
        None => skip("there is no bash"),
    }
    match zsh("--ids", &["wait", "--socket", socket]) {
        Some(names) => {
            assert_eq!(sorted(names), ["it's late", "nightly"]);
            let names = zsh("--queues", &["run", "--socket", socket, "--queue"]).unwrap();
            assert_eq!(names, ["backup"]);
            let names = zsh("--ids", &["log", "--socket", socket, "-H", "nas"]).unwrap();
            assert_eq!(names, [""; 0], "another host is not asked");
        }
        None => skip("there is no zsh"),
    }
    match fish(&format!("attach --socket {socket} ni")) {
        Some(names) => {
            assert_eq!(names, ["nightly"]);
            let names = fish(&format!("run --socket {socket} --queue ")).unwrap();
            assert_eq!(names, ["backup"]);
            let names = fish(&format!("log --socket {socket} -H nas ni")).unwrap();
            assert_eq!(names, [""; 0], "another host is not asked");
        }
        None => skip("there is no fish"),
    }
}

#[test]
fn fish_looks_where_its_completion_is_installed() {
    let Some(path) = shell("fish", "string join \\n $fish_complete_path", &[]) else {
        return skip("there is no fish");
    };
    let list = Command::new("sh")
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install.sh"), "list"])
        .env("SYSTEM", if std::env::consts::OS == "linux" { "Linux" } else { "FreeBSD" })
        .env("PREFIX", "/usr/local")
        .env("DESTDIR", "")
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let place = list.lines().find(|place| place.contains("/fish/")).unwrap();
    let directory = Path::new("/usr/local").join(place).parent().unwrap().to_owned();
    assert!(path.iter().any(|one| Path::new(one) == directory), "{directory:?} {path:?}");
}
