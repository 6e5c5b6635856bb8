//! The HTTP request that precedes a WebSocket, and other requests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Daemon, Peer, Setup, Stream, Transport, client_frame, upgrade_request};

use super::PROGRAM;

/// The reply to these bytes, to the end of the connection.
fn answer(daemon: &Daemon, transport: Transport, request: &[u8]) -> String {
    let mut stream = Stream::dial(daemon, transport).unwrap();
    stream.send(request).unwrap();
    String::from_utf8(stream.read_all().unwrap()).unwrap()
}

/// The number in the status line.
fn status(answer: &str) -> u16 {
    let number = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    number.unwrap_or_else(|| panic!("no HTTP: {answer:?}")).parse().unwrap()
}

#[test]
fn health_check_gets_200_over_every_transport() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in Transport::ALL {
        for first in
            ["GET /healthz HTTP/1.1", "GET /healthz HTTP/1.0", "GET /healthz?verbose HTTP/1.1"]
        {
            let answer =
                answer(&daemon, transport, format!("{first}\r\nHost: x\r\n\r\n").as_bytes());
            assert_eq!(status(&answer), 200, "{}: {first}", transport.name());
            assert!(
                answer.ends_with("Content-Length: 3\r\nConnection: close\r\n\r\nok\n"),
                "{answer}"
            );
        }
    }
}

#[test]
fn health_check_supports_head_and_options() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in Transport::ALL {
        let ask = |method: &str, path: &str| {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            answer(&daemon, transport, request.as_bytes())
        };
        let (head, get) = (ask("HEAD", "/healthz?x"), ask("GET", "/healthz"));
        assert_eq!(format!("{head}ok\n"), get, "{}", transport.name());
        let options = ask("OPTIONS", "/healthz");
        assert_eq!(status(&options), 204, "{options}");
        assert!(options.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), "{options}");
        assert!(!options.contains("Content-Length") && options.ends_with("\r\n\r\n"), "{options}");
        // Elsewhere HEAD is refused, without a body as well.
        let refused = ask("HEAD", "/");
        assert_eq!(status(&refused), 405, "{refused}");
        assert!(refused.ends_with("\r\n\r\n"), "{refused}");
    }
}

#[test]
fn first_valid_subprotocol_that_is_offered_is_chosen() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let chosen = |fields: &str| {
        let mut stream = Stream::dial(&daemon, Transport::Plain).unwrap();
        stream.send(upgrade_request(fields).as_bytes()).unwrap();
        let head = stream.read_head().unwrap();
        assert_eq!(status(&head), 101, "{head}");
        let values: Vec<_> = head
            .lines()
            .filter_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "))
            .map(str::to_owned)
            .collect();
        // The connection works.
        stream.send(&client_frame(0x89, b"x")).unwrap();
        assert_eq!(stream.read_frame().unwrap(), (0x8a, b"x".to_vec()));
        values
    };
    let none: [&str; 0] = [];
    assert_eq!(chosen(""), none);
    assert_eq!(chosen("Sec-WebSocket-Protocol: chat\r\n"), ["chat"]);
    assert_eq!(chosen("Sec-WebSocket-Protocol: v2.json , chat\r\n"), ["v2.json"]);
    let twice = "Sec-WebSocket-Protocol: ,\r\nsec-websocket-protocol: b, a\r\n";
    assert_eq!(chosen(twice), ["b"]);
    assert_eq!(chosen("Sec-WebSocket-Protocol: two words, a/b, ok\r\n"), ["ok"]);
    assert_eq!(chosen("Sec-WebSocket-Protocol: a/b\r\n"), none);
}

