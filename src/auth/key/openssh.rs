//! Ed25519 keys as `ssh-keygen` writes them.
//!
//! A public key is a line `ssh-ed25519 BASE64 COMMENT` (RFC 4253 section 6.6, RFC 8709); a private
//! key is the `openssh-key-v1` container of OpenSSH's `PROTOCOL.key`, here without a passphrase.
//! Fields are strings: four bytes of length, big-endian, then the bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::KeyError;

const ALGORITHM: &str = "ssh-ed25519";
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// Cipher and key derivation of a private key without a passphrase.
const NONE: &[u8] = b"none";
/// Prefixes of lines with a public key of another algorithm.
const OTHERS: [&str; 4] = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];

/// The Ed25519 key of the first line that is a public key; `None` where no line is one.
///
/// # Errors The line is damaged, or of another algorithm.
pub(super) fn public(text: &[u8]) -> Option<Result<[u8; 32], KeyError>> {
    let mut lines = std::str::from_utf8(text).ok()?.lines().map(str::trim_ascii);
    let line = lines.find(|line| OTHERS.iter().any(|begin| line.starts_with(begin)))?;
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some(ALGORITHM) {
        return Some(Err(KeyError::Algorithm));
    }
    let blob = STANDARD.decode(words.next().unwrap_or_default());
    Some(blob.map_err(|_| KeyError::Damaged).and_then(|blob| key_of(&blob)))
}

/// The line of a public key, without a comment and a newline.
pub(super) fn public_line(key: &[u8; 32]) -> String {
    let mut blob = Vec::with_capacity(64);
    for field in [ALGORITHM.as_bytes(), key] {
        blob.extend(u32::try_from(field.len()).unwrap_or(0).to_be_bytes());
        blob.extend_from_slice(field);
    }
    format!("{ALGORITHM} {}", STANDARD.encode(blob))
}

/// The seed of the private key in a container.
///
/// # Errors The container is damaged, has a passphrase, has several keys or one of another
/// algorithm, or its public half differs from the seed's.
pub(super) fn seed(container: &[u8]) -> Result<(Zeroizing<[u8; 32]>, [u8; 32]), KeyError> {
    let mut fields = Fields(container.strip_prefix(MAGIC).ok_or(KeyError::Damaged)?);
    let (cipher, derivation) = (fields.string()?, fields.string()?);
    if cipher != NONE || derivation != NONE {
        return Err(KeyError::Passphrase);
    }
    fields.string()?;
    if fields.number()? != 1 {
        return Err(KeyError::Damaged);
    }
    let public = key_of(fields.string()?)?;
    let mut private = Fields(fields.string()?);
    if private.number()? != private.number()? {
        return Err(KeyError::Damaged);
    }
    if private.string()? != ALGORITHM.as_bytes() {
        return Err(KeyError::Algorithm);
    }
    // The public half, then the seed with the public half again.
    let (half, whole) = (private.string()?, private.string()?);
    let (seed, again) = whole.split_at_checked(32).ok_or(KeyError::Damaged)?;
    if half != public || again != public {
        return Err(KeyError::Inconsistent);
    }
    let seed = seed.try_into().map_err(|_| KeyError::Damaged)?;
    Ok((Zeroizing::new(seed), public))
}

/// The key in the blob of a public key.
fn key_of(blob: &[u8]) -> Result<[u8; 32], KeyError> {
    let mut fields = Fields(blob);
    if fields.string()? != ALGORITHM.as_bytes() {
        return Err(KeyError::Algorithm);
    }
    let key = fields.string()?.try_into().map_err(|_| KeyError::Damaged)?;
    if fields.0.is_empty() { Ok(key) } else { Err(KeyError::Damaged) }
}

/// Unparsed bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Result<u32, KeyError> {
        let (number, rest) = self.0.split_first_chunk().ok_or(KeyError::Damaged)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Result<&'a [u8], KeyError> {
        let length = usize::try_from(self.number()?).map_err(|_| KeyError::Damaged)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(KeyError::Damaged)?;
        self.0 = rest;
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KeyError, PrivateKey, PublicKey};
    use super::*;

    /// A private key of `cipher` in the container, and its public line.
    fn key(cipher: &str, seed: [u8; 32]) -> (String, String) {
        let pem = super::super::pem::write("PRIVATE KEY", &[&ED_PREFIX[..], &seed].concat());
        let line = PrivateKey::from_pem(pem.as_bytes()).unwrap().public().openssh().unwrap();
        let public = public(line.as_bytes()).unwrap().unwrap();
        let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
        let blob = [string(ALGORITHM.as_bytes()), string(&public)].concat();
        let private = [
            vec![7, 7, 7, 7, 7, 7, 7, 7],
            blob.clone(),
            string(&[seed, public].concat()),
            string(b"ann@nas"),
            vec![1, 2, 3],
        ];
        let container = [
            MAGIC.to_vec(),
            string(cipher.as_bytes()),
            string(b"none"),
            string(b""),
            vec![0, 0, 0, 1],
            string(&blob),
            string(&private.concat()),
        ];
        let pem = super::super::pem::write("OPENSSH PRIVATE KEY", &container.concat());
        (pem.to_string(), line)
    }

    /// A PKCS#8 Ed25519 key up to its seed (RFC 8410).
    const ED_PREFIX: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];

    #[test]
    fn openssh_key_is_the_same_key_as_its_pem() {
        let (private, line) = key("none", [5; 32]);
        let read = PrivateKey::from_pem(private.as_bytes()).unwrap();
        let again = PrivateKey::from_pem(read.to_pem().as_bytes()).unwrap();
        assert!(read == again);
        let commented = format!("# mine\n{line} ann@nas with blanks\r\n");
        for text in [&*line, &commented, &private, &read.public().pem()] {
            assert_eq!(&PublicKey::from_pem(text.as_bytes()).unwrap(), read.public(), "{text}");
        }
        assert_eq!(read.public().openssh().unwrap(), line);
    }

    #[test]
    fn openssh_key_unusable_reports_the_reason() {
        let public = |text: &str| PublicKey::from_pem(text.as_bytes()).unwrap_err();
        let (_, line) = key("none", [5; 32]);
        for other in ["ssh-rsa AAAA", "ecdsa-sha2-nistp256 AAAA", "sk-ssh-ed25519@openssh.com A"] {
            assert_eq!(public(other), KeyError::Algorithm, "{other}");
        }
        for damaged in ["ssh-ed25519", "ssh-ed25519 !", &line[..line.len() - 8]] {
            assert_eq!(public(damaged), KeyError::Damaged, "{damaged}");
        }
        let private = |text: &str| PrivateKey::from_pem(text.as_bytes()).unwrap_err();
        assert_eq!(private(&line), KeyError::NoPrivateKey);
        assert_eq!(private(&key("aes256-ctr", [5; 32]).0), KeyError::Passphrase);
    }

    #[test]
    fn openssh_container_cut_or_changed_is_refused_without_a_panic() {
        let (_, whole) = super::super::pem::read(key("none", [5; 32]).0.as_bytes()).unwrap();
        // The comment and the padding after the key are not read.
        for cut in 0..whole.len() {
            assert!(seed(&whole[..cut]).is_err(), "{cut}");
        }
        for at in 0..whole.len() - 14 {
            let mut changed = whole.to_vec();
            changed[at] ^= 0x80;
            let is_same = seed(&changed)
                .is_ok_and(|(seed, public)| PrivateKey::from_seed_of(seed, &public).is_ok());
            assert!(!is_same, "{at}");
        }
    }
}
