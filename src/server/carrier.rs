//! What carries a client's messages: a connection of its own, or a link to a bridge.

use std::time::Instant;

use super::parcel::Parcel;
use crate::bridge::link::Caller;
use crate::net::{Answer, CloseReason, Connection, End, Incoming, Limits, Outbox, Socket};

/// One of the two.
pub(super) enum Carrier {
    Direct(Box<Connection<Parcel>>),
    /// What is sent is taken by the link.
    Bridged(Box<Caller<Parcel>>),
}

impl Carrier {
    /// What waits to be sent.
    pub(super) fn outbox(&self) -> &Outbox<Parcel> {
        match self {
            Carrier::Direct(connection) => &connection.outbox,
            Carrier::Bridged(caller) => &caller.outbox,
        }
    }

    pub(super) fn outbox_mut(&mut self) -> &mut Outbox<Parcel> {
        match self {
            Carrier::Direct(connection) => &mut connection.outbox,
            Carrier::Bridged(caller) => &mut caller.outbox,
        }
    }

    /// The socket that is its own.
    pub(super) fn socket(&mut self) -> Option<&mut Socket> {
        match self {
            Carrier::Direct(connection) => Some(connection.socket()),
            Carrier::Bridged(_) => None,
        }
    }

    /// True while messages go both ways.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Carrier::Direct(connection) => connection.is_open(),
            Carrier::Bridged(caller) => caller.is_open(),
        }
    }

    /// How much may come in a message, and wait to be sent, from now on; in bytes.
    pub(super) fn set_bounds(&mut self, max_message: usize, outbox: usize) {
        match self {
            Carrier::Direct(connection) => connection.max_message = max_message,
            Carrier::Bridged(caller) => caller.max_message = max_message,
        }
        self.outbox_mut().set_limit(outbox);
    }

    pub(super) fn set_limits(&mut self, limits: Limits, now: Instant) {
        match self {
            Carrier::Direct(connection) => connection.set_limits(limits, now),
            Carrier::Bridged(caller) => caller.set_patience(limits.close),
        }
    }

    /// True while the peer has sent nothing; one behind a bridge is known by what it has sent.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Carrier::Direct(connection) => connection.is_silent(),
            Carrier::Bridged(_) => false,
        }
    }

    /// True where the first bytes of the peer wait to be read.
    pub(super) fn has_unread_start(&self) -> bool {
        match self {
            Carrier::Direct(connection) => connection.has_unread_start(),
            Carrier::Bridged(_) => false,
        }
    }

    /// It will not be read for a while.
    pub(super) fn pause(&mut self) {
        match self {
            Carrier::Direct(connection) => connection.pause(),
            Carrier::Bridged(_) => {}
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Carrier::Direct(connection) => connection.due(),
            Carrier::Bridged(caller) => caller.due(),
        }
    }

    /// True where all parcels that stood before `place` have been handed on.
    pub(super) fn has_sent(&self, place: u64) -> bool {
        match self {
            Carrier::Direct(connection) => connection.has_sent(place),
            Carrier::Bridged(caller) => caller.has_sent(place),
        }
    }

    /// Bytes of a message that has begun and not ended.
    pub(super) fn unfinished(&self) -> usize {
        match self {
            Carrier::Direct(connection) => connection.unfinished(),
            // Its link is bounded, and charged by itself.
            Carrier::Bridged(_) => 0,
        }
    }

    /// Forgets a message that has begun; what still comes cannot be understood.
    pub(super) fn give_up_unfinished(&mut self) {
        if let Carrier::Direct(connection) = self {
            connection.give_up_unfinished();
        }
    }

    /// Reads once. False where nothing more is to be had now.
    pub(super) fn read(&mut self, scratch: &mut [u8], now: Instant) -> Result<bool, End> {
        match self {
            Carrier::Direct(connection) => connection.read(scratch, now),
            Carrier::Bridged(_) => Ok(false),
        }
    }

    /// What has arrived. Violations are answered here.
    pub(super) fn next(&mut self, now: Instant) -> Result<Option<Incoming>, End> {
        let caller = match self {
            Carrier::Direct(connection) => return connection.next(now),
            Carrier::Bridged(caller) => caller,
        };
        match caller.next_message() {
            None => Ok(None),
            Some(Ok(mut text)) => Ok(Some(Incoming::Message(std::mem::take(&mut *text)))),
            Some(Err(_)) => {
                let most = caller.max_message;
                let why = format!("a message has at most {most} bytes here");
                caller.close(&CloseReason::new(1009, why), now);
                Ok(None)
            }
        }
    }

    pub(super) fn accept(&mut self, now: Instant) {
        if let Carrier::Direct(connection) = self {
            connection.accept(now);
        }
    }

    pub(super) fn answer(&mut self, answer: Answer, now: Instant) {
        if let Carrier::Direct(connection) = self {
            connection.answer(answer, now);
        }
    }

    /// Sends what can be sent now, where it sends by itself.
    pub(super) fn flush(&mut self, now: Instant) -> Result<(), End> {
        match self {
            Carrier::Direct(connection) => connection.flush(now).map(drop),
            Carrier::Bridged(caller) if caller.is_gone() => Err(End::Closed),
            Carrier::Bridged(_) => Ok(()),
        }
    }

    /// The caller, where its link is to take something from it.
    pub(super) fn speaking(&self) -> bool {
        match self {
            Carrier::Direct(_) => false,
            Carrier::Bridged(caller) => caller.has_something(),
        }
    }

    pub(super) fn on_deadline(&mut self, now: Instant) -> Result<(), End> {
        match self {
            Carrier::Direct(connection) => connection.on_deadline(now),
            Carrier::Bridged(caller) if caller.due().is_some_and(|due| due <= now) => {
                Err(End::Silent("end"))
            }
            Carrier::Bridged(_) => Ok(()),
        }
    }

    /// Closes at once: what waits is not sent.
    pub(super) fn close(&mut self, reason: &CloseReason, now: Instant) {
        match self {
            Carrier::Direct(connection) => connection.close(reason, now),
            Carrier::Bridged(caller) => caller.close(reason, now),
        }
    }

    /// Closes when all that waits is sent.
    pub(super) fn close_when_sent(&mut self, reason: &CloseReason, now: Instant) {
        match self {
            Carrier::Direct(connection) => connection.close_when_sent(reason, now),
            Carrier::Bridged(caller) => caller.close_when_sent(reason, now),
        }
    }
}
