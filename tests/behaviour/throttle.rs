//! Throttling of authentication failures: by address, or by delay where blocking is not possible.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Cli, Daemon, Key, Peer, Setup, Transport, has_loopback_addresses};

use super::{PROGRAM, ourselves};

/// Loopback addresses count like others.
fn setup() -> Setup {
    Setup::new(PROGRAM).unwrap().with("auth.throttle_loopback", true)
}

fn wrong() -> Value {
    json!({ "token": "A".repeat(43) })
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + number)
}

#[test]
fn failure_beyond_the_limit_blocks_the_address() {
    if !has_loopback_addresses() {
        return;
    }
    let daemon = setup().with("auth.block_time", r#""2h""#).start().unwrap();
    let mut other = Peer::connect_from(&daemon, address(1)).unwrap();
    let mut known = Peer::connect_from(&daemon, address(1)).unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    known.request("rpc", "auth_token", &token).unwrap();
    let mut peer = Peer::connect_from(&daemon, address(1)).unwrap();
    for _ in 0..5 {
        assert_eq!(peer.refused("rpc", "auth_token", &wrong()).unwrap().code, 401);
    }
    let refused = peer.refused("rpc", "auth_token", &wrong()).unwrap();
    assert_eq!(refused.code, 403);
    assert!(refused.message.contains("try again in 7200 s"), "{}", refused.message);
    assert_eq!(peer.closed().unwrap(), 1008);
    // An unauthenticated connection of that address is closed too; an authenticated one stays.
    assert_eq!(other.closed().unwrap(), 1006);
    known.request("rpc", "query", &json!({})).unwrap();
    assert!(Peer::connect_from(&daemon, address(1)).is_err());
    let mut honest = Peer::connect_from(&daemon, address(2)).unwrap();
    honest.request("rpc", "auth_token", &token).unwrap();
    let lines = daemon.log().lines();
    let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(of("authentication failure from 127.0.1.1: token"), 6);
    assert_eq!(of("blocked 127.0.1.1 for 7200 s: too many failures"), 1);
}

#[test]
fn a_block_ends_after_its_time() {
    if !has_loopback_addresses() {
        return;
    }
    let daemon = setup().with("auth.block_time", r#""1s""#).with("auth.fail_limit", 1).start();
    let daemon = daemon.unwrap();
    let mut peer = Peer::connect_from(&daemon, address(1)).unwrap();
    peer.refused("rpc", "auth_token", &wrong()).unwrap();
    assert_eq!(peer.refused("rpc", "auth_token", &wrong()).unwrap().code, 403);
    let blocked = Instant::now();
    while Peer::connect_from(&daemon, address(1)).is_err() {
        assert!(blocked.elapsed() < Duration::from_secs(20), "it does not end");
    }
    assert!(blocked.elapsed() > Duration::from_millis(900), "{:?}", blocked.elapsed());
}

#[test]
fn other_errors_do_not_count_as_failures() {
    if !has_loopback_addresses() {
        return;
    }
    let daemon = setup().with("auth.fail_limit", 1).start().unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    for _ in 0..10 {
        let mut peer = Peer::connect_from(&daemon, address(1)).unwrap();
        peer.refused("rpc", "query", &json!({})).unwrap();
        peer.refused("rpc", "auth", &json!({})).unwrap();
        peer.refused("rpc", "auth_token", &json!({})).unwrap();
        peer.request("rpc", "auth_token", &token).unwrap();
    }
}

#[test]
fn attempts_of_many_addresses_are_bounded() {
    if !has_loopback_addresses() {
        return;
    }
    const ADDRESSES: u32 = 200;
    let daemon = setup().start().unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let mut honest = Peer::connect_from(&daemon, address(ADDRESSES)).unwrap();
    honest.request("rpc", "auth_token", &token).unwrap();
    let before = daemon.process().resident().unwrap();
    let (mut answered, mut unheard) = (0, 0);
    let mut longest = Duration::ZERO;
    for attempt in 0..10_000 {
        let tried = Peer::connect_from(&daemon, address(attempt % ADDRESSES))
            .and_then(|mut peer| peer.refused("rpc", "auth_token", &wrong()));
        match tried {
            Ok(refused) => {
                assert!([401, 403].contains(&refused.code), "{}", refused.message);
                answered += 1;
            }
            Err(_) => unheard += 1,
        }
        if attempt % 100 == 0 {
            let began = Instant::now();
            honest.request("rpc", "query", &json!({})).unwrap();
            longest = longest.max(began.elapsed());
        }
    }
    assert_eq!((answered, unheard), (6 * ADDRESSES, 10_000 - 6 * ADDRESSES));
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let grown = daemon.process().resident().unwrap().saturating_sub(before);
    assert!(grown < 2 * 1024 * 1024, "{grown} bytes more");
    let mut late = Peer::connect_from(&daemon, address(ADDRESSES)).unwrap();
    late.request("rpc", "auth_token", &token).unwrap();
}

#[test]
fn loopback_failures_are_delayed_and_four_wait_at_most() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let mut peer = Peer::connect(&daemon, Transport::Plain).unwrap();
    let mut took = Vec::new();
    for _ in 0..4 {
        let began = Instant::now();
        assert_eq!(peer.refused("rpc", "auth_token", &wrong()).unwrap().code, 401);
        took.push(began.elapsed());
    }
    assert!(took[0] < took[3] && took[3] >= Duration::from_secs(2), "{took:?}");
    let mut peers: Vec<Peer> =
        (0..5).map(|_| Peer::known(&daemon, Transport::Plain).unwrap()).collect();
    let attempt = json!({ "namespace": "rpc", "name": "auth_token", "id": "w", "args": wrong() });
    for peer in &mut peers[..4] {
        peer.send(&attempt).unwrap();
        // Behind the attempt, so the attempt has been read when a third one is answered.
        let mut other = Peer::local(&daemon).unwrap();
        other.request("rpc", "query", &json!({})).unwrap();
    }
    assert_eq!(peers[4].refused("rpc", "auth_token", &wrong()).unwrap().code, 429);
    peers[4].request("rpc", "auth_token", &token).unwrap();
    for peer in &mut peers[..4] {
        assert_eq!(peer.frame().unwrap()["args"]["code"], 401);
    }
    peers[4].request("rpc", "auth_token", &token).unwrap();
}

#[test]
fn reconnecting_client_is_not_spared_the_delay() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let attempt = json!({ "namespace": "rpc", "name": "auth_token", "id": "w", "args": wrong() });
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..40 {
        let mut peer = Peer::connect(&daemon, Transport::Plain).unwrap();
        peer.send(&attempt).unwrap();
        // Behind the attempt, as above.
        Peer::local(&daemon).unwrap().request("rpc", "query", &json!({})).unwrap();
        peers.push(peer);
    }
    let lines = daemon.log().lines();
    let is_failure = |line: &&String| line.contains("authentication failure from 127.0.0.1");
    let failures = lines.iter().filter(is_failure).count();
    // In ten seconds, and this takes less than one, the delays leave room for eight.
    assert!((4..12).contains(&failures), "{failures} attempts were taken");
    let mut late = Peer::connect(&daemon, Transport::Plain).unwrap();
    assert_eq!(late.refused("rpc", "auth_token", &wrong()).unwrap().code, 429);
}

