//! Subscriptions, and distribution of events to subscribers.
//!
//! A published event gets a number, enters a bounded ring, and goes as one shared value to every
//! subscriber that wants it. A new subscriber first gets the current state; a resuming one gets the
//! events that it missed, from the ring. Both are *pulled* in small items while the subscriber's
//! outbox has room, so they can exceed an outbox; new events are held back meanwhile or read from
//! the ring in order, so nothing is sent twice or out of order.

mod ring;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use ring::Ring;

use crate::alerts::Alerts;
use crate::dispatcher::{Dispatcher, Serial};
use crate::moment::Moment;
use crate::wire::{
    Event, EventName, JobEvent, JobId, Phase, Priority, Published, Since, Spelling, rfc3339,
};

/// Number of a session, assigned by the owner.
pub type SessionId = u64;

/// Filter of a subscription, besides the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these jobs.
    pub jobs: Option<BTreeSet<JobId>>,
    /// Only events of at least this priority, among those that have one.
    pub priority: Option<Priority>,
}

impl Filter {
    fn passes(&self, event: &Event) -> bool {
        let job = match (event, &self.jobs) {
            (Event::Job(event), Some(jobs)) => jobs.contains(event.job.id.as_str()),
            (Event::Queue(_), jobs) => jobs.is_none(),
            (
                Event::Job(_)
                | Event::LifePreserver(_)
                | Event::SystemState(_)
                | Event::Alert(_)
                | Event::Notice(_),
                _,
            ) => true,
        };
        let urgent = match (event.priority(), self.priority) {
            (Some(priority), Some(least)) => priority >= least,
            (None, _) | (_, None) => true,
        };
        job && urgent
    }
}

impl Subscription {
    fn passes(&self, event: &Event) -> bool {
        let is_known = self.spelling.extended || !matches!(event, Event::Queue(_));
        is_known && self.filter.passes(event)
    }
}

#[derive(Debug, Default)]
struct Subscription {
    names: BTreeSet<EventName>,
    filter: Filter,
    spelling: Spelling,
    /// Current state that is still to be sent.
    backlog: Backlog,
}

/// Items that precede live events for a subscriber.
#[derive(Debug, Default)]
struct Backlog {
    /// Events from this number on are taken from the ring.
    replay_from: Option<u64>,
    /// Events were missed; their count, if known. Sent first.
    gap: Option<Option<u64>>,
    last: VecDeque<Rc<Published>>,
    /// Outcomes of jobs from this serial on are still to be sent, if they were reported before the
    /// event of this number.
    outcomes: Option<(Serial, u64)>,
    /// Active jobs from this serial on have not been sent yet.
    jobs_from: Option<Serial>,
    /// Pending events of jobs from this serial on are sent again.
    pending_from: Option<Serial>,
    /// Active alerts behind this key have not been sent yet.
    alerts_after: Option<String>,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.replay_from.is_none()
            && self.gap.is_none()
            && self.last.is_empty()
            && self.outcomes.is_none()
            && self.jobs_from.is_none()
            && self.pending_from.is_none()
            && self.alerts_after.is_none()
    }

    /// Whether the alert of that key is sent later, if it is active then.
    fn covers_alert(&self, key: &str) -> bool {
        self.alerts_after.as_deref().is_some_and(|after| key > after)
    }

    /// Whether the current state, still to be sent, includes this event. A finished job is not part
    /// of the current state.
    fn covers(&self, event: &JobEvent) -> bool {
        let finished = matches!(event.phase, Phase::Finished(_));
        !finished && self.jobs_from.is_some_and(|from| event.job.serial >= from)
    }
}

/// One item for a session.
#[derive(Clone, Debug)]
pub enum Item {
    /// An event.
    Event(Rc<Published>, Spelling),
    /// The outcome of this job, which must be read first: pass it to [`Hub::outcome_event`] and send the
    /// result before the next item is pulled.
    Outcome(Serial),
    /// Events were missed.
    Gap {
        /// The sequence number that repeats this gap on resumption.
        seq: u64,
        /// Their count before filters, if known.
        missed: Option<u64>,
    },
}

/// The number sent with the items that replace the events before `from`: one less than the last of
/// them, so that a subscriber that disconnects halfway and resumes with it receives all of them
/// again.
fn before_gap(from: u64) -> u64 {
    from.saturating_sub(2)
}

