//! One request on its way to the local web server or to a peer's module, and the head of its answer.

use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::PoisonError;
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use tokio::time::timeout;

use super::body::{Answer, BodyError, Progress, RequestBody};
use super::head;
use super::hop;
use super::link::{Link, Lost};
use super::pool::{Destination, Home};
use super::proxy_protocol;
use super::request::Asker;
use super::stream::Transport;
use super::upgrade;
use super::watch::InFlight;

/// Why a web server didn't answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It can't be reached.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// It can't be reached in time.
    #[error("no connection within {} ms", .0.as_millis())]
    ConnectTimeout(Duration),
    /// There is no seal to be had, without which a peer doesn't know whose request it is.
    #[error("cannot relay: {0}")]
    Seal(crate::exchange::SealError),
    /// It broke off, or what it said is no HTTP.
    #[error("no answer: {0}")]
    Broken(hyper::Error),
    /// It speaks another protocol than it was asked for.
    #[error("it changed to a protocol that it wasn't asked for")]
    Unasked,
    /// It says nothing.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The client's own doing.
    #[error("the request's body: {0}")]
    Body(String),
}

/// A request as it is sent on.
pub struct Message {
    /// Its head.
    pub parts: Parts,
    /// Its body.
    pub body: RequestBody,
    /// It asks for a WebSocket.
    pub websocket: bool,
}

/// A request without an answer.
pub struct Unanswered {
    /// Why.
    pub failure: Failure,
    /// It is still being answered.
    pub flight: InFlight,
    /// All of it, if nothing was sent, since there was no connection to send it by.
    pub message: Option<Box<Message>>,
}

/// Sends a request to `destination`, and passes on its answer.
///
/// # Errors
///
/// There is none.
pub async fn send(
    asker: Asker<'_>,
    destination: &Destination,
    mut message: Message,
    flight: InFlight,
) -> Result<Response<Answer>, Unanswered> {
    let headers = &mut message.parts.headers;
    if !matches!(destination, Destination::Peer { .. }) {
        // An earlier try may have been to a peer.
        hop::remove(headers);
    } else if let Err(error) = asker.site.seals.put(headers, asker.hop) {
        return Err(Unanswered {
            failure: Failure::Seal(error),
            flight,
            message: None,
        });
    }
    if message.websocket {
        return Box::pin(upgrade::ask(asker, destination, message, flight)).await;
    }
    let Message {
        mut parts, body, ..
    } = message;
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // hyper sends no body of unknown length with a GET, unless it is told to.
        let chunked = HeaderValue::from_static("chunked");
        parts.headers.insert(TRANSFER_ENCODING, chunked);
    }
    let request = Request::from_parts(parts, body);
    let (response, link) = match exchange(asker, destination, request).await {
        Ok(answered) => answered,
        Err((failure, request)) => {
            return Err(Unanswered {
                failure,
                flight,
                message: request.map(whole),
            });
        }
    };
    let (mut parts, body) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Unanswered {
            failure: Failure::Unasked,
            flight,
            message: None,
        });
    }
    head::leave_connection(&mut parts.headers);
    let client = asker.connection;
    let home = if is_own(asker, destination) {
        // Over a proxy's or a peer's connection come requests of many clients.
        asker
            .is_its_client()
            .then(|| Home::Client(client.own_link.clone(), destination.clone()))
    } else {
        let pool = client.place.worker.pool.clone();
        Some(Home::Pool(pool, destination.clone()))
    };
    let stall = asker.site.http.timeouts.stall;
    let mut answer = Answer::stream(body, Some(link), home, stall, flight);
    poll_fn(|context| {
        answer.settle(context);
        Poll::Ready(())
    })
    .await;
    Ok(Response::from_parts(parts, answer))
}

/// An exchange that failed, and the request, if nothing of it was sent.
type Failed = (Failure, Option<Request<RequestBody>>);

