//! Connections of a real TLS client that are taken out of rustls, and moved, while data is on its way both ways.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::UnixTime;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    SupportedCipherSuite,
};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
    split,
};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::{client, server};

use super::*;
use crate::exchange::{Key, Keyring};

const SUITES: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// A connection that gives no more than so many bytes at a time, and that may change one.
struct Line {
    stream: DuplexStream,
    chunk: usize,
    flips: bool,
}

/// No test takes as long.
const PATIENCE: Duration = Duration::from_mins(1);

type Client = client::TlsStream<DuplexStream>;
type Server = server::TlsStream<Whole<Line>>;

#[test]
fn a_connection_moves_while_data_is_on_its_way() {
    for suite in SUITES {
        for chunk in [1, 1_000, 100_000] {
            echo(suite, 150_000, chunk, 5_000, &[1, 20_000, 3]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_connection_moves_at_any_point(
        suite in 0..3_usize,
        length in 0..80_000_usize,
        chunk in 1..20_000_usize,
        // Room for session tickets: the client reads none before the server is done with them.
        window in 4_000..40_000_usize,
        moves in vec(0..30_000_usize, 1..4),
    ) {
        echo(SUITES[suite], length, chunk, window, &moves);
    }
}

/// A client sends so much and gets it back. The server reads so much each time before the connection is moved.
fn echo(suite: SupportedCipherSuite, length: usize, chunk: usize, window: usize, moves: &[usize]) {
    let sent: Vec<u8> = (0..length).map(|index| (index * 7 % 251) as u8).collect();
    let client = async |client: Client| {
        let (mut reader, mut writer) = split(client);
        let mut back = Vec::new();
        let (written, read) = tokio::join!(
            async {
                writer.write_all(&sent).await?;
                writer.shutdown().await
            },
            reader.read_to_end(&mut back)
        );
        written.unwrap();
        read.unwrap();
        assert!(back == sent, "{} bytes came back of {length}", back.len());
    };
    let server = async |mut server: Server| {
        pass_back(&mut server, moves[0]).await;
        let mut parts = take_apart(server).unwrap_or_else(|refusal| panic!("{}", refusal.reason));
        for &before in &moves[1..] {
            let mut records = Records::new(moved(parts));
            pass_back(&mut records, before).await;
            parts = records
                .into_parts()
                .unwrap_or_else(|refusal| panic!("{}", refusal.reason));
        }
        let mut records = Records::new(moved(parts));
        pass_back(&mut records, usize::MAX).await;
        records.shutdown().await.unwrap();
    };
    run(suite, chunk, window, client, server);
}

#[test]
fn new_keys_of_a_client_that_rustls_has_followed_move() {
    let client = async |mut client: Client| {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        let mut back = [0; 4];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"ping");
    };
    let server = async |mut server: Server| {
        let mut ping = [0; 4];
        server.read_exact(&mut ping).await.unwrap();
        // The client doesn't know of the server's new keys yet.
        let Err(Refusal {
            kept: Some(mut server),
            reason: Reason::Unsent,
        }) = take_apart(server)
        else {
            panic!("the answer to new keys is to be sent first");
        };
        server.flush().await.unwrap();
        let mut records = Records::new(
            take_apart(*server).unwrap_or_else(|refusal| panic!("{}", refusal.reason)),
        );
        records.write_all(&ping).await.unwrap();
        records.flush().await.unwrap();
    };
    run(SUITES[0], 1_000, 50_000, client, server);
}

#[test]
fn new_keys_after_the_move_end_the_connection() {
    let client = async |mut client: Client| {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(alert(&mut client).await, AlertDescription::InternalError);
    };
    let server = async |server: Server| {
        let mut records =
            Records::new(take_apart(server).unwrap_or_else(|refusal| panic!("{}", refusal.reason)));
        let error = records.read_u8().await.unwrap_err();
        assert!(
            error.to_string().contains("renewed its TLS keys"),
            "{error}"
        );
        assert!(
            records.write_all(b"more").await.is_err(),
            "after a fatal alert"
        );
    };
    run(SUITES[0], 1_000, 50_000, client, server);
}

#[test]
fn a_changed_record_ends_the_connection() {
    let client = async |mut client: Client| {
        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(alert(&mut client).await, AlertDescription::BadRecordMac);
    };
    let server = async |server: Server| {
        let mut parts = take_apart(server).unwrap_or_else(|refusal| panic!("{}", refusal.reason));
        parts.stream.flips = true;
        let error = Records::new(parts).read_u8().await.unwrap_err();
        assert!(error.to_string().contains("changed on its way"), "{error}");
    };
    run(SUITES[2], 1_000, 50_000, client, server);
}

#[test]
fn an_end_without_close_notify_is_an_error() {
    let client = async |mut client: Client| {
        client.get_mut().0.shutdown().await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    };
    let server = async |server: Server| {
        let mut records =
            Records::new(take_apart(server).unwrap_or_else(|refusal| panic!("{}", refusal.reason)));
        let error = records.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    };
    run(SUITES[1], 1_000, 50_000, client, server);
}

#[test]
fn tls_1_2_stays_where_it_is() {
    let client = async |mut client: Client| {
        client.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        client.read_exact(&mut back).await.unwrap();
    };
    let server = async |server: Server| {
        let Err(Refusal {
            kept: Some(mut server),
            reason: Reason::Version,
        }) = take_apart(server)
        else {
            panic!("TLS 1.2 was taken apart");
        };
        pass_back(&mut *server, 4).await;
    };
    let suite = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    run(suite, 1_000, 50_000, client, server);
}

#[test]
fn what_is_no_tls_is_refused_at_once() {
    runtime().block_on(async {
        let (mut client, server) = duplex(50_000);
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let server = tls().acceptor.accept(Whole::new(server)).await;
        let error = server.err().unwrap().to_string();
        assert!(error.contains("corrupt message"), "{error}");
    });
}

/// A handshake, and what both sides do after it.
fn run(
    suite: SupportedCipherSuite,
    chunk: usize,
    window: usize,
    client: impl AsyncFnOnce(Client),
    server: impl AsyncFnOnce(Server),
) {
    runtime().block_on(async {
        let tls = tls();
        let (client_end, stream) = duplex(window);
        let line = Line {
            stream,
            chunk,
            flips: false,
        };
        let name = ServerName::try_from("test.example").unwrap();
        let all = async {
            let (client_stream, server_stream) = tokio::join!(
                TlsConnector::from(Arc::new(client_config(suite))).connect(name, client_end),
                tls.acceptor.accept(Whole::new(line)),
            );
            tokio::join!(
                client(client_stream.unwrap()),
                server(server_stream.unwrap())
            );
        };
        timeout(PATIENCE, all).await.expect("both sides wait");
    });
}

/// Reads so many bytes, or to the end, and sends them back.
async fn pass_back(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), mut length: usize) {
    let mut buffer = [0; 10_000];
    while length > 0 {
        let most = buffer.len().min(length);
        let read = stream.read(&mut buffer[..most]).await.unwrap();
        if read == 0 {
            break;
        }
        let (begin, end) = buffer[..read].split_at(read / 3);
        stream.write_all(begin).await.unwrap();
        stream.write_all(end).await.unwrap();
        length -= read;
    }
    stream.flush().await.unwrap();
}

/// The same, with a session that went through a message.
fn moved(parts: Parts<Line>) -> Parts<Line> {
    assert_eq!(format!("{:?}", parts.session), "Session(..)");
    let message = postcard::to_allocvec(&parts.session).unwrap();
    let session = postcard::from_bytes(&message).unwrap();
    Parts { session, ..parts }
}

/// What the server said that it was.
async fn alert(client: &mut Client) -> AlertDescription {
    let error = client.read_u8().await.unwrap_err();
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("{other:?}, not an alert"),
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn tls() -> Tls {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/tls/test.pem");
    let keys = PeerKeys::new(&Keyring::new(&Key::from([1; 32]), &[])).unwrap();
    Tls::new(load([(&*file, &*file)].into_iter()).unwrap(), &keys).unwrap()
}

fn client_config(suite: SupportedCipherSuite) -> ClientConfig {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/tls/test.pem");
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        ..default_provider()
    };
    let known = Known {
        certificates: vec![CertificateDer::from_pem_file(file).unwrap()],
        algorithms: provider.signature_verification_algorithms,
    };
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(known))
        .with_no_client_auth()
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

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut chunk = vec![0; this.chunk.min(buffer.remaining())];
        let mut chunk = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut chunk))?;
        if this.flips
            && let Some(last) = chunk.filled_mut().last_mut()
        {
            *last ^= 1;
        }
        buffer.put_slice(chunk.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = bytes.len().min(self.chunk);
        Pin::new(&mut self.stream).poll_write(context, &bytes[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
