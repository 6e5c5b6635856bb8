//! One `zpool` or `zdb` command: its output so far, its deadline, and its failure.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::sys::children::Exit;
use crate::sys::spawn::Step;

/// Kind of command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// `zpool list`: which pools exist.
    List,
    /// `zpool status`: their health.
    Status,
    /// `zdb -l`: the label of one device of a missing pool.
    Label,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Question::List => "zpool list",
            Question::Status => "zpool status",
            Question::Label => "zdb",
        })
    }
}

/// Why a command gave no result. The text stays the same as long as the cause does: another text
/// would be reported as a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeError {
    /// Time limit exceeded.
    Overdue(Duration),
    /// Output longer than this, in bytes.
    TooLong(usize),
    /// The process failed, with this message.
    Exit(Exit, String),
    /// The process could not be started.
    NotStarted(String),
    /// The output cannot be parsed.
    Unreadable(String),
    /// There is no ZFS.
    NoZfs,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeError::Overdue(patience) => write!(f, "did not answer within {patience:?}"),
            ProbeError::TooLong(limit) => write!(f, "printed more than {limit} bytes"),
            ProbeError::Exit(Exit::Code(code), said) if said.is_empty() => {
                write!(f, "ended with code {code}")
            }
            ProbeError::Exit(Exit::Code(code), said) => write!(f, "ended with code {code}: {said}"),
            ProbeError::Exit(Exit::Signal(signal), _) => write!(f, "was ended by signal {signal}"),
            ProbeError::NotStarted(why) => write!(f, "could not be started: {why}"),
            ProbeError::Unreadable(why) => write!(f, "printed what cannot be read: {why}"),
            ProbeError::NoZfs => f.write_str("is not there"),
        }
    }
}

impl ProbeError {
    /// Whether ZFS refuses this user: OpenZFS ("the ZFS utilities must be run as root"), zfs-fuse,
    /// and a device node that this user may not open.
    pub(super) fn is_refusal(&self) -> bool {
        const REFUSALS: [&str; 4] =
            ["permission denied", "must be run as root", "operation not permitted", "privilege"];
        let (ProbeError::Exit(_, said) | ProbeError::NotStarted(said)) = self else { return false };
        let said = said.to_ascii_lowercase();
        REFUSALS.iter().any(|refusal| said.contains(refusal))
    }
}

/// Beginnings of `zpool` messages which say that ZFS is absent, not broken: OpenZFS without its
/// module or its node, zfs-fuse without its daemon, FreeBSD's older ZFS.
const NO_ZFS: [&str; 4] = [
    "The ZFS modules ",
    "The /dev/zfs device is missing",
    "connect: No such file or directory",
    "connect: Connection refused",
];

/// Exit code of `zpool` for unknown arguments.
pub(super) const USAGE: i32 = 2;

/// Bytes of standard error that are stored: only the first line is used.
const ERRORS: usize = 4 * 1024;
/// Maximum length of that line, in characters.
const SAID: usize = 200;

/// A running command.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) question: Question,
    /// Its deadline.
    pub(super) due: Instant,
    out: Vec<u8>,
    errors: Complaint,
    /// Maximum length of `out`, in bytes.
    limit: usize,
}

impl Probe {
    pub(super) fn new(question: Question, due: Instant, limit: usize) -> Probe {
        Probe { question, due, out: Vec::new(), errors: Complaint::default(), limit }
    }

    /// Appends standard output. False where the limit is exceeded.
    pub(super) fn printed(&mut self, bytes: &[u8]) -> bool {
        let room = self.limit - self.out.len();
        self.out.extend(bytes.iter().take(room));
        bytes.len() <= room
    }

    /// Appends standard error. False where no more of it is stored.
    pub(super) fn complained(&mut self, bytes: &[u8]) -> bool {
        self.errors.push(bytes)
    }

    /// The process ended. `failure` is why it could not be started.
    pub(super) fn end(
        self,
        exit: Exit,
        failure: Option<(Step, io::Error)>,
    ) -> Result<Vec<u8>, ProbeError> {
        match (failure, exit) {
            (Some((Step::Run, error)), _) if error.kind() == io::ErrorKind::NotFound => {
                Err(ProbeError::NoZfs)
            }
            (Some((_, error)), _) => Err(ProbeError::NotStarted(error.to_string())),
            (None, Exit::Code(0)) => Ok(self.out),
            (None, exit) => {
                let said = self.errors.first_line();
                let is_there = !NO_ZFS.iter().any(|no_zfs| said.starts_with(no_zfs));
                Err(if is_there { ProbeError::Exit(exit, said) } else { ProbeError::NoZfs })
            }
        }
    }
}

/// The beginning of a command's standard error.
#[derive(Debug, Default)]
pub struct Complaint(Vec<u8>);

impl Complaint {
    /// Appends what there is room for. False when full.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let room = ERRORS.saturating_sub(self.0.len());
        self.0.extend(bytes.iter().take(room));
        bytes.len() < room
    }

    /// Its first line, sanitized for display.
    pub fn first_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID).collect()
    }
}
