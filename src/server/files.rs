//! The file workers in the loop, and the work that they do: followed files, and the directory of the
//! registered keys.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use log::{error, info, warn};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::child::Child;
use super::{PollToken, Server};
use crate::helper::files::{self, Files, Outcome, Subject, Work, WorkerId};
use crate::life_preserver::{FollowId, Looks, Watching};
use crate::moment::Moment;
use crate::reactor::{Reactor, Watch, Watches};
use crate::sys::children::Exit;
use crate::sys::may_block::MayBlock;
use crate::wire::rfc3339;

/// The directory of the registered keys; followed files have the numbers after it.
pub(super) const KEYS: Subject = 0;

/// The workers and what belongs to them.
#[derive(Default)]
pub(super) struct FileWorkers {
    pub(super) files: Files,
    children: BTreeMap<WorkerId, Option<Child>>,
}

impl FileWorkers {
    /// A child of the daemon has ended: its number where it was one of these, and how it ended.
    pub(super) fn take_ended(
        &mut self,
        pid: Pid,
        exit: Exit,
        reactor: &mut Reactor<PollToken>,
    ) -> Option<(WorkerId, String)> {
        let ended = self.children.iter_mut().find_map(|(id, child)| {
            Child::take_ended(child, pid, exit, reactor).map(|how| (*id, how))
        });
        ended.inspect(|(id, _)| drop(self.children.remove(id)))
    }

    fn start(&mut self, id: WorkerId, reactor: &mut Reactor<PollToken>, now: Instant) {
        let started = files::start(Worker::new)
            .and_then(|child| Child::watch(child, PollToken::Files(id), reactor));
        match started {
            Ok(child) => {
                self.children.insert(id, Some(child));
                self.files.started(id);
            }
            Err(error) => {
                error!("cannot start a file worker: {error}");
                self.files.ended(id, now);
            }
        }
    }

    /// Writes as much as the workers' sockets accept.
    pub(super) fn flush(&mut self, reactor: &mut Reactor<PollToken>) {
        for (id, child) in &mut self.children {
            if let (Some(child), Some(channel)) = (child, self.files.channel(*id)) {
                child.flush(channel);
            }
        }
        reactor.set_deadline(PollToken::Files(0), self.files.due());
    }

    /// Reads frames of a worker.
    pub(super) fn read(
        &mut self,
        id: WorkerId,
        scratch: &mut [u8],
        reactor: &mut Reactor<PollToken>,
        now: Instant,
    ) {
        let Some(Some(child)) = self.children.get_mut(&id) else { return };
        let (token, files) = (PollToken::Files(id), &mut self.files);
        child.read(scratch, token, reactor, |bytes| files.received(id, bytes, now));
    }

    /// For a request: the processes, those included that hang.
    pub(super) fn status(&self) -> Value {
        let children = self.children.values().flatten();
        json!({ "pids": children.map(|child| child.pid.as_raw()).collect::<Vec<_>>() })
    }

    fn child(&self, id: WorkerId) -> impl Iterator<Item = &Child> {
        self.children.get(&id).into_iter().flatten()
    }
}

/// A file and since when it hangs, for a request.
pub(super) fn hanging_entry(path: &Path, since: SystemTime) -> Value {
    json!({ "path": path.to_string_lossy(), "since": rfc3339(since) })
}

