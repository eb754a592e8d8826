//! The configuration: what the file and the flags say, checked, and in types that hold nothing invalid.
//!
//! `value`, `target`, `level`, `ports`, `check`, `service` and `http` have the parts with their texts, `file` the layout of the TOML
//! file, `spec` that of `--service`.

mod check;
mod error;
mod file;
mod http;
mod level;
mod load_probe;
mod ports;
mod service;
mod setting;
mod source;
mod spec;
mod target;
mod value;

#[cfg(test)]
mod tests;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::cluster::{Require, Timing};
use crate::datapath::Tables;

pub use self::{
    check::{Check, CheckKind, CommandLine, Step},
    error::ConfigError,
    http::{
        Backend, Certificate, HostPattern, Http, Limits, PathPattern, ProxyProtocol, Rule,
        RuleName, RuleRoute, Stateful, Timeouts,
    },
    level::{Level, Levels, Margin, Policy, PolicyName},
    load_probe::{LoadProbe, LoadSource},
    ports::{PortRange, Protocol},
    service::{Affinity, Service},
    setting::{SHORT, Setting},
    source::Source,
    spec::ServiceSpec,
    target::{Host, Pattern, Query},
    value::{Identity, InterfaceName, Interval, Name, ValueError},
};

/// Where the key of the cluster is, if nothing says otherwise.
pub const DEFAULT_KEY: &str = "/etc/balancer/cluster.key";

/// All that a server goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This server.
    pub server: Server,
    /// The levels of services that have none of their own.
    pub levels: Levels,
    /// What own load is made of.
    pub load: Load,
    /// How servers tell each other of themselves.
    pub exchange: Exchange,
    /// How many flows it can know at a time.
    pub tables: Tables,
    /// When this server takes over identities of others.
    pub takeover: Require,
    /// What it offers: 1 to 16 services, of which no two share a name or a port.
    pub services: Vec<Service>,
    /// The services whose requests are routed one by one. Each is of another one.
    pub http: Vec<Http>,
}

impl Config {
    /// The `[[http]]` of the service with this name.
    pub fn http_of(&self, service: &Name) -> Option<&Http> {
        self.http.iter().find(|http| http.service == *service)
    }
}

/// The server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// What it is called in the cluster.
    pub name: Name,
    /// The interfaces to attach to. Empty: only the command line names them.
    pub interfaces: Vec<InterfaceName>,
    /// The addresses that clients use and whose home it is. Empty: the interfaces' own addresses.
    pub identities: Vec<Identity>,
}

/// What own load is made of, beside the services' connections: what each part counts, from 0 % (not at all) to 100 % (as it
/// is measured).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// CPU time in use.
    pub cpu: Level,
    /// Tasks that run or wait for a CPU, for each CPU.
    pub run_queue: Level,
    /// Time in which some task waited for a CPU.
    pub cpu_pressure: Level,
    /// Time in which all tasks waited for memory.
    pub memory_pressure: Level,
    /// Time in which all tasks waited for a disk.
    pub io_pressure: Level,
    /// How full a service's accept queue is.
    pub accept_queue: Level,
    /// The user's own measure.
    pub probe: Option<LoadProbe>,
}

impl Default for Load {
    /// Nothing that a neighbour on the same machine could drive beyond 100 %: a server would take itself for overloaded
    /// whatever its services do, and its peers, too. Waiting for disks, as by a backup, need not touch the services.
    fn default() -> Self {
        Self {
            cpu: Level::FULL,
            run_queue: Level::NONE,
            cpu_pressure: Level::NONE,
            memory_pressure: Level::FULL,
            io_pressure: Level::NONE,
            accept_queue: Level::FULL,
            probe: None,
        }
    }
}

/// How servers tell each other of themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Whom reports go to.
    pub conversation: Conversation,
    /// From one report to the next.
    pub period: Duration,
    /// A peer that was silent for so many periods is off-line. At least 2.
    pub timeout_periods: u32,
    /// Files of the cluster's keys. The first seals, all open. Never empty.
    pub keys: Vec<PathBuf>,
    /// The interface that reports use, where it isn't the one that is attached to.
    pub interface: Option<InterfaceName>,
}

impl Exchange {
    /// Silence that makes a peer off-line.
    pub fn timeout(&self) -> Duration {
        self.timing().timeout()
    }

    /// The rhythm of reports.
    pub fn timing(&self) -> Timing {
        Timing::new(self.period, self.timeout_periods)
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            conversation: Conversation::Group((Ipv4Addr::new(239, 255, 99, 18), 9918).into()),
            period: Duration::from_millis(500),
            timeout_periods: 3,
            keys: vec![DEFAULT_KEY.into()],
            interface: None,
        }
    }
}

/// Whom reports go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conversation {
    /// A multicast group and its port.
    Group(SocketAddr),
    /// Each of these, which all have one port. This server may be among them. Never empty.
    Peers(Vec<SocketAddr>),
}

