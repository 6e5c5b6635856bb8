//! `serve`: the daemon, in the foreground.

use super::exit::Exit;
use super::words::{Word, Words, unexpected};
use super::{Command, complain};
use crate::client::sysexits;
use crate::config::{Config, Home};
use crate::server;
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;

pub(super) const COMMAND: Command = Command {
    name: "serve",
    summary: "the daemon, in the foreground",
    help: "\
The daemon: watches this host, runs jobs and publishes events to subscribers.

Usage: sysadm-events serve [-c FILE] [--pid-file FILE]

It stays in the foreground; daemon(8) or a supervisor runs it in the background.
No set-up is required: without a configuration the built-in defaults apply, and
a certificate is created at the first start. Without root, all files are in your
own directories.

Options:
  -c FILE     the configuration; without it the system's (if not root, your
              own), and without a file the built-in defaults
  --pid-file FILE
              file for its process number, locked as long as it runs; not
              needed under daemon(8), which has one itself
  -h, --help  this text

Signals: SIGHUP reloads the configuration, SIGTERM and SIGINT shut down in
order, SIGUSR1 (SIGINFO on FreeBSD) logs a status line.

Examples:
  sysadm-events serve
  sysadm-events serve -c /tmp/try.toml
",
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let (mut file, mut pid_file) = (None, None);
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if name == "-c" || name == "--config" => file = Some(words.path()?),
            Word::Option(name) if name == "--pid-file" => pid_file = Some(words.path()?),
            other => return Err(unexpected(&other)),
        }
    }
    let home = Home::of_this_process();
    let (config, file) =
        Config::load(file.as_deref(), &home, &Files::of_system(MayBlock::before_loop()))
            .map_err(|errors| Exit::failed(sysexits::CONFIGURATION, errors.to_string()))?;
    match server::run(config, file, home, pid_file.as_deref()) {
        Ok(()) => Ok(0),
        Err(error) => {
            complain(&error.to_string());
            Ok(error.exit_code())
        }
    }
}
