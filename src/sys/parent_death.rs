//! Being told that the parent has died, however it died.
//!
//! A helper learns it from its socket, but not while it is stopped. So the kernel is asked to send
//! it SIGCONT then: prctl(2) on Linux, procctl(2) on FreeBSD.

/// In a child: SIGCONT comes when the parent dies. Where the kernel refuses, the end of the socket
/// is all that tells it.
pub(super) fn be_woken() {
    #[cfg(target_os = "freebsd")]
    {
        let mut signal: libc::c_int = libc::SIGCONT;
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
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT, 0, 0, 0);
    }
}
