//! `watch` at a relay: the events of all hosts behind it, each with its host.

use std::io;
use std::os::fd::AsFd;
use std::time::SystemTime;

use nix::poll::{PollFd, PollFlags};
use serde_json::{Map, Value};

use super::columns::columns;
use super::exit::Exit;
use super::selection::{Selection, Wanted};
use super::watch::View;
use super::write_json;
use crate::client::{Bridge, Fleet, FleetNews, KnownHosts, Wait, sysexits};
use crate::config::Home;

/// Maximum width of the column of host names.
const NAME_WIDTH: usize = 16;

/// Follows all hosts, until an error or until the reader closes standard output.
pub(super) fn watch(
    bridge: Bridge,
    subscription: Map<String, Value>,
    wanted: Wanted,
    view: View,
) -> Result<u8, Exit> {
    let path = Home::known_hosts();
    let failed = |error: &dyn std::fmt::Display| {
        Exit::failed(sysexits::CONFIGURATION, format!("{}: {error}", path.display()))
    };
    let known = KnownHosts::read(&path).map_err(|error| failed(&error))?.all();
    if known.is_empty() {
        return Err(failed(&"no host is known; a line is HOST FINGERPRINT"));
    }
    let width = known.iter().map(|(name, _)| columns(name)).max().unwrap_or(0);
    let mut view = match view {
        View::Text(screen) => View::Text(Box::new(screen.with_hosts(width.min(NAME_WIDTH)))),
        frames @ View::Frames { .. } => frames,
    };
    let selection = Selection::new(wanted, SystemTime::now());
    let mut fleet = Fleet::begin(bridge, known, subscription)?;
    let stdout = io::stdout();
    let mut notices = view.notices()?;
    loop {
        let mut wake = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
        wake.extend(notices.iter().map(|(it, _)| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
        let news = fleet.next(&Wait { deadline: None, wake: &wake })?;
        drop(wake);
        match news {
            FleetNews::Event(host, frame) => {
                let value = frame.value()?;
                if selection.passes(&value) {
                    view.event(&host, &frame, value)?;
                }
            }
            FleetNews::Joined(host) => show_presence(&mut view, &host, "joined", "is there")?,
            FleetNews::Left(host) => show_presence(&mut view, &host, "left", "has gone")?,
            FleetNews::Remark(remark) => view.remark("", &remark)?,
            FleetNews::Woken => view.woken(&mut notices)?,
            FleetNews::Nothing => {}
        }
    }
}

/// A host comes or goes: as the `name` of a frame, or in words.
fn show_presence(view: &mut View, host: &str, name: &str, text: &str) -> Result<(), Exit> {
    match view {
        View::Text(_) => view.remark(host, text),
        View::Frames { .. } => write_json(&with_host(host, &presence(name))),
    }
}

/// A frame as a line, with its host as the first member.
pub(super) fn with_host(host: &str, frame: &str) -> String {
    let rest = frame.trim_start().strip_prefix('{').unwrap_or_default();
    format!("{{\"host\":{},{rest}\n", Value::from(host))
}

/// A host connects or disconnects.
fn presence(what: &str) -> String {
    format!(r#"{{"namespace":"fleet","name":"{what}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_frame_has_its_host_in_front() {
        let line = with_host("a\"b", r#"{"namespace":"events","seq":1}"#);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value, json!({"host": "a\"b", "namespace": "events", "seq": 1}));
        assert!(line.starts_with(r#"{"host":"#) && line.ends_with('\n'));
        let left: Value = serde_json::from_str(&with_host("h", &presence("left"))).unwrap();
        assert_eq!(left, json!({"host": "h", "namespace": "fleet", "name": "left"}));
    }
}
