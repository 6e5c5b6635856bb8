//! A child that helps the daemon, at the other end of a socket in the poll loop: what is the same
//! for the store and for accounts.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use mio::Interest;
use mio::net::UnixStream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Key;
use crate::reactor::{Reactor, Registered};
use crate::sys::children::Exit;

/// The child.
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) socket: UnixStream,
    registered: Registered,
}

/// Reads in a turn from the child.
const READS: usize = 16;

impl Child {
    /// Watches the socket of a child that was just started; one that cannot be watched is ended.
    pub(super) fn watch(
        (pid, socket): (Pid, OwnedFd),
        key: Key,
        reactor: &mut Reactor<Key>,
    ) -> io::Result<Child> {
        let mut socket = UnixStream::from_std(socket.into());
        match reactor.register(&mut socket, Interest::READABLE | Interest::WRITABLE, key) {
            Ok(registered) => Ok(Child { pid, socket, registered }),
            Err(error) => {
                let _ = kill(pid, Signal::SIGKILL);
                Err(error)
            }
        }
    }

    /// A child of the daemon has ended: how, if it was this one, which is let go.
    pub(super) fn take_ended(
        place: &mut Option<Child>,
        pid: Pid,
        exit: Exit,
        reactor: &mut Reactor<Key>,
    ) -> Option<String> {
        let mut child = place.take_if(|child| child.pid == pid)?;
        reactor.deregister(&mut child.socket, child.registered);
        Some(match exit {
            Exit::Code(code) => format!("exit code {code}"),
            Exit::Signal(signal) => format!("signal {signal}"),
        })
    }

    /// Reads what the child says, so much in a turn; true where there may be more.
    pub(super) fn read(&mut self, scratch: &mut [u8], mut received: impl FnMut(&[u8])) -> bool {
        for _ in 0..READS {
            match self.socket.read(scratch) {
                Ok(0) => return false,
                Ok(n) => received(scratch.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}
