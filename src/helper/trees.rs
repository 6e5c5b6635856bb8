//! Processes of jobs that are being ended: a child that finds and signals them, and the loop's end
//! of it.
//!
//! To read about processes may take long, where there are many, and may hang, where one of them
//! hangs. So a child does it. It is forked when a job is to be ended and ends when none is left
//! that is being ended; it remembers which environments it has read. It is in the memory of the
//! daemon that it forked from, and needs no more than [`Job`]s from then on.
//!
//! [`Trees`] is a state machine: requests, replies and time come in, [`Job`]s to be sent go out. It
//! paces the looks: the child works a fifth of the time at most on jobs that nothing has happened
//! to, whatever the number of processes on the host.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::channel::{put, read};
use crate::sys::fork::with_socket;
use crate::sys::process_signal;
use crate::sys::process_table::ProcessId;
use crate::sys::process_tree::{Descendants, Orphans, Roots};
use crate::sys::survivors::{Marks, Traces, survivors};

/// Serial number of a job.
pub type Serial = u64;

/// Action on the processes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Only checks whether there are any.
    Look,
    /// They get SIGTERM.
    Terminate,
    /// They get SIGKILL.
    Kill,
}

/// Method by which the processes of a job are found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Origin {
    /// This daemon started them.
    Own(Roots),
    /// A daemon before this one did.
    Before(Traces),
}

/// A job for the child.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub serial: Serial,
    /// Requested action.
    pub action: Action,
    /// Method by which its processes are found.
    pub origin: Origin,
}

/// Request to the child, as JSON in a frame. The reply is another frame: the numbers of the jobs that
/// had no processes left.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Order {
    /// Children of the daemon that lead the processes of a job.
    pub leaders: Vec<i32>,
    /// The jobs.
    pub jobs: Vec<Job>,
}

/// An order without a reply after this time is given up, and so is the child.
const DEADLINE: Duration = Duration::from_secs(10);
/// Until the next child where one was given up or could not be started.
const RETRY: Duration = Duration::from_secs(1);
/// Maximum size of an order, in bytes: some hundred thousand jobs.
const ORDER: usize = 64 * 1024 * 1024;
/// Between two looks for processes that are not children of this daemon: nothing reports their end.
const SURVIVORS: Duration = Duration::from_millis(200);
/// After a look that followed no signal, so many times its duration pass before another one.
const PAUSE: u32 = 4;

/// The loop's end: which jobs are waited for, and when the child is asked about them.
#[derive(Debug, Default)]
pub struct Trees {
    /// Jobs about which the child is to be asked.
    wanted: BTreeMap<Serial, Action>,
    /// Jobs about which it has been, and when.
    asked: Option<(BTreeMap<Serial, Action>, Instant)>,
    /// No look before this.
    next_look: Option<Instant>,
    /// No order at all before this.
    next_order: Option<Instant>,
    /// Jobs of another daemon are among those that are waited for, and are looked at then.
    survivors_due: Option<Instant>,
}

impl Trees {
    /// Asks for something to be done about a job, as soon as the child is free; the stronger of two
    /// actions counts.
    pub fn want(&mut self, serial: Serial, action: Action) {
        let wanted = self.wanted.entry(serial).or_insert(action);
        *wanted = action.max(*wanted);
    }

    /// The job is no longer waited for.
    pub fn forget(&mut self, serial: Serial) {
        self.wanted.remove(&serial);
    }

