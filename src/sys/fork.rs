//! A child that runs a function of ours, for what may hang.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{ForkResult, Pid, fork, pipe2};

/// Runs `work` in a child, which ends with it; what it writes can be read, non-blocking, from the
/// descriptor that comes back. The child is in a session of its own and has none of our signal
/// handling, and none of our descriptors but that and the standard ones.
pub fn in_child(work: impl FnOnce(File)) -> io::Result<(Pid, OwnedFd)> {
    let (answer, child_answer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&answer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let held = super::signals::Held::all();
    // SAFETY: the process has one thread (a rule of the house), so the child has all of memory in
    // order and may go on as any program; it never returns from here.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(held);
            Ok((child, answer))
        }
        ForkResult::Child => {
            super::signals::reset();
            let _ = nix::unistd::setsid();
            // Clients of ours that leave must not be held by this child.
            let answer = super::descriptors::keep_only(child_answer);
            work(File::from(answer));
            // SAFETY: ends the child at once, without running the parent's destructors.
            unsafe { libc::_exit(0) }
        }
    }
}
