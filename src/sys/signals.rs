//! Signal dispositions as a process should find them at its start.
//!
//! A daemon started by `nohup` or from a shell's background inherits ignored signals, and a job
//! started by it would inherit them again: its children could not be stopped by the usual means.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Signals are held back while this lives: around a `fork`, so that one for the child waits until
/// the child has dropped the handlers that it has of us. Taken by those it would be lost, and a job
/// that is killed as soon as it was started would live on.
#[derive(Debug)]
pub(super) struct Held(Option<SigSet>);

impl Held {
    /// From now on.
    pub(super) fn all() -> Held {
        // It fails for no argument that this can have.
        Held(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).ok())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.as_ref().map(SigSet::thread_set_mask);
    }
}

/// Sets every signal to its default and unblocks all. Rust's own `SIGPIPE` handling is put back.
pub fn reset() {
    reset_dispositions();
    let _ = SigSet::empty().thread_set_mask();
    // SAFETY: SIG_IGN is a valid disposition, and no handler of ours is replaced by it.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// In a helper, which ends when its daemon does: what ends daemons, or is sent to all processes of
/// a service, does not concern it, and a file that may not grow is an error, not its end.
pub(super) fn ignore_what_ends_daemons() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGXFSZ] {
        // SAFETY: SIG_IGN is a valid disposition, and no handler of ours is replaced by it.
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
        // SAFETY: signal(2) is async-signal-safe and SIG_DFL a valid disposition; a number that
        // has none (SIGKILL, the C library's own) is refused and stays as it is.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}
