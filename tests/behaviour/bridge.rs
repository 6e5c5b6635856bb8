//! The relay: introduction of peers, and forwarding of frames.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    BridgePeer, Cli, Daemon, Outcome, Peer, PeerKey, Setup, Signal, Transport, client_header,
    register,
};

use crate::PROGRAM;

/// Checksums of keys that two peers may have in common; the keys themselves do not matter.
const A: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
const B: &str = "BBBBBBBBBBBBBBBBBBBBBA==";
const C: &str = "CCCCCCCCCCCCCCCCCCCCCA==";
const D: &str = "DDDDDDDDDDDDDDDDDDDDDA==";

/// A relay with one registered key, used by all peers of a test.
pub(super) fn bridge() -> Outcome<(Daemon, PeerKey)> {
    bridge_with(|setup| setup)
}

pub(super) fn bridge_with(change: impl FnOnce(Setup) -> Setup) -> Outcome<(Daemon, PeerKey)> {
    let (setup, key) = (change(Setup::bridge(PROGRAM)?), PeerKey::new()?);
    register(&setup.directory().join("state"), &[("office", &key, &[])])?;
    Ok((setup.start()?, key))
}

/// A server and a client that are introduced: the id of each as seen by the other.
pub(super) fn pair(
    bridge: &Daemon,
    key: &PeerKey,
    sum: &str,
) -> Outcome<(BridgePeer, String, BridgePeer, String)> {
    let mut server = BridgePeer::join(bridge, "server", key, &[sum])?;
    server.so_far()?;
    let mut client = BridgePeer::join(bridge, "client", key, &[sum])?;
    let of_client = server.list()?.pop().ok_or("the server sees nobody")?;
    let of_server = client.list()?.pop().ok_or("the client sees nobody")?;
    Ok((server, of_client, client, of_server))
}

/// The code of an error frame.
fn code(frame: &str) -> Outcome<u64> {
    let frame: Value = serde_json::from_str(frame)?;
    assert_eq!(frame["name"], "error", "{frame}");
    Ok(frame["args"]["code"].as_u64().ok_or("no code")?)
}

#[test]
fn server_and_client_with_a_common_key_exchange_messages() -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let mut server = BridgePeer::join(&bridge, "server", &key, &[A, B])?;
    assert_eq!(server.so_far()?, [""; 0]);
    let mut client = BridgePeer::join(&bridge, "client", &key, &[B, C])?;
    let (of_client, of_server) = (server.list()?, client.list()?);
    assert_eq!((of_client.len(), of_server.len()), (1, 1));
    for id in [&of_client[0], &of_server[0]] {
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b)), "{id}");
        assert!(id.len() >= 22, "{id}");
    }
    client.send_to(&of_server[0], "{\"to\":\"the server\"}\nwith a second line")?;
    let heard = server.heard()?;
    assert_eq!(heard.0, of_client[0]);
    assert_eq!(heard.1, "{\"to\":\"the server\"}\nwith a second line");
    server.send_to(&of_client[0], "tls AAAA")?;
    assert_eq!(client.heard()?, (of_server[0].clone(), "tls AAAA".to_owned()));
    Ok(())
}

/// Bridge events since the last call, as lists of the peers' numbers.
fn received(peer: &mut BridgePeer, names: &[String]) -> Outcome<Vec<Vec<usize>>> {
    let number = |id: &Value| names.iter().position(|name| id == name).ok_or("an unknown id");
    let frames = peer.so_far()?;
    frames
        .iter()
        .map(|text| {
            let frame: Value = serde_json::from_str(text)?;
            assert_eq!((&frame["namespace"], &frame["name"]), (&"events".into(), &"bridge".into()));
            let list = frame["args"]["available_connections"].as_array().ok_or("no list")?;
            Ok(list.iter().map(number).collect::<Result<Vec<usize>, _>>()?)
        })
        .collect()
}

