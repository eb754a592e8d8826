//! The peers' part of the maps, kept in step with their reports.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData};
use balancer_common::types::{
    ASSUMED, Address, ClientKey, FOREIGN, HELD, Identity, LastFlow, MAX_PEERS, Mac, OFFERED,
    PEER_ALIVE, PEER_DEAD, PEER_NONE, Peer, PeerLoad, READY, SERVER,
};
use ipnet::IpNet;

use super::host::Route;
use super::interface::Interface;
use super::maps::Maps;
use super::own;
use super::way::{Way, endpoints, shared_link};
use crate::cluster::{PortRange, Report, ServerId, ServiceReport, Status, Timestamp};
use crate::config::Service;

/// An identity of the cluster, as far as this server believes what it is told.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The address.
    pub address: IpAddr,
    /// The server that it belongs to.
    pub home: ServerId,
    /// Who has it; nobody for a moment.
    pub holder: Option<ServerId>,
}

/// Which peer has which slot of `PEERS`, and what the peers said.
pub struct PeerTable {
    /// The identities that this server holds, and the indices of the interfaces that have them.
    own: BTreeMap<IpAddr, u32>,
    /// The same of the identities that it has taken over.
    assumed: BTreeMap<IpAddr, u32>,
    interfaces: Vec<Interface>,
    services: Vec<Service>,
    slots: BTreeMap<ServerId, u32>,
    /// Identities that a predecessor knew, of peers that have not reported since.
    adopted: BTreeMap<IpAddr, ServerId>,
    /// Ethernet addresses of the same.
    adopted_macs: BTreeMap<[u8; 6], ServerId>,
    reports: BTreeMap<ServerId, Report>,
    /// Which peers have identities, or had them last.
    holders: BTreeMap<IpAddr, ServerId>,
    /// Of peers on other links: the next hop to each.
    routes: BTreeMap<ServerId, Route>,
    /// Peers that are dead, or said goodbye.
    gone: BTreeSet<ServerId>,
}

impl PeerTable {
    /// The table as a predecessor left it in the maps: flows that are steered now keep their peers.
    pub fn adopt(
        maps: &mut Maps,
        own: BTreeMap<IpAddr, u32>,
        interfaces: Vec<Interface>,
        services: Vec<Service>,
    ) -> Result<Self> {
        let mut slots = BTreeMap::new();
        for slot in 0..MAX_PEERS {
            let peer = maps
                .peers
                .get(&slot, 0)
                .context("cannot read the map PEERS")?;
            if peer.state != PEER_NONE {
                slots.insert(ServerId(peer.id), slot);
            }
        }
        let mut adopted = BTreeMap::new();
        for entry in &maps.identities {
            let (address, identity) = entry.context("cannot read the map IDENTITIES")?;
            let holder = slots.iter().find(|(_, slot)| **slot == identity.owner);
            if let (FOREIGN, Some((id, _))) = (identity.kind, holder) {
                adopted.insert(IpAddr::from(address), *id);
            }
        }
        let mut adopted_macs = BTreeMap::new();
        for entry in &maps.peer_macs {
            let (mac, slot) = entry.context("cannot read the map PEER_MACS")?;
            if let Some((id, _)) = slots.iter().find(|(_, taken)| **taken == slot) {
                adopted_macs.insert(mac.octets, *id);
            }
        }
        let table = Self {
            own,
            assumed: BTreeMap::new(),
            interfaces,
            services,
            slots,
            adopted,
            adopted_macs,
            reports: BTreeMap::new(),
            holders: BTreeMap::new(),
            routes: BTreeMap::new(),
            gone: BTreeSet::new(),
        };
        own::set_identities(maps, &table.identities())?;
        Ok(table)
    }

