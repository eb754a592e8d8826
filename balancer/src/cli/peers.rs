//! `balancer peers`.

use anyhow::Result;
use clap::Args;

use super::table::{duration, percent, table};
use super::{Instance, show};
use crate::control::status::{Peer, Way};

/// The other servers
#[derive(Args)]
pub struct Peers {
    /// Print JSON; loads are basis points (10,000 = 100 %)
    #[arg(long)]
    json: bool,
}

impl Peers {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let peers = instance.status()?.peers;
        show(self.json, &peers, |peers| text(peers))
    }
}

/// The peers as a table.
pub fn text(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "  none heard of yet: they need the same key file, group and network\n".into();
    }
    let head = [
        "peer",
        "status",
        "address",
        "way",
        "load",
        "last report",
        "each",
        "flows to it",
        "packets",
        "identities",
    ];
    let rows: Vec<_> = peers.iter().map(row).collect();
    table(&head, &rows, &[4, 5, 6, 7, 8])
}

fn row(peer: &Peer) -> Vec<String> {
    let loads: Vec<_> = peer
        .services
        .iter()
        .map(|service| {
            if service.healthy {
                percent(service.load)
            } else {
                "DOWN".into()
            }
        })
        .collect();
    let identities: Vec<_> = peer.identities.iter().map(ToString::to_string).collect();
    vec![
        peer.name.clone(),
        format!(
            "{}{}",
            peer.status.name(),
            if peer.draining { ", draining" } else { "" }
        ),
        peer.address.to_string(),
        peer.way.as_ref().map_or("NONE".into(), way),
        loads.join(" / "),
        format!("{} ago", duration(peer.age_ms)),
        duration(peer.period_ms),
        peer.flows.to_string(),
        peer.packets.to_string(),
        identities.join(" "),
    ]
}

fn way(way: &Way) -> String {
    let kind = way
        .tunnel
        .map_or("link".into(), |end| format!("tunnel to {end}"));
    format!("{kind}, MTU {}", way.mtu)
}
