//! Children that have ended, one at a time, without waiting.

use nix::unistd::Pid;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// The next child that has ended, if there is one: ours, or an orphan that came to us.
///
/// `nix` knows no real-time signals and would report a child ended by one as an error without its
/// number, so the status is read here.
pub fn reap() -> Option<(Pid, Exit)> {
    loop {
        let mut status: libc::c_int = 0;
        // SAFETY: writes one int of ours; any child, without waiting.
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
