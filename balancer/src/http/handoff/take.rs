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
use super::socket::{Frozen, Restored};
use crate::http::body::RequestBody;
use crate::http::connection::{self, Client};

/// How long a connection is held ready: longer than the peer that gives it waits for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// Connections that are held ready at once.
const READY_MAX: usize = 1024;

/// Connections between two servers.
#[derive(Default)]
pub struct Handoffs {
    /// Those that are ready to go on here, by number.
    ready: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// Those that have left, and are still in the kernel.
    lingering: Mutex<HashMap<(SocketAddr, SocketAddr), Frozen>>,
}

impl Handoffs {
    /// A connection has left.
    pub fn linger(&self, ends: (SocketAddr, SocketAddr), connection: Frozen) {
        lock(&self.lingering).insert(ends, connection);
    }

    /// Nothing more comes for a connection that has left, or it comes back.
    pub fn bury(&self, ends: (SocketAddr, SocketAddr)) {
        let connection = lock(&self.lingering).remove(&ends);
        drop(connection);
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
            match service.director.steer(client, server, to).await {
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
    service.handoffs.bury((sender, server));
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
