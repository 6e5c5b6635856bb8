//! All descendants of a process: also those that left its session and lost their parent.
//!
//! The daemon is the reaper of its descendants, so an orphan becomes its own child and is never
//! lost. FreeBSD's kernel records through which child of the reaper an orphan descends (procctl(2),
//! `PROC_REAP_GETPIDS`); Linux's does not, so there an orphan is identified by a mark in its
//! initial environment, or by its session.
//!
//! Only descendants of the daemon are examined: the cost does not depend on other processes of the
//! host, and a reused process number is never mistaken for a member.

use std::io;

use nix::unistd::Pid;

/// Beginning of a mark: name of the variable, and `=`.
pub const MARK_NAME: &str = "SYSADM_JOB=";

/// Identity of a tree.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// A direct child that has not been reaped: its number cannot be reused.
    pub leader: Option<Pid>,
    /// Former leaders; their descendants may be alive.
    pub ended: Vec<Pid>,
    /// `NAME=value` in the initial environment of all members; unique to this tree.
    pub mark: String,
}

/// Makes this process the reaper of its descendants.
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
            // It is one already (reported by FreeBSD only).
            error if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}

/// Orphans when first seen, by number and start: the environment of each is read once.
#[derive(Debug, Default)]
pub struct Orphans(system::Orphans);

/// All living descendants of this process at one moment.
#[derive(Debug)]
pub struct Descendants<'o>(system::Descendants<'o>);

impl Descendants<'_> {
    /// Takes the list. `is_leader` returns whether a direct child currently leads a tree.
    pub fn now(is_leader: impl Fn(Pid) -> bool, known: &mut Orphans) -> Descendants<'_> {
        Descendants(system::Descendants::now(is_leader, &mut known.0))
    }

    /// Living processes of a tree (no zombies, except its leader). The leader comes first, and each
    /// process before its children: signalled in this order, a shell is not woken by the end of its
    /// child before it has received the signal itself.
    pub fn of(&self, roots: &Roots) -> Vec<Pid> {
        self.0.of(roots)
    }

    /// Whether no member is left, and the leader has been reaped.
    pub fn are_gone(&self, roots: &Roots) -> bool {
        roots.leader.is_none() && self.0.are_gone(roots)
    }
}

#[cfg(target_os = "freebsd")]
mod system {
    use std::marker::PhantomData;

    use nix::unistd::Pid;

    use super::Roots;

    /// `struct procctl_reaper_pidinfo` of <sys/procctl.h>, which the libc crate lacks.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
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

    /// The kernel records the descent of orphans: nothing has to be remembered.
    #[derive(Debug, Default)]
    pub(super) struct Orphans;

