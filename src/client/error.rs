//! Errors between a command and its daemon, with text for people.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::sysexits;
use super::target::Fingerprint;
use crate::net::NoUpgrade;

/// Why a connection failed or ended.
#[derive(Debug)]
pub enum ClientError {
    /// No daemon listens on any of these sockets.
    NoDaemon(Vec<(PathBuf, io::Error)>),
    /// The host could not be reached: its name, or the reason.
    Unreachable(String, io::Error),
    /// Time limit exceeded.
    TimedOut {
        /// The peer.
        peer: String,
        /// The step.
        step: Step,
        /// The limit.
        after: Duration,
    },
    /// The server presented another certificate than the pinned one.
    WrongCertificate {
        /// The pinned one.
        expected: Fingerprint,
        /// The presented one.
        shown: Fingerprint,
        /// Source of the pinned one, if it was not given: `FILE:LINE`.
        known: Option<String>,
    },
    /// TLS failed for another reason.
    Tls(String),
    /// The peer replied in HTTP without an upgrade.
    NotUpgraded {
        /// The HTTP status.
        status: u16,
        /// Reason phrase and body.
        why: String,
    },
    /// Protocol violation.
    Protocol(String),
    /// Closed by the daemon.
    Closed {
        /// RFC 6455 section 7.4; 1005 for none.
        code: u16,
        /// For people.
        reason: String,
    },
    /// The connection broke.
    Lost(io::Error),
    /// Too many bytes of events arrived before a reply.
    TooManyEvents(usize),
    /// An error reply.
    Refused(Refused),
    /// The daemon rejected the client's key.
    KeyRefused {
        /// The reply.
        refused: Refused,
        /// A shell command that registers the key, to be run on the daemon's host.
        remedy: String,
    },
}

/// The awaited step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A connection.
    Connecting,
    /// TLS and the WebSocket upgrade.
    Handshake,
    /// Room to send a request.
    Sending,
    /// The reply to a request.
    Reply,
    /// A pong.
    Ping,
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As in protocol section 1; the original server sends none.
    pub code: Option<i64>,
    /// The reason.
    pub message: String,
}

impl Refused {
    /// The exit code of a command that gets this error.
    pub fn exit_code(&self) -> u8 {
        match self.code {
            Some(401 | 403) => sysexits::NO_PERMISSION,
            Some(409) => sysexits::TEMPORARY,
            Some(429 | 500..) => sysexits::UNAVAILABLE,
            Some(400..=499) => sysexits::USAGE,
            Some(_) | None => sysexits::PROTOCOL,
        }
    }
}

impl ClientError {
    /// Whether another attempt may succeed: a daemon that is restarting, a network that is down, a
    /// client that was too slow.
    pub fn may_pass(&self) -> bool {
        match self {
            ClientError::NoDaemon(_)
            | ClientError::Unreachable(..)
            | ClientError::TimedOut { .. }
            | ClientError::Lost(_)
            | ClientError::TooManyEvents(_)
            | ClientError::Closed { .. } => self.exit_code() == sysexits::UNAVAILABLE,
            ClientError::NotUpgraded { status, .. } => *status >= 500,
            ClientError::Refused(refused) | ClientError::KeyRefused { refused, .. } => {
                refused.exit_code() == sysexits::UNAVAILABLE
            }
            ClientError::WrongCertificate { .. }
            | ClientError::Tls(_)
            | ClientError::Protocol(_) => false,
        }
    }

    /// Whether a connection was refused, or dropped, because too many are authenticating.
    pub(super) fn is_for_want_of_room(&self) -> bool {
        match self {
            ClientError::NotUpgraded { status, .. } => *status == 503,
            ClientError::Refused(refused) | ClientError::KeyRefused { refused, .. } => {
                refused.code == Some(429)
            }
            ClientError::Lost(_) => true,
            ClientError::NoDaemon(_)
            | ClientError::Unreachable(..)
            | ClientError::TimedOut { .. }
            | ClientError::TooManyEvents(_)
            | ClientError::Closed { .. }
            | ClientError::WrongCertificate { .. }
            | ClientError::Tls(_)
            | ClientError::Protocol(_) => false,
        }
    }

    /// The connection ended without a close frame.
    pub(super) fn ended() -> ClientError {
        let why = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a word");
        ClientError::Lost(why)
    }

