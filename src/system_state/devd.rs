//! Connection to devd's socket: the kernel's events on FreeBSD.
//!
//! One packet per event (devd(8), `/var/run/devd.seqpacket.pipe`). devd does not repeat old events
//! to new clients, and drops clients that do not read; periodic checks compensate for both.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// A connection to devd.
#[derive(Debug)]
pub struct Devd(OwnedFd);

impl Devd {
    /// Connects. A local socket connects at once or fails.
    pub fn connect(path: &Path) -> io::Result<Devd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Devd(socket))
    }
}

impl AsRawFd for Devd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A read is one packet; bytes that do not fit are lost.
impl Read for Devd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.0, buffer)?)
    }
}
