//! The values of the configuration: one struct a section, one field a key, named alike.
//!
//! Each field says its unit, its bounds, what happens at the limit, and its default. Times are
//! bounded so that a clock can always be advanced by them, sizes and counts so that sums of them
//! never overflow.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::link::BridgeUrl;
use super::rules::Rules;
use crate::rules::RuleSet;

/// `[server]`: listeners, clients and their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// TLS listeners, at most 64, port 0 for any free one; `IPV6_V6ONLY` is always set.
    /// Default: port 12150 of both loopback addresses.
    pub listen: Vec<SocketAddr>,
    /// Listeners without TLS, at most 64, loopback addresses only. Default: none.
    pub listen_plain: Vec<SocketAddr>,
    /// The Unix socket, an absolute path of at most 103 bytes; `None` (`""`) for none.
    /// Default: that of the [`Home`](super::Home).
    pub socket: Option<PathBuf>,
    /// Permissions of the socket, at most 0777. Default 0666: peers are known by their uid.
    pub socket_mode: u32,
    /// Names and addresses that this server is reached by, at most 64, in lower case: for the
    /// Origin rule and the certificate. The host name always counts. Default: none.
    pub hosts: Vec<String>,
    /// Authenticated clients, 1 to 65536. Root and the daemon's own user may have all of them, and
    /// 8 more at the local socket; any other user at most half of those that the others leave. One
    /// more is closed with 1013. Default 1024.
    pub max_clients: usize,
    /// Connections that have not authenticated, 1 to 65536: so many whose handshake is over, and
    /// so many others. When all are taken, a connection that makes no progress is dropped at random,
    /// or the newest is refused with 503. At most 4 of one address make no progress. Default 64.
    pub max_unauthenticated: usize,
    /// One incoming message, 8 KiB to 64 MiB; a larger one closes its connection with 1009.
    /// Default 256 KiB.
    pub max_message: usize,
    /// Bytes that wait for one client, from twice `events.max_event` to 1 GiB; what makes room in
    /// a full one is protocol section 2, and what cannot closes the client with 1013.
    /// Default 1 MiB.
    pub outbox: usize,
    /// Bytes that wait for all clients together, from `outbox` to 1 GiB; above it the fullest
    /// outbox of the user with the most is closed. Clients of a user for whom half of it waits are
    /// not read. Default 16 MiB.
    pub outbox_total: usize,
    /// Bytes of unfinished messages of all clients together, 128 KiB to 1 GiB, and two messages at
    /// least; above it the largest of the user with the most is closed with 1013. Default 16 MiB.
    pub inbox_total: usize,
    /// PEM, an absolute path; made at the first start. Default: that of the home.
    pub certificate: PathBuf,
    /// PEM, an absolute path; made at the first start. Default: that of the home.
    pub private_key: PathBuf,
    /// For TLS and the request that opens a WebSocket, 10 ms to 1 h; then the connection is
    /// closed. Default 10 s.
    pub handshake_timeout: Duration,
    /// For authentication, 10 ms to 1 h; then the connection is closed with 1008. Default 30 s.
    pub auth_timeout: Duration,
    /// For a message that has begun, 10 ms to 1 h; then the connection is closed with 1008.
    /// Default 30 s.
    pub message_timeout: Duration,
    /// For the closing handshake, and for what waits to be sent when the daemon stops, 10 ms to
    /// 1 h; then the connection is cut. Default 5 s.
    pub close_timeout: Duration,
    /// Between two pings, 100 ms to 1 h; a peer that left two unanswered is dead. Default 30 s.
    pub ping_interval: Duration,
    /// Whether the daemon's pages are locked in memory. Default: no.
    pub lock_memory: bool,
}

