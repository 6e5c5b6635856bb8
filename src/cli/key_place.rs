//! Location of registered keys on this host, for commands that change them whether a daemon runs or
//! not.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, chown, geteuid, setgid, setgroups, setuid};

use super::exit::Exit;
use crate::auth::key::{KeyLimits, KeyStore};
use crate::client::sysexits;
use crate::config::Config;

/// The state directory of a daemon on this host.
pub(super) struct KeyPlace<'c> {
    state: &'c Path,
    /// Owner of a directory that root creates.
    user: Option<&'c str>,
    /// Limits of registered keys.
    pub(super) limits: KeyLimits,
}

impl<'c> KeyPlace<'c> {
    /// That of `serve`, or of the relay.
    pub(super) fn of(config: &'c Config, bridge: bool) -> KeyPlace<'c> {
        let (auth, relay) = (&config.auth, &config.relay);
        if bridge {
            let (total, legacy) = (relay.max_keys, relay.max_legacy_keys);
            let limits = KeyLimits { of_user: total, total, legacy, legacy_of_user: legacy };
            return KeyPlace { state: &relay.state, user: relay.user.as_deref(), limits };
        }
        let limits = KeyLimits {
            of_user: auth.max_keys_per_user,
            total: auth.max_keys,
            legacy: auth.max_legacy_keys,
            // The administrator may use up the limit of all users.
            legacy_of_user: auth.max_legacy_keys,
        };
        KeyPlace { state: &config.paths.state, user: None, limits }
    }

    /// Path of the registered keys.
    pub(super) fn path(&self) -> PathBuf {
        KeyStore::path(self.state)
    }

    /// Creates the directory like the daemon, if missing.
    pub(super) fn make(&self) -> Result<(), Exit> {
        let folder = self.state;
        if folder.exists() {
            return Ok(());
        }
        let failed = |error: io::Error| file_error("make", folder, &error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        if let Some(name) = self.user.filter(|_| geteuid().is_root()) {
            let user = User::from_name(name).ok().flatten().ok_or_else(|| {
                let why = format!("there is no user {name:?} for the relay ([relay] user)");
                Exit::failed(sysexits::CONFIGURATION, why)
            })?;
            chown(folder, Some(user.uid), Some(user.gid)).map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    /// Root becomes the user who owns the directory. So that user's daemon can read what is
    /// written; and files of that user, such as a link to a file of root, cannot be abused.
    pub(super) fn become_owner(&self) -> Result<(), Exit> {
        let folder = self.state;
        if !geteuid().is_root() {
            return Ok(());
        }
        let Ok(owner) = fs::metadata(folder) else { return Ok(()) };
        if owner.uid() == 0 {
            return Ok(());
        }
        let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        setgroups(&[group])
            .and_then(|()| setgid(group))
            .and_then(|()| setuid(user))
            .map_err(|error| file_error("become the owner of", folder, &error.into()))
    }
}

/// A file that cannot be used.
pub(super) fn file_error(what: &str, path: &Path, error: &io::Error) -> Exit {
    Exit::failed(code_of(error), format!("cannot {what} {}: {error}", path.display()))
}

/// Exit code of sysexits(3).
pub(super) fn code_of(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::PermissionDenied => sysexits::NO_PERMISSION,
        io::ErrorKind::WouldBlock => sysexits::UNAVAILABLE,
        _ => sysexits::CONFIGURATION,
    }
}
