//! Processes of a job that outlived the daemon which started it.
//!
//! They are no longer children of the daemon. A process is a survivor if its number and start time
//! are in the journal, if it has the job's mark in its environment, or if its parent or session
//! leader is a survivor. Any other process is left alone: killing a foreign process would be worse
//! than leaving a survivor.

use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::Pid;

use super::process_table::{self, Entry};

/// Persisted facts about a job's processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Number and start of processes that were started for it, each the leader of a session.
    pub leaders: Vec<(i32, String)>,
    /// `NAME=value` in the environment of all of them; unique to the job.
    pub mark: String,
}

/// The living ones; each process before its children.
pub fn survivors(traces: &Traces) -> Vec<Pid> {
    let processes = process_table::all();
    let marked = |pid| !traces.mark.is_empty() && process_table::has_variable(pid, &traces.mark);
    among(&processes, &traces.leaders, std::process::id() as i32, marked)
}

fn among(
    processes: &[Entry],
    leaders: &[(i32, String)],
    ourselves: i32,
    marked: impl Fn(i32) -> bool,
) -> Vec<Pid> {
    let is_leader = |entry: &Entry| {
        leaders.iter().any(|(pid, start)| *pid == entry.pid && *start == entry.start)
    };
    let living: Vec<i32> =
        processes.iter().filter(|entry| is_leader(entry)).map(|entry| entry.pid).collect();
    // The daemon and its ancestors are spared, even if a job had started the daemon.
    let mut spared = vec![ourselves];
    while let Some(parent) = processes
        .iter()
        .find(|entry| spared.last() == Some(&entry.pid))
        .map(|entry| entry.parent)
        .filter(|parent| !spared.contains(parent))
    {
        spared.push(parent);
    }
    let is_root = |entry: &&Entry| {
        !spared.contains(&entry.pid)
            && (living.contains(&entry.pid) || living.contains(&entry.session) || marked(entry.pid))
    };
    let mut found: BTreeSet<i32> = BTreeSet::new();
    found.extend(processes.iter().filter(is_root).map(|entry| entry.pid));
    // Adds their children until there are no more; a tree is rarely deep.
    loop {
        let children: Vec<i32> = processes
            .iter()
            .filter(|entry| found.contains(&entry.parent) && !found.contains(&entry.pid))
            .filter(|entry| !spared.contains(&entry.pid))
            .map(|entry| entry.pid)
            .collect();
        if children.is_empty() {
            break;
        }
        found.extend(children);
    }
    let found: BTreeMap<i32, &Entry> = processes
        .iter()
        .filter(|entry| found.contains(&entry.pid))
        .map(|entry| (entry.pid, entry))
        .collect();
    let depth = |entry: &Entry| {
        let above =
            std::iter::successors(found.get(&entry.parent), |above| found.get(&above.parent));
        // The kernel's list is not a snapshot of one moment, so it may contain a cycle.
        above.take(found.len()).count()
    };
    let mut alive: Vec<&Entry> = found.values().copied().filter(|entry| !entry.zombie).collect();
    alive.sort_by_cached_key(|entry| depth(entry));
    alive.into_iter().map(|entry| Pid::from_raw(entry.pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: i32, parent: i32, session: i32, start: &str) -> Entry {
        Entry { pid, parent, session, zombie: false, start: start.into() }
    }

    fn found(processes: &[Entry], leaders: &[(i32, &str)], marked: &[i32]) -> Vec<i32> {
        let leaders: Vec<_> = leaders.iter().map(|(pid, s)| (*pid, (*s).to_owned())).collect();
        let pids = among(processes, &leaders, 99, |pid| marked.contains(&pid));
        pids.into_iter().map(Pid::as_raw).collect()
    }

    #[test]
    fn leader_is_identified_by_number_and_start_with_descendants() {
        let processes = [
            entry(10, 1, 10, "a"),
            entry(11, 10, 10, "b"),
            entry(12, 11, 12, "c"),
            entry(13, 1, 10, "d"),
            entry(20, 1, 20, "e"),
        ];
        assert_eq!(found(&processes, &[(10, "a")], &[]), [10, 13, 11, 12]);
        assert_eq!(found(&processes, &[(10, "other")], &[]), Vec::<i32>::new());
    }

    #[test]
    fn survivors_list_parents_before_children() {
        // Process numbers wrap around, and the kernel's list has its own order.
        let processes = [entry(2, 91, 90, "d"), entry(90, 1, 90, "a"), entry(91, 90, 90, "b")];
        assert_eq!(found(&processes, &[(90, "a")], &[]), [90, 91, 2]);
        let circle = [entry(10, 11, 10, "a"), entry(11, 10, 10, "b")];
        assert_eq!(found(&circle, &[(10, "a")], &[]), [10, 11]);
    }

    #[test]
    fn a_mark_is_enough_and_a_zombie_is_not_alive() {
        let mut processes = [entry(10, 1, 10, "a"), entry(11, 10, 11, "b"), entry(12, 1, 12, "c")];
        assert_eq!(found(&processes, &[], &[10]), [10, 11]);
        processes[0].zombie = true;
        assert_eq!(found(&processes, &[], &[10]), [11]);
    }

    #[test]
    fn a_daemon_that_a_job_has_started_does_not_end_itself() {
        let processes = [entry(10, 1, 10, "a"), entry(98, 10, 10, "b"), entry(99, 98, 99, "c")];
        assert_eq!(found(&processes, &[(10, "a")], &[98, 99]), Vec::<i32>::new());
        let beside = [&processes[..], &[entry(11, 10, 10, "d")]].concat();
        assert_eq!(found(&beside, &[(10, "a")], &[]), [11]);
    }

    #[test]
    fn session_of_an_ended_leader_identifies_nothing() {
        // The number may have been reused by another session.
        assert_eq!(found(&[entry(11, 1, 10, "b")], &[(10, "a")], &[]), Vec::<i32>::new());
    }
}
