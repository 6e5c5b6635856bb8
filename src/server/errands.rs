//! Single pieces of work that may block, each in a child of its own: the files of a reload, and the
//! keys with which links prove themselves.
//!
//! A child that hangs is left to it: its answer comes when the file system answers. Status names the
//! file meanwhile. There is one child of each kind at most, so that none piles up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use log::{info, warn};
use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use zeroize::Zeroizing;

use super::PollToken;
use super::files::hanging_entry;
use crate::helper::files::DEADLINE;
use crate::moment::Moment;
use crate::notify::DeliveryId;
use crate::reactor::{Reactor, Registered};
use crate::sys::fork::in_child;
use crate::sys::may_block::MayBlock;
use crate::sys::{children, descriptors};

/// Kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Errand {
    /// The configuration is read, and all that it names.
    Reload,
    /// The key of this host for links is read, or made.
    OwnKey { legacy: bool },
    /// A notification is delivered; killed at its deadline, with what it has started.
    Delivery(DeliveryId),
}

/// An answer may have secrets in it.
pub(super) type Answer = Zeroizing<Vec<u8>>;

struct Running {
    pid: Pid,
    pipe: OwnedFd,
    registered: Registered,
    answer: Answer,
    /// For people.
    path: PathBuf,
    since: Moment,
    hangs: bool,
}

/// Work in progress.
#[derive(Default)]
pub(super) struct Errands {
    running: BTreeMap<Errand, Running>,
    /// The files of a reload are to be read once more.
    pub(super) reload_again: bool,
}

/// Room for an answer, in bytes: one with a key in it should not be copied.
const ROOM: usize = 16 * 1024;

impl Errands {
    pub(super) fn is_running(&self, errand: Errand) -> bool {
        self.running.contains_key(&errand)
    }

    /// Starts one that is not under way; its answer comes from [`Errands::read`]. `path` names for
    /// people what it begins with.
    ///
    /// # Errors
    /// The system has no room for another process.
    pub(super) fn start(
        &mut self,
        errand: Errand,
        path: &Path,
        reactor: &mut Reactor<PollToken>,
        now: Moment,
        work: impl FnOnce(MayBlock) -> Answer,
    ) -> io::Result<()> {
        self.start_until(errand, path, now.instant + DEADLINE, reactor, now, work)
    }

    /// The same with another deadline.
    pub(super) fn start_until(
        &mut self,
        errand: Errand,
        path: &Path,
        deadline: Instant,
        reactor: &mut Reactor<PollToken>,
        now: Moment,
        work: impl FnOnce(MayBlock) -> Answer,
    ) -> io::Result<()> {
        let (pid, pipe) = in_child(|mut out, may_block| {
            if let Ok(null) = File::open("/dev/null") {
                descriptors::replace_standard_streams(&null);
            }
            // A failed write leaves no answer, and that is noticed.
            let _ = out.write_all(&work(may_block));
        })?;
        let key = PollToken::Errand(errand);
        let registered =
            match reactor.register(&mut SourceFd(&pipe.as_raw_fd()), Interest::READABLE, key) {
                Ok(registered) => registered,
                Err(error) => {
                    let _ = kill(pid, Signal::SIGKILL);
                    return Err(error);
                }
            };
        reactor.set_deadline(key, Some(deadline));
        let (path, answer) = (path.to_owned(), Zeroizing::new(Vec::with_capacity(ROOM)));
        let running = Running { pid, pipe, registered, answer, path, since: now, hangs: false };
        self.running.insert(errand, running);
        Ok(())
    }

    /// Kills the child, unless it hangs where that does harm; its answer is then empty or truncated.
    pub(super) fn kill(&self, errand: Errand) {
        if let Some(running) = self.running.get(&errand) {
            if running.hangs {
                return children::end_stuck(running.pid);
            }
            // It fails where it has just ended. It leads its session, with all that it has started.
            if kill(Pid::from_raw(-running.pid.as_raw()), Signal::SIGKILL).is_err() {
                let _ = kill(running.pid, Signal::SIGKILL);
            }
        }
    }

    /// Reads available bytes; returns the answer when it is complete.
    pub(super) fn read(
        &mut self,
        errand: Errand,
        scratch: &mut [u8],
        reactor: &mut Reactor<PollToken>,
    ) -> Option<Answer> {
        let running = self.running.get_mut(&errand)?;
        loop {
            match nix::unistd::read(&running.pipe, scratch) {
                Ok(0) => break,
                Ok(count) => {
                    running.answer.extend_from_slice(scratch.get(..count).unwrap_or_default());
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                Err(_) => break,
            }
        }
        let Running { pipe, registered, answer, path, hangs, .. } = self.running.remove(&errand)?;
        reactor.deregister(&mut SourceFd(&pipe.as_raw_fd()), registered);
        reactor.set_deadline(PollToken::Errand(errand), None);
        if hangs {
            info!("{} answers again", path.display());
        }
        Some(answer)
    }

    /// Marks work without an answer as hanging.
    pub(super) fn on_deadline(&mut self, errand: Errand) {
        if let Errand::Delivery(_) = errand {
            return self.kill(errand);
        }
        if let Some(running) = self.running.get_mut(&errand) {
            running.hangs = true;
            let path = running.path.display();
            match errand {
                Errand::Reload => warn!(
                    "{path}, or a file that it names, does not answer: its file system hangs; the \
                     reload waits for it"
                ),
                // It is killed instead.
                Errand::Delivery(_) => {}
                Errand::OwnKey { .. } => {
                    warn!("{path} does not answer: its file system hangs; links wait for it");
                }
            }
        }
    }

    /// Entries of hanging files, for a request.
    pub(super) fn hanging(&self) -> impl Iterator<Item = Value> {
        let hanging = self.running.values().filter(|running| running.hangs);
        hanging.map(|running| hanging_entry(&running.path, running.since.wall))
    }
}
