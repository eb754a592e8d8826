//! This server's own part of the maps: settings, services, ports, identities, the last sample of its load.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::MapError;
use balancer_common::types::{
    Address, Identity, MAX_INTERFACES, Mac, Port, Service, Settings, cost_of,
};

use super::interface::Interface;
use super::maps::Maps;
use super::netns;
use crate::cluster::Timestamp;
use crate::config::{self, Protocol};

/// An overload level that no load is above.
pub const NEVER: u32 = u32::MAX;

/// What changes about a service while the daemon runs. See [`Service`] for the meanings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// Last sample of this server's load, in basis points.
    pub sample: u32,
    /// Healthy, and not draining.
    pub ready: bool,
    /// Its requests are routed one by one: while it is ready, no load makes its connections go elsewhere.
    pub routed: bool,
    /// Open connections that the kernel's count lacks (wrapped if it has too many).
    pub uncounted: u64,
    /// First packets given up.
    pub given_up: u64,
}

/// The settings to go by, with the secret that a predecessor chose, or a new one.
pub fn settings(maps: &Maps, peers: u32, interfaces: &[Interface]) -> Result<Settings> {
    let before = maps
        .settings
        .get(&0, 0)
        .context("cannot read the map SETTINGS")?;
    let seed = match before.seed {
        0 => getrandom::u64().context("the kernel gives no random number")?,
        seed => seed,
    };
    Ok(Settings {
        netns_cookie: netns::cookie()?,
        seed,
        peers,
        macs: macs(interfaces.iter().map(|interface| interface.mac)),
        flows_mask: maps.flows.mask(),
        ..before
    })
}

/// The Ethernet addresses of this server's interfaces, as the settings have them.
pub fn macs(of_interfaces: impl Iterator<Item = [u8; 6]>) -> [u64; MAX_INTERFACES] {
    let mut macs = [0; MAX_INTERFACES];
    for (mac, octets) in macs.iter_mut().zip(of_interfaces) {
        *mac = Mac::new(octets).number();
    }
    macs
}

/// Sets which service has which port.
pub fn set_ports(maps: &mut Maps, services: &[config::Service]) -> Result<()> {
    for number in 0..=u16::MAX {
        let port = port(services, number);
        // What is right is left alone: a predecessor's programs go by this map at this moment.
        if maps.ports.get(&u32::from(number), 0)? != port {
            maps.ports.set(u32::from(number), port, 0)?;
        }
    }
    Ok(())
}

/// Sets one service's levels and state. Returns its entry.
pub fn set_service(
    maps: &mut Maps,
    index: u32,
    service: &config::Service,
    state: ServiceState,
) -> Result<Service> {
    let value = Service {
        uncounted: state.uncounted,
        given_up: state.given_up,
        cost: cost_of(service.capacity.get()),
        sample: state.sample,
        overload: if state.routed {
            NEVER
        } else {
            service.levels.overload.basis_points()
        },
        margin: service.levels.margin.basis_points(),
        policy: service.levels.policy as u32,
        ready: u32::from(state.ready),
        affinity_ns: service
            .affinity
            .time()
            .map_or(0, |time| time.as_nanos() as u64),
    };
    maps.services
        .set(index, value, 0)
        .context("cannot write the map SERVICES")?;
    Ok(value)
}

/// Makes the identities that this server holds, and the addresses of its peers, the ones in the map. A grace goes on.
pub fn set_identities(maps: &mut Maps, wanted: &BTreeMap<IpAddr, Identity>) -> Result<()> {
    let present: Vec<Address> = maps.identities.keys().collect::<Result<_, _>>()?;
    for address in present {
        if !wanted.contains_key(&IpAddr::from(address)) {
            maps.identities.remove(&address)?;
        }
    }
    for (&address, &identity) in wanted {
        let grace_until_ns = before(maps, address)?.map_or(0, |before| before.grace_until_ns);
        let identity = Identity {
            grace_until_ns,
            ..identity
        };
        enter(maps, address, identity)?;
    }
    Ok(())
}

/// Until when packets of unknown flows on an identity are dropped, as long as `SETTINGS` says so as well.
pub fn set_grace(maps: &mut Maps, address: IpAddr, until: Timestamp) -> Result<()> {
    let Some(identity) = before(maps, address)? else {
        return Ok(());
    };
    let identity = Identity {
        grace_until_ns: until.0,
        ..identity
    };
    enter(maps, address, identity)
}

fn before(maps: &Maps, address: IpAddr) -> Result<Option<Identity>> {
    match maps.identities.get(&Address::from(address), 0) {
        Ok(identity) => Ok(Some(identity)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error).context("cannot read the map IDENTITIES"),
    }
}

fn enter(maps: &mut Maps, address: IpAddr, identity: Identity) -> Result<()> {
    maps.identities
        .insert(Address::from(address), identity, 0)
        .with_context(|| format!("cannot enter {address} in the map IDENTITIES"))
}

fn port(services: &[config::Service], number: u16) -> Port {
    let service_of = |protocol| {
        services
            .iter()
            .position(|service| service.has(protocol, number))
            .map_or(0, |index| index as u8 + 1)
    };
    Port {
        tcp: service_of(Protocol::Tcp),
        udp: service_of(Protocol::Udp),
    }
}
