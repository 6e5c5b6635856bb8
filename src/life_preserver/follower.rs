//! Follows one file by name: the I/O around [`Tail`].
//!
//! Each poll resolves the name, updates the kernel's watches and reads at most one slice. It runs
//! when the kernel reports a change, and also at an interval: a watch cannot see a file system that
//! is mounted over the directory.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::file::{self, Resolved};
use super::lines;
use super::tail::{BEFORE, HEAD};
use super::tail::{
    Candidate, FileGeneration, Fingerprint, GenerationState, Identity, PersistedGeneration, Tail,
    Verdict, choose,
};
use crate::reactor::{REPORTS_WRITE_AFTER_TRUNCATION, Watch, is_local};
use crate::sys::may_block::MayBlock;
use crate::wording::without_errno;

/// Maximum number of directories that may appear or vanish during one search; the next poll
/// continues.
const LEVELS: usize = 64;

/// Number of a followed file; never reused.
pub type FollowId = u64;

/// Registration of file watches: the part of the reactor that this module needs.
pub trait Watching {
    /// Watches an open file.
    ///
    /// # Errors The file cannot be watched.
    fn file(&mut self, file: &File, id: FollowId, may_block: MayBlock) -> io::Result<Watch>;
    /// Watches a directory for one name.
    ///
    /// # Errors The directory cannot be watched.
    fn directory(
        &mut self,
        path: &Path,
        name: &OsStr,
        id: FollowId,
        may_block: MayBlock,
    ) -> io::Result<Watch>;
    /// Whether the watch is still active.
    fn is_watched(&self, watch: &Watch) -> bool;
    /// Removes a watch.
    fn unwatch(&mut self, watch: Watch);
    /// Whether the kernel reports the first write to a watched file after its truncation.
    fn reports_write_after_truncation(&self) -> bool {
        REPORTS_WRITE_AFTER_TRUNCATION
    }
}

/// Treatment of a file that had the name earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OldGenerations {
    /// Read to its end; a copy of truncated content is searched for. No line may be lost.
    ReadOn,
    /// Dropped at once.
    Forget,
}

/// A followed file in a worker: open and watched.
#[derive(Debug)]
pub(super) struct Follower {
    id: FollowId,
    path: PathBuf,
    old_generations: OldGenerations,
    tail: Tail<File>,
    /// The first file found starts at its end, because none existed before it.
    from_end: bool,
    file_watches: Vec<FileWatch>,
    directory_watches: Vec<(Awaited, Watch)>,
    /// Reason why the kernel does not report changes of the file or of its directory.
    file_unwatched: Option<String>,
    directory_unwatched: Option<String>,
    /// The next write may go unreported, because the file was truncated.
    awaits_unreported: bool,
    /// Current error.
    last_error: Option<String>,
    /// The error may end without a change that the kernel reports.
    is_transient: bool,
    remarks: Vec<Remark>,
}

/// An open file and its watch.
#[derive(Debug)]
struct FileWatch {
    identity: Identity,
    /// `None` where the file cannot be watched.
    watch: Option<Watch>,
    /// Changes that the kernel does not report for this file.
    lacks: Option<String>,
}

/// Result of one poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Found {
    /// Bytes from the position of the file generation with this index.
    Bytes(usize),
    /// The current file is read from its beginning; poll again.
    Anew,
    /// No change.
    Nothing,
}

/// Limits of one poll.
#[derive(Clone, Copy, Debug)]
pub(super) struct PollLimits {
    /// Maximum bytes read.
    pub(super) slice: usize,
    /// Maximum length of a line, in bytes.
    pub(super) max_line: usize,
    /// Grace period in which a rotated file is still read.
    pub(super) rotation_wait: Duration,
    pub(super) may_block: MayBlock,
}

/// A message for the daemon's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Remark {
    Warning(String),
    Information(String),
}

/// All that a worker needs for one poll. Asking changes nothing, so a question can be repeated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) path: PathBuf,
    pub(super) old_generations: OldGenerations,
    pub(super) from_end: bool,
    /// Resolves the name only; reads nothing.
    pub(super) is_find: bool,
    /// Generations whose files are still to be found; in place of `generations` where there are some.
    pub(super) persisted: Vec<PersistedGeneration>,
    pub(super) generations: Vec<GenerationState>,
    pub(super) slice: usize,
    pub(super) max_line: usize,
    pub(super) rotation_wait: Duration,
}

