//! What the exchange counts instead of logging.

use serde::Serialize;

use super::seal::OpenError;
use crate::cluster::{Invalid, Refused};

/// Datagrams since the start of the daemon, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExchangeCounters {
    /// Accepted.
    pub received: u64,
    /// Sent.
    pub sent: u64,
    /// Not sent: network down, no buffer space.
    pub send_errors: u64,
    /// Not a balancer's.
    pub garbage: u64,
    /// Of a balancer of another version.
    pub wrong_version: u64,
    /// Sealed with a key that this server doesn't have: of another cluster, or the keys differ.
    pub unknown_key: u64,
    /// The seal is forged or broken.
    pub bad_seal: u64,
    /// Sealed, but no message, or one that makes no sense.
    pub malformed: u64,
    /// A report that is not newer than what is known.
    pub replayed: u64,
    /// A report of this server's own.
    pub own: u64,
    /// A report under this server's id that isn't its own: a machine was cloned.
    pub shared_id: u64,
    /// Longer than any message may be.
    pub oversized: u64,
    /// Of a server that is new or was restarted, and was asked to show that it is there: it may be a replay.
    pub unproven: u64,
    /// Of a new peer, with no room for it.
    pub too_many_peers: u64,
    /// Flows that this server hasn't asked for, or not any more.
    pub unasked: u64,
}

/// Why a datagram was dropped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Dropped {
    #[error("longer than a message may be")]
    Oversized,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Malformed(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl ExchangeCounters {
    /// Each counter with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("received", self.received),
            ("sent", self.sent),
            ("send_errors", self.send_errors),
            ("garbage", self.garbage),
            ("wrong_version", self.wrong_version),
            ("unknown_key", self.unknown_key),
            ("bad_seal", self.bad_seal),
            ("malformed", self.malformed),
            ("replayed", self.replayed),
            ("own", self.own),
            ("shared_id", self.shared_id),
            ("oversized", self.oversized),
            ("unproven", self.unproven),
            ("too_many_peers", self.too_many_peers),
            ("unasked", self.unasked),
        ]
        .into_iter()
    }

    /// The one place where drops are counted. Gives how many of the same kind there are now.
    pub(super) fn dropped(&mut self, why: &Dropped) -> u64 {
        let counter = match why {
            Dropped::Oversized => &mut self.oversized,
            Dropped::Open(OpenError::Garbage) => &mut self.garbage,
            Dropped::Open(OpenError::Version(_)) => &mut self.wrong_version,
            Dropped::Open(OpenError::UnknownKey) => &mut self.unknown_key,
            Dropped::Open(OpenError::BadSeal) => &mut self.bad_seal,
            Dropped::Malformed(_) => &mut self.malformed,
            Dropped::Refused(Refused::Replayed) => &mut self.replayed,
            Dropped::Refused(Refused::Own) => &mut self.own,
            Dropped::Refused(Refused::SharedId) => &mut self.shared_id,
            Dropped::Refused(Refused::Unproven) => &mut self.unproven,
            Dropped::Refused(Refused::TooManyPeers) => &mut self.too_many_peers,
            Dropped::Refused(Refused::Unasked) => &mut self.unasked,
        };
        *counter += 1;
        *counter
    }
}
