//! HTTP on a client's connection: hyper, until the connection is over, is to move, or rests.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::connection::Client;
use super::handoff::{Loose, Loosen, Moving};
use super::request;
use super::stream::Rewound;
use super::watch::{InFlight, Order, Watch};
use crate::cluster::ServerId;
use crate::config::Limits;

/// Headers that hyper takes of a request if it isn't told how many.
const HEADERS_OF_HYPER: u32 = 100;

/// Requests that a client may have in flight on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// How long a client may take for the last word on a connection that rests.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bytes of answers that wait in memory for one HTTP/2 stream's client.
const STREAM_BUFFER_MAX: usize = 64 * 1024;

/// A connection that is to move, and where to.
pub struct Leaving {
    /// The connection.
    pub loose: Loose,
    /// Who gets it.
    pub to: ServerId,
    /// The request for which it moves.
    pub flight: InFlight,
}

/// Serves requests until the connection is over, or is to move.
pub async fn speak<S: Loosen>(
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
    let readable = watch.unless_ended(readable).await;
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
        if let Some(moving) = client.take_moving() {
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
