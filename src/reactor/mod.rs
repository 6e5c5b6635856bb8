//! The poll loop: reports *readiness*, and knows no protocol.
//!
//! One `mio::Poll` waits for everything: sockets, pipes, signals and, by its timeout, the next
//! deadline. Without a deadline it sleeps until something happens. The owner identifies each source
//! by a value of its own type, so readiness comes back as a value that can be matched on.

mod deadlines;
mod signals;
mod turn_timer;
mod watch;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Instant;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::sys::may_block::MayBlock;

pub use deadlines::Deadlines;
pub use signals::{Signal, Signals};
pub use turn_timer::TurnTimer;
pub use watch::{REPORTS_WRITE_AFTER_TRUNCATION, Watch, Watches, is_local};

/// An event of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready<K> {
    /// A registered source is readable or writable, or was closed. Edge-triggered: not reported
    /// again until a read or a write returned `WouldBlock`.
    Io {
        /// The source.
        key: K,
        /// Readable, or a read returns the end or the error.
        readable: bool,
        /// Writable, or a write returns the error.
        writable: bool,
    },
    /// A deadline set with [`Reactor::set_deadline`] was reached; it is removed.
    Deadline(K),
    /// Requested by [`Reactor::again`] in the last turn.
    Again(K),
    /// A signal arrived.
    Signal(Signal),
    /// A watched file or directory has changed, or may have.
    Changed(K),
}

/// Handle of a registration, for [`Reactor::deregister`].
#[derive(Debug, PartialEq, Eq)]
pub struct Registered(usize);

/// The poll loop. `K` identifies the owner's sources.
pub struct Reactor<K> {
    poll: Poll,
    events: Events,
    keys: Vec<Slot<K>>,
    free: Vec<usize>,
    /// Slots released in this turn: `events` may still contain events of theirs.
    released: Vec<usize>,
    deadlines: Deadlines<K>,
    again: BTreeSet<K>,
    signals: Signals,
    /// Created when the first file is watched.
    watches: Option<Watches<K>>,
    /// The kernel may have more changes to report.
    more_changes: bool,
}

enum Slot<K> {
    Taken(K),
    Free,
}

/// Maximum number of events taken from the kernel at once; more follow in the next turn.
const EVENTS_A_TURN: usize = 256;
const SIGNALS: Token = Token(usize::MAX);
const WATCHES: Token = Token(usize::MAX - 1);

impl<K: Copy + Ord> Reactor<K> {
    /// Creates a reactor and installs the daemon's signal handlers.
    pub fn new() -> io::Result<Reactor<K>> {
        let poll = Poll::new()?;
        let mut signals = Signals::new()?;
        poll.registry().register(signals.source(), SIGNALS, Interest::READABLE)?;
        Ok(Reactor {
            poll,
            events: Events::with_capacity(EVENTS_A_TURN),
            keys: Vec::new(),
            free: Vec::new(),
            released: Vec::new(),
            deadlines: Deadlines::new(),
            again: BTreeSet::new(),
            signals,
            watches: None,
            more_changes: false,
        })
    }

