//! Who wants which events, and handing each event to them.
//!
//! A published event gets a number, goes into a bounded ring and to every subscriber that wants it,
//! as one shared value. Who subscribes late is first told the present state; who comes back is told
//! what it missed, from the ring. Both are *pulled*, a piece at a time while the subscriber's outbox
//! has room, so they can be larger than an outbox; what happens meanwhile is held back or read from
//! the ring in its turn, so that nothing is told twice or out of order.

mod ring;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use ring::Ring;

use crate::dispatcher::{Dispatcher, Serial};
use crate::moment::Moment;
use crate::wire::{Event, EventName, JobEvent, Phase, Priority, Published, Spelling, rfc3339};

/// Number of a session, as its owner has it.
pub type SessionId = u64;

/// What a subscriber asks for, beside the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these jobs.
    pub jobs: Option<BTreeSet<String>>,
    /// Only what matters so much, of what has a priority.
    pub priority: Option<Priority>,
}

impl Filter {
    fn passes(&self, event: &Event) -> bool {
        let job = match (event, &self.jobs) {
            (Event::Job(event), Some(jobs)) => jobs.contains(&event.job.id),
            (Event::Job(_) | Event::LifePreserver(_) | Event::SystemState(_), _) => true,
        };
        let urgent = match (event.priority(), self.priority) {
            (Some(priority), Some(least)) => priority >= least,
            (None, _) | (_, None) => true,
        };
        job && urgent
    }
}

#[derive(Debug, Default)]
struct Subscription {
    names: BTreeSet<EventName>,
    filter: Filter,
    spelling: Spelling,
    /// Present state still to be told.
    backlog: Backlog,
}

/// What a subscriber is still to be told before it is told what happens now.
#[derive(Debug, Default)]
struct Backlog {
    /// Events of this number and above are taken from the ring.
    replay_from: Option<u64>,
    /// Something was missed; how much, if that is known. Told before anything else.
    gap: Option<Option<u64>>,
    last: VecDeque<Rc<Published>>,
    /// How jobs ended of this number and above is still to be told, where it was told before the
    /// event of that number.
    outcomes: Option<(Serial, u64)>,
    /// Active jobs of this number and above have not been told yet.
    jobs_from: Option<Serial>,
    /// Pending events of jobs of this number and above are sent again.
    pending_from: Option<Serial>,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.replay_from.is_none()
            && self.gap.is_none()
            && self.last.is_empty()
            && self.outcomes.is_none()
            && self.jobs_from.is_none()
            && self.pending_from.is_none()
    }

    /// True where the present state, still to come, will tell what this event tells. A finished
    /// job is not in the present state any more.
    fn covers(&self, event: &JobEvent) -> bool {
        let finished = matches!(event.phase, Phase::Finished(_));
        !finished && self.jobs_from.is_some_and(|from| event.job.serial >= from)
    }
}

/// Where a subscriber was when it went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// The run of the daemon.
    pub epoch: String,
    /// The number of the last event that it had.
    pub seq: u64,
}

/// What is told to one session.
#[derive(Clone, Debug)]
pub enum Piece {
    /// An event.
    Event(Rc<Published>, Spelling),
    /// How this job ended, which has to be read first: give it to [`Hub::retold`], and send what
    /// comes back, before the next piece is pulled.
    Outcome(Serial),
    /// So many events were missed, if that is known.
    Gap {
        /// From where on they will be told as missed again.
        seq: u64,
        /// How many, counted before filters.
        missed: Option<u64>,
    },
}

/// The number that goes with what is told instead of the events before `from`: one less than the last
/// of them, so that who leaves before all of it was told, and comes back with that, is told it again.
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
    /// Those that have present state to be told.
    behind: BTreeSet<SessionId>,
    /// The last event of each kind that has a last one.
    last: BTreeMap<EventName, Rc<Published>>,
    ring: Ring,
}

impl Hub {
    /// A hub without subscribers. `epoch` names this run of the daemon; an encoded event has at
    /// most `max_event` bytes, and the events that are kept for replay about `ring` together.
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

    /// Which run of the daemon this is.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The number of the last event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Other limits for the events to come.
    pub fn set_limits(&mut self, max_event: usize, ring: usize) {
        self.max_event = max_event;
        self.ring.set_limit(ring);
    }

