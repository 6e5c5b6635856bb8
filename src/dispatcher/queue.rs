//! Queues: which of the jobs that wait may start next.
//!
//! Jobs of one queue start by priority, then in the order of their submission, at most `parallel` of
//! them at a time, and none while the queue is paused. Of each queue only the first job that may
//! start competes for room with those of the others, so that each step costs the logarithm of the
//! number of jobs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::job::{Job, State};
use super::{Dispatcher, LIST_PAGE, Serial, Step, class};
use crate::wire::{ErrorCode, Event, JsonFields, QueueEvent, Quoted, Refusal, encoded_len};

/// Place of a job among those that wait: the highest priority first, then in order of submission.
pub(super) type Rank = (Reverse<i8>, Serial);

/// Queues that may be paused at a time: their names are stored, and stand in each page of the list.
const MOST_PAUSED: usize = 64;

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<Rank>,
    running: BTreeSet<Serial>,
    /// The one of its jobs that competes for room.
    head: Option<Rank>,
}

/// All queues; that of jobs without a queue has no name, no bound and no pause.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Those that have active jobs.
    queues: BTreeMap<String, Queue>,
    /// Heads of queues that have room.
    startable: BTreeSet<Rank>,
    /// Jobs that run at a time, where that is configured; else one.
    parallel: BTreeMap<String, usize>,
    paused: BTreeSet<String>,
}

impl Queues {
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Queue)) {
        let parallel = self.parallel_of(name);
        let is_paused = self.paused.contains(name);
        let queue = self.queues.entry(name.to_owned()).or_default();
        change(queue);
        let has_room = !is_paused && queue.running.len() < parallel;
        let head = queue.waiting.first().filter(|_| has_room).copied();
        let before = std::mem::replace(&mut queue.head, head);
        if queue.waiting.is_empty() && queue.running.is_empty() {
            self.queues.remove(name);
        }
        if before != head {
            before.map(|rank| self.startable.remove(&rank));
            self.startable.extend(head);
        }
    }

    fn parallel_of(&self, name: &str) -> usize {
        match name {
            "" => usize::MAX,
            name => self.parallel.get(name).copied().unwrap_or(1),
        }
    }

    /// A job waits, for the first time or again.
    pub(super) fn wait(&mut self, name: &str, rank: Rank) {
        self.change(name, |queue| {
            queue.running.remove(&rank.1);
            queue.waiting.insert(rank);
        });
    }

    /// The job that starts next, where there is room for one.
    fn next(&self) -> Option<Serial> {
        self.startable.first().map(|rank| rank.1)
    }

    /// A job runs, whether it was its turn or not.
    pub(super) fn begin(&mut self, name: &str, rank: Rank) {
        self.change(name, |queue| {
            queue.waiting.remove(&rank);
            queue.running.insert(rank.1);
        });
    }

    /// A job neither waits nor runs any longer.
    pub(super) fn leave(&mut self, name: &str, rank: Rank) {
        self.change(name, |queue| {
            queue.waiting.remove(&rank);
            queue.running.remove(&rank.1);
        });
    }

    fn set_parallel(&mut self, parallel: BTreeMap<String, usize>) {
        self.parallel = parallel;
        let names: Vec<String> = self.queues.keys().cloned().collect();
        names.iter().for_each(|name| self.change(name, |_| {}));
    }

    /// False where the queue was paused, or not paused, already.
    fn set_paused(&mut self, name: &str, paused: bool) -> bool {
        let is_new = match paused {
            true => self.paused.insert(name.to_owned()),
            false => self.paused.remove(name),
        };
        self.change(name, |_| {});
        is_new
    }

    /// Whether no job of the queue starts.
    pub(super) fn is_paused(&self, name: &str) -> bool {
        self.paused.contains(name)
    }

    /// The places of these jobs of one queue: from 1 for those that wait in it, 0 for those that run.
    /// Takes time for each job before the last of them.
    pub(super) fn places(&self, name: &str, of: &BTreeSet<Serial>) -> HashMap<Serial, usize> {
        let Some(queue) = self.queues.get(name) else { return HashMap::new() };
        let running = queue.running.intersection(of).map(|serial| (*serial, 0));
        let waits = of.iter().filter(|serial| !queue.running.contains(serial)).count();
        let waiting = queue.waiting.iter().map(|rank| rank.1).zip(1..);
        let waiting = waiting.filter(|(serial, _)| of.contains(serial)).take(waits);
        running.chain(waiting).collect()
    }
}

impl Job {
    /// The queue of the job as [`Queues`] has it, and its rank there.
    pub(super) fn place(&self) -> (String, Rank) {
        let queue = self.asked.queue.clone().unwrap_or_default();
        (queue, (Reverse(self.asked.priority), self.head.serial))
    }
}

impl Dispatcher {
    /// Starts jobs as long as there is room for more of them.
    pub(super) fn start_ready_jobs(&mut self) {
        while !self.stopping
            && self.no_storage.is_none()
            && self.running.len() < self.limits.max_running
            && let Some(serial) = self.queues.next()
            && let Some(job) = self.jobs.get_mut(&serial)
        {
            let (queue, rank) = job.place();
            self.queues.begin(&queue, rank);
            self.pending.remove(&serial);
            self.running.insert(serial);
            match &mut job.state {
                State::Filed { chosen, .. } => *chosen = true,
                State::Pending => {
                    job.state = State::Starting;
                    self.persist(serial, Step::Start);
                }
                State::Starting | State::Running { .. } | State::Ended(_) | State::Finished => {}
            }
        }
    }

