//! Ctrl-C and SIGTERM as pollable events.
//!
//! A flag set by a signal handler is only checked after the next event, and a signal between the
//! check and the wait is missed; a pipe in the same poll(2) has neither problem.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use libc::c_int;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::exit::Exit;
use crate::client::sysexits;

/// Counts interrupts, instead of ending at the first.
pub(super) struct Interrupts {
    receiver: UnixStream,
    /// Number of interrupts.
    count: u64,
}

impl Interrupts {
    pub(super) fn watch() -> Result<Interrupts, Exit> {
        Interrupts::begin().map_err(|error| {
            Exit::failed(sysexits::UNAVAILABLE, format!("cannot listen for Ctrl-C: {error}"))
        })
    }

    fn begin() -> io::Result<Interrupts> {
        Ok(Interrupts { receiver: receiver_of(&[SIGTERM, SIGINT])?, count: 0 })
    }

    /// Whether there was a new interrupt.
    pub(super) fn count_new(&mut self) -> bool {
        let before = self.count;
        self.count() > before
    }

    /// Number of interrupts so far.
    pub(super) fn count(&mut self) -> u64 {
        let mut bytes = [0; 16];
        while let Ok(more @ 1..) = self.receiver.read(&mut bytes) {
            self.count += more as u64;
        }
        self.count
    }
}

/// Notification of one signal, without a count.
pub(super) struct Notice(UnixStream);

impl Notice {
    pub(super) fn of(signal: c_int) -> io::Result<Notice> {
        receiver_of(&[signal]).map(Notice)
    }

    /// Whether it arrived since the last call.
    pub(super) fn take(&mut self) -> bool {
        let mut came = false;
        while let Ok(1..) = self.0.read(&mut [0; 16]) {
            came = true;
        }
        came
    }
}

impl AsFd for Notice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The receiver of a byte for each of these signals.
fn receiver_of(signals: &[c_int]) -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for signal in signals {
        pipe::register(*signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

/// Readable when there is a new one.
impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_counted() {
        let mut interrupts = Interrupts::watch().unwrap();
        assert_eq!(interrupts.count(), 0);
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert_eq!(interrupts.count(), 1);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(interrupts.count(), 2);
    }
}
