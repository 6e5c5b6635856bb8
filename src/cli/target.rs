//! Options that select the daemon of a command.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::Exit;
use super::terminal::ask_for_secret;
use super::trust;
use super::words::Words;
use crate::auth::key::PrivateKey;
use crate::client::{Bridge, Client, Credential, KnownHost, Secret, Target, Url, Via, sysexits};
use crate::config::{Config, Home, HostEntry};
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;
use crate::wire::JsonFields;

/// The part of a command's help about these options.
macro_rules! target_help {
    () => {
        "
Which daemon (TARGET):
  (nothing)            the daemon of this host: the system's socket, then yours
  -c FILE              the daemon with this configuration
  -H NAME              the host of this name in
                       ~/.config/sysadm-events/hosts.toml
  --socket PATH        the daemon behind this socket
  --url URL            wss://HOST[:PORT] (port 12150), or ws:// for loopback
  --fingerprint HEX    SHA-256 of the host's certificate; on that host
                       \"sysadm-events fingerprint\" prints it; without this
                       the command asks once, on a terminal
  --key FILE           your private key, which is registered there (see key);
                       without this ~/.config/sysadm-events/key, if it exists
  --token-file FILE    a file whose first line is a token for that host; there
                       sysadm-events call rpc auth | cut -d'\"' -f2
                       creates one, valid for 15 minutes after its last use
  --user NAME          instead: a user there, whose password is asked for on
                       the terminal
  --password-file FILE a file whose first line is that password
  --via HOST           the host of this name (or id) behind the bridge at --url
                       (port 12149), through a tunnel that the bridge cannot
                       read; needs a key registered at both. --fingerprint is
                       that host's then, or known_hosts has HOST
  --bridge-fingerprint HEX  of the bridge's certificate
"
    };
}
pub(super) use target_help;

/// Maximum size of a file with a secret, in bytes: only its first line is used.
const SECRET_FILE: u64 = 64 * 1024;

/// The options as given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TargetOptions {
    host: Option<String>,
    config: Option<PathBuf>,
    socket: Option<PathBuf>,
    url: Option<String>,
    fingerprint: Option<String>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    via: Option<String>,
    bridge_fingerprint: Option<String>,
}

/// Sources of a certificate's fingerprint that was not given.
struct Trust {
    /// For a URL: known, or confirmed by the user.
    asked: fn(&Url) -> Result<KnownHost, Exit>,
    /// For a host behind a relay: known.
    known: fn(&str) -> Result<KnownHost, Exit>,
}

/// `known_hosts`, and the user.
const TRUST: Trust = Trust { asked: trust::certificate_of, known: trust::known };

