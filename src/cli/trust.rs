//! The certificate of another host: known, or confirmed by the user once.

use std::io::{self, BufRead, IsTerminal, Write};

use super::exit::Exit;
use crate::client::{self, DEFAULT_PORT, Fingerprint, KnownHost, KnownHosts, Url, sysexits};
use crate::config::Home;

/// The fingerprint that the server of `url` must have. An unknown one is confirmed on the terminal;
/// without a terminal it is refused.
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
    let mut input = io::stdin().lock();
    if let Err(why) = ask(&name, fingerprint, &mut input, &mut io::stderr()) {
        let why = format!("the certificate of {name} is not trusted: {why}; nothing was sent");
        return Err(Exit::failed(sysexits::NO_PERMISSION, why));
    }
    known.add(&name, fingerprint).map_err(|error| failed("write", error))?;
    Ok(KnownHost { fingerprint, place: path.display().to_string() })
}

/// The known fingerprint of a host behind a relay, by its name or by its direct address.
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

/// Asks whether the certificate is that of `name`. `yes` and the fingerprint itself accept it; any
/// answer other than these and `no` repeats the question once.
///
/// # Errors Why it is not accepted.
fn ask(
    name: &str,
    fingerprint: Fingerprint,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<(), String> {
    let mut question = format!(
        "The certificate of {name} is not known yet. Its SHA-256 is\n  {fingerprint}\n\
         \"sysadm-events fingerprint\" on that host should print the same.\n\
         Trust it from now on (yes, no, or the fingerprint that is expected)? "
    );
    for _ in 0..2 {
        let mut line = String::new();
        let asked = output.write_all(question.as_bytes()).and_then(|()| output.flush());
        asked.and_then(|()| input.read_line(&mut line)).map_err(|error| error.to_string())?;
        match line.trim() {
            answer if answer.eq_ignore_ascii_case("yes") => return Ok(()),
            answer if answer.eq_ignore_ascii_case("no") => return Err("not accepted".to_owned()),
            answer => match answer.parse::<Fingerprint>() {
                Ok(expected) if expected == fingerprint => return Ok(()),
                Ok(expected) => return Err(format!("it is not the expected one, {expected}")),
                Err(_) => {}
            },
        }
        "Please type yes, no or the fingerprint: ".clone_into(&mut question);
    }
    Err("the reply is neither yes nor the fingerprint".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_trusted_by_yes_or_its_fingerprint_at_second_try() {
        let shown = Fingerprint::new([0xab; 32]);
        let asked = |typed: &str| {
            let mut output = Vec::new();
            let answer = ask("nas:1", shown, &mut typed.as_bytes(), &mut output);
            (answer, String::from_utf8(output).unwrap().matches("Please type").count())
        };
        let colons = format!("SHA256:{}", ["AB"; 32].join(":"));
        for (typed, again) in [
            ("yes\n", 0),
            (" YES \r\n", 0),
            (&format!("{shown}\n"), 0),
            (&format!("{colons}\n"), 0),
            ("y\nyes\n", 1),
            (&format!("\n{shown}\n"), 1),
        ] {
            assert_eq!(asked(typed), (Ok(()), again), "{typed:?}");
        }
        let other = Fingerprint::new([0xac; 32]).to_string();
        for (typed, again) in
            [("no\n", 0), (&*other, 0), ("y\nno\n", 1), ("y\ny\nyes\n", 1), ("", 1)]
        {
            let (answer, times) = asked(typed);
            assert!(answer.is_err() && times == again, "{typed:?}");
        }
        assert!(asked(&other).0.unwrap_err().contains(&other));
    }
}
