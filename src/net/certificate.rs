//! The server's certificate: created on the first start, and pinned by its fingerprint.
//!
//! No authority signs for a host with a private name, so clients pin the certificate itself. It has
//! no keyUsage extension: the Qt client closes on every TLS error but "self-signed" and "host name
//! mismatch" (protocol section 1).

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::digest;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::pin;
use super::validity::not_after;
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;
use crate::wire::{from_hex, to_hex};

/// Why there is no usable certificate.
#[derive(Debug)]
pub enum CertificateError {
    /// A file could not be read or written.
    File(PathBuf, &'static str, io::Error),
    /// A file has invalid content.
    Content(PathBuf, String),
    /// Only one of certificate and key exists.
    Half {
        /// The file that exists.
        present: PathBuf,
        /// The file that is missing.
        missing: PathBuf,
    },
    /// The certificate could not be created.
    Making(String),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateError::File(path, what, error) => {
                write!(f, "cannot {what} {}: {error}", path.display())
            }
            CertificateError::Content(path, why) => write!(f, "{}: {why}", path.display()),
            CertificateError::Half { present, missing } => write!(
                f,
                "{} is there and {} is not: put the missing one back, or remove the other to have a new pair made",
                present.display(),
                missing.display()
            ),
            CertificateError::Making(why) => write!(f, "cannot make a certificate: {why}"),
        }
    }
}

impl std::error::Error for CertificateError {}

/// One day in the past: clocks differ, and the host's may be wrong at its first start.
const BACKDATED: Duration = Duration::from_secs(86_400);
/// Twenty years: pinned certificates are not renewed, and a new one invalidates all pins.
const VALID: Duration = Duration::from_secs(20 * 365 * 86_400);

/// Creates certificate and key if neither exists. `names` are host names or addresses; the first is
/// the common name.
pub fn ensure(
    certificate: &Path,
    key: &Path,
    names: &[String],
    may_block: MayBlock,
) -> Result<(), CertificateError> {
    match (certificate.exists(), key.exists()) {
        (true, true) => Ok(()),
        (true, false) => Err(half(certificate, key)),
        (false, true) => Err(half(key, certificate)),
        (false, false) => make(certificate, key, names, may_block),
    }
}

fn half(present: &Path, missing: &Path) -> CertificateError {
    CertificateError::Half { present: present.to_owned(), missing: missing.to_owned() }
}

fn make(
    certificate: &Path,
    key: &Path,
    names: &[String],
    may_block: MayBlock,
) -> Result<(), CertificateError> {
    let making = |error: rcgen::Error| CertificateError::Making(error.to_string());
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(making)?;
    let names = if names.is_empty() { vec!["localhost".to_owned()] } else { names.to_vec() };
    let mut params = rcgen::CertificateParams::new(names.clone()).map_err(making)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let first = names.first().map(String::as_str).unwrap_or_default();
    params.distinguished_name.push(rcgen::DnType::CommonName, first);
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + VALID;
    let made = params.self_signed(&pair).map_err(making)?;
    let secret = Zeroizing::new(pair.serialize_pem());
    // The key first: a certificate without its key would be published and useless.
    write_whole(key, secret.as_bytes(), 0o600, may_block)?;
    write_whole(certificate, made.pem().as_bytes(), 0o644, may_block)
}

/// Writes a file atomically.
fn write_whole(path: &Path, bytes: &[u8], mode: u32, _: MayBlock) -> Result<(), CertificateError> {
    let failed = |what| move |error| CertificateError::File(path.to_owned(), what, error);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("create the directory of"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(mode).open(&new).map_err(failed("write"))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    fs::rename(&new, path).map_err(failed("write"))?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write"))
}

/// The TLS configuration of listeners.
pub struct ServerSide {
    /// TLS 1.2 and 1.3, no client certificates, no session resumption.
    pub config: Arc<ServerConfig>,
    /// The same with TLS 1.3 alone, for tunnels through a relay.
    pub tunnel: Arc<ServerConfig>,
    /// SHA-256 of its certificate, formatted by [`fingerprint`].
    pub fingerprint: String,
    /// End of validity of its certificate, where that can be read.
    pub expires: Option<SystemTime>,
}

impl ServerSide {
    /// The fingerprint as bytes.
    pub fn sha256(&self) -> [u8; 32] {
        from_hex(&self.fingerprint).unwrap_or_default()
    }
}

/// Reads certificate and key.
pub fn server_side(
    certificate: &Path,
    key: &Path,
    files: &Files,
) -> Result<ServerSide, CertificateError> {
    let secret = read(key, files)?;
    server_side_of((certificate, &read(certificate, files)?), (key, &secret))
}

fn read(path: &Path, files: &Files) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    /// Far beyond any chain of certificates, in bytes.
    const MOST: u64 = 1024 * 1024;
    let failed = |error| CertificateError::File(path.to_owned(), "read", error);
    files.read(path, MOST).map_err(failed)
}