impl Server {
    /// Delivers the workers' outcomes; false if there were none.
    pub(super) fn take_file_outcomes(&mut self, now: Moment) -> bool {
        let mut any = false;
        while let Some(outcome) = self.file_workers.files.next_outcome() {
            any = true;
            match outcome {
                Outcome::Answer(KEYS, answer) => self.on_keys_watched(!answer.is_empty(), now),
                Outcome::Answer(subject, answer) => self.logs.on_answer(subject, answer, now),
                Outcome::Changed(KEYS) => self.on_keys_changed(now),
                Outcome::Changed(subject) => self.logs.on_changed(subject),
                Outcome::Restarted => {
                    self.logs.look_at_all(now.instant);
                    self.watch_keys(now);
                }
                Outcome::Hangs(subject, path) => {
                    let path = path.display();
                    warn!("{path} does not answer: its file system hangs; it is tried on");
                    self.logs.on_hanging(subject, now);
                }
                Outcome::Answers(_, path) => info!("{} answers again", path.display()),
                Outcome::Start(id) => {
                    self.file_workers.start(id, &mut self.reactor, now.instant);
                }
                Outcome::Kill(id) => self.file_workers.child(id).for_each(Child::end_stuck),
                Outcome::Close(id) => self.file_workers.child(id).for_each(Child::close),
            }
        }
        any
    }

    /// All hanging files with the times since when, for a request.
    pub(super) fn hanging(&self) -> Value {
        let files = self.file_workers.files.hanging();
        let files = files.map(|(path, since)| hanging_entry(path, since));
        Value::Array(files.chain(self.errands.hanging()).collect())
    }
}

/// The work of one worker process.
struct Worker {
    may_block: MayBlock,
    kernel: Kernel,
    looks: Looks,
    keys: Option<Watch>,
}

/// The kernel's watches, made when the first is wanted.
#[derive(Default)]
struct Kernel(Option<Watches<Subject>>);

impl Kernel {
    fn watches(&mut self) -> io::Result<&mut Watches<Subject>> {
        let watches = match self.0.take() {
            Some(watches) => watches,
            None => Watches::new()?,
        };
        Ok(self.0.insert(watches))
    }
}

impl Watching for Kernel {
    fn file(&mut self, file: &File, id: FollowId, may_block: MayBlock) -> io::Result<Watch> {
        self.watches()?.file(file, id, may_block)
    }

    fn directory(
        &mut self,
        path: &Path,
        name: &OsStr,
        id: FollowId,
        may_block: MayBlock,
    ) -> io::Result<Watch> {
        self.watches()?.directory(path, name, id, may_block)
    }

    fn is_watched(&self, watch: &Watch) -> bool {
        self.0.as_ref().is_some_and(|watches| watches.is_alive(watch))
    }

    fn unwatch(&mut self, watch: Watch) {
        if let Some(watches) = &mut self.0 {
            watches.forget(watch);
        }
    }
}

impl Worker {
    fn new(may_block: MayBlock) -> Worker {
        Worker { may_block, kernel: Kernel::default(), looks: Looks::default(), keys: None }
    }

    /// Watches the directory of the registered keys. Returns a byte for a new watch, nothing if
    /// there is one already or none can be made.
    fn watch_keys(&mut self, question: &[u8]) -> Vec<u8> {
        let lost = self.keys.take_if(|watch| !self.kernel.is_watched(watch));
        lost.into_iter().for_each(|watch| self.kernel.unwatch(watch));
        let path: PathBuf = serde_json::from_slice(question).unwrap_or_default();
        if self.keys.is_none()
            && let (Some(directory), Some(name)) = (path.parent(), path.file_name())
        {
            self.keys = self.kernel.directory(directory, name, KEYS, self.may_block).ok();
            return self.keys.iter().map(|_| 1).collect();
        }
        Vec::new()
    }
}

impl Work for Worker {
    fn answer(&mut self, subject: Subject, question: &[u8]) -> Vec<Vec<u8>> {
        if subject == KEYS {
            return vec![self.watch_keys(question)];
        }
        self.looks.answer(subject, question, &mut self.kernel, self.may_block, Instant::now())
    }

    fn release(&mut self, subject: Subject) {
        self.looks.release(subject, &mut self.kernel);
    }

    fn watches(&self) -> Option<BorrowedFd<'_>> {
        self.kernel.0.as_ref().map(AsFd::as_fd)
    }

    fn changed(&mut self, report: &mut dyn FnMut(Subject)) {
        if let Some(watches) = &mut self.kernel.0 {
            watches.changed(report);
        }
    }
}