#[test]
fn authenticated_client_has_the_limits_of_its_address() {
    if !has_loopback_addresses() {
        return;
    }
    let daemon = setup().start().unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let mut known: Vec<Peer> = Vec::new();
    for _ in 0..2 {
        let mut peer = Peer::connect_from(&daemon, address(1)).unwrap();
        peer.request("rpc", "auth_token", &token).unwrap();
        known.push(peer);
    }
    for _ in 0..5 {
        assert_eq!(known[0].refused("rpc", "auth_token", &wrong()).unwrap().code, 401);
    }
    assert_eq!(known[0].refused("rpc", "auth_token", &wrong()).unwrap().code, 403);
    let refused = known[1].refused("rpc", "auth_token", &wrong()).unwrap();
    assert_eq!(refused.code, 403);
    assert!(refused.message.contains("try again in 3600 s"), "{}", refused.message);
    // A right token is cheap to verify, and cannot be guessed.
    known[1].request("rpc", "auth_token", &token).unwrap();
    known[1].request("rpc", "query", &json!({})).unwrap();
}

/// Four wrong tokens with delayed replies, each from another loopback address.
fn pending(daemon: &Daemon) -> Vec<Peer> {
    let attempt = json!({ "namespace": "rpc", "name": "auth_token", "id": "w", "args": wrong() });
    let mut peers = Vec::new();
    for number in 1..6 {
        let mut peer = Peer::connect_from(daemon, address(number)).unwrap();
        peer.send(&attempt).unwrap();
        // Behind the attempt, so it has been read.
        Peer::local(daemon).unwrap().request("rpc", "query", &json!({})).unwrap();
        peers.push(peer);
    }
    peers
}

