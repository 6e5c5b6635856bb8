//! A small blocking client for commands.
//!
//! It has no thread and no runtime: its sockets are non-blocking, and every wait is one `poll(2)`
//! with a deadline. Replies have a time limit, so that a hung daemon yields an error instead of a
//! hung command; events may be awaited without limit, and pings are answered meanwhile. It pings a
//! remote daemon, because a dead host sends nothing.

mod connect;
mod error;
mod feed;
mod fleet;
mod frame;
mod known_hosts;
mod line;
mod pace;
mod stream;
pub mod sysexits;
mod target;
/// Maximum number of pages of one list: a daemon that always names another one is not followed.
const PAGES: usize = 1024;

/// Merges the fields of one object, and of the objects in them, into another.
fn add_page(list: &mut Value, page: Value) {
    match (list, page) {
        (Value::Object(list), Value::Object(page)) => {
            for (key, value) in page {
                add_page(list.entry(key).or_insert(Value::Null), value);
            }
        }
        (list, page) => *list = page,
    }
}

#[cfg(test)]
mod tests;
mod tls;
mod via;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::poll::{PollFd, PollTimeout, poll};
use serde_json::{Map, Value, json};

use connect::{Opened, Patience};
use frame::Message;
use line::{Got, Line, text_of};
use pace::Pace;
use via::{Heard, RelayConnection, RemoteHost};

use crate::auth::key::{self, PrivateKey, Purpose};

pub use error::{ClientError, Refused, Step};
pub use feed::{Feed, News, StreamPosition};
pub use fleet::{Fleet, FleetNews};
pub use frame::{Frame, Reply};
pub use known_hosts::{KnownHost, KnownHosts};
pub use target::{
    BRIDGE_PORT, Bridge, Credential, DEFAULT_PORT, Fingerprint, Secret, Target, TargetError, Url,
    Via,
};

/// Time limits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Of a connection, over all addresses of a name.
    pub connect: Duration,
    /// Of TLS, and again of the upgrade.
    pub handshake: Duration,
    /// Of the reply to a request; a daemon may delay one by 8 s (protocol section 3).
    pub reply: Duration,
    /// A remote daemon is pinged after this silence.
    pub idle: Duration,
    /// Of the pong.
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

/// Maximum size of a message, in bytes: far above what a daemon is configured to send, and far
/// below what would hurt.
const MAX_MESSAGE: usize = 64 << 20;
/// Maximum number of bytes of events stored while a reply is awaited.
const MAX_QUEUED: usize = 64 << 20;

/// Number of reconnections after a connection broke before authentication: a daemon under many
/// connects drops some.
const LOST: u32 = 2;

/// Conditions that end a wait, besides messages.
#[derive(Default)]
pub struct Wait<'a> {
    /// Deadline; `None` for no limit.
    pub deadline: Option<Instant>,
    /// Other descriptors; one that is ready ends the wait.
    pub wake: &'a [PollFd<'a>],
}

/// Result of a wait.
#[derive(Debug)]
pub enum Incoming {
    /// An event.
    Event(Frame),
    /// The reply to a request [sent](Client::send) without waiting.
    Reply(Reply),
    /// A descriptor of [`Wait::wake`] is ready.
    Woken,
    /// [`Wait::deadline`] has passed.
    Nothing,
}

/// Transport of messages.
enum Carrier {
    /// A connection to the daemon.
    Direct(Box<Line>),
    /// A tunnel through a relay.
    Via(Box<(RelayConnection, RemoteHost)>),
}

impl Carrier {
    fn line(&self) -> &Line {
        match self {
            Carrier::Direct(line) => line,
            Carrier::Via(via) => via.0.line(),
        }
    }

    fn send(&mut self, text: String) -> Result<(), ClientError> {
        match self {
            Carrier::Direct(line) => line.send(text),
            Carrier::Via(via) => via.1.send(&text, &mut via.0),
        }
    }

    fn receive(&mut self, wait: &Wait<'_>) -> Result<Got, ClientError> {
        let (relay, remote) = match self {
            Carrier::Direct(line) => return line.receive(wait),
            Carrier::Via(via) => &mut **via,
        };
        let mut is_late = false;
        loop {
            if let Some(mut message) = remote.next_message()? {
                return Ok(Got::Text(std::mem::take(&mut *message)));
            }
            if is_late {
                return Ok(Got::Nothing);
            }
            match relay.next(wait)? {
                Heard::Woken => return Ok(Got::Woken),
                Heard::Nothing => return Ok(Got::Nothing),
                Heard::Available(ids) if !ids.contains(&remote.id) => {
                    let gone = io::Error::new(io::ErrorKind::NotConnected, "it left the bridge");
                    return Err(ClientError::Lost(gone));
                }
                Heard::Payload { from, text } if from == remote.id => remote.take(&text, relay)?,
                Heard::Available(_) | Heard::Payload { .. } => {}
            }
            // Messages of others must not postpone a deadline.
            is_late = wait.deadline.is_some_and(|deadline| deadline <= Instant::now());
        }
    }
}

