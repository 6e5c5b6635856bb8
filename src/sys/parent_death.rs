//! Notification of a child when its parent dies, however it dies.
//!
//! A helper sees its socket close, but not while it is stopped; a program that waits for events for
//! ever would not notice. So the kernel is asked to send a signal: prctl(2) on Linux, procctl(2) on
//! FreeBSD. Both survive `exec`.

use nix::unistd::{Pid, getppid};

/// In a child: requests SIGCONT at the parent's death. Where the kernel refuses, the closed socket
/// is the only notification.
pub(super) fn be_woken() {
    ask_for(libc::SIGCONT);
}

/// In a child of `parent`: requests SIGKILL at the parent's death. Exits if the parent is dead
/// already.
pub(super) fn end_with(parent: Pid) {
    ask_for(libc::SIGKILL);
    if getppid() != parent {
        // SAFETY: ends the child at once, without running the parent's destructors.
        unsafe { libc::_exit(127) }
    }
}

fn ask_for(signal: libc::c_int) {
    #[cfg(target_os = "freebsd")]
    {
        let mut signal = signal;
        // SAFETY: the command reads one int, which outlives the call.
        unsafe {
            libc::procctl(
                libc::P_PID,
                0,
                libc::PROC_PDEATHSIG_CTL,
                std::ptr::from_mut(&mut signal).cast(),
            );
        }
    }
    #[cfg(target_os = "linux")]
    // SAFETY: sets a number of this process; takes integers only.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0);
    }
}
