//! One WebSocket connection: TLS, the upgrade request, messages, and the close handshake.
//!
//! Inputs are readiness of the socket and the time; outputs are messages and the reason of the end.
//! Every stage has a deadline, and no behaviour of a peer makes memory grow without bound.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::http::{self, Answer, Head};
use super::outbox::{Outbox, OutgoingMessage};
use super::proxy::ProxyHeader;
use super::socket::Socket;
use super::websocket::{self, Arrived, Assembler, CloseReason};

/// The waits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct TransportLimits {
    /// From the first byte to the end of TLS and HTTP.
    pub handshake: Duration,
    /// Interval between pings; two unanswered pings end the connection.
    pub ping: Duration,
    /// From the beginning of a message to its end.
    pub message: Duration,
    /// For the peer's close frame, and for reading the remaining output.
    pub close: Duration,
}

/// Result of [`Connection::next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The header of a proxy: the address of its client, `None` for the proxy itself. After an error
    /// the connection is to be ended.
    ProxyHeader(Result<Option<SocketAddr>, &'static str>),
    /// The upgrade request; reply with [`Connection::accept`] or [`Connection::refuse`].
    Upgrade(http::Upgrade),
    /// A message.
    Message(String),
}

/// Result of [`Connection::flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// There is nothing left to be sent now.
    All,
    /// The socket is full: the reactor reports when it is writable.
    Blocked,
    /// The socket may accept more: to be called again in a later turn.
    InPart,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    /// The peer closed it, or replied to a close frame.
    Closed,
    /// A timeout.
    Silent(&'static str),
    /// TLS failed.
    Tls(rustls::Error),
    /// The socket failed.
    Socket(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed => f.write_str("closed"),
            End::Silent(what) => write!(f, "no {what} in time"),
            End::Tls(error) => write!(f, "TLS: {error}"),
            End::Socket(error) => write!(f, "{error}"),
        }
    }
}

#[derive(Debug)]
enum Stage {
    /// The header of a proxy, before everything else.
    Proxy(ProxyHeader),
    /// TLS, then HTTP; the bytes of the request so far.
    Request(Vec<u8>),
    /// The upgrade request was passed to the owner; bytes after the request.
    Asked(http::Upgrade, Vec<u8>),
    /// Messages.
    Open(Assembler),
    /// A close frame is pending or sent; waiting for the peer's.
    Closing(Assembler),
    /// The last bytes are pending; then the end of the peer's stream is awaited.
    Leaving {
        /// All is sent and the write side is shut down.
        shut: bool,
    },
}

/// One connection. `P` is the type of its outgoing messages.
pub struct Connection<P: OutgoingMessage> {
    socket: Socket,
    tls: Option<Box<rustls::ServerConnection>>,
    stage: Stage,
    /// Outgoing messages.
    pub outbox: Outbox<P>,
    /// Maximum size of an incoming message, in bytes.
    pub max_message: usize,
    limits: TransportLimits,
    /// Deadline of the current stage.
    stage_due: Option<Instant>,
    /// Deadline for the end of an incomplete message.
    message_due: Option<Instant>,
    ping_due: Option<Instant>,
    /// Time of the last sign of life: bytes received, or bytes accepted by a socket that was full.
    heard: Instant,
    /// Nothing was received yet.
    is_silent: bool,
    pings_unanswered: u32,
    /// Bytes written to the socket so far.
    sent: u64,
    /// The last write returned `WouldBlock`.
    blocked: bool,
    /// No close frames are sent to this peer.
    ends_bare: bool,
}

/// Bytes after which [`Connection::flush`] leaves the rest for later: messages are encoded when they
/// are written, and a fast reader would take a whole outbox at once.
const FLUSH: u64 = 64 * 1024;
/// Maximum number of bytes per write.
const PLAIN_WRITE: usize = 64 * 1024;
/// One TLS record.
const TLS_WRITE: usize = 16 * 1024;

impl<P: OutgoingMessage> Connection<P> {
    /// Creates the state of an accepted connection.
    pub fn new(
        socket: Socket,
        tls: Option<rustls::ServerConnection>,
        outbox: Outbox<P>,
        max_message: usize,
        limits: TransportLimits,
        now: Instant,
    ) -> Connection<P> {
        Connection {
            socket,
            tls: tls.map(Box::new),
            stage: Stage::Request(Vec::new()),
            outbox,
            max_message,
            limits,
            stage_due: Some(now + limits.handshake),
            message_due: None,
            ping_due: None,
            heard: now,
            is_silent: true,
            pings_unanswered: 0,
            sent: 0,
            blocked: false,
            ends_bare: false,
        }
    }

    /// The peer is a proxy: the first bytes are its header. Only on a connection that was not read.
    pub fn expect_proxy_header(&mut self) {
        self.stage = Stage::Proxy(ProxyHeader::default());
    }

