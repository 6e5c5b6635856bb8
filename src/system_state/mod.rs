//! The state of the system: its host name and its ZFS pools. No I/O.
//!
//! A check reads the host name, runs `zpool list`, and `zpool status` where there is a reason to. A
//! timer, a request or a ZFS event of the kernel starts a check; the event is only a trigger, the
//! check decides.
//!
//! Inputs are the host name, output of `zpool` and the time; outputs are [`Effect`]s. A `zpool` may
//! hang for ever when a pool does, and even SIGKILL may not end it. So at most one runs at a time,
//! nothing waits for it, and no other starts before its process has ended.

mod columns;
mod devd;
mod device;
mod feed;
mod figures;
mod gone;
mod kind;
mod list;
mod pacing;
mod pool;
mod probe;
mod process;
mod report;
mod scan;
mod status;
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
use gone::Gone;
use pacing::Pacing;
use pool::Pool;
use probe::{Probe, ProbeError, Question, USAGE};
use report::Report;
use status::Page;
use watching::Watching;

pub use devd::Devd;
pub use feed::Feed;
pub use figures::{PoolFigures, PoolsFigures};
pub use probe::Complaint;
pub use process::{Process, Starter, drain, is_found, zdb_beside, zfs_beside};

/// Limits of the system state.
#[derive(Clone, Copy, Debug)]
pub struct SystemStateLimits {
    /// Interval between two checks.
    pub interval: Duration,
    /// Maximum time without an event.
    pub report_interval: Duration,
    /// Time limit of one `zpool` command.
    pub zpool_deadline: Duration,
    /// Maximum output of one command, in bytes.
    pub zpool_output: usize,
    /// In per cent; a pool filled beyond it is critical.
    pub capacity_warning: usize,
    /// Time in which the kernel's events are coalesced.
    pub event_delay: Duration,
    /// Maximum pause between checks that events cause.
    pub event_pause: Duration,
    /// Maximum size of one encoded event, in bytes.
    pub max_event: usize,
}

/// After this many checks with `zpool list` alone, one runs `zpool status` too.
const LISTS: u64 = 5;

/// Maximum number of missing pools stored; an event has room for them.
const GONE: usize = 16;

/// Time that a killed process may take to end before the next attempt.
const GOING: Duration = Duration::from_secs(1);

/// An action for the owner of [`SystemState`].
#[derive(Debug)]
pub enum Effect {
    /// Read the host name and whether ZFS is present, and report to [`SystemState::looked`].
    Look,
    /// Start `zpool` with these arguments; [`SystemState::not_started`] if that fails.
    Ask(Vec<String>),
    /// The same for `zdb`.
    AskLabel(Vec<String>),
    /// Kill the running command and discard its output. Its exit is still reported to
    /// [`SystemState::ended`].
    Kill,
    /// Find a feed of the kernel's events, and report it to [`SystemState::attached`].
    Attach {
        /// Arguments of a `zpool` to follow, unless it is known to lack events.
        events: Option<Vec<String>>,
    },
    /// Close the feed.
    Detach,
    /// Publish an event.
    Publish(Event),
    /// Write a line to the log.
    Say(Level, String),
}

/// A running check.
#[derive(Debug)]
struct Check {
    begun: Moment,
    hostname_was: Option<String>,
    /// Devices whose labels are still to be read, each with its missing pool.
    labels: VecDeque<(String, String)>,
    /// The label of the first of them is being read.
    is_asking_labels: bool,
    /// Run `zpool status` regardless of the list.
    thorough: bool,
    /// Started by something other than the timer.
    was_caused: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Looking,
    Asking(Probe),
}

