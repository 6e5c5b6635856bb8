//! `key`: registered keys of this host, and the user's own keys.
//!
//! These commands change files, whether a daemon runs or not; a running one notices.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::{User, geteuid};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::exit::Exit;
use super::key_place::{KeyPlace, code_of, file_error};
use super::table::table;
use super::terminal::Terminal;
use super::words::{Word, Words, text, unexpected};
use super::{Command, complain, escape, write};
use crate::auth::Role;
use crate::auth::key::{
    ChangeError, Damaged, Entry, InsertError, KeyStore, Kind, OwnKey, OwnKeyError, PrivateKey,
    PublicKey,
};
use crate::client::sysexits;
use crate::config::{Config, Home};
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;
use crate::wire::{KeyChecksum, rfc3339};

pub(super) const COMMAND: Command = Command {
    name: "key",
    summary: "make keys, register them, list and revoke them",
    help: "\
Manages keys for authentication on this host.

Usage: sysadm-events key generate FILE [--rsa]
       sysadm-events key add USER FILE [--legacy] [--emit]
       sysadm-events key add PEER FILE --bridge [--legacy] [--sum SUM]...
       sysadm-events key list [--bridge] [--json]
       sysadm-events key revoke USER KEY [--bridge]
       sysadm-events key export [--legacy]

generate writes a private key to FILE and its public half to FILE.pub; add
registers a key for a user of this host, who then needs no password; FILE holds
a public key, a certificate or a private key, in PEM or as ssh-keygen writes
Ed25519 keys, and - is standard input. Not as root it registers the key for the
daemon that runs as the same user only. KEY is what list shows, a unique prefix
of it, or a file. export prints the public half of the key by
which this host authenticates to relays. A running daemon notices changes at
once; sessions of a revoked key are closed.

Options:
  --rsa       generate an RSA key of 3072 bits instead of an Ed25519 key
  --legacy    add: the key of a client of the original kind, which must be RSA;
              export: the key for bridges of the original kind
  --emit      add: the key permits \"emit\" alone: for scripts
  --bridge    keys of the relay on this host: USER is any name for the peer
  --sum SUM   with --bridge: the peer may only claim keys of this MD5 checksum
              (list --json shows them); may be repeated
  --json      all fields of each key
  -c FILE     the configuration, for its paths and limits; without it the one
              that \"serve\" would read
  -h, --help  this text

Examples:
  sysadm-events key generate ~/.config/sysadm-events/key
  sysadm-events key add ann ann.pub
  sysadm-events key revoke ann 9Ke2
  ssh nas sysadm-events key export | sysadm-events key add nas - --bridge
",
    main,
};

/// Options of the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    rsa: bool,
    legacy: bool,
    bridge: bool,
    emit: bool,
    json: bool,
    checksums: Vec<String>,
    config: Option<PathBuf>,
}

/// Maximum size of a key file, in bytes: a private RSA key of 8192 bits has 6.5 KiB.
const KEY_FILE: u64 = 64 * 1024;
/// Letters of a key in the list: enough to distinguish keys.
const SHOWN: usize = 16;

fn main(mut words: Words) -> Result<u8, Exit> {
    let (mut options, mut plain) = (Options::default(), Vec::new());
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) => match name.as_str() {
                "--rsa" => options.rsa = true,
                "--legacy" => options.legacy = true,
                "--bridge" => options.bridge = true,
                "--emit" => options.emit = true,
                "--json" => options.json = true,
                "--sum" => options.checksums.push(words.value()?),
                "-c" | "--config" => options.config = Some(words.path()?),
                _ => return Err(unexpected(&Word::Option(name))),
            },
            Word::Value(value) => plain.push(value),
        }
    }
    let mut plain = plain.into_iter();
    let action = plain.next().map(text).transpose()?.unwrap_or_default();
    let rest: Vec<_> = plain.collect();
    let allowed: &[&str] = match action.as_str() {
        "generate" => &["--rsa"],
        "add" => &["--legacy", "--bridge", "--sum", "--emit"],
        "list" => &["--bridge", "--json"],
        "revoke" => &["--bridge"],
        "export" => &["--legacy"],
        _ => return Err(Exit::usage("which of generate, add, list, revoke and export?")),
    };
    let given = [
        ("--rsa", options.rsa),
        ("--legacy", options.legacy),
        ("--bridge", options.bridge),
        ("--json", options.json),
        ("--emit", options.emit),
        ("--sum", !options.checksums.is_empty()),
    ];
    if let Some((name, _)) = given.iter().find(|(name, given)| *given && !allowed.contains(name)) {
        return Err(Exit::usage(format!("{name} does not go with {action}")));
    }
    match (action.as_str(), rest.as_slice()) {
        ("generate", [file]) => generate(Path::new(file), options.rsa),
        ("add", [user, file]) => add(&text(user.clone())?, Path::new(file), &options),
        ("list", []) => list(&options),
        ("revoke", [user, key]) => revoke(&text(user.clone())?, &text(key.clone())?, &options),
        ("export", []) => export(&options),
        ("generate", _) => Err(Exit::usage("generate wants a FILE")),
        ("add", _) => Err(Exit::usage("add wants a USER and a FILE")),
        ("revoke", _) => Err(Exit::usage("revoke wants a USER and a KEY")),
        (action, _) => Err(Exit::usage(format!("{action} wants no more words"))),
    }
}

