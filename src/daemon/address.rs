//! Listening addresses, and their sockets.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use log::info;

use super::StartError;
use crate::config::Network;
use crate::net::{Listener, Peer, Transport};

/// Whether a peer is one of the configured proxies, whose header names its client.
pub fn is_proxy(peer: &Peer, proxies: &[Network]) -> bool {
    peer.remote_ip().is_some_and(|ip| proxies.iter().any(|proxy| proxy.contains(ip)))
}

/// A configured address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A network address, with or without TLS.
    Tcp(SocketAddr, Transport),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether both addresses cannot be used at a time. Ports 0 never overlap.
    pub fn overlaps(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Tcp(one, _), Address::Tcp(two, _)) => {
                let (ours, theirs) = (one.ip(), two.ip());
                one.port() == two.port()
                    && one.port() != 0
                    && ours.is_ipv4() == theirs.is_ipv4()
                    && (ours == theirs || ours.is_unspecified() || theirs.is_unspecified())
            }
            (Address::Unix(one), Address::Unix(two)) => one == two,
            (Address::Tcp(..), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(..)) => false,
        }
    }
}

/// Binds all of `addresses` or none; the default IPv6 loopback address is skipped on systems
/// without IPv6, such as many jails and containers. `mode` is for socket files.
pub fn bind(addresses: &[Address], mode: u32) -> Result<Vec<(Address, Listener)>, StartError> {
    let bind_one = |address: &Address| {
        let (listener, name) = match address {
            Address::Tcp(at, transport) => (Listener::tcp(*at, *transport), at.to_string()),
            Address::Unix(path) => (Listener::unix(path, mode), path.display().to_string()),
        };
        let listener = listener.map_err(|error| StartError::Listen(name, error))?;
        Ok((address.clone(), listener))
    };
    let mut bound = Vec::new();
    for address in addresses {
        match bind_one(address) {
            Err(StartError::Listen(name, error)) if lacks_ipv6(address, &error) => {
                info!("not listening on {name}: this host has no IPv6");
            }
            one => bound.push(one?),
        }
    }
    Ok(bound)
}

fn lacks_ipv6(address: &Address, error: &io::Error) -> bool {
    const NO_FAMILY: Option<i32> = Some(libc::EAFNOSUPPORT);
    let is_missing =
        error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == NO_FAMILY;
    match address {
        Address::Tcp(SocketAddr::V6(at), _) => at.ip().is_loopback() && is_missing,
        Address::Tcp(SocketAddr::V4(_), _) | Address::Unix(_) => false,
    }
}
