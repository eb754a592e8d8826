//! WebSocket (RFC 6455): after a 101 from the web server, bytes go both ways until either side ends.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, on};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::time::timeout;

use super::body::{Answer, RequestBody};
use super::connection::Client;
use super::head;
use super::pool::Destination;
use super::request::Asker;
use super::send::{Failure, Message, Unanswered, connect};
use super::stream::{Transport, Upstream};
use super::watch::{InFlight, Order};

/// Asks `destination` for a WebSocket. It may answer that there is none.
pub async fn ask(
    asker: Asker<'_>,
    destination: &Destination,
    mut message: Message,
    flight: InFlight,
) -> Result<Response<Answer>, Unanswered> {
    let client = asker.connection;
    let transport = match connect(asker, destination).await {
        Ok(transport) => transport,
        Err(failure) => {
            return Err(Unanswered {
                failure,
                flight,
                message: Some(Box::new(message)),
            });
        }
    };
    head::ask_for_websocket(&mut message.parts.headers);
    let mut request = Request::from_parts(message.parts, RequestBody::Empty);
    let from_client = on(&mut request);
    let patience = asker.site.http.timeouts.answer;
    let mut response = match send(transport, request, patience).await {
        Ok(response) => response,
        Err(failure) => {
            return Err(Unanswered {
                failure,
                flight,
                message: None,
            });
        }
    };
    let from_server = on(&mut response);
    let (mut parts, body) = response.into_parts();
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        head::leave_connection(&mut parts.headers);
        let answer = Answer::stream(body, None, None, asker.site.http.timeouts.stall, flight);
        return Ok(Response::from_parts(parts, answer));
    }
    if !head::is_websocket(&parts.headers) {
        return Err(Unanswered {
            failure: Failure::Unasked,
            flight,
            message: None,
        });
    }
    head::leave_connection(&mut parts.headers);
    head::ask_for_websocket(&mut parts.headers);
    client.watch().on_two_way();
    tokio::spawn(tunnel(client.clone(), from_client, from_server, flight));
    Ok(Response::from_parts(parts, Answer::nothing()))
}

async fn send(
    transport: Transport,
    request: Request<RequestBody>,
    patience: Duration,
) -> Result<Response<Incoming>, Failure> {
    let stream = Upstream::new(transport, Arc::new(AtomicBool::new(false)));
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, driver) = handshake.map_err(Failure::Broken)?;
    // How it ends is seen by who has the stream.
    tokio::spawn(async move { drop(driver.with_upgrades().await) });
    match timeout(patience, sender.send_request(request)).await {
        Ok(answered) => answered.map_err(Failure::Broken),
        Err(_) => Err(Failure::Silent(patience)),
    }
}

/// Passes bytes on, until either side or this server ends.
async fn tunnel(
    client: Arc<Client>,
    from_client: OnUpgrade,
    from_server: OnUpgrade,
    flight: InFlight,
) {
    let passed = async {
        let (Ok(from_client), Ok(from_server)) = (from_client.await, from_server.await) else {
            return;
        };
        let mut from_client = TokioIo::new(from_client);
        let mut from_server = TokioIo::new(from_server);
        // An end is an end, for whatever reason.
        let _ = copy_bidirectional(&mut from_client, &mut from_server).await;
    };
    let mut passed = pin!(passed);
    poll_fn(|context| {
        client.watch().attend(context.waker());
        if client.watch().ordered() == Order::Close {
            return Poll::Ready(());
        }
        passed.as_mut().poll(context)
    })
    .await;
    flight.end(true);
}
