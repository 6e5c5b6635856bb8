//! Start of the server, from the configuration to listening sockets.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use log::{info, warn};
use mio::Interest;

use super::accounts::{self, AccountsHelper};
use super::alerts::AlertDesk;
use super::clients::{ClientLimits, Clients};
use super::errands::Errands;
use super::expectations::ExpectationDesk;
use super::files::FileWorkers;
use super::jobs::Jobs;
use super::keys::Keys;
use super::life_preserver::Logs;
use super::links::Links;
use super::notify::Notifications;
use super::storage::{Storage, paused_queues};
use super::system_state::{self, Probes};
use super::{OpenListener, Phase, PollToken, SCRATCH, Server};
use crate::auth::{self, Throttle, Tokens};
use crate::config::{Config, Home};
use crate::daemon::{
    Address, FrontLimits, Listening, PidFile, StartError, bind, hostname, lock, log_fingerprint,
    make_private, random_hex,
};
use crate::dispatcher::{self, Dispatcher, Environment};
use crate::helper::accounts::{Accounts, look_up_now};
use crate::helper::{self, store};
use crate::hub::Hub;
use crate::moment::Moment;
use crate::net::certificate::{self, ServerSide};
use crate::net::{self, AllowedOrigins, Listener, Transport};
use crate::reactor::{Reactor, TurnTimer};
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;
use crate::sys::{descriptors, memory, process_tree};
use crate::system_state::{Starter, SystemState};

/// The pid file, if configured.
pub(super) fn pid_file(path: Option<&Path>) -> Result<Option<PidFile>, StartError> {
    let failed = |path: &Path, error| StartError::PidFile(path.to_owned(), error);
    path.map(|path| PidFile::write(path).map_err(|error| failed(path, error))).transpose()
}

pub(super) fn start(
    config: Config,
    file: Option<PathBuf>,
    home: Home,
) -> Result<Server, StartError> {
    let may_block = MayBlock::before_loop();
    let limit = descriptors::raise_limit()
        .map_err(|error| warn!("cannot raise the limit of descriptors: {error}"))
        .ok();
    process_tree::become_reaper()
        .map_err(|e| StartError::system("become the reaper of jobs", e))?;
    make_private(&config.paths.state)?;
    let lock = lock(&config.paths.state)?;
    if config.server.lock_memory
        && let Err(error) = memory::lock()
    {
        warn!("cannot lock the memory of the daemon: {error}");
    }
    let mut reactor = Reactor::new().map_err(|e| StartError::system("make a poll loop", e))?;
    let hostname = hostname();
    let tls = tls(&config, &hostname, &Files::of_system(may_block))?;
    log_fingerprint(tls.as_ref(), None);
    let epoch = random_hex(8).map_err(|e| StartError::system("name this run", e))?;
    let found = look_up_now(&accounts::asked(&config), config.auth.lookup_deadline);
    let groups_missing = found.as_ref().map_or(true, |found| !found.failed.is_empty());
    let found = found.unwrap_or_else(|error| {
        warn!("cannot look up groups: {error}; roles by groups are unavailable until then");
        Accounts {
            user: nix::unistd::geteuid().to_string(),
            home: "/".into(),
            ..Accounts::default()
        }
    });
    let environment = Environment::new(&found.home, &found.user, limit)
        .map_err(|error| StartError::system("open /dev/null", error))?;
    let starter =
        Starter::new(limit).map_err(|error| StartError::system("open /dev/null", error))?;
    let now = Moment::now();
    let state = &config.paths.state;
    let (place, directory) = store::StoreLocation::open(state, config.store.journal)
        .map_err(|error| StartError::Directory(state.clone(), error.to_string()))?;
    let mut dispatcher = Dispatcher::new(job_limits(&config), place.journal);
    dispatcher.set_parallel(parallel(&config));
    dispatcher.restore_paused(paused_queues(state));
    let mut jobs = Jobs::new(environment, &epoch, config.dispatcher.output_grace);
    take_over(&place, &mut dispatcher, &mut jobs, now)?;
    let notifications = Notifications::begin(&config, &place, &hostname, now);
    let mut storage = Storage::new(place, store_limits(&config), (lock, directory), now.instant);
    storage.begin_early(&mut reactor, now.instant);
    let alerts = AlertDesk::begin(&config, &epoch, may_block, now);
    let expectations = ExpectationDesk::begin(&config, may_block, now);
    let links = Links::begin(&config, may_block);
    let logs = Logs::begin(&config, may_block, now);
    let keys = Keys::begin(&config.paths.state, config.auth.max_legacy_keys, may_block);
    let mut server = Server {
        system_state: SystemState::new(system_state::limits(&config), &hostname),
        probes: Probes::new(starter),
        hostname,
        started: now,
        reactor,
        listeners: Vec::new(),
        last_listener: 0,
        tls,
        origins: AllowedOrigins::default(),
        roles: accounts::roles(&found, &config),
        accounts: AccountsHelper::new(accounts_limits(&config), now.instant),
        throttle: Throttle::new(throttle_limits(&config)),
        clients: Clients::new(client_limits(&config)),
        tokens: Tokens::new(config.auth.token_ttl, config.server.max_clients),
        keys,
        hub: Hub::new(&epoch, config.events.max_event, config.events.ring),
        alerts,
        expectations,
        dispatcher,
        deliveries: VecDeque::new(),
        starts: VecDeque::new(),
        last_step: 0,
        attachments: Default::default(),
        jobs,
        outputs: VecDeque::new(),
        logs,
        file_workers: FileWorkers::default(),
        errands: Errands::default(),
        notifications,
        reloaded: None,
        links,
        storage,
        phase: Phase::Serving,
        scratch: vec![0; SCRATCH],
        ended: Vec::new(),
        status_reply: None,
        last_served: 0,
        config,
        file,
        home,
    };
    let addresses = addresses(&server.config);
    let bound = bind(&addresses, server.config.server.socket_mode)?;
    if bound.is_empty() && !addresses.is_empty() {
        let nowhere = io::ErrorKind::AddrNotAvailable.into();
        return Err(StartError::Listen("any of its addresses".to_owned(), nowhere));
    }
    server.listen(bound);
    server.find_origins();
    if groups_missing {
        server.accounts.miss_groups(server.config.auth.recheck_interval, now.instant);
    }
    AccountsHelper::watch_group_file(&mut server.reactor, may_block);
    server.system_state.begin(now);
    server.notify_of_active_alerts(now);
    server.send_checksums(now);
    server.configure_links(now);
    server.warn_of_callers();
    server.watch_keys(now);
    server.settle(now, &mut TurnTimer::begin());
    // Lines written from now on are read, also if the daemon is killed next; a file that hangs, or a
    // store, delays the start by its deadline only.
    let mut ready = Vec::new();
    while !server.logs.is_anchored() && server.phase == Phase::Serving {
        server.turn(&mut ready)?;
    }
    memory::give_back_code();
    info!("ready, pid {}, epoch {epoch}", std::process::id());
    Ok(server)
}

