//! The client against small hand-written servers, over real sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use ring::digest;
use rustls::{ServerConnection, StreamOwned};
use tungstenite::protocol::CloseFrame;

use tungstenite::protocol::Role;
use tungstenite::{Message as WsMessage, WebSocket};

use super::*;
use crate::net::certificate;
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;

/// A directory for one test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sysadm-client-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn impatient() -> Timeouts {
    let short = Duration::from_millis(200);
    Timeouts { connect: short, handshake: short, reply: short, ..Timeouts::default() }
}

/// Reads the request up to its empty line and returns the reply to its key.
fn accept_for(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        STANDARD.encode(hash.finish())
    )
}

fn upgraded<S: Read + Write>(mut stream: S) -> WebSocket<S> {
    let answer = accept_for(&mut stream);
    stream.write_all(answer.as_bytes()).unwrap();
    WebSocket::from_raw_socket(stream, Role::Server, None)
}

/// A server for one connection on a Unix socket; the client's target.
fn serve<F>(directory: &Directory, serve: F) -> (Target, JoinHandle<()>)
where
    F: FnOnce(UnixStream) + Send + 'static,
{
    let path = directory.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0));
    (Target::Sockets(vec![path]), server)
}

fn request_of<S: Read + Write>(socket: &mut WebSocket<S>) -> Value {
    loop {
        if let WsMessage::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

fn reply_to(request: &Value, args: Value) -> WsMessage {
    let (namespace, id) = (&request["namespace"], &request["id"]);
    let reply = json!({"namespace": namespace, "name": "response", "id": id, "args": args});
    WsMessage::text(reply.to_string())
}

fn event(number: u32) -> WsMessage {
    let event =
        json!({"namespace": "events", "name": "dispatcher", "id": "none", "args": {"n": number}});
    WsMessage::text(event.to_string())
}

fn number(frame: &Frame) -> Value {
    frame.value().unwrap()["args"]["n"].clone()
}

#[test]
fn events_before_a_reply_are_queued_in_order() {
    let directory = Directory::new();
    let (target, server) = serve(&directory, |stream| {
        let mut socket = upgraded(stream);
        let request = request_of(&mut socket);
        assert_eq!(
            request,
            json!({"namespace": "rpc", "name": "query", "id": "1", "args": {"a": 1}})
        );
        socket.send(event(1)).unwrap();
        socket.send(event(2)).unwrap();
        let other = json!({"namespace": "rpc", "id": "other"});
        socket.send(reply_to(&other, json!("not this one"))).unwrap();
        socket.send(reply_to(&request, json!({"ok": true}))).unwrap();
        socket.send(event(3)).unwrap();
    });
    let mut client = Client::connect(&target).unwrap();
    assert_eq!(client.call("rpc", "query", json!({"a": 1})).unwrap(), json!({"ok": true}));
    let numbers: Vec<Value> = (0..3).map(|_| number(&client.next_event().unwrap())).collect();
    assert_eq!(numbers, [1, 2, 3]);
    server.join().unwrap();
    assert!(matches!(client.next_event(), Err(ClientError::Lost(_))));
}

#[test]
fn bytes_after_the_upgrade_are_not_lost() {
    let directory = Directory::new();
    let (target, server) = serve(&directory, |mut stream| {
        let answer = accept_for(&mut stream);
        let mut bytes = answer.into_bytes();
        let text = r#"{"namespace":"events","name":"x","args":{"n":7}}"#;
        bytes.extend_from_slice(&[0x81, u8::try_from(text.len()).unwrap()]);
        bytes.extend_from_slice(text.as_bytes());
        stream.write_all(&bytes).unwrap();
    });
    let mut client = Client::connect(&target).unwrap();
    assert_eq!(number(&client.next_event().unwrap()), 7);
    server.join().unwrap();
}

#[test]
fn pings_get_pongs_while_events_are_awaited() {
    let directory = Directory::new();
    let (target, server) = serve(&directory, |stream| {
        let mut socket = upgraded(stream);
        socket.send(WsMessage::Ping(b"are you there"[..].into())).unwrap();
        assert_eq!(socket.read().unwrap(), WsMessage::Pong(b"are you there"[..].into()));
        socket.send(event(1)).unwrap();
        assert!(matches!(socket.read(), Ok(WsMessage::Close(_))));
    });
    let mut client = Client::connect(&target).unwrap();
    assert_eq!(number(&client.next_event().unwrap()), 1);
    drop(client);
    server.join().unwrap();
}

#[test]
fn upgrade_with_wrong_accept_key_is_rejected() {
    let directory = Directory::new();
    let (target, server) = serve(&directory, |mut stream| {
        let answer = accept_for(&mut stream);
        let at = answer.find("Accept: ").unwrap() + 8;
        let wrong = format!("{}AAAA{}", &answer[..at], &answer[at + 4..]);
        stream.write_all(wrong.as_bytes()).unwrap();
    });
    let error = Client::connect(&target).err().unwrap();
    assert!(matches!(&error, ClientError::Protocol(why) if why.contains("Accept")), "{error}");
    server.join().unwrap();
}

#[test]
fn a_server_that_is_silent_gives_an_error_in_time() {
    let directory = Directory::new();
    let (target, server) = serve(&directory, |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = Client::connect_within(&target, impatient()).err().unwrap();
    assert!(matches!(error, ClientError::TimedOut { step: Step::Handshake, .. }), "{error}");
    server.join().unwrap();

    let directory = Directory::new();
    let (target, server) = serve(&directory, |stream| {
        let mut socket = upgraded(stream);
        while socket.read().is_ok() {}
    });
    let mut client = Client::connect_within(&target, impatient()).unwrap();
    let error = client.call("rpc", "query", Value::Null).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { step: Step::Reply, .. }), "{error}");
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_backlog_that_is_full_gives_an_error_in_time() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let timeouts = Timeouts { connect: Duration::from_secs(1), ..impatient() };
    // No connection is accepted; the size of the backlog depends on the system.
    let address = UnixAddr::new(&path).unwrap();
    let (family, kind) = (AddressFamily::Unix, SockType::Stream);
    let mut held = Vec::new();
    while let Ok(socket) = socket(family, kind, SockFlag::SOCK_NONBLOCK, None)
        && connect(socket.as_raw_fd(), &address).is_ok()
    {
        held.push(socket);
    }
    let error = Client::connect_within(&Target::Sockets(vec![path]), timeouts).err().unwrap();
    assert_eq!(error.exit_code(), sysexits::UNAVAILABLE, "{error}");
}

#[test]
fn first_socket_with_a_daemon_is_used_else_all_are_named() {
    let directory = Directory::new();
    let (nothing, stale) = (directory.join("nothing"), directory.join("stale"));
    drop(UnixListener::bind(&stale).unwrap());
    let (target, server) = serve(&directory, |stream| drop(upgraded(stream)));
    let Target::Sockets(paths) = target else { panic!() };
    let all = vec![nothing.clone(), stale.clone(), paths[0].clone()];
    let client = Client::connect(&Target::Sockets(all)).unwrap();
    assert_eq!(client.peer(), paths[0].display().to_string());
    server.join().unwrap();
    let none = Target::Sockets(vec![nothing.clone(), stale, nothing]);
    let error = Client::connect(&none).err().unwrap();
    assert!(matches!(&error, ClientError::NoDaemon(tried) if tried.len() == 2), "{error}");
}

#[test]
fn error_reply_and_close_have_their_codes() {
    let directory = Directory::new();
    let (target, server) = serve(&directory, |stream| {
        let mut socket = upgraded(stream);
        request_of(&mut socket);
        let error = json!({"namespace": "rpc", "name": "error", "id": "", "args": {"code": 403, "message": "m"}});
        socket.send(WsMessage::text(error.to_string())).unwrap();
        let code = 1001.into();
        socket.close(Some(CloseFrame { code, reason: "bye".into() })).unwrap();
        while socket.read().is_ok() {}
    });
    let mut client = Client::connect(&target).unwrap();
    let error = client.call("rpc", "x", Value::Null).unwrap_err();
    assert!(matches!(&error, ClientError::Refused(Refused { code: Some(403), .. })), "{error}");
    let error = client.next_event().unwrap_err();
    assert!(
        matches!(&error, ClientError::Closed { code: 1001, reason } if reason == "bye"),
        "{error}"
    );
    drop(client);
    server.join().unwrap();
}

#[test]
fn wait_ends_at_deadline_or_when_a_descriptor_is_ready() {
    let directory = Directory::new();
    let (target, server) = serve(&directory, |stream| {
        let mut socket = upgraded(stream);
        while socket.read().is_ok() {}
    });
    let mut client = Client::connect(&target).unwrap();
    let soon = Wait { deadline: Some(Instant::now() + Duration::from_millis(20)), wake: &[] };
    assert!(matches!(client.next(&soon), Ok(Incoming::Nothing)));
    let (mine, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();
    let wake = [PollFd::new(mine.as_fd(), PollFlags::POLLIN)];
    assert!(matches!(client.next(&Wait { deadline: None, wake: &wake }), Ok(Incoming::Woken)));
    drop(client);
    server.join().unwrap();
}

/// A TLS server for one connection, which echoes the arguments of one request.
fn serve_tls(directory: &Directory) -> (Url, JoinHandle<()>) {
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    certificate::ensure(&cert, &key, &["localhost".to_owned()], MayBlock::before_loop()).unwrap();
    let config = certificate::server_side(&cert, &key, &Files::of_system(MayBlock::before_loop()))
        .unwrap()
        .config;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        if tls.conn.complete_io(&mut tls.sock).is_err() {
            return;
        }
        let mut socket = upgraded(tls);
        for _ in 0..2 {
            let request = request_of(&mut socket);
            let args = request["args"].clone();
            socket.send(reply_to(&request, args)).unwrap();
        }
    });
    (format!("wss://127.0.0.1:{port}").parse().unwrap(), server)
}

