//! Transports: TLS 1.3 and 1.2, plain loopback and the local socket, and the certificate.

use std::fs;
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use rustls::ProtocolVersion;
use serde_json::{Value, json};
use support::{Cli, Daemon, Outcome, Peer, Setup, Stream, Transport, client_frame, skip};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::PROGRAM;

/// All replies on one connection, without their variable parts.
fn conversation(daemon: &Daemon, transport: Transport) -> Outcome<Vec<Value>> {
    let mut peer = Peer::known(daemon, transport)?;
    let mut said = vec![
        peer.request("rpc", "identify", &json!(""))?,
        peer.request("rpc", "query", &json!([]))?,
        peer.request("events", "subscribe", &json!(["dispatcher", "system_state"]))?,
        peer.run(&json!({ "j": ["echo one", "sh -c 'echo two; exit 3'", "echo never"] }))?,
    ];
    let mut events = peer.job("j")?;
    let mut finished = events.pop().ok_or("no event")?;
    for time in ["time_started", "time_finished"] {
        assert!(finished[time].take().is_string());
    }
    assert!(finished["duration"].take().is_number());
    assert!(finished["submitted_by"].is_string());
    said.extend([events.swap_remove(0), finished]);
    said.push(peer.request("rpc", "dispatcher", &json!({ "action": "log", "job_id": "j" }))?);
    for (namespace, name) in [("rpc", "nonsense"), ("nonsense", "rpc")] {
        said.push(json!(peer.refused(namespace, name, &Value::Null)?.message));
    }
    said.push(peer.request("events", "unsubscribe", &json!("dispatcher"))?);
    // Close code 1000, and its echo.
    peer.stream().send(&client_frame(0x88, &1000u16.to_be_bytes()))?;
    said.push(json!(peer.closed()?));
    Ok(said)
}

#[test]
fn replies_are_the_same_over_every_transport() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let local = conversation(&daemon, Transport::Unix).unwrap();
    assert_eq!(local[0]["type"], "server");
    assert_eq!(local[2], json!({ "subscribe": ["dispatcher", "system-state"] }));
    assert_eq!(local[4]["state"], "pending");
    assert_eq!(local[5]["sh -c 'echo two; exit 3'"], "two\n");
    assert_eq!(local[5]["return_codes/sh -c 'echo two; exit 3'"], "3");
    assert_eq!(local[6]["data"], "one\ntwo\n");
    assert_eq!(local.last().unwrap(), 1000);
    for transport in [Transport::Plain, Transport::Tls, Transport::Tls12] {
        assert_eq!(conversation(&daemon, transport).unwrap(), local, "{}", transport.name());
    }
}

#[test]
fn tls_1_3_and_1_2_are_both_spoken() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for (transport, version) in
        [(Transport::Tls, ProtocolVersion::TLSv1_3), (Transport::Tls12, ProtocolVersion::TLSv1_2)]
    {
        match Stream::open(&daemon, transport).unwrap() {
            Stream::Tls(stream) => assert_eq!(stream.conn.protocol_version(), Some(version)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn requests_before_the_end_of_tls_are_carried_out() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    for (transport, id) in [(Transport::Tls, "a"), (Transport::Tls12, "b"), (Transport::Plain, "c")]
    {
        let mut peer = Peer::known(&daemon, transport).unwrap();
        let request = json!({ "namespace": "rpc", "name": "dispatcher", "args": { "action": "run", id: "true" } });
        let frame = client_frame(0x81, request.to_string().as_bytes());
        // The request, and the end of the session after it, in one packet.
        match peer.stream() {
            Stream::Tls(stream) => {
                std::io::Write::write_all(&mut stream.conn.writer(), &frame).unwrap();
                stream.conn.send_close_notify();
                let mut packet = Vec::new();
                while stream.conn.wants_write() {
                    stream.conn.write_tls(&mut packet).unwrap();
                }
                std::io::Write::write_all(&mut stream.sock, &packet).unwrap();
            }
            Stream::Plain(stream) => {
                std::io::Write::write_all(stream, &frame).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            Stream::Unix(_) => unreachable!(),
        }
        assert_eq!(watcher.finished(id).unwrap()["return_codes/true"], "0");
    }
}

#[test]
fn without_tls_only_loopback_is_listened_on() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:12150", "[2001:db8::1]:12150"] {
        let setup = Setup::new(PROGRAM)
            .unwrap()
            .with("server.listen_plain", format!("[\"127.0.0.1:0\", \"{address}\"]"));
        let mut daemon = setup.launch().unwrap();
        let (status, log) = daemon.wait().unwrap();
        assert_eq!(status.code(), Some(78), "{log:?}");
        let line = fs::read_to_string(setup.file()).unwrap();
        let line = 1 + line.lines().position(|line| line.starts_with("listen_plain")).unwrap();
        let place = format!("{}:{line}: server.listen_plain", setup.file().display());
        let checked = Cli::of(PROGRAM, "check").arg("-c").arg(setup.file()).run().unwrap();
        assert_eq!(checked.code(), 1);
        for received in [log.join("\n"), checked.err] {
            assert!(received.contains(&place) && received.contains("loopback"), "{received}");
            assert!(received.contains(address), "{received}");
        }
        assert!(!daemon.socket().exists());
    }
}

#[test]
fn an_ipv6_listener_leaves_the_port_of_ipv4_alone() {
    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        return skip(&format!("this host has no IPv6: {error}"));
    }
    let ipv4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = ipv4.local_addr().unwrap().port();
    let setup =
        Setup::new(PROGRAM).unwrap().with("server.listen", format!("[\"[::]:{port}\"]")).start();
    let daemon = setup.unwrap();
    assert_eq!(daemon.tls(), format!("[::]:{port}"));
    // IPv4 connections to the port reach the test, IPv6 ones the daemon.
    ipv4.set_nonblocking(true).unwrap();
    let _by_ipv4 = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(ipv4.accept().is_ok());
    let _by_ipv6 = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    assert!(ipv4.accept().is_err());
    Peer::known(&daemon, Transport::Tls).unwrap();
    assert!(ipv4.accept().is_err());
}

