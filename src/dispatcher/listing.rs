//! Requests of clients about jobs: the list, logs, the current state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use serde_json::{Map, Value, json};

use super::job::{Job, JobOutput, State};
use super::{Dispatcher, LIST_COMMAND, LIST_PAGE, LOG_PART, OutcomeQuestion, Serial};
use crate::helper::store::TextQuestion;
use crate::wire::{ErrorCode, Excerpt, JobEvent, JsonFields, Quoted, Refusal, encoded_len};

/// The page behind a job that was active, or finished, when it was listed: active jobs after the
/// first number, if any, and finished ones before the second.
fn read_page(page: &str) -> Option<(Option<Serial>, Serial)> {
    match page.split_at_checked(1)? {
        ("a", serial) => Some((Some(serial.parse().ok()?), Serial::MAX)),
        ("f", serial) => Some((None, serial.parse().ok()?)),
        _ => None,
    }
}

impl Dispatcher {
    /// The first finished job with serial `from` or more whose end was reported before event
    /// `before`, or by a previous daemon.
    pub fn next_outcome(&self, from: Serial, before: u64) -> Option<(Serial, &str)> {
        let finished = self.jobs.range(from..).find(|(_, job)| {
            let is_finished = matches!(job.state, State::Finished);
            is_finished && job.finished_seq.is_some_and(|seq| seq < before)
        });
        finished.map(|(serial, job)| (*serial, job.head.id.as_str()))
    }

    /// The query for the finished event of a job.
    pub fn outcome_question(&self, serial: Serial) -> Option<OutcomeQuestion> {
        let job = self.jobs.get(&serial).filter(|job| !job.is_active())?;
        Some(OutcomeQuestion { ranges: job.ranges(), limit: job.piece_limit() })
    }

    /// The finished event from the result of the query; `Err` is why it failed.
    pub fn outcome(&self, serial: Serial, read: Result<Vec<Excerpt>, String>) -> Option<JobEvent> {
        let job = self.jobs.get(&serial).filter(|job| !job.is_active())?;
        Some(job.outcome(read.unwrap_or_else(|why| {
            let mut piece = Excerpt::new(job.piece_limit());
            piece.push(&format!("[the log cannot be shown: {why}]\n"));
            vec![piece]
        })))
    }

    /// The current state of the first pending or running job with serial `from` or more: its log as
    /// far as it was reported.
    pub fn present(&self, from: Serial) -> Option<(Serial, JobEvent)> {
        let mut from = from;
        loop {
            let pending = self.pending.range(from..).next();
            let running = self.running.range(from..).next();
            let serial = *[pending, running].into_iter().flatten().min()?;
            match self.jobs.get(&serial)?.present() {
                Some(event) => return Some((serial, event)),
                None => from = serial + 1,
            }
        }
    }

    /// The first pending job with serial `from` or more.
    pub fn present_pending(&self, from: Serial) -> Option<(Serial, JobEvent)> {
        self.pending.range(from..).find_map(|serial| {
            let event = self.jobs.get(serial)?.present()?;
            Some((*serial, event))
        })
    }

