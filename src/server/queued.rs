//! Entries of a client's outbox: replies, and events that may be coalesced.

use std::rc::Rc;

use crate::dispatcher::Serial;
use crate::net;
use crate::wire::{Event, Published, Spelling};

/// One message to a client.
#[derive(Debug)]
pub(super) enum QueuedMessage {
    /// A reply as JSON text.
    Answer(Rc<[u8]>),
    /// A binary message.
    Binary(Rc<[u8]>),
    /// An event, shared by all its recipients.
    Event(Rc<Published>, Spelling),
}

/// Key for coalescing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CoalescingKey {
    /// Running events of a job.
    Running(Serial),
    /// The newest state supersedes an older one.
    SystemState,
}

impl net::OutgoingMessage for QueuedMessage {
    type Key = CoalescingKey;

    fn weight(&self) -> usize {
        match self {
            QueuedMessage::Answer(bytes) | QueuedMessage::Binary(bytes) => bytes.len(),
            QueuedMessage::Event(event, spelling) => event.weight(*spelling),
        }
    }

    fn key(&self) -> Option<CoalescingKey> {
        match self {
            QueuedMessage::Answer(_) | QueuedMessage::Binary(_) => None,
            QueuedMessage::Event(published, _) => match &published.event {
                Event::Job(event) => {
                    event.is_running().then_some(CoalescingKey::Running(event.job.serial))
                }
                Event::SystemState(_) => Some(CoalescingKey::SystemState),
                Event::LifePreserver(_) | Event::Queue(_) | Event::Alert(_) | Event::Notice(_) => {
                    None
                }
            },
        }
    }

    fn join(self, newer: QueuedMessage) -> QueuedMessage {
        match (&self, &newer) {
            (QueuedMessage::Event(older, _), QueuedMessage::Event(newest, spelling)) => {
                match older.joined(newest) {
                    Some(joined) => QueuedMessage::Event(joined, *spelling),
                    None => newer,
                }
            }
            (QueuedMessage::Answer(_) | QueuedMessage::Binary(_), _)
            | (_, QueuedMessage::Answer(_) | QueuedMessage::Binary(_)) => newer,
        }
    }

    fn is_binary(&self) -> bool {
        matches!(self, QueuedMessage::Binary(_))
    }

    fn bytes(&self) -> Rc<[u8]> {
        match self {
            QueuedMessage::Answer(bytes) | QueuedMessage::Binary(bytes) => bytes.clone(),
            QueuedMessage::Event(event, spelling) => event.frame(*spelling),
        }
    }
}
