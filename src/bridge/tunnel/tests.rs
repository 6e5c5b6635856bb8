//! Two ends in one process, with a hostile relay between them.

use super::*;
use crate::net::certificate::{self, ServerSide};
use crate::net::pin::{self, Pin, TUNNELS};
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;

const ROOM: usize = 64 * 1024;

/// A certificate for one test.
fn certificate() -> ServerSide {
    static MADE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("sysadm-tunnel-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    certificate::ensure(&certificate, &key, &["host".to_owned()], MayBlock::before_loop()).unwrap();
    let side =
        certificate::server_side(&certificate, &key, &Files::of_system(MayBlock::before_loop()))
            .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    side
}

fn digest(side: &ServerSide) -> pin::Digest {
    let byte = |at: usize| u8::from_str_radix(&side.fingerprint[2 * at..2 * at + 2], 16).unwrap();
    std::array::from_fn(byte)
}

/// A client that expects this server's certificate.
pub(in crate::bridge) fn client_and_config() -> (ClientConnection, Arc<ServerConfig>) {
    let (client, _, config) = pinned_client_and_config();
    (client, config)
}

pub(in crate::bridge) fn pinned_client_and_config()
-> (ClientConnection, Arc<Pin>, Arc<ServerConfig>) {
    let side = certificate();
    let (client, pin) = pin::connect("host", vec![digest(&side)], TUNNELS).unwrap();
    (client, pin, side.tunnel)
}

struct Pair {
    client: Tunnel,
    server: Tunnel,
    pin: Arc<Pin>,
}

fn pair() -> Pair {
    let side = certificate();
    let (client, pin) = pin::connect("host", vec![digest(&side)], TUNNELS).unwrap();
    let (client, server) = (Tunnel::client(client), Tunnel::server(side.tunnel).unwrap());
    Pair { client, server, pin }
}

/// Transfers everything from one end to the other, and checks the size of each payload.
fn carry(from: &mut Tunnel, to: &mut Tunnel) -> Result<usize, Broken> {
    let mut payloads = 0;
    while let Some(records) = from.take_records() {
        assert!(records.len() <= RECORDS);
        to.receive(&decode(&encode(&records)).unwrap(), ROOM)?;
        payloads += 1;
    }
    Ok(payloads)
}

fn open() -> Pair {
    let mut pair = pair();
    while carry(&mut pair.client, &mut pair.server).unwrap()
        + carry(&mut pair.server, &mut pair.client).unwrap()
        > 0
    {}
    assert!(pair.client.is_open() && pair.server.is_open());
    pair
}

fn say(from: &mut Tunnel, text: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        rest = &rest[from.send(rest)..];
        if rest.is_empty() {
            from.end_message();
        }
        while let Some(records) = from.take_records() {
            all.push(records);
        }
    }
    all
}

fn heard(at: &mut Tunnel) -> Vec<String> {
    std::iter::from_fn(|| at.next_message()).map(|line| line.to_string()).collect()
}

#[test]
fn messages_arrive_whole_in_both_directions() {
    let Pair { mut client, mut server, .. } = open();
    let long = "x".repeat(40_000);
    for text in ["{}", &long, "{\"ä\":1}"] {
        for records in say(&mut client, text) {
            server.receive(&records, ROOM).unwrap();
        }
        assert_eq!(heard(&mut server), [text]);
        for records in say(&mut server, text) {
            client.receive(&records, ROOM).unwrap();
        }
        assert_eq!(heard(&mut client), [text]);
    }
}

#[test]
fn records_may_be_split_anywhere() {
    let Pair { mut client, mut server, .. } = open();
    for records in say(&mut client, "{\"a\":1}") {
        for byte in records {
            server.receive(&[byte], ROOM).unwrap();
        }
    }
    assert_eq!(heard(&mut server), ["{\"a\":1}"]);
}

#[test]
fn another_certificate_ends_the_handshake() {
    let (expected, other) = (certificate(), certificate());
    let (client, pin) = pin::connect("host", vec![digest(&expected)], TUNNELS).unwrap();
    let shown = digest(&other);
    let (mut client, mut server) = (Tunnel::client(client), Tunnel::server(other.tunnel).unwrap());
    carry(&mut client, &mut server).unwrap();
    assert!(matches!(carry(&mut server, &mut client), Err(Broken::Tls(_))));
    assert_eq!(pin.wrong(), Some(shown));
    assert!(matches!(carry(&mut client, &mut server), Err(Broken::Tls(_))), "it is told");
}

