//! TLS with a pinned server certificate.

use std::sync::Arc;

use rustls::ClientConnection;

use super::error::ClientError;
use super::target::Fingerprint;
use crate::net::pin::{self, Pin};

/// A TLS client for `host`, which must present `expected`. Sends nothing yet.
pub(super) fn connection(
    host: &str,
    expected: Fingerprint,
) -> Result<(ClientConnection, Arc<Pin>), ClientError> {
    pin::connect(host, vec![expected.digest()], pin::SOCKETS)
        .map_err(|error| ClientError::Tls(error.to_string()))
}

/// Why the handshake failed: the certificate, or another reason.
pub(super) fn explain(
    pin: &Pin,
    expected: Fingerprint,
    error: &dyn std::fmt::Display,
) -> ClientError {
    match pin.wrong() {
        Some(shown) => {
            let shown = Fingerprint::new(shown);
            ClientError::WrongCertificate { expected, shown, known: None }
        }
        None => ClientError::Tls(error.to_string()),
    }
}