/// A connection to a daemon.
pub struct Client {
    carrier: Carrier,
    peer: String,
    timeouts: Timeouts,
    requests: u64,
    /// Messages received while a reply was awaited, and their bytes.
    queue: VecDeque<Incoming>,
    queued: usize,
}

impl Client {
    /// Connects, and authenticates if the target has a credential.
    pub fn connect(target: &Target) -> Result<Client, ClientError> {
        Client::connect_within(target, Timeouts::default())
    }

    /// The same with other time limits. A daemon that has no room is retried with back-off, within
    /// the time limit of a connection.
    pub fn connect_within(target: &Target, timeouts: Timeouts) -> Result<Client, ClientError> {
        let deadline = Instant::now() + timeouts.connect;
        let mut pace = Pace::new();
        let mut lost = 0;
        loop {
            let error = match Client::connect_once(target, timeouts) {
                Err(error) if Instant::now() < deadline => error,
                result => return result,
            };
            lost += u32::from(matches!(error, ClientError::Lost(_)));
            if !error.is_for_want_of_room() || lost > LOST {
                return Err(error);
            }
            pace.wait_longer();
            let pause = pace.retry().saturating_duration_since(Instant::now());
            // A signal ends the pause.
            let _ = poll(&mut [], PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX));
        }
    }

    fn connect_once(target: &Target, timeouts: Timeouts) -> Result<Client, ClientError> {
        let direct = |opened: Opened| Carrier::Direct(Box::new(Line::over(opened, timeouts)));
        let (carrier, credential, certificate) = match target {
            Target::Sockets(paths) => {
                let opened = connect::open_socket(paths, &timeouts)?;
                (direct(opened), None, key::NO_CERTIFICATE)
            }
            Target::Loopback { url, credential } => {
                let opened = connect::open_url(url, None, &timeouts)?;
                (direct(opened), credential.as_ref(), key::NO_CERTIFICATE)
            }
            Target::Tls { url, fingerprint, known, credential } => {
                let opened = connect::open_url(url, Some(*fingerprint), &timeouts)
                    .map_err(|error| error.known_at(known.as_deref()))?;
                (direct(opened), credential.as_ref(), fingerprint.digest())
            }
            Target::Via(via) => {
                let mut relay = RelayConnection::enter(&via.bridge, timeouts)?;
                let remote = via::find(via, &mut relay)?;
                let carrier = Carrier::Via(Box::new((relay, remote)));
                (carrier, Some(&via.credential), via.fingerprint.digest())
            }
        };
        let mut peer = carrier.line().peer().to_owned();
        if let Target::Via(via) = target {
            peer = format!("{} behind {peer}", via.host);
        }
        let mut client =
            Client { carrier, peer, timeouts, requests: 0, queue: VecDeque::new(), queued: 0 };
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

    /// Signs the server's challenge, for the certificate that it has presented.
    fn show_key(&mut self, key: &PrivateKey, certificate: &[u8; 32]) -> Result<(), ClientError> {
        let reply = self.call("rpc", "auth_ssl", json!({}))?;
        let proof = signed(key, certificate, &reply)?;
        match self.call("rpc", "auth_ssl", proof) {
            Err(ClientError::Refused(refused)) if refused.code == Some(401) => {
                Err(ClientError::KeyRefused { refused, remedy: registration(key, "USER", "") })
            }
            other => other.map(drop),
        }
    }

    /// The peer: the path of a socket, or host and port.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The jobs of the daemon: all pages of its list, merged into one reply.
    pub fn jobs(&mut self) -> Result<Value, ClientError> {
        self.all_pages("list")
    }

    /// The queues of the daemon, likewise.
    pub fn queues(&mut self) -> Result<Value, ClientError> {
        self.all_pages("queues")
    }

    /// Requests all pages of a list of `rpc/dispatcher`. Stops at a page that names itself as the
    /// next one.
    fn all_pages(&mut self, action: &str) -> Result<Value, ClientError> {
        let mut list = self.call("rpc", "dispatcher", json!({ "action": action }))?;
        let mut last = None;
        for _ in 0..PAGES {
            let page = list.as_object_mut().and_then(|list| list.remove("next"));
            if page.is_none() || page == last {
                break;
            }
            let args = json!({ "action": action, "page": page });
            add_page(&mut list, self.call("rpc", "dispatcher", args)?);
            last = page;
        }
        Ok(list)
    }

    /// Sends a request and waits for the reply; returns its `args`. Events that arrive before it
    /// are stored for [`Client::next`]. `Value::Null` sends no `args`.
    pub fn call(&mut self, namespace: &str, name: &str, args: Value) -> Result<Value, ClientError> {
        let request = self.send(namespace, name, args)?;
        let peer = self.peer.clone();
        let patience = Patience::new(&peer, Step::Reply, self.timeouts.reply);
        let wait = Wait { deadline: Some(patience.deadline()), wake: &[] };
        loop {
            match self.receive(&wait)? {
                // An error without an id is the reply to an invalid request: this one.
                Incoming::Reply(Reply { id, outcome })
                    if id == request || (id.is_empty() && outcome.is_err()) =>
                {
                    return outcome.map_err(ClientError::Refused);
                }
                Incoming::Nothing => return Err(patience.over()),
                Incoming::Woken => {}
                Incoming::Event(frame) => {
                    let payload = frame.payload().map_or(0, |payload| payload.len());
                    self.enqueue(frame.text().len() + payload, Incoming::Event(frame))?;
                }
                Incoming::Reply(reply) => self.enqueue(reply.id.len(), Incoming::Reply(reply))?,
            }
            // A stream of events must not postpone the deadline.
            if patience.deadline() <= Instant::now() {
                return Err(patience.over());
            }
        }
    }

    /// Sends a request without waiting for the reply, which [`Client::next`] returns; returns the
    /// request's id.
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
        self.carrier.send(Value::Object(request).to_string())?;
        Ok(id)
    }

    /// The next event or reply.
    pub fn next(&mut self, wait: &Wait<'_>) -> Result<Incoming, ClientError> {
        if stream::is_woken(wait.wake) {
            return Ok(Incoming::Woken);
        }
        match self.queue.pop_front() {
            Some(queued) => {
                if self.queue.is_empty() {
                    self.queued = 0;
                }
                Ok(queued)
            }
            None => self.receive(wait),
        }
    }

    /// The next event, without a time limit; replies are dropped.
    pub fn next_event(&mut self) -> Result<Frame, ClientError> {
        loop {
            match self.next(&Wait::default())? {
                Incoming::Event(frame) => return Ok(frame),
                Incoming::Reply(_) | Incoming::Woken | Incoming::Nothing => {}
            }
        }
    }

    fn enqueue(&mut self, bytes: usize, incoming: Incoming) -> Result<(), ClientError> {
        self.queued += bytes;
        if self.queued > MAX_QUEUED {
            return Err(ClientError::TooManyEvents(self.queued));
        }
        self.queue.push_back(incoming);
        Ok(())
    }

    /// The next message from the wire.
    fn receive(&mut self, wait: &Wait<'_>) -> Result<Incoming, ClientError> {
        loop {
            let text = match self.carrier.receive(wait)? {
                Got::Text(text) => text,
                Got::Binary(message) => match Frame::of_binary(&message) {
                    Some(frame) => return Ok(Incoming::Event(frame)),
                    None => text_of(&message)?,
                },
                Got::Woken => return Ok(Incoming::Woken),
                Got::Nothing => return Ok(Incoming::Nothing),
            };
            match Message::parse(text)? {
                Message::Event(frame) => return Ok(Incoming::Event(frame)),
                Message::Reply(reply) => return Ok(Incoming::Reply(reply)),
                Message::Close { code, reason } if matches!(self.carrier, Carrier::Via(_)) => {
                    return Err(ClientError::Closed { code, reason });
                }
                Message::Close { .. } | Message::Other => {}
            }
        }
    }
}

