//! `import-legacy`: imports settings and keys of the Qt sysadm.
//!
//! Settings are printed, for the operator to review and insert: the configuration is theirs.
//! Registered keys are imported directly, because they are tedious to copy.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::exit::Exit;
use super::key_place::{KeyPlace, file_error};
use super::legacy::{Dialled, Legacy, Of, Registered, Setting, read};
use super::words::{Word, Words, unexpected};
use super::{Command, complain, write};
use crate::auth::Role;
use crate::auth::key::{ChangeError, Entry, KeyStore, check_text};
use crate::client::sysexits;
use crate::config::{Config, Home};
use crate::sys::files::Files;
use crate::sys::local_time;
use crate::sys::may_block::MayBlock;
use crate::wire::rfc3339;

pub(super) const COMMAND: Command = Command {
    name: "import-legacy",
    summary: "import settings and keys of the Qt sysadm",
    help: "\
Imports settings and keys of the Qt sysadm. Settings are printed as a
configuration for this daemon; registered keys are registered for the same
users, as legacy keys.

Usage: sysadm-events import-legacy [-c FILE] [--dry-run] [--bridge] FILE...

Options:
  -c FILE     the configuration with the path of the keys; without it the one
              that \"serve\" would read
  --bridge    the files are those of a bridge; its peers' keys are registered at
              the relay of this host
  --dry-run   change nothing, and print what would be done
  -h, --help  this text

Each FILE is a sysadm.conf, a sysadm.ini or a sysadm-bridge.ini; the kind is
detected. Lines that cannot be imported are reported. Exits 1 if one of them
requires action, else 0.

Examples:
  sysadm-events import-legacy --dry-run /var/db/sysadm.ini
  sysadm-events import-legacy /usr/local/etc/sysadm.conf /var/db/sysadm.ini \\
      > /usr/local/etc/sysadm-events/sysadm-events.toml
  sysadm-events import-legacy --bridge /var/db/sysadm-bridge.ini
",
    main,
};

/// Maximum size of a file, in bytes: hundreds of keys.
const LARGEST: u64 = 4 * 1024 * 1024;

struct Options {
    config: Option<PathBuf>,
    files: Vec<PathBuf>,
    of: Of,
    is_dry: bool,
}

fn options(words: &mut Words) -> Result<Options, Exit> {
    let mut options = Options { config: None, files: Vec::new(), of: Of::Server, is_dry: false };
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if name == "-c" || name == "--config" => {
                options.config = Some(words.path()?);
            }
            Word::Option(name) if name == "--bridge" => options.of = Of::Bridge,
            Word::Option(name) if name == "--dry-run" => options.is_dry = true,
            Word::Value(file) => options.files.push(file.into()),
            other @ Word::Option(_) => return Err(unexpected(&other)),
        }
    }
    if options.files.is_empty() {
        return Err(Exit::usage("which file?"));
    }
    Ok(options)
}

fn main(mut words: Words) -> Result<u8, Exit> {
    let options = options(&mut words)?;
    let home = Home::of_this_process();
    let (config, _) =
        Config::load(options.config.as_deref(), &home, &Files::of_system(MayBlock::before_loop()))
            .map_err(|errors| Exit::failed(sysexits::CONFIGURATION, errors.to_string()))?;
    // Reads all of them before anything is changed.
    let mut all = Vec::new();
    for file in &options.files {
        let bytes = contents(file)
            .map_err(|why| Exit::failed(sysexits::IO, format!("{}: {why}", file.display())))?;
        all.push((file.as_path(), read(&bytes, options.of)));
    }
    let mut import = Import { said: Vec::new(), is_whole: true };
    let fragment = import.fragment(&all, &home);
    write(&fragment)?;
    import.keys(&all, &config, &options)?;
    for said in &import.said {
        complain(said);
    }
    Ok(u8::from(!import.is_whole))
}

fn contents(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err("has more than 4 MiB: this is no file of the Qt sysadm".to_owned());
    }
    Ok(bytes)
}

/// State of the import.
struct Import {
    /// Messages for standard error.
    said: Vec<String>,
    is_whole: bool,
}

impl Import {
    fn left_out(&mut self, file: &Path, line: usize, why: &str, is_fault: bool) {
        self.said.push(format!("{}:{line}: {why}", file.display()));
        self.is_whole &= !is_fault;
    }

