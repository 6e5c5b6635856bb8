//! All descendants of a process: also those that left its session and lost their parent.
//!
//! The daemon is the reaper of its descendants, so an orphan becomes its own child and is never
//! lost. FreeBSD's kernel records through which child of the reaper an orphan descends (procctl(2),
//! `PROC_REAP_GETPIDS`); Linux's does not, so there an orphan is identified by a mark in its
//! initial environment, or by its session.
//!
//! Only descendants of the daemon are examined: the cost does not depend on other processes of the
//! host, and a reused process number is never mistaken for a member. All of this may block, and is
//! called by a helper only: `trees` of the helpers.

use std::io;

use serde::{Deserialize, Serialize};

use super::process_table::{self, ProcessId};

/// Beginning of a mark: name of the variable, and `=`.
pub const MARK_NAME: &str = "SYSADM_JOB=";

/// Identity of a tree.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Roots {
    /// A direct child of the daemon that had not been reaped when this was written.
    pub leader: Option<ProcessId>,
    /// Former leaders; their descendants may be alive.
    pub ended: Vec<i32>,
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

/// All living descendants of one process, the reaper, at one moment.
#[derive(Debug)]
pub struct Descendants<'o>(system::Descendants<'o>);

impl Descendants<'_> {
    /// Takes the list. `leaders` are children of the reaper that currently lead a tree.
    pub fn now<'o>(reaper: i32, leaders: &[i32], known: &'o mut Orphans) -> Descendants<'o> {
        Descendants(system::Descendants::now(reaper, leaders, &mut known.0))
    }

    /// Living processes of a tree. The leader comes first, and each process before its children:
    /// signalled in this order, a shell is not woken by the end of its child before it has received
    /// the signal itself.
    pub fn of(&self, roots: &Roots) -> Vec<ProcessId> {
        self.0.of(roots)
    }

    /// Whether no member is left, and the leader has been reaped.
    pub fn are_gone(&self, roots: &Roots) -> bool {
        roots.leader.is_none() && self.0.are_gone(roots)
    }

    /// Sends SIGKILL to all of a tree in one call, where the kernel has one: nothing that is forked
    /// meanwhile escapes it. Elsewhere does nothing.
    pub fn kill(&self, roots: &Roots) {
        self.0.kill(roots);
    }
}

/// The leader, as long as it is the process that was meant. Where its start was unknown, or cannot
/// be read, it is: the daemon had not reaped it.
fn living_leader(roots: &Roots) -> Option<ProcessId> {
    let leader = roots.leader.clone()?;
    let start = process_table::start_of(leader.pid).unwrap_or_default();
    (start == leader.start || start.is_empty() || leader.start.is_empty()).then_some(leader)
}

#[cfg(target_os = "freebsd")]
mod system {
    use std::marker::PhantomData;

    use super::{ProcessId, Roots, living_leader, process_table};

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

    /// `struct procctl_reaper_kill` of the same.
    #[repr(C)]
    #[derive(Default)]
    struct Kill {
        signal: libc::c_int,
        flags: libc::c_uint,
        subtree: libc::pid_t,
        killed: libc::c_uint,
        first_failed: libc::pid_t,
        pad: [libc::c_uint; 15],
    }

    /// `REAPER_KILL_SUBTREE`.
    const SUBTREE: libc::c_uint = 0x2;
    const VALID: libc::c_uint = 0x1;
    const REAPER: libc::c_uint = 0x4;
    const ZOMBIE: libc::c_uint = 0x8;

    /// The kernel records the descent of orphans: nothing has to be remembered.
    #[derive(Debug, Default)]
    pub(super) struct Orphans;