/// Result of one poll and the state after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) found: Found,
    /// `None` where the files of the generations could not be searched: they are as they were.
    pub(super) generations: Option<Vec<GenerationState>>,
    pub(super) from_end: bool,
    /// Why the kernel does not report all changes of the file, if so.
    pub(super) unwatched: Option<String>,
    /// The file must be polled often.
    pub(super) is_polled: bool,
    pub(super) last_error: Option<String>,
    pub(super) remarks: Vec<Remark>,
    /// When the current file was last written to, and its size.
    pub(super) written: Option<SystemTime>,
    pub(super) size: u64,
}

impl Follower {
    pub(super) fn new(id: FollowId) -> Follower {
        Follower {
            id,
            path: PathBuf::new(),
            old_generations: OldGenerations::Forget,
            tail: Tail::new(),
            from_end: false,
            file_watches: Vec::new(),
            directory_watches: Vec::new(),
            file_unwatched: None,
            directory_unwatched: None,
            awaits_unreported: false,
            last_error: None,
            is_transient: false,
            remarks: Vec::new(),
        }
    }

    /// Answers a question; bytes that were read are in `buffer`.
    pub(super) fn answer(
        &mut self,
        question: Question,
        buffer: &mut Vec<u8>,
        watching: &mut dyn Watching,
        may_block: MayBlock,
        now: Instant,
    ) -> Answer {
        buffer.clear();
        let Question { slice, max_line, rotation_wait, is_find, .. } = question;
        let poll_limits = PollLimits { slice, max_line, rotation_wait, may_block };
        (self.last_error, self.is_transient) = (None, false);
        let resumed = self.take_up(question, poll_limits, now);
        let found = match &resumed {
            // The positions are unknown: nothing is read.
            Err(error) => {
                self.is_transient = true;
                self.fail(&format!("cannot be followed: {error}"));
                Found::Nothing
            }
            Ok(()) if is_find => {
                self.find(poll_limits, watching, now);
                Found::Nothing
            }
            Ok(()) => self.look(poll_limits, buffer, watching, now),
        };
        let about = self.tail.current().and_then(|generation| generation.handle.metadata().ok());
        let unwatched = self.file_unwatched.as_ref().or(self.directory_unwatched.as_ref());
        Answer {
            found,
            generations: resumed.is_ok().then(|| self.tail.states(now)),
            from_end: self.from_end,
            unwatched: unwatched.cloned(),
            is_polled: unwatched.is_some() || self.awaits_unreported || self.is_transient,
            last_error: self.last_error.clone(),
            remarks: std::mem::take(&mut self.remarks),
            written: about.as_ref().and_then(|about| about.modified().ok()),
            size: about.map_or(0, |about| about.len()),
        }
    }

    /// Takes over what the question says of the generations. Files that are not open are searched.
    fn take_up(
        &mut self,
        question: Question,
        poll_limits: PollLimits,
        now: Instant,
    ) -> io::Result<()> {
        let Question { path, old_generations, from_end, persisted, generations, .. } = question;
        (self.path, self.old_generations, self.from_end) = (path, old_generations, from_end);
        let mut open = std::mem::replace(&mut self.tail, Tail::new()).into_generations();
        let find = |open: &[FileGeneration<File>], state: &GenerationState| {
            open.iter().position(|generation| generation.identity == state.identity)
        };
        if persisted.is_empty() && generations.iter().all(|state| find(&open, state).is_some()) {
            let generations = generations.into_iter().filter_map(|state| {
                let handle = open.swap_remove(find(&open, &state)?).handle;
                Some(state.with_handle(handle, now))
            });
            self.tail = Tail::of(generations);
            return Ok(());
        }
        let persisted = if persisted.is_empty() {
            generations
                .into_iter()
                .map(|state| state.with_handle((), now).persisted_form())
                .collect()
        } else {
            persisted
        };
        self.resume(&persisted, poll_limits, now)
    }

