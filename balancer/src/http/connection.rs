//! One client's connection, from its first byte to its last.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ProtocolVersion;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::handoff::{Given, Loose, Loosen, Moving, Origin, give};
use super::head::Introduction;
use super::link::Link;
use super::pool::Destination;
use super::proxy_protocol::{self, Header};
use super::request;
use super::stream::{ClientStream, Rewound};
use super::tls::{Parts, Records, Whole};
use super::watch::{InFlight, Order, Watch};
use super::worker::Place;
use crate::cluster::ServerId;
use crate::config::Limits;

/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for a connection's first bytes; most heads fit.
const FIRST_BYTES: usize = 2048;

/// Headers that hyper takes of a request if it isn't told how many.
const HEADERS_OF_HYPER: u32 = 100;

/// Requests that a client may have in flight on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// How long a client may take for the last word on a connection that rests.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bytes of answers that wait in memory for one HTTP/2 stream's client.
const STREAM_BUFFER_MAX: usize = 64 * 1024;

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
    let greeted = unless_ended(&watch, greet(&mut stream, sender, introduced, must)).await;
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
    if let Some(Ok(stream)) = unless_ended(client.watch(), accepted).await {
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

/// A connection that is to move, and where to.
struct Leaving {
    loose: Loose,
    to: ServerId,
    flight: InFlight,
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

/// Serves requests until the connection is over, or is to move.
async fn speak<S: Loosen>(
    stream: S,
    h2: bool,
    limits: Limits,
    client: &Arc<Client>,
) -> Option<Leaving> {
    let service = service_fn({
        let client = client.clone();
        // hyper has room for it as long as the connection is open: for a pointer, if it is boxed.
        move |request| Box::pin(request::answer(client.clone(), request))
    });
    if h2 {
        client.watch().on_framed();
        let connection = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(limits.header_bytes)
            .max_send_buf_size(STREAM_BUFFER_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let connection = Box::pin(connection);
        let finish = http2::Connection::graceful_shutdown;
        drive(connection, finish, client).await;
        return None;
    }
    let mut http1 = http1::Builder::new();
    http1.max_header_size(limits.header_bytes as usize);
    // If it isn't told, hyper needs no memory for so many.
    if limits.headers != HEADERS_OF_HYPER {
        http1.max_headers(limits.headers as usize);
    }
    let mut stream = Rewound::new(stream, Bytes::new());
    loop {
        let connection = http1.serve_connection(TokioIo::new(stream), service.clone());
        let connection = Box::pin(connection.with_upgrades());
        let finish = http1::UpgradeableConnection::graceful_shutdown;
        let (connection, moving) = match drive(connection, finish, client).await {
            Driven::Over => return None,
            Driven::Moves(connection, moving) => (connection, Some(moving)),
            Driven::Rests(connection) => (connection, None),
        };
        let parts = Pin::into_inner(connection).into_parts()?;
        let (inner, further) = parts.io.into_inner().into_parts();
        let unread = if further.is_empty() {
            parts.read_buf
        } else {
            [parts.read_buf, further].concat().into()
        };
        if let Some(moving) = moving {
            return uproot(inner, &unread, moving, client).await;
        }
        if !unread.is_empty() {
            // It isn't idle: a head has begun behind the request before.
            client.watch().on_bytes();
        }
        stream = Rewound::new(inner, unread);
        rest(&mut stream, client.watch()).await?;
    }
}

/// Takes a connection that is to move out of its stream.
async fn uproot<S: Loosen>(
    stream: S,
    unread: &[u8],
    mut moving: Moving,
    client: &Client,
) -> Option<Leaving> {
    let mut read = std::mem::take(&mut moving.head);
    moving.body.drain(&mut read).await;
    read.extend_from_slice(unread);
    match stream.loosen(read).await {
        Ok(loose) => {
            let Moving { to, flight, .. } = moving;
            Some(Leaving { loose, to, flight })
        }
        Err(error) => {
            let text = format!("a connection that was to move is lost: {error:#}");
            client.place.service.warn(&text);
            None
        }
    }
}

/// Waits for something to read. `None`: the connection is over.
async fn rest<S: Loosen>(stream: &mut Rewound<S>, watch: &Watch) -> Option<()> {
    let readable = poll_fn(|context| stream.poll_readable(context));
    let readable = unless_ended(watch, readable).await;
    if readable.is_none() && watch.ordered() == Order::Finish {
        // TLS has a last word.
        let _ = timeout(FAREWELL, stream.shutdown()).await;
    }
    readable
}

/// What has become of a connection.
enum Driven<C> {
    /// It is over.
    Over,
    /// It is to move, for this request.
    Moves(C, Moving),
    /// Nothing has come for a while.
    Rests(C),
}

/// Serves until the connection is over, or something else is to be done with it.
async fn drive<C: Future>(
    connection: Pin<Box<C>>,
    finish: fn(Pin<&mut C>),
    client: &Client,
) -> Driven<Pin<Box<C>>> {
    let watch = client.watch();
    let mut told = false;
    let mut driven = Some(connection);
    poll_fn(|context| {
        let Some(mut connection) = driven.take() else {
            return Poll::Ready(Driven::Over);
        };
        let order = watch.ordered();
        if order == Order::Close {
            return Poll::Ready(Driven::Over);
        }
        if order == Order::Finish && !told {
            told = true;
            finish(connection.as_mut());
        }
        // How a client's connection ends is the client's business.
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(Driven::Over);
        }
        if let Some(moving) = lock(&client.moving).take() {
            return Poll::Ready(Driven::Moves(connection, moving));
        }
        if watch.may_rest() {
            return Poll::Ready(Driven::Rests(connection));
        }
        driven = Some(connection);
        Poll::Pending
    })
    .await
}

/// The task that this is polled in is told of orders.
async fn attend(watch: &Watch) {
    poll_fn(|context| {
        watch.attend(context.waker());
        Poll::Ready(())
    })
    .await;
}

/// What comes out of `future`, unless the connection is to end before.
async fn unless_ended<F: Future>(watch: &Watch, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match watch.ordered() {
        Order::GoOn => future.as_mut().poll(context).map(Some),
        Order::Finish | Order::Close => Poll::Ready(None),
    })
    .await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An IPv4 client of a socket for both families is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
