//! The worker: a child that touches files, and may block on each.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::channel::{put, read};
use super::{Subject, kind};

/// The work of a worker.
pub trait Work {
    /// The answer to a question about a subject, in parts.
    fn answer(&mut self, subject: Subject, question: &[u8]) -> Vec<Vec<u8>>;
    /// Closes what is held open for a subject.
    fn release(&mut self, subject: Subject);
    /// Readable when [`Work::changed`] may have something; `None` while nothing is watched.
    fn watches(&self) -> Option<BorrowedFd<'_>>;
    /// Reports each subject that may have changed, once.
    fn changed(&mut self, report: &mut dyn FnMut(Subject));
}

/// Maximum length of a question, in bytes.
const LONGEST_QUESTION: usize = 1024 * 1024;

/// Answers questions and reports changes until the other end of `socket` is closed.
pub(super) fn run(mut socket: UnixStream, mut work: impl Work) {
    loop {
        let mut asked = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        asked.extend(work.watches().map(|watches| PollFd::new(watches, PollFlags::POLLIN)));
        if poll(&mut asked, PollTimeout::NONE).is_err() {
            // A signal interrupted it.
            continue;
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let (is_asked, has_changed) =
            (asked.first().is_some_and(is_ready), asked.get(1).is_some_and(is_ready));
        let mut out = Vec::new();
        if has_changed {
            work.changed(&mut |subject| put(&mut out, kind::CHANGED, subject, &[]));
        }
        if is_asked {
            // The daemon sends whole frames: the rest of one that has begun follows at once.
            let Ok(Some(frame)) = read(&mut socket, LONGEST_QUESTION) else { return };
            let subject = frame.number;
            if frame.kind == kind::RELEASE {
                work.release(subject);
            } else {
                // The daemon does not wait for the changes behind a question that hangs.
                if !out.is_empty() && socket.write_all(&out).is_err() {
                    return;
                }
                out.clear();
                let answer = work.answer(subject, &frame.body);
                let parts: Vec<&[u8]> = answer.iter().map(Vec::as_slice).collect();
                put(&mut out, kind::ANSWER, subject, &parts);
            }
        }
        if !out.is_empty() && socket.write_all(&out).is_err() {
            return;
        }
    }
}
