//! Snapshots and replications, read from log files as they grow.
//!
//! Life Preserver and its successors report only through their logs. Each log is followed by name;
//! a line that matches a rule becomes an event, and the start of a replication makes the file with
//! its progress be followed too.
//!
//! * [`rules`](crate::rules): the meaning of lines;
//! * [`lines`] splits bytes into lines, [`tail`] decides whether a file is still the one that was
//!   read, [`progress`] and [`replications`] track `zfs send`: all without I/O;
//! * [`follower`] and [`file`] do the I/O; [`persisted`] is the state that survives a restart.
//!
//! No line is lost: positions are persisted only at the owner's request, after the events of all
//! earlier lines were delivered.

mod file;
mod follower;
mod lines;
mod persisted;
mod progress;
mod replications;
mod size;
mod tail;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, info, warn};
use serde_json::{Value, json};

use crate::moment::{Budget, Moment};
use crate::rules::{Outcome, Reader, Reading, RuleSet, Run};
use crate::wire::{LifePreserverEvent, Priority, rfc3339};
use follower::{Follower, Found, OldGenerations, PollLimits};
use lines::Taken;
use persisted::{Last, Memory};
use progress::{LineKind, Progress};
use replications::Replications;

pub use follower::{FollowId, Watching};

/// Class of replication events.
const REPLICATION: &str = "replication";

/// Limits of this subsystem.
#[derive(Clone, Copy, Debug)]
pub struct FollowLimits {
    /// Maximum length of a line, in bytes; longer lines are cut.
    pub max_line: usize,
    /// Bytes read at once; more than two lines of maximum length.
    pub slice: usize,
    /// Interval between polls of a file whose changes the kernel does not report.
    pub poll_interval: Duration,
    /// Interval between polls of any other file.
    pub check_interval: Duration,
    /// Grace period in which a renamed file is still read.
    pub rotation_wait: Duration,
    /// Maximum number of replications followed at a time.
    pub max_replications: usize,
    /// Minimum interval between two progress events of one replication.
    pub progress_interval: Duration,
    /// A replication without progress for this long is no longer followed.
    pub progress_timeout: Duration,
}

impl FollowLimits {
    fn poll_limits(&self) -> PollLimits {
        let FollowLimits { slice, max_line, rotation_wait, .. } = *self;
        PollLimits { slice, max_line, rotation_wait }
    }

    fn replications(&self) -> replications::ReplicationLimits {
        replications::ReplicationLimits {
            most: self.max_replications,
            interval: self.progress_interval,
            timeout: self.progress_timeout,
        }
    }
}

/// A log and its rule sets: the first set that recognizes a line decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path of the log.
    pub log: PathBuf,
    /// In the order in which they are tried.
    pub rules: Vec<Arc<RuleSet>>,
}

/// Result of [`LifePreserver::next`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// An event.
    Event(LifePreserverEvent),
    /// This turn's slice is used up; more is available.
    More,
    /// More is available, but reading is paused.
    Waiting,
    /// Nothing until a file changes.
    Idle,
}

/// All logs and the replications in progress.
#[derive(Debug)]
pub struct LifePreserver {
    limits: FollowLimits,
    logs: Vec<Log>,
    /// Files with the progress of replications, the most recently used last.
    files: VecDeque<ProgressFile>,
    replications: Replications,
    /// The last event of each class, by class.
    last: BTreeMap<String, Last>,
    /// Files to be polled, each once.
    marked: VecDeque<FollowId>,
    last_id: FollowId,
    slice: Slice,
    /// A slice was read in this turn.
    has_read: bool,
    /// Bytes of logs that were processed.
    consumed: u64,
    /// Persisted state has changed.
    changed: bool,
    /// Time of the last poll of all files.
    checked: Instant,
}

#[derive(Debug)]
struct Log {
    follower: Follower,
    reader: Reader,
    /// Time of the last line that became an event.
    last_match: Option<SystemTime>,
    /// Time of the last warning about cut lines.
    cut_said: Option<Instant>,
}

#[derive(Debug)]
struct ProgressFile {
    follower: Follower,
    progress: Progress,
    /// Up to this offset the file has the progress of an earlier replication.
    silent_up_to: u64,
}

/// A chunk of a log that is not fully processed.
#[derive(Debug, Default)]
struct Slice {
    /// The file, and the index of its generation; `None` when fully processed.
    of: Option<(FollowId, usize)>,
    bytes: Vec<u8>,
    at: usize,
}

