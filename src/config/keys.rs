//! Every key of the file, one line each: its name, its field, its type and bounds.
//!
//! Reading a key makes it known, so the set of valid keys, the suggestions for mistyped ones and
//! the test that the sample is complete all derive from this file.

use std::time::Duration;

use log::LevelFilter;

use super::error::ConfigError;
use super::link::{fingerprint, host_name};
use super::network::network;
use super::notify::read_target;
use super::reader::Reader;
use super::rules::Rules;
use super::section::Section;
use super::source::read_source;
use super::units::{DAY, GIB, HOUR, KIB, MIB};
use super::values::{
    absolute_path, account, address, boolean, count, duration, group, link_name, loopback_address,
    mode, one_of, optional, pam_service, program, queue_name, size, socket_path, text,
};
use super::{
    BridgeLink, BridgeUrl, Config, JobQueue, LegacyBridgeClients, LogTarget, ZpoolWhen, alerts,
};
use crate::sys::files::Files;

/// Minimum timeout: below it a busy host would fail its own daemon.
const SHORT: Duration = Duration::from_millis(10);
/// Minimum interval of recurring work: an idle daemon stays idle.
const TICK: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads the file into `config`. A faulty key leaves its field unchanged. `elsewhere` receives the
/// faults of files that it names.
pub(super) fn read(
    reader: &mut Reader<'_>,
    config: &mut Config,
    elsewhere: &mut Vec<ConfigError>,
    files: &Files,
) {
    read_server(reader.section("server"), config);
    read_auth(reader.section("auth"), config);
    read_events(reader.section("events"), config);
    read_dispatcher(reader.section("dispatcher"), config);
    read_store(reader.section("store"), config);
    read_life_preserver(reader.section("life_preserver"), config, elsewhere, files);
    read_system_state(reader.section("system_state"), config);
    alerts::read(reader.section("alerts"), config);
    alerts::read_expectations(reader.root(), config);
    read_bridge(reader.section("bridge"), config);
    read_relay(reader.section("relay"), config);
    read_paths(reader.section("paths"), config);
    read_log(reader.section("log"), config);
    reader.root().tables("notify", "notify", &mut config.notify, read_target);
}

fn read_server(mut section: Section<'_, '_>, config: &mut Config) {
    let server = &mut config.server;
    section.list("listen", &mut server.listen, text(address));
    section.list("listen_plain", &mut server.listen_plain, text(loopback_address));
    section.list("proxy_protocol", &mut server.proxy_protocol, text(network));
    section.key("socket", &mut server.socket, optional(socket_path));
    section.key("socket_mode", &mut server.socket_mode, text(mode));
    section.list("hosts", &mut server.hosts, text(host_name));
    section.key("max_clients", &mut server.max_clients, count(1..=65536));
    section.key("max_unauthenticated", &mut server.max_unauthenticated, count(1..=65536));
    section.key("max_message", &mut server.max_message, size(8 * KIB..=64 * MIB));
    section.key("outbox", &mut server.outbox, size(128 * KIB..=GIB));
    section.key("outbox_total", &mut server.outbox_total, size(128 * KIB..=GIB));
    section.key("inbox_total", &mut server.inbox_total, size(128 * KIB..=GIB));
    section.key("certificate", &mut server.certificate, text(absolute_path));
    section.key("private_key", &mut server.private_key, text(absolute_path));
    section.key("handshake_timeout", &mut server.handshake_timeout, duration(SHORT..=HOUR));
    section.key("auth_timeout", &mut server.auth_timeout, duration(SHORT..=HOUR));
    section.key("message_timeout", &mut server.message_timeout, duration(SHORT..=HOUR));
    section.key("close_timeout", &mut server.close_timeout, duration(SHORT..=HOUR));
    section.key("ping_interval", &mut server.ping_interval, duration(TICK..=HOUR));
    section.key("lock_memory", &mut server.lock_memory, boolean);
}

fn read_auth(mut section: Section<'_, '_>, config: &mut Config) {
    let auth = &mut config.auth;
    section.key("pam", &mut auth.pam, boolean);
    section.key("pam_service", &mut auth.pam_service, text(pam_service));
    section.list("full_access_groups", &mut auth.full_access_groups, text(group));
    section.list("read_only_groups", &mut auth.read_only_groups, text(group));
    section.key("token_ttl", &mut auth.token_ttl, duration(SECOND..=YEAR));
    section.key("fail_limit", &mut auth.fail_limit, count(1..=1000));
    section.key("fail_window", &mut auth.fail_window, duration(SECOND..=YEAR));
    section.key("block_time", &mut auth.block_time, duration(SECOND..=YEAR));
    section.key("max_addresses", &mut auth.max_addresses, count(16..=65536));
    section.key("throttle_loopback", &mut auth.throttle_loopback, boolean);
    section.key("recheck_interval", &mut auth.recheck_interval, duration(SECOND..=HOUR));
    section.key("lookup_deadline", &mut auth.lookup_deadline, duration(SHORT..=HOUR));
    section.key("check_deadline", &mut auth.check_deadline, duration(SHORT..=HOUR));
    section.key("max_checks", &mut auth.max_checks, count(1..=64));
    section.key("max_waiting_checks", &mut auth.max_waiting_checks, count(1..=1024));
    section.key("helper_idle", &mut auth.helper_idle, duration(TICK..=HOUR));
    section.key("max_keys", &mut auth.max_keys, count(1..=4096));
    section.key("max_keys_per_user", &mut auth.max_keys_per_user, count(1..=4096));
    section.key("max_legacy_keys", &mut auth.max_legacy_keys, count(1..=256));
    section.key("max_legacy_keys_per_user", &mut auth.max_legacy_keys_per_user, count(1..=256));
}

