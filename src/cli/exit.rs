//! Early end of a command: its message and its exit code, as one type.

use std::io;

use crate::client::{ClientError, sysexits};

/// Why a command ends early.
#[derive(Debug)]
pub(super) enum Exit {
    /// Help was requested.
    Help(&'static str),
    /// The command line is wrong; the fault.
    Usage(String),
    /// The command failed.
    Failed {
        /// Exit code of sysexits(3).
        code: u8,
        /// For a person; may have several lines.
        message: String,
    },
    /// The reader of standard output has closed it; not an error.
    ReaderGone,
}

impl Exit {
    pub(super) fn usage(message: impl Into<String>) -> Exit {
        Exit::Usage(message.into())
    }

    pub(super) fn failed(code: u8, message: impl Into<String>) -> Exit {
        Exit::Failed { code, message: message.into() }
    }

    pub(super) fn code(&self) -> u8 {
        match self {
            Exit::Help(_) | Exit::ReaderGone => 0,
            Exit::Usage(_) => sysexits::USAGE,
            Exit::Failed { code, .. } => *code,
        }
    }
}

impl From<ClientError> for Exit {
    fn from(error: ClientError) -> Exit {
        let mut message = error.to_string();
        if let ClientError::Refused(refused) = &error
            && refused.code == Some(401)
        {
            message.push_str("\na remote daemon wants a key, a token or a password: see --key, --token-file and --user in the help");
        }
        Exit::failed(error.exit_code(), message)
    }
}

/// An error of standard output: commands write to nothing else.
impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Exit {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Exit::ReaderGone;
        }
        Exit::failed(sysexits::IO, format!("cannot write to standard output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Refused;

    #[test]
    fn closed_reader_is_no_error_and_other_errors_are() {
        assert_eq!(Exit::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
        assert_eq!(Exit::from(io::Error::from(io::ErrorKind::StorageFull)).code(), 74);
    }

    #[test]
    fn help_usage_and_failures_have_their_codes() {
        assert_eq!(Exit::Help("").code(), 0);
        assert_eq!(Exit::usage("").code(), 64);
        assert_eq!(Exit::failed(78, "").code(), 78);
        let refused = Refused { code: Some(401), message: "Unauthorized".into() };
        let exit = Exit::from(ClientError::Refused(refused));
        assert_eq!(exit.code(), 77);
        assert!(matches!(exit, Exit::Failed { message, .. } if message.contains("--token-file")));
    }
}
