//! TLS: certificates by the name that a client asks for, and keys that servers of the cluster know each other by.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::ring::{self, Ticketer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::{TlsAcceptor, TlsConnector};

mod keys;
mod parts;
mod peers;
mod records;
#[cfg(test)]
mod tests;
mod whole;

pub use self::parts::{Parts, Reason, Refusal, Session, take_apart};
pub use self::peers::{NAME, PeerKeys};
pub use self::records::Records;
pub use self::whole::Whole;

/// TLS in both directions.
#[derive(Clone)]
pub struct Tls {
    /// Towards clients, and peers that relay requests to this server.
    pub acceptor: TlsAcceptor,
    /// Towards peers.
    pub connector: TlsConnector,
}

/// Reads certificates, each with its chain, and their keys.
///
/// # Errors
///
/// A file can't be read, or a key isn't its certificate's.
pub fn load<'a>(
    pairs: impl Iterator<Item = (&'a Path, &'a Path)>,
) -> Result<Vec<Arc<CertifiedKey>>> {
    let provider = ring::default_provider();
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
    Ok(certificates)
}

impl Tls {
    /// With these certificates, of which the first one is for clients that ask for no name, or for one that none of them has.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn new(certificates: Vec<Arc<CertifiedKey>>, keys: &Arc<PeerKeys>) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let client = keys.client(provider.clone())?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ByName {
                certificates,
                keys: keys.clone(),
            }));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = Ticketer::new()?;
        // For connections that move to a peer.
        config.enable_secret_extraction = true;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

/// What is shown to clients, and to peers.
#[derive(Debug)]
struct ByName {
    /// Never empty.
    certificates: Vec<Arc<CertifiedKey>>,
    keys: Arc<PeerKeys>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.server_name() == Some(NAME) {
            return Some(self.keys.own());
        }
        let mut certificates = self.certificates.iter();
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| certificates.find(|known| is_for(known, &name)));
        named.or(self.certificates.first()).cloned()
    }
}

fn is_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    certified
        .end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .and_then(|certificate| verify_server_name(&certificate, name))
        .is_ok()
}
