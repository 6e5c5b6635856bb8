//! File and directory watches that wake the loop.
//!
//! The kernel reports *that* something changed, in different detail on different systems, so the
//! owner is only notified to poll. A poll without a change must be cheap; an unreported change is
//! the worse fault. Where the kernel cannot know (another host writes to the same file system)
//! [`is_local`] says so, and the owner must poll at an interval.

#[cfg(target_os = "linux")]
#[path = "inotify.rs"]
mod kernel;
#[cfg(target_os = "freebsd")]
#[path = "vnode.rs"]
mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use kernel::Kernel;

use crate::sys::may_block::MayBlock;

pub use kernel::{REPORTS_WRITE_AFTER_TRUNCATION, is_local};

/// Handle of a watch, for [`Watches::remove`].
#[derive(Debug, PartialEq, Eq)]
pub struct Watch(u64);

/// All watches. `K` identifies the owner's files.
pub struct Watches<K> {
    kernel: Kernel,
    keys: BTreeMap<u64, K>,
    last: u64,
    changed: BTreeSet<u64>,
}

impl<K: Copy + Ord> Watches<K> {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn new() -> io::Result<Watches<K>> {
        let kernel = Kernel::new()?;
        Ok(Watches { kernel, keys: BTreeMap::new(), last: 0, changed: BTreeSet::new() })
    }

    /// Watches an open file: write, truncation, rename, removal.
    ///
    /// # Errors
    /// The system has no room for another watch, or cannot watch this file.
    pub fn file(&mut self, file: &File, key: K, _: MayBlock) -> io::Result<Watch> {
        self.add(key, |kernel, number| kernel.file(file, number))
    }

    /// Watches a directory for `name` in it: creation, rename, removal. Other names may be reported
    /// too.
    ///
    /// # Errors
    /// It is no directory, or cannot be watched.
    pub fn directory(
        &mut self,
        path: &Path,
        name: &OsStr,
        key: K,
        _: MayBlock,
    ) -> io::Result<Watch> {
        self.add(key, |kernel, number| kernel.directory(path, name, number))
    }

    fn add(
        &mut self,
        key: K,
        begin: impl FnOnce(&mut Kernel, u64) -> io::Result<()>,
    ) -> io::Result<Watch> {
        self.last += 1;
        begin(&mut self.kernel, self.last)?;
        self.keys.insert(self.last, key);
        Ok(Watch(self.last))
    }

    /// Removes a watch. Changes in flight are discarded.
    pub fn forget(&mut self, watch: Watch) {
        self.keys.remove(&watch.0);
        self.changed.remove(&watch.0);
        self.kernel.forget(watch.0);
    }

    /// Whether the kernel still watches: watches of removed files end.
    pub fn is_alive(&self, watch: &Watch) -> bool {
        self.kernel.is_alive(watch.0)
    }

    /// Reads the kernel's events, and passes each key once. True where more may follow, which must
    /// be asked for: the descriptor does not become readable again for them.
    pub fn changed(&mut self, mut report: impl FnMut(K)) -> bool {
        let more = self.kernel.changed(&mut self.changed);
        let numbers = std::mem::take(&mut self.changed);
        let keys: BTreeSet<K> =
            numbers.iter().filter_map(|number| self.keys.get(number).copied()).collect();
        keys.into_iter().for_each(&mut report);
        more
    }
}

/// Readable when there is something for [`Watches::changed`].
impl<K> AsFd for Watches<K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.descriptor()
    }
}

#[cfg(test)]
mod tests;
