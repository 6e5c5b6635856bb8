//! A relay operated by an attacker, and attackers behind it: limits of their influence on a linked
//! server.

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Bridge, Cli, Daemon, Key, Outcome, Peer, Person, RelayedTunnel, Setup, Transport, until,
};

use super::{PROGRAM, ourselves};

fn setup(bridge: &Bridge, allowed: &str) -> Setup {
    Setup::new(PROGRAM)
        .unwrap()
        .with("auth.pam", false)
        .with("bridge.allow_legacy_bridge_clients", format!("{allowed:?}"))
        .with_lines(&bridge.link("office"))
}

/// A server with one registered key.
fn start(setup: &Setup, key: &Key, options: &[&str]) -> Outcome<Daemon> {
    setup.write()?;
    let add = Cli::of(PROGRAM, "key").args(["add", &ourselves().0]).arg(key.public());
    let added = add.args(options).arg("-c").arg(setup.file()).run()?;
    assert_eq!(added.code(), 0, "{}", added.err);
    setup.start()
}

fn frame(name: &str, args: &Value) -> Value {
    json!({ "namespace": "rpc", "name": name, "id": name, "args": args })
}

/// A relay can make a legacy client "encrypt" any string, because that is how the client
/// authenticates to it.
#[test]
fn proof_extracted_from_a_legacy_client_opens_no_tunnel() {
    let Some(key) = Key::rsa().unwrap() else { return };
    let bridge = Bridge::start().unwrap();
    let daemon = start(&setup(&bridge, "no"), &key, &["--legacy"]).unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let mut tunnel =
        RelayedTunnel::open(bridge.client("far"), &server, daemon.fingerprint()).unwrap();
    let first = tunnel.request("rpc", "auth_ssl", &json!({})).unwrap();
    let string = first["test_string"].as_str().unwrap();
    let args = json!({ "encrypted_string": key.encrypt(string).unwrap() });
    let refused = tunnel.ask("rpc", "auth_ssl", &args).unwrap().unwrap_err();
    assert_eq!(refused.code, 403, "{refused:?}");
    assert_eq!(tunnel.ask("rpc", "query", &json!({})).unwrap().unwrap_err().code, 401);
    // On a direct connection a legacy client authenticates that way.
    let mut direct = Peer::connect(&daemon, Transport::Tls).unwrap();
    let args = json!({ "encrypted_string": key.encrypt(&direct.challenge().unwrap()).unwrap() });
    direct.request("rpc", "auth_ssl", &args).unwrap();
}

/// On plain loopback keys sign for no certificate; such a signature must be useless here.
#[test]
fn signature_without_certificate_is_invalid_in_clear() {
    let Some(key) = Key::ed25519().unwrap() else { return };
    let bridge = Bridge::start().unwrap();
    let _daemon = start(&setup(&bridge, "full"), &key, &[]).unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let client = bridge.client("far");
    let first = client.ask_in_clear(&server, &frame("auth_ssl", &json!(""))).unwrap();
    let string = first["args"]["test_string"].as_str().unwrap();
    let signature = key.sign_for("server", &"00".repeat(32), string).unwrap();
    let args = json!({ "key": key.id().unwrap(), "signature": signature });
    let refused = client.ask_in_clear(&server, &frame("auth_ssl", &args)).unwrap();
    assert_eq!((&refused["name"], &refused["args"]["code"]), (&json!("error"), &json!(403)));
}

#[test]
fn reconnecting_caller_is_not_spared_the_delay() {
    const TRIES: usize = 12;
    let bridge = Bridge::start().unwrap();
    let daemon = setup(&bridge, "no").start().unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let wrong = frame("auth_token", &json!({ "token": "x" })).to_string();
    for number in 0..TRIES {
        // Each uses another name, and disconnects at once.
        let client = bridge.client(&format!("guess-{number}"));
        let mut tunnel = RelayedTunnel::open(client, &server, daemon.fingerprint()).unwrap();
        tunnel.send(&wrong).unwrap();
    }
    let client = bridge.client("last");
    let who = client.ask_in_clear(&server, &frame("identify", &json!(""))).unwrap();
    assert_eq!(who["name"], "response");
    let lines = daemon.log().lines();
    let failures = lines.iter().filter(|line| line.contains("authentication failure")).count();
    assert!((4..TRIES).contains(&failures), "{failures} tries were judged");
}

