//! Writes to standard error without ever blocking.
//!
//! It may be a pipe that is not read or a stopped terminal. Making it non-blocking would change it
//! for every process that shares it (the parent shell, for one), so its readiness is polled first.

use std::io::Write;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Number of bytes that POSIX guarantees to be written to a pipe atomically.
pub const ATOMIC: usize = 512;

/// Writes `line` if that does not block; false if it was dropped. A line longer than [`ATOMIC`] is
/// written in parts, each polled for separately.
pub fn write_line(line: &[u8]) -> bool {
    let stderr = std::io::stderr();
    let mut stderr = stderr.lock();
    line.chunks(ATOMIC).all(|part| {
        let mut asked = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let ready = matches!(poll(&mut asked, PollTimeout::ZERO), Ok(1))
            && asked[0].revents().is_some_and(|got| got.contains(PollFlags::POLLOUT));
        ready && stderr.write_all(part).is_ok()
    })
}
