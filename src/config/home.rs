//! Default paths by kind of user: the system's directories for root, the XDG directories for other
//! users, so that the daemon runs without any set-up, and beside the system's.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

/// The default directories of one kind of user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// Root: the daemon of the host.
    System,
    /// Another user: base directories of the XDG Base Directory Specification 0.8.
    User {
        /// `$XDG_CONFIG_HOME`, or `~/.config`.
        config: PathBuf,
        /// `$XDG_STATE_HOME`, or `~/.local/state`.
        state: PathBuf,
        /// `$XDG_RUNTIME_DIR`, if there is one.
        runtime: Option<PathBuf>,
    },
}

impl Home {
    /// That of the effective user of this process.
    ///
    /// May query the name service for a home directory where `$HOME` is not set: for start-up, not
    /// for the loop.
    pub fn of_this_process() -> Home {
        if geteuid().is_root() {
            return Home::System;
        }
        Home::from_environment(|name| env::var_os(name), home_of_account)
    }

    /// The user's directories according to these variables. Only absolute paths count: the
    /// specification requires that empty and relative ones are ignored.
    fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
        home_of_account: impl FnOnce() -> PathBuf,
    ) -> Home {
        let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = directory("HOME").unwrap_or_else(home_of_account);
        Home::User {
            config: config_directory(&variable, || home.clone()),
            state: directory("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")),
            runtime: directory("XDG_RUNTIME_DIR"),
        }
    }

    /// Whether this is the daemon of the host.
    pub fn is_system(&self) -> bool {
        match self {
            Home::System => true,
            Home::User { .. } => false,
        }
    }

    /// The configuration file that is read without `-c`.
    pub fn config_file(&self) -> PathBuf {
        self.server_directory().join("sysadm-events.toml")
    }

    /// The server's certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.server_directory().join("cert.pem")
    }

    /// The server's private key, PEM.
    pub fn private_key(&self) -> PathBuf {
        self.server_directory().join("key.pem")
    }

    /// The server's state directory.
    pub fn state(&self) -> PathBuf {
        match self {
            Home::System => PathBuf::from("/var/db/sysadm-events"),
            Home::User { state, .. } => state.join("sysadm-events"),
        }
    }

    /// The server's Unix socket.
    pub fn socket(&self) -> PathBuf {
        match self {
            Home::System => Home::system_socket().to_path_buf(),
            Home::User { runtime: Some(runtime), .. } => runtime.join("sysadm-events/socket"),
            Home::User { runtime: None, .. } => self.state().join("socket"),
        }
    }

    /// The Unix socket of the system's daemon, which a command tries before the user's own.
    pub fn system_socket() -> &'static Path {
        Path::new("/var/run/sysadm-events/socket")
    }

    /// The relay's certificate, PEM.
    pub fn relay_certificate(&self) -> PathBuf {
        self.relay_directory().join("cert.pem")
    }

    /// The relay's private key, PEM.
    pub fn relay_private_key(&self) -> PathBuf {
        self.relay_directory().join("key.pem")
    }

    /// The relay's state directory.
    pub fn relay_state(&self) -> PathBuf {
        match self {
            Home::System => PathBuf::from("/var/db/sysadm-bridge"),
            Home::User { state, .. } => state.join("sysadm-bridge"),
        }
    }

    /// The relay's Unix socket.
    pub fn relay_socket(&self) -> PathBuf {
        match self {
            Home::System => Home::system_relay_socket().to_path_buf(),
            Home::User { runtime: Some(runtime), .. } => runtime.join("sysadm-bridge/socket"),
            Home::User { runtime: None, .. } => self.relay_state().join("socket"),
        }
    }

    /// The Unix socket of the host's relay.
    pub fn system_relay_socket() -> &'static Path {
        Path::new("/var/run/sysadm-bridge/socket")
    }

    /// Certificates of other hosts that the user of this process trusts: a file of the user's own,
    /// also for root.
    pub fn known_hosts() -> PathBuf {
        config_directory(&|name| env::var_os(name), home_of_account)
            .join("sysadm-events/known_hosts")
    }

    /// The named hosts of the user of this process.
    pub fn hosts() -> PathBuf {
        config_directory(&|name| env::var_os(name), home_of_account)
            .join("sysadm-events/hosts.toml")
    }

    /// The default private key of commands of this process's user.
    pub fn default_key() -> PathBuf {
        config_directory(&|name| env::var_os(name), home_of_account).join("sysadm-events/key")
    }

    /// The home directory of the user of this process.
    pub fn directory() -> PathBuf {
        let given = env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        given.unwrap_or_else(home_of_account)
    }

    fn server_directory(&self) -> PathBuf {
        match self {
            Home::System => PathBuf::from("/usr/local/etc/sysadm-events"),
            Home::User { config, .. } => config.join("sysadm-events"),
        }
    }

    fn relay_directory(&self) -> PathBuf {
        match self {
            Home::System => PathBuf::from("/usr/local/etc/sysadm-bridge"),
            Home::User { config, .. } => config.join("sysadm-bridge"),
        }
    }
}

