//! How servers of a cluster know each other: by a pair of keys that is made from the cluster's key.
//!
//! What a server shows its peers in place of a certificate is the public key alone, as in RFC 7250, but for those who ask for [`NAME`]
//! instead of those who negotiate it. Names and dates, which certificates are for, mean nothing among them; so those for
//! clients may be renewed at any time, on one server after the other.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme,
};
use zeroize::Zeroizing;

use crate::exchange::Keyring;

/// What peers ask for: no client does, as no host has such a name (RFC 6761, 6.4).
pub const NAME: &str = "peer.balancer.invalid";

/// What comes before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];

/// The keys of a cluster.
#[derive(Debug)]
pub struct PeerKeys {
    own: Arc<CertifiedKey>,
    /// The public ones, of all keys that the cluster may use at the moment.
    known: Vec<SubjectPublicKeyInfoDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerKeys {
    /// Made from the cluster's.
    ///
    /// # Errors
    ///
    /// ring names none that could happen here.
    pub fn new(cluster: &Keyring) -> Result<Arc<Self>> {
        let secrets = cluster.secrets(b"balancer: TLS, peer keys");
        let pairs = secrets.map(|secret| pair(&secret));
        let pairs = pairs.collect::<Result<Vec<_>>>()?;
        let own = pairs.first().context("a cluster has a key")?;
        Ok(Arc::new(Self {
            own: Arc::new(CertifiedKey::new(
                vec![CertificateDer::from(own.1.to_vec())],
                own.0.clone(),
            )),
            known: pairs.into_iter().map(|(_, public)| public).collect(),
            algorithms: ring::default_provider().signature_verification_algorithms,
        }))
    }

    /// What this server shows its peers.
    pub fn own(&self) -> Arc<CertifiedKey> {
        self.own.clone()
    }

    /// How it connects to them.
    pub(super) fn client(self: &Arc<Self>, provider: Arc<CryptoProvider>) -> Result<ClientConfig> {
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        // One server's tickets are of no use to another one, and all have one name.
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}

type Pair = (
    Arc<dyn rustls::sign::SigningKey>,
    SubjectPublicKeyInfoDer<'static>,
);

fn pair(secret: &[u8; 32]) -> Result<Pair> {
    let der = Zeroizing::new([&PKCS8, &secret[..]].concat());
    let der = PrivatePkcs8KeyDer::from(&der[..]);
    let key = ring::sign::any_eddsa_type(&der)?;
    let public = key.public_key().context("a key has a public one")?;
    let public = public.into_owned();
    Ok((key, public))
}

impl ServerCertVerifier for PeerKeys {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.known.iter().any(|known| **known == **key) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(&**key);
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokio::io::duplex;

    use crate::exchange::Key;
    use crate::http::tls::{Tls, load};

    /// Of a server with these cluster keys.
    fn tls(sealing: u8, others: &[u8]) -> Tls {
        let key = |byte: &u8| Key::from([*byte; 32]);
        let others: Vec<_> = others.iter().map(key).collect();
        let keys = PeerKeys::new(&Keyring::new(&key(&sealing), &others)).unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/tls/test.pem");
        Tls::new(load([(&*file, &*file)].into_iter()).unwrap(), &keys).unwrap()
    }

    async fn connects(client: &Tls, server: &Tls, name: &'static str) -> bool {
        let (near, far) = duplex(16_384);
        let name = ServerName::try_from(name).unwrap();
        let connect = client.connector.connect(name, near);
        let (connected, accepted) = tokio::join!(connect, server.acceptor.accept(far));
        connected.is_ok() && accepted.is_ok()
    }

    #[tokio::test]
    async fn only_a_server_of_the_cluster_is_a_peer() {
        let server = tls(1, &[]);
        assert!(connects(&tls(1, &[]), &server, NAME).await);
        assert!(!connects(&tls(2, &[]), &server, NAME).await);
        // Somebody who shows a certificate, whatever it is.
        assert!(!connects(&tls(1, &[]), &server, "www.example.com").await);
    }

    #[tokio::test]
    async fn cluster_keys_can_be_rotated() {
        let (old, both, new) = (tls(1, &[]), tls(2, &[1]), tls(2, &[]));
        assert!(connects(&both, &old, NAME).await);
        assert!(connects(&both, &new, NAME).await);
        assert!(!connects(&old, &new, NAME).await);
    }

    #[test]
    fn what_is_shown_is_no_secret() {
        let keys = PeerKeys::new(&Keyring::new(&Key::from([1; 32]), &[])).unwrap();
        assert_eq!(keys.own().cert[0].len(), 44);
        let again = PeerKeys::new(&Keyring::new(&Key::from([1; 32]), &[])).unwrap();
        assert_eq!(keys.known, again.known);
    }
}
