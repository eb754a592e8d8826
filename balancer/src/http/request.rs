//! One request: checked, routed, sent on, answered.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, SET_COOKIE, TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::time::sleep;

use super::body::{Answer, RequestBody};
use super::connection::Client;
use super::forwarded;
use super::handoff::{self, Moving};
use super::head;
use super::hop::Hop;
use super::pool::Destination;
use super::route::{Decision, Head, Route};
use super::send::{Failure, Message, send};
use super::site::Site;
use super::view::View;
use super::watch::InFlight;
use crate::cluster::ServerId;
use crate::exchange::clock;

/// Servers that a request is tried with, one after the other, where there is no connection to be had.
const TRIES_MAX: usize = 3;

/// How often it is looked whether a server has been heard.
const SOON: Duration = Duration::from_millis(20);

/// Answers a request.
pub async fn answer(
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let flight = client.watch().begin();
    // What stands now, however long the connection has been open.
    let site = client.place.service.site();
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let only_head = parts.method == Method::HEAD;
    let body = RequestBody::new(body, site.http.timeouts.stall, client.watch());
    let mut response = match head::refusal(&parts, site.http.limits) {
        Some((status, text)) => plain(status, text, flight),
        None if handoff::is_message(&parts) && client.is_peer() => {
            let status = handoff::answer(&client, body).await;
            empty(status, flight)
        }
        None => route(&client, &site, parts, body, flight).await,
    };
    if only_head {
        response.body_mut().leave_text();
    }
    // What a 101 says of its connection is that it is a WebSocket's.
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if client.place.worker.is_finishing() && version < Version::HTTP_2 && !upgraded {
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
    /// What the request goes by.
    pub site: &'a Arc<Site>,
    /// The client: not the other end of that connection, if that is a peer, or a proxy that is believed.
    pub hop: Hop,
    /// A peer relays the request.
    pub relayed: bool,
    /// A peer has given this server the connection for it.
    pub handed: bool,
    /// The other end of the connection is believed what it says of its clients.
    pub believed: bool,
}

impl<'a> Asker<'a> {
    /// As far as the request's sender is believed. What a peer says of it is taken out of `parts`.
    fn new(
        connection: &'a Arc<Client>,
        site: &'a Arc<Site>,
        view: &View,
        parts: &mut Parts,
    ) -> Self {
        let mut asker = Self {
            connection,
            site,
            hop: Hop {
                client: connection.address,
                tls: connection.tls,
            },
            relayed: false,
            handed: connection.handed.swap(false, Relaxed),
            believed: site.believes(connection.sender),
        };
        let hop = site.seals.take(&mut parts.headers);
        if let Some(hop) = hop.filter(|_| view.may_be_peer(connection.sender)) {
            asker.hop = hop;
            asker.relayed = true;
        } else if asker.believed {
            let claim = forwarded::claim(&parts.headers, |proxy| site.believes(proxy));
            if let Some(client) = claim.client {
                // Nobody has said by which port it came.
                asker.hop.client = (client, 0).into();
            }
            asker.hop.tls = claim.tls.unwrap_or(asker.hop.tls);
        }
        asker
    }

    /// The other end of the connection is the client, and all its requests are the client's.
    pub fn is_its_client(&self) -> bool {
        !self.relayed && self.hop.client == self.connection.address
    }
}

/// By whom the rules say. Where there is no connection to that server, by another one that they allow.
async fn route(
    client: &Arc<Client>,
    site: &Arc<Site>,
    mut parts: Parts,
    body: RequestBody,
    mut flight: InFlight,
) -> Response<Answer> {
    let mut view = client.place.service.view();
    let asker = Asker::new(client, site, &view, &mut parts);
    let mut decision = decide(asker, &parts, &mut view).await;
    let websocket = head::wants_websocket(&parts) && body.is_end_stream();
    if let Route::Handoff(to) = decision.route {
        if !websocket && can_move(client, to, &parts) {
            let head = head::written(&parts);
            // Who drives the connection takes it from here; this request ends unanswered.
            client.moves(Moving {
                to,
                head,
                body,
                flight,
            });
            match pending::<Infallible>().await {}
        }
        decision.route = Route::Relay(to);
    }
    prepare(asker, &decision, &mut parts);
    let mut message = Message {
        parts,
        body,
        websocket,
    };
    let mut tried = Vec::new();
    let mut response = loop {
        client
            .place
            .service
            .tally
            .count(&decision, asker.relayed || asker.handed);
        let server = match &decision.route {
            Route::Here => &view.own,
            Route::Relay(id) | Route::Handoff(id) => view.server(*id).unwrap_or(&view.own),
            Route::Redirect(location) => {
                let status = StatusCode::TEMPORARY_REDIRECT;
                let mut response = plain(status, "see the Location", flight);
                response.headers_mut().insert(LOCATION, location.clone());
                break response;
            }
            Route::Refuse(refusal) => {
                break plain(refusal.status(), &refusal.to_string(), flight);
            }
        };
        let peer = (server.id != view.own.id).then(|| Destination::Peer {
            address: server.at(client.server.port()),
            tls: client.tls,
        });
        let destination = peer.as_ref().unwrap_or(&site.backend);
        let lost = match send(asker, destination, message, flight).await {
            Ok(response) => break response,
            Err(unanswered) => unanswered,
        };
        tried.push(server.id);
        let again = match lost.message {
            Some(unsent) if tried.len() < TRIES_MAX && !asker.relayed => {
                let next = otherwise(asker, &decision, &unsent.parts, &tried, &mut view).await;
                next.map(|next| (next, *unsent))
            }
            _ => None,
        };
        let Some((next, unsent)) = again else {
            break failed(client, &destination.to_string(), &lost.failure, lost.flight);
        };
        client.place.service.tally.count_again();
        (decision, message, flight) = (next, unsent, lost.flight);
    };
    if let Some(cookie) = decision.cookie(response.status()) {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    response
}

/// Whether the connection can move to a peer for this request. What is relayed comes by a peer's own connection, and is
/// answered here.
fn can_move(client: &Client, to: ServerId, parts: &Parts) -> bool {
    let once = client.stays.swap(false, Relaxed);
    let service = &client.place.service;
    parts.version == Version::HTTP_11
        && !client.fixed.load(Relaxed)
        && !once
        && !client.watch().is_stuck()
        && service.director.is_there()
        && service.handoffs.are_taken_by(to)
        // hyper has taken its first chunks apart already.
        && !parts.headers.contains_key(TRANSFER_ENCODING)
}

/// Who answers a request. Just after the start, one that is perhaps for a server that hasn't been heard yet waits for it.
async fn decide(asker: Asker<'_>, parts: &Parts, view: &mut Arc<View>) -> Decision {
    let head = Head {
        method: &parts.method,
        uri: &parts.uri,
        headers: &parts.headers,
        version: parts.version,
        client: asker.hop.client.ip(),
        tls: asker.hop.tls,
        relayed: asker.relayed,
        handed: asker.handed,
    };
    let router = &asker.site.router;
    let now = clock::time_of_day().as_secs();
    while !view.settled && router.is_early(&head, view, now) {
        sleep(SOON).await;
        *view = asker.connection.place.service.view();
    }
    router.route(&head, view, now, fastrand::u64(..))
}

/// Who else answers a request, as there was no connection to those that were `tried`.
async fn otherwise(
    asker: Asker<'_>,
    decision: &Decision,
    parts: &Parts,
    tried: &[ServerId],
    view: &mut Arc<View>,
) -> Option<Decision> {
    *view = asker.connection.place.service.view();
    if !decision.stays {
        *view = Arc::new(view.without(tried));
    }
    let mut next = decide(asker, parts, view).await;
    if let Route::Handoff(to) = next.route {
        next.route = Route::Relay(to);
    }
    // It was counted when the request was routed first.
    next.note = None;
    let server = match &next.route {
        Route::Here => view.own.id,
        Route::Relay(id) | Route::Handoff(id) => *id,
        Route::Redirect(_) => return Some(next),
        Route::Refuse(_) => return None,
    };
    (!tried.contains(&server)).then_some(next)
}

/// Makes of a request what is sent on, whoever it is sent to.
fn prepare(asker: Asker<'_>, decision: &Decision, parts: &mut Parts) {
    let client = asker.connection;
    if let Some(target) = &decision.target {
        head::aim(parts, target, client.server);
    }
    head::leave_connection(&mut parts.headers);
    head::leave_expectation(&mut parts.headers);
    head::join_cookies(&mut parts.headers);
    // What a peer relays it has introduced.
    if !asker.relayed {
        let introduction = &client.introduction;
        introduction.introduce(&mut parts.headers, asker.believed, asker.hop.tls);
    }
    parts.version = Version::HTTP_11;
}

/// Answers in place of a web server that didn't.
fn failed(
    client: &Client,
    destination: &str,
    failure: &Failure,
    flight: InFlight,
) -> Response<Answer> {
    let (status, text) = match failure {
        Failure::Connect(_) | Failure::ConnectTimeout(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the web server can't be reached",
        ),
        Failure::Seal(_) => (StatusCode::BAD_GATEWAY, "the request can't be relayed"),
        Failure::Broken(_) | Failure::Unasked => {
            (StatusCode::BAD_GATEWAY, "the web server gave no answer")
        }
        Failure::Silent(_) => (StatusCode::GATEWAY_TIMEOUT, "the web server takes too long"),
        Failure::Body(_) => (StatusCode::REQUEST_TIMEOUT, "the request has no end"),
    };
    let service = &client.place.service;
    service.tally.count_failure(status);
    if status.is_server_error() {
        service.warn(&format!("{destination}: {failure}"));
    }
    plain(status, text, flight)
}

/// An answer without a body.
fn empty(status: StatusCode, flight: InFlight) -> Response<Answer> {
    let mut response = Response::new(Answer::text("", flight));
    *response.status_mut() = status;
    response
}

/// An answer of this server's own.
fn plain(status: StatusCode, text: &str, flight: InFlight) -> Response<Answer> {
    let text = format!("{} {text}\n", status.as_u16());
    let length = text.len().into();
    let mut response = Response::new(Answer::text(text, flight));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}
