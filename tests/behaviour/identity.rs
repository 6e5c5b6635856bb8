//! Identity, roles, and the lifetime of sessions.

use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Group, geteuid};
use serde_json::{Value, json};
use support::{
    Cli, Daemon, Finished, Gate, Peer, SLOWNESS, Setup, Stream, Transport, client_frame, skip,
    until, upgrade_request,
};

use super::PROGRAM;

/// Network transports, which provide no identity.
const REMOTE: [Transport; 3] = [Transport::Plain, Transport::Tls, Transport::Tls12];

#[test]
fn unauthenticated_client_may_identify_and_authenticate_only() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in REMOTE {
        let mut peer = Peer::connect(&daemon, transport).unwrap();
        assert_eq!(peer.request("rpc", "identify", &json!("")).unwrap()["type"], "server");
        for (namespace, name, args) in [
            ("rpc", "auth", json!({})),
            ("rpc", "query", json!({})),
            ("rpc", "status", json!({})),
            ("rpc", "dispatcher", json!({ "action": "list" })),
            ("rpc", "dispatcher", json!({ "action": "run", "j": "true" })),
            ("events", "subscribe", json!(["dispatcher"])),
            ("events", "unsubscribe", json!(["dispatcher"])),
            // Existing names are not disclosed either.
            ("rpc", "nosuch", json!({})),
            ("nosuch", "nosuch", json!({})),
        ] {
            let refused = peer.refused(namespace, name, &args).unwrap();
            assert_eq!(refused.code, 401, "{}: {namespace}/{name}", transport.name());
            assert!(refused.message.starts_with("Unauthorized: "), "{}", refused.message);
        }
        peer.request("rpc", "identify", &json!("")).unwrap();
    }
    let list = Peer::local(&daemon).unwrap().list().unwrap();
    assert_eq!(list, json!({ "no_queue": {} }));
}

#[test]
fn local_socket_identifies_root_and_own_user_and_issues_tokens() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut local = Peer::local(&daemon).unwrap();
    let may = local.request("rpc", "query", &json!({})).unwrap();
    for (name, right) in [
        ("rpc/dispatcher", "read/write"),
        ("events/dispatcher", "read"),
        ("events/life-preserver", "read"),
        ("events/system-state", "read"),
    ] {
        assert_eq!(may[name], right, "{may}");
    }
    let token = local.request("rpc", "auth", &Value::Null).unwrap();
    assert_eq!(token[1], 15 * 60);
    let text = token[0].as_str().unwrap();
    // 256 bits in base64url without padding.
    assert_eq!(text.len(), 43);
    assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{text}");
    assert_ne!(local.request("rpc", "auth", &json!({})).unwrap()[0], text);
    for transport in Transport::ALL {
        let mut peer = Peer::connect(&daemon, transport).unwrap();
        let reply = peer.request("rpc", "auth_token", &json!({ "token": text })).unwrap();
        assert_eq!(reply, token, "{}", transport.name());
        assert_eq!(peer.request("rpc", "query", &json!({})).unwrap(), may);
        peer.run(&json!({ (transport.name()): "true" })).unwrap();
    }
}