#[test]
fn loopback_addresses_are_one_origin_of_failures() {
    if !has_loopback_addresses() {
        return;
    }
    let daemon = Daemon::start(PROGRAM).unwrap();
    let attempt = json!({ "namespace": "rpc", "name": "auth_token", "id": "w", "args": wrong() });
    let mut peers = Vec::new();
    for number in 1..41 {
        let mut peer = Peer::connect_from(&daemon, address(number)).unwrap();
        peer.send(&attempt).unwrap();
        // Behind the attempt, so it has been read.
        Peer::local(&daemon).unwrap().request("rpc", "query", &json!({})).unwrap();
        peers.push(peer);
    }
    let lines = daemon.log().lines();
    let is_failure = |line: &&String| line.contains("authentication failure from 127.0.1.");
    let failures = lines.iter().filter(is_failure).count();
    // In twenty seconds, and this takes less, their replies leave room for ten; of origins of their
    // own each of the forty would have been taken.
    assert!((4..20).contains(&failures), "{failures} attempts were taken");
}

#[test]
fn right_token_and_key_succeed_while_wrong_ones_are_pending() {
    if !has_loopback_addresses() {
        return;
    }
    let setup = Setup::new(PROGRAM).unwrap().with("auth.pam", false);
    setup.write().unwrap();
    let Some(key) = Key::ed25519().unwrap() else { return };
    let add = Cli::of(PROGRAM, "key").arg("-c").arg(setup.file()).args(["add", &ourselves().0]);
    assert_eq!(add.arg(key.public()).run().unwrap().code(), 0);
    let daemon = setup.start().unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let _pending = pending(&daemon);
    for _ in 0..20 {
        let mut peer = Peer::connect(&daemon, Transport::Plain).unwrap();
        peer.request("rpc", "auth_token", &token).unwrap();
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        peer.show_key(&key, &daemon, Transport::Tls).unwrap();
    }
}

#[test]
fn clients_of_one_address_with_keys_all_authenticate_at_once() {
    let setup = Setup::new(PROGRAM).unwrap().with("auth.pam", false);
    setup.write().unwrap();
    let Some(key) = Key::ed25519().unwrap() else { return };
    let add = Cli::of(PROGRAM, "key").arg("-c").arg(setup.file()).args(["add", &ourselves().0]);
    assert_eq!(add.arg(key.public()).run().unwrap().code(), 0);
    let daemon = setup.start().unwrap();
    let url = format!("wss://{}", daemon.tls());
    let running: Vec<_> = (0..40)
        .map(|_| {
            let command = Cli::of(PROGRAM, "run").args(["--url", &url, "--fingerprint"]);
            let command = command.arg(daemon.fingerprint()).arg("--key").arg(key.private());
            command.arg("true").start().unwrap()
        })
        .collect();
    for running in running {
        let finished = running.wait().unwrap();
        assert_eq!(finished.code(), 0, "{}", finished.err);
    }
}
