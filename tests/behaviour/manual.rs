//! The manual is compared with the program: its examples are run, its lists are complete, and the
//! documented log lines are logged.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    Bridge, Cli, Daemon, Directory, Outcome, Peer, Setup, Transport, has_loopback_addresses,
    register, skip,
};
use sysadm_events::wire::{EventName, requests};

use super::PROGRAM;
use super::bridge::{bridge_with, pair};

const PROTOCOL: &str = include_str!("../../man/sysadm-events-protocol.7");
const COMMANDS: &str = include_str!("../../man/sysadm-events.8");

/// An example of the page as rendered.
fn example(name: &str) -> String {
    let mark = format!(".\\\" example: {name}\n.Bd -literal\n");
    let (_, text) = PROTOCOL.split_once(&mark).unwrap_or_else(|| panic!("there is no {name}"));
    let (text, _) = text.split_once("\n.Ed\n").unwrap();
    let escapes = [("\\(dq", "\""), ("\\(aq", "'"), ("\\&", ""), ("\\e", "\\")];
    let text = escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    text + "\n"
}

/// An example in a file, and how it is run with the program under test in its path.
fn cli(program: &str, name: &str, directory: &Directory) -> Cli {
    let file = directory.join(name);
    fs::write(&file, example(name)).unwrap();
    let ours = Path::new(PROGRAM).parent().unwrap().to_path_buf();
    let theirs = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([ours].into_iter().chain(env::split_paths(&theirs))).unwrap();
    Cli::of(program, file.to_str().unwrap()).env("PATH", path)
}

/// A daemon for this page.
fn daemon() -> Daemon {
    Daemon::start(PROGRAM).unwrap()
}

#[test]
fn sh_example_shows_the_state_and_the_outcomes_of_jobs() {
    let daemon = daemon();
    let script = cli("sh", "follow.sh", daemon.directory()).arg(daemon.socket()).start().unwrap();
    script.out.wait("state: 0 - Information").unwrap();
    let run = Cli::to(&daemon, "run").args(["--id", "first", "true"]).run().unwrap();
    assert_eq!(run.code(), 0, "{}", run.err);
    script.out.wait("ended: first").unwrap();
    script.signal_all(Signal::SIGTERM).unwrap();
    daemon.stop().unwrap();
}

#[test]
fn the_example_in_python_runs_a_job_and_exits_with_its_code() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("there is no python3");
    }
    let daemon = daemon();
    let run = |command: &str| {
        let python = cli("python3", "job.py", daemon.directory());
        python.arg(daemon.socket()).arg(command).run().unwrap()
    };
    let good = run("echo hello");
    assert_eq!((good.code(), good.err.as_str()), (0, ""));
    assert!(good.out.ends_with(" finished\nhello\n"), "{}", good.out);
    // Long enough for each of the three forms that a frame's length has.
    let bad = run("sh -c 'seq 20000; exit 3'");
    assert_eq!(bad.code(), 3, "{}", bad.err);
    assert!(bad.out.contains(" running\n") && bad.out.ends_with("\n20000\n"));
    let refused = run("sh -c 'unbalanced");
    assert_eq!(refused.code(), 1);
    assert!(refused.err.starts_with("Bad Request: "), "{}", refused.err);
}

#[test]
fn every_request_and_event_is_in_the_protocol_page() {
    for namespace in requests(None, None) {
        for name in requests(Some(namespace), None) {
            assert!(PROTOCOL.contains(&format!("Ic {namespace}/{name}")), "{namespace}/{name}");
            for action in requests(Some(namespace), Some(name)) {
                let item = format!("\n.It Ic {action}\n");
                let inline = format!("{{\\(dqaction\\(dq: \\(dq{action}\\(dq}}");
                assert!(PROTOCOL.contains(&item) || PROTOCOL.contains(&inline), "{action}");
            }
        }
    }
    for event in EventName::ALL {
        assert!(PROTOCOL.contains(event.canonical()) && PROTOCOL.contains(event.in_event()));
    }
}

/// Numbers that stand behind `before` in the sources of the program, tests left out.
fn numbers_in_sources(before: &str, directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(numbers_in_sources(before, &path));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for rest in text.split(before).skip(1) {
            let rest = rest.trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            found.extend((end > 0).then(|| rest[..end].to_owned()));
        }
    }
    found
}

