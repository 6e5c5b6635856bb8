//! Signals to a process that may be gone, and whose number another process may have by then.
//!
//! On Linux a pidfd is opened first and the identity looked at after that, so the signal reaches the
//! process that was meant or none (pidfd_open(2), Linux 5.3). Elsewhere, and where a sandbox refuses
//! these calls, the identity is looked at just before kill(2).

use nix::sys::signal::Signal;

use super::process_table::{ProcessId, start_of};

/// Sends `signals` to the process, in order. False where it is gone.
pub fn send(process: &ProcessId, signals: &[Signal]) -> bool {
    system::with(process.pid, |target| {
        // A start that was unknown at first says nothing.
        let is_it =
            process.start.is_empty() || start_of(process.pid).as_ref() == Some(&process.start);
        // Each fails where it has just ended.
        is_it && signals.iter().all(|signal| target.send(*signal))
    })
}

#[cfg(target_os = "linux")]
mod system {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use nix::errno::Errno;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    pub(super) enum Target {
        Pidfd(OwnedFd),
        Pid(Pid),
    }

    pub(super) fn with(pid: i32, act: impl FnOnce(&Target) -> bool) -> bool {
        // SAFETY: takes integers; what comes back is checked before it is owned.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match (i32::try_from(fd), Errno::last()) {
            // SAFETY: just opened, without another owner.
            (Ok(fd @ 0..), _) => act(&Target::Pidfd(unsafe { OwnedFd::from_raw_fd(fd) })),
            (_, Errno::ESRCH | Errno::EINVAL) => false,
            _ => act(&Target::Pid(Pid::from_raw(pid))),
        }
    }

    impl Target {
        pub(super) fn send(&self, signal: Signal) -> bool {
            match self {
                Target::Pidfd(fd) => {
                    let (fd, signal) = (fd.as_raw_fd(), signal as libc::c_int);
                    let none = std::ptr::null::<libc::siginfo_t>();
                    // SAFETY: takes integers and a null pointer, for the values of kill(2).
                    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) == 0 }
                }
                Target::Pid(pid) => kill(*pid, signal).is_ok(),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    pub(super) struct Target(Pid);

    pub(super) fn with(pid: i32, act: impl FnOnce(&Target) -> bool) -> bool {
        act(&Target(Pid::from_raw(pid)))
    }

    impl Target {
        pub(super) fn send(&self, signal: Signal) -> bool {
            kill(self.0, signal).is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn signal_reaches_the_process_of_that_start_only() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        let start = start_of(pid).unwrap();
        let other = ProcessId { pid, start: format!("{start}1") };
        assert!(!send(&other, &[Signal::SIGKILL]));
        assert!(child.try_wait().unwrap().is_none());
        assert!(send(&ProcessId { pid, start }, &[Signal::SIGUSR1]));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGUSR1));
        assert!(!send(&ProcessId { pid, start: String::new() }, &[Signal::SIGKILL]), "it is gone");
    }
}
