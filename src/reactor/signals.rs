//! Signals as events of the loop.

use std::io;

use mio::event::Source;
use signal_hook_mio::v1_0::Signals as Hooked;

/// The signals that the daemon handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: shut down in order.
    Stop,
    /// SIGHUP: reload the configuration.
    Reload,
    /// SIGINFO (Ctrl-T on FreeBSD's terminals), SIGUSR1 where there is none: log the status.
    Status,
    /// SIGCHLD: a child ended.
    Child,
}

#[cfg(target_os = "freebsd")]
const STATUS: libc::c_int = libc::SIGINFO;
#[cfg(not(target_os = "freebsd"))]
const STATUS: libc::c_int = libc::SIGUSR1;

/// Source of the signals for `mio`.
pub struct Signals(Hooked);

impl Signals {
    /// Installs the handlers, for the whole process.
    pub(super) fn new() -> io::Result<Signals> {
        let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD, STATUS];
        Ok(Signals(Hooked::new(signals)?))
    }

    pub(super) fn source(&mut self) -> &mut impl Source {
        &mut self.0
    }

    pub(super) fn pending(&mut self) -> impl Iterator<Item = Signal> {
        self.0.pending().filter_map(|number| match number {
            libc::SIGTERM | libc::SIGINT => Some(Signal::Stop),
            libc::SIGHUP => Some(Signal::Reload),
            libc::SIGCHLD => Some(Signal::Child),
            number if number == STATUS => Some(Signal::Status),
            _ => None,
        })
    }
}
