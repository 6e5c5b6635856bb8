//! TLS towards a server that is known by its certificate alone.
//!
//! No chain, no name and no date is looked at: the fingerprint names exactly one key, and the
//! handshake's signature proves that the peer holds it.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
};

use super::error::ClientError;
use super::target::Fingerprint;

/// Takes one certificate and no other.
#[derive(Debug)]
pub(super) struct Pin {
    expected: Fingerprint,
    /// What the server showed.
    shown: OnceLock<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    /// Why the handshake failed: because of the certificate, or for another reason.
    pub(super) fn explain(&self, error: &dyn std::fmt::Display) -> ClientError {
        match self.shown.get() {
            Some(&shown) if shown != self.expected => {
                ClientError::WrongCertificate { expected: self.expected, shown, known: None }
            }
            Some(_) | None => ClientError::Tls(error.to_string()),
        }
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, end_entity).as_ref());
        let shown = *self.shown.get_or_init(|| Fingerprint::new(hash));
        if shown == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The client's side of a connection to `host` that must show `expected`. Nothing is sent yet.
pub(super) fn connection(
    host: &str,
    expected: Fingerprint,
) -> Result<(ClientConnection, Arc<Pin>), ClientError> {
    let failed = |error: rustls::Error| ClientError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pin = Arc::new(Pin { expected, shown: OnceLock::new(), provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone())
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::IpAddress(address.into()),
        Err(_) => ServerName::try_from(host.to_owned())
            .map_err(|error| ClientError::Tls(format!("{host}: {error}")))?,
    };
    let connection = ClientConnection::new(Arc::new(config), name).map_err(failed)?;
    Ok((connection, pin))
}
