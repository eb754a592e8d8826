//! A connection leaves this server: silent from the moment that its state is read, it goes on there or, if that can't be, here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::PATH;
use super::director::Moved;
use super::loose::Loose;
use super::message::{Message, Offer};
use super::origin::Origin;
use super::socket::{Frozen, Snapshot};
use crate::cluster::ServerId;
use crate::http::body::RequestBody;
use crate::http::connection::Client;
use crate::http::link::Link;
use crate::http::pool::Destination;
use crate::http::tls::Session;

/// How long a client may wait for its connection to move before it is served through this server. The peer waits longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often the peer is told to go on, [`PATIENCE`] each time: as often as fits into the time that it holds the connection ready.
const TRIES: usize = 5;

/// How long a connection that has moved stays here, silent: so long a packet that came before the move may be on its way through
/// this host, whose kernel would reset a connection that it doesn't know.
const LINGER: Duration = Duration::from_millis(50);

/// What became of a connection.
pub enum Given {
    /// It isn't this server's any more.
    Gone,
    /// It is.
    Kept(Loose),
}

/// Gives a client's connection to a peer, with what was read from it for the request that is to be answered there.
pub async fn give(client: &Arc<Client>, to: ServerId, loose: Loose) -> Given {
    let service = &client.place.service;
    let Loose {
        socket,
        read,
        session,
    } = loose;
    let origin = client.origin(&socket);
    let frozen = socket.into_std().map(Frozen::freeze);
    let (frozen, snapshot) = match frozen {
        Ok(Ok(frozen)) => frozen,
        Ok(Err((stream, error))) => {
            service.warn(&format!("a connection can't move: {error}"));
            return kept(client, Ok(stream), read, session);
        }
        Err(error) => return kept(client, Err(error), read, session),
    };
    let ends = (snapshot.client(), snapshot.server());
    let moved = timeout(
        PATIENCE,
        move_to(client, to, snapshot, origin, &read, session.as_ref()),
    )
    .await;
    let moved = moved.unwrap_or_else(|_| {
        let text = format!("it takes more than {} ms", PATIENCE.as_millis());
        Err(Obstacle::Time(anyhow!(text)))
    });
    let number = match moved {
        Ok(number) => number,
        Err(obstacle) => {
            let error = match obstacle {
                Obstacle::Peer(error) => {
                    service.handoffs.on_untaken(to);
                    error
                }
                Obstacle::Time(error) => error,
                Obstacle::Connection(error) => {
                    client.fixed.store(true, Relaxed);
                    error
                }
            };
            service.warn(&format!("a connection can't move: {error:#}"));
            service.tally.count_handoff(false);
            let own = service.view().own.id;
            // Whatever has become of it before.
            let _ = timeout(PATIENCE, steer(client, ends, own, origin)).await;
            return kept(client, frozen.thaw(), read, session);
        }
    };
    service.handoffs.linger(ends, number, frozen);
    let service = service.clone();
    let client = client.clone();
    // It is the peer's from now on, whatever comes.
    let heard = go_on(&client, to, number).await;
    service.tally.count_handoff(heard);
    if !heard {
        service.warn("a connection has moved, but the peer doesn't say that it goes on there");
    }
    tokio::spawn(async move {
        sleep(LINGER).await;
        service.handoffs.bury(ends, number);
    });
    Given::Gone
}

/// Why a connection doesn't move.
enum Obstacle {
    /// The peer doesn't take it.
    Peer(anyhow::Error),
    /// It isn't done in time. A peer that has much to do has less of the next one if that moves than if it is relayed.
    Time(anyhow::Error),
    /// It is one that can't: its packets can't be sent on, say.
    Connection(anyhow::Error),
}

