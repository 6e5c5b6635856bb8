//! Checks between keys: limits that exclude each other, files and addresses used twice.

use std::net::SocketAddr;
use std::path::Path;

use super::notify::check_targets;
use super::reader::Reader;
use super::units::{show_duration, show_size};
use super::{Bridge, BridgeLink, Config, JobQueue};

/// Reports to `reader` every contradiction in `config`.
pub(super) fn check(config: &Config, reader: &mut Reader<'_>) {
    check_limits(config, reader);
    check_listeners(config, reader);
    check_paths(config, reader);
    check_groups(config, reader);
    check_links(&config.bridge, reader);
    check_queues(&config.dispatcher.queue, reader);
    check_targets(config, reader);
    super::alerts::check(config, reader);
}

/// Room for each command of a job in an event, in bytes, including its code and keys.
const COMMAND_IN_EVENT: usize = 256;

fn check_limits(config: &Config, reader: &mut Reader<'_>) {
    let (server, events, state) = (&config.server, &config.events, &config.system_state);
    let commands = config.dispatcher.max_commands;
    if commands > events.max_event / COMMAND_IN_EVENT {
        let event = show_size(events.max_event);
        reader.contradiction(
            &["dispatcher.max_commands", "events.max_event"],
            format!(
                "dispatcher.max_commands ({commands}) do not fit into an event of events.max_event \
                 ({event}): {} do",
                events.max_event / COMMAND_IN_EVENT
            ),
        );
    }
    if server.outbox / 2 < events.max_event {
        let (outbox, event) = (show_size(server.outbox), show_size(events.max_event));
        reader.contradiction(
            &["server.outbox", "events.max_event"],
            format!(
                "server.outbox ({outbox}) does not hold two events of events.max_event ({event})"
            ),
        );
    }
    if server.outbox_total < server.outbox {
        let (total, outbox) = (show_size(server.outbox_total), show_size(server.outbox));
        reader.contradiction(
            &["server.outbox_total", "server.outbox"],
            format!("server.outbox_total ({total}) is less than one server.outbox ({outbox})"),
        );
    }
    if events.ring < events.max_event {
        let (ring, event) = (show_size(events.ring), show_size(events.max_event));
        reader.contradiction(
            &["events.ring", "events.max_event"],
            format!("events.ring ({ring}) does not hold one event of events.max_event ({event})"),
        );
    }
    let logs = &config.life_preserver;
    if logs.slice / 8 < logs.max_line {
        let (slice, line) = (show_size(logs.slice), show_size(logs.max_line));
        reader.contradiction(
            &["life_preserver.slice", "life_preserver.max_line"],
            format!(
                "life_preserver.slice ({slice}) does not hold eight lines of \
                 life_preserver.max_line ({line})"
            ),
        );
    }
    if logs.check_interval < logs.poll_interval {
        let check = show_duration(logs.check_interval);
        let poll = show_duration(logs.poll_interval);
        reader.contradiction(
            &["life_preserver.check_interval", "life_preserver.poll_interval"],
            format!(
                "life_preserver.check_interval ({check}) is shorter than \
                 life_preserver.poll_interval ({poll}): it is the longer one, for file systems that report no changes"
            ),
        );
    }
    let bridge = &config.bridge;
    if bridge.longest_pause < bridge.shortest_pause {
        let (longest, shortest) = (bridge.longest_pause, bridge.shortest_pause);
        let (longest, shortest) = (show_duration(longest), show_duration(shortest));
        reader.contradiction(
            &["bridge.longest_pause", "bridge.shortest_pause"],
            format!(
                "bridge.longest_pause ({longest}) is shorter than bridge.shortest_pause ({shortest})"
            ),
        );
    }
    if state.report_interval < state.interval {
        let report = show_duration(state.report_interval);
        let interval = show_duration(state.interval);
        reader.contradiction(
            &["system_state.report_interval", "system_state.interval"],
            format!(
                "system_state.report_interval ({report}) is shorter than \
                 system_state.interval ({interval}): nothing new can be reported so often"
            ),
        );
    }
}

fn check_listeners(config: &Config, reader: &mut Reader<'_>) {
    let server = &config.server;
    let tls = named("server.listen", &server.listen);
    let plain = named("server.listen_plain", &server.listen_plain);
    check_addresses(&tls.chain(plain).collect::<Vec<_>>(), reader);
    check_addresses(&named("relay.listen", &config.relay.listen).collect::<Vec<_>>(), reader);

    let deaf = server.listen.is_empty() && server.listen_plain.is_empty();
    if deaf && server.socket.is_none() && config.bridge.link.is_empty() {
        reader.contradiction(
            &["server.listen", "server.listen_plain", "server.socket", "bridge.link"],
            "this server is unreachable: it has no server.listen, server.listen_plain, \
             server.socket or bridge.link"
                .to_owned(),
        );
    }
}

