//! TLS with a pinned server certificate.
//!
//! Chain, name and dates are ignored: the fingerprint identifies one certificate, and the
//! handshake's signature proves possession of its key.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    SupportedProtocolVersion,
};

/// The SHA-256 of a certificate's DER form.
pub type Digest = [u8; 32];

/// Accepts the certificates of a list and no other.
#[derive(Debug)]
pub struct Pin {
    expected: Vec<Digest>,
    /// The presented certificate.
    shown: OnceLock<Digest>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    /// The presented certificate, accepted or not.
    pub fn shown(&self) -> Option<Digest> {
        self.shown.get().copied()
    }

    /// The presented certificate, if it was not an expected one.
    pub fn wrong(&self) -> Option<Digest> {
        self.shown().filter(|shown| !self.expected.contains(shown))
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
        if self.expected.contains(self.shown.get_or_init(|| hash)) {
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

/// TLS 1.2 and 1.3: for sockets.
pub const SOCKETS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];
/// TLS 1.3 alone: for tunnels through a relay.
pub const TUNNELS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A TLS client for `host`, which must present one of the `expected` certificates. Sends nothing
/// yet.
///
/// # Errors `host` is neither a name nor an address; the text is rustls's.
pub fn connect(
    host: &str,
    expected: Vec<Digest>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<(ClientConnection, Arc<Pin>), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pin = Arc::new(Pin { expected, shown: OnceLock::new(), provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone())
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::IpAddress(address.into()),
        Err(_) => ServerName::try_from(host.to_owned())
            .map_err(|error| rustls::Error::General(format!("{host}: {error}")))?,
    };
    Ok((ClientConnection::new(Arc::new(config), name)?, pin))
}
