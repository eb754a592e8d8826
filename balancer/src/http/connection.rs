//! One client's connection, from its first byte to its last.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use rustls::ProtocolVersion;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::handoff::{Given, Loose, Moving, Origin, give};
use super::head::Introduction;
use super::link::Link;
use super::pool::Destination;
use super::proxy_protocol::{self, Header};
use super::speaking::{Leaving, speak};
use super::stream::ClientStream;
use super::tls::{Parts, Records, Whole};
use super::watch::Watch;
use super::worker::Place;
use crate::config::Limits;

/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for a connection's first bytes; most heads fit.
const FIRST_BYTES: usize = 2048;

/// One client's connection, as its requests see it.
pub struct Client {
    /// Who serves it, and what it is of.
    pub place: Place,
    /// The client, as a trusted proxy says, or as the kernel does.
    pub address: SocketAddr,
    /// The other end of the connection: the client, a proxy or a peer.
    pub sender: IpAddr,
    /// Where it connected to.
    pub server: SocketAddr,
    /// By TLS.
    pub tls: bool,
    /// What web servers are told of it.
    pub introduction: Introduction,
    /// Its own connection to the web server, where that was told of it by the PROXY protocol, and which web server that is.
    pub own_link: Arc<Mutex<Option<(Destination, Link)>>>,
    /// Its next request is the one for which a peer has given this server the connection.
    pub handed: AtomicBool,
    /// It couldn't move: its next request is answered through this server.
    pub stays: AtomicBool,
    /// It can't move at all: TLS 1.2, or its packets can't be sent on.
    pub fixed: AtomicBool,
    /// How its packets get here.
    origin: OnceLock<Origin>,
    /// The request for which it is to move.
    moving: Mutex<Option<Moving>>,
}

/// A connection that a peer has given this server.
pub struct Arrived {
    /// The client, as a proxy may have said.
    pub address: SocketAddr,
    /// The other end of the connection.
    pub sender: SocketAddr,
    /// Where it connected to.
    pub server: SocketAddr,
}

impl Client {
    /// What its worker looks at.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.place.watch
    }

    /// Whether a peer is at the other end.
    pub fn is_peer(&self) -> bool {
        self.place.service.view().may_be_peer(self.sender)
    }

    /// The connection is to be taken to another server, with this request.
    pub fn moves(&self, moving: Moving) {
        *lock(&self.moving) = Some(moving);
    }

    /// The request for which it is to move, if there is one.
    pub fn take_moving(&self) -> Option<Moving> {
        lock(&self.moving).take()
    }

    /// How its packets get here, by `socket`.
    pub fn origin(&self, socket: &TcpStream) -> Origin {
        *self.origin.get_or_init(|| Origin::of(socket))
    }

    fn new(place: Place, arrived: &Arrived, tls: bool) -> Self {
        Self {
            place,
            address: arrived.address,
            sender: arrived.sender.ip(),
            server: arrived.server,
            tls,
            introduction: Introduction::new(arrived.address.ip(), tls),
            own_link: Arc::default(),
            handed: AtomicBool::new(false),
            stays: AtomicBool::new(false),
            fixed: AtomicBool::new(false),
            origin: OnceLock::new(),
            moving: Mutex::default(),
        }
    }
}

/// Serves a client until the connection is over.
pub async fn serve(place: Place, mut stream: TcpStream, sender: SocketAddr) {
    let watch = place.watch.clone();
    let site = place.service.site();
    attend(&watch).await;
    let sender = canonical(sender);
    let Ok(server) = stream.local_addr().map(canonical) else {
        return;
    };
    let introduced = site.is_introduced(sender.ip());
    let must = introduced && !place.service.view().has_peer(sender.ip());
    let greeted = watch
        .unless_ended(greet(&mut stream, sender, introduced, must))
        .await;
    let Some(Some((address, unread))) = greeted else {
        return;
    };
    let tls = site
        .tls
        .clone()
        .filter(|_| site.http.tls_ports.contains(&server.port()));
    let h2 = unread.starts_with(PREFACE);
    let arrived = Arrived {
        address,
        sender,
        server,
    };
    let client = Arc::new(Client::new(place, &arrived, tls.is_some()));
    let limits = site.http.limits;
    drop(site);
    let Some(tls) = tls else {
        let loose = Loose {
            socket: stream,
            read: unread.into(),
            session: None,
        };
        return Box::pin(converse(loose, h2, limits, client)).await;
    };
    let stream = ClientStream::new(stream, unread, watch);
    Box::pin(serve_by_tls(stream, tls.acceptor, limits, client)).await;
}

