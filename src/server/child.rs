//! A helper process and its socket in the poll loop: code common to all helpers.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use mio::Interest;
use mio::net::UnixStream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PollToken;
use crate::reactor::{Reactor, Registered};
use crate::sys::children::Exit;

/// The process.
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) socket: UnixStream,
    registered: Registered,
}

/// Maximum number of reads in a turn.
const READS: usize = 16;

impl Child {
    /// Registers the socket of a new child; the child is killed if that fails.
    pub(super) fn watch(
        (pid, socket): (Pid, OwnedFd),
        key: PollToken,
        reactor: &mut Reactor<PollToken>,
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

    /// The exit of this child, if `pid` is its; unregisters it.
    pub(super) fn take_ended(
        place: &mut Option<Child>,
        pid: Pid,
        exit: Exit,
        reactor: &mut Reactor<PollToken>,
    ) -> Option<String> {
        let mut child = place.take_if(|child| child.pid == pid)?;
        reactor.deregister(&mut child.socket, child.registered);
        Some(match exit {
            Exit::Code(code) => format!("exit code {code}"),
            Exit::Signal(signal) => format!("signal {signal}"),
        })
    }

    /// Closes the socket, upon which the child ends.
    pub(super) fn let_go(mut self, reactor: &mut Reactor<PollToken>) {
        reactor.deregister(&mut self.socket, self.registered);
    }

    /// Reads a bounded amount; true where there may be more.
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
