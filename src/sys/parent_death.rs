//! A child that must not outlive us, even if we are killed.
//!
//! One that waits for events for ever would be left behind and never notice.

use nix::unistd::{Pid, getppid};

/// In a forked child: asks to be killed when the parent ends. Ends the child where that has
/// happened already. What it is asked for lives on over `exec`.
pub(super) fn end_with(parent: Pid) {
    #[cfg(target_os = "freebsd")]
    // SAFETY: takes a pointer to an int of ours that holds the signal's number (procctl(2)); the
    // number 0 is the calling process.
    unsafe {
        let mut signal = libc::SIGKILL;
        libc::procctl(
            libc::P_PID,
            0,
            libc::PROC_PDEATHSIG_CTL,
            std::ptr::from_mut(&mut signal).cast(),
        );
    }
    #[cfg(target_os = "linux")]
    // SAFETY: takes integers, touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    if getppid() != parent {
        // SAFETY: ends the child at once, without running the parent's destructors.
        unsafe { libc::_exit(127) }
    }
}
