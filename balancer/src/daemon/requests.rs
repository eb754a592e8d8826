//! What the routing of requests goes by: the cluster as it is at this moment, service by service.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use anyhow::{Context as _, Result, bail};
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Uri, Version};

use super::prepare::Prepared;
use super::running::Running;
use super::services::ServiceLife;
use crate::cluster::{Peer, ServerId, ServiceReport, Status};
use crate::config::{Http, Name, PathPattern, Protocol};
use crate::datapath::peers::offered;
use crate::exchange::clock;
use crate::http::explain::Explanation;
use crate::http::route::{Head, Router};
use crate::http::ticket::Tickets;
use crate::http::view::{Server, View};

/// What peers were sent since their last reports, by service.
#[derive(Default)]
pub struct Sent(BTreeMap<(ServerId, u32), Count>);

struct Count {
    /// Start and number of the report.
    report: (u64, u64),
    requests: Arc<AtomicU32>,
}

impl Running {
    /// Finds out which services' requests are routed one by one: those with rules of their own, or of a server that says what it
    /// serves. Connections to the others are steered by load, as those of services without an `[[http]]` are.
    pub(super) fn review_routing(&mut self, prepared: &Prepared) {
        let online: Vec<_> = online(prepared).collect();
        self.services.set_routed(|service| {
            let announced = |peer: &&Peer| {
                offered(&service.config, &peer.report)
                    .is_some_and(|theirs| !theirs.serves.is_empty())
            };
            service.http.as_ref().is_some_and(|http| {
                !http.rules.is_empty() || !http.serves.is_empty() || online.iter().any(announced)
            })
        });
    }

    /// The views of all services with an `[[http]]`.
    pub(super) fn views(&mut self, prepared: &Prepared) -> Result<Vec<(Name, View)>> {
        let known = |id| prepared.exchange.cluster().peer(id).is_some();
        self.sent.0.retain(|(id, _), _| known(*id));
        let running = clock::monotonic().since(self.started);
        let settled = running > prepared.options.config.exchange.timeout();
        let mut views = Vec::new();
        for (index, service) in (0..).zip(self.services.iter()) {
            let Some(http) = &service.http else { continue };
            let load = self.load(index)?;
            let peer = |peer: &Peer| {
                let theirs = offered(&service.config, &peer.report)?;
                let sent = self.sent.since_report(peer, index);
                Some(server(peer, theirs, sent))
            };
            let view = View {
                own: Server {
                    id: prepared.id,
                    name: prepared.options.config.server.name.to_string(),
                    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    scope: 0,
                    load,
                    cost: 0,
                    sent: Arc::default(),
                    capacity: service.config.capacity.get(),
                    healthy: service.healthy,
                    draining: self.drain.is_active(),
                    names: http.own_names(),
                    serves: http.serves.clone(),
                },
                overload: service.config.levels.overload.basis_points(),
                margin: service.config.levels.margin.basis_points(),
                policy: service.config.levels.policy,
                peers: online(prepared).filter_map(peer).collect(),
                steered: !service.routed,
                settled,
            };
            views.push((service.config.name.clone(), view));
        }
        Ok(views)
    }

    /// What becomes of such a request.
    pub(super) fn explain(
        &mut self,
        prepared: &Prepared,
        method: &str,
        url: &str,
        client: IpAddr,
    ) -> Result<Explanation> {
        let method = Method::from_bytes(method.as_bytes()).context("this is no method")?;
        let uri: Uri = url
            .parse()
            .with_context(|| format!("\"{url}\" is no URL"))?;
        let (Some(authority), Some(scheme @ ("http" | "https"))) =
            (uri.authority(), uri.scheme_str())
        else {
            bail!("write the whole URL, as in http://www.example.com/banking/");
        };
        let tls = scheme == "https";
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let (name, http) = self.http_at(port)?;
        let tickets = Tickets::new(prepared.exchange.keyring());
        let router = Router::new(http, tickets);
        let views = self.views(prepared)?;
        let (_, view) = (views.iter().find(|(service, _)| *service == name))
            .context("this service is not there any more")?;
        let host = authority
            .as_str()
            .parse()
            .context("the URL's host is none")?;
        let head = Head {
            method: &method,
            uri: &uri,
            headers: &HeaderMap::from_iter([(HOST, host)]),
            version: Version::HTTP_11,
            client,
            tls,
            relayed: false,
            handed: false,
        };
        let now = clock::time_of_day().as_secs();
        Ok(router.explain(&head, view, now, fastrand::u64(..)))
    }

    fn http_at(&self, port: u16) -> Result<(Name, Http)> {
        let mut services = self.services.iter();
        let has = |service: &&ServiceLife| service.config.has(Protocol::Tcp, port);
        let service = services
            .find(has)
            .with_context(|| format!("port {port}/tcp is no service's"))?;
        let name = service.config.name.clone();
        let http = service.http.clone().with_context(|| {
            format!(
                "service {name} has no [[http]]: its connections are balanced, not its requests; try `balancer explain SRC:PORT \
                 DST:PORT`"
            )
        })?;
        Ok((name, http))
    }
}

impl Sent {
    /// The count of requests that a peer was sent since its last report.
    fn since_report(&mut self, peer: &Peer, service: u32) -> Arc<AtomicU32> {
        let report = (peer.report.boot, peer.report.sequence);
        let fresh = || Count {
            report,
            requests: Arc::default(),
        };
        let key = (peer.report.server, service);
        let count = self.0.entry(key).or_insert_with(fresh);
        if count.report != report {
            *count = fresh();
        }
        count.requests.clone()
    }
}

fn online(prepared: &Prepared) -> impl Iterator<Item = &Peer> {
    let peers = prepared.exchange.cluster().peers();
    peers.filter(|peer| peer.status == Status::Online)
}

fn server(peer: &Peer, theirs: &ServiceReport, sent: Arc<AtomicU32>) -> Server {
    let path = |path: &String| path.parse::<PathPattern>().ok();
    Server {
        id: peer.report.server,
        name: peer.report.name.clone(),
        address: peer.from.ip(),
        scope: match peer.from {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(from) => from.scope_id(),
        },
        load: theirs.load,
        cost: theirs.cost,
        sent,
        capacity: theirs.capacity,
        healthy: theirs.healthy,
        draining: peer.report.draining,
        names: theirs.names.clone(),
        serves: theirs.serves.iter().filter_map(path).collect(),
    }
}
