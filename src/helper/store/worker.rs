//! The store process: a child that carries out orders in sequence, and may block.
//!
//! It reads all available orders, carries them out, and then makes all their commits durable at
//! once: many jobs that end together cost one fsync. It ends when the daemon does, after the last
//! order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::channel::first;
use super::history::{History, HistoryQuestion};
use super::journal::{Journal, WriteError, put_in_place};
use super::keys;
use super::message::{Order, Report};
use super::segments::{JobLog, LogEnd, ends, remove_unknown};
use crate::auth::key::KeyStore;
use crate::sys::may_block::MayBlock;
use crate::wire::Excerpt;

/// Location of the store.
#[derive(Clone, Debug)]
pub struct StoreLocation {
    /// The state directory.
    pub directory: PathBuf,
    /// Whether there is a journal; without one nothing survives the daemon.
    pub journal: bool,
    /// Device and inode of the directory at the start of the daemon.
    identity: (u64, u64),
}

fn identity(about: &fs::Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

impl StoreLocation {
    /// Opens an existing state directory. While the returned file is open, no other directory can
    /// have the same identity.
    pub fn open(directory: &Path, journal: bool) -> std::io::Result<(StoreLocation, fs::File)> {
        let file = fs::File::open(directory)?;
        let identity = identity(&file.metadata()?);
        Ok((StoreLocation { directory: directory.to_owned(), journal, identity }, file))
    }

    /// Whether the path still leads to the original directory: a file written to another one, or to
    /// a removed one, would be missing after a restart.
    fn verify(&self) -> Result<(), String> {
        let name = self.directory.display();
        match fs::metadata(&self.directory) {
            Ok(about) if identity(&about) == self.identity => Ok(()),
            Ok(_) => Err(format!("{name} is another directory than at the start of the daemon")),
            Err(error) => Err(format!("the state directory is lost: {name}: {error}")),
        }
    }

    /// Path of the journal.
    pub fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }

    /// Path of the journal of notifications, which has a directory of its own.
    pub fn notifications(&self) -> PathBuf {
        self.directory.join("notify").join("journal")
    }

    /// Directory of the jobs' logs.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("log")
    }
}

/// A query for a part of a job's log, as text.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TextQuestion {
    /// Serial of the job.
    pub serial: u64,
    /// Number of bytes that the job printed; 0 where only its file knows.
    pub total: u64,
    /// Maximum size of the whole log, in bytes.
    pub limit: usize,
    /// More output may follow: only the part with a stable position is returned.
    pub active: bool,
    /// Offset of the part, in bytes of the text.
    pub offset: u64,
    /// Its maximum length, in bytes.
    pub length: usize,
}

/// A query for the logs of a job's commands, head and tail of each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PiecesQuestion {
    pub(super) serial: u64,
    pub(super) ranges: Vec<Range<u64>>,
    /// Maximum size of each, in bytes.
    pub(super) limit: usize,
}

/// Bytes read at once: the buffer of a socket.
const READ: usize = 64 * 1024;
/// Maximum number of unacknowledged bytes of log texts; less than half of the smallest backlog.
const UNREPORTED: usize = 16 * 1024;

/// Carries out orders from `socket` until its other end is closed.
pub(super) fn run(mut socket: UnixStream, place: &StoreLocation, may_block: MayBlock) {
    let mut worker = Worker::new(place, may_block);
    let mut bytes = Vec::new();
    let mut room = vec![0; READ];
    loop {
        let reports = worker.take_reports();
        if !reports.is_empty() && socket.write_all(&reports).is_err() {
            // There is no recipient; orders are carried out nevertheless.
            worker.deaf = true;
        }
        match socket.read(&mut room) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(room.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        let mut done = 0;
        while let Some((frame, length)) = first(bytes.get(done..).unwrap_or_default()) {
            done += length;
            if let Some(order) = Order::read(&frame) {
                worker.carry_out(order);
            }
        }
        bytes.drain(..done);
        worker.commit();
        worker.report_logged();
    }
    worker.commit();
}

struct Worker<'p> {
    place: &'p StoreLocation,
    may_block: MayBlock,
    /// Why there is none, where there should be one.
    journal: Result<Option<Journal>, String>,
    /// The journal of notifications, opened for the first of them.
    notifications: Option<Journal>,
    logs: BTreeMap<u64, JobLog>,
    /// Number of log orders carried out, and their bytes since the last report.
    logged: u64,
    unreported: usize,
    /// The limit of the history is that of its last event.
    history: History,
    history_limit: u64,
    /// Orders to append an event that were carried out.
    recorded: u64,
    /// The history could not be written, which was reported.
    failed_history: bool,
    /// Jobs whose log could not be written, which was reported.
    failed_logs: BTreeSet<u64>,
    /// The number of the last requested commit.
    asked: Option<u64>,
    /// Records followed it.
    uncovered: bool,
    /// Why records were lost that no commit has covered yet: the next commit fails.
    lost: Option<String>,
    reports: Vec<u8>,
    deaf: bool,
    /// The last attempt to compact the journal did not fail.
    compacts: bool,
}

