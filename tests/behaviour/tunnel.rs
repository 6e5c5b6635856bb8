//! Tunnels through an untrusted relay: it can read nothing, and tampered messages are not carried
//! out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{Bridge, Daemon, Outcome, Peer, Person, RelayedTunnel, Routed, Setup, until};

use super::{PROGRAM, ourselves};

fn start(bridge: &Bridge) -> Outcome<(Setup, Daemon)> {
    let setup = Setup::new(PROGRAM)?.with("auth.pam", false).with_lines(&bridge.link("office"));
    let daemon = setup.start()?;
    Ok((setup, daemon))
}

/// A client behind the relay that has authenticated by a token.
fn known(daemon: &Daemon, bridge: &Bridge, id: &str) -> Outcome<RelayedTunnel> {
    let server = bridge.wait_for_servers(1).remove(0);
    let mut tunnel = RelayedTunnel::open(bridge.client(id), &server, daemon.fingerprint())?;
    tunnel.request("rpc", "auth_token", &json!({ "token": Peer::token(daemon)? }))?;
    Ok(tunnel)
}

/// All jobs that the daemon knows.
fn jobs(daemon: &Daemon) -> Outcome<Vec<String>> {
    let mut peer = Peer::local(daemon)?;
    // A job is listed once it is durable: earlier submissions are durable before this one.
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let last = format!("last {}", LAST.fetch_add(1, Ordering::Relaxed));
    peer.run(&json!({ last: "true" }))?;
    let listed = peer.request("rpc", "dispatcher", &json!({ "action": "list" }))?;
    let queues = listed["jobs"].as_object().ok_or("no jobs")?;
    let ids = queues.values().filter_map(Value::as_object).flat_map(|queue| queue.keys());
    Ok(ids.filter(|id| !id.starts_with("last ")).cloned().collect())
}

fn run(id: &str) -> String {
    let args = json!({ "action": "run", id: "true" });
    json!({ "namespace": "rpc", "name": "dispatcher", "id": id, "args": args }).to_string()
}

