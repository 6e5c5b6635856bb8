//! A server behind a relay, and a person with a key for both.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest;

use crate::{Cli, Daemon, Directory, Outcome, Setup};

/// The person at the client: a key, and a configuration directory.
#[derive(Debug)]
pub struct Person {
    directory: Directory,
    program: String,
}

impl Person {
    /// A person with a new key.
    pub fn new(program: &str) -> Outcome<Person> {
        let person = Person { directory: Directory::new()?, program: program.to_owned() };
        let made = Cli::of(program, "key").arg("generate").arg(person.key()).run()?;
        if made.code() != 0 {
            return Err(made.err.into());
        }
        Ok(person)
    }

    /// The private key.
    pub fn key(&self) -> PathBuf {
        self.directory.join("key")
    }

    /// The public key.
    pub fn public_key(&self) -> PathBuf {
        self.directory.join("key.pub")
    }

    /// The id of the key.
    pub fn key_id(&self) -> Outcome<String> {
        let text = std::fs::read_to_string(self.public_key())?;
        let base64: String = text.lines().filter(|line| !line.starts_with("--")).collect();
        let hash = digest::digest(&digest::SHA256, &STANDARD.decode(base64)?);
        Ok(STANDARD.encode(hash))
    }

    /// Registers the key for a user of this daemon's.
    pub fn register(&self, setup: &Setup, user: &str) -> Outcome<()> {
        let add = Cli::of(&self.program, "key").args(["add", user]).arg(self.public_key());
        let added = add.arg("-c").arg(setup.file()).run()?;
        if added.code() == 0 { Ok(()) } else { Err(added.err.into()) }
    }

    /// Registers the key at a bridge.
    pub fn register_at_bridge(&self, setup: &Setup, name: &str) -> Outcome<()> {
        let add = Cli::of(&self.program, "key").args(["add", name]).arg(self.public_key());
        let added = add.args(["--bridge", "-c"]).arg(setup.file()).run()?;
        if added.code() == 0 { Ok(()) } else { Err(added.err.into()) }
    }

    /// Sets the content of `known_hosts`.
    pub fn knows(&self, lines: &str) -> Outcome<()> {
        let folder = self.directory.join("config/sysadm-events");
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join("known_hosts"), lines)?)
    }

    /// The person's command for a host behind a relay.
    pub fn via(&self, command: &str, (url, fingerprint): (&str, &str), host: &str) -> Cli {
        let bridge = ["--bridge-fingerprint", fingerprint, "--via", host];
        self.at(command, url).args(bridge)
    }

    /// The person's command for a URL.
    pub fn at(&self, command: &str, url: &str) -> Cli {
        Cli::of(&self.program, command)
            .env("XDG_CONFIG_HOME", self.directory.join("config"))
            .args(["--url", url, "--key"])
            .arg(self.key())
    }

    /// Adds this daemon's certificate with that name.
    pub fn knows_daemon(&self, name: &str, daemon: &Daemon) -> Outcome<()> {
        self.knows(&format!("{name} {}\n", daemon.fingerprint()))
    }
}

/// Registers a server's own key at a relay, as its operator does.
pub fn register_server(program: &str, server: &Setup, bridge: &Setup, name: &str) -> Outcome<()> {
    let exported = Cli::of(program, "key").arg("export").arg("-c").arg(server.file()).run()?;
    if exported.code() != 0 {
        return Err(exported.err.into());
    }
    let add = Cli::of(program, "key").args(["add", name, "-", "--bridge", "-c"]);
    let added = add.arg(bridge.file()).run_with_input(exported.out.as_bytes())?;
    if added.code() == 0 { Ok(()) } else { Err(added.err.into()) }
}
