//! The values of the configuration: one struct per section, one field per key, with the same names.
//!
//! Each field states its unit, range, behaviour at the limit, and default. Times are bounded so
//! that a clock can always be advanced by them, sizes and counts so that sums of them never
//! overflow.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::link::BridgeUrl;
use super::network::Network;
use super::rules::Rules;
use crate::rules::RuleSet;

/// `[server]`: listeners, clients and their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// TLS listeners, at most 64, port 0 for any free port; `IPV6_V6ONLY` is always set. Default:
    /// port 12150 of both loopback addresses.
    pub listen: Vec<SocketAddr>,
    /// Listeners without TLS, at most 64, loopback addresses only. Default: none.
    pub listen_plain: Vec<SocketAddr>,
    /// Addresses and networks of proxies, at most 64: their connections begin with a header of the
    /// PROXY protocol, version 2, and count as coming from the address in it. Default: none.
    pub proxy_protocol: Vec<Network>,
    /// The Unix socket, an absolute path of at most 103 bytes; `None` (`""`) for none.
    /// Default: that of the [`Home`](super::Home).
    pub socket: Option<PathBuf>,
    /// Permissions of the socket, at most 0777. Default 0666: the kernel identifies peers by uid.
    pub socket_mode: u32,
    /// Names and addresses of this server, at most 64, in lower case: for the Origin check and the
    /// certificate. The host name is always included. Default: none.
    pub hosts: Vec<String>,
    /// Maximum number of authenticated clients. Root and the daemon's own user may use all places,
    /// and 8 more at the local socket; any other user at most half of those that the others leave.
    /// Further clients are closed with 1013. Range 1 to 65536. Default 1024.
    pub max_clients: usize,
    /// Maximum number of unauthenticated connections: this many after the handshake, and this many
    /// before. When all are taken, a connection without progress is dropped at random, or the
    /// newest is refused with 503. At most 4 connections of one address may be without progress.
    /// Range 1 to 65536. Default 64.
    pub max_unauthenticated: usize,
    /// Maximum size of one incoming message. Larger messages close the connection with 1009. Range
    /// 8 KiB to 64 MiB. Default 256 KiB.
    pub max_message: usize,
    /// Maximum number of bytes queued for one client, from twice `events.max_event` to 1 GiB.
    /// Protocol section 2 describes what is coalesced in a full queue; beyond that the client is
    /// closed with 1013. Default 1 MiB.
    pub outbox: usize,
    /// Maximum number of bytes queued for all clients together, from `outbox` to 1 GiB; above it
    /// the fullest outbox of the user with the most is closed. Clients of a user with half of it
    /// are not read. Default 16 MiB.
    pub outbox_total: usize,
    /// Maximum number of bytes of incomplete messages of all clients together, 128 KiB to 1 GiB,
    /// and at least two messages; above it the largest of the user with the most is closed with
    /// 1013. Default 16 MiB.
    pub inbox_total: usize,
    /// PEM, an absolute path; created at the first start. Default: that of the home.
    pub certificate: PathBuf,
    /// PEM, an absolute path; created at the first start. Default: that of the home.
    pub private_key: PathBuf,
    /// Time limit of TLS and the upgrade request, 10 ms to 1 h; then the connection is closed.
    /// Default 10 s.
    pub handshake_timeout: Duration,
    /// Time limit of authentication, 10 ms to 1 h; then the connection is closed with 1008. Default
    /// 30 s.
    pub auth_timeout: Duration,
    /// Time limit of an incomplete message, 10 ms to 1 h; then the connection is closed with 1008.
    /// Default 30 s.
    pub message_timeout: Duration,
    /// Time limit of the close handshake, and of queued output at shutdown, 10 ms to 1 h; then the
    /// connection is cut. Default 5 s.
    pub close_timeout: Duration,
    /// Interval between two pings, 100 ms to 1 h; a peer is dead after two unanswered pings.
    /// Default 30 s.
    pub ping_interval: Duration,
    /// Whether the daemon's pages are locked in memory. Default: no.
    pub lock_memory: bool,
}

