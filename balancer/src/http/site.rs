//! What the connections of a service go by.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch::{Receiver, Sender, channel};

use super::handoff::{self, Director, Handoffs};
use super::hop::Seals;
use super::pool::Destination;
use super::route::Router;
use super::tally::Tally;
use super::ticket::Tickets;
use super::tls::{self, PeerKeys, Tls};
use super::view::{Server, View};
use super::watch::Patience;
use crate::cluster::ServerId;
use crate::config::{self, Backend, Config, Http, Name, Protocol};
use crate::exchange::{Keyring, clock};
use anyhow::{Context as _, Result};

/// How often a service complains.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A service with an `[[http]]`.
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Threads that serve it.
    pub workers: usize,
    /// What became of its requests.
    pub tally: Tally,
    /// Connections that are on their way here, or away.
    pub handoffs: Handoffs,
    /// Who has packets sent on.
    pub director: Director,
    site: RwLock<Arc<Site>>,
    views: Sender<Arc<View>>,
    /// Has not been shown any view.
    unseen: Receiver<Arc<View>>,
    warned: AtomicU64,
    unsaid: AtomicU64,
}

/// What the requests of a service go by, from their first byte to their last. A reload makes a new one for those that come
/// then; only TLS, limits of heads and the PROXY protocol stay with a connection.
pub struct Site {
    /// As it is configured.
    pub http: Http,
    /// The local web server.
    pub backend: Destination,
    /// For the ports that speak TLS.
    pub tls: Option<Tls>,
    /// Who answers what.
    pub router: Router,
    /// For requests that come from a peer, or go to one.
    pub seals: Arc<Seals>,
    /// For connections that move from a peer, or to one.
    pub handoffs: Arc<handoff::Seals>,
    /// How long clients may take.
    pub patience: Patience,
}

/// What all services are to go by, with certificates that were read.
pub struct Plan(Vec<(Name, Arc<Site>)>);

impl Plan {
    /// Reads what the configuration names.
    ///
    /// # Errors
    ///
    /// A certificate or key can't be used.
    pub fn new(config: &Config, keyring: &Keyring) -> Result<Self> {
        let seals = Arc::new(Seals::new(keyring));
        let handoffs = Arc::new(handoff::Seals::new(keyring));
        let keys = PeerKeys::new(keyring)?;
        let site = |http: &Http| {
            let tickets = Tickets::new(keyring);
            let site = Site::new(http, tickets, seals.clone(), handoffs.clone(), &keys)
                .with_context(|| format!("the [[http]] of {}", http.service))?;
            Ok((http.service.clone(), Arc::new(site)))
        };
        config
            .http
            .iter()
            .map(site)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The services, and their ports, to be served by so many threads.
    pub(super) fn services(
        self,
        config: &Config,
        workers: usize,
        director: &Director,
    ) -> Vec<(Arc<Service>, Vec<u16>)> {
        let service = |(name, site): (Name, Arc<Site>)| {
            let service = config
                .services
                .iter()
                .find(|service| service.name == name)?;
            let ports = service.ports.iter();
            let ports = ports
                .filter(|range| range.protocol == Protocol::Tcp)
                .flat_map(|range| range.first..=range.last)
                .collect();
            let view = alone(config, service);
            Some((
                Arc::new(Service::new(name, workers, site, view, director.clone())),
                ports,
            ))
        };
        self.0.into_iter().filter_map(service).collect()
    }

    /// The services go by it.
    pub(super) fn apply(self, services: &[Arc<Service>]) {
        for (name, site) in self.0 {
            if let Some(service) = services.iter().find(|service| service.name == name) {
                *service.site.write().unwrap_or_else(PoisonError::into_inner) = site;
            }
        }
    }
}

impl Service {
    fn new(name: Name, workers: usize, site: Arc<Site>, view: View, director: Director) -> Self {
        let (views, unseen) = channel(Arc::new(view));
        Self {
            name,
            workers,
            tally: Tally::default(),
            handoffs: Handoffs::default(),
            director,
            site: RwLock::new(site),
            views,
            unseen,
            warned: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }

    /// What new connections and new requests go by.
    pub fn site(&self) -> Arc<Site> {
        self.site
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The cluster, as it was known last.
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// The cluster has changed.
    pub fn set_view(&self, view: View) {
        self.views.send_replace(Arc::new(view));
    }

    /// Waits for the first view of the cluster.
    pub async fn first_view(&self) {
        // The other end is here, too.
        let _ = self.unseen.clone().changed().await;
    }

    /// Complains, but not all the time.
    pub fn warn(&self, what: &str) {
        let now = clock::monotonic().0;
        let due = |last: u64| {
            (last == 0 || now - last.min(now) > WARN_EVERY.as_nanos() as u64).then_some(now)
        };
        if self.warned.fetch_update(Relaxed, Relaxed, due).is_err() {
            self.unsaid.fetch_add(1, Relaxed);
            return;
        }
        match self.unsaid.swap(0, Relaxed) {
            0 => log::warn!("{}: {what}", self.name),
            more => log::warn!(
                "{}: {what} (and {more} more such warnings before)",
                self.name
            ),
        }
    }
}

impl Site {
    fn new(
        http: &Http,
        tickets: Tickets,
        seals: Arc<Seals>,
        handoffs: Arc<handoff::Seals>,
        keys: &Arc<PeerKeys>,
    ) -> Result<Self> {
        let pairs = http.certificates.iter();
        let pairs = pairs.map(|pair| (pair.certificate.as_path(), pair.key.as_path()));
        let timeouts = http.timeouts;
        Ok(Self {
            backend: match &http.backend {
                Backend::Tcp(address) => Destination::Tcp(*address),
                Backend::Unix(path) => Destination::Unix(Arc::<Path>::from(path.as_path())),
            },
            tls: if http.certificates.is_empty() {
                None
            } else {
                Some(Tls::new(tls::load(pairs)?, keys)?)
            },
            router: Router::new(http.clone(), tickets),
            seals,
            handoffs,
            patience: Patience {
                head: timeouts.header,
                idle: timeouts.idle,
                send: timeouts.stall,
            },
            http: http.clone(),
        })
    }

    /// Whether what `sender` says of its clients is believed.
    pub fn believes(&self, sender: IpAddr) -> bool {
        self.http
            .forwarded_from
            .iter()
            .any(|net| net.contains(&sender))
    }

    /// Whether connections from `sender` begin with the PROXY protocol.
    pub fn is_introduced(&self, sender: IpAddr) -> bool {
        let nets = &self.http.proxy_protocol.from;
        nets.iter().any(|net| net.contains(&sender))
    }
}

/// The cluster before anything is known of it, which no request sees.
fn alone(config: &Config, service: &config::Service) -> View {
    View {
        own: Server {
            id: ServerId(0),
            name: config.server.name.to_string(),
            address: Ipv4Addr::UNSPECIFIED.into(),
            scope: 0,
            load: 0,
            cost: 0,
            sent: Arc::default(),
            capacity: service.capacity.get(),
            healthy: true,
            draining: false,
            names: Vec::new(),
            serves: Vec::new(),
        },
        overload: service.levels.overload.basis_points(),
        margin: service.levels.margin.basis_points(),
        policy: service.levels.policy,
        peers: Vec::new(),
        steered: false,
        settled: false,
    }
}