/// Takes over the jobs of the previous daemon.
fn take_over(
    place: &store::StoreLocation,
    dispatcher: &mut Dispatcher,
    jobs: &mut Jobs,
    now: Moment,
) -> Result<(), StartError> {
    let failed = |error: io::Error| StartError::Directory(place.logs(), error.to_string());
    let loaded = if place.journal { store::load(&place.journal()) } else { Default::default() };
    for remark in &loaded.remarks {
        warn!("journal: {remark}");
    }
    let ends = store::log_ends(place);
    let end_of = |serial| ends.get(&serial).copied().unwrap_or_default();
    for interrupted in dispatcher.restore(&loaded, end_of, now) {
        let id = dispatcher.id(interrupted.serial).unwrap_or_default();
        warn!("job {id:?} ran when the daemon before this one died; it is not run again");
        jobs.adopt(interrupted.serial, interrupted.traces);
    }
    let removed = store::prepare(place, |serial| dispatcher.knows(serial)).map_err(failed)?;
    let counts = dispatcher.counts();
    if counts != Default::default() || removed > 0 {
        let (pending, finished) = (counts.pending, counts.finished);
        info!(
            "journal: {pending} jobs wait, {} were interrupted, {finished} are finished",
            counts.running
        );
    }
    Ok(())
}

impl Server {
    /// Starts to accept connections on bound listeners.
    pub(super) fn listen(&mut self, bound: Vec<(Address, Listener)>) {
        for (configured, mut listener) in bound {
            self.last_listener += 1;
            let key = PollToken::Listener(self.last_listener);
            match self.reactor.register(listener.source(), Interest::READABLE, key) {
                Ok(registered) => {
                    info!("listening on {}", listener.url());
                    let listening = Listening::new(listener, registered);
                    self.listeners.push(OpenListener {
                        number: self.last_listener,
                        listening,
                        configured,
                    });
                }
                Err(error) => log::error!("cannot watch {}: {error}", listener.url()),
            }
        }
    }

