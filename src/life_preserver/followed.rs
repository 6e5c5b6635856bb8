//! One file that is followed by its name, as the loop sees it: positions and no descriptors.
//!
//! The state of its generations travels to a worker with each question and comes back with the answer;
//! between the two nothing here changes it. So a question whose worker hangs is asked again as it
//! is, and no line is lost or read twice.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use log::{info, warn};
use serde_json::Value;

use super::FollowLimits;
use super::follower::{Answer, FollowId, Found, OldGenerations, Question, Remark};
use super::tail::{Identity, PersistedGeneration, Tail};

#[derive(Debug)]
pub(super) struct Followed {
    pub(super) id: FollowId,
    pub(super) path: PathBuf,
    old_generations: OldGenerations,
    pub(super) tail: Tail<()>,
    /// Generations of the daemon before this one whose files have not been found yet.
    persisted: Vec<PersistedGeneration>,
    from_end: bool,
    /// The name was resolved once, or need not be before the file is read.
    pub(super) is_found: bool,
    /// A worker may have it open.
    pub(super) is_open: bool,
    /// Since when a worker does not answer.
    hanging: Option<SystemTime>,
    unwatched: Option<String>,
    is_polled: bool,
    last_error: Option<String>,
    /// When the current file was last written to, and its size.
    pub(super) written: Option<SystemTime>,
    pub(super) size: u64,
}

impl Followed {
    /// Follows `path` from the persisted position; with `from_end` its present content is skipped.
    pub(super) fn new(
        id: FollowId,
        path: PathBuf,
        old_generations: OldGenerations,
        persisted: Vec<PersistedGeneration>,
        from_end: bool,
    ) -> Followed {
        Followed {
            id,
            path,
            old_generations,
            tail: Tail::new(),
            persisted,
            from_end,
            is_found: old_generations == OldGenerations::Forget,
            is_open: false,
            hanging: None,
            unwatched: None,
            is_polled: false,
            last_error: None,
            written: None,
            size: 0,
        }
    }

    /// The question for a worker, as JSON. With `is_find` the file is found, and not read.
    pub(super) fn question(&self, is_find: bool, limits: &FollowLimits, now: Instant) -> Vec<u8> {
        let question = Question {
            path: self.path.clone(),
            old_generations: self.old_generations,
            from_end: self.from_end,
            is_find,
            persisted: self.persisted.clone(),
            generations: self.tail.states(now),
            slice: limits.slice,
            max_line: limits.max_line,
            rotation_wait: limits.rotation_wait,
        };
        serde_json::to_vec(&question).unwrap_or_default()
    }

    /// Takes the answer of a worker over.
    pub(super) fn take(&mut self, answer: Answer, now: Instant) -> Found {
        let path = self.path.display();
        for remark in &answer.remarks {
            match remark {
                Remark::Warning(text) => warn!("{path}: {text}"),
                Remark::Information(text) => info!("{path}: {text}"),
            }
        }
        if let Some(why) = &answer.unwatched
            && self.unwatched != answer.unwatched
        {
            warn!(
                "{path}: the kernel does not report all changes ({why}); it is read every few seconds"
            );
        }
        if let Some(last_error) = &answer.last_error
            && self.last_error != answer.last_error
        {
            warn!("{path}: {last_error}");
        }
        if let Some(generations) = answer.generations {
            self.persisted.clear();
            self.from_end = answer.from_end;
            let generations = generations.into_iter().map(|state| state.with_handle((), now));
            self.tail = Tail::of(generations);
        }
        (self.unwatched, self.last_error) = (answer.unwatched, answer.last_error);
        self.is_polled = answer.is_polled;
        (self.written, self.size) = (answer.written, answer.size);
        answer.found
    }

    /// The current file, and how far it was read.
    pub(super) fn current(&self) -> Option<(Identity, u64)> {
        self.tail.current().map(|generation| (generation.identity, generation.position()))
    }

    /// A worker does not answer, from this time on; `None` when it has answered.
    pub(super) fn set_hanging(&mut self, since: Option<SystemTime>) {
        self.hanging = since;
    }

    /// Time since when no worker answers.
    pub(super) fn hanging(&self) -> Option<SystemTime> {
        self.hanging
    }

    /// Why the kernel does not report all changes, if so.
    pub(super) fn unwatched(&self) -> Option<&str> {
        self.unwatched.as_deref()
    }

    /// Whether it is to be looked at often.
    pub(super) fn is_polled(&self) -> bool {
        self.is_polled
    }

    /// The current error, if any.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Its generations, for the next start; `None` where nothing is known of the file yet: it may be one
    /// that is not to be read.
    pub(super) fn persisted(&self) -> Option<Vec<Value>> {
        if !self.persisted.is_empty() {
            return Some(self.persisted.iter().map(PersistedGeneration::write).collect());
        }
        (!self.from_end).then(|| {
            self.tail.iter().map(|generation| generation.persisted_form().write()).collect()
        })
    }
}