/// The one certificate of a PEM file.
fn der(pem: &PathBuf) -> Vec<u8> {
    let text = fs::read_to_string(pem).unwrap();
    let base64: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(base64).unwrap()
}

/// First position of these bytes.
fn find(all: &[u8], part: &[u8]) -> Option<usize> {
    all.windows(part.len()).position(|window| window == part)
}

/// An object identifier as it is encoded in a certificate (X.690 section 8.19).
mod oid {
    pub(super) const PRIME256V1: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    pub(super) const COMMON_NAME: &[u8] = b"\x06\x03\x55\x04\x03";
    pub(super) const KEY_USAGE: &[u8] = b"\x06\x03\x55\x1d\x0f";
    pub(super) const ALTERNATIVE_NAME: &[u8] = b"\x06\x03\x55\x1d\x11";
}

#[test]
fn certificate_has_the_host_names_and_no_key_usage() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.hosts", r#"["nas.example.org"]"#);
    let daemon = setup.start().unwrap();
    let der = der(&daemon.directory().join("cert.pem"));
    assert!(find(&der, oid::PRIME256V1).is_some());
    assert_eq!(find(&der, oid::KEY_USAGE), None);

    // CN: a UTF-8 string (tag 12), in the issuer and, behind it, the subject: it signs itself.
    let identified = Peer::local(&daemon).unwrap().request("rpc", "identify", &json!(""));
    let hostname = identified.unwrap()["hostname"].as_str().unwrap().to_owned();
    let system = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(hostname, system);
    let named = [oid::COMMON_NAME, &[12, hostname.len() as u8], hostname.as_bytes()].concat();
    let issuer = find(&der, &named).unwrap();
    let subject = issuer + 1 + find(&der[issuer + 1..], &named).unwrap();

    // The names of the host: tag 2 of GeneralName (RFC 5280 section 4.2.1.6).
    let names = &der[find(&der, oid::ALTERNATIVE_NAME).unwrap()..];
    for name in [hostname.as_str(), "nas.example.org"] {
        let general = [&[0x82, name.len() as u8], name.as_bytes()].concat();
        assert!(find(names, &general).is_some(), "{name}");
    }

    // Validity stands between issuer and subject: two UTCTimes (tag 23, 13 characters).
    let from = issuer + find(&der[issuer..subject], b"\x17\x0d").unwrap() + 2;
    let text = format!("20{}", std::str::from_utf8(&der[from..from + 13]).unwrap());
    let format = format_description!("[year][month][day][hour][minute][second]Z");
    let not_before = PrimitiveDateTime::parse(&text, format).unwrap().assume_utc();
    let back = OffsetDateTime::from(SystemTime::now()) - not_before;
    assert!(back >= Duration::from_secs(86_400), "{back}");
    assert!(back < Duration::from_secs(86_400 + 600), "{back}");
}

#[test]
fn certificate_is_stored_and_its_fingerprint_is_consistent() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let (certificate, key) =
        (setup.directory().join("cert.pem"), setup.directory().join("key.pem"));
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&certificate), mode(&key)), (0o644, 0o600));

    let logged = daemon.fingerprint().to_owned();
    let printed = Cli::of(PROGRAM, "fingerprint").arg("-c").arg(setup.file()).run().unwrap();
    assert_eq!((printed.code(), printed.out), (0, format!("{logged}\n")));
    let seen = match Stream::open(&daemon, Transport::Tls).unwrap() {
        Stream::Tls(stream) => stream.conn.peer_certificates().unwrap()[0].to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(seen, der(&certificate));
    let hash = digest::digest(&digest::SHA256, &seen);
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, logged);

    let before = fs::read(&key).unwrap();
    daemon.stop().unwrap();
    let again = setup.start().unwrap();
    assert_eq!(again.fingerprint(), logged);
    assert_eq!(fs::read(&key).unwrap(), before);
}