    #[derive(Debug)]
    pub(super) struct Descendants<'o>(Vec<PidInfo>, PhantomData<&'o Orphans>);

    impl Descendants<'_> {
        pub(super) fn now(_: impl Fn(Pid) -> bool, _: &mut Orphans) -> Descendants<'_> {
            Descendants(descendants(std::process::id() as libc::pid_t), PhantomData)
        }

        pub(super) fn of(&self, roots: &Roots) -> Vec<Pid> {
            let mut tree = self.branches(roots);
            // A member may be a reaper itself; its descendants are listed by asking about it.
            let mut asked = 0;
            while let Some(info) = tree.get(asked).copied() {
                asked += 1;
                if info.flags & REAPER != 0 {
                    tree.extend(descendants(info.pid));
                }
            }
            // Stable sort: the others stay in the order of their age.
            tree.sort_by_key(|info| roots.leader.map(Pid::as_raw) != Some(info.pid));
            let living = tree.iter().filter(|info| info.flags & ZOMBIE == 0);
            let living = living.map(|info| Pid::from_raw(info.pid));
            // Ours until it is reaped, even where the kernel has returned no list.
            let unlisted = roots
                .leader
                .filter(|leader| !self.0.iter().any(|info| info.pid == leader.as_raw()));
            unlisted.into_iter().chain(living).collect()
        }

        pub(super) fn are_gone(&self, roots: &Roots) -> bool {
            self.branches(roots).iter().all(|info| info.flags & ZOMBIE != 0)
        }

        fn branches(&self, roots: &Roots) -> Vec<PidInfo> {
            // A process with the number of a reaped leader is another process.
            let is_there = |pid: &Pid| self.0.iter().any(|info| info.pid == pid.as_raw());
            let ended = roots.ended.iter().filter(|pid| !is_there(pid));
            let subtrees: Vec<libc::pid_t> =
                ended.chain(&roots.leader).map(|pid| pid.as_raw()).collect();
            self.0.iter().filter(|info| subtrees.contains(&info.subtree)).copied().collect()
        }
    }

    /// Oldest first.
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
            // The kernel does not return the count: a filled entry has this flag.
            infos.retain(|info| info.flags & VALID != 0);
            if infos.len() < room {
                // fork1() of kern_fork.c puts the youngest at the head of the list.
                infos.reverse();
                return infos;
            }
            room *= 2;
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn info(pid: i32, subtree: i32) -> PidInfo {
            PidInfo { pid, subtree, flags: VALID, ..PidInfo::default() }
        }

        #[test]
        fn tree_lists_leader_first_then_by_age() {
            let descendants =
                Descendants(vec![info(7, 7), info(90, 90), info(5, 90), info(91, 90)], PhantomData);
            let leader = |pid| Roots { leader: Some(Pid::from_raw(pid)), ..Roots::default() };
            let pids = |roots: Roots| -> Vec<i32> {
                descendants.of(&roots).into_iter().map(Pid::as_raw).collect()
            };
            assert_eq!(pids(leader(90)), [90, 5, 91]);
            let after = Roots { ended: vec![Pid::from_raw(90)], ..leader(7) };
            assert_eq!(pids(after), [7]);
            assert_eq!(pids(leader(8)), [8]);
        }

        #[test]
        fn own_descendants_are_listed_oldest_first() {
            // A reaper is reported as the root of its tree, and this process need not be one.
            super::super::become_reaper().unwrap();
            let mut children =
                [(); 3].map(|()| std::process::Command::new("sleep").arg("1000").spawn().unwrap());
            let pids = children.each_ref().map(|child| child.id() as libc::pid_t);
            let listed = descendants(std::process::id() as libc::pid_t);
            let ours = listed.iter().map(|info| info.pid).filter(|pid| pids.contains(pid));
            let ours: Vec<libc::pid_t> = ours.collect();
            for child in &mut children {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            assert_eq!(ours, pids);
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;

    use nix::unistd::Pid;

    use super::super::process_table::environment;
    use super::{MARK_NAME, Roots};

    /// A direct child that leads no tree: it was adopted when its parent ended.
    #[derive(Debug)]
    pub(super) struct Orphan {
        pid: i32,
        session: i32,
        /// The mark of a job in its environment.
        mark: Option<String>,
        /// In ticks since the boot: together with the number it identifies one process.
        start: u64,
        /// Its environment could be read.
        is_read: bool,
    }

    /// Living orphans by number.
    pub(super) type Orphans = BTreeMap<i32, Orphan>;

    #[derive(Debug)]
    pub(super) struct Descendants<'o> {
        orphans: &'o Orphans,
        children: Children,
    }

    impl Descendants<'_> {
        pub(super) fn now(is_leader: impl Fn(Pid) -> bool, known: &mut Orphans) -> Descendants<'_> {
            let ourselves = std::process::id() as i32;
            let children = Children::now(ourselves);
            let own = children.of(ourselves);
            let mut before = std::mem::take(known);
            for pid in own.into_iter().filter(|pid| !is_leader(Pid::from_raw(*pid))) {
                let Some(stat) = Stat::read(pid).filter(|stat| !stat.zombie) else { continue };
                let seen = before.remove(&pid).filter(|orphan| orphan.start == stat.start);
                // During execve(2) a process shows no environment: it is read again next time.
                let orphan = seen.filter(|orphan| orphan.is_read).map_or_else(
                    || Orphan::new(pid, &stat, &environment(pid)),
                    |seen| Orphan { session: stat.session, ..seen },
                );
                known.insert(pid, orphan);
            }
            Descendants { orphans: known, children }
        }

        pub(super) fn of(&self, roots: &Roots) -> Vec<Pid> {
            let leader = roots.leader.map(Pid::as_raw).into_iter();
            let mut tree: Vec<i32> =
                leader.chain(self.orphans(roots).map(|orphan| orphan.pid)).collect();
            let mut seen: BTreeSet<i32> = tree.iter().copied().collect();
            let mut asked = 0;
            while let Some(parent) = tree.get(asked).copied() {
                asked += 1;
                tree.extend(self.children.of(parent).into_iter().filter(|pid| seen.insert(*pid)));
            }
            tree.into_iter().map(Pid::from_raw).collect()
        }

        /// Every descendant has a direct child of this process as an ancestor.
        pub(super) fn are_gone(&self, roots: &Roots) -> bool {
            self.orphans(roots).next().is_none()
        }

        fn orphans(&self, roots: &Roots) -> impl Iterator<Item = &Orphan> {
            let is_there = |pid: &Pid| self.orphans.contains_key(&pid.as_raw());
            // A process with the number of a reaped leader is another process.
            let ended: Vec<i32> =
                roots.ended.iter().filter(|pid| !is_there(pid)).map(|pid| pid.as_raw()).collect();
            let leader = roots.leader.map(|leader| leader.as_raw());
            self.orphans.values().filter(move |orphan| match &orphan.mark {
                Some(mark) => *mark == roots.mark,
                None => ended.contains(&orphan.session) || leader == Some(orphan.session),
            })
        }
    }

    impl Orphan {
        fn new(pid: i32, stat: &Stat, environment: &[u8]) -> Orphan {
            let mut entries = environment.split(|&byte| byte == 0);
            let mark = entries.find(|entry| entry.starts_with(MARK_NAME.as_bytes()));
            let mark = mark.map(|mark| String::from_utf8_lossy(mark).into_owned());
            let is_read = !environment.is_empty();
            Orphan { pid, session: stat.session, start: stat.start, mark, is_read }
        }
    }

    /// Source of parent-child relations.
    #[derive(Debug)]
    enum Children {
        /// The kernel's lists (proc_pid_children(5), CONFIG_PROC_CHILDREN), read on demand. This
        /// process's own list is exact, because only this process reaps its entries.
        Listed,
        /// Without such lists: the parents of all processes of the host.
        Found(BTreeMap<i32, Vec<i32>>),
    }

    impl Children {
        fn now(ourselves: i32) -> Children {
            if fs::exists(format!("/proc/{ourselves}/task/{ourselves}/children")).unwrap_or(false) {
                return Children::Listed;
            }
            Children::found()
        }

        fn found() -> Children {
            let mut found: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
            for pid in numbers("/proc") {
                if let Some(stat) = Stat::read(pid) {
                    found.entry(stat.parent).or_default().push(pid);
                }
            }
            Children::Found(found)
        }

        fn of(&self, parent: i32) -> Vec<i32> {
            match self {
                Children::Found(found) => found.get(&parent).cloned().unwrap_or_default(),
                Children::Listed => {
                    let tasks = format!("/proc/{parent}/task");
                    let lists = numbers(&tasks).into_iter().filter_map(|task| {
                        fs::read_to_string(format!("{tasks}/{task}/children")).ok()
                    });
                    let words = |list: String| -> Vec<i32> {
                        list.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
                    };
                    lists.flat_map(words).collect()
                }
            }
        }
    }

    fn numbers(directory: &str) -> Vec<i32> {
        let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    }

    struct Stat {
        parent: i32,
        session: i32,
        start: u64,
        zombie: bool,
    }

    impl Stat {
        /// proc_pid_stat(5): the name in parentheses may contain anything, so the fields begin
        /// after the last `)`: state, ppid, pgrp, session, and as the twentieth the start.
        fn read(pid: i32) -> Option<Stat> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            let session = fields.nth(1)?.parse().ok()?;
            let start = fields.nth(15)?.parse().ok()?;
            Some(Stat { parent, session, start, zombie: matches!(state, "Z" | "X") })
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const MARK: &str = "SYSADM_JOB=e.1";

        fn orphan(pid: i32, session: i32, environment: &str) -> Orphan {
            let stat = Stat { parent: 1, session, start: 7, zombie: false };
            Orphan::new(pid, &stat, environment.as_bytes())
        }

        fn pids(numbers: &[i32]) -> Vec<Pid> {
            numbers.iter().copied().map(Pid::from_raw).collect()
        }

        fn members(orphans: Vec<Orphan>, leader: Option<i32>, ended: &[i32]) -> Vec<i32> {
            let roots = Roots {
                leader: leader.map(Pid::from_raw),
                ended: pids(ended),
                mark: MARK.to_owned(),
            };
            // Process numbers wrap around: 11 has started 3.
            let found = BTreeMap::from([(10, vec![11]), (11, vec![12, 3]), (50, vec![51])]);
            let orphans = orphans.into_iter().map(|orphan| (orphan.pid, orphan)).collect();
            let descendants = Descendants { orphans: &orphans, children: Children::Found(found) };
            descendants.of(&roots).into_iter().map(Pid::as_raw).collect()
        }

        #[test]
        fn tree_lists_leader_first_and_parents_before_children() {
            assert_eq!(members(vec![], Some(10), &[]), [10, 11, 12, 3]);
        }

        #[test]
        fn orphan_is_identified_by_its_mark_or_else_its_session() {
            let marked = orphan(50, 50, "A=1\0SYSADM_JOB=e.1\0");
            assert_eq!(members(vec![marked], None, &[10]), [50, 51]);
            let cleared = || orphan(50, 10, "A=1\0");
            assert_eq!(members(vec![cleared()], None, &[10]), [50, 51]);
            assert_eq!(members(vec![cleared()], Some(10), &[]), [10, 50, 11, 51, 12, 3]);
            assert!(members(vec![cleared()], None, &[9]).is_empty());
        }

        #[test]
        fn orphan_of_another_job_is_excluded_despite_its_session() {
            let other = orphan(50, 10, "SYSADM_JOB=e.11\0");
            assert!(members(vec![other], None, &[10]).is_empty());
        }

        #[test]
        fn a_leader_that_has_ended_is_not_another_process_of_its_number() {
            let orphans = vec![orphan(10, 10, ""), orphan(50, 10, "")];
            assert!(members(orphans, None, &[10]).is_empty());
        }

        #[test]
        fn orphan_seen_before_is_not_read_again() {
            let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let pid = child.id() as i32;
            let stat = Stat::read(pid).unwrap();
            let seen = |start| Orphan { start, ..Orphan::new(pid, &stat, MARK.as_bytes()) };
            let mark_after = |start| {
                let mut known = BTreeMap::from([(pid, seen(start))]);
                Descendants::now(|_| false, &mut known);
                known.remove(&pid).and_then(|orphan| orphan.mark)
            };
            assert_eq!(mark_after(stat.start).as_deref(), Some(MARK));
            // The number was reused.
            assert_eq!(mark_after(stat.start + 1), None);
            child.kill().unwrap();
            child.wait().unwrap();
        }

        #[test]
        fn children_are_listed_and_found_alike() {
            let ourselves = std::process::id() as i32;
            let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let pid = child.id() as i32;
            assert!(Children::found().of(ourselves).contains(&pid));
            if let Children::Listed = Children::now(ourselves) {
                assert!(Children::Listed.of(ourselves).contains(&pid));
            }
            assert!(!Children::now(ourselves).of(pid).contains(&pid));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
