//! `watch` at a relay: the events of all hosts behind it, each with its host.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::SystemTime;

use nix::poll::{PollFd, PollFlags};
use serde_json::{Map, Value};

use super::exit::Exit;
use super::screen::Screen;
use super::terminal::Terminal;
use super::{complain, escape, write, write_json};
use crate::client::{Bridge, Fleet, FleetNews, KnownHosts, Wait, sysexits};
use crate::config::Home;
use crate::sys::local_time::local_time;

/// Maximum width of the column of host names.
const NAME_WIDTH: usize = 16;

/// Follows all hosts, until an error or until the reader closes standard output.
pub(super) fn watch(
    bridge: Bridge,
    subscription: Map<String, Value>,
    json: bool,
) -> Result<u8, Exit> {
    let path = Home::known_hosts();
    let failed = |error: &dyn std::fmt::Display| {
        Exit::failed(sysexits::CONFIGURATION, format!("{}: {error}", path.display()))
    };
    let known = KnownHosts::read(&path).map_err(|error| failed(&error))?.all();
    if known.is_empty() {
        return Err(failed(&"no host is known; a line is HOST FINGERPRINT"));
    }
    let width = known.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut fleet = Fleet::begin(bridge, known, subscription)?;
    let stdout = io::stdout();
    let wake = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let wait = Wait { deadline: None, wake: &wake };
    if json || !stdout.is_terminal() {
        loop {
            match fleet.next(&wait)? {
                FleetNews::Event(host, frame) => write_json(&with_host(&host, frame.text()))?,
                FleetNews::Joined(host) => write_json(&with_host(&host, &presence("joined")))?,
                FleetNews::Left(host) => write_json(&with_host(&host, &presence("left")))?,
                FleetNews::Remark(remark) => complain(&remark),
                FleetNews::Woken => return Err(Exit::ReaderGone),
                FleetNews::Nothing => {}
            }
        }
    }
    let mut screens = Screens { width: width.min(NAME_WIDTH), all: Vec::new(), last: None };
    loop {
        let now = SystemTime::now();
        let text = match fleet.next(&wait)? {
            FleetNews::Event(host, frame) => {
                let frame = frame.value()?;
                screens.show(&host, |screen| screen.show(&frame, now))
            }
            FleetNews::Joined(host) => screens.show(&host, |screen| screen.remark("is there", now)),
            FleetNews::Left(host) => screens.show(&host, |screen| screen.remark("has gone", now)),
            FleetNews::Remark(remark) => screens.show("", |screen| screen.remark(&remark, now)),
            FleetNews::Woken => return Err(Exit::ReaderGone),
            FleetNews::Nothing => continue,
        };
        write(&text)?;
    }
}

/// A frame as a line, with its host as the first member.
fn with_host(host: &str, frame: &str) -> String {
    let rest = frame.trim_start().strip_prefix('{').unwrap_or_default();
    format!("{{\"host\":{},{rest}\n", Value::from(host))
}

/// A host connects or disconnects.
fn presence(what: &str) -> String {
    format!(r#"{{"namespace":"fleet","name":"{what}"}}"#)
}

/// One screen per host: jobs of two hosts may have the same id.
struct Screens {
    width: usize,
    all: Vec<(String, Screen)>,
    /// The host of the last text.
    last: Option<usize>,
}

impl Screens {
    fn show(&mut self, host: &str, show: impl FnOnce(&mut Screen) -> String) -> String {
        let at = match self.all.iter().position(|(name, _)| name == host) {
            Some(at) => at,
            None => {
                let screen = Screen::new(Terminal::of_this_process(true), local_time);
                self.all.push((host.to_owned(), screen));
                self.all.len() - 1
            }
        };
        let mut out = String::new();
        // An unfinished line of another host is ended first.
        let is_other = self.last.is_some_and(|last| last != at);
        if is_other && let Some((_, screen)) = self.last.and_then(|last| self.all.get_mut(last)) {
            out.push_str(&screen.end());
        }
        let Some((_, screen)) = self.all.get_mut(at) else { return out };
        let begins_line = !screen.is_midway();
        let text = show(screen);
        let name = escape::text(host, true);
        let prefix = format!("{name:<width$}  ", width = self.width);
        for (number, line) in text.split_inclusive('\n').enumerate() {
            if number > 0 || begins_line {
                out.push_str(&prefix);
            }
            out.push_str(line);
        }
        self.last = Some(at);
        out
    }
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

    #[test]
    fn terminal_line_has_its_host_and_ends_another_hosts_line() {
        let mut screens = Screens { width: 4, all: Vec::new(), last: None };
        let now = SystemTime::UNIX_EPOCH;
        let event = |text: &str| {
            json!({"namespace": "events", "name": "dispatcher", "args": {
                "state": "running", "process_id": "j", "cmd_list": ["c"], "current_cmd": "c",
                "time_started": "1970-01-01T00:00:00Z", "c": text}})
        };
        let first = screens.show("nas", |screen| screen.show(&event("half"), now));
        assert!(first.lines().all(|line| line.starts_with("nas   ")), "{first}");
        assert!(!first.ends_with('\n'), "{first:?}");
        let other = screens.show("web", |screen| screen.remark("is there", now));
        assert!(other.starts_with('\n') && other[1..].starts_with("web   "), "{other:?}");
        let more = screens.show("nas", |screen| screen.show(&event(" more\n"), now));
        assert!(more.lines().all(|line| line.starts_with("nas   ")), "{more:?}");
    }
}
