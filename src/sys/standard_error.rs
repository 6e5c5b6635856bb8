//! Writing to standard error without ever waiting for it.
//!
//! It may be a pipe that nobody reads or a terminal that is stopped. Making it non-blocking would
//! change it for every process that shares it (our parent's shell, for one), so it is asked first.

use std::io::Write;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What POSIX promises to be written to a pipe at once or not at all.
pub const ATOMIC: usize = 512;

/// Writes `line` if that does not block; false where it was left out. A line longer than
/// [`ATOMIC`] goes out in parts, each asked for by itself.
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
