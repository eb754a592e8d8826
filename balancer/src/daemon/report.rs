//! What the daemon tells of itself.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::process;

use anyhow::Result;
use balancer_common::types::{self, load_of};

use super::prepare::Prepared;
use super::running::Running;
use super::services::ServiceLife;
use super::takeover::server_name;
use crate::cluster;
use crate::control::status::{
    Holder, Interface, LoadPart, Peer, PeerService, Service, Status, Way,
};
use crate::exchange::clock;
use crate::load::Part;

/// How everything is at this moment.
pub fn status(running: &Running, prepared: &Prepared) -> Result<Status> {
    let options = &prepared.options;
    let maps = &running.datapath.maps;
    let timing = prepared.exchange.cluster().timing();
    Ok(Status {
        name: options.config.server.name.to_string(),
        id: prepared.id.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: process::id(),
        uptime_ms: clock::monotonic().since(running.started).as_millis() as u64,
        pin_dir: options.pin_dir.display().to_string(),
        period_ms: timing.period.as_millis() as u64,
        timeout_ms: timing.timeout().as_millis() as u64,
        drain: running.drain_status(prepared)?,
        interfaces: running
            .interfaces
            .iter()
            .map(|(interface, mode)| Interface {
                name: interface.name.clone(),
                mode: *mode,
            })
            .collect(),
        identities: prepared
            .identities
            .iter()
            .map(ipnet::IpNet::addr)
            .chain(prepared.assumed.keys().copied())
            .collect(),
        load_parts: running
            .services
            .load_parts()
            .iter()
            .map(load_part)
            .collect(),
        sampling_us: running.services.sampling().as_micros() as u64,
        holders: prepared
            .exchange
            .cluster()
            .identities()
            .map(|identity| holder(prepared, identity))
            .collect(),
        changes: running.history.report(clock::monotonic()),
        services: (0..)
            .zip(running.services.iter())
            .map(|(index, life)| service(running, prepared, index, life))
            .collect::<Result<_>>()?,
        peers: prepared
            .exchange
            .cluster()
            .peers()
            .map(|known| peer(running, prepared, known))
            .collect::<Result<_>>()?,
        packets: named(maps.counters(None)?.named()),
        exchange: named(prepared.exchange.counters().named()),
        warnings: running.warnings.texts().map(str::to_owned).collect(),
    })
}

fn load_part(part: &Part) -> LoadPart {
    LoadPart {
        name: part.name.to_owned(),
        measured: part.measured,
        weight: part.weight,
        load: part.load(),
    }
}

fn holder(prepared: &Prepared, identity: &cluster::Identity) -> Holder {
    Holder {
        address: identity.address.addr(),
        home: server_name(prepared, identity.home),
        holder: identity.holder.map(|id| server_name(prepared, id)),
        term: identity.term,
        for_ms: clock::monotonic().since(identity.since).as_millis() as u64,
        reason: identity.reason,
    }
}

fn service(
    running: &Running,
    prepared: &Prepared,
    index: u32,
    life: &ServiceLife,
) -> Result<Service> {
    let maps = &running.datapath.maps;
    let sheet = maps.services.get(&index, 0)?;
    let connections = maps.connections.get(&index, 0)?;
    let (open, pending) = (connections.opened(&sheet), connections.pending(&sheet));
    let config = &life.config;
    Ok(Service {
        name: config.name.to_string(),
        ports: config.ports.iter().map(ToString::to_string).collect(),
        capacity: config.capacity.get(),
        capacity_rate: config.capacity_rate.map(NonZeroU32::get),
        load: connections.load(&sheet),
        load_connections: load_of(open + pending, sheet.cost),
        load_accept_queue: life.accept_queue,
        load_rate: life.rate_load(),
        load_host: running
            .services
            .load_parts()
            .iter()
            .map(Part::load)
            .max()
            .unwrap_or(0),
        connections: open,
        pending,
        connections_per_second: life.rate.per_second(),
        healthy: life.healthy,
        health: life.health.clone(),
        overload: config.levels.overload.basis_points(),
        routed: life.routed,
        margin: sheet.margin,
        policy: config.levels.policy.name().to_owned(),
        requests: named(prepared.http.tally(&config.name)),
        packets: named(maps.counters(Some(index))?.named()),
    })
}

fn peer(running: &Running, prepared: &Prepared, peer: &cluster::Peer) -> Result<Peer> {
    let maps = &running.datapath.maps;
    let report = &peer.report;
    let slot = running.table.slot(report.server);
    let sent = slot
        .map(|slot| maps.peer_counters(slot))
        .transpose()?
        .unwrap_or_default();
    let entry = slot.map(|slot| maps.peers.get(&slot, 0)).transpose()?;
    Ok(Peer {
        name: report.name.clone(),
        id: report.server.to_string(),
        status: peer.status,
        draining: report.draining,
        address: peer.from.ip(),
        way: entry.filter(|_| running.table.is_in_reach(report)).map(way),
        age_ms: clock::monotonic().since(peer.heard).as_millis() as u64,
        period_ms: report.period_ms.into(),
        identities: report.held().map(|identity| identity.addr()).collect(),
        holders: prepared
            .exchange
            .cluster()
            .identities()
            .filter(|identity| {
                [Some(identity.home), identity.holder].contains(&Some(report.server))
            })
            .map(|identity| holder(prepared, identity))
            .collect(),
        services: report
            .services
            .iter()
            .map(|service| PeerService {
                name: service.name.clone(),
                load: service.load,
                capacity: service.capacity,
                healthy: service.healthy,
            })
            .collect(),
        flows: sent.flows,
        packets: sent.packets,
    })
}

fn way(entry: types::Peer) -> Way {
    Way {
        mac: entry.mac.map(|octet| format!("{octet:02x}")).join(":"),
        tunnel: (entry.tunnel != 0).then(|| entry.tunnel_to.into()),
        mtu: entry.mtu,
    }
}

fn named(counters: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    counters
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