    /// Removes the watches.
    pub(super) fn release(&mut self, watching: &mut dyn Watching) {
        let files = self.file_watches.drain(..).filter_map(|file| file.watch);
        let directories = self.directory_watches.drain(..).map(|(_, watch)| watch);
        files.chain(directories).for_each(|watch| watching.unwatch(watch));
    }

    /// Resumes persisted file generations, matched against the files that exist now.
    ///
    /// # Errors
    /// The files cannot be searched now: the generations stay as they were.
    fn resume(
        &mut self,
        persisted: &[PersistedGeneration],
        poll_limits: PollLimits,
        now: Instant,
    ) -> io::Result<()> {
        let may_block = poll_limits.may_block;
        let last = persisted.last();
        for persisted in persisted {
            let mut files = self.files_of_log(may_block)?;
            let mut candidates: Vec<Candidate> = Vec::new();
            for (file, identity, is_named) in &files {
                let judged = file.metadata().and_then(|about| {
                    let lengths = persisted.fingerprint_lengths();
                    let fingerprint =
                        file::fingerprint(file, persisted.position, lengths, may_block)?;
                    Ok(persisted.judge(about.len(), &fingerprint))
                });
                let verdict = match judged {
                    Ok(verdict) => verdict,
                    Err(error) if *is_named => return Err(error),
                    Err(_) => Verdict::Rewritten,
                };
                let is_named = *is_named;
                candidates.push(Candidate { is_named, inode: identity.inode, verdict });
            }
            let chosen = choose(persisted.identity.inode, &candidates)
                .and_then(|at| Some((candidates.get(at)?.verdict, at)))
                .filter(|(verdict, _)| {
                    self.old_generations == OldGenerations::ReadOn || *verdict == Verdict::Same
                });
            let Some((verdict, at)) = chosen else {
                // A generation that had already lost the name was read to its end, or nearly.
                if persisted.position > 0
                    && self.old_generations == OldGenerations::ReadOn
                    && last.is_some_and(|last| std::ptr::eq(last, persisted))
                {
                    self.remarks.push(Remark::Warning(format!(
                        "the file that was read up to byte {} is gone; lines written to it since are \
                         not reported",
                        persisted.position
                    )));
                }
                continue;
            };
            let (file, identity, _) = files.swap_remove(at);
            let generation = if verdict == Verdict::Same {
                let fingerprint =
                    fingerprint_up_to(&file, persisted.position, (HEAD, BEFORE), may_block)?;
                FileGeneration::new(
                    file,
                    identity,
                    persisted.position,
                    persisted.cut,
                    fingerprint,
                    now,
                )
            } else {
                let end = file.metadata()?.len().min(persisted.position);
                let mut generation = at_last_line(file, identity, end, poll_limits, now)?;
                generation.had_length(persisted.position);
                generation
            };
            self.tail.go_on_with(generation);
        }
        self.from_end = false;
        Ok(())
    }

