//! Arbitrary input gets the documented reply or close, and affects no other client.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use support::{
    Daemon, PATIENCE, Peer, Setup, Stream, Transport, client_frame, client_header, until,
    upgrade_request,
};

use super::PROGRAM;

/// A mask without a payload.
const MASK: [u8; 4] = [0; 4];

/// An upgraded connection over each transport.
fn open_each(daemon: &Daemon) -> impl Iterator<Item = (Stream, &'static str)> + '_ {
    Transport::ALL.into_iter().map(|way| (Stream::open(daemon, way).unwrap(), way.name()))
}

/// A daemon with a long close timeout.
fn patient_daemon() -> Daemon {
    Setup::new(PROGRAM).unwrap().with("server.close_timeout", r#""1h""#).start().unwrap()
}

/// Checks that it still replies.
fn serves(daemon: &Daemon) {
    for transport in Transport::ALL {
        let mut peer = Peer::known(daemon, transport).unwrap();
        peer.request("rpc", "query", &json!({})).unwrap();
    }
}

/// Number of clients.
fn clients(peer: &mut Peer) -> usize {
    let status = peer.request("rpc", "status", &json!({})).unwrap();
    status["clients"].as_array().unwrap().len()
}

#[test]
fn frames_that_break_the_rules_are_closed_with_1002() {
    let daemon = patient_daemon();
    let text = client_frame(0x81, b"{}");
    let long = [b'x'; 126];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("unmasked", b"\x81\x02{}".to_vec()),
        ("unmasked ping", b"\x89\x00".to_vec()),
        ("rsv1, as for compression", client_frame(0xc1, b"{}")),
        ("rsv2", client_frame(0xa1, b"{}")),
        ("rsv3", client_frame(0x91, b"{}")),
        ("opcode 3", client_frame(0x83, b"{}")),
        ("opcode 7", client_frame(0x87, b"{}")),
        ("opcode 11", client_frame(0x8b, b"")),
        ("opcode 15", client_frame(0x8f, b"")),
        ("a ping of 126 bytes", client_frame(0x89, &long)),
        ("a close of 126 bytes", client_frame(0x88, &long)),
        ("a fragmented ping", client_frame(0x09, b"")),
        ("a fragmented close", client_frame(0x08, b"")),
        ("a continuation of nothing", client_frame(0x80, b"{}")),
        ("a text inside a text", [client_frame(0x01, b"{"), text.clone()].concat()),
        ("a binary inside a text", [client_frame(0x01, b"{"), client_frame(0x82, b"}")].concat()),
        ("half a close code", client_frame(0x88, b"\x03")),
        ("close code 0", client_frame(0x88, &[0, 0])),
        ("close code 1005", client_frame(0x88, &1005u16.to_be_bytes())),
        ("close code 1006", client_frame(0x88, &1006u16.to_be_bytes())),
        ("close code 2000", client_frame(0x88, &2000u16.to_be_bytes())),
    ];
    for (what, bytes) in &cases {
        for (mut stream, way) in open_each(&daemon) {
            stream.send(bytes).unwrap();
            // Later input is ignored.
            stream.send(&text).unwrap();
            let (code, why) = stream.read_close().unwrap();
            assert_eq!(code, 1002, "{way}: {what}");
            assert!(!why.is_empty(), "{what}");
            assert_eq!(stream.read_all().unwrap(), b"", "{way}: {what}");
        }
    }
    serves(&daemon);
}

#[test]
fn text_that_is_not_utf_8_is_closed_with_1007() {
    let daemon = patient_daemon();
    let cases: [Vec<u8>; 6] = [
        client_frame(0x81, b"{\"namespace\":\"rpc\xff\"}"),
        client_frame(0x82, b"\x00\x80"),
        // A surrogate, a character too long, one that is cut.
        client_frame(0x81, b"\xed\xa0\x80"),
        client_frame(0x81, b"\xc0\xaf"),
        [client_frame(0x01, b"\xe2\x82"), client_frame(0x80, b"x")].concat(),
        client_frame(0x88, b"\x03\xe8\xff"),
    ];
    for bytes in &cases {
        for (mut stream, way) in open_each(&daemon) {
            stream.send(bytes).unwrap();
            assert_eq!(stream.read_close().unwrap().0, 1007, "{way}: {bytes:?}");
            assert_eq!(stream.read_all().unwrap(), b"", "{way}: {bytes:?}");
        }
    }
    // A character split between frames is valid.
    let mut stream = Stream::open(&daemon, Transport::Unix).unwrap();
    let request = r#"{"namespace":"rpc","name":"identify","id":"€"}"#.as_bytes();
    let (one, two) = request.split_at(request.len() - 4);
    stream.send(&[client_frame(0x01, one), client_frame(0x80, two)].concat()).unwrap();
    let (_, reply) = stream.read_frame().unwrap();
    assert!(String::from_utf8(reply).unwrap().contains(r#""id":"€""#));
}

#[test]
fn frame_of_10_mb_is_closed_with_1009() {
    let daemon = patient_daemon();
    for transport in Transport::ALL {
        // Announced only: no byte of the payload has to arrive.
        for length in [10_000_000, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut stream = Stream::open(&daemon, transport).unwrap();
            stream.send(&[client_header(0x81, length), MASK.to_vec()].concat()).unwrap();
            let (code, why) = stream.read_close().unwrap();
            assert_eq!(code, 1009, "{length}");
            assert!(why.contains("262144") || why.contains("8192"), "{why}");
        }
        // And with the complete payload, sent by an authenticated client that does not read
        // meanwhile.
        let mut peer = Peer::known(&daemon, transport).unwrap();
        peer.stream().send(&client_frame(0x81, &vec![b'x'; 10_000_000])).unwrap();
        assert_eq!(peer.closed().unwrap(), 1009, "{}", transport.name());
        // In many fragments, none of them large.
        let mut peer = Peer::known(&daemon, transport).unwrap();
        peer.stream().send(&client_frame(0x01, b"{")).unwrap();
        let fragment = client_frame(0x00, &[b'x'; 1000]);
        for _ in 0..263 {
            peer.stream().send(&fragment).unwrap();
        }
        assert_eq!(peer.closed().unwrap(), 1009, "{}", transport.name());
    }
    assert!(daemon.process().peak().is_none_or(|peak| peak < 64 << 20));
    serves(&daemon);
}

#[test]
fn json_deep_cut_or_odd_gets_400() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let request = |args: &str| {
        format!(r#"{{"namespace":"rpc","name":"dispatcher","id":"odd","args":{args}}}"#)
    };
    let whole = request(r#"{"action":"list"}"#);
    let opened = "[".repeat(60_000);
    let cases = [
        (request(&opened), ""),
        (request(&format!("{opened}{}", "]".repeat(60_000))), "odd"),
        (request(&r#"{"a":"#.repeat(20_000)), ""),
        (opened.clone(), ""),
        ("{".repeat(60_000), ""),
        (request(r#"{"action":"\ud800"}"#), "odd"),
        (request(r#"{"action":"\udc00\ud800"}"#), "odd"),
        (request(r#"{"\ud83d":"x"}"#), "odd"),
        (request("1e999999"), "odd"),
        (request(r#"{"action":"\x"}"#), ""),
        (request("{\"action\":\"a\tb\"}"), ""),
        (request("[1,]"), ""),
        (request("tru"), ""),
        (request("-"), ""),
        (request("01"), ""),
        (whole.replace(':', "="), ""),
    ];
    for transport in Transport::ALL {
        let mut peer = Peer::known(&daemon, transport).unwrap();
        for (text, id) in &cases {
            peer.stream().send(&client_frame(0x81, text.as_bytes())).unwrap();
            let reply = peer.frame().unwrap();
            let shown: String = text.chars().take(100).collect();
            assert_eq!(reply["args"]["code"], 400, "{shown}: {reply}");
            assert_eq!(reply["id"], *id, "{shown}: {reply}");
        }
        // Cut at every place.
        for end in 0..whole.len() {
            peer.stream().send(&client_frame(0x81, &whole.as_bytes()[..end])).unwrap();
            let reply = peer.frame().unwrap();
            assert_eq!((&reply["id"], &reply["args"]["code"]), (&json!(""), &json!(400)), "{end}");
        }
        peer.list().unwrap();
    }
}

#[test]
fn a_message_that_begins_and_does_not_end_is_closed_with_1008() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.message_timeout", r#""300ms""#);
    let daemon = setup.start().unwrap();
    let half = client_frame(0x81, &[b' '; 100]);
    // Half a header, half a frame, half a message.
    for begin in [&half[..1], &half[..50], &client_frame(0x01, b"{")] {
        thread::scope(|scope| {
            for (mut stream, way) in open_each(&daemon) {
                scope.spawn(move || {
                    let begun = Instant::now();
                    stream.send(begin).unwrap();
                    assert_eq!(stream.read_close().unwrap().0, 1008, "{way}");
                    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
                });
            }
        });
    }
    // Neither fragments without end nor pings in between prolong it.
    let mut peer = Peer::local(&daemon).unwrap();
    let more = [client_frame(0x00, b""), client_frame(0x89, b"")].concat();
    peer.stream().send(&client_frame(0x01, b"{")).unwrap();
    let patience = Instant::now() + PATIENCE;
    peer.stream().set_read_timeout(Duration::from_millis(5)).unwrap();
    let closed = loop {
        assert!(Instant::now() < patience, "it is still open");
        // It may be closed during the write; its close frame can still be read.
        let _ = peer.stream().send(&more);
        let mut first = [0];
        match peer.stream().read(&mut first) {
            Ok(0) => break 0,
            Ok(_) if first[0] == 0x88 => break first[0],
            Ok(_) | Err(_) => {}
        }
    };
    assert_eq!(closed, 0x88);
    // A client that completes each message within the limit may continue.
    let mut peer = Peer::local(&daemon).unwrap();
    let begun = Instant::now();
    let request = client_frame(0x81, br#"{"namespace":"rpc","name":"identify","id":1}"#);
    while begun.elapsed() < Duration::from_millis(600) {
        for half in request.chunks(25) {
            peer.stream().send(half).unwrap();
            peer.stream().set_read_timeout(PATIENCE).unwrap();
        }
        assert_eq!(peer.frame().unwrap()["id"], 1);
    }
}

#[test]
fn flood_of_pings_gets_pongs_and_bounded_memory() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut other = Peer::known(&daemon, Transport::Tls).unwrap();
    for transport in Transport::ALL {
        let mut stream = Stream::open(&daemon, transport).unwrap();
        let flood: Vec<u8> = (0..20_000u32)
            .flat_map(|number| client_frame(0x89, &[&number.to_be_bytes()[..], &[0; 100]].concat()))
            .collect();
        // It reads nothing meanwhile; unread pings need no pong (RFC 6455 section 5.5.3).
        for part in flood.chunks(64 * 1024) {
            stream.send(part).unwrap();
        }
        other.request("rpc", "query", &json!({})).unwrap();
        let mut last = None;
        while last != Some(19_999) {
            let (first, payload) = stream.read_frame().unwrap();
            assert_eq!((first, payload.len()), (0x8a, 104), "{}", transport.name());
            let number = u32::from_be_bytes(*payload.first_chunk().unwrap());
            assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
            last = Some(number);
        }
    }
    let status = other.request("rpc", "status", &json!({})).unwrap();
    assert_eq!(status["outbox_total"], 0);
}

#[test]
fn close_gets_the_same_code_and_the_connection_ends() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in Transport::ALL {
        for code in [1000, 1001, 1011, 3000, 4999u16] {
            let mut stream = Stream::open(&daemon, transport).unwrap();
            let payload = [&code.to_be_bytes()[..], "grüße".as_bytes()].concat();
            stream.send(&client_frame(0x88, &payload)).unwrap();
            assert_eq!(stream.read_close().unwrap(), (code, String::new()), "{}", transport.name());
            assert_eq!(stream.read_all().unwrap(), b"");
        }
        let mut stream = Stream::open(&daemon, transport).unwrap();
        stream.send(&client_frame(0x88, b"")).unwrap();
        assert_eq!(stream.read_frame().unwrap(), (0x88, vec![]));
        assert_eq!(stream.read_all().unwrap(), b"");
    }
}

#[test]
fn greedy_client_delays_no_other() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut greedy = Peer::local(&daemon).unwrap();
    let mut other = Peer::local(&daemon).unwrap();
    // Both are idle once a third client has its reply. Then the daemon finds both requests at once,
    // the greedy one's first.
    let mut third = Peer::local(&daemon).unwrap();
    for peer in [&mut greedy, &mut other, &mut third] {
        peer.request("rpc", "query", &json!({})).unwrap();
    }
    daemon.signal(Signal::SIGSTOP).unwrap();
    let mut requests = Vec::new();
    for number in 100..200 {
        let request = json!({ "namespace": "rpc", "name": "identify", "id": number });
        requests.extend(client_frame(0x81, request.to_string().as_bytes()));
    }
    greedy.stream().send(&requests).unwrap();
    other.post("rpc", "status", &json!({})).unwrap();
    daemon.signal(Signal::SIGCONT).unwrap();
    let status = other.frame().unwrap();
    let clients = status["args"]["clients"].as_array().unwrap();
    let waiting = clients.iter().map(|client| client["outbox"].as_u64().unwrap()).max().unwrap();
    let one = greedy.event().unwrap().len() as u64;
    assert!(waiting < 50 * one, "{} answers came first", waiting / one);
    for number in 101..200 {
        assert_eq!(greedy.frame().unwrap()["id"], number);
    }
}

/// Violates the protocol in one way, and hangs up at once or after the reply.
type Offence = fn(&Daemon);

#[test]
fn bad_input_leaves_no_descriptor_open() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("server.handshake_timeout", r#""300ms""#)
        .with("server.message_timeout", r#""300ms""#)
        .with("server.auth_timeout", r#""600ms""#)
        .with("server.close_timeout", r#""300ms""#);
    let daemon = setup.start().unwrap();
    let mut other = Peer::known(&daemon, Transport::Tls).unwrap();
    serves(&daemon);
    until("the others are gone", || clients(&mut other) == 1);
    let before = daemon.process().descriptors().unwrap();

    let offences: [Offence; 9] = [
        // They hang up in the middle of each stage.
        |daemon| drop(TcpStream::connect(daemon.tls()).unwrap()),
        |daemon| drop(Stream::dial(daemon, Transport::Plain).unwrap().send(b"GET / HT")),
        |daemon| drop(Stream::open(daemon, Transport::Tls).unwrap().send(b"\x81")),
        |daemon| drop(Stream::open(daemon, Transport::Unix).unwrap().send(b"\x81\xfe\xff\xff")),
        // They stay, and say no more.
        |daemon| std::mem::forget(TcpStream::connect(daemon.tls()).unwrap()),
        |daemon| std::mem::forget(Stream::dial(daemon, Transport::Unix).unwrap().send(b"GET")),
        |daemon| {
            let mut stream = Stream::open(daemon, Transport::Plain).unwrap();
            stream.send(&client_frame(0x01, b"{")).unwrap();
            std::mem::forget(stream);
        },
        |daemon| {
            let mut stream = Stream::dial(daemon, Transport::Plain).unwrap();
            stream.send(upgrade_request("Origin: null\r\n").as_bytes()).unwrap();
            std::mem::forget(stream);
        },
        // It closes its half, and waits for the reply.
        |daemon| {
            let mut stream = Stream::open(daemon, Transport::Plain).unwrap();
            stream.send(&client_frame(0x81, b"{}")).unwrap();
            let Stream::Plain(tcp) = &stream else { unreachable!() };
            tcp.shutdown(Shutdown::Write).unwrap();
            assert!(stream.read_all().unwrap().starts_with(b"\x81"));
        },
    ];
    for _ in 0..5 {
        for offence in offences {
            offence(&daemon);
        }
    }
    until("the others are gone", || clients(&mut other) == 1);
    assert_eq!(daemon.process().descriptors().unwrap(), before);
    serves(&daemon);
}

#[test]
fn exhausted_descriptors_keep_connected_clients_served() {
    let setup = Setup::new(PROGRAM).unwrap().after_shell("ulimit -n 40");
    let daemon = setup.start().unwrap();
    let mut other = Peer::watcher(&daemon).unwrap();
    let is_full =
        || daemon.log().lines().iter().any(|line| line.contains("cannot accept on unix:"));
    let mut streams = Vec::new();
    while !is_full() {
        assert!(streams.len() < 40);
        let mut stream = Stream::dial(&daemon, Transport::Unix).unwrap();
        stream.send(upgrade_request("").as_bytes()).unwrap();
        streams.push(stream);
        // Either it is counted, or the daemon has reported the refusal.
        until("it is taken in or not", || is_full() || clients(&mut other) == streams.len() + 1);
    }
    assert!(streams.len() > 10, "{}", streams.len());
    other.run(&json!({ "without": "true" })).unwrap();
    let failed = other.finished("without").unwrap();
    assert_eq!(failed["return_codes/true"], "-1");
    assert!(failed["true"].as_str().unwrap().contains("Too many open files"), "{failed}");

    let mut waiting = streams.pop().unwrap();
    for stream in &mut streams[5..] {
        assert!(stream.read_head().unwrap().starts_with("HTTP/1.1 101 "));
    }
    drop(streams);
    assert!(waiting.read_head().unwrap().starts_with("HTTP/1.1 101 "));
    other.run(&json!({ "with": "true" })).unwrap();
    assert_eq!(other.finished("with").unwrap()["return_codes/true"], "0");
    serves(&daemon);
}
