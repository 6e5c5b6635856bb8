//! The events server of SysAdm: watches a FreeBSD host and publishes events to subscribers.
//!
//! One thread, one poll loop. The modules below stand in the order in which a request or an event
//! passes them; the head of each says more.
//!
//! * [`wire`]: frames, requests, replies and events as values, and their JSON. No I/O, no clock.
//! * [`config`]: the configuration file, its defaults and limits.
//! * [`reactor`]: the poll loop: readiness, deadlines, signals, file watches. Knows no protocol.
//! * [`sys`]: system calls that no crate wraps. All `unsafe` is there.
//! * [`net`]: listeners, TLS, WebSocket framing, bounded send queues. Knows no message.
//! * [`auth`]: identities, roles, tokens, keys, throttling.
//! * [`dispatcher`]: jobs, as a state machine, and the thin shell around their processes.
//! * [`system_state`]: host name and pools, as a state machine, and the shell around it.
//! * [`helper`]: child processes for everything that may block.
//! * [`alerts`]: conditions that last until they are cleared, as state machines.
//! * [`life_preserver`]: snapshots and replications, read from growing logs.
//! * [`glob`]: patterns for names that have parts.
//! * [`literals`]: literals that a regular expression requires.
//! * [`rules`]: log rules: data, one file per program, and the code that applies them.
//! * [`pattern`]: patterns for log lines in the configuration.
//! * [`seal`]: checksums of lines in the files of the state directory.
//! * [`turns`]: round-robin over users, and over the connections of each.
//! * [`wording`]: messages to people: singular and plural, errors without their numbers.
//! * [`notify`]: targets of notifications, their queues and messages.
//! * [`hub`]: sequence numbers, recent events, subscriptions.
//! * [`session`]: one conversation: request in, reply out.
//! * [`bridge`]: the relay for hosts and clients behind NAT, links to it, tunnels through it.
//! * [`backoff`]: pauses between attempts.
//! * [`charge`]: usage of each user of a bounded resource.
//! * [`daemon`]: start-up of both daemons.
//! * [`server`]: the daemon. It owns all of the above and routes readiness to it.
//! * [`client`] and [`cli`]: the blocking client, and one file per command.
//!
//! A state machine takes bytes and time as arguments and returns effects; only `server` and the
//! shells touch the system. So every rule of the protocol is tested without a socket or a clock.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod alerts;
pub mod auth;
pub mod backoff;
pub mod bridge;
pub mod charge;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod dispatcher;
pub mod glob;
pub mod helper;
pub mod hub;
pub mod life_preserver;
pub mod literals;
pub mod logger;
pub mod moment;
pub mod net;
pub mod notify;
pub mod pattern;
pub mod reactor;
pub mod rules;
pub mod seal;
pub mod server;
pub mod session;
pub mod sys;
pub mod system_state;
pub mod turns;
pub mod wire;
pub mod wording;