/// The state machine of the system state.
#[derive(Debug)]
pub struct SystemState {
    limits: SystemStateLimits,
    hostname: String,
    columns: Columns,
    /// False until the next check begins: `columns` belong to another `zpool`.
    is_learned: bool,
    /// As last read; `None` without ZFS, and before the first list.
    pools: Option<Vec<Pool>>,
    /// Time of the last successful check.
    read: Option<Moment>,
    /// Pools that have disappeared, see [`Gone`].
    gone: Vec<Gone>,
    /// Why the last check failed.
    last_failure: Option<String>,
    /// The failure is a lack of privilege, and no pool was ever seen.
    is_refused: bool,
    /// `zpool status` of this host is run for wounded pools alone.
    is_brief: bool,
    check: Option<Check>,
    checks: u64,
    /// Number of checks since the last `zpool status`.
    lists: u64,
    /// When the timer starts the next check.
    next: Option<Instant>,
    pacing: Pacing,
    /// The process of a command has not ended.
    is_outstanding: bool,
    /// A check was made without pools because of that.
    was_skipped: bool,
    reported: Option<Report>,
    /// Start of the check after which an event was last published.
    reported_at: Option<Instant>,
    watching: Watching,
    effects: VecDeque<Effect>,
    is_stopped: bool,
}

impl SystemState {
    /// Knows nothing but the host name.
    pub fn new(limits: SystemStateLimits, hostname: &str) -> SystemState {
        SystemState {
            limits,
            hostname: hostname.to_owned(),
            columns: Columns::all(),
            is_learned: true,
            pools: None,
            read: None,
            gone: Vec::new(),
            last_failure: None,
            is_refused: false,
            is_brief: false,
            check: None,
            checks: 0,
            lists: LISTS,
            next: None,
            pacing: Pacing::new(limits.event_delay, limits.event_pause),
            is_outstanding: false,
            was_skipped: false,
            reported: None,
            reported_at: None,
            watching: Watching::default(),
            effects: VecDeque::new(),
            is_stopped: false,
        }
    }

    /// Starts the first check.
    pub fn begin(&mut self, now: Moment) {
        self.begin_check(now);
    }

    /// Applies other limits, and perhaps another `zpool`: forgets what was learned about the old
    /// one and the pools that vanished. A check follows.
    pub fn reload(&mut self, limits: SystemStateLimits, now: Moment) {
        self.limits = limits;
        self.pacing.set_limits(limits.event_delay, limits.event_pause);
        self.is_learned = false;
        self.detach();
        self.watching = Watching::default();
        self.gone.clear();
        self.next = Some(now.instant);
    }

    /// Stops checking, and kills what runs.
    pub fn stop(&mut self) {
        self.is_stopped = true;
        self.detach();
        if let Some(Check { stage: Stage::Asking(_), .. }) = self.check.take() {
            self.effects.push_back(Effect::Kill);
        }
    }

    /// Requests a check. True where it begins at once.
    pub fn request(&mut self, now: Moment) -> bool {
        self.pacing.request(now.instant);
        let may_begin = self.check.is_none() && !self.is_outstanding && !self.is_stopped;
        may_begin && self.pacing.due().is_some_and(|due| due <= now.instant)
    }

