//! Connecting to a daemon: a socket, TLS where it is remote, and the upgrade to a WebSocket.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use rustls::StreamOwned;

use super::Timeouts;
use super::error::{ClientError, Step};
use super::stream::{Stream, Waited, wait};
use super::target::{Fingerprint, Url};
use super::tls;
use crate::net::UpgradeRequest;

/// An upgraded stream, and bytes that the peer has sent after the reply.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) rest: Vec<u8>,
    pub(super) peer: String,
}

/// Opens the first of `paths` with a listening daemon.
pub(super) fn open_socket(paths: &[PathBuf], timeouts: &Timeouts) -> Result<Opened, ClientError> {
    let mut tried: Vec<(PathBuf, io::Error)> = Vec::new();
    for path in paths {
        if tried.iter().any(|(known, _)| known == path) {
            continue;
        }
        match connect_unix(path, timeouts.connect) {
            Ok(socket) => {
                let peer = path.display().to_string();
                return upgrade(Stream::Unix(socket), peer, "localhost", "/", timeouts);
            }
            Err(error) => tried.push((path.clone(), error)),
        }
    }
    Err(ClientError::NoDaemon(tried))
}

/// connect(2) to a Unix socket waits for room in the listener's backlog, on Linux for ever: the
/// send timeout bounds it (unix(7)).
fn connect_unix(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket: OwnedFd =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let seconds = i64::try_from(patience.as_secs().max(1)).unwrap_or(i64::MAX);
    #[allow(clippy::useless_conversion, reason = "time_t is not an i64 everywhere")]
    let limit = TimeVal::new(seconds.try_into().unwrap_or(1), 0);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    let address = UnixAddr::new(path)?;
    loop {
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it does not accept the connection",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Opens a TCP connection, with TLS where a fingerprint is given.
pub(super) fn open_url(
    url: &Url,
    fingerprint: Option<Fingerprint>,
    timeouts: &Timeouts,
) -> Result<Opened, ClientError> {
    let socket = connect_tcp(url, timeouts.connect)?;
    let peer = url.authority();
    let Some(fingerprint) = fingerprint else {
        return upgrade(Stream::Tcp(socket), peer, &url.authority(), &url.path, timeouts);
    };
    let (connection, pin) = tls::connection(&url.host, fingerprint)?;
    let mut stream = Stream::Tls(Box::new(StreamOwned::new(connection, socket)));
    let step = Patience::new(&peer, Step::Handshake, timeouts.handshake);
    step.drive(&mut stream, true, |stream| match stream {
        Stream::Tls(tls) => tls.conn.complete_io(&mut tls.sock).map(|_| ()),
        Stream::Unix(_) | Stream::Tcp(_) => Ok(()),
    })
    .map_err(|error| match error {
        // A broken connection says nothing about the server: it may be restarting.
        ClientError::Lost(error) if error.kind() == io::ErrorKind::InvalidData => {
            tls::explain(&pin, fingerprint, &error)
        }
        other => other,
    })?;
    upgrade(stream, peer, &url.authority(), &url.path, timeouts)
}

fn connect_tcp(url: &Url, patience: Duration) -> Result<TcpStream, ClientError> {
    let unreachable = |error| ClientError::Unreachable(url.authority(), error);
    let deadline = Instant::now() + patience;
    let addresses = (&*url.host, url.port).to_socket_addrs().map_err(unreachable)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        // Without TLS the name must resolve to this host, whatever the resolver returns.
        if !url.tls && !address.ip().is_loopback() {
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => {
                socket
                    .set_nodelay(true)
                    .and_then(|()| socket.set_nonblocking(true))
                    .map_err(unreachable)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}

/// Sends the request and reads the reply.
fn upgrade(
    mut stream: Stream,
    peer: String,
    host: &str,
    path: &str,
    timeouts: &Timeouts,
) -> Result<Opened, ClientError> {
    let step = Patience::new(&peer, Step::Handshake, timeouts.handshake);
    let upgrade = UpgradeRequest::new()?;
    let request = upgrade.request(host, path, None);
    let mut sent = 0;
    step.drive(&mut stream, true, |stream| {
        while let Some(rest) = request.get(sent..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => sent += written,
            }
        }
        stream.flush()
    })?;
    let mut received = Vec::new();
    let mut part = [0; 2048];
    loop {
        let length = step.drive(&mut stream, false, |stream| stream.read(&mut part))?;
        if length == 0 {
            return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        received.extend_from_slice(part.get(..length).unwrap_or_default());
        if let Some(end) = upgrade.judge(&received)? {
            let rest = received.split_off(end);
            return Ok(Opened { stream, rest, peer });
        }
    }
}

/// Time limit of one step.
pub(super) struct Patience<'a> {
    peer: &'a str,
    step: Step,
    after: Duration,
    deadline: Instant,
}

impl<'a> Patience<'a> {
    pub(super) fn new(peer: &'a str, step: Step, after: Duration) -> Patience<'a> {
        Patience { peer, step, after, deadline: Instant::now() + after }
    }

    /// Retries until the call neither would block nor is interrupted, or the deadline passes.
    fn drive<T>(
        &self,
        stream: &mut Stream,
        writing: bool,
        mut attempt: impl FnMut(&mut Stream) -> io::Result<T>,
    ) -> Result<T, ClientError> {
        loop {
            match attempt(stream) {
                Ok(done) => return Ok(done),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(stream, writing)?;
                }
                Err(error) => return Err(ClientError::Lost(error)),
            }
        }
    }

    pub(super) fn wait(&self, stream: &Stream, writing: bool) -> Result<(), ClientError> {
        match wait(stream, writing, &[], Some(self.deadline)).map_err(ClientError::Lost)? {
            Waited::Ready | Waited::Woken => Ok(()),
            Waited::Over => Err(self.over()),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn over(&self) -> ClientError {
        let peer = self.peer.to_owned();
        ClientError::TimedOut { peer, step: self.step, after: self.after }
    }
}
