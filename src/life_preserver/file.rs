//! System calls that open, stat and read log files. Policy is in [`super::tail`].

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::tail::{Fingerprint, Identity};
use crate::sys::guarded_path::{open_regular, stat_regular};
use crate::sys::may_block::MayBlock;

/// Maximum number of directory entries examined when a rotated or copied file is searched for.
const NAMES: usize = 4096;
/// Maximum number of those entries that are opened: the ones whose names begin with the log's name.
const SIBLINGS: usize = 64;

/// Result of resolving a path.
pub(super) enum Resolved {
    /// A readable regular file.
    File(Identity),
    /// No such file.
    Absent,
}

/// Resolves a path without opening it.
///
/// # Errors The path is not a regular file, or the system call fails.
pub(super) fn named(path: &Path, may_block: MayBlock) -> io::Result<Resolved> {
    match stat_regular(path, may_block) {
        Ok(about) => Ok(Resolved::File(Identity { device: about.st_dev, inode: about.st_ino })),
        Err(error) if is_absence(&error) => Ok(Resolved::Absent),
        Err(error) => Err(error),
    }
}

/// Opens a regular file; see [`open_regular`] for the symbolic links that are followed.
///
/// # Errors The file does not exist, is not regular, or cannot be opened.
pub(super) fn open(path: &Path, may_block: MayBlock) -> io::Result<(File, Identity)> {
    let file = open_regular(path, may_block)?;
    let identity = identity(&file.metadata()?);
    Ok((file, identity))
}

pub(super) fn identity(about: &Metadata) -> Identity {
    Identity { device: about.dev(), inode: about.ino() }
}

/// True for an error that means "no such file".
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Reads at most `length` bytes at offset `from`. `buffer` is cleared first.
pub(super) fn read(
    file: &File,
    from: u64,
    length: usize,
    buffer: &mut Vec<u8>,
    _: MayBlock,
) -> io::Result<()> {
    buffer.clear();
    buffer.resize(length, 0);
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                buffer.clear();
                return Err(error);
            }
        }
    }
    buffer.truncate(filled);
    Ok(())
}

/// Reads the bytes that a fingerprint covers: at the beginning of the file, and before `position`.
pub(super) fn fingerprint(
    file: &File,
    position: u64,
    lengths: (usize, usize),
    may_block: MayBlock,
) -> io::Result<Fingerprint> {
    let mut fingerprint = Fingerprint::default();
    read(file, 0, lengths.0, &mut fingerprint.head, may_block)?;
    let before = lengths.1.min(usize::try_from(position).unwrap_or(usize::MAX));
    read(file, position - before as u64, before, &mut fingerprint.before, may_block)?;
    Ok(fingerprint)
}

/// Opens the files beside the log whose names extend the log's own name, the convention of
/// newsyslog, logrotate and Life Preserver. Files that cannot be opened are omitted.
///
/// # Errors
/// The directory is there and cannot be read.
pub(super) fn siblings(path: &Path, may_block: MayBlock) -> io::Result<Vec<(File, Identity)>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let name = name.as_encoded_bytes();
    let mut found = Vec::new();
    for entry in entries.take(NAMES).flatten() {
        let other = entry.file_name();
        let other = other.as_encoded_bytes();
        if other.len() > name.len()
            && other.starts_with(name)
            && found.len() < SIBLINGS
            && let Ok(opened) = open(&entry.path(), may_block)
        {
            found.push(opened);
        }
    }
    Ok(found)
}
