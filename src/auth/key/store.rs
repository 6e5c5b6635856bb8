//! Registered keys and their owners: a file of one JSON object per line.
//!
//! The daemon and the command line both change it. So a change is made under a lock, based on the
//! current content, and replaces the file atomically; readers need no lock. An unreadable line
//! affects only its key, and is preserved for repair.
//!
//! Each line has a checksum: a byte changed by a bad disk could assign a key to another user. Lines
//! without one are of an older version, and get theirs with the next change.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{KeyId, PublicKey};
use crate::auth::Role;
use crate::seal::{has_checksum, seal, unseal};
use crate::sys::guarded_path::open_regular;
use crate::sys::may_block::MayBlock;
use crate::wording::counted;

/// A registered key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Line", into = "Line")]
pub struct Entry {
    /// The user, or for a relay the name of the peer.
    pub user: String,
    /// The key.
    pub key: PublicKey,
    /// A label chosen by its owner; may be empty.
    pub nickname: String,
    /// May be empty.
    pub email: String,
    /// When it was registered: RFC 3339, UTC.
    pub added: String,
    /// It may be proven by a string that is encrypted as it is.
    pub legacy: bool,
    /// Maximum role of a session that uses it. A session cannot register a key with more than its
    /// own role.
    pub role: Role,
    /// At a relay, the checksums that it may claim; empty: any.
    pub checksums: Vec<String>,
}

/// JSON of a line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    user: String,
    key: String,
    #[serde(default)]
    nickname: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    added: String,
    #[serde(default)]
    legacy: bool,
    #[serde(default = "full", skip_serializing_if = "is_full")]
    role: Role,
    #[serde(default)]
    #[serde(rename = "sums")]
    checksums: Vec<String>,
}

fn full() -> Role {
    Role::Full
}

fn is_full(role: &Role) -> bool {
    *role == Role::Full
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Line {
        let key = entry.key.pem();
        let Entry { user, nickname, email, added, legacy, role, checksums, .. } = entry;
        Line { user, key, nickname, email, added, legacy, role, checksums }
    }
}

impl TryFrom<Line> for Entry {
    type Error = String;

    fn try_from(line: Line) -> Result<Entry, String> {
        let key = PublicKey::from_pem(line.key.as_bytes()).map_err(|error| error.to_string())?;
        check_text("the user", &line.user)?;
        check_text("the nickname", &line.nickname)?;
        check_text("the e-mail address", &line.email)?;
        check_text("the date", &line.added)?;
        if line.user.is_empty() || line.user.len() > LONGEST_USER {
            return Err(format!("the user has 1 to {LONGEST_USER} bytes"));
        }
        if line.legacy && !key.can_be_legacy() {
            return Err(InsertError::NotLegacy.to_string());
        }
        if line.checksums.len() > MOST_CHECKSUMS {
            return Err(format!("there are more than {MOST_CHECKSUMS} sums"));
        }
        let Line { user, nickname, email, added, legacy, role, checksums, .. } = line;
        Ok(Entry { user, key, nickname, email, added, legacy, role, checksums })
    }
}

/// An unreadable line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Line number, starting at 1.
    pub line: usize,
    /// The fault.
    pub why: String,
    text: Vec<u8>,
}

/// A change requested from another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum KeyChange {
    /// Register this key, within these limits.
    Insert(Box<Entry>, KeyLimits),
    /// Remove the key of this user.
    Revoke {
        /// Its owner.
        user: String,
        /// Its identifier.
        id: String,
    },
}

impl KeyChange {
    /// Applies the change. Idempotent.
    ///
    /// # Errors The key cannot be registered.
    pub fn apply(self, store: &mut KeyStore) -> Result<(), InsertError> {
        match self {
            KeyChange::Insert(entry, limits) => store.insert(*entry, &limits),
            KeyChange::Revoke { user, id } => {
                if let Some(id) = KeyId::parse(&id) {
                    store.revoke(&user, &id);
                }
                Ok(())
            }
        }
    }
}

/// Maximum numbers of keys.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct KeyLimits {
    /// Of one user.
    pub of_user: usize,
    /// Of all.
    pub total: usize,
    /// All legacy keys: a client does not name its legacy key, so all of them are tried.
    pub legacy: usize,
    /// Legacy keys of one user, who must not use up the limit of all others.
    pub legacy_of_user: usize,
}