/// `$XDG_CONFIG_HOME`, or `~/.config`.
fn config_directory(
    variable: &impl Fn(&str) -> Option<OsString>,
    home_of_account: impl FnOnce() -> PathBuf,
) -> PathBuf {
    let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    directory("XDG_CONFIG_HOME")
        .unwrap_or_else(|| directory("HOME").unwrap_or_else(home_of_account).join(".config"))
}

/// The home directory of the account; `/` for a user without one, so that a message shows the
/// fault.
fn home_of_account() -> PathBuf {
    let user = User::from_uid(geteuid()).ok().flatten();
    user.map(|user| user.dir).filter(|dir| dir.is_absolute()).unwrap_or_else(|| PathBuf::from("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(variables: &[(&str, &str)]) -> Home {
        let value = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        };
        Home::from_environment(value, || PathBuf::from("/account"))
    }

    #[test]
    fn root_has_the_directories_of_the_host() {
        let home = Home::System;
        assert!(home.is_system());
        assert_eq!(
            home.config_file(),
            Path::new("/usr/local/etc/sysadm-events/sysadm-events.toml")
        );
        assert_eq!(home.certificate(), Path::new("/usr/local/etc/sysadm-events/cert.pem"));
        assert_eq!(home.private_key(), Path::new("/usr/local/etc/sysadm-events/key.pem"));
        assert_eq!(home.state(), Path::new("/var/db/sysadm-events"));
        assert_eq!(home.socket(), Path::new("/var/run/sysadm-events/socket"));
        assert_eq!(home.socket(), Home::system_socket());
        assert_eq!(home.relay_certificate(), Path::new("/usr/local/etc/sysadm-bridge/cert.pem"));
        assert_eq!(home.relay_private_key(), Path::new("/usr/local/etc/sysadm-bridge/key.pem"));
        assert_eq!(home.relay_state(), Path::new("/var/db/sysadm-bridge"));
        assert_eq!(home.relay_socket(), Path::new("/var/run/sysadm-bridge/socket"));
    }

    #[test]
    fn a_user_has_the_xdg_directories() {
        let home = home(&[
            ("HOME", "/home/ann"),
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_STATE_HOME", "/s"),
            ("XDG_RUNTIME_DIR", "/r"),
        ]);
        assert!(!home.is_system());
        assert_eq!(home.config_file(), Path::new("/c/sysadm-events/sysadm-events.toml"));
        assert_eq!(home.certificate(), Path::new("/c/sysadm-events/cert.pem"));
        assert_eq!(home.private_key(), Path::new("/c/sysadm-events/key.pem"));
        assert_eq!(home.state(), Path::new("/s/sysadm-events"));
        assert_eq!(home.socket(), Path::new("/r/sysadm-events/socket"));
        assert_eq!(home.relay_certificate(), Path::new("/c/sysadm-bridge/cert.pem"));
        assert_eq!(home.relay_private_key(), Path::new("/c/sysadm-bridge/key.pem"));
        assert_eq!(home.relay_state(), Path::new("/s/sysadm-bridge"));
        assert_eq!(home.relay_socket(), Path::new("/r/sysadm-bridge/socket"));
    }

    #[test]
    fn paths_without_xdg_variables_are_below_the_home_directory() {
        let home = home(&[("HOME", "/home/ann")]);
        assert_eq!(
            home.config_file(),
            Path::new("/home/ann/.config/sysadm-events/sysadm-events.toml")
        );
        assert_eq!(home.state(), Path::new("/home/ann/.local/state/sysadm-events"));
        assert_eq!(home.socket(), Path::new("/home/ann/.local/state/sysadm-events/socket"));
    }

    #[test]
    fn relative_and_empty_variables_are_ignored() {
        let odd = home(&[
            ("HOME", "/home/ann"),
            ("XDG_CONFIG_HOME", "conf"),
            ("XDG_STATE_HOME", ""),
            ("XDG_RUNTIME_DIR", "./run"),
        ]);
        assert_eq!(odd, home(&[("HOME", "/home/ann")]));
    }

    #[test]
    fn home_without_variable_is_that_of_the_account() {
        assert_eq!(home(&[]).state(), Path::new("/account/.local/state/sysadm-events"));
        assert_eq!(home(&[("HOME", "")]), home(&[]));
    }
}
