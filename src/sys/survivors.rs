//! Processes of jobs that outlived the daemon which started them.
//!
//! They are no children of this daemon. A process is one of a job's where its number and the time of
//! its start stand in the journal, where its parent or the living leader of its session is such a
//! one, or where it runs as the job's user and carries the job's mark in its environment. Any
//! program can put the mark into an environment, so the mark of a process of another user counts for
//! nothing: one that changed its user is found by its parent or session, or not at all. To end
//! another user's process would be worse than to leave one of a job.

use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::{User, geteuid};
use serde::{Deserialize, Serialize};

use super::process_table::{self, Entry, ProcessId};
use super::process_tree::MARK_NAME;
use super::spawn::RunAs;

/// The processes of a job, as the journal describes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// Number and start of processes that were started for it, each the leader of a session.
    pub leaders: Vec<(i32, String)>,
    /// `NAME=value` in the environment of all of them; unique to the job.
    pub mark: String,
    /// The user that they run as; `None` for the daemon's own.
    pub user: Option<RunAs>,
}

/// A job, as [`among`] needs it.
struct Job<'t> {
    traces: &'t Traces,
    /// `None` where there is no such user (any more): no mark counts then.
    user: Option<u32>,
}

/// Marks of processes that were read, by number: the environment of each is read once.
#[derive(Debug, Default)]
pub struct Marks(BTreeMap<i32, Seen>);

#[derive(Debug)]
struct Seen {
    start: String,
    image: (u64, u64),
    mark: Option<String>,
}

/// Living processes of each of these jobs, from one look at all processes; a process stands before
/// those that it started. `daemon` is this daemon: neither it nor what it came from or started is
/// one of theirs. May block: it asks for users and reads environments.
pub fn survivors(jobs: &[&Traces], daemon: i32, marks: &mut Marks) -> Vec<Vec<ProcessId>> {
    let user = |traces: &Traces| match &traces.user {
        None => Some(geteuid().as_raw()),
        Some(RunAs::Number(number)) => Some(*number),
        Some(RunAs::Name(name)) => Some(User::from_name(name).ok()??.uid.as_raw()),
    };
    let jobs: Vec<Job<'_>> = jobs.iter().map(|traces| Job { traces, user: user(traces) }).collect();
    let processes = process_table::all();
    let users: BTreeSet<u32> = jobs.iter().filter_map(|job| job.user).collect();
    let mut before = std::mem::take(&mut marks.0);
    among(&processes, &jobs, daemon, |entry| {
        // Kernel threads, and processes that the kernel does not show, have none.
        if entry.image == (0, 0) {
            return None;
        }
        let pid = entry.id.pid;
        let user = process_table::real_user(pid).filter(|user| users.contains(user))?;
        let is_same = |seen: &Seen| seen.start == entry.id.start && seen.image == entry.image;
        let seen = match before.remove(&pid).filter(is_same) {
            Some(seen) => seen,
            // During execve(2) a process shows none: it is read again at the next look.
            None => Seen {
                start: entry.id.start.clone(),
                image: entry.image,
                mark: process_table::variable(pid, MARK_NAME)?,
            },
        };
        let mark = seen.mark.clone();
        marks.0.insert(pid, seen);
        Some((mark?, user))
    })
}