    /// Disables close frames, for a peer that crashes on them.
    pub fn end_bare(&mut self) {
        self.ends_bare = true;
    }

    /// Appends a close frame, unless disabled for this peer.
    fn push_close(&mut self, reason: Option<&CloseReason>) {
        if !self.ends_bare {
            self.outbox.push_raw_last(websocket::close(reason));
        }
    }

    /// The socket, for registration.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Bytes of an incomplete message or request.
    pub fn unfinished(&self) -> usize {
        match &self.stage {
            Stage::Proxy(header) => header.held(),
            Stage::Request(bytes) | Stage::Asked(_, bytes) => bytes.capacity(),
            Stage::Open(assembler) | Stage::Closing(assembler) => assembler.held(),
            Stage::Leaving { .. } => 0,
        }
    }

    /// Drops an incomplete message. Later input cannot be parsed, so the connection ends after the
    /// pending output.
    pub fn give_up_unfinished(&mut self) {
        self.stage = Stage::Leaving { shut: false };
    }

    /// Whether messages can be exchanged.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// True while the peer has sent nothing, a proxy's header not counted.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Whether the first bytes of the peer are ready to be read.
    pub fn has_unread_start(&self) -> bool {
        self.is_silent && self.socket.has_input()
    }

    /// Bytes written to the socket so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether all messages queued before `place` were written.
    pub fn has_sent(&self, place: u64) -> bool {
        // Ciphertext buffered by TLS cannot be attributed to messages.
        let encrypted = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        self.outbox.has_sent(place) && !encrypted
    }

    /// Changes the limits; a ping due later than a new interval is due by that.
    pub fn set_limits(&mut self, limits: TransportLimits, now: Instant) {
        self.limits = limits;
        self.ping_due = self.ping_due.map(|due| due.min(now + limits.ping));
    }

    /// Stops the timeouts of the peer while it is not read.
    pub fn pause(&mut self) {
        self.message_due = None;
    }

    /// Restarts the timeouts of the peer after a time in which it was not read.
    pub fn excuse(&mut self, now: Instant) {
        self.heard = now;
        self.pings_unanswered = 0;
    }

    /// When [`Connection::on_deadline`] must be called.
    pub fn due(&self) -> Option<Instant> {
        [self.stage_due, self.message_due, self.ping_due].into_iter().flatten().min()
    }

    /// Reads once. False where no more input is available now.
    pub fn read(&mut self, scratch: &mut [u8], now: Instant) -> Result<bool, End> {
        if let Stage::Proxy(header) = &mut self.stage {
            let length = header.missing().min(scratch.len());
            let (scratch, _) = scratch.split_at_mut(length);
            return match again(self.socket.read(scratch))? {
                None => Ok(false),
                Some(0) => Err(End::Closed),
                Some(n) => {
                    header.push(scratch.get(..n).unwrap_or_default());
                    Ok(true)
                }
            };
        }
        let read = match &mut self.tls {
            None => again(self.socket.read(scratch))?,
            Some(tls) => match again(tls.read_tls(&mut self.socket))? {
                Some(0) => Some(0),
                None => None,
                Some(_) => {
                    if let Err(error) = tls.process_new_packets() {
                        // Sends the alert with the reason.
                        let _ = tls.write_tls(&mut self.socket);
                        return Err(End::Tls(error));
                    }
                    loop {
                        match again(tls.reader().read(scratch))? {
                            // The next read reports the end again: input before it is processed
                            // first.
                            None | Some(0) => break,
                            Some(n) => take(&mut self.stage, scratch.get(..n).unwrap_or_default()),
                        }
                    }
                    (self.heard, self.is_silent) = (now, false);
                    return Ok(true);
                }
            },
        };
        match read {
            None => Ok(false),
            Some(0) => Err(End::Closed),
            Some(n) => {
                (self.heard, self.is_silent) = (now, false);
                take(&mut self.stage, scratch.get(..n).unwrap_or_default());
                Ok(true)
            }
        }
    }

