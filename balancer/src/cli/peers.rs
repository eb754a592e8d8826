//! `balancer peers`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;

use super::table::{duration, percent, table};
use super::{Instance, show};
use crate::control::status::{Holder, Peer, Way};

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
        show(self.json, &peers, |peers| text(peers) + &identities(peers))
    }
}

/// Who has the peers' identities; of one that another peer has taken over both tell.
fn identities(peers: &[Peer]) -> String {
    let told = peers.iter().flat_map(|peer| &peer.holders);
    let all: BTreeMap<_, _> = told.map(|holder| (holder.address, holder)).collect();
    if all.is_empty() {
        return String::new();
    }
    format!("\nidentities\n{}", holders(all.into_values()))
}

/// Who has which identity, and why, as a table.
pub fn holders<'a>(holders: impl IntoIterator<Item = &'a Holder>) -> String {
    let row = |holder: &Holder| {
        vec![
            holder.address.to_string(),
            holder.home.clone(),
            holder.holder.clone().unwrap_or_else(|| "NOBODY".into()),
            duration(holder.for_ms),
            holder.term.to_string(),
            holder.reason.to_string(),
        ]
    };
    let rows: Vec<_> = holders.into_iter().map(row).collect();
    table(
        &["address", "home", "held by", "for", "term", "why"],
        &rows,
        &[3, 4],
    )
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_identity_of_peers_is_shown_once_with_who_has_it_and_why() {
        let taken = json!({
            "address": "10.0.0.2", "home": "web2", "holder": "web3", "term": 12, "for_ms": 61_000, "reason": "holder-died"
        });
        let own = json!({
            "address": "2001:db8::3", "home": "web3", "holder": "web3", "term": 1, "for_ms": 1_500, "reason": "home"
        });
        let peer = |name: &str, status: &str, holders: serde_json::Value| -> Peer {
            let peer = json!({
                "name": name, "id": "01", "status": status, "draining": false, "address": "10.0.0.9", "way": null, "age_ms": 9,
                "period_ms": 500, "identities": [], "holders": holders, "services": [], "flows": 0, "packets": 0
            });
            serde_json::from_value(peer).unwrap()
        };
        let peers = [
            peer("web2", "dead", json!([taken])),
            peer("web3", "online", json!([taken, own])),
        ];
        let expected = "
identities
  address      home  held by    for  term  why
  10.0.0.2     web2  web3     1 min    12  the holder before died
  2001:db8::3  web3  web3     1.5 s     1  its home
";
        assert_eq!(identities(&peers), expected);
        assert_eq!(identities(&[]), "");
    }
}