/// Servers 0, 1, 2 and clients 3, 4, 5.
#[test]
fn peers_get_exactly_the_lists_that_concern_them() -> Outcome<()> {
    let (setup, office, home) = (Setup::bridge(PROGRAM)?, PeerKey::new()?, PeerKey::new()?);
    let state = setup.directory().join("state");
    register(&state, &[("office", &office, &[]), ("home", &home, &[])])?;
    let bridge = setup.start()?;
    // The first peer of each kind determines the ids of the others.
    let mut names = vec![String::new(); 6];
    let mut look = [
        BridgePeer::join(&bridge, "client", &office, &[A, B, C, D])?,
        BridgePeer::join(&bridge, "server", &office, &[A, B, C, D])?,
    ];
    look[0].list()?;
    look[1].list()?;
    let claims = [[A, B].as_slice(), &[B, C], &[D], &[A], &[B], &[A, C]].map(<[&str]>::to_vec);
    let mut peers = Vec::new();
    for (number, sums) in claims.iter().enumerate() {
        let (kind, key) = if number < 3 { ("server", &office) } else { ("client", &home) };
        peers.push(BridgePeer::join(&bridge, kind, key, sums)?);
        names[number] = look[number / 3].list()?.pop().ok_or("nobody came")?;
    }
    let [look, other] = look;
    for gone in [look, other] {
        drop(gone);
    }
    bridge.log().wait("peer \"office\" (client \"client-of-a-test\") at")?;
    bridge.log().wait("peer \"office\" (server \"server-of-a-test\") at")?;
    // They also saw the two that are gone; what follows is new.
    names.push(String::new());
    let mut last = Vec::new();
    for peer in &mut peers {
        let frames = peer.so_far()?;
        let text = frames.last().ok_or("it was told nothing")?;
        let frame: Value = serde_json::from_str(text)?;
        let list = frame["args"]["available_connections"].as_array().cloned().ok_or("no list")?;
        let number = |id: &Value| names.iter().position(|name| id == name);
        last.push(list.iter().map(number).collect::<Option<Vec<usize>>>().ok_or("unknown")?);
    }
    assert_eq!(last, [vec![3, 4, 5], vec![4, 5], vec![], vec![0], vec![0, 1], vec![0, 1]]);

    let expect = |peers: &mut Vec<BridgePeer>, who: &[usize], wanted: &[&[&[usize]]]| {
        for (peer, wanted) in who.iter().zip(wanted) {
            assert_eq!(received(&mut peers[*peer], &names)?, *wanted, "peer {peer}");
        }
        Outcome::Ok(())
    };
    // A client changes its keys: two servers get another list, the third does not.
    peers[3].claim(&[B, D])?;
    expect(
        &mut peers,
        &[3, 0, 1, 2, 4, 5],
        &[&[&[0, 1, 2]], &[], &[&[3, 4, 5]], &[&[3]], &[], &[]],
    )?;
    // The same keys once more, in another order.
    peers[3].claim(&[D, B])?;
    expect(&mut peers, &[3, 0, 1, 2, 4, 5], &[&[], &[], &[], &[], &[], &[]])?;
    // A server gets a key, and loses it.
    peers[2].claim(&[D, A])?;
    expect(&mut peers, &[2, 0, 1, 3, 4, 5], &[&[&[3, 5]], &[], &[], &[], &[], &[&[0, 1, 2]]])?;
    peers[2].claim(&[D])?;
    expect(&mut peers, &[2, 0, 1, 3, 4, 5], &[&[&[3]], &[], &[], &[], &[], &[&[0, 1]]])?;
    // An orderly goodbye, and a connection that is cut.
    peers[0].peer.send_message(tungstenite::Message::Close(None))?;
    assert_eq!(peers[0].peer.closed()?, 1005);
    peers[1].peer.stream().cut()?;
    bridge.log().wait("gone")?;
    let lists = |peer: &mut BridgePeer| -> Outcome<Vec<Vec<usize>>> {
        let mut all = received(peer, &names)?;
        support::until("it hears of both", || {
            let more = received(peer, &names).unwrap();
            all.extend(more);
            all.last().is_some_and(|list| !list.contains(&0) && !list.contains(&1))
        });
        Ok(all)
    };
    assert_eq!(lists(&mut peers[3])?, [vec![1, 2], vec![2]]);
    assert_eq!(lists(&mut peers[4])?, [vec![1], vec![]]);
    assert_eq!(lists(&mut peers[5])?, [vec![1], vec![]]);
    // The clients' key is revoked: they are closed, and the last server gets a new list.
    register(&state, &[("office", &office, &[])])?;
    for client in &mut peers[3..] {
        assert_eq!(client.peer.closed()?, 1008);
    }
    assert_eq!(received(&mut peers[2], &names)?, [[0_usize; 0]]);
    Ok(())
}

#[test]
fn frame_reaches_introduced_peers_only() -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let (mut server, of_client, mut client, of_server) = pair(&bridge, &key, A)?;
    let (mut other_server, of_other_client, mut other_client, of_other_server) =
        pair(&bridge, &key, B)?;
    let with_newline = format!("{}\n{}", &of_server[..9], &of_server[9..]);
    for id in [
        "nobody",
        "",
        "a b",
        &of_client,
        &of_other_server,
        &of_other_client,
        &with_newline,
        &format!(" {of_server}"),
        &format!("{of_server} "),
        &of_server.to_uppercase(),
        "\u{e9}",
        &"x".repeat(200_000),
    ] {
        client.send_to(id, "secret")?;
        let frames = client.so_far()?;
        assert_eq!(frames.len(), 1, "{frames:?}");
        assert_eq!(code(&frames[0])?, 404, "{id}");
    }
    client.peer.send_message(tungstenite::Message::text("no newline"))?;
    assert_eq!(code(&client.so_far()?[0])?, 400);
    for peer in [&mut server, &mut other_server, &mut other_client] {
        assert_eq!(peer.so_far()?, [""; 0]);
    }
    // A megabyte exceeds the maximum size of a message.
    client.send_to(&"x".repeat(1 << 20), "secret")?;
    assert_eq!(client.peer.closed()?, 1009);
    assert_eq!(server.list()?, [""; 0]);
    Ok(())
}

#[test]
fn unregistered_key_gets_no_list() -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let (mut server, _, _client, of_server) = pair(&bridge, &key, A)?;
    let mut unauthenticated = BridgePeer::dial(&bridge, "client")?;
    unauthenticated.claim(&[A])?;
    unauthenticated.send_to(&of_server, "x")?;
    let frames = unauthenticated.so_far()?;
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(code(&frames[0])?, 401);
    for (name, wanted) in [("query", 401), ("status", 401), ("auth", 403), ("auth_token", 403)] {
        let args = json!({ "username": "root", "password": "x", "token": "" });
        assert_eq!(unauthenticated.peer.refused("rpc", name, &args)?.code, wanted, "{name}");
    }
    // Another key, one for servers, one for another certificate, another string, none asked for.
    let (wrong, right) = (PeerKey::new()?, bridge.fingerprint());
    let other = "00".repeat(32);
    let showing: [(&PeerKey, &str, &str, bool); 4] = [
        (&wrong, "bridge", right, true),
        (&key, "server", right, true),
        (&key, "bridge", &other, true),
        (&key, "bridge", right, false),
    ];
    for (key, purpose, certificate, same) in showing {
        let stage = unauthenticated.peer.request("rpc", "auth_ssl", &json!(""))?;
        let string = stage["test_string"].as_str().ok_or("no test_string")?;
        assert_eq!(string.len(), 160);
        let string = if same { string.to_owned() } else { "x".repeat(160) };
        let proof = key.proof(purpose, certificate, &string)?;
        assert_eq!(unauthenticated.peer.refused("rpc", "auth_ssl", &proof)?.code, 401);
        assert_eq!(unauthenticated.peer.refused("rpc", "auth_ssl", &proof)?.code, 401);
    }
    let line = "authentication failure from 127.0.0.1: key";
    assert_eq!(bridge.log().lines().iter().filter(|l| l.contains(line)).count(), 4);
    assert_eq!(server.so_far()?, [""; 0]);
    // The right one still counts.
    unauthenticated.authenticate(bridge.fingerprint(), &key)?;
    unauthenticated.claim_when_asked(&[A])?;
    assert_eq!(unauthenticated.list()?, [of_server]);
    Ok(())
}