/// The shell command that registers a key for `user` on the host of a daemon or a relay.
fn registration(key: &PrivateKey, user: &str, option: &str) -> String {
    match key.public().openssh() {
        Some(line) => format!("echo '{line}' | sysadm-events key add {user} -{option}"),
        None => format!("sysadm-events key add {user} KEY.pub{option}"),
    }
}

/// The second stage of `auth_ssl`, from the reply to the first one.
fn signed(key: &PrivateKey, certificate: &[u8; 32], reply: &Value) -> Result<Value, ClientError> {
    let Some(string) = reply["test_string"].as_str() else {
        return Err(ClientError::Protocol("it gives nothing to be signed".into()));
    };
    let signature = key
        .sign(Purpose::Server, certificate, string)
        .map_err(|error| ClientError::Lost(io::Error::other(error.to_string())))?;
    Ok(json!({ "key": key.public().id().to_string(), "signature": STANDARD.encode(signature) }))
}

/// The certificate of the server of `url`, for confirmation by the user: it is not verified.
///
/// # Errors The server cannot be reached, or does not support TLS.
pub fn certificate_of(url: &Url) -> Result<Fingerprint, ClientError> {
    // No certificate has this digest, so the connection ends after the certificate was presented.
    let none = Fingerprint::new([0; 32]);
    match connect::open_url(url, Some(none), &Timeouts::default()) {
        Err(ClientError::WrongCertificate { shown, .. }) => Ok(shown),
        Err(error) => Err(error),
        Ok(_) => Err(ClientError::Tls("it shows no certificate".into())),
    }
}

impl Drop for Client {
    /// Closes the connection, as far as possible without blocking.
    fn drop(&mut self) {
        if let Carrier::Via(via) = &mut self.carrier {
            let (relay, remote) = &mut **via;
            remote.close(relay);
        }
    }
}