    /// Whether there is nothing to ask and no reply to come.
    pub fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.asked.is_none() && self.survivors_due.is_none()
    }

    /// Jobs about which the child is to be asked now; they count as asked from here on. With
    /// `survivors`, which come from another daemon, where their look is due.
    pub fn next_order(
        &mut self,
        survivors: impl Iterator<Item = Serial>,
        now: Instant,
    ) -> Option<Vec<(Serial, Action)>> {
        let is_early = |due: &Instant| now < *due;
        if self.asked.is_some() || self.next_order.as_ref().is_some_and(is_early) {
            return None;
        }
        if self.survivors_due.take_if(|due| *due <= now).is_some() {
            survivors.for_each(|serial| self.want(serial, Action::Look));
        }
        if self.next_look.as_ref().is_some_and(is_early)
            && self.wanted.values().all(|action| *action == Action::Look)
        {
            return None;
        }
        let jobs = std::mem::take(&mut self.wanted);
        let order: Vec<_> = jobs.iter().map(|(serial, action)| (*serial, *action)).collect();
        if order.is_empty() {
            return None;
        }
        self.asked = Some((jobs, now));
        Some(order)
    }

    /// The reply to the last order has come; `are_survivors_left` says whether jobs of another
    /// daemon are still waited for.
    pub fn replied(&mut self, are_survivors_left: bool, now: Instant) {
        let Some((jobs, since)) = self.asked.take() else { return };
        // Signalled processes end at once as a rule.
        let looked_only = jobs.values().all(|action| *action == Action::Look);
        let factor = if looked_only { PAUSE } else { 1 };
        let pause = now.saturating_duration_since(since).saturating_mul(factor);
        self.next_look = Some(now + pause);
        self.survivors_due = are_survivors_left.then(|| now + pause.max(SURVIVORS));
    }

    /// The child has ended, could not be started, or was given up: what it was asked is asked again
    /// of the next one. Returns what that was.
    pub fn lost(&mut self, now: Instant) -> BTreeMap<Serial, Action> {
        let asked = self.asked.take().map(|(jobs, _)| jobs).unwrap_or_default();
        asked.iter().for_each(|(serial, action)| self.want(*serial, *action));
        self.next_order = Some(now + RETRY);
        asked
    }

    /// Whether the reply to the last order is overdue.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.asked.as_ref().is_some_and(|(_, since)| now >= *since + DEADLINE)
    }

    /// When it has to be asked for an order, or for what is overdue, at the latest.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if let Some((_, since)) = &self.asked {
            return Some(*since + DEADLINE);
        }
        let looks = self.wanted.values().all(|action| *action == Action::Look);
        let wanted = (!self.wanted.is_empty())
            .then(|| self.next_look.filter(|_| looks).unwrap_or(now).max(now));
        let due = [wanted, self.survivors_due].into_iter().flatten().min()?;
        Some(self.next_order.map_or(due, |earliest| due.max(earliest)))
    }
}

/// Starts the child.
pub fn begin() -> std::io::Result<(Pid, OwnedFd)> {
    let daemon = std::process::id() as i32;
    let nothing = std::fs::File::open("/dev/null")?;
    with_socket(c"sysadm-signals", nothing.into(), move |socket, _, _| {
        run(UnixStream::from(socket), daemon);
    })
}

/// Carries out orders from `socket` until its other end is closed.
fn run(mut socket: UnixStream, daemon: i32) {
    let mut known = Known { daemon, orphans: Orphans::default(), marks: Marks::default() };
    while let Ok(Some(frame)) = read(&mut socket, ORDER) {
        let Ok(order) = serde_json::from_slice(&frame.body) else { return };
        let gone = serde_json::to_vec(&known.carry_out(&order)).unwrap_or_default();
        let mut reply = Vec::new();
        put(&mut reply, 0, 0, &[&gone]);
        if socket.write_all(&reply).is_err() {
            return;
        }
    }
}

/// Looks for the processes of a job again because one may have had a child between the look and the
/// signal, so often at most.
const ROUNDS: usize = 16;

/// State of the child.
struct Known {
    daemon: i32,
    orphans: Orphans,
    marks: Marks,
}

impl Known {
    /// Signals processes, and returns the jobs that had none left.
    fn carry_out(&mut self, order: &Order) -> Vec<Serial> {
        let mut gone = Vec::new();
        let mut signalled = BTreeMap::new();
        for round in 0..ROUNDS {
            let mut is_fresh = false;
            gone.clear();
            for (job, found) in self.find(order) {
                let Some(found) = found else {
                    gone.push(job.serial);
                    continue;
                };
                let signals = match job.action {
                    Action::Look => continue,
                    // One that is stopped would not see SIGTERM.
                    Action::Terminate => [Signal::SIGTERM, Signal::SIGCONT],
                    Action::Kill => [Signal::SIGKILL, Signal::SIGCONT],
                };
                for process in found {
                    if signalled.insert(process.clone(), ()).is_none() {
                        is_fresh |= process_signal::send(&process, &signals);
                    }
                }
            }
            if !is_fresh || round + 1 == ROUNDS {
                break;
            }
        }
        gone
    }

