//! Opening, looking at and reading log files: the calls, and no judgement.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::tail::{Identity, Print};
use crate::sys::guarded_path::{open_regular, stat_regular};

/// Names in a log's directory that are looked at when a file with its rest is searched.
const NAMES: usize = 4096;
/// Of those the ones that begin like the log's, which are opened.
const SIBLINGS: usize = 64;

/// What a path leads to.
pub(super) enum Named {
    /// A file that can be read.
    File(Identity),
    /// Nothing.
    Absent,
}

/// Asks what a path leads to, without opening it.
///
/// # Errors
/// It is no regular file, or the system does not say.
pub(super) fn named(path: &Path) -> io::Result<Named> {
    match stat_regular(path) {
        Ok(about) => Ok(Named::File(Identity { device: about.st_dev, inode: about.st_ino })),
        Err(error) if is_absence(&error) => Ok(Named::Absent),
        Err(error) => Err(error),
    }
}

/// Opens a regular file; see [`open_regular`] for the links that are followed.
///
/// # Errors
/// It is not there, is no regular file, or cannot be opened.
pub(super) fn open(path: &Path) -> io::Result<(File, Identity)> {
    let file = open_regular(path)?;
    let identity = identity(&file.metadata()?);
    Ok((file, identity))
}

pub(super) fn identity(about: &Metadata) -> Identity {
    Identity { device: about.dev(), inode: about.ino() }
}

/// Whether an error says that there is nothing of that name.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Reads at most `length` bytes from `from` on into `buffer`, which has them and nothing else then.
pub(super) fn read(file: &File, from: u64, length: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.resize(length, 0);
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut buffer[filled..], from + filled as u64) {
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

/// What stands where a print was taken: so many bytes of the beginning and before the position.
pub(super) fn print(file: &File, position: u64, lengths: (usize, usize)) -> io::Result<Print> {
    let mut print = Print::default();
    read(file, 0, lengths.0, &mut print.head)?;
    let before = lengths.1.min(usize::try_from(position).unwrap_or(usize::MAX));
    read(file, position - before as u64, before, &mut print.before)?;
    Ok(print)
}

/// Opens the files in the log's directory whose names begin with the log's own and are longer: as
/// newsyslog, logrotate and Life Preserver name what they rotate. What cannot be opened is left out.
pub(super) fn siblings(path: &Path) -> Vec<(File, Identity)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let name = name.as_encoded_bytes();
    let mut found = Vec::new();
    for entry in entries.take(NAMES).flatten() {
        let other = entry.file_name();
        let other = other.as_encoded_bytes();
        if other.len() > name.len()
            && other.starts_with(name)
            && found.len() < SIBLINGS
            && let Ok(opened) = open(&entry.path())
        {
            found.push(opened);
        }
    }
    found
}