fn read_events(mut section: Section<'_, '_>, config: &mut Config) {
    let events = &mut config.events;
    section.key("ring", &mut events.ring, size(64 * KIB..=GIB));
    section.key("max_event", &mut events.max_event, size(64 * KIB..=64 * MIB));
}

fn read_dispatcher(mut section: Section<'_, '_>, config: &mut Config) {
    let dispatcher = &mut config.dispatcher;
    section.key("max_running", &mut dispatcher.max_running, count(1..=4096));
    section.key("max_pending", &mut dispatcher.max_pending, count(1..=65536));
    section.key("max_commands", &mut dispatcher.max_commands, count(1..=16384));
    section.key("log_limit", &mut dispatcher.log_limit, size(KIB..=GIB));
    section.key("event_log_limit", &mut dispatcher.event_log_limit, size(KIB..=64 * MIB));
    section.key("retain_jobs", &mut dispatcher.retain_jobs, count(1..=65536));
    section.key("retain_time", &mut dispatcher.retain_time, duration(SECOND..=10 * YEAR));
    section.key("retain_environment", &mut dispatcher.retain_environment, size(0..=64 * MIB));
    section.tables("queue", "dispatcher.queue", &mut dispatcher.queue, |queue| {
        let name = queue.required("name", text(queue_name));
        let parallel = queue.required("parallel", count(1..=4096));
        let alert = queue.optional("alert", boolean).unwrap_or(false);
        Some(JobQueue { name: name?, parallel: parallel?, alert })
    });
    section.key("output_interval", &mut dispatcher.output_interval, duration(SHORT..=HOUR));
    section.key("output_grace", &mut dispatcher.output_grace, duration(SHORT..=HOUR));
    section.key("kill_grace", &mut dispatcher.kill_grace, duration(SHORT..=HOUR));
    section.key("attach_timeout", &mut dispatcher.attach_timeout, duration(SHORT..=HOUR));
}

fn read_store(mut section: Section<'_, '_>, config: &mut Config) {
    let store = &mut config.store;
    section.key("journal", &mut store.journal, boolean);
    section.key("deadline", &mut store.deadline, duration(TICK..=HOUR));
    section.key("patience", &mut store.patience, duration(TICK..=DAY));
    section.key("history", &mut store.history, |value| match size(0..=GIB)(value)? {
        1..MIB => Err("0 for none, or at least 1MiB".to_owned()),
        size => Ok(size),
    });
    section.key("backlog", &mut store.backlog, size(64 * KIB..=64 * MIB));
}

fn read_life_preserver(
    mut section: Section<'_, '_>,
    config: &mut Config,
    elsewhere: &mut Vec<ConfigError>,
    files: &Files,
) {
    let logs = &mut config.life_preserver;
    section.key("log", &mut logs.log, optional(absolute_path));
    section.key("rules_dir", &mut logs.rules_dir, optional(absolute_path));
    if let Some(directory) = &logs.rules_dir {
        match Rules::of_directory(directory, files) {
            Ok((rules, faults)) => {
                logs.rules = rules;
                elsewhere.extend(faults);
            }
            Err(why) => {
                let message = format!("life_preserver.rules_dir: {} {why}", directory.display());
                section.complain(Some("rules_dir"), message);
            }
        }
    }
    let rules = logs.rules.clone();
    section.tables("source", "life_preserver.source", &mut logs.source, |source| {
        read_source(source, &rules)
    });
    section.key("max_line", &mut logs.max_line, size(256..=8 * KIB));
    section.key("slice", &mut logs.slice, size(4 * KIB..=MIB));
    section.key("poll_interval", &mut logs.poll_interval, duration(TICK..=HOUR));
    section.key("check_interval", &mut logs.check_interval, duration(TICK..=DAY));
    section.key("rotation_wait", &mut logs.rotation_wait, duration(SHORT..=HOUR));
    section.key("pause", &mut logs.pause, duration(SHORT..=HOUR));
    section.key("start_wait", &mut logs.start_wait, duration(SHORT..=HOUR));
    section.key("max_replications", &mut logs.max_replications, count(1..=256));
    section.key("progress_interval", &mut logs.progress_interval, duration(SHORT..=HOUR));
    section.key("progress_timeout", &mut logs.progress_timeout, duration(SECOND..=YEAR));
}