fn generate(file: &Path, rsa: bool) -> Result<u8, Exit> {
    let kind = if rsa { Kind::Rsa } else { Kind::Ed25519 };
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| file_error("make", folder, &error))?;
    }
    let mut public = file.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    // Before the private half is written without the public one.
    if public.exists() {
        let why = io::ErrorKind::AlreadyExists.into();
        return Err(file_error("make", &public, &why));
    }
    let made = PrivateKey::generate(kind)
        .map_err(|error| Exit::failed(sysexits::UNAVAILABLE, error.to_string()))?;
    put(file, made.to_pem().as_bytes(), 0o600)?;
    put(&public, made.public().pem().as_bytes(), 0o644).inspect_err(|_| {
        let _ = fs::remove_file(file);
    })?;
    write(&format!("{}\n", made.public().id()))?;
    Ok(0)
}

/// Writes a new file, and never replaces one: a lost key cannot be recovered. A partial file is
/// removed.
fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Exit> {
    let failed = |error: io::Error| file_error("make", path, &error);
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = made.map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = fs::remove_file(path);
        failed(error)
    })
}

fn add(user: &str, file: &Path, options: &Options) -> Result<u8, Exit> {
    if !options.checksums.is_empty() && !options.bridge {
        return Err(Exit::usage("--sum goes with --bridge"));
    }
    if options.emit && options.bridge {
        return Err(Exit::usage("--emit does not go with --bridge: a relay has no events"));
    }
    // An invalid one would leave its owner nothing to claim, without an error.
    if let Some(wrong) =
        options.checksums.iter().find(|checksum| KeyChecksum::parse(checksum).is_none())
    {
        return Err(Exit::usage(format!("{wrong:?} is no checksum: 24 characters of base64")));
    }
    let key = read_key(file)?;
    let is_account = || User::from_name(user).is_ok_and(|user| user.is_some());
    if !options.bridge && !is_account() {
        let why = format!("there is no user {user:?} on this host");
        return Err(Exit::usage(why));
    }
    let config = configuration(options)?;
    let place = KeyPlace::of(&config, options.bridge);
    place.make()?;
    let line = json!({
        "user": user,
        "key": key.pem(),
        "added": rfc3339(SystemTime::now()),
        "legacy": options.legacy,
        "role": if options.emit { Role::Emit } else { Role::Full },
        "sums": options.checksums,
    });
    let entry: Entry =
        serde_json::from_value(line).map_err(|error| Exit::usage(error.to_string()))?;
    place.become_owner()?;
    let path = place.path();
    KeyStore::change(&path, MayBlock::before_loop(), |store| store.insert(entry, &place.limits))
        .map_err(|error| match error {
            ChangeError::File(error) => file_error("change", &path, &error),
            ChangeError::Refused(InsertError::Taken(other)) => Exit::usage(format!(
                "the key is registered for {other}; \"sysadm-events key revoke {other} {}\" first",
                key.id()
            )),
            ChangeError::Refused(why) => Exit::usage(why.to_string()),
        })?;
    write(&format!("{}\n", key.id()))?;
    if !geteuid().is_root() && !options.bridge {
        complain(&format!(
            "registered in {}, for the daemon that runs as you and no other; to register the key \
             for the daemon of this host, run \"sysadm-events key add\" as root",
            path.display()
        ));
    }
    Ok(0)
}

fn list(options: &Options) -> Result<u8, Exit> {
    let config = configuration(options)?;
    let place = KeyPlace::of(&config, options.bridge);
    place.become_owner()?;
    let path = place.path();
    let (store, damaged) = KeyStore::read(&path, MayBlock::before_loop())
        .map_err(|error| file_error("read", &path, &error))?;
    for Damaged { line, why, .. } in &damaged {
        complain(&format!("{}:{line}: {why}", path.display()));
    }
    if options.json {
        let all: Vec<Value> = store.iter().map(as_json).collect();
        write(&format!("{}\n", Value::Array(all)))?;
        return Ok(0);
    }
    let terminal = Terminal::of_this_process(false);
    let rows: Vec<[String; 5]> = store
        .iter()
        .map(|entry| {
            let legacy = if entry.legacy { " legacy" } else { "" };
            let role = match entry.role {
                Role::Emit => " emit only",
                Role::Read => " read only",
                Role::Full => "",
            };
            [
                entry.key.id().to_string().chars().take(SHOWN).collect(),
                escape::line(&entry.user, terminal.unicode),
                format!("{}{legacy}{role}", entry.key.algorithm()),
                escape::line(&entry.added, terminal.unicode),
                escape::line(&entry.nickname, terminal.unicode),
            ]
        })
        .collect();
    if rows.is_empty() {
        complain("no keys are registered");
        return Ok(0);
    }
    write(&table(["KEY", "USER", "KIND", "REGISTERED", "NICKNAME"], &rows))?;
    Ok(0)
}

