//! The transport of a client's messages: its own connection, or a link to a relay.

use std::time::Instant;

use super::queued::QueuedMessage;
use crate::bridge::link::Caller;
use crate::net::{
    Answer, CloseReason, Connection, End, Flushed, Incoming, Outbox, Socket, TransportLimits,
};

/// A transport.
pub(super) enum Carrier {
    Direct(Box<Connection<QueuedMessage>>),
    /// Its output is taken by the link.
    Bridged(Box<Caller<QueuedMessage>>),
}

impl Carrier {
    /// Outgoing messages.
    pub(super) fn outbox(&self) -> &Outbox<QueuedMessage> {
        match self {
            Carrier::Direct(connection) => &connection.outbox,
            Carrier::Bridged(caller) => &caller.outbox,
        }
    }

    pub(super) fn outbox_mut(&mut self) -> &mut Outbox<QueuedMessage> {
        match self {
            Carrier::Direct(connection) => &mut connection.outbox,
            Carrier::Bridged(caller) => &mut caller.outbox,
        }
    }

    /// Its own socket.
    pub(super) fn socket(&mut self) -> Option<&mut Socket> {
        match self {
            Carrier::Direct(connection) => Some(connection.socket()),
            Carrier::Bridged(_) => None,
        }
    }

    /// Whether messages can be exchanged.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Carrier::Direct(connection) => connection.is_open(),
            Carrier::Bridged(caller) => caller.is_open(),
        }
    }

    /// Changes the maximum sizes of a message and of the outbox, in bytes.
    pub(super) fn set_bounds(&mut self, max_message: usize, outbox: usize) {
        match self {
            Carrier::Direct(connection) => connection.max_message = max_message,
            Carrier::Bridged(caller) => caller.max_message = max_message,
        }
        self.outbox_mut().set_limit(outbox);
    }

    pub(super) fn set_limits(&mut self, limits: TransportLimits, now: Instant) {
        match self {
            Carrier::Direct(connection) => connection.set_limits(limits, now),
            Carrier::Bridged(caller) => caller.set_patience(limits.close),
        }
    }

    /// Whether nothing was received yet; a caller exists only after its first payload.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Carrier::Direct(connection) => connection.is_silent(),
            Carrier::Bridged(_) => false,
        }
    }

    /// Whether the first bytes of the peer are ready to be read.
    pub(super) fn has_unread_start(&self) -> bool {
        match self {
            Carrier::Direct(connection) => connection.has_unread_start(),
            Carrier::Bridged(_) => false,
        }
    }

    /// Stops timeouts while it is not read.
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

    /// Whether all messages queued before `place` were passed on.
    pub(super) fn has_sent(&self, place: u64) -> bool {
        match self {
            Carrier::Direct(connection) => connection.has_sent(place),
            Carrier::Bridged(caller) => caller.has_sent(place),
        }
    }

    /// Bytes of a message that has begun and not ended; behind a bridge, of all that were not taken.
    pub(super) fn unfinished(&self) -> usize {
        match self {
            Carrier::Direct(connection) => connection.unfinished(),
            Carrier::Bridged(caller) => caller.received(),
        }
    }

    /// Drops an incomplete message; later input cannot be parsed.
    pub(super) fn give_up_unfinished(&mut self) {
        match self {
            Carrier::Direct(connection) => connection.give_up_unfinished(),
            Carrier::Bridged(caller) => caller.forget_received(),
        }
    }

    /// Reads once. False where no more input is available now.
    pub(super) fn read(&mut self, scratch: &mut [u8], now: Instant) -> Result<bool, End> {
        match self {
            Carrier::Direct(connection) => connection.read(scratch, now),
            Carrier::Bridged(_) => Ok(false),
        }
    }

    /// The next result. Protocol violations are replied to here.
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

    /// Sends as much as possible, for a connection of its own.
    pub(super) fn flush(&mut self, now: Instant) -> Result<Flushed, End> {
        match self {
            Carrier::Direct(connection) => connection.flush(now),
            Carrier::Bridged(caller) if caller.is_gone() => Err(End::Closed),
            // Its link sends it.
            Carrier::Bridged(_) => Ok(Flushed::All),
        }
    }

    /// The caller, if it has output for its link.
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

    /// Closes at once: queued output is dropped.
    pub(super) fn close(&mut self, reason: &CloseReason, now: Instant) {
        match self {
            Carrier::Direct(connection) => connection.close(reason, now),
            Carrier::Bridged(caller) => caller.close(reason, now),
        }
    }

    /// Closes after the queued output.
    pub(super) fn close_when_sent(&mut self, reason: &CloseReason, now: Instant) {
        match self {
            Carrier::Direct(connection) => connection.close_when_sent(reason, now),
            Carrier::Bridged(caller) => caller.close_when_sent(reason, now),
        }
    }
}
