//! A small client that blocks, for commands that say one thing and then listen.
//!
//! It has no thread and no runtime: its sockets do not block, and every wait is one `poll(2)` with
//! a deadline. Replies are bounded in time, so that a daemon that hangs gives an error instead of a
//! hanging command; events may be waited for without end, and meanwhile pings are answered. Towards
//! a remote daemon it pings by itself, since a host that died says nothing.

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
/// Pages of one list that are asked for: a daemon that names another one for ever is not followed.
const PAGES: usize = 1024;

/// Adds the fields of one object to another, and of the objects in them.
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
use via::{Far, Hall, Heard};

use crate::auth::key::{self, PrivateKey, Purpose};

pub use error::{ClientError, Refused, Step};
pub use feed::{Feed, News, Place};
pub use fleet::{Fleet, FleetNews};
pub use frame::{Frame, Reply};
pub use known_hosts::{KnownHost, KnownHosts};
pub use target::{
    BRIDGE_PORT, Bridge, Credential, DEFAULT_PORT, Fingerprint, Secret, Target, TargetError, Url,
    Via,
};

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

/// Times that a connection is made again which broke before its credential was accepted: a daemon
/// under many connects drops some.
const LOST: u32 = 2;

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

/// What carries the messages of a conversation.
enum Carrier {
    /// A connection to the daemon.
    Direct(Box<Line>),
    /// A tunnel through a bridge.
    Via(Box<(Hall, Far)>),
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
        let (hall, far) = match self {
            Carrier::Direct(line) => return line.receive(wait),
            Carrier::Via(via) => &mut **via,
        };
        let mut is_late = false;
        loop {
            if let Some(mut message) = far.next_message()? {
                return Ok(Got::Text(std::mem::take(&mut *message)));
            }
            if is_late {
                return Ok(Got::Nothing);
            }
            match hall.next(wait)? {
                Heard::Woken => return Ok(Got::Woken),
                Heard::Nothing => return Ok(Got::Nothing),
                Heard::Available(ids) if !ids.contains(&far.id) => {
                    let gone = io::Error::new(io::ErrorKind::NotConnected, "it left the bridge");
                    return Err(ClientError::Lost(gone));
                }
                Heard::Payload { from, text } if from == far.id => far.take(&text, hall)?,
                Heard::Available(_) | Heard::Payload { .. } => {}
            }
            // What others say must not put a deadline off.
            is_late = wait.deadline.is_some_and(|deadline| deadline <= Instant::now());
        }
    }
}

/// A conversation with a daemon.
pub struct Client {
    carrier: Carrier,
    peer: String,
    timeouts: Timeouts,
    requests: u64,
    /// What came while a reply was waited for, and its bytes.
    queue: VecDeque<Incoming>,
    queued: usize,
}

impl Client {
    /// Connects, and authenticates where the target has a credential.
    pub fn connect(target: &Target) -> Result<Client, ClientError> {
        Client::connect_within(target, Timeouts::default())
    }

    /// The same with other time-outs. A daemon that has no place at present is asked again, at
    /// growing intervals, for as long as a connection may take.
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
                let mut hall = Hall::enter(&via.bridge, timeouts)?;
                let far = via::find(via, &mut hall)?;
                let carrier = Carrier::Via(Box::new((hall, far)));
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

    /// Signs what the server gives, for the certificate that it has shown.
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

    /// Who is at the other end: the path of a socket, or host and port.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The jobs that the daemon knows: all pages of its list as if they were one reply.
    pub fn jobs(&mut self) -> Result<Value, ClientError> {
        let mut list = self.call("rpc", "dispatcher", json!({ "action": "list" }))?;
        for _ in 0..PAGES {
            let Some(page) = list.as_object_mut().and_then(|list| list.remove("next")) else {
                break;
            };
            let args = json!({ "action": "list", "page": page });
            add_page(&mut list, self.call("rpc", "dispatcher", args)?);
        }
        Ok(list)
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
                Incoming::Event(frame) => {
                    let payload = frame.payload().map_or(0, |payload| payload.len());
                    self.keep(frame.text().len() + payload, Incoming::Event(frame))?;
                }
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
        self.carrier.send(Value::Object(request).to_string())?;
        Ok(id)
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

/// The shell command that registers a key for `user` on the host of a daemon or a bridge.
fn registration(key: &PrivateKey, user: &str, option: &str) -> String {
    match key.public().openssh() {
        Some(line) => format!("echo '{line}' | sysadm-events key add {user} -{option}"),
        None => format!("sysadm-events key add {user} KEY.pub{option}"),
    }
}

/// The second stage of `auth_ssl`, for what the first one was answered.
fn signed(key: &PrivateKey, certificate: &[u8; 32], reply: &Value) -> Result<Value, ClientError> {
    let Some(string) = reply["test_string"].as_str() else {
        return Err(ClientError::Protocol("it gives nothing to be signed".into()));
    };
    let signature = key
        .sign(Purpose::Server, certificate, string)
        .map_err(|error| ClientError::Lost(io::Error::other(error.to_string())))?;
    Ok(json!({ "key": key.public().id().to_string(), "signature": STANDARD.encode(signature) }))
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
        if let Carrier::Via(via) = &mut self.carrier {
            let (hall, far) = &mut **via;
            far.close(hall);
        }
    }
}
