//! SIGHUP: reload without disconnecting clients. And the status line.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use serde_json::{Value, json};
use support::{Cli, Daemon, Gate, Outcome, Peer, Setup, Stream, Transport, skip, until};

use super::PROGRAM;

/// The address in the newest log line about listening in this way.
fn newest(daemon: &Daemon, way: &str) -> String {
    let lines = daemon.log().lines();
    let line =
        lines.iter().rev().find_map(|line| line.split_once(&format!("listening on {way}://")));
    line.unwrap_or_else(|| panic!("not listening on {way}")).1.to_owned()
}

fn can_connect(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

/// A WebSocket without TLS at this address, with these lines in its request.
fn plain(address: &str, headers: &str) -> Outcome<Stream> {
    let mut stream = Stream::Plain(TcpStream::connect(address)?);
    stream.upgrade(headers)?;
    Ok(stream)
}

#[test]
fn reload_drops_no_client_and_applies_changes() {
    let mut setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut peers = Transport::ALL.map(|transport| Peer::known(&daemon, transport).unwrap());
    for peer in &mut peers {
        peer.subscribe().unwrap();
    }
    let mut unauthenticated = Peer::connect(&daemon, Transport::Plain).unwrap();
    let command = format!("sh -c 'echo before; {}; echo after'", gate.wait());
    peers[0].run(&json!({ "j": command })).unwrap();
    for peer in &mut peers {
        peer.job_printed("j", &command, "before\n").unwrap();
    }

    // Other ports, because another address with these would be the same; smaller messages.
    let (old_tls, old_plain) = (daemon.tls().to_owned(), daemon.plain().to_owned());
    setup.set("server.listen", r#"["127.0.0.1:0", "127.0.0.1:0"]"#);
    setup.set("server.listen_plain", "[]");
    setup.set("server.max_message", r#""10KiB""#);
    setup.write().unwrap();
    let said = daemon.reload().unwrap();
    assert!(said.contains("reloaded") && said.contains("sysadm-events.toml"), "{said}");
    let closed = daemon.log().wait("no longer listening on ").unwrap();
    assert!(closed.ends_with(&format!("ws://{old_plain}")), "{closed}");
    assert!(!can_connect(&old_plain));
    // Listeners that are still wanted are unchanged.
    assert_eq!(newest(&daemon, "wss"), old_tls);
    assert!(can_connect(&old_tls));

    gate.open().unwrap();
    for peer in &mut peers {
        assert_eq!(peer.finished("j").unwrap()[&command], "before\nafter\n");
        let long = json!("x".repeat(10 * 1024));
        peer.post("rpc", "identify", &long).unwrap();
        assert_eq!(peer.closed().unwrap(), 1009);
    }
    unauthenticated.request("rpc", "identify", &json!("")).unwrap();
    Peer::known(&daemon, Transport::Tls).unwrap();
}

#[test]
fn reload_opens_new_listeners_and_closes_old_ones() {
    let mut setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let old = daemon.plain().to_owned();
    let mut connected = Peer::known(&daemon, Transport::Plain).unwrap();
    // A port that was free a moment ago.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let new = free();
    setup.set("server.listen_plain", format!("[{new:?}]"));
    setup.write().unwrap();
    daemon.reload().unwrap();
    assert_eq!(newest(&daemon, "ws"), new);
    plain(&new, "").unwrap();
    assert!(!can_connect(&old));
    connected.request("rpc", "query", &json!({})).unwrap();
    // The signal alone repeats nothing.
    let lines = daemon.log().lines().len();
    daemon.reload().unwrap();
    let said = daemon.log().lines()[lines..].join("\n");
    assert!(!said.contains("listening"), "{said}");
    plain(&new, "").unwrap();
}

/// A free port that no other test gets: Linux assigns none below 32768.
fn lone_port() -> u16 {
    let first = std::process::id() % 10_000;
    let ports = (0..10_000).map(|step| 20_000 + (first + step) % 10_000);
    let mut ports = ports.filter_map(|port| u16::try_from(port).ok());
    ports.find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).unwrap()
}

#[test]
fn reload_replaces_an_address_by_a_covering_one() {
    let mut setup = Setup::new(PROGRAM).unwrap();
    let port = lone_port();
    setup.set("server.listen_plain", "[]");
    setup.set("server.listen", format!("[\"127.0.0.1:{port}\"]"));
    let daemon = setup.start().unwrap();
    let mut connected = Peer::known(&daemon, Transport::Tls).unwrap();

    // To all addresses, back to one, and the same one without TLS.
    let steps = [("listen", "0.0.0.0"), ("listen", "127.0.0.1"), ("listen_plain", "127.0.0.1")];
    for (key, address) in steps {
        for other in ["server.listen", "server.listen_plain"] {
            setup.set(other, "[]");
        }
        setup.set(&format!("server.{key}"), format!("[\"{address}:{port}\"]"));
        setup.write().unwrap();
        let said = daemon.reload().unwrap();
        assert!(said.contains("reloaded"), "{key} {address}: {said}");
        match key {
            "listen" => drop(Peer::known(&daemon, Transport::Tls).unwrap()),
            _ => drop(plain(&format!("127.0.0.1:{port}"), "").unwrap()),
        }
        connected.request("rpc", "query", &json!({})).unwrap();
    }
}

#[test]
fn with_an_address_that_cannot_be_had_nothing_changes() {
    let mut setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap();
    setup.set("server.listen", format!("[\"{taken_address}\"]"));
    setup.set("server.listen_plain", r#"[]"#);
    setup.set("server.max_message", r#""10KiB""#);
    setup.write().unwrap();
    let said = daemon.reload().unwrap();
    assert!(said.contains("reload failed, nothing changed"), "{said}");
    assert!(said.contains(&format!("cannot listen on {taken_address}")), "{said}");
    // The old listeners are there, and the old limits.
    for transport in Transport::ALL {
        let mut peer = Peer::known(&daemon, transport).unwrap();
        peer.request("rpc", "identify", &json!("x".repeat(20 * 1024))).unwrap();
    }
    // When there is room again, all of it is done.
    drop(taken);
    daemon.reload().unwrap();
    assert_eq!(newest(&daemon, "wss"), taken_address.to_string());
    assert!(!can_connect(daemon.plain()));
}

#[test]
fn reload_with_a_fault_changes_nothing_and_names_the_line() {
    let mut setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::known(&daemon, Transport::Tls).unwrap();
    let file = setup.file();
    setup.set("server.max_message", r#""10KiB""#);
    setup.set("server.listen_plain", "[]");
    for (key, value, words) in [
        ("events.rung", "1", "ring"),
        ("server.auth_timeout", "\"soon\"", "auth_timeout"),
        ("server.outbox", "\"128KiB\"", "max_event"),
    ] {
        let mut faulty = setup.clone();
        faulty.set(key, value);
        faulty.write().unwrap();
        let said = daemon.reload().unwrap();
        assert!(said.contains("reload failed, nothing changed"), "{said}");
        assert!(said.contains(&format!("{}:", file.display())), "{said}");
        assert!(said.contains(words), "{said}");
    }
    for text in ["[server\n", "\u{0}"] {
        fs::write(&file, text).unwrap();
        assert!(daemon.reload().unwrap().contains("nothing changed"));
    }
    fs::remove_file(&file).unwrap();
    let said = daemon.reload().unwrap();
    assert!(said.contains("nothing changed") && said.contains("sysadm-events.toml"), "{said}");

    peer.request("rpc", "identify", &json!("x".repeat(20 * 1024))).unwrap();
    Peer::known(&daemon, Transport::Plain).unwrap();
    setup.write().unwrap();
    assert!(daemon.reload().unwrap().contains("reloaded"));
    peer.post("rpc", "identify", &json!("x".repeat(20 * 1024))).unwrap();
    assert_eq!(peer.closed().unwrap(), 1009);
}

#[test]
fn reload_presents_the_new_certificate_and_logs_it() {
    let mut setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let mut connected = Peer::known(&daemon, Transport::Tls).unwrap();
    let before = daemon.log().lines().len();
    for (key, file) in
        [("server.certificate", "other.pem"), ("server.private_key", "other-key.pem")]
    {
        setup.set(key, format!("{:?}", setup.directory().join(file)));
    }
    setup.write().unwrap();
    daemon.reload().unwrap();
    let (line, next) = daemon.log().wait_from(before, "certificate sha256 ").unwrap();
    let logged = line.split_once("sha256 ").unwrap().1.to_owned();
    assert_ne!(logged, daemon.fingerprint());
    let printed = Cli::of(PROGRAM, "fingerprint").arg("-c").arg(setup.file()).run().unwrap();
    assert_eq!(printed.out, format!("{logged}\n"));
    // Clients that pin the old certificate fail, connected ones stay, those that pin the new one
    // succeed.
    assert!(Peer::connect(&daemon, Transport::Tls).is_err());
    connected.request("rpc", "query", &json!({})).unwrap();
    drop(connected);
    let daemon = daemon.with_fingerprint(&logged);
    Peer::known(&daemon, Transport::Tls).unwrap();

    // The same certificate again is no change. A damaged one changes nothing.
    daemon.reload().unwrap();
    assert!(daemon.log().lines()[next..].iter().all(|line| !line.contains("sha256")));
    fs::write(setup.directory().join("other.pem"), "junk").unwrap();
    let said = daemon.reload().unwrap();
    assert!(said.contains("nothing changed") && said.contains("other.pem"), "{said}");
    Peer::known(&daemon, Transport::Tls).unwrap();
}

#[test]
fn time_outs_and_the_names_of_the_host_are_taken_over() {
    let mut setup = Setup::new(PROGRAM).unwrap().with("server.ping_interval", r#""1h""#);
    let daemon = setup.start().unwrap();
    let mut silent = Stream::open(&daemon, Transport::Unix).unwrap();
    let page = "Origin: https://nas.example.org\r\n";
    assert!(plain(daemon.plain(), page).is_err());
    setup.set("server.hosts", r#"["nas.example.org"]"#);
    setup.set("server.auth_timeout", r#""300ms""#);
    setup.set("server.ping_interval", r#""200ms""#);
    setup.write().unwrap();
    let begun = Instant::now();
    daemon.reload().unwrap();
    let mut unauthenticated = plain(daemon.plain(), page).unwrap();
    assert_eq!(unauthenticated.read_close().unwrap().0, 1008);
    // Existing clients are pinged at the new interval, and found dead by it.
    for _ in 0..2 {
        assert_eq!(silent.read_frame().unwrap(), (0x89, vec![]));
    }
    assert_eq!(silent.read_all().unwrap(), b"");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn reload_names_keys_that_need_a_restart() {
    let mut setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let other = setup.directory().join("other-socket");
    setup.set("server.socket", format!("{other:?}"));
    setup.set("paths.state", format!("{:?}", setup.directory().join("other-state")));
    setup.write().unwrap();
    daemon.reload().unwrap();
    for key in ["server.socket", "paths.state"] {
        daemon.log().wait(&format!("{key} has changed; that needs a restart")).unwrap();
    }
    assert!(!other.exists() && !setup.directory().join("other-state").exists());
    Peer::local(&daemon).unwrap().request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn reload_applies_other_groups_to_new_clients() {
    if !geteuid().is_root() {
        return skip("only root can become another user");
    }
    const SOMEBODY: u32 = 54_321;
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
    let mut setup = Setup::new(PROGRAM)
        .unwrap()
        .with("auth.full_access_groups", "[]")
        .with("auth.read_only_groups", "[]")
        .open_to_all()
        .unwrap();
    let daemon = setup.start().unwrap();
    let query = || -> Outcome<Value> {
        let call =
            Cli::to(&daemon, "call").args(["rpc", "query"]).as_user(SOMEBODY, group).run()?;
        Ok(if call.code() == 0 { serde_json::from_str(&call.out)? } else { Value::Null })
    };
    assert_eq!(query().unwrap(), Value::Null);
    setup.set("auth.read_only_groups", r#"["daemon"]"#);
    setup.write().unwrap();
    daemon.reload().unwrap();
    // They are looked up by a child after the reload.
    until("they count", || query().unwrap()["rpc/dispatcher"] == "read");
}

#[test]
fn many_reloads_at_once_do_no_harm() {
    let setup = Setup::new(PROGRAM).unwrap().with("auth.helper_idle", r#""100ms""#);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::known(&daemon, Transport::Tls).unwrap();
    // The groups are looked up by a child at each; the store and a file worker stay.
    let settled = |peer: &mut Peer| {
        until("no other child is left", || {
            let status = peer.request("rpc", "status", &json!({})).unwrap();
            let store = status["store"]["pid"].as_u64().unwrap_or(0);
            let files = status["files"]["pids"][0].as_u64().unwrap_or(0);
            let mut children = daemon.process().children().unwrap();
            let mut lasting = [store as u32, files as u32];
            children.sort_unstable();
            lasting.sort_unstable();
            children == lasting
        });
        daemon.process().descriptors().unwrap()
    };
    let before = settled(&mut peer);
    for _ in 0..50 {
        daemon.reload().unwrap();
        peer.request("rpc", "query", &json!({})).unwrap();
    }
    assert_eq!(settled(&mut peer), before);
}

#[test]
fn a_signal_has_a_status_line_logged() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut peer = Peer::watcher(&daemon).unwrap();
    let _unauthenticated = Peer::connect(&daemon, Transport::Plain).unwrap();
    peer.run(&json!({ "over": "true" })).unwrap();
    peer.finished("over").unwrap();
    let command = format!("sh -c 'echo x; {}'", gate.wait());
    peer.run(&json!({ "at-work": command })).unwrap();
    peer.job_printed("at-work", &command, "x\n").unwrap();
    daemon.ask_for_status().unwrap();
    let line = daemon.log().wait("status: up ").unwrap();
    for part in ["2 clients (1 not authenticated)", "1 running, 0 pending, 1 finished", "event "] {
        assert!(line.contains(part), "{part:?}: {line}");
    }
    gate.open().unwrap();
    peer.finished("at-work").unwrap();
}
