//! The configuration file, its defaults, and every limit by name and unit.
//!
//! Operators usually read this module's messages when something is wrong. So the whole file is
//! checked at once: each fault is reported with its file and line, the expected value and a remedy,
//! not only the first of them. Every limit has a key here, and values are not checked again
//! elsewhere.
//!
//! * `sections` (`Server`, `Auth`, …) are the values, one field per key;
//! * `keys` binds each key of the file to its field, one line per key, with its bounds;
//! * `section` reads key by key, and `reader` records which keys are known, present and faulty;
//! * `values` and `units` convert one TOML value;
//! * `checks` has the checks between keys.

mod alerts;
mod checks;
mod defaults;
mod error;
mod home;
mod hosts;
mod keys;
mod link;
mod network;
mod notify;
mod reader;
mod rules;
mod section;
mod sections;
mod source;
mod spelling;
mod unclosed;
mod units;
mod values;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use error::Lines;
use reader::Reader;

use crate::notify::Target;
use crate::sys::files::Files;

pub use alerts::{AlertPool, Alerts, Expectation, Expected};
pub use error::{ConfigError, ConfigErrors};
pub use home::Home;
pub use hosts::HostEntry;
pub use link::{BridgeUrl, fingerprint};
pub use network::Network;
pub use rules::Rules;
pub use sections::{
    Auth, Bridge, BridgeLink, Dispatcher, Events, JobQueue, LegacyBridgeClients, LifePreserver,
    Log, LogSource, LogTarget, Paths, Relay, Server, Store, SystemState, ZpoolWhen,
};

/// Maximum size of a configuration file, in bytes.
pub const MAX_FILE: usize = 1024 * 1024;

/// The complete configuration. A value of this type has passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[server]`: listeners, clients and their limits.
    pub server: Server,
    /// `[auth]`: authentication and its limits.
    pub auth: Auth,
    /// `[events]`: the ring and the size of one event.
    pub events: Events,
    /// `[dispatcher]`: jobs.
    pub dispatcher: Dispatcher,
    /// `[store]`: durable storage.
    pub store: Store,
    /// `[life_preserver]`: snapshots and replications.
    pub life_preserver: LifePreserver,
    /// `[system_state]`: pools and the host name.
    pub system_state: SystemState,
    /// `[alerts]`: alerts.
    pub alerts: Alerts,
    /// `[[expect]]`, at most 64: silence that is an alert. Default: none.
    pub expect: Vec<Expectation>,
    /// `[bridge]`: links to relays.
    pub bridge: Bridge,
    /// `[relay]`: the relay, run by `bridge`.
    pub relay: Relay,
    /// `[paths]`: directories of `serve`.
    pub paths: Paths,
    /// `[log]`: the daemon's own messages.
    pub log: Log,
    /// `[[notify]]`, at most 64: targets of notifications. Default: none.
    pub notify: Vec<Target>,
}

impl Config {
    /// Parses `text` over the defaults of `home`; `file` names it in messages. Files that it names
    /// are read from `files`.
    ///
    /// # Errors
    /// All faults that were found, in the order of their lines.
    pub fn parse(
        text: &str,
        file: &Path,
        home: &Home,
        files: &Files,
    ) -> Result<Config, ConfigErrors> {
        let mut config = Config::defaults(home);
        let (repaired, unclosed) = unclosed::repair(text);
        let (document, syntax) = toml::de::DeTable::parse_recoverable(&repaired);
        let mut reader = Reader::new(text, document.get_ref(), &syntax, unclosed);
        let mut elsewhere = Vec::new();
        keys::read(&mut reader, &mut config, &mut elsewhere, files);
        reader.report_unknown();
        checks::check(&config, &mut reader);
        let lines = Lines::of(text);
        let faults = reader.into_faults(&lines);
        if !faults.is_empty() {
            let errors = ConfigErrors::new(file, &lines, faults);
            elsewhere.splice(0..0, errors.iter().cloned());
        }
        ConfigErrors::of_files(elsewhere).map_or(Ok(config), Err)
    }

    /// Reads `file`; without one the file of `home` where it exists, else the defaults. Also
    /// returns the path.
    ///
    /// # Errors The file cannot be read, has more than [`MAX_FILE`] bytes, is not UTF-8, or has
    /// faults.
    pub fn load(
        file: Option<&Path>,
        home: &Home,
        files: &Files,
    ) -> Result<(Config, Option<PathBuf>), ConfigErrors> {
        let path = file.map_or_else(|| home.config_file(), Path::to_path_buf);
        match read(&path, files) {
            Ok(bytes) => Ok((Config::of_bytes(&bytes, &path, home, files)?, Some(path))),
            Err(e) if e.kind() == io::ErrorKind::NotFound && file.is_none() => {
                Ok((Config::defaults(home), None))
            }
            Err(e) => Err(ConfigErrors::of_whole_file(&path, unreadable(&e))),
        }
    }

    /// Parses the content of `file`.
    ///
    /// # Errors As [`load`](Config::load).
    pub fn of_bytes(
        bytes: &[u8],
        file: &Path,
        home: &Home,
        files: &Files,
    ) -> Result<Config, ConfigErrors> {
        Config::parse(text_of(bytes, file)?, file, home, files)
    }
}

/// The changed keys of `serve` that a reload does not apply: their subsystems are initialised once,
/// before the first client.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("server.socket", old.server.socket != new.server.socket),
        ("server.socket_mode", old.server.socket_mode != new.server.socket_mode),
        ("server.lock_memory", old.server.lock_memory != new.server.lock_memory),
        ("store.journal", old.store.journal != new.store.journal),
        ("paths.state", old.paths.state != new.paths.state),
        ("log.target", old.log.target != new.log.target),
    ];
    changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

/// The same for `bridge`, which has dropped the privileges to initialise them again.
pub fn relay_needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let (before, now) = (&old.relay, &new.relay);
    let changed = [
        ("relay.listen", before.listen != now.listen),
        ("relay.socket", before.socket != now.socket),
        ("relay.certificate", before.certificate != now.certificate),
        ("relay.private_key", before.private_key != now.private_key),
        ("relay.state", before.state != now.state),
        ("relay.user", before.user != now.user),
        ("log.target", old.log.target != new.log.target),
    ];
    changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

/// Reads at most one byte more than the maximum, so that a device or a mistake cannot fill memory.
fn read(path: &Path, files: &Files) -> io::Result<Zeroizing<Vec<u8>>> {
    files.read(path, MAX_FILE as u64 + 1)
}

fn text_of<'b>(bytes: &'b [u8], path: &Path) -> Result<&'b str, ConfigErrors> {
    if bytes.len() > MAX_FILE {
        let message = "has more than 1MiB: this is hardly a configuration file; \
                       check the path given with -c";
        return Err(ConfigErrors::of_whole_file(path, message.to_owned()));
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let (valid, rest) = bytes.split_at_checked(e.valid_up_to()).unwrap_or((bytes, &[][..]));
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        let wrong = rest.first().copied().unwrap_or_default();
        let message = format!("byte 0x{wrong:02x} is not UTF-8");
        ConfigErrors::of_line(path, line, message + ": save the file in UTF-8")
    })
}

fn unreadable(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "check the path given with -c",
        io::ErrorKind::PermissionDenied => "give this user the right to read it",
        io::ErrorKind::IsADirectory => "name the file in it",
        _ => "repair it or name another file with -c",
    };
    format!("cannot be read: {error}; {advice}")
}
