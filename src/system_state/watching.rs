//! From where checks are woken: the feed of the kernel's events, found, lost and found again.

use std::io;

use log::Level;

use super::feed::{self, Feed, Lines};
use super::gone::Departures;
use super::pool::Pool;
use super::probe::Complaint;
use super::{Effect, SystemState};
use crate::moment::Moment;
use crate::sys::children::Exit;
use crate::sys::spawn::Step;

/// What is known of feeds.
#[derive(Debug, Default)]
pub(super) struct Watching {
    feed: Option<Feed>,
    lines: Lines,
    /// Pools that left, as the feed says.
    pub(super) departures: Departures,
    /// Why this host's `zpool` has no events.
    no_events: Option<String>,
    /// What the log has of it: `Some(None)` is that there is none.
    said: Option<Option<Feed>>,
}

impl SystemState {
    /// After a check: tells the log where the next will be woken from, and looks for a feed where
    /// there is none.
    pub(super) fn look_after_feed(&mut self, was_caused: bool) {
        let Some(pools) = &self.pools else { return };
        // Whoever looks for a socket or a program touches a disk: not while one may hang.
        let may_hang = self.trouble.is_some() || pools.iter().any(Pool::is_suspended);
        let watching = &self.watching;
        // A feed that was just begun is told of after the check that it causes, if it lives so long.
        if watching.said != Some(watching.feed) && (was_caused || watching.said.is_some()) {
            self.say_feed();
        }
        // A check that a feed caused does not look for the next one: one that ends at once would
        // otherwise never let it rest.
        if self.watching.feed.is_none() && !may_hang && !was_caused {
            let events = self.watching.no_events.is_none();
            let events = events.then(|| feed::FOLLOW.map(str::to_owned).to_vec());
            self.effects.push_back(Effect::Attach { events });
        }
    }

    fn say_feed(&mut self) {
        let (watching, interval) = (&mut self.watching, self.limits.interval);
        let text = match (watching.feed, &watching.no_events) {
            (Some(feed), _) => {
                format!(
                    "pools are checked when {} tells of them, and every {interval:?}",
                    feed.name()
                )
            }
            (None, Some(why)) => {
                format!("pools are checked every {interval:?} only: no devd, and {why}")
            }
            (None, None) => format!("pools are checked every {interval:?} only, for now"),
        };
        watching.said = Some(watching.feed);
        self.effects.push_back(Effect::Say(Level::Info, text));
    }

    /// A feed was looked for. What happened before it began is found by one more check.
    pub fn attached(&mut self, feed: Option<Feed>, now: Moment) {
        self.watching.feed = feed;
        self.watching.lines = Lines::default();
        match feed {
            Some(_) => self.pacing.event(now.instant),
            None if self.watching.said != Some(None) => self.say_feed(),
            None => {}
        }
    }

    /// Something came from the feed.
    pub fn heard(&mut self, bytes: &[u8], now: Moment) {
        let Watching { feed, lines, departures, .. } = &mut self.watching;
        if let Some(feed) = *feed
            && lines.take(feed, bytes, |line| departures.take(line, now.instant))
        {
            self.pacing.event(now.instant);
        }
    }

    /// The feed ended by itself; the next timer looks for one.
    pub fn detached(&mut self) {
        self.watching.feed = None;
    }

    /// The `zpool` that was followed ended, and said this on standard error.
    pub fn follower_ended(
        &mut self,
        exit: Exit,
        errors: &Complaint,
        failure: Option<(Step, io::Error)>,
    ) {
        self.detached();
        if let Some(why) = feed::refusal(exit, errors, failure) {
            self.watching.no_events = Some(why);
        }
    }

    /// Lets the feed go.
    pub(super) fn detach(&mut self) {
        if self.watching.feed.take().is_some() {
            self.effects.push_back(Effect::Detach);
        }
    }

    /// The name of the feed.
    pub(super) fn woken_by(&self) -> Option<&'static str> {
        self.watching.feed.map(Feed::name)
    }
}
