//! `[[notify]]`: targets of notifications.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::reader::Reader;
use super::section::Section;
use super::units::{DAY, HOUR, MINUTE, show_duration};
use super::values::{absolute_path, count, duration, one_of, optional, target_name, text};
use super::{Config, Server};
use crate::notify::{Destination, EventKind, Format, QuietHours, Target, Webhook};
use crate::wire::Priority;

/// Minimum priority of selected events where none is configured.
const PRIORITY: usize = 6;
const DIGEST: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two pings of a check.
const PING: Duration = Duration::from_secs(5 * 60);
const SHORTEST_PING: Duration = Duration::from_secs(10);
const SENDMAIL: &str = "/usr/sbin/sendmail";

/// Reads one entry, and reports its faults.
pub(super) fn read_target(section: &mut Section<'_, '_>) -> Option<Target> {
    let kinds = [
        ("alert", EventKind::Alert),
        ("life-preserver", EventKind::LifePreserver),
        ("dispatcher", EventKind::Dispatcher),
        ("notice", EventKind::Notice),
    ];
    let formats = [
        ("json", Format::Json),
        ("ntfy", Format::Ntfy),
        ("slack", Format::Slack),
        ("discord", Format::Discord),
        ("matrix", Format::Matrix),
        ("gotify", Format::Gotify),
        ("healthchecks", Format::Healthchecks),
    ];
    let shortest = Duration::from_millis(100);
    let faults = section.reader.faults.len();
    let name = section.required("name", text(target_name));
    let (mut to, mut argv, mut events) = (Vec::new(), Vec::new(), vec![EventKind::Alert]);
    section.list("mail", &mut to, text(recipient));
    let url = section.optional("webhook", text(Webhook::parse));
    section.list("command", &mut argv, text(argument));
    let format = section.optional("format", text(one_of(formats)));
    let sendmail = section.optional("sendmail", text(absolute_path));
    let priority = section.optional("priority", count(0..=10)).unwrap_or(PRIORITY);
    section.list("events", &mut events, text(one_of(kinds)));
    let repeat = section.optional("repeat", |value| match value {
        toml::de::DeValue::String(text) if text.is_empty() => Ok(None),
        value => duration(SHORTEST_PING..=365 * DAY)(value).map(Some),
    });
    let digest = section.optional("digest", duration(Duration::ZERO..=HOUR)).unwrap_or(DIGEST);
    let quiet = section.optional("quiet", optional(QuietHours::parse)).flatten();
    let secret_file = section.optional("secret_file", optional(absolute_path)).flatten();
    let headers_file = section.optional("headers_file", optional(absolute_path)).flatten();
    let ca_file = section.optional("ca_file", optional(absolute_path)).flatten();
    let proxy = section.optional("proxy", optional(proxy)).flatten();
    let deadline =
        section.optional("deadline", duration(shortest..=5 * MINUTE)).unwrap_or(DEADLINE);
    // An entry with a fault is not checked further.
    if section.table.is_none() || section.reader.faults.len() > faults {
        return None;
    }
    let given =
        [("mail", !to.is_empty()), ("webhook", url.is_some()), ("command", !argv.is_empty())];
    let given: Vec<&'static str> =
        given.into_iter().filter_map(|(name, is_given)| is_given.then_some(name)).collect();
    let [destination] = given.as_slice() else {
        let message = "[[notify]] needs one of mail, webhook and command".to_owned();
        section.complain(given.get(1).copied(), message);
        return None;
    };
    let is_webhook = url.is_some();
    let others = [
        ("format", format.is_some() && !is_webhook),
        ("secret_file", secret_file.is_some() && !is_webhook),
        ("headers_file", headers_file.is_some() && !is_webhook),
        ("ca_file", ca_file.is_some() && !is_webhook),
        ("proxy", proxy.is_some() && !is_webhook),
        ("sendmail", sendmail.is_some() && to.is_empty()),
    ];
    if let Some((name, _)) = others.into_iter().find(|(_, is_foreign)| *is_foreign) {
        let message = format!("notify.{name}: has no meaning for {destination}");
        section.complain(Some(name), message);
        return None;
    }
    let is_check = format == Some(Format::Healthchecks);
    let destination = match url {
        Some(url) => Destination::Webhook { url, format: format.unwrap_or(Format::Json) },
        None if !to.is_empty() => {
            Destination::Mail { to, sendmail: sendmail.unwrap_or_else(|| SENDMAIL.into()) }
        }
        None => Destination::Command(argv),
    };
    let target = Target {
        name: name?,
        destination,
        priority: Priority::new(u8::try_from(priority).unwrap_or(u8::MAX)),
        events,
        repeat: repeat.unwrap_or(Some(if is_check { PING } else { DAY })),
        digest,
        quiet,
        secret_file,
        headers_file,
        ca_file,
        proxy,
        deadline,
    };
    match fault_of(&target) {
        Some((key, message)) => {
            section.complain(Some(key), format!("notify.{key}: {message}"));
            None
        }
        None => Some(target),
    }
}