/// Has the peer ready, and the packets sent there. Returns the connection's number.
async fn move_to(
    client: &Arc<Client>,
    to: ServerId,
    snapshot: Snapshot,
    origin: Origin,
    read: &[u8],
    session: Option<&Session>,
) -> Result<u64, Obstacle> {
    let ends = (snapshot.client(), snapshot.server());
    let number = fastrand::u64(..);
    let offer = Offer {
        number,
        snapshot,
        read: read.to_vec(),
        session: session.cloned(),
        client: client.address,
    };
    let taken = ask(client, to, &Message::Take(Box::new(offer))).await;
    match taken.map_err(Obstacle::Peer)? {
        StatusCode::NO_CONTENT => {}
        StatusCode::CONFLICT => {
            let text = "the peer can't make it anew: its log says why";
            return Err(Obstacle::Connection(anyhow!(text)));
        }
        status => return Err(Obstacle::Peer(anyhow!("it answers {status}"))),
    }
    let steered = steer(client, ends, to, origin).await;
    steered.map_err(Obstacle::Connection)?;
    Ok(number)
}

/// Tells the peer to go on with a connection. Returns whether it says that it does.
async fn go_on(client: &Arc<Client>, to: ServerId, number: u64) -> bool {
    for turn in 0..TRIES {
        let told = timeout(PATIENCE, ask(client, to, &Message::Go(number))).await;
        match told {
            Ok(Ok(StatusCode::NO_CONTENT)) => return true,
            // It isn't waiting there any more. If it was told before, its answer came late.
            Ok(Ok(StatusCode::NOT_FOUND)) => return turn > 0,
            // The peer may be there again in a moment.
            Ok(Err(_)) => sleep(PATIENCE / 5).await,
            _ => {}
        }
    }
    false
}

/// Has a connection's packets sent on, by whoever gets them from the client.
async fn steer(
    client: &Arc<Client>,
    (from, at): (SocketAddr, SocketAddr),
    to: ServerId,
    origin: Origin,
) -> Result<()> {
    let director = &client.place.service.director;
    match director.steer(from, at, to, origin).await {
        Moved::Done => Ok(()),
        Moved::No => bail!("its packets can't be sent on"),
        Moved::Elsewhere(director) => {
            let message = Message::Steer {
                client: from,
                server: at,
                to,
            };
            match ask(client, director, &message).await? {
                StatusCode::NO_CONTENT => Ok(()),
                status => bail!("who gets its packets answers {status}"),
            }
        }
    }
}

/// Asks a peer's module for something. 204: it is done.
async fn ask(client: &Arc<Client>, peer: ServerId, message: &Message) -> Result<StatusCode> {
    let service = &client.place.service;
    let site = service.site();
    let view = service.view();
    let peer = view
        .peer(peer)
        .with_context(|| format!("{peer} is not there"))?;
    let destination = Destination::Peer {
        address: peer.at(client.server.port()),
        tls: client.tls,
    };
    let pool = &client.place.worker.pool;
    let waiting =
        std::future::poll_fn(|context| std::task::Poll::Ready(pool.take(&destination, context)));
    let mut link = match waiting.await {
        Some(link) => link,
        None => Link::open(destination.connect(site.tls.as_ref()).await?).await?,
    };
    let body = RequestBody::Whole(Some(Bytes::from(site.handoffs.close(message)?)));
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static(PATH);
    let host = destination_host(&destination);
    request.headers_mut().insert(hyper::header::HOST, host);
    let response = link.ask(request).await.map_err(|lost| lost.error)?;
    // No answer has a body.
    pool.put(destination, link);
    Ok(response.status())
}

fn destination_host(destination: &Destination) -> hyper::header::HeaderValue {
    let host = match destination {
        Destination::Peer { address, .. } => address.to_string(),
        _ => String::new(),
    };
    hyper::header::HeaderValue::try_from(host)
        .unwrap_or(hyper::header::HeaderValue::from_static("peer"))
}

fn kept(
    client: &Arc<Client>,
    socket: io::Result<std::net::TcpStream>,
    read: Vec<u8>,
    session: Option<Session>,
) -> Given {
    match socket.and_then(TcpStream::from_std) {
        Ok(socket) => Given::Kept(Loose {
            socket,
            read,
            session,
        }),
        Err(error) => {
            let service = &client.place.service;
            service.warn(&format!("a connection that couldn't move is lost: {error}"));
            Given::Gone
        }
    }
}