/// An unreadable file must not preserve a revoked key.
#[test]
fn unreadable_keys_are_read_again_when_possible() -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let mut server = BridgePeer::join(&bridge, "server", &key, &[A])?;
    // Changes there are not noticed. It is below the state: capability mode opens nothing else.
    let state = bridge.directory().join("state");
    let elsewhere = state.join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("keys"))?;
    std::os::unix::fs::symlink("elsewhere/keys", state.join("keys.made"))?;
    std::fs::rename(state.join("keys.made"), state.join("keys"))?;
    bridge.log().wait("cannot read the registered keys, those from before hold: ")?;
    assert_eq!(server.so_far()?, [""; 0]);
    std::fs::remove_dir(elsewhere.join("keys"))?;
    std::fs::write(elsewhere.join("keys"), "")?;
    assert_eq!(server.peer.closed()?, 1008);
    let tried = bridge.log().lines().iter().filter(|l| l.contains("cannot read the reg")).count();
    assert_eq!(tried, 1, "it is said once");
    Ok(())
}

#[test]
fn reconnecting_client_is_not_spared_the_delay() -> Outcome<()> {
    let (bridge, _) = bridge()?;
    let wrong = PeerKey::new()?;
    let mut dropped = Vec::new();
    for _ in 0..30 {
        let mut unauthenticated = BridgePeer::dial(&bridge, "client")?;
        let stage = unauthenticated.peer.request("rpc", "auth_ssl", &json!(""))?;
        let string = stage["test_string"].as_str().ok_or("no test_string")?;
        let proof = wrong.proof("bridge", bridge.fingerprint(), string)?;
        let shown = json!({ "namespace": "rpc", "name": "auth_ssl", "id": "w", "args": proof });
        unauthenticated.peer.send(&shown)?;
        dropped.push(unauthenticated);
    }
    let lines = bridge.log().lines();
    let line = "authentication failure from 127.0.0.1: key";
    let failures = lines.iter().filter(|l| l.contains(line)).count();
    assert!((4..12).contains(&failures), "{failures} keys were looked at");
    Ok(())
}

#[test]
fn added_key_counts_at_once_within_its_registered_limits() -> Outcome<()> {
    let (setup, key) = (Setup::bridge(PROGRAM)?, PeerKey::new()?);
    let state = setup.directory().join("state");
    let bridge = setup.start()?;
    let mut client = BridgePeer::dial(&bridge, "client")?;
    assert!(client.authenticate(bridge.fingerprint(), &key).is_err());
    register(&state, &[("ann", &key, &[B])])?;
    bridge.log().wait("registered keys: 1")?;
    client.authenticate(bridge.fingerprint(), &key)?;
    client.claim_when_asked(&[A, B])?;
    let office = PeerKey::new()?;
    register(&state, &[("ann", &key, &[B]), ("office", &office, &[])])?;
    bridge.log().wait("registered keys: 2")?;
    let mut server = BridgePeer::join(&bridge, "server", &office, &[A])?;
    assert_eq!((server.so_far()?, client.so_far()?), (vec![], vec![]));
    register(&state, &[("ann", &key, &[A]), ("office", &office, &[])])?;
    assert_eq!((server.list()?.len(), client.list()?.len()), (1, 1));
    // An unreadable line is skipped, and affects no other.
    let file = state.join("keys");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(state.join("keys.made"), format!("{{junk\n{text}"))?;
    std::fs::rename(state.join("keys.made"), &file)?;
    bridge.log().wait("keys:1: ")?;
    assert_eq!((server.so_far()?, client.so_far()?), (vec![], vec![]));
    std::fs::remove_file(&file)?;
    assert_eq!((server.peer.closed()?, client.peer.closed()?), (1008, 1008));
    Ok(())
}

