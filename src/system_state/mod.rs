//! The state of the system: its host name and its ZFS pools, watched, without I/O.
//!
//! A check looks at the host name, and asks `zpool` which pools there are; where there is a reason
//! to, also what is wrong behind an ONLINE. It is run by a timer, by a request, and when the kernel
//! says that something happened in ZFS: what the kernel says only wakes, the check is the truth.
//!
//! This is told what there is, what `zpool` printed and what time it is; it says through [`Effect`]s
//! what is to be asked, killed and published. A `zpool` may hang for ever, where a pool does, and
//! even SIGKILL may not end it. So it is asked once at a time, never waited for, and not asked again
//! until its process is gone.

mod columns;
mod devd;
mod feed;
mod list;
mod pacing;
mod pool;
mod probe;
mod process;
mod status;
mod telling;
mod watching;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use log::Level;

use crate::moment::Moment;
use crate::sys::children::Exit;
use crate::sys::spawn::Step;
use crate::wire::Event;
use columns::Columns;
use pacing::Pacing;
use pool::Pool;
use probe::{Probe, Question, Trouble};
use telling::Told;
use watching::Watching;

pub use devd::Devd;
pub use feed::Feed;
pub use probe::Complaint;
pub use process::{Process, Starter, drain, is_found};

/// The limits of the configuration that concern the state of the system.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Between two checks.
    pub interval: Duration,
    /// The longest time without an event.
    pub report_interval: Duration,
    /// For an answer of `zpool`.
    pub zpool_deadline: Duration,
    /// Bytes of one answer.
    pub zpool_output: usize,
    /// In per cent; above it a pool is critically full.
    pub capacity_warning: usize,
    /// How long the kernel's events are gathered.
    pub event_delay: Duration,
    /// The longest pause between checks that they cause.
    pub event_pause: Duration,
    /// Bytes of one encoded event.
    pub max_event: usize,
}

/// So many checks ask for the list alone before one asks for more without a reason.
const LISTS: u64 = 5;

/// How long a killed process may take to be gone, before it is looked at whether it is.
const GOING: Duration = Duration::from_secs(1);

/// Something to be done for the state of the system.
#[derive(Debug)]
pub enum Effect {
    /// Look at the host name and whether ZFS is there, then say so with [`SystemState::looked`].
    Look,
    /// Start `zpool` with these arguments; [`SystemState::not_started`] where that fails.
    Ask(Vec<String>),
    /// End the `zpool` that was asked, and do not listen to it any more. That it ended is still to
    /// be told with [`SystemState::ended`].
    Kill,
    /// Find a feed of the kernel's events, then say with [`SystemState::attached`] which.
    Attach {
        /// A `zpool` to follow, with these arguments, unless it is known to have no events.
        events: Option<Vec<String>>,
    },
    /// Let the feed go.
    Detach,
    /// Tell everybody.
    Publish(Event),
    /// Tell the log.
    Say(Level, String),
}

/// A check under way.
#[derive(Debug)]
struct Check {
    begun: Moment,
    hostname_changed: bool,
    /// Ask also what is wrong, whatever the list says.
    thorough: bool,
    /// Something other than the timer caused it.
    was_caused: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Looking,
    Asking(Probe),
}

/// The state of the system, and how it is found out.
#[derive(Debug)]
pub struct SystemState {
    limits: Limits,
    hostname: String,
    columns: Columns,
    /// False until the next check begins: `columns` are those of another `zpool`.
    is_learned: bool,
    /// As they were read last; `None` where there is no ZFS, and before they were read.
    pools: Option<Vec<Pool>>,
    /// When.
    read: Option<Moment>,
    /// Why the last check could not read them.
    trouble: Option<String>,
    check: Option<Check>,
    checks: u64,
    /// How many checks ago it was asked what is wrong.
    lists: u64,
    /// When the timer's next check begins.
    next: Option<Instant>,
    pacing: Pacing,
    /// A `zpool` was asked, and its process has not ended.
    is_outstanding: bool,
    /// A check went without pools because of that.
    was_skipped: bool,
    told: Option<Told>,
    /// When the check began after which something was told last.
    told_at: Option<Instant>,
    watching: Watching,
    effects: VecDeque<Effect>,
    is_stopped: bool,
}

