//! Keys: authentication without a password (protocol section 3, `auth_ssl`).
//!
//! The verifier sends a random string, the owner of the key signs it. The signed message includes
//! the purpose and the certificate that the signer sees, so that neither a man in the middle nor
//! another server can use the signature. Clients of the original server encrypt the bare string
//! instead, which can be relayed; keys that may be used so are registered as legacy.

mod challenge;
mod der;
mod error;
mod legacy;
mod openssh;
mod own;
mod pem;
mod private;
mod public;
mod store;

pub use challenge::Challenge;
pub use error::KeyError;
pub use legacy::{LegacySearch, Search};
pub use own::{OwnKey, OwnKeyError};
pub use private::{Kind, PrivateKey};
pub use public::PublicKey;
pub use store::{
    ChangeError, Damaged, Entry, InsertError, KeyChange, KeyLimits, KeyReader, KeyStore, check_text,
};

use zeroize::Zeroizing;

pub use crate::wire::KeyId;

/// Purpose of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Authentication at a server.
    Server,
    /// Authentication at a relay.
    Bridge,
}

impl Purpose {
    /// Its name in the signed message.
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::Server => "server",
            Purpose::Bridge => "bridge",
        }
    }
}

/// Without a certificate: plain loopback.
pub const NO_CERTIFICATE: [u8; 32] = [0; 32];

/// The signed message.
fn message(purpose: Purpose, certificate: &[u8; 32], test_string: &str) -> Zeroizing<Vec<u8>> {
    let parts: [&[u8]; 6] = [
        b"sysadm-events-auth-v1",
        &[0],
        purpose.name().as_bytes(),
        &[0],
        certificate,
        test_string.as_bytes(),
    ];
    let mut whole = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole
}

#[cfg(test)]
mod tests;
