//! Certificates trusted by the user: a file of `HOST:PORT FINGERPRINT` lines.
//!
//! A host with another certificate than the one listed is refused; the user removes the line after
//! a renewal. Empty lines, and lines that begin with `#`, are ignored.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::target::{DEFAULT_PORT, Fingerprint};

/// Maximum size of the file, in bytes: some ten thousand hosts.
const LARGEST: u64 = 1024 * 1024;

/// The content of the file.
#[derive(Debug)]
pub struct KnownHosts {
    path: PathBuf,
    text: String,
}

/// An entry of a host.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownHost {
    /// The fingerprint of its certificate.
    pub fingerprint: Fingerprint,
    /// Position of the entry: `FILE:LINE`.
    pub place: String,
}

impl KnownHosts {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors It cannot be read, is not text, or is larger than 1 MiB.
    pub fn read(path: &Path) -> io::Result<KnownHosts> {
        let mut text = String::new();
        match fs::File::open(path) {
            Ok(file) => {
                file.take(LARGEST + 1).read_to_string(&mut text)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if text.len() as u64 > LARGEST {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        Ok(KnownHosts { path: path.to_owned(), text })
    }

    /// The entry of `name`, which must be `HOST:PORT`.
    ///
    /// # Errors The entry is damaged: it must not be treated as missing.
    pub fn find(&self, name: &str) -> Result<Option<KnownHost>, String> {
        for (at, line) in self.text.lines().enumerate() {
            let mut words = line.split_whitespace();
            if !words.next().is_some_and(|word| word.eq_ignore_ascii_case(name)) {
                continue;
            }
            let place = format!("{}:{}", self.path.display(), at + 1);
            let fingerprint = words.next().unwrap_or_default().parse();
            return match (fingerprint, words.next()) {
                (Ok(fingerprint), None) => Ok(Some(KnownHost { fingerprint, place })),
                (Ok(_), Some(_)) => {
                    Err(format!("{place}: something stands behind the fingerprint"))
                }
                (Err(why), _) => Err(format!("{place}: {why}")),
            };
        }
        Ok(None)
    }

    /// All hosts, without the default port; damaged lines are skipped.
    pub fn all(&self) -> Vec<(String, Fingerprint)> {
        let own_port = format!(":{DEFAULT_PORT}");
        let host = |line: &str| {
            let mut words = line.split_whitespace();
            let name = words.next().filter(|name| !name.starts_with('#'))?;
            let fingerprint = words.next()?.parse().ok()?;
            let name = name.strip_suffix(&own_port).unwrap_or(name);
            Some((name.to_owned(), fingerprint))
        };
        self.text.lines().filter_map(host).collect()
    }

    /// Appends a host. The file and its directory are accessible to the user only.
    ///
    /// # Errors They cannot be created or written.
    pub fn add(&self, name: &str, fingerprint: Fingerprint) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let end = if self.text.is_empty() || self.text.ends_with('\n') { "" } else { "\n" };
        let line = format!("{end}{} sha256:{fingerprint}\n", name.to_ascii_lowercase());
        file.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn host_is_stored_and_found_in_any_case() {
        let folder = std::env::temp_dir().join(format!("se-known-{}", std::process::id()));
        let path = folder.join("a/known_hosts");
        let (one, two) = (Fingerprint::new([1; 32]), Fingerprint::new([2; 32]));
        let empty = KnownHosts::read(&path).unwrap();
        assert_eq!(empty.find("h:1").unwrap(), None);
        empty.add("NAS.example:12150", one).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap() + "# mine\n[::1]:5 12").unwrap();
        KnownHosts::read(&path).unwrap().add("other:1", two).unwrap();
        let known = KnownHosts::read(&path).unwrap();
        let found = known.find("nas.EXAMPLE:12150").unwrap().unwrap();
        assert_eq!(found.fingerprint, one);
        assert_eq!(found.place, format!("{}:1", path.display()));
        assert_eq!(known.find("other:1").unwrap().unwrap().fingerprint, two);
        assert_eq!(known.find("nas.example:1").unwrap(), None);
        let all = [("nas.example".to_owned(), one), ("other:1".to_owned(), two)];
        assert_eq!(known.all(), all);
        assert!(known.find("[::1]:5").unwrap_err().contains("known_hosts:3: "));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(&folder).unwrap();
    }
}