#[test]
fn a_token_that_is_not_the_whole_token_is_none() {
    // So that replies to failures are not delayed.
    let setup = Setup::new(PROGRAM).unwrap().with("auth.fail_window", r#""1s""#);
    let daemon = setup.start().unwrap();
    let token = Peer::token(&daemon).unwrap();
    let swapped: String = token
        .chars()
        .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
    let wrong = [
        "",
        &token[..1],
        &token[..42],
        &token[1..],
        &format!("{token}="),
        &format!("{token}A"),
        &format!(" {token}"),
        &format!("{token}\0"),
        &swapped,
        &"A".repeat(43),
        &token.repeat(100),
    ];
    for wrong in wrong {
        let refused = peer.refused("rpc", "auth_token", &json!({ "token": wrong })).unwrap();
        assert_eq!(refused.code, 401, "{wrong:?}");
        assert_eq!(peer.refused("rpc", "query", &json!({})).unwrap().code, 401);
    }
    for args in [json!({}), json!({ "token": null }), json!({ "token": [token] }), json!(token)] {
        let refused = peer.refused("rpc", "auth_token", &args).unwrap();
        assert_eq!(refused.code, 400, "{args}");
        assert_eq!(peer.refused("rpc", "query", &json!({})).unwrap().code, 401);
    }
    peer.request("rpc", "auth_token", &json!({ "token": token })).unwrap();
    peer.request("rpc", "query", &json!({})).unwrap();
    assert!(!daemon.log().lines().concat().contains(&token));
}

#[test]
fn a_token_that_was_not_used_for_its_time_is_none_any_more() {
    let lifetime = SLOWNESS;
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("auth.token_ttl", format!("\"{lifetime}s\"")).start().unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let mut user = Peer::connect(&daemon, Transport::Tls).unwrap();
    assert_eq!(user.request("rpc", "auth_token", &token).unwrap()[1], lifetime);
    user.idle(Duration::from_millis(1100) * lifetime).unwrap();
    // The session that it opened continues, and does not prolong it.
    user.request("rpc", "query", &json!({})).unwrap();
    let mut late = Peer::connect(&daemon, Transport::Tls).unwrap();
    assert_eq!(late.refused("rpc", "auth_token", &token).unwrap().code, 401);
    user.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn auth_clear_ends_identity_events_and_token_without_reply() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    for transport in Transport::ALL {
        let token = json!({ "token": Peer::token(&daemon).unwrap() });
        let mut peer = Peer::connect(&daemon, transport).unwrap();
        peer.request("rpc", "auth_token", &token).unwrap();
        peer.subscribe().unwrap();
        peer.run(&json!({ (transport.name()): format!("sh -c '{}'", gate.wait()) })).unwrap();
        peer.job_until(transport.name(), |args| args["state"] == "running").unwrap();
        peer.post("rpc", "auth_clear", &json!({})).unwrap();
        let refused = peer.refused("rpc", "query", &json!({})).unwrap();
        assert_eq!(refused.code, 401, "{}", transport.name());
        gate.open().unwrap();
        watcher.finished(transport.name()).unwrap();
        // Neither a reply to it nor the end of the job precedes this.
        peer.send(&json!({ "namespace": "rpc", "name": "identify", "id": "next" })).unwrap();
        assert_eq!(peer.frame().unwrap()["id"], "next", "{}", transport.name());
        assert_eq!(peer.refused("rpc", "auth_token", &token).unwrap().code, 401);
    }
    // The kernel still identifies the user at the local socket.
    let mut local = Peer::local(&daemon).unwrap();
    local.post("rpc", "auth_clear", &json!({})).unwrap();
    assert_eq!(local.refused("rpc", "query", &json!({})).unwrap().code, 401);
    local.request("rpc", "auth", &json!({})).unwrap();
    local.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn unauthenticated_client_is_closed_at_auth_timeout() {
    let timeout = Duration::from_millis(400);
    let setup = Setup::new(PROGRAM).unwrap().with("server.auth_timeout", r#""400ms""#);
    // Otherwise replies to failures would be delayed.
    let setup = setup.with("auth.throttle_loopback", true);
    let daemon = setup.start().unwrap();
    let mut known = [(); 2].map(|()| Peer::known(&daemon, Transport::Tls).unwrap());
    let mut local = Peer::local(&daemon).unwrap();
    let begun = Instant::now();
    let mut peers = REMOTE.map(|transport| Peer::connect(&daemon, transport).unwrap());
    for unauthenticated in &mut peers {
        // Requests and failed replies do not prolong the timeout.
        unauthenticated.request("rpc", "identify", &json!("")).unwrap();
        unauthenticated.refused("rpc", "auth_token", &json!({ "token": "x" })).unwrap();
    }
    local.post("rpc", "auth_clear", &json!({})).unwrap();
    for unauthenticated in peers.iter_mut().chain([&mut local]) {
        assert_eq!(unauthenticated.closed().unwrap(), 1008);
        assert!(begun.elapsed() >= timeout, "{:?}", begun.elapsed());
    }
    for known in &mut known {
        known.request("rpc", "query", &json!({})).unwrap();
    }
}

/// A pool in which no connection stalls while a test runs.
fn small_pool(places: usize) -> Daemon {
    let setup = Setup::new(PROGRAM).unwrap().with("server.max_unauthenticated", places);
    setup.with("server.auth_timeout", r#""1h""#).start().unwrap()
}

#[test]
fn progressing_connections_of_one_address_are_not_limited() {
    let daemon = small_pool(64);
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let mut peers: Vec<Peer> =
        (0..48).map(|n| Peer::connect(&daemon, REMOTE[n % 3]).unwrap()).collect();
    for peer in &mut peers {
        peer.request("rpc", "identify", &json!("")).unwrap();
    }
    for peer in &mut peers {
        peer.request("rpc", "auth_token", &token).unwrap();
    }
}

#[test]
fn full_pool_refuses_the_newest_with_503_and_drops_nobody() {
    let daemon = small_pool(4);
    let mut known = [
        Peer::known(&daemon, Transport::Plain).unwrap(),
        Peer::known(&daemon, Transport::Tls).unwrap(),
        Peer::local(&daemon).unwrap(),
    ];
    let mut peers: Vec<Peer> = (0..3).map(|n| Peer::connect(&daemon, REMOTE[n]).unwrap()).collect();
    // One that gives up its identity has such a place too.
    let mut local = Peer::local(&daemon).unwrap();
    local.post("rpc", "auth_clear", &json!({})).unwrap();
    local.request("rpc", "identify", &json!("")).unwrap();
    peers.push(local);
    for transport in REMOTE {
        let mut stream = Stream::dial(&daemon, transport).unwrap();
        stream.send(upgrade_request("").as_bytes()).unwrap();
        let refused = String::from_utf8(stream.read_all().unwrap()).unwrap();
        assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refused}");
        assert!(refused.contains("\r\nRetry-After: 1\r\n"), "{refused}");
    }
    let of = |text: &str| daemon.log().lines().iter().filter(|l| l.contains(text)).count();
    assert_eq!(of("connections that had not authenticated were refused or dropped: 1"), 1);
    for peer in known.iter_mut().chain(&mut peers) {
        peer.request("rpc", "identify", &json!("")).unwrap();
    }
    // A command waits for a place, which becomes free.
    let url = format!("wss://{}", daemon.tls());
    let token = daemon.directory().join("token");
    std::fs::write(&token, Peer::token(&daemon).unwrap()).unwrap();
    let command = Cli::of(PROGRAM, "jobs").args(["--url", &url, "--fingerprint"]);
    let command = command.arg(daemon.fingerprint()).arg("--token-file").arg(&token);
    let running = command.start().unwrap();
    let of_503 = "connections that had not authenticated";
    assert_eq!(of(of_503), 1, "one line a minute");
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    peers[0].request("rpc", "auth_token", &token).unwrap();
    let finished = running.wait().unwrap();
    assert_eq!(finished.code(), 0, "{}", finished.err);
    for known in &mut known {
        known.request("rpc", "query", &json!({})).unwrap();
    }
}

#[test]
fn silent_connects_take_no_place_of_a_handshake() {
    let daemon = small_pool(4);
    let mut begun = Stream::dial(&daemon, Transport::Plain).unwrap();
    let request = upgrade_request("");
    let (first, rest) = request.split_at(20);
    begun.send(first.as_bytes()).unwrap();
    // Its beginning has been read when this is answered, which is accepted later.
    Peer::connect(&daemon, Transport::Plain).unwrap();
    let address = daemon.plain();
    let silent: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    // Of the same listener, so it is accepted behind them.
    Peer::connect(&daemon, Transport::Plain).unwrap();
    begun.send(rest.as_bytes()).unwrap();
    assert!(begun.read_head().unwrap().starts_with("HTTP/1.1 101"));
    drop(silent);
}

#[test]
fn max_clients_limits_all_but_eight_at_the_local_socket() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.max_clients", 2);
    let daemon = setup.start().unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let remote = || {
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        // Authentication succeeds; the missing place is reported by the close.
        peer.request("rpc", "auth_token", &token).unwrap();
        peer
    };
    let mut known = vec![remote(), remote()];
    assert_eq!(remote().closed().unwrap(), 1013);
    daemon.log().wait("all places are taken (max_clients), 1013").unwrap();
    for _ in 0..8 {
        let mut local = Peer::local(&daemon).unwrap();
        local.request("rpc", "query", &json!({})).unwrap();
        known.push(local);
    }
    assert_eq!(Peer::local(&daemon).unwrap().closed().unwrap(), 1013);
    assert_eq!(remote().closed().unwrap(), 1013);
    for peer in &mut known {
        peer.request("rpc", "query", &json!({})).unwrap();
    }
    // A place that is left can be taken.
    drop(known.pop());
    drop(known.remove(0));
    until("they are gone", || {
        let status = known[0].request("rpc", "status", &json!({})).unwrap();
        status["clients"].as_array().unwrap().len() == 8
    });
    known.push(Peer::local(&daemon).unwrap());
    known.last_mut().unwrap().request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn two_unanswered_pings_close_the_connection() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.ping_interval", r#""150ms""#);
    let daemon = setup.start().unwrap();
    let begun = Instant::now();
    let dies = |transport| {
        let mut dead = Stream::open(&daemon, transport).unwrap();
        assert_eq!(dead.read_frame().unwrap(), (0x89, vec![]));
        // An unsolicited pong is a sign of life too.
        dead.send(&client_frame(0x8a, b"unasked")).unwrap();
        for _ in 0..2 {
            assert_eq!(dead.read_frame().unwrap(), (0x89, vec![]), "{}", transport.name());
        }
        assert_eq!(dead.read_all().unwrap(), b"", "{}", transport.name());
        assert!(begun.elapsed() >= Duration::from_millis(4 * 150), "{:?}", begun.elapsed());
    };
    let alive = Transport::ALL.map(|transport| Peer::known(&daemon, transport).unwrap());
    thread::scope(|scope| {
        for transport in [Transport::Unix, Transport::Plain, Transport::Tls] {
            scope.spawn(move || dies(transport));
        }
        for mut peer in alive {
            scope.spawn(move || {
                peer.idle(Duration::from_millis(6 * 150)).unwrap();
                peer.request("rpc", "query", &json!({})).unwrap();
            });
        }
    });
}

/// Output and exit code of `call` for a user with these numbers.
fn call(daemon: &Daemon, user: u32, group: u32, words: &[&str]) -> Finished {
    Cli::to(daemon, "call").args(words).as_user(user, group).run().unwrap()
}

/// The number of a group that both FreeBSD and Linux have.
fn number_of(group: &str) -> u32 {
    Group::from_name(group).unwrap().unwrap_or_else(|| panic!("no group {group}")).gid.as_raw()
}

/// An arbitrary unprivileged user.
const SOMEBODY: u32 = 54_321;

fn cannot_become_others() -> bool {
    let cannot = !geteuid().is_root();
    if cannot {
        skip("only root can become another user");
    }
    cannot
}

#[test]
fn groups_of_a_local_user_determine_its_role() {
    if cannot_become_others() {
        return;
    }
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("auth.full_access_groups", r#"["no-such-group-here", "daemon"]"#)
        .with("auth.read_only_groups", r#"["sys"]"#)
        .open_to_all()
        .unwrap();
    let daemon = setup.start().unwrap();
    daemon.log().wait("there is no group \"no-such-group-here\"").unwrap();
    let (full, read) = (number_of("daemon"), number_of("sys"));
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let list = ["rpc", "dispatcher", r#"{"action":"list"}"#];
    let log = ["rpc", "dispatcher", r#"{"action":"log","job_id":"j"}"#];
    let run = ["rpc", "dispatcher", r#"{"action":"run","j":"echo done by somebody"}"#];
    let submit = ["rpc", "dispatcher", r#"{"action":"submit","commands":["true"]}"#];
    let kill = ["rpc", "dispatcher", r#"{"action":"kill","job_id":"j"}"#];
    let subscribe = ["events", "subscribe", r#"["dispatcher"]"#];
    let as_member = |group: u32, words: &[&str]| call(&daemon, SOMEBODY, group, words);

    let done = as_member(full, &run);
    assert_eq!((done.code(), done.out.as_str()), (0, "{\"started\":[\"j\"]}\n"), "{}", done.err);
    assert_eq!(watcher.finished("j").unwrap()["state"], "finished");
    assert_eq!(as_member(full, &kill).out, "{\"killed\":{\"jobs\":[]}}\n");

    let looked = as_member(read, &log);
    assert!(looked.out.contains("done by somebody"), "{looked:?}");
    assert_eq!(as_member(read, &list).code(), 0);
    assert_eq!(as_member(read, &subscribe).out, "{\"subscribe\":[\"dispatcher\"]}\n");
    let may: Value = serde_json::from_str(&as_member(read, &["rpc", "query"]).out).unwrap();
    assert_eq!(may["rpc/dispatcher"], "read");
    let action = |name: &str| format!(r#"{{"action":"{name}","job_id":"j","queue":"pkg_queue"}}"#);
    let [restart, pause, resume] = ["restart", "pause", "resume"].map(action);
    let queues = ["rpc", "dispatcher", r#"{"action":"queues"}"#];
    assert_eq!(as_member(read, &queues).out, "{\"queues\":{}}\n");
    let more = [&*restart, &*pause, &*resume].map(|args| ["rpc", "dispatcher", args]);
    for words in [run, submit, kill].into_iter().chain(more) {
        let refused = as_member(read, &words);
        assert_eq!(refused.code(), 1, "{words:?}");
        assert!(
            refused.err.contains("403") && refused.err.contains("read only"),
            "{}",
            refused.err
        );
    }
    // Their token has the same role elsewhere.
    let token: Value = serde_json::from_str(&as_member(read, &["rpc", "auth"]).out).unwrap();
    let mut remote = Peer::connect(&daemon, Transport::Tls).unwrap();
    remote.request("rpc", "auth_token", &json!({ "token": token[0] })).unwrap();
    remote.list().unwrap();
    assert_eq!(remote.run_refused(&json!({ "k": "true" })).unwrap().code, 403);

    let other = u32::MAX - 7;
    assert_eq!(as_member(other, &["rpc", "identify"]).code(), 0);
    for words in
        [&list[..], &log, &run, &submit, &kill, &subscribe, &["rpc", "query"], &["rpc", "auth"]]
    {
        let refused = as_member(other, words);
        assert_eq!(refused.code(), 1, "{words:?}: {}", refused.out);
        assert!(refused.err.contains("403"), "{}", refused.err);
        assert!(refused.err.contains(&format!("uid {SOMEBODY}")), "{}", refused.err);
        assert!(refused.err.contains("read_only_groups"), "{}", refused.err);
    }
    let watching = Cli::to(&daemon, "watch").as_user(SOMEBODY, other).run().unwrap();
    assert_eq!(watching.code(), 77, "{}", watching.err);
    assert_eq!(watcher.list().unwrap()["no_queue"].as_object().unwrap().len(), 1);
}

#[test]
fn local_user_outside_group_zero_has_no_role_where_it_is_full() {
    if cannot_become_others() {
        return;
    }
    // The default on FreeBSD. 0 is also what the kernel writes for a missing group.
    let zero = Group::from_gid(0.into()).unwrap().unwrap().name;
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("auth.full_access_groups", json!([zero]))
        .open_to_all()
        .unwrap();
    let daemon = setup.start().unwrap();
    let run = ["rpc", "dispatcher", r#"{"action":"run","j":"id"}"#];
    for group in [number_of("daemon"), SOMEBODY, u32::MAX - 7] {
        let refused = call(&daemon, SOMEBODY, group, &run);
        assert_eq!(refused.code(), 1, "group {group}: {}", refused.out);
        assert!(refused.err.contains("403"), "{}", refused.err);
    }
    assert_eq!(Peer::local(&daemon).unwrap().list().unwrap(), json!({ "no_queue": {} }));
    assert_eq!(call(&daemon, SOMEBODY, 0, &run).code(), 0);
}

#[test]
fn a_daemon_that_is_not_root_serves_its_own_user_and_root() {
    if cannot_become_others() {
        return;
    }
    let setup = Setup::new(PROGRAM).unwrap().open_to_all().unwrap().as_user(SOMEBODY).unwrap();
    let daemon = setup.start().unwrap();
    let group = u32::MAX - 7;
    let run = ["rpc", "dispatcher", r#"{"action":"run","j":"id -u"}"#];
    let mut watcher = Peer::watcher(&daemon).unwrap();
    assert_eq!(call(&daemon, SOMEBODY, group, &run).code(), 0);
    assert_eq!(watcher.finished("j").unwrap()["id -u"], format!("{SOMEBODY}\n"));
    let refused = call(&daemon, SOMEBODY + 1, group, &run);
    assert_eq!(refused.code(), 1);
    assert!(refused.err.contains("403"), "{}", refused.err);
}