#[test]
fn the_expected_certificate_is_not_wrong() {
    let Pair { pin, .. } = open();
    assert!(pin.shown().is_some() && pin.wrong().is_none());
}

#[test]
fn records_changed_repeated_dropped_or_reordered_end_the_tunnel() {
    type Meddle = fn(&mut Vec<Vec<u8>>);
    let ways: [(&str, Meddle); 5] = [
        ("changed", |records| *records[0].last_mut().unwrap() ^= 1),
        ("repeated", |records| records.insert(1, records[0].clone())),
        ("left out", |records| drop(records.remove(0))),
        ("out of order", |records| records.swap(0, 1)),
        ("put in", |records| {
            records
                .insert(0, vec![23, 3, 3, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }),
    ];
    for (what, meddle) in ways {
        let Pair { mut client, mut server, .. } = open();
        let mut records = say(&mut client, "first");
        records.extend(say(&mut client, "second"));
        meddle(&mut records);
        let taken: Result<(), Broken> =
            records.iter().try_for_each(|records| server.receive(records, ROOM));
        assert!(matches!(taken, Err(Broken::Tls(_))), "{what}: {taken:?}");
        let heard = heard(&mut server);
        let good = if what == "repeated" { &["first"][..] } else { &[] };
        assert_eq!(heard, good, "{what}");
        assert!(server.take_records().is_some(), "{what}: an alert");
    }
}

#[test]
fn recorded_records_are_invalid_in_another_tunnel() {
    let Pair { mut client, .. } = open();
    let recorded = say(&mut client, "{}");
    let Pair { mut server, .. } = open();
    assert!(matches!(server.receive(&recorded[0], ROOM), Err(Broken::Tls(_))));
    assert_eq!(heard(&mut server).len(), 0);
}

#[test]
fn no_tls_1_2_is_spoken() {
    let side = certificate();
    let versions: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    let (client, _) = pin::connect("host", vec![digest(&side)], versions).unwrap();
    let (mut client, mut server) = (Tunnel::client(client), Tunnel::server(side.tunnel).unwrap());
    assert!(matches!(carry(&mut client, &mut server), Err(Broken::Tls(_))));
}

#[test]
fn pending_records_are_bounded() {
    let Pair { mut client, mut server, .. } = open();
    let text = "x".repeat(1000);
    let mut taken = Ok(());
    for _ in 0..10 {
        for records in say(&mut client, &text) {
            taken = taken.and_then(|()| server.receive(&records, 5000));
        }
    }
    assert_eq!(taken, Err(Broken::TooMuch(5000)));
    assert_eq!(heard(&mut server).len(), 4);

    let Pair { mut client, mut server, .. } = open();
    let endless = say(&mut client, &"x".repeat(6000));
    let taken = endless.iter().try_for_each(|records| server.receive(records, 5000));
    assert_eq!(taken, Err(Broken::TooMuch(5000)), "of one message too");

    let Pair { mut client, mut server, .. } = open();
    let small = say(&mut client, &"1\n".repeat(1000));
    let taken = small.iter().try_for_each(|records| server.receive(records, 5000));
    assert_eq!(taken, Err(Broken::TooMuch(5000)), "of many small ones too");
}

#[test]
fn close_is_noticed_and_a_new_hello_is_distinguished() {
    let Pair { mut client, mut server, .. } = open();
    client.close();
    client.close();
    carry(&mut client, &mut server).unwrap();
    assert!(server.has_ended() && !server.is_open());

    let Pair { mut client, mut server, .. } = pair();
    let hello = client.take_records().unwrap();
    assert!(!server.is_another(&hello), "it is the first");
    server.receive(&hello, ROOM).unwrap();
    assert!(server.is_another(&hello));
    let Pair { mut client, server, .. } = open();
    assert!(!server.is_another(&say(&mut client, "{}")[0]));
    assert!(server.is_another(&hello));
}

#[test]
fn idle_tunnel_uses_little_memory() {
    let Pair { client, server, .. } = open();
    for tunnel in [client, server] {
        assert_eq!((tunnel.line.capacity(), tunnel.lines.capacity()), (0, 0));
    }
    let size = std::mem::size_of::<Connection>();
    assert!(size < 4096, "{size}");
}