/// An entry of a list, with the key and its index.
type Entry<'c, T> = ((&'static str, usize), &'c T);

fn named<'c, T>(key: &'static str, list: &'c [T]) -> impl Iterator<Item = Entry<'c, T>> {
    list.iter().enumerate().map(move |(index, entry)| ((key, index), entry))
}

/// Each pair once, the later entry first: the fault is reported there.
fn pairs<'e, 'c, T>(
    entries: &'e [Entry<'c, T>],
) -> impl Iterator<Item = (&'e Entry<'c, T>, &'e Entry<'c, T>)> {
    entries
        .iter()
        .enumerate()
        .flat_map(|(index, later)| entries.iter().take(index).map(move |earlier| (later, earlier)))
}

fn check_addresses(entries: &[Entry<'_, SocketAddr>], reader: &mut Reader<'_>) {
    for ((place, address), (earlier, other)) in pairs(entries) {
        let key = place.0;
        if address == other && address.port() != 0 {
            reader.contradiction_at(
                &[*place, *earlier],
                format!("{key}: {address} is there twice ({} has it too)", earlier.0),
            );
        } else if covers(address, other) || covers(other, address) {
            reader.contradiction_at(
                &[*place, *earlier],
                format!("{key}: {address} and {other} of {} overlap: keep one of them", earlier.0),
            );
        }
    }
}

/// Whether `wide` listens on every address of the other's family, at the same port. Ports 0 never
/// overlap.
fn covers(wide: &SocketAddr, other: &SocketAddr) -> bool {
    wide.ip().is_unspecified()
        && wide != other
        && wide.is_ipv4() == other.is_ipv4()
        && wide.port() == other.port()
        && wide.port() != 0
}

fn check_paths(config: &Config, reader: &mut Reader<'_>) {
    let (server, relay) = (&config.server, &config.relay);
    if let Some(socket) = server.socket.as_ref().filter(|_| server.socket == relay.socket) {
        let both = socket.display();
        let message = format!("relay.socket and server.socket are both {both}: each needs its own");
        reader.contradiction(&["relay.socket", "server.socket"], message);
    }
    let files: [(&str, &Path); 6] = [
        ("server.certificate", &server.certificate),
        ("server.private_key", &server.private_key),
        ("relay.certificate", &relay.certificate),
        ("relay.private_key", &relay.private_key),
        ("paths.state", &config.paths.state),
        ("relay.state", &relay.state),
    ];
    for (index, (key, path)) in files.iter().enumerate() {
        for (other, _) in files.iter().take(index).filter(|(_, earlier)| earlier == path) {
            let message =
                format!("{key} and {other} are both {}: each needs its own", path.display());
            reader.contradiction(&[key, other], message);
        }
    }
}

fn check_groups(config: &Config, reader: &mut Reader<'_>) {
    let auth = &config.auth;
    let full = named("auth.full_access_groups", &auth.full_access_groups);
    let read = named("auth.read_only_groups", &auth.read_only_groups);
    for ((place, group), (earlier, other)) in pairs(&full.chain(read).collect::<Vec<_>>()) {
        if group == other {
            reader.contradiction_at(
                &[*place, *earlier],
                format!("{}: {group:?} is in {} already", place.0, earlier.0),
            );
        }
    }
}

fn check_queues(queues: &[JobQueue], reader: &mut Reader<'_>) {
    let queues: Vec<Entry<'_, JobQueue>> = named("dispatcher.queue", queues).collect();
    for ((place, queue), (_, other)) in pairs(&queues) {
        if queue.name == other.name {
            let name = &queue.name;
            reader.contradiction_at(
                &[("dispatcher.queue.name", place.1), *place],
                format!("dispatcher.queue.name: two queues have the name {name:?}"),
            );
        }
    }
}

fn check_links(bridge: &Bridge, reader: &mut Reader<'_>) {
    let links: Vec<Entry<'_, BridgeLink>> = named("bridge.link", &bridge.link).collect();
    for ((place, link), (_, other)) in pairs(&links) {
        if link.name == other.name {
            reader.contradiction_at(
                &[("bridge.link.name", place.1), *place],
                format!("bridge.link.name: two links have the name {:?}", link.name),
            );
        }
        if link.url == other.url {
            reader.contradiction_at(
                &[("bridge.link.url", place.1), *place],
                format!("bridge.link.url: two links go to {}", link.url),
            );
        }
    }
}