    #[derive(Debug)]
    pub(super) struct Descendants<'o> {
        reaper: i32,
        all: Vec<PidInfo>,
        orphans: PhantomData<&'o Orphans>,
    }

    impl Descendants<'_> {
        pub(super) fn now<'o>(reaper: i32, _: &[i32], _: &'o mut Orphans) -> Descendants<'o> {
            Descendants { reaper, all: descendants(reaper), orphans: PhantomData }
        }

        pub(super) fn of(&self, roots: &Roots) -> Vec<ProcessId> {
            let mut tree = self.branches(roots);
            // A member may be a reaper itself; its descendants are listed by asking about it.
            let mut asked = 0;
            while let Some(info) = tree.get(asked).copied() {
                asked += 1;
                if info.flags & REAPER != 0 {
                    tree.extend(descendants(info.pid));
                }
            }
            let leader = living_leader(roots);
            let is_leader = |pid| leader.as_ref().is_some_and(|leader| leader.pid == pid);
            let living = tree.iter().filter(|info| info.flags & ZOMBIE == 0);
            let others = living.filter(|info| !is_leader(info.pid)).filter_map(|info| {
                let start = process_table::start_of(info.pid)?;
                Some(ProcessId { pid: info.pid, start })
            });
            // The others are in the order of their age.
            leader.iter().cloned().chain(others).collect()
        }

        pub(super) fn are_gone(&self, roots: &Roots) -> bool {
            self.branches(roots).iter().all(|info| info.flags & ZOMBIE != 0)
        }

        pub(super) fn kill(&self, roots: &Roots) {
            for subtree in self.subtrees(roots) {
                let mut request =
                    Kill { signal: libc::SIGKILL, flags: SUBTREE, subtree, ..Kill::default() };
                // SAFETY: the kernel reads and writes one such structure, which outlives the call.
                // It fails where the tree has just ended.
                unsafe {
                    libc::procctl(
                        libc::P_PID,
                        self.reaper as _,
                        libc::PROC_REAP_KILL,
                        std::ptr::from_mut(&mut request).cast(),
                    );
                }
            }
        }

        fn branches(&self, roots: &Roots) -> Vec<PidInfo> {
            let subtrees = self.subtrees(roots);
            self.all.iter().filter(|info| subtrees.contains(&info.subtree)).copied().collect()
        }

        /// Children of the reaper, alive or reaped, below which the tree is.
        fn subtrees(&self, roots: &Roots) -> Vec<libc::pid_t> {
            // A process with the number of a reaped leader is another process.
            let is_there = |pid: &i32| self.all.iter().any(|info| info.pid == *pid);
            let ended = roots.ended.iter().copied().filter(|pid| !is_there(pid));
            ended.chain(living_leader(roots).map(|leader| leader.pid)).collect()
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
            let mut children =
                [(); 2].map(|()| std::process::Command::new("sleep").arg("1000").spawn().unwrap());
            let [one, two] = children.each_ref().map(|child| child.id() as i32);
            let all = vec![info(7, 7), info(two, two), info(one, two)];
            let descendants = Descendants { reaper: 1, all, orphans: PhantomData };
            let leader = |pid| ProcessId { pid, start: process_table::start_of(pid).unwrap() };
            let with = |pid| Roots { leader: Some(leader(pid)), ..Roots::default() };
            let pids = |roots: Roots| -> Vec<i32> {
                descendants.of(&roots).into_iter().map(|id| id.pid).collect()
            };
            assert_eq!(pids(with(two)), [two, one]);
            assert_eq!(pids(Roots { ended: vec![two], ..with(one) }), [one], "it is there again");
            let other = ProcessId { start: "1.000001".into(), ..leader(two) };
            assert!(pids(Roots { leader: Some(other), ..Roots::default() }).is_empty());
            for child in &mut children {
                child.kill().unwrap();
                child.wait().unwrap();
            }
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

    use super::process_table::{self, Entry};
    use super::{MARK_NAME, ProcessId, Roots, living_leader};

    /// A child of the daemon that leads no tree: its parent has ended.
    #[derive(Debug)]
    pub(super) struct Orphan {
        process: Entry,
        /// The mark of a job in its environment; `None` where its environment was not there to read.
        mark: Option<Option<String>>,
    }

    /// Living orphans by number.
    pub(super) type Orphans = BTreeMap<i32, Orphan>;

    #[derive(Debug)]
    pub(super) struct Descendants<'o> {
        reaper: i32,
        orphans: &'o Orphans,
        children: Children,
    }

    impl Descendants<'_> {
        pub(super) fn now<'o>(
            reaper: i32,
            leaders: &[i32],
            known: &'o mut Orphans,
        ) -> Descendants<'o> {
            let children = Children::now(reaper);
            let mut before = std::mem::take(known);
            for pid in children.of(reaper).into_iter().filter(|pid| !leaders.contains(pid)) {
                let Some(process) = process_table::entry(pid).filter(|entry| !entry.zombie) else {
                    continue;
                };
                let is_same = |orphan: &Orphan| {
                    let seen = &orphan.process;
                    (&seen.id, seen.image) == (&process.id, process.image) && orphan.mark.is_some()
                };
                // During execve(2) a process shows no environment: it is read again next time.
                let mark = match before.remove(&pid).filter(is_same) {
                    Some(seen) => seen.mark,
                    None => process_table::variable(pid, MARK_NAME),
                };
                known.insert(pid, Orphan { process, mark });
            }
            Descendants { reaper, orphans: known, children }
        }

        pub(super) fn of(&self, roots: &Roots) -> Vec<ProcessId> {
            let orphans = self.orphans(roots).map(|orphan| orphan.process.id.clone());
            let mut tree: Vec<ProcessId> =
                living_leader(roots).into_iter().chain(orphans).collect();
            let mut seen: BTreeSet<i32> = tree.iter().map(|process| process.pid).collect();
            let mut asked = 0;
            while let Some(parent) = tree.get(asked).map(|process| process.pid) {
                asked += 1;
                let below = self.children.of(parent);
                let fresh = below.into_iter().filter(|pid| seen.insert(*pid));
                // The number may be another process's by now, and its parent may have ended.
                tree.extend(fresh.filter_map(process_table::entry).filter_map(|entry| {
                    let is_below = [parent, self.reaper].contains(&entry.parent);
                    (is_below && !entry.zombie).then_some(entry.id)
                }));
            }
            tree
        }

        /// Every descendant of the reaper is below one of the reaper's direct children.
        pub(super) fn are_gone(&self, roots: &Roots) -> bool {
            self.orphans(roots).next().is_none()
        }

        pub(super) fn kill(&self, _: &Roots) {}

        fn orphans(&self, roots: &Roots) -> impl Iterator<Item = &Orphan> {
            let is_there = |pid: &i32| self.orphans.contains_key(pid);
            // A process with the number of a reaped leader is another process.
            let ended: Vec<i32> = roots.ended.iter().copied().filter(|p| !is_there(p)).collect();
            let leader = roots.leader.as_ref().map(|leader| leader.pid);
            self.orphans.values().filter(move |orphan| match orphan.mark.as_ref() {
                Some(Some(mark)) => *mark == roots.mark,
                Some(None) | None => {
                    let session = orphan.process.session;
                    ended.contains(&session) || leader == Some(session)
                }
            })
        }
    }

    /// Source of parent-child relations.
    #[derive(Debug)]
    enum Children {
        /// The kernel's lists (proc_pid_children(5), CONFIG_PROC_CHILDREN), read on demand.
        Listed,
        /// Without such lists: the parents of all processes of the host.
        Found(BTreeMap<i32, Vec<i32>>),
    }

    impl Children {
        fn now(reaper: i32) -> Children {
            if fs::exists(format!("/proc/{reaper}/task/{reaper}/children")).unwrap_or(false) {
                return Children::Listed;
            }
            Children::found()
        }

        fn found() -> Children {
            let mut found: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
            for pid in numbers("/proc") {
                if let Some(entry) = process_table::entry(pid) {
                    found.entry(entry.parent).or_default().push(pid);
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

    #[cfg(test)]
    mod tests {
        use super::*;

        const MARK: &str = "SYSADM_JOB=e.1";

        fn orphan(process: Entry, session: i32, mark: Option<&str>) -> Orphan {
            let mark = Some(mark.map(str::to_owned));
            Orphan { process: Entry { session, ..process }, mark }
        }

        /// A shell with a child that has a child, and its entry and theirs. All of them end with it.
        struct Family {
            child: std::process::Child,
            entries: Vec<Entry>,
        }

        impl Family {
            fn new() -> Family {
                let inner = "sleep 1000 & echo $$ $!; read wait; kill $!";
                let script = format!("sh -c '{inner}'; exit");
                let mut child = std::process::Command::new("sh")
                    .args(["-c", &script])
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut line = String::new();
                let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
                std::io::BufRead::read_line(&mut out, &mut line).unwrap();
                let below = line.split_ascii_whitespace().map(|pid| pid.parse().unwrap());
                let pids = std::iter::once(child.id() as i32).chain(below);
                let entries = pids.map(|pid| process_table::entry(pid).unwrap()).collect();
                Family { child, entries }
            }

            fn pids(&self) -> Vec<i32> {
                self.entries.iter().map(|entry| entry.id.pid).collect()
            }
        }

        impl Drop for Family {
            fn drop(&mut self) {
                drop(self.child.stdin.take());
                self.child.wait().unwrap();
            }
        }

        fn members(orphans: Vec<Orphan>, leader: Option<&Entry>, ended: &[i32]) -> Vec<i32> {
            let leader = leader.map(|entry| entry.id.clone());
            let roots = Roots { leader, ended: ended.to_vec(), mark: MARK.to_owned() };
            let orphans = orphans.into_iter().map(|orphan| (orphan.process.id.pid, orphan));
            let (orphans, children) = (orphans.collect(), Children::found());
            let descendants = Descendants { reaper: 1, orphans: &orphans, children };
            descendants.of(&roots).into_iter().map(|process| process.pid).collect()
        }

        #[test]
        fn tree_lists_leader_first_and_parents_before_children() {
            let family = Family::new();
            let [leader, ..] = &family.entries[..] else { panic!() };
            assert_eq!(members(vec![], Some(leader), &[]), family.pids());
            // The number was given to another process since.
            let start = format!("{}1", leader.id.start);
            let other = Entry { id: ProcessId { start, ..leader.id }, ..leader.clone() };
            assert_eq!(members(vec![], Some(&other), &[]), Vec::<i32>::new());
        }

        #[test]
        fn orphan_is_identified_by_its_mark_or_else_its_session() {
            let (family, leader) = (Family::new(), Family::new());
            let first = || family.entries[0].clone();
            let own = leader.entries[0].id.pid;
            assert_eq!(members(vec![orphan(first(), 50, Some(MARK))], None, &[10]), family.pids());
            let cleared = |session| vec![orphan(first(), session, None)];
            assert_eq!(members(cleared(10), None, &[10]), family.pids());
            let both = members(cleared(own), Some(&leader.entries[0]), &[]);
            assert_eq!(both[0], own);
            assert!(family.pids().iter().chain(&leader.pids()).all(|pid| both.contains(pid)));
            assert!(members(cleared(10), None, &[9]).is_empty());
        }

        #[test]
        fn orphan_of_another_job_is_excluded_despite_its_session() {
            let family = Family::new();
            let other = orphan(family.entries[0].clone(), 10, Some("SYSADM_JOB=e.11"));
            assert!(members(vec![other], None, &[10]).is_empty());
        }

        #[test]
        fn a_leader_that_has_ended_is_not_another_process_of_its_number() {
            let family = Family::new();
            let [first, second, _] = &family.entries[..] else { panic!() };
            let pid = first.id.pid;
            let orphans =
                [first, second].map(|entry| orphan(entry.clone(), pid, None)).into_iter().collect();
            assert!(members(orphans, None, &[pid]).is_empty());
        }

        #[test]
        fn orphan_seen_before_is_not_read_again() {
            let family = Family::new();
            let reaper = std::process::id() as i32;
            let entry = &family.entries[0];
            let mark_after = |seen: Entry| {
                let known = Orphan { process: seen, mark: Some(Some(MARK.to_owned())) };
                let mut known = BTreeMap::from([(entry.id.pid, known)]);
                Descendants::now(reaper, &[], &mut known);
                known.remove(&entry.id.pid).and_then(|orphan| orphan.mark)
            };
            assert_eq!(mark_after(entry.clone()), Some(Some(MARK.to_owned())));
            // The number was given to another process, or another program is run.
            let id = ProcessId { start: "another".into(), ..entry.id };
            assert_eq!(mark_after(Entry { id, ..entry.clone() }), Some(None));
            assert_eq!(mark_after(Entry { image: (1, 1), ..entry.clone() }), Some(None));
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