/// Why a key cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InsertError {
    /// It belongs to another user.
    Taken(String),
    /// Its user has the maximum number.
    OfUser(usize),
    /// The total maximum is reached.
    Total(usize),
    /// The maximum of legacy keys is reached.
    Legacy(usize),
    /// Its user has the maximum number of legacy keys.
    LegacyOfUser(usize),
    /// It is not an RSA key, or verification would take too long.
    NotLegacy,
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without the owner's name: others see this message too.
            InsertError::Taken(_) => {
                f.write_str("the key is registered for another user; revoke it first")
            }
            InsertError::OfUser(most) => {
                write!(f, "this user has {} already (max_keys_per_user)", counted(most, "key"))
            }
            InsertError::Total(most) => {
                write!(f, "{} registered already (max_keys)", counted(most, "key"))
            }
            InsertError::Legacy(most) => {
                write!(f, "{} registered already (max_legacy_keys)", counted(most, "legacy key"))
            }
            InsertError::LegacyOfUser(most) => write!(
                f,
                "there are {most} legacy keys of this user already (max_legacy_keys_per_user)"
            ),
            InsertError::NotLegacy => {
                f.write_str("only an RSA key of at most 4096 bits can be a legacy key")
            }
        }
    }
}

impl std::error::Error for InsertError {}

/// Why the file was not changed.
#[derive(Debug)]
pub enum ChangeError<E> {
    /// It could not be read or written.
    File(io::Error),
    /// The change was rejected.
    Refused(E),
}

/// Maximum size of the file, in bytes: a key of 8192 bits takes about 2 KiB.
const LARGEST: u64 = 8 * 1024 * 1024;
/// Maximum number of keys read: the configurable maximum.
const MOST: usize = 4096;
/// Time limit of waiting for another process that changes the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Maximum length of a user name, in bytes.
const LONGEST_USER: usize = 128;
/// Maximum length of a nickname or an address, in bytes: RFC 5321 section 4.5.3.1.3 ends at 256.
const LONGEST_TEXT: usize = 254;
/// Maximum number of checksums of a relay's peer (protocol section 5).
const MOST_CHECKSUMS: usize = 256;

/// Checks that a nickname or an e-mail address can be stored and displayed.
///
/// # Errors The fault.
pub fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.len() > LONGEST_TEXT {
        return Err(format!("{what} has more than {LONGEST_TEXT} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} has control characters"));
    }
    Ok(())
}

/// All registered keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyStore {
    entries: Vec<Entry>,
    /// Their indexes.
    by_id: BTreeMap<KeyId, usize>,
}

/// Reads the content of a file of keys line by line, so that a loop can divide that among turns: a
/// key takes some 50 µs.
#[derive(Debug)]
pub struct KeyReader {
    bytes: Vec<u8>,
    /// Offset and number of the next line.
    next: (usize, usize),
    store: KeyStore,
    damaged: Vec<Damaged>,
}

impl KeyReader {
    /// A reader of this content.
    pub fn new(bytes: Vec<u8>) -> KeyReader {
        KeyReader { bytes, next: (0, 1), store: KeyStore::default(), damaged: Vec::new() }
    }

    /// Reads the next line; false where there is none. Of duplicate keys the first counts.
    pub fn read_line(&mut self) -> bool {
        let (begin, number) = self.next;
        let Some(rest) = self.bytes.get(begin..).filter(|rest| !rest.is_empty()) else {
            return false;
        };
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = rest.get(..end).unwrap_or_default();
        self.next = (begin + end + 1, number + 1);
        if line.trim_ascii().is_empty() {
            return true;
        }
        let store = &mut self.store;
        let entry = read_line(line).and_then(|entry| match store.find(&entry.key.id()) {
            _ if store.len() == MOST => Err(format!("there are more than {MOST} keys")),
            Some(first) => Err(format!("the key stands there twice, first for {}", first.user)),
            None => Ok(entry),
        });
        match entry {
            Ok(entry) => store.push(entry),
            Err(why) => self.damaged.push(Damaged { line: number, why, text: line.to_vec() }),
        }
        true
    }

    /// The keys of the lines that were read, and those of the lines that are damaged.
    pub fn finish(self) -> (KeyStore, Vec<Damaged>) {
        (self.store, self.damaged)
    }
}

impl KeyStore {
    /// Path in a state directory.
    pub fn path(state: &Path) -> PathBuf {
        state.join("keys")
    }

    /// Reads the file; a missing one contains no keys.
    ///
    /// # Errors A system call fails, or the file is larger than 8 MiB.
    pub fn read(path: &Path, may_block: MayBlock) -> io::Result<(KeyStore, Vec<Damaged>)> {
        KeyStore::read_bytes(path, may_block).map(KeyStore::parse)
    }

