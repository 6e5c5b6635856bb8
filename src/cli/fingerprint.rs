//! `fingerprint`: prints the certificate's fingerprint for remote clients.

use super::exit::Exit;
use super::words::{Word, Words, unexpected};
use super::{Command, write};
use crate::client::sysexits;
use crate::config::{Config, Home};
use crate::net::certificate;
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;

pub(super) const COMMAND: Command = Command {
    name: "fingerprint",
    summary: "this host's certificate fingerprint, for remote clients",
    help: "\
Prints the SHA-256 fingerprint of this host's certificate, which identifies
it to clients on other hosts.

Usage: sysadm-events fingerprint [-c FILE] [--bridge]

Options:
  --bridge    that of the relay on this host, for its peers
  -c FILE     the configuration with the path of the certificate; without it
              the one that \"serve\" would read
  -h, --help  this text

Example, on another host:
  sysadm-events watch --url wss://HOST --token-file token \\
      --fingerprint \"$(ssh HOST sysadm-events fingerprint)\"
",
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let (mut file, mut bridge) = (None, false);
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if name == "-c" || name == "--config" => file = Some(words.path()?),
            Word::Option(name) if name == "--bridge" => bridge = true,
            other => return Err(unexpected(&other)),
        }
    }
    let (config, _) = Config::load(
        file.as_deref(),
        &Home::of_this_process(),
        &Files::of_system(MayBlock::before_loop()),
    )
    .map_err(|errors| Exit::failed(sysexits::CONFIGURATION, errors.to_string()))?;
    let (certificate, maker) = if bridge {
        (&config.relay.certificate, "bridge")
    } else {
        (&config.server.certificate, "serve")
    };
    if !certificate.exists() {
        let message = format!(
            "{} is not there yet: \"sysadm-events {maker}\" makes it at its first start",
            certificate.display()
        );
        return Err(Exit::failed(sysexits::CONFIGURATION, message));
    }
    let fingerprint =
        certificate::fingerprint_of(certificate, &Files::of_system(MayBlock::before_loop()))
            .map_err(|error| Exit::failed(sysexits::CONFIGURATION, error.to_string()))?;
    write(&format!("{fingerprint}\n"))?;
    Ok(0)
}