/// Serves a client by TLS until the connection is over or has moved to another server.
async fn serve_by_tls(
    stream: ClientStream<TcpStream>,
    acceptor: TlsAcceptor,
    limits: Limits,
    client: Arc<Client>,
) {
    let accepted = Box::pin(acceptor.accept(Whole::new(stream)));
    if let Some(Ok(stream)) = client.watch().unless_ended(accepted).await {
        let session = stream.get_ref().1;
        let h2 = session.alpn_protocol() == Some(b"h2");
        let fixed = session.protocol_version() != Some(ProtocolVersion::TLSv1_3);
        client.fixed.store(fixed, Relaxed);
        let leaving = Box::pin(speak(stream, h2, limits, &client)).await;
        if let Some(loose) = leave(leaving, &client).await {
            converse(loose, false, limits, client).await;
        }
    }
}

/// Goes on with a connection that a peer has given this server.
pub async fn resume(place: Place, loose: Loose, arrived: Arrived) {
    attend(&place.watch).await;
    let limits = place.service.site().http.limits;
    let mut client = Client::new(place, &arrived, loose.session.is_some());
    client.handed = AtomicBool::new(true);
    client.origin = OnceLock::from(Origin::SentOn);
    let client = Arc::new(client);
    converse(loose, false, limits, client).await;
}

/// Serves a client until the connection is over or has moved to another server.
///
/// What few connections need of it is boxed: ten thousand that wait for a request have room for the rest.
async fn converse(mut loose: Loose, h2: bool, limits: Limits, client: Arc<Client>) {
    loop {
        let stream = ClientStream::new(loose.socket, loose.read.into(), client.watch().clone());
        let leaving = match loose.session {
            None => speak(stream, h2, limits, &client).await,
            Some(session) => {
                let raw = Vec::new();
                let records = Records::new(Parts {
                    stream,
                    raw,
                    session,
                });
                Box::pin(speak(records, h2, limits, &client)).await
            }
        };
        loose = match leave(leaving, &client).await {
            Some(kept) => kept,
            None => return,
        };
    }
}

/// Gives a connection away, if it is to move. Returns it if that can't be: its request is answered by this connection then.
async fn leave(leaving: Option<Leaving>, client: &Arc<Client>) -> Option<Loose> {
    let Leaving { loose, to, flight } = leaving?;
    let given = Box::pin(give(client, to, loose)).await;
    // If it stays, the request comes once more.
    flight.end(true);
    match given {
        Given::Gone => None,
        Given::Kept(loose) => {
            client.stays.store(true, Relaxed);
            Some(loose)
        }
    }
}

/// Waits for the client's first bytes. Returns who it is, and what of these is HTTP or TLS.
///
/// It `may` be introduced by the PROXY protocol, or `must` be: one that must and isn't is not served, as the protocol has it.
/// A connection on which nothing has come yet takes no buffer.
async fn greet(
    stream: &mut TcpStream,
    sender: SocketAddr,
    may: bool,
    must: bool,
) -> Option<(SocketAddr, Bytes)> {
    let mut client = (!may).then_some(sender);
    let mut bytes = BytesMut::new();
    loop {
        stream.readable().await.ok()?;
        bytes.reserve(FIRST_BYTES);
        // Unlike `try_read_buf` it takes a part for all that was there, and spares the next reader a look.
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if client.is_none() {
            match proxy_protocol::read(&bytes) {
                Header::Partial => {}
                Header::None if must => return None,
                Header::None => client = Some(sender),
                Header::Whole {
                    length,
                    client: named,
                } => {
                    client = Some(named.map_or(sender, canonical));
                    let _ = bytes.split_to(length);
                }
            }
        }
        let undecided = bytes.len() < PREFACE.len() && PREFACE.starts_with(&bytes);
        if let Some(client) = client
            && !undecided
        {
            return Some((client, bytes.freeze()));
        }
    }
}

/// The task that this is polled in is told of orders.
async fn attend(watch: &Watch) {
    poll_fn(|context| {
        watch.attend(context.waker());
        Poll::Ready(())
    })
    .await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An IPv4 client of a socket for both families is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
