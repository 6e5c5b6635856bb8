//! The kernel's events as text: from devd, or from a running `zpool events -f`.
//!
//! An event only triggers a check, which runs `zpool`. Apart from that, only the export or
//! destruction of a pool is read from events ([`super::gone`]). Most events cannot mean a change:
//! each snapshot causes a `history_event`, and devd reports every other subsystem too.

use std::io;

use super::probe::{Complaint, ProbeError, USAGE};
use crate::sys::children::Exit;
use crate::sys::spawn::Step;

/// Source of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// devd's socket: one packet per event.
    Devd,
    /// A child `zpool events -H -f`: one line per event.
    Events,
}

impl Feed {
    /// Name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Feed::Devd => "devd",
            Feed::Events => "zpool events",
        }
    }
}

/// Why `zpool events` is not started again, if its exit says so: this version lacks events, or the
/// user lacks the privilege.
pub(super) fn refusal(
    exit: Exit,
    errors: &Complaint,
    failure: Option<(Step, io::Error)>,
) -> Option<String> {
    let said = errors.first_line();
    let is_refused =
        exit == Exit::Code(USAGE) || said.to_ascii_lowercase().contains("permission denied");
    let last_failure = match failure {
        Some((_, error)) => ProbeError::NotStarted(error.to_string()),
        None if is_refused => ProbeError::Exit(exit, said),
        None => return None,
    };
    Some(format!("{} {last_failure}", Feed::Events.name()))
}

/// Only this many bytes of a line are examined.
const LINE: usize = 1024;

/// Arguments of `zpool` that follow the events: first those in the kernel's buffer, then each new
/// one.
pub(super) const FOLLOW: [&str; 3] = ["events", "-H", "-f"];

/// Events that do not concern the state of a pool.
const HISTORY: &str = "history_event";

/// The beginning of an incomplete line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Processes bytes of a feed, and passes each line to `read`. True where a pool may have
    /// changed.
    pub(super) fn take(&mut self, feed: Feed, bytes: &[u8], mut read: impl FnMut(&str)) -> bool {
        let mut matters = false;
        let mut line_matters = |line: &[u8]| {
            let matters = line_matters(feed, line);
            if matters {
                read(&String::from_utf8_lossy(line));
            }
            matters
        };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE.saturating_sub(self.begun.len());
            self.begun.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                matters |= line_matters(&self.begun);
                self.begun.clear();
            }
        }
        if feed == Feed::Devd && !self.begun.is_empty() {
            // A packet is complete even without a line end.
            matters |= line_matters(&self.begun);
            self.begun.clear();
        }
        matters
    }
}

