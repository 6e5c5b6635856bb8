//! Entries of a client's outbox: replies, and events that may be coalesced.

use std::rc::Rc;

use crate::dispatcher::Serial;
use crate::net;
use crate::wire::{Event, Published, Spelling};

/// One message to a client.
#[derive(Debug)]
pub(super) enum Parcel {
    /// A reply as JSON text.
    Answer(Rc<[u8]>),
    /// A binary message.
    Binary(Rc<[u8]>),
    /// An event, shared by all its recipients.
    Event(Rc<Published>, Spelling),
}

/// Key for coalescing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Running events of a job.
    Running(Serial),
    /// The newest state supersedes an older one.
    SystemState,
}

impl net::Parcel for Parcel {
    type Key = Key;

    fn weight(&self) -> usize {
        match self {
            Parcel::Answer(bytes) | Parcel::Binary(bytes) => bytes.len(),
            Parcel::Event(event, spelling) => event.weight(*spelling),
        }
    }

    fn key(&self) -> Option<Key> {
        match self {
            Parcel::Answer(_) | Parcel::Binary(_) => None,
            Parcel::Event(published, _) => match &published.event {
                Event::Job(event) => event.is_running().then_some(Key::Running(event.job.serial)),
                Event::SystemState(_) => Some(Key::SystemState),
                Event::LifePreserver(_) => None,
            },
        }
    }

    fn join(self, newer: Parcel) -> Parcel {
        match (&self, &newer) {
            (Parcel::Event(older, _), Parcel::Event(newest, spelling)) => {
                match older.joined(newest) {
                    Some(joined) => Parcel::Event(Rc::new(joined), *spelling),
                    None => newer,
                }
            }
            (Parcel::Answer(_) | Parcel::Binary(_), _)
            | (_, Parcel::Answer(_) | Parcel::Binary(_)) => newer,
        }
    }

    fn is_binary(&self) -> bool {
        matches!(self, Parcel::Binary(_))
    }

    fn bytes(&self) -> Rc<[u8]> {
        match self {
            Parcel::Answer(bytes) | Parcel::Binary(bytes) => bytes.clone(),
            Parcel::Event(event, spelling) => event.frame(*spelling),
        }
    }
}