/// `[auth]`: who may come in, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether accounts of the host may use their passwords; only where the daemon is root.
    /// Default: yes.
    pub pam: bool,
    /// The PAM service, of at most 64 bytes; never `login` or `system`, which let people in
    /// without a password. Default `sysadm-events`.
    pub pam_service: String,
    /// Groups of the role `full`, at most 64. Default `wheel`.
    pub full_access_groups: Vec<String>,
    /// Groups of the role `read`, at most 64. Default `operator`.
    pub read_only_groups: Vec<String>,
    /// How long a token is valid after its last use, 1 s to 365 d. Default 15 min.
    pub token_ttl: Duration,
    /// Failures of one address within `fail_window`, 1 to 1000; the next one blocks it.
    /// Default 5.
    pub fail_limit: usize,
    /// How long a failure counts, 1 s to 365 d. Default 10 min.
    pub fail_window: Duration,
    /// How long an address stays blocked, 1 s to 365 d. Default 60 min.
    pub block_time: Duration,
    /// Addresses whose failures are remembered, 16 to 65536; of more the one forgets that is least
    /// of a danger. Default 4096.
    pub max_addresses: usize,
    /// Whether loopback addresses are blocked like others, for tests. Default: no, failures there
    /// only delay the answer.
    pub throttle_loopback: bool,
    /// Between two looks at the accounts of those who are connected, 1 s to 1 h. Default 5 min.
    pub recheck_interval: Duration,
    /// For a look at users and groups, 10 ms to 1 h; then whoever asked is refused. Default 10 s.
    pub lookup_deadline: Duration,
    /// For a password, or the account of who shows a key, 10 ms to 1 h, waiting for its turn
    /// included; then it is refused.
    /// Default 20 s.
    pub check_deadline: Duration,
    /// Passwords, and accounts of keys, that are checked at a time, 1 to 64; others wait.
    /// Default 4.
    pub max_checks: usize,
    /// Such checks that wait, 1 to 1024 of each kind; one more is refused with 429. Default 16.
    pub max_waiting_checks: usize,
    /// After such a time without a question the accounts helper ends, 100 ms to 1 h.
    /// Default 60 s.
    pub helper_idle: Duration,
    /// Registered keys, 1 to 4096; one more is refused with 429. Default 1024.
    pub max_keys: usize,
    /// Registered keys of one user, 1 to 4096; one more is refused with 429. Default 32.
    pub max_keys_per_user: usize,
    /// Legacy keys, 1 to 256; one more is refused with 429, and is not tried where it stands in the
    /// file: who shows such a key does not say which, so a stranger can have all of them tried.
    /// Default 32.
    pub max_legacy_keys: usize,
    /// Legacy keys that clients register for one user, 1 to 256, so that nobody takes the places of
    /// all others; one more is refused with 429. The original client passes over that, so the
    /// default, 16, is more than one user has machines.
    pub max_legacy_keys_per_user: usize,
}

/// `[events]`: the ring and the size of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// Bytes of events kept for replay, from `max_event` to 1 GiB; the oldest make room.
    /// Default 2 MiB.
    pub ring: usize,
    /// One encoded event, 64 KiB to 64 MiB; logs in it are cut head and tail. Default 256 KiB.
    pub max_event: usize,
}

/// `[dispatcher]`: jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatcher {
    /// Jobs that run at a time, 1 to 4096; others stay pending. Default 16.
    pub max_running: usize,
    /// Jobs that wait, 1 to 65536; one more is refused with 429. Default 256.
    pub max_pending: usize,
    /// Commands of one job, 1 to 16384; a job of more is refused with 413. Default 256.
    pub max_commands: usize,
    /// A job's log, 1 KiB to 1 GiB; cut head and tail. Default 1 MiB.
    pub log_limit: usize,
    /// A command's log in an event, 1 KiB to 64 MiB; cut head and tail. Default 64 KiB.
    pub event_log_limit: usize,
    /// Finished jobs that are kept, 1 to 65536; the oldest go. Default 100.
    pub retain_jobs: usize,
    /// How long a finished job is kept, 1 s to 3650 d. Default 24 h.
    pub retain_time: Duration,
    /// The least time between two running events of one job, 10 ms to 1 h. Default 1 s.
    pub output_interval: Duration,
    /// How long a command's output is awaited after its end, 10 ms to 1 h: a process left behind
    /// may hold the pipe. Default 1 s.
    pub output_grace: Duration,
    /// From SIGTERM to SIGKILL, 10 ms to 1 h. Default 10 s.
    pub kill_grace: Duration,
    /// How long an attached client that acknowledges nothing holds a job back, 10 ms to 1 h; after
    /// that the job goes on, and the client gets what its log still has. Default 5 min.
    pub attach_timeout: Duration,
}

/// `[store]`: how the daemon keeps what must outlive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Whether jobs outlive the daemon. Without it they, and their logs, are forgotten at its end.
    /// Default: yes.
    pub journal: bool,
    /// How long the store may take for an answer, 100 ms to 1 h; then it counts as hung: no job is
    /// taken, and events go on. Default 5 s.
    pub deadline: Duration,
    /// How long the end of a job is not told while it cannot be kept, 100 ms to 24 h; then it is told
    /// all the same. Default 60 s.
    pub patience: Duration,
    /// Bytes of job logs on their way to the store, 64 KiB to 64 MiB; above it no output of jobs
    /// is read. Default 128 KiB.
    pub backlog: usize,
}