/// Sends a request over a connection that waits, or over a new one.
///
/// A web server may close a waiting connection just as the request is on its way. Then the request goes over another one, if
/// nothing of it was sent, or if nothing of an answer came and it does no harm twice (RFC 9110, 9.2.2).
async fn exchange(
    asker: Asker<'_>,
    destination: &Destination,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Link), Failed> {
    let patience = asker.site.http.timeouts.answer;
    let repeatable = request.method().is_idempotent() && request.body().is_end_stream();
    let progress = request.body().progress();
    loop {
        let (mut link, waited) = match waiting(asker, destination).await {
            Some(link) => (link, true),
            // Seldom needed, so it takes no room in each connection.
            None => match Box::pin(open(asker, destination)).await {
                Ok(link) => (link, false),
                Err(failure) => return Err((failure, Some(request))),
            },
        };
        let again = (waited && repeatable).then(|| copy(&request));
        let lost = match answered(patience, progress.as_deref(), link.ask(request)).await {
            Some(Ok(response)) => return Ok((response, link)),
            Some(Err(lost)) => lost,
            None => return Err((Failure::Silent(patience), None)),
        };
        let Lost {
            error,
            request: unsent,
            heard,
        } = lost;
        let again = unsent.filter(|_| waited).or(again.filter(|_| !heard));
        request = again.ok_or_else(|| (cause(error), None))?;
    }
}

/// What `answer` becomes, if it doesn't take longer than `patience`. That begins when all of the request was sent, or when some
/// of it was, if nothing of it goes any more: an upload may take its time.
pub async fn answered<T>(
    patience: Duration,
    progress: Option<&Progress>,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = pin!(answer);
    let mut left = patience;
    while !left.is_zero() {
        if let Ok(answer) = timeout(left, answer.as_mut()).await {
            return Some(answer);
        }
        left = progress.map_or(Duration::ZERO, |progress| progress.left(patience));
    }
    None
}

/// The head again, of a request without a body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    copy.headers_mut().clone_from(request.headers());
    copy
}

fn whole(request: Request<RequestBody>) -> Box<Message> {
    let (parts, body) = request.into_parts();
    Box::new(Message {
        parts,
        body,
        websocket: false,
    })
}

/// A connection to `destination` that waits for a request.
async fn waiting(asker: Asker<'_>, destination: &Destination) -> Option<Link> {
    let client = asker.connection;
    poll_fn(|context| {
        if !is_own(asker, destination) {
            return Poll::Ready(client.place.worker.pool.take(destination, context));
        }
        let mut own = client
            .own_link
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // One to the web server of a configuration before this one is closed.
        let waiting = own.take_if(|_| asker.is_its_client());
        let waiting = waiting.filter(|(to, _)| to == destination);
        let mut link = waiting.map(|(_, link)| link);
        Poll::Ready(link.take_if(|link| link.drive(context)))
    })
    .await
}

async fn open(asker: Asker<'_>, destination: &Destination) -> Result<Link, Failure> {
    let transport = connect(asker, destination).await?;
    Link::open(transport).await.map_err(Failure::Broken)
}

/// Opens a connection for a client's requests.
pub async fn connect(asker: Asker<'_>, destination: &Destination) -> Result<Transport, Failure> {
    let patience = asker.site.http.timeouts.connect;
    let connected = timeout(patience, async {
        let mut transport = destination.connect(asker.site.tls.as_ref()).await?;
        if is_own(asker, destination) {
            let header = proxy_protocol::write(asker.hop.client, asker.connection.server)?;
            transport.write_all(&header).await?;
        }
        Ok(transport)
    });
    match connected.await {
        Ok(connected) => connected.map_err(Failure::Connect),
        Err(_) => Err(Failure::ConnectTimeout(patience)),
    }
}

/// Whether connections there are of one client each, of whom they tell.
fn is_own(asker: Asker<'_>, destination: &Destination) -> bool {
    asker.site.http.proxy_protocol.to_backend && *destination == asker.site.backend
}

/// The client's fault, if it is.
fn cause(error: hyper::Error) -> Failure {
    let body = error
        .source()
        .and_then(|source| source.downcast_ref::<BodyError>());
    match body {
        Some(body) => Failure::Body(body.to_string()),
        None => Failure::Broken(error),
    }
}
