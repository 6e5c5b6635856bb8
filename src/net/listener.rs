//! Listening sockets.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener, UnixStream};
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind,
    setsockopt, shutdown, sockopt,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::socket::{Peer, Socket};
use crate::sys::confinement::{Right, limit};
use crate::sys::ipv6_only::set_ipv6_only;
use crate::sys::peer_credentials::peer_credentials;

/// Transport of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// `wss://`
    Tls,
    /// `ws://`, loopback only.
    Plain,
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A network address.
    Tcp(TcpListener, Transport, SocketAddr),
    /// A path on this host.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// `None` where it cannot be opened.
    directory: Option<OwnedFd>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// Its stream.
    pub socket: Socket,
    /// The peer.
    pub peer: Peer,
    /// Whether TLS is used.
    pub tls: bool,
    /// Whether only this host can have connected: a Unix socket, or a loopback address.
    pub on_loopback: bool,
    /// The peer is a proxy, and its header comes first; for the owner of the listener to set.
    pub is_proxy: bool,
}

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

impl Listener {
    /// Listens on an address. An IPv6 socket accepts IPv6 only, so that both families can use one
    /// port.
    pub fn tcp(address: SocketAddr, transport: Transport) -> io::Result<Listener> {
        let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = nix::sys::socket::socket(family, SockType::Stream, flags, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        if address.is_ipv6() {
            set_ipv6_only(socket.as_fd())?;
        }
        match address {
            SocketAddr::V4(address) => bind(socket.as_raw_fd(), &SockaddrIn::from(address))?,
            SocketAddr::V6(address) => bind(socket.as_raw_fd(), &SockaddrIn6::from(address))?,
        }
        nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        let listener = TcpListener::from_std(std::net::TcpListener::from(socket));
        let bound = listener.local_addr()?;
        Ok(Listener::Tcp(listener, transport, bound))
    }

    /// Listens on a path with these permissions. A stale socket file is replaced; one with a
    /// listener is not, and neither is a file of another kind. (FreeBSD refuses connections to a
    /// listener with a full queue, like to a stale file: listen(2) of FreeBSD. In that case the
    /// lock of the state directory excludes a second daemon.)
    pub fn unix(path: &Path, mode: u32) -> io::Result<Listener> {
        let in_use = || io::Error::new(ErrorKind::AddrInUse, "another daemon listens on it");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if let Ok(there) = fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                let why = "a file of another kind is in the way";
                return Err(io::Error::new(ErrorKind::AlreadyExists, why));
            }
            match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(path)?
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // It has a listener, whose queue is full.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(in_use()),
                Err(error) => return Err(error),
                Ok(_) => return Err(in_use()),
            }
        }
        // No peer may connect between bind and chmod.
        let usual = umask(Mode::all());
        let listener = UnixListener::bind(path);
        umask(usual);
        let listener = listener?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(Listener::Unix(listener, SocketFile::of(path)))
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        match self {
            Listener::Tcp(_, Transport::Tls, address) => format!("wss://{address}"),
            Listener::Tcp(_, Transport::Plain, address) => format!("ws://{address}"),
            Listener::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    /// Accepts one connection; `WouldBlock` where there is none.
    pub fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener, transport, bound) => {
                let (stream, address) = listener.accept()?;
                // Small events are sent at once; it fails only where the peer is gone.
                let _ = stream.set_nodelay(true);
                let tls = *transport == Transport::Tls;
                let (socket, peer) = (Socket::Tcp(stream), Peer::Remote(address));
                let on_loopback = bound.ip().is_loopback();
                Ok(Accepted { socket, peer, tls, on_loopback, is_proxy: false })
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                // For a closed connection the kernel may not know the peer.
                let credentials = peer_credentials(stream.as_fd())
                    .map_err(|error| io::Error::new(ErrorKind::ConnectionAborted, error))?;
                let peer = Peer::Local(credentials);
                let socket = Socket::Unix(stream);
                Ok(Accepted { socket, peer, tls: false, on_loopback: true, is_proxy: false })
            }
        }
    }

    /// Limits the descriptors to their purpose: afterwards connections can be accepted, and the
    /// socket file can be removed, even in capability mode.
    ///
    /// # Errors The system call fails.
    pub fn confine(&self) -> io::Result<()> {
        limit(self.as_fd(), Right::Accept)?;
        match self {
            Listener::Unix(_, SocketFile { directory: Some(directory), .. }) => {
                limit(directory.as_fd(), Right::RemoveBelow)
            }
            Listener::Unix(..) | Listener::Tcp(..) => Ok(()),
        }
    }

    /// Its descriptor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener, ..) => listener.as_fd(),
            Listener::Unix(listener, _) => listener.as_fd(),
        }
    }

    /// The socket, for registration.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener, ..) => listener,
            Listener::Unix(listener, _) => listener,
        }
    }

    /// Stops listening and removes the socket file. A child that was just forked may still have it
    /// open, and must not hold its address.
    pub fn end(&self) {
        match self {
            // Where shutdown(2) does not apply to listeners, closing usually suffices.
            Listener::Tcp(listener, ..) => {
                let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
            }
            Listener::Unix(_, file) => file.remove(),
        }
    }
}

impl SocketFile {
    fn of(path: &Path) -> SocketFile {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(folder.unwrap_or(Path::new(".")), flags, Mode::empty()).ok();
        SocketFile { path: path.to_owned(), directory }
    }

    /// Removes the file relative to its directory, because paths do not work in capability mode. It
    /// stays where this process cannot write to the directory; the next daemon replaces it.
    fn remove(&self) {
        let _ = match (&self.directory, self.path.file_name()) {
            (Some(directory), Some(name)) => {
                unlinkat(directory, name, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from)
            }
            (None, _) | (_, None) => fs::remove_file(&self.path),
        };
    }
}

/// Errors of accept(2) that concern the connection, not the listener.
pub fn is_about_one_connection(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || error.raw_os_error() == Some(libc::EPROTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confined_listener_accepts_and_removes_its_socket_file() {
        let parent = std::env::temp_dir().join(format!("se-listener-{}", std::process::id()));
        let (before, after) = (parent.join("before"), parent.join("after"));
        let listener = Listener::unix(&before.join("socket"), 0o600).unwrap();
        listener.confine().unwrap();
        let client = std::os::unix::net::UnixStream::connect(before.join("socket")).unwrap();
        assert!(matches!(listener.accept().unwrap().peer, Peer::Local(_)));
        drop(client);
        // Its path leads nowhere, like every path in capability mode.
        fs::rename(&before, &after).unwrap();
        assert!(after.join("socket").symlink_metadata().is_ok());
        listener.end();
        assert!(after.join("socket").symlink_metadata().is_err());
        fs::remove_dir_all(&parent).unwrap();
    }
}