fn as_json(entry: &Entry) -> Value {
    json!({
        "id": entry.key.id().to_string(),
        "user": entry.user,
        "kind": entry.key.algorithm(),
        "legacy": entry.legacy,
        "role": entry.role,
        "nickname": entry.nickname,
        "email": entry.email,
        "added": entry.added,
        "checksum": entry.key.checksum(),
        "sums": entry.checksums,
        "key": entry.key.pem(),
    })
}

fn revoke(user: &str, key: &str, options: &Options) -> Result<u8, Exit> {
    let config = configuration(options)?;
    let place = KeyPlace::of(&config, options.bridge);
    let of_file = PathBuf::from(key).is_file().then(|| read_key(Path::new(key))).transpose()?;
    place.become_owner()?;
    let path = place.path();
    let revoked = KeyStore::change(&path, MayBlock::before_loop(), |store| {
        let ids: Vec<_> = store
            .of(user)
            .map(|entry| entry.key.id())
            .filter(|id| match &of_file {
                Some(file) => file.id() == *id,
                None => !key.is_empty() && id.to_string().starts_with(key),
            })
            .collect();
        match ids.as_slice() {
            [id] => {
                store.revoke(user, id);
                Ok(*id)
            }
            [] => {
                Err(format!("{user:?} has no key {key:?}; \"sysadm-events key list\" shows them"))
            }
            [_, _, ..] => Err(format!("{user:?} has {} keys that begin with {key:?}", ids.len())),
        }
    });
    match revoked {
        Ok(id) => {
            write(&format!("{id}\n"))?;
            Ok(0)
        }
        Err(ChangeError::File(error)) => Err(file_error("change", &path, &error)),
        Err(ChangeError::Refused(why)) => {
            complain(&why);
            Ok(1)
        }
    }
}

fn export(options: &Options) -> Result<u8, Exit> {
    let config = configuration(options)?;
    let key = if options.legacy { OwnKey::Legacy } else { OwnKey::Link };
    let place = KeyPlace::of(&config, false);
    place.make()?;
    place.become_owner()?;
    let key =
        key.ensure(&config.paths.state, MayBlock::before_loop()).map_err(|error| match &error {
            OwnKeyError::File(_, _, why) => Exit::failed(code_of(why), error.to_string()),
            OwnKeyError::Content(..) | OwnKeyError::Making(_) => {
                Exit::failed(sysexits::CONFIGURATION, error.to_string())
            }
        })?;
    write(&key.public().pem())?;
    Ok(0)
}

fn configuration(options: &Options) -> Result<Config, Exit> {
    Config::load(
        options.config.as_deref(),
        &Home::of_this_process(),
        &Files::of_system(MayBlock::before_loop()),
    )
    .map(|(config, _)| config)
    .map_err(|errors| Exit::failed(sysexits::CONFIGURATION, errors.to_string()))
}

fn read_key(file: &Path) -> Result<PublicKey, Exit> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(8 * 1024));
    let read = if file == Path::new("-") {
        io::stdin().lock().take(KEY_FILE).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(KEY_FILE).read_to_end(&mut bytes))
    };
    read.map_err(|error| Exit::usage(format!("cannot read {}: {error}", file.display())))?;
    PublicKey::from_pem(&bytes).map_err(|error| Exit::usage(format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn refused(line: &[&str]) -> String {
        match main(words(line)) {
            Err(Exit::Usage(said)) => said,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn invalid_arguments_are_rejected_before_any_change() {
        assert!(refused(&[]).contains("generate, add"));
        assert!(refused(&["destroy"]).contains("generate, add"));
        assert!(refused(&["generate"]).contains("FILE"));
        assert!(refused(&["add", "u"]).contains("USER and a FILE"));
        assert!(refused(&["revoke", "u"]).contains("USER and a KEY"));
        assert!(refused(&["list", "x"]).contains("no more words"));
        assert!(refused(&["list", "--rsa"]).contains("--rsa does not go with list"));
        assert!(refused(&["export", "--bridge"]).contains("--bridge does not go with export"));
        assert!(refused(&["add", "u", "f", "--sum", "s"]).contains("--bridge"));
        assert!(refused(&["add", "u", "f", "--bridge", "--sum", "junk"]).contains("no checksum"));
        assert!(refused(&["add", "root", "/nothing/here"]).contains("/nothing/here"));
        assert!(refused(&["list", "--jsn"]).contains("--jsn"));
    }
}
