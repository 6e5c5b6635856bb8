//! Follows one file by name: the I/O around [`Tail`].
//!
//! Each poll resolves the name, updates the kernel's watches and reads at most one slice. It runs
//! when the kernel reports a change, and also at an interval: a watch cannot see a file system that
//! is mounted over the directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};

use super::file::{self, Resolved};
use super::lines;
use super::tail::{BEFORE, HEAD};
use super::tail::{
    Candidate, FileGeneration, Fingerprint, Identity, PersistedGeneration, Tail, Verdict, choose,
};
use crate::reactor::{REPORTS_WRITE_AFTER_TRUNCATION, Watch, is_local};
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
    fn file(&mut self, file: &File, id: FollowId) -> io::Result<Watch>;
    /// Watches a directory for one name.
    ///
    /// # Errors The directory cannot be watched.
    fn directory(&mut self, path: &Path, name: &std::ffi::OsStr, id: FollowId)
    -> io::Result<Watch>;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OldGenerations {
    /// Read to its end; a copy of truncated content is searched for. No line may be lost.
    ReadOn,
    /// Dropped at once.
    Forget,
}

/// A followed file.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) id: FollowId,
    pub(super) path: PathBuf,
    old_generations: OldGenerations,
    pub(super) tail: Tail<File>,
    /// The first file found starts at its end, because none existed before it.
    from_end: bool,
    file_watches: Vec<FileWatch>,
    directory_watches: Vec<(Awaited, Watch)>,
    /// Reason why the kernel does not report changes of the file or of its directory.
    file_unwatched: Option<String>,
    directory_unwatched: Option<String>,
    /// The next write may go unreported, because the file was truncated.
    awaits_unreported: bool,
    /// Current error; logged once.
    last_error: Option<String>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Follower {
    /// Follows `path`; `from_end` skips the existing content.
    pub(super) fn new(
        id: FollowId,
        path: PathBuf,
        old_generations: OldGenerations,
        from_end: bool,
    ) -> Follower {
        Follower {
            id,
            path,
            old_generations,
            tail: Tail::new(),
            from_end,
            file_watches: Vec::new(),
            directory_watches: Vec::new(),
            file_unwatched: None,
            directory_unwatched: None,
            awaits_unreported: false,
            last_error: None,
        }
    }

    /// The reason why the file must be polled, if it must.
    pub(super) fn unwatched(&self) -> Option<&str> {
        self.file_unwatched.as_deref().or(self.directory_unwatched.as_deref())
    }

    /// Whether the file must be polled often: the kernel does not report every change.
    pub(super) fn is_polled(&self) -> bool {
        self.unwatched().is_some() || self.awaits_unreported
    }

    /// The current error, if any.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Whether the file has not been examined yet: its content may have to be skipped.
    pub(super) fn is_undecided(&self) -> bool {
        self.from_end
    }

    /// Stops following, and removes the watches.
    pub(super) fn release(&mut self, watching: &mut dyn Watching) {
        self.rest(watching);
        self.tail = Tail::new();
    }

    /// Suspends notification of changes.
    pub(super) fn rest(&mut self, watching: &mut dyn Watching) {
        let files = self.file_watches.drain(..).filter_map(|file| file.watch);
        let directories = self.directory_watches.drain(..).map(|(_, watch)| watch);
        files.chain(directories).for_each(|watch| watching.unwatch(watch));
    }

    /// Resumes persisted file generations, matched against the files that exist now.
    pub(super) fn resume(
        &mut self,
        persisted: &[PersistedGeneration],
        poll_limits: PollLimits,
        now: Instant,
    ) {
        let last = persisted.last();
        for persisted in persisted {
            let files = self.files_of_log();
            let judged: Vec<(Candidate, u64)> = files
                .iter()
                .map(|(file, identity, is_named)| {
                    let size = file.metadata().map_or(0, |about| about.len());
                    let fingerprint = file::fingerprint(
                        file,
                        persisted.position,
                        persisted.fingerprint_lengths(),
                    );
                    let verdict = fingerprint.map_or(Verdict::Rewritten, |fingerprint| {
                        persisted.judge(size, &fingerprint)
                    });
                    (Candidate { is_named: *is_named, inode: identity.inode, verdict }, size)
                })
                .collect();
            let candidates: Vec<Candidate> =
                judged.iter().map(|(candidate, _)| *candidate).collect();
            let chosen = choose(persisted.identity.inode, &candidates);
            let Some((index, (file, identity, _))) =
                chosen.and_then(|index| files.into_iter().nth(index).map(|file| (index, file)))
            else {
                // A generation that had already lost the name was read to its end, or nearly.
                if persisted.position > 0 && last.is_some_and(|last| std::ptr::eq(last, persisted))
                {
                    let path = self.path.display();
                    warn!(
                        "{path}: the file that was read up to byte {} is gone; lines \
                         written to it since are not reported",
                        persisted.position
                    );
                }
                continue;
            };
            let size = judged.get(index).map_or(0, |(_, size)| *size);
            let end = size.min(persisted.position);
            let generation = match candidates.get(index).map(|candidate| candidate.verdict) {
                Some(Verdict::Same) => {
                    let lengths = (HEAD, BEFORE);
                    let fingerprint = fingerprint_up_to(&file, persisted.position, lengths);
                    fingerprint.map(|fingerprint| {
                        FileGeneration::new(
                            file,
                            identity,
                            persisted.position,
                            persisted.cut,
                            fingerprint,
                            now,
                        )
                    })
                }
                Some(Verdict::Shortened | Verdict::Rewritten) | None => {
                    let generation = at_last_line(file, identity, end, poll_limits.max_line, now);
                    generation.map(|mut generation| {
                        generation.had_length(persisted.position);
                        generation
                    })
                }
            };
            match generation {
                Ok(generation) => self.tail.go_on_with(generation),
                Err(error) => self.say(format!("cannot be read: {error}")),
            }
        }
        self.from_end = false;
    }

    /// The file that the name leads to, and its siblings.
    fn files_of_log(&self) -> Vec<(File, Identity, bool)> {
        let named = file::open(&self.path).ok();
        let siblings = file::siblings(&self.path);
        let named = named.into_iter().map(|(file, identity)| (file, identity, true));
        named.chain(siblings.into_iter().map(|(file, identity)| (file, identity, false))).collect()
    }

    /// Resolves the name and determines where to start reading. Reads nothing.
    pub(super) fn find(
        &mut self,
        poll_limits: PollLimits,
        watching: &mut dyn Watching,
        now: Instant,
    ) {
        // In this order: the watch reports changes made after the lookup.
        self.watch_directories(watching);
        match self.follow_name(poll_limits, now) {
            Ok(()) => self.last_error = None,
            Err(error) => self.say(format!("cannot be followed: {error}")),
        }
        self.watch_files(watching);
    }

    /// Polls once. Bytes read are in `buffer`.
    pub(super) fn look(
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
            self.watch_files(watching);
        }
        Found::Nothing
    }

    /// Switches to another file if the name leads to one.
    fn follow_name(&mut self, poll_limits: PollLimits, now: Instant) -> io::Result<()> {
        let named = match file::named(&self.path)? {
            Resolved::File(identity) => identity,
            Resolved::Absent => {
                self.from_end = false;
                return Ok(());
            }
        };
        if self.tail.leads_elsewhere(Some(named)) {
            let (file, identity) = match file::open(&self.path) {
                Ok(opened) => opened,
                // Removed between the two calls.
                Err(error) if file::is_absence(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            if self.tail.leads_elsewhere(Some(identity)) {
                let generation = if std::mem::take(&mut self.from_end) {
                    let size = file.metadata()?.len();
                    at_last_line(file, identity, size, poll_limits.max_line, now)?
                } else {
                    if self.tail.current().is_some() {
                        info!("{}: another file has the name now", self.path.display());
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
        let read = read(generation, poll_limits.slice, buffer);
        let verdict = match read {
            Ok(verdict) => verdict,
            Err(error) => {
                self.say(format!("cannot be read: {error}"));
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
                self.begin_again(now);
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
            at_last_line(file, generation.identity, size, poll_limits.max_line, now)
        });
        match shortened {
            Ok(mut shortened) => {
                let position = shortened.position();
                shortened.had_length(generation.longest());
                *generation = shortened;
                warn!(
                    "{}: it was cut back; reading continues at byte {position}",
                    self.path.display()
                );
            }
            Err(error) => self.say(format!("cannot be read: {error}")),
        }
    }

    /// The content of the current file was replaced: the old content may be in a copy.
    fn begin_again(&mut self, now: Instant) {
        let path = self.path.display().to_string();
        let copy = match self.old_generations {
            OldGenerations::ReadOn => self.find_copy(now),
            OldGenerations::Forget => None,
        };
        let last = self.tail.len().saturating_sub(1);
        if let Some(generation) = self.tail.get(last) {
            generation.start_over(now);
        }
        match (self.old_generations, copy) {
            (OldGenerations::ReadOn, Some(copy)) => {
                info!("{path}: it was copied and emptied; the rest of the copy is read first");
                self.tail.read_before_current(copy);
            }
            (OldGenerations::ReadOn, None) => {
                info!("{path}: it was truncated; it is read from its beginning")
            }
            (OldGenerations::Forget, _) => {}
        }
    }

    fn find_copy(&mut self, now: Instant) -> Option<FileGeneration<File>> {
        let generation = self.tail.current()?;
        // An empty file has no recognizable copy.
        if generation.position() == 0 {
            return None;
        }
        let lengths = generation.fingerprint_lengths();
        let fits = |file: &File| -> io::Result<bool> {
            let size = file.metadata()?.len();
            let fingerprint = file::fingerprint(file, generation.position(), lengths)?;
            Ok(generation.judge(size, &fingerprint) == Verdict::Same)
        };
        let (copy, identity) =
            file::siblings(&self.path).into_iter().find(|(file, _)| fits(file).unwrap_or(false))?;
        Some(generation.continued_in(copy, identity, now))
    }

    /// Watches the directories. Entries created before a watch starts are not reported, so the
    /// lookup repeats until it yields a directory that is watched already.
    fn watch_directories(&mut self, watching: &mut dyn Watching) {
        for _ in 0..LEVELS {
            let awaited = awaited(&self.path);
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
                match watching.directory(&awaited.directory, &awaited.name, self.id) {
                    Ok(watch) => self.directory_watches.push((awaited, watch)),
                    // Removed between the two calls.
                    Err(error) if file::is_absence(&error) => {}
                    Err(error) => {
                        let unwatched = Some(format!("{}: {error}", awaited.directory.display()));
                        if unwatched != self.directory_unwatched {
                            self.warn_of_unwatched(unwatched.as_deref());
                        }
                        self.directory_unwatched = unwatched;
                        return;
                    }
                }
            }
        }
    }

    /// Watches the files that are read, including rotated ones: processes that have one open still
    /// write to it.
    fn watch_files(&mut self, watching: &mut dyn Watching) {
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
            let (watch, lacks) = match watching.file(&generation.handle, self.id) {
                Ok(watch) if is_local(&generation.handle) => (Some(watch), None),
                Ok(watch) => {
                    (Some(watch), Some("other hosts may write to its file system".to_owned()))
                }
                Err(error) => (None, Some(error.to_string())),
            };
            self.file_watches.push(FileWatch { identity, watch, lacks });
        }
        let unwatched = self.file_watches.iter().find_map(|file| file.lacks.clone());
        if unwatched.is_some() && unwatched != self.file_unwatched {
            self.warn_of_unwatched(unwatched.as_deref());
        }
        self.file_unwatched = unwatched;
    }

    fn warn_of_unwatched(&self, why: Option<&str>) {
        let (path, why) = (self.path.display(), why.unwrap_or(""));
        warn!("{path}: the kernel does not report all changes ({why}); polling every few seconds");
    }

    fn say(&mut self, last_error: String) {
        let last_error = without_errno(&last_error).into_owned();
        if self.last_error.as_ref() != Some(&last_error) {
            warn!("{}: {last_error}", self.path.display());
            self.last_error = Some(last_error);
        }
    }

    /// Modification time of the current file.
    pub(super) fn written(&self) -> Option<SystemTime> {
        self.tail.current()?.handle.metadata().ok()?.modified().ok()
    }
}

/// Reads new bytes, and then compares the content with the fingerprint: in this order the bytes
/// read are known to belong to the same file.
fn read(
    generation: &FileGeneration<File>,
    slice: usize,
    buffer: &mut Vec<u8>,
) -> io::Result<Verdict> {
    buffer.clear();
    let size = generation.handle.metadata()?.len();
    if generation.has_news(size) {
        file::read(&generation.handle, generation.position(), slice, buffer)?;
    }
    let fingerprint = file::fingerprint(
        &generation.handle,
        generation.position(),
        generation.fingerprint_lengths(),
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
    max_line: usize,
    now: Instant,
) -> io::Result<FileGeneration<File>> {
    let back = max_line.min(usize::try_from(end).unwrap_or(usize::MAX));
    let mut tail = Vec::new();
    let start = end - back as u64;
    file::read(&file, start, back, &mut tail)?;
    let line = lines::unfinished(&tail);
    // The beginning of a line beyond the limit is of no use any more.
    let inside = line == 0 && start > 0;
    let position = if inside { start + tail.len() as u64 } else { start + line as u64 };
    let fingerprint = fingerprint_up_to(&file, position, (HEAD, BEFORE))?;
    Ok(FileGeneration::new(file, identity, position, inside, fingerprint, now))
}

/// The longest fingerprint that ends at `position`.
fn fingerprint_up_to(file: &File, position: u64, most: (usize, usize)) -> io::Result<Fingerprint> {
    let position_in_memory = usize::try_from(position).unwrap_or(usize::MAX);
    file::fingerprint(
        file,
        position,
        (most.0.min(position_in_memory), most.1.min(position_in_memory)),
    )
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
fn awaited(path: &Path) -> Vec<Awaited> {
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
