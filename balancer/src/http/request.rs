//! One request: checked, routed, sent on, answered.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, SET_COOKIE, TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use tokio::time::timeout;

use super::body::{Answer, BodyError, RequestBody};
use super::connection::Client;
use super::head;
use super::hop::Hop;
use super::link::{Link, Lost};
use super::pool::{Destination, Home};
use super::proxy_protocol;
use super::route::{Head, Route};
use super::stream::Transport;
use super::upgrade;
use super::view::Server;
use super::watch::InFlight;
use crate::exchange::clock;

/// Why a web server didn't answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It can't be reached.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// It can't be reached in time.
    #[error("no connection within {} ms", .0.as_millis())]
    ConnectTimeout(Duration),
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

/// Answers a request.
pub async fn answer(
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let flight = client.watch().begin();
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let stall = client.site.http.timeouts.stall;
    let body = RequestBody::new(body, stall, client.watch());
    let mut response = match head::refusal(&parts) {
        Some((status, text)) => plain(status, text, flight),
        None => route(&client, parts, body, flight).await,
    };
    if client.place.worker.is_finishing() && version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response)
}

/// Who asks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// By which connection.
    pub connection: &'a Arc<Client>,
    /// The client: not the other end of that connection, if that is a peer.
    pub hop: Hop,
    /// A peer relays the request.
    pub relayed: bool,
}

/// By whom the rules say.
async fn route(
    client: &Arc<Client>,
    mut parts: Parts,
    body: RequestBody,
    flight: InFlight,
) -> Response<Answer> {
    let view = client.place.service.view();
    let hop = client.site.seals.take(&mut parts.headers);
    let hop = hop.filter(|_| view.has_peer(client.sender));
    let own = Hop {
        client: client.address,
        tls: client.tls,
    };
    let asker = Asker {
        connection: client,
        hop: hop.unwrap_or(own),
        relayed: hop.is_some(),
    };
    let head = Head {
        method: &parts.method,
        uri: &parts.uri,
        headers: &parts.headers,
        version: parts.version,
        client: asker.hop.client.ip(),
        tls: asker.hop.tls,
        relayed: asker.relayed,
    };
    let now = clock::time_of_day().as_secs();
    let decision = client
        .site
        .router
        .route(&head, &view, now, fastrand::u64(..));
    client.place.service.tally.count(&decision, asker.relayed);
    if let Some(target) = &decision.target {
        head::aim(&mut parts, target, client.server);
    }
    let mut response = match &decision.route {
        Route::Here => pass_on(asker, None, parts, body, flight).await,
        Route::Relay(id) => pass_on(asker, view.peer(*id), parts, body, flight).await,
        Route::Redirect(location) => {
            let status = StatusCode::TEMPORARY_REDIRECT;
            let mut response = plain(status, "see the Location", flight);
            response.headers_mut().insert(LOCATION, location.clone());
            response
        }
        Route::Refuse(refusal) => plain(refusal.status(), &refusal.to_string(), flight),
    };
    if let Some(cookie) = decision.cookie(response.status()) {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    response
}

/// Passes a request on to a peer or to the local web server, and its answer back.
async fn pass_on(
    asker: Asker<'_>,
    peer: Option<&Server>,
    mut parts: Parts,
    body: RequestBody,
    flight: InFlight,
) -> Response<Answer> {
    let client = asker.connection;
    let websocket = head::wants_websocket(&parts);
    head::leave_connection(&mut parts.headers);
    head::join_cookies(&mut parts.headers);
    // What a peer relays it has introduced.
    if !asker.relayed {
        client
            .introduction
            .introduce(&mut parts.headers, client.believed);
    }
    let peer = peer.map(|peer| Destination::Peer {
        address: (peer.address, client.server.port()).into(),
        tls: client.tls,
    });
    if peer.is_some()
        && let Err(error) = client.site.seals.put(&mut parts.headers, asker.hop)
    {
        client.place.service.warn(&format!("cannot relay: {error}"));
        return plain(
            StatusCode::BAD_GATEWAY,
            "the request can't be relayed",
            flight,
        );
    }
    let destination = peer.as_ref().unwrap_or(&client.site.backend);
    parts.version = Version::HTTP_11;
    let answered = if websocket {
        Box::pin(upgrade::ask(asker, destination, parts, flight)).await
    } else {
        ask(asker, destination, parts, body, flight).await
    };
    answered.unwrap_or_else(|(failure, flight)| failed(client, destination, &failure, flight))
}

async fn ask(
    asker: Asker<'_>,
    destination: &Destination,
    mut parts: Parts,
    body: RequestBody,
    flight: InFlight,
) -> Result<Response<Answer>, (Failure, InFlight)> {
    let client = asker.connection;
    let stall = client.site.http.timeouts.stall;
    head::leave_expectation(&mut parts.headers);
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // hyper sends no body of unknown length with a GET, unless it is told to.
        let chunked = HeaderValue::from_static("chunked");
        parts.headers.insert(TRANSFER_ENCODING, chunked);
    }
    let request = Request::from_parts(parts, body);
    let (response, link) = match exchange(asker, destination, request).await {
        Ok(answered) => answered,
        Err(failure) => return Err((failure, flight)),
    };
    let (mut parts, body) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err((Failure::Unasked, flight));
    }
    head::leave_connection(&mut parts.headers);
    let home = match (is_own(asker, destination), asker.relayed) {
        (false, _) => {
            let pool = client.place.worker.pool.clone();
            Some(Home::Pool(pool, destination.clone()))
        }
        (true, false) => Some(Home::Client(client.own_link.clone())),
        // A peer's connection has requests of many clients.
        (true, true) => None,
    };
    let mut answer = Answer::stream(body, Some(link), home, stall, flight);
    poll_fn(|context| {
        answer.settle(context);
        Poll::Ready(())
    })
    .await;
    Ok(Response::from_parts(parts, answer))
}

