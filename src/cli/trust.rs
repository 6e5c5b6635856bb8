//! The certificate of another host: known already, or looked at and asked about, once.

use std::io::{self, BufRead, IsTerminal, Write};

use super::exit::Exit;
use crate::client::{self, DEFAULT_PORT, Fingerprint, KnownHost, KnownHosts, Url, sysexits};
use crate::config::Home;

/// What the server of `url` must show. One that is not known is asked about on the terminal; where
/// there is none nobody could answer, and it is refused.
pub(super) fn certificate_of(url: &Url) -> Result<KnownHost, Exit> {
    let path = Home::known_hosts();
    let failed = |what: &str, error: io::Error| {
        Exit::failed(sysexits::CONFIGURATION, format!("cannot {what} {}: {error}", path.display()))
    };
    let name = url.authority();
    let known = KnownHosts::read(&path).map_err(|error| failed("read", error))?;
    let found = known.find(&name).map_err(|why| Exit::failed(sysexits::CONFIGURATION, why))?;
    if let Some(found) = found {
        return Ok(found);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Exit::usage(format!(
            "{url} is not in {} and could be anybody's: give --fingerprint (\"sysadm-events \
             fingerprint\" on {} prints it), or connect once on a terminal, where it is asked about",
            path.display(),
            url.host
        )));
    }
    let fingerprint = client::certificate_of(url)?;
    if !ask(&name, fingerprint).unwrap_or(false) {
        let why = format!("the certificate of {name} is not trusted; nothing was sent");
        return Err(Exit::failed(sysexits::NO_PERMISSION, why));
    }
    known.add(&name, fingerprint).map_err(|error| failed("write", error))?;
    Ok(KnownHost { fingerprint, place: path.display().to_string() })
}

/// What a host behind a bridge must show, by its name or as it is known when it is dialled itself.
pub(super) fn known(host: &str) -> Result<KnownHost, Exit> {
    let path = Home::known_hosts();
    let failed = |why: String| Exit::failed(sysexits::CONFIGURATION, why);
    let known = KnownHosts::read(&path)
        .map_err(|error| failed(format!("cannot read {}: {error}", path.display())))?;
    for name in [host.to_owned(), format!("{host}:{DEFAULT_PORT}")] {
        if let Some(found) = known.find(&name).map_err(failed)? {
            return Ok(found);
        }
    }
    Err(Exit::usage(format!(
        "{host} is not in {} and could be anybody behind that bridge: give --fingerprint \
         (\"sysadm-events fingerprint\" on {host} prints it), or add a line \"{host} FINGERPRINT\"",
        path.display()
    )))
}

fn ask(name: &str, fingerprint: Fingerprint) -> io::Result<bool> {
    write!(
        io::stderr(),
        "The certificate of {name} is not known yet. Its SHA-256 is\n  {fingerprint}\n\
         \"sysadm-events fingerprint\" on that host should print the same.\n\
         Trust it from now on (yes or no)? "
    )?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().eq_ignore_ascii_case("yes"))
}
