//! `bridge`: the relay, in the foreground.

use super::exit::Exit;
use super::words::{Word, Words, unexpected};
use super::{Command, complain};
use crate::bridge::daemon;
use crate::client::sysexits;
use crate::config::{Config, Home};
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;

pub(super) const COMMAND: Command = Command {
    name: "bridge",
    summary: "the relay for hosts behind address translation",
    help: "\
The relay for servers and clients that cannot reach each other. It introduces
those that claim a key in common, and forwards their encrypted traffic.

Usage: sysadm-events bridge [-c FILE]

It stays in the foreground; daemon(8) or a supervisor runs it in the background.
Started as root it becomes the user sysadm_bridge. Without a configuration the
built-in defaults apply, and a certificate is created at the first start. Peers
authenticate by keys that \"sysadm-events key add NAME FILE --bridge\" registers.

Options:
  -c FILE     the configuration, whose section [relay] is for the bridge;
              without it the system's (if not root, your own), and without a
              file the built-in defaults
  -h, --help  this text

Signals: SIGHUP reloads configuration, certificate and keys, SIGTERM and
SIGINT shut down in order, SIGUSR1 (SIGINFO on FreeBSD) logs a status line.

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
    let (config, file) =
        Config::load(file.as_deref(), &home, &Files::of_system(MayBlock::before_loop()))
            .map_err(|errors| Exit::failed(sysexits::CONFIGURATION, errors.to_string()))?;
    match daemon::run(config, file, home) {
        Ok(()) => Ok(0),
        Err(error) => {
            complain(&error.to_string());
            Ok(error.exit_code())
        }
    }
}