    /// Subscribes to more; the filter and the spelling are this request's. Returns the names that
    /// were not subscribed to before. With `since`, what was missed is told; a session that gets
    /// events already is where it is, and nothing is told again.
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
        // Who resumes without a gap knows the present state.
        if replay.is_none() || backlog.gap.is_some() {
            let before = backlog.replay_from.unwrap_or(self.seq + 1);
            for name in &changed {
                match name {
                    EventName::Dispatcher => {
                        backlog.jobs_from = Some(0);
                        // Who looks for certain jobs, or missed something, may look for their ends.
                        let looks = backlog.gap.is_some() || subscription.filter.jobs.is_some();
                        backlog.outcomes = looks.then_some((0, before));
                    }
                    EventName::LifePreserver | EventName::SystemState => {
                        backlog.last.extend(self.last.get(name).cloned());
                    }
                }
            }
        }
        if !backlog.is_empty() {
            self.behind.insert(session);
        }
        changed
    }

    /// Publishes the pending events again to a session of an original client, one that subscribed to
    /// jobs in the plain form and the spelling with hyphens: its pages know only of jobs whose
    /// events come while they are open, and the original server repeated these every 2 s.
    pub fn repeat_pending(&mut self, session: SessionId) {
        let Some(subscription) = self.subscribers.get_mut(&session) else { return };
        let is_original = subscription.spelling.hyphens && !subscription.spelling.extended;
        if is_original && subscription.names.contains(&EventName::Dispatcher) {
            subscription.backlog.pending_from = Some(0);
            self.behind.insert(session);
        }
    }

    /// From where to replay, and whether there is a gap before that.
    fn replay(&self, since: &Since) -> (u64, Option<Option<u64>>) {
        let oldest = self.ring.oldest().unwrap_or(self.seq + 1);
        // Who stands before the first event of this run may have missed something of another one.
        if *since.epoch != *self.epoch || since.seq > self.seq || since.seq == 0 {
            return (oldest, Some(None));
        }
        let next = since.seq + 1;
        if next < oldest { (oldest, Some(Some(oldest - next))) } else { (next, None) }
    }

    /// Takes names away. Returns those that were subscribed to.
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
        if subscription.names.is_empty() {
            self.leave(session);
        }
        changed
    }

    /// The session is over.
    pub fn leave(&mut self, session: SessionId) {
        self.subscribers.remove(&session);
        self.behind.remove(&session);
    }

    /// How many sessions get events.
    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// Whether a session gets events of that name.
    pub fn wants(&self, session: SessionId, name: EventName) -> bool {
        let subscription = self.subscribers.get(&session);
        subscription.is_some_and(|subscription| subscription.names.contains(&name))
    }

    /// The sessions that get events of that name.
    pub fn subscribers_of(&self, name: EventName) -> impl Iterator<Item = SessionId> {
        let wants = move |(_, it): &(&SessionId, &Subscription)| it.names.contains(&name);
        self.subscribers.iter().filter(wants).map(|(session, _)| *session)
    }

    /// Gives an event its number, and `deliver`s it to everybody who wants it.
    pub fn publish(
        &mut self,
        event: Event,
        now: Moment,
        mut deliver: impl FnMut(SessionId, &Rc<Published>, Spelling),
    ) {
        self.seq += 1;
        let published = Rc::new(self.number(event, now));
        self.ring.push(&published);
        let name = published.event.name();
        match name {
            EventName::Dispatcher => {}
            EventName::LifePreserver | EventName::SystemState => {
                self.last.insert(name, published.clone());
            }
        }
        for (session, subscription) in &mut self.subscribers {
            // Who still replays will take it from the ring in its turn.
            if subscription.backlog.replay_from.is_some()
                || !subscription.names.contains(&name)
                || !subscription.filter.passes(&published.event)
            {
                continue;
            }
            match &published.event {
                Event::Job(event) if subscription.backlog.covers(event) => continue,
                Event::Job(_) => {}
                // What is told now is newer than what was to be told as the last.
                Event::LifePreserver(_) | Event::SystemState(_) => {
                    subscription.backlog.last.retain(|last| last.event.name() != name);
                }
            }
            deliver(*session, &published, subscription.spelling);
        }
    }

    fn number(&self, event: Event, now: Moment) -> Published {
        let time = rfc3339(now.wall).into();
        Published::new(event, self.seq, self.epoch.clone(), time, self.max_event)
    }

    /// Sessions that have present state to be told.
    pub fn behind(&self) -> Vec<SessionId> {
        self.behind.iter().copied().collect()
    }

    /// True for a session that has present state to be told.
    pub fn is_behind(&self, session: SessionId) -> bool {
        self.behind.contains(&session)
    }

    /// The next piece of what a session is still to be told.
    pub fn pull(
        &mut self,
        session: SessionId,
        dispatcher: &Dispatcher,
        now: Moment,
    ) -> Option<Piece> {
        let piece = self.next_piece(session, dispatcher, now);
        if piece.is_none() {
            self.behind.remove(&session);
        }
        piece
    }

    /// The event that tells a session how a job ended, from what was read for [`Piece::Outcome`].
    pub fn retold(
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
        now: Moment,
    ) -> Option<Piece> {
        loop {
            let subscription = self.subscribers.get_mut(&session)?;
            let backlog = &mut subscription.backlog;
            if let Some(missed) = backlog.gap.take() {
                let seq = before_gap(backlog.replay_from.unwrap_or(self.seq + 1));
                return Some(Piece::Gap { seq, missed });
            }
            let spelling = subscription.spelling;
            if let Some((from, before)) = backlog.outcomes {
                let Some((serial, id)) = dispatcher.next_outcome(from, before) else {
                    backlog.outcomes = None;
                    continue;
                };
                backlog.outcomes = Some((serial + 1, before));
                if subscription.filter.jobs.as_ref().is_none_or(|jobs| jobs.contains(id)) {
                    return Some(Piece::Outcome(serial));
                }
                continue;
            }
            let event = if let Some(from) = backlog.replay_from {
                let oldest = self.ring.oldest().unwrap_or(self.seq + 1);
                if from < oldest {
                    // The ring has gone on without this session.
                    (backlog.replay_from, backlog.gap) = (Some(oldest), Some(Some(oldest - from)));
                    if subscription.names.contains(&EventName::Dispatcher) {
                        backlog.jobs_from = Some(0);
                        backlog.outcomes = Some((0, oldest));
                    }
                    // What was told last may lie in the hole.
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
                // Its own number would fall behind what this connection may have had.
                let again = last.event.present();
                Rc::new(self.number(again, now).as_present_state())
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
            if subscription.filter.passes(&event.event) {
                return Some(Piece::Event(event, spelling));
            }
        }
    }
}

#[cfg(test)]
mod tests;