    /// The content of the file, to be parsed.
    ///
    /// # Errors As [`read`](KeyStore::read).
    pub fn read_bytes(path: &Path, may_block: MayBlock) -> io::Result<Vec<u8>> {
        let file = match open_regular(path, may_block) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            return Err(io::Error::other("it is larger than 8 MiB, and cannot be a file of keys"));
        }
        Ok(bytes)
    }

    /// Parses the content of a file; also returns the damaged lines. Takes long for many keys: in a
    /// loop see [`KeyReader`].
    pub fn parse(bytes: Vec<u8>) -> (KeyStore, Vec<Damaged>) {
        let mut reader = KeyReader::new(bytes);
        while reader.read_line() {}
        reader.finish()
    }

    fn push(&mut self, entry: Entry) {
        self.by_id.insert(entry.key.id(), self.entries.len());
        self.entries.push(entry);
    }

    /// The content for the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            if let Ok(object) = serde_json::to_string(entry) {
                bytes.extend_from_slice(seal(&object).as_bytes());
            }
        }
        bytes
    }

    /// Changes the file under its lock. Blocks on the disk, and up to 5 seconds on another process:
    /// not for the poll loop. Damaged lines are moved to `keys.damaged`.
    ///
    /// # Errors A system call fails, or `change` rejects the change; then the file stays unchanged.
    pub fn change<T, E>(
        path: &Path,
        may_block: MayBlock,
        change: impl FnOnce(&mut KeyStore) -> Result<T, E>,
    ) -> Result<T, ChangeError<E>> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let _lock = lock(path).map_err(ChangeError::File)?;
        let (mut store, damaged) = KeyStore::read(path, may_block).map_err(ChangeError::File)?;
        let before = store.clone();
        let result = change(&mut store).map_err(ChangeError::Refused)?;
        if store != before {
            store.write(path, folder, &damaged).map_err(ChangeError::File)?;
        }
        Ok(result)
    }

    fn write(&self, path: &Path, folder: &Path, damaged: &[Damaged]) -> io::Result<()> {
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = open(&new, OpenOptions::new().write(true).create_new(true))?;
        file.write_all(&self.to_bytes())?;
        file.sync_all()?;
        // After the rest is in place: a failure is retried, and these are stored once.
        if !damaged.is_empty() {
            let aside = path.with_extension("damaged");
            let mut file = open(&aside, OpenOptions::new().append(true).create(true))?;
            for damaged in damaged {
                file.write_all(&damaged.text)?;
                file.write_all(b"\n")?;
            }
            file.sync_all()?;
        }
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    }

    /// All keys, in the order of registration.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The key with this identifier.
    pub fn find(&self, id: &KeyId) -> Option<&Entry> {
        self.entries.get(*self.by_id.get(id)?)
    }

    /// Keys that may be proven by a string that is encrypted as it is.
    pub fn legacy(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.legacy)
    }

    /// The keys of a user.
    pub fn of(&self, user: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.user == user)
    }

    /// Registers a key. If its user has it already, its description is replaced.
    ///
    /// # Errors See [`InsertError`].
    pub fn insert(&mut self, entry: Entry, limits: &KeyLimits) -> Result<(), InsertError> {
        if entry.legacy && !entry.key.can_be_legacy() {
            return Err(InsertError::NotLegacy);
        }
        let at = self.by_id.get(&entry.key.id()).copied();
        let known = at.and_then(|at| self.entries.get(at));
        if let Some(known) = known.filter(|known| known.user != entry.user) {
            return Err(InsertError::Taken(known.user.clone()));
        }
        let was_legacy = known.is_some_and(|known| known.legacy);
        if entry.legacy && !was_legacy {
            let of_user = self.legacy().filter(|other| other.user == entry.user).count();
            if of_user >= limits.legacy_of_user {
                return Err(InsertError::LegacyOfUser(limits.legacy_of_user));
            }
            if self.legacy().count() >= limits.legacy {
                return Err(InsertError::Legacy(limits.legacy));
            }
        }
        if let Some(known) = at.and_then(|at| self.entries.get_mut(at)) {
            // A new description does not lower the role.
            let role = known.role.max(entry.role);
            *known = Entry { role, ..entry };
            return Ok(());
        }
        if self.of(&entry.user).count() >= limits.of_user {
            return Err(InsertError::OfUser(limits.of_user));
        }
        if self.entries.len() >= limits.total {
            return Err(InsertError::Total(limits.total));
        }
        self.push(entry);
        Ok(())
    }

    /// Removes a key of this user; false where there is none.
    pub fn revoke(&mut self, user: &str, id: &KeyId) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.user != user || entry.key.id() != *id);
        let ids = self.entries.iter().map(|entry| entry.key.id());
        self.by_id = ids.zip(0..).collect();
        self.entries.len() < before
    }
}

fn read_line(line: &[u8]) -> Result<Entry, String> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let object = match unseal(line) {
        Some(object) => object,
        None if has_checksum(line) => {
            return Err(
                "its checksum is wrong: the line was damaged, or changed by hand".to_owned()
            );
        }
        None => line.to_owned(),
    };
    serde_json::from_str(&object).map_err(|error| error.to_string())
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn lock(path: &Path) -> io::Result<File> {
    let lock = path.with_extension("lock");
    let file = open(&lock, OpenOptions::new().create(true).truncate(false).write(true))?;
    let due = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= due => {
                let why = format!("another process holds {} for too long", lock.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            Err(TryLockError::WouldBlock) => {
                // Twenty milliseconds.
                let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(20_u8));
            }
        }
    }
}
