//! Snapshots and replications, from logs as they grow.
//!
//! Life Preserver and the programs that do its work today write logs, and nothing else tells what
//! they do. Each log is followed by its name; a line that is known becomes an event, and the start
//! of a replication makes the file with its progress be followed too.
//!
//! * [`rules`](crate::rules) say what a line means;
//! * [`lines`] makes lines of bytes, [`tail`] judges whether a file is still the one that was read,
//!   [`progress`] and [`replications`] know how far a `zfs send` is: all without I/O;
//! * [`follower`] and [`file`] are the thin shell around them; [`kept`] is what a restart finds.
//!
//! No line is lost: positions are kept only when their owner says so, which is when the events of
//! all lines before them are with those who wanted them.

mod file;
mod follower;
mod kept;
mod lines;
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
use follower::{Follower, Former, Found, Looking};
use kept::{Last, Memory};
use lines::Taken;
use progress::{Heard, Progress};
use replications::Replications;

pub use follower::{FollowId, Watching};

/// The class of events of replications.
const REPLICATION: &str = "replication";

/// The limits of the configuration that concern this room.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest line, in bytes; a longer one is cut.
    pub max_line: usize,
    /// Bytes read at once; more than two of the longest lines.
    pub slice: usize,
    /// Between two looks at a file whose changes the kernel does not tell.
    pub poll_interval: Duration,
    /// Between two looks at any other.
    pub check_interval: Duration,
    /// How long a file that was renamed away is still read.
    pub rotation_wait: Duration,
    /// Replications that are followed at a time.
    pub max_replications: usize,
    /// The least time between two events of one replication's progress.
    pub progress_interval: Duration,
    /// A replication without news for so long is no longer followed.
    pub progress_timeout: Duration,
}

impl Limits {
    fn looking(&self) -> Looking {
        let Limits { slice, max_line, rotation_wait, .. } = *self;
        Looking { slice, max_line, rotation_wait }
    }

    fn replications(&self) -> replications::Limits {
        replications::Limits {
            most: self.max_replications,
            interval: self.progress_interval,
            timeout: self.progress_timeout,
        }
    }
}

/// A log, and the rules for its lines: the first rule set that knows a line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path.
    pub log: PathBuf,
    /// In the order in which they are asked.
    pub rules: Vec<Arc<RuleSet>>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Something happened.
    Event(LifePreserverEvent),
    /// This turn's share is read; there is more.
    More,
    /// There is more, but it may not be read now.
    Waiting,
    /// Nothing, before something changes.
    Idle,
}

/// All logs, and what is under way in them.
#[derive(Debug)]
pub struct LifePreserver {
    limits: Limits,
    logs: Vec<Log>,
    /// Files with the progress of replications, the latest used last.
    files: VecDeque<ProgressFile>,
    replications: Replications,
    /// The last event of each class, by class.
    last: BTreeMap<String, Last>,
    /// What is to be looked at, each once.
    marked: VecDeque<FollowId>,
    last_id: FollowId,
    slice: Slice,
    /// A slice was read in this turn.
    has_read: bool,
    /// Bytes of logs that were read for good.
    consumed: u64,
    /// Something that is kept has changed.
    changed: bool,
    /// When all was last looked at.
    checked: Instant,
}

#[derive(Debug)]
struct Log {
    follower: Follower,
    reader: Reader,
    /// When a line was last an event.
    last_match: Option<SystemTime>,
    /// When it was last said that a line was cut.
    cut_said: Option<Instant>,
}

#[derive(Debug)]
struct ProgressFile {
    follower: Follower,
    progress: Progress,
    /// Up to here it has the progress of an earlier replication.
    silent_up_to: u64,
}

/// A piece of a log that was read and is not used up.
#[derive(Debug, Default)]
struct Slice {
    /// Whose, and of which of its strands; `None` where it is used up.
    of: Option<(FollowId, usize)>,
    bytes: Vec<u8>,
    at: usize,
}

/// How often it is said that lines are cut.
const CUT_SAID: Duration = Duration::from_secs(60);
/// A file with progress that was written to so lately belongs to the replication that just began.
const FRESH: Duration = Duration::from_secs(5);