    /// The file that the name leads to, and its siblings if old generations are read.
    fn files_of_log(&self, may_block: MayBlock) -> io::Result<Vec<(File, Identity, bool)>> {
        let mut files = Vec::new();
        match file::open(&self.path, may_block) {
            Ok((file, identity)) => files.push((file, identity, true)),
            Err(error) if file::is_absence(&error) || !is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        if self.old_generations == OldGenerations::ReadOn {
            let siblings = file::siblings(&self.path, may_block)?;
            files.extend(siblings.into_iter().map(|(file, identity)| (file, identity, false)));
        }
        Ok(files)
    }

    /// Resolves the name and determines where to start reading. Reads nothing.
    fn find(&mut self, poll_limits: PollLimits, watching: &mut dyn Watching, now: Instant) {
        // In this order: the watch reports changes made after the lookup.
        self.watch_directories(watching, poll_limits.may_block);
        if let Err(error) = self.follow_name(poll_limits, now) {
            self.is_transient = is_transient(&error);
            self.fail(&format!("cannot be followed: {error}"));
        }
        self.watch_files(watching, poll_limits.may_block);
    }

    /// Polls once. Bytes read are in `buffer`.
    fn look(
        &mut self,
        poll_limits: PollLimits,
        buffer: &mut Vec<u8>,
        watching: &mut dyn Watching,
        now: Instant,
    ) -> Found {
        self.find(poll_limits, watching, now);
        for index in 0..self.tail.len() {
            match self.look_at(index, poll_limits, buffer, now) {
                Found::Nothing => {}
                found => return found,
            }
        }
        let is_unreported = self.tail.iter().any(FileGeneration::is_shorter_than_before);
        self.awaits_unreported = is_unreported && !watching.reports_write_after_truncation();
        let generations = self.tail.len();
        self.tail.retire(poll_limits.rotation_wait, now);
        if self.tail.len() != generations {
            self.watch_files(watching, poll_limits.may_block);
        }
        Found::Nothing
    }

    /// Switches to another file if the name leads to one.
    fn follow_name(&mut self, poll_limits: PollLimits, now: Instant) -> io::Result<()> {
        let may_block = poll_limits.may_block;
        let named = match file::named(&self.path, may_block)? {
            Resolved::File(identity) => identity,
            Resolved::Absent => {
                self.from_end = false;
                return Ok(());
            }
        };
        if self.tail.leads_elsewhere(Some(named)) {
            let (file, identity) = match file::open(&self.path, may_block) {
                Ok(opened) => opened,
                // Removed between the two calls.
                Err(error) if file::is_absence(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            if let Some(current) = self.tail.current()
                && current.identity.inode == identity.inode
                && goes_on_in(current, &file, may_block).unwrap_or(false)
            {
                // Its file system was mounted again.
                let generation = current.continued_in(file, identity, now);
                self.tail.replace_current(generation);
            } else if self.tail.leads_elsewhere(Some(identity)) {
                let generation = if std::mem::take(&mut self.from_end) {
                    let size = file.metadata()?.len();
                    at_last_line(file, identity, size, poll_limits, now)?
                } else {
                    if self.tail.current().is_some() {
                        self.inform("another file has the name now");
                    }
                    FileGeneration::from_beginning(file, identity, now)
                };
                self.tail.go_on_with(generation);
                if self.old_generations == OldGenerations::Forget {
                    self.tail.drop_old_generations();
                }
            }
        }
        Ok(())
    }

    /// Polls one file generation.
    fn look_at(
        &mut self,
        index: usize,
        poll_limits: PollLimits,
        buffer: &mut Vec<u8>,
        now: Instant,
    ) -> Found {
        let is_current = index + 1 == self.tail.len();
        let Some(generation) = self.tail.get(index) else { return Found::Nothing };
        let read = read(generation, poll_limits, buffer);
        let verdict = match read {
            Ok(verdict) => verdict,
            Err(error) => {
                self.is_transient = true;
                self.fail(&format!("cannot be read: {error}"));
                return Found::Nothing;
            }
        };
        match verdict {
            Verdict::Same if buffer.is_empty() => Found::Nothing,
            Verdict::Same => {
                generation.looked_up_to(generation.position() + buffer.len() as u64, now);
                Found::Bytes(index)
            }
            // A former file whose content was replaced now belongs to another log.
            Verdict::Rewritten | Verdict::Shortened if !is_current => Found::Nothing,
            Verdict::Shortened if self.old_generations == OldGenerations::ReadOn => {
                self.take_shortened(index, poll_limits, now);
                Found::Nothing
            }
            Verdict::Shortened | Verdict::Rewritten => {
                self.begin_again(poll_limits.may_block, now);
                Found::Anew
            }
        }
    }

    /// The current file still has its beginning but lost its end: a rollback. Everything that
    /// remains was read already.
    fn take_shortened(&mut self, index: usize, poll_limits: PollLimits, now: Instant) {
        let Some(generation) = self.tail.get(index) else { return };
        let shortened = generation.handle.try_clone().and_then(|file| {
            let size = file.metadata()?.len();
            at_last_line(file, generation.identity, size, poll_limits, now)
        });
        match shortened {
            Ok(mut shortened) => {
                let position = shortened.position();
                shortened.had_length(generation.longest());
                *generation = shortened;
                self.remarks.push(Remark::Warning(format!(
                    "it was cut back; reading continues at byte {position}"
                )));
            }
            Err(error) => self.fail(&format!("cannot be read: {error}")),
        }
    }

    /// The content of the current file was replaced: the old content may be in a copy.
    fn begin_again(&mut self, may_block: MayBlock, now: Instant) {
        let copy = match self.old_generations {
            OldGenerations::ReadOn => self.find_copy(may_block, now),
            OldGenerations::Forget => None,
        };
        let last = self.tail.len().saturating_sub(1);
        if let Some(generation) = self.tail.get(last) {
            generation.start_over(now);
        }
        match (self.old_generations, copy) {
            (OldGenerations::ReadOn, Some(copy)) => {
                self.inform("it was copied and emptied; the rest of the copy is read first");
                self.tail.read_before_current(copy);
            }
            (OldGenerations::ReadOn, None) => {
                self.inform("it was truncated; it is read from its beginning")
            }
            (OldGenerations::Forget, _) => {}
        }
    }

    fn find_copy(&mut self, may_block: MayBlock, now: Instant) -> Option<FileGeneration<File>> {
        let generation = self.tail.current()?;
        // An empty file has no recognizable copy.
        if generation.position() == 0 {
            return None;
        }
        let siblings = file::siblings(&self.path, may_block).unwrap_or_default();
        let (copy, identity) = siblings
            .into_iter()
            .find(|(file, _)| goes_on_in(generation, file, may_block).unwrap_or(false))?;
        Some(generation.continued_in(copy, identity, now))
    }

    /// Watches the directories. Entries created before a watch starts are not reported, so the
    /// lookup repeats until it yields a directory that is watched already.
    fn watch_directories(&mut self, watching: &mut dyn Watching, may_block: MayBlock) {
        for _ in 0..LEVELS {
            let awaited = awaited(&self.path, may_block);
            let watched = |(known, watch): &(Awaited, Watch)| {
                awaited.contains(known) && watching.is_watched(watch)
            };
            let (persisted, gone) = std::mem::take(&mut self.directory_watches)
                .into_iter()
                .partition::<Vec<_>, _>(watched);
            self.directory_watches = persisted;
            gone.into_iter().for_each(|(_, watch)| watching.unwatch(watch));
            if self.directory_watches.len() == awaited.len() {
                self.directory_unwatched = None;
                return;
            }
            for awaited in awaited {
                if self.directory_watches.iter().any(|(known, _)| *known == awaited) {
                    continue;
                }
                match watching.directory(&awaited.directory, &awaited.name, self.id, may_block) {
                    Ok(watch) => self.directory_watches.push((awaited, watch)),
                    // Removed between the two calls.
                    Err(error) if file::is_absence(&error) => {}
                    Err(error) => {
                        let directory = awaited.directory.display();
                        self.directory_unwatched = Some(format!("{directory}: {error}"));
                        return;
                    }
                }
            }
        }
    }

    /// Watches the files that are read, including rotated ones: processes that have one open still
    /// write to it.
    fn watch_files(&mut self, watching: &mut dyn Watching, may_block: MayBlock) {
        let is_read = |identity| self.tail.iter().any(|generation| generation.identity == identity);
        // Failed watches are retried.
        let is_watched = |file: &FileWatch| {
            is_read(file.identity)
                && file.watch.as_ref().is_some_and(|watch| watching.is_watched(watch))
        };
        let (persisted, gone) =
            std::mem::take(&mut self.file_watches).into_iter().partition::<Vec<_>, _>(is_watched);
        self.file_watches = persisted;
        gone.into_iter().filter_map(|file| file.watch).for_each(|watch| watching.unwatch(watch));
        for generation in self.tail.iter() {
            let identity = generation.identity;
            if self.file_watches.iter().any(|file| file.identity == identity) {
                continue;
            }
            let (watch, lacks) = match watching.file(&generation.handle, self.id, may_block) {
                Ok(watch) if is_local(&generation.handle) => (Some(watch), None),
                Ok(watch) => {
                    (Some(watch), Some("other hosts may write to its file system".to_owned()))
                }
                Err(error) => (None, Some(error.to_string())),
            };
            self.file_watches.push(FileWatch { identity, watch, lacks });
        }
        self.file_unwatched = self.file_watches.iter().find_map(|file| file.lacks.clone());
    }

    fn inform(&mut self, text: &str) {
        self.remarks.push(Remark::Information(text.to_owned()));
    }

    fn fail(&mut self, last_error: &str) {
        self.last_error = Some(without_errno(last_error).into_owned());
    }
}

/// Whether the file may be there and readable later, without a change that is reported: its file
/// system fails.
fn is_transient(error: &io::Error) -> bool {
    const TRANSIENT: [i32; 7] = [
        libc::EIO,
        libc::ENXIO,
        libc::ESTALE,
        libc::ETIMEDOUT,
        libc::ENOTCONN,
        libc::ECONNABORTED,
        libc::EINTR,
    ];
    error.raw_os_error().is_some_and(|number| TRANSIENT.contains(&number))
}

/// Whether a file has all that was read of a generation, and perhaps more.
fn goes_on_in(
    generation: &FileGeneration<File>,
    file: &File,
    may_block: MayBlock,
) -> io::Result<bool> {
    let size = file.metadata()?.len();
    let fingerprint = file::fingerprint(
        file,
        generation.position(),
        generation.fingerprint_lengths(),
        may_block,
    )?;
    Ok(generation.judge(size, &fingerprint) == Verdict::Same)
}

/// Reads new bytes, and then compares the content with the fingerprint: in this order the bytes
/// read are known to belong to the same file.
fn read(
    generation: &FileGeneration<File>,
    poll_limits: PollLimits,
    buffer: &mut Vec<u8>,
) -> io::Result<Verdict> {
    let PollLimits { slice, may_block, .. } = poll_limits;
    buffer.clear();
    let size = generation.handle.metadata()?.len();
    if generation.has_news(size) {
        file::read(&generation.handle, generation.position(), slice, buffer, may_block)?;
    }
    let fingerprint = file::fingerprint(
        &generation.handle,
        generation.position(),
        generation.fingerprint_lengths(),
        may_block,
    )?;
    // The file may have been truncated between the two calls.
    let size = size.min(generation.handle.metadata()?.len());
    Ok(generation.judge(size, &fingerprint))
}

/// A file generation that starts at the last line before `end` if that line is unterminated, else
/// at `end`.
fn at_last_line(
    file: File,
    identity: Identity,
    end: u64,
    poll_limits: PollLimits,
    now: Instant,
) -> io::Result<FileGeneration<File>> {
    let PollLimits { max_line, may_block, .. } = poll_limits;
    let back = max_line.min(usize::try_from(end).unwrap_or(usize::MAX));
    let mut tail = Vec::new();
    let start = end - back as u64;
    file::read(&file, start, back, &mut tail, may_block)?;
    let line = lines::unfinished(&tail);
    // The beginning of a line beyond the limit is of no use any more.
    let inside = line == 0 && start > 0;
    let position = if inside { start + tail.len() as u64 } else { start + line as u64 };
    let fingerprint = fingerprint_up_to(&file, position, (HEAD, BEFORE), may_block)?;
    Ok(FileGeneration::new(file, identity, position, inside, fingerprint, now))
}

/// The longest fingerprint that ends at `position`.
fn fingerprint_up_to(
    file: &File,
    position: u64,
    most: (usize, usize),
    may_block: MayBlock,
) -> io::Result<Fingerprint> {
    let position_in_memory = usize::try_from(position).unwrap_or(usize::MAX);
    let lengths = (most.0.min(position_in_memory), most.1.min(position_in_memory));
    file::fingerprint(file, position, lengths, may_block)
}

/// A directory entry that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Awaited {
    directory: PathBuf,
    identity: Identity,
    name: OsString,
}

/// The directory of a path, or its nearest existing ancestor, with the entry that is waited for;
/// and the parent of that directory, because the directory itself may be renamed. The kernel does
/// not report the latter while a file of the directory is open.
fn awaited(path: &Path, _: MayBlock) -> Vec<Awaited> {
    let mut awaited = Vec::new();
    let mut path = path;
    while let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
        if let Ok(about) = fs::metadata(directory)
            && about.is_dir()
        {
            let (identity, name) = (file::identity(&about), name.to_owned());
            awaited.push(Awaited { directory: directory.to_owned(), identity, name });
            if awaited.len() == 2 {
                break;
            }
        }
        path = directory;
    }
    awaited
}
