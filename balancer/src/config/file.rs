//! The configuration file: its tables as they are written, and what they mean.

use std::net::SocketAddr;

use serde::Deserialize;
use toml::Spanned;

use crate::cluster::Require;
use crate::datapath::Tables;

use super::{
    Config, Conversation, Exchange, Load, Server, Service, ServiceSpec,
    check::CheckTable,
    error::Problem,
    http::{self, Http, HttpTable},
    level::{Level, Levels, Margin, PolicyName, Weight},
    load_probe::LoadProbeTable,
    ports::PortRange,
    service::{self, Affinity, AffinityName, AgentAddress, Capacity, CapacityRate, FlowCount},
    value::{
        Group, Identity, InterfaceName, Interval, KeyPath, Name, PeerAddress, Span, Value, value,
    },
};

value!(Periods, RequireName);

/// Reads a whole file.
pub(super) fn parse(text: &str) -> Result<Config, Problem> {
    let file: File = toml::from_str(text).map_err(|error| Problem::from_toml(&error, text))?;
    let levels = Levels::default().or(file.levels.overload, file.levels.margin, file.levels.policy);
    let mut config = Config {
        server: file.server.resolve()?,
        levels,
        load: file.load.resolve()?,
        exchange: file.exchange.resolve()?,
        tables: file.tables.resolve(),
        takeover: file
            .takeover
            .require
            .map_or(Require::default(), |RequireName(require)| require),
        services: services(file.service, levels)?,
        http: Vec::new(),
    };
    if config.services.is_empty() {
        config.services = vec![ServiceSpec::default().resolve(levels)];
    }
    config.http = https(file.http, &config.services)?;
    Ok(config)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    server: ServerTable,
    #[serde(default)]
    levels: LevelsTable,
    #[serde(default)]
    load: LoadTable,
    #[serde(default)]
    exchange: ExchangeTable,
    #[serde(default)]
    tables: TablesTable,
    #[serde(default)]
    takeover: TakeoverTable,
    #[serde(default)]
    service: Vec<Spanned<ServiceTable>>,
    #[serde(default)]
    http: Vec<Spanned<HttpTable>>,
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write [server] on a line of its own"
)]
struct ServerTable {
    name: Option<Name>,
    interfaces: Vec<Spanned<InterfaceName>>,
    identities: Vec<Spanned<Identity>>,
}

impl ServerTable {
    fn resolve(self) -> Result<Server, Problem> {
        distinct(&self.identities, |identity| identity.address())?;
        distinct(&self.interfaces, Clone::clone)?;
        Ok(Server {
            name: self.name.unwrap_or_else(Name::of_host),
            interfaces: values(self.interfaces),
            identities: values(self.identities),
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write [levels] on a line of its own"
)]
struct LevelsTable {
    overload: Option<Level>,
    margin: Option<Margin>,
    policy: Option<PolicyName>,
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write [load] on a line of its own"
)]
struct LoadTable {
    cpu: Option<Weight>,
    run_queue: Option<Weight>,
    cpu_pressure: Option<Weight>,
    memory_pressure: Option<Weight>,
    io_pressure: Option<Weight>,
    accept_queue: Option<Weight>,
    probe: Option<Spanned<LoadProbeTable>>,
}

impl LoadTable {
    fn resolve(self) -> Result<Load, Problem> {
        let default = Load::default();
        let or = |weight: Option<Weight>, default| weight.map_or(default, Weight::level);
        Ok(Load {
            cpu: or(self.cpu, default.cpu),
            run_queue: or(self.run_queue, default.run_queue),
            cpu_pressure: or(self.cpu_pressure, default.cpu_pressure),
            memory_pressure: or(self.memory_pressure, default.memory_pressure),
            io_pressure: or(self.io_pressure, default.io_pressure),
            accept_queue: or(self.accept_queue, default.accept_queue),
            probe: self.probe.map(LoadProbeTable::resolve).transpose()?,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write [exchange] on a line of its own"
)]
struct ExchangeTable {
    group: Option<Group>,
    peers: Option<Spanned<Vec<Spanned<PeerAddress>>>>,
    period: Option<Interval>,
    timeout_periods: Option<Periods>,
    keys: Option<Spanned<Vec<Spanned<KeyPath>>>>,
    interface: Option<InterfaceName>,
}

impl ExchangeTable {
    fn resolve(self) -> Result<Exchange, Problem> {
        let mut exchange = Exchange {
            interface: self.interface,
            ..Exchange::default()
        };
        match (self.group, self.peers) {
            (Some(_), Some(peers)) => {
                let message =
                    "peers are reached through a group or one by one: write either group or peers";
                return Err(Problem::new(peers.span(), message));
            }
            (Some(Group(group)), None) => exchange.conversation = Conversation::Group(group),
            (None, Some(peers)) => exchange.conversation = Conversation::Peers(self::peers(peers)?),
            (None, None) => {}
        }
        if let Some(period) = self.period {
            exchange.period = period.duration();
        }
        if let Some(Periods(periods)) = self.timeout_periods {
            exchange.timeout_periods = periods;
        }
        if let Some(keys) = self.keys {
            let keys = filled(keys, "\"/etc/balancer/cluster.key\"")?;
            distinct(&keys, |KeyPath(path)| path.clone())?;
            exchange.keys = keys.into_iter().map(|key| key.into_inner().0).collect();
        }
        Ok(exchange)
    }
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write [tables] on a line of its own"
)]
struct TablesTable {
    flows: Option<FlowCount>,
}

impl TablesTable {
    fn resolve(self) -> Tables {
        let default = Tables::default();
        Tables {
            flows: self.flows.map_or(default.flows, |count| count.0),
        }
    }
}

struct Periods(u32);

impl Value for Periods {
    const WANTED: &'static str = "a time-out in periods: write a whole number from 2 to 100";
    const QUOTED: bool = false;

