//! Reaping of ended children, one at a time, without blocking.

#[cfg(target_os = "linux")]
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Exit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Kills a child that is stuck in a call about a file, where that is harmless.
///
/// On FreeBSD it is left alone: seen on 15.1, SIGKILL in a look-up of a FUSE file system makes
/// fuse_vnop_lookup() return ERESTART, upon which namei() of vfs_lookup.c starts again, for ever. The
/// process uses a whole processor, and each attempt leaves messages in the kernel's memory until
/// other processes are killed for want of it.
#[cfg(target_os = "freebsd")]
pub fn end_stuck(_: Pid) {}

/// Kills a child that is stuck in a call about a file, where that is harmless.
#[cfg(target_os = "linux")]
pub fn end_stuck(pid: Pid) {
    // It fails where the process has just ended.
    let _ = kill(pid, Signal::SIGKILL);
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
