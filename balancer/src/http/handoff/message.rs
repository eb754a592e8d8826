//! What two modules tell each other when a connection moves, sealed: it has the client's secrets in it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::socket::Snapshot;
use crate::cluster::ServerId;
use crate::exchange::{Keyring, SealError, clock};
use crate::http::tls::Session;

/// The longest message, in bytes: what may wait in a connection's queues, and some.
pub const LENGTH_MAX: usize = 8 * 1024 * 1024;

/// How far the clocks of two servers may be apart, in seconds. What is older is somebody's recording.
const AGE_MAX: u64 = 30;

/// What a module asks another one for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// To have this connection ready.
    Take(Box<Offer>),
    /// To go on with the connection that it has ready under this number: it is not the sender's any more.
    Go(u64),
    /// To send a connection's packets on to a server: the one that is asked has the address that the client sends them to.
    Steer {
        /// The client's end.
        client: SocketAddr,
        /// The service's end.
        server: SocketAddr,
        /// Who gets them.
        to: ServerId,
    },
}

/// A connection that is to move.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offer {
    /// What it is called until it has moved.
    pub number: u64,
    /// As it is in the kernel.
    pub snapshot: Snapshot,
    /// What was read from it: without TLS from the beginning of the request that it moves for, with TLS what isn't opened.
    pub read: Vec<u8>,
    /// What TLS knows of it.
    pub session: Option<Session>,
    /// The client, as a proxy may have said.
    pub client: SocketAddr,
}

/// The keys of such messages.
pub struct Seals(Keyring);

impl Seals {
    /// Made from the cluster's.
    pub fn new(cluster: &Keyring) -> Self {
        Self(cluster.derive(b"balancer: live hand-offs"))
    }

    /// Closes a message.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn close(&self, message: &Message) -> Result<Vec<u8>, SealError> {
        let now = clock::time_of_day().as_secs();
        // Into memory, and all of its types can be written.
        let bytes = Zeroizing::new(postcard::to_allocvec(&(now, message)).unwrap_or_default());
        self.0.seal(&bytes)
    }

    /// Opens what a server of the cluster has closed, not long ago.
    pub fn open(&self, sealed: &[u8]) -> Option<Message> {
        let bytes = Zeroizing::new(self.0.open(sealed).ok()?);
        let (at, message): (u64, Message) = postcard::from_bytes(&bytes).ok()?;
        (clock::time_of_day().as_secs().abs_diff(at) <= AGE_MAX).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Key;

    fn seals(key: u8) -> Seals {
        Seals::new(&Keyring::new(&Key::from([key; 32]), &[]))
    }

    #[test]
    fn only_a_server_of_the_cluster_moves_connections() {
        let sealed = seals(1).close(&Message::Go(7)).unwrap();
        assert!(matches!(seals(1).open(&sealed), Some(Message::Go(7))));
        assert!(seals(2).open(&sealed).is_none());
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(seals(1).open(&changed).is_none());
        assert!(seals(1).open(&[]).is_none());
    }

    #[test]
    fn a_recording_moves_nothing() {
        let seals = seals(1);
        for (seconds, fresh) in [(0, true), (20, true), (60, false)] {
            let at = clock::time_of_day().as_secs() - seconds;
            let bytes = postcard::to_allocvec(&(at, Message::Go(7))).unwrap();
            let sealed = seals.0.seal(&bytes).unwrap();
            assert_eq!(seals.open(&sealed).is_some(), fresh, "{seconds} s");
        }
    }
}
