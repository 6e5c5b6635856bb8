//! All processes that came from one: also those that left its session and lost their parent.
//!
//! The daemon is made the reaper of its descendants, so that an orphan becomes its own child and
//! is never lost. FreeBSD's kernel keeps by which child of the reaper an orphan came (procctl(2),
//! `PROC_REAP_GETPIDS`); Linux's does not, so there an orphan is known by its session, by its
//! parent, or by a mark in the environment that it was started with.

use std::io;

use nix::unistd::Pid;

/// Where a tree begins.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Direct children of ours, running or ended, each the leader of a session.
    pub leaders: Vec<Pid>,
    /// `NAME=value` in the environment of all that they start; unique to this tree.
    pub mark: String,
}

/// Makes this process the one that orphans among its descendants go to.
pub fn become_reaper() -> io::Result<()> {
    #[cfg(target_os = "freebsd")]
    // SAFETY: acquires the status for this process; the command takes no data.
    let status = unsafe {
        libc::procctl(
            libc::P_PID,
            libc::getpid() as _,
            libc::PROC_REAP_ACQUIRE,
            std::ptr::null_mut(),
        )
    };
    #[cfg(target_os = "linux")]
    // SAFETY: sets a flag of this process; takes integers only.
    let status = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    match status {
        -1 => match io::Error::last_os_error() {
            // It already is one (FreeBSD says so).
            error if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}

/// Living processes of the tree (zombies are not), in no order.
#[cfg(target_os = "freebsd")]
pub fn members(roots: &Roots) -> Vec<Pid> {
    freebsd::members(roots)
}

/// Living processes of the tree (zombies are not), in no order.
#[cfg(target_os = "linux")]
pub fn members(roots: &Roots) -> Vec<Pid> {
    linux::members(roots)
}

#[cfg(target_os = "freebsd")]
mod freebsd {
    use nix::unistd::Pid;

    use super::Roots;

    /// `struct procctl_reaper_pidinfo` of <sys/procctl.h>, which the libc crate does not have.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct PidInfo {
        pid: libc::pid_t,
        subtree: libc::pid_t,
        flags: libc::c_uint,
        pad: [libc::c_uint; 15],
    }

    /// `struct procctl_reaper_pids` of the same.
    #[repr(C)]
    struct Pids {
        count: libc::c_uint,
        pad: [libc::c_uint; 15],
        pids: *mut PidInfo,
    }

    const VALID: libc::c_uint = 0x1;
    const REAPER: libc::c_uint = 0x4;
    const ZOMBIE: libc::c_uint = 0x8;

    pub(super) fn members(roots: &Roots) -> Vec<Pid> {
        let ourselves = std::process::id() as libc::pid_t;
        let is_ours =
            |info: &PidInfo| roots.leaders.iter().any(|leader| leader.as_raw() == info.subtree);
        let mut tree: Vec<PidInfo> = descendants(ourselves).into_iter().filter(is_ours).collect();
        // A member may be a reaper itself; what came from it is told by asking about it.
        let mut asked = 0;
        while let Some(info) = tree.get(asked).copied() {
            asked += 1;
            if info.flags & REAPER != 0 {
                tree.extend(descendants(info.pid));
            }
        }
        let living = tree.iter().filter(|info| info.flags & ZOMBIE == 0);
        living.map(|info| Pid::from_raw(info.pid)).collect()
    }

    fn descendants(reaper: libc::pid_t) -> Vec<PidInfo> {
        let mut room = 64;
        loop {
            let mut infos = vec![PidInfo::default(); room];
            let mut request = Pids { count: room as _, pad: [0; 15], pids: infos.as_mut_ptr() };
            // SAFETY: `request` points to `count` writable entries, and the kernel fills no more.
            let status = unsafe {
                libc::procctl(
                    libc::P_PID,
                    reaper as _,
                    libc::PROC_REAP_GETPIDS,
                    std::ptr::from_mut(&mut request).cast(),
                )
            };
            if status == -1 {
                return Vec::new();
            }
            infos.retain(|info| info.flags & VALID != 0);
            if infos.len() < room {
                return infos;
            }
            room *= 2;
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::fs;

    use nix::unistd::Pid;

    use super::Roots;

    struct Process {
        pid: i32,
        parent: i32,
        session: i32,
        zombie: bool,
    }

    pub(super) fn members(roots: &Roots) -> Vec<Pid> {
        let processes = all();
        let ourselves = std::process::id() as i32;
        let leaders: BTreeSet<i32> = roots.leaders.iter().map(|pid| pid.as_raw()).collect();
        let marked =
            |process: &Process| process.parent == ourselves && has_mark(process.pid, &roots.mark);
        let mut tree: BTreeSet<i32> = processes
            .iter()
            .filter(|p| leaders.contains(&p.pid) || leaders.contains(&p.session) || marked(p))
            .map(|p| p.pid)
            .collect();
        // Children of members, until there are no more; a tree is seldom deep.
        loop {
            let before = tree.len();
            tree.extend(
                processes
                    .iter()
                    .filter(|p| tree.contains(&p.parent))
                    .map(|p| p.pid)
                    .collect::<Vec<_>>(),
            );
            if tree.len() == before {
                break;
            }
        }
        processes
            .iter()
            .filter(|p| !p.zombie && p.pid != ourselves && tree.contains(&p.pid))
            .map(|p| Pid::from_raw(p.pid))
            .collect()
    }

    fn all() -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(read)
            .collect()
    }

    /// proc_pid_stat(5): the name in parentheses may hold anything, so the fields begin behind the
    /// last `)`: state, ppid, pgrp, session.
    fn read(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        Some(Process { pid, parent, session, zombie: matches!(state, "Z" | "X") })
    }

    fn has_mark(pid: i32, mark: &str) -> bool {
        !mark.is_empty()
            && fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
                environ.split(|&b| b == 0).any(|entry| entry == mark.as_bytes())
            })
    }
}