    /// The known jobs, by queue: the active ones in order of submission, then the finished ones,
    /// the newest first. At most [`LIST_PAGE`] bytes of jobs, but at least one job; `next` names
    /// the next page, if any.
    ///
    /// # Errors `page` is not the name of a page.
    pub fn list(&self, page: Option<&str>) -> Result<Value, Refusal> {
        // The last job of the previous page.
        let (active_after, finished_before) = match page {
            None => (Some(0), Serial::MAX),
            Some(page) => read_page(page).ok_or_else(|| {
                Refusal::bad_request(format!("no list has a page {}", Quoted(page)))
            })?,
        };
        let active = active_after.into_iter().flat_map(|after| {
            let later = self.jobs.range((Bound::Excluded(after), Bound::Unbounded));
            later.filter(|(_, job)| job.is_active())
        });
        let finished = self.jobs.range(..finished_before).rev().filter(|(_, job)| !job.is_active());
        let mut places: HashMap<&str, BTreeSet<Serial>> = HashMap::new();
        let mut entries = BTreeMap::new();
        let (mut bytes, mut last, mut next) = (0, None, None);
        for (serial, job) in active.chain(finished) {
            if matches!(job.state, State::Filed { .. }) {
                continue;
            }
            let queue = job.asked.queue.as_deref();
            let has_place = job.is_active() && job.after.is_empty();
            // The place is found below.
            let mut entry = job.entry(has_place.then_some(0));
            let after = job.after.iter().filter_map(|other| self.id(*other));
            let after: Vec<&str> = after.collect();
            if !after.is_empty() {
                entry.set_field("after", after);
            }
            if self.pending.contains(serial) && queue.is_some_and(|q| self.queues.is_paused(q)) {
                entry.set_field("paused", true);
            }
            bytes += encoded_len(&job.head.id) + entry.to_string().len();
            bytes += LIST_COMMAND * job.head.commands.len();
            if last.is_some() && bytes > LIST_PAGE {
                next = last;
                break;
            }
            last = Some(format!("{}{serial}", if job.is_active() { 'a' } else { 'f' }));
            if has_place {
                places.entry(queue.unwrap_or_default()).or_default().insert(*serial);
            }
            entries.insert(*serial, (job, entry));
        }
        for (name, serials) in places {
            let found = self.queues.places(name, &serials);
            for serial in serials {
                let Some((_, entry)) = entries.get_mut(&serial) else { continue };
                match found.get(&serial) {
                    Some(place) => entry["queue_position"] = place.to_string().into(),
                    None if name.is_empty() => {}
                    None => {
                        entry.as_object_mut().map(|entry| entry.shift_remove("queue_position"));
                    }
                }
            }
        }
        // Within a page in order of submission.
        let mut queues: Map<String, Value> = Map::new();
        queues.insert("no_queue".into(), json!({}));
        for (job, entry) in entries.into_values() {
            let name = job.asked.queue.as_deref().unwrap_or("no_queue");
            let queue = queues.entry(name).or_insert_with(|| json!({}));
            queue.set_field(&job.head.id, entry);
        }
        let mut reply = json!({ "jobs": queues });
        if let Some(next) = next {
            reply.set_field("next", next);
        }
        Ok(reply)
    }

    /// The query for a part of a job's log.
    pub fn log_question(
        &self,
        id: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<TextQuestion, Refusal> {
        let serial = self.find(id)?;
        let gone = || Refusal::new(ErrorCode::NotFound, format!("no such job: {}", Quoted(id)));
        let job = self.jobs.get(&serial).ok_or_else(gone)?;
        let length = length.unwrap_or(LOG_PART).min(LOG_PART);
        Ok(job.log_question(offset, usize::try_from(length).unwrap_or(usize::MAX)))
    }

    /// Generates an id for a job without one: its program and an unused number.
    pub fn new_id(&self, program: &str) -> String {
        const MOST: usize = 24;
        let name = program.rsplit('/').next().unwrap_or_default();
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(c);
        let name: String = name.chars().filter(is_plain).take(MOST).collect();
        let name = if name.is_empty() { "job" } else { &name };
        let numbers = self.last_serial.saturating_add(1)..;
        let mut ids = numbers.map(|number| format!("{name}-{number}"));
        ids.find(|id| !self.ids.contains_key(id)).unwrap_or_default()
    }

    /// The job that a user submitted with that nonce before.
    pub fn find_submitted(&self, nonce: &str, by: Option<&str>) -> Option<(Serial, &str)> {
        let is_it = |job: &&Job| {
            job.asked.nonce.as_deref() == Some(nonce) && job.asked.submitted_by.as_deref() == by
        };
        self.jobs.values().find(is_it).map(|job| (job.head.serial, job.head.id.as_str()))
    }

    /// Whether a job is not durable yet.
    pub fn is_filed(&self, serial: Serial) -> bool {
        self.jobs.get(&serial).is_some_and(|job| matches!(job.state, State::Filed { .. }))
    }

    /// The serial of the job with that id.
    pub fn find(&self, id: &str) -> Result<Serial, Refusal> {
        let serial = self.ids.get(id).copied();
        let is_filed = |serial: &Serial| {
            let job = self.jobs.get(serial);
            job.is_some_and(|job| !matches!(job.state, State::Filed { .. }))
        };
        serial.filter(is_filed).ok_or_else(|| {
            let why = format!(
                "no such job: {}; \"sysadm-events jobs\" lists those that are retained",
                Quoted(id)
            );
            Refusal::new(ErrorCode::NotFound, why)
        })
    }

    /// The output of a job for an attached client.
    pub fn output(&self, serial: Serial) -> Option<JobOutput<'_>> {
        self.jobs.get(&serial).map(Job::output)
    }

    /// The id of a job.
    pub fn id(&self, serial: Serial) -> Option<&str> {
        self.jobs.get(&serial).map(|job| job.head.id.as_str())
    }

    /// Whether a job is known.
    pub fn knows(&self, serial: Serial) -> bool {
        self.jobs.contains_key(&serial)
    }
}