/// The modules of this crate that each module uses, from the bottom up: a module uses only modules
/// that stand before it, so that there is no cycle. A test holds the `use` lines against this table.
#[cfg(test)]
const USES: [(&str, &[&str]); 30] = [
    ("backoff", &[]),
    ("charge", &[]),
    ("glob", &[]),
    ("literals", &[]),
    ("moment", &[]),
    ("seal", &[]),
    ("sys", &[]),
    ("turns", &[]),
    ("wire", &["glob"]),
    ("wording", &[]),
    ("alerts", &["glob", "moment", "wire"]),
    ("pattern", &["literals"]),
    ("reactor", &["sys"]),
    ("auth", &["seal", "sys", "wire", "wording"]),
    ("rules", &["pattern", "wire"]),
    ("notify", &["alerts", "backoff", "moment", "wire"]),
    ("config", &["glob", "notify", "pattern", "rules", "sys", "wire", "wording"]),
    ("logger", &["config", "sys", "wire", "wording"]),
    ("net", &["charge", "sys", "wire"]),
    ("daemon", &["auth", "config", "logger", "moment", "net", "reactor", "sys", "wire"]),
    ("helper", &["backoff", "auth", "notify", "seal", "sys", "wire", "wording"]),
    ("dispatcher", &["charge", "helper", "moment", "reactor", "sys", "wire", "wording"]),
    ("hub", &["alerts", "dispatcher", "moment", "wire"]),
    ("life_preserver", &["moment", "reactor", "rules", "sys", "wire", "wording"]),
    ("system_state", &["backoff", "moment", "sys", "wire"]),
    ("session", &["auth", "dispatcher", "helper", "hub", "moment", "system_state", "wire"]),
    (
        "bridge",
        &[
            "backoff", "auth", "charge", "config", "daemon", "logger", "moment", "net", "reactor",
            "sys", "wire", "turns",
        ],
    ),
    (
        "server",
        &[
            "alerts",
            "auth",
            "bridge",
            "charge",
            "config",
            "daemon",
            "dispatcher",
            "helper",
            "hub",
            "life_preserver",
            "logger",
            "moment",
            "net",
            "notify",
            "reactor",
            "rules",
            "seal",
            "session",
            "sys",
            "system_state",
            "wire",
            "turns",
        ],
    ),
    ("client", &["backoff", "auth", "bridge", "net", "wire"]),
    (
        "cli",
        &[
            "auth",
            "bridge",
            "client",
            "config",
            "helper",
            "life_preserver",
            "net",
            "rules",
            "server",
            "sys",
            "system_state",
            "wire",
            "wording",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::USES;

    fn source_files(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                source_files(&entry.unwrap().path(), found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.to_owned());
        }
    }

    /// The modules that the code of a file names, its tests left out.
    fn modules_named(text: &str) -> BTreeSet<String> {
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let names = code.split("crate::").skip(1);
        let word = |rest: &str| {
            let is_other = |letter: char| !letter.is_ascii_lowercase() && letter != '_';
            rest.split(is_other).next().unwrap_or_default().to_owned()
        };
        names.map(word).collect()
    }

    #[test]
    fn modules_use_only_allowed_modules() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let mut wrong = Vec::new();
        for (number, (module, allowed)) in USES.iter().enumerate() {
            let mut files = Vec::new();
            for path in [root.join(module), root.join(format!("{module}.rs"))] {
                if path.exists() {
                    source_files(&path, &mut files);
                }
            }
            assert!(!files.is_empty(), "there is no module {module}");
            let mut used = BTreeSet::new();
            for file in files {
                let is_test = file.components().any(|part| {
                    let part = part.as_os_str().to_string_lossy();
                    part == "tests" || part.ends_with("tests.rs")
                });
                if is_test {
                    continue;
                }
                let text = fs::read_to_string(&file).unwrap();
                for name in modules_named(&text).into_iter().filter(|name| name != module) {
                    if !allowed.contains(&&*name) {
                        wrong.push(format!("{} uses {name:?}", file.display()));
                    }
                    used.insert(name);
                }
            }
            for name in *allowed {
                if !used.contains(*name) {
                    wrong.push(format!("{module} does not use {name}: delete it from the table"));
                }
                if !USES.iter().take(number).any(|(before, _)| before == name) {
                    wrong.push(format!("{module} uses {name}, which stands behind it"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn table_of_modules_is_complete() {
        let listed: BTreeSet<String> =
            USES.iter().map(|(module, _)| (*module).to_owned()).collect();
        let text = include_str!("lib.rs");
        let declared =
            text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
        assert_eq!(listed, declared.map(str::to_owned).collect());
    }

    #[test]
    fn developers_page_names_files_and_functions_that_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        source_files(&root.join("src"), &mut files);
        let code: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let page = fs::read_to_string(root.join("doc/developing.md")).unwrap();
        let (mut paths, mut functions) = (0, 0);
        for quoted in page.split('`').skip(1).step_by(2) {
            if let Some(function) = quoted.strip_suffix("()") {
                assert!(code.contains(&format!("fn {function}(")), "no function {function}");
                functions += 1;
            } else if quoted.contains('/') && !quoted.contains(' ') {
                assert!(root.join(quoted).exists(), "no file {quoted}");
                paths += 1;
            }
        }
        assert!(paths > 20 && functions > 10, "{paths} paths, {functions} functions");
    }
}