/// `[life_preserver]`: snapshots and replications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifePreserver {
    /// The log that is followed, an absolute path; `None` (`""`) for off.
    /// Default `/var/log/lpreserver/lpreserver.log`.
    pub log: Option<PathBuf>,
    /// Directory with further files of log rules, an absolute path; `None` (`""`) for none. A file
    /// replaces the embedded rules of its name. Default: none.
    pub rules_dir: Option<PathBuf>,
    /// The rules of that directory, and the embedded ones.
    pub rules: Rules,
    /// `[[life_preserver.source]]`, at most 64: further logs. Default: none.
    pub source: Vec<LogSource>,
    /// The longest line, 256 B to 8 KiB; a longer one is cut, and that is logged. Default 4 KiB.
    pub max_line: usize,
    /// What is read of a log at once, and what a crash may repeat, from eight of the longest lines
    /// to 1 MiB. Default 64 KiB.
    pub slice: usize,
    /// Between two looks at a file whose changes the kernel does not tell, 100 ms to 1 h.
    /// Default 5 s.
    pub poll_interval: Duration,
    /// Between two looks at any other, from `poll_interval` to 24 h. Default 60 s.
    pub check_interval: Duration,
    /// How long a log that was renamed away is still read, 10 ms to 1 h. Default 10 s.
    pub rotation_wait: Duration,
    /// How long logs are not read for the sake of a client whose outbox is above half, 10 ms to
    /// 1 h; then the client is closed with 1013. As long, where what was read last is not kept yet;
    /// then reading goes on without. Default 5 s.
    pub pause: Duration,
    /// How long what was written while the daemon was down waits at the start for somebody who
    /// wants it, 10 ms to 1 h. Default 5 s.
    pub start_wait: Duration,
    /// Replications whose progress is followed at a time, 1 to 256; the oldest is forgotten for
    /// another. Default 16.
    pub max_replications: usize,
    /// The least time between two events of one replication's progress, 10 ms to 1 h.
    /// Default 1 s.
    pub progress_interval: Duration,
    /// A replication without news for so long, 1 s to 365 d, is no longer followed. Default 24 h.
    pub progress_timeout: Duration,
}

/// `[[life_preserver.source]]`: a log of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// Its path.
    pub log: PathBuf,
    /// Meaning of its lines: `rule`, or a set of one rule for `match`.
    pub rules: Arc<RuleSet>,
}

/// `[system_state]`: pools and the host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemState {
    /// Between two checks, 100 ms to 24 h. Default 60 s.
    pub interval: Duration,
    /// The longest time without an event, from `interval` to 365 d. Default 15 min.
    pub report_interval: Duration,
    /// The program to ask: an absolute path, or a name that is looked up in PATH, `/sbin`,
    /// `/usr/local/sbin` and `/usr/sbin`. Default `zpool`.
    pub zpool: PathBuf,
    /// Whether it is run where ZFS is not loaded: a `zpool` run by root loads it. Default: it is
    /// not.
    pub zpool_when: ZpoolWhen,
    /// For its answer, 10 ms to 1 h; then the pools count as not answering. Default 10 s.
    pub zpool_deadline: Duration,
    /// One answer, 4 KiB to 16 MiB; a longer one counts as a failure. Default 256 KiB.
    pub zpool_output: usize,
    /// Above so many per cent, 1 to 100, a pool is critically full. Default 90.
    pub capacity_warning: usize,
    /// The socket at which devd tells what the kernel says, an absolute path of at most 103
    /// bytes; `None` (`""`) for none. Default `/var/run/devd.seqpacket.pipe`.
    pub devd: Option<PathBuf>,
    /// Whether `zpool events` is followed where there is no devd. Default: yes.
    pub zpool_events: bool,
    /// How long events of the kernel are gathered before the check that they cause, 10 ms to
    /// 1 h. Default 200 ms.
    pub event_delay: Duration,
    /// The longest pause between such checks while events go on and on, 1 s to 1 h; the first
    /// pause is a second, and each is twice the one before. Default 30 s.
    pub event_pause: Duration,
}

/// Where `zpool` is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZpoolWhen {
    /// Only where ZFS is loaded already.
    Loaded,
    /// Everywhere.
    Always,
}

