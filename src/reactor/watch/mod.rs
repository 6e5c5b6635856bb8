//! Files and directories whose changes wake the loop.
//!
//! The kernel says *that* something changed, on one system more exactly than on the other, so the
//! owner is only told to look. A look that finds nothing new must be cheap; a change that nobody is
//! told of is the worse fault. Where the kernel cannot know (another host writes to the same file
//! system) [`is_local`] says so, and the owner has to look by itself now and then.

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
use std::os::fd::RawFd;
use std::path::Path;

use kernel::Kernel;

pub use kernel::{REPORTS_WRITE_AFTER_TRUNCATION, is_local};

/// What is watched: give it back to let it go.
#[derive(Debug, PartialEq, Eq)]
pub struct Watch(u64);

/// All that is watched. `K` names what the owner watches.
pub(super) struct Watches<K> {
    kernel: Kernel,
    keys: BTreeMap<u64, K>,
    last: u64,
    changed: BTreeSet<u64>,
}

impl<K: Copy + Ord> Watches<K> {
    pub(super) fn new() -> io::Result<Watches<K>> {
        let kernel = Kernel::new()?;
        Ok(Watches { kernel, keys: BTreeMap::new(), last: 0, changed: BTreeSet::new() })
    }

    /// Readable when there is something for [`Watches::changed`].
    pub(super) fn descriptor(&self) -> RawFd {
        self.kernel.descriptor()
    }

    /// Watches an open file: written to, cut, renamed, removed.
    pub(super) fn file(&mut self, file: &File, key: K) -> io::Result<Watch> {
        self.add(key, |kernel, number| kernel.file(file, number))
    }

    /// Watches a directory for `name` in it: made, renamed, removed. Other names may wake too.
    pub(super) fn directory(&mut self, path: &Path, name: &OsStr, key: K) -> io::Result<Watch> {
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

    pub(super) fn forget(&mut self, watch: Watch) {
        self.keys.remove(&watch.0);
        self.changed.remove(&watch.0);
        self.kernel.forget(watch.0);
    }

    /// Whether the kernel still watches: it gives up what is removed.
    pub(super) fn is_alive(&self, watch: &Watch) -> bool {
        self.kernel.is_alive(watch.0)
    }

    /// Asks the kernel what changed, and gives each key once. True where there may be more, which
    /// then has to be asked for: the descriptor does not say so again.
    pub(super) fn changed(&mut self, mut tell: impl FnMut(K)) -> bool {
        let more = self.kernel.changed(&mut self.changed);
        let numbers = std::mem::take(&mut self.changed);
        let keys: BTreeSet<K> =
            numbers.iter().filter_map(|number| self.keys.get(number).copied()).collect();
        keys.into_iter().for_each(&mut tell);
        more
    }
}

#[cfg(test)]
mod tests;
