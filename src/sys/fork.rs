//! A child that runs a function of ours, for what may hang.
//!
//! It is forked, not executed anew: the program file may lie on the very disk that hangs, or have
//! been replaced by another version. The child has none of our signal handling, and none of our
//! descriptors but those that it is given.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe2};

/// Runs `work` in a child, which ends with it, and with us; what it writes can be read, non-blocking,
/// from the descriptor that comes back.
pub fn in_child(work: impl FnOnce(File)) -> io::Result<(Pid, OwnedFd)> {
    let (answer, child_answer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&answer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let parent = getpid();
    let pid = run(vec![child_answer], |mut kept| {
        super::parent_death::end_with(parent);
        if let Some(answer) = kept.pop() {
            work(File::from(answer));
        }
    })?;
    Ok((pid, answer))
}

/// Runs `work` in a child that lives as long as it likes, with one end of a socket, blocking, and
/// the descriptor `kept`; the other end, non-blocking, comes back. `name` is what the system's
/// list of processes shows.
pub fn with_socket(
    name: &'static std::ffi::CStr,
    kept: OwnedFd,
    work: impl FnOnce(OwnedFd, OwnedFd),
) -> io::Result<(Pid, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let pid = run(vec![theirs, kept], |mut kept| {
        super::process_name::set(name);
        super::signals::ignore_what_ends_daemons();
        super::parent_death::be_woken();
        if let (Some(kept), Some(socket)) = (kept.pop(), kept.pop()) {
            work(socket, kept);
        }
    })?;
    Ok((pid, ours))
}

fn run(kept: Vec<OwnedFd>, work: impl FnOnce(Vec<OwnedFd>)) -> io::Result<Pid> {
    let held = super::signals::Held::all();
    // SAFETY: the process has one thread (a rule of the house), so the child has all of memory in
    // order and may go on as any program; it never returns from here.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(held);
            Ok(child)
        }
        ForkResult::Child => {
            super::signals::reset();
            let _ = nix::unistd::setsid();
            // Clients of ours that leave must not be held by this child.
            if let Ok(kept) = super::descriptors::keep_only(kept) {
                work(kept);
            }
            // SAFETY: ends the child at once, without running the parent's destructors.
            unsafe { libc::_exit(0) }
        }
    }
}
