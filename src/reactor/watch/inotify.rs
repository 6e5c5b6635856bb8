//! inotify(7), Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::statfs::fstatfs;

/// Maximum number of 4 KiB reads in a turn; more follow in the next.
const READS: usize = 16;

/// The inotify instance.
pub(super) struct Kernel {
    inotify: Inotify,
    /// One descriptor stands for all watches of one file or directory.
    watches: BTreeMap<WatchDescriptor, Vec<Wanted>>,
}

struct Wanted {
    number: u64,
    /// Only changes of this name.
    name: Option<OsString>,
}

impl Kernel {
    pub(super) fn new() -> io::Result<Kernel> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Kernel { inotify, watches: BTreeMap::new() })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    pub(super) fn file(&mut self, file: &File, number: u64) -> io::Result<()> {
        // By its descriptor: its name may lead to another file by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mask = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF;
        let descriptor = self.inotify.add_watch(path.as_str(), mask)?;
        self.watches.entry(descriptor).or_default().push(Wanted { number, name: None });
        Ok(())
    }

    pub(super) fn directory(&mut self, path: &Path, name: &OsStr, number: u64) -> io::Result<()> {
        let mask = AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        let descriptor = self.inotify.add_watch(path, mask)?;
        let wanted = Wanted { number, name: Some(name.to_owned()) };
        self.watches.entry(descriptor).or_default().push(wanted);
        Ok(())
    }

    pub(super) fn forget(&mut self, number: u64) {
        let inotify = &self.inotify;
        self.watches.retain(|descriptor, wanted| {
            wanted.retain(|wanted| wanted.number != number);
            if wanted.is_empty() {
                // It fails where the kernel removed the watch together with the file.
                let _ = inotify.rm_watch(*descriptor);
            }
            !wanted.is_empty()
        });
    }

    pub(super) fn is_alive(&self, number: u64) -> bool {
        self.watches.values().flatten().any(|wanted| wanted.number == number)
    }

    pub(super) fn changed(&mut self, changed: &mut BTreeSet<u64>) -> bool {
        for _ in 0..READS {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(_) => return false,
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    // The queue overflowed, so anything may have changed.
                    changed.extend(self.watches.values().flatten().map(|wanted| wanted.number));
                    continue;
                }
                let Some(wanted) = self.watches.get(&event.wd) else { continue };
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    changed.extend(wanted.iter().map(|wanted| wanted.number));
                    self.watches.remove(&event.wd);
                    continue;
                }
                let concerns = |wanted: &&Wanted| match (&wanted.name, &event.name) {
                    (Some(wanted), Some(name)) => wanted == name,
                    // The directory itself was removed, or it is a file.
                    (_, None) | (None, Some(_)) => true,
                };
                changed.extend(wanted.iter().filter(concerns).map(|wanted| wanted.number));
            }
        }
        true
    }
}

/// inotify(7) reports every write.
pub const REPORTS_WRITE_AFTER_TRUNCATION: bool = true;

/// False where other hosts can change the file without this kernel's knowledge. By the numbers of
/// `linux/magic.h`, and of the file systems' own headers.
pub fn is_local(file: &File) -> bool {
    const SHARED: [u32; 14] = [
        0x6969,      // NFS
        0x517b,      // SMB
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x0102_1997, // 9P
        0x6573_5546, // FUSE: sshfs and its like
        0x00c3_6400, // Ceph
        0x5346_414f, // AFS
        0x6b41_4653, // kAFS
        0x7375_7245, // Coda
        0x0bd0_0bd0, // Lustre
        0x0116_1970, // GFS2
        0x7461_636f, // OCFS2
        0x7472_6978, // PanFS
    ];
    // A failing call counts as not local.
    fstatfs(file).is_ok_and(|about| {
        // The number has 32 bits; its type is wider on some platforms, and signed.
        let magic = about.filesystem_type().0 as u32;
        !SHARED.contains(&magic)
    })
}
