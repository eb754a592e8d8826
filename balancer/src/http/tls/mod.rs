//! TLS: certificates by the name that a client asks for, and the same certificates to know peers by.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::ring::{self, Ticketer};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

mod keys;
mod parts;
mod records;
#[cfg(test)]
mod tests;
mod whole;

pub use self::parts::{Parts, Reason, Refusal, Session, take_apart};
pub use self::records::Records;
pub use self::whole::Whole;

/// TLS in both directions.
#[derive(Clone)]
pub struct Tls {
    /// Towards clients, and peers that relay requests to this server.
    pub acceptor: TlsAcceptor,
    /// Towards peers: they have the same certificates, so theirs must be one of these.
    pub connector: TlsConnector,
}

/// Reads certificates, each with its chain, and their keys. The first one is for clients that ask for no name, or for one that
/// none of them has.
///
/// # Errors
///
/// A file can't be read, or a key isn't its certificate's.
pub fn load<'a>(pairs: impl Iterator<Item = (&'a Path, &'a Path)>) -> Result<Tls> {
    let provider = Arc::new(ring::default_provider());
    let mut certificates = Vec::new();
    for (chain, key) in pairs {
        let file = |path: &Path| format!("cannot use {}", path.display());
        let chain_der = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| file(chain))?;
        if chain_der.is_empty() {
            anyhow::bail!("{} has no certificate in it", chain.display());
        }
        let key_der = PrivateKeyDer::from_pem_file(key).with_context(|| file(key))?;
        let certified =
            CertifiedKey::from_der(chain_der, key_der, &provider).with_context(|| {
                format!(
                    "cannot use {} with the key {}",
                    chain.display(),
                    key.display()
                )
            })?;
        certificates.push(Arc::new(certified));
    }
    let known = certificates
        .iter()
        .filter_map(|certified| certified.end_entity_cert().ok());
    let known = known
        .map(|certificate| certificate.clone().into_owned())
        .collect();
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Known {
            certificates: known,
            algorithms: provider.signature_verification_algorithms,
        }))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    // For connections that move to a peer.
    config.enable_secret_extraction = true;
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        connector: TlsConnector::from(Arc::new(client)),
    })
}

/// Certificates to choose from. Never empty.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| self.0.iter().find(|certified| is_for(certified, &name)));
        named.or(self.0.first()).cloned()
    }
}

/// Takes a certificate of a list, whoever it is for.
#[derive(Debug)]
struct Known {
    certificates: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificates.contains(certificate) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    certified
        .end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .and_then(|certificate| verify_server_name(&certificate, name))
        .is_ok()
}