    /// The same, with the source of the pinned certificate.
    pub(super) fn known_at(self, place: Option<&str>) -> ClientError {
        match self {
            ClientError::WrongCertificate { expected, shown, .. } => {
                let known = place.map(str::to_owned);
                ClientError::WrongCertificate { expected, shown, known }
            }
            other => other,
        }
    }

    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        match self {
            // "Permission denied" is the reason only where no other attempt failed differently.
            ClientError::NoDaemon(tried) if tried.iter().all(|(_, error)| denied(error)) => {
                sysexits::NO_PERMISSION
            }
            ClientError::NoDaemon(_)
            | ClientError::Unreachable(..)
            | ClientError::TimedOut { .. }
            | ClientError::Lost(_)
            | ClientError::TooManyEvents(_) => sysexits::UNAVAILABLE,
            ClientError::NotUpgraded { status: 401 | 403, .. } => sysexits::NO_PERMISSION,
            ClientError::NotUpgraded { .. }
            | ClientError::WrongCertificate { .. }
            | ClientError::Tls(_)
            | ClientError::Protocol(_) => sysexits::PROTOCOL,
            // Policy: a privilege was lost, or not gained in time.
            ClientError::Closed { code: 1008, .. } => sysexits::NO_PERMISSION,
            ClientError::Closed { code: 1002 | 1003 | 1007 | 1009 | 1010, .. } => {
                sysexits::PROTOCOL
            }
            ClientError::Closed { .. } => sysexits::UNAVAILABLE,
            ClientError::Refused(refused) | ClientError::KeyRefused { refused, .. } => {
                refused.exit_code()
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Connecting => "does not accept the connection",
            Step::Handshake => "does not complete the handshake",
            Step::Sending => "does not read the request",
            Step::Reply => "does not reply",
            Step::Ping => "does not answer pings",
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} (error {code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NoDaemon(tried) => {
                f.write_str(
                    "no daemon answers on this host (is \"sysadm-events serve\" running?)",
                )?;
                tried
                    .iter()
                    .try_for_each(|(path, error)| write!(f, "\n  {}: {error}", path.display()))
            }
            ClientError::Unreachable(peer, error) => write!(f, "cannot connect to {peer}: {error}"),
            ClientError::TimedOut { peer, step, after } => {
                write!(f, "{peer} {step}: gave up after {} s", after.as_secs())
            }
            ClientError::WrongCertificate { expected, shown, known: Some(place) } => write!(
                f,
                "WARNING: the server shows another certificate than before. Somebody may be \
                 between it and you, or the certificate was renewed\n  \
                 expected {expected}\n  shown    {shown}\n\
                 If \"sysadm-events fingerprint\" on that host prints the second one, remove {place} \
                 and connect again."
            ),
            ClientError::WrongCertificate { expected, shown, known: None } => write!(
                f,
                "the server is not the one that was pinned: its certificate is another\n  \
                 expected {expected}\n  shown    {shown}\n\
                 If the certificate was renewed, \"sysadm-events fingerprint\" on that host prints the new one."
            ),
            ClientError::Tls(why) => write!(f, "no TLS connection: {why}"),
            ClientError::NotUpgraded { status, why } => {
                write!(f, "the server answers HTTP {status} instead of opening a WebSocket: {why}")
            }
            ClientError::Protocol(why) => {
                write!(f, "the server violates the protocol: {why}")
            }
            ClientError::Closed { code, reason } => {
                let what = match code {
                    1000 | 1005 => "the daemon closed the connection",
                    1001 => "the daemon stopped",
                    1008 => "the daemon closed the connection: no longer permitted",
                    1013 => "the daemon closed the connection: it has no room for another client",
                    _ => "the daemon closed the connection because of an error",
                };
                write!(f, "{what} ({code})")?;
                if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
            }
            ClientError::Lost(error) => write!(f, "the connection to the daemon was lost: {error}"),
            ClientError::TooManyEvents(bytes) => {
                write!(f, "{bytes} bytes of events arrived before a reply, more than the limit")
            }
            ClientError::Refused(refused) => refused.fmt(f),
            ClientError::KeyRefused { refused, remedy } => {
                write!(f, "{refused}\nto register the key, run on that host, as root:\n  {remedy}")
            }
        }
    }
}

impl std::error::Error for ClientError {}

impl From<NoUpgrade> for ClientError {
    fn from(why: NoUpgrade) -> ClientError {
        match why {
            NoUpgrade::Status { status, why } => ClientError::NotUpgraded { status, why },
            NoUpgrade::Protocol(why) => ClientError::Protocol(why),
            NoUpgrade::NoRandom => ClientError::Lost(io::Error::other(why.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_daemon(kinds: &[io::ErrorKind]) -> ClientError {
        ClientError::NoDaemon(kinds.iter().map(|&kind| ("/s".into(), kind.into())).collect())
    }

    #[test]
    fn each_error_has_its_exit_code() {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let refused =
            |code| ClientError::Refused(Refused { code, message: String::new() }).exit_code();
        let closed = |code| ClientError::Closed { code, reason: String::new() }.exit_code();
        let not_upgraded =
            |status| ClientError::NotUpgraded { status, why: String::new() }.exit_code();
        let timed_out = ClientError::TimedOut {
            peer: "p".into(),
            step: Step::Reply,
            after: Duration::from_secs(1),
        };
        assert_eq!(no_daemon(&[NotFound, ConnectionRefused]).exit_code(), 69);
        assert_eq!(no_daemon(&[PermissionDenied, NotFound]).exit_code(), 69);
        assert_eq!(no_daemon(&[PermissionDenied]).exit_code(), 77);
        assert_eq!(timed_out.exit_code(), 69);
        assert_eq!(ClientError::Lost(NotFound.into()).exit_code(), 69);
        assert_eq!(ClientError::Tls(String::new()).exit_code(), 76);
        assert_eq!(ClientError::Protocol(String::new()).exit_code(), 76);
        assert_eq!([not_upgraded(403), not_upgraded(400)], [77, 76]);
        assert_eq!([closed(1001), closed(1013), closed(1000)], [69, 69, 69]);
        assert_eq!([closed(1008), closed(1002), closed(1009)], [77, 76, 76]);
        assert_eq!([refused(Some(401)), refused(Some(403))], [77, 77]);
        assert_eq!([refused(Some(400)), refused(Some(404)), refused(Some(409))], [64, 64, 75]);
        assert_eq!([refused(Some(429)), refused(Some(500))], [69, 69]);
        assert_eq!(refused(None), 76);
    }

    #[test]
    fn every_socket_that_was_tried_is_named() {
        let text =
            no_daemon(&[io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]).to_string();
        assert_eq!(text.matches("\n  /s: ").count(), 2, "{text}");
    }
}
