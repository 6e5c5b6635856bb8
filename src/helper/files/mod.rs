//! Files that may hang, in workers: children that open, stat, read and watch them for the loop.
//!
//! A file on a suspended pool, a dead NFS server or a FUSE mount whose process is stuck blocks each
//! process that touches it, for ever and beyond SIGKILL. So the loop asks one worker about all files, one
//! question at a time. A question without an answer at its deadline *hangs*: its worker is left to
//! it, a new one serves the other files, and the answer may still come. Where it does not, the worker
//! is killed and the question is asked again by a new one, with back-off; a worker that cannot be
//! killed is never waited for, and nothing is asked again before it is gone.
//!
//! Questions carry all that a worker needs to know and change nothing, so that each can be asked
//! again.
//!
//! [`Files`] is a state machine: bytes, exits and time come in, bytes and [`Outcome`]s go out.

mod worker;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::Pid;

pub use worker::Work;

use super::channel::{Channel, Condition};
use crate::sys::descriptors;
use crate::sys::fork::with_socket;
use crate::sys::may_block::MayBlock;

/// Subject of a question; at most one question about each is pending.
pub type Subject = u64;
/// Number of a worker; each has its own, and none is used twice.
pub type WorkerId = u64;

/// Deadline of an answer; without one by then the question hangs.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Until a worker whose question hangs is replaced: the first time, and at most.
const SHORTEST_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Until a worker that ended by itself is replaced.
const RESTART: Duration = Duration::from_secs(1);
/// Questions that hang and have a worker; more wait until one of these has its answer.
const MOST_HANGING: usize = 4;
/// Killed workers that may remain; with more, no new one starts until one is gone.
const MOST_KILLED: usize = 16;

/// Something for the owner.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer to a question.
    Answer(Subject, Vec<u8>),
    /// Something about this subject has changed, or may have.
    Changed(Subject),
    /// The worker that watched is gone: all subjects may have changed unnoticed, and are to be
    /// asked about again.
    Restarted,
    /// The question about this subject hangs; its answer comes when it does.
    Hangs(Subject, PathBuf),
    /// It has its answer, which follows.
    Answers(Subject, PathBuf),
    /// Start a worker, and call [`Files::started`] or [`Files::ended`].
    Start(WorkerId),
    /// Kill a worker, and call [`Files::ended`] when it has exited.
    Kill(WorkerId),
    /// Close the socket of a worker, and call [`Files::ended`] when it has exited.
    Close(WorkerId),
}

#[derive(Clone, Debug)]
struct Question {
    subject: Subject,
    /// For people.
    path: PathBuf,
    body: Vec<u8>,
    /// The answer is of no interest any more.
    is_forgotten: bool,
}

/// Meanings of frames.
mod kind {
    /// To the worker: a question about a subject.
    pub(super) const ASK: u8 = 0;
    /// To the worker: it closes what it holds open for a subject. Has no answer.
    pub(super) const RELEASE: u8 = 1;
    /// From the worker: the answer.
    pub(super) const ANSWER: u8 = 2;
    /// From the worker: something about a subject has changed, or may have.
    pub(super) const CHANGED: u8 = 3;
}

#[derive(Debug)]
struct Worker {
    id: WorkerId,
    channel: Channel,
}

/// A question without an answer at its deadline.
#[derive(Debug)]
struct Hanging {
    question: Question,
    since: SystemTime,
    worker: Option<Worker>,
    pause: Duration,
    /// When the worker is killed, or a new one started.
    due: Instant,
}

/// The workers and their questions.
#[derive(Debug, Default)]
pub struct Files {
    main: Option<Worker>,
    /// The main worker's question and its deadline.
    asked: Option<(Question, Instant)>,
    queue: VecDeque<Question>,
    hanging: Vec<Hanging>,
    /// Dismissed workers that have not exited yet.
    ending: Vec<WorkerId>,
    /// When the main worker is replaced that ended by itself.
    restart: Option<Instant>,
    last_worker: WorkerId,
    outcomes: VecDeque<Outcome>,
}