impl SystemState {
    /// Nothing is known yet but the host name.
    pub fn new(limits: Limits, hostname: &str) -> SystemState {
        SystemState {
            limits,
            hostname: hostname.to_owned(),
            columns: Columns::all(),
            is_learned: true,
            pools: None,
            read: None,
            trouble: None,
            check: None,
            checks: 0,
            lists: LISTS,
            next: None,
            pacing: Pacing::new(limits.event_delay, limits.event_pause),
            is_outstanding: false,
            was_skipped: false,
            told: None,
            told_at: None,
            watching: Watching::default(),
            effects: VecDeque::new(),
            is_stopped: false,
        }
    }

    /// The first check.
    pub fn begin(&mut self, now: Moment) {
        self.begin_check(now);
    }

    /// Other limits from now on, and perhaps another `zpool`: what was learned of the old one is
    /// forgotten. A check follows.
    pub fn reload(&mut self, limits: Limits, now: Moment) {
        self.limits = limits;
        self.pacing.set_limits(limits.event_delay, limits.event_pause);
        self.is_learned = false;
        self.detach();
        self.watching = Watching::default();
        self.next = Some(now.instant);
    }

    /// No more checks; what runs is ended.
    pub fn stop(&mut self) {
        self.is_stopped = true;
        self.detach();
        if let Some(Check { stage: Stage::Asking(_), .. }) = self.check.take() {
            self.effects.push_back(Effect::Kill);
        }
    }

    /// Somebody wants to know. True where a check begins at once.
    pub fn request(&mut self, now: Moment) -> bool {
        self.pacing.request(now.instant);
        let may_begin = self.check.is_none() && !self.is_outstanding && !self.is_stopped;
        may_begin && self.pacing.due().is_some_and(|due| due <= now.instant)
    }

    /// What is to be done next.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The name of the host, as of the last look.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// When [`SystemState::on_deadline`] wants to be called.
    pub fn due(&self) -> Option<Instant> {
        match &self.check {
            _ if self.is_stopped => None,
            Some(Check { stage: Stage::Looking, .. }) => None,
            Some(Check { stage: Stage::Asking(probe), .. }) => Some(probe.due),
            // Pools cannot be asked for now, so only the timer counts: the host name has its turn.
            None if self.is_outstanding => self.next,
            None => self.next.into_iter().chain(self.pacing.due()).min(),
        }
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Moment) {
        if self.due().is_none_or(|due| due > now.instant) {
            return;
        }
        match self.check {
            None => self.begin_check(now),
            Some(_) => {
                self.give_up(Trouble::Overdue(self.limits.zpool_deadline));
                // So that the process has time to go.
                self.next = self.next.max(Some(now.instant + GOING));
            }
        }
    }

