//! File descriptors as a whole: what a careless parent left open, and how many we may have.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Closes every descriptor but the three standard ones. To be called first thing, while we have
/// none of our own: what a parent left open must not reach the jobs.
pub fn close_inherited() {
    close_from(3);
}

/// In a forked child: closes every descriptor but the three standard ones and these, which come
/// back in order under other numbers. Whatever else in the child's memory owns a descriptor must
/// not be dropped or used any more.
pub(super) fn keep_only(kept: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    const FIRST: libc::c_int = 3;
    let count = libc::c_int::try_from(kept.len()).map_err(io::Error::other)?;
    // Out of the way of the numbers that they are to have.
    let high = |fd: OwnedFd| -> io::Result<RawFd> {
        Ok(fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST + count))?)
    };
    let high: Vec<RawFd> = kept.into_iter().map(high).collect::<io::Result<_>>()?;
    let mut moved = Vec::new();
    for (target, fd) in (FIRST..).zip(high) {
        // SAFETY: takes descriptor numbers; what had the target's number belongs to nobody who
        // will use it.
        if unsafe { libc::dup2(fd, target) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and owned by nobody else.
        moved.push(unsafe { OwnedFd::from_raw_fd(target) });
    }
    close_from(FIRST + count);
    Ok(moved)
}

/// In a forked child that becomes a program: closes every descriptor but the three standard ones
/// and this one, which the program does not get. Needs no free number, and cannot fail. Whatever
/// else in the child's memory owns a descriptor must not be dropped or used any more.
pub(super) fn keep_until_exec(kept: OwnedFd) -> OwnedFd {
    const FIRST: libc::c_int = 3;
    let number = kept.into_raw_fd();
    // SAFETY: takes descriptor numbers; what had the number 3 belongs to nobody who will use it.
    // To the same number it does nothing.
    let moved = unsafe { libc::dup2(number, FIRST) } == FIRST;
    // SAFETY: that one is open, and nobody else owns it.
    let kept = unsafe { OwnedFd::from_raw_fd(if moved { FIRST } else { number }) };
    // It fails for no descriptor that is open.
    let _ = fcntl(&kept, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    if moved {
        close_from(FIRST + 1);
    }
    kept
}

fn close_from(first: libc::c_int) {
    #[cfg(target_os = "freebsd")]
    // SAFETY: takes an integer, touches no memory; who owned these does not use them any more.
    unsafe {
        libc::closefrom(first);
    }
    #[cfg(target_os = "linux")]
    // SAFETY: takes integers, touches no memory; who owned these does not use them any more.
    // Where the kernel is too old for it (before 5.9) the call fails, and we go on with what there is.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
    }
}

/// The limit of open descriptors that we were started with, for jobs to have again.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorLimit {
    /// What a process has.
    pub soft: u64,
    /// What it may raise that to.
    pub hard: u64,
}

/// Raises our own limit as far as it goes, and returns what it was.
pub fn raise_limit() -> io::Result<DescriptorLimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(limit(soft, hard))
}

#[cfg(target_os = "freebsd")]
fn limit(soft: i64, hard: i64) -> DescriptorLimit {
    DescriptorLimit { soft: soft.max(0) as u64, hard: hard.max(0) as u64 }
}

#[cfg(target_os = "linux")]
fn limit(soft: u64, hard: u64) -> DescriptorLimit {
    DescriptorLimit { soft, hard }
}