/// `[auth]`: authentication and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether users may authenticate with passwords of the host; only if the daemon runs as root.
    /// Default: yes.
    pub pam: bool,
    /// The PAM service, of at most 64 bytes; never `login` or `system`, which admit users without a
    /// password. Default `sysadm-events`.
    pub pam_service: String,
    /// Groups of the role `full`, at most 64. Default `wheel`, and elsewhere than on FreeBSD `sudo`
    /// too.
    pub full_access_groups: Vec<String>,
    /// Groups of the role `read`, at most 64. Default `operator`.
    pub read_only_groups: Vec<String>,
    /// Lifetime of a token after its last use, 1 s to 365 d. Default 15 min.
    pub token_ttl: Duration,
    /// Failures of one address within `fail_window` before a block, 1 to 1000. Default 5.
    pub fail_limit: usize,
    /// Time after which a failure no longer counts, 1 s to 365 d. Default 10 min.
    pub fail_window: Duration,
    /// Duration of the block of an address, 1 s to 365 d. Default 60 min.
    pub block_time: Duration,
    /// Maximum number of addresses whose failures are stored, 16 to 65536; beyond it the least
    /// dangerous is evicted. Default 4096.
    pub max_addresses: usize,
    /// Whether loopback addresses are blocked like others, for tests. Default: no, failures there
    /// only delay the reply.
    pub throttle_loopback: bool,
    /// Interval between re-checks of connected users, 1 s to 1 h. Default 5 min.
    pub recheck_interval: Duration,
    /// Time limit of a look-up of users and groups, 10 ms to 1 h; then authentication is denied.
    /// Default 10 s.
    pub lookup_deadline: Duration,
    /// Time limit of a password check, or the account check of a key's owner, 10 ms to 1 h,
    /// including the wait for its turn; then authentication is denied. Default 20 s.
    pub check_deadline: Duration,
    /// Maximum number of concurrent checks of passwords and accounts, 1 to 64; others wait. Default
    /// 4.
    pub max_checks: usize,
    /// Maximum number of waiting checks of each kind, 1 to 1024; further ones are refused with 429.
    /// Default 16.
    pub max_waiting_checks: usize,
    /// The accounts helper ends after this time without a request, 100 ms to 1 h. Default 60 s.
    pub helper_idle: Duration,
    /// Maximum number of registered keys, 1 to 4096; further ones are refused with 429. Default
    /// 1024.
    pub max_keys: usize,
    /// Maximum number of registered keys of one user, 1 to 4096; further ones are refused with 429.
    /// Default 32.
    pub max_keys_per_user: usize,
    /// Maximum number of legacy keys, 1 to 256; further ones are refused with 429, and ignored in
    /// the file: a client does not name its legacy key, so an unauthenticated client can cause all
    /// of them to be tried. Default 32.
    pub max_legacy_keys: usize,
    /// Maximum number of legacy keys that clients register for one user, 1 to 256, so that one user
    /// cannot use up the limit; further ones are refused with 429. The original client ignores that
    /// reply, so the default, 16, is more than one user has machines.
    pub max_legacy_keys_per_user: usize,
}

/// `[events]`: the ring and the size of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// Size of the replay ring, from `max_event` to 1 GiB; the oldest events are dropped. Default 2
    /// MiB.
    pub ring: usize,
    /// Maximum size of one encoded event, 64 KiB to 64 MiB; the middle of long logs is omitted.
    /// Default 256 KiB.
    pub max_event: usize,
}

