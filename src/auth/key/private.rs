//! The private half of a key.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use ring::rsa::KeyPair as RsaKeyPair;
use ring::signature::{Ed25519KeyPair, KeyPair, RSA_PSS_SHA256};
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use rsa::{BoxedUint, Pkcs1v15Sign};
use zeroize::Zeroizing;

use super::der::{self, Reader};
use super::openssh;
use super::pem::{self, Kind as PemKind};
use super::public::{RAW, bits};
use super::{KeyError, PublicKey, Purpose, message};

/// Algorithm of a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The default.
    Ed25519,
    /// For clients that support only RSA: 3072 bits, as strong as the other (NIST SP 800-57, table
    /// 2).
    Rsa,
}

/// Bits of a new RSA key. 2048 would suffice to encrypt 160 letters; 3072 cost only a little time.
const RSA_BITS: usize = 3072;
/// Maximum number of bits of an RSA key for signing, ring's limit.
const LARGEST: usize = 4096;
const EXPONENT: [u8; 3] = [1, 0, 1];

/// Secret part, overwritten on drop.
enum Secret {
    /// The seed.
    Ed25519(Zeroizing<[u8; 32]>),
    /// An RSAPrivateKey.
    Rsa(Zeroizing<Vec<u8>>),
}

/// A private key with its public half.
pub struct PrivateKey {
    secret: Secret,
    public: PublicKey,
}

/// Equal if the public halves are.
impl PartialEq for PrivateKey {
    fn eq(&self, other: &PrivateKey) -> bool {
        self.public == other.public
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public.id())
    }
}

impl PrivateKey {
    /// Parses a private key without a passphrase.
    ///
    /// # Errors The text is not one, is of another algorithm, or is an RSA key that is too small or
    /// too large to sign with.
    pub fn from_pem(text: &[u8]) -> Result<PrivateKey, KeyError> {
        let (kind, der) = match pem::read(text) {
            Err(KeyError::NoKey) if openssh::public(text).is_some() => {
                return Err(KeyError::NoPrivateKey);
            }
            read => read?,
        };
        PrivateKey::from_der(kind, &der)
    }

    pub(super) fn from_der(kind: PemKind, der: &[u8]) -> Result<PrivateKey, KeyError> {
        match kind {
            PemKind::PublicKey | PemKind::RsaPublicKey | PemKind::Certificate => {
                Err(KeyError::NoPrivateKey)
            }
            PemKind::RsaPrivateKey => PrivateKey::from_rsa(der),
            PemKind::PrivateKey => PrivateKey::from_pkcs8(der),
            PemKind::OpenSsh => {
                let (seed, public) = openssh::seed(der)?;
                PrivateKey::from_seed_of(seed, &public)
            }
        }
    }

    /// RFC 5958: version, algorithm and key; the rest is ignored.
    fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyError> {
        let mut whole = Reader(Reader(der).take(der::SEQUENCE)?);
        whole.take(der::INTEGER)?;
        let algorithm = whole.take_whole(der::SEQUENCE)?;
        let key = whole.take(der::OCTET_STRING)?;
        if algorithm == der::RSA {
            PrivateKey::from_rsa(key)
        } else if algorithm == der::ED25519 {
            let seed = Reader(key).take(der::OCTET_STRING)?;
            let seed = seed.try_into().map_err(|_| KeyError::Damaged)?;
            PrivateKey::from_seed(Zeroizing::new(seed))
        } else {
            Err(KeyError::Algorithm)
        }
    }

    /// The key of this seed; `public` must be its public half.
    pub(super) fn from_seed_of(
        seed: Zeroizing<[u8; 32]>,
        public: &[u8; 32],
    ) -> Result<PrivateKey, KeyError> {
        let key = PrivateKey::from_seed(seed)?;
        let is_its = key.public == PublicKey::ed25519(*public);
        if is_its { Ok(key) } else { Err(KeyError::Inconsistent) }
    }

