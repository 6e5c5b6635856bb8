//! A directory for one daemon: private, with a short path (a socket's may have 103 bytes), removed
//! with its content when its last owner is dropped.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, process};

use crate::Outcome;

static MADE: AtomicU32 = AtomicU32::new(0);

/// A private directory, removed with its last owner.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Creates one.
    pub fn new() -> Outcome<Directory> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("se-{}-{number}", process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Directory(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Path of a file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