fn line_matters(feed: Feed, line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    match feed {
        // `!system=ZFS subsystem=ZFS type=…`: the type stands before all values that could contain
        // it.
        Feed::Devd => {
            words.next() == Some("!system=ZFS")
                && words
                    .find_map(|word| word.strip_prefix("type="))
                    .is_none_or(|kind| !kind.ends_with(HISTORY))
        }
        // The class stands last. An unknown line (`dropped 5 events`) may mean any change.
        Feed::Events => words.last().is_some_and(|class| !class.ends_with(HISTORY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of OpenZFS 2.3.9; the file has the details.
    const CAPTURED: &str = include_str!("../../tests/zfs/events-2.3.9.txt");

    /// Output of `zpool events` during one operation on the pools.
    fn written_during(what: &str) -> String {
        let mark = |line: &&str| line.starts_with("@@ MARK") && line.contains(what);
        let mut lines = CAPTURED.lines().skip_while(|line| !mark(line));
        assert!(lines.next().is_some(), "{what}");
        let lines = lines.take_while(|line| !line.starts_with("@@ MARK") || line.ends_with("done"));
        let lines = lines.filter(|line| !line.starts_with("@@"));
        lines.map(|line| format!("{line}\n")).collect()
    }

    fn matters(text: &str) -> bool {
        Lines::default().take(Feed::Events, text.as_bytes(), |_| ())
    }

    #[test]
    fn events_that_change_a_pool_trigger_a_check() {
        for what in [
            "pool create",
            "offline",
            "online",
            "scrub",
            "export",
            "attach",
            "clear:",
            "pool destroy",
        ] {
            assert!(matters(&written_during(what)), "{what}");
        }
        assert!(CAPTURED.ends_with("\ndropped 1 events\n") && matters("dropped 1 events\n"));
    }

    #[test]
    fn snapshots_and_the_like_do_not() {
        for what in ["snapshot:", "snapshot -r", "fs create", "property", "hold", "rename"] {
            let written = written_during(what);
            assert!(written.contains(HISTORY) && !matters(&written), "{what}: {written}");
        }
        assert!(!matters("") && !matters("\n"));
    }

    fn refusal(exit: Exit, errors: &str, failure: Option<(Step, io::Error)>) -> Option<String> {
        let mut said = Complaint::default();
        said.push(errors.as_bytes());
        super::refusal(exit, &said, failure)
    }

    #[test]
    fn a_follower_that_cannot_be_is_not_tried_again() {
        // From zfs-fuse 0.7.0 and from OpenZFS 2.3.9 run by a user.
        let said = "unrecognized command 'events'\nusage: zpool command args ...\n";
        assert_eq!(
            refusal(Exit::Code(2), said, None).as_deref(),
            Some("zpool events ended with code 2: unrecognized command 'events'")
        );
        assert!(refusal(Exit::Code(255), "cannot get event: permission denied\n", None).is_some());
        let error = io::Error::from(io::ErrorKind::NotFound);
        assert!(refusal(Exit::Code(127), "", Some((Step::Run, error))).is_some());
        for (exit, said) in [
            (Exit::Code(255), "cannot get event: signal received\n"),
            (Exit::Code(1), "The ZFS modules are not loaded.\n"),
            (Exit::Signal(9), ""),
        ] {
            assert_eq!(refusal(exit, said, None), None, "{said}");
        }
    }

    #[test]
    fn lines_may_arrive_in_any_chunks() {
        let text = "Nov 23 2026 18:09:22.6\tsysevent.fs.zfs.history_event\n\
                    Nov 23 2026 18:09:22.7\tresource.fs.zfs.statechange\n";
        for at in 0..text.len() {
            let (first, second) = text.as_bytes().split_at(at);
            let mut lines = Lines::default();
            let early = lines.take(Feed::Events, first, |_| ());
            assert!(!early && lines.take(Feed::Events, second, |_| ()), "{at}");
        }
        let mut lines = Lines::default();
        for _ in 0..1000 {
            assert!(!lines.take(Feed::Events, &[b'x'; 1000], |_| ()));
        }
        assert!(lines.begun.len() <= LINE);
        assert!(lines.take(Feed::Events, b"\n", |_| ()));
    }

    #[test]
    fn only_zfs_events_of_devd_count() {
        let matters = |packet: &str| Lines::default().take(Feed::Devd, packet.as_bytes(), |_| ());
        // From the unit test of FreeBSD's zfsd, and as kern_devctl(9) and OpenZFS compose it.
        assert!(matters(
            "!system=ZFS subsystem=ZFS type=misc.fs.zfs.vdev_remove pool_name=foo \
             pool_guid=9756779504028057996 vdev_path=/dev/da1 timestamp=1348871594\n"
        ));
        assert!(matters("!system=ZFS subsystem=ZFS type=resource.fs.zfs.statechange  pool=tank"));
        assert!(!matters(
            "!system=ZFS subsystem=ZFS type=sysevent.fs.zfs.history_event  pool=tank\n"
        ));
        assert!(!matters("!system=DEVFS subsystem=CDEV type=CREATE cdev=da1\n"));
        assert!(!matters("!system=ZFSX subsystem=ZFS type=a\n+uhub1 at\n-uhub1 at\n?\n\n"));
    }
}
