//! `hosts.toml`: named hosts for a user's commands.

use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{ConfigErrors, Fault, Lines};
use super::spelling;
use super::values::kind;
use super::{read, text_of, unreadable};
use crate::sys::files::Files;

/// The keys of a host.
const KEYS: [&str; 5] = ["url", "key", "fingerprint", "via", "bridge_fingerprint"];

/// A host of the file. All values are as written, except for `key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostEntry {
    /// `wss://` URL of its daemon, or of the relay where `via` is set.
    pub url: Option<String>,
    /// File of the private key that is registered there, made absolute.
    pub key: Option<PathBuf>,
    /// SHA-256 of its certificate.
    pub fingerprint: Option<String>,
    /// With `url`: its name behind the relay at `url`. Without: the entry of the relay.
    pub via: Option<String>,
    /// SHA-256 of the relay's certificate.
    pub bridge_fingerprint: Option<String>,
}

impl HostEntry {
    /// Reads the entry of `name`. An entry with `via` and no `url` is completed by that of its
    /// relay: URL, fingerprint, and the key where it has none.
    ///
    /// `home` replaces `~/` at the beginning of a key's path.
    ///
    /// # Errors The file cannot be read or has faults, or there is no such host.
    pub fn find(name: &str, file: &Path, home: &Path, files: &Files) -> Result<HostEntry, String> {
        let bytes = match read(file, files) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Default::default(),
            Err(error) => {
                return Err(ConfigErrors::of_whole_file(file, unreadable(&error)).to_string());
            }
        };
        let text = text_of(&bytes, file).map_err(|errors| errors.to_string())?;
        let hosts = parse(text, file, home).map_err(|errors| errors.to_string())?;
        let named = |name: &str| hosts.iter().find(|(known, _)| known == name);
        let Some((_, host)) = named(name) else {
            let names: Vec<&str> = hosts.iter().map(|(name, _)| name.as_str()).collect();
            let known = match names.as_slice() {
                [] => "it names none".to_owned(),
                names => format!("hosts there: {}", names.join(", ")),
            };
            return Err(format!("no host {name:?} in {}; {known}", file.display()));
        };
        let mut host = host.clone();
        if host.url.is_none() {
            let via = host.via.take().unwrap_or_default();
            let Some((_, HostEntry { url: Some(url), key, fingerprint, via: None, .. })) =
                named(&via)
            else {
                return Err(format!(
                    "{}: via = {via:?} of {name}: no entry of a bridge with that name and a url",
                    file.display()
                ));
            };
            host.url = Some(url.clone());
            host.key = host.key.or_else(|| key.clone());
            host.bridge_fingerprint = host.bridge_fingerprint.or_else(|| fingerprint.clone());
            host.via = Some(name.to_owned());
        }
        Ok(host)
    }
}

/// All hosts of a file, sorted by name.
fn parse(text: &str, file: &Path, home: &Path) -> Result<Vec<(String, HostEntry)>, ConfigErrors> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let mut faults: Vec<Fault> = Vec::new();
    for error in &syntax {
        let at = error.span().map_or(0, |span| span.start);
        faults.push(Fault { at, message: error.message().to_owned() });
    }
    let mut hosts = Vec::new();
    for (name, value) in document.get_ref() {
        let at = name.span().start;
        let name: &str = name.get_ref();
        let DeValue::Table(table) = value.get_ref() else {
            faults.push(Fault { at, message: format!("{name:?} is no host: write [{name}]") });
            continue;
        };
        let mut host = HostEntry::default();
        for (key, value) in table {
            let key_at = key.span().start;
            let key: &str = key.get_ref();
            let DeValue::String(text) = value.get_ref() else {
                let message = format!("{key} is a text, not {}", kind(value.get_ref()));
                faults.push(Fault { at: key_at, message });
                continue;
            };
            let text = text.to_string();
            match key {
                "url" => host.url = Some(text),
                "fingerprint" => host.fingerprint = Some(text),
                "via" => host.via = Some(text),
                "bridge_fingerprint" => host.bridge_fingerprint = Some(text),
                "key" => {
                    let folder = file.parent().unwrap_or(Path::new(""));
                    let path = text.strip_prefix("~/").map(|rest| home.join(rest));
                    host.key = Some(path.unwrap_or_else(|| folder.join(text)));
                }
                _ => {
                    let near = spelling::nearest(key, KEYS).filter(|near| near.close);
                    let advice = near.map_or_else(
                        || format!("; keys are {}", KEYS.join(", ")),
                        |near| format!("; did you mean \"{}\"?", near.name),
                    );
                    let message = format!("unknown key {key:?} in [{name}]{advice}");
                    faults.push(Fault { at: key_at, message });
                }
            }
        }
        if host.url.is_none() && host.via.is_none() && faults.is_empty() {
            faults.push(Fault { at, message: format!("[{name}] has neither url nor via") });
        }
        hosts.push((name.to_owned(), host));
    }
    if faults.is_empty() {
        return Ok(hosts);
    }
    Err(ConfigErrors::new(file, &Lines::of(text), faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, HostEntry)>, String> {
        parse(text, Path::new("/c/hosts.toml"), Path::new("/home/ann"))
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn hosts_file_gives_each_host_with_paths_of_keys_resolved() {
        let hosts = parsed(
            "[nas]\nurl = \"wss://nas\"\nkey = \"~/.ssh/k\"\nfingerprint = \"00\"\n\
             [vm]\nurl = \"wss://b\"\nvia = \"vm\"\nkey = \"keys/vm\"\n[other]\nvia = \"nas\"\nkey = \"/k\"\n",
        );
        let hosts = hosts.unwrap();
        let keys: Vec<_> = hosts.iter().map(|(_, host)| host.key.clone().unwrap()).collect();
        assert_eq!(keys, ["/home/ann/.ssh/k", "/k", "/c/keys/vm"].map(PathBuf::from));
        assert_eq!(hosts[0].0, "nas");
        assert_eq!(hosts[2].1.via.as_deref(), Some("vm"));
    }

    #[test]
    fn hosts_file_faults_are_reported_with_their_lines() {
        let faults = parsed("x = 1\n[nas]\nurl = 5\n[vm]\nurl = \"wss://h\"\nfingerprnt = \"0\"\n");
        assert_eq!(
            faults.unwrap_err().lines().collect::<Vec<_>>(),
            [
                "/c/hosts.toml:1: \"x\" is no host: write [x]",
                "/c/hosts.toml:3: url is a text, not a whole number",
                "/c/hosts.toml:6: unknown key \"fingerprnt\" in [vm]; did you mean \"fingerprint\"?",
            ]
        );
        let empty = parsed("[nas]\nkey = \"k\"\n").unwrap_err();
        assert_eq!(empty, "/c/hosts.toml:1: [nas] has neither url nor via");
    }
}
