//! A helper process and its socket in the poll loop: code common to all helpers.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use mio::Interest;
use mio::net::UnixStream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PollToken;
use crate::helper::channel::Channel;
use crate::reactor::{Reactor, Registered};
use crate::sys::children::{self, Exit};

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

    /// Writes what the socket accepts of a channel's bytes; how many that are. Where the child has
    /// ended, its exit is noticed.
    pub(super) fn flush(&mut self, channel: &mut Channel) -> usize {
        let mut written = 0;
        loop {
            let bytes = channel.bytes();
            if bytes.is_empty() {
                return written;
            }
            match self.socket.write_vectored(&bytes) {
                Ok(sent) => {
                    channel.sent(sent);
                    written += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return written,
            }
        }
    }

    /// Reads a bounded amount; the loop comes back where there may be more.
    pub(super) fn read(
        &mut self,
        scratch: &mut [u8],
        key: PollToken,
        reactor: &mut Reactor<PollToken>,
        mut received: impl FnMut(&[u8]),
    ) {
        for _ in 0..READS {
            match self.socket.read(scratch) {
                Ok(0) => return,
                Ok(n) => received(scratch.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        reactor.again(key);
    }

    /// Kills the process.
    pub(super) fn kill(&self) {
        // It fails where the process has just ended.
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// Ends a child that is stuck in a call about a file: at once where a kill is harmless there,
    /// else when the call returns.
    pub(super) fn end_stuck(&self) {
        children::end_stuck(self.pid);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Closes the sending side of the socket, upon which the child ends.
    pub(super) fn close(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }
}
