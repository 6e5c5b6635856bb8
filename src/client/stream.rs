//! A byte stream whose waits have deadlines.
//!
//! The sockets are non-blocking; callers wait in [`wait`], with a deadline and with other
//! descriptors. So one thread can wait for a daemon and for Ctrl-C at once, and no silent peer can
//! block a command for ever.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::{ClientConnection, StreamOwned};

use super::{ClientError, Incoming};

/// Transport of the bytes. Never blocks: returns `WouldBlock` instead.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Events to poll for when a read or write would block.
    fn interest(&self, writing: bool) -> PollFlags {
        let plain = if writing { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        match self {
            Stream::Unix(_) | Stream::Tcp(_) => plain,
            // TLS may have to write in order to read, and vice versa.
            Stream::Tls(tls) if tls.conn.wants_write() => PollFlags::POLLIN | PollFlags::POLLOUT,
            Stream::Tls(tls) if tls.conn.is_handshaking() => PollFlags::POLLIN,
            Stream::Tls(_) => plain,
        }
    }

    /// Closes the stream in order, as far as possible without blocking.
    pub(super) fn shut_down(&mut self) {
        if let Stream::Tls(tls) = self {
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(socket) => socket.as_fd(),
            Stream::Tcp(socket) => socket.as_fd(),
            Stream::Tls(tls) => tls.sock.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(socket) => socket.read(buffer),
            Stream::Tcp(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(socket) => socket.write(bytes),
            Stream::Tcp(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Unix(socket) => socket.flush(),
            Stream::Tcp(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// Result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The stream is ready.
    Ready,
    /// Another descriptor is ready.
    Woken,
    /// The deadline has passed.
    Over,
}

/// Waits until `stream` is ready (`writing`: for writing), a descriptor of `wake` is ready, or
/// `deadline` passes; without one, for ever.
pub(super) fn wait(
    stream: &Stream,
    writing: bool,
    wake: &[PollFd<'_>],
    deadline: Option<Instant>,
) -> io::Result<Waited> {
    let mut asked = vec![PollFd::new(stream.as_fd(), stream.interest(writing))];
    asked.extend_from_slice(wake);
    loop {
        match poll(&mut asked, timeout(deadline)) {
            Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Ok(Waited::Over);
            }
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) if asked.iter().skip(1).any(PollFd::has_events) => return Ok(Waited::Woken),
            Ok(_) => return Ok(Waited::Ready),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits without a stream, until the earliest of `deadlines`; returns why it ended where that was a
/// descriptor of `wake`.
pub(super) fn pause(
    wake: &[PollFd<'_>],
    deadlines: [Option<Instant>; 2],
) -> Result<Option<Incoming>, ClientError> {
    let deadline = deadlines.into_iter().flatten().min();
    let mut asked = wake.to_vec();
    loop {
        match poll(&mut asked, timeout(deadline)) {
            Ok(0) if deadline.is_none_or(|deadline| deadline <= Instant::now()) => return Ok(None),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(Some(Incoming::Woken)),
            Err(error) => return Err(ClientError::Lost(error.into())),
        }
    }
}

/// Whether a descriptor of `wake` is ready.
pub(super) fn is_woken(wake: &[PollFd<'_>]) -> bool {
    let mut asked = wake.to_vec();
    !asked.is_empty() && matches!(poll(&mut asked, PollTimeout::ZERO), Ok(1..))
}

trait HasEvents {
    fn has_events(&self) -> bool;
}

impl HasEvents for PollFd<'_> {
    fn has_events(&self) -> bool {
        self.revents().is_some_and(|events| !events.is_empty())
    }
}

/// Milliseconds until `deadline`, rounded up so that the caller does not poll repeatedly before it.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    let milliseconds = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}
