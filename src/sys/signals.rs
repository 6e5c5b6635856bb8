//! Signal dispositions at the start of a process.
//!
//! A daemon started by `nohup` or from a shell's background inherits ignored signals, and its jobs
//! would inherit them again: their children could not be stopped by the usual means.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Blocks signals while it lives: around a `fork`, so that a signal for the child is delivered
/// after the child has dropped the inherited handlers. Handled by those it would be lost, and a job
/// that is killed as soon as it was started would live on.
#[derive(Debug)]
pub(super) struct Held(Option<SigSet>);

impl Held {
    /// Blocks all signals.
    pub(super) fn all() -> Held {
        // It does not fail for these arguments.
        Held(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).ok())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.as_ref().map(SigSet::thread_set_mask);
    }
}

/// Sets every signal to its default and unblocks all. Restores Rust's own `SIGPIPE` handling.
pub fn reset() {
    reset_dispositions();
    let _ = SigSet::empty().thread_set_mask();
    // SAFETY: SIG_IGN is a valid disposition, and replaces no handler of this program.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// In a helper, which ends when its daemon does: ignores signals that end daemons or are sent to
/// all processes of a service, and SIGXFSZ, so that a file-size limit is an error.
pub(super) fn ignore_daemon_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGXFSZ] {
        // SAFETY: SIG_IGN is a valid disposition, and replaces no handler of this program.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Sets every signal to its default; safe between `fork` and `exec`.
pub(super) fn reset_dispositions() {
    #[cfg(target_os = "freebsd")]
    const LAST: libc::c_int = 128; // _SIG_MAXSIG of <sys/_sigset.h>
    #[cfg(target_os = "linux")]
    const LAST: libc::c_int = 64; // _NSIG of <asm/signal.h>
    for signal in 1..=LAST {
        // SAFETY: signal(2) is async-signal-safe and SIG_DFL a valid disposition; a number without
        // one (SIGKILL, the C library's own) is rejected and stays unchanged.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}
