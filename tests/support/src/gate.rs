//! A job that waits until a test lets it go on: the way to look at it while it runs, however fast or
//! slow the machine is.

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
    /// A closed one.
    pub fn new(directory: &Directory, name: &str) -> Outcome<Gate> {
        let path = directory.join(name);
        mkfifo(&path, Mode::from_bits_truncate(0o666))?;
        let pipe = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Gate { path, pipe })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a shell runs to wait at it.
    pub fn wait(&self) -> String {
        format!("read go <{}", self.path.display())
    }

    /// Lets one reader through.
    pub fn open(&mut self) -> Outcome<()> {
        self.pipe.write_all(b"\n")?;
        Ok(())
    }
}