/// The first contradiction within one target, and the key at which it is reported.
fn fault_of(target: &Target) -> Option<(&'static str, String)> {
    let is_check = target.is_pinged();
    if target.events.is_empty() {
        return Some(("events", "is empty: nothing would ever be sent".to_owned()));
    }
    if is_check && target.events != [EventKind::Alert] {
        return Some(("events", "healthchecks knows alerts only".to_owned()));
    }
    match target.repeat {
        None if is_check => {
            return Some(("repeat", "healthchecks needs pings: write \"5m\"".to_owned()));
        }
        Some(repeat) if !is_check && repeat < MINUTE => {
            let repeat = show_duration(repeat);
            return Some(("repeat", format!("\"{repeat}\" is out of bounds: 1m to 365d")));
        }
        Some(repeat) if is_check && repeat > 7 * DAY => {
            let repeat = show_duration(repeat);
            return Some(("repeat", format!("\"{repeat}\" is out of bounds: 10s to 7d")));
        }
        Some(_) | None => {}
    }
    if let Destination::Webhook { url, format } = &target.destination {
        if target.secret_file.is_some() && *format != Format::Json {
            return Some(("secret_file", "only the format json is signed".to_owned()));
        }
        let has_secret = target.secret_file.is_some() || target.headers_file.is_some();
        if has_secret && !url.is_encrypted() && !url.is_loopback() {
            let advice = "a secret would be sent to another host in clear: write https://";
            return Some(("webhook", format!("\"{url}\" {advice}")));
        }
        if target.ca_file.is_some() && !url.is_encrypted() {
            return Some(("ca_file", format!("has no meaning for \"{url}\", which has no TLS")));
        }
    }
    if let Destination::Command(argv) = &target.destination {
        let program = argv.first().map_or("", String::as_str);
        if !Path::new(program).is_absolute() {
            let message = format!("{program:?} is not an absolute path: begin it with /");
            return Some(("command", message));
        }
        if Path::new(program).file_name().is_some_and(|name| name == "sysadm-events") {
            let message = "a notification that calls this program would cause the next one";
            return Some(("command", message.to_owned()));
        }
    }
    None
}

/// Checks targets against each other and against the listeners of the daemon.
pub(super) fn check_targets(config: &Config, reader: &mut Reader<'_>) {
    for (index, target) in config.notify.iter().enumerate() {
        if config.notify.iter().take(index).any(|other| other.name == target.name) {
            reader.contradiction_at(
                &[("notify.name", index)],
                format!("notify.name: two targets have the name {:?}", target.name),
            );
        }
        if let Destination::Webhook { url, .. } = &target.destination
            && is_own(&config.server, url)
        {
            reader.contradiction_at(
                &[("notify.name", index)],
                format!("notify.webhook: \"{url}\" is a listener of this daemon itself"),
            );
        }
    }
}

fn is_own(server: &Server, url: &Webhook) -> bool {
    let listeners = server.listen.iter().chain(&server.listen_plain);
    let host: Option<IpAddr> = url.host().parse().ok();
    listeners.filter(|address| address.port() == url.port()).any(|address| match host {
        Some(host) => host == address.ip() || (host.is_loopback() && address.ip().is_unspecified()),
        None => url.is_loopback() && (address.ip().is_loopback() || address.ip().is_unspecified()),
    })
}

/// The longest address, in bytes (RFC 5321, 4.5.3.1.3).
const LONGEST_ADDRESS: usize = 254;

/// A mail address or the name of a local user. It stands in a header: a comma or a line end would
/// be another recipient or header.
fn recipient(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_graphic() && !"()<>[]:;,\\\"".contains(c);
    let is_address = !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(is_plain)
        && text.matches('@').count() <= 1
        && !text.starts_with('@')
        && !text.ends_with('@');
    if !is_address {
        return Err("is no recipient: write an address, or the name of a local user".to_owned());
    }
    if text.len() > LONGEST_ADDRESS {
        return Err(format!("has {} bytes: at most {LONGEST_ADDRESS}", text.len()));
    }
    Ok(text.to_owned())
}

/// The longest argument of a command, in bytes.
const LONGEST_ARGUMENT: usize = 4096;

fn argument(text: &str) -> Result<String, String> {
    if text.contains('\0') {
        return Err("has a NUL in it".to_owned());
    }
    if text.len() > LONGEST_ARGUMENT {
        return Err(format!("has {} bytes: at most {LONGEST_ARGUMENT}", text.len()));
    }
    Ok(text.to_owned())
}

/// `http://HOST:PORT`.
fn proxy(text: &str) -> Result<Webhook, String> {
    let proxy = Webhook::parse(text)?;
    let path = text.get(proxy.origin().len()..).unwrap_or_default();
    if proxy.is_encrypted() || !path.trim_matches('/').is_empty() {
        return Err("is no proxy: write http://HOST:PORT".to_owned());
    }
    Ok(proxy)
}
