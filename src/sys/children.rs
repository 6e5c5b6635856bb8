//! Reaping of ended children, one at a time, without blocking.

use nix::unistd::Pid;

/// Exit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Reaps the next ended child, if any: the daemon's own, or an adopted orphan.
///
/// `nix` does not know real-time signals and reports a child ended by one as an error without its
/// number, so the status is read here.
pub fn reap() -> Option<(Pid, Exit)> {
    loop {
        let mut status: libc::c_int = 0;
        // SAFETY: writes one local int; any child, without blocking.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return None;
        }
        if libc::WIFEXITED(status) {
            return Some((Pid::from_raw(pid), Exit::Code(libc::WEXITSTATUS(status))));
        }
        if libc::WIFSIGNALED(status) {
            return Some((Pid::from_raw(pid), Exit::Signal(libc::WTERMSIG(status))));
        }
    }
}