/// Sends a request over a connection that waits, or over a new one.
///
/// A web server may close a waiting connection just as the request is on its way. Then the request goes over another one, if
/// nothing of it was sent, or if nothing of an answer came and it does no harm twice (RFC 9110, 9.2.2).
async fn exchange(
    asker: Asker<'_>,
    destination: &Destination,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Link), Failure> {
    let patience = asker.connection.site.http.timeouts.answer;
    let repeatable = request.method().is_idempotent() && request.body().is_end_stream();
    loop {
        let (mut link, waited) = match waiting(asker, destination).await {
            Some(link) => (link, true),
            // Seldom needed, so it takes no room in each connection.
            None => (Box::pin(open(asker, destination)).await?, false),
        };
        let again = (waited && repeatable).then(|| copy(&request));
        let lost = match timeout(patience, link.ask(request)).await {
            Ok(Ok(response)) => return Ok((response, link)),
            Ok(Err(lost)) => lost,
            Err(_) => return Err(Failure::Silent(patience)),
        };
        let Lost {
            error,
            request: unsent,
            heard,
        } = lost;
        let again = unsent.filter(|_| waited).or(again.filter(|_| !heard));
        request = again.ok_or_else(|| cause(error))?;
    }
}

/// The head again, of a request without a body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    copy.headers_mut().clone_from(request.headers());
    copy
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
        let mut link = own.take_if(|_| !asker.relayed);
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
    let client = asker.connection;
    let patience = client.site.http.timeouts.connect;
    let connected = timeout(patience, async {
        let mut transport = destination.connect(client.site.tls.as_ref()).await?;
        if is_own(asker, destination) {
            let header = proxy_protocol::write(asker.hop.client, client.server)?;
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
    let site = &asker.connection.site;
    site.http.proxy_protocol.to_backend && *destination == site.backend
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

/// Answers in place of a web server that didn't.
fn failed(
    client: &Client,
    destination: &Destination,
    failure: &Failure,
    flight: InFlight,
) -> Response<Answer> {
    let (status, text) = match failure {
        Failure::Connect(_) | Failure::ConnectTimeout(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the web server can't be reached",
        ),
        Failure::Broken(_) | Failure::Unasked => {
            (StatusCode::BAD_GATEWAY, "the web server gave no answer")
        }
        Failure::Silent(_) => (StatusCode::GATEWAY_TIMEOUT, "the web server takes too long"),
        Failure::Body(_) => (StatusCode::REQUEST_TIMEOUT, "the request has no end"),
    };
    if status.is_server_error() {
        let service = &client.place.service;
        service.warn(&format!("{destination}: {failure}"));
    }
    plain(status, text, flight)
}

/// An answer of this server's own.
fn plain(status: StatusCode, text: &str, flight: InFlight) -> Response<Answer> {
    let text = format!("{} {text}\n", status.as_u16());
    let mut response = Response::new(Answer::text(text, flight));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
