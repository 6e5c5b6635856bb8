//! Built-in defaults, used without a configuration file.
//!
//! They serve loopback and the local socket, and fit an appliance. Only the paths depend on the
//! user.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::units::{DAY, KIB, MIB, MINUTE};
use super::{
    Auth, Bridge, Config, Dispatcher, Events, Home, LegacyBridgeClients, LifePreserver, Log,
    LogTarget, Paths, Relay, Rules, Server, Store, SystemState, ZpoolWhen,
};
use crate::sys::admin_groups::ADMIN_GROUPS;

impl Config {
    /// The built-in defaults for this kind of user. They pass every check.
    pub fn defaults(home: &Home) -> Config {
        Config {
            server: server(home),
            auth: auth(),
            events: Events { ring: 2 * MIB, max_event: 256 * KIB },
            dispatcher: dispatcher(),
            store: store(),
            life_preserver: life_preserver(),
            system_state: system_state(),
            alerts: super::alerts::defaults(),
            expect: Vec::new(),
            bridge: Bridge {
                allow_legacy_bridge_clients: LegacyBridgeClients::No,
                shortest_pause: Duration::from_secs(1),
                longest_pause: Duration::from_secs(60),
                refused_pause: Duration::from_secs(150),
                link: Vec::new(),
            },
            relay: relay(home),
            paths: Paths { state: home.state() },
            log: Log { level: log::LevelFilter::Info, target: LogTarget::Auto },
            notify: Vec::new(),
        }
    }
}

fn server(home: &Home) -> Server {
    Server {
        listen: loopback(12150),
        listen_plain: Vec::new(),
        proxy_protocol: Vec::new(),
        socket: Some(home.socket()),
        socket_mode: 0o666,
        hosts: Vec::new(),
        max_clients: 1024,
        max_unauthenticated: 64,
        max_message: 256 * KIB,
        outbox: MIB,
        outbox_total: 16 * MIB,
        inbox_total: 16 * MIB,
        certificate: home.certificate(),
        private_key: home.private_key(),
        handshake_timeout: Duration::from_secs(10),
        auth_timeout: Duration::from_secs(30),
        message_timeout: Duration::from_secs(30),
        close_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_secs(30),
        lock_memory: false,
    }
}

fn auth() -> Auth {
    Auth {
        pam: true,
        pam_service: "sysadm-events".to_owned(),
        full_access_groups: ADMIN_GROUPS.iter().map(ToString::to_string).collect(),
        read_only_groups: vec!["operator".to_owned()],
        token_ttl: 15 * MINUTE,
        fail_limit: 5,
        fail_window: 10 * MINUTE,
        block_time: 60 * MINUTE,
        max_addresses: 4096,
        throttle_loopback: false,
        recheck_interval: 5 * MINUTE,
        lookup_deadline: Duration::from_secs(10),
        check_deadline: Duration::from_secs(20),
        max_checks: 4,
        max_waiting_checks: 16,
        helper_idle: MINUTE,
        max_keys: 1024,
        max_keys_per_user: 32,
        max_legacy_keys: 32,
        max_legacy_keys_per_user: 16,
    }
}

fn dispatcher() -> Dispatcher {
    Dispatcher {
        max_running: 16,
        max_pending: 256,
        max_commands: 256,
        log_limit: MIB,
        event_log_limit: 64 * KIB,
        retain_jobs: 100,
        retain_time: DAY,
        retain_environment: MIB,
        output_interval: Duration::from_secs(1),
        output_grace: Duration::from_secs(1),
        kill_grace: Duration::from_secs(10),
        attach_timeout: Duration::from_secs(5 * 60),
        queue: Vec::new(),
    }
}

fn life_preserver() -> LifePreserver {
    LifePreserver {
        log: Some(PathBuf::from("/var/log/lpreserver/lpreserver.log")),
        rules_dir: None,
        rules: Rules::default(),
        source: Vec::new(),
        max_line: 4 * KIB,
        slice: 64 * KIB,
        poll_interval: Duration::from_secs(5),
        check_interval: MINUTE,
        rotation_wait: Duration::from_secs(10),
        pause: Duration::from_secs(5),
        start_wait: Duration::from_secs(5),
        max_replications: 16,
        progress_interval: Duration::from_secs(1),
        progress_timeout: DAY,
    }
}

fn store() -> Store {
    Store {
        journal: true,
        deadline: Duration::from_secs(5),
        patience: MINUTE,
        backlog: 128 * KIB,
        history: 16 * MIB,
    }
}

fn system_state() -> SystemState {
    SystemState {
        interval: MINUTE,
        report_interval: 15 * MINUTE,
        zpool: PathBuf::from("zpool"),
        zpool_when: ZpoolWhen::Loaded,
        zpool_deadline: Duration::from_secs(10),
        zpool_output: 256 * KIB,
        capacity_warning: 90,
        devd: Some(PathBuf::from("/var/run/devd.seqpacket.pipe")),
        zpool_events: true,
        event_delay: Duration::from_millis(200),
        event_pause: Duration::from_secs(30),
    }
}

fn relay(home: &Home) -> Relay {
    Relay {
        listen: loopback(12149),
        proxy_protocol: Vec::new(),
        socket: Some(home.relay_socket()),
        hosts: Vec::new(),
        certificate: home.relay_certificate(),
        private_key: home.relay_private_key(),
        state: home.relay_state(),
        user: Some("sysadm_bridge".to_owned()),
        max_peers: 1024,
        max_unauthenticated: 64,
        max_keys: 1024,
        max_legacy_keys: 32,
        max_message: 256 * KIB,
        queue: 4 * MIB,
        queue_total: 64 * MIB,
        pause: Duration::from_secs(1),
        handshake_timeout: Duration::from_secs(10),
        auth_timeout: Duration::from_secs(30),
        message_timeout: Duration::from_secs(30),
        close_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_secs(30),
    }
}

fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}
