//! `bridge`: the relay, in the foreground.

use super::exit::Exit;
use super::words::{Word, Words, unexpected};
use super::{Command, complain};
use crate::bridge::daemon;
use crate::client::sysexits;
use crate::config::{Config, Home};

pub(super) const COMMAND: Command = Command {
    name: "bridge",
    summary: "the relay for hosts behind address translation",
    help: "\
The relay that servers and clients dial which cannot reach each other. It
introduces those that claim a key in common, and passes on what it cannot read.

Usage: sysadm-events bridge [-c FILE]

It stays in the foreground; daemon(8) or a supervisor puts it behind. Started
as root it becomes the user sysadm_bridge. Without a configuration the built-in
defaults are taken, and a certificate is made at the first start. Peers
authenticate by keys that \"sysadm-events key add NAME FILE --bridge\" registers.

Options:
  -c FILE     the configuration, whose section [relay] is for the bridge;
              without it the system's (your own where you are not root), and
              where there is none the built-in defaults
  -h, --help  this text

Signals: SIGHUP reads configuration, certificate and keys again, SIGTERM and
SIGINT stop in order, SIGUSR1 (SIGINFO on FreeBSD) logs a status line.

Examples:
  sysadm-events bridge -c /tmp/try.toml
  sysadm-events status --bridge
",
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let mut file = None;
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if name == "-c" || name == "--config" => file = Some(words.path()?),
            other => return Err(unexpected(&other)),
        }
    }
    let home = Home::of_this_process();
    let (config, file) = Config::load(file.as_deref(), &home)
        .map_err(|errors| Exit::failed(sysexits::CONFIGURATION, errors.to_string()))?;
    match daemon::run(config, file, home) {
        Ok(()) => Ok(0),
        Err(error) => {
            complain(&error.to_string());
            Ok(error.exit_code())
        }
    }
}