    fn read(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|periods| (2..=100).contains(periods))
            .map(Self)
    }
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write [takeover] on a line of its own"
)]
struct TakeoverTable {
    require: Option<RequireName>,
}

struct RequireName(Require);

impl Value for RequireName {
    const WANTED: &'static str = "what a takeover requires: write any, majority or never";

    fn read(text: &str) -> Option<Self> {
        let mut all = Require::ALL.into_iter();
        all.find(|require| require.name() == text).map(Self)
    }
}

/// `peers = [...]`. All use one port: it's the one that this server listens on too.
fn peers(list: Spanned<Vec<Spanned<PeerAddress>>>) -> Result<Vec<SocketAddr>, Problem> {
    let list = filled(list, "\"10.0.1.2:9918\"")?;
    distinct(&list, |PeerAddress(peer)| *peer)?;
    let port = |peer: &Spanned<PeerAddress>| peer.get_ref().0.port();
    if let Some(odd) = list.iter().find(|peer| port(peer) != port(&list[0])) {
        let message = format!(
            "all peers use one port: write port {}, as with the first peer",
            port(&list[0])
        );
        return Err(Problem::new(odd.span(), message));
    }
    Ok(list.into_iter().map(|peer| peer.into_inner().0).collect())
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: write [[service]] on a line of its own"
)]
struct ServiceTable {
    name: Option<Spanned<Name>>,
    ports: Option<Spanned<Vec<Spanned<PortRange>>>>,
    capacity: Option<Capacity>,
    capacity_rate: Option<CapacityRate>,
    affinity: Option<AffinityName>,
    affinity_time: Option<Spanned<Span>>,
    overload: Option<Level>,
    margin: Option<Margin>,
    policy: Option<PolicyName>,
    agent: Option<AgentAddress>,
    check: Option<Spanned<CheckTable>>,
}

fn services(tables: Vec<Spanned<ServiceTable>>, levels: Levels) -> Result<Vec<Service>, Problem> {
    let mut places = Vec::with_capacity(tables.len());
    let mut services = Vec::with_capacity(tables.len());
    for table in tables {
        let header = table.span();
        let table = table.into_inner();
        let Some(name) = table.name else {
            return Err(Problem::new(
                header,
                "this service has no name: add one, as in name = \"www\"",
            ));
        };
        let Some(ports) = table.ports else {
            return Err(Problem::new(
                header,
                "this service has no ports: add some, as in ports = [\"80/tcp\"]",
            ));
        };
        let affinity = affinity(table.affinity, table.affinity_time)?;
        let ports = filled(ports, "\"80/tcp\"")?;
        places.push((
            name.span(),
            ports.iter().map(Spanned::span).collect::<Vec<_>>(),
        ));
        services.push(Service {
            name: name.into_inner(),
            ports: values(ports),
            capacity: table.capacity.unwrap_or_default().0,
            capacity_rate: table.capacity_rate.map(|CapacityRate(rate)| rate),
            affinity,
            levels: levels.or(table.overload, table.margin, table.policy),
            agent: table.agent.map(|AgentAddress(address)| address),
            check: table.check.map(CheckTable::resolve).transpose()?,
        });
    }
    service::agree(&services).map_err(|conflict| {
        let (name, ports) = &places[conflict.service];
        let place = conflict.ports.map_or(name, |index| &ports[index]);
        Problem::new(place.clone(), conflict.message)
    })?;
    Ok(services)
}

fn affinity(name: Option<AffinityName>, time: Option<Spanned<Span>>) -> Result<Affinity, Problem> {
    match (name, time) {
        (Some(AffinityName::Client), time) => Ok(Affinity::Client(
            time.map_or(Affinity::DEFAULT_TIME, |time| time.into_inner().0),
        )),
        (_, Some(time)) => {
            let message =
                "affinity_time goes with affinity = \"client\": write that, or leave this out";
            Err(Problem::new(time.span(), message))
        }
        (_, None) => Ok(Affinity::Flow),
    }
}

fn https(tables: Vec<Spanned<HttpTable>>, services: &[Service]) -> Result<Vec<Http>, Problem> {
    let places: Vec<_> = tables.iter().map(Spanned::span).collect();
    let https = tables
        .into_iter()
        .map(|table| HttpTable::resolve(table, services))
        .collect::<Result<Vec<_>, _>>()?;
    http::agree(&https, services)
        .map_err(|(index, message)| Problem::new(places[index].clone(), message))?;
    Ok(https)
}

/// The list, if it isn't empty.
pub(super) fn filled<T>(list: Spanned<Vec<T>>, example: &str) -> Result<Vec<T>, Problem> {
    if list.get_ref().is_empty() {
        let message = format!(
            "this list is empty: write at least one, as in [{example}], or leave the line out"
        );
        return Err(Problem::new(list.span(), message));
    }
    Ok(list.into_inner())
}

/// That no two of `list` have the same key.
pub(super) fn distinct<T, K: PartialEq>(
    list: &[Spanned<T>],
    key: impl Fn(&T) -> K,
) -> Result<(), Problem> {
    match super::repeated(list.iter().map(|item| key(item.get_ref()))) {
        None => Ok(()),
        Some(index) => Err(Problem::new(list[index].span(), super::GIVEN_TWICE)),
    }
}

pub(super) fn values<T>(list: Vec<Spanned<T>>) -> Vec<T> {
    list.into_iter().map(Spanned::into_inner).collect()
}
