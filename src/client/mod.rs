//! A small client that blocks, for commands that say one thing and then listen.
//!
//! It has no thread and no runtime: its sockets do not block, and every wait is one `poll(2)` with
//! a deadline. Replies are bounded in time, so that a daemon that hangs gives an error instead of a
//! hanging command; events may be waited for without end, and meanwhile pings are answered. Towards
//! a remote daemon it pings by itself, since a host that died says nothing.

mod connect;
mod error;
mod feed;
mod frame;
mod known_hosts;
mod stream;
pub mod sysexits;
mod target;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::poll::PollFd;
use serde_json::{Map, Value, json};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message as WsMessage, WebSocket};

use connect::{Opened, Patience};
use frame::Message;
use stream::{Stream, Waited};

use crate::auth::key::{self, PrivateKey, Purpose};

pub use error::{ClientError, Refused, Step};
pub use feed::{Feed, News, Place};
pub use frame::{Frame, Reply};
pub use known_hosts::{KnownHost, KnownHosts};
pub use target::{Credential, DEFAULT_PORT, Fingerprint, Secret, Target, TargetError, Url};

/// How long the parts of a conversation may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, over all addresses of a name.
    pub connect: Duration,
    /// For TLS, and again for the upgrade.
    pub handshake: Duration,
    /// For the reply to a request; a daemon may delay one by 8 s (protocol section 3).
    pub reply: Duration,
    /// After such a silence a remote daemon is pinged.
    pub idle: Duration,
    /// For a sign of life after that ping.
    pub ping: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            reply: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            ping: Duration::from_secs(30),
        }
    }
}

/// The largest message that is taken, in bytes: far above what a daemon is configured to send, and
/// far below what would hurt.
const MAX_MESSAGE: usize = 64 << 20;
/// Bytes of events that are kept while a reply is waited for.
const MAX_QUEUED: usize = 64 << 20;
/// Bytes that are read from the socket at once.
const READ_BUFFER: usize = 16 * 1024;

/// What to wait for beside messages.
#[derive(Default)]
pub struct Wait<'a> {
    /// Not longer than until then; without it for ever.
    pub deadline: Option<Instant>,
    /// Other descriptors; one that has what it is asked for ends the wait.
    pub wake: &'a [PollFd<'a>],
}

/// What came.
#[derive(Debug)]
pub enum Incoming {
    /// Something happened.
    Event(Frame),
    /// The answer to a request that was only [sent](Client::send).
    Reply(Reply),
    /// Nothing; a descriptor of [`Wait::wake`] has something.
    Woken,
    /// Nothing; [`Wait::deadline`] has passed.
    Nothing,
}

/// A conversation with a daemon.
pub struct Client {
    socket: WebSocket<Stream>,
    peer: String,
    timeouts: Timeouts,
    /// The connection may die without a word.
    remote: bool,
    requests: u64,
    /// What came while a reply was waited for, and its bytes.
    queue: VecDeque<Incoming>,
    queued: usize,
    /// When the daemon gave its last sign of life, and whether it was asked for one since.
    heard: Instant,
    pinged: bool,
}

impl Client {
    /// Connects, and authenticates where the target has a credential.
    pub fn connect(target: &Target) -> Result<Client, ClientError> {
        Client::connect_within(target, Timeouts::default())
    }

    /// The same with other time-outs.
    pub fn connect_within(target: &Target, timeouts: Timeouts) -> Result<Client, ClientError> {
        let (opened, credential, certificate) = match target {
            Target::Sockets(paths) => {
                (connect::open_socket(paths, &timeouts)?, None, key::NO_CERTIFICATE)
            }
            Target::Loopback { url, credential } => {
                let opened = connect::open_url(url, None, &timeouts)?;
                (opened, credential.as_ref(), key::NO_CERTIFICATE)
            }
            Target::Tls { url, fingerprint, known, credential } => {
                let opened = connect::open_url(url, Some(*fingerprint), &timeouts)
                    .map_err(|error| error.known_at(known.as_deref()))?;
                (opened, credential.as_ref(), fingerprint.digest())
            }
        };
        let mut client = Client::over(opened, timeouts);
        match credential {
            None => {}
            Some(Credential::Token(token)) => {
                client.call("rpc", "auth_token", json!({ "token": token.text() }))?;
            }
            Some(Credential::Password { user, password }) => {
                let args = json!({ "username": user, "password": password.text() });
                client.call("rpc", "auth", args)?;
            }
            Some(Credential::Key(key)) => client.show_key(key, &certificate)?,
        }
        Ok(client)
    }