    /// The living processes of each job; `None` where it has none, and no leader that has to be
    /// reaped.
    fn find<'o>(&mut self, order: &'o Order) -> Vec<(&'o Job, Option<Vec<ProcessId>>)> {
        let before = order.jobs.iter().filter_map(|job| match &job.origin {
            Origin::Before(traces) => Some((job, traces)),
            Origin::Own(_) => None,
        });
        let (before, traces): (Vec<&Job>, Vec<&Traces>) = before.unzip();
        let mut all = Vec::new();
        if !traces.is_empty() {
            let found = survivors(&traces, self.daemon, &mut self.marks).into_iter();
            all.extend(before.into_iter().zip(found.map(|f| Some(f).filter(|f| !f.is_empty()))));
        }
        if all.len() < order.jobs.len() {
            let living = Descendants::now(self.daemon, &order.leaders, &mut self.orphans);
            for job in &order.jobs {
                let Origin::Own(roots) = &job.origin else { continue };
                if job.action == Action::Kill {
                    living.kill(roots);
                }
                let found = (!living.are_gone(roots)).then(|| living.of(roots));
                all.push((job, found));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(trees: &mut Trees, survivors: &[Serial], now: Instant) -> Vec<(Serial, Action)> {
        trees.next_order(survivors.iter().copied(), now).unwrap_or_default()
    }

    #[test]
    fn one_order_is_asked_at_a_time_and_the_stronger_action_counts() {
        let (mut trees, now) = (Trees::default(), Instant::now());
        assert!(trees.is_idle() && trees.deadline(now).is_none());
        trees.want(1, Action::Terminate);
        trees.want(2, Action::Kill);
        trees.want(2, Action::Look);
        assert_eq!(trees.deadline(now), Some(now));
        assert_eq!(order(&mut trees, &[], now), [(1, Action::Terminate), (2, Action::Kill)]);
        trees.want(1, Action::Kill);
        assert_eq!(order(&mut trees, &[], now), []);
        trees.replied(false, now);
        assert_eq!(order(&mut trees, &[], now), [(1, Action::Kill)]);
        trees.forget(1);
        trees.replied(false, now);
        assert!(trees.is_idle());
    }

    #[test]
    fn look_waits_four_times_as_long_as_the_last_took() {
        let (mut trees, now) = (Trees::default(), Instant::now());
        trees.want(1, Action::Look);
        assert_eq!(order(&mut trees, &[], now).len(), 1);
        let later = now + Duration::from_millis(100);
        trees.want(1, Action::Look);
        trees.replied(false, later);
        assert_eq!(order(&mut trees, &[], later), []);
        let due = later + Duration::from_millis(400);
        assert_eq!(trees.deadline(later), Some(due));
        // Behind a signal only as long as that took.
        let mut signalled = Trees::default();
        signalled.want(1, Action::Kill);
        assert_eq!(order(&mut signalled, &[], now).len(), 1);
        signalled.want(1, Action::Look);
        signalled.replied(false, later);
        assert_eq!(signalled.deadline(later), Some(later + Duration::from_millis(100)));
        // A signal does not wait, and takes the look with it.
        let mut hurried = Trees { wanted: trees.wanted.clone(), ..Trees::default() };
        hurried.next_look = trees.next_look;
        hurried.want(2, Action::Kill);
        assert_eq!(order(&mut hurried, &[], later), [(1, Action::Look), (2, Action::Kill)]);
        assert_eq!(order(&mut trees, &[], due), [(1, Action::Look)]);
    }

    #[test]
    fn survivors_are_looked_at_again_and_again() {
        let (mut trees, now) = (Trees::default(), Instant::now());
        trees.want(7, Action::Terminate);
        assert_eq!(order(&mut trees, &[7], now), [(7, Action::Terminate)]);
        trees.replied(true, now);
        assert_eq!(order(&mut trees, &[7], now), []);
        let due = now + SURVIVORS;
        assert_eq!(trees.deadline(now), Some(due));
        assert_eq!(order(&mut trees, &[7], due), [(7, Action::Look)]);
        // A look that took two seconds is the last one for eight.
        let late = due + Duration::from_secs(2);
        trees.replied(true, late);
        assert_eq!(trees.deadline(late), Some(late + Duration::from_secs(8)));
    }

    #[test]
    fn order_of_a_child_that_is_lost_is_given_to_the_next() {
        let (mut trees, now) = (Trees::default(), Instant::now());
        trees.want(1, Action::Kill);
        assert_eq!(order(&mut trees, &[], now).len(), 1);
        assert!(!trees.is_overdue(now) && trees.is_overdue(now + DEADLINE));
        assert_eq!(trees.deadline(now), Some(now + DEADLINE));
        trees.want(2, Action::Terminate);
        let late = now + DEADLINE;
        assert_eq!(trees.lost(late), BTreeMap::from([(1, Action::Kill)]));
        assert_eq!(order(&mut trees, &[], late), []);
        assert_eq!(trees.deadline(late), Some(late + RETRY));
        let again = order(&mut trees, &[], late + RETRY);
        assert_eq!(again, [(1, Action::Kill), (2, Action::Terminate)]);
    }
}
