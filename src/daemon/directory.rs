//! The state directory: for one daemon alone, and for nobody else to look into.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::StartError;

/// How long what another daemon left is given to end before the start is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the state directory, for nobody else to look into.
pub fn make_private(path: &Path) -> Result<(), StartError> {
    let failed = |why: String| StartError::Directory(path.to_owned(), why);
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .map_err(|error| failed(format!("cannot make the state directory: {error}")))?;
    let about = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if about.permissions().mode() & 0o077 != 0 {
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, private).map_err(|error| {
            failed(format!("others can look into the state directory: {error}"))
        })?;
    }
    Ok(())
}

/// Takes the state directory for this daemon alone, until it and its store have ended. For the
/// start: waits a little for those of a daemon that has just died.
pub fn lock(directory: &Path) -> Result<File, StartError> {
    take(directory).map_err(|error| StartError::Directory(directory.to_owned(), error.to_string()))
}

fn take(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join("lock"))?;
    if lock_patiently(&file)? {
        return Ok(file);
    }
    let why = "another daemon uses it, or what one left has not ended";
    Err(io::Error::new(io::ErrorKind::WouldBlock, why))
}

/// Locks a file for this process; false where somebody else holds it longer than what a daemon
/// leaves behind is given to end.
pub(super) fn lock_patiently(file: &File) -> io::Result<bool> {
    let due = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= due => return Ok(false),
            Err(TryLockError::WouldBlock) => {
                let _ = poll(&mut [], PollTimeout::from(20_u8));
            }
        }
    }
}