    /// Peers of a predecessor's that have not reported since, each with one of its identities on a link of ours.
    ///
    /// Of a peer without one nothing can be found out: its flows go on.
    pub fn unheard(&self) -> Vec<(ServerId, IpAddr)> {
        self.slots
            .keys()
            .filter(|id| !self.reports.contains_key(id))
            .filter_map(|id| {
                let on_link = |address: &IpAddr| {
                    self.interfaces.iter().any(|interface| {
                        interface.addresses.iter().any(|net| net.contains(address))
                    })
                };
                let mut identities = self.adopted.iter().filter(|(_, holder)| *holder == id);
                identities
                    .find(|(address, _)| on_link(address))
                    .map(|(address, _)| (*id, *address))
            })
            .collect()
    }

    /// Whether packets can be sent on to the peer.
    pub fn is_in_reach(&self, report: &Report) -> bool {
        self.way_to(report).is_some()
    }

    /// Peers on other links, each with the address that its tunnel leads to.
    pub fn remote(&self) -> Vec<(ServerId, IpAddr)> {
        let remote = |report: &&Report| shared_link(&self.interfaces, report).is_none();
        self.reports
            .values()
            .filter(remote)
            .filter_map(|report| Some((report.server, self.tunnel_to(report)?.1)))
            .collect()
    }

    /// Enters the route to a peer on another link. `true`: it differs from what was known.
    pub fn set_route(&mut self, maps: &mut Maps, id: ServerId, route: Route) -> Result<bool> {
        if self.routes.insert(id, route) == Some(route) {
            return Ok(false);
        }
        if let Some(slot) = self.slot(id) {
            let mut peer = maps.peers.get(&slot, 0)?;
            self.set_state(&mut peer, id);
            maps.peers
                .set(slot, peer, 0)
                .context("cannot write the map PEERS")?;
        }
        Ok(true)
    }

    /// One more than the highest slot in use.
    pub fn count(&self) -> u32 {
        self.slots.values().max().map_or(0, |slot| slot + 1)
    }

    /// The peer's slot.
    pub fn slot(&self, id: ServerId) -> Option<u32> {
        self.slots.get(&id).copied()
    }

    /// Addresses that peers hold: this server takes packets for them, too.
    pub fn foreign(&self) -> BTreeSet<IpAddr> {
        let holders = self.holders.iter();
        let theirs = holders.filter(|(_, holder)| self.slots.contains_key(holder));
        self.adopted
            .keys()
            .chain(theirs.map(|(address, _)| address))
            .copied()
            .filter(|address| {
                !self.own.contains_key(address)
                    && !self.assumed.contains_key(address)
                    && self.has_family_of(*address)
            })
            .collect()
    }

    /// How many identities this server has taken over.
    pub fn assumed(&self) -> u32 {
        self.assumed.len() as u32
    }

    /// Makes `known` the identities of the cluster. `true`: peers have others than before.
    pub fn set_known(
        &mut self,
        maps: &mut Maps,
        known: impl Iterator<Item = Known>,
    ) -> Result<bool> {
        if !self.know(known) {
            return Ok(false);
        }
        own::set_identities(maps, &self.identities())?;
        Ok(true)
    }

    fn know(&mut self, known: impl Iterator<Item = Known>) -> bool {
        let owner = |one: Known| {
            // What nobody has for a moment stays on this host: connections to it may be open here.
            let last = self.holders.get(&one.address).copied();
            let owners = [one.holder, last, Some(one.home)].into_iter().flatten();
            let owner = owners.into_iter().find(|id| self.slots.contains_key(id))?;
            Some((one.address, owner))
        };
        let holders = known.filter_map(owner).collect();
        let moved = self.holders != holders;
        self.holders = holders;
        moved
    }

    /// Makes `assumed` the identities that this server has taken over, with the indices of the interfaces that have them.
    pub fn set_assumed(&mut self, maps: &mut Maps, assumed: BTreeMap<IpAddr, u32>) -> Result<()> {
        self.assumed = assumed;
        own::set_identities(maps, &self.identities())
    }