#[test]
fn invalid_request_gets_an_http_error() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let upgrade = upgrade_request("");
    let replaced = |old: &str, new: &str| {
        assert!(upgrade.contains(old));
        upgrade.replace(old, new)
    };
    let cases = [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426, "WebSocket"),
        ("GET /healthz/no HTTP/1.1\r\n\r\n".to_owned(), 426, "WebSocket"),
        (replaced("Version: 13", "Version: 8"), 426, "version 13"),
        (replaced("Sec-WebSocket-Version: 13\r\n", ""), 426, "version 13"),
        (replaced("GET", "POST"), 405, "only GET"),
        ("PUT /healthz HTTP/1.1\r\nContent-Length: 1\r\n\r\nx".to_owned(), 405, "and OPTIONS"),
        ("OPTIONS / HTTP/1.1\r\n\r\n".to_owned(), 405, "only GET"),
        ("OPTIONS * HTTP/1.1\r\n\r\n".to_owned(), 405, "only GET"),
        (replaced("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
        (replaced("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), 400, "Sec-WebSocket-Key"),
        (replaced("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, "Sec-WebSocket-Key"),
        (upgrade_request("Origin: a\r\nOrigin: b\r\n"), 400, "twice"),
        (upgrade_request("No colon\r\n"), 400, "not HTTP"),
        (upgrade_request("X: a\0b\r\n"), 400, "not HTTP"),
        ("hello\r\n\r\n".to_owned(), 400, "not HTTP"),
        ("{\"namespace\":\"rpc\",\"name\":\"identify\"}\r\n".to_owned(), 400, "not HTTP"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03".to_owned(), 400, "not HTTP"),
    ];
    for (request, expected, word) in cases {
        let answer = answer(&daemon, Transport::Plain, request.as_bytes());
        assert_eq!(status(&answer), expected, "{request}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(body.contains(word), "{request}: {body}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{answer}");
    }
    Peer::known(&daemon, Transport::Plain).unwrap();
}

#[test]
fn a_request_head_has_at_most_8_kib_and_64_fields() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let padded = |length: usize| {
        let padding = length - upgrade_request("X-Padding: \r\n").len();
        let request = upgrade_request(&format!("X-Padding: {}\r\n", "x".repeat(padding)));
        assert_eq!(request.len(), length);
        request
    };
    for transport in [Transport::Plain, Transport::Tls] {
        let mut stream = Stream::dial(&daemon, transport).unwrap();
        stream.send(padded(8192).as_bytes()).unwrap();
        assert_eq!(status(&stream.read_head().unwrap()), 101);
        assert_eq!(status(&answer(&daemon, transport, padded(8193).as_bytes())), 431);
        // An endless one is not waited for.
        let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 100_000]].concat();
        assert_eq!(status(&answer(&daemon, transport, &endless)), 431);
    }
    let fields = |count: usize| upgrade_request(&"X: y\r\n".repeat(count - 5));
    let mut stream = Stream::dial(&daemon, Transport::Plain).unwrap();
    stream.send(fields(64).as_bytes()).unwrap();
    assert_eq!(status(&stream.read_head().unwrap()), 101);
    assert_eq!(status(&answer(&daemon, Transport::Plain, fields(65).as_bytes())), 431);
}

#[test]
fn upgrade_on_any_path_may_arrive_byte_by_byte() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for path in ["/", "/healthz", "/any/path?with=a&query", "*"] {
        let mut stream = Stream::dial(&daemon, Transport::Plain).unwrap();
        stream
            .send(upgrade_request("").replace("GET / ", &format!("GET {path} ")).as_bytes())
            .unwrap();
        assert_eq!(status(&stream.read_head().unwrap()), 101, "{path}");
    }
    // Field names are case-insensitive, and other tokens may be present.
    let mut stream = Stream::dial(&daemon, Transport::Tls).unwrap();
    let request = upgrade_request("")
        .replace("Connection: Upgrade", "cOnNeCtIoN: keep-alive, upgrade")
        .replace("Upgrade: websocket", "UPGRADE: WebSocket");
    for byte in request.as_bytes() {
        stream.send(&[*byte]).unwrap();
    }
    let head = stream.read_head().unwrap();
    // RFC 6455 section 1.3 has this key and this answer.
    assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
}

/// The reply to the upgrade, then all frames, for a request directly followed by these bytes.
fn behind_the_request(daemon: &Daemon, transport: Transport, bytes: &[u8]) -> Stream {
    let mut stream = Stream::dial(daemon, transport).unwrap();
    stream.send(&[upgrade_request("").as_bytes(), bytes].concat()).unwrap();
    assert_eq!(status(&stream.read_head().unwrap()), 101);
    stream
}

#[test]
fn messages_after_the_request_are_replied_to_after_the_upgrade() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let identify = br#"{"namespace":"rpc","name":"identify","id":1}"#;
    for transport in Transport::ALL {
        let mut stream = behind_the_request(&daemon, transport, &client_frame(0x81, identify));
        let (first, payload) = stream.read_frame().unwrap();
        assert_eq!(first, 0x81);
        assert!(String::from_utf8(payload).unwrap().contains(r#""id":1"#));

        let ping = client_frame(0x89, b"early");
        let frames = [ping.as_slice(), &client_frame(0x81, identify)].concat();
        let mut stream = behind_the_request(&daemon, transport, &frames);
        assert_eq!(stream.read_frame().unwrap(), (0x8a, b"early".to_vec()));
        assert_eq!(stream.read_frame().unwrap().0, 0x81);

        // A violation, and a farewell.
        let mut stream = behind_the_request(&daemon, transport, b"\x81\x02{}");
        assert_eq!(stream.read_close().unwrap().0, 1002);
        let mut stream =
            behind_the_request(&daemon, transport, &client_frame(0x88, &1001u16.to_be_bytes()));
        assert_eq!(stream.read_close().unwrap(), (1001, String::new()));
        assert_eq!(stream.read_all().unwrap(), b"");
    }
}

#[test]
fn incomplete_handshake_is_closed_at_its_timeout() {
    let timeout = Duration::from_millis(200);
    let setup = Setup::new(PROGRAM).unwrap().with("server.handshake_timeout", r#""200ms""#);
    let daemon = setup.start().unwrap();
    let half = upgrade_request("");
    let half = &half.as_bytes()[..half.len() - 2];
    // Handshake record, TLS 1.0, 512 bytes of it, a ClientHello (RFC 8446 sections 4 and 5.1).
    let half_of_tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

    // Each has its own thread and its own clock.
    let is_dropped = |(begun, mut stream, sent): (Instant, Stream, &[u8])| {
        stream.send(sent).unwrap();
        stream.set_read_timeout(support::PATIENCE).unwrap();
        assert_eq!(stream.read_all().unwrap(), b"");
        assert!(begun.elapsed() >= timeout, "{:?}", begun.elapsed());
    };
    // The clock of the daemon begins when it accepts, which may be before dialling is over here.
    let over_tcp =
        |address, sent| (Instant::now(), Stream::Plain(TcpStream::connect(address).unwrap()), sent);
    let requests =
        Transport::ALL.map(|way| (Instant::now(), Stream::dial(&daemon, way).unwrap(), half));
    thread::scope(|scope| {
        for silent in requests {
            scope.spawn(move || is_dropped(silent));
        }
    });
    let handshakes = [
        over_tcp(daemon.plain(), b"".as_slice()),
        over_tcp(daemon.tls(), b""),
        over_tcp(daemon.tls(), half_of_tls),
    ];
    thread::scope(|scope| {
        for silent in handshakes {
            scope.spawn(move || is_dropped(silent));
        }
    });

    // A byte now and then does not prolong it.
    let mut stream = TcpStream::connect(daemon.plain()).unwrap();
    stream.set_read_timeout(Some(timeout / 10)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let patience = Instant::now() + support::PATIENCE;
    loop {
        assert!(Instant::now() < patience, "it is still open");
        match stream.read(&mut [0]) {
            Ok(0) => break,
            Ok(_) => panic!("an answer"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if stream.write_all(b"x").is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    // After the handshake a client may be silent for longer.
    let mut peer = Peer::local(&daemon).unwrap();
    peer.idle(timeout * 2).unwrap();
    peer.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn garbage_instead_of_tls_ends_that_connection_alone() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut other = Peer::known(&daemon, Transport::Tls).unwrap();
    let upgrade = upgrade_request("");
    for garbage in
        [upgrade.as_bytes(), b"GET /healthz HTTP/1.0\r\n\r\n", &[0; 100], &[0xff; 20_000]]
    {
        let mut stream = Stream::Plain(TcpStream::connect(daemon.tls()).unwrap());
        stream.set_read_timeout(support::PATIENCE).unwrap();
        // It may be closed during the write.
        let _ = stream.send(garbage);
        let answer = stream.read_all().unwrap();
        // An alert (RFC 8446 section 6) or nothing.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    }
    other.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn web_page_of_another_origin_is_refused() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("server.hosts", r#"["nas.example.org", "192.0.2.7"]"#)
        .start();
    let daemon = setup.unwrap();
    let hostname = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let of_host = format!("https://{hostname}:8443");
    let connect = |transport, header: &str| {
        let mut stream = Stream::dial(&daemon, transport).unwrap();
        stream.send(upgrade_request(header).as_bytes()).unwrap();
        status(&stream.read_head().unwrap())
    };
    for origin in [
        of_host.as_str(),
        "https://nas.example.org",
        "http://NAS.Example.ORG:80",
        "http://192.0.2.7",
        "http://127.0.0.1:3000",
        "http://127.0.0.1:3000/",
        "https://nas.example.org/",
        "http://localhost",
        "https://localhost:8443",
        "http://LocalHost:12150/",
        "sysadm-client",
        "sysadm-server",
    ] {
        let header = format!("Origin: {origin}\r\n");
        assert_eq!(connect(Transport::Plain, &header), 101, "{origin}");
    }
    assert_eq!(connect(Transport::Plain, ""), 101);
    for origin in [
        "null",
        "https://evil.example",
        // Rebound names: what `Host` says does not matter.
        "http://rebound.example:12150",
        "http://localhost.rebound.example",
        "http://rebound.example:12150/localhost",
        "file://localhost",
        "http://127.0.0.2",
        "http://[::1]:12150",
        "https://nas.example.org.evil.example",
        "https://evil.example/nas.example.org",
        "https://nas.example.org@evil.example",
        "https://user@nas.example.org",
        "file://",
        "two words",
        "",
    ] {
        let headers = format!("Origin: {origin}\r\nHost: rebound.example:12150\r\n");
        assert_eq!(connect(Transport::Plain, &headers), 403, "{origin}");
    }
    for transport in Transport::ALL {
        assert_eq!(connect(transport, "Origin: null\r\n"), 403, "{}", transport.name());
    }
    daemon.log().wait("origin \"https://evil.example\" is not ours").unwrap();
}
