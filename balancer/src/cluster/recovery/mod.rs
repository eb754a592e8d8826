//! Flow recovery: who gets an identity asks its peers which flows they have on it.
//!
//! ```text
//!   asks                                             answers
//!     │ ── query: session, identities, part 0 ─────────> │ collects its flows on these identities
//!     │ <───────────────────────────── parts 0 to 15 ─── │ and keeps them for a moment
//!     │ ── query: session, part 16 ────────────────────> │
//!     │ <─────────────── parts 16 to 20, the last one ── │
//! ```
//!
//! As in TFTP with windows (RFC 7440), only the next part counts; what is lost is asked for again. A session's number was
//! never used before, so an answer to another question is refused; each query has a number above the last one's, and names a
//! report that the other one has just sent, so a recorded one is refused; and a session that ends without its last part has not ended well. What a peer says of flows
//! is good only for identities that this server has and asked for.

mod answering;
mod asking;
mod message;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use super::ServerId;

pub use message::{FlowReport, FlowsPart, FlowsQuery};

pub(super) use answering::Answerer;
pub(super) use asking::Asker;

/// The longest time for which packets of unknown flows are dropped after a server has got an identity. Each doubling of a
/// client's retransmission timer costs more than what is found later could save.
pub const GRACE: Duration = Duration::from_millis(500);

/// Flows that one server tells another at the most. While it keeps as many for its askers it collects no more for others.
pub const MAX_FLOWS: usize = 1 << 20;

/// How long a new server waits for peers to be heard of before it takes their answers for all.
const LISTENING: Duration = Duration::from_millis(200);

/// A query or its answer may be lost: it is asked again, at first after that time.
const RETRY: Duration = Duration::from_millis(20);

/// The longest time after which it is asked again: answers that are lost must have more chances within the grace.
const RETRY_MAX: Duration = Duration::from_millis(100);

/// Answers that come after the grace still count, but not for ever.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was collected for a server that doesn't ask any more is forgotten.
const LINGER: Duration = Duration::from_secs(1);

/// Parts sent for one query.
const WINDOW: u32 = 16;

/// Bytes of flows in one part: with the seal and all headers it fits an Ethernet frame.
const PART: usize = 1_200;

/// One flow, and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowAt {
    /// IP protocol number: 6 is TCP, 17 is UDP.
    pub protocol: u8,
    /// The client's end.
    pub client: SocketAddr,
    /// The identity, and the service's port.
    pub identity: SocketAddr,
    /// The server that has it.
    pub owner: ServerId,
    /// It is an established connection of the server that tells of it. Otherwise others may know better.
    pub sure: bool,
}