/// `mark_of` says for a process which mark its environment has, and its real user.
fn among(
    processes: &[Entry],
    jobs: &[Job<'_>],
    daemon: i32,
    mut mark_of: impl FnMut(&Entry) -> Option<(String, u32)>,
) -> Vec<Vec<ProcessId>> {
    let by_pid: BTreeMap<i32, &Entry> = processes.iter().map(|e| (e.id.pid, e)).collect();
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in processes {
        children.entry(entry.parent).or_default().push(entry.id.pid);
    }
    // All of the daemon's own, and what started it, even where a job did that.
    let mut spared = BTreeSet::new();
    add_tree(daemon, &children, &BTreeSet::new(), &mut spared);
    let mut above = daemon;
    while let Some(parent) = by_pid.get(&above).map(|entry| entry.parent)
        && spared.insert(parent)
    {
        above = parent;
    }
    // Processes that only their environment identifies: by the mark, and by its user.
    let marked: Vec<(&Entry, String, u32)> = processes
        .iter()
        .filter(|entry| !spared.contains(&entry.id.pid) && !entry.zombie)
        .filter_map(|entry| mark_of(entry).map(|(mark, user)| (entry, mark, user)))
        .collect();
    let of_job = |job: &Job<'_>| {
        let is_leader = |entry: &Entry| {
            let known = |(pid, start): &(i32, String)| {
                *pid == entry.id.pid && *start == entry.id.start && !start.is_empty()
            };
            job.traces.leaders.iter().any(known)
        };
        let led: BTreeSet<i32> =
            processes.iter().filter(|e| is_leader(e)).map(|e| e.id.pid).collect();
        let in_session =
            processes.iter().filter(|e| led.contains(&e.id.pid) || led.contains(&e.session));
        let by_mark = marked.iter().filter(|(_, mark, user)| {
            !mark.is_empty() && *mark == job.traces.mark && Some(*user) == job.user
        });
        let roots: BTreeSet<i32> =
            in_session.chain(by_mark.map(|(entry, ..)| *entry)).map(|e| e.id.pid).collect();
        let mut found = BTreeSet::new();
        for root in roots.difference(&spared) {
            add_tree(*root, &children, &spared, &mut found);
        }
        let is_below = |pid: &i32| found.contains(pid);
        let depth = |entry: &Entry| {
            let parent = |pid: &i32| by_pid.get(pid).map(|e| e.parent).filter(is_below);
            // The kernel's list is not of one moment, so that there may be a circle in it.
            std::iter::successors(parent(&entry.id.pid), parent).take(found.len()).count()
        };
        let mut alive: Vec<&Entry> =
            found.iter().filter_map(|pid| by_pid.get(pid).copied()).filter(|e| !e.zombie).collect();
        alive.sort_by_cached_key(|entry| depth(entry));
        alive.into_iter().map(|entry| entry.id.clone()).collect()
    };
    jobs.iter().map(of_job).collect()
}

