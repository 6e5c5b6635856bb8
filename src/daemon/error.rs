//! Start-up errors of a daemon.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::net::certificate::CertificateError;

/// Why the daemon did not start, or had to stop.
#[derive(Debug)]
pub enum StartError {
    /// Certificate or key.
    Certificate(CertificateError),
    /// An address or path cannot be listened on.
    Listen(String, io::Error),
    /// A directory cannot be created or is not safe.
    Directory(PathBuf, String),
    /// The pid file cannot be created, or another process holds it.
    PidFile(PathBuf, io::Error),
    /// The user to become.
    User(String),
    /// Any other system call.
    System(&'static str, io::Error),
}

impl StartError {
    /// A failed system call, described by `what`.
    pub fn system(what: &'static str, error: io::Error) -> StartError {
        StartError::System(what, error)
    }

    /// By sysexits(3).
    pub fn exit_code(&self) -> u8 {
        const UNAVAILABLE: u8 = 69;
        const SYSTEM: u8 = 71;
        const NO_PERMISSION: u8 = 77;
        const CONFIGURATION: u8 = 78;
        match self {
            StartError::Certificate(CertificateError::File(_, _, error))
            | StartError::Listen(_, error)
            | StartError::PidFile(_, error)
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                NO_PERMISSION
            }
            StartError::Certificate(_) | StartError::Directory(..) | StartError::User(_) => {
                CONFIGURATION
            }
            StartError::PidFile(_, error) if error.kind() == io::ErrorKind::NotFound => {
                CONFIGURATION
            }
            StartError::Listen(..) | StartError::PidFile(..) => UNAVAILABLE,
            StartError::System(..) => SYSTEM,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Certificate(error) => error.fmt(f),
            StartError::Listen(what, error) => write!(f, "cannot listen on {what}: {error}"),
            StartError::Directory(path, why) => write!(f, "{}: {why}", path.display()),
            StartError::PidFile(path, error) => write!(f, "{}: {error}", path.display()),
            StartError::User(why) => f.write_str(why),
            StartError::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
