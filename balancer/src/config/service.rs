//! A service, and what services of one server must not have in common.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use balancer_common::{types::MAX_SERVICES, wire::TUNNEL_PORT};

use super::{
    Check,
    level::Levels,
    ports::{PortRange, Protocol},
    value::{Name, Value, value},
};

value!(
    AffinityName,
    AgentAddress,
    Capacity,
    CapacityRate,
    FlowCount
);

/// A service that this server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it is called: no two of a server's services have the same name.
    pub name: Name,
    /// Its ports: at least one, and none that another service has.
    pub ports: Vec<PortRange>,
    /// How many open connections mean a load of 100 %.
    pub capacity: NonZeroU32,
    /// How many new connections a second mean a load of 100 %. None: they don't count.
    pub capacity_rate: Option<NonZeroU32>,
    /// What stays together on one server.
    pub affinity: Affinity,
    /// When this server keeps a new flow, and who gets it else.
    pub levels: Levels,
    /// Where a proxy before the cluster can ask how it is.
    pub agent: Option<SocketAddr>,
    /// How it is checked. A service without a check counts as healthy.
    pub check: Option<Check>,
}

impl Service {
    /// Whether `port` is one of its ports.
    pub fn has(&self, protocol: Protocol, port: u16) -> bool {
        self.ports
            .iter()
            .any(|range| range.protocol == protocol && (range.first..=range.last).contains(&port))
    }
}

/// What stays together on one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// The packets of one flow.
    #[default]
    Flow,
    /// All flows of a client's address, until so long after the last new one.
    Client(Duration),
}

impl Affinity {
    /// [`Affinity::Client`] where no time is given.
    pub(super) const DEFAULT_TIME: Duration = Duration::from_mins(10);

    /// For how long a client's flows stay together after its last new one, if they do.
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Flow => None,
            Self::Client(time) => Some(time),
        }
    }
}

/// The name of an [`Affinity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AffinityName {
    Flow,
    Client,
}

impl Value for AffinityName {
    const WANTED: &'static str = "an affinity: write \"flow\" or \"client\"";

    fn read(text: &str) -> Option<Self> {
        match text {
            "flow" => Some(Self::Flow),
            "client" => Some(Self::Client),
            _ => None,
        }
    }
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AgentAddress(pub(super) SocketAddr);

impl Value for AgentAddress {
    const WANTED: &'static str =
        "an address to listen at: write ADDRESS:PORT, as in \"10.0.0.101:9919\" or \"[::]:9919\"";

    fn read(text: &str) -> Option<Self> {
        let address: SocketAddr = text.parse().ok()?;
        (address.port() != 0 && !address.ip().is_multicast()).then_some(Self(address))
    }
}

/// How many flows a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowCount(pub(super) u32);

impl Value for FlowCount {
    const WANTED: &'static str = "a number of flows: write a whole number from 1024 to 67108864";
    const QUOTED: bool = false;

    fn read(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|count| (1 << 10..=1 << 26).contains(count))
            .map(Self)
    }
}

/// Open connections that mean a load of 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity(pub(super) NonZeroU32);

impl Capacity {
    /// With more, one connection would cost too little for the kernel to count (`Service::cost` of the maps).
    const MAX: u32 = 100_000_000;
}

impl Default for Capacity {
    fn default() -> Self {
        const { Self(NonZeroU32::new(1_000).unwrap()) }
    }
}

impl Value for Capacity {
    const WANTED: &'static str = "a capacity: write a whole number from 1 to 100000000, the open connections that mean 100 %";
    const QUOTED: bool = false;

    fn read(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|capacity: &NonZeroU32| capacity.get() <= Self::MAX)
            .map(Self)
    }
}

/// New connections a second that mean a load of 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CapacityRate(pub(super) NonZeroU32);

impl Value for CapacityRate {
    const WANTED: &'static str = "a capacity in new connections: write a whole number from 1 to 100000000, the new connections a second that mean 100 %";
    const QUOTED: bool = false;

    fn read(text: &str) -> Option<Self> {
        Capacity::read(text).map(|Capacity(capacity)| Self(capacity))
    }
}

/// Why services that are each well written don't do.
pub(super) struct Conflict {
    /// Index of the service that is to be changed.
    pub(super) service: usize,
    /// Index among its ports, where the fault is with them.
    pub(super) ports: Option<usize>,
    pub(super) message: String,
}

/// Whether a server can offer all of these services.
pub(super) fn agree(services: &[Service]) -> Result<(), Conflict> {
    for (index, service) in services.iter().enumerate() {
        let conflict = |ports, message| Conflict {
            service: index,
            ports,
            message,
        };
        let (earlier, name) = (&services[..index], &service.name);
        if index >= MAX_SERVICES as usize {
            let message =
                format!("a server can offer {MAX_SERVICES} services: leave out those from here on");
            return Err(conflict(None, message));
        }
        if earlier.iter().any(|other| other.name == *name) {
            let message =
                format!("there already is a service \"{name}\": give this one another name");
            return Err(conflict(None, message));
        }
        for (position, range) in service.ports.iter().enumerate() {
            usable(*range, &service.ports[..position], earlier)
                .map_err(|message| conflict(Some(position), message))?;
        }
    }
    Ok(())
}

/// Whether a service can have these ports after `own`, which it has, and those of `earlier` services.
fn usable(range: PortRange, own: &[PortRange], earlier: &[Service]) -> Result<(), String> {
    if range.protocol == Protocol::Udp && (range.first..=range.last).contains(&TUNNEL_PORT) {
        return Err(format!(
            "\"{range}\": {TUNNEL_PORT}/udp is for balancer's own tunnels between servers: leave it out"
        ));
    }
    if let Some(other) = own.iter().find(|other| other.overlaps(range)) {
        return Err(format!(
            "\"{range}\" overlaps \"{other}\" of the same service: leave one out"
        ));
    }
    for Service { name, ports, .. } in earlier {
        if let Some(other) = ports.iter().find(|other| other.overlaps(range)) {
            return Err(format!(
                "\"{range}\" overlaps \"{other}\" of service \"{name}\": a port is for one service"
            ));
        }
    }
    Ok(())
}