/// All subscriptions.
#[derive(Debug)]
pub struct Hub {
    epoch: Rc<str>,
    seq: u64,
    max_event: usize,
    subscribers: BTreeMap<SessionId, Subscription>,
    /// Sessions with a backlog.
    behind: BTreeSet<SessionId>,
    /// The last event of each kind that has one.
    last: BTreeMap<EventName, Rc<Published>>,
    ring: Ring,
}

impl Hub {
    /// Creates a hub without subscribers. `epoch` identifies this run of the daemon; an encoded
    /// event has at most `max_event` bytes, and the events in the ring have about `ring` bytes
    /// together.
    pub fn new(epoch: &str, max_event: usize, ring: usize) -> Hub {
        Hub {
            epoch: epoch.into(),
            seq: 0,
            max_event,
            subscribers: BTreeMap::new(),
            behind: BTreeSet::new(),
            last: BTreeMap::new(),
            ring: Ring::new(ring),
        }
    }

    /// Identifies this run of the daemon.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The number of the last event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Changes the limits for later events.
    pub fn set_limits(&mut self, max_event: usize, ring: usize) {
        self.max_event = max_event;
        self.ring.set_limit(ring);
    }

    /// Adds names to a subscription; filter and spelling are replaced. Returns the names that are
    /// new. With `since`, missed events are sent; a session that already receives events is not
    /// rewound.
    pub fn subscribe(
        &mut self,
        session: SessionId,
        names: &[EventName],
        filter: Filter,
        spelling: Spelling,
        since: Option<&Since>,
    ) -> Vec<EventName> {
        let resumes = since.filter(|_| !self.subscribers.contains_key(&session));
        let replay = resumes.map(|since| self.replay(since));
        let subscription = self.subscribers.entry(session).or_default();
        subscription.filter = filter;
        subscription.spelling = spelling;
        let mut changed: Vec<EventName> = Vec::new();
        for name in names {
            if subscription.names.insert(*name) {
                changed.push(*name);
            }
        }
        changed.sort_unstable();
        let backlog = &mut subscription.backlog;
        if let Some((from, gap)) = replay {
            (backlog.replay_from, backlog.gap) = (Some(from), gap);
        }
        // A subscriber that resumes without a gap knows the current state.
        if replay.is_none() || backlog.gap.is_some() {
            let before = backlog.replay_from.unwrap_or(self.seq + 1);
            for name in &changed {
                match name {
                    EventName::Dispatcher => {
                        backlog.jobs_from = Some(0);
                        // A subscriber that filters by job, or missed events, may wait for
                        // outcomes.
                        let looks = backlog.gap.is_some() || subscription.filter.jobs.is_some();
                        backlog.outcomes = looks.then_some((0, before));
                    }
                    EventName::LifePreserver | EventName::SystemState => {
                        backlog.last.extend(self.last.get(name).cloned());
                    }
                    EventName::Alert => backlog.alerts_after = Some(String::new()),
                    EventName::Notice => {}
                }
            }
        }
        if !backlog.is_empty() {
            self.behind.insert(session);
        }
        changed
    }

    /// Sends the pending events again to a session of an original client, one that subscribed to
    /// jobs in the plain form and the spelling with hyphens: its pages show only jobs whose events
    /// arrive while they are open, and the original server repeated these every 2 s.
    pub fn repeat_pending(&mut self, session: SessionId) {
        let Some(subscription) = self.subscribers.get_mut(&session) else { return };
        let is_original = subscription.spelling.hyphens && !subscription.spelling.extended;
        if is_original && subscription.names.contains(&EventName::Dispatcher) {
            subscription.backlog.pending_from = Some(0);
            self.behind.insert(session);
        }
    }

    /// Where to start the replay, and whether there is a gap before it.
    fn replay(&self, since: &Since) -> (u64, Option<Option<u64>>) {
        let oldest = self.ring.oldest().unwrap_or(self.seq + 1);
        // A subscriber before the first event of this run may have missed events of an earlier one.
        if *since.epoch != *self.epoch || since.seq > self.seq || since.seq == 0 {
            return (oldest, Some(None));
        }
        let next = since.seq + 1;
        if next < oldest { (oldest, Some(Some(oldest - next))) } else { (next, None) }
    }