/// The items of the list of the protocol page that stands behind `introduction`.
fn listed(introduction: &str) -> BTreeSet<String> {
    let (_, list) = PROTOCOL.split_once(introduction).unwrap();
    let list = list.split_once("\n.El\n").unwrap().0;
    list.lines().filter_map(|line| line.strip_prefix(".It ")).map(str::to_owned).collect()
}

#[test]
fn every_error_and_close_code_is_in_the_protocol_page() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let closes: BTreeSet<String> = ["net", "server"]
        .iter()
        .flat_map(|room| numbers_in_sources("CloseReason::new(", &sources.join(room)))
        .collect();
    assert!(closes.len() > 4, "{closes:?}");
    assert_eq!(listed("has one of these codes:"), closes);
    let reply = fs::read_to_string(sources.join("wire/reply.rs")).unwrap();
    let errors = reply.split("=> ").skip(1).filter_map(|rest| rest.get(..3)).map(str::to_owned);
    let errors: BTreeSet<String> = errors.filter(|code| code.parse::<u16>().is_ok()).collect();
    assert!(errors.len() > 4, "{errors:?}");
    assert_eq!(listed("Codes of errors:"), errors);
}

#[test]
fn every_key_of_an_event_is_in_the_protocol_page() {
    let daemon = daemon();
    let mut peer = Peer::local(&daemon).unwrap();
    let all = json!({ "events": ["dispatcher", "system-state"] });
    let reply = peer.request("events", "subscribe", &all).unwrap();
    assert!(reply.get("epoch").is_some() && reply.get("seq").is_some(), "{reply}");
    let ids = ["sysadm_pkg_audit", "sysadm_iohyve_fetch", "sysadm_update_runupdates", "state"];
    let mut frames = Vec::new();
    for id in ids {
        let line = r"printf 'Packages that depend on a: b\nx\t37%% of 600 MB 12 kBps\n'";
        let chain = json!([line, "true", "true"]);
        peer.request("rpc", "dispatcher", &json!({ "action": "run", id: chain })).unwrap();
        frames.extend(peer.frames_until(|frame| frame["args"]["state"] == "finished").unwrap());
    }
    // A late subscriber gets the current state.
    let mut late = Peer::local(&daemon).unwrap();
    let last = json!({ "events": ["dispatcher", "system-state"], "jobs": ["state"] });
    late.request("events", "subscribe", &last).unwrap();
    frames.extend(late.frames_until(|frame| frame["args"]["state"] == "finished").unwrap());
    let epoch = json!({ "events": ["dispatcher"], "since": { "epoch": "another", "seq": 1 } });
    let mut gap = Peer::local(&daemon).unwrap();
    gap.request("events", "subscribe", &epoch).unwrap();
    frames.extend(gap.frames_until(|frame| frame["name"] == "gap").unwrap());

    let mut keys = BTreeSet::new();
    for frame in &frames {
        let details = &frame["args"]["process_details"];
        let commands = [details, &frame["args"]].map(|args| args["cmd_list"].clone());
        let is_command = |key: &str| {
            let lists = commands.iter().filter_map(Value::as_array).flatten();
            key.starts_with("return_codes/") || lists.clone().any(|command| command == key)
        };
        for part in [frame, &frame["args"], details] {
            let names = part.as_object().into_iter().flat_map(|part| part.keys());
            keys.extend(names.filter(|key| !is_command(key)).cloned());
        }
    }
    let wanted = ["vulnerable_pkgs", "percent_done", "update_log", "present", "missed", "log"];
    assert!(wanted.iter().all(|key| keys.contains(*key)), "{keys:?}");
    for key in keys {
        let marked = [format!("Ic {key}"), format!(" , {key}"), format!("\"{key}\":")];
        let quoted = format!(".Ql {key}\n");
        assert!(marked.iter().chain([&quoted]).any(|form| PROTOCOL.contains(form)), "{key}");
    }
}