    /// A job that was chosen to start is pending again.
    pub(super) fn wait_again(&mut self, serial: Serial) {
        if let Some(job) = self.jobs.get_mut(&serial) {
            job.state = State::Pending;
            self.running.remove(&serial);
            self.pending.insert(serial);
            let (queue, rank) = job.place();
            self.queues.wait(&queue, rank);
        }
    }

    /// A job waits and runs no longer.
    pub(super) fn leave_queue(&mut self, serial: Serial) {
        self.pending.remove(&serial);
        self.running.remove(&serial);
        if let Some((queue, rank)) = self.jobs.get(&serial).map(Job::place) {
            self.queues.leave(&queue, rank);
        }
    }

    /// Sets how many jobs of a queue run at a time; of a queue that is not named, one. Jobs that run
    /// already go on.
    pub fn set_parallel(&mut self, parallel: impl IntoIterator<Item = (String, usize)>) {
        self.queues.set_parallel(parallel.into_iter().collect());
        self.start_ready_jobs();
    }

    /// Pauses a queue, or resumes it, for the user `by`. A paused queue starts no job; those that
    /// run go on. The caller stores [`Dispatcher::paused_queues`] after that. False where the queue
    /// was paused, or not paused, already.
    ///
    /// # Errors
    /// There is no such queue, or too many are paused.
    pub fn set_paused(
        &mut self,
        name: &str,
        paused: bool,
        by: Option<&str>,
    ) -> Result<bool, Refusal> {
        if name == "no_queue" {
            let why = "jobs without a queue cannot be paused: they start at once";
            return Err(Refusal::bad_request(why));
        }
        if !self.knows_queue(name) {
            let why = format!(
                "no such queue: {}; \"sysadm-events queues\" lists those that have jobs or are \
                 configured",
                Quoted(name)
            );
            return Err(Refusal::new(ErrorCode::NotFound, why));
        }
        if paused && self.queues.paused.len() >= MOST_PAUSED && !self.queues.is_paused(name) {
            let why = format!("{MOST_PAUSED} queues are paused already: resume one of them first");
            return Err(Refusal::new(ErrorCode::TooMany, why));
        }
        let is_new = self.queues.set_paused(name, paused);
        if is_new {
            let by = by.map(str::to_owned);
            let event = Event::Queue(QueueEvent { queue: name.to_owned(), paused, by });
            self.effects.push_back(super::Effect::Publish(event));
        }
        self.start_ready_jobs();
        Ok(is_new)
    }

    fn knows_queue(&self, name: &str) -> bool {
        let of_job = |job: &Job| job.asked.queue.as_deref() == Some(name);
        self.queues.paused.contains(name)
            || self.queues.parallel.contains_key(name)
            || class::is_default_queue(name)
            || self.jobs.values().any(of_job)
    }

    /// The queues that are paused, in order.
    pub fn paused_queues(&self) -> Vec<&str> {
        self.queues.paused.iter().map(String::as_str).collect()
    }

    /// Takes over the queues that were paused when the daemon before this one ended.
    pub fn restore_paused(&mut self, names: Vec<String>) {
        for name in names.into_iter().take(MOST_PAUSED).filter(|name| !name.is_empty()) {
            self.queues.set_paused(&name, true);
        }
    }

    /// The number of pending and running jobs of each named queue.
    pub fn queue_sizes(&self) -> Value {
        let mut sizes: Map<String, Value> = Map::new();
        for queue in self.queued() {
            let size = sizes.entry(queue).or_insert_with(|| 0.into());
            *size = size.as_u64().unwrap_or(0).saturating_add(1).into();
        }
        Value::Object(sizes)
    }

    /// The named queue of each job that waits or runs.
    fn queued(&self) -> impl Iterator<Item = &String> {
        let active = self.pending.iter().chain(&self.running);
        active.filter_map(|serial| self.jobs.get(serial)?.asked.queue.as_ref())
    }

    /// The queues that have active jobs, are configured or paused, in the order of their names and
    /// behind `after`: at most [`LIST_PAGE`] bytes, and one at least; `next` is what the following
    /// page stands behind.
    pub fn list_queues(&self, after: Option<&str>) -> Value {
        let waiting = self.pending.iter().map(|serial| (serial, 1, 0));
        let running = self.running.iter().map(|serial| (serial, 0, 1));
        let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (serial, waits, runs) in waiting.chain(running) {
            let job = self.jobs.get(serial);
            if let Some(name) = job.and_then(|job| job.asked.queue.as_deref()) {
                let (pending, running) = counts.entry(name).or_default();
                (*pending, *running) = (*pending + waits, *running + runs);
            }
        }
        for name in self.queues.parallel.keys().chain(&self.queues.paused) {
            counts.entry(name).or_default();
        }
        let (mut queues, mut bytes, mut next) = (Map::new(), 0, None);
        let rest = counts.iter().filter(|(name, _)| after.is_none_or(|after| **name > after));
        for (name, (pending, running)) in rest {
            let entry = json!({
                "pending": pending,
                "running": running,
                "parallel": self.queues.parallel_of(name),
                "paused": self.queues.is_paused(name),
            });
            bytes += encoded_len(name) + entry.to_string().len();
            if bytes > LIST_PAGE && !queues.is_empty() {
                next = queues.keys().next_back().cloned();
                break;
            }
            queues.insert((*name).to_owned(), entry);
        }
        let mut reply = json!({ "queues": queues });
        if let Some(next) = next {
            reply.set_field("next", next);
        }
        reply
    }
}
