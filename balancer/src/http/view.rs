//! The cluster as the routing of requests sees it, at one moment.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use balancer_common::decide::Policy;
use balancer_common::types::load_of;

use crate::cluster::ServerId;
use crate::config::PathPattern;

/// The servers that offer a service, as this one sees them.
#[derive(Clone, Debug)]
pub struct View {
    /// This server. Its `address` is of no use.
    pub own: Server,
    /// Overload level (S203), in basis points.
    pub overload: u32,
    /// Margin (S206), in basis points.
    pub margin: u32,
    /// How one of several is chosen (S208).
    pub policy: Policy,
    /// The peers that offer it and are on-line.
    pub peers: Vec<Server>,
    /// It is steered by load at packet level, so that requests of no rule stay where they are.
    pub steered: bool,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its id.
    pub id: ServerId,
    /// Its name.
    pub name: String,
    /// Where its reports come from: it is reached there.
    pub address: IpAddr,
    /// Its load by its last report, in basis points.
    pub load: u32,
    /// What one connection adds to its load, in 1/65,536 of a basis point.
    pub cost: u32,
    /// Requests that it was given since that report.
    pub sent: Arc<AtomicU32>,
    /// Open connections that mean a load of 100 %.
    pub capacity: u32,
    /// The service is healthy there.
    pub healthy: bool,
    /// It takes nothing new.
    pub draining: bool,
    /// Host names that lead to it alone, in lower case.
    pub names: Vec<String>,
    /// Paths that it says it is dedicated to.
    pub serves: Vec<PathPattern>,
}

impl View {
    /// Whether a peer has this address.
    pub fn has_peer(&self, address: IpAddr) -> bool {
        self.peers.iter().any(|peer| peer.address == address)
    }

    /// The peer with this id.
    pub fn peer(&self, id: ServerId) -> Option<&Server> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    /// The server with this id.
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers().find(|server| server.id == id)
    }

    /// All servers.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.own).chain(&self.peers)
    }
}

impl Server {
    /// Its load: its last report, and what it was given since.
    pub fn load(&self) -> u32 {
        let sent = self.sent.load(Relaxed);
        self.load.saturating_add(load_of(sent.into(), self.cost))
    }

    /// It takes new requests.
    pub fn is_ready(&self) -> bool {
        self.healthy && !self.draining
    }
}
