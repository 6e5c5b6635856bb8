//! Serials of jobs that are no longer pending, in a file beside the journal.
//!
//! A second source: a journal that has lost its end may only state that a job was filed, and the
//! next daemon would run it again. The file gets one sealed line per job, written with the first
//! record after the job's wait, without an `fsync` of its own: it protects against a journal that
//! was cut, restored or damaged, not against a disk that lost both.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::journal::rename_into_place;
use crate::seal::{seal, unseal};

#[derive(Serialize, Deserialize)]
struct Line {
    departed: u64,
}

/// The path that belongs to a journal.
fn beside(journal: &Path) -> PathBuf {
    journal.with_file_name("departed")
}

fn line(serial: u64) -> String {
    seal(&serde_json::to_string(&Line { departed: serial }).unwrap_or_default())
}

/// The serials in the file that belongs to `journal`. Unreadable lines are skipped; an unreadable
/// file counts as empty.
pub(super) fn read(journal: &Path) -> BTreeSet<u64> {
    serials(&std::fs::read(beside(journal)).unwrap_or_default())
}

fn serials(bytes: &[u8]) -> BTreeSet<u64> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let serial = |line: &[u8]| {
        let object = unseal(std::str::from_utf8(line).ok()?)?;
        serde_json::from_str::<Line>(&object).ok().map(|line| line.departed)
    };
    lines.filter_map(serial).collect()
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Departed {
    path: PathBuf,
    file: File,
    /// Number of confirmed bytes.
    length: u64,
    serials: BTreeSet<u64>,
}

impl Departed {
    pub(super) fn open(journal: &Path) -> io::Result<Departed> {
        let path = beside(journal);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(&path)?;
        let bytes = std::fs::read(&path)?;
        // The next line must not be joined to a torn one.
        if bytes.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n")?;
        }
        let serials = serials(&bytes);
        Ok(Departed { path, length: file.metadata()?.len(), file, serials })
    }

    /// The highest serial, or 0.
    pub(super) fn last(&self) -> u64 {
        self.serials.last().copied().unwrap_or(0)
    }

    /// Appends serials that are not in the file; [`Departed::confirm`] or [`Departed::undo`]
    /// follows.
    pub(super) fn append(&mut self, serials: &BTreeSet<u64>) -> io::Result<()> {
        let lines: String = serials.difference(&self.serials).map(|serial| line(*serial)).collect();
        if lines.is_empty() { Ok(()) } else { self.file.write_all(lines.as_bytes()) }
    }

    /// Confirms the appended lines.
    pub(super) fn confirm(&mut self, serials: BTreeSet<u64>) {
        let new = serials.difference(&self.serials).map(|serial| line(*serial).len() as u64);
        self.length += new.sum::<u64>();
        self.serials.extend(serials);
    }

    /// Removes the appended lines.
    pub(super) fn undo(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)
    }

    /// Replaces the file by one with only the serials for which `is_wanted` returns true.
    pub(super) fn rewrite(&mut self, is_wanted: impl Fn(u64) -> bool) -> io::Result<()> {
        let serials: BTreeSet<u64> =
            self.serials.iter().copied().filter(|serial| is_wanted(*serial)).collect();
        let lines: String = serials.iter().map(|serial| line(*serial)).collect();
        rename_into_place(&self.path, lines.as_bytes())?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        (self.length, self.serials) = (lines.len() as u64, serials);
        Ok(())
    }
}