impl TargetOptions {
    /// Parses an option, if it is one of these.
    pub(super) fn take(&mut self, option: &str, words: &mut Words) -> Result<bool, Exit> {
        match option {
            "-c" | "--config" => self.config = Some(words.path()?),
            "-H" | "--host" => self.host = Some(words.value()?),
            "--socket" => self.socket = Some(words.path()?),
            "--url" => self.url = Some(words.value()?),
            "--fingerprint" => self.fingerprint = Some(words.value()?),
            "--key" => self.key = Some(words.path()?),
            "--token-file" => self.token_file = Some(words.path()?),
            "--user" => self.user = Some(words.value()?),
            "--via" => self.via = Some(words.value()?),
            "--bridge-fingerprint" => self.bridge_fingerprint = Some(words.value()?),
            "--password-file" => self.password_file = Some(words.path()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Connects to the selected daemon.
    pub(super) fn connect(&self) -> Result<Client, Exit> {
        Ok(Client::connect(&self.target(&Home::of_this_process())?)?)
    }

    /// Connects to the relay of this host.
    pub(super) fn connect_to_bridge(&self) -> Result<Client, Exit> {
        let home = Home::of_this_process();
        if self.host.is_some() {
            return Err(Exit::usage("-H names a daemon, not the bridge of this host"));
        }
        let sockets = match (&self.url, &self.socket, &self.config) {
            (None, Some(socket), None) => vec![socket.clone()],
            (None, None, Some(file)) => {
                vec![configured_socket(file, &home, |config| config.relay.socket)?]
            }
            (None, None, None) => {
                vec![Home::system_relay_socket().to_path_buf(), home.relay_socket()]
            }
            _ => {
                return Err(Exit::usage(
                    "--bridge goes with --socket or -c: a bridge is asked by its own host only",
                ));
            }
        };
        Ok(Client::connect(&Target::Sockets(sockets))?)
    }

    /// The selected daemon.
    pub(super) fn target(&self, home: &Home) -> Result<Target, Exit> {
        self.resolved()?.target_with(home, &TRUST)
    }

    /// The options completed by the entry of `-H` in `hosts.toml`, and by the default key for a
    /// remote daemon. Options on the command line take precedence.
    fn resolved(&self) -> Result<TargetOptions, Exit> {
        let mut options = self.clone();
        let mut key = Some(Home::default_key()).filter(|key| key.exists());
        if let Some(name) = options.host.take() {
            let others = [&options.url, &options.via].into_iter().any(Option::is_some);
            if others || options.socket.is_some() || options.config.is_some() {
                let why = "-H names the daemon: -c, --socket, --url and --via do not go with it";
                return Err(Exit::usage(why));
            }
            let host = HostEntry::find(
                &name,
                &Home::hosts(),
                &Home::directory(),
                &Files::of_system(MayBlock::before_loop()),
            )
            .map_err(|why| Exit::failed(sysexits::CONFIGURATION, why))?;
            options.url = host.url;
            options.via = host.via;
            options.fingerprint = options.fingerprint.or(host.fingerprint);
            options.bridge_fingerprint = options.bridge_fingerprint.or(host.bridge_fingerprint);
            key = host.key.or(key);
        }
        let is_known = options.token_file.is_some() || options.user.is_some();
        let is_wanted = options.via.is_some() || (!is_known && options.password_file.is_none());
        if options.url.is_some() && is_wanted {
            options.key = options.key.or(key);
        }
        Ok(options)
    }

    /// The same; `trust` returns the fingerprint of a certificate that was not given.
    fn target_with(&self, home: &Home, trust: &Trust) -> Result<Target, Exit> {
        let places = [self.config.is_some(), self.socket.is_some(), self.url.is_some()];
        if places.into_iter().filter(|given| *given).count() > 1 {
            return Err(Exit::usage("only one of -c, --socket and --url can name the daemon"));
        }
        if let Some(url) = &self.url {
            return match &self.via {
                Some(host) => self.bridged(url, host, trust),
                None if self.bridge_fingerprint.is_some() => {
                    Err(Exit::usage("--bridge-fingerprint goes with --via"))
                }
                None => self.remote(url, trust),
            };
        }
        if self.via.is_some() || self.bridge_fingerprint.is_some() {
            let why = "--via and --bridge-fingerprint go with --url, which names the bridge";
            return Err(Exit::usage(why));
        }
        let secrets = [&self.key, &self.token_file, &self.password_file];
        if self.fingerprint.is_some() || self.user.is_some() || secrets.iter().any(|s| s.is_some())
        {
            return Err(Exit::usage(
                "--fingerprint, --key, --token-file, --user and --password-file go with --url: on a socket you are known by who you are",
            ));
        }
        if let Some(socket) = &self.socket {
            return Ok(Target::Sockets(vec![socket.clone()]));
        }
        if let Some(file) = &self.config {
            return Ok(Target::Sockets(vec![configured_socket(file, home, |config| {
                config.server.socket
            })?]));
        }
        Ok(Target::Sockets(vec![Home::system_socket().to_path_buf(), home.socket()]))
    }

    /// A host behind a relay. It is never trusted on first use: the relay could present another
    /// certificate.
    fn bridged(&self, url: &str, host: &str, trust: &Trust) -> Result<Target, Exit> {
        let url = Url::of_bridge(url).map_err(usage)?;
        let Some(file) = &self.key else {
            return Err(Exit::usage(
                "--via needs a key (--key): a bridge takes no passwords and no tokens",
            ));
        };
        let key = Arc::new(read_private_key(file)?);
        let (fingerprint, known) = match &self.fingerprint {
            Some(fingerprint) => (fingerprint.parse().map_err(usage)?, None),
            None => {
                let KnownHost { fingerprint, place } = (trust.known)(host)?;
                (fingerprint, Some(place))
            }
        };
        let others = TargetOptions { key: None, ..self.clone() };
        let credential = others.credential(host)?.unwrap_or(Credential::Key(key.clone()));
        let bridge = self.bridge(url, key, trust)?;
        let host = host.to_owned();
        Ok(Target::Via(Box::new(Via { bridge, host, fingerprint, known, credential })))
    }

    /// The relay, if the URL names one without a host behind it.
    pub(super) fn bridge_of_all(&self, home: &Home) -> Result<Option<Bridge>, Exit> {
        let options = self.resolved()?;
        let (None, Some(file), Some(_)) = (&options.via, &options.key, &options.url) else {
            return Ok(None);
        };
        let nobody = TargetOptions { key: None, ..options.clone() };
        let bare = match nobody.target_with(home, &TRUST) {
            Ok(target @ Target::Tls { .. }) => target,
            Ok(_) | Err(_) => return Ok(None),
        };
        let who = Client::connect(&bare)?.call("rpc", "identify", serde_json::Value::Null)?;
        let Target::Tls { url: at, fingerprint, known, .. } = bare else { return Ok(None) };
        if who.field("type") != "bridge" {
            return Ok(None);
        }
        let key = Arc::new(read_private_key(file)?);
        Ok(Some(Bridge { url: at, fingerprint, known, key }))
    }

    fn bridge(&self, url: Url, key: Arc<PrivateKey>, trust: &Trust) -> Result<Bridge, Exit> {
        let (fingerprint, known) = match &self.bridge_fingerprint {
            Some(fingerprint) => (fingerprint.parse().map_err(usage)?, None),
            None => {
                let KnownHost { fingerprint, place } = (trust.asked)(&url)?;
                (fingerprint, Some(place))
            }
        };
        Ok(Bridge { url, fingerprint, known, key })
    }

    fn remote(&self, url: &str, trust: &Trust) -> Result<Target, Exit> {
        let url: Url = url.parse().map_err(usage)?;
        if !url.tls {
            if self.fingerprint.is_some() {
                let why = "ws:// has no certificate: --fingerprint goes with wss://";
                return Err(Exit::usage(why));
            }
            let credential = self.credential(&url.host)?;
            return Ok(Target::Loopback { url, credential });
        }
        let (fingerprint, known) = match &self.fingerprint {
            Some(fingerprint) => (fingerprint.parse().map_err(usage)?, None),
            None => {
                let KnownHost { fingerprint, place } = (trust.asked)(&url)?;
                (fingerprint, Some(place))
            }
        };
        let credential = self.credential(&url.host)?;
        Ok(Target::Tls { url, fingerprint, known, credential })
    }

    fn credential(&self, host: &str) -> Result<Option<Credential>, Exit> {
        let others = [self.token_file.is_some(), self.user.is_some()];
        if let Some(file) = &self.key {
            if others.contains(&true) || self.password_file.is_some() {
                let why = "only one of --key, --token-file and --user may be given";
                return Err(Exit::usage(why));
            }
            return Ok(Some(Credential::Key(Arc::new(read_private_key(file)?))));
        }
        match (&self.token_file, &self.user, &self.password_file) {
            (None, None, None) => Ok(None),
            (Some(file), None, None) => Ok(Some(Credential::Token(read_secret(file, "a token")?))),
            (Some(_), ..) => Err(Exit::usage("either --token-file or --user, not both")),
            (None, None, Some(_)) => Err(Exit::usage("--password-file goes with --user")),
            (None, Some(user), Some(file)) => {
                let password = read_secret(file, "a password")?;
                Ok(Some(Credential::Password { user: user.clone(), password }))
            }
            (None, Some(user), None) => {
                let prompt = format!("Password of {user} on {host}: ");
                let password = ask_for_secret(&prompt).map_err(|error| {
                    Exit::usage(format!(
                        "cannot ask for the password on a terminal: {error}; use --password-file"
                    ))
                })?;
                Ok(Some(Credential::Password { user: user.clone(), password }))
            }
        }
    }
}

fn usage(error: impl std::fmt::Display) -> Exit {
    Exit::usage(error.to_string())
}

fn configured_socket(
    file: &Path,
    home: &Home,
    socket: fn(Config) -> Option<PathBuf>,
) -> Result<PathBuf, Exit> {
    let (config, _) = Config::load(Some(file), home, &Files::of_system(MayBlock::before_loop()))
        .map_err(|errors| Exit::failed(sysexits::CONFIGURATION, errors.to_string()))?;
    socket(config).ok_or_else(|| {
        let message = format!("{} configures no socket; name the daemon by --url", file.display());
        Exit::failed(sysexits::CONFIGURATION, message)
    })
}

fn read_private_key(file: &Path) -> Result<PrivateKey, Exit> {
    let mut text = zeroize::Zeroizing::new(Vec::with_capacity(8 * 1024));
    fs::File::open(file)
        .and_then(|file| file.take(SECRET_FILE).read_to_end(&mut text))
        .map_err(|error| Exit::usage(format!("cannot read a key: {}: {error}", file.display())))?;
    PrivateKey::from_pem(&text).map_err(|error| Exit::usage(format!("{}: {error}", file.display())))
}

fn read_secret(file: &Path, what: &str) -> Result<Secret, Exit> {
    let mut text = zeroize::Zeroizing::new(String::new());
    fs::File::open(file)
        .and_then(|file| file.take(SECRET_FILE).read_to_string(&mut text))
        .map_err(|error| Exit::usage(format!("cannot read {what}: {}: {error}", file.display())))?;
    // A token has no surrounding blanks; a password may.
    let line = text.lines().next().unwrap_or("");
    let secret = if what == "a token" { line.trim() } else { line };
    if secret.is_empty() {
        return Err(Exit::usage(format!(
            "{}: its first line is empty, not {what}",
            file.display()
        )));
    }
    Ok(Secret::new(secret))
}

#[cfg(test)]
mod tests {
    use super::super::words::{Word, words};
    use super::*;

    const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn target(line: &[&str]) -> Result<Target, Exit> {
        let mut words = words(line);
        let mut options = TargetOptions::default();
        while let Some(Word::Option(option)) = words.next()? {
            assert!(options.take(&option, &mut words)?, "{option}");
        }
        let asked = |url: &Url| Err(Exit::usage(format!("{url} is not known")));
        let known = |host: &str| Err(Exit::usage(format!("{host} is not known")));
        options.target_with(&Home::of_this_process(), &Trust { asked, known })
    }

    fn refused(line: &[&str]) -> String {
        match target(line) {
            Err(Exit::Usage(said)) => said,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("{line:?} was taken"),
        }
    }

    #[test]
    fn target_defaults_to_system_socket_then_own() {
        let Ok(Target::Sockets(paths)) = target(&[]) else { panic!() };
        assert_eq!(paths[0], Home::system_socket());
        assert_eq!(paths[1], Home::of_this_process().socket());
    }

    #[test]
    fn a_socket_or_a_url() {
        let Ok(Target::Sockets(paths)) = target(&["--socket", "/s"]) else { panic!() };
        assert_eq!(paths, [PathBuf::from("/s")]);
        let tls = target(&["--url", "wss://h", "--fingerprint", HEX]);
        assert!(matches!(tls, Ok(Target::Tls { url, credential: None, .. }) if url.port == 12150));
        let plain = target(&["--url=ws://127.0.0.1:1"]);
        assert!(matches!(plain, Ok(Target::Loopback { url, credential: None }) if url.port == 1));
    }

    #[test]
    fn contradictory_options_are_rejected() {
        assert!(refused(&["--url", "wss://h"]).contains("wss://h:12150 is not known"));
        assert!(refused(&["--url=ws://[::1]", "--key=/k", "--user=u"]).contains("only one of"));
        assert!(refused(&["--url=ws://[::1]", "--key=/nothing/here"]).contains("/nothing/here"));
        assert!(refused(&["--key", "/k"]).contains("--url"));
        assert!(refused(&["--via", "h"]).contains("--url"));
        assert!(refused(&["--url=wss://b", "--via=h"]).contains("--key"));
        assert!(refused(&["--url=wss://b", "--bridge-fingerprint=1"]).contains("--via"));
        assert!(refused(&["--url=ws://[::1]", "--via=h", "--key=/k"]).contains("wss://"));
        assert!(refused(&["--url", "ws://localhost", "--fingerprint", HEX]).contains("wss://"));
        assert!(refused(&["--url", "ws://h"]).contains("this host"));
        assert!(refused(&["--url", "wss://h", "--fingerprint", "12"]).contains("fingerprint"));
        assert!(refused(&["--socket", "/s", "--url", "wss://h"]).contains("only one"));
        assert!(refused(&["--socket", "/s", "-c", "/f"]).contains("only one"));
        assert!(refused(&["--fingerprint", HEX]).contains("--url"));
        assert!(refused(&["--user", "u"]).contains("--url"));
        let url = "--url=ws://[::1]";
        assert!(refused(&[url, "--password-file=/p"]).contains("--user"));
        assert!(refused(&[url, "--token-file=/t", "--user=u"]).contains("not both"));
        assert!(
            refused(&["--url=ws://[::1]", "--token-file=/nothing/here"]).contains("/nothing/here")
        );
    }

    #[test]
    fn a_secret_is_the_first_line_of_its_file() {
        let file = std::env::temp_dir().join(format!("sysadm-token-{}", std::process::id()));
        fs::write(&file, " abc \nsecond\n").unwrap();
        assert_eq!(read_secret(&file, "a token").unwrap(), Secret::new("abc"));
        assert_eq!(read_secret(&file, "a password").unwrap(), Secret::new(" abc "));
        let path = file.display().to_string();
        let with_password = target(&["--url=ws://[::1]:1", "--user=u", "--password-file", &path]);
        let Ok(Target::Loopback { credential: Some(credential), .. }) = with_password else {
            panic!()
        };
        let password = Secret::new(" abc ");
        assert_eq!(credential, Credential::Password { user: "u".into(), password });
        fs::write(&file, "\nsecond\n").unwrap();
        assert!(read_secret(&file, "a token").is_err());
        fs::remove_file(&file).unwrap();
    }
}
