//! TLS from end to end, through a bridge that forwards texts and is trusted with nothing.
//!
//! TLS 1.3 records travel as payloads `tls <base64>`; inside, a message is a line of JSON. What a
//! bridge changes, repeats, reorders or leaves out ends the tunnel, since each record is sealed
//! under its number; and what it puts in from elsewhere is not sealed at all. Both ends are this
//! one state machine: records come in as arguments, and go out when they are asked for.

mod payload;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::{ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection};
use zeroize::{Zeroize, Zeroizing};

pub use payload::{RECORDS, decode, encode, head, is_tunnelled};

/// Plaintext that is sealed at once, in bytes: with what TLS adds it is one record, and less than
/// a payload may hold.
const SEALED: usize = 15 * 1024;
/// What waits in TLS to be taken away, at most, in bytes: a flight of the handshake.
const UNSENT: usize = 64 * 1024;

/// Why a tunnel cannot go on.
#[derive(Debug, PartialEq)]
pub enum Broken {
    /// It is not the payload of a tunnel.
    Garbage(&'static str),
    /// What came is not what the other end has sent, or that is no TLS 1.3.
    Tls(rustls::Error),
    /// More came than is kept, of that many bytes.
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
    /// Of the message that is coming.
    line: Zeroizing<Vec<u8>>,
    /// Messages that have come, and their bytes.
    lines: VecDeque<Zeroizing<String>>,
    held: usize,
    /// The other end has said that nothing more comes.
    ended: bool,
    /// So have we.
    closed: bool,
    /// A first message of a handshake was seen.
    greeted: bool,
}

impl Tunnel {
    /// The server's end. `config` is for TLS 1.3 alone.
    ///
    /// # Errors
    /// rustls cannot begin with it.
    pub fn server(config: Arc<ServerConfig>) -> Result<Tunnel, rustls::Error> {
        Ok(Tunnel::of(ServerConnection::new(config)?.into()))
    }

    /// The client's end; its first records are there to be taken.
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

    /// True once both ends know each other's keys.
    pub fn is_open(&self) -> bool {
        !self.tls.is_handshaking() && !self.ended && !self.closed
    }

    /// True where the other end has said that it sends nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// True where records that begin so begin a handshake that is not this one's: whoever is at the
    /// other end has begun anew.
    pub fn is_another(&self, records: &[u8]) -> bool {
        // Of a hello that was answered with "another key share, please" the second is expected.
        let asked_again =
            self.tls.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest);
        self.greeted && is_client_hello(records) && !(asked_again && self.tls.is_handshaking())
    }

    /// Takes records as they came. At most `room` bytes of messages are kept.
    ///
    /// # Errors
    /// The tunnel is over. There may be an alert to be [taken](Tunnel::take_records) that says so
    /// to the other end.
    pub fn receive(&mut self, records: &[u8], room: usize) -> Result<(), Broken> {
        self.greeted |= is_client_hello(records);
        let mut rest = records;
        while !rest.is_empty() {
            // It takes what it has room for; what it refuses for good is an error of the records.
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
                // Nothing more for now; or the end without a word, which is for the owner to see.
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
                self.held += text.len();
                self.lines.push_back(Zeroizing::new(text));
                Ok(())
            }
            Err(error) => {
                error.into_bytes().zeroize();
                Err(Broken::Garbage("a message that is not UTF-8"))
            }
        }
    }

    /// The next message that has come.
    pub fn next_message(&mut self) -> Option<Zeroizing<String>> {
        let line = self.lines.pop_front();
        match &line {
            Some(line) => self.held -= line.len(),
            None => self.lines = VecDeque::new(),
        }
        line
    }

    /// Seals what can be sealed now of a message's text, and says how many bytes that is. The
    /// message ends with [`Tunnel::end_message`]. Nothing where the handshake is not over, or where
    /// records wait to be taken.
    pub fn send(&mut self, text: &[u8]) -> usize {
        if !self.is_open() || self.tls.wants_write() {
            return 0;
        }
        let part = text.get(..text.len().min(SEALED)).unwrap_or(text);
        self.tls.writer().write(part).unwrap_or(0)
    }

    /// Seals a whole message, which is to be short against [`RECORDS`].
    pub fn send_short(&mut self, text: &str) {
        let _ = self.tls.writer().write_all(text.as_bytes());
        self.end_message();
    }

    /// Seals the end of a message.
    pub fn end_message(&mut self) {
        let _ = self.tls.writer().write_all(b"\n");
    }

    /// Says that nothing more comes.
    pub fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.tls.send_close_notify();
        }
    }

    /// True where [`Tunnel::take_records`] has some.
    pub fn has_records(&self) -> bool {
        self.tls.wants_write()
    }

    /// Records for the other end, if there are some: no more than fit into a payload.
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

/// A record of the handshake that is a ClientHello (RFC 8446 sections 4 and 5.1).
fn is_client_hello(records: &[u8]) -> bool {
    matches!(records, [22, _, _, _, _, 1, ..])
}

/// Takes as much as a payload holds.
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