    /// The next action.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The host name as of the last check.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// When [`SystemState::on_deadline`] must be called.
    pub fn due(&self) -> Option<Instant> {
        match &self.check {
            _ if self.is_stopped => None,
            Some(Check { stage: Stage::Looking, .. }) => None,
            Some(Check { stage: Stage::Asking(probe), .. }) => Some(probe.due),
            // `zpool` cannot be run now, so only the timer counts: the host name is still checked.
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
                self.give_up(ProbeError::Overdue(self.limits.zpool_deadline));
                // Gives the process time to end.
                self.next = self.next.max(Some(now.instant + GOING));
            }
        }
    }

    fn begin_check(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.is_learned, true) {
            self.columns = Columns::all();
            self.is_brief = false;
            self.lists = LISTS;
        }
        let was_caused = !self.is_outstanding && self.pacing.begin(now.instant);
        // After a failure every command must succeed again.
        let thorough = was_caused || self.last_failure.is_some() || self.lists >= LISTS;
        self.next = Some(now.instant + self.limits.interval);
        let stage = Stage::Looking;
        let (hostname_was, labels) = (None, VecDeque::new());
        self.check = Some(Check {
            begun: now,
            hostname_was,
            labels,
            is_asking_labels: false,
            thorough,
            was_caused,
            stage,
        });
        self.effects.push_back(Effect::Look);
    }

    /// Result of [`Effect::Look`]: the host name, and whether `zpool` can be run.
    pub fn looked(&mut self, hostname: String, zfs: bool, now: Moment) {
        let Some(check) = &mut self.check else { return };
        let was = std::mem::replace(&mut self.hostname, hostname);
        check.hostname_was = Some(was).filter(|was| *was != self.hostname);
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
            self.there_is_no_zfs(now);
        }
    }

    fn ask(&mut self, question: Question, now: Moment) {
        let Some(check) = &mut self.check else { return };
        let due = now.instant + self.limits.zpool_deadline;
        check.stage = Stage::Asking(Probe::new(question, due, self.limits.zpool_output));
        self.is_outstanding = true;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        self.effects.push_back(match question {
            Question::List => Effect::Ask(self.columns.question()),
            Question::Status if self.is_brief => Effect::Ask(words(&["status", "-x"])),
            Question::Status => Effect::Ask(words(&["status"])),
            Question::Label => {
                let device = check.labels.front().map_or("", |(_, device)| device);
                Effect::AskLabel(words(&["-l", device]))
            }
        });
    }

    /// Starting the command failed.
    pub fn not_started(&mut self, error: &io::Error, now: Moment) {
        self.is_outstanding = false;
        match &self.check {
            Some(Check { stage: Stage::Asking(probe), .. })
                if probe.question == Question::Label =>
            {
                self.next_question(now, None);
            }
            Some(Check { stage: Stage::Asking(probe), .. }) => {
                let question = probe.question;
                self.fail(question, &ProbeError::NotStarted(error.to_string()));
            }
            Some(Check { stage: Stage::Looking, .. }) | None => {}
        }
    }

    /// Standard output of the command. False where no more of it is wanted.
    pub fn printed(&mut self, bytes: &[u8]) -> bool {
        let Some(Check { stage: Stage::Asking(probe), .. }) = &mut self.check else { return false };
        let fits = probe.printed(bytes);
        if !fits {
            self.give_up(ProbeError::TooLong(self.limits.zpool_output));
        }
        fits
    }

    /// Standard error of the command. False where no more of it is wanted.
    pub fn complained(&mut self, bytes: &[u8]) -> bool {
        match &mut self.check {
            Some(Check { stage: Stage::Asking(probe), .. }) => probe.complained(bytes),
            Some(Check { stage: Stage::Looking, .. }) | None => false,
        }
    }

    /// The command ended, after all its output was passed in. `failure` is why it could not be
    /// started.
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
        let answer = probe.end(exit, failure);
        if question == Question::Label {
            return self.next_question(now, answer.ok());
        }
        match answer.and_then(|answer| self.understand(question, &answer, now)) {
            Ok(()) if question == Question::List => self.next_question(now, None),
            Ok(()) => self.conclude(),
            Err(ProbeError::NoZfs) => self.there_is_no_zfs(now),
            Err(last_failure)
                if question == Question::List && self.columns.give_up(&last_failure) =>
            {
                self.ask(Question::List, now);
            }
            Err(ProbeError::Exit(Exit::Code(USAGE), _))
                if question == Question::Status && !self.is_brief =>
            {
                self.is_brief = true;
                self.ask(Question::Status, now);
            }
            Err(last_failure) => self.fail(question, &last_failure),
        }
    }

    fn understand(
        &mut self,
        question: Question,
        answer: &[u8],
        now: Moment,
    ) -> Result<(), ProbeError> {
        match question {
            Question::List => {
                let mut pools =
                    list::parse(answer, &self.columns).map_err(ProbeError::Unreadable)?;
                for pool in &mut pools {
                    // Until the next `zpool status`.
                    let before = self.pools.iter().flatten().find(|other| other.name == pool.name);
                    pool.page = before.and_then(|before| before.page.clone());
                }
                let before = self.pools.replace(pools);
                self.find_gone(before.unwrap_or_default(), now);
                self.read = self.check.as_ref().map(|check| check.begun);
            }
            Question::Status => {
                let mut pages = status::parse(answer).map_err(ProbeError::Unreadable)?;
                for pool in self.pools.iter_mut().flatten() {
                    let at = pages.iter().position(|page| page.name == pool.name);
                    pool.page = at.map(|at| pages.swap_remove(at));
                }
                self.lists = 0;
            }
            Question::Label => {}
        }
        (self.last_failure, self.is_refused) = (None, false);
        Ok(())
    }

    /// Determines which pools have disappeared since the last list, and which have come back.
    fn find_gone(&mut self, before: Vec<Pool>, now: Moment) {
        let Some(check) = &mut self.check else { return };
        let pools = self.pools.as_deref().unwrap_or_default();
        let is_there = |name: &str| pools.iter().any(|pool| pool.name == name);
        self.gone.retain(|gone| !is_there(&gone.name));
        for pool in before.iter().filter(|pool| !is_there(&pool.name)) {
            if self.gone.len() < GONE {
                let is_online = pool.is_online();
                self.gone.push(Gone::new(&pool.name, pool.health(), is_online, now.instant));
            }
        }
        // The newest first: an event without a name concerns the pool that has just disappeared.
        for gone in self.gone.iter_mut().rev().filter(|gone| gone.is_recent(now.instant)) {
            if let Some(how) = self.watching.departures.explain(&gone.name, now.instant) {
                gone.how = how;
            } else if let Some(pool) = before.iter().find(|pool| pool.name == gone.name)
                && gone.is_open()
            {
                let devices = pool.page.iter().flat_map(|page| &page.readable);
                check.labels.extend(devices.map(|device| (gone.name.clone(), device.clone())));
            }
        }
    }

    /// After the list: reads the labels of devices of missing pools one by one, then runs `zpool
    /// status` where that is due. `answer` is the output for the last device.
    fn next_question(&mut self, now: Moment, answer: Option<Vec<u8>>) {
        let Some(check) = &mut self.check else { return };
        if let Some(answer) = answer
            && let Some((name, _)) = check.labels.front()
            && let Some(how) = gone::read_label(&answer, name)
            && let Some(gone) = self.gone.iter_mut().find(|gone| gone.name == *name)
        {
            gone.how = how;
        }
        // The output is that of the first device; before the first command there is none to drop.
        if check.is_asking_labels {
            check.labels.pop_front();
        }
        let gone = &self.gone;
        let is_open = |name: &str| gone.iter().any(|gone| gone.name == name && gone.is_open());
        while check.labels.front().is_some_and(|(name, _)| !is_open(name)) {
            check.labels.pop_front();
        }
        check.is_asking_labels = !check.labels.is_empty();
        if check.is_asking_labels {
            self.ask(Question::Label, now);
        } else if self.is_thorough() {
            self.ask(Question::Status, now);
        } else {
            self.conclude();
        }
    }

    /// Whether `zpool status` follows the list.
    fn is_thorough(&self) -> bool {
        let pools = self.pools.as_deref().unwrap_or_default();
        let is_known = pools.iter().any(|pool| pool.page.as_ref().is_some_and(Page::is_watched));
        let has_changed =
            || self.reported.as_ref().is_none_or(|reported| reported.pools != self.essence());
        let is_due = self.check.as_ref().is_some_and(|check| check.thorough);
        !pools.is_empty() && (is_due || is_known || has_changed())
    }

    fn there_is_no_zfs(&mut self, now: Moment) {
        let before = self.pools.take().unwrap_or_default();
        (self.read, self.last_failure, self.is_refused) = (None, None, false);
        self.find_gone(before, now);
        self.detach();
        self.next_question(now, None);
    }

    /// Abandons the running command.
    fn give_up(&mut self, last_failure: ProbeError) {
        let Some(Check { stage: Stage::Asking(probe), .. }) = &self.check else { return };
        let question = probe.question;
        self.effects.push_back(Effect::Kill);
        match last_failure {
            // A device that does not answer gives no reason.
            _ if question == Question::Label => self.conclude(),
            ProbeError::TooLong(limit) if question == Question::Status && !self.is_brief => {
                let text = format!(
                    "zpool status prints more than {limit} bytes (system_state.zpool_output): pages \
                     of healthy pools, and so their scrubs, are not read any more"
                );
                self.effects.push_back(Effect::Say(Level::Warn, text));
                // A check follows when the process has ended.
                (self.is_brief, self.check, self.lists) = (true, None, LISTS);
                self.was_skipped = true;
            }
            last_failure => self.fail(question, &last_failure),
        }
    }

    fn fail(&mut self, question: Question, last_failure: &ProbeError) {
        self.is_refused = self.pools.is_none() && last_failure.is_refusal();
        self.last_failure = Some(format!("{question} {last_failure}"));
        self.conclude();
    }
}

#[cfg(test)]
mod captures;
#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod tests;