    fn begin_check(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.is_learned, true) {
            self.columns = Columns::all();
            self.lists = LISTS;
        }
        let was_caused = !self.is_outstanding && self.pacing.begin(now.instant);
        // Trouble is over when all has been answered.
        let thorough = was_caused || self.trouble.is_some() || self.lists >= LISTS;
        self.next = Some(now.instant + self.limits.interval);
        let stage = Stage::Looking;
        let hostname_changed = false;
        self.check = Some(Check { begun: now, hostname_changed, thorough, was_caused, stage });
        self.effects.push_back(Effect::Look);
    }

    /// The look that was asked for: the host's name, and whether `zpool` may be asked.
    pub fn looked(&mut self, hostname: String, zfs: bool, now: Moment) {
        let Some(check) = &mut self.check else { return };
        check.hostname_changed = hostname != self.hostname;
        self.hostname = hostname;
        if self.is_outstanding {
            if !self.was_skipped {
                let text = "zpool cannot be ended; pools are asked for again when it is gone";
                self.effects.push_back(Effect::Say(Level::Warn, text.to_owned()));
            }
            self.was_skipped = true;
            self.conclude();
        } else if zfs {
            self.ask(Question::List, now);
        } else {
            self.there_is_no_zfs();
        }
    }

    fn ask(&mut self, question: Question, now: Moment) {
        let Some(check) = &mut self.check else { return };
        let due = now.instant + self.limits.zpool_deadline;
        check.stage = Stage::Asking(Probe::new(question, due, self.limits.zpool_output));
        self.is_outstanding = true;
        self.effects.push_back(Effect::Ask(match question {
            Question::List => self.columns.question(),
            Question::Status => vec!["status".to_owned(), "-x".to_owned()],
        }));
    }

    /// The `zpool` that was to be asked could not be.
    pub fn not_started(&mut self, error: &io::Error) {
        self.is_outstanding = false;
        if let Some(Check { stage: Stage::Asking(probe), .. }) = &self.check {
            let question = probe.question;
            self.fail(question, &Trouble::NotStarted(error.to_string()));
        }
    }

    /// The `zpool` that was asked printed something. False where no more of it is wanted.
    pub fn printed(&mut self, bytes: &[u8]) -> bool {
        let Some(Check { stage: Stage::Asking(probe), .. }) = &mut self.check else { return false };
        let fits = probe.printed(bytes);
        if !fits {
            self.give_up(Trouble::TooLong(self.limits.zpool_output));
        }
        fits
    }

    /// It wrote to standard error. False where no more of that is wanted.
    pub fn complained(&mut self, bytes: &[u8]) -> bool {
        match &mut self.check {
            Some(Check { stage: Stage::Asking(probe), .. }) => probe.complained(bytes),
            Some(Check { stage: Stage::Looking, .. }) | None => false,
        }
    }

    /// It ended, and all that it printed was told before. `failure` is why it could not be started.
    pub fn ended(&mut self, exit: Exit, failure: Option<(Step, io::Error)>, now: Moment) {
        self.is_outstanding = false;
        let Some(check) = &mut self.check else {
            if std::mem::take(&mut self.was_skipped) {
                self.pacing.request(now.instant);
            }
            return;
        };
        let Stage::Asking(probe) = std::mem::replace(&mut check.stage, Stage::Looking) else {
            return;
        };
        let question = probe.question;
        match probe.end(exit, failure).and_then(|answer| self.understand(question, &answer)) {
            Ok(()) if question == Question::List && self.is_thorough() => {
                self.ask(Question::Status, now);
            }
            Ok(()) => self.conclude(),
            Err(Trouble::NoZfs) => self.there_is_no_zfs(),
            Err(trouble) if question == Question::List && self.columns.give_up(&trouble) => {
                self.ask(Question::List, now);
            }
            Err(trouble) => self.fail(question, &trouble),
        }
    }

    fn understand(&mut self, question: Question, answer: &[u8]) -> Result<(), Trouble> {
        match question {
            Question::List => {
                let mut pools = list::parse(answer, &self.columns).map_err(Trouble::Unreadable)?;
                for pool in &mut pools {
                    // Until it is asked again.
                    let before = self.pools.iter().flatten().find(|other| other.name == pool.name);
                    pool.status = before.and_then(|before| before.status.clone());
                }
                self.pools = Some(pools);
                self.read = self.check.as_ref().map(|check| check.begun);
            }
            Question::Status => {
                let named = status::parse(answer).map_err(Trouble::Unreadable)?;
                for pool in self.pools.iter_mut().flatten() {
                    let named = named.iter().find(|named| named.name == pool.name);
                    pool.status = named.map(|named| named.status.clone());
                }
                self.lists = 0;
            }
        }
        self.trouble = None;
        Ok(())
    }

    /// After the list: whether it is to be asked too what is wrong.
    fn is_thorough(&self) -> bool {
        let pools = self.pools.as_deref().unwrap_or_default();
        let is_known = pools.iter().any(|pool| pool.status.is_some());
        let has_changed = || self.told.as_ref().is_none_or(|told| told.pools != self.essence());
        let is_due = self.check.as_ref().is_some_and(|check| check.thorough);
        !pools.is_empty() && (is_due || is_known || has_changed())
    }

    fn there_is_no_zfs(&mut self) {
        (self.pools, self.read, self.trouble) = (None, None, None);
        self.detach();
        self.conclude();
    }

    /// Stops waiting for the process that was asked.
    fn give_up(&mut self, trouble: Trouble) {
        if let Some(Check { stage: Stage::Asking(probe), .. }) = &self.check {
            let question = probe.question;
            self.effects.push_back(Effect::Kill);
            self.fail(question, &trouble);
        }
    }

    fn fail(&mut self, question: Question, trouble: &Trouble) {
        self.trouble = Some(format!("{question} {trouble}"));
        self.conclude();
    }
}

#[cfg(test)]
mod captures;
#[cfg(test)]
mod tests;
