//! Who sends a connection's packets on: the server that has the address that the client sends them to. Its daemon is asked.

use std::future::pending;
use std::net::SocketAddr;

use tokio::sync::{mpsc, oneshot};

use super::origin::Origin;
use crate::cluster::ServerId;

/// Questions that may wait for the daemon.
const WAITING_MAX: usize = 256;

/// What the daemon is asked: that a connection's packets get to a server.
pub struct Move {
    /// The client's end.
    pub client: SocketAddr,
    /// The service's end.
    pub server: SocketAddr,
    /// Who is to get them.
    pub to: ServerId,
    /// How they get here, if they do.
    pub origin: Origin,
    /// Who waits for the answer.
    pub done: oneshot::Sender<Moved>,
}

/// Its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So it is.
    Done,
    /// The packets don't come to this server, but to that one.
    Elsewhere(ServerId),
    /// It can't be.
    No,
}

/// The way to the daemon.
#[derive(Clone)]
pub struct Director(mpsc::Sender<Move>);

/// The daemon's end of it.
pub struct Moves(mpsc::Receiver<Move>);

/// Both ends.
pub fn director() -> (Director, Moves) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Director(sender), Moves(receiver))
}

impl Director {
    /// Has the packets of a connection sent on to `to`.
    pub async fn steer(
        &self,
        client: SocketAddr,
        server: SocketAddr,
        to: ServerId,
        origin: Origin,
    ) -> Moved {
        let (done, answer) = oneshot::channel();
        let question = Move {
            client,
            server,
            to,
            origin,
            done,
        };
        if self.0.send(question).await.is_err() {
            return Moved::No;
        }
        answer.await.unwrap_or(Moved::No)
    }

    /// Whether the daemon answers.
    pub fn is_there(&self) -> bool {
        !self.0.is_closed()
    }
}

impl Moves {
    /// The next question.
    pub async fn next(&mut self) -> Move {
        match self.0.recv().await {
            Some(question) => question,
            None => pending().await,
        }
    }

    /// Answers no further question, nor those that wait: nothing moves any more.
    pub fn end(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_when_the_daemon_ends_need_not_wait() {
        let (director, mut moves) = director();
        let ask = || {
            let client = ([192, 0, 2, 1], 40_000).into();
            let server = ([10, 0, 0, 1], 80).into();
            director.steer(client, server, ServerId(2), Origin::SentOn)
        };
        assert!(director.is_there());
        let end = async {
            tokio::task::yield_now().await;
            moves.end();
        };
        assert_eq!(tokio::join!(ask(), end).0, Moved::No);
        assert!(!director.is_there());
        assert_eq!(ask().await, Moved::No);
    }
}
