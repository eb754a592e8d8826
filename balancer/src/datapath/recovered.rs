//! Flows that peers tell of when this server gets an identity, and those that it tells them of.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use balancer_common::hash::flow_hash;
use balancer_common::table::{Flow, NO_PEER, OPEN_TCP, OPEN_UDP, Place, millis};
use balancer_common::types::{Address, FlowKey};
use balancer_common::wire::UDP;

use super::flows::FlowView;
use super::maps::Maps;
use crate::cluster::{FlowAt, Timestamp};

/// The table, for flows to be entered.
pub struct Ledger<'a> {
    view: &'a FlowView,
    seed: u64,
}

impl<'a> Ledger<'a> {
    /// Opens it.
    pub fn open(maps: &'a Maps) -> Result<Self> {
        let settings = maps.settings.get(&0, 0);
        Ok(Self {
            view: maps.flows.view()?,
            seed: settings.context("cannot read the map SETTINGS")?.seed,
        })
    }

    /// Has the packets of a flow sent on to the peer in slot `peer` from now on. One that isn't sure doesn't change what is known. False:
    /// the table has no room for it.
    pub fn enter(&self, flow: &FlowAt, peer: u32, service: u32, now: Timestamp) -> bool {
        let key = FlowKey {
            client: Address::from(flow.client.ip()),
            identity: Address::from(flow.identity.ip()),
            client_port: flow.client.port(),
            port: flow.identity.port(),
            protocol: flow.protocol.into(),
        };
        let tag = flow_hash(&key, self.seed);
        if !flow.sure && self.view.get(tag).is_some() {
            return true;
        }
        let place = Place {
            tag,
            seen_ms: millis(now.0),
            peer: peer as u16,
            service: service as u8,
            state: if flow.protocol == UDP {
                OPEN_UDP
            } else {
                OPEN_TCP
            },
        };
        let opened_ns = now.0;
        self.view.enter(place, Flow { key, opened_ns }, now.0)
    }
}

/// A flow in the table.
pub struct Entry {
    /// IP protocol number.
    pub protocol: u8,
    /// The client's end.
    pub client: SocketAddr,
    /// The identity, and the service's port.
    pub identity: SocketAddr,
    /// The slot of the peer that it is steered to; `None`: it is kept, and UDP.
    pub peer: Option<u32>,
}

/// Visits the flows on `identities` in the table, but UDP's that have ended.
pub fn each(
    maps: &Maps,
    identities: &[IpAddr],
    now: Timestamp,
    mut visit: impl FnMut(Entry),
) -> Result<()> {
    let view = maps.flows.view()?;
    for (place, Flow { key, .. }) in view.flows() {
        let identity = IpAddr::from(key.identity);
        if identities.contains(&identity) && !place.has_ended(now.0, false) {
            visit(Entry {
                protocol: key.protocol as u8,
                client: SocketAddr::new(IpAddr::from(key.client), key.client_port),
                identity: SocketAddr::new(identity, key.port),
                peer: (place.peer != NO_PEER).then_some(place.peer.into()),
            });
        }
    }
    Ok(())
}