    /// The next result. Protocol violations are replied to here.
    pub fn next(&mut self, now: Instant) -> Result<Option<Incoming>, End> {
        loop {
            match &mut self.stage {
                Stage::Proxy(header) => {
                    let Some(client) = header.client().transpose() else { return Ok(None) };
                    self.stage = Stage::Request(Vec::new());
                    return Ok(Some(Incoming::ProxyHeader(client)));
                }
                Stage::Request(bytes) => {
                    let (upgrade, length) = match http::read(bytes) {
                        Head::Incomplete => return Ok(None),
                        Head::Answer(answer) => {
                            self.answer(answer, now);
                            return Ok(None);
                        }
                        Head::Upgrade(upgrade, length) => (upgrade, length),
                    };
                    let behind = bytes.split_off(length);
                    let request = http::Upgrade::clone(&upgrade);
                    self.stage = Stage::Asked(upgrade, behind);
                    return Ok(Some(Incoming::Upgrade(request)));
                }
                Stage::Asked(..) | Stage::Leaving { .. } => return Ok(None),
                Stage::Open(assembler) => {
                    let arrived = assembler.next(self.max_message);
                    let midway = assembler.is_midway();
                    match arrived {
                        Err(reason) => {
                            // After a violation no input can be parsed, not even a close frame (RFC
                            // 6455 section 7.1.7).
                            self.outbox.clear();
                            self.push_close(Some(&reason));
                            self.leave(now);
                        }
                        Ok(None) => {
                            let due = now + self.limits.message;
                            self.message_due = midway.then(|| self.message_due.unwrap_or(due));
                            return Ok(None);
                        }
                        Ok(Some(Arrived::Message(text))) => {
                            self.message_due = None;
                            return Ok(Some(Incoming::Message(text)));
                        }
                        Ok(Some(Arrived::Ping(payload))) => {
                            self.outbox.push_pong(websocket::pong(&payload));
                        }
                        Ok(Some(Arrived::Pong)) => self.pings_unanswered = 0,
                        Ok(Some(Arrived::Close(code))) => {
                            let echo = code.map(|code| CloseReason::new(code, ""));
                            self.outbox.clear();
                            self.push_close(echo.as_ref());
                            self.leave(now);
                        }
                    }
                }
                Stage::Closing(assembler) => match assembler.next(self.max_message) {
                    // Sent before the peer saw the close frame: ignored.
                    Ok(Some(Arrived::Message(_) | Arrived::Ping(_) | Arrived::Pong)) => {}
                    Ok(None) => return Ok(None),
                    Ok(Some(Arrived::Close(_))) | Err(_) => self.leave(now),
                },
            }
        }
    }

    /// Completes the upgrade to a WebSocket.
    pub fn accept(&mut self, now: Instant) {
        if let Stage::Asked(upgrade, behind) = &mut self.stage {
            self.outbox.push_head(upgrade.accept());
            let mut assembler = Assembler::default();
            assembler.push(&std::mem::take(behind));
            self.stage = Stage::Open(assembler);
            self.stage_due = None;
            self.ping_due = Some(now + self.limits.ping);
        }
    }

    /// Sends an HTTP reply, and ends.
    pub fn answer(&mut self, answer: Answer, now: Instant) {
        self.outbox.push_raw_last(answer.bytes());
        self.leave(now);
    }

    /// Closes at once: pending output is dropped.
    pub fn close(&mut self, reason: &CloseReason, now: Instant) {
        self.outbox.clear();
        self.close_when_sent(reason, now);
    }

    /// Closes after the pending output.
    pub fn close_when_sent(&mut self, reason: &CloseReason, now: Instant) {
        match std::mem::replace(&mut self.stage, Stage::Leaving { shut: false }) {
            Stage::Open(_) if self.ends_bare => self.leave(now),
            Stage::Open(assembler) => {
                self.outbox.push_raw_last(websocket::close(Some(reason)));
                self.stage = Stage::Closing(assembler);
                self.stage_due = Some(now + self.limits.close);
                self.ping_due = None;
                self.message_due = None;
            }
            // Before the upgrade there is no close frame to send a reason in.
            Stage::Proxy(_) | Stage::Request(_) | Stage::Asked(..) => self.leave(now),
            ended @ (Stage::Closing(_) | Stage::Leaving { .. }) => self.stage = ended,
        }
    }

    fn leave(&mut self, now: Instant) {
        self.stage = Stage::Leaving { shut: false };
        self.stage_due = Some(now + self.limits.close);
        self.ping_due = None;
        self.message_due = None;
    }

    /// Writes as much as the socket accepts, but only some [`FLUSH`] bytes.
    pub fn flush(&mut self, now: Instant) -> Result<Flushed, End> {
        let before = self.sent;
        let flushed = self.send();
        // A slow reader is alive, even if its pongs are delayed behind other output.
        if self.blocked && self.sent > before {
            self.heard = now;
        }
        self.blocked = matches!(flushed, Ok(Flushed::Blocked));
        flushed
    }