/// All bytes that the relay could derive from forwarded payloads: unchanged, and decoded, also
/// across payloads.
fn all_that_was_seen(routed: &[Routed]) -> Vec<u8> {
    let mut seen = Vec::new();
    for from in routed.iter().map(|it| it.from.as_str()).collect::<std::collections::BTreeSet<_>>()
    {
        for one in routed.iter().filter(|one| one.from == from) {
            let records = one.payload.strip_prefix("tls ").unwrap_or(&one.payload);
            seen.extend(STANDARD.decode(records).unwrap_or_default());
        }
        for one in routed.iter().filter(|one| one.from == from) {
            seen.extend(one.payload.as_bytes());
        }
    }
    seen
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[test]
fn a_bridge_sees_nothing_of_requests_events_tokens_and_output() {
    let bridge = Bridge::start().unwrap();
    let (setup, daemon) = start(&bridge).unwrap();
    let person = Person::new(PROGRAM).unwrap();
    person.register(&setup, &ourselves().0).unwrap();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let url = bridge.url();
    let via = |command: &str| {
        let cli = person.via(command, (&url, bridge.fingerprint()), &host);
        cli.args(["--fingerprint", daemon.fingerprint()])
    };
    let command = "printf %s-%s SECRETOUTPUT SECONDHALF";
    let ran = via("run").args(["--id", "SECRETJOB", command]).run().unwrap();
    assert_eq!((ran.code(), ran.out.as_str()), (0, "SECRETOUTPUT-SECONDHALF\n"), "{}", ran.err);
    let token = Peer::token(&daemon).unwrap();
    let mut tunnel = known(&daemon, &bridge, "far").unwrap();
    tunnel.request("rpc", "auth_token", &json!({ "token": token })).unwrap();
    let subscription = json!({ "events": ["dispatcher"], "jobs": ["SECRETJOB"] });
    tunnel.request("events", "subscribe", &subscription).unwrap();
    let state = &tunnel.event("dispatcher").unwrap()["args"];
    assert_eq!(state["process_id"], "SECRETJOB");

    let routed = bridge.routed();
    let (clear, sealed): (Vec<Routed>, Vec<Routed>) =
        routed.into_iter().partition(|one| !one.payload.starts_with("tls "));
    // The one question in clear, and its answer.
    for one in &clear {
        let frame: Value = serde_json::from_str(&one.payload).unwrap();
        assert_eq!((&frame["id"], &frame["namespace"]), (&json!("who"), &json!("rpc")));
        assert!(["identify", "response"].contains(&frame["name"].as_str().unwrap()));
    }
    assert!(sealed.len() >= 20, "{} payloads", sealed.len());
    let seen = all_that_was_seen(&sealed);
    let id = person.key_id().unwrap();
    for word in [
        "SECRETOUTPUT",
        "SECONDHALF",
        "SECRETJOB",
        "printf",
        &token,
        "namespace",
        "dispatcher",
        "subscribe",
        "auth_ssl",
        "test_string",
        "signature",
        &id,
        "process_id",
    ] {
        for form in [word.to_owned(), STANDARD.encode(word).trim_end_matches('=').to_owned()] {
            assert!(!contains(&seen, &form), "{word:?} was seen as {form:?}");
        }
    }
    // The same search finds bytes that are there.
    assert!(contains(&all_that_was_seen(&clear), "identify"));
}

type Meddle = fn(usize, Routed) -> Vec<Routed>;

/// Changes the last byte of the records.
fn changed(mut routed: Routed) -> Routed {
    let mut records = STANDARD.decode(routed.payload.trim_start_matches("tls ")).unwrap();
    *records.last_mut().unwrap() ^= 1;
    routed.payload = format!("tls {}", STANDARD.encode(records));
    routed
}

#[test]
fn requests_changed_by_a_relay_are_never_carried_out() {
    let ways: [(&str, Meddle, &[&str]); 5] = [
        ("changed", |_, routed| vec![changed(routed)], &[]),
        ("repeated", |_, routed| vec![routed.clone(), routed], &["one"]),
        ("left out", |at, routed| if at == 0 { vec![] } else { vec![routed] }, &[]),
        (
            "cut short",
            |at, mut routed| {
                if at == 0 {
                    routed.payload.truncate("tls ".len() + 40);
                }
                vec![routed]
            },
            &[],
        ),
        (
            "garbage before it",
            |_, routed| vec![Routed { payload: "tls %%%".to_owned(), ..routed.clone() }, routed],
            &[],
        ),
    ];
    for (what, meddle, obeyed) in ways {
        let bridge = Bridge::start().unwrap();
        let (_, daemon) = start(&bridge).unwrap();
        let mut tunnel = known(&daemon, &bridge, "far").unwrap();
        let count = AtomicUsize::new(0);
        bridge.meddle(move |routed| {
            if routed.from != "far" {
                return vec![routed];
            }
            meddle(count.fetch_add(1, Ordering::Relaxed), routed)
        });
        // The tunnel may have ended.
        let _ = tunnel.send(&run("one"));
        let _ = tunnel.send(&run("two"));
        until(&format!("{what}: the session ends"), || {
            let status = Peer::local(&daemon).unwrap().request("rpc", "status", &json!({}));
            status.unwrap()["links"][0]["clients"][0]["client"].is_null()
        });
        assert_eq!(jobs(&daemon).unwrap(), obeyed, "{what}");
    }
}

#[test]
fn requests_out_of_order_are_not_obeyed() {
    let bridge = Bridge::start().unwrap();
    let (_, daemon) = start(&bridge).unwrap();
    let mut tunnel = known(&daemon, &bridge, "far").unwrap();
    let held: Mutex<Option<Routed>> = Mutex::new(None);
    bridge.meddle(move |routed| {
        let mut held = held.lock().unwrap();
        match held.take() {
            _ if routed.from != "far" => vec![routed],
            Some(first) => vec![routed, first],
            None => {
                *held = Some(routed);
                vec![]
            }
        }
    });
    tunnel.send(&run("one")).unwrap();
    tunnel.send(&run("two")).unwrap();
    // The alert about it.
    assert!(tunnel.message().is_err());
    assert_eq!(jobs(&daemon).unwrap(), [""; 0]);
}

#[test]
fn replayed_records_are_rejected() {
    let bridge = Bridge::start().unwrap();
    let (_, daemon) = start(&bridge).unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let mut tunnel = known(&daemon, &bridge, "far").unwrap();
    let submit = json!({ "action": "submit", "commands": ["true"] });
    tunnel.request("rpc", "dispatcher", &submit).unwrap();
    assert_eq!(jobs(&daemon).unwrap().len(), 1);
    let recorded: Vec<Routed> = bridge.routed().into_iter().filter(|it| it.from == "far").collect();
    assert!(recorded.len() > 3);
    // To the live session, and to another one from its beginning.
    let other = bridge.client("other");
    for one in &recorded {
        other.send(&server, &one.payload);
    }
    for one in &recorded {
        tunnel.client().send(&server, &one.payload);
    }
    // The server has processed them when it replies to a later client.
    let mut later = known(&daemon, &bridge, "later").unwrap();
    later.request("rpc", "query", &json!({})).unwrap();
    assert_eq!(jobs(&daemon).unwrap().len(), 1);
}

#[test]
fn right_token_succeeds_while_others_behind_the_bridge_fail() {
    let bridge = Bridge::start().unwrap();
    let (_setup, daemon) = start(&bridge).unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let args = json!({ "token": "A".repeat(43) });
    let wrong = json!({ "namespace": "rpc", "name": "auth_token", "id": "w", "args": args });
    let mut failing = Vec::new();
    for number in 0..13 {
        let client = bridge.client(&format!("wrong-{number}"));
        let mut tunnel = RelayedTunnel::open(client, &server, daemon.fingerprint()).unwrap();
        tunnel.send(&wrong.to_string()).unwrap();
        failing.push(tunnel);
    }
    for number in 0..5 {
        known(&daemon, &bridge, &format!("right-{number}")).unwrap();
    }
}

#[test]
fn server_in_the_place_of_the_right_one_is_detected() {
    let bridge = Bridge::start().unwrap();
    let (setup, right) = start(&bridge).unwrap();
    let person = Person::new(PROGRAM).unwrap();
    person.register(&setup, &ourselves().0).unwrap();
    let right_id = bridge.wait_for_servers(1).remove(0);
    let (setup, wrong) = start(&bridge).unwrap();
    person.register(&setup, &ourselves().0).unwrap();
    let wrong_id = bridge.wait_for_servers(2).into_iter().find(|id| *id != right_id).unwrap();
    // Frames to the one are sent to the other, and its replies appear to be the first one's.
    let (from, to) = (right_id.clone(), wrong_id.clone());
    let names = Arc::new((from, to));
    bridge.meddle(move |mut routed| {
        if routed.payload.starts_with("tls ") {
            if routed.to == names.0 {
                routed.to.clone_from(&names.1);
            } else if routed.from == names.1 {
                routed.from.clone_from(&names.0);
            }
        }
        vec![routed]
    });
    let url = bridge.url();
    let call = person.via("call", (&url, bridge.fingerprint()), &right_id);
    let call = call.args(["--fingerprint", right.fingerprint()]);
    let called =
        call.args(["rpc", "dispatcher", r#"{"action": "run", "j": "true"}"#]).run().unwrap();
    assert_eq!(called.code(), 76, "{}", called.err);
    assert!(called.err.contains("certificate"), "{}", called.err);
    assert!(called.err.contains(wrong.fingerprint()), "{}", called.err);
    for daemon in [&right, &wrong] {
        assert_eq!(jobs(daemon).unwrap(), [""; 0]);
    }
}

#[test]
fn tampered_replies_are_rejected() {
    let bridge = Bridge::start().unwrap();
    let (setup, daemon) = start(&bridge).unwrap();
    let person = Person::new(PROGRAM).unwrap();
    person.register(&setup, &ourselves().0).unwrap();
    let server = bridge.wait_for_servers(1).remove(0);
    let url = bridge.url();
    // The handshake and the authentication pass unchanged.
    let count = AtomicUsize::new(0);
    let id = server.clone();
    bridge.meddle(move |routed| {
        if routed.from == id && routed.payload.starts_with("tls ") {
            let at = count.fetch_add(1, Ordering::Relaxed);
            if at >= 3 {
                return vec![changed(routed)];
            }
        }
        vec![routed]
    });
    let call = person.via("call", (&url, bridge.fingerprint()), &server);
    let call = call.args(["--fingerprint", daemon.fingerprint()]);
    let called = call.args(["rpc", "status"]).run().unwrap();
    assert_eq!((called.code(), called.out.as_str()), (76, ""), "{}", called.err);
    assert!(called.err.contains("TLS"), "{}", called.err);
}
