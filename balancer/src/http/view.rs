//! The cluster as the routing of requests sees it, at one moment.

use std::net::IpAddr;

use balancer_common::decide::Policy;

use crate::cluster::ServerId;
use crate::config::PathPattern;

/// The servers that offer a service, as this one sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its id.
    pub id: ServerId,
    /// Its name.
    pub name: String,
    /// Where its reports come from: it is reached there.
    pub address: IpAddr,
    /// Its load, in basis points.
    pub load: u32,
    /// Open connections that mean a load of 100 %.
    pub capacity: u32,
    /// The service is healthy there.
    pub healthy: bool,
    /// It takes nothing new.
    pub draining: bool,
    /// Host names that lead to it alone.
    pub names: Vec<String>,
    /// Paths that it says it is dedicated to.
    pub serves: Vec<PathPattern>,
}

impl View {
    /// The peer with this id.
    pub fn peer(&self, id: ServerId) -> Option<&Server> {
        self.peers.iter().find(|peer| peer.id == id)
    }
}