impl Worker<'_> {
    fn new(place: &StoreLocation, may_block: MayBlock) -> Worker<'_> {
        let mut worker = Worker {
            place,
            may_block,
            journal: Ok(None),
            notifications: None,
            logs: BTreeMap::new(),
            logged: 0,
            unreported: 0,
            history: History::new(&place.directory),
            history_limit: 0,
            recorded: 0,
            failed_history: false,
            failed_logs: BTreeSet::new(),
            asked: None,
            uncovered: false,
            lost: None,
            reports: Vec::new(),
            deaf: false,
            compacts: true,
        };
        worker.open_journal();
        worker
    }

    fn open_journal(&mut self) {
        if self.place.journal {
            self.journal = self.place.verify().and_then(|()| {
                Journal::open(&self.place.journal()).map(Some).map_err(|error| error.to_string())
            });
        }
    }

    fn report(&mut self, report: &Report) {
        if !self.deaf {
            report.put(&mut self.reports);
        }
    }

    fn take_reports(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.reports)
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Line(line) => self.record(&String::from_utf8_lossy(&line)),
            Order::Notification(line) => self.record_notification(&String::from_utf8_lossy(&line)),
            Order::Commit(commit) => {
                self.asked = Some(commit);
                self.uncovered = false;
            }
            Order::Log { serial, at, limit, text } => self.append(serial, at, limit, &text),
            Order::CloseLog(serial) => {
                self.logs.remove(&serial);
                self.failed_logs.remove(&serial);
            }
            Order::Forget(serial) => self.forget(serial),
            Order::Persist { request, name, bytes } => {
                let path = self.place.directory.join(&name);
                let put = put_in_place(&path, &bytes).map_err(|error| error.to_string());
                match put.and_then(|_| self.place.verify()) {
                    Ok(()) => self.report(&Report::Answer { request, answer: Vec::new() }),
                    Err(why) => {
                        let why = format!("cannot write {}: {why}", path.display());
                        self.report(&Report::NoAnswer { request, why });
                    }
                }
            }
            Order::ReadText { request, question } => {
                self.answer(request, &question, |logs, question: TextQuestion| {
                    let log = JobLog::open(logs, question.serial)?;
                    let total = if question.total == 0 { log.end() } else { question.total };
                    let TextQuestion { limit, active, offset, length, .. } = question;
                    log.part(total, limit, active, offset, length)
                });
            }
            Order::ReadPieces { request, question } => {
                self.answer(request, &question, |logs, question: PiecesQuestion| {
                    let log = JobLog::open(logs, question.serial)?;
                    let limit = question.limit;
                    let ranges = question.ranges.into_iter();
                    let pieces = ranges.map(|range| log.excerpt(range, limit));
                    pieces.collect::<std::io::Result<Vec<Excerpt>>>()
                });
            }
            Order::Event { lost, limit, frame } => self.append_event(lost, limit, &frame),
            Order::History { request, question } => {
                let asked = serde_json::from_slice(&question).map_err(std::io::Error::other);
                let page = asked.and_then(|question: HistoryQuestion| {
                    // Events that came before the question are in the answer.
                    self.write_history();
                    Ok(serde_json::to_vec(&self.history.read(&question)?)?)
                });
                self.report(&match page {
                    Ok(answer) => Report::Answer { request, answer },
                    Err(error) => {
                        let why = format!("cannot read the history: {error}");
                        Report::NoAnswer { request, why }
                    }
                });
            }
            Order::Keys { request, question } => self.report_keys(request, &question),
            Order::ReadOutput { request, serial, from, length } => {
                let read = match self.logs.get(&serial) {
                    Some(log) => log.output(from, length),
                    None => JobLog::open(&self.place.logs(), serial)
                        .and_then(|log| log.output(from, length)),
                };
                self.report(&match read {
                    Ok((start, bytes)) => {
                        let answer = [&start.to_le_bytes(), bytes.as_slice()].concat();
                        Report::Answer { request, answer }
                    }
                    Err(error) => {
                        Report::NoAnswer { request, why: format!("cannot read the log: {error}") }
                    }
                });
            }
        }
    }

    fn report_keys(&mut self, request: u64, question: &[u8]) {
        let path = KeyStore::path(&self.place.directory);
        let answer = keys::answer(&path, question, self.may_block)
            .map_err(|e| format!("{}: {e}", path.display()));
        let report = match answer.and_then(|answer| self.place.verify().map(|()| answer)) {
            Ok(answer) => Report::Answer { request, answer },
            Err(why) => Report::NoAnswer { request, why },
        };
        self.report(&report);
    }

    fn record(&mut self, object: &str) {
        self.uncovered = true;
        if self.journal.is_err() {
            self.open_journal();
        }
        let taken = match &mut self.journal {
            Ok(None) => Ok(()),
            Ok(Some(journal)) => journal.append(object).map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        if let Err(why) = taken {
            self.lost = Some(why);
        }
    }

    fn record_notification(&mut self, object: &str) {
        self.uncovered = true;
        if !self.place.journal {
            return;
        }
        let opened = match self.notifications.take() {
            Some(journal) => Ok(journal),
            None => self.open_notifications(),
        };
        let taken = opened.and_then(|mut journal| {
            let taken = journal.append(object).map_err(|error| error.to_string());
            self.notifications = Some(journal);
            taken
        });
        if let Err(why) = taken {
            self.lost = Some(why);
        }
    }

    fn open_notifications(&self) -> Result<Journal, String> {
        self.place.verify()?;
        let path = self.place.notifications();
        let made =
            match path.parent().map(|parent| fs::DirBuilder::new().mode(0o700).create(parent)) {
                Some(Err(error)) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
                Some(_) | None => Ok(()),
            };
        let opened = made.and_then(|()| Journal::open(&path));
        opened.map_err(|error| format!("{}: {error}", path.display()))
    }

    fn append_event(&mut self, lost: u64, limit: u64, frame: &[u8]) {
        let done = if limit == 0 {
            self.history.remove()
        } else {
            self.history_limit = limit;
            self.history.append(lost, &String::from_utf8_lossy(frame), limit)
        };
        self.on_history(done);
        // The order that removes the history is no event.
        if limit > 0 || !frame.is_empty() {
            self.recorded += 1;
            self.unreported += frame.len();
        }
    }

    fn write_history(&mut self) {
        let written = self.history.write(self.history_limit);
        self.on_history(written);
    }

    /// Reports once that the history cannot be written, and once that it can be again.
    fn on_history(&mut self, done: std::io::Result<()>) {
        match done {
            Err(error) if !std::mem::replace(&mut self.failed_history, true) => {
                self.remark(format!("cannot write the history: {error}; events are missing in it"));
            }
            Err(_) => {}
            Ok(()) if self.failed_history && self.history.is_complete() => {
                self.failed_history = false;
                self.remark("the history is written again".to_owned());
            }
            Ok(()) => {}
        }
    }

    fn remark(&mut self, remark: String) {
        self.report(&Report::Remark(remark));
    }

    /// Acknowledges log texts, together with another report or separately when they are many bytes:
    /// the memory for a few of them is cheaper than a wake-up for each.
    fn report_logged(&mut self) {
        let is_worth_it = !self.reports.is_empty() || self.unreported >= UNREPORTED;
        if self.unreported > 0 && is_worth_it {
            self.unreported = 0;
            self.report(&Report::Logged(self.logged));
            if self.recorded > 0 {
                self.report(&Report::Recorded(self.recorded));
            }
        }
    }

    /// A text that cannot be appended is acknowledged too: it would fail again.
    fn append(&mut self, serial: u64, at: u64, limit: u64, text: &[u8]) {
        self.logged += 1;
        self.unreported += text.len();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let logs = self.place.logs();
        let appended = self.log(serial, &logs).and_then(|log| log.append(at, text, limit));
        if let Err(error) = appended {
            // Its state is unknown; the next append examines the files again.
            self.logs.remove(&serial);
            if self.failed_logs.insert(serial) {
                self.remark(format!("cannot write the log of job number {serial}: {error}"));
            }
        }
    }

    fn log(&mut self, serial: u64, logs: &Path) -> std::io::Result<&mut JobLog> {
        use std::collections::btree_map::Entry;
        match self.logs.entry(serial) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(none) => {
                let opened = JobLog::open(logs, serial).or_else(|error| {
                    // The directory of logs alone was removed.
                    let is_missing = error.kind() == std::io::ErrorKind::NotFound;
                    if !is_missing || self.place.verify().is_err() {
                        return Err(error);
                    }
                    fs::DirBuilder::new().mode(0o700).create(logs)?;
                    JobLog::open(logs, serial)
                });
                Ok(none.insert(opened?))
            }
        }
    }

    fn forget(&mut self, serial: u64) {
        self.failed_logs.remove(&serial);
        self.record(&format!(r#"{{"serial":{serial},"is":"forgotten"}}"#));
        let open = self.logs.remove(&serial).map(Ok);
        let log = open.unwrap_or_else(|| JobLog::open(&self.place.logs(), serial));
        if let Err(error) = log.and_then(|mut log| log.remove()) {
            self.remark(format!("cannot remove the log of job number {serial}: {error}"));
        }
    }

    fn answer<Q: DeserializeOwned, A: Serialize>(
        &mut self,
        request: u64,
        question: &[u8],
        find: impl FnOnce(&Path, Q) -> std::io::Result<A>,
    ) {
        let asked = serde_json::from_slice(question).map_err(std::io::Error::other);
        let found = asked.and_then(|question| find(&self.place.logs(), question));
        let report = match found.and_then(|found| Ok(serde_json::to_vec(&found)?)) {
            Ok(answer) => Report::Answer { request, answer },
            Err(error) => {
                Report::NoAnswer { request, why: format!("cannot read the log: {error}") }
            }
        };
        self.report(&report);
    }

    /// Writes the pending records, and makes them durable in the state directory if requested.
    fn write(&mut self, durable: bool) -> Result<(), String> {
        let journal = match &mut self.journal {
            Err(why) => return Err(why.clone()),
            Ok(None) => return Ok(()),
            Ok(Some(journal)) => journal,
        };
        if let Some(why) = self.place.verify().err().filter(|_| durable) {
            journal.drop_pending();
            return Err(why);
        }
        match journal.write(durable) {
            Ok(false) => {}
            Ok(true) => {
                let name = self.place.journal();
                self.remark(format!("{} was lost and is written anew", name.display()));
            }
            Err(WriteError::AsBefore(error)) => return Err(error.to_string()),
            Err(WriteError::Broken(error)) => {
                self.journal = Err(error.to_string());
                return Err(error.to_string());
            }
        }
        // Again: it may have been removed meanwhile.
        if durable { self.place.verify() } else { Ok(()) }
    }

    /// The same of the records of notifications, where there are any.
    fn write_notifications(&mut self, durable: bool) -> Result<(), String> {
        let Some(journal) = self.notifications.as_mut().filter(|journal| journal.has_pending())
        else {
            return Ok(());
        };
        if let Err(why) = self.place.verify() {
            journal.drop_pending();
            return Err(why);
        }
        let written = journal.write(durable);
        let compacted = journal.compact();
        match written {
            Ok(_) => {}
            Err(WriteError::AsBefore(error)) => return Err(error.to_string()),
            Err(WriteError::Broken(error)) => {
                self.notifications = None;
                return Err(error.to_string());
            }
        }
        // It is only longer then, and the next commit tries again.
        if let Err(error) = compacted {
            self.notifications = None;
            self.remark(format!("cannot compact the journal of notifications: {error}"));
        }
        Ok(())
    }

    /// Writes the pending records, and makes them durable if requested.
    fn commit(&mut self) {
        self.write_history();
        let asked = self.asked.take();
        if self.journal.is_err() && asked.is_some() {
            self.open_journal();
        }
        let written = self.write_notifications(asked.is_some());
        let written = self.write(asked.is_some()).and(written);
        // Records lost after the last commit, or before, fail the next one.
        let before = self.lost.take_if(|_| asked.is_some());
        if std::mem::take(&mut self.uncovered) {
            let why = written.as_ref().err().or(before.as_ref()).cloned();
            self.lost = why.or(self.lost.take());
        }
        match (asked, written, before) {
            (Some(commit), Ok(()), None) => self.report(&Report::Persisted(commit)),
            (Some(commit), Err(why), _) | (Some(commit), Ok(()), Some(why)) => {
                self.report(&Report::Failed { commit, why });
            }
            (None, _, _) => {}
        }
        if let Ok(Some(journal)) = &mut self.journal {
            match journal.compact() {
                Ok(()) => self.compacts = true,
                Err(error) if self.compacts => {
                    self.compacts = false;
                    self.remark(format!("cannot compact the journal: {error}"));
                }
                Err(_) => {}
            }
        }
    }
}

/// The end of each job's log. At start-up, where blocking is allowed; unreadable logs count as
/// missing.
pub fn log_ends(place: &StoreLocation) -> BTreeMap<u64, LogEnd> {
    ends(&place.logs()).unwrap_or_default()
}

/// Creates the directories, and deletes logs of unknown jobs. At start-up, where blocking is
/// allowed.
pub fn prepare(place: &StoreLocation, known: impl Fn(u64) -> bool) -> std::io::Result<usize> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(place.logs())?;
    remove_unknown(&place.logs(), known)
}
