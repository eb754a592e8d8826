//! This server's services from moment to moment: load, health, and what the kernel's counts need to be put right.

use std::time::Duration;

use anyhow::Result;
use balancer_common::forecast::{Forecast, Moment, Outlook};
use balancer_common::types::Connections;

use crate::cluster::{OwnService, ServiceReport, Timestamp};
use crate::config::{Config, Http, Load, Protocol, Service};
use crate::datapath::maps::Maps;
use crate::datapath::own::{self, ServiceState};
use crate::exchange::clock;
use crate::health::{Change, Monitor};
use crate::load::{Handshakes, Listeners, Part, Probe, Rate, Sampler, Uncounted, established};

/// All services.
pub struct Services {
    services: Vec<ServiceLife>,
    meter: Meter,
}

/// What measures own load, beside the kernel's counts of connections.
struct Meter {
    weights: Load,
    host: Sampler,
    listeners: Listeners,
    /// CPU time that samples have taken.
    spent: Duration,
    /// Why accept queues are not known, if they aren't.
    blind: Option<String>,
}

/// One service.
pub struct ServiceLife {
    /// As configured.
    pub config: Service,
    /// Its `[[http]]`, if it has one.
    pub http: Option<Http>,
    /// Its requests are routed one by one, by rules: its connections are steered only when this server isn't ready.
    pub routed: bool,
    /// Whether its check succeeds.
    pub healthy: bool,
    /// What the check that decided that said.
    pub health: String,
    /// How full its accept queue is, in basis points.
    pub accept_queue: u32,
    /// New connections that it gets.
    pub rate: Rate,
    state: ServiceState,
    handshakes: Handshakes,
    uncounted: Uncounted,
    forecast: Forecast,
}

impl Services {
    /// Enters the configured services in the maps, where a predecessor may have left its own.
    pub fn start(maps: &mut Maps, config: &Config, draining: bool, now: Timestamp) -> Result<Self> {
        let services = (0..)
            .zip(&config.services)
            .map(|(index, service)| {
                let given_up = maps.services.get(&index, 0)?.given_up;
                Ok(ServiceLife {
                    config: service.clone(),
                    http: config.http_of(&service.name).cloned(),
                    routed: false,
                    healthy: true,
                    health: String::new(),
                    accept_queue: 0,
                    rate: Rate::default(),
                    state: ServiceState {
                        given_up,
                        ..ServiceState::default()
                    },
                    handshakes: Handshakes::resume(given_up),
                    uncounted: Uncounted::default(),
                    forecast: Forecast::default(),
                })
            })
            .collect::<Result<_>>()?;
        own::set_ports(maps, &config.services)?;
        let mut services = Self {
            services,
            meter: Meter {
                weights: config.load.clone(),
                host: Sampler::open(now)?,
                listeners: Listeners::new(config.services.len()),
                spent: Duration::ZERO,
                blind: None,
            },
        };
        services.sample(maps, draining, now, config.exchange.period)?;
        Ok(services)
    }

    /// The services, in the order of the map SERVICES.
    pub fn iter(&self) -> impl Iterator<Item = &ServiceLife> {
        self.services.iter()
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.services.len() as u32
    }

    /// Goes by another configuration of the same services. One whose check differs counts as healthy until that says
    /// otherwise; a probe that differs, as not having said anything.
    pub fn reconfigure(&mut self, config: &Config, monitor: &mut Monitor, probe: &mut Probe) {
        if self.meter.weights.probe != config.load.probe {
            *probe = Probe::start(config.load.probe.as_ref());
            self.meter.host.set_probed(None);
        }
        self.meter.weights = config.load.clone();
        for (index, (service, new)) in self.services.iter_mut().zip(&config.services).enumerate() {
            if service.config.check != new.check {
                monitor.replace(index, new.check.clone());
                service.healthy = true;
                service.health.clear();
            }
            service.config = new.clone();
            service.http = config.http_of(&new.name).cloned();
        }
    }

    /// Takes note of whose requests are routed one by one.
    pub fn set_routed(&mut self, routed: impl Fn(&ServiceLife) -> bool) {
        for service in &mut self.services {
            service.routed = routed(service);
        }
    }

    /// Takes note of a check's verdict.
    pub fn set_health(&mut self, change: Change) {
        let service = &mut self.services[change.service];
        let word = if change.healthy { "healthy" } else { "down" };
        log::info!("service {}: {word}: {}", service.config.name, change.reason);
        service.healthy = change.healthy;
        service.health = change.reason;
    }