    fn send(&mut self) -> Result<Flushed, End> {
        let enough = self.sent + FLUSH;
        loop {
            if !self.flush_tls()? {
                return Ok(Flushed::Blocked);
            }
            if self.sent >= enough && !self.outbox.is_empty() {
                return Ok(Flushed::InPart);
            }
            let (socket, tls) = (&mut self.socket, &mut self.tls);
            let sent = match tls {
                None => self.outbox.send(PLAIN_WRITE, |slices| {
                    let written = socket.write_vectored(slices)?;
                    self.sent += written as u64;
                    Ok(written)
                }),
                Some(tls) if tls.is_handshaking() => return Ok(Flushed::All),
                Some(tls) => {
                    self.outbox.send(TLS_WRITE, |slices| tls.writer().write_vectored(slices))
                }
            };
            match sent {
                None => break,
                Some(result) => {
                    if again(result)?.is_none() {
                        return Ok(Flushed::Blocked);
                    }
                }
            }
        }
        if let Stage::Leaving { shut: shut @ false } = &mut self.stage {
            *shut = true;
            if let Some(tls) = &mut self.tls {
                tls.send_close_notify();
                let _ = tls.write_tls(&mut self.socket);
            }
            self.socket.shutdown_write();
        }
        Ok(Flushed::All)
    }

    /// False where ciphertext remains that the socket does not accept.
    fn flush_tls(&mut self) -> Result<bool, End> {
        while let Some(tls) = &mut self.tls
            && tls.wants_write()
        {
            match again(tls.write_tls(&mut self.socket))? {
                None => return Ok(false),
                Some(0) => return Err(End::Closed),
                Some(written) => self.sent += written as u64,
            }
        }
        Ok(true)
    }

    /// Handles expired deadlines: of a stage, a message or a pong, or the time of the next ping.
    pub fn on_deadline(&mut self, now: Instant) -> Result<(), End> {
        if self.stage_due.is_some_and(|due| due <= now) {
            return Err(match self.stage {
                Stage::Proxy(_) => End::Silent("PROXY header"),
                Stage::Request(_) | Stage::Asked(..) => End::Silent("request"),
                Stage::Open(_) | Stage::Closing(_) | Stage::Leaving { .. } => End::Silent("close"),
            });
        }
        if self.message_due.is_some_and(|due| due <= now) {
            self.close(&CloseReason::new(1008, "a message that began did not end in time"), now);
        }
        if self.ping_due.is_some_and(|due| due <= now) {
            let quiet = now.saturating_duration_since(self.heard);
            if quiet < self.limits.ping {
                self.pings_unanswered = 0;
                self.ping_due = Some(self.heard + self.limits.ping);
            } else if self.pings_unanswered >= 2 {
                return Err(End::Silent("answer to two pings"));
            } else {
                self.pings_unanswered += 1;
                self.outbox.push_ping(websocket::ping());
                self.ping_due = Some(now + self.limits.ping);
            }
        }
        Ok(())
    }
}

/// Appends bytes to the buffer of the current stage.
fn take(stage: &mut Stage, bytes: &[u8]) {
    match stage {
        Stage::Request(request) => request.extend_from_slice(bytes),
        Stage::Asked(_, behind) => behind.extend_from_slice(bytes),
        Stage::Open(assembler) | Stage::Closing(assembler) => assembler.push(bytes),
        Stage::Proxy(_) | Stage::Leaving { .. } => {}
    }
}

/// `None` for `WouldBlock`.
fn again<T>(result: io::Result<T>) -> Result<Option<T>, End> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Err(End::Closed)
        }
        Err(error) => Err(End::Socket(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::net::UnixStream;
    use std::rc::Rc;

    struct Nothing;

    impl OutgoingMessage for Nothing {
        type Key = ();
        fn weight(&self) -> usize {
            0
        }
        fn key(&self) -> Option<()> {
            None
        }
        fn join(self, newer: Nothing) -> Nothing {
            newer
        }
        fn bytes(&self) -> Rc<[u8]> {
            Rc::from([])
        }
    }

    #[test]
    fn two_unanswered_pings_end_a_connection_that_was_read() {
        const SECOND: Duration = Duration::from_secs(1);
        let limits =
            TransportLimits { handshake: SECOND, ping: SECOND, message: SECOND, close: SECOND };
        let start = Instant::now();
        let at = |seconds: u32| start + SECOND * seconds;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let outbox = Outbox::new(1024, &crate::charge::Account::default());
        let mut connection: Connection<Nothing> =
            Connection::new(Socket::Unix(ours), None, outbox, 1024, limits, start);
        theirs
            .write_all(
                b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            )
            .unwrap();
        connection.read(&mut [0; 1024], start).unwrap();
        assert!(matches!(connection.next(start), Ok(Some(Incoming::Upgrade(_)))));
        connection.accept(start);
        for second in 1..=2 {
            connection.on_deadline(at(second)).unwrap();
        }
        for second in 3..10 {
            connection.excuse(at(second));
            connection.on_deadline(at(second)).unwrap();
        }
        for second in 10..=11 {
            connection.on_deadline(at(second)).unwrap();
        }
        assert!(matches!(connection.on_deadline(at(12)), Err(End::Silent(_))));
    }
}
