//! Being told that the parent has died, however it died.
//!
//! A helper learns it from its socket, but not while it is stopped; a program that waits for events
//! for ever would never learn it. So the kernel is asked to send a signal then: prctl(2) on Linux,
//! procctl(2) on FreeBSD. On both that holds over `exec`.

use nix::unistd::{Pid, getppid};

/// In a child: SIGCONT comes when the parent dies. Where the kernel refuses, the end of the socket
/// is all that tells it.
pub(super) fn be_woken() {
    ask_for(libc::SIGCONT);
}

/// In a child of `parent`: SIGKILL comes when the parent dies. Ends the child where it has died
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