/// Adds a process and all below it, but for those that are spared.
fn add_tree(
    root: i32,
    children: &BTreeMap<i32, Vec<i32>>,
    spared: &BTreeSet<i32>,
    found: &mut BTreeSet<i32>,
) {
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        if !spared.contains(&pid) && found.insert(pid) {
            left.extend(children.get(&pid).into_iter().flatten());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "SYSADM_JOB=e.1";
    const NOBODY: u32 = 65534;

    fn entry(pid: i32, parent: i32, session: i32, start: &str) -> Entry {
        let id = ProcessId { pid, start: start.into() };
        Entry { id, parent, session, zombie: false, image: (1, 2) }
    }

    fn traces(leaders: &[(i32, &str)]) -> Traces {
        let leaders = leaders.iter().map(|(pid, s)| (*pid, (*s).to_owned())).collect();
        Traces { leaders, mark: MARK.to_owned(), user: None }
    }

    fn found_of(processes: &[Entry], job: &Job<'_>, marked: &[(i32, u32)]) -> Vec<i32> {
        let mark_of = |entry: &Entry| {
            let (_, user) = marked.iter().find(|(pid, _)| *pid == entry.id.pid)?;
            Some((MARK.to_owned(), *user))
        };
        let found = among(processes, std::slice::from_ref(job), 99, mark_of);
        found.concat().into_iter().map(|id| id.pid).collect()
    }

    fn found(processes: &[Entry], leaders: &[(i32, &str)], marked: &[i32]) -> Vec<i32> {
        let marked: Vec<(i32, u32)> = marked.iter().map(|pid| (*pid, 0)).collect();
        found_of(processes, &Job { traces: &traces(leaders), user: Some(0) }, &marked)
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
        // Where the start is unknown the number says nothing.
        assert_eq!(found(&[entry(10, 1, 10, "")], &[(10, "")], &[]), Vec::<i32>::new());
    }

    #[test]
    fn survivors_list_parents_before_children() {
        // Numbers begin anew now and then, and the kernel's list has its own order.
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
        assert_eq!(found(&processes, &[], &[11]), [11]);
    }

    #[test]
    fn mark_of_another_users_process_counts_for_nothing() {
        let processes = [entry(10, 1, 10, "a"), entry(20, 1, 20, "b"), entry(30, 1, 30, "c")];
        let marked = [(10, 0), (20, NOBODY), (30, 1000)];
        let with = |user| found_of(&processes, &Job { traces: &traces(&[]), user }, &marked);
        assert_eq!(with(Some(0)), [10]);
        assert_eq!(with(Some(NOBODY)), [20]);
        assert_eq!(with(None), Vec::<i32>::new());
        // A program of root that the job started is its child or in its session.
        let sudo = [entry(10, 1, 10, "a"), entry(11, 10, 10, "b"), entry(12, 11, 12, "c")];
        let job = Job { traces: &traces(&[(10, "a")]), user: Some(NOBODY) };
        assert_eq!(found_of(&sudo, &job, &[(10, NOBODY), (11, 0)]), [10, 11, 12]);
    }

    #[test]
    fn one_look_is_for_all_jobs() {
        let processes = [entry(10, 1, 10, "a"), entry(20, 1, 20, "b"), entry(21, 20, 20, "c")];
        let (one, two) = (traces(&[(10, "a")]), traces(&[(20, "b")]));
        let jobs = [&one, &two].map(|traces| Job { traces, user: Some(0) });
        let mut asked = Vec::new();
        let found = among(&processes, &jobs, 99, |entry| {
            asked.push(entry.id.pid);
            None
        });
        let pids = |of: &[ProcessId]| of.iter().map(|id| id.pid).collect::<Vec<_>>();
        assert_eq!(found.iter().map(|of| pids(of)).collect::<Vec<_>>(), [vec![10], vec![20, 21]]);
        assert_eq!(asked, [10, 20, 21], "each was asked for once");
    }

    #[test]
    fn a_daemon_that_a_job_has_started_does_not_end_itself() {
        let processes = [
            entry(10, 1, 10, "a"),
            entry(98, 10, 10, "b"),
            entry(99, 98, 99, "c"),
            // The daemon's own child has the environment of the daemon.
            entry(100, 99, 100, "e"),
        ];
        assert_eq!(found(&processes, &[(10, "a")], &[98, 99, 100]), Vec::<i32>::new());
        let beside = [&processes[..], &[entry(11, 10, 10, "d")]].concat();
        assert_eq!(found(&beside, &[(10, "a")], &[]), [11]);
    }

    #[test]
    fn session_of_an_ended_leader_identifies_nothing() {
        // The number may have been reused by another session.
        assert_eq!(found(&[entry(11, 1, 10, "b")], &[(10, "a")], &[]), Vec::<i32>::new());
    }

    #[test]
    fn environment_is_read_once_for_each_program() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .env("SYSADM_JOB", "e.1")
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let mut marks = Marks::default();
        // Not this test's: its children are the daemon's own.
        let traces = traces(&[]);
        let mut look = || survivors(&[&traces], i32::MAX, &mut marks);
        // The child may not have become `sleep` yet.
        while look() != [[process_table::entry(pid).unwrap().id]] {
            std::thread::yield_now();
        }
        // A mark is read once, and again after the process runs another program.
        let mark_after = |marks: &mut Marks| {
            survivors(&[&traces], i32::MAX, marks);
            marks.0.get(&pid).and_then(|seen| seen.mark.clone())
        };
        let forget = |marks: &mut Marks| marks.0.get_mut(&pid).unwrap().mark = None;
        forget(&mut marks);
        assert_eq!(mark_after(&mut marks), None);
        marks.0.get_mut(&pid).unwrap().image = (1, 1);
        assert_eq!(mark_after(&mut marks).as_deref(), Some(MARK));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
