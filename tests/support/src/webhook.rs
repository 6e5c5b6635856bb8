//! An HTTP server on loopback for tests of webhooks: it answers as it is scripted, and records what it
//! got.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::{Outcome, PATIENCE};

/// Reply to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, headers and body.
    Status(u16, String, Vec<u8>),
    /// The connection stays open, and nothing comes.
    Hang,
    /// The connection is closed.
    Close,
}

impl Reply {
    /// A status without a body.
    pub fn status(status: u16) -> Reply {
        Reply::with(status, "", "")
    }

    /// A status with header lines, each with its line end, and a body.
    pub fn with(status: u16, headers: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply::Status(status, headers.to_owned(), body.into())
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method and path.
    pub line: String,
    /// Lines, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The status that was sent; 0 without a reply.
    pub status: u16,
}

impl Received {
    /// The value of a header, empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    pub fn json(&self) -> Outcome<serde_json::Value> {
        Ok(serde_json::from_str(&self.body)?)
    }
}

/// The server; each connection has one request.
#[derive(Debug)]
pub struct Webhook {
    address: String,
    /// PEM of its certificate, with TLS.
    pub certificate: String,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    received: Receiver<Received>,
    stop: Arc<AtomicBool>,
}

impl Webhook {
    /// A server that answers with `replies` in turn, and with 200 after them.
    pub fn start(replies: impl IntoIterator<Item = Reply>) -> Outcome<Webhook> {
        Webhook::serve(TcpListener::bind("127.0.0.1:0")?, replies, None)
    }

    /// The same on a port that was in use before.
    pub fn start_at(address: &str) -> Outcome<Webhook> {
        Webhook::serve(TcpListener::bind(address)?, [], None)
    }

    /// The same with TLS, for the name localhost.
    pub fn start_tls() -> Outcome<Webhook> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["localhost".to_owned()])?.self_signed(&key)?;
        let private = PrivateKeyDer::try_from(key.serialize_der())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        let mut server =
            Webhook::serve(TcpListener::bind("127.0.0.1:0")?, [], Some(Arc::new(config)))?;
        server.certificate = certificate.pem();
        Ok(server)
    }

    fn serve(
        listener: TcpListener,
        replies: impl IntoIterator<Item = Reply>,
        tls: Option<Arc<ServerConfig>>,
    ) -> Outcome<Webhook> {
        let address = listener.local_addr()?.to_string();
        let replies = Arc::new(Mutex::new(replies.into_iter().collect::<VecDeque<_>>()));
        let (sender, received) = mpsc::channel();
        let (of_thread, stop) = (Arc::clone(&replies), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&stop);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if until.load(Ordering::SeqCst) {
                    break;
                }
                let (replies, sender, tls) = (of_thread.clone(), sender.clone(), tls.clone());
                thread::spawn(move || {
                    let _ = match tls {
                        None => answer(stream, &replies, &sender),
                        Some(config) => {
                            ServerConnection::new(config).map_err(io::Error::other).and_then(
                                |tls| answer(StreamOwned::new(tls, stream), &replies, &sender),
                            )
                        }
                    };
                });
            }
        });
        Ok(Webhook { address, certificate: String::new(), replies, received, stop })
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its port.
    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }

    /// Adds a reply.
    pub fn reply(&self, reply: Reply) -> Outcome<()> {
        self.replies.lock().map_err(|_| "a reply failed")?.push_back(reply);
        Ok(())
    }

    /// Answers with 200 from now on.
    pub fn recover(&self) -> Outcome<()> {
        self.replies.lock().map_err(|_| "a reply failed")?.clear();
        Ok(())
    }

    /// The next request.
    pub fn next(&self) -> Outcome<Received> {
        Ok(self.received.recv_timeout(PATIENCE)?)
    }

    /// The requests that are there.
    pub fn all(&self) -> Vec<Received> {
        self.received.try_iter().collect()
    }
}

/// Bytes of a request at most.
const LONGEST: usize = 4 * 1024 * 1024;

fn answer(
    mut stream: impl Read + Write,
    replies: &Mutex<VecDeque<Reply>>,
    sender: &Sender<Received>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut room = [0; 16 * 1024];
    let end = loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some(end) = text.find("\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut room)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&room[..n]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, length)| length.parse::<usize>().ok()).unwrap_or(0);
    while bytes.len() < (end + length).min(LONGEST) {
        match stream.read(&mut room)? {
            0 => break,
            n => bytes.extend_from_slice(&room[..n]),
        }
    }
    let body = String::from_utf8_lossy(&bytes[end..]).into_owned();
    let reply = replies.lock().ok().and_then(|mut replies| replies.pop_front());
    let mut received = Received { line, headers, body, status: 0 };
    match reply.unwrap_or_else(|| Reply::status(200)) {
        Reply::Status(status, headers, body) => {
            let head = format!(
                "HTTP/1.1 {status} Scripted\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            received.status = if stream.write_all(head.as_bytes()).is_ok() { status } else { 0 };
            let _ = sender.send(received);
            // A client that does not read all of it closes the connection.
            let _ = stream.write_all(&body).and_then(|()| stream.flush());
        }
        Reply::Hang => {
            let _ = sender.send(received);
            // Until the client has given up.
            while stream.read(&mut room)? > 0 {}
        }
        Reply::Close => {
            let _ = sender.send(received);
        }
    }
    Ok(())
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
    }
}