/// The same from the content of both files; the paths are for messages.
pub fn server_side_of(
    (certificate, chain): (&Path, &[u8]),
    (key, secret): (&Path, &[u8]),
) -> Result<ServerSide, CertificateError> {
    let chain = chain_of(certificate, chain)?;
    let fingerprint = chain.first().map(|first| fingerprint(first)).unwrap_or_default();
    let expires = chain.first().and_then(|first| not_after(first));
    let secret = PrivateKeyDer::from_pem_slice(secret).map_err(|error| unreadable(key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |error: rustls::Error| {
        CertificateError::Content(
            key.to_owned(),
            format!("not usable with {}: {error}", certificate.display()),
        )
    };
    let with = |versions| {
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), secret.clone_key())?;
        // Clients stay connected for days: a session cache would cost memory without a benefit.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    };
    let config = with(pin::SOCKETS).map_err(unusable)?;
    let tunnel = with(pin::TUNNELS).map_err(unusable)?;
    Ok(ServerSide { config, tunnel, fingerprint, expires })
}

/// SHA-256 of the certificate in a PEM file, as 64 lower-case hexadecimal digits.
pub fn fingerprint_of(certificate: &Path, files: &Files) -> Result<String, CertificateError> {
    let chain = chain_of(certificate, &read(certificate, files)?)?;
    Ok(chain.first().map(|first| fingerprint(first)).unwrap_or_default())
}

/// SHA-256 of a certificate's DER form, as 64 lower-case hexadecimal digits.
pub fn fingerprint(der: &[u8]) -> String {
    to_hex(digest::digest(&digest::SHA256, der).as_ref())
}

fn chain_of(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let chain = chain.map_err(|error| unreadable(path, error))?;
    if chain.is_empty() {
        return Err(CertificateError::Content(path.to_owned(), "holds no certificate".to_owned()));
    }
    Ok(chain)
}

fn unreadable(path: &Path, error: pem::Error) -> CertificateError {
    match error {
        pem::Error::Io(error) => CertificateError::File(path.to_owned(), "read", error),
        error => CertificateError::Content(path.to_owned(), format!("not a PEM file: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const MAY_BLOCK: MayBlock = MayBlock::before_loop();

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("se-cert-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
        fn files(&self) -> (PathBuf, PathBuf) {
            (self.0.join("cert.pem"), self.0.join("key.pem"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn certificate_and_private_key_are_created_once() {
        let folder = Folder::new("made");
        let (certificate, key) = folder.files();
        let names = ["nas.example.org".to_owned(), "192.0.2.1".to_owned()];
        ensure(&certificate, &key, &names, MAY_BLOCK).unwrap();
        let first = fingerprint_of(&certificate, &Files::of_system(MAY_BLOCK)).unwrap();
        assert_eq!(first.len(), 64);
        ensure(&certificate, &key, &names, MAY_BLOCK).unwrap();
        assert_eq!(fingerprint_of(&certificate, &Files::of_system(MAY_BLOCK)).unwrap(), first);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let shown = server_side(&certificate, &key, &Files::of_system(MAY_BLOCK)).unwrap();
        assert_eq!(shown.fingerprint, first);
        assert_eq!(to_hex(&shown.sha256()), first);
    }

    #[test]
    fn half_a_pair_is_not_replaced() {
        let folder = Folder::new("half");
        let (certificate, key) = folder.files();
        ensure(&certificate, &key, &[], MAY_BLOCK).unwrap();
        fs::remove_file(&key).unwrap();
        let error = ensure(&certificate, &key, &[], MAY_BLOCK).unwrap_err();
        assert!(matches!(error, CertificateError::Half { .. }), "{error}");
        assert!(certificate.exists());
    }

    #[test]
    fn a_file_that_holds_something_else_is_named() {
        let folder = Folder::new("junk");
        let (certificate, key) = folder.files();
        ensure(&certificate, &key, &[], MAY_BLOCK).unwrap();
        fs::write(&certificate, "junk").unwrap();
        let Err(error) = server_side(&certificate, &key, &Files::of_system(MAY_BLOCK)) else {
            panic!("it was taken")
        };
        let error = error.to_string();
        assert!(error.contains("cert.pem"), "{error}");
    }
}