    /// An interface of this server's has another Ethernet address: what is steered is sent with it.
    pub fn set_own_mac(&mut self, maps: &mut Maps, interface: u32, mac: [u8; 6]) -> Result<()> {
        for own in &mut self.interfaces {
            if own.index == interface {
                own.mac = mac;
            }
        }
        for (id, slot) in &self.slots {
            let mut peer = maps.peers.get(slot, 0)?;
            self.set_state(&mut peer, *id);
            maps.peers
                .set(*slot, peer, 0)
                .context("cannot write the map PEERS")?;
        }
        Ok(())
    }

    /// Enters what a peer reported at `heard`; without another report within `timeout` it gets no new flows. `known` are the identities of
    /// the cluster after it. `true`: identities or addresses have changed.
    pub fn update(
        &mut self,
        maps: &mut Maps,
        report: &Report,
        heard: Timestamp,
        timeout: Duration,
        known: impl Iterator<Item = Known>,
    ) -> Result<bool> {
        let id = report.server;
        let Some(slot) = self.slot(id).or_else(|| self.free_slot()) else {
            log::warn!("no room for peer {}: {MAX_PEERS} are known", report.name);
            return Ok(false);
        };
        let before = self.slots.insert(id, slot).is_some();
        let previous = self.reports.insert(id, report.clone());
        self.drop_adopted(id);
        let moved = previous.as_ref().is_none_or(|previous| {
            previous.links != report.links || previous.identities != report.identities
        });
        // What goes by the slot is set before the slot comes into use.
        self.set_loads(maps, slot, report)?;
        if moved {
            self.set_macs(maps)?;
            self.know(known);
            own::set_identities(maps, &self.identities())?;
        }
        if previous.is_none_or(|previous| !same_capacities(&previous.services, &report.services)) {
            self.set_weights(maps)?;
        }
        self.set_gone(id, report.leaving);
        let mut peer = if before {
            maps.peers.get(&slot, 0)?
        } else {
            Peer::default()
        };
        peer.id = id.0;
        peer.families = families(report);
        peer.last_report_ns = heard.0;
        peer.timeout_ns = timeout.as_nanos() as u64;
        self.set_state(&mut peer, id);
        maps.peers
            .set(slot, peer, 0)
            .context("cannot write the map PEERS")?;
        Ok(moved)
    }

    /// Enters what is thought of a peer. Its flows go on as long as its host lives.
    pub fn set_status(&mut self, maps: &mut Maps, id: ServerId, status: Status) -> Result<()> {
        let Some(slot) = self.slot(id) else {
            return Ok(());
        };
        self.set_gone(id, !status.is_alive());
        let mut peer = maps.peers.get(&slot, 0)?;
        self.set_state(&mut peer, id);
        if status == Status::Silent {
            // However long the time-out may be set to: no new flows.
            peer.last_report_ns = 0;
        }
        maps.peers
            .set(slot, peer, 0)
            .context("cannot write the map PEERS")
    }

    /// Forgets a peer. Its slot may be another's from now on.
    pub fn forget(&mut self, maps: &mut Maps, id: ServerId) -> Result<()> {
        self.reports.remove(&id);
        self.routes.remove(&id);
        self.gone.remove(&id);
        self.drop_adopted(id);
        if let Some(slot) = self.slots.remove(&id) {
            maps.peers.set(slot, Peer::default(), 0)?;
            maps.reset_peer_counters(slot)?;
            // Flows are steered by slot: none may be left for whoever gets it next.
            let flows = maps.flows.view()?;
            flows.forget(|flow| u32::from(flow.peer) == slot);
            drop_clients_of(&mut maps.clients, slot);
        }
        self.set_macs(maps)?;
        own::set_identities(maps, &self.identities())
    }

