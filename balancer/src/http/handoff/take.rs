//! What peers' modules ask this one for, and connections between two servers.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Body as _;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::director::Moved;
use super::loose::Loose;
use super::message::{LENGTH_MAX, Message, Offer};
use super::origin::Origin;
use super::socket::{Frozen, Restored};
use crate::cluster::{ServerId, Timestamp};
use crate::exchange::clock;
use crate::http::body::RequestBody;
use crate::http::connection::{self, Client};

/// How long a connection is held ready: longer than the peer that gives it waits for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long none is offered to a peer that hasn't taken one.
const PAUSE: Duration = Duration::from_secs(1);

/// Connections that are held ready at once.
const READY_MAX: usize = 1024;

/// Connections between two servers.
#[derive(Default)]
pub struct Handoffs {
    /// Those that are ready to go on here, by number.
    ready: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// Those that have left, and are still in the kernel.
    lingering: Mutex<Lingering<Frozen>>,
    /// When a peer that was to take one last didn't.
    untaken: Mutex<HashMap<ServerId, Timestamp>>,
}

impl Handoffs {
    /// A connection has left, under this number.
    pub fn linger(&self, ends: Ends, number: u64, connection: Frozen) {
        lock(&self.lingering).enter(ends, number, connection);
    }

    /// Nothing more comes for a connection that has left under this number.
    pub fn bury(&self, ends: Ends, number: u64) {
        let connection = lock(&self.lingering).remove(ends, number);
        drop(connection);
    }

    /// A peer hasn't taken a connection.
    pub fn on_untaken(&self, by: ServerId) {
        lock(&self.untaken).insert(by, clock::monotonic());
    }

    /// Whether a peer may take a connection: each try has its client wait.
    pub fn are_taken_by(&self, peer: ServerId) -> bool {
        let untaken = lock(&self.untaken).get(&peer).copied();
        untaken.is_none_or(|since| clock::monotonic().since(since) > PAUSE)
    }
}

/// The client's end of a connection, and the service's.
type Ends = (SocketAddr, SocketAddr);

/// Connections that have left, each under its number: one may come back, and leave once more, before the first is forgotten.
struct Lingering<C>(HashMap<Ends, (u64, C)>);

impl<C> Default for Lingering<C> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<C> Lingering<C> {
    fn enter(&mut self, ends: Ends, number: u64, connection: C) {
        self.0.insert(ends, (number, connection));
    }

    /// The one that has left under this number.
    fn remove(&mut self, ends: Ends, number: u64) -> Option<C> {
        let known = self.0.get(&ends).is_some_and(|(known, _)| *known == number);
        known.then(|| self.take_back(ends)).flatten()
    }

    /// The one that comes back.
    fn take_back(&mut self, ends: Ends) -> Option<C> {
        self.0.remove(&ends).map(|(_, connection)| connection)
    }
}

/// Does what a peer's module asks for. 204: it is done.
pub async fn answer(client: &Client, body: RequestBody) -> StatusCode {
    let service = &client.place.service;
    let Some(message) = read(body)
        .await
        .and_then(|sealed| service.site().handoffs.open(&sealed))
    else {
        service.warn(&format!(
            "what {} says of a connection that moves isn't understood: are the clocks right, the keys the same?",
            client.sender
        ));
        return StatusCode::FORBIDDEN;
    };
    match message {
        Message::Take(offer) => take(client, *offer),
        Message::Go(number) => {
            let ready = lock(&service.handoffs.ready).remove(&number);
            match ready.map(|go| go.send(())) {
                Some(Ok(())) => StatusCode::NO_CONTENT,
                _ => StatusCode::NOT_FOUND,
            }
        }
        Message::Steer { client, server, to } => {
            // Whoever asks isn't where the client's packets come: they are sent on to it already.
            let origin = Origin::Unknown;
            match service.director.steer(client, server, to, origin).await {
                Moved::Done => StatusCode::NO_CONTENT,
                Moved::Elsewhere(_) | Moved::No => StatusCode::CONFLICT,
            }
        }
    }
}

/// Makes a peer's connection, and holds it ready.
fn take(client: &Client, offer: Offer) -> StatusCode {
    let place = &client.place;
    let service = &place.service;
    let Offer {
        number,
        snapshot,
        read,
        session,
        client: address,
    } = offer;
    if place.worker.is_finishing() || !place.worker.has_room(service) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let (sender, server) = (snapshot.client(), snapshot.server());
    let left = lock(&service.handoffs.lingering).take_back((sender, server));
    drop(left);
    let restored = match Restored::restore(snapshot, read) {
        Ok(restored) => restored,
        Err(error) => {
            service.warn(&format!(
                "{} can't give a connection: {error}",
                client.sender
            ));
            return StatusCode::CONFLICT;
        }
    };
    let (go, told) = oneshot::channel();
    {
        let mut ready = lock(&service.handoffs.ready);
        if ready.len() >= READY_MAX {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        ready.insert(number, go);
    }
    let place = place.worker.clone().place(service);
    tokio::spawn(async move {
        let told = timeout(PATIENCE, told).await;
        lock(&place.service.handoffs.ready).remove(&number);
        if !matches!(told, Ok(Ok(()))) {
            return;
        }
        let started = restored
            .start()
            .and_then(|(stream, unread)| Ok((TcpStream::from_std(stream)?, unread)));
        match started {
            Ok((socket, read)) => {
                let arrived = connection::Arrived {
                    address,
                    sender,
                    server,
                };
                let loose = Loose {
                    socket,
                    read,
                    session,
                };
                connection::resume(place, loose, arrived).await;
            }
            Err(error) => {
                let text = format!("a connection is lost on its way here: {error}");
                place.service.warn(&text);
            }
        }
    });
    StatusCode::NO_CONTENT
}

/// All of a message, unless it is too long.
async fn read(mut body: RequestBody) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            if bytes.len() + data.len() > LENGTH_MAX {
                return None;
            }
            bytes.extend_from_slice(&data);
        }
    }
    Some(bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_left_twice_is_kept_as_long_as_the_second_time_demands() {
        let ends = (([192, 0, 2, 1], 40_000).into(), ([10, 0, 0, 1], 80).into());
        let mut lingering = Lingering::default();
        lingering.enter(ends, 1, "first");
        assert_eq!(lingering.take_back(ends), Some("first"));
        lingering.enter(ends, 2, "second");
        assert_eq!(lingering.remove(ends, 1), None);
        assert_eq!(lingering.remove(ends, 2), Some("second"));
        assert_eq!(lingering.remove(ends, 2), None);
    }

    #[test]
    fn a_peer_that_took_none_is_left_alone_for_a_while() {
        let handoffs = Handoffs::default();
        handoffs.on_untaken(ServerId(1));
        assert!(!handoffs.are_taken_by(ServerId(1)));
        assert!(handoffs.are_taken_by(ServerId(2)));
        let before = Timestamp(clock::monotonic().0 - 1_100_000_000);
        lock(&handoffs.untaken).insert(ServerId(1), before);
        assert!(handoffs.are_taken_by(ServerId(1)));
    }
}
