//! Sockets that connections come in by.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener, UnixStream};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind,
    setsockopt, shutdown, sockopt,
};
use nix::sys::stat::{Mode, umask};

use super::socket::{Peer, Socket};
use crate::sys::ipv6_only::set_ipv6_only;
use crate::sys::peer_credentials::peer_credentials;

/// How the bytes of a connection travel.
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
    /// On the network.
    Tcp(TcpListener, Transport, SocketAddr),
    /// On this host, by a path.
    Unix(UnixListener, PathBuf),
}

/// A connection that came in.
#[derive(Debug)]
pub struct Accepted {
    /// Its stream.
    pub socket: Socket,
    /// Who is at the other end.
    pub peer: Peer,
    /// True where TLS comes first.
    pub tls: bool,
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

impl Listener {
    /// Listens on an address. An IPv6 one takes IPv6 only, so that both can be had by the same port.
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

    /// Listens on a path with these permissions. A socket file that nobody listens on any more is
    /// replaced; one that somebody does is not, and neither is a file of another kind. (FreeBSD
    /// refuses where too many wait to be accepted, as if nobody listened: listen(2) of FreeBSD. It is
    /// the lock of the state directory then that keeps a second daemon away.)
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
                // It is there, with so many waiting that there is no room for one more.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(in_use()),
                Err(error) => return Err(error),
                Ok(_) => return Err(in_use()),
            }
        }
        // Between bind and chmod nobody must get in.
        let usual = umask(Mode::all());
        let listener = UnixListener::bind(path);
        umask(usual);
        let listener = listener?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(Listener::Unix(listener, path.to_owned()))
    }

    /// What clients are told to connect to.
    pub fn url(&self) -> String {
        match self {
            Listener::Tcp(_, Transport::Tls, address) => format!("wss://{address}"),
            Listener::Tcp(_, Transport::Plain, address) => format!("ws://{address}"),
            Listener::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Accepts one connection; `WouldBlock` where there is none.
    pub fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener, transport, _) => {
                let (stream, address) = listener.accept()?;
                // A small event should go out at once; it fails only where the peer is gone.
                let _ = stream.set_nodelay(true);
                let tls = *transport == Transport::Tls;
                Ok(Accepted { socket: Socket::Tcp(stream), peer: Peer::Remote(address), tls })
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                // Of one that has gone already the kernel may not say who it was.
                let credentials = peer_credentials(stream.as_fd())
                    .map_err(|error| io::Error::new(ErrorKind::ConnectionAborted, error))?;
                let peer = Peer::Local(credentials);
                Ok(Accepted { socket: Socket::Unix(stream), peer, tls: false })
            }
        }
    }

    /// Its descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener, ..) => listener.as_fd(),
            Listener::Unix(listener, _) => listener.as_fd(),
        }
    }

    /// For the reactor.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener, ..) => listener,
            Listener::Unix(listener, _) => listener,
        }
    }

    /// Ends it: nobody gets in from now on, and its file is gone. A child that was just forked may
    /// still have it open, and must not keep its address.
    pub fn end(&self) {
        match self {
            // Where a system does not do that to a listener, closing it is enough as a rule.
            Listener::Tcp(listener, ..) => {
                let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
            }
            Listener::Unix(_, path) => {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Errors of accept(2) that are about the connection, not about us.
pub fn is_about_one_connection(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || error.raw_os_error() == Some(libc::EPROTO)
}