    /// Whether this server could answer clients of such an address: a host without IPv6 may refuse to take any.
    fn has_family_of(&self, address: IpAddr) -> bool {
        let interfaces = self.interfaces.iter().flat_map(Interface::ips);
        self.own
            .keys()
            .copied()
            .chain(interfaces)
            .any(|own| own.is_ipv6() == address.is_ipv6())
    }

    /// What a predecessor knew of the peer is no longer needed.
    fn drop_adopted(&mut self, id: ServerId) {
        self.adopted.retain(|_, holder| *holder != id);
        self.adopted_macs.retain(|_, owner| *owner != id);
    }

    fn free_slot(&self) -> Option<u32> {
        let used: BTreeSet<u32> = self.slots.values().copied().collect();
        (0..MAX_PEERS).find(|slot| !used.contains(slot))
    }

    fn way_to(&self, report: &Report) -> Option<Way> {
        if let Some((interface, link)) = shared_link(&self.interfaces, report) {
            return Some(Way::on_link(interface, link));
        }
        let (from, to) = self.tunnel_to(report)?;
        let route = self.routes.get(&report.server)?;
        let interface = self
            .interfaces
            .iter()
            .find(|own| own.index == route.interface)?;
        Some(Way::tunnel(interface, *route, from, to))
    }

    /// A peer that nothing can be sent to counts as dead, until there is a way to it.
    fn set_state(&self, peer: &mut Peer, id: ServerId) {
        let report = self.reports.get(&id);
        let way = report.and_then(|report| self.way_to(report));
        if let Some(way) = way {
            way.enter(peer);
        }
        peer.state = if self.gone.contains(&id) || (report.is_some() && way.is_none()) {
            PEER_DEAD
        } else {
            PEER_ALIVE
        };
    }

    fn set_gone(&mut self, id: ServerId, gone: bool) {
        if gone {
            self.gone.insert(id);
        } else {
            self.gone.remove(&id);
        }
    }

    /// Both ends of a tunnel to the peer, over IPv4 if that can be.
    fn tunnel_to(&self, report: &Report) -> Option<(IpAddr, IpAddr)> {
        let theirs = endpoints(
            report.links.iter().flat_map(|link| &link.addresses),
            report.held().map(|identity| identity.addr()),
        );
        let pairs = self.endpoints().into_iter().zip(theirs);
        pairs
            .into_iter()
            .find_map(|(ours, theirs)| Some((ours?, theirs?)))
    }

    /// This server's ends of tunnels, over IPv4 and over IPv6.
    pub fn endpoints(&self) -> [Option<IpAddr>; 2] {
        endpoints(
            self.interfaces
                .iter()
                .flat_map(|interface| &interface.addresses),
            self.own.keys().copied(),
        )
    }

    fn set_loads(&self, maps: &mut Maps, slot: u32, report: &Report) -> Result<()> {
        for (index, service) in (0..).zip(&self.services) {
            let load = match offered(service, report) {
                None => PeerLoad::default(),
                Some(theirs) => PeerLoad {
                    load: theirs.load,
                    cost: theirs.cost,
                    sent: 0,
                    weight: maps.load(slot, index)?.weight,
                    flags: if theirs.healthy && !report.draining {
                        OFFERED | READY
                    } else {
                        OFFERED
                    },
                    padding: 0,
                },
            };
            maps.set_load(slot, index, load)
                .context("cannot write the map LOADS")?;
        }
        Ok(())
    }

    fn set_weights(&self, maps: &mut Maps) -> Result<()> {
        for (index, service) in (0..).zip(&self.services) {
            let capacities: Vec<(u32, u32)> = self
                .reports
                .iter()
                .filter_map(|(id, report)| {
                    Some((self.slot(*id)?, offered(service, report)?.capacity))
                })
                .collect();
            let largest = capacities
                .iter()
                .map(|(_, capacity)| *capacity)
                .max()
                .unwrap_or(1)
                .max(1);
            for (slot, capacity) in capacities {
                let weight = u64::from(capacity) * 65_535 / u64::from(largest);
                let load = PeerLoad {
                    weight: weight as u32,
                    ..maps.load(slot, index)?
                };
                maps.set_load(slot, index, load)
                    .context("cannot write the map LOADS")?;
            }
        }
        Ok(())
    }

