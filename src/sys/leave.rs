//! Ends the process some time after a SIGINT, wherever it is by then: in a system call, in a name
//! service, or in a loop that a peer keeps busy.
//!
//! The timer is the process's alarm(2), started by the signal handler itself.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use signal_hook::consts::{SIGALRM, SIGINT};
use signal_hook::low_level::register;

/// From now on the first SIGINT leaves the process so many seconds; then it writes `last_words` to
/// standard error and exits with `code`. [`postpone`] gives it more.
pub fn after_interrupt(seconds: u32, code: i32, last_words: &'static str) -> io::Result<()> {
    let stderr: RawFd = io::stderr().as_raw_fd();
    // SAFETY: write(2) and _exit(2) are async-signal-safe (POSIX.1-2017, XSH 2.4.3); the text is
    // static and its length is its own.
    let leave = move || unsafe {
        libc::write(stderr, last_words.as_ptr().cast(), last_words.len());
        libc::_exit(code);
    };
    // SAFETY: see above; alarm(2) is async-signal-safe too.
    unsafe {
        register(SIGALRM, leave)?;
        register(SIGINT, move || {
            libc::alarm(seconds);
        })?;
    }
    Ok(())
}

/// The process has so many seconds from now on.
pub fn postpone(seconds: u32) {
    // SAFETY: alarm(2) takes a number and touches no memory of this process.
    unsafe { libc::alarm(seconds) };
}
