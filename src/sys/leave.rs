//! Ends the process some time after a SIGINT, even in a blocking system call, in a name service, or
//! in a loop that a peer keeps busy.
//!
//! The timer is the process's alarm(2), started by the signal handler itself.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use signal_hook::consts::{SIGALRM, SIGINT};
use signal_hook::low_level::register;

/// After the first SIGINT the process has `seconds` left; then it writes `last_words` to standard
/// error and exits with `code`. [`postpone`] extends the time.
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

/// Restarts the timer with `seconds`.
pub fn postpone(seconds: u32) {
    // SAFETY: alarm(2) takes a number and touches no memory of this process.
    unsafe { libc::alarm(seconds) };
}
