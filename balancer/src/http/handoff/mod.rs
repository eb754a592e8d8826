//! Live hand-off: the client's connection itself moves to another server of the cluster, which goes on with it. The client
//! notices nothing, and the answer doesn't pass through this server.
//!
//! ```text
//!  this server (give)                      the other one (take)           who gets the client's packets (director)
//!  freeze: the connection falls silent
//!  Take: its state and the request ------> makes it, silent
//!                                    <---- ready
//!  Steer ----------------------------------------------------------------> sends its packets on
//!  Go ------------------------------------> answers the request
//! ```
//!
//! Until Go everything can be undone, and the request is relayed. From Go on this server says nothing on the connection: there are
//! never two that speak.

mod director;
mod give;
mod loose;
mod message;
mod origin;
mod socket;
mod take;

use hyper::Method;
use hyper::http::request::Parts;

pub use self::director::{Director, Move, Moved, Moves, director};
pub use self::give::{Given, give};
pub use self::loose::{Loose, Loosen};
pub use self::message::Seals;
pub use self::origin::Origin;
pub use self::socket::kernel;
pub use self::take::{Handoffs, answer};
use super::body::RequestBody;
use super::watch::InFlight;
use crate::cluster::ServerId;

/// What peers' modules post their messages to.
pub const PATH: &str = "/.balancer/handoff";

/// A request for which its connection is to move.
pub struct Moving {
    /// Where to.
    pub to: ServerId,
    /// Its head, as it came, but for the spelling.
    pub head: Vec<u8>,
    /// What follows it.
    pub body: RequestBody,
    /// It is being answered until the connection has moved, or can't.
    pub flight: InFlight,
}

/// Whether this is a peer's message, if it comes from a peer.
pub fn is_message(parts: &Parts) -> bool {
    parts.method == Method::POST && parts.uri.path() == PATH
}