/// What the command line says. It wins over the file; what it leaves out stays as it is.
#[derive(Clone, Debug, Default)]
pub struct CliOverrides {
    /// `--name`.
    pub name: Option<Name>,
    /// The interfaces to attach to.
    pub interfaces: Vec<InterfaceName>,
    /// `--service`. Any takes the place of all of the file's services.
    pub services: Vec<ServiceSpec>,
    /// `--identity`. Any takes the place of all of the file's identities.
    pub identities: Vec<Identity>,
    /// `--key`. Any takes the place of all of the file's keys.
    pub keys: Vec<PathBuf>,
}

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&Self::read(path)?, &path.display().to_string())
    }

    fn read(path: &Path) -> Result<String, ConfigError> {
        fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })
    }

    /// Reads a file's text. `origin` is what errors call it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        file::parse(text).map_err(|problem| problem.locate(text, origin))
    }

    /// Whether a daemon that runs with this configuration can go on with `new`.
    ///
    /// # Errors
    ///
    /// Names the first key that differs and can't change while running.
    pub fn may_become(&self, new: &Self) -> Result<(), ConfigError> {
        const KNOWN: &str = "peers know this server by it";
        const SOCKET: &str = "its socket is open";
        const KERNEL: &str = "connections in the kernel go by them";
        let https = |config: &Self| -> Vec<_> {
            let ports = |http: &Http| (http.service.clone(), http.tls_ports.clone());
            config.http.iter().map(ports).collect()
        };
        let fixed = |config: &Self| {
            let Self {
                server, exchange, ..
            } = config;
            let services: Vec<_> = config
                .services
                .iter()
                .map(|service| (service.name.clone(), service.ports.clone(), service.agent))
                .collect();
            [
                ("server.name", KNOWN, server.name.to_string()),
                (
                    "server.interfaces",
                    KERNEL,
                    format!("{:?}", server.interfaces),
                ),
                (
                    "server.identities",
                    KERNEL,
                    format!("{:?}", server.identities),
                ),
                (
                    "exchange.group or exchange.peers",
                    SOCKET,
                    format!("{:?}", exchange.conversation),
                ),
                (
                    "exchange.interface",
                    SOCKET,
                    format!("{:?}", exchange.interface),
                ),
                (
                    "name, ports or agent of a service",
                    KERNEL,
                    format!("{services:?}"),
                ),
                ("tables", KERNEL, format!("{:?}", config.tables)),
                (
                    "service or tls_ports of an [[http]]",
                    "its ports are open",
                    format!("{:?}", https(config)),
                ),
            ]
        };
        let differs = fixed(self)
            .into_iter()
            .zip(fixed(new))
            .find(|(old, new)| old != new);
        match differs {
            None => Ok(()),
            Some(((key, reason, _), _)) => Err(ConfigError::Fixed { key, reason }),
        }
    }

    /// With what the command line says in place of what was.
    pub fn override_with(mut self, flags: CliOverrides) -> Result<Self, ConfigError> {
        if let Some(name) = flags.name {
            self.server.name = name;
        }
        if !flags.interfaces.is_empty() {
            distinct("IFACE", &flags.interfaces, InterfaceName::as_str)?;
            self.server.interfaces = flags.interfaces;
        }
        if !flags.identities.is_empty() {
            distinct("--identity", &flags.identities, |identity| {
                identity.address()
            })?;
            self.server.identities = flags.identities;
        }
        if !flags.keys.is_empty() {
            self.exchange.keys = flags.keys;
        }
        if !flags.services.is_empty() {
            self.services = flags
                .services
                .into_iter()
                .map(|spec| spec.resolve(self.levels))
                .collect();
            service::agree(&self.services).map_err(|conflict| ConfigError::Flag {
                flag: "--service",
                message: conflict.message,
            })?;
            http::agree(&self.http, &self.services).map_err(|(_, message)| ConfigError::Flag {
                flag: "--service",
                message: format!("the [[http]] of the file goes with its services: {message}"),
            })?;
        }
        Ok(self)
    }
}

impl Default for Config {
    /// What a server does that nobody told anything: it balances 80/tcp and 443/tcp.
    fn default() -> Self {
        let levels = Levels::default();
        Self {
            server: Server {
                name: Name::of_host(),
                interfaces: Vec::new(),
                identities: Vec::new(),
            },
            levels,
            load: Load::default(),
            exchange: Exchange::default(),
            tables: Tables::default(),
            takeover: Require::default(),
            services: vec![ServiceSpec::default().resolve(levels)],
            http: Vec::new(),
        }
    }
}

const GIVEN_TWICE: &str = "this is given twice: leave one out";

fn distinct<'a, T: std::fmt::Display, K: PartialEq>(
    flag: &'static str,
    list: &'a [T],
    key: impl Fn(&'a T) -> K,
) -> Result<(), ConfigError> {
    match repeated(list.iter().map(key)) {
        None => Ok(()),
        Some(index) => Err(ConfigError::Flag {
            flag,
            message: format!("\"{}\": {GIVEN_TWICE}", list[index]),
        }),
    }
}

/// Index of the first item that was there before.
fn repeated<K: PartialEq>(keys: impl Iterator<Item = K>) -> Option<usize> {
    let mut seen = Vec::new();
    for key in keys {
        if seen.contains(&key) {
            return Some(seen.len());
        }
        seen.push(key);
    }
    None
}