    /// Takes note of what the user's measure of load said, in basis points. What it said before stands for as long as it
    /// fails: a server that is too busy to answer must not look idle.
    pub fn set_probed(&mut self, load: u32) {
        self.meter.host.set_probed(Some(load));
    }

    /// The parts of own load that are not one service's.
    pub fn load_parts(&self) -> &[Part] {
        self.meter.host.parts()
    }

    /// Why accept queues don't count, if they aren't known.
    pub fn blind(&self) -> Option<&str> {
        self.meter.blind.as_deref()
    }

    /// CPU time that samples have taken.
    pub fn sampling(&self) -> Duration {
        self.meter.spent
    }

    /// Samples own load into the maps. Returns what peers are told for the next `period`. `draining`: new connections are to
    /// go to peers.
    pub fn sample(
        &mut self,
        maps: &mut Maps,
        draining: bool,
        now: Timestamp,
        period: Duration,
    ) -> Result<Vec<OwnService>> {
        let begun = clock::thread_time();
        let host = self.meter.host.sample(now, &self.meter.weights)?;
        let queues = self
            .meter
            .listeners
            .sample(now, |port| position(&self.services, port));
        self.meter.blind = queues.as_ref().err().map(|error| format!("{error:#}"));
        let queues = queues.unwrap_or_else(|_| vec![0; self.services.len()]);
        let queue_weight = self.meter.weights.accept_queue.basis_points();
        let mut reports = Vec::new();
        for ((index, service), queue) in (0..).zip(&mut self.services).zip(queues) {
            service.accept_queue = (u64::from(queue) * u64::from(queue_weight) / 10_000) as u32;
            let connections = maps.connections.get(&index, 0)?;
            service.rate.sample(now, service.ever(&connections));
            let sample = host
                .max(service.accept_queue)
                .max(service.rate_load().unwrap_or(0));
            let state = ServiceState {
                sample,
                ready: service.healthy && !draining,
                routed: service.routed,
                uncounted: service.uncounted.lacking(),
                given_up: service.handshakes.given_up(now, &connections),
            };
            let sheet = own::set_service(maps, index, &service.config, state)?;
            service.state = state;
            let moment = Moment::from_maps(now.0, &sheet, &connections);
            let outlook = service.forecast.update(&moment, period.as_nanos() as u64);
            reports.push(service.report(outlook));
        }
        self.meter.spent += clock::thread_time().saturating_sub(begun);
        Ok(reports)
    }

    /// Compares the kernel's counts with its socket table, until they agree: connections may be older than the program.
    pub fn review_sockets(&mut self, maps: &mut Maps) -> Result<()> {
        if self
            .services
            .iter()
            .all(|service| service.uncounted.is_settled())
        {
            return Ok(());
        }
        let open = established(self.services.len(), |port| position(&self.services, port))?;
        for ((index, service), open) in (0..).zip(&mut self.services).zip(open) {
            let counted = maps.connections.get(&index, 0)?.open;
            service.uncounted.compare(counted, open);
        }
        Ok(())
    }
}

/// Index of the service that has this TCP port.
fn position(services: &[ServiceLife], port: u16) -> Option<usize> {
    services
        .iter()
        .position(|service| service.config.has(Protocol::Tcp, port))
}

impl ServiceLife {
    /// Load by new connections, in basis points, if they are to count.
    pub fn rate_load(&self) -> Option<u32> {
        let capacity = self.config.capacity_rate?;
        Some(self.rate.load(capacity.get()))
    }

    /// How many connections it ever had. What comes by UDP are no connections to the kernel, so first packets stand for them.
    fn ever(&self, connections: &Connections) -> u64 {
        let mut ports = self.config.ports.iter();
        if ports.any(|range| range.protocol == Protocol::Udp) {
            connections.arrived
        } else {
            connections.established
        }
    }

    fn report(&self, outlook: Outlook) -> OwnService {
        OwnService {
            report: ServiceReport {
                name: self.config.name.as_str().to_owned(),
                ports: self
                    .config
                    .ports
                    .iter()
                    .map(|range| (*range).into())
                    .collect(),
                healthy: self.healthy,
                capacity: self.config.capacity.get(),
                load: outlook.load,
                cost: outlook.cost,
                names: self.http.as_ref().map_or_else(Vec::new, Http::own_names),
                serves: (self.http.iter().flat_map(|http| &http.serves))
                    .map(ToString::to_string)
                    .collect(),
            },
            overload: self.config.levels.overload.basis_points(),
        }
    }
}