    /// Hosts allowed in an `Origin`, from the configuration and the listeners.
    pub(super) fn find_origins(&mut self) {
        let names =
            self.config.server.hosts.iter().map(String::as_str).chain([self.hostname.as_str()]);
        let addresses = self.listeners.iter().filter_map(|open| match open.listening.listener {
            Listener::Tcp(_, _, address) => Some(address),
            Listener::Unix(..) => None,
        });
        self.origins = AllowedOrigins::new(names, addresses);
    }
}

/// All configured addresses, in order.
pub(super) fn addresses(config: &Config) -> Vec<Address> {
    let tls = config.server.listen.iter().map(|address| Address::Tcp(*address, Transport::Tls));
    let plain = config.server.listen_plain.iter();
    let plain = plain.map(|address| Address::Tcp(*address, Transport::Plain));
    let unix = config.server.socket.iter().map(|path| Address::Unix(path.clone()));
    tls.chain(plain).chain(unix).collect()
}

/// The TLS configuration, if a listener or a tunnel uses TLS. Creates certificate and key if
/// missing.
///
/// # Errors
/// One of them cannot be read or created. Creates nothing if `files` is a snapshot.
pub(super) fn tls(
    config: &Config,
    hostname: &str,
    files: &Files,
) -> Result<Option<ServerSide>, StartError> {
    if config.server.listen.is_empty() && config.bridge.link.is_empty() {
        return Ok(None);
    }
    let (certificate, key) = (&config.server.certificate, &config.server.private_key);
    if let Some(may_block) = files.may_block() {
        let mut names = vec![hostname.to_owned()];
        names.extend(config.server.hosts.iter().filter(|host| *host != hostname).cloned());
        certificate::ensure(certificate, key, &names, may_block)
            .map_err(StartError::Certificate)?;
    }
    certificate::server_side(certificate, key, files).map(Some).map_err(StartError::Certificate)
}

pub(super) fn client_limits(config: &Config) -> ClientLimits {
    let server = &config.server;
    ClientLimits {
        max_clients: server.max_clients,
        front: FrontLimits {
            max_unauthenticated: server.max_unauthenticated,
            loopback_is_one: !config.auth.throttle_loopback,
            auth: server.auth_timeout,
        },
        max_message: server.max_message,
        outbox: server.outbox,
        outbox_total: server.outbox_total,
        inbox_total: server.inbox_total,
        connection: net::TransportLimits {
            handshake: server.handshake_timeout,
            ping: server.ping_interval,
            message: server.message_timeout,
            close: server.close_timeout,
        },
    }
}

pub(super) fn accounts_limits(config: &Config) -> helper::accounts::AccountsLimits {
    helper::accounts::AccountsLimits {
        lookup: config.auth.lookup_deadline,
        check: config.auth.check_deadline,
        at_once: config.auth.max_checks,
        waiting: config.auth.max_waiting_checks,
        idle: config.auth.helper_idle,
    }
}

pub(super) fn throttle_limits(config: &Config) -> auth::ThrottleLimits {
    auth::ThrottleLimits {
        failures: config.auth.fail_limit,
        window: config.auth.fail_window,
        block: config.auth.block_time,
        origins: config.auth.max_addresses,
    }
}

pub(super) fn store_limits(config: &Config) -> store::StoreLimits {
    let store = &config.store;
    store::StoreLimits {
        deadline: store.deadline,
        backlog: store.backlog,
        history: store.history as u64,
    }
}

/// The number of jobs that run at a time, of each configured queue.
pub(super) fn parallel(config: &Config) -> impl Iterator<Item = (String, usize)> {
    config.dispatcher.queue.iter().map(|queue| (queue.name.clone(), queue.parallel))
}

pub(super) fn job_limits(config: &Config) -> dispatcher::JobLimits {
    let jobs = &config.dispatcher;
    dispatcher::JobLimits {
        max_running: jobs.max_running,
        max_pending: jobs.max_pending,
        max_commands: jobs.max_commands,
        log_limit: jobs.log_limit,
        event_log_limit: jobs.event_log_limit,
        max_event: config.events.max_event,
        retain_jobs: jobs.retain_jobs,
        retain_time: jobs.retain_time,
        retain_environment: jobs.retain_environment,
        output_interval: jobs.output_interval,
        kill_grace: jobs.kill_grace,
        end_patience: config.store.patience,
    }
}