/// `[bridge]`: the bridges that `serve` dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// What a client may do that speaks through a bridge in clear. Default: nothing.
    pub allow_legacy_bridge_clients: LegacyBridgeClients,
    /// Before a bridge is dialled again, 100 ms to 1 h; each pause is about twice the one before.
    /// Default 1 s.
    pub shortest_pause: Duration,
    /// The longest of these pauses, from `shortest_pause` to 24 h. Default 60 s.
    pub longest_pause: Duration,
    /// Before a bridge is dialled again that does not know our key, 100 ms to 24 h: it blocks whoever
    /// fails too often. Default 150 s, which is four times in ten minutes.
    pub refused_pause: Duration,
    /// `[[bridge.link]]`, at most 64. Default: none.
    pub link: Vec<BridgeLink>,
}

/// What whoever runs the bridge could do in the name of a client without end-to-end encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyBridgeClients {
    /// They are refused.
    No,
    /// They have the role `read`, whoever they are.
    Read,
    /// They have the role of their key.
    Full,
}

/// `[[bridge.link]]`: a bridge to dial. All keys but the last are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeLink {
    /// How the link is called in messages, 1 to 64 bytes, unlike any other.
    pub name: String,
    /// Where the bridge is, unlike any other.
    pub url: BridgeUrl,
    /// SHA-256 of its certificate, 64 lower-case hexadecimal digits.
    pub fingerprint: String,
    /// Whether the bridge is of the original kind, to which the server shows another key in the old
    /// way. Default: no.
    pub legacy: bool,
}

/// `[relay]`: the bridge itself; nothing of it is shared with `serve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// TLS listeners, as in [`Server::listen`]. Default: port 12149 of both loopback addresses.
    pub listen: Vec<SocketAddr>,
    /// The Unix socket by which whoever started it asks how it is doing, an absolute path; `None`
    /// (`""`): there is none. Default: that of the home.
    pub socket: Option<PathBuf>,
    /// Names or IP addresses that the bridge is reached by, for `Origin` and a new certificate; the
    /// host's own name always is. Default: none.
    pub hosts: Vec<String>,
    /// PEM, an absolute path. Default: that of the home.
    pub certificate: PathBuf,
    /// PEM, an absolute path. Default: that of the home.
    pub private_key: PathBuf,
    /// The state directory, an absolute path. Default: that of the home.
    pub state: PathBuf,
    /// The user that it becomes where it was started as root; `None` (`""`): it stays who it is.
    /// Default `sysadm_bridge`.
    pub user: Option<String>,
    /// Authenticated peers, 1 to 65536; one more is closed with 1013. Default 1024.
    pub max_peers: usize,
    /// Connections that have not authenticated, 1 to 65536, as in [`Server`]. Default 64.
    pub max_unauthenticated: usize,
    /// Registered keys, 1 to 4096; one more is not taken. Default 1024.
    pub max_keys: usize,
    /// As [`Auth::max_legacy_keys`]. Default 32.
    pub max_legacy_keys: usize,
    /// One incoming message, 32 KiB to 64 MiB; a larger one closes its connection with 1009.
    /// Default 256 KiB.
    pub max_message: usize,
    /// What waits for one peer, 128 KiB to 1 GiB, and twice `max_message` at least; a peer for which
    /// there is more is closed with 1013. Default 4 MiB.
    pub queue: usize,
    /// The same for all peers together, 128 KiB to 1 GiB: above it, the one for which the most waits
    /// is closed. Default 64 MiB.
    pub queue_total: usize,
    /// A peer that sends to one with more than half of its queue waiting is not read until that one
    /// has read; nobody waits for one that reads less than 1/64 of its queue in this time, 10 ms to
    /// 1 h, and nobody longer than eight times that. Default 1 s.
    pub pause: Duration,
    /// From the accepted connection to the end of TLS and the WebSocket upgrade. Default 10 s.
    pub handshake_timeout: Duration,
    /// From the accepted connection to authentication. Default 30 s.
    pub auth_timeout: Duration,
    /// From the beginning of a message to its end. Default 30 s.
    pub message_timeout: Duration,
    /// For the end of a connection that is being closed. Default 5 s.
    pub close_timeout: Duration,
    /// Between pings to a silent peer, 100 ms to 1 h; two that stay unanswered end the connection.
    /// Default 30 s.
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
    /// The least important messages that are written. Default `info`.
    pub level: log::LevelFilter,
    /// Where to. Default `auto`.
    pub target: LogTarget,
}

/// Where the daemon's own messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error where that is a terminal, else syslog.
    Auto,
    /// Standard error.
    Stderr,
    /// Syslog, facility daemon.
    Syslog,
}
