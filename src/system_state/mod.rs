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
mod device;
mod feed;
mod gone;
mod kind;
mod list;
mod pacing;
mod pool;
mod probe;
mod process;
mod scan;
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
use gone::Gone;
use pacing::Pacing;
use pool::Pool;
use probe::{Probe, Question, Trouble, USAGE};
use status::Page;
use telling::Told;
use watching::Watching;

pub use devd::Devd;
pub use feed::Feed;
pub use probe::Complaint;
pub use process::{Process, Starter, drain, is_found, zdb_beside};

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

/// Pools that have left and are remembered; an event has room for them.
const GONE: usize = 16;

/// How long a killed process may take to be gone, before it is looked at whether it is.
const GOING: Duration = Duration::from_secs(1);

/// Something to be done for the state of the system.
#[derive(Debug)]
pub enum Effect {
    /// Look at the host name and whether ZFS is there, then say so with [`SystemState::looked`].
    Look,
    /// Start `zpool` with these arguments; [`SystemState::not_started`] where that fails.
    Ask(Vec<String>),
    /// The same with `zdb`.
    AskLabel(Vec<String>),
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
    hostname_was: Option<String>,
    /// Devices that are still to be asked what became of a pool, each with that pool.
    labels: VecDeque<(String, String)>,
    /// The first of them is being asked.
    is_asking_labels: bool,
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
    /// Pools that left, see [`Gone`].
    gone: Vec<Gone>,
    /// Why the last check could not read them.
    trouble: Option<String>,
    /// It is that this user may not, and no pool was ever seen.
    is_refused: bool,
    /// This `zpool` is asked for the pages of wounded pools alone.
    is_brief: bool,
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
            gone: Vec::new(),
            trouble: None,
            is_refused: false,
            is_brief: false,
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
    /// forgotten, and so are pools that vanished. A check follows.
    pub fn reload(&mut self, limits: Limits, now: Moment) {
        self.limits = limits;
        self.pacing.set_limits(limits.event_delay, limits.event_pause);
        self.is_learned = false;
        self.detach();
        self.watching = Watching::default();
        self.gone.clear();
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
            self.is_brief = false;
            self.lists = LISTS;
        }
        let was_caused = !self.is_outstanding && self.pacing.begin(now.instant);
        // Trouble is over when all has been answered.
        let thorough = was_caused || self.trouble.is_some() || self.lists >= LISTS;
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

    /// The look that was asked for: the host's name, and whether `zpool` may be asked.
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

    /// The `zpool` that was to be asked could not be.
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
                self.fail(question, &Trouble::NotStarted(error.to_string()));
            }
            Some(Check { stage: Stage::Looking, .. }) | None => {}
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
        let answer = probe.end(exit, failure);
        if question == Question::Label {
            return self.next_question(now, answer.ok());
        }
        match answer.and_then(|answer| self.understand(question, &answer, now)) {
            Ok(()) if question == Question::List => self.next_question(now, None),
            Ok(()) => self.conclude(),
            Err(Trouble::NoZfs) => self.there_is_no_zfs(now),
            Err(trouble) if question == Question::List && self.columns.give_up(&trouble) => {
                self.ask(Question::List, now);
            }
            Err(Trouble::Exit(Exit::Code(USAGE), _))
                if question == Question::Status && !self.is_brief =>
            {
                self.is_brief = true;
                self.ask(Question::Status, now);
            }
            Err(trouble) => self.fail(question, &trouble),
        }
    }

    fn understand(
        &mut self,
        question: Question,
        answer: &[u8],
        now: Moment,
    ) -> Result<(), Trouble> {
        match question {
            Question::List => {
                let mut pools = list::parse(answer, &self.columns).map_err(Trouble::Unreadable)?;
                for pool in &mut pools {
                    // Until it is asked again.
                    let before = self.pools.iter().flatten().find(|other| other.name == pool.name);
                    pool.page = before.and_then(|before| before.page.clone());
                }
                let before = self.pools.replace(pools);
                self.find_gone(before.unwrap_or_default(), now);
                self.read = self.check.as_ref().map(|check| check.begun);
            }
            Question::Status => {
                let mut pages = status::parse(answer).map_err(Trouble::Unreadable)?;
                for pool in self.pools.iter_mut().flatten() {
                    let at = pages.iter().position(|page| page.name == pool.name);
                    pool.page = at.map(|at| pages.swap_remove(at));
                }
                self.lists = 0;
            }
            Question::Label => {}
        }
        (self.trouble, self.is_refused) = (None, false);
        Ok(())
    }

    /// Finds out which pools have left since the last list, and which have come back.
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
        // The newest first: an event without a name is about the pool that has just left.
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

    /// After the list: asks the devices of pools that have left, one by one; then for the status,
    /// where that is due. `answer` is that of the device that was asked last.
    fn next_question(&mut self, now: Moment, answer: Option<Vec<u8>>) {
        let Some(check) = &mut self.check else { return };
        if let Some(answer) = answer
            && let Some((name, _)) = check.labels.front()
            && let Some(how) = gone::read_label(&answer, name)
            && let Some(gone) = self.gone.iter_mut().find(|gone| gone.name == *name)
        {
            gone.how = how;
        }
        // The answer is that of the first; before the first question there is none to be dropped.
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

    /// After the list: whether it is to be asked too what is wrong.
    fn is_thorough(&self) -> bool {
        let pools = self.pools.as_deref().unwrap_or_default();
        let is_known = pools.iter().any(|pool| pool.page.as_ref().is_some_and(Page::is_watched));
        let has_changed = || self.told.as_ref().is_none_or(|told| told.pools != self.essence());
        let is_due = self.check.as_ref().is_some_and(|check| check.thorough);
        !pools.is_empty() && (is_due || is_known || has_changed())
    }

    fn there_is_no_zfs(&mut self, now: Moment) {
        let before = self.pools.take().unwrap_or_default();
        (self.read, self.trouble, self.is_refused) = (None, None, false);
        self.find_gone(before, now);
        self.detach();
        self.next_question(now, None);
    }

    /// Stops waiting for the process that was asked.
    fn give_up(&mut self, trouble: Trouble) {
        let Some(Check { stage: Stage::Asking(probe), .. }) = &self.check else { return };
        let question = probe.question;
        self.effects.push_back(Effect::Kill);
        match trouble {
            // A device that does not answer is no witness.
            _ if question == Question::Label => self.conclude(),
            Trouble::TooLong(limit) if question == Question::Status && !self.is_brief => {
                let text = format!(
                    "zpool status prints more than {limit} bytes (system_state.zpool_output): pages \
                     of healthy pools, and so their scrubs, are not read any more"
                );
                self.effects.push_back(Effect::Say(Level::Warn, text));
                // A check follows when the process has ended.
                (self.is_brief, self.check, self.lists) = (true, None, LISTS);
                self.was_skipped = true;
            }
            trouble => self.fail(question, &trouble),
        }
    }

    fn fail(&mut self, question: Question, trouble: &Trouble) {
        self.is_refused = self.pools.is_none() && trouble.is_refusal();
        self.trouble = Some(format!("{question} {trouble}"));
        self.conclude();
    }
}

#[cfg(test)]
mod captures;
#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod tests;