    /// The text for the configuration.
    fn fragment(&mut self, all: &[(&Path, Legacy)], home: &Home) -> String {
        let mut chosen: Vec<&Setting> = Vec::new();
        for (file, legacy) in all {
            for remark in &legacy.remarks {
                self.left_out(file, remark.line, &remark.why, remark.is_fault);
            }
            for setting in &legacy.settings {
                if let Some(first) = chosen.iter().find(|known| known.key == setting.key) {
                    let why = format!("{}: {} of another file counts", setting.was, first.was);
                    self.left_out(file, setting.line, &why, true);
                } else if let Err(why) = check(setting, home) {
                    self.left_out(file, setting.line, &format!("{}: {why}", setting.was), true);
                } else {
                    chosen.push(setting);
                }
            }
        }
        let mut text = String::from("# From");
        for (file, _) in all {
            let _ = write!(text, " {}", file.display());
        }
        text.push('\n');
        for section in chosen.iter().map(|setting| setting.section).collect::<BTreeSet<_>>() {
            let _ = write!(text, "\n[{section}]\n");
            for setting in chosen.iter().filter(|setting| setting.section == section) {
                let _ = writeln!(text, "{} = {}", setting.key, setting.value);
            }
        }
        for (_, legacy) in all {
            legacy.bridges.iter().for_each(|bridge| link(&mut text, bridge));
        }
        text
    }

    /// Registers all keys at once, or reports what that would do.
    fn keys(
        &mut self,
        all: &[(&Path, Legacy)],
        config: &Config,
        options: &Options,
    ) -> Result<(), Exit> {
        let keys: Vec<(&Path, &Registered)> =
            all.iter().flat_map(|(file, it)| it.keys.iter().map(|key| (*file, key))).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let is_dry = options.is_dry;
        let place = KeyPlace::of(config, options.of == Of::Bridge);
        let path = place.path();
        let mut insert = |store: &mut KeyStore| {
            for (file, registered) in &keys {
                match store.insert(entry(registered), &place.limits) {
                    Ok(()) => {
                        let verb = if is_dry { "would be registered" } else { "registered" };
                        let Registered { user, key, .. } = registered;
                        let (kind, id) = (key.algorithm(), key.id());
                        self.said.push(format!("{verb}: {kind} key {id} of {user:?}"));
                    }
                    Err(why) => {
                        let why = format!("a key of {:?}: {why}", registered.user);
                        self.left_out(file, registered.line, &why, true);
                    }
                }
            }
        };
        if is_dry {
            place.become_owner()?;
            let (mut store, _) = KeyStore::read(&path, MayBlock::before_loop())
                .map_err(|error| file_error("read", &path, &error))?;
            insert(&mut store);
            return Ok(());
        }
        place.make()?;
        place.become_owner()?;
        let changed = KeyStore::change(&path, MayBlock::before_loop(), |store| {
            insert(store);
            Ok::<_, Infallible>(())
        });
        changed.map_err(|error| match error {
            ChangeError::File(error) => file_error("change", &path, &error),
            ChangeError::Refused(never) => match never {},
        })
    }
}

/// Whether the configuration accepts the value.
fn check(setting: &Setting, home: &Home) -> Result<(), String> {
    let text = format!("[{}]\n{} = {}\n", setting.section, setting.key, setting.value);
    match Config::parse(&text, Path::new(""), home, &Files::of_system(MayBlock::before_loop())) {
        Ok(_) => Ok(()),
        Err(errors) => {
            let why = errors.iter().next().map(|error| error.message.clone());
            Err(why.unwrap_or_default())
        }
    }
}

/// A link requires the fingerprint of the relay's certificate.
fn link(text: &mut String, bridge: &Dialled) {
    let Dialled { name, url, .. } = bridge;
    let (host, port) = (&url.host, url.port);
    let _ = write!(
        text,
        "
# The bridge {name:?}. Of one of ours \"sysadm-events fingerprint --bridge\" says the
# fingerprint; of the old one, if you trust the way to it:
#   openssl s_client -connect {host}:{port} </dev/null | openssl x509 -noout -sha256 -fingerprint
# [[bridge.link]]
# name = {name:?}
# url = \"{url}\"
# fingerprint = \"\"
# legacy = true    # for the old one
"
    );
}

/// The registry entry for a legacy key.
fn entry(registered: &Registered) -> Entry {
    let Registered { user, key, nickname, email, added, .. } = registered;
    let described = |what: &str, text: &str| match check_text(what, text) {
        Ok(()) => text.to_owned(),
        Err(_) => String::new(),
    };
    let added = added.and_then(local_time::moment).unwrap_or_else(SystemTime::now);
    Entry {
        user: user.clone(),
        key: key.clone(),
        nickname: described("the nickname", nickname),
        email: described("the e-mail address", email),
        added: rfc3339(added),
        // The Qt client supports no other form.
        legacy: key.is_rsa(),
        role: Role::Full,
        checksums: Vec::new(),
    }
}
