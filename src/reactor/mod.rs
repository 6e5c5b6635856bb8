//! The poll loop's engine: it says *what is ready*, and knows no protocol.
//!
//! One `mio::Poll` waits for everything: sockets, pipes, signals and, by its time-out, the next
//! deadline. With no deadline set it sleeps until something happens. The owner gives each thing a
//! key of its own type, so that what is ready comes back as a value that can be matched on, not as
//! a number to be looked up.

mod deadlines;
mod signals;
mod watch;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use watch::Watches;

pub use deadlines::Deadlines;
pub use signals::{Signal, Signals};
pub use watch::{REPORTS_WRITE_AFTER_TRUNCATION, Watch, is_local};

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready<K> {
    /// A registered source can be read or written, or has news of its end. Edge-triggered: it is
    /// not said again until the source has been read, or written, until it would block.
    Io {
        /// The source.
        key: K,
        /// It can be read, or reading says how it ended.
        readable: bool,
        /// It can be written, or writing says how it ended.
        writable: bool,
    },
    /// A deadline that was set with [`Reactor::set_deadline`] has come; it is no longer set.
    Deadline(K),
    /// [`Reactor::again`] asked for it in the last turn.
    Again(K),
    /// A signal arrived.
    Signal(Signal),
    /// Something about a file or directory that is watched has changed, or may have: look.
    Changed(K),
}

/// What a source is registered as: give it back to let it go.
#[derive(Debug, PartialEq, Eq)]
pub struct Registered(usize);

/// The engine. `K` names what the owner registers.
pub struct Reactor<K> {
    poll: Poll,
    events: Events,
    keys: Vec<Slot<K>>,
    free: Vec<usize>,
    /// Slots let go in this turn: an event of theirs may still be in `events`.
    released: Vec<usize>,
    deadlines: Deadlines<K>,
    again: BTreeSet<K>,
    signals: Signals,
    /// Made when the first file is watched.
    watches: Option<Watches<K>>,
    /// The kernel may have more to say about them.
    more_changes: bool,
}

enum Slot<K> {
    Taken(K),
    Free,
}

/// Events taken from the kernel in one go; more wait for the next turn.
const EVENTS_A_TURN: usize = 256;
const SIGNALS: Token = Token(usize::MAX);
const WATCHES: Token = Token(usize::MAX - 1);

impl<K: Copy + Ord> Reactor<K> {
    /// A reactor that listens to the daemon's signals from now on.
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

    /// Watches `source` for `interest` as `key`.
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
                self.keys[slot] = Slot::Taken(key);
                Ok(Registered(slot))
            }
            Err(error) => {
                self.free.push(slot);
                Err(error)
            }
        }
    }

    /// Lets `source` go. What is already on its way of it will not be told.
    pub fn deregister(&mut self, source: &mut (impl Source + ?Sized), registered: Registered) {
        // It fails only where the descriptor is gone already, and then there is nothing to undo.
        let _ = self.poll.registry().deregister(source);
        self.keys[registered.0] = Slot::Free;
        self.released.push(registered.0);
    }

    /// The one deadline of `key`; `None` takes it away.
    pub fn set_deadline(&mut self, key: K, when: Option<Instant>) {
        self.deadlines.set(key, when);
    }

    /// Tells `key` as [`Ready::Again`] in the next turn, which then does not sleep: for what was
    /// stopped in the middle so that others get their turn. It is told once, however often it was
    /// asked for: else who is never done would get more of each turn than of the one before.
    pub fn again(&mut self, key: K) {
        self.again.insert(key);
    }

    /// Tells `key` as [`Ready::Changed`] when the file is written to, cut, renamed or removed.
    ///
    /// # Errors
    /// The system has no room for another watch, or cannot watch this file.
    pub fn watch_file(&mut self, file: &File, key: K) -> io::Result<Watch> {
        self.watches()?.file(file, key)
    }

    /// Tells `key` as [`Ready::Changed`] when `name` in the directory is made, renamed or removed;
    /// other changes in it may be told too.
    ///
    /// # Errors
    /// It is no directory, or cannot be watched.
    pub fn watch_directory(&mut self, path: &Path, name: &OsStr, key: K) -> io::Result<Watch> {
        self.watches()?.directory(path, name, key)
    }

    /// Whether the kernel still watches a file or directory: it gives up what is removed.
    pub fn is_watched(&self, watch: &Watch) -> bool {
        self.watches.as_ref().is_some_and(|watches| watches.is_alive(watch))
    }

    /// Lets a file or directory go. What is already on its way of it will not be told.
    pub fn unwatch(&mut self, watch: Watch) {
        if let Some(watches) = &mut self.watches {
            watches.forget(watch);
        }
    }

    fn watches(&mut self) -> io::Result<&mut Watches<K>> {
        let watches = match self.watches.take() {
            Some(watches) => watches,
            None => {
                let watches = Watches::new()?;
                let descriptor = watches.descriptor();
                let mut source = SourceFd(&descriptor);
                self.poll.registry().register(&mut source, WATCHES, Interest::READABLE)?;
                watches
            }
        };
        Ok(self.watches.insert(watches))
    }

    /// Sleeps until something happens, and appends what it is to `ready`.
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
    fn readiness_deadlines_and_second_turns_come_back_under_their_keys() {
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
