//! Start of the relay, from the configuration to listening sockets.
//!
//! Everything that needs a path or a privilege happens here: afterwards the process runs as its own
//! user, and in capability mode, where available, no path can be opened. So files that are read
//! again are opened relative to open directories.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use log::{info, warn};
use mio::Interest;
use nix::unistd::{User, geteuid};
use zeroize::Zeroizing;

use super::anchored_file::AnchoredFile;
use super::connections::{ConnectionLimits, Connections};
use super::words::BESIDE;
use super::{Bridge, Forwarded, Phase, PollToken, SCRATCH};
use crate::auth::key::{KeyReader, KeyStore};
use crate::auth::{self, LegacyBudget, Throttle};
use crate::bridge::relay::Relay;
use crate::config::{Config, Home, Relay as Section};
use crate::daemon::{
    Address, FrontLimits, Listening, StartError, bind, hostname, lock, log_damaged,
    log_fingerprint, make_private, prepare,
};
use crate::moment::Moment;
use crate::net::certificate::{self, CertificateError, ServerSide};
use crate::net::{self, AllowedOrigins, Listener, Transport};
use crate::reactor::{Reactor, Watch};
use crate::sys::confinement::{self, Right};
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;
use crate::sys::{descriptors, memory, privileges};

/// The certificate and its key.
pub(super) struct Identity {
    pub(super) tls: ServerSide,
    /// Its SHA-256, which peers sign.
    pub(super) sha256: [u8; 32],
}

/// Files that are read again on reload.
pub(super) struct AnchoredFiles {
    /// `None` without a file.
    pub(super) config: Option<AnchoredFile>,
    certificate: AnchoredFile,
    private_key: AnchoredFile,
    keys: AnchoredFile,
    /// Held for the lifetime of the process.
    lock: File,
}

/// Maximum size of a certificate or key, in bytes.
const PEM: u64 = 256 * 1024;
/// Maximum size of the file of registered keys, in bytes.
const KEYS: u64 = 8 * 1024 * 1024;
/// Permissions of the local socket: the user that started the daemon.
const SOCKET_MODE: u32 = 0o600;

impl AnchoredFiles {
    /// Reads certificate and key.
    pub(super) fn identity(&self) -> Result<Identity, CertificateError> {
        let read = |place: &AnchoredFile| {
            place
                .read(PEM)
                .map_err(|error| CertificateError::File(place.path.clone(), "read", error))
        };
        let chain = read(&self.certificate)?;
        let secret = Zeroizing::new(read(&self.private_key)?);
        let (certificate, key) = (&self.certificate.path, &self.private_key.path);
        let tls = certificate::server_side_of((certificate, &chain), (key, &secret))?;
        let sha256 = tls.sha256();
        Ok(Identity { tls, sha256 })
    }

