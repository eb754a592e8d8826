//! The cluster as the routing of requests sees it, at one moment.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
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
    /// This server runs for long enough to have heard all peers that are on-line.
    pub settled: bool,
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
    /// The interface that leads to a link-local address (RFC 4007, section 11), else 0.
    pub scope: u32,
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
    /// As it would be if these servers couldn't answer anything.
    #[must_use]
    pub fn without(&self, servers: &[ServerId]) -> Self {
        let mut view = self.clone();
        view.peers.retain(|peer| !servers.contains(&peer.id));
        if servers.contains(&view.own.id) {
            view.own.healthy = false;
            // Steering has chosen a server that can't answer.
            view.steered = false;
        }
        view
    }

    /// Whether it may be a peer that has this address, as far as it is known yet.
    pub fn may_be_peer(&self, address: IpAddr) -> bool {
        self.has_peer(address) || !self.settled
    }

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

    /// Where it listens on this port.
    pub fn at(&self, port: u16) -> SocketAddr {
        match self.address {
            IpAddr::V4(address) => (address, port).into(),
            IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, self.scope).into(),
        }
    }

    /// It takes new requests.
    pub fn is_ready(&self) -> bool {
        self.healthy && !self.draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_peer_is_reached_through_its_interface() {
        let mut server = Server {
            id: ServerId(1),
            name: "web1".into(),
            address: "fe80::1".parse().unwrap(),
            scope: 7,
            load: 0,
            cost: 0,
            sent: Arc::default(),
            capacity: 1,
            healthy: true,
            draining: false,
            names: Vec::new(),
            serves: Vec::new(),
        };
        assert_eq!(server.at(80), "[fe80::1%7]:80".parse().unwrap());
        server.address = "10.0.0.1".parse().unwrap();
        assert_eq!(server.at(80), "10.0.0.1:80".parse().unwrap());
    }
}
