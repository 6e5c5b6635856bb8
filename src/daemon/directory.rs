//! The state directory: used by one daemon at a time, and private to its user.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::StartError;

/// Time limit at start-up for processes of a previous daemon to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Creates the state directory with mode 0700, and missing directories above it with 0755: those
/// are not the daemon's own, and other users may have to pass.
///
/// An existing state directory that others can read or search loses these permissions.
pub fn make_private(path: &Path) -> Result<(), StartError> {
    let failed = |why: String| StartError::Directory(path.to_owned(), why);
    let above = path.parent().map_or(Ok(()), |parent| {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)
    });
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    above
        .and_then(|()| builder.create(path))
        .map_err(|error| failed(format!("cannot create the state directory: {error}")))?;
    let about = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if about.permissions().mode() & 0o077 != 0 {
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, private).map_err(|error| {
            failed(format!("the state directory is accessible to other users: {error}"))
        })?;
    }
    Ok(())
}

/// Locks the state directory for this daemon, until it and its store have ended. At start-up: waits
/// a little for those of a daemon that has just died.
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

/// Locks a file for this process; false where another process holds it for longer than the
/// processes of a previous daemon need to end.
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
