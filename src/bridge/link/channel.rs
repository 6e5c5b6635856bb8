//! The connection to a relay: TLS with the pinned certificate, the upgrade, then texts.
//!
//! Inputs are a stream that is ready and the time. Output is bounded by callers that check for room
//! first; input is bounded by the largest frame.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConnection;

use crate::net::pin::{Digest, Pin};
use crate::net::{Arrived, Assembler, Masked, NoUpgrade, UpgradeRequest};
use crate::wire::to_hex;

/// Why a connection to a relay ended.
#[derive(Debug)]
pub enum LinkError {
    /// It presented another certificate.
    WrongCertificate(Digest),
    /// TLS failed.
    Tls(String),
    /// The upgrade failed.
    NoUpgrade(NoUpgrade),
    /// A protocol violation.
    Protocol(String),
    /// Closed by the relay: code, or 0 for none.
    Closed(u16),
    /// A timeout: the awaited event.
    Silent(&'static str),
    /// A socket error.
    Socket(io::Error),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::WrongCertificate(shown) => {
                f.write_str("its certificate is another one, sha256 ")?;
                f.write_str(&to_hex(shown))
            }
            LinkError::Tls(why) => write!(f, "TLS: {why}"),
            LinkError::NoUpgrade(why) => why.fmt(f),
            LinkError::Protocol(why) => write!(f, "it violates the protocol: {why}"),
            LinkError::Closed(0) => f.write_str("it closed the connection"),
            LinkError::Closed(code) => write!(f, "it closed the connection ({code})"),
            LinkError::Silent(what) => write!(f, "no {what} in time"),
            LinkError::Socket(error) => error.fmt(f),
        }
    }
}

#[derive(Debug)]
enum Stage {
    /// The request is pending or sent; the reply received so far.
    Upgrading(UpgradeRequest, Vec<u8>),
    /// Texts can be exchanged.
    Open(Assembler),
}

/// A connection.
pub struct Channel {
    tls: Box<ClientConnection>,
    pin: Arc<Pin>,
    stage: Stage,
    /// Frames not yet passed to TLS.
    out: Vec<u8>,
    /// Maximum size of an incoming text, in bytes.
    max_text: usize,
    ping: Duration,
    ping_due: Instant,
    heard: Instant,
    unanswered: u32,
}

/// No more output is accepted while more bytes than this are buffered.
const OUT: usize = 64 * 1024;
/// Maximum ciphertext buffered by TLS, in bytes.
const TLS_OUT: usize = 64 * 1024;
/// Bytes of plaintext read from TLS per call.
const PART: usize = 4096;

impl Channel {
    /// Creates a channel over a stream connected to `host`. Sends nothing yet.
    ///
    /// # Errors The system has no random numbers.
    pub fn new(
        (mut tls, pin): (ClientConnection, Arc<Pin>),
        host: &str,
        max_text: usize,
        ping: Duration,
        now: Instant,
    ) -> Result<Channel, LinkError> {
        tls.set_buffer_limit(Some(TLS_OUT));
        let request = UpgradeRequest::new().map_err(LinkError::NoUpgrade)?;
        let out = request.request(host, "/", Some("sysadm-server"));
        Ok(Channel {
            tls: Box::new(tls),
            pin,
            stage: Stage::Upgrading(request, Vec::new()),
            out,
            max_text,
            ping,
            ping_due: now + ping,
            heard: now,
            unanswered: 0,
        })
    }

    /// Whether texts can be exchanged.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// The presented certificate.
    pub fn certificate(&self) -> Option<Digest> {
        self.pin.shown()
    }

    /// Changes the interval of pings.
    pub fn set_ping(&mut self, ping: Duration) {
        self.ping = ping;
        self.ping_due = self.ping_due.min(self.heard + ping);
    }

    /// Changes the maximum size of a text.
    pub fn set_max_text(&mut self, bytes: usize) {
        self.max_text = bytes;
    }