/// Minimum interval between warnings about cut lines.
const CUT_SAID: Duration = Duration::from_secs(60);
/// A progress file written this recently belongs to the replication that just began.
const FRESH: Duration = Duration::from_secs(5);

impl LifePreserver {
    /// Starts to follow the logs at the positions in `persisted`; a log without one at its end.
    /// Also returns the reason why `persisted` cannot be read, if so.
    pub fn begin(
        limits: FollowLimits,
        sources: Vec<Source>,
        persisted: Option<&[u8]>,
        watching: &mut dyn Watching,
        now: Moment,
    ) -> (LifePreserver, Option<String>) {
        let (memory, wrong) = match persisted.map(Memory::read) {
            None => (Memory::default(), None),
            Some(Ok(memory)) => (memory, None),
            Some(Err(wrong)) => (Memory::default(), Some(wrong)),
        };
        // Nothing to persist where no log is or was followed.
        let changed = persisted.is_some() || !sources.is_empty();
        let mut life_preserver = LifePreserver {
            limits,
            logs: Vec::new(),
            files: VecDeque::new(),
            replications: Replications::new(limits.replications()),
            last: memory.last.into_iter().map(|last| (last.class.clone(), last)).collect(),
            marked: VecDeque::new(),
            last_id: 0,
            slice: Slice::default(),
            has_read: false,
            consumed: 0,
            changed,
            checked: now.instant,
        };
        for source in sources {
            let known = memory.logs.iter().find(|(log, _)| *log == source.log);
            let mut follower = life_preserver.follower(source.log, known.is_none());
            if let Some((_, generations)) = known {
                follower.resume(generations, limits.poll_limits(), now.instant);
            }
            life_preserver.add(follower, source.rules, watching, now.instant);
        }
        for running in memory.running {
            if life_preserver.logs.iter().any(|log| log.follower.path == running.log) {
                let (dataset, file) = (running.dataset, running.file);
                life_preserver.start_replication(dataset, file, &running.log, now.instant);
            }
        }
        (life_preserver, wrong)
    }

    fn follower(&mut self, log: PathBuf, from_end: bool) -> Follower {
        self.last_id += 1;
        Follower::new(self.last_id, log, OldGenerations::ReadOn, from_end)
    }

    fn add(
        &mut self,
        mut follower: Follower,
        rules: Vec<Arc<RuleSet>>,
        watching: &mut dyn Watching,
        now: Instant,
    ) {
        follower.find(self.limits.poll_limits(), watching, now);
        let path = follower.path.display();
        match follower.tail.current() {
            Some(generation) => info!("following {path} from byte {}", generation.position()),
            None => info!("following {path}, which is not there yet"),
        }
        self.marked.push_back(follower.id);
        let reader = Reader::new(rules);
        self.logs.push(Log { follower, reader, last_match: None, cut_said: None });
    }

    /// Applies another configuration. A log that remains keeps its position; a new one is followed
    /// from its end.
    pub fn configure(
        &mut self,
        limits: FollowLimits,
        sources: Vec<Source>,
        watching: &mut dyn Watching,
        now: Instant,
    ) {
        self.limits = limits;
        self.replications.set_limits(limits.replications());
        let mut before = std::mem::take(&mut self.logs);
        for source in sources {
            match before.iter().position(|log| log.follower.path == source.log) {
                Some(at) => {
                    let mut log = before.remove(at);
                    log.reader.set_rules(source.rules);
                    self.logs.push(log);
                }
                None => {
                    let follower = self.follower(source.log, true);
                    self.add(follower, source.rules, watching, now);
                }
            }
        }
        for mut log in before {
            info!("no longer following {}", log.follower.path.display());
            if self.slice.of.is_some_and(|(id, _)| id == log.follower.id) {
                self.slice.of = None;
            }
            log.follower.release(watching);
        }
        self.changed = true;
    }

    /// Marks a file as changed.
    pub fn mark(&mut self, id: FollowId) {
        if !self.marked.contains(&id) {
            self.marked.push_back(id);
        }
    }

    /// Marks all files: the poll interval has elapsed.
    pub fn mark_all(&mut self, now: Instant) {
        self.checked = now;
        let followed = self.logs.iter().map(|log| log.follower.id);
        let ids: Vec<FollowId> = followed.chain(self.files_in_use()).collect();
        ids.into_iter().for_each(|id| self.mark(id));
    }

    fn files_in_use(&self) -> impl Iterator<Item = FollowId> {
        let in_use = |file: &&ProgressFile| self.replications.want(&file.follower.path);
        self.files.iter().filter(in_use).map(|file| file.follower.id)
    }

