//! One connection, from its first byte to its last: TLS, the request, messages, the closing.
//!
//! It is told when its socket can be read or written and what time it is, and says what arrived.
//! Every stage has a deadline, and nothing that a peer sends or does not send makes it grow.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::http::{self, Answer, Head};
use super::outbox::{Outbox, Parcel};
use super::socket::Socket;
use super::websocket::{self, Arrived, Assembler, CloseReason};

/// The waits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte to the end of TLS and HTTP.
    pub handshake: Duration,
    /// Between pings; a peer that leaves two unanswered is gone.
    pub ping: Duration,
    /// From the beginning of a message to its end.
    pub message: Duration,
    /// For the peer's answer to our close, and for reading what is left for it.
    pub close: Duration,
}

/// Something for the owner.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The upgrade was asked for; answer with [`Connection::accept`] or [`Connection::refuse`].
    Upgrade(http::Upgrade),
    /// A message.
    Message(String),
}

/// Why a connection is over.
#[derive(Debug)]
pub enum End {
    /// The peer closed it, or answered our close.
    Closed,
    /// The peer was silent for too long.
    Silent(&'static str),
    /// TLS could not go on.
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
    /// TLS, then HTTP; the bytes of the request so far.
    Request(Vec<u8>),
    /// The upgrade was told to the owner; bytes behind the request.
    Asked(http::Upgrade, Vec<u8>),
    /// Messages.
    Open(Assembler),
    /// Our close frame is on its way or was sent; waiting for the peer's.
    Closing(Assembler),
    /// The last bytes are on their way; then the peer's end is waited for.
    Leaving {
        /// All is sent and the write side is shut.
        shut: bool,
    },
}

/// One connection. `P` is what its outbox holds.
pub struct Connection<P: Parcel> {
    socket: Socket,
    tls: Option<Box<rustls::ServerConnection>>,
    stage: Stage,
    /// What waits to be sent.
    pub outbox: Outbox<P>,
    /// The largest message that is taken now, in bytes.
    pub max_message: usize,
    limits: Limits,
    /// When the present stage has to be over, where it has to.
    stage_due: Option<Instant>,
    /// When the message that has begun has to be whole.
    message_due: Option<Instant>,
    ping_due: Option<Instant>,
    /// When the peer last gave a sign of life: bytes, or room for ours where there was none.
    heard: Instant,
    /// The peer has sent nothing yet.
    is_silent: bool,
    pings_unanswered: u32,
    /// Bytes that the socket took so far.
    sent: u64,
    /// It took no more when it was last tried.
    blocked: bool,
    /// The peer gets no close frames.
    ends_bare: bool,
}

/// Bytes handed to the socket in one call.
const PLAIN_WRITE: usize = 64 * 1024;
/// One TLS record.
const TLS_WRITE: usize = 16 * 1024;

impl<P: Parcel> Connection<P> {
    /// A connection that was just accepted.
    pub fn new(
        socket: Socket,
        tls: Option<rustls::ServerConnection>,
        outbox: Outbox<P>,
        max_message: usize,
        limits: Limits,
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

    /// From now on the connection ends without a close frame, for a peer that cannot stand one.
    pub fn end_bare(&mut self) {
        self.ends_bare = true;
    }

    /// Appends a close frame behind everything, for a peer that can stand one.
    fn push_close(&mut self, reason: Option<&CloseReason>) {
        if !self.ends_bare {
            self.outbox.push_raw_last(websocket::close(reason));
        }
    }

    /// For the reactor.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Bytes of a message, or of a request, that has begun and not ended.
    pub fn unfinished(&self) -> usize {
        match &self.stage {
            Stage::Request(bytes) | Stage::Asked(_, bytes) => bytes.capacity(),
            Stage::Open(assembler) | Stage::Closing(assembler) => assembler.held(),
            Stage::Leaving { .. } => 0,
        }
    }

    /// Forgets a message that has begun. What still comes cannot be understood, so that the
    /// connection ends after what waits to be sent.
    pub fn give_up_unfinished(&mut self) {
        self.stage = Stage::Leaving { shut: false };
    }

    /// True while messages go both ways.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// True while the peer has sent nothing.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// True where the first bytes of the peer wait to be read.
    pub fn has_unread_start(&self) -> bool {
        self.is_silent && self.socket.has_input()
    }

    /// Bytes that its socket took so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// True where the system has all parcels of the outbox that stood before `place`.
    pub fn has_sent(&self, place: u64) -> bool {
        // What TLS has not got rid of is not told apart.
        let encrypted = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        self.outbox.has_sent(place) && !encrypted
    }

    /// Other waits from now on; a ping that was due later than a new interval is due by that.
    pub fn set_limits(&mut self, limits: Limits, now: Instant) {
        self.limits = limits;
        self.ping_due = self.ping_due.map(|due| due.min(now + limits.ping));
    }

    /// It will not be read for a while, so that what does not come is not the peer's fault.
    pub fn pause(&mut self) {
        self.message_due = None;
    }

    /// It was not read by us for a while: that nothing was heard of the peer is not its fault.
    pub fn excuse(&mut self, now: Instant) {
        self.heard = now;
        self.pings_unanswered = 0;
    }

    /// When [`Connection::on_deadline`] wants to be called.
    pub fn due(&self) -> Option<Instant> {
        [self.stage_due, self.message_due, self.ping_due].into_iter().flatten().min()
    }

    /// Reads once. False where nothing more is to be had now.
    pub fn read(&mut self, scratch: &mut [u8], now: Instant) -> Result<bool, End> {
        let read = match &mut self.tls {
            None => again(self.socket.read(scratch))?,
            Some(tls) => match again(tls.read_tls(&mut self.socket))? {
                Some(0) => Some(0),
                None => None,
                Some(_) => {
                    if let Err(error) = tls.process_new_packets() {
                        // The alert that says what is wrong.
                        let _ = tls.write_tls(&mut self.socket);
                        return Err(End::Tls(error));
                    }
                    loop {
                        match again(tls.reader().read(scratch))? {
                            // The end is told once more by the next read: what came before it first.
                            None | Some(0) => break,
                            Some(n) => take(&mut self.stage, &scratch[..n]),
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
                take(&mut self.stage, &scratch[..n]);
                Ok(true)
            }
        }
    }

    /// What has arrived. Violations are answered here.
    pub fn next(&mut self, now: Instant) -> Result<Option<Incoming>, End> {
        loop {
            match &mut self.stage {
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
                    let told = http::Upgrade::clone(&upgrade);
                    self.stage = Stage::Asked(upgrade, behind);
                    return Ok(Some(Incoming::Upgrade(told)));
                }
                Stage::Asked(..) | Stage::Leaving { .. } => return Ok(None),
                Stage::Open(assembler) => {
                    let arrived = assembler.next(self.max_message);
                    let midway = assembler.is_midway();
                    match arrived {
                        Err(reason) => {
                            // Nothing that is behind a violation can be understood, an answer to
                            // our close neither (RFC 6455 section 7.1.7).
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
                    // What still comes was sent before the peer saw our close: of no interest.
                    Ok(Some(Arrived::Message(_) | Arrived::Ping(_) | Arrived::Pong)) => {}
                    Ok(None) => return Ok(None),
                    Ok(Some(Arrived::Close(_))) | Err(_) => self.leave(now),
                },
            }
        }
    }

    /// Lets the peer in: it is a WebSocket from now on.
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

    /// Answers in HTTP, and ends.
    pub fn answer(&mut self, answer: Answer, now: Instant) {
        self.outbox.push_raw_last(answer.bytes());
        self.leave(now);
    }

    /// Closes at once: what waits is not sent.
    pub fn close(&mut self, reason: &CloseReason, now: Instant) {
        self.outbox.clear();
        self.close_when_sent(reason, now);
    }

    /// Closes when all that waits is sent.
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
            // It has not come to WebSocket yet, so there is no way to say why.
            Stage::Request(_) | Stage::Asked(..) => self.leave(now),
            ended @ (Stage::Closing(_) | Stage::Leaving { .. }) => self.stage = ended,
        }
    }

    fn leave(&mut self, now: Instant) {
        self.stage = Stage::Leaving { shut: false };
        self.stage_due = Some(now + self.limits.close);
        self.ping_due = None;
        self.message_due = None;
    }

    /// Sends what can be sent now. False where more is left than the socket takes.
    pub fn flush(&mut self, now: Instant) -> Result<bool, End> {
        let before = self.sent;
        let all = self.send();
        // Who reads slowly is alive, even where its answers to pings lie behind much else.
        if self.blocked && self.sent > before {
            self.heard = now;
        }
        self.blocked = matches!(all, Ok(false));
        all
    }

    fn send(&mut self) -> Result<bool, End> {
        loop {
            if !self.flush_tls()? {
                return Ok(false);
            }
            let (socket, tls) = (&mut self.socket, &mut self.tls);
            let sent = match tls {
                None => self.outbox.send(PLAIN_WRITE, |slices| {
                    let written = socket.write_vectored(slices)?;
                    self.sent += written as u64;
                    Ok(written)
                }),
                Some(tls) if tls.is_handshaking() => return Ok(true),
                Some(tls) => {
                    self.outbox.send(TLS_WRITE, |slices| tls.writer().write_vectored(slices))
                }
            };
            match sent {
                None => break,
                Some(result) => {
                    if again(result)?.is_none() {
                        return Ok(false);
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
        Ok(true)
    }

    /// False where ciphertext is left that the socket does not take.
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

    /// Something that was due at or before `now`: a stage, a message or an answer that did not
    /// come, or a ping to be sent.
    pub fn on_deadline(&mut self, now: Instant) -> Result<(), End> {
        if self.stage_due.is_some_and(|due| due <= now) {
            return Err(match self.stage {
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

/// Gives bytes to whatever stage takes them.
fn take(stage: &mut Stage, bytes: &[u8]) {
    match stage {
        Stage::Request(request) => request.extend_from_slice(bytes),
        Stage::Asked(_, behind) => behind.extend_from_slice(bytes),
        Stage::Open(assembler) | Stage::Closing(assembler) => assembler.push(bytes),
        Stage::Leaving { .. } => {}
    }
}

/// `None` for "not now".
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

    impl Parcel for Nothing {
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
    fn two_unanswered_pings_are_the_end_but_not_of_whom_we_did_not_read() {
        const SECOND: Duration = Duration::from_secs(1);
        let limits = Limits { handshake: SECOND, ping: SECOND, message: SECOND, close: SECOND };
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
