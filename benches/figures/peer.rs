//! The other end of a connection: a small blocking WebSocket client over Unix, TCP or TLS.
//!
//! It shares no code with the daemon but the framing library, so that it measures from outside.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::digest;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::Outcome;
use super::daemon::Daemon;

/// No answer is ever this late, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a connection runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The local socket: the kernel says who we are.
    Unix,
    /// TCP on loopback, with a token.
    Plain,
    /// The same over TLS 1.3.
    Tls,
}

impl Transport {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Unix => "Unix",
            Transport::Plain => "plain",
            Transport::Tls => "TLS",
        }
    }
}

/// The bytes under the frames.
#[derive(Debug)]
pub(crate) enum Stream {
    /// A Unix socket.
    Unix(UnixStream),
    /// A TCP connection.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_read_timeout(Some(timeout)),
            Stream::Plain(stream) => stream.set_read_timeout(Some(timeout)),
            Stream::Tls(stream) => stream.sock.set_read_timeout(Some(timeout)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.flush(),
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// One client.
pub(crate) struct Peer {
    socket: WebSocket<Stream>,
    requests: u64,
}

impl Peer {
    /// Connects to the daemon's local socket.
    pub(crate) fn local(daemon: &Daemon) -> Outcome<Peer> {
        Peer::upgrade(Stream::Unix(UnixStream::connect(daemon.socket())?))
    }

    /// Takes over a connection that carries frames from its first byte on.
    pub(crate) fn over(stream: Stream) -> Outcome<Peer> {
        stream.set_read_timeout(PATIENCE)?;
        let config = WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(0);
        Ok(Peer {
            socket: WebSocket::from_raw_socket(stream, Role::Client, Some(config)),
            requests: 0,
        })
    }

    /// Connects `count` clients, one after the other, each known and subscribed before the next:
    /// more than four strangers of one address at a time are not let in.
    pub(crate) fn subscribers(
        daemon: &Daemon,
        transport: Transport,
        count: usize,
    ) -> Outcome<Vec<Peer>> {
        let token = Peer::local(daemon)?.request("rpc", "auth", &json!({}))?[0].clone();
        let tls = client_config(&daemon.fingerprint)?;
        (0..count)
            .map(|_| {
                let stream = match transport {
                    Transport::Unix => Stream::Unix(UnixStream::connect(daemon.socket())?),
                    Transport::Plain => Stream::Plain(dial(&daemon.plain)?),
                    Transport::Tls => {
                        let name = ServerName::try_from("localhost")?;
                        let session = ClientConnection::new(Arc::clone(&tls), name)?;
                        let stream = StreamOwned::new(session, dial(&daemon.tls)?);
                        Stream::Tls(Box::new(stream))
                    }
                };
                let mut peer = Peer::upgrade(stream)?;
                if transport != Transport::Unix {
                    peer.request("rpc", "auth_token", &json!({ "token": token }))?;
                }
                peer.subscribe()?;
                Ok(peer)
            })
            .collect()
    }

    /// Asks for the events of jobs.
    pub(crate) fn subscribe(&mut self) -> Outcome<()> {
        self.request("events", "subscribe", &json!(["dispatcher"]))?;
        Ok(())
    }

    /// Sends a request and waits for its reply; its `args`. Events that come before are let go.
    pub(crate) fn request(&mut self, namespace: &str, name: &str, args: &Value) -> Outcome<Value> {
        self.requests += 1;
        let id = self.requests;
        let request = json!({ "namespace": namespace, "name": name, "id": id, "args": args });
        self.socket.send(Message::text(request.to_string()))?;
        loop {
            let mut frame: Value = serde_json::from_str(&self.event()?)?;
            if frame["id"] != id {
                continue;
            }
            if frame["name"] == "error" {
                return Err(format!("{namespace}/{name} was answered {}", frame["args"]).into());
            }
            return Ok(frame["args"].take());
        }
    }

    /// Sends a request whose reply nobody waits for.
    pub(crate) fn post(&mut self, namespace: &str, name: &str, args: &Value) -> Outcome<()> {
        let request = json!({ "namespace": namespace, "name": name, "id": "posted", "args": args });
        self.socket.send(Message::text(request.to_string()))?;
        Ok(())
    }

    /// The next text frame, waited for.
    pub(crate) fn event(&mut self) -> Outcome<String> {
        loop {
            match self.socket.read()? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Ping(_) | Message::Pong(_) => {}
                other @ (Message::Binary(_) | Message::Close(_) | Message::Frame(_)) => {
                    return Err(format!("unexpected frame: {other:?}").into());
                }
            }
        }
    }

    /// Does nothing for that long but answer pings.
    pub(crate) fn idle(&mut self, time: Duration) -> Outcome<()> {
        let end = Instant::now() + time;
        while let Some(left) =
            end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.socket.get_ref().set_read_timeout(left)?;
            match self.socket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.socket.get_ref().set_read_timeout(PATIENCE)?;
        Ok(())
    }

    fn upgrade(mut stream: Stream) -> Outcome<Peer> {
        stream.set_read_timeout(PATIENCE)?;
        // The key is the example of RFC 6455: nothing depends on it, and the answer is not checked.
        stream.write_all(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )?;
        stream.flush()?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend_from_slice(&byte);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)).into());
        }
        Peer::over(stream)
    }
}

/// A frame as a server sends it (RFC 6455 section 5.2): final, text, unmasked.
pub(crate) fn server_frame(text: &str) -> Vec<u8> {
    let length = text.len();
    let mut frame = vec![0x81];
    if let Ok(short) = u8::try_from(length)
        && short < 126
    {
        frame.push(short);
    } else if let Ok(medium) = u16::try_from(length) {
        frame.push(126);
        frame.extend_from_slice(&medium.to_be_bytes());
    } else {
        frame.push(127);
        frame.extend_from_slice(&(length as u64).to_be_bytes());
    }
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Trusts the one certificate, and resumes no session: each client costs what a new one costs.
fn client_config(fingerprint: &str) -> Outcome<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned =
        Arc::new(Pinned { fingerprint: fingerprint.to_owned(), provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let digest = digest::digest(&digest::SHA256, certificate);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if hex == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(format!("unknown certificate {hex}")))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
