//! The descriptor table: inherited descriptors, and the limit on open ones.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Closes every descriptor but the three standard ones. To be called first, while the process has
/// opened none itself: inherited descriptors must not reach the jobs.
pub fn close_inherited() {
    close_from(3);
}

/// In a forked child: closes every descriptor but the three standard ones and these, which are
/// returned in order under other numbers. Any other owner of a descriptor in the child's memory
/// must not be dropped or used any more.
pub(super) fn close_all_but(passed: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    const FIRST: libc::c_int = 3;
    let count = libc::c_int::try_from(passed.len()).map_err(io::Error::other)?;
    // Out of the range of their final numbers.
    let high = |fd: OwnedFd| -> io::Result<RawFd> {
        Ok(fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST + count))?)
    };
    let high: Vec<RawFd> = passed.into_iter().map(high).collect::<io::Result<_>>()?;
    let mut moved = Vec::new();
    for (target, fd) in (FIRST..).zip(high) {
        // SAFETY: takes descriptor numbers; the previous owner of the target's number does not use
        // it again.
        if unsafe { libc::dup2(fd, target) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just created, without another owner.
        moved.push(unsafe { OwnedFd::from_raw_fd(target) });
    }
    close_from(FIRST + count);
    Ok(moved)
}

/// In a forked child that calls exec: closes every descriptor but the three standard ones and this
/// one, which exec closes. Needs no free number, and cannot fail. Any other owner of a descriptor
/// in the child's memory must not be dropped or used any more.
pub(super) fn close_all_until_exec(passed: OwnedFd) -> OwnedFd {
    const FIRST: libc::c_int = 3;
    let number = passed.into_raw_fd();
    // SAFETY: takes descriptor numbers; the previous owner of the number 3 does not use it again.
    // With equal numbers the call does nothing.
    let moved = unsafe { libc::dup2(number, FIRST) } == FIRST;
    // SAFETY: the descriptor is open, without another owner.
    let passed = unsafe { OwnedFd::from_raw_fd(if moved { FIRST } else { number }) };
    // It does not fail for an open descriptor.
    let _ = fcntl(&passed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    if moved {
        close_from(FIRST + 1);
    }
    passed
}

fn close_from(first: libc::c_int) {
    #[cfg(target_os = "freebsd")]
    // SAFETY: takes an integer, touches no memory; the owners of these descriptors do not use them
    // again.
    unsafe {
        libc::closefrom(first);
    }
    #[cfg(target_os = "linux")]
    // SAFETY: takes integers, touches no memory; the owners of these descriptors do not use them
    // again.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } != 0 {
        // The kernel is too old for it (before 5.9), or a sandbox refuses it.
        close_each_from(first);
    }
}

/// Closes every descriptor from `first` on, one by one: those that /proc lists, or all numbers that
/// there may be where it lists none.
#[cfg(target_os = "linux")]
fn close_each_from(first: libc::c_int) {
    let close = |fd: libc::c_int| {
        // SAFETY: takes an integer, touches no memory; its owner does not use it again.
        unsafe { libc::close(fd) };
    };
    // To list them takes one.
    close(first);
    let listed: Option<Vec<libc::c_int>> = std::fs::read_dir("/proc/self/fd").ok().map(|entries| {
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    });
    match listed {
        Some(listed) => listed.into_iter().filter(|fd| *fd >= first).for_each(close),
        None => {
            let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
            let most = libc::c_int::try_from(most).unwrap_or(libc::c_int::MAX);
            (first..most).for_each(close);
        }
    }
}

/// Limit on open descriptors with which the daemon was started, for its jobs.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorLimit {
    /// Current limit.
    pub soft: u64,
    /// Maximum that a process may set.
    pub hard: u64,
}

/// Raises this process's limit to the maximum, and returns the previous limit.
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
/// Points standard input, output and error to `null`: in a child that may hang for ever, and would
/// otherwise hold a pipe open whose reader waits for its end.
pub fn replace_standard_streams(null: &impl std::os::fd::AsFd) {
    // They fail only where a descriptor is not open, and then nothing is held.
    let _ = nix::unistd::dup2_stdin(null);
    let _ = nix::unistd::dup2_stdout(null);
    let _ = nix::unistd::dup2_stderr(null);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    /// Makes close_range(2) fail in this process and what it starts, as a sandbox does.
    fn refuse_close_range() -> io::Result<()> {
        let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut program = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_close_range as u32),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        // SAFETY: the program outlives the calls; the rest are integers.
        let is_done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) == 0
        };
        if is_done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[test]
    fn descriptors_are_closed_where_close_range_fails() {
        let mut command = Command::new("ls");
        command.arg("/proc/self/fd");
        // SAFETY: between fork and exec, in a process of one thread; what it closes is not used.
        unsafe {
            command.pre_exec(|| {
                for number in [3, 17, 200] {
                    if libc::dup2(0, number) == -1 {
                        return Err(io::Error::last_os_error());
                    }
                }
                refuse_close_range()?;
                close_from(3);
                Ok(())
            });
        }
        // Its own look at the directory is the fourth.
        let listed = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(listed.split_ascii_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    }
}
