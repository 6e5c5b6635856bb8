//! Keys: how somebody proves who they are without a password (protocol section 3, `auth_ssl`).
//!
//! The one who asks gives a string of random letters, the one who is asked signs it. What is signed
//! names the purpose and the certificate that the signer sees, so that nobody between the two, and
//! no other server, can use what was signed for them. Clients of the original server encrypt the
//! bare string instead, which can be passed on; keys that may do so are registered as legacy.

mod challenge;
mod der;
mod error;
mod openssh;
mod own;
mod pem;
mod private;
mod public;
mod store;

pub use challenge::Challenge;
pub use error::KeyError;
pub use own::{OwnKey, OwnKeyError};
pub use private::{Kind, PrivateKey};
pub use public::{KeyId, PublicKey};
pub use store::{
    ChangeError, Damaged, Entry, InsertError, KeyChange, KeyStore, Limits, check_text,
};

use zeroize::Zeroizing;

/// For whom a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A server, which then knows its user.
    Server,
    /// A bridge, which then introduces its peers.
    Bridge,
}

impl Purpose {
    /// As it stands in what is signed.
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::Server => "server",
            Purpose::Bridge => "bridge",
        }
    }
}

/// Where there is no certificate: plain loopback.
pub const NO_CERTIFICATE: [u8; 32] = [0; 32];

/// What is signed.
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
