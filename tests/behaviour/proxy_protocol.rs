//! Listeners behind a proxy: whose connection it is, and headers that are refused.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use support::{BridgePeer, Daemon, Peer, Setup, Stream, Transport, skip, upgrade_request};

use super::PROGRAM;

const TRANSPORTS: [Transport; 3] = [Transport::Plain, Transport::Tls, Transport::Tls12];
const NO_ADDRESS: &[u8] = &[0x20, 0, 0, 0];

fn header(rest: &[u8]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n", rest].concat()
}

/// The header of a connection from that address, over IPv4 or IPv6.
fn from(client: &str) -> Vec<u8> {
    match client.parse().unwrap() {
        SocketAddr::V4(client) => {
            let ports = [client.port().to_be_bytes(), 12150u16.to_be_bytes()].concat();
            let server = [192, 0, 2, 1];
            let rest = [&client.ip().octets()[..], &server, &ports].concat();
            header(&[&[0x21, 0x11, 0, 12], &rest[..]].concat())
        }
        SocketAddr::V6(client) => {
            let ports = [client.port().to_be_bytes(), 12150u16.to_be_bytes()].concat();
            let rest = [&client.ip().octets()[..], &[0; 16], &ports].concat();
            header(&[&[0x21, 0x21, 0, 36], &rest[..]].concat())
        }
    }
}

