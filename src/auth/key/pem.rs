//! PEM: a label and bytes between two lines.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::KeyError;

/// Label of a PEM section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A SubjectPublicKeyInfo (RFC 5280): `openssl pkey -pubout`.
    PublicKey,
    /// An RSAPublicKey (RFC 8017 A.1.1): `openssl rsa -RSAPublicKey_out`.
    RsaPublicKey,
    /// A certificate (RFC 5280): `openssl req -x509`.
    Certificate,
    /// PKCS#8 (RFC 5958): `openssl genpkey`.
    PrivateKey,
    /// An RSAPrivateKey (RFC 8017 A.1.2): `openssl genrsa -traditional`.
    RsaPrivateKey,
    /// The container of `openssh.rs`: `ssh-keygen`.
    OpenSsh,
}

const KINDS: [(&str, Kind); 6] = [
    ("PUBLIC KEY", Kind::PublicKey),
    ("RSA PUBLIC KEY", Kind::RsaPublicKey),
    ("CERTIFICATE", Kind::Certificate),
    ("PRIVATE KEY", Kind::PrivateKey),
    ("RSA PRIVATE KEY", Kind::RsaPrivateKey),
    ("OPENSSH PRIVATE KEY", Kind::OpenSsh),
];

/// Characters of base64 in a line (RFC 7468 section 2).
const COLUMNS: usize = 64;

/// The first section with a known label. Others, and text around them, are skipped.
pub(super) fn read(text: &[u8]) -> Result<(Kind, Zeroizing<Vec<u8>>), KeyError> {
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut unknown = None;
    while let Some(line) = lines.next() {
        let Some(label) = label(line, b"-----BEGIN ") else { continue };
        let Some((name, kind)) = KINDS.iter().find(|(name, _)| name.as_bytes() == label) else {
            unknown.get_or_insert_with(|| String::from_utf8_lossy(label).into_owned());
            continue;
        };
        let mut encoded = Zeroizing::new(Vec::with_capacity(text.len()));
        for line in lines.by_ref() {
            if self::label(line, b"-----END ") == Some(name.as_bytes()) {
                let der = STANDARD.decode(&*encoded).map_err(|_| KeyError::Damaged)?;
                return Ok((*kind, Zeroizing::new(der)));
            }
            encoded.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
        return Err(KeyError::Damaged);
    }
    Err(unknown.map_or(KeyError::NoKey, KeyError::Unknown))
}

fn label<'a>(line: &'a [u8], begin: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(begin)?.strip_suffix(b"-----")
}

/// A section in the usual form: 64 columns, LF, a newline at the end. It may be a secret.
pub(super) fn write(name: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let lines = encoded.len().div_ceil(COLUMNS);
    let mut text = Zeroizing::new(String::with_capacity(encoded.len() + lines + 64));
    for part in ["-----BEGIN ", name, "-----\n"] {
        text.push_str(part);
    }
    for (at, letter) in encoded.chars().enumerate() {
        if at > 0 && at % COLUMNS == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    for part in ["\n-----END ", name, "-----\n"] {
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_section_is_read_despite_surrounding_text() {
        for length in [1, 47, 48, 49, 300] {
            let der = vec![9; length];
            let text = write("PUBLIC KEY", &der);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert!(text.ends_with("-----END PUBLIC KEY-----\n"));
            let around = format!("Key of nas\r\n{}trailer", text.replace('\n', "\r\n"));
            let (kind, read) = read(around.as_bytes()).unwrap();
            assert_eq!((kind, &*read), (Kind::PublicKey, &der));
        }
    }

    #[test]
    fn pem_without_a_key_is_reported_by_its_label() {
        assert_eq!(read(b"junk").unwrap_err(), KeyError::NoKey);
        let other = write("ENCRYPTED PRIVATE KEY", b"x");
        let why = read(other.as_bytes()).unwrap_err();
        assert_eq!(why, KeyError::Unknown("ENCRYPTED PRIVATE KEY".into()));
        let cut = write("PUBLIC KEY", b"x");
        let cut = cut.replace("-----END", "");
        assert_eq!(read(cut.as_bytes()).unwrap_err(), KeyError::Damaged);
        let parameters = format!("{}{}", &*other, &*write("PUBLIC KEY", b"x"));
        assert_eq!(read(parameters.as_bytes()).unwrap().0, Kind::PublicKey);
    }
}
