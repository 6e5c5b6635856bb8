//! A child process that runs a function of this program, for calls that may hang.
//!
//! It is forked without exec: the program file may lie on the disk that hangs, or have been
//! replaced by another version. The child has none of the daemon's signal handlers, and only the
//! descriptors passed to it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe2};

use super::may_block::MayBlock;

/// Runs `work` in a child, which is killed when the parent dies. Its output can be read,
/// non-blocking, from the returned descriptor.
pub fn in_child(work: impl FnOnce(File, MayBlock)) -> io::Result<(Pid, OwnedFd)> {
    let (answer, child_answer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&answer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let parent = getpid();
    let pid = run(vec![child_answer], |mut passed| {
        super::parent_death::end_with(parent);
        if let Some(answer) = passed.pop() {
            work(File::from(answer), MayBlock::in_worker());
        }
    })?;
    Ok((pid, answer))
}

/// Runs `work` in a child of unlimited lifetime, with one end of a socket, blocking, and the
/// descriptor `passed`; returns the other end, non-blocking. `name` is shown in the process list.
pub fn with_socket(
    name: &'static std::ffi::CStr,
    passed: OwnedFd,
    work: impl FnOnce(OwnedFd, OwnedFd, MayBlock),
) -> io::Result<(Pid, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let pid = run(vec![theirs, passed], |mut passed| {
        super::process_name::set(name);
        super::signals::ignore_daemon_signals();
        super::parent_death::be_woken();
        if let (Some(passed), Some(socket)) = (passed.pop(), passed.pop()) {
            work(socket, passed, MayBlock::in_worker());
        }
    })?;
    Ok((pid, ours))
}

fn run(passed: Vec<OwnedFd>, work: impl FnOnce(Vec<OwnedFd>)) -> io::Result<Pid> {
    let held = super::signals::Held::all();
    // SAFETY: the process has one thread, so the child's memory is consistent and it may continue
    // like any program; it never returns from here.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(held);
            Ok(child)
        }
        ForkResult::Child => {
            super::signals::reset();
            let _ = nix::unistd::setsid();
            // The child must not hold connections of clients open.
            if let Ok(passed) = super::descriptors::close_all_but(passed) {
                work(passed);
            }
            // SAFETY: ends the child at once, without running the parent's destructors.
            unsafe { libc::_exit(0) }
        }
    }
}