fn read_system_state(mut section: Section<'_, '_>, config: &mut Config) {
    let when = [("loaded", ZpoolWhen::Loaded), ("always", ZpoolWhen::Always)];
    let state = &mut config.system_state;
    section.key("interval", &mut state.interval, duration(TICK..=DAY));
    section.key("report_interval", &mut state.report_interval, duration(TICK..=YEAR));
    section.key("zpool", &mut state.zpool, text(program));
    section.key("zpool_when", &mut state.zpool_when, text(one_of(when)));
    section.key("zpool_deadline", &mut state.zpool_deadline, duration(SHORT..=HOUR));
    section.key("zpool_output", &mut state.zpool_output, size(4 * KIB..=16 * MIB));
    section.key("capacity_warning", &mut state.capacity_warning, count(1..=100));
    section.key("devd", &mut state.devd, optional(socket_path));
    section.key("zpool_events", &mut state.zpool_events, boolean);
    section.key("event_delay", &mut state.event_delay, duration(SHORT..=HOUR));
    section.key("event_pause", &mut state.event_pause, duration(SECOND..=HOUR));
}

fn read_bridge(mut section: Section<'_, '_>, config: &mut Config) {
    let clients = [
        ("no", LegacyBridgeClients::No),
        ("read", LegacyBridgeClients::Read),
        ("full", LegacyBridgeClients::Full),
    ];
    let bridge = &mut config.bridge;
    section.key(
        "allow_legacy_bridge_clients",
        &mut bridge.allow_legacy_bridge_clients,
        text(one_of(clients)),
    );
    section.tables("link", "bridge.link", &mut bridge.link, |link| {
        let name = link.required("name", text(link_name));
        let url = link.required("url", text(BridgeUrl::parse));
        let fingerprint = link.required("fingerprint", text(fingerprint));
        let legacy = link.optional("legacy", boolean).unwrap_or(false);
        Some(BridgeLink { name: name?, url: url?, fingerprint: fingerprint?, legacy })
    });
    section.key("shortest_pause", &mut bridge.shortest_pause, duration(TICK..=HOUR));
    section.key("longest_pause", &mut bridge.longest_pause, duration(TICK..=DAY));
    section.key("refused_pause", &mut bridge.refused_pause, duration(TICK..=DAY));
}

fn read_relay(mut section: Section<'_, '_>, config: &mut Config) {
    let relay = &mut config.relay;
    section.list("listen", &mut relay.listen, text(address));
    section.list("proxy_protocol", &mut relay.proxy_protocol, text(network));
    section.key("socket", &mut relay.socket, optional(socket_path));
    section.list("hosts", &mut relay.hosts, text(host_name));
    section.key("certificate", &mut relay.certificate, text(absolute_path));
    section.key("private_key", &mut relay.private_key, text(absolute_path));
    section.key("state", &mut relay.state, text(absolute_path));
    section.key("user", &mut relay.user, optional(account));
    section.key("max_peers", &mut relay.max_peers, count(1..=65536));
    section.key("max_unauthenticated", &mut relay.max_unauthenticated, count(1..=65536));
    section.key("max_keys", &mut relay.max_keys, count(1..=4096));
    section.key("max_legacy_keys", &mut relay.max_legacy_keys, count(1..=256));
    section.key("max_message", &mut relay.max_message, size(32 * KIB..=64 * MIB));
    section.key("queue", &mut relay.queue, size(128 * KIB..=GIB));
    section.key("queue_total", &mut relay.queue_total, size(128 * KIB..=GIB));
    section.key("pause", &mut relay.pause, duration(SHORT..=HOUR));
    section.key("handshake_timeout", &mut relay.handshake_timeout, duration(SHORT..=HOUR));
    section.key("auth_timeout", &mut relay.auth_timeout, duration(SHORT..=HOUR));
    section.key("message_timeout", &mut relay.message_timeout, duration(SHORT..=HOUR));
    section.key("close_timeout", &mut relay.close_timeout, duration(SHORT..=HOUR));
    section.key("ping_interval", &mut relay.ping_interval, duration(TICK..=HOUR));
}

fn read_paths(mut section: Section<'_, '_>, config: &mut Config) {
    section.key("state", &mut config.paths.state, text(absolute_path));
}

fn read_log(mut section: Section<'_, '_>, config: &mut Config) {
    let levels = [
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    let targets =
        [("auto", LogTarget::Auto), ("stderr", LogTarget::Stderr), ("syslog", LogTarget::Syslog)];
    section.key("level", &mut config.log.level, text(one_of(levels)));
    section.key("target", &mut config.log.target, text(one_of(targets)));
}