    /// When [`LifePreserver::mark_all`] or [`LifePreserver::next`] must be called.
    pub fn due(&self) -> Option<Instant> {
        if self.logs.is_empty() {
            return None;
        }
        let files = self.files.iter().filter(|file| self.replications.want(&file.follower.path));
        let mut followers =
            self.logs.iter().map(|log| &log.follower).chain(files.map(|file| &file.follower));
        let is_polled = followers.any(Follower::is_polled);
        let interval =
            if is_polled { self.limits.poll_interval } else { self.limits.check_interval };
        let old_generations = |log: &Log| log.follower.tail.due(self.limits.rotation_wait);
        let old_generations = self.logs.iter().filter_map(old_generations).min();
        [Some(self.checked + interval), old_generations, self.replications.due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Starts a turn of the loop: another slice may be read.
    pub fn begin_turn(&mut self) {
        self.has_read = false;
    }

    /// The next item. Reads at most one slice a turn, and no log unless `may_read`. Where `budget`
    /// ends inside the slice, the next call continues; each call processes at least one line.
    pub fn next(
        &mut self,
        may_read: bool,
        budget: Budget,
        watching: &mut dyn Watching,
        now: Moment,
    ) -> Next {
        loop {
            if let Some(event) = self.next_in_slice(budget, watching, now) {
                return Next::Event(event);
            }
            if self.slice.of.is_some() {
                return Next::More;
            }
            // Progress is reported after all files that may have newer progress were polled.
            if self.marked.iter().all(|id| self.is_log(*id))
                && let Some(event) = self.replications.next_report(now.instant)
            {
                return Next::Event(event);
            }
            if self.marked.is_empty() {
                return Next::Idle;
            }
            if self.has_read {
                return Next::More;
            }
            // Paused logs do not delay the progress of replications.
            let next = self.marked.iter().position(|id| may_read || !self.is_log(*id));
            let Some(id) = next.and_then(|at| self.marked.remove(at)) else {
                return Next::Waiting;
            };
            let has_more = if self.is_log(id) {
                self.look_at_log(id, watching, now.instant)
            } else {
                self.look_at_progress(id, watching, now)
            };
            if has_more {
                // At the end of the queue, so that each file gets its turn.
                self.marked.push_back(id);
            }
        }
    }

    fn is_log(&self, id: FollowId) -> bool {
        self.logs.iter().any(|log| log.follower.id == id)
    }

    /// Polls a log; true where it must be polled again.
    fn look_at_log(&mut self, id: FollowId, watching: &mut dyn Watching, now: Instant) -> bool {
        let poll_limits = self.limits.poll_limits();
        let Some(log) = self.logs.iter_mut().find(|log| log.follower.id == id) else {
            return false;
        };
        let generations = log.follower.tail.len();
        let found = log.follower.look(poll_limits, &mut self.slice.bytes, watching, now);
        self.changed |= generations != log.follower.tail.len();
        match found {
            Found::Bytes(generation) => {
                (self.slice.of, self.slice.at) = (Some((id, generation)), 0);
                self.has_read = true;
                true
            }
            Found::Anew => {
                self.changed = true;
                true
            }
            Found::Nothing => false,
        }
    }

    /// The event of the next recognized line in the slice. `None` at the end of the slice, and
    /// where `budget` is spent.
    fn next_in_slice(
        &mut self,
        budget: Budget,
        watching: &mut dyn Watching,
        now: Moment,
    ) -> Option<LifePreserverEvent> {
        let mut unknown = 0;
        while let Some((id, index)) = self.slice.of {
            if unknown > 0 && budget.is_spent() {
                break;
            }
            let log = self.logs.iter_mut().find(|log| log.follower.id == id);
            let Some(log) = log else {
                self.slice.of = None;
                break;
            };
            let Some(generation) = log.follower.tail.get(index) else {
                self.slice.of = None;
                break;
            };
            let mut cut = generation.cut;
            let bytes = self.slice.bytes.get(self.slice.at..).unwrap_or_default();
            let (line, length) = match lines::take(bytes, &mut cut, self.limits.max_line) {
                Taken::Line(line, length) => (Some(line), length),
                Taken::Rest(length) => (None, length),
                Taken::Nothing => {
                    self.slice.of = None;
                    break;
                }
            };
            generation.advance(&bytes[..length], cut);
            self.slice.at += length;
            self.consumed += length as u64;
            self.changed = true;
            let Some(line) = line else { continue };
            if line.cut && log.cut_said.is_none_or(|said| said + CUT_SAID <= now.instant) {
                log.cut_said = Some(now.instant);
                let (path, most) = (log.follower.path.display(), self.limits.max_line);
                warn!(
                    "{path}: a line is longer than {most} bytes (life_preserver.max_line) and is cut"
                );
            }
            let mut reading = match log.reader.read(&line.text) {
                Outcome::Known(reading) | Outcome::Unknown(reading) => reading,
                Outcome::Ignored | Outcome::Foreign | Outcome::Nothing => {
                    debug!("{}: not known: {}", log.follower.path.display(), line.text);
                    unknown += 1;
                    continue;
                }
            };
            reading.message = bounded(reading.message, self.limits.max_line, line.cut);
            log.last_match = Some(now.wall);
            let path = log.follower.path.clone();
            return Some(self.take_reading(reading, &path, watching, now));
        }
        None
    }

    fn take_reading(
        &mut self,
        reading: Reading,
        log: &Path,
        watching: &mut dyn Watching,
        now: Moment,
    ) -> LifePreserverEvent {
        match reading.run {
            None => {}
            Some(Run::Begin(dataset, file)) => {
                self.start_replication(dataset, file, log, now.instant);
            }
            Some(Run::End(dataset)) => self.replications.end(&dataset, log),
            Some(Run::EndLast) => self.replications.end_last(log),
        }
        self.let_files_rest(watching);
        let event = LifePreserverEvent {
            message: reading.message,
            priority: Priority::new(reading.priority),
            class: reading.class.name(),
        };
        let last = Last {
            class: event.class.to_owned(),
            message: event.message.clone(),
            priority: event.priority.to_string(),
            time: now.wall,
        };
        self.last.insert(last.class.clone(), last);
        event
    }

    fn start_replication(
        &mut self,
        dataset: String,
        file: Option<PathBuf>,
        log: &Path,
        now: Instant,
    ) {
        let file = file.filter(|file| file.is_absolute());
        self.replications.begin(dataset, file.clone(), log, now);
        let Some(path) = file else { return };
        let file = match self.files.iter().position(|file| file.follower.path == path) {
            // Its present content belongs to the earlier replication.
            Some(at) => self.files.remove(at).map(|mut file| {
                file.silent_up_to = file.size();
                file
            }),
            None => {
                self.last_id += 1;
                let follower = Follower::new(self.last_id, path, OldGenerations::Forget, false);
                Some(ProgressFile { follower, progress: Progress::default(), silent_up_to: 0 })
            }
        };
        if let Some(file) = file {
            self.mark(file.follower.id);
            self.files.push_back(file);
        }
    }

    /// Unwatches progress files without a replication, and drops the oldest beyond the maximum.
    fn let_files_rest(&mut self, watching: &mut dyn Watching) {
        let mut surplus = self.files.len().saturating_sub(self.limits.max_replications);
        let replications = &self.replications;
        self.files.retain_mut(|file| {
            if replications.want(&file.follower.path) {
                return true;
            }
            file.follower.rest(watching);
            let goes = surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// Polls a progress file; true where it must be polled again.
    fn look_at_progress(&mut self, id: FollowId, watching: &mut dyn Watching, now: Moment) -> bool {
        let poll_limits = self.limits.poll_limits();
        let Some(at) = self.files.iter().position(|file| file.follower.id == id) else {
            return false;
        };
        let Some(file) = self.files.get_mut(at) else { return false };
        if !self.replications.want(&file.follower.path) {
            return false;
        }
        let before = file.follower.tail.current().map(|generation| generation.identity);
        // The slice of a log is processed before any file is polled, so the buffer is free.
        let bytes = &mut self.slice.bytes;
        let found = file.follower.look(poll_limits, bytes, watching, now.instant);
        let current = file.follower.tail.current().map(|generation| generation.identity);
        if found == Found::Anew || (before.is_some() && before != current) {
            (file.progress, file.silent_up_to) = (Progress::default(), 0);
        } else if before.is_none() && current.is_some() && !file.is_fresh(now.wall) {
            file.silent_up_to = file.size();
        }
        match found {
            Found::Nothing => false,
            Found::Anew => true,
            Found::Bytes(index) => {
                let amount = file.hear(index, bytes, self.limits.max_line);
                let path = file.follower.path.clone();
                if let Some((snapshot, amount)) = amount {
                    self.replications.progress(&path, &snapshot, amount, now.instant);
                }
                self.has_read = true;
                true
            }
        }
    }

    /// Number of log bytes processed.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether [`LifePreserver::memory`] has changed since its last call.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Persisting failed: the state is to be persisted again.
    pub fn persist_again(&mut self) {
        self.changed = true;
    }

    /// The state to persist for the next start.
    pub fn memory(&mut self) -> Vec<u8> {
        self.changed = false;
        // A log that could not be examined yet is unknown, not absent.
        let logs = self.logs.iter().filter(|log| !log.follower.is_undecided()).map(|log| {
            let generations =
                log.follower.tail.iter().map(|generation| generation.persisted_form()).collect();
            (log.follower.path.clone(), generations)
        });
        let running = self.replications.iter().map(|running| persisted::Running {
            dataset: running.dataset.clone(),
            file: running.file.clone(),
            log: running.log.clone(),
        });
        Memory::write(logs, running, self.last.values().cloned())
    }

    /// The state for a request.
    pub fn status(&self, now: SystemTime) -> Value {
        let logs: Vec<Value> = self
            .logs
            .iter()
            .map(|log| {
                let current = log.follower.tail.current();
                let counts = log.reader.counts();
                json!({
                    "log": log.follower.path.to_string_lossy(),
                    "position": current.map(|generation| generation.position()),
                    "unwatched": log.follower.unwatched(),
                    "trouble": log.follower.last_error(),
                    "rules": log.reader.names().collect::<Vec<_>>(),
                    "lines": counts.lines,
                    "matched": counts.matched,
                    "unknown": counts.unknown,
                    "last_match": log.last_match.map(rfc3339),
                })
            })
            .collect();
        let running: Vec<Value> = self
            .replications
            .amounts()
            .map(|(dataset, amount)| json!({ "dataset": dataset, "progress": amount }))
            .collect();
        let mut status = persisted::by_class(self.last.values(), now);
        status.insert("running".to_owned(), running.into());
        status.insert("logs".to_owned(), logs.into());
        Value::Object(status)
    }
}

impl ProgressFile {
    /// Whether the file was written just now, which may be after the turn of the loop began.
    fn is_fresh(&self, now: SystemTime) -> bool {
        self.follower.written().is_some_and(|written| {
            now.duration_since(written).unwrap_or_else(|ahead| ahead.duration()) < FRESH
        })
    }

    fn size(&self) -> u64 {
        let current = self.follower.tail.current();
        current
            .and_then(|generation| generation.handle.metadata().ok())
            .map_or(0, |about| about.len())
    }

    /// Processes what was read. Returns the snapshot and its progress where that changed.
    fn hear(&mut self, index: usize, bytes: &[u8], max_line: usize) -> Option<(String, String)> {
        let generation = self.follower.tail.get(index)?;
        let mut news = None;
        let mut at = 0;
        loop {
            let mut cut = generation.cut;
            let rest = bytes.get(at..).unwrap_or_default();
            let (line, length) = match lines::take(rest, &mut cut, max_line) {
                Taken::Nothing => break,
                Taken::Rest(length) => (None, length),
                Taken::Line(line, length) => (Some(line), length),
            };
            generation.advance(&rest[..length], cut);
            at += length;
            if let Some(line) = line
                && let LineKind::Amount(snapshot) = self.progress.hear(&line.text)
            {
                news = (generation.position() > self.silent_up_to).then_some(snapshot);
            }
        }
        Some((news?, self.progress.summary()?))
    }
}

/// The lines of a whole log as the daemon reads them; the last needs no terminator.
pub fn whole_lines(bytes: &[u8], max_line: usize) -> impl Iterator<Item = String> {
    let (mut at, mut cut) = (0, false);
    let mut bytes = bytes.to_vec();
    if bytes.last().is_some_and(|last| *last != b'\n') {
        bytes.push(b'\n');
    }
    std::iter::from_fn(move || {
        loop {
            match lines::take(bytes.get(at..)?, &mut cut, max_line) {
                Taken::Line(line, length) => {
                    at += length;
                    return Some(line.text.into_owned());
                }
                Taken::Rest(length) => at += length,
                Taken::Nothing => return None,
            }
        }
    })
}

/// Limits a message to the maximum length of a line and a little, so that an event stays small.
fn bounded(mut message: String, max_line: usize, was_cut: bool) -> String {
    const MORE: usize = 256;
    let most = max_line + MORE;
    let too_long = message.len() > most;
    if too_long {
        message.truncate(message.floor_char_boundary(most));
    }
    if was_cut || too_long {
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests;