#[test]
fn server_with_pinned_fingerprint_gets_the_token() {
    let directory = Directory::new();
    let (url, server) = serve_tls(&directory);
    let fingerprint = certificate::fingerprint_of(
        &directory.join("cert.pem"),
        &Files::of_system(MayBlock::before_loop()),
    )
    .unwrap();
    let fingerprint = fingerprint.parse().unwrap();
    let credential = Some(Credential::Token(Secret::new("secret")));
    let mut client =
        Client::connect(&Target::Tls { url, fingerprint, known: None, credential }).unwrap();
    let long = "x".repeat(300_000);
    assert_eq!(client.call("rpc", "echo", json!(long)).unwrap(), json!(long));
    drop(client);
    server.join().unwrap();
}

#[test]
fn wrong_certificate_is_rejected_with_both_fingerprints() {
    let directory = Directory::new();
    let (url, server) = serve_tls(&directory);
    let fingerprint = Fingerprint::new([7; 32]);
    let error = Client::connect(&Target::Tls { url, fingerprint, known: None, credential: None })
        .err()
        .unwrap();
    let shown = certificate::fingerprint_of(
        &directory.join("cert.pem"),
        &Files::of_system(MayBlock::before_loop()),
    )
    .unwrap();
    assert!(error.to_string().contains(&shown), "{error}");
    assert!(error.to_string().contains(&fingerprint.to_string()), "{error}");
    server.join().unwrap();
}

#[test]
fn a_remote_daemon_that_died_silently_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap();
    let server = thread::spawn(move || {
        let mut socket = upgraded(listener.accept().unwrap().0);
        assert_eq!(socket.read().unwrap(), WsMessage::Ping(Vec::new().into()));
        socket.flush().unwrap();
        assert_eq!(socket.read().unwrap(), WsMessage::Ping(Vec::new().into()));
        // No more replies: their sender is gone.
        let _ = socket.get_mut().read_to_end(&mut Vec::new());
    });
    let short = Duration::from_millis(100);
    let timeouts = Timeouts { idle: short, ping: short, ..Timeouts::default() };
    let mut client =
        Client::connect_within(&Target::Loopback { url, credential: None }, timeouts).unwrap();
    let error = client.next_event().unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { step: Step::Ping, .. }), "{error}");
    drop(client);
    server.join().unwrap();
}