    /// Signs what the server gives, for the certificate that it has shown.
    fn show_key(&mut self, key: &PrivateKey, certificate: &[u8; 32]) -> Result<(), ClientError> {
        let reply = self.call("rpc", "auth_ssl", json!({}))?;
        let Some(string) = reply["test_string"].as_str() else {
            return Err(ClientError::Protocol("it gives nothing to be signed".into()));
        };
        let signature = key
            .sign(Purpose::Server, certificate, string)
            .map_err(|error| ClientError::Lost(io::Error::other(error.to_string())))?;
        let signature = STANDARD.encode(signature);
        let args = json!({ "key": key.public().id().to_string(), "signature": signature });
        self.call("rpc", "auth_ssl", args)?;
        Ok(())
    }

    fn over(opened: Opened, timeouts: Timeouts) -> Client {
        let Opened { stream, rest, peer } = opened;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_MESSAGE)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        Client {
            remote: !matches!(stream, Stream::Unix(_)),
            socket: WebSocket::from_partially_read(stream, rest, Role::Client, Some(config)),
            peer,
            timeouts,
            requests: 0,
            queue: VecDeque::new(),
            queued: 0,
            heard: Instant::now(),
            pinged: false,
        }
    }

    /// Who is at the other end: the path of a socket, or host and port.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Asks and waits for the answer; its `args`. Events that come before it are kept for
    /// [`Client::next`]. `Value::Null` sends no `args`.
    pub fn call(&mut self, namespace: &str, name: &str, args: Value) -> Result<Value, ClientError> {
        let request = self.send(namespace, name, args)?;
        let peer = self.peer.clone();
        let patience = Patience::new(&peer, Step::Reply, self.timeouts.reply);
        let wait = Wait { deadline: Some(patience.deadline()), wake: &[] };
        loop {
            match self.receive(&wait)? {
                // An error without an id answers what could not even be read: ours.
                Incoming::Reply(Reply { id, outcome })
                    if id == request || (id.is_empty() && outcome.is_err()) =>
                {
                    return outcome.map_err(ClientError::Refused);
                }
                Incoming::Nothing => return Err(patience.over()),
                Incoming::Woken => {}
                Incoming::Event(frame) => self.keep(frame.text().len(), Incoming::Event(frame))?,
                Incoming::Reply(reply) => self.keep(reply.id.len(), Incoming::Reply(reply))?,
            }
            // A stream of events must not put the deadline off.
            if patience.deadline() <= Instant::now() {
                return Err(patience.over());
            }
        }
    }

    /// Asks without waiting for the answer, which [`Client::next`] brings; the request's id.
    pub fn send(
        &mut self,
        namespace: &str,
        name: &str,
        args: Value,
    ) -> Result<String, ClientError> {
        self.requests += 1;
        let id = self.requests.to_string();
        let mut request = Map::new();
        request.insert("namespace".into(), namespace.into());
        request.insert("name".into(), name.into());
        request.insert("id".into(), id.as_str().into());
        if !args.is_null() {
            request.insert("args".into(), args);
        }
        let message = WsMessage::text(Value::Object(request).to_string());
        let peer = self.peer.clone();
        let patience = Patience::new(&peer, Step::Sending, self.timeouts.reply);
        let mut sent = self.socket.send(message);
        loop {
            match sent {
                Ok(()) => return Ok(id),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    patience.wait(self.socket.get_ref(), true)?;
                }
                Err(error) => return Err(explain(error)),
            }
            sent = self.socket.flush();
        }
    }

    /// The next event or reply.
    pub fn next(&mut self, wait: &Wait<'_>) -> Result<Incoming, ClientError> {
        if stream::is_woken(wait.wake) {
            return Ok(Incoming::Woken);
        }
        match self.queue.pop_front() {
            Some(kept) => {
                if self.queue.is_empty() {
                    self.queued = 0;
                }
                Ok(kept)
            }
            None => self.receive(wait),
        }
    }

    /// The next event, however long it takes; replies are passed over.
    pub fn next_event(&mut self) -> Result<Frame, ClientError> {
        loop {
            match self.next(&Wait::default())? {
                Incoming::Event(frame) => return Ok(frame),
                Incoming::Reply(_) | Incoming::Woken | Incoming::Nothing => {}
            }
        }
    }

    fn keep(&mut self, bytes: usize, incoming: Incoming) -> Result<(), ClientError> {
        self.queued += bytes;
        if self.queued > MAX_QUEUED {
            return Err(ClientError::TooManyEvents(self.queued));
        }
        self.queue.push_back(incoming);
        Ok(())
    }

    /// The next message from the wire. Answers pings on the way: tungstenite queues the pong, and
    /// writes it when it is called again.
    fn receive(&mut self, wait: &Wait<'_>) -> Result<Incoming, ClientError> {
        loop {
            let text = match self.socket.read() {
                Ok(WsMessage::Text(text)) => text.as_str().to_owned(),
                Ok(WsMessage::Binary(bytes)) => {
                    String::from_utf8(bytes.to_vec()).map_err(|_| {
                        ClientError::Protocol("it sent a binary message that is not UTF-8".into())
                    })?
                }
                Ok(WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_)) => {
                    self.is_alive();
                    continue;
                }
                Ok(WsMessage::Close(frame)) => {
                    let _ = self.socket.flush();
                    let (code, reason) = frame
                        .map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    return Err(ClientError::Closed { code, reason });
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.wait(wait)? {
                        Some(nothing) => return Ok(nothing),
                        None => continue,
                    }
                }
                Err(error) => return Err(explain(error)),
            };
            self.is_alive();
            match Message::parse(text)? {
                Message::Event(frame) => return Ok(Incoming::Event(frame)),
                Message::Reply(reply) => return Ok(Incoming::Reply(reply)),
                Message::Other => {}
            }
        }
    }

    fn is_alive(&mut self) {
        self.heard = Instant::now();
        self.pinged = false;
    }

    /// Waits for bytes; `None` when there are some, or when it was time for a ping.
    fn wait(&mut self, wait: &Wait<'_>) -> Result<Option<Incoming>, ClientError> {
        let Timeouts { idle, ping, .. } = self.timeouts;
        let silent = self.heard + if self.pinged { idle + ping } else { idle };
        let silent = self.remote.then_some(silent);
        let deadline = wait.deadline.into_iter().chain(silent).min();
        match stream::wait(self.socket.get_ref(), false, wait.wake, deadline)
            .map_err(ClientError::Lost)?
        {
            Waited::Ready => Ok(None),
            Waited::Woken => Ok(Some(Incoming::Woken)),
            Waited::Over if wait.deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                Ok(Some(Incoming::Nothing))
            }
            Waited::Over if self.pinged => {
                let peer = self.peer.clone();
                Err(ClientError::TimedOut { peer, step: Step::Ping, after: idle + ping })
            }
            Waited::Over => {
                self.pinged = true;
                match self.socket.send(WsMessage::Ping(Vec::new().into())) {
                    Ok(()) => Ok(None),
                    Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                    Err(error) => Err(explain(error)),
                }
            }
        }
    }
}

/// Which certificate the server of `url` shows, to be asked about: nothing is proved by it yet.
///
/// # Errors
/// It cannot be reached, or there is no TLS.
pub fn certificate_of(url: &Url) -> Result<Fingerprint, ClientError> {
    // No certificate has this digest, so that the connection ends when it has been shown.
    let none = Fingerprint::new([0; 32]);
    match connect::open_url(url, Some(none), &Timeouts::default()) {
        Err(ClientError::WrongCertificate { shown, .. }) => Ok(shown),
        Err(error) => Err(error),
        Ok(_) => Err(ClientError::Tls("it shows no certificate".into())),
    }
}

impl Drop for Client {
    /// Says good-bye as far as that is possible without waiting.
    fn drop(&mut self) {
        let _ = self.socket.close(None);
        self.socket.get_mut().shut_down();
    }
}

fn explain(error: Error) -> ClientError {
    use tungstenite::error::ProtocolError;
    let ended = || {
        ClientError::Lost(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a word"))
    };
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => ended(),
        Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => ended(),
        Error::Io(error) => ClientError::Lost(error),
        other => ClientError::Protocol(other.to_string()),
    }
}