    /// Reads once. False where no more input is available now.
    pub fn read(&mut self, stream: &mut dyn Read, now: Instant) -> Result<bool, LinkError> {
        match self.tls.read_tls(stream) {
            Ok(0) => return Err(LinkError::Closed(0)),
            Ok(_) => {}
            Err(error) if is_not_now(&error) => return Ok(false),
            Err(error) => return Err(LinkError::Socket(error)),
        }
        self.heard = now;
        if let Err(error) = self.tls.process_new_packets() {
            return Err(match self.pin.wrong() {
                Some(shown) => LinkError::WrongCertificate(shown),
                None => LinkError::Tls(error.to_string()),
            });
        }
        let mut part = [0; PART];
        while let Ok(n @ 1..) = self.tls.reader().read(&mut part) {
            let part = part.get(..n).unwrap_or_default();
            match &mut self.stage {
                Stage::Upgrading(_, answer) => answer.extend_from_slice(part),
                Stage::Open(assembler) => assembler.push(part),
            }
        }
        Ok(true)
    }

    /// The next text. Replies to pings.
    pub fn next_text(&mut self) -> Result<Option<String>, LinkError> {
        loop {
            match &mut self.stage {
                Stage::Upgrading(request, answer) => {
                    if answer.is_empty() {
                        return Ok(None);
                    }
                    let Some(end) = request.judge(answer).map_err(LinkError::NoUpgrade)? else {
                        return Ok(None);
                    };
                    let mut assembler = Assembler::of_server();
                    assembler.push(answer.get(end..).unwrap_or_default());
                    self.stage = Stage::Open(assembler);
                }
                Stage::Open(assembler) => {
                    match assembler.next(self.max_text) {
                        Ok(None) => return Ok(None),
                        Ok(Some(Arrived::Message(text))) => return Ok(Some(text)),
                        Ok(Some(Arrived::Ping(payload))) => self.pong(&payload),
                        Ok(Some(Arrived::Pong)) => self.unanswered = 0,
                        Ok(Some(Arrived::Close(code))) => {
                            return Err(LinkError::Closed(code.unwrap_or(0)));
                        }
                        Err(reason) => return Err(LinkError::Protocol(reason.why)),
                    };
                }
            }
        }
    }

    fn pong(&mut self, payload: &[u8]) {
        // Pings of a relay that does not read are not replied to without limit.
        if self.has_room() {
            masked().pong(payload, &mut self.out);
        }
    }

    /// Whether more output may be [pushed](Channel::push).
    pub fn has_room(&self) -> bool {
        self.is_open() && self.out.len() < OUT
    }

    /// Whether the limit is exceeded by output that was pushed regardless.
    pub fn is_overfull(&self) -> bool {
        self.out.len() > 2 * OUT
    }

    /// Whether all output was written.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty() && !self.tls.wants_write()
    }

    /// Appends a text.
    pub fn push(&mut self, text: &str) {
        masked().text(text.as_bytes(), &mut self.out);
    }

    /// Appends a close frame.
    pub fn push_close(&mut self) {
        if self.is_open() {
            masked().close(1001, &mut self.out);
        }
    }

    /// Writes to the stream. False where output is left.
    pub fn write(&mut self, stream: &mut dyn Write) -> Result<bool, LinkError> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(stream) {
                    Ok(0) => return Err(LinkError::Closed(0)),
                    Ok(_) => {}
                    Err(error) if is_not_now(&error) => return Ok(false),
                    Err(error) => return Err(LinkError::Socket(error)),
                }
            }
            if self.out.is_empty() || self.tls.is_handshaking() {
                return Ok(true);
            }
            let taken = self.tls.writer().write(&self.out).map_err(LinkError::Socket)?;
            self.out.drain(..taken);
            if self.out.is_empty() {
                self.out = Vec::new();
            }
        }
    }

    /// When [`Channel::on_deadline`] must be called.
    pub fn due(&self) -> Option<Instant> {
        self.is_open().then_some(self.ping_due)
    }

    /// Sends a ping, or fails after two unanswered ones.
    pub fn on_deadline(&mut self, now: Instant) -> Result<(), LinkError> {
        if !self.is_open() || self.ping_due > now {
            return Ok(());
        }
        if now.saturating_duration_since(self.heard) < self.ping {
            self.unanswered = 0;
            self.ping_due = self.heard + self.ping;
        } else if self.unanswered >= 2 {
            return Err(LinkError::Silent("answer to two pings"));
        } else {
            self.unanswered += 1;
            self.ping_due = now + self.ping;
            // A relay that does not read would not see the ping either.
            if self.has_room() {
                masked().ping(&mut self.out);
            }
        }
        Ok(())
    }
}

