//! TCP and Unix sockets as one type, and the identity of the peer.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::rc::Rc;

use mio::event;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::sys::peer_credentials::PeerCredentials;

/// A connected, non-blocking stream.
#[derive(Debug)]
pub enum Socket {
    /// Network or loopback.
    Tcp(TcpStream),
    /// Local.
    Unix(UnixStream),
}

/// The peer of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Identified by address only.
    Remote(SocketAddr),
    /// Known by the address that a proxy has named. It never counts as this host.
    Proxied(SocketAddr),
    /// Identified by the kernel.
    Local(PeerCredentials),
    /// Behind a relay.
    Bridged {
        /// The link, and the number of the client on it.
        source: Source,
        /// Name for logs.
        name: Rc<str>,
    },
}

impl Peer {
    /// The origin that connections are accounted to: an address, a /64 for IPv6 (the smallest
    /// allocation of a customer), a user for local peers.
    pub fn source(&self) -> Source {
        match self {
            Peer::Local(credentials) => Source::User(credentials.uid),
            Peer::Bridged { source, .. } => *source,
            Peer::Proxied(address) if address.ip().to_canonical().is_loopback() => {
                Source::ProxiedLoopback
            }
            Peer::Remote(address) | Peer::Proxied(address) => match address.ip().to_canonical() {
                IpAddr::V6(ip) if !ip.is_loopback() => {
                    let [a, b, c, d, ..] = ip.segments();
                    Source::Address(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
                }
                ip => Source::Address(ip),
            },
        }
    }
}

impl Peer {
    /// The address of a peer that is connected over the network directly.
    pub fn remote_ip(&self) -> Option<IpAddr> {
        match self {
            Peer::Remote(address) => Some(address.ip()),
            Peer::Proxied(_) | Peer::Local(_) | Peer::Bridged { .. } => None,
        }
    }

    /// The client behind this proxy: `address`, or the proxy itself where that is `None`.
    pub fn client(&self, address: Option<SocketAddr>) -> Peer {
        match (address, self) {
            (Some(address), _) => Peer::Proxied(address),
            (None, Peer::Remote(address)) => Peer::Proxied(*address),
            (None, peer) => peer.clone(),
        }
    }

    /// Address or user for the log, without a port.
    pub fn place(&self) -> String {
        match self {
            Peer::Remote(address) | Peer::Proxied(address) => {
                address.ip().to_canonical().to_string()
            }
            Peer::Local(credentials) => format!("uid {}", credentials.uid),
            Peer::Bridged { name, .. } => name.to_string(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Remote(address) | Peer::Proxied(address) => write!(f, "{address}"),
            Peer::Local(credentials) => write!(f, "local uid {}", credentials.uid),
            Peer::Bridged { name, .. } => f.write_str(name),
        }
    }
}

/// See [`Peer::source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A network address.
    Address(IpAddr),
    /// All loopback addresses that proxies have named: they may be another host's.
    ProxiedLoopback,
    /// A local user.
    User(u32),
    /// A peer behind a relay: the number of the link, and a number that is never reused on it.
    Caller(u64, u64),
}

impl Source {
    /// The same with all loopback addresses as one, because any process can use all of them.
    pub fn with_loopback_as_one(self) -> Source {
        match self {
            Source::Address(ip) if ip.is_loopback() => Source::Address(Ipv4Addr::LOCALHOST.into()),
            Source::Address(_) | Source::ProxiedLoopback | Source::User(_) | Source::Caller(..) => {
                self
            }
        }
    }

    /// Whether it is on this host: a user, or loopback.
    pub fn is_of_this_host(self) -> bool {
        match self {
            Source::User(_) => true,
            Source::Address(ip) => ip.is_loopback(),
            Source::ProxiedLoopback | Source::Caller(..) => false,
        }
    }
}

impl Socket {
    /// Whether bytes of a TCP peer are ready to be read.
    pub fn has_input(&self) -> bool {
        match self {
            Socket::Tcp(stream) => stream.peek(&mut [0]).is_ok_and(|length| length > 0),
            Socket::Unix(_) => false,
        }
    }

    /// Shuts the write side down.
    pub fn shutdown_write(&self) {
        // It fails only where the peer is gone already.
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write_vectored(slices),
            Socket::Unix(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl event::Source for Socket {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.register(registry, token, interests),
            Socket::Unix(stream) => stream.register(registry, token, interests),
        }
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.reregister(registry, token, interests),
            Socket::Unix(stream) => stream.reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.deregister(registry),
            Socket::Unix(stream) => stream.deregister(registry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_customer_is_one_origin() {
        let origin = |address: &str| Peer::Remote(address.parse().unwrap()).source();
        assert_eq!(origin("192.0.2.1:1"), origin("192.0.2.1:2"));
        assert_ne!(origin("192.0.2.1:1"), origin("192.0.2.2:1"));
        assert_eq!(origin("[2001:db8:1:2::1]:1"), origin("[2001:db8:1:2:ffff::9]:1"));
        assert_ne!(origin("[2001:db8:1:2::1]:1"), origin("[2001:db8:1:3::1]:1"));
        assert_eq!(origin("[::ffff:192.0.2.1]:1"), origin("192.0.2.1:9"));
        let one = |address| origin(address).with_loopback_as_one();
        for address in ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.9]:1"] {
            assert_eq!(one(address), origin("127.0.0.1:1"), "{address}");
        }
        assert_eq!(one("192.0.2.1:1"), origin("192.0.2.1:1"));
    }

    #[test]
    fn proxied_client_is_no_client_of_this_host() {
        let source = |address: &str| Peer::Proxied(address.parse().unwrap()).source();
        assert_eq!(source("127.0.0.1:1"), source("[::1]:2"));
        assert!(!source("127.0.0.1:1").is_of_this_host());
        let direct = Peer::Remote("192.0.2.1:1".parse().unwrap()).source();
        assert_eq!(source("192.0.2.1:2"), direct, "a block holds either way");
    }
}