/// The documented log lines, each as its fixed parts.
fn promised() -> Vec<Vec<String>> {
    let (_, list) = COMMANDS.split_once("\n.Bl -diag\n").unwrap();
    let list = list.split_once("\n.El\n").unwrap().0;
    let lines = list.lines().filter_map(|line| line.strip_prefix(".It "));
    let is_variable = |word: &str| {
        let letters = word.trim_end_matches([',', ':']);
        letters.len() > 1 && letters.bytes().all(|byte| byte.is_ascii_uppercase())
    };
    let pieces = |line: &str| {
        let mut pieces = vec![String::new()];
        for word in line.split(' ') {
            if is_variable(word) {
                pieces.push(word.trim_start_matches(|c: char| c.is_ascii_uppercase()).to_owned());
            } else {
                let piece = pieces.last_mut().unwrap();
                piece.push_str(if piece.is_empty() { "" } else { " " });
                piece.push_str(word);
            }
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    };
    lines.map(pieces).collect()
}

/// Whether a line of the log has these parts in this order.
fn says(line: &str, pieces: &[String]) -> bool {
    let mut rest = line;
    pieces.iter().all(|piece| match rest.split_once(piece.as_str()) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// A key is registered, used and revoked; and a line of the file is damaged.
fn cause_key_lines(daemon: &Daemon) {
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    let public = fs::read_to_string(keys.join("ed25519-public.pem")).unwrap();
    let mut local = Peer::local(daemon).unwrap();
    let mut settings = |action: &str| {
        let args = json!({ "action": action, "pub_key": public });
        local.request("rpc", "settings", &args).unwrap();
    };
    settings("register_ssl_cert");
    let url = format!("ws://{}", daemon.plain());
    let watch = Cli::of(PROGRAM, "watch").args(["--url", &url]).arg("--key");
    let watch = watch.arg(keys.join("ed25519.pem")).start().unwrap();
    daemon.log().wait("by=\"key\" with=\"").unwrap();
    settings("revoke_ssl_cert");
    assert_eq!(watch.wait().unwrap().code(), 77);
    let state = daemon.directory().join("state");
    fs::write(state.join("rubbish"), "rubbish\n").unwrap();
    fs::rename(state.join("rubbish"), state.join("keys")).unwrap();
    daemon.log().wait("left out: ").unwrap();
}

#[test]
fn every_documented_log_line_is_logged() {
    if !has_loopback_addresses() {
        return;
    }
    let mut setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.max_event", r#""64KiB""#)
        .with("server.outbox", r#""128KiB""#)
        .with("server.max_clients", 2)
        .with("auth.fail_limit", 1)
        .with("auth.pam", false)
        .with("auth.throttle_loopback", true);
    let daemon = setup.start().unwrap();
    cause_key_lines(&daemon);
    let mut wrong = Peer::connect_from(&daemon, Ipv4Addr::new(127, 0, 1, 1)).unwrap();
    for _ in 0..2 {
        wrong.refused("rpc", "auth_token", &json!({ "token": "wrong" })).unwrap();
    }
    assert!(
        Peer::connect_with(&daemon, Transport::Plain, "Origin: https://elsewhere.example\r\n")
            .is_err()
    );
    daemon.log().wait(r#": origin "https://elsewhere.example" is not ours"#).unwrap();
    let remote = Peer::known(&daemon, Transport::Plain).unwrap();
    // Ten places, eight of them reserved for the local socket. One client does not read.
    let mut peers: Vec<Peer> = (0..12).filter_map(|_| Peer::local(&daemon).ok()).collect();
    daemon.log().wait("all places are taken").unwrap();
    peers[0].subscribe().unwrap();
    for number in 0..40 {
        let job = json!({ "action": "run", format!("job {number}"): "seq 12000" });
        peers[1].request("rpc", "dispatcher", &job).unwrap();
    }
    daemon.log().wait("it does not read").unwrap();

    setup.set("server.listen_plain", "[]");
    setup.set("server.socket_mode", r#""0600""#);
    setup.write().unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    daemon.log().wait("reloaded ").unwrap();
    fs::write(setup.file(), "nonsense").unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    daemon.log().wait("reload failed").unwrap();
    #[cfg(target_os = "freebsd")]
    daemon.signal(Signal::SIGINFO).unwrap();
    #[cfg(not(target_os = "freebsd"))]
    daemon.signal(Signal::SIGUSR1).unwrap();
    daemon.log().wait("status: ").unwrap();
    drop((peers, remote));
    let mut log = daemon.stop().unwrap();
    log.extend(log_of_a_bridge().unwrap());
    log.extend(log_of_links().unwrap());
    log.extend(log_of_a_full_pool().unwrap());

    let promised = promised();
    assert!(promised.len() > 10 && promised.iter().all(|pieces| !pieces.is_empty()));
    for pieces in promised {
        assert!(log.iter().any(|line| says(line, &pieces)), "{pieces:?} in:\n{}", log.join("\n"));
    }
}

/// The log of a daemon with one place for unauthenticated connections, and two of them.
fn log_of_a_full_pool() -> Outcome<Vec<String>> {
    let daemon = Setup::new(PROGRAM)?.with("server.max_unauthenticated", 1).start()?;
    let _first = Peer::connect(&daemon, Transport::Plain)?;
    assert!(Peer::connect(&daemon, Transport::Plain).is_err());
    daemon.log().wait("had not authenticated")?;
    daemon.stop()
}

/// The log of a relay after all documented events.
fn log_of_a_bridge() -> Outcome<Vec<String>> {
    let (bridge, key) = bridge_with(|setup| setup.with("relay.queue", r#""128KiB""#))?;
    let (mut server, deaf, _unread, _) = pair(&bridge, &key, "AAAAAAAAAAAAAAAAAAAAAA==")?;
    let payload = "x".repeat(64 * 1024);
    while server.so_far()?.is_empty() {
        server.send_to(&deaf, &payload)?;
    }
    register(&bridge.directory().join("state"), &[])?;
    assert_eq!(server.peer.closed()?, 1008);
    bridge.stop()
}

/// The log of a daemon with a failing, a working and a removed link.
fn log_of_links() -> Outcome<Vec<String>> {
    let bridge = Bridge::start()?;
    let setup = Setup::new(PROGRAM)?.with("bridge.allow_legacy_bridge_clients", r#""full""#);
    let lost = bridge.link("lost").replace(bridge.fingerprint(), &"ab".repeat(32));
    let lost = lost.replace("127.0.0.1", "localhost");
    let linked = setup.clone().with_lines(&bridge.link("office")).with_lines(&lost);
    let daemon = linked.start()?;
    daemon.log().wait("link office: connected to ")?;
    daemon.log().wait("link lost to ")?;
    setup.write()?;
    daemon.reload()?;
    daemon.stop()
}

/// The expressions that the page gives to fail2ban, with what it puts for an address.
fn filters() -> Vec<regex_lite::Regex> {
    let (_, filter) = COMMANDS.split_once("\nfailregex = ").unwrap();
    let filter = filter.split_once("\nignoreregex").unwrap().0;
    let lines = filter.lines().map(|line| line.trim().replace("\\e", "\\"));
    lines.map(|line| regex_lite::Regex::new(&line.replace("<HOST>", r"(\S+)")).unwrap()).collect()
}

#[test]
fn documented_filters_find_the_address_despite_forged_names() {
    let setup = Setup::new(PROGRAM).unwrap().with("auth.fail_window", r#""1s""#);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::connect(&daemon, Transport::Plain).unwrap();
    peer.refused("rpc", "auth_token", &json!({ "token": "wrong" })).unwrap();
    let names =
        ["x: authentication failure from 192.0.2.66: y", "\": blocked 192.0.2.66 for 9 s: "];
    for name in names {
        // Rejected in different ways, with 401 if this daemon checks passwords.
        let args = json!({ "username": name, "password": "wrong" });
        peer.refused("rpc", "auth", &args).unwrap();
    }
    let block = "2026-11-24T22:00:00Z WARN  blocked 192.0.2.7 for 3600 s: too many failures";
    let mut lines = daemon.stop().unwrap();
    let syslog = |line: &str| {
        let text = line.splitn(3, ' ').nth(2).unwrap_or_default().trim_start();
        format!("Nov 24 22:00:00 nas sysadm-events[123]: {text}")
    };
    lines.push(block.to_owned());
    lines.extend(lines.clone().iter().map(|line| syslog(line)));
    let found: Vec<String> = filters()
        .iter()
        .flat_map(|filter| lines.iter().filter_map(|line| filter.captures(line)))
        .map(|found| found[1].to_owned())
        .collect();
    let failures = lines.iter().filter(|line| line.contains(" authentication failure from 127"));
    let ours = found.iter().filter(|address| *address == "127.0.0.1").count();
    assert!(ours >= 2 && ours == failures.count(), "{found:?} in {lines:#?}");
    assert!(found.iter().all(|a| a == "127.0.0.1" || a == "192.0.2.7"), "{found:?}");
    assert!(found.iter().any(|address| address == "192.0.2.7"), "{found:?}");
}

/// man(1) looks for the name of the file.
#[test]
fn pages_have_the_names_of_their_files() -> Outcome<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let pages: Vec<PathBuf> =
        fs::read_dir(&directory)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
    assert_eq!(pages.len(), 4);
    for page in pages {
        let (name, section) = (page.file_stem().unwrap(), page.extension().unwrap());
        let title = format!(
            "\n.Dt {} {}\n",
            name.to_str().unwrap().to_uppercase(),
            section.to_str().unwrap()
        );
        assert!(fs::read_to_string(&page)?.contains(&title), "{title}");
    }
    Ok(())
}
