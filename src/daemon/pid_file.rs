//! The pid file, for systems without a supervisor.
//!
//! It is locked for the lifetime of the daemon, like that of daemon(8), so that a stale number is
//! not mistaken for a running daemon, and two daemons never share a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::warn;

use super::directory::lock_patiently;
use crate::wire::decimal;

/// A locked file with this process's number.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Creates the file, or takes over a stale one, and writes this process's number.
    /// World-readable. Waits a little for processes of a previous daemon: a child that was about to
    /// become a job holds the file for a moment longer.
    ///
    /// # Errors The file cannot be created or written, or another process holds it: its number, if
    /// the file has one.
    pub fn write(path: &Path) -> io::Result<PidFile> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).read(true).write(true);
        loop {
            let mut file = options.mode(0o644).custom_flags(libc::O_NOFOLLOW).open(path)?;
            if !lock_patiently(&file)? {
                return Err(held(&mut file));
            }
            // The holder may have removed it between the two calls.
            if !is_at(&file, path) {
                continue;
            }
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            return Ok(PidFile { path: path.to_owned(), file });
        }
    }

    /// Removes the file at an orderly shutdown.
    pub fn remove(self) {
        if !is_at(&self.file, &self.path) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            warn!("cannot remove the pid file {}: {error}", self.path.display());
        }
    }
}

/// Whether the file at this path is the open one.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |(ours, there): (fs::Metadata, fs::Metadata)| {
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    };
    file.metadata().and_then(|ours| Ok((ours, fs::symlink_metadata(path)?))).is_ok_and(same)
}

/// Longer than any process number.
const NUMBER: u64 = 20;

fn held(file: &mut File) -> io::Error {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = file.take(NUMBER).read_to_string(&mut text);
    let why = match decimal::<u32>(text.trim()) {
        Some(pid) => format!("the process {pid} holds this pid file"),
        None => "another process holds this pid file".to_owned(),
    };
    io::Error::new(io::ErrorKind::WouldBlock, why)
}
