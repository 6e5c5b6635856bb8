//! Why a key cannot be used.

use std::fmt;

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The text is not PEM.
    NoKey,
    /// PEM of a kind that is not a key, or a key with a passphrase.
    Unknown(String),
    /// A private key of OpenSSH with a passphrase.
    Passphrase,
    /// Damaged.
    Damaged,
    /// Unsupported algorithm.
    Algorithm,
    /// An RSA key of this unsupported size in bits.
    Size(usize),
    /// An RSA key with an exponent that is even, or longer than 33 bits.
    Exponent,
    /// Only the public half is present.
    NoPrivateKey,
    /// The raw form requires an RSA key and 20 to 245 letters and digits.
    NotRaw,
    /// The numbers of a private key are inconsistent.
    Inconsistent,
    /// The system has no random bits.
    Random,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            KeyError::NoKey => {
                "there is no key in PEM form in it, and no line that begins with ssh-ed25519"
            }
            KeyError::Unknown(kind) => {
                return write!(
                    f,
                    "it holds a {kind}; wanted is a PUBLIC KEY, a CERTIFICATE or a PRIVATE KEY \
                     without a passphrase"
                );
            }
            KeyError::Passphrase => {
                "it has a passphrase, which cannot be asked for here; a copy without one is \
                 made by \"cp FILE COPY && ssh-keygen -p -N '' -f COPY\""
            }
            KeyError::Damaged => "the key in it is damaged",
            KeyError::Algorithm => "it is neither an Ed25519 key nor an RSA key in PEM form",
            KeyError::Size(bits) => {
                return write!(
                    f,
                    "it is an RSA key of {bits} bits; 2048 to 8192 are taken, and up to 4096 of \
                     one's own"
                );
            }
            KeyError::Exponent => "its RSA exponent is not usual",
            KeyError::NoPrivateKey => "it is a public key; the private one is needed",
            KeyError::NotRaw => "only an RSA key encrypts, and only 20 to 245 letters and digits",
            KeyError::Inconsistent => "the parts of the private key do not belong together",
            KeyError::Random => "the system gives no random bits",
        };
        f.write_str(why)
    }
}

impl std::error::Error for KeyError {}