    /// Removes names. Returns those that were subscribed to.
    pub fn unsubscribe(&mut self, session: SessionId, names: &[EventName]) -> Vec<EventName> {
        let Some(subscription) = self.subscribers.get_mut(&session) else { return Vec::new() };
        let mut changed: Vec<EventName> = Vec::new();
        for name in names {
            if subscription.names.remove(name) {
                changed.push(*name);
            }
        }
        changed.sort_unstable();
        let backlog = &mut subscription.backlog;
        backlog.last.retain(|event| !changed.contains(&event.event.name()));
        if changed.contains(&EventName::Dispatcher) {
            (backlog.jobs_from, backlog.outcomes) = (None, None);
        }
        if changed.contains(&EventName::Alert) {
            backlog.alerts_after = None;
        }
        if subscription.names.is_empty() {
            self.leave(session);
        }
        changed
    }

    /// Removes a session.
    pub fn leave(&mut self, session: SessionId) {
        self.subscribers.remove(&session);
        self.behind.remove(&session);
    }

    /// Number of sessions with subscriptions.
    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// Whether a session is subscribed to events of that name.
    pub fn wants(&self, session: SessionId, name: EventName) -> bool {
        let subscription = self.subscribers.get(&session);
        subscription.is_some_and(|subscription| subscription.names.contains(&name))
    }

    /// The sessions that are subscribed to events of that name.
    pub fn subscribers_of(&self, name: EventName) -> impl Iterator<Item = SessionId> {
        let wants = move |(_, it): &(&SessionId, &Subscription)| it.names.contains(&name);
        self.subscribers.iter().filter(wants).map(|(session, _)| *session)
    }

    /// Numbers an event, and passes it to `deliver` for each subscriber. Returns it.
    pub fn publish(
        &mut self,
        event: Event,
        now: Moment,
        mut deliver: impl FnMut(SessionId, &Rc<Published>, Spelling),
    ) -> Rc<Published> {
        self.seq += 1;
        let published = Rc::new(self.number(event, now));
        self.ring.push(&published);
        let name = published.event.name();
        match name {
            EventName::Dispatcher | EventName::Alert | EventName::Notice => {}
            EventName::LifePreserver | EventName::SystemState => {
                self.last.insert(name, published.clone());
            }
        }
        for (session, subscription) in &mut self.subscribers {
            // A session that still replays takes it from the ring.
            if subscription.backlog.replay_from.is_some()
                || !subscription.names.contains(&name)
                || !subscription.passes(&published.event)
            {
                continue;
            }
            match &published.event {
                Event::Job(event) if subscription.backlog.covers(event) => continue,
                Event::Alert(event) if subscription.backlog.covers_alert(&event.key) => continue,
                Event::Job(_) | Event::Queue(_) | Event::Alert(_) | Event::Notice(_) => {}
                // This event supersedes the last one in the backlog.
                Event::LifePreserver(_) | Event::SystemState(_) => {
                    subscription.backlog.last.retain(|last| last.event.name() != name);
                }
            }
            deliver(*session, &published, subscription.spelling);
        }
        published
    }

    fn number(&self, event: Event, now: Moment) -> Published {
        let time = rfc3339(now.wall).into();
        Published::new(event, self.seq, self.epoch.clone(), time, self.max_event)
    }

    /// Sessions with a backlog.
    pub fn behind(&self) -> Vec<SessionId> {
        self.behind.iter().copied().collect()
    }

    /// Whether a session has a backlog.
    pub fn is_behind(&self, session: SessionId) -> bool {
        self.behind.contains(&session)
    }

    /// The next item of a session's backlog.
    pub fn pull(
        &mut self,
        session: SessionId,
        dispatcher: &Dispatcher,
        alerts: &Alerts,
        now: Moment,
    ) -> Option<Item> {
        let piece = self.next_piece(session, dispatcher, alerts, now);
        if piece.is_none() {
            self.behind.remove(&session);
        }
        piece
    }

