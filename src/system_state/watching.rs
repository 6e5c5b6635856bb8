//! The feed of the kernel's events that triggers checks: found, lost and found again.

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

/// Knowledge about feeds.
#[derive(Debug, Default)]
pub(super) struct Watching {
    feed: Option<Feed>,
    lines: Lines,
    /// Events of pools that were exported or destroyed.
    pub(super) departures: Departures,
    /// Why this host's `zpool` has no events.
    no_events: Option<String>,
    /// The last state logged: `Some(None)` is that there is no feed.
    said: Option<Option<Feed>>,
}

impl SystemState {
    /// After a check: logs which feed triggers the next one, and looks for a feed where there is
    /// none.
    pub(super) fn look_after_feed(&mut self, was_caused: bool) {
        let Some(pools) = &self.pools else { return };
        // Looking for a socket or a program touches a disk: not while one may hang.
        let may_hang = self.last_failure.is_some() || pools.iter().any(Pool::is_suspended);
        let watching = &self.watching;
        // A new feed is logged after the check that it causes, if it lasts that long.
        if watching.said != Some(watching.feed) && (was_caused || watching.said.is_some()) {
            self.say_feed();
        }
        // A check that a feed caused does not look for the next feed: one that ends at once would
        // otherwise cause checks without end.
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
                    "pools are checked when {} reports a change, and every {interval:?}",
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

    /// Result of [`Effect::Attach`]. One more check follows, for what happened before the feed
    /// began.
    pub fn attached(&mut self, feed: Option<Feed>, now: Moment) {
        self.watching.feed = feed;
        self.watching.lines = Lines::default();
        match feed {
            Some(_) => self.pacing.event(now.instant),
            None if self.watching.said != Some(None) => self.say_feed(),
            None => {}
        }
    }

    /// Bytes of the feed.
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

    /// The followed `zpool` ended, with this standard error.
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

    /// Closes the feed.
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
