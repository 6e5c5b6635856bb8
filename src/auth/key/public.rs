//! The public half of a key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use ring::digest;
use ring::signature::{ED25519 as ED25519_SIGNATURE, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use rsa::{BoxedUint, Pkcs1v15Sign};

use super::der::{self, Reader};
use super::openssh;
use super::pem::{self, Kind};
use super::{KeyError, KeyId, PrivateKey, Purpose, message};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Ed25519([u8; 32]),
    /// An RSAPublicKey.
    Rsa(Vec<u8>),
}

/// An Ed25519 key, or an RSA key of 2048 to 8192 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    form: Form,
    /// The SubjectPublicKeyInfo, in DER: unique for each key, in whatever form it was read.
    spki: Vec<u8>,
    id: KeyId,
    /// MD5 of the PEM, computed once: a list of checksums must not hash every key in one turn.
    checksum: [u8; 16],
}

const PEM_LABEL: &str = "PUBLIC KEY";

/// Bits of an RSA modulus.
const SIZES: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Maximum number of bits of an RSA exponent; a longer one makes verification expensive.
const LONGEST_EXPONENT: usize = 33;
/// Bits of the modulus and of the exponent (65537) of a legacy key.
const LARGEST_LEGACY: usize = 4096;
const USUAL_EXPONENT: usize = 17;
/// Letters of a string that may be encrypted as it is.
pub(super) const RAW: std::ops::RangeInclusive<usize> = 20..=245;

impl PublicKey {
    /// Parses a public key, the key of a certificate, or the public half of a private key, in PEM;
    /// or a line `ssh-ed25519 …` of OpenSSH where there is no PEM.
    ///
    /// # Errors The text is none of these, of another algorithm, too small or too large.
    pub fn from_pem(text: &[u8]) -> Result<PublicKey, KeyError> {
        let (kind, der) = match (pem::read(text), openssh::public(text)) {
            (Err(KeyError::NoKey), Some(key)) => return key.map(PublicKey::ed25519),
            (read, _) => read?,
        };
        match kind {
            Kind::PublicKey => PublicKey::from_spki(&mut Reader(&der)),
            Kind::RsaPublicKey => PublicKey::from_rsa(&mut Reader(&der)),
            Kind::Certificate => PublicKey::from_certificate(&der),
            Kind::PrivateKey | Kind::RsaPrivateKey | Kind::OpenSsh => {
                PrivateKey::from_der(kind, &der).map(|key| key.public().clone())
            }
        }
    }

    /// RFC 5280 section 4.1: version, serial number, signature, issuer, validity and subject
    /// precede the key.
    fn from_certificate(der: &[u8]) -> Result<PublicKey, KeyError> {
        let mut whole = Reader(Reader(der).take(der::SEQUENCE)?);
        let mut certificate = Reader(whole.take(der::SEQUENCE)?);
        certificate.skip_if(der::CONTEXT_0)?;
        certificate.take(der::INTEGER)?;
        for _ in ["signature", "issuer", "validity", "subject"] {
            certificate.take(der::SEQUENCE)?;
        }
        PublicKey::from_spki(&mut certificate)
    }

    fn from_spki(reader: &mut Reader<'_>) -> Result<PublicKey, KeyError> {
        let mut spki = Reader(reader.take(der::SEQUENCE)?);
        let algorithm = spki.take_whole(der::SEQUENCE)?;
        let Some((0, key)) = spki.take(der::BIT_STRING)?.split_first() else {
            return Err(KeyError::Damaged);
        };
        if algorithm == der::RSA {
            PublicKey::from_rsa(&mut Reader(key))
        } else if algorithm == der::ED25519 {
            Ok(PublicKey::ed25519(key.try_into().map_err(|_| KeyError::Damaged)?))
        } else {
            Err(KeyError::Algorithm)
        }
    }

    fn from_rsa(reader: &mut Reader<'_>) -> Result<PublicKey, KeyError> {
        let mut key = Reader(reader.take(der::SEQUENCE)?);
        let (modulus, exponent) = (key.unsigned()?, key.unsigned()?);
        PublicKey::rsa(modulus, exponent)
    }

    pub(super) fn ed25519(key: [u8; 32]) -> PublicKey {
        PublicKey::new(der::ED25519, &key, Form::Ed25519(key))
    }