    /// The event with the outcome of a job for a session, from the record read for
    /// [`Item::Outcome`].
    pub fn outcome_event(
        &mut self,
        session: SessionId,
        event: JobEvent,
        now: Moment,
    ) -> Option<(Rc<Published>, Spelling)> {
        let subscription = self.subscribers.get(&session)?;
        let mut event = self.number(Event::Job(event), now).as_present_state();
        if let Some(from) = subscription.backlog.replay_from {
            event.seq = before_gap(from);
        }
        Some((Rc::new(event), subscription.spelling))
    }

    fn next_piece(
        &mut self,
        session: SessionId,
        dispatcher: &Dispatcher,
        alerts: &Alerts,
        now: Moment,
    ) -> Option<Item> {
        loop {
            let subscription = self.subscribers.get_mut(&session)?;
            let backlog = &mut subscription.backlog;
            if let Some(missed) = backlog.gap.take() {
                let seq = before_gap(backlog.replay_from.unwrap_or(self.seq + 1));
                return Some(Item::Gap { seq, missed });
            }
            let spelling = subscription.spelling;
            if let Some((from, before)) = backlog.outcomes {
                let Some((serial, id)) = dispatcher.next_outcome(from, before) else {
                    backlog.outcomes = None;
                    continue;
                };
                backlog.outcomes = Some((serial + 1, before));
                if subscription.filter.jobs.as_ref().is_none_or(|jobs| jobs.contains(id)) {
                    return Some(Item::Outcome(serial));
                }
                continue;
            }
            let event = if let Some(from) = backlog.replay_from {
                let oldest = self.ring.oldest().unwrap_or(self.seq + 1);
                if from < oldest {
                    // The ring has overwritten events that this session needs.
                    (backlog.replay_from, backlog.gap) = (Some(oldest), Some(Some(oldest - from)));
                    if subscription.names.contains(&EventName::Dispatcher) {
                        backlog.jobs_from = Some(0);
                        backlog.outcomes = Some((0, oldest));
                    }
                    if subscription.names.contains(&EventName::Alert) {
                        backlog.alerts_after = Some(String::new());
                    }
                    // The last events may be among those missed.
                    let kinds = subscription.names.iter().filter_map(|name| self.last.get(name));
                    backlog.last = kinds.cloned().collect();
                    continue;
                }
                let Some(event) = self.ring.get(from) else {
                    backlog.replay_from = None;
                    continue;
                };
                backlog.replay_from = Some(from + 1);
                let told_later = match &event.event {
                    Event::Job(event) => {
                        backlog.covers(event) && dispatcher.is_active(event.job.serial)
                    }
                    Event::Alert(event) => backlog.covers_alert(&event.key),
                    Event::Queue(_) | Event::Notice(_) => false,
                    Event::LifePreserver(_) | Event::SystemState(_) => {
                        let name = event.event.name();
                        backlog.last.retain(|last| last.event.name() != name);
                        false
                    }
                };
                if told_later || !subscription.names.contains(&event.event.name()) {
                    continue;
                }
                event
            } else if let Some(last) = backlog.last.pop_front() {
                // Its own number would be behind what this connection may have received.
                let again = last.event.present();
                Rc::new(self.number(again, now).as_present_state())
            } else if let Some(after) = &backlog.alerts_after {
                let Some((key, transition)) = alerts.present(Some(after.as_str())) else {
                    backlog.alerts_after = None;
                    continue;
                };
                backlog.alerts_after = Some(key.to_owned());
                Rc::new(self.number(transition.event(), now).as_present_state())
            } else if let Some(from) = backlog.jobs_from {
                let Some((serial, event)) = dispatcher.present(from) else {
                    (backlog.jobs_from, backlog.pending_from) = (None, None);
                    return None;
                };
                backlog.jobs_from = Some(serial + 1);
                Rc::new(self.number(Event::Job(event), now).as_present_state())
            } else {
                let from = backlog.pending_from?;
                let Some((serial, event)) = dispatcher.present_pending(from) else {
                    backlog.pending_from = None;
                    return None;
                };
                backlog.pending_from = Some(serial + 1);
                Rc::new(self.number(Event::Job(event), now).as_present_state())
            };
            let subscription = self.subscribers.get(&session)?;
            if subscription.passes(&event.event) {
                return Some(Item::Event(event, spelling));
            }
        }
    }
}

#[cfg(test)]
mod tests;