#[test]
fn client_that_does_not_read_is_closed_and_delays_no_other() -> Outcome<()> {
    let (bridge, key) = bridge_with(|setup| {
        setup.with("relay.queue", r#""256KiB""#).with("relay.pause", r#""3s""#)
    })?;
    let (mut server, deaf, _unread, _) = pair(&bridge, &key, A)?;
    let mut client = BridgePeer::join(&bridge, "client", &key, &[A])?;
    let of_client = server.list()?.pop().ok_or("nobody")?;
    let (mut near, of_near, mut relayed, _) = pair(&bridge, &key, B)?;
    client.list()?;
    let payload = "x".repeat(16 * 1024);
    let (mut longest, mut rounds) = (Duration::ZERO, 0);
    while !bridge.log().lines().iter().any(|line| line.contains("it does not read")) {
        assert!(rounds < 20_000, "it is not closed");
        server.send_to(&deaf, &payload)?;
        if rounds % 16 == 0 {
            let begun = Instant::now();
            near.send_to(&of_near, "others")?;
            assert_eq!(relayed.heard()?.1, "others");
            longest = longest.max(begun.elapsed());
        }
        rounds += 1;
    }
    assert!(longest < Duration::from_secs(2), "others waited {longest:?}");
    // Until the first reply the server's frames for the other client wait behind those for the
    // stalled one, and then continue.
    server.send_to(&of_client, "still here")?;
    assert_eq!(client.heard()?.1, "still here");
    let line = bridge.log().wait("it does not read")?;
    assert!(line.contains("closing peer \"office\" (client \"client-of-a-test\")"), "{line}");
    assert!(line.ends_with("its queue is full (queue), 1013"), "{line}");
    let peak = bridge.process().peak().ok_or("no peak")?;
    assert!(peak < 32 << 20, "{peak} bytes");
    Ok(())
}

#[test]
fn reader_gets_all_messages_of_a_faster_sender() -> Outcome<()> {
    let (bridge, key) = bridge_with(|setup| setup.with("relay.queue", r#""128KiB""#))?;
    let (mut server, of_client, mut client, of_server) = pair(&bridge, &key, A)?;
    const FRAMES: usize = 4_000;
    let flood = std::thread::spawn(move || {
        for number in 0..FRAMES {
            let payload = format!("{number} {}", "x".repeat(8_000));
            server.send_to(&of_client, &payload).map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(server)
    });
    for number in 0..FRAMES {
        let (from, payload) = client.heard()?;
        assert_eq!(from, of_server);
        assert!(payload.starts_with(&format!("{number} ")), "{}", &payload[..20]);
        if number % 400 == 0 {
            // It is slow for longer than the system's buffers last.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let mut server = flood.join().map_err(|_| "the server failed")??;
    assert_eq!(server.so_far()?, [""; 0]);
    Ok(())
}

/// Each of them may send much at once, together far more than the queue holds.
#[test]
fn reader_gets_all_messages_of_many_senders() -> Outcome<()> {
    const SERVERS: usize = 24;
    const FRAMES: usize = 40;
    let (bridge, key) = bridge_with(|setup| setup.with("relay.queue", r#""128KiB""#))?;
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        let mut server = BridgePeer::join(&bridge, "server", &key, &[A])?;
        server.so_far()?;
        servers.push(server);
    }
    let mut client = BridgePeer::join(&bridge, "client", &key, &[A])?;
    let of_servers = client.list()?;
    let floods: Vec<_> = servers
        .into_iter()
        .map(|mut server| {
            let of_client = server.list()?.pop().ok_or("it sees nobody")?;
            Ok(std::thread::spawn(move || {
                for number in 0..FRAMES {
                    let payload = format!("{number} {}", "x".repeat(30_000));
                    server.send_to(&of_client, &payload).map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(server)
            }))
        })
        .collect::<Outcome<_>>()?;
    let mut numbers = [0; SERVERS];
    let (mut first_done, mut last_begun) = (SERVERS * FRAMES, 0);
    for count in 0..SERVERS * FRAMES {
        let (from, payload) = client.heard()?;
        let at = of_servers.iter().position(|id| *id == from).ok_or("from whom?")?;
        assert!(payload.starts_with(&format!("{} ", numbers[at])), "{}", &payload[..20]);
        if numbers[at] == 0 {
            last_begun = count;
        }
        numbers[at] += 1;
        if numbers[at] == FRAMES {
            first_done = first_done.min(count);
        }
    }
    assert!(last_begun < first_done, "one had to wait until another had sent all");
    for flood in floods {
        let mut server = flood.join().map_err(|_| "a server failed")??;
        assert_eq!(server.so_far()?, [""; 0]);
    }
    Ok(())
}

/// A message may be larger than the remaining limit of a queue.
#[test]
fn largest_accepted_message_reaches_a_reader() -> Outcome<()> {
    let (bridge, key) = bridge_with(|setup| setup.with("relay.queue", r#""128KiB""#))?;
    let (mut server, of_client, mut client, of_server) = pair(&bridge, &key, A)?;
    let payload = "x".repeat(250_000);
    std::thread::scope(|scope| {
        // The buffers of the sockets differ by system: they may hold less than all.
        let sender = scope.spawn(|| {
            (0..8).try_for_each(|_| server.send_to(&of_client, &payload).map_err(|e| e.to_string()))
        });
        for _ in 0..8 {
            assert_eq!(client.heard()?, (of_server.clone(), payload.clone()));
        }
        Ok(sender.join().map_err(|_| "the server failed")??)
    })
}

/// The overhead of small messages is accounted too.
#[test]
fn small_messages_take_no_more_memory_than_large_ones() -> Outcome<()> {
    let (bridge, key) = bridge_with(|setup| setup.with("relay.queue", r#""8MiB""#))?;
    let (mut server, deaf, _unread, _) = pair(&bridge, &key, A)?;
    let before = bridge.process().peak().ok_or("no peak")?;
    let mut frame = Vec::new();
    for _ in 0..1000 {
        // Not masked with zeros alone, which would be the same bytes.
        let text = format!("{deaf}\nx");
        let mask = [1, 2, 3, 4];
        frame.extend_from_slice(&[0x81, 0x80 | text.len() as u8]);
        frame.extend_from_slice(&mask);
        frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }
    let mut rounds = 0;
    while !bridge.log().lines().iter().any(|line| line.contains("it does not read")) {
        assert!(rounds < 5_000, "it is not closed");
        std::io::Write::write_all(server.peer.stream(), &frame)?;
        rounds += 1;
    }
    let more = bridge.process().peak().ok_or("no peak")?.saturating_sub(before);
    assert!(more < 12 << 20, "{more} bytes");
    Ok(())
}

/// Lists are sent whole, so their total size must not grow with the square of the number of peers.
#[test]
fn flapping_peers_are_not_listed_one_by_one() -> Outcome<()> {
    const CLIENTS: usize = 120;
    let (bridge, key) = bridge()?;
    let mut server = BridgePeer::join(&bridge, "server", &key, &[A])?;
    server.so_far()?;
    let mut flapping = BridgePeer::join(&bridge, "client", &key, &[A])?;
    let mut clients = Vec::new();
    for _ in 1..CLIENTS {
        clients.push(BridgePeer::join(&bridge, "client", &key, &[A])?);
    }
    let begun = Instant::now();
    while server.list()?.len() < CLIENTS {}
    for _ in 0..500 {
        flapping.claim(&[])?;
        flapping.claim(&[A])?;
        flapping.so_far()?;
    }
    let mut ids = 0;
    for text in server.so_far()? {
        let frame: Value = serde_json::from_str(&text)?;
        ids += frame["args"]["available_connections"].as_array().ok_or("no list")?.len();
    }
    let most = begun.elapsed().as_millis() as usize + 3 * CLIENTS;
    assert!(ids <= most, "{ids} of {most}");
    // It receives the final list without a request.
    flapping.claim(&[])?;
    while server.list()?.len() == CLIENTS {}
    Ok(())
}

/// Each is paused because of the other, and both read.
#[test]
fn two_that_flood_each_other_and_read_lose_nothing() -> Outcome<()> {
    const FRAMES: usize = 2_000;
    // More than a queue holds, and less than queue and sockets: both write before they read. Sockets
    // of FreeBSD begin with some 100 KiB on each way.
    const AHEAD: usize = if cfg!(target_os = "linux") { 600 } else { 50 };
    let (bridge, key) = bridge_with(|setup| setup.with("relay.queue", r#""128KiB""#))?;
    let (mut server, of_client, mut client, of_server) = pair(&bridge, &key, A)?;
    let play = |peer: &mut BridgePeer, to: &str| -> Outcome<()> {
        let (mut sent, mut heard) = (0, 0);
        while heard < FRAMES {
            while sent < FRAMES && sent < heard + AHEAD {
                peer.send_to(to, &format!("{sent} {}", "x".repeat(4_000)))?;
                sent += 1;
            }
            let payload = peer.heard()?.1;
            assert!(payload.starts_with(&format!("{heard} ")), "{}", &payload[..20]);
            heard += 1;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| play(&mut server, &of_client).map_err(|e| e.to_string()));
        play(&mut client, &of_server)?;
        Ok(other.join().map_err(|_| "the server failed")??)
    })
}

#[test]
fn all_queues_together_are_bounded_too() -> Outcome<()> {
    let (bridge, key) = bridge_with(|setup| {
        setup.with("relay.queue", r#""1GiB""#).with("relay.queue_total", r#""512KiB""#)
    })?;
    let (mut server, deaf, _unread, _) = pair(&bridge, &key, A)?;
    let payload = "x".repeat(16 * 1024);
    for _ in 0..20_000 {
        server.send_to(&deaf, &payload)?;
        if bridge.log().lines().iter().any(|line| line.contains("(queue_total), 1013")) {
            return Ok(());
        }
    }
    Err("nobody is closed".into())
}

/// A closed peer that does not read keeps its queue only while there is room.
#[test]
fn closing_peer_counts_for_queue_total() -> Outcome<()> {
    let setup = Setup::bridge(PROGRAM)?
        .with("relay.queue", r#""1GiB""#)
        .with("relay.queue_total", r#""1MiB""#)
        .with("relay.close_timeout", r#""1h""#);
    let (office, gone) = (PeerKey::new()?, PeerKey::new()?);
    let state = setup.directory().join("state");
    register(&state, &[("office", &office, &[]), ("gone", &gone, &[])])?;
    let bridge = setup.start()?;
    let mut operator = Peer::local(&bridge)?;
    let mut waiting = || -> Outcome<u64> {
        let status = operator.request("rpc", "status", &json!({}))?;
        status["queue_total"].as_u64().ok_or_else(|| "no queue_total".into())
    };
    let mut server = BridgePeer::join(&bridge, "server", &office, &[A])?;
    server.so_far()?;
    let payload = "x".repeat(16 * 1024);
    let _deaf = BridgePeer::join(&bridge, "client", &gone, &[A])?;
    let to = server.list()?.pop().ok_or("nobody")?;
    while waiting()? < 800_000 {
        server.send_to(&to, &payload)?;
        assert_eq!(server.so_far()?, [""; 0]);
    }
    register(&state, &[("office", &office, &[])])?;
    bridge.log().wait("closing peer \"gone\"")?;
    assert_eq!(server.list()?, [""; 0]);
    assert!(waiting()? >= 800_000, "what waits for it is still to be sent");
    // Another one that does not read needs the room.
    let _deaf_too = BridgePeer::join(&bridge, "client", &office, &[A])?;
    let to = server.list()?.pop().ok_or("nobody")?;
    while waiting()? >= 800_000 {
        server.send_to(&to, &payload)?;
        assert_eq!(server.so_far()?, [""; 0]);
    }
    Ok(())
}

#[test]
fn key_has_at_most_half_of_the_places_that_others_leave() -> Outcome<()> {
    let setup = Setup::bridge(PROGRAM)?.with("relay.max_peers", 4);
    let (office, other) = (PeerKey::new()?, PeerKey::new()?);
    let state = setup.directory().join("state");
    register(&state, &[("office", &office, &[]), ("other", &other, &[])])?;
    let bridge = setup.start()?;
    let _peers = [(); 2].map(|()| BridgePeer::join(&bridge, "client", &office, &[A]).unwrap());
    let mut beyond = BridgePeer::dial(&bridge, "client")?;
    assert!(beyond.authenticate(bridge.fingerprint(), &office).is_err());
    bridge.log().wait("the places for its key are taken (max_peers), 1013")?;
    BridgePeer::join(&bridge, "server", &other, &[A])?;
    Ok(())
}

#[test]
fn unfinished_messages_count_for_all_queues_by_key() -> Outcome<()> {
    const BEGUN: usize = 150 * 1024;
    // A buffer of such a message has 256 KiB: more than two of the first key are there when all
    // together are too much.
    let setup = Setup::bridge(PROGRAM)?.with("relay.queue_total", r#""1MiB""#);
    let (office, other) = (PeerKey::new()?, PeerKey::new()?);
    let state = setup.directory().join("state");
    register(&state, &[("office", &office, &[]), ("other", &other, &[])])?;
    let bridge = setup.start()?;
    let begin = |key: &PeerKey| {
        let mut peer = BridgePeer::join(&bridge, "client", key, &[A]).unwrap();
        let mut begun = client_header(0x81, 200 * 1024);
        begun.extend(vec![b' '; BEGUN]);
        // The bridge may have closed it already.
        let _ = peer.peer.stream().send(&begun);
        peer
    };
    // One message of the other key is no smaller than each of the first.
    let _other = begin(&other);
    let _peers = [(); 5].map(|()| begin(&office));
    bridge.log().wait("closing peer \"office\"")?;
    assert!(!bridge.log().lines().iter().any(|line| line.contains("closing peer \"other\"")));
    Ok(())
}

#[test]
fn relay_introduces_five_hundred_peers() -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let mut server = BridgePeer::join(&bridge, "server", &key, &[A])?;
    server.so_far()?;
    let mut clients = Vec::new();
    for _ in 0..499 {
        let mut client = BridgePeer::join(&bridge, "client", &key, &[A])?;
        assert_eq!(client.list()?.len(), 1);
        clients.push(client);
    }
    let mut list = Vec::new();
    while list.len() < 499 {
        list = server.list()?;
    }
    for (id, client) in list.iter().zip(&mut clients) {
        server.send_to(id, "hello")?;
        assert_eq!(client.heard()?.1, "hello");
    }
    let status = status(&bridge)?;
    assert_eq!(status["connected"], 500);
    assert_eq!(status["peers"].as_array().map(Vec::len), Some(500));
    drop(clients);
    while !list.is_empty() {
        list = server.list()?;
    }
    Ok(())
}

fn status(bridge: &Daemon) -> Outcome<Value> {
    let finished = Cli::to(bridge, "status").args(["--bridge", "--json"]).run()?;
    assert_eq!(finished.code(), 0, "{}", finished.err);
    Ok(serde_json::from_str(&finished.out)?)
}

#[test]
fn operator_status_lists_the_peers() -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let (mut server, of_client, mut client, _) = pair(&bridge, &key, A)?;
    server.send_to(&of_client, "x")?;
    client.heard()?;
    let _unauthenticated = BridgePeer::dial(&bridge, "client")?;
    let status = status(&bridge)?;
    assert_eq!(status["type"], "bridge");
    assert_eq!(status["certificate"], bridge.fingerprint());
    assert_eq!((&status["connected"], &status["registered"]), (&2.into(), &1.into()));
    assert_eq!(status["strangers"], 1);
    assert_eq!(status["forwarded"]["frames"], 1);
    let peers = status["peers"].as_array().ok_or("no peers")?;
    assert_eq!((&peers[0]["type"], &peers[1]["type"]), (&"server".into(), &"client".into()));
    assert_eq!((&peers[1]["id"], &peers[1]["name"]), (&json!(of_client), &"office".into()));
    assert_eq!((&peers[0]["keys"], &peers[0]["available"]), (&1.into(), &1.into()));
    for arguments in [vec!["--bridge"], vec![]] {
        let page = Cli::to(&bridge, "status").args(arguments).run()?;
        assert!(page.out.contains("peers     2, 1 not authenticated"), "{}", page.out);
        assert!(page.out.contains("office  server  server-of-a-test  127.0.0.1:"), "{}", page.out);
    }
    let fingerprint = Cli::of(PROGRAM, "fingerprint").arg("--bridge").arg("-c");
    let fingerprint = fingerprint.arg(bridge.directory().join("sysadm-events.toml")).run()?;
    assert_eq!(fingerprint.out.trim_end(), bridge.fingerprint());
    bridge.ask_for_status()?;
    let line = bridge.log().wait("status: ")?;
    assert!(line.contains("2 peers, 1 not authenticated, 1 keys registered, 1 frames"), "{line}");
    // The local socket serves status requests only.
    let mut local = Peer::local(&bridge)?;
    assert_eq!(local.request("rpc", "identify", &json!({}))?["type"], "bridge");
    assert_eq!(local.refused("rpc", "auth_ssl", &json!({}))?.code, 404);
    assert_eq!(local.refused("rpc", "dispatcher", &json!({"action": "list"}))?.code, 404);
    Ok(())
}

#[test]
fn a_second_bridge_is_refused_its_state() -> Outcome<()> {
    let setup = Setup::bridge(PROGRAM)?;
    let first = setup.start()?;
    let mut second = setup.clone().with("relay.socket", r#""""#).launch()?;
    let (status, lines) = second.wait()?;
    assert_eq!(status.code(), Some(78), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("another daemon uses it")), "{lines:?}");
    let mut peer = Peer::connect(&first, Transport::Tls)?;
    assert_eq!(peer.frame()?["name"], "identify");
    Ok(())
}

#[test]
fn relay_closes_with_1001_and_peers_reconnect_after_restart() -> Outcome<()> {
    let (setup, key) = (Setup::bridge(PROGRAM)?, PeerKey::new()?);
    register(&setup.directory().join("state"), &[("office", &key, &[])])?;
    let bridge = setup.start()?;
    let fingerprint = bridge.fingerprint().to_owned();
    let (mut server, old, mut client, _) = pair(&bridge, &key, A)?;
    bridge.signal(Signal::SIGTERM)?;
    assert_eq!((server.peer.closed()?, client.peer.closed()?), (1001, 1001));
    let lines = bridge.stop_was_asked()?;
    assert!(lines.iter().any(|line| line.contains("stopping: 2 peers are connected")), "{lines:?}");
    assert!(!setup.directory().join("socket").exists());
    let bridge = setup.start()?;
    assert_eq!(bridge.fingerprint(), fingerprint);
    let (_server, new, ..) = pair(&bridge, &key, A)?;
    assert_ne!(old, new);
    bridge.crash()?;
    let bridge = setup.start()?;
    pair(&bridge, &key, A)?;
    Ok(())
}

#[test]
fn reload_applies_changes_and_names_keys_that_need_a_restart() -> Outcome<()> {
    let (mut setup, key) = (Setup::bridge(PROGRAM)?, PeerKey::new()?);
    register(&setup.directory().join("state"), &[("office", &key, &[])])?;
    let bridge = setup.start()?;
    let (mut server, of_client, mut client, _) = pair(&bridge, &key, A)?;
    let file = |name: &str| setup.directory().join(name);
    // With half a pair, nothing changes.
    std::fs::rename(file("key.pem"), file("old-key.pem"))?;
    assert!(bridge.reload()?.contains("reload failed, nothing changed: cannot read"));
    let other = Setup::bridge(PROGRAM)?;
    other.start()?.stop()?;
    for file in ["cert.pem", "key.pem"] {
        std::fs::copy(other.directory().join(file), setup.directory().join(file))?;
    }
    setup.set("relay.max_peers", 4);
    setup.set("relay.listen", r#"["127.0.0.1:0", "127.0.0.1:0"]"#);
    setup.set("relay.user", r#""nobody""#);
    setup.write()?;
    assert!(bridge.reload()?.contains("reloaded "));
    for key in ["relay.listen", "relay.user"] {
        bridge.log().wait(&format!("{key} has changed; that needs a restart"))?;
    }
    server.send_to(&of_client, "still there")?;
    assert_eq!(client.heard()?.1, "still there");
    assert!(Peer::connect(&bridge, Transport::Tls).is_err(), "the old certificate is shown");
    let mut fingerprints = bridge.log().lines();
    fingerprints.retain(|line| line.contains("certificate sha256 "));
    let new = fingerprints.last().and_then(|l| l.rsplit(' ').next()).ok_or("none")?.to_owned();
    let bridge = bridge.with_fingerprint(&new);
    // One key has half of the places, and both are taken.
    let mut third = BridgePeer::dial(&bridge, "client")?;
    assert!(third.authenticate(&new, &key).is_err());
    setup.set("relay.max_peers", "\"many\"");
    setup.write()?;
    assert!(bridge.reload()?.contains("relay.max_peers"));
    drop(client);
    assert_eq!(server.list()?, [""; 0]);
    let mut third = BridgePeer::dial(&bridge, "client")?;
    third.authenticate(&new, &key)?;
    Ok(())
}

#[test]
fn connections_that_do_not_authenticate_are_closed_in_time() -> Outcome<()> {
    let (bridge, key) = bridge_with(|setup| setup.with("relay.auth_timeout", r#""2s""#))?;
    let (mut server, of_client, mut client, _) = pair(&bridge, &key, A)?;
    let mut connected: Vec<BridgePeer> =
        (0..5).map(|_| BridgePeer::dial(&bridge, "client")).collect::<Outcome<_>>()?;
    for peer in &mut connected {
        // On a slow machine a later one takes the place of one of the first four.
        assert!([1006, 1008].contains(&peer.peer.closed()?));
    }
    server.send_to(&of_client, "unmoved")?;
    assert_eq!(client.heard()?.1, "unmoved");
    Ok(())
}

#[test]
fn origin_with_too_many_failures_is_blocked() -> Outcome<()> {
    let (bridge, key) =
        bridge_with(|setup| setup.with("auth.throttle_loopback", true).with("auth.fail_limit", 2))?;
    let mut known = BridgePeer::join(&bridge, "server", &key, &[A])?;
    let mut unauthenticated = BridgePeer::dial(&bridge, "client")?;
    let wrong = PeerKey::new()?;
    let mut codes = Vec::new();
    for _ in 0..3 {
        let stage = unauthenticated.peer.request("rpc", "auth_ssl", &json!({}))?;
        let string = stage["test_string"].as_str().ok_or("no test_string")?;
        let proof = wrong.proof("bridge", bridge.fingerprint(), string)?;
        codes.push(unauthenticated.peer.refused("rpc", "auth_ssl", &proof)?.code);
    }
    assert_eq!(codes, [401, 401, 403]);
    assert_eq!(unauthenticated.peer.closed()?, 1008);
    bridge.log().wait("blocked 127.0.0.1 for 3600 s: too many failures")?;
    assert!(BridgePeer::dial(&bridge, "client").is_err());
    assert_eq!(known.so_far()?, [""; 0]);
    Ok(())
}

#[test]
fn relay_without_descriptors_serves_on_and_accepts_later() -> Outcome<()> {
    let (bridge, key) = bridge_with(|setup| setup.after_shell("ulimit -n 24"))?;
    bridge
        .log()
        .wait("24 descriptors are too few for 1024 peers and 64 unauthenticated connections")?;
    let (mut server, of_client, mut client, _) = pair(&bridge, &key, A)?;
    let mut more = Vec::new();
    while bridge.process().descriptors()? < 24 {
        more.push(BridgePeer::join(&bridge, "client", &key, &[B])?);
    }
    let waiting: Vec<_> =
        (0..20).map(|_| std::net::TcpStream::connect(bridge.tls())).collect::<Result<_, _>>()?;
    bridge.log().wait("cannot accept on wss://")?;
    let before = bridge.process().cpu()?;
    for round in 0..4 {
        // Longer than the retry interval.
        server.peer.idle(Duration::from_millis(500))?;
        server.send_to(&of_client, &format!("{round}"))?;
        assert_eq!(client.heard()?.1, format!("{round}"));
    }
    let cpu = bridge.process().cpu()?.saturating_sub(before);
    assert!(cpu < Duration::from_millis(200), "{cpu:?}");
    let said = |what: &str| bridge.log().lines().iter().filter(|l| l.contains(what)).count();
    assert_eq!(said("cannot accept on"), 1);
    drop((waiting, more));
    let mut late = BridgePeer::join(&bridge, "client", &key, &[A])?;
    assert_eq!(late.list()?.len(), 1);
    Ok(())
}

#[test]
fn peer_without_pongs_is_closed() -> Outcome<()> {
    let (bridge, key) = bridge_with(|setup| setup.with("relay.ping_interval", r#""200ms""#))?;
    let (mut server, _, _silent, _) = pair(&bridge, &key, A)?;
    // Reading sends pongs; the other one does not read.
    assert_eq!(server.list()?, [""; 0]);
    bridge.log().wait("is gone: no answer to two pings in time")?;
    Ok(())
}

#[test]
fn keys_of_the_key_command_grant_and_revoke_access() -> Outcome<()> {
    let setup = Setup::bridge(PROGRAM)?;
    setup.write()?;
    let call = |arguments: &[&str]| -> Outcome<()> {
        let cli = Cli::of(PROGRAM, "key").args(arguments).arg("-c").arg(setup.file()).run()?;
        assert_eq!(cli.code(), 0, "{arguments:?}: {}", cli.err);
        Ok(())
    };
    let (office, ann) = (PeerKey::new()?, PeerKey::new()?);
    let file = setup.directory().join("key.pub").display().to_string();
    // Before the first start of all, and while it runs.
    std::fs::write(&file, office.pem())?;
    call(&["add", "office", &file, "--bridge"])?;
    let bridge = setup.start()?;
    let mut server = BridgePeer::join(&bridge, "server", &office, &[A, B])?;
    std::fs::write(&file, ann.pem())?;
    call(&["add", "ann", &file, "--bridge", "--sum", B])?;
    bridge.log().wait("registered keys: 2")?;
    let mut client = BridgePeer::join(&bridge, "client", &ann, &[A, C])?;
    assert_eq!((server.so_far()?, client.so_far()?), (vec![], vec![]));
    client.claim(&[A, B])?;
    assert_eq!((server.list()?.len(), client.list()?.len()), (1, 1));
    call(&["revoke", "ann", &ann.id(), "--bridge"])?;
    assert_eq!(client.peer.closed()?, 1008);
    assert_eq!(server.list()?, [""; 0]);
    bridge.log().wait("closing peer \"ann\" (client \"client-of-a-test\") at 127.0.0.1:")?;
    Ok(())
}

/// Frames of the original server and of a client, recorded at the original bridge.
const SERVER: &str = include_str!("../bridge/server.jsonl");
const CLIENT: &str = include_str!("../bridge/client.jsonl");

fn recorded(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let field = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    lines.map(|line| (field(&line, "dir"), field(&line, "frame"))).collect()
}

/// The original's operation with a key: PKCS#1 v1.5 type 1 of the bare string.
fn encrypted(string: &str) -> Outcome<Option<String>> {
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa.pem");
    // RFC 8017 section 9.2, without a digest's prefix; the private operation alone is openssl's.
    let mut padded = vec![0xff; 256 - 1 - string.len()];
    (padded[0], padded[1]) = (0, 1);
    padded.push(0);
    padded.extend_from_slice(string.as_bytes());
    let script = format!(
        "openssl pkeyutl -decrypt -inkey {key} -pkeyopt rsa_padding_mode:none | openssl base64 -A"
    );
    let child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child?;
    std::io::Write::write_all(&mut child.stdin.take().ok_or("no input")?, &padded)?;
    let output = child.wait_with_output()?;
    Ok(Some(String::from_utf8(output.stdout)?).filter(|text| !text.is_empty()))
}

/// A frame as a value, without its random parts.
fn masked(text: &str) -> Value {
    let mut frame: Value = serde_json::from_str(text).unwrap();
    let args = &mut frame["args"];
    for key in ["test_string", "hostname", "encrypted_string"] {
        if args.get(key).is_some() {
            args[key] = "…".into();
        }
    }
    if args.get("available_connections").is_some() {
        args["available_connections"] = json!(["…"]);
    }
    if args.is_array() {
        *args = json!("a token and its time");
    }
    frame
}

#[test]
fn an_original_server_and_an_original_client_find_each_other() -> Outcome<()> {
    if encrypted("x")?.is_none() {
        support::skip("there is no openssl");
        return Ok(());
    }
    let setup = Setup::bridge(PROGRAM)?;
    let state = setup.directory().join("state");
    std::fs::create_dir_all(&state)?;
    let pem = include_str!("../keys/rsa-public.pem");
    let line = json!({ "user": "old", "key": pem, "legacy": true });
    std::fs::write(state.join("keys"), format!("{line}\n"))?;
    let bridge = setup.start()?;

    let mut server = Peer::connect(&bridge, Transport::Tls)?;
    let mut client = Peer::connect(&bridge, Transport::Tls)?;
    let mut string = String::new();
    // Its link requests the challenge before it sends its identity, and both at once.
    let mut play = |peer: &mut Peer, ours: bool, frame: &str| -> Outcome<String> {
        if !ours {
            let came = peer.event()?;
            let args = &serde_json::from_str::<Value>(&came)?["args"];
            if let Some(text) = args["test_string"].as_str() {
                text.clone_into(&mut string);
            }
            assert_eq!(masked(&came), masked(frame));
            return Ok(came);
        }
        let mut sent: Value = serde_json::from_str(frame)?;
        if sent["args"].get("encrypted_string").is_some() {
            sent["args"]["encrypted_string"] = encrypted(&string)?.into();
        }
        peer.send(&sent)?;
        Ok(String::new())
    };
    let mut of_server = recorded(SERVER);
    // The relay's request is sent first; the order of the other two is arbitrary there, and fixed
    // here.
    of_server.swap(0, 1);
    for (direction, frame) in of_server {
        play(&mut server, direction == "c2s", &frame)?;
    }
    let (mut to, mut from) = (String::new(), String::new());
    let mut of_client = recorded(CLIENT);
    of_client.swap(0, 1);
    for (direction, frame) in of_client {
        let ours = direction == "send";
        match frame.split_once('\n').filter(|_| !frame.starts_with('{')) {
            None => {
                let came = play(&mut client, ours, &frame)?;
                if came.contains("available_connections") {
                    let list = |text: &str| -> Outcome<String> {
                        let frame: Value = serde_json::from_str(text)?;
                        Ok(frame["args"]["available_connections"][0].as_str().ok_or("none")?.into())
                    };
                    (to, from) = (list(&came)?, list(&server.event()?)?);
                }
            }
            Some((_, payload)) => {
                let (sender, reader, to, from) = if ours {
                    (&mut client, &mut server, &to, &from)
                } else {
                    (&mut server, &mut client, &from, &to)
                };
                sender.send_message(tungstenite::Message::text(format!("{to}\n{payload}")))?;
                assert_eq!(reader.event()?, format!("{from}\n{payload}"));
            }
        }
    }
    assert!(!to.is_empty());
    bridge.log().wait("audit: authenticated peer=\"old\" by=\"legacy key\" with=\"")?;
    Ok(())
}

/// The original server crashes on a close frame, its own reply to one included.
#[test]
fn original_server_is_closed_without_a_close_frame() -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let origin = "Origin: sysadm-server\r\n";
    let dial = || Peer::connect_with(&bridge, Transport::Tls, origin);
    let mut server = BridgePeer::over(dial()?, "server")?;
    server.authenticate(bridge.fingerprint(), &key)?;
    // Its key is revoked.
    register(&bridge.directory().join("state"), &[])?;
    assert_eq!(server.peer.closed()?, 1006, "no close frame came");
    bridge.log().wait("its key is not registered any more, 1008")?;
    // It breaks the protocol, or closes by itself.
    for frame in [&[0xff, 0x80, 0, 0, 0, 0][..], &[0x88, 0x80, 0, 0, 0, 0]] {
        let mut server = BridgePeer::over(dial()?, "server")?;
        std::io::Write::write_all(server.peer.stream(), frame)?;
        assert_eq!(server.peer.closed()?, 1006, "no close frame came");
    }
    Ok(())
}
