//! A WebSocket to a daemon or a relay: texts both ways, with a time limit for each wait.

use std::io;
use std::time::{Duration, Instant};

use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Error, Message, WebSocket};

use super::connect::{Opened, Patience};
use super::stream::{self, Stream, Waited};
use super::{ClientError, MAX_MESSAGE, Step, Timeouts, Wait};

/// Bytes read from the socket at once.
const READ_BUFFER: usize = 64 * 1024;

/// Result of a wait.
pub(super) enum Got {
    Text(String),
    Binary(Bytes),
    /// A descriptor of [`Wait::wake`] is ready.
    Woken,
    /// [`Wait::deadline`] has passed.
    Nothing,
}

/// One connection. Closed on drop, as far as possible without blocking.
pub(super) struct Line {
    socket: WebSocket<Stream>,
    peer: String,
    timeouts: Timeouts,
    /// The connection may die silently.
    remote: bool,
    /// Time of the peer's last sign of life, and whether a ping was sent since.
    heard: Instant,
    pinged: bool,
}

/// A binary message that holds text.
pub(super) fn text_of(message: &Bytes) -> Result<String, ClientError> {
    let text = String::from_utf8(message.to_vec());
    text.map_err(|_| ClientError::Protocol("it sent a binary message that is not UTF-8".into()))
}

impl Line {
    pub(super) fn over(opened: Opened, timeouts: Timeouts) -> Line {
        let Opened { stream, rest, peer } = opened;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_MESSAGE)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        Line {
            remote: !matches!(stream, Stream::Unix(_)),
            socket: WebSocket::from_partially_read(stream, rest, Role::Client, Some(config)),
            peer,
            timeouts,
            heard: Instant::now(),
            pinged: false,
        }
    }

    /// The peer: the path of a socket, or host and port.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    pub(super) fn send(&mut self, text: String) -> Result<(), ClientError> {
        let message = Message::text(text);
        let peer = self.peer.clone();
        let patience = Patience::new(&peer, Step::Sending, self.timeouts.reply);
        let mut sent = self.socket.send(message);
        loop {
            match sent {
                Ok(()) => return Ok(()),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    patience.wait(self.socket.get_ref(), true)?;
                }
                Err(error) => return Err(explain(error)),
            }
            sent = self.socket.flush();
        }
    }

    /// The next text. Replies to pings: tungstenite queues the pong, and writes it when it is
    /// called again.
    pub(super) fn receive(&mut self, wait: &Wait<'_>) -> Result<Got, ClientError> {
        loop {
            let got = match self.socket.read() {
                Ok(Message::Text(text)) => Got::Text(text.as_str().to_owned()),
                Ok(Message::Binary(bytes)) => Got::Binary(bytes),
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                    self.is_alive();
                    continue;
                }
                Ok(Message::Close(frame)) => {
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
            return Ok(got);
        }
    }

    fn is_alive(&mut self) {
        self.heard = Instant::now();
        self.pinged = false;
    }

    /// Waits for bytes; `None` when there are some, or when a ping was due.
    fn wait(&mut self, wait: &Wait<'_>) -> Result<Option<Got>, ClientError> {
        let Timeouts { idle, ping, .. } = self.timeouts;
        let silent = self.heard + if self.pinged { idle + ping } else { idle };
        let silent = self.remote.then_some(silent);
        let deadline = wait.deadline.into_iter().chain(silent).min();
        match stream::wait(self.socket.get_ref(), false, wait.wake, deadline)
            .map_err(ClientError::Lost)?
        {
            Waited::Ready => Ok(None),
            Waited::Woken => Ok(Some(Got::Woken)),
            Waited::Over if wait.deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                Ok(Some(Got::Nothing))
            }
            Waited::Over if self.pinged => Err(self.gave_up(Step::Ping, idle + ping)),
            Waited::Over => {
                self.pinged = true;
                match self.socket.send(Message::Ping(Vec::new().into())) {
                    Ok(()) => Ok(None),
                    Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                    Err(error) => Err(explain(error)),
                }
            }
        }
    }

    /// A time limit was exceeded.
    pub(super) fn gave_up(&self, step: Step, after: Duration) -> ClientError {
        ClientError::TimedOut { peer: self.peer.clone(), step, after }
    }
}

impl Drop for Line {
    /// Closes the connection, as far as possible without blocking.
    fn drop(&mut self) {
        let _ = self.socket.close(None);
        self.socket.get_mut().shut_down();
    }
}

fn explain(error: Error) -> ClientError {
    use tungstenite::error::ProtocolError;
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => ClientError::ended(),
        Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => ClientError::ended(),
        Error::Io(error) => ClientError::Lost(error),
        other => ClientError::Protocol(other.to_string()),
    }
}
