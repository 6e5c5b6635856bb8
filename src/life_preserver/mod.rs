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
mod followed;
mod follower;
mod lines;
mod persisted;
mod progress;
mod replications;
mod size;
mod tail;
mod verdict;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, info, warn};
use serde_json::{Value, json};

use crate::moment::{Budget, Moment};
use crate::rules::{Outcome, Reader, Reading, RuleSet, Run};
use crate::wire::{LifePreserverEvent, Priority, rfc3339};
use followed::Followed;
use follower::{Answer, Found, OldGenerations};
use lines::Taken;
use persisted::{Last, Memory};
use progress::{LineKind, Progress};
use replications::Replications;
use tail::PersistedGeneration;

pub use follower::{FollowId, Watching};
pub use verdict::{LogTrouble, Verdict};
pub use worker::Looks;

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
    /// A question about a file for a worker; [`LifePreserver::on_answer`] takes the answer.
    Ask(FollowId, PathBuf, Vec<u8>),
    /// No worker needs this file any more.
    Release(FollowId),
    /// This turn's slice is used up; more is available.
    More,
    /// More is available, but reading is paused.
    Waiting,
    /// Nothing until a file changes or a worker answers.
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
    /// The verdict of the event that was returned last.
    verdict: Option<Verdict>,
    /// Files to be polled, each once.
    marked: VecDeque<FollowId>,
    last_id: FollowId,
    /// Files that are still to be found, before they are read.
    unfound: VecDeque<FollowId>,
    /// The file that a worker reads; one that hangs does not count.
    asked: Option<FollowId>,
    /// Answers in the order in which they came: one, and one of each file that hung.
    answers: VecDeque<(FollowId, Vec<u8>)>,
    released: Vec<FollowId>,
    slice: Slice,
    /// A slice was taken up in this turn.
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
    followed: Followed,
    reader: Reader,
    /// Time of the last line that became an event.
    last_match: Option<SystemTime>,
    /// Time of the last warning about cut lines.
    cut_said: Option<Instant>,
}