/// `[dispatcher]`: jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatcher {
    /// Maximum number of running jobs, 1 to 4096; others stay pending. Default 16.
    pub max_running: usize,
    /// Maximum number of pending jobs, 1 to 65536; further ones are refused with 429. Default 256.
    pub max_pending: usize,
    /// Maximum number of commands of one job, 1 to 16384; larger jobs are refused with 413. Default
    /// 256.
    pub max_commands: usize,
    /// Maximum size of a job's log, 1 KiB to 1 GiB; the middle of a longer one is omitted. Default
    /// 1 MiB.
    pub log_limit: usize,
    /// Maximum size of a command's log in an event, 1 KiB to 64 MiB; the middle of a longer one is
    /// omitted. Default 64 KiB.
    pub event_log_limit: usize,
    /// Maximum number of retained finished jobs, 1 to 65536; the oldest are dropped. Default 100.
    pub retain_jobs: usize,
    /// Time for which a finished job is retained, 1 s to 3650 d. Default 24 h.
    pub retain_time: Duration,
    /// Bytes of environments, directories and users of finished jobs retained for `restart`, 0
    /// to 64 MiB; the oldest of the submitter with the most go. Default 1 MiB.
    pub retain_environment: usize,
    /// Minimum interval between two running events of one job, 10 ms to 1 h. Default 1 s.
    pub output_interval: Duration,
    /// Grace period for a command's output after its end, 10 ms to 1 h: a left-behind process may
    /// hold the pipe open. Default 1 s.
    pub output_grace: Duration,
    /// From SIGTERM to SIGKILL, 10 ms to 1 h. Default 10 s.
    pub kill_grace: Duration,
    /// Maximum time that an attached client without acknowledgements may hold a job, 10 ms to 1 h;
    /// then the job continues, and the client gets what is left in the log. Default 5 min.
    pub attach_timeout: Duration,
    /// `[[dispatcher.queue]]`, at most 64: queues of which more than one job runs. Default: none.
    pub queue: Vec<JobQueue>,
}

/// `[[dispatcher.queue]]`: a queue of jobs. `name` and `parallel` are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobQueue {
    /// As jobs name it: 1 to 128 bytes without control characters, unlike any other.
    pub name: String,
    /// Jobs of it that run at a time, 1 to 4096; of a queue that is not configured it is one.
    pub parallel: usize,
    /// Whether a failed job of it is an alert, until one of it succeeds. Default: no.
    pub alert: bool,
}

/// `[store]`: durable storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Whether jobs survive the daemon. Otherwise they and their logs are forgotten at its end.
    /// Default: yes.
    pub journal: bool,
    /// Time limit of the store's replies, 100 ms to 1 h; beyond it the store counts as hung: no job
    /// is accepted, and events continue. Default 5 s.
    pub deadline: Duration,
    /// Maximum delay of a finished event while the outcome cannot be persisted, 100 ms to 24 h;
    /// then it is published nevertheless. Default 60 s.
    pub patience: Duration,
    /// Maximum number of bytes of job logs in flight to the store, 64 KiB to 64 MiB; above it no
    /// output of jobs is read. Default 128 KiB.
    pub backlog: usize,
    /// Bytes of the history of events, 1 MiB to 1 GiB, the oldest make room; 0 for none, which removes
    /// the one that there is. Default 16 MiB.
    pub history: usize,
}

/// `[life_preserver]`: snapshots and replications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifePreserver {
    /// The followed log, an absolute path; `None` (`""`) for none. Default
    /// `/var/log/lpreserver/lpreserver.log`.
    pub log: Option<PathBuf>,
    /// Directory with additional log rules, an absolute path; `None` (`""`) for none. A file
    /// replaces the embedded rules of the same name. Default: none.
    pub rules_dir: Option<PathBuf>,
    /// The rules of that directory, and the embedded ones.
    pub rules: Rules,
    /// `[[life_preserver.source]]`, at most 64: further logs. Default: none.
    pub source: Vec<LogSource>,
    /// Maximum length of a line, 256 B to 8 KiB; longer ones are cut, which is logged. Default 4
    /// KiB.
    pub max_line: usize,
    /// Bytes of a log read at once, which may be repeated after a crash, from eight lines of
    /// maximum length to 1 MiB. Default 64 KiB.
    pub slice: usize,
    /// Interval between polls of a file whose changes the kernel does not report, 100 ms to 1 h.
    /// Default 5 s.
    pub poll_interval: Duration,
    /// Interval between polls of other files, from `poll_interval` to 24 h. Default 60 s.
    pub check_interval: Duration,
    /// Grace period in which a renamed log is still read, 10 ms to 1 h. Default 10 s.
    pub rotation_wait: Duration,
    /// Maximum pause of reading logs for a client whose outbox is more than half full, 10 ms to 1
    /// h; then the client is closed with 1013. Also the maximum pause until positions are
    /// persisted; then reading continues regardless. Default 5 s.
    pub pause: Duration,
    /// Maximum time, at the start, that lines written while the daemon was down wait for a
    /// subscriber, 10 ms to 1 h. Default 5 s.
    pub start_wait: Duration,
    /// Maximum number of replications followed at a time, 1 to 256; beyond it the oldest is
    /// dropped. Default 16.
    pub max_replications: usize,
    /// Minimum interval between two progress events of one replication, 10 ms to 1 h. Default 1 s.
    pub progress_interval: Duration,
    /// A replication without progress for this long, 1 s to 365 d, is no longer followed. Default
    /// 24 h.
    pub progress_timeout: Duration,
}