    /// Both big-endian, without leading zeros.
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, KeyError> {
        let size = bits(modulus);
        if !SIZES.contains(&size) {
            return Err(KeyError::Size(size));
        }
        let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
        if !is_odd(exponent) || !(2..=LONGEST_EXPONENT).contains(&bits(exponent)) {
            return Err(KeyError::Exponent);
        }
        if !is_odd(modulus) {
            return Err(KeyError::Damaged);
        }
        let der = der::wrap(der::SEQUENCE, &[&der::unsigned(modulus), &der::unsigned(exponent)]);
        Ok(PublicKey::new(der::RSA, &der, Form::Rsa(der.to_vec())))
    }

    fn new(algorithm: &[u8], key: &[u8], form: Form) -> PublicKey {
        let spki =
            der::wrap(der::SEQUENCE, &[algorithm, &der::wrap(der::BIT_STRING, &[&[0], key])]);
        let mut id = [0; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, &spki).as_ref());
        let checksum = Md5::digest(pem::write(PEM_LABEL, &spki).as_bytes()).into();
        PublicKey { form, spki: spki.to_vec(), id: KeyId::new(id), checksum }
    }

    /// Its identifier.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The canonical PEM: 64 columns, LF, a newline at the end.
    pub fn pem(&self) -> String {
        std::mem::take(&mut *pem::write(PEM_LABEL, &self.spki))
    }

    /// The checksum by which a relay matches servers and clients: MD5 of [`pem`](PublicKey::pem),
    /// base64. An identifier without any security.
    pub fn checksum(&self) -> String {
        STANDARD.encode(self.checksum)
    }

    /// The key in OpenSSH's form, without a comment; `None` for an RSA key.
    pub fn openssh(&self) -> Option<String> {
        match &self.form {
            Form::Ed25519(key) => Some(openssh::public_line(key)),
            Form::Rsa(_) => None,
        }
    }

    /// Whether it is an RSA key.
    pub fn is_rsa(&self) -> bool {
        matches!(self.form, Form::Rsa(_))
    }

    /// Whether it may be registered as a legacy key: an RSA key of at most 4096 bits with a usual
    /// exponent, because an unauthenticated client can cause all of them to be tried.
    pub fn can_be_legacy(&self) -> bool {
        match &self.form {
            Form::Ed25519(_) => false,
            Form::Rsa(key) => parts(key).is_ok_and(|(modulus, exponent)| {
                bits(modulus) <= LARGEST_LEGACY && bits(exponent) <= USUAL_EXPONENT
            }),
        }
    }

    /// The name for people: `Ed25519`, `RSA`.
    pub fn algorithm(&self) -> &'static str {
        match self.form {
            Form::Ed25519(_) => "Ed25519",
            Form::Rsa(_) => "RSA",
        }
    }

    /// Verifies a signature of this string for this purpose, and for the server with this
    /// certificate (its SHA-256).
    pub fn verify(
        &self,
        purpose: Purpose,
        certificate: &[u8; 32],
        test_string: &str,
        signature: &[u8],
    ) -> bool {
        let message = message(purpose, certificate, test_string);
        let verified = match &self.form {
            Form::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519_SIGNATURE, key).verify(&message, signature)
            }
            Form::Rsa(key) => {
                UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key).verify(&message, signature)
            }
        };
        verified.is_ok()
    }

    /// Verifies a string encrypted as it is: PKCS#1 v1.5, type 1, no digest.
    pub fn verify_raw(&self, test_string: &str, encrypted: &[u8]) -> bool {
        let Form::Rsa(key) = &self.form else { return false };
        if !RAW.contains(&test_string.len()) {
            return false;
        }
        let Ok((modulus, exponent)) = parts(key) else { return false };
        let number = BoxedUint::from_be_slice_vartime;
        let Ok(key) = rsa::PublicKey::new(number(modulus), number(exponent)) else { return false };
        key.verify(Pkcs1v15Sign::new_unprefixed(), test_string.as_bytes(), encrypted).is_ok()
    }
}

/// Modulus and exponent of an RSAPublicKey.
fn parts(der: &[u8]) -> Result<(&[u8], &[u8]), KeyError> {
    let mut key = Reader(Reader(der).take(der::SEQUENCE)?);
    Ok((key.unsigned()?, key.unsigned()?))
}

/// Bits of a number without leading zero bytes.
pub(super) fn bits(number: &[u8]) -> usize {
    let zeros = number.first().map_or(0, |first| first.leading_zeros() as usize);
    (number.len() * 8).saturating_sub(zeros)
}