#[derive(Debug)]
struct ProgressFile {
    followed: Followed,
    progress: Progress,
    /// Its content at the next poll belongs to an earlier replication.
    is_silent: bool,
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
            verdict: None,
            marked: VecDeque::new(),
            last_id: 0,
            unfound: VecDeque::new(),
            asked: None,
            answers: VecDeque::new(),
            released: Vec::new(),
            slice: Slice::default(),
            has_read: false,
            consumed: 0,
            changed,
            checked: now.instant,
        };
        for source in sources {
            let known = memory.logs.iter().find(|(log, _)| *log == source.log);
            let generations = known.map(|(_, generations)| generations.clone()).unwrap_or_default();
            life_preserver.add(source, generations, known.is_none());
        }
        for running in memory.running {
            if life_preserver.logs.iter().any(|log| log.followed.path == running.log) {
                let (dataset, file) = (running.dataset, running.file);
                life_preserver.start_replication(dataset, file, &running.log, now.instant);
            }
        }
        (life_preserver, wrong)
    }

    fn add(&mut self, source: Source, persisted: Vec<PersistedGeneration>, from_end: bool) {
        self.last_id += 1;
        let id = self.last_id;
        let followed = Followed::new(id, source.log, OldGenerations::ReadOn, persisted, from_end);
        self.unfound.push_back(id);
        let reader = Reader::new(source.rules);
        self.logs.push(Log { followed, reader, last_match: None, cut_said: None });
    }

    /// Whether a worker still resolves the name of a log.
    pub fn is_finding(&self) -> bool {
        self.logs.iter().any(|log| !log.followed.is_found && log.followed.hanging().is_none())
    }

    /// Applies another configuration. A log that remains keeps its position; a new one is followed
    /// from its end.
    pub fn configure(&mut self, limits: FollowLimits, sources: Vec<Source>) {
        self.limits = limits;
        self.replications.set_limits(limits.replications());
        let mut before = std::mem::take(&mut self.logs);
        for source in sources {
            match before.iter().position(|log| log.followed.path == source.log) {
                Some(at) => {
                    let mut log = before.remove(at);
                    log.reader.set_rules(source.rules);
                    self.logs.push(log);
                }
                None => self.add(source, Vec::new(), true),
            }
        }
        for log in before {
            info!("no longer following {}", log.followed.path.display());
            if self.slice.of.is_some_and(|(id, _)| id == log.followed.id) {
                self.slice.of = None;
            }
            self.unfound.retain(|id| *id != log.followed.id);
            self.release(log.followed.id);
        }
        self.changed = true;
    }

    /// Marks a file as changed.
    pub fn mark(&mut self, id: FollowId) {
        let can_be_read = self.followed(id).is_some_and(|it| it.is_found && it.hanging().is_none());
        if can_be_read && !self.marked.contains(&id) {
            self.marked.push_back(id);
        }
    }

    fn followed(&mut self, id: FollowId) -> Option<&mut Followed> {
        let logs = self.logs.iter_mut().map(|log| &mut log.followed);
        let files = self.files.iter_mut().map(|file| &mut file.followed);
        logs.chain(files).find(|followed| followed.id == id)
    }

    fn release(&mut self, id: FollowId) {
        self.asked.take_if(|asked| *asked == id);
        self.released.push(id);
    }

    /// No worker answers about this file, since that time.
    pub fn on_hanging(&mut self, id: FollowId, since: SystemTime) {
        self.asked.take_if(|asked| *asked == id);
        self.marked.retain(|marked| *marked != id);
        if let Some(followed) = self.followed(id) {
            followed.set_hanging(Some(since));
            // The state is complete without the position of a log that cannot be found yet.
            let is_found = followed.is_found;
            self.changed |= !is_found;
        }
    }

    /// A worker has answered about this file.
    pub fn on_answer(&mut self, id: FollowId, answer: Vec<u8>, now: Moment) {
        self.asked.take_if(|asked| *asked == id);
        let Some(followed) = self.followed(id) else { return };
        let hung = followed.hanging().is_some();
        followed.set_hanging(None);
        if followed.is_found {
            self.answers.push_back((id, answer));
        } else {
            self.on_found(id, &answer, now.instant);
        }
        if hung {
            // The worker that watches has not seen it since.
            self.mark(id);
        }
    }

    /// Applies the first answer about a log: its name is resolved.
    fn on_found(&mut self, id: FollowId, answer: &[u8], now: Instant) {
        let Some(followed) = self.followed(id) else { return };
        followed.is_found = true;
        let Some((answer, _)) = worker::read_answer(answer) else { return };
        followed.take(answer, now);
        let path = followed.path.display();
        match followed.tail.current() {
            Some(generation) => info!("following {path} from byte {}", generation.position()),
            None => info!("following {path}, which is not there yet"),
        }
        self.changed = true;
        self.mark(id);
    }

    /// The next file to be found, to be asked of a worker.
    pub fn next_to_find(&mut self, now: Instant) -> Option<(FollowId, PathBuf, Vec<u8>)> {
        let id = self.unfound.pop_front()?;
        let limits = self.limits;
        let followed = self.followed(id)?;
        Some((id, followed.path.clone(), followed.question(true, &limits, now)))
    }

    /// Marks all files: the poll interval has elapsed.
    pub fn mark_all(&mut self, now: Instant) {
        self.checked = now;
        let followed = self.logs.iter().map(|log| log.followed.id);
        let ids: Vec<FollowId> = followed.chain(self.files_in_use()).collect();
        ids.into_iter().for_each(|id| self.mark(id));
    }

    fn files_in_use(&self) -> impl Iterator<Item = FollowId> {
        let in_use = |file: &&ProgressFile| self.replications.want(&file.followed.path);
        self.files.iter().filter(in_use).map(|file| file.followed.id)
    }

    /// When [`LifePreserver::mark_all`] or [`LifePreserver::next`] must be called.
    pub fn due(&self) -> Option<Instant> {
        if self.logs.is_empty() {
            return None;
        }
        let files = self.files.iter().filter(|file| self.replications.want(&file.followed.path));
        let mut followed =
            self.logs.iter().map(|log| &log.followed).chain(files.map(|file| &file.followed));
        let is_polled = followed.any(Followed::is_polled);
        let interval =
            if is_polled { self.limits.poll_interval } else { self.limits.check_interval };
        let checked = self.checked + interval;
        if self.asked.is_some() {
            // The answer comes first, and what is due then is done with it.
            return Some(checked);
        }
        let old_generations = |log: &Log| {
            let due = log.followed.tail.due(self.limits.rotation_wait);
            due.filter(|_| log.followed.hanging().is_none())
        };
        let old_generations = self.logs.iter().filter_map(old_generations).min();
        [Some(checked), old_generations, self.replications.due()].into_iter().flatten().min()
    }

    /// Starts a turn of the loop: another slice may be read.
    pub fn begin_turn(&mut self) {
        self.has_read = false;
    }

    /// The next item. Processes at most one slice a turn, and reads no log unless `may_read`. Where
    /// `budget` ends inside the slice, the next call continues; each call processes at least one
    /// line.
    pub fn next(&mut self, may_read: bool, budget: Budget, now: Moment) -> Next {
        loop {
            if let Some(event) = self.next_in_slice(budget, now) {
                return Next::Event(event);
            }
            if self.slice.of.is_some() {
                return Next::More;
            }
            if let Some(id) = self.released.pop() {
                return Next::Release(id);
            }
            if !self.answers.is_empty() {
                if self.has_read {
                    return Next::More;
                }
                self.take_answer(now);
                continue;
            }
            // Progress is reported after all files that may have newer progress were polled.
            if self.marked.iter().chain(&self.asked).all(|id| self.is_log(*id))
                && let Some(event) = self.replications.next_report(now.instant)
            {
                return Next::Event(event);
            }
            if self.asked.is_some() {
                let waits = !may_read && self.marked.iter().any(|id| self.is_log(*id));
                return if waits { Next::Waiting } else { Next::Idle };
            }
            if self.marked.is_empty() {
                return Next::Idle;
            }
            // Paused logs do not delay the progress of replications.
            let next = self.marked.iter().position(|id| may_read || !self.is_log(*id));
            let Some(id) = next.and_then(|at| self.marked.remove(at)) else {
                return Next::Waiting;
            };
            if !self.is_wanted(id) {
                continue;
            }
            let limits = self.limits;
            if let Some(followed) = self.followed(id) {
                let question = followed.question(false, &limits, now.instant);
                let path = followed.path.clone();
                followed.is_open = true;
                self.asked = Some(id);
                return Next::Ask(id, path, question);
            }
        }
    }

    fn is_wanted(&self, id: FollowId) -> bool {
        let file = self.files.iter().find(|file| file.followed.id == id);
        file.is_none_or(|file| self.replications.want(&file.followed.path))
    }

    /// Applies an answer of a worker.
    fn take_answer(&mut self, now: Moment) {
        let Some((id, bytes)) = self.answers.pop_front() else { return };
        let Some((answer, at)) = worker::read_answer(&bytes) else { return };
        self.slice.bytes = bytes;
        self.slice.at = at;
        let has_more = if self.is_log(id) {
            self.take_log(id, answer, now.instant)
        } else {
            self.take_progress(id, answer, now)
        };
        if has_more {
            // At the end of the queue, so that each file gets its turn.
            self.mark(id);
        }
    }

    fn is_log(&self, id: FollowId) -> bool {
        self.logs.iter().any(|log| log.followed.id == id)
    }

    /// Applies an answer about a log; true if it must be polled again.
    fn take_log(&mut self, id: FollowId, answer: Answer, now: Instant) -> bool {
        let Some(log) = self.logs.iter_mut().find(|log| log.followed.id == id) else {
            return false;
        };
        let generations = log.followed.tail.len();
        let found = log.followed.take(answer, now);
        self.changed |= generations != log.followed.tail.len();
        match found {
            Found::Bytes(generation) => {
                self.slice.of = Some((id, generation));
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
    fn next_in_slice(&mut self, budget: Budget, now: Moment) -> Option<LifePreserverEvent> {
        let mut unknown = 0;
        while let Some((id, index)) = self.slice.of {
            if unknown > 0 && budget.is_spent() {
                break;
            }
            let log = self.logs.iter_mut().find(|log| log.followed.id == id);
            let Some(log) = log else {
                self.slice.of = None;
                break;
            };
            let Some(generation) = log.followed.tail.get(index) else {
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
            generation.advance(bytes.get(..length).unwrap_or_default(), cut);
            self.slice.at += length;
            self.consumed += length as u64;
            self.changed = true;
            let Some(line) = line else { continue };
            if line.cut && log.cut_said.is_none_or(|said| said + CUT_SAID <= now.instant) {
                log.cut_said = Some(now.instant);
                let (path, most) = (log.followed.path.display(), self.limits.max_line);
                warn!(
                    "{path}: a line is longer than {most} bytes (life_preserver.max_line) and is cut"
                );
            }
            let mut reading = match log.reader.read(&line.text) {
                Outcome::Known(reading) | Outcome::Unknown(reading) => reading,
                Outcome::Ignored | Outcome::Foreign | Outcome::Nothing => {
                    debug!("{}: not known: {}", log.followed.path.display(), line.text);
                    unknown += 1;
                    continue;
                }
            };
            reading.message = bounded(reading.message, self.limits.max_line, line.cut);
            log.last_match = Some(now.wall);
            let path = log.followed.path.clone();
            return Some(self.take_reading(reading, &path, now));
        }
        None
    }

    fn take_reading(&mut self, reading: Reading, log: &Path, now: Moment) -> LifePreserverEvent {
        self.verdict = Verdict::of(&reading, log);
        match reading.run {
            None => {}
            Some(Run::Begin(dataset, file)) => {
                self.start_replication(dataset, file, log, now.instant);
            }
            Some(Run::End(dataset)) => self.replications.end(&dataset, log),
            Some(Run::EndLast) => self.replications.end_last(log),
        }
        self.let_files_rest();
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
        let file = match self.files.iter().position(|file| file.followed.path == path) {
            // Its present content belongs to the earlier replication.
            Some(at) => self.files.remove(at).map(|mut file| {
                file.is_silent = true;
                file
            }),
            None => {
                self.last_id += 1;
                let followed =
                    Followed::new(self.last_id, path, OldGenerations::Forget, Vec::new(), false);
                Some(ProgressFile {
                    followed,
                    progress: Progress::default(),
                    is_silent: false,
                    silent_up_to: 0,
                })
            }
        };
        if let Some(file) = file {
            let id = file.followed.id;
            self.files.push_back(file);
            self.mark(id);
        }
    }

    /// Unwatches progress files without a replication, and drops the oldest beyond the maximum.
    fn let_files_rest(&mut self) {
        let mut surplus = self.files.len().saturating_sub(self.limits.max_replications);
        let (replications, mut released) = (&self.replications, Vec::new());
        self.files.retain_mut(|file| {
            let followed = &mut file.followed;
            if replications.want(&followed.path) {
                return true;
            }
            if std::mem::take(&mut followed.is_open) {
                followed.set_hanging(None);
                released.push(followed.id);
            }
            let goes = surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
        released.into_iter().for_each(|id| self.release(id));
    }

    /// Applies an answer about a progress file; true if it must be polled again.
    fn take_progress(&mut self, id: FollowId, answer: Answer, now: Moment) -> bool {
        let Some(file) = self.files.iter_mut().find(|file| file.followed.id == id) else {
            return false;
        };
        let before = file.followed.current();
        let found = file.followed.take(answer, now.instant);
        let current = file.followed.current();
        let is_silent = std::mem::take(&mut file.is_silent);
        // Another file, or the same one from an earlier position.
        let begins_anew = before.is_some_and(|(identity, position)| {
            current.is_none_or(|(now, at)| now != identity || at < position)
        });
        if found == Found::Anew || begins_anew {
            (file.progress, file.silent_up_to) = (Progress::default(), 0);
        } else if is_silent || (before.is_none() && current.is_some() && !file.is_fresh(now.wall)) {
            file.silent_up_to = file.followed.size;
        }
        match found {
            Found::Nothing => false,
            Found::Anew => true,
            Found::Bytes(index) => {
                let bytes = self.slice.bytes.get(self.slice.at..).unwrap_or_default();
                let amount = file.hear(index, bytes, self.limits.max_line);
                let path = file.followed.path.clone();
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
        let logs = self
            .logs
            .iter()
            .filter_map(|log| Some((log.followed.path.clone(), log.followed.persisted()?)));
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
                let current = log.followed.tail.current();
                let counts = log.reader.counts();
                json!({
                    "log": log.followed.path.to_string_lossy(),
                    "position": current.map(|generation| generation.position()),
                    "unwatched": log.followed.unwatched(),
                    "trouble": log.followed.last_error(),
                    "hanging": log.followed.hanging().map(rfc3339),
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
        self.followed.written.is_some_and(|written| {
            now.duration_since(written).unwrap_or_else(|ahead| ahead.duration()) < FRESH
        })
    }

    /// Processes what was read. Returns the snapshot and its progress where that changed.
    fn hear(&mut self, index: usize, bytes: &[u8], max_line: usize) -> Option<(String, String)> {
        let generation = self.followed.tail.get(index)?;
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
            generation.advance(rest.get(..length).unwrap_or_default(), cut);
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
