//! TLS, with a certificate that is valid for a name, or with any.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Failure;

/// Whom to believe. Makes what it takes when it is first needed, and keeps it.
pub struct Trust {
    checked: bool,
    connector: Option<TlsConnector>,
}

impl Trust {
    /// `checked`: the certificate must be one that this host trusts, and valid for the server's name today. Otherwise it may
    /// be any, as long as the server has its key: nobody issues certificates for 127.0.0.1.
    pub fn new(checked: bool) -> Self {
        Self {
            checked,
            connector: None,
        }
    }

    /// Does a whole handshake on `stream`.
    ///
    /// # Errors
    ///
    /// The handshake failed, or this host's trusted certificates can't be read.
    pub async fn connect(
        &mut self,
        stream: TcpStream,
        name: ServerName<'static>,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let connector = match self.connector.take() {
            Some(connector) => connector,
            None => connector(self.checked).await?,
        };
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(Failure::Tls)?;
        // After a failure they are read again: the one that was missing may be there by then.
        self.connector = Some(connector);
        Ok(stream)
    }
}

async fn connector(checked: bool) -> Result<TlsConnector, Failure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Roots(error.to_string()))?;
    let builder = if checked {
        let roots = spawn_blocking(roots)
            .await
            .map_err(|error| Failure::Roots(error.to_string()))??;
        builder.with_root_certificates(roots)
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    };
    let mut config = builder.with_no_client_auth();
    // A resumed session would show no certificate.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What this host trusts: /etc/ssl/certs, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` say.
fn roots() -> Result<RootCertStore, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Failure::Roots(if errors.is_empty() {
            "there are none; install the package ca-certificates".to_owned()
        } else {
            errors.join(", ")
        }));
    }
    Ok(roots)
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