    fn from_seed(seed: Zeroizing<[u8; 32]>) -> Result<PrivateKey, KeyError> {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| KeyError::Inconsistent)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Inconsistent)?;
        Ok(PrivateKey { secret: Secret::Ed25519(seed), public: PublicKey::ed25519(public) })
    }

    fn from_rsa(der: &[u8]) -> Result<PrivateKey, KeyError> {
        let (modulus, exponent) = rsa_parts(der)?.public;
        let public = PublicKey::rsa(modulus, exponent)?;
        let size = bits(modulus);
        if size > LARGEST {
            return Err(KeyError::Size(size));
        }
        // Keys that cannot sign are rejected when they are parsed.
        RsaKeyPair::from_der(der).map_err(|_| KeyError::Inconsistent)?;
        Ok(PrivateKey { secret: Secret::Rsa(Zeroizing::new(der.to_vec())), public })
    }

    /// Creates a key. An RSA key takes a second or several.
    ///
    /// # Errors The system has no random bits.
    pub fn generate(kind: Kind) -> Result<PrivateKey, KeyError> {
        match kind {
            Kind::Ed25519 => {
                let mut seed = Zeroizing::new([0; 32]);
                SystemRandom::new().fill(&mut *seed).map_err(|_| KeyError::Random)?;
                PrivateKey::from_seed(seed)
            }
            Kind::Rsa => generate_rsa(),
        }
    }

    /// PKCS#8, which every program can read.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let version = der::unsigned(&[]);
        let (algorithm, key) = match &self.secret {
            Secret::Ed25519(seed) => (der::ED25519, der::wrap(der::OCTET_STRING, &[&**seed])),
            Secret::Rsa(key) => (der::RSA, key.clone()),
        };
        let key = der::wrap(der::OCTET_STRING, &[&key]);
        pem::write("PRIVATE KEY", &der::wrap(der::SEQUENCE, &[&version, algorithm, &key]))
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a string for this purpose, and for the server with this certificate (its SHA-256) and
    /// no other.
    ///
    /// # Errors The system has no random bits.
    pub fn sign(
        &self,
        purpose: Purpose,
        certificate: &[u8; 32],
        test_string: &str,
    ) -> Result<Vec<u8>, KeyError> {
        let message = message(purpose, certificate, test_string);
        match &self.secret {
            Secret::Ed25519(seed) => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&**seed);
                let pair = pair.map_err(|_| KeyError::Inconsistent)?;
                Ok(pair.sign(&message).as_ref().to_vec())
            }
            Secret::Rsa(key) => {
                let pair = RsaKeyPair::from_der(key).map_err(|_| KeyError::Inconsistent)?;
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), &message, &mut signature)
                    .map_err(|_| KeyError::Random)?;
                Ok(signature)
            }
        }
    }

    /// Encrypts a string as it is, for a legacy relay: the relay could use the result elsewhere.
    ///
    /// # Errors The key is not RSA, or the string does not consist of 20 to 245 letters and digits:
    /// a key that signs arbitrary input would sign certificates too.
    pub fn sign_raw(&self, test_string: &str) -> Result<Vec<u8>, KeyError> {
        let Secret::Rsa(der) = &self.secret else { return Err(KeyError::NotRaw) };
        let is_plain = test_string.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_plain || !RAW.contains(&test_string.len()) {
            return Err(KeyError::NotRaw);
        }
        let parts = rsa_parts(der)?;
        let number = BoxedUint::from_be_slice_vartime;
        let (modulus, exponent) = parts.public;
        let primes = parts.primes.map(number).to_vec();
        rsa::PrivateKey::from_components(
            number(modulus),
            number(exponent),
            number(parts.secret),
            primes,
        )
        .map_err(|_| KeyError::Inconsistent)?
        // Blinded against timing attacks.
        .sign_with_rng(&mut System, Pkcs1v15Sign::new_unprefixed(), test_string.as_bytes())
        .map_err(|_| KeyError::Random)
    }
}

/// Numbers of an RSAPrivateKey.
struct RsaParts<'a> {
    /// Modulus and exponent.
    public: (&'a [u8], &'a [u8]),
    secret: &'a [u8],
    primes: [&'a [u8]; 2],
}

fn rsa_parts(der: &[u8]) -> Result<RsaParts<'_>, KeyError> {
    let mut key = Reader(Reader(der).take(der::SEQUENCE)?);
    key.take(der::INTEGER)?;
    Ok(RsaParts {
        public: (key.unsigned()?, key.unsigned()?),
        secret: key.unsigned()?,
        primes: [key.unsigned()?, key.unsigned()?],
    })
}

fn generate_rsa() -> Result<PrivateKey, KeyError> {
    let made = rsa::PrivateKey::new(&mut System, RSA_BITS).map_err(|_| KeyError::Random)?;
    // The larger first, by convention.
    let mut primes: Vec<BoxedUint> =
        made.primes().iter().map(|prime| prime.clone().get()).collect();
    primes.sort_by(|a, b| b.cmp(a));
    let number = BoxedUint::from_be_slice_vartime;
    let (modulus, secret) = (made.n_bytes(), made.d().clone());
    let made =
        rsa::PrivateKey::from_components(number(&modulus), number(&EXPONENT), secret, primes)
            .map_err(|_| KeyError::Inconsistent)?;
    let (Some(dp), Some(dq), Some(coefficient)) = (made.dp(), made.dq(), made.crt_coefficient())
    else {
        return Err(KeyError::Inconsistent);
    };
    let integer = |number: &BoxedUint| {
        der::unsigned(&Zeroizing::new(number.to_be_bytes_trimmed_vartime().into_vec()))
    };
    let mut parts = vec![der::unsigned(&[]), der::unsigned(&modulus), der::unsigned(&EXPONENT)];
    parts.push(integer(made.d()));
    parts.extend(made.primes().iter().map(|prime| integer(prime)));
    parts.extend([dp, dq, &coefficient].map(integer));
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_slice()).collect();
    PrivateKey::from_rsa(&der::wrap(der::SEQUENCE, &parts))
}

/// The system's random bits, for the `rsa` crate.
struct System;

impl rsa::rand_core::TryRng for System {
    type Error = NoRandom;

    fn try_next_u32(&mut self) -> Result<u32, NoRandom> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, NoRandom> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        SystemRandom::new().fill(bytes).map_err(|_| NoRandom)
    }
}

impl rsa::rand_core::TryCryptoRng for System {}

#[derive(Debug)]
struct NoRandom;

impl fmt::Display for NoRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&KeyError::Random, f)
    }
}

impl std::error::Error for NoRandom {}
