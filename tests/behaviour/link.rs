//! A server's links to relays: connecting, reconnecting, and the clients behind them.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Bridge, BridgeIdentity, Cli, Daemon, Outcome, Peer, Person, RelayedTunnel, Setup, Signal,
    register_server, until,
};

use super::{PROGRAM, ourselves};

/// A server with a link to this relay only, and a short reconnection interval.
fn setup(bridge: &Bridge) -> Setup {
    let setup = Setup::new(PROGRAM).unwrap();
    setup.with("bridge.shortest_pause", r#""100ms""#).with_lines(&bridge.link("office"))
}

/// The only link in `status`.
fn link(daemon: &Daemon) -> Value {
    let mut peer = Peer::local(daemon).unwrap();
    peer.request("rpc", "status", &json!({})).unwrap()["links"][0].take()
}

/// A client behind the relay that has authenticated by a token through its tunnel.
fn known(daemon: &Daemon, bridge: &Bridge, id: &str) -> Outcome<RelayedTunnel> {
    let server = bridge.wait_for_servers(1).remove(0);
    let mut tunnel = RelayedTunnel::open(bridge.client(id), &server, daemon.fingerprint())?;
    tunnel.request("rpc", "auth_token", &json!({ "token": Peer::token(daemon)? }))?;
    Ok(tunnel)
}

#[test]
fn a_client_behind_a_bridge_runs_a_job_and_gets_its_events() {
    let bridge = Bridge::start().unwrap();
    let daemon = setup(&bridge).start().unwrap();
    let mut tunnel = known(&daemon, &bridge, "far").unwrap();
    tunnel.request("events", "subscribe", &json!(["dispatcher"])).unwrap();
    let run = json!({ "action": "run", "j": "echo hello" });
    assert_eq!(tunnel.request("rpc", "dispatcher", &run).unwrap(), json!({ "started": ["j"] }));
    let finished = loop {
        let event = tunnel.event("dispatcher").unwrap();
        if event["args"]["state"] == "finished" {
            break event;
        }
    };
    assert_eq!(finished["args"]["echo hello"], "hello\n");
    let link = link(&daemon);
    assert_eq!((&link["name"], &link["state"]), (&json!("office"), &json!("connected")));
    assert_eq!(link["clients"][0]["id"], "far");
    assert!(link["error"].is_null());
}

#[test]
fn a_lost_bridge_is_dialled_again() {
    let identity = BridgeIdentity::new().unwrap();
    let mut bridge = Bridge::start_as(&identity, 0, false).unwrap();
    let daemon = setup(&bridge).start().unwrap();
    for _ in 0..3 {
        let mut tunnel = known(&daemon, &bridge, "far").unwrap();
        tunnel.request("rpc", "query", &json!({})).unwrap();
        let port = bridge.port();
        bridge.stop();
        until("the session ends", || link(&daemon)["clients"] == json!([]));
        bridge = Bridge::start_as(&identity, port, false).unwrap();
    }
    bridge.wait_for_servers(1);
    assert_eq!(link(&daemon)["state"], "connected");
}

/// Waits for the close message of a tunnel, and its end; returns the code.
fn closed(tunnel: &mut RelayedTunnel) -> Outcome<u64> {
    let mut code = None;
    while let Some(message) = tunnel.message()? {
        if message["name"] == "close" {
            code = message["args"]["code"].as_u64();
        }
    }
    Ok(code.ok_or("no close before the end")?)
}

#[test]
fn wrong_relay_certificate_is_refused_and_logged_once() {
    let bridge = Bridge::start().unwrap();
    let other = bridge.link("office").replace(bridge.fingerprint(), &"ab".repeat(32));
    let setup = Setup::new(PROGRAM).unwrap().with("bridge.shortest_pause", r#""100ms""#);
    let setup = setup.with("bridge.longest_pause", r#""100ms""#).with_lines(&other);
    let daemon = setup.start().unwrap();
    let line = daemon.log().wait("link office").unwrap();
    assert!(line.contains("certificate") && line.contains(bridge.fingerprint()), "{line}");
    // It is retried repeatedly.
    let since = link(&daemon)["since"].clone();
    until("it is tried again", || link(&daemon)["since"] != since);
    assert_eq!(bridge.said(), []);
    let received = daemon.log().lines();
    assert_eq!(received.iter().filter(|line| line.contains("certificate is another")).count(), 1);
    let link = link(&daemon);
    assert!(link["error"].as_str().unwrap().contains(bridge.fingerprint()), "{link}");
    let page = Cli::to(&daemon, "status").run().unwrap();
    assert!(page.out.contains("link      office to wss://127.0.0.1:"), "{}", page.out);
}

#[test]
fn silent_relay_is_abandoned_and_blocks_nothing() {
    // It accepts, and sends nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let lines = format!(
        "[[bridge.link]]\nname = \"mute\"\nurl = \"wss://{}\"\nfingerprint = \"{}\"\n",
        silent.local_addr().unwrap(),
        "ab".repeat(32)
    );
    let setup = Setup::new(PROGRAM).unwrap().with("server.auth_timeout", r#""1s""#);
    let daemon = setup.with_lines(&lines).start().unwrap();
    until("it is connected", || link(&daemon)["state"] == "authenticating");
    let begun = Instant::now();
    let ran = Cli::to(&daemon, "run").arg("true").run().unwrap();
    assert!(
        ran.code() == 0 && begun.elapsed() < Duration::from_secs(1) * support::SLOWNESS,
        "{:?}",
        begun.elapsed()
    );
    let line = daemon.log().wait("link mute").unwrap();
    assert!(line.contains("in time"), "{line}");
}

#[test]
fn relay_is_resolved_by_name_and_may_start_later() {
    let identity = BridgeIdentity::new().unwrap();
    let port = Bridge::start_as(&identity, 0, false).unwrap().port();
    let lines = format!(
        "[[bridge.link]]\nname = \"office\"\nurl = \"wss://localhost:{port}\"\nfingerprint = \"{}\"\n",
        identity.fingerprint()
    );
    let setup = Setup::new(PROGRAM).unwrap().with("bridge.longest_pause", r#""1s""#);
    let daemon = setup.with_lines(&lines).start().unwrap();
    let line = daemon.log().wait("link office").unwrap();
    assert!(line.contains("cannot connect"), "{line}");
    let _bridge = Bridge::start_as(&identity, port, false).unwrap();
    daemon.log().wait("link office: connected").unwrap();
    assert!(link(&daemon)["error"].is_null());
}

#[test]
fn a_name_that_is_not_found_is_no_more_than_an_error() {
    let lines =
        "[[bridge.link]]\nname = \"lost\"\nurl = \"wss://no-such-host.invalid\"\n".to_owned();
    let lines = format!("{lines}fingerprint = \"{}\"\n", "ab".repeat(32));
    let daemon = Setup::new(PROGRAM).unwrap().with_lines(&lines).start().unwrap();
    let line = daemon.log().wait("link lost").unwrap();
    assert!(line.contains("cannot look up its name"), "{line}");
    assert_eq!(link(&daemon)["url"], "wss://no-such-host.invalid:12149");
}

#[test]
fn a_server_without_listeners_serves_by_its_links() {
    let bridge = Bridge::start().unwrap();
    let setup = setup(&bridge).with("server.listen", "[]").with("server.listen_plain", "[]");
    let daemon = setup.launch().unwrap();
    daemon.log().wait("link office: connected").unwrap();
    let line = daemon.log().wait("certificate sha256 ").unwrap();
    let fingerprint = line.split("sha256 ").nth(1).unwrap().to_owned();
    let server = bridge.wait_for_servers(1).remove(0);
    let mut tunnel = RelayedTunnel::open(bridge.client("far"), &server, &fingerprint).unwrap();
    tunnel
        .request("rpc", "auth_token", &json!({ "token": Peer::token(&daemon).unwrap() }))
        .unwrap();
    tunnel.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn a_reload_changes_links_and_leaves_the_others_alone() {
    let (one, two) = (Bridge::start().unwrap(), Bridge::start().unwrap());
    let setup = Setup::new(PROGRAM).unwrap().with("bridge.shortest_pause", r#""100ms""#);
    let first = setup.clone().with_lines(&one.link("one"));
    let daemon = first.start().unwrap();
    let mut persisted = known(&daemon, &one, "far").unwrap();
    let both = setup.clone().with_lines(&one.link("one")).with_lines(&two.link("two"));
    both.write().unwrap();
    daemon.reload().unwrap();
    let gone = known(&daemon, &two, "far").unwrap();
    persisted.request("rpc", "query", &json!({})).unwrap();
    first.write().unwrap();
    daemon.reload().unwrap();
    until("the link is gone", || two.servers().is_empty());
    drop(gone);
    persisted.request("rpc", "query", &json!({})).unwrap();
    assert_eq!(one.peers_ever(), 1, "it was never dialled again");
    // Another name is another link.
    setup.with_lines(&one.link("renamed")).write().unwrap();
    daemon.reload().unwrap();
    until("it is dialled anew", || one.peers_ever() == 2);
    assert_eq!(link(&daemon)["name"], "renamed");
}

#[test]
fn a_bridge_that_hangs_is_noticed() {
    let bridge_setup = Setup::bridge(PROGRAM).unwrap();
    let bridge = bridge_setup.start().unwrap();
    let lines = format!(
        "[[bridge.link]]\nname = \"office\"\nurl = \"wss://{}\"\nfingerprint = \"{}\"\n",
        bridge.tls(),
        bridge.fingerprint()
    );
    let setup = Setup::new(PROGRAM).unwrap().with("server.ping_interval", r#""200ms""#);
    let setup = setup.with("bridge.refused_pause", r#""200ms""#).with_lines(&lines);
    let setup = setup.with("bridge.longest_pause", r#""1s""#);
    let daemon = setup.start().unwrap();
    register_server(PROGRAM, &setup, &bridge_setup, "nas").unwrap();
    until("the link is there", || link(&daemon)["state"] == "connected");
    bridge.signal(Signal::SIGSTOP).unwrap();
    let line = daemon.log().wait("answer to two pings").unwrap();
    assert!(line.contains("link office"), "{line}");
    bridge.signal(Signal::SIGCONT).unwrap();
    until("the link is there again", || link(&daemon)["state"] == "connected");
}

#[test]
fn relay_that_rejects_the_key_is_reported() {
    let bridge_setup = Setup::bridge(PROGRAM).unwrap();
    let bridge = bridge_setup.start().unwrap();
    let lines = format!(
        "[[bridge.link]]\nname = \"office\"\nurl = \"wss://{}\"\nfingerprint = \"{}\"\n",
        bridge.tls(),
        bridge.fingerprint()
    );
    let setup = Setup::new(PROGRAM).unwrap().with_lines(&lines);
    let daemon = setup.start().unwrap();
    let line = daemon.log().wait("does not let us in").unwrap();
    assert!(line.contains("key export"), "{line}");
    // It is not retried for long, because a relay would block this server; but a reload retries at
    // once.
    register_server(PROGRAM, &setup, &bridge_setup, "nas").unwrap();
    daemon.reload().unwrap();
    daemon.log().wait("link office: connected").unwrap();
    let received = bridge.log().lines();
    let failures = received.iter().filter(|line| line.contains("authentication failure")).count();
    assert_eq!(failures, 1, "{received:#?}");
}

#[test]
fn relay_that_rejects_and_hangs_up_is_retried_no_sooner() {
    let bridge_setup = Setup::bridge(PROGRAM).unwrap().with("auth.fail_limit", 1);
    let bridge_setup = bridge_setup.with("auth.throttle_loopback", true);
    let bridge = bridge_setup.start().unwrap();
    let lines = format!(
        "[[bridge.link]]\nname = \"office\"\nurl = \"wss://{}\"\nfingerprint = \"{}\"\n",
        bridge.tls(),
        bridge.fingerprint()
    );
    let daemon = Setup::new(PROGRAM).unwrap().with_lines(&lines).start().unwrap();
    daemon.log().wait("does not let us in").unwrap();
    // The retry is immediate; and it exceeds the relay's limit.
    daemon.reload().unwrap();
    let line = daemon.log().wait("too many failures").unwrap();
    assert!(line.contains("tried again in 1"), "{line}");
    let error = link(&daemon)["error"].take();
    assert!(error.as_str().unwrap().contains("does not let us in"), "{error}");
    let received = daemon.log().lines();
    assert!(!received.iter().any(|line| line.contains("it closed")), "{received:#?}");
}

#[test]
fn clients_behind_a_bridge_count_as_any() {
    let bridge = Bridge::start().unwrap();
    let daemon = setup(&bridge).with("server.max_clients", 2).start().unwrap();
    let mut one = known(&daemon, &bridge, "one").unwrap();
    let mut two = known(&daemon, &bridge, "two").unwrap();
    let server = bridge.servers().remove(0);
    let mut three =
        RelayedTunnel::open(bridge.client("three"), &server, daemon.fingerprint()).unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let show = json!({ "namespace": "rpc", "name": "auth_token", "id": 1, "args": token });
    three.send(&show.to_string()).unwrap();
    assert_eq!(closed(&mut three).unwrap(), 1013);
    for tunnel in [&mut one, &mut two] {
        tunnel.request("rpc", "query", &json!({})).unwrap();
    }
    // A tunnel that closes makes room.
    one.close().unwrap();
    until("there is room", || link(&daemon)["clients"].to_string().matches("null").count() >= 4);
    known(&daemon, &bridge, "four").unwrap();
}

#[test]
fn caller_silent_or_too_loud_before_authentication_is_closed() {
    let bridge = Bridge::start().unwrap();
    let setup = setup(&bridge).with("server.auth_timeout", r#""500ms""#);
    let daemon = setup.start().unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let mut mute =
        RelayedTunnel::open(bridge.client("mute"), &server, daemon.fingerprint()).unwrap();
    assert_eq!(closed(&mut mute).unwrap(), 1008);
    let mut loud =
        RelayedTunnel::open(bridge.client("loud"), &server, daemon.fingerprint()).unwrap();
    loud.send(&format!("{{\"x\":\"{}\"}}", "x".repeat(8 * 1024))).unwrap();
    assert_eq!(closed(&mut loud).unwrap(), 1009);
    // Much more than the limit of an unauthenticated client.
    let mut louder =
        RelayedTunnel::open(bridge.client("louder"), &server, daemon.fingerprint()).unwrap();
    louder.send(&"x".repeat(50_000)).unwrap();
    assert!(louder.message().unwrap().is_none_or(|it| it["name"] == "close"));
    let mut known = known(&daemon, &bridge, "known").unwrap();
    known.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn a_new_handshake_on_a_live_id_replaces_the_session() {
    let bridge = Bridge::start().unwrap();
    let daemon = setup(&bridge).start().unwrap();
    let tunnel = known(&daemon, &bridge, "far").unwrap();
    let before = link(&daemon)["clients"][0]["client"].clone();
    let server = bridge.servers().remove(0);
    let mut anew =
        RelayedTunnel::open(tunnel.into_client(), &server, daemon.fingerprint()).unwrap();
    let refused = anew.ask("rpc", "query", &json!({})).unwrap().unwrap_err();
    assert_eq!(refused.code, 401, "it has to say anew who it is");
    let after = link(&daemon)["clients"][0].take();
    assert!(after["client"] != before && after["user"].is_null(), "{after}");
}

#[test]
fn wrong_secrets_of_callers_slow_their_link_only() {
    let bridge = Bridge::start().unwrap();
    let daemon = setup(&bridge).with("auth.fail_limit", 2).start().unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let mut good = known(&daemon, &bridge, "good").unwrap();
    let mut bad = RelayedTunnel::open(bridge.client("bad"), &server, daemon.fingerprint()).unwrap();
    let wrong = json!({ "token": "x" });
    let begun = Instant::now();
    for code in [401, 401, 403] {
        let refused = bad.ask("rpc", "auth_token", &wrong).unwrap().unwrap_err();
        assert_eq!(refused.code, code, "{refused:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    assert_eq!(closed(&mut bad).unwrap(), 1008);
    let line = daemon.log().wait("blocked ").unwrap();
    assert!(line.contains("blocked link office peer bad for "), "{line}");
    // A blocked caller gets no reply; others behind the relay do.
    let client = bad.into_client();
    client.send(&server, "tls FgMB");
    assert!(client.receive_within(Duration::from_millis(300)).is_err());
    good.request("rpc", "query", &json!({})).unwrap();
    known(&daemon, &bridge, "other").unwrap();
}

#[test]
fn a_crowd_behind_a_bridge_gets_every_event_in_order() {
    let bridge = Bridge::start().unwrap();
    let daemon = setup(&bridge).start().unwrap();
    let mut crowd: Vec<RelayedTunnel> =
        (0..30).map(|number| known(&daemon, &bridge, &format!("far-{number}")).unwrap()).collect();
    for tunnel in &mut crowd {
        let wanted = json!({ "events": ["dispatcher"] });
        tunnel.request("events", "subscribe", &wanted).unwrap();
    }
    let long = "x".repeat(30_000);
    for number in 0..3 {
        let run = json!({ "action": "run", format!("j{number}"): format!("echo {long}") });
        crowd[0]
            .send(
                &json!({ "namespace": "rpc", "name": "dispatcher", "id": "r", "args": run })
                    .to_string(),
            )
            .unwrap();
    }
    for tunnel in &mut crowd {
        let (mut last, mut finished) = (0, 0);
        while finished < 3 {
            let event = tunnel.event("dispatcher").unwrap();
            let seq = event["seq"].as_u64().unwrap();
            assert!(seq > last, "{seq} after {last}");
            last = seq;
            finished += usize::from(event["args"]["state"] == "finished");
        }
    }
}

#[test]
fn shutdown_is_announced_to_callers() {
    let bridge = Bridge::start().unwrap();
    let daemon = setup(&bridge).start().unwrap();
    let mut tunnel = known(&daemon, &bridge, "far").unwrap();
    daemon.stop().unwrap();
    assert_eq!(closed(&mut tunnel).unwrap(), 1001);
}

#[test]
fn a_list_without_end_is_no_work_without_end() {
    let bridge = Bridge::start().unwrap();
    let daemon = setup(&bridge).start().unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let ids: Vec<String> = (0..30_000).map(|number| format!("{number:x}")).collect();
    let args = json!({ "available_connections": ids });
    let event = json!({ "id": "", "namespace": "events", "name": "bridge", "args": args });
    let begun = Instant::now();
    for _ in 0..5 {
        bridge.send_to(&server, &event.to_string());
    }
    until("the list is taken", || link(&daemon)["available"] == 4096);
    assert_eq!(link(&daemon)["clients"].as_array().unwrap().len(), 256);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    known(&daemon, &bridge, "far").unwrap();
}

#[test]
fn changed_user_keys_are_sent_to_the_relay() {
    let bridge = Bridge::start().unwrap();
    let setup = setup(&bridge);
    let _daemon = setup.start().unwrap();
    bridge.wait_for_servers(1);
    let person = Person::new(PROGRAM).unwrap();
    let named = || -> Vec<Value> {
        let said = bridge.said().into_iter().map(|(_, frame)| frame);
        said.filter(|frame| frame["id"] == "bridge_request_list_keys")
            .map(|frame| frame["args"]["md5_keys"].clone())
            .collect()
    };
    person.register(&setup, &ourselves().0).unwrap();
    until("the key is named", || named().len() == 2);
    let [before, after] = &named()[..] else { panic!() };
    assert_eq!((before, after.as_array().unwrap().len()), (&json!([]), 1));
    let revoke =
        Cli::of(PROGRAM, "key").args(["revoke", &ourselves().0, &person.key_id().unwrap()]);
    let revoked = revoke.arg("-c").arg(setup.file()).run().unwrap();
    assert_eq!(revoked.code(), 0, "{}", revoked.err);
    until("it is named no more", || named().len() == 3);
    assert_eq!(named()[2], json!([]));
}

#[test]
fn first_link_may_be_added_by_a_reload() {
    let (bridge, old) = (Bridge::start().unwrap(), Bridge::start_legacy().unwrap());
    let setup = Setup::new(PROGRAM).unwrap().with("bridge.shortest_pause", r#""100ms""#);
    let setup = setup.with("bridge.longest_pause", r#""500ms""#);
    let daemon = setup.start().unwrap();
    let linked = setup.with_lines(&bridge.link("office")).with_lines(&old.link("old"));
    linked.write().unwrap();
    daemon.reload().unwrap();
    // Their keys are created by a child, and an RSA key takes time.
    daemon.log().wait("link office: connected").unwrap();
    daemon.log().wait("link old: connected").unwrap();
    let proof = |bridge: &Bridge, name: &str| {
        bridge.said().iter().any(|(_, frame)| frame["args"][name].is_string())
    };
    assert!(proof(&bridge, "signature") && proof(&old, "encrypted_string"));
    let state = daemon.directory().join("state");
    for name in ["link-key.pem", "link-key-legacy.pem"] {
        let about = std::fs::metadata(state.join(name)).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn relay_that_does_not_read_costs_one_outbox_only() {
    let bridge_setup = Setup::bridge(PROGRAM).unwrap();
    let bridge = bridge_setup.start().unwrap();
    let lines = format!(
        "[[bridge.link]]\nname = \"office\"\nurl = \"wss://{}\"\nfingerprint = \"{}\"\n",
        bridge.tls(),
        bridge.fingerprint()
    );
    let setup = Setup::new(PROGRAM).unwrap().with_lines(&lines);
    let setup = setup
        .with("auth.pam", false)
        .with("bridge.refused_pause", r#""100ms""#)
        .with("events.max_event", r#""64KiB""#)
        .with("server.outbox", r#""128KiB""#);
    let daemon = setup.start().unwrap();
    let person = Person::new(PROGRAM).unwrap();
    person.register(&setup, &ourselves().0).unwrap();
    person.register_at_bridge(&bridge_setup, "me").unwrap();
    register_server(PROGRAM, &setup, &bridge_setup, "nas").unwrap();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let url = format!("wss://{}", bridge.tls());
    let watch = person.via("watch", (&url, bridge.fingerprint()), &host);
    let watch = watch.args(["--fingerprint", daemon.fingerprint(), "--json"]).start().unwrap();
    watch.out.wait("system_state").unwrap();
    bridge.signal(Signal::SIGSTOP).unwrap();
    let mut direct = Peer::local(&daemon).unwrap();
    // The sockets' buffers come first.
    let mut number = 0;
    while !daemon.log().lines().iter().any(|line| line.contains("it does not read")) {
        let id = format!("j{number}");
        let run = json!({ "action": "run", id.clone(): "seq 12000" });
        direct.request("rpc", "dispatcher", &run).unwrap();
        number += 1;
        assert!(number < 2000, "it is never closed");
        until("the job has ended", || {
            let list = json!({ "action": "list" });
            let jobs = direct.request("rpc", "dispatcher", &list).unwrap();
            jobs["jobs"]["no_queue"][&id]["state"] == "finished"
        });
    }
    bridge.signal(Signal::SIGCONT).unwrap();
    // It reconnects, and has missed events.
    watch.out.wait(r#""state":"finished""#).unwrap();
}
