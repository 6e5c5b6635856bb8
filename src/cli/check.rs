//! `check`: says what is wrong with a configuration before the daemon has to.

use std::path::PathBuf;

use super::exit::Exit;
use super::words::{Word, Words, unexpected};
use super::{Command, complain, write};
use crate::config::{Config, Home};

pub(super) const COMMAND: Command = Command {
    name: "check",
    summary: "say what is wrong with the configuration",
    help: "\
Reads the configuration and says all that is wrong with it, as FILE:LINE: why.

Usage: sysadm-events check [-c FILE]

Options:
  -c FILE     the file; without it the one that \"serve\" would take
  -h, --help  this text

Exits 0 where nothing is wrong, else 1.

Example:
  sysadm-events check -c new.toml && mv new.toml sysadm-events.toml
",
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let mut file: Option<PathBuf> = None;
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if name == "-c" || name == "--config" => file = Some(words.path()?),
            Word::Value(value) if file.is_none() => file = Some(value.into()),
            other => return Err(unexpected(&other)),
        }
    }
    match Config::load(file.as_deref(), &Home::of_this_process()) {
        Ok((_, Some(file))) => write(&format!("{}: ok\n", file.display()))?,
        Ok((_, None)) => write("no configuration file, the built-in defaults: ok\n")?,
        Err(errors) => {
            complain(&errors.to_string());
            return Ok(1);
        }
    }
    Ok(0)
}
