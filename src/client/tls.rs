//! TLS towards a server that is known by its certificate alone.

use std::sync::Arc;

use rustls::ClientConnection;

use super::error::ClientError;
use super::target::Fingerprint;
use crate::net::pin::{self, Pin};

/// The client's side of a connection to `host` that must show `expected`. Nothing is sent yet.
pub(super) fn connection(
    host: &str,
    expected: Fingerprint,
) -> Result<(ClientConnection, Arc<Pin>), ClientError> {
    pin::connect(host, vec![expected.digest()], pin::SOCKETS)
        .map_err(|error| ClientError::Tls(error.to_string()))
}

/// Why the handshake failed: because of the certificate, or for another reason.
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