    fn set_macs(&self, maps: &mut Maps) -> Result<()> {
        let reported = self
            .reports
            .iter()
            .flat_map(|(id, report)| report.links.iter().map(move |link| (link.mac, *id)));
        let adopted = self.adopted_macs.iter().map(|(mac, id)| (*mac, *id));
        let wanted: BTreeMap<[u8; 6], u32> = adopted
            .chain(reported)
            .filter_map(|(mac, id)| Some((mac, self.slot(id)?)))
            .collect();
        let present: Vec<Mac> = maps.peer_macs.keys().collect::<Result<_, _>>()?;
        for mac in present {
            if !wanted.contains_key(&mac.octets) {
                maps.peer_macs.remove(&mac)?;
            }
        }
        for (octets, slot) in wanted {
            maps.peer_macs
                .insert(Mac::new(octets), slot, 0)
                .context("cannot write the map PEER_MACS")?;
        }
        Ok(())
    }

    /// All addresses of the cluster: the identities, and the servers' own.
    fn identities(&self) -> BTreeMap<IpAddr, Identity> {
        let mut all = BTreeMap::new();
        let mut enter = |addresses: &mut dyn Iterator<Item = IpAddr>, kind, owner| {
            let identity = Identity {
                kind,
                owner,
                ..Identity::default()
            };
            all.extend(addresses.map(|address| (address, identity)));
        };
        for (id, report) in &self.reports {
            let Some(peer) = self.slot(*id) else { continue };
            let addresses = report.links.iter().flat_map(|link| &link.addresses);
            enter(&mut addresses.map(IpNet::addr), SERVER, peer);
        }
        for (address, id) in &self.adopted {
            let Some(peer) = self.slot(*id) else { continue };
            enter(&mut iter::once(*address), FOREIGN, peer);
        }
        for (address, id) in &self.holders {
            let Some(peer) = self.slot(*id) else { continue };
            enter(&mut iter::once(*address), FOREIGN, peer);
        }
        for (kind, held) in [(ASSUMED, &self.assumed), (HELD, &self.own)] {
            for (address, interface) in held {
                enter(&mut iter::once(*address), kind, *interface);
            }
        }
        all
    }
}

fn drop_clients_of(clients: &mut HashMap<MapData, ClientKey, LastFlow>, slot: u32) {
    let gone: Vec<_> = clients
        .iter()
        .filter_map(Result::ok)
        .filter(|(_, last)| last.peer == slot)
        .map(|(key, _)| key)
        .collect();
    for key in gone {
        // The program may have evicted it meanwhile.
        let _ = clients.remove(&key);
    }
}

/// The peer's service that has all the ports of `service`: only there is every flow of it at home.
pub fn offered<'a>(service: &Service, report: &'a Report) -> Option<&'a ServiceReport> {
    let covers = |theirs: &PortRange, ours: &PortRange| {
        theirs.protocol == ours.protocol && theirs.first <= ours.first && ours.last <= theirs.last
    };
    report.services.iter().find(|theirs| {
        service.ports.iter().all(|ours| {
            let ours = PortRange::from(*ours);
            theirs.ports.iter().any(|range| covers(range, &ours))
        })
    })
}

/// The address families that a server can answer clients in: those it has addresses of.
fn families(report: &Report) -> u8 {
    let links = report.links.iter().flat_map(|link| &link.addresses);
    links
        .copied()
        .chain(report.held())
        .fold(0, |families, net| {
            families | Address::from(net.addr()).family()
        })
}

fn same_capacities(a: &[ServiceReport], b: &[ServiceReport]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.capacity == b.capacity && a.ports == b.ports)
}
