//! A job that waits until a test releases it, to examine it while it runs, independent of the speed
//! of the machine.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::{Directory, Outcome};

/// A named pipe that jobs read a line from.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
    /// Open for both, so that neither side waits for the other to open it.
    pipe: File,
}

impl Gate {
    /// Creates a closed gate.
    pub fn new(directory: &Directory, name: &str) -> Outcome<Gate> {
        let path = directory.join(name);
        mkfifo(&path, Mode::from_bits_truncate(0o666))?;
        let pipe = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Gate { path, pipe })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The shell command that waits for it.
    pub fn wait(&self) -> String {
        format!("read go <{}", self.path.display())
    }

    /// Releases one reader.
    pub fn open(&mut self) -> Outcome<()> {
        self.pipe.write_all(b"\n")?;
        Ok(())
    }
}
