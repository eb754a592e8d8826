//! Flows that peers tell of when this server gets an identity, and those that it tells them of.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use aya::maps::MapError;
use balancer_common::types::{Address, Flow, FlowKey, KEPT, UDP_FLOW_NS};
use balancer_common::wire::UDP;

use super::maps::Maps;
use crate::cluster::{FlowAt, Timestamp};

/// `BPF_NOEXIST` of `linux/bpf.h`.
const IF_NEW: u64 = 1;

/// Has the packets of a flow sent on to the peer in slot `peer` from now on. One that isn't sure doesn't change what is known.
pub fn enter(
    maps: &mut Maps,
    flow: &FlowAt,
    peer: u32,
    service: u32,
    now: Timestamp,
) -> Result<()> {
    let key = FlowKey {
        client: Address::from(flow.client.ip()),
        identity: Address::from(flow.identity.ip()),
        client_port: flow.client.port(),
        port: flow.identity.port(),
        protocol: flow.protocol.into(),
    };
    let value = Flow {
        last_seen_ns: now.0,
        peer,
        service,
    };
    let flags = if flow.sure { 0 } else { IF_NEW };
    match maps.flows.insert(key, value, flags) {
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
        {
            Ok(())
        }
        entered => entered.context("cannot enter a flow in the map FLOWS"),
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
    for entry in &maps.flows {
        let (key, flow) = entry.context("cannot read the map FLOWS")?;
        let identity = IpAddr::from(key.identity);
        let ended =
            key.protocol == u32::from(UDP) && now.0.saturating_sub(flow.last_seen_ns) > UDP_FLOW_NS;
        if identities.contains(&identity) && !ended {
            visit(Entry {
                protocol: key.protocol as u8,
                client: SocketAddr::new(IpAddr::from(key.client), key.client_port),
                identity: SocketAddr::new(identity, key.port),
                peer: (flow.peer != KEPT).then_some(flow.peer),
            });
        }
    }
    Ok(())
}
