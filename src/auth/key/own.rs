//! The server's own keys, with which it authenticates to relays.
//!
//! Created on demand and stored: the operator of a relay registers the public half (`sysadm-events
//! key export`). A relay of the original kind requires a string to be encrypted as it is, and could
//! relay the result to another relay; so there is a separate key for those.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{KeyError, Kind, PrivateKey};
use crate::sys::may_block::MayBlock;

/// Which of the two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnKey {
    /// Ed25519, for links.
    Link,
    /// RSA, only for links that are configured as legacy.
    Legacy,
}

/// Why the key is unavailable.
#[derive(Debug)]
pub enum OwnKeyError {
    /// The file could not be read or written.
    File(PathBuf, &'static str, io::Error),
    /// The file does not contain a usable key.
    Content(PathBuf, KeyError),
    /// The key could not be created.
    Making(KeyError),
}

impl fmt::Display for OwnKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OwnKeyError::File(path, what, error) => {
                write!(f, "cannot {what} {}: {error}", path.display())
            }
            OwnKeyError::Content(path, why) => write!(
                f,
                "{}: {why}; move it away to have a new key made, which bridges do not know yet",
                path.display()
            ),
            OwnKeyError::Making(why) => write!(f, "cannot make a key: {why}"),
        }
    }
}

impl std::error::Error for OwnKeyError {}

/// Maximum size of the file, in bytes: an RSA key of 8192 bits has 6.5 KiB.
pub(super) const LONGEST: u64 = 64 * 1024;

impl OwnKey {
    /// Path of the file.
    pub fn path(self, state: &Path) -> PathBuf {
        state.join(match self {
            OwnKey::Link => "link-key.pem",
            OwnKey::Legacy => "link-key-legacy.pem",
        })
    }

    /// Reads the key, or creates it. May block on the disk, and an RSA key takes a second or
    /// several: not for the poll loop.
    ///
    /// # Errors See [`OwnKeyError`].
    pub fn ensure(self, state: &Path, may_block: MayBlock) -> Result<PrivateKey, OwnKeyError> {
        let path = self.path(state);
        if let Some(key) = read(&path, may_block)? {
            return Ok(key);
        }
        let kind = match self {
            OwnKey::Link => Kind::Ed25519,
            OwnKey::Legacy => Kind::Rsa,
        };
        let made = PrivateKey::generate(kind).map_err(OwnKeyError::Making)?;
        write_new(&path, made.to_pem().as_bytes(), may_block)
            .map_err(|error| OwnKeyError::File(path.clone(), "write", error))?;
        // If another process was faster, its key is used.
        match read(&path, may_block)? {
            Some(key) => Ok(key),
            None => Ok(made),
        }
    }
}

fn read(path: &Path, _: MayBlock) -> Result<Option<PrivateKey>, OwnKeyError> {
    let failed = |error| OwnKeyError::File(path.to_owned(), "read", error);
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Zeroizing::new(Vec::with_capacity(8 * 1024));
    file.take(LONGEST).read_to_end(&mut text).map_err(failed)?;
    let key = PrivateKey::from_pem(&text);
    key.map(Some).map_err(|why| OwnKeyError::Content(path.to_owned(), why))
}

/// Writes a secret atomically, and never replaces an existing file.
fn write_new(path: &Path, secret: &[u8], _: MayBlock) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(secret).and_then(|()| file.sync_all()).and_then(|()| {
        match fs::hard_link(&new, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    });
    fs::remove_file(&new)?;
    written?;
    fs::File::open(folder)?.sync_all()
}
