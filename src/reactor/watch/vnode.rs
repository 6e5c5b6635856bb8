//! `EVFILT_VNODE` of kqueue(2), FreeBSD.
//!
//! It watches by open descriptor, and reports that something in a directory changed, not what. The
//! kqueue is a descriptor of its own inside the loop's, and polled like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::sys::statfs::fstatfs;

use crate::sys::confinement::{Right, limit};

/// Number of events taken at once, and number of such reads in a turn; more follow in the next.
const EVENTS: usize = 64;
const READS: usize = 16;

/// The kqueue.
pub(super) struct Kernel {
    kqueue: Kqueue,
    /// Closing a descriptor ends its watch.
    open: BTreeMap<u64, File>,
}

impl Kernel {
    pub(super) fn new() -> io::Result<Kernel> {
        Ok(Kernel { kqueue: Kqueue::new()?, open: BTreeMap::new() })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.kqueue.as_fd()
    }

    pub(super) fn file(&mut self, file: &File, number: u64) -> io::Result<()> {
        let changes = FilterFlag::NOTE_WRITE
            | FilterFlag::NOTE_EXTEND
            | FilterFlag::NOTE_ATTRIB
            | FilterFlag::NOTE_LINK;
        self.begin(file.try_clone()?, changes, number)
    }

    pub(super) fn directory(&mut self, path: &Path, _: &OsStr, number: u64) -> io::Result<()> {
        let flags = libc::O_DIRECTORY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        self.begin(directory, FilterFlag::NOTE_WRITE, number)
    }

    fn begin(&mut self, file: File, changes: FilterFlag, number: u64) -> io::Result<()> {
        // In capability mode a directory with all rights would grant access to every file below it.
        limit(file.as_fd(), Right::Watch)?;
        let ends = FilterFlag::NOTE_DELETE | FilterFlag::NOTE_RENAME | FilterFlag::NOTE_REVOKE;
        let event = KEvent::new(
            file.as_raw_fd() as usize,
            EventFilter::EVFILT_VNODE,
            EvFlags::EV_ADD | EvFlags::EV_CLEAR,
            changes | ends,
            0,
            number as isize,
        );
        self.kqueue.kevent(&[event], &mut [], Some(AT_ONCE))?;
        self.open.insert(number, file);
        Ok(())
    }

    pub(super) fn forget(&mut self, number: u64) {
        self.open.remove(&number);
    }

    pub(super) fn is_alive(&self, number: u64) -> bool {
        self.open.contains_key(&number)
    }

    pub(super) fn changed(&mut self, changed: &mut BTreeSet<u64>) -> bool {
        let none =
            KEvent::new(0, EventFilter::EVFILT_VNODE, EvFlags::empty(), FilterFlag::empty(), 0, 0);
        let mut events = [none; EVENTS];
        for _ in 0..READS {
            match self.kqueue.kevent(&[], &mut events, Some(AT_ONCE)) {
                Ok(0) => return false,
                Ok(count) => {
                    for event in events.iter().take(count) {
                        let number = event.udata() as u64;
                        changed.insert(number);
                        if event.fflags().intersects(GONE) {
                            self.open.remove(&number);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// The first write of an appending descriptor is not reported if another one truncated the file: a
/// write is reported if it ends beyond the descriptor's old offset (vop_write_post() of FreeBSD's
/// sys/vnode.h), which the truncation did not move. NOTE_EXTEND has the same condition, and
/// NOTE_ATTRIB does not concern writes.
pub const REPORTS_WRITE_AFTER_TRUNCATION: bool = false;

/// No further events follow. A file that is removed while it is open may still be written to, but
/// then its name leads elsewhere or nowhere, and the owner polls.
const GONE: FilterFlag = FilterFlag::NOTE_DELETE.union(FilterFlag::NOTE_REVOKE);
const AT_ONCE: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

/// False where other hosts can change the file without this kernel's knowledge.
pub fn is_local(file: &File) -> bool {
    const SHARED: [&str; 4] = ["nfs", "smbfs", "fusefs", "p9fs"];
    // A FUSE file system may name itself: `fusefs.sshfs`. A failing call counts as not local.
    fstatfs(file).is_ok_and(|about| {
        let name = about.filesystem_type_name();
        !SHARED.contains(&name.split('.').next().unwrap_or(name))
    })
}
