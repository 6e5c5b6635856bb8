//! End-to-end TLS through an untrusted relay that forwards texts.
//!
//! TLS 1.3 records are sent as payloads `tls <base64>`; a message is a line of JSON. If a relay
//! changes, repeats, reorders or drops records the tunnel ends, because each record is
//! authenticated under its number; it cannot insert records either. Both ends use this one state
//! machine: records are passed in as arguments, and taken out on request.

mod payload;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::{ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection};
use zeroize::{Zeroize, Zeroizing};

pub use payload::{RECORDS, decode, encode, head, is_tunnelled};

/// Bytes of plaintext encrypted at once: with the overhead of TLS it is one record, and fits into a
/// payload.
const SEALED: usize = 15 * 1024;
/// Maximum number of bytes of pending TLS output: a flight of the handshake.
const UNSENT: usize = 64 * 1024;

/// Accounted overhead of a received message, in bytes.
pub const MESSAGE: usize = 64;

/// Why a tunnel ended.
#[derive(Debug, PartialEq)]
pub enum Broken {
    /// Not a payload of a tunnel.
    Garbage(&'static str),
    /// Not authentic, or not TLS 1.3.
    Tls(rustls::Error),
    /// More bytes than the limit, of this value.
    TooMuch(usize),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Garbage(what) => f.write_str(what),
            Broken::Tls(error) => write!(f, "TLS: {error}"),
            Broken::TooMuch(most) => write!(f, "more than {most} bytes wait to be answered"),
        }
    }
}

/// One end of a tunnel.
pub struct Tunnel {
    tls: Box<Connection>,
    /// The incomplete incoming message.
    line: Zeroizing<Vec<u8>>,
    /// Received messages, and their accounted size.
    lines: VecDeque<Zeroizing<String>>,
    held: usize,
    /// The other end has closed.
    ended: bool,
    /// This end has closed.
    closed: bool,
    /// The first message of a handshake was received.
    greeted: bool,
}

impl Tunnel {
    /// The server's end. `config` must be for TLS 1.3 alone.
    ///
    /// # Errors rustls rejects the configuration.
    pub fn server(config: Arc<ServerConfig>) -> Result<Tunnel, rustls::Error> {
        Ok(Tunnel::of(ServerConnection::new(config)?.into()))
    }

    /// The client's end; its first records are ready.
    pub fn client(connection: ClientConnection) -> Tunnel {
        Tunnel::of(connection.into())
    }

    fn of(mut tls: Connection) -> Tunnel {
        tls.set_buffer_limit(Some(UNSENT));
        Tunnel {
            tls: Box::new(tls),
            line: Zeroizing::default(),
            lines: VecDeque::new(),
            held: 0,
            ended: false,
            closed: false,
            greeted: false,
        }
    }

    /// Whether the handshake is complete.
    pub fn is_open(&self) -> bool {
        !self.tls.is_handshaking() && !self.ended && !self.closed
    }

    /// Whether the other end has closed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether records with this beginning start another handshake: the other end has reconnected.
    pub fn is_another(&self, records: &[u8]) -> bool {
        // After a HelloRetryRequest a second ClientHello is expected.
        let asked_again =
            self.tls.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest);
        self.greeted && is_client_hello(records) && !(asked_again && self.tls.is_handshaking())
    }

    /// Processes records. At most `room` bytes of messages are stored.
    ///
    /// # Errors The tunnel has ended. An alert for the other end may be
    /// [pending](Tunnel::take_records).
    pub fn receive(&mut self, records: &[u8], room: usize) -> Result<(), Broken> {
        self.greeted |= is_client_hello(records);
        let mut rest = records;
        while !rest.is_empty() {
            // It accepts what it has room for; a permanent refusal is an error of the records.
            match self.tls.read_tls(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return Err(Broken::Garbage("records of no use")),
            }
            let state = self.tls.process_new_packets().map_err(Broken::Tls)?;
            self.take_plaintext(room)?;
            self.ended |= state.peer_has_closed();
        }
        Ok(())
    }

    fn take_plaintext(&mut self, room: usize) -> Result<(), Broken> {
        let mut part = Zeroizing::new([0; 4096]);
        loop {
            let n = match self.tls.reader().read(&mut *part) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // No more input for now; or an end without an alert, which the owner notices.
                Err(_) => return Ok(()),
            };
            for piece in part.get(..n).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
                if self.held + self.line.len() + piece.len() > room {
                    return Err(Broken::TooMuch(room));
                }
                self.line.extend_from_slice(piece);
                if piece.ends_with(b"\n") {
                    self.end_line()?;
                }
            }
        }
    }

    fn end_line(&mut self) -> Result<(), Broken> {
        let mut line = std::mem::take(&mut *self.line);
        line.pop();
        if line.is_empty() {
            return Ok(());
        }
        match String::from_utf8(line) {
            Ok(text) => {
                self.held += text.len() + MESSAGE;
                self.lines.push_back(Zeroizing::new(text));
                Ok(())
            }
            Err(error) => {
                error.into_bytes().zeroize();
                Err(Broken::Garbage("a message that is not UTF-8"))
            }
        }
    }

    /// Bytes of messages that have come and were not taken.
    pub fn received(&self) -> usize {
        self.held + self.line.len()
    }

    /// Forgets them.
    pub fn forget_received(&mut self) {
        self.line.zeroize();
        (self.lines, self.held) = (VecDeque::new(), 0);
    }

    /// The next received message.
    pub fn next_message(&mut self) -> Option<Zeroizing<String>> {
        let line = self.lines.pop_front();
        match &line {
            Some(line) => self.held -= line.len() + MESSAGE,
            None => self.lines = VecDeque::new(),
        }
        line
    }

    /// Encrypts as much of a message as possible now, and returns that number of bytes. The message
    /// ends with [`Tunnel::end_message`]. Returns 0 before the end of the handshake, or while
    /// records are pending.
    pub fn send(&mut self, text: &[u8]) -> usize {
        if !self.is_open() || self.tls.wants_write() {
            return 0;
        }
        let part = text.get(..text.len().min(SEALED)).unwrap_or(text);
        self.tls.writer().write(part).unwrap_or(0)
    }

    /// Encrypts a whole message, which must be short compared to [`RECORDS`].
    pub fn send_short(&mut self, text: &str) {
        let _ = self.tls.writer().write_all(text.as_bytes());
        self.end_message();
    }

    /// Encrypts the end of a message.
    pub fn end_message(&mut self) {
        let _ = self.tls.writer().write_all(b"\n");
    }

    /// Sends a close alert.
    pub fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.tls.send_close_notify();
        }
    }

    /// Whether [`Tunnel::take_records`] returns records.
    pub fn has_records(&self) -> bool {
        self.tls.wants_write()
    }

    /// Records for the other end, at most as many as fit into a payload.
    pub fn take_records(&mut self) -> Option<Vec<u8>> {
        let mut records = Records(Vec::new());
        while self.tls.wants_write() && records.0.len() < RECORDS {
            if !matches!(self.tls.write_tls(&mut records), Ok(1..)) {
                break;
            }
        }
        Some(records.0).filter(|records| !records.is_empty())
    }
}

/// Whether a handshake record is a ClientHello (RFC 8446 sections 4 and 5.1).
fn is_client_hello(records: &[u8]) -> bool {
    matches!(records, [22, _, _, _, _, 1, ..])
}

/// A buffer of the size of a payload.
struct Records(Vec<u8>);

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = RECORDS - self.0.len();
        let part = bytes.get(..room).unwrap_or(bytes);
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