    /// Reads the file of registered keys; a missing one has no content.
    pub(super) fn keys(&self) -> io::Result<Vec<u8>> {
        match self.keys.read(KEYS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    /// The keys that were read, after a message about each damaged line.
    pub(super) fn parsed_keys(&self, reader: KeyReader) -> KeyStore {
        let (keys, damaged) = reader.finish();
        log_damaged(&self.keys.path, &damaged);
        keys
    }
}

pub(super) fn start(
    config: Config,
    file: Option<PathBuf>,
    home: Home,
) -> Result<Bridge, StartError> {
    prepare(&config);
    let relay = &config.relay;
    match descriptors::raise_limit() {
        Err(error) => warn!("cannot raise the limit of descriptors: {error}"),
        Ok(limit) => warn_of_descriptor_limit(relay, limit.hard),
    }
    let user = user_to_become(relay)?;
    make_private(&relay.state)?;
    let lock = match &user {
        None => lock(&relay.state)?,
        Some(user) => {
            give_state(&relay.state, user)
                .map_err(|error| StartError::Directory(relay.state.clone(), error.to_string()))?;
            privileges::for_once_as(user, || lock(&relay.state))
                .map_err(|error| StartError::system("act as the user of the bridge", error))??
        }
    };
    let hostname = hostname();
    make_certificate(relay, &hostname, user.as_ref())?;
    let mut reactor = Reactor::new().map_err(|e| StartError::system("make a poll loop", e))?;
    let bound = listen(relay)?;
    let watch = watch(&relay.state, &mut reactor);
    let places = places(&config, file.as_deref(), lock)?;
    let identity = places.identity().map_err(StartError::Certificate)?;
    log_fingerprint(Some(&identity.tls), None);
    crate::logger::open_socket_directories();

    if let Some(user) = &user {
        privileges::become_user(user)
            .map_err(|error| StartError::system("become the user of the bridge", error))?;
        info!("running as {}", user.name);
    }
    let content = places.keys().map_err(|error| {
        let path = KeyStore::path(&relay.state);
        StartError::Directory(path, format!("cannot read the registered keys: {error}"))
    })?;
    let mut reader = KeyReader::new(content);
    while reader.read_line() {}
    let keys = places.parsed_keys(reader);
    confine(&places, &bound).map_err(|error| StartError::system("confine itself", error))?;

    let origins = origins(&config, &hostname, &bound);
    let listeners = register(bound, &mut reactor)?;
    info!("registered keys: {}", keys.len());
    memory::give_back_code();
    info!("ready, pid {}", std::process::id());
    Ok(Bridge {
        files: Files::of_system(MayBlock::before_loop()),
        relay: Relay::new(&hostname),
        hostname,
        started: Moment::now(),
        reactor,
        listeners,
        identity,
        places,
        origins,
        throttle: Throttle::new(throttle_limits(&config)),
        legacy_budget: LegacyBudget::default(),
        connections: Connections::new(connection_limits(&config)),
        keys,
        searches: Default::default(),
        keys_are_old: false,
        key_reader: None,
        _watch: watch,
        forwarded: Forwarded::default(),
        phase: Phase::Serving,
        scratch: vec![0; SCRATCH],
        ended: Vec::new(),
        config,
        home,
    })
}

/// Descriptors besides connections: files, directories, operators.
const OTHERS: u64 = 64;

/// With fewer descriptors than the configured maximum, unauthenticated clients could use up those
/// of peers.
fn warn_of_descriptor_limit(relay: &Section, limit: u64) {
    let (peers, others) = (relay.max_peers, relay.max_unauthenticated);
    if limit < (peers + others) as u64 + OTHERS {
        warn!(
            "{limit} descriptors are too few for {peers} peers and {others} unauthenticated connections \
             (max_peers, max_unauthenticated)"
        );
    }
}

/// The user to become; `None` to stay the current user.
fn user_to_become(relay: &Section) -> Result<Option<User>, StartError> {
    let Some(name) = relay.user.as_ref().filter(|_| geteuid().is_root()) else { return Ok(None) };
    match User::from_name(name) {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err(StartError::User(format!(
            "there is no user {name:?}: make it, or name another by relay.user (\"\" to stay root)"
        ))),
        Err(error) => Err(StartError::User(format!("cannot look up the user {name:?}: {error}"))),
    }
}

/// Gives files that root created to the user. Root touches nothing in a directory that belongs to
/// the user already: the user could have put anything there.
fn give_state(directory: &Path, user: &User) -> io::Result<()> {
    let folder = File::open(directory)?;
    if folder.metadata()?.uid() != 0 || user.uid.is_root() {
        return Ok(());
    }
    let store = KeyStore::path(directory);
    for path in [directory.join("lock"), store.with_extension("lock"), store] {
        match hand_over(&path, user) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    fchown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
}

/// Changes the owner of a root-owned file, unless it has other names.
fn hand_over(path: &Path, user: &User) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.nlink() != 1 {
        return Err(io::Error::other("it is no plain file, or has another name elsewhere"));
    }
    if about.uid() != 0 {
        return Ok(());
    }
    fchown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
}

/// Creates certificate and key if missing; a new key is readable by the user, who reads it again on
/// reload.
fn make_certificate(
    relay: &Section,
    hostname: &str,
    user: Option<&User>,
) -> Result<(), StartError> {
    let (certificate, key) = (&relay.certificate, &relay.private_key);
    let is_new = !key.exists();
    let mut names = vec![hostname.to_owned()];
    names.extend(relay.hosts.iter().filter(|host| *host != hostname).cloned());
    certificate::ensure(certificate, key, &names, MayBlock::before_loop())
        .map_err(StartError::Certificate)?;
    match user {
        Some(user) if is_new => hand_over(key, user).map_err(|error| {
            StartError::Certificate(CertificateError::File(key.clone(), "hand over", error))
        }),
        Some(_) | None => Ok(()),
    }
}

fn listen(relay: &Section) -> Result<Vec<Listener>, StartError> {
    let tls = relay.listen.iter().map(|address| Address::Tcp(*address, Transport::Tls));
    let unix = relay.socket.iter().map(|path| Address::Unix(path.clone()));
    let bound = bind(&tls.chain(unix).collect::<Vec<_>>(), SOCKET_MODE)?;
    let listeners: Vec<Listener> = bound.into_iter().map(|(_, listener)| listener).collect();
    if !listeners.iter().any(|listener| matches!(listener, Listener::Tcp(..))) {
        let nowhere = io::ErrorKind::AddrNotAvailable.into();
        return Err(StartError::Listen("any address of relay.listen".to_owned(), nowhere));
    }
    Ok(listeners)
}

fn register(
    bound: Vec<Listener>,
    reactor: &mut Reactor<PollToken>,
) -> Result<Vec<Listening>, StartError> {
    let mut listeners = Vec::new();
    for mut listener in bound {
        let key = PollToken::Listener(listeners.len());
        let registered = reactor
            .register(listener.source(), Interest::READABLE, key)
            .map_err(|error| StartError::Listen(listener.url(), error))?;
        info!("listening on {}", listener.url());
        listeners.push(Listening::new(listener, registered));
    }
    Ok(listeners)
}

fn watch(state: &Path, reactor: &mut Reactor<PollToken>) -> Option<Watch> {
    let path = KeyStore::path(state);
    match reactor.watch_directory(
        state,
        path.file_name()?,
        PollToken::Keys,
        MayBlock::before_loop(),
    ) {
        Ok(watch) => Some(watch),
        Err(error) => {
            let path = path.display();
            warn!("cannot watch {path}: {error}; changes are seen after SIGHUP only");
            None
        }
    }
}

fn places(config: &Config, file: Option<&Path>, lock: File) -> Result<AnchoredFiles, StartError> {
    let open = |path: &Path| {
        AnchoredFile::of(path)
            .map_err(|error| StartError::Directory(path.to_owned(), error.to_string()))
    };
    let relay = &config.relay;
    Ok(AnchoredFiles {
        config: file.map(open).transpose()?,
        certificate: open(&relay.certificate)?,
        private_key: open(&relay.private_key)?,
        keys: open(&KeyStore::path(&relay.state))?,
        lock,
    })
}

/// Drops everything that is not needed any more.
fn confine(places: &AnchoredFiles, bound: &[Listener]) -> io::Result<()> {
    for listener in bound {
        listener.confine()?;
    }
    let all = [&places.certificate, &places.private_key, &places.keys];
    all.into_iter().chain(&places.config).try_for_each(AnchoredFile::confine)?;
    confinement::limit(places.lock.as_fd(), Right::Hold)?;
    confinement::limit(io::stdin().as_fd(), Right::Hold)?;
    confinement::limit(io::stdout().as_fd(), Right::Write)?;
    confinement::limit(io::stderr().as_fd(), Right::Write)?;
    if confinement::enter()? {
        info!("in capability mode");
    }
    Ok(())
}

/// Hosts allowed in an `Origin`.
pub(super) fn origins<'a>(
    config: &Config,
    hostname: &str,
    bound: impl IntoIterator<Item = &'a Listener>,
) -> AllowedOrigins {
    let names = config.relay.hosts.iter().map(String::as_str).chain([hostname]);
    let addresses = bound.into_iter().filter_map(|listener| match listener {
        Listener::Tcp(_, _, address) => Some(*address),
        Listener::Unix(..) => None,
    });
    AllowedOrigins::new(names, addresses)
}

pub(super) fn connection_limits(config: &Config) -> ConnectionLimits {
    let relay = &config.relay;
    ConnectionLimits {
        max_peers: relay.max_peers,
        front: FrontLimits {
            max_unauthenticated: relay.max_unauthenticated,
            loopback_is_one: !config.auth.throttle_loopback,
            auth: relay.auth_timeout,
        },
        max_message: relay.max_message,
        // An empty queue accepts any message, whatever the configuration.
        queue: relay.queue.max(2 * (relay.max_message + BESIDE)),
        queue_total: relay.queue_total,
        pause: relay.pause,
        connection: net::TransportLimits {
            handshake: relay.handshake_timeout,
            ping: relay.ping_interval,
            message: relay.message_timeout,
            close: relay.close_timeout,
        },
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
