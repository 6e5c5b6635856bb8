//! A fake daemon, for messages that a real one would never send.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use serde_json::{Value, json};
use support::Directory;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// A socket with a fake daemon for one client.
pub(super) struct Impostor {
    directory: Directory,
    serves: Option<JoinHandle<()>>,
}

impl Impostor {
    /// A fake daemon that serves its one client with this function.
    pub(super) fn new(serve: impl FnOnce(UnixStream) + Send + 'static) -> Impostor {
        let directory = Directory::new().unwrap();
        let listener = UnixListener::bind(directory.join("socket")).unwrap();
        let serves = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            serve(stream);
        });
        Impostor { directory, serves: Some(serves) }
    }

    /// A fake daemon that sends these bytes instead of HTTP, and closes.
    pub(super) fn that_says(bytes: &'static [u8]) -> Impostor {
        Impostor::new(move |mut stream| {
            read_head(&mut stream);
            // The client may disconnect early.
            let _ = stream.write_all(bytes);
        })
    }

    /// A fake daemon with real replies: it accepts any subscription, sends these events, and
    /// closes.
    pub(super) fn with_events(events: Vec<Value>) -> Impostor {
        Impostor::new(move |stream| {
            let mut socket = upgrade(stream);
            let request = socket.read().unwrap();
            let request: Value = serde_json::from_str(request.to_text().unwrap()).unwrap();
            let reply = json!({ "namespace": "events", "name": "response", "id": request["id"],
                                "args": { "subscribe": request["args"]["events"] } });
            socket.send(Message::text(reply.to_string())).unwrap();
            for event in events {
                socket.send(Message::text(event.to_string())).unwrap();
            }
            socket.close(None).unwrap();
            while socket.read().is_ok() {}
        })
    }

    /// The path of its socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        // There may have been no client; then nothing is waited for.
        let _ = UnixStream::connect(self.socket());
        if let Some(serves) = self.serves.take() {
            let _ = serves.join();
        }
    }
}

/// Reads a request up to its empty line, or to the end.
fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.extend_from_slice(&byte);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// The server's side of an upgrade (RFC 6455 section 4.2.2).
pub(super) fn upgrade(mut stream: UnixStream) -> WebSocket<UnixStream> {
    let head = read_head(&mut stream);
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(hash.finish());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).unwrap();
    WebSocket::from_raw_socket(stream, Role::Server, None)
}