fn setup() -> Setup {
    Setup::new(PROGRAM).unwrap().with("server.proxy_protocol", r#"["127.0.0.1", "192.0.2.0/24"]"#)
}

/// Shows a wrong token; the code of the reply.
fn fail(peer: &mut Peer) -> u64 {
    let token = json!({ "token": "A".repeat(43) });
    peer.refused("rpc", "auth_token", &token).unwrap().code
}

fn is_refused(daemon: &Daemon, header: &[u8]) -> bool {
    Peer::connect_as_proxy(daemon, Transport::Plain, header).is_err()
}

#[test]
fn proxied_client_is_known_by_the_address_of_the_header() {
    let daemon = setup().start().unwrap();
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    for (number, transport) in TRANSPORTS.into_iter().enumerate() {
        let client = format!("203.0.113.{number}");
        let header = from(&format!("{client}:4711"));
        let mut peer = Peer::connect_as_proxy(&daemon, transport, &header).unwrap();
        assert_eq!(fail(&mut peer), 401);
        daemon.log().wait(&format!("authentication failure from {client}: token")).unwrap();
        peer.request("rpc", "auth_token", &token).unwrap();
        daemon.log().wait(&format!("from=\"{client}:4711\"")).unwrap();
        let status = peer.request("rpc", "status", &json!({})).unwrap();
        assert_eq!(status["clients"][0]["peer"], format!("{client}:4711"));
        assert_eq!(status["clients"][0]["local"], false);
    }
    let header = from("[2001:db8::7]:4711");
    let mut peer = Peer::connect_as_proxy(&daemon, Transport::Tls, &header).unwrap();
    assert_eq!(fail(&mut peer), 401);
    daemon.log().wait("authentication failure from 2001:db8::7: token").unwrap();
}

#[test]
fn proxied_client_that_fails_is_blocked_and_others_are_not() {
    let daemon = setup().with("auth.fail_limit", 1).start().unwrap();
    // Loopback behind a proxy may be another host's, and is not exempt.
    for client in ["203.0.113.7", "127.0.0.1"] {
        let header = from(&format!("{client}:4711"));
        let mut peer = Peer::connect_as_proxy(&daemon, Transport::Plain, &header).unwrap();
        assert_eq!(fail(&mut peer), 401);
        assert_eq!(fail(&mut peer), 403);
        assert_eq!(peer.closed().unwrap(), 1008);
        daemon.log().wait(&format!("blocked {client} for ")).unwrap();
        assert!(is_refused(&daemon, &from(&format!("{client}:5000"))));
    }
    assert!(is_refused(&daemon, &from("[::1]:5000")), "all of loopback is one");
    assert!(is_refused(&daemon, &header(NO_ADDRESS)), "the proxy itself is at 127.0.0.1");
    let mut other =
        Peer::connect_as_proxy(&daemon, Transport::Tls, &from("203.0.113.8:1")).unwrap();
    assert_eq!(fail(&mut other), 401);
    Peer::local(&daemon).unwrap().request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn proxied_client_is_never_local() {
    let daemon = setup().start().unwrap();
    let origin = "Origin: http://localhost\r\n";
    for header in [from("127.0.0.1:4711"), header(NO_ADDRESS), header(&[0x21, 0, 0, 2, 7, 7])] {
        let mut stream = Stream::dial_as_proxy(&daemon, Transport::Plain, &header).unwrap();
        stream.send(upgrade_request(origin).as_bytes()).unwrap();
        assert!(stream.read_head().unwrap().starts_with("HTTP/1.1 403 "));
        let mut peer = Peer::connect_as_proxy(&daemon, Transport::Plain, &header).unwrap();
        assert_eq!(peer.refused("rpc", "auth", &json!({})).unwrap().code, 401);
    }
    let daemon = Daemon::start(PROGRAM).unwrap();
    Peer::connect_with(&daemon, Transport::Plain, origin).unwrap();
}

#[test]
fn header_with_a_fault_is_refused_without_a_reply() {
    let daemon = setup().start().unwrap();
    let tcp4 = from("203.0.113.7:4711");
    let with = |at: usize, byte: u8| {
        let mut header = tcp4.clone();
        header[at] = byte;
        header
    };
    let checksum = [&with(15, 19)[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
    let faults = [
        (upgrade_request("").into_bytes(), "it sends no header"),
        (vec![0x16, 3, 1], "it sends no header"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 12150\r\n".to_vec(), "it sends no header"),
        (with(11, b' '), "it sends no header"),
        (with(12, 0x11), "has another version"),
        (with(12, 0x2f), "unknown command"),
        (with(13, 0x12), "something else than a TCP connection"),
        (with(14, 0xff), "is too long"),
        (with(15, 11), "ends within an address"),
        ([&with(15, 14)[..], &[4, 0]].concat(), "ends within a field"),
        (checksum, "the checksum of its PROXY header is wrong"),
    ];
    let mut line = 0;
    for (bytes, why) in faults {
        let mut stream = Stream::dial_as_proxy(&daemon, Transport::Plain, &bytes).unwrap();
        let reply = stream.read_all().unwrap();
        assert!(reply.is_empty(), "{why}: {reply:?}");
        let (found, after) = daemon.log().wait_from(line, "a proxy (proxy_protocol), but").unwrap();
        assert!(found.contains(why) && found.contains("refused 127.0.0.1:"), "{why}: {found}");
        line = after;
    }
}

#[test]
fn header_that_does_not_end_is_awaited_for_the_handshake_timeout() {
    let daemon = setup().with("server.handshake_timeout", r#""100ms""#).start().unwrap();
    for length in [0, 5, 16, 27] {
        let begun = &from("203.0.113.7:4711")[..length];
        let mut stream = Stream::dial_as_proxy(&daemon, Transport::Plain, begun).unwrap();
        assert!(stream.read_all().unwrap().is_empty());
    }
    assert!(!daemon.log().lines().iter().any(|line| line.contains("refused 127.0.0.1:")));
}

#[test]
fn header_of_another_peer_is_an_error() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.proxy_protocol", r#"["127.0.0.2"]"#);
    let daemon = setup.start().unwrap();
    let header = from("203.0.113.7:4711");
    let mut stream = Stream::dial_as_proxy(&daemon, Transport::Plain, &header).unwrap();
    stream.send(upgrade_request("").as_bytes()).unwrap();
    assert!(stream.read_head().unwrap().starts_with("HTTP/1.1 400 "));
    assert!(Peer::connect_as_proxy(&daemon, Transport::Tls, &header).is_err());
    Peer::connect(&daemon, Transport::Tls).unwrap();
}

#[test]
fn proxies_are_others_after_a_reload() {
    let mut setup = setup();
    let daemon = setup.start().unwrap();
    assert!(Peer::connect(&daemon, Transport::Plain).is_err());
    setup.set("server.proxy_protocol", "[]");
    setup.write().unwrap();
    daemon.reload().unwrap();
    Peer::connect(&daemon, Transport::Plain).unwrap();
    assert!(is_refused(&daemon, &from("203.0.113.7:4711")));
}

#[test]
fn relay_behind_a_proxy_knows_peers_by_the_address_of_the_header() {
    let setup = Setup::bridge(PROGRAM).unwrap().with("relay.proxy_protocol", r#"["127.0.0.0/8"]"#);
    let bridge = setup.start().unwrap();
    let header = from("203.0.113.7:4711");
    let peer = Peer::connect_as_proxy(&bridge, Transport::Tls, &header).unwrap();
    let mut peer = BridgePeer::over(peer, "client").unwrap();
    let test_string = peer.peer.request("rpc", "auth_ssl", &json!({})).unwrap();
    assert!(test_string["test_string"].is_string());
    let wrong = json!({ "key": "A", "signature": "A" });
    assert_eq!(peer.peer.refused("rpc", "auth_ssl", &wrong).unwrap().code, 401);
    bridge.log().wait("authentication failure from 203.0.113.7: key").unwrap();
    assert!(Peer::connect(&bridge, Transport::Tls).is_err());
    bridge.log().wait("a proxy (proxy_protocol), but it sends no header").unwrap();
}

/// haproxy in front of a daemon's listener with TLS. It ends when this is dropped.
struct Haproxy {
    child: Child,
    address: SocketAddr,
}

impl Haproxy {
    fn start(daemon: &Daemon) -> Option<Haproxy> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let file = daemon.directory().join("haproxy.cfg");
        let text = format!(
            "defaults\n mode tcp\n timeout connect 60s\n timeout client 60s\n timeout server 60s\n\
             frontend f\n bind fd@0\n default_backend b\nbackend b\n \
             server s {} send-proxy-v2 proxy-v2-options crc32c,unique-id\n",
            daemon.tls()
        );
        fs::write(&file, text).unwrap();
        let child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(file)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Some(Haproxy { child: child.ok()?, address })
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn client_behind_haproxy_is_known_by_its_own_address() {
    let daemon = setup().start().unwrap();
    let Some(haproxy) = Haproxy::start(&daemon) else {
        return skip("no haproxy is installed");
    };
    let token = json!({ "token": Peer::token(&daemon).unwrap() });
    let address = haproxy.address.to_string();
    let mut peer = Peer::connect_to(&address, daemon.fingerprint()).unwrap();
    peer.request("rpc", "auth_token", &token).unwrap();
    let status = peer.request("rpc", "status", &json!({})).unwrap();
    let shown: SocketAddrV4 = status["clients"][0]["peer"].as_str().unwrap().parse().unwrap();
    let own = match peer.stream() {
        Stream::Tls(stream) => TcpStream::local_addr(&stream.sock).unwrap(),
        Stream::Plain(_) | Stream::Unix(_) => unreachable!("TLS was asked for"),
    };
    assert_eq!(SocketAddr::V4(shown), own);
}