/// Starts a worker, which does what `work` makes.
///
/// # Errors
/// The system has no room for another process.
pub fn start<W: Work>(work: impl FnOnce(MayBlock) -> W) -> io::Result<(Pid, OwnedFd)> {
    let null = std::fs::File::open("/dev/null")?;
    with_socket(c"sysadm-files", null.into(), |socket, null, may_block| {
        descriptors::replace_standard_streams(&null);
        worker::run(UnixStream::from(socket), work(may_block));
    })
}

impl Worker {
    fn is_ending(&self) -> bool {
        self.channel.condition() == Condition::Ending
    }

    fn ask(&mut self, question: &Question) {
        self.channel.send(kind::ASK, question.subject, &[&question.body]);
    }
}

impl Files {
    /// Next outcome for the owner.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// Asks about a subject, of which there is no question; `path` names it for people.
    pub fn ask(&mut self, subject: Subject, path: &Path, body: Vec<u8>, now: Instant) {
        let path = path.to_owned();
        self.queue.push_back(Question { subject, path, body, is_forgotten: false });
        self.advance(now);
    }

    /// Nothing about this subject is of interest any more. An answer may still come.
    pub fn forget(&mut self, subject: Subject, now: Instant) {
        self.queue.retain(|question| question.subject != subject);
        if let Some((asked, _)) = &mut self.asked {
            asked.is_forgotten |= asked.subject == subject;
        }
        if let Some(main) = &mut self.main {
            main.channel.send(kind::RELEASE, subject, &[]);
        }
        if let Some(at) = self.hanging.iter().position(|it| it.question.subject == subject)
            && let Some(worker) = self.hanging.swap_remove(at).worker
        {
            self.dismiss(worker);
        }
        self.advance(now);
    }

    /// Paths of hanging questions, and since when they hang.
    pub fn hanging(&self) -> impl Iterator<Item = (&Path, SystemTime)> {
        self.hanging.iter().map(|hanging| (hanging.question.path.as_path(), hanging.since))
    }

    fn new_worker(&mut self) -> Worker {
        self.last_worker += 1;
        self.outcomes.push_back(Outcome::Start(self.last_worker));
        let mut channel = Channel::default();
        channel.start();
        Worker { id: self.last_worker, channel }
    }

    fn dismiss(&mut self, worker: Worker) {
        if !worker.is_ending() {
            self.outcomes.push_back(Outcome::Kill(worker.id));
        }
        self.ending.push(worker.id);
    }

    /// Gives the main worker the next question.
    fn advance(&mut self, now: Instant) {
        if self.asked.is_some() || self.queue.is_empty() || self.restart.is_some() {
            return;
        }
        if self.main.is_none() {
            if self.ending.len() >= MOST_KILLED {
                return;
            }
            let main = self.new_worker();
            self.main = Some(main);
        }
        if let (Some(main), Some(question)) = (&mut self.main, self.queue.pop_front()) {
            main.ask(&question);
            self.asked = Some((question, now + DEADLINE));
        }
    }

    fn worker(&mut self, id: WorkerId) -> Option<&mut Worker> {
        let hanging = self.hanging.iter_mut().filter_map(|hanging| hanging.worker.as_mut());
        self.main.iter_mut().chain(hanging).find(|worker| worker.id == id)
    }

    /// The channel of a worker.
    pub fn channel(&mut self, id: WorkerId) -> Option<&mut Channel> {
        self.worker(id).map(|worker| &mut worker.channel)
    }

    /// A worker runs.
    pub fn started(&mut self, id: WorkerId) {
        if let Some(channel) = self.channel(id) {
            channel.started();
        }
    }

    /// Bytes from a worker.
    pub fn received(&mut self, id: WorkerId, bytes: &[u8], now: Instant) {
        let frames = self.channel(id).map(|channel| channel.received(bytes)).unwrap_or_default();
        for mut frame in frames {
            match frame.kind {
                kind::ANSWER => {
                    self.on_answer(id, frame.number, std::mem::take(&mut *frame.body), now);
                }
                _ => self.outcomes.push_back(Outcome::Changed(frame.number)),
            }
        }
    }

