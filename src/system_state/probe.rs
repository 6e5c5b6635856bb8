//! One question to `zpool`: what came of it so far, by when it has to be answered, and what went
//! wrong with it.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::sys::children::Exit;
use crate::sys::spawn::Step;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Which pools there are: `zpool list`.
    List,
    /// How they are: `zpool status`.
    Status,
    /// The label of a pool that has left: `zdb -l` of one of its devices.
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

/// Why there is no answer. The words of it stay the same as long as the trouble does: another text
/// would be told as something new.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It did not come in time.
    Overdue(Duration),
    /// It was longer than this, in bytes.
    TooLong(usize),
    /// The process failed, and said this.
    Exit(Exit, String),
    /// The process could not be started.
    NotStarted(String),
    /// It was answered, but so that nobody can read it.
    Unreadable(String),
    /// There is no ZFS to be asked.
    NoZfs,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Overdue(patience) => write!(f, "did not answer within {patience:?}"),
            Trouble::TooLong(limit) => write!(f, "printed more than {limit} bytes"),
            Trouble::Exit(Exit::Code(code), said) if said.is_empty() => {
                write!(f, "ended with code {code}")
            }
            Trouble::Exit(Exit::Code(code), said) => write!(f, "ended with code {code}: {said}"),
            Trouble::Exit(Exit::Signal(signal), _) => write!(f, "was ended by signal {signal}"),
            Trouble::NotStarted(why) => write!(f, "could not be started: {why}"),
            Trouble::Unreadable(why) => write!(f, "printed what cannot be read: {why}"),
            Trouble::NoZfs => f.write_str("is not there"),
        }
    }
}

impl Trouble {
    /// ZFS refuses this user: OpenZFS ("the ZFS utilities must be run as root"), zfs-fuse, and a
    /// device node that this user may not open.
    pub(super) fn is_refusal(&self) -> bool {
        const REFUSALS: [&str; 4] =
            ["permission denied", "must be run as root", "operation not permitted", "privilege"];
        let (Trouble::Exit(_, said) | Trouble::NotStarted(said)) = self else { return false };
        let said = said.to_ascii_lowercase();
        REFUSALS.iter().any(|refusal| said.contains(refusal))
    }
}

/// How messages of `zpool` begin which say that ZFS is not there, rather than that it does not
/// work: OpenZFS without its module or its node, zfs-fuse without its daemon, FreeBSD's older ZFS.
const NO_ZFS: [&str; 4] = [
    "The ZFS modules ",
    "The /dev/zfs device is missing",
    "connect: No such file or directory",
    "connect: Connection refused",
];

/// The code by which `zpool` says that it does not know what it was asked.
pub(super) const USAGE: i32 = 2;

/// Kept of standard error, in bytes: what matters of it is its first line.
const ERRORS: usize = 4 * 1024;
/// Of that line, in characters.
const SAID: usize = 200;

/// A question that waits for its answer.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) question: Question,
    /// When patience ends.
    pub(super) due: Instant,
    out: Vec<u8>,
    errors: Complaint,
    /// Of `out`, in bytes.
    limit: usize,
}

impl Probe {
    pub(super) fn new(question: Question, due: Instant, limit: usize) -> Probe {
        Probe { question, due, out: Vec::new(), errors: Complaint::default(), limit }
    }

    /// `zpool` printed something. False where it has printed more than it may.
    pub(super) fn printed(&mut self, bytes: &[u8]) -> bool {
        let room = self.limit - self.out.len();
        self.out.extend_from_slice(&bytes[..bytes.len().min(room)]);
        bytes.len() <= room
    }

    /// It wrote to standard error. False where no more of that is kept.
    pub(super) fn complained(&mut self, bytes: &[u8]) -> bool {
        self.errors.push(bytes)
    }

    /// The process ended. `failure` is why it could not even be started.
    pub(super) fn end(
        self,
        exit: Exit,
        failure: Option<(Step, io::Error)>,
    ) -> Result<Vec<u8>, Trouble> {
        match (failure, exit) {
            (Some((Step::Run, error)), _) if error.kind() == io::ErrorKind::NotFound => {
                Err(Trouble::NoZfs)
            }
            (Some((_, error)), _) => Err(Trouble::NotStarted(error.to_string())),
            (None, Exit::Code(0)) => Ok(self.out),
            (None, exit) => {
                let said = self.errors.first_line();
                let is_there = !NO_ZFS.iter().any(|no_zfs| said.starts_with(no_zfs));
                Err(if is_there { Trouble::Exit(exit, said) } else { Trouble::NoZfs })
            }
        }
    }
}

/// The beginning of what a `zpool` wrote to standard error.
#[derive(Debug, Default)]
pub struct Complaint(Vec<u8>);

impl Complaint {
    /// Appends what there is room for. False where there is no more.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let room = ERRORS.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        bytes.len() < room
    }

    /// Its first line, as far as it is fit to be shown.
    pub(super) fn first_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID).collect()
    }
}