/// `[[life_preserver.source]]`: a log of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// Its path.
    pub log: PathBuf,
    /// Rules for its lines: `rule`, or a set of one rule for `match`.
    pub rules: Arc<RuleSet>,
}

/// `[system_state]`: pools and the host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemState {
    /// Interval between two checks, 100 ms to 24 h. Default 60 s.
    pub interval: Duration,
    /// Maximum time without an event, from `interval` to 365 d. Default 15 min.
    pub report_interval: Duration,
    /// The program to run: an absolute path, or a name that is looked up in PATH, `/sbin`,
    /// `/usr/local/sbin` and `/usr/sbin`. Default `zpool`.
    pub zpool: PathBuf,
    /// Whether it is run where ZFS is not loaded: a `zpool` run by root loads it. Default: no.
    pub zpool_when: ZpoolWhen,
    /// Time limit of one command, 10 ms to 1 h; then the pools count as not responding. Default 10
    /// s.
    pub zpool_deadline: Duration,
    /// Maximum output of one command, 4 KiB to 16 MiB; longer output counts as a failure. Default
    /// 256 KiB.
    pub zpool_output: usize,
    /// A pool filled beyond this percentage, 1 to 100, is critical. Default 90.
    pub capacity_warning: usize,
    /// The socket of devd with the kernel's events, an absolute path of at most 103 bytes; `None`
    /// (`""`) for none. Default `/var/run/devd.seqpacket.pipe`.
    pub devd: Option<PathBuf>,
    /// Whether `zpool events` is followed where there is no devd. Default: yes.
    pub zpool_events: bool,
    /// Time in which kernel events are coalesced before the check that they cause, 10 ms to 1 h.
    /// Default 200 ms.
    pub event_delay: Duration,
    /// Maximum pause between such checks while events continue, 1 s to 1 h; the first pause is a
    /// second, and each is twice the previous one. Default 30 s.
    pub event_pause: Duration,
}

/// When `zpool` is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZpoolWhen {
    /// Only where ZFS is loaded already.
    Loaded,
    /// Always.
    Always,
}

/// `[bridge]`: links to relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Role of a client that uses a relay in clear. Default: none.
    pub allow_legacy_bridge_clients: LegacyBridgeClients,
    /// Minimum interval before a reconnection, 100 ms to 1 h; each interval is about twice the
    /// previous one. Default 1 s.
    pub shortest_pause: Duration,
    /// Maximum interval before a reconnection, from `shortest_pause` to 24 h. Default 60 s.
    pub longest_pause: Duration,
    /// Interval before a reconnection to a relay that rejected the server's key, 100 ms to 24 h:
    /// relays block origins that fail too often. Default 150 s, four times in ten minutes.
    pub refused_pause: Duration,
    /// `[[bridge.link]]`, at most 64. Default: none.
    pub link: Vec<BridgeLink>,
}

/// Role of clients without end-to-end encryption, whom the operator of a relay could impersonate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyBridgeClients {
    /// They are refused.
    No,
    /// At most the role `read`.
    Read,
    /// The role of their key.
    Full,
}

