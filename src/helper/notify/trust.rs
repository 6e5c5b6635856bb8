//! Certificates that a webhook is verified with: those of a file, or the system's.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts};

use crate::sys::may_block::MayBlock;

/// Bundles of the systems: FreeBSD, Debian, Fedora, and FreeBSD's `ca_root_nss`.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/usr/local/share/certs/ca-root-nss.crt",
];
/// Directories with a file for each certificate: as certctl(8) links them, and its source.
const DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/usr/share/certs/trusted"];
/// Bytes of one file, and files of a directory, at most.
const LONGEST: u64 = 4 * 1024 * 1024;
const MOST_FILES: usize = 1000;

/// The trusted certificates.
///
/// # Errors
/// None can be read: the reason.
pub(super) fn roots(ca_file: Option<&Path>, _: MayBlock) -> Result<RootCerts, String> {
    if let Some(path) = ca_file {
        let name = path.display();
        let found = of_file(path).map_err(|why| format!("cannot read ca_file {name}: {why}"))?;
        if found.is_empty() {
            return Err(format!("ca_file {name} has no certificate in PEM"));
        }
        return Ok(RootCerts::Specific(Arc::new(found)));
    }
    // As OpenSSL does, for hosts with another layout.
    let variable = std::env::var_os("SSL_CERT_FILE");
    let bundles = variable.iter().map(Path::new).chain(BUNDLES.iter().map(Path::new));
    let bundle = bundles.filter_map(|path| of_file(path).ok()).find(|found| !found.is_empty());
    let found = bundle.or_else(|| {
        DIRECTORIES.iter().map(|path| of_directory(Path::new(path))).find(|found| !found.is_empty())
    });
    match found {
        Some(found) => Ok(RootCerts::Specific(Arc::new(found))),
        None => Err("the system has no trusted certificates (/etc/ssl): install them \
                     (ca-certificates, ca_root_nss), or set ca_file"
            .to_owned()),
    }
}

fn of_file(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LONGEST).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let certificates = CertificateDer::pem_slice_iter(&text).flatten();
    Ok(certificates.map(|der| Certificate::from_der(&der).to_owned()).collect())
}

fn of_directory(path: &Path) -> Vec<Certificate<'static>> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let files = entries.flatten().take(MOST_FILES).map(|entry| entry.path());
    files.filter_map(|file| of_file(&file).ok()).flatten().collect()
}