    fn on_answer(&mut self, id: WorkerId, subject: Subject, body: Vec<u8>, now: Instant) {
        if self.main.as_ref().is_some_and(|main| main.id == id) {
            self.asked = None;
            self.outcomes.push_back(Outcome::Answer(subject, body));
            return self.advance(now);
        }
        let is_its = |it: &Hanging| it.worker.as_ref().is_some_and(|worker| worker.id == id);
        if let Some(at) = self.hanging.iter().position(is_its) {
            let Hanging { question, worker, .. } = self.hanging.swap_remove(at);
            if let Some(worker) = worker.filter(|worker| !worker.is_ending()) {
                self.outcomes.push_back(Outcome::Close(worker.id));
            }
            self.ending.push(id);
            self.outcomes.push_back(Outcome::Answers(subject, question.path));
            self.outcomes.push_back(Outcome::Answer(subject, body));
        }
    }

    /// A worker has exited, or could not be started.
    pub fn ended(&mut self, id: WorkerId, now: Instant) {
        self.ending.retain(|ending| *ending != id);
        if self.main.take_if(|main| main.id == id).is_some() {
            if let Some((question, _)) = self.asked.take() {
                self.queue.push_front(question);
            }
            self.restart = Some(now + RESTART);
        }
        for hanging in &mut self.hanging {
            if hanging.worker.take_if(|worker| worker.id == id).is_some() {
                hanging.due = hanging.due.min(now + RESTART);
            }
        }
        self.advance(now);
    }

    fn has_free_place(&self) -> bool {
        self.hanging.iter().filter(|hanging| hanging.worker.is_some()).count() < MOST_HANGING
    }

    /// When [`Files::on_deadline`] is to be called.
    pub fn due(&self) -> Option<Instant> {
        let has_free_place = self.has_free_place();
        let acts = |hanging: &&Hanging| match &hanging.worker {
            Some(worker) => !worker.is_ending(),
            None => has_free_place,
        };
        let hanging = self.hanging.iter().filter(acts).map(|hanging| hanging.due);
        let asked = self.asked.as_ref().map(|(_, due)| *due);
        hanging.chain(asked).chain(self.restart).min()
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Instant) {
        if self.restart.take_if(|restart| *restart <= now).is_some() {
            self.outcomes.push_back(Outcome::Restarted);
        }
        if let Some((question, _)) = self.asked.take_if(|(_, due)| *due <= now) {
            self.leave_to_it(question, now);
        }
        for at in 0..self.hanging.len() {
            let has_free_place = self.has_free_place();
            let Some(hanging) = self.hanging.get_mut(at).filter(|it| it.due <= now) else {
                continue;
            };
            match &mut hanging.worker {
                Some(worker) if !worker.is_ending() => {
                    worker.channel.end();
                    hanging.pause = (hanging.pause * 2).min(LONGEST_PAUSE);
                    hanging.due = now + hanging.pause;
                    self.outcomes.push_back(Outcome::Kill(worker.id));
                }
                Some(_) => {}
                None if has_free_place => {
                    hanging.due = now + hanging.pause;
                    let question = hanging.question.clone();
                    let mut worker = self.new_worker();
                    worker.ask(&question);
                    if let Some(hanging) = self.hanging.get_mut(at) {
                        hanging.worker = Some(worker);
                    }
                }
                None => {}
            }
        }
        self.advance(now);
    }

    /// The main worker is left to a question that hangs, and replaced.
    fn leave_to_it(&mut self, question: Question, now: Instant) {
        let (subject, path) = (question.subject, question.path.clone());
        let mut worker = self.main.take();
        self.outcomes.push_back(Outcome::Restarted);
        if !self.has_free_place() || question.is_forgotten {
            worker.take().into_iter().for_each(|worker| self.dismiss(worker));
        }
        if question.is_forgotten {
            return;
        }
        self.hanging.push(Hanging {
            question,
            since: SystemTime::now(),
            worker,
            pause: SHORTEST_PAUSE,
            due: now + SHORTEST_PAUSE,
        });
        self.outcomes.push_back(Outcome::Hangs(subject, path));
    }
}

#[cfg(test)]
mod tests;