/// `[[bridge.link]]`: a link to a relay. All keys but the last are required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeLink {
    /// Name of the link in messages, 1 to 64 bytes, unique.
    pub name: String,
    /// Address of the relay, unique.
    pub url: BridgeUrl,
    /// SHA-256 of its certificate, 64 lower-case hexadecimal digits.
    pub fingerprint: String,
    /// Whether the relay is of the original kind, to which the server authenticates with a separate
    /// key in the legacy form. Default: no.
    pub legacy: bool,
}

/// `[relay]`: the relay; it shares nothing with `serve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// TLS listeners, as in [`Server::listen`]. Default: port 12149 of both loopback addresses.
    pub listen: Vec<SocketAddr>,
    /// Proxies, as in [`Server::proxy_protocol`]. Default: none.
    pub proxy_protocol: Vec<Network>,
    /// The Unix socket for the operator's status requests, an absolute path; `None` (`""`) for
    /// none. Default: that of the home.
    pub socket: Option<PathBuf>,
    /// Names or IP addresses of the relay, for the Origin check and a new certificate; the host
    /// name is always included. Default: none.
    pub hosts: Vec<String>,
    /// PEM, an absolute path. Default: that of the home.
    pub certificate: PathBuf,
    /// PEM, an absolute path. Default: that of the home.
    pub private_key: PathBuf,
    /// The state directory, an absolute path. Default: that of the home.
    pub state: PathBuf,
    /// The user to become when started as root; `None` (`""`) to stay. Default `sysadm_bridge`.
    pub user: Option<String>,
    /// Authenticated peers, 1 to 65536; one more is closed with 1013. One key has at most half of
    /// those that the others leave. Default 1024.
    pub max_peers: usize,
    /// Maximum number of unauthenticated connections, 1 to 65536, as in [`Server`]. Default 64.
    pub max_unauthenticated: usize,
    /// Maximum number of registered keys, 1 to 4096; further ones are rejected. Default 1024.
    pub max_keys: usize,
    /// As [`Auth::max_legacy_keys`]. Default 32.
    pub max_legacy_keys: usize,
    /// Maximum size of one incoming message. Larger messages close the connection with 1009. Range
    /// 32 KiB to 64 MiB. Default 256 KiB.
    pub max_message: usize,
    /// Maximum number of bytes queued for one peer, 128 KiB to 1 GiB, and at least twice
    /// `max_message`; beyond it the peer is closed with 1013. Default 4 MiB.
    pub queue: usize,
    /// The same for all peers together, messages that they have begun to send included, 128 KiB to
    /// 1 GiB: above it, the one that holds the most of the key that does is closed. Default 64 MiB.
    pub queue_total: usize,
    /// A peer that sends to one whose queue is more than half full is not read until that one has
    /// read. Senders do not wait for a peer that reads less than 1/64 of its queue in this time, 10
    /// ms to 1 h, and never longer than eight times this time. Default 1 s.
    pub pause: Duration,
    /// Time limit of TLS and the WebSocket upgrade. Default 10 s.
    pub handshake_timeout: Duration,
    /// Time limit of authentication. Default 30 s.
    pub auth_timeout: Duration,
    /// Time limit of an incomplete message. Default 30 s.
    pub message_timeout: Duration,
    /// Time limit of closing a connection. Default 5 s.
    pub close_timeout: Duration,
    /// Interval between pings to a silent peer, 100 ms to 1 h; two unanswered ones end the
    /// connection. Default 30 s.
    pub ping_interval: Duration,
}

/// `[paths]`: directories of `serve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Journal, job logs, offsets and registered keys, an absolute path.
    /// Default: that of the home.
    pub state: PathBuf,
}

/// `[log]`: the daemon's own messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Minimum level of messages. Default `info`.
    pub level: log::LevelFilter,
    /// Destination. Default `auto`.
    pub target: LogTarget,
}

/// Destination of the daemon's own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error where that is a terminal, else syslog.
    Auto,
    /// Standard error.
    Stderr,
    /// Syslog, facility daemon.
    Syslog,
}
