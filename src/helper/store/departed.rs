//! Serials of the jobs that no longer wait, in a file of their own beside the journal.
//!
//! A second witness: a journal that has lost its end says of a job only that it was filed, and the
//! next daemon would run the job again. The file gets one sealed line per job, written with the
//! first record that says that the job does not wait any more, and no `fsync` of its own: it answers
//! for a journal that was cut, restored or damaged, not for a disk that lost both.

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

/// The file that belongs to a journal.
fn beside(journal: &Path) -> PathBuf {
    journal.with_file_name("departed")
}

fn line(serial: u64) -> String {
    seal(&serde_json::to_string(&Line { departed: serial }).unwrap_or_default())
}

/// The serials of the file that belongs to `journal`. Lines that cannot be read are skipped; a file
/// that cannot be read is an empty one.
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
    /// Bytes that count.
    length: u64,
    serials: BTreeSet<u64>,
}

impl Departed {
    pub(super) fn open(journal: &Path) -> io::Result<Departed> {
        let path = beside(journal);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(&path)?;
        let bytes = std::fs::read(&path)?;
        // A torn line must not swallow the next one.
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

    /// Appends the serials that are not in the file; [`Departed::confirm`] or [`Departed::undo`]
    /// follows.
    pub(super) fn append(&mut self, serials: &BTreeSet<u64>) -> io::Result<()> {
        let lines: String = serials.difference(&self.serials).map(|serial| line(*serial)).collect();
        if lines.is_empty() { Ok(()) } else { self.file.write_all(lines.as_bytes()) }
    }

    /// Confirms the lines that were appended.
    pub(super) fn confirm(&mut self, serials: BTreeSet<u64>) {
        let new = serials.difference(&self.serials).map(|serial| line(*serial).len() as u64);
        self.length += new.sum::<u64>();
        self.serials.extend(serials);
    }

    /// Removes the lines that were appended.
    pub(super) fn undo(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)
    }

    /// Replaces the file by one with only the serials that `is_wanted` says.
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
