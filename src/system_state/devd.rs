//! devd's socket: FreeBSD tells there what its kernel says.
//!
//! One packet an event (devd(8), `/var/run/devd.seqpacket.pipe`). Nothing old is repeated to who
//! comes late, and who does not read is dropped; both are made good for by the checks.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// A connection to devd.
#[derive(Debug)]
pub struct Devd(OwnedFd);

impl Devd {
    /// Connects. A local socket does that at once or not at all.
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

/// A read is one packet; what does not fit is lost.
impl Read for Devd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.0, buffer)?)
    }
}