/// A random mask. Masked data goes through TLS: without random bits a constant mask is harmless.
fn masked() -> Masked {
    let mut mask = [0x5a; 4];
    let _ = SystemRandom::new().fill(&mut mask);
    Masked { mask }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tunnel;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use ring::digest;
    use rustls::ServerConnection;

    const PING: Duration = Duration::from_secs(30);

    /// Bytes in transit; an empty pipe would block.
    #[derive(Default)]
    struct Pipe(Vec<u8>);

    impl Read for Pipe {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = self.0.len().min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0.drain(..n);
            Ok(n)
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Pair {
        channel: Channel,
        bridge: ServerConnection,
        start: Instant,
    }

    impl Pair {
        fn new() -> Pair {
            let (client, pin, config) = tunnel::tests::pinned_client_and_config();
            let start = Instant::now();
            let channel = Channel::new((client, pin), "bridge:12149", 1000, PING, start).unwrap();
            Pair { channel, bridge: ServerConnection::new(config).unwrap(), start }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// Transfers all pending bytes both ways, and returns those for the relay.
        fn carry(&mut self, now: Instant) -> Result<Vec<u8>, LinkError> {
            let mut got = Vec::new();
            loop {
                let (mut up, mut down) = (Pipe::default(), Pipe::default());
                self.channel.write(&mut up)?;
                let any = !up.0.is_empty();
                while !up.0.is_empty() {
                    self.bridge.read_tls(&mut up).unwrap();
                    let plain =
                        self.bridge.process_new_packets().unwrap().plaintext_bytes_to_read();
                    let at = got.len();
                    got.resize(at + plain, 0);
                    self.bridge.reader().read_exact(&mut got[at..]).unwrap();
                }
                while self.bridge.wants_write() {
                    self.bridge.write_tls(&mut down).unwrap();
                }
                if !any && down.0.is_empty() {
                    return Ok(got);
                }
                while self.channel.read(&mut down, now)? {}
            }
        }

        /// Transfers these bytes of the relay.
        fn say(&mut self, bytes: &[u8], now: Instant) {
            self.bridge.writer().write_all(bytes).unwrap();
            self.carry(now).unwrap();
        }

        fn open() -> Pair {
            let mut pair = Pair::new();
            let now = pair.at(0);
            let request = String::from_utf8(pair.carry(now).unwrap()).unwrap();
            assert!(request.starts_with("GET / HTTP/1.1\r\nHost: bridge:12149\r\n"), "{request}");
            assert!(request.contains("\r\nOrigin: sysadm-server\r\n"), "{request}");
            assert!(!pair.channel.has_room());
            let key = request.split("Sec-WebSocket-Key: ").nth(1).unwrap();
            let key = key.split("\r\n").next().unwrap();
            // RFC 6455 section 1.3.
            let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
            let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                STANDARD.encode(hash)
            );
            pair.say(answer.as_bytes(), now);
            assert_eq!(pair.channel.next_text().unwrap(), None);
            assert!(pair.channel.is_open() && pair.channel.has_room());
            pair
        }
    }

    #[test]
    fn texts_are_exchanged_and_pings_get_pongs() {
        let mut pair = Pair::open();
        let now = pair.at(1);
        pair.say(b"\x81\x02{}\x89\x01p\x81\x03a\nb", now);
        assert_eq!(pair.channel.next_text().unwrap().as_deref(), Some("{}"));
        assert_eq!(pair.channel.next_text().unwrap().as_deref(), Some("a\nb"));
        assert_eq!(pair.channel.next_text().unwrap(), None);
        pair.channel.push("hello");
        let got = pair.carry(now).unwrap();
        let mut assembler = Assembler::default();
        assembler.push(&got);
        assert_eq!(assembler.next(100).unwrap(), Some(Arrived::Pong));
        assert_eq!(assembler.next(100).unwrap(), Some(Arrived::Message("hello".into())));
        assert!(pair.channel.is_flushed());
    }

    #[test]
    fn overlong_or_masked_text_ends_the_channel() {
        let mut pair = Pair::open();
        pair.say(b"\x81\x7e\x03\xe9", pair.at(1));
        assert!(matches!(pair.channel.next_text(), Err(LinkError::Protocol(_))));
        let mut pair = Pair::open();
        pair.say(b"\x81\x82\x00\x00\x00\x00{}", pair.at(1));
        assert!(matches!(pair.channel.next_text(), Err(LinkError::Protocol(_))));
        let mut pair = Pair::open();
        pair.say(b"\x88\x02\x03\xe9", pair.at(1));
        assert!(matches!(pair.channel.next_text(), Err(LinkError::Closed(1001))));
    }

    #[test]
    fn a_silent_bridge_is_pinged_twice_and_given_up() {
        let mut pair = Pair::open();
        assert_eq!(pair.channel.due(), Some(pair.at(30)));
        for seconds in [30, 60] {
            let now = pair.at(seconds);
            pair.channel.on_deadline(now).unwrap();
            let mut assembler = Assembler::default();
            let mut up = Pipe::default();
            pair.channel.write(&mut up).unwrap();
            pair.bridge.read_tls(&mut up).unwrap();
            let plain = pair.bridge.process_new_packets().unwrap().plaintext_bytes_to_read();
            let mut got = vec![0; plain];
            pair.bridge.reader().read_exact(&mut got).unwrap();
            assembler.push(&got);
            assert_eq!(assembler.next(100).unwrap(), Some(Arrived::Ping(vec![])));
        }
        let end = pair.channel.on_deadline(pair.at(90));
        assert!(matches!(end, Err(LinkError::Silent(_))), "{end:?}");
    }

    #[test]
    fn a_sign_of_life_puts_the_ping_off() {
        let mut pair = Pair::open();
        pair.channel.on_deadline(pair.at(30)).unwrap();
        pair.say(b"\x8a\x00", pair.at(31));
        assert_eq!(pair.channel.next_text().unwrap(), None);
        pair.channel.on_deadline(pair.at(60)).unwrap();
        assert_eq!(pair.channel.due(), Some(pair.at(61)));
    }

    #[test]
    fn another_certificate_is_named() {
        let mut pair = Pair::new();
        let (_, _, config) = tunnel::tests::pinned_client_and_config();
        pair.bridge = ServerConnection::new(config).unwrap();
        let end = pair.carry(pair.at(0));
        assert!(matches!(end, Err(LinkError::WrongCertificate(_))), "{end:?}");
        assert_eq!(pair.channel.certificate(), pair.channel.pin.wrong());
    }

    #[test]
    fn reply_without_websocket_is_reported() {
        let mut pair = Pair::new();
        pair.carry(pair.at(0)).unwrap();
        pair.say(b"HTTP/1.1 403 Forbidden\r\n\r\nno\n", pair.at(0));
        let sent_list = pair.channel.next_text().unwrap_err().to_string();
        assert!(sent_list.contains("403") && sent_list.contains("no"), "{sent_list}");
    }
}