#[test]
fn right_key_behind_a_bridge_succeeds_while_wrong_ones_are_pending() {
    let Some(key) = Key::ed25519().unwrap() else { return };
    let bridge = Bridge::start().unwrap();
    let daemon = start(&setup(&bridge, "no"), &key, &[]).unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let open = |name: String| {
        RelayedTunnel::open(bridge.client(&name), &server, daemon.fingerprint()).unwrap()
    };
    let wrong = frame("auth_token", &json!({ "token": "x" })).to_string();
    let mut pending = Vec::new();
    for number in 0..12 {
        let mut tunnel = open(format!("guess-{number}"));
        tunnel.send(&wrong).unwrap();
        pending.push(tunnel);
    }
    for number in 0..8 {
        let mut tunnel = open(format!("good-{number}"));
        let first = tunnel.request("rpc", "auth_ssl", &json!({})).unwrap();
        let string = first["test_string"].as_str().unwrap();
        let proof = key.proof(&daemon, Transport::Tls, string).unwrap();
        tunnel.request("rpc", "auth_ssl", &proof).unwrap();
        tunnel.request("rpc", "query", &json!({})).unwrap();
    }
}

#[test]
fn unauthenticated_client_in_clear_has_usual_limits() {
    for allowed in ["no", "full"] {
        let bridge = Bridge::start().unwrap();
        let _daemon = setup(&bridge, allowed).start().unwrap();
        let server = bridge.wait_for_servers(1).remove(0);
        let client = bridge.client("far");
        let mut long = frame("identify", &json!(""));
        long["id"] = "x".repeat(100_000).into();
        client.send(&server, &long.to_string());
        let who = client.ask_in_clear(&server, &frame("identify", &json!(""))).unwrap();
        assert_eq!(who["id"], "identify", "{allowed}");
        assert!(client.receive_within(Duration::from_millis(100)).is_err());
    }
}

#[test]
fn token_seen_by_a_relay_is_revoked_with_clear_access() {
    let Some(key) = Key::rsa().unwrap() else { return };
    let bridge = Bridge::start().unwrap();
    let mut setup = setup(&bridge, "full");
    let daemon = start(&setup, &key, &["--legacy"]).unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let client = bridge.client("far");
    let first = client.ask_in_clear(&server, &frame("auth_ssl", &json!(""))).unwrap();
    let string = first["args"]["test_string"].as_str().unwrap();
    let args = json!({ "encrypted_string": key.encrypt(string).unwrap() });
    let shown = client.ask_in_clear(&server, &frame("auth_ssl", &args)).unwrap();
    let token = json!({ "token": shown["args"][0].as_str().unwrap() });
    client.leave();
    setup.set("bridge.allow_legacy_bridge_clients", r#""read""#);
    setup.write().unwrap();
    daemon.reload().unwrap();
    let mut tunnel =
        RelayedTunnel::open(bridge.client("spy"), &server, daemon.fingerprint()).unwrap();
    assert_eq!(tunnel.ask("rpc", "auth_token", &token).unwrap().unwrap_err().code, 401);
}

#[test]
fn overlong_message_of_one_client_does_not_end_the_link() {
    let bridge = Bridge::start().unwrap();
    let setup = setup(&bridge, "no").with("server.max_message", r#""8KiB""#);
    let daemon = setup.start().unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let mut good =
        RelayedTunnel::open(bridge.client("good"), &server, daemon.fingerprint()).unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    good.request("rpc", "auth_token", &token).unwrap();
    // The maximum size that a relay forwards by default.
    for payload in ["x", "{", "tls "] {
        bridge.client("bad").send(&server, &payload.repeat(255 * 1024 / payload.len()));
    }
    good.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn status_is_bounded_despite_invented_clients() {
    let bridge = Bridge::start().unwrap();
    let setup = setup(&bridge, "no").with("events.max_event", r#""64KiB""#);
    let daemon = setup.with("server.outbox", r#""128KiB""#).start().unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let ids: Vec<String> = (0..4096).map(|number| format!("{number:0128}")).collect();
    // As many as there is room for in a text.
    let args = json!({ "available_connections": &ids[..2000] });
    let event = json!({ "id": "", "namespace": "events", "name": "bridge", "args": args });
    bridge.send_to(&server, &event.to_string());
    let mut peer = Peer::local(&daemon).unwrap();
    until("the list is taken", || {
        let status = peer.request("rpc", "status", &json!({})).unwrap();
        status["links"][0]["available"].as_u64().is_some_and(|count| count >= 2000)
    });
}

#[test]
fn a_host_that_is_not_heard_at_first_is_joined_later() {
    let bridge = Bridge::start().unwrap();
    let setup = setup(&bridge, "no");
    let daemon = setup.start().unwrap();
    let person = Person::new(PROGRAM).unwrap();
    person.register(&setup, &ourselves().0).unwrap();
    person.knows_daemon("alpha", &daemon).unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let mut lost = false;
    bridge.meddle(move |routed| {
        let is_first = !lost && routed.from == server && routed.payload.starts_with("tls ");
        lost |= is_first;
        if is_first { vec![] } else { vec![routed] }
    });
    let watch = person.at("watch", &bridge.url()).args(["--fingerprint", bridge.fingerprint()]);
    let watch = watch.args(["dispatcher", "--json"]).start().unwrap();
    watch.err.wait("it does not answer").unwrap();
    watch.out.wait(r#"{"host":"alpha","namespace":"fleet","name":"joined"}"#).unwrap();
}