impl LifePreserver {
    /// Begins to follow, from where `kept` says that the logs were read; a log of which it says
    /// nothing from its end. Also gives why `kept` cannot be read, if it cannot.
    pub fn begin(
        limits: Limits,
        sources: Vec<Source>,
        kept: Option<&[u8]>,
        watching: &mut dyn Watching,
        now: Moment,
    ) -> (LifePreserver, Option<String>) {
        let (memory, wrong) = match kept.map(Memory::read) {
            None => (Memory::default(), None),
            Some(Ok(memory)) => (memory, None),
            Some(Err(wrong)) => (Memory::default(), Some(wrong)),
        };
        // Where nothing is followed and nothing was, there is nothing to be kept.
        let changed = kept.is_some() || !sources.is_empty();
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
            if let Some((_, strands)) = known {
                follower.resume(strands, limits.looking(), now.instant);
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
        Follower::new(self.last_id, log, Former::ReadOn, from_end)
    }

    fn add(
        &mut self,
        mut follower: Follower,
        rules: Vec<Arc<RuleSet>>,
        watching: &mut dyn Watching,
        now: Instant,
    ) {
        follower.find(self.limits.looking(), watching, now);
        let path = follower.path.display();
        match follower.tail.current() {
            Some(strand) => info!("following {path} from byte {}", strand.position()),
            None => info!("following {path}, which is not there yet"),
        }
        self.marked.push_back(follower.id);
        let reader = Reader::new(rules);
        self.logs.push(Log { follower, reader, last_match: None, cut_said: None });
    }

    /// Another configuration. A log that is in it as before goes on where it is; a new one is
    /// followed from its end.
    pub fn configure(
        &mut self,
        limits: Limits,
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

    /// Something about this file has changed, or may have.
    pub fn mark(&mut self, id: FollowId) {
        if !self.marked.contains(&id) {
            self.marked.push_back(id);
        }
    }

    /// All are to be looked at: the time for it has come.
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

    /// When [`LifePreserver::mark_all`] is to be called, or something is to be told.
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
        let former = |log: &Log| log.follower.tail.due(self.limits.rotation_wait);
        let former = self.logs.iter().filter_map(former).min();
        [Some(self.checked + interval), former, self.replications.due()].into_iter().flatten().min()
    }

    /// A turn of the loop begins: another slice may be read.
    pub fn begin_turn(&mut self) {
        self.has_read = false;
    }

    /// What comes next. At most one slice is read in a turn, and of logs none where `may_read`
    /// says so. Where `budget` ends within the slice, the rest of it waits for the next call; each
    /// call reads one line at least.
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
            // The newest: not before the files that may have it were looked at.
            if self.marked.iter().all(|id| self.is_log(*id))
                && let Some(event) = self.replications.tell(now.instant)
            {
                return Next::Event(event);
            }
            if self.marked.is_empty() {
                return Next::Idle;
            }
            if self.has_read {
                return Next::More;
            }
            // The progress of replications is not held up where logs are.
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
                // Behind the others: each has its turn.
                self.marked.push_back(id);
            }
        }
    }

    fn is_log(&self, id: FollowId) -> bool {
        self.logs.iter().any(|log| log.follower.id == id)
    }

    /// Looks at a log; true where it has to be looked at again.
    fn look_at_log(&mut self, id: FollowId, watching: &mut dyn Watching, now: Instant) -> bool {
        let looking = self.limits.looking();
        let Some(log) = self.logs.iter_mut().find(|log| log.follower.id == id) else {
            return false;
        };
        let strands = log.follower.tail.len();
        let found = log.follower.look(looking, &mut self.slice.bytes, watching, now);
        self.changed |= strands != log.follower.tail.len();
        match found {
            Found::Bytes(strand) => {
                (self.slice.of, self.slice.at) = (Some((id, strand)), 0);
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

    /// The event of the next line in the slice that is known. `None` at the end of the slice, and
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
            let Some(strand) = log.follower.tail.get(index) else {
                self.slice.of = None;
                break;
            };
            let mut cut = strand.cut;
            let bytes = self.slice.bytes.get(self.slice.at..).unwrap_or_default();
            let (line, length) = match lines::take(bytes, &mut cut, self.limits.max_line) {
                Taken::Line(line, length) => (Some(line), length),
                Taken::Rest(length) => (None, length),
                Taken::Nothing => {
                    self.slice.of = None;
                    break;
                }
            };
            strand.advance(&bytes[..length], cut);
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
            // What is in it now the one before has written.
            Some(at) => self.files.remove(at).map(|mut file| {
                file.silent_up_to = file.size();
                file
            }),
            None => {
                self.last_id += 1;
                let follower = Follower::new(self.last_id, path, Former::Forget, false);
                Some(ProgressFile { follower, progress: Progress::default(), silent_up_to: 0 })
            }
        };
        if let Some(file) = file {
            self.mark(file.follower.id);
            self.files.push_back(file);
        }
    }

    /// Files with progress that nobody waits for are not watched; the oldest of too many go.
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

    /// Looks at a file with progress; true where it has to be looked at again.
    fn look_at_progress(&mut self, id: FollowId, watching: &mut dyn Watching, now: Moment) -> bool {
        let looking = self.limits.looking();
        let Some(at) = self.files.iter().position(|file| file.follower.id == id) else {
            return false;
        };
        let Some(file) = self.files.get_mut(at) else { return false };
        if !self.replications.want(&file.follower.path) {
            return false;
        }
        let before = file.follower.tail.current().map(|strand| strand.identity);
        // The slice of a log is used up before anything is looked at, so its place is free.
        let bytes = &mut self.slice.bytes;
        let found = file.follower.look(looking, bytes, watching, now.instant);
        let current = file.follower.tail.current().map(|strand| strand.identity);
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

    /// How many bytes of logs were read for good.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether [`LifePreserver::memory`] has changed since it was last asked for.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// It could not be kept: it is to be kept again.
    pub fn keep_again(&mut self) {
        self.changed = true;
    }

    /// What is to be kept, for the next start to begin with.
    pub fn memory(&mut self) -> Vec<u8> {
        self.changed = false;
        // Of a log that could not be looked at yet nothing is known, not even that it is absent.
        let logs = self.logs.iter().filter(|log| !log.follower.is_undecided()).map(|log| {
            let strands = log.follower.tail.iter().map(|strand| strand.keep()).collect();
            (log.follower.path.clone(), strands)
        });
        let running = self.replications.iter().map(|running| kept::Running {
            dataset: running.dataset.clone(),
            file: running.file.clone(),
            log: running.log.clone(),
        });
        Memory::write(logs, running, self.last.values().cloned())
    }

    /// How it goes, for a request.
    pub fn status(&self, now: SystemTime) -> Value {
        let logs: Vec<Value> = self
            .logs
            .iter()
            .map(|log| {
                let current = log.follower.tail.current();
                let counts = log.reader.counts();
                json!({
                    "log": log.follower.path.to_string_lossy(),
                    "position": current.map(|strand| strand.position()),
                    "unwatched": log.follower.unwatched(),
                    "trouble": log.follower.trouble(),
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
        let mut status = kept::by_class(self.last.values(), now);
        status.insert("running".to_owned(), running.into());
        status.insert("logs".to_owned(), logs.into());
        Value::Object(status)
    }
}

impl ProgressFile {
    /// Whether it was written to just now, which may be after the turn of the loop began.
    fn is_fresh(&self, now: SystemTime) -> bool {
        self.follower.written().is_some_and(|written| {
            now.duration_since(written).unwrap_or_else(|ahead| ahead.duration()) < FRESH
        })
    }

    fn size(&self) -> u64 {
        let current = self.follower.tail.current();
        current.and_then(|strand| strand.handle.metadata().ok()).map_or(0, |about| about.len())
    }

    /// Takes in what was read; the snapshot and how far it is, if that is news.
    fn hear(&mut self, index: usize, bytes: &[u8], max_line: usize) -> Option<(String, String)> {
        let strand = self.follower.tail.get(index)?;
        let mut news = None;
        let mut at = 0;
        loop {
            let mut cut = strand.cut;
            let rest = bytes.get(at..).unwrap_or_default();
            let (line, length) = match lines::take(rest, &mut cut, max_line) {
                Taken::Nothing => break,
                Taken::Rest(length) => (None, length),
                Taken::Line(line, length) => (Some(line), length),
            };
            strand.advance(&rest[..length], cut);
            at += length;
            if let Some(line) = line
                && let Heard::Amount(snapshot) = self.progress.hear(&line.text)
            {
                news = (strand.position() > self.silent_up_to).then_some(snapshot);
            }
        }
        Some((news?, self.progress.told()?))
    }
}

/// The lines of a whole log, as the daemon reads them; the last needs no end.
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

/// A message of the longest line's length and a little, so that an event stays small.
fn bounded(mut message: String, max_line: usize, was_cut: bool) -> String {
    const MORE: usize = 256;
    let most = max_line + MORE;
    let too_long = message.len() > most;
    if too_long {
        let mut end = most;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
    if was_cut || too_long {
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests;
