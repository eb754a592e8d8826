//! What `balancer status --json` and `balancer peers --json` print.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::{Reason, Status as PeerStatus};
use crate::datapath::interface::XdpState;

/// A server and its cluster. Loads, levels and margins are in basis points (10,000 = 100 %), times in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The server's name.
    pub name: String,
    /// Its id, as 16 hexadecimal digits.
    pub id: String,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// How long the daemon runs.
    pub uptime_ms: u64,
    /// Where the maps are pinned.
    pub pin_dir: String,
    /// From one report to the next.
    pub period_ms: u64,
    /// Silence that makes a peer off-line.
    pub timeout_ms: u64,
    /// What is left to wait for, if it drains.
    pub drain: Option<Drain>,
    /// The interfaces that it is attached to.
    pub interfaces: Vec<Interface>,
    /// The identities whose home it is, or that it has taken over.
    pub identities: Vec<IpAddr>,
    /// What its load is made of, beside its services' own.
    pub load_parts: Vec<LoadPart>,
    /// CPU time that sampling its load has taken while the daemon ran, in microseconds.
    pub sampling_us: u64,
    /// All identities of the cluster, and who has them.
    pub holders: Vec<Holder>,
    /// The last changes in the cluster, oldest first.
    pub changes: Vec<Change>,
    /// Its services.
    pub services: Vec<Service>,
    /// Its peers.
    pub peers: Vec<Peer>,
    /// Packets that were no service's, by what became of them.
    pub packets: BTreeMap<String, u64>,
    /// Datagrams of the exchange, by what became of them.
    pub exchange: BTreeMap<String, u64>,
    /// What an operator should know of.
    pub warnings: Vec<String>,
}

/// A server that drains. It may be switched off once that has `ended`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since it began.
    pub for_ms: u64,
    /// Connections open here or in the making, of all services.
    pub connections: u64,
    /// Connections open on peers that are addressed to this server and come by way of it.
    pub steered: u64,
    /// Peers that have not counted those yet.
    pub unheard: Vec<String>,
    /// Services of which no peer can take new connections.
    pub stranded: Vec<String>,
    /// This server has not steered a new connection for so long that the last one is in a peer's count.
    pub settled: bool,
    /// Nothing is left.
    pub ended: bool,
}

/// An interface that balancer is attached to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Native or generic.
    pub mode: XdpState,
}

/// A part of a server's load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadPart {
    /// As `[load]` calls it.
    pub name: String,
    /// As it was measured.
    pub measured: u32,
    /// What it counts: 10,000 as it is, 0 not at all.
    pub weight: u32,
    /// Its measure by its weight.
    pub load: u32,
}

/// A service of this server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<String>,
    /// Open connections that mean 100 %.
    pub capacity: u32,
    /// New connections a second that mean 100 %, if they are to count.
    pub capacity_rate: Option<u32>,
    /// Own load (S202): the highest of the next four.
    pub load: u32,
    /// Load by connections.
    pub load_connections: u32,
    /// Load by its accept queue.
    pub load_accept_queue: u32,
    /// Load by new connections, if they are to count.
    pub load_rate: Option<u32>,
    /// Load of the host: the highest of its parts.
    pub load_host: u32,
    /// Connections open now.
    pub connections: u64,
    /// Connections in the making.
    pub pending: u64,
    /// New connections that came to this server in a second, over the last four. By UDP, first packets of a client's port.
    pub connections_per_second: f64,
    /// Whether its check succeeds.
    pub healthy: bool,
    /// What the last check that changed that said.
    pub health: String,
    /// Overload level.
    pub overload: u32,
    /// Its requests are routed one by one: its connections are steered only when this server isn't ready for them.
    pub routed: bool,
    /// Margin.
    pub margin: u32,
    /// How a peer is chosen.
    pub policy: String,
    /// Its HTTP requests, by what became of them, if it has an `[[http]]`.
    pub requests: BTreeMap<String, u64>,
    /// Its packets, by what became of them.
    pub packets: BTreeMap<String, u64>,
}

/// A peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its id, as 16 hexadecimal digits.
    pub id: String,
    /// What is thought of it.
    pub status: PeerStatus,
    /// Whether it takes no new flows.
    pub draining: bool,
    /// Where its reports come from.
    pub address: IpAddr,
    /// How packets get to it; none: they can't.
    pub way: Option<Way>,
    /// Age of its last report.
    pub age_ms: u64,
    /// From one of its reports to the next.
    pub period_ms: u64,
    /// The identities that it holds.
    pub identities: Vec<IpAddr>,
    /// These and those whose home it is, and who has them.
    pub holders: Vec<Holder>,
    /// Its services.
    pub services: Vec<PeerService>,
    /// New flows steered to it.
    pub flows: u64,
    /// Packets steered to it.
    pub packets: u64,
}

/// An identity, and who has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// The address.
    pub address: IpAddr,
    /// Name of the server that it belongs to, or its id where the name isn't known.
    pub home: String,
    /// Name of the server that has it, if any.
    pub holder: Option<String>,
    /// How often it has been claimed.
    pub term: u64,
    /// Since when the holder has it, as far as is known here.
    pub for_ms: u64,
    /// Why.
    pub reason: Reason,
}

/// Something that changed in the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// How long ago.
    pub ago_ms: u64,
    /// What.
    pub text: String,
}

/// How packets get to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Ethernet address that they are sent to: the peer's on a link that it shares with this server; of a peer behind a
    /// tunnel, that of the router in between.
    pub mac: String,
    /// The tunnel's end at the peer, if there is one.
    pub tunnel: Option<IpAddr>,
    /// The longest IP packet that fits, in bytes; in a tunnel, with the tunnel's own headers.
    pub mtu: u16,
}

/// A service of a peer's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerService {
    /// Its name there.
    pub name: String,
    /// Its load there.
    pub load: u32,
    /// Its capacity there.
    pub capacity: u32,
    /// Whether it is healthy there.
    pub healthy: bool,
}

impl Status {
    /// The highest load among the services.
    pub fn load(&self) -> u32 {
        self.services
            .iter()
            .map(|service| service.load)
            .max()
            .unwrap_or(0)
    }
}
