//! A file that is read again later, when paths cannot be resolved any more.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::sys::confinement::{Right, limit};

/// A name in an open directory.
#[derive(Debug)]
pub(super) struct AnchoredFile {
    directory: OwnedFd,
    name: OsString,
    /// Its path, for messages.
    pub(super) path: PathBuf,
}

impl AnchoredFile {
    /// Opens the directory; the file need not exist.
    pub(super) fn of(path: &Path) -> io::Result<AnchoredFile> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(folder.unwrap_or(Path::new(".")), flags, Mode::empty())?;
        Ok(AnchoredFile { directory, name, path: path.to_owned() })
    }

    /// Limits the directory descriptor to reading.
    pub(super) fn confine(&self) -> io::Result<()> {
        use std::os::fd::AsFd;
        limit(self.directory.as_fd(), Right::ReadBelow)
    }

    /// The content of the file, if it has at most `most` bytes.
    pub(super) fn read(&self, most: u64) -> io::Result<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file =
            File::from(openat(&self.directory, self.name.as_os_str(), flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            let why = format!("it has more than {most} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(bytes)
    }
}