    /// Registers `source` for `interest` as `key`.
    pub fn register(
        &mut self,
        source: &mut (impl Source + ?Sized),
        interest: Interest,
        key: K,
    ) -> io::Result<Registered> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.keys.push(Slot::Free);
            self.keys.len() - 1
        });
        match self.poll.registry().register(source, Token(slot), interest) {
            Ok(()) => {
                self.set_slot(slot, Slot::Taken(key));
                Ok(Registered(slot))
            }
            Err(error) => {
                self.free.push(slot);
                Err(error)
            }
        }
    }

    fn set_slot(&mut self, at: usize, to: Slot<K>) {
        if let Some(slot) = self.keys.get_mut(at) {
            *slot = to;
        }
    }

    /// Removes `source`. Events already in flight are discarded.
    pub fn deregister(&mut self, source: &mut (impl Source + ?Sized), registered: Registered) {
        // It fails only where the descriptor is gone already; then nothing is left to undo.
        let _ = self.poll.registry().deregister(source);
        self.set_slot(registered.0, Slot::Free);
        self.released.push(registered.0);
    }

    /// Sets the only deadline of `key`; `None` removes it.
    pub fn set_deadline(&mut self, key: K, when: Option<Instant>) {
        self.deadlines.set(key, when);
    }

    /// Reports `key` as [`Ready::Again`] in the next turn, which then does not sleep: for work that
    /// was interrupted to let other sources proceed. Reported once, however often it was requested,
    /// so that no source gets more of each turn than of the one before.
    pub fn again(&mut self, key: K) {
        self.again.insert(key);
    }

    /// Reports `key` as [`Ready::Changed`] when `name` in the directory is created, renamed or
    /// removed; other changes of the directory may be reported too.
    ///
    /// # Errors The path is not a directory, or cannot be watched.
    pub fn watch_directory(
        &mut self,
        path: &Path,
        name: &OsStr,
        key: K,
        may_block: MayBlock,
    ) -> io::Result<Watch> {
        self.watches()?.directory(path, name, key, may_block)
    }

    fn watches(&mut self) -> io::Result<&mut Watches<K>> {
        let watches = match self.watches.take() {
            Some(watches) => watches,
            None => {
                let watches = Watches::new()?;
                let descriptor = watches.as_fd().as_raw_fd();
                let mut source = SourceFd(&descriptor);
                self.poll.registry().register(&mut source, WATCHES, Interest::READABLE)?;
                watches
            }
        };
        Ok(self.watches.insert(watches))
    }

    /// Sleeps until something happens, and appends the events to `ready`.
    pub fn turn(&mut self, ready: &mut Vec<Ready<K>>) -> io::Result<()> {
        self.free.append(&mut self.released);
        let timeout = if self.again.is_empty() && !self.more_changes {
            self.deadlines.next().map(|when| when.saturating_duration_since(Instant::now()))
        } else {
            Some(std::time::Duration::ZERO)
        };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            Err(error) => return Err(error),
        }
        ready.extend(std::mem::take(&mut self.again).into_iter().map(Ready::Again));
        for event in &self.events {
            if event.token() == SIGNALS {
                ready.extend(self.signals.pending().map(Ready::Signal));
            } else if event.token() == WATCHES {
                self.more_changes = true;
            } else if let Some(Slot::Taken(key)) = self.keys.get(event.token().0) {
                ready.push(Ready::Io {
                    key: *key,
                    readable: event.is_readable() || event.is_read_closed() || event.is_error(),
                    writable: event.is_writable() || event.is_write_closed() || event.is_error(),
                });
            }
        }
        if self.more_changes
            && let Some(watches) = &mut self.watches
        {
            self.more_changes = watches.changed(|key| ready.push(Ready::Changed(key)));
        }
        let now = Instant::now();
        while let Some(key) = self.deadlines.take_due(now) {
            ready.push(Ready::Deadline(key));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::unix::pipe;
    use std::io::Write;
    use std::time::Duration;

    #[test]
    fn readiness_deadlines_and_repeats_have_their_keys() {
        let mut reactor: Reactor<&'static str> = Reactor::new().unwrap();
        let (mut sender, mut receiver) = pipe::new().unwrap();
        let registered = reactor.register(&mut receiver, Interest::READABLE, "pipe").unwrap();
        sender.write_all(b"x").unwrap();
        let mut ready = Vec::new();
        reactor.turn(&mut ready).unwrap();
        assert_eq!(ready, [Ready::Io { key: "pipe", readable: true, writable: false }]);

        ready.clear();
        reactor.set_deadline("soon", Some(Instant::now()));
        for key in ["more", "even more", "more"] {
            reactor.again(key);
        }
        reactor.turn(&mut ready).unwrap();
        let again = ["even more", "more"].map(Ready::Again);
        assert_eq!(ready, [again[0], again[1], Ready::Deadline("soon")]);

        ready.clear();
        sender.write_all(b"y").unwrap();
        reactor.deregister(&mut receiver, registered);
        reactor.set_deadline("end", Some(Instant::now() + Duration::from_millis(1)));
        while ready.is_empty() {
            reactor.turn(&mut ready).unwrap();
        }
        assert_eq!(ready, [Ready::Deadline("end")]);
    }
}
