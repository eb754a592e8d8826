//! `[[http]]` and what is in it as they are written, and what they mean.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::rule::MethodName;
use super::{
    Backend, Certificate, HostPattern, Http, Limits, PathPattern, ProxyProtocol, Rule, RuleName,
    RuleRoute, Stateful, Timeouts,
};
use crate::cluster::{MAX_NAMES, MAX_SERVES};
use crate::config::{
    Host, Name, Protocol, Service,
    error::Problem,
    file::{distinct, filled, values},
    value::{Interval, Span, Value, value},
};

value!(Count, FilePath, Network, TcpPort);

/// Most TCP ports of a service that has an `[[http]]`: each is a listening socket.
const PORTS_MAX: usize = 16;

/// The port where clients speak TLS unless something else is said.
const HTTPS: u16 = 443;

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: write [[http]] on a line of its own"
)]
pub(in crate::config) struct HttpTable {
    service: Option<Spanned<Name>>,
    backend: Option<Spanned<Backend>>,
    #[serde(default)]
    certificates: Vec<Spanned<CertificateTable>>,
    tls_ports: Option<Spanned<Vec<Spanned<TcpPort>>>>,
    #[serde(default)]
    hosts: Vec<Spanned<HostPattern>>,
    #[serde(default)]
    names: Vec<Spanned<Host>>,
    #[serde(default)]
    serves: Vec<Spanned<PathPattern>>,
    #[serde(default)]
    forwarded_from: Vec<Spanned<Network>>,
    #[serde(default)]
    proxy_protocol: ProxyProtocolTable,
    #[serde(default)]
    limits: LimitsTable,
    #[serde(default)]
    timeouts: TimeoutsTable,
    #[serde(default)]
    rule: Vec<Spanned<RuleTable>>,
}

impl HttpTable {
    pub(in crate::config) fn resolve(
        table: Spanned<Self>,
        services: &[Service],
    ) -> Result<Http, Problem> {
        let header = table.span();
        let table = table.into_inner();
        let missing = |what| Problem::new(header.clone(), what);
        let name = table.service.ok_or_else(|| {
            missing("this [[http]] has no service: name one, as in service = \"www\"")
        })?;
        let backend = table.backend.ok_or_else(|| {
            missing(
                "this [[http]] has no backend: say where the local web server is, as in backend = \"127.0.0.1:8080\"",
            )
        })?;
        let ports = ports(name.get_ref(), services)
            .map_err(|message| Problem::new(name.span(), message))?;
        if let Backend::Tcp(address) = backend.get_ref()
            && ports.contains(&address.port())
        {
            let message = format!(
                "port {} is the service's own, where balancer listens on all addresses: let the web server listen on another one",
                address.port()
            );
            return Err(Problem::new(backend.span(), message));
        }
        let certificates: Vec<_> = values(table.certificates)
            .into_iter()
            .map(CertificateTable::resolve)
            .collect();
        let tls_ports = tls_ports(table.tls_ports, &ports, &certificates, &header)?;
        distinct(&table.hosts, Clone::clone)?;
        distinct(&table.serves, Clone::clone)?;
        distinct(&table.names, |host| host.name().to_lowercase_owned())?;
        few(&table.names, MAX_NAMES, "names")?;
        few(&table.serves, MAX_SERVES, "paths")?;
        let hosts = values(table.hosts);
        for name in &table.names {
            let lower = name.get_ref().name().to_lowercase_owned();
            let lower = lower.as_ref();
            if !hosts.is_empty() && !hosts.iter().any(|host: &HostPattern| host.matches(lower)) {
                let message = format!(
                    "\"{lower}\" is not among hosts, so requests for it would be refused: add it there"
                );
                return Err(Problem::new(name.span(), message));
            }
        }
        let rules = rules(table.rule, !table.names.is_empty())?;
        Ok(Http {
            service: name.into_inner(),
            backend: backend.into_inner(),
            certificates,
            tls_ports,
            hosts,
            names: values(table.names),
            serves: values(table.serves),
            forwarded_from: networks(table.forwarded_from),
            proxy_protocol: table.proxy_protocol.resolve(),
            limits: table.limits.resolve(),
            timeouts: table.timeouts.resolve(),
            rules,
        })
    }
}

/// Whether each of these has a service of its own that requests can come to.
pub(in crate::config) fn agree(
    https: &[Http],
    services: &[Service],
) -> Result<(), (usize, String)> {
    for (index, http) in https.iter().enumerate() {
        ports(&http.service, services).map_err(|message| (index, message))?;
        if https[..index]
            .iter()
            .any(|other| other.service == http.service)
        {
            let message = format!(
                "service \"{}\" has an [[http]] already: put its rules there",
                http.service
            );
            return Err((index, message));
        }
        // Cookies are named after rules, and browsers tell no ports apart.
        let mut earlier = https[..index].iter().flat_map(|other| &other.rules);
        let again = |rule: &&Rule| http.rules.iter().any(|own| own.name == rule.name);
        if let Some(rule) = earlier.find(again) {
            let message = format!(
                "there already is a rule \"{}\" in another [[http]]: give one of them another name",
                rule.name
            );
            return Err((index, message));
        }
    }
    Ok(())
}

/// The TCP ports of the service with this name.
fn ports(name: &Name, services: &[Service]) -> Result<BTreeSet<u16>, String> {
    let Some(service) = services.iter().find(|service| service.name == *name) else {
        let known: Vec<_> = services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        return Err(format!(
            "there is no service \"{name}\": here may be {}",
            known.join(", ")
        ));
    };
    let tcp = service
        .ports
        .iter()
        .filter(|range| range.protocol == Protocol::Tcp);
    let ports: BTreeSet<_> = tcp
        .flat_map(|range| range.first..=range.last)
        .take(PORTS_MAX + 1)
        .collect();
    if (1..=PORTS_MAX).contains(&ports.len()) {
        Ok(ports)
    } else {
        Err(format!(
            "service \"{name}\" has {} tcp ports, and one with an [[http]] has 1 to {PORTS_MAX}",
            if ports.is_empty() { "no" } else { "too many" },
        ))
    }
}

fn tls_ports(
    given: Option<Spanned<Vec<Spanned<TcpPort>>>>,
    ports: &BTreeSet<u16>,
    certificates: &[Certificate],
    header: &std::ops::Range<usize>,
) -> Result<Vec<u16>, Problem> {
    let (tls, place) = match given {
        None => {
            let usual = ports.contains(&HTTPS).then_some(HTTPS);
            (usual.into_iter().collect::<Vec<_>>(), header.clone())
        }
        Some(list) => {
            let place = list.span();
            let list = list.into_inner();
            distinct(&list, |TcpPort(port)| *port)?;
            if let Some(odd) = list.iter().find(|port| !ports.contains(&port.get_ref().0)) {
                let message = format!("port {} is no tcp port of the service", odd.get_ref().0);
                return Err(Problem::new(odd.span(), message));
            }
            (
                values(list).into_iter().map(|TcpPort(port)| port).collect(),
                place,
            )
        }
    };
    if let (Some(port), true) = (tls.first(), certificates.is_empty()) {
        let message = format!(
            "clients speak TLS on port {port}, and there is no certificate: add one, as in certificates = \
             [{{ certificate = \"/etc/ssl/www.pem\", key = \"/etc/ssl/www.key\" }}], or write tls_ports = []"
        );
        return Err(Problem::new(place, message));
    }
    if tls.is_empty() && !certificates.is_empty() {
        let message = "there are certificates, and no port where clients speak TLS: add one, as in tls_ports = [8443], or \
                       leave the certificates out";
        return Err(Problem::new(place, message));
    }
    Ok(tls)
}

fn few<T>(list: &[Spanned<T>], max: usize, what: &str) -> Result<(), Problem> {
    match list.get(max) {
        None => Ok(()),
        Some(first) => Err(Problem::new(
            first.span(),
            format!(
                "peers are told of {max} {what} of a server at the most: leave out those from here on"
            ),
        )),
    }
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: write it in braces, as in { certificate = \"/etc/ssl/www.pem\", key = \"/etc/ssl/www.key\" }"
)]
struct CertificateTable {
    certificate: FilePath,
    key: FilePath,
}

impl CertificateTable {
    fn resolve(self) -> Certificate {
        Certificate {
            certificate: self.certificate.0,
            key: self.key.0,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write it in braces, as in { from = [\"10.0.0.5/32\"] }"
)]
struct ProxyProtocolTable {
    from: Vec<Spanned<Network>>,
    to_backend: bool,
}

impl ProxyProtocolTable {
    fn resolve(self) -> ProxyProtocol {
        ProxyProtocol {
            from: networks(self.from),
            to_backend: self.to_backend,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write it in braces, as in { connections = 20000 }"
)]
struct LimitsTable {
    connections: Option<Count>,
    headers: Option<Count>,
    header_bytes: Option<Count>,
}

impl LimitsTable {
    fn resolve(self) -> Limits {
        let default = Limits::default();
        let or = |count: Option<Count>, default| count.map_or(default, |Count(count)| count);
        Limits {
            connections: or(self.connections, default.connections),
            headers: or(self.headers, default.headers),
            header_bytes: or(self.header_bytes, default.header_bytes),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write it in braces, as in { idle = \"60s\" }"
)]
struct TimeoutsTable {
    header: Option<Interval>,
    idle: Option<Interval>,
    connect: Option<Interval>,
    answer: Option<Interval>,
    stall: Option<Interval>,
}

impl TimeoutsTable {
    fn resolve(self) -> Timeouts {
        let default = Timeouts::default();
        let or = |time: Option<Interval>, default| time.map_or(default, Interval::duration);
        Timeouts {
            header: or(self.header, default.header),
            idle: or(self.idle, default.idle),
            connect: or(self.connect, default.connect),
            answer: or(self.answer, default.answer),
            stall: or(self.stall, default.stall),
        }
    }
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: write [[http.rule]] on a line of its own"
)]
struct RuleTable {
    name: Option<Spanned<RuleName>>,
    host: Option<HostPattern>,
    path: Option<Spanned<PathPattern>>,
    #[serde(default)]
    methods: Vec<Spanned<MethodName>>,
    servers: Option<Spanned<Vec<Spanned<Name>>>>,
    route: Option<Spanned<RuleRoute>>,
    stateful: Option<StatefulTable>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: write it in braces, as in { end = \"/banking/logout\" }"
)]
struct StatefulTable {
    entry: Option<PathPattern>,
    end: Option<Spanned<PathPattern>>,
    time: Option<Span>,
    cookie: Option<bool>,
}

fn rules(tables: Vec<Spanned<RuleTable>>, has_names: bool) -> Result<Vec<Rule>, Problem> {
    let mut rules: Vec<Rule> = Vec::with_capacity(tables.len());
    for table in tables {
        let header = table.span();
        let table = table.into_inner();
        let missing = |what| Problem::new(header.clone(), what);
        let name = table
            .name
            .ok_or_else(|| missing("this rule has no name: add one, as in name = \"banking\""))?;
        if rules.iter().any(|other| other.name == *name.get_ref()) {
            let message = format!(
                "there already is a rule \"{}\": give this one another name",
                name.get_ref()
            );
            return Err(Problem::new(name.span(), message));
        }
        let path = table.path.ok_or_else(|| {
            missing("this rule has no path: add one, as in path = \"/banking/*\"")
        })?;
        distinct(&table.methods, |MethodName(method)| method.clone())?;
        let servers = match table.servers {
            None => Vec::new(),
            Some(list) => {
                let list = filled(list, "\"web1\"")?;
                distinct(&list, Clone::clone)?;
                values(list)
            }
        };
        if let Some(route) = &table.route
            && *route.get_ref() == RuleRoute::Redirect
            && !has_names
        {
            let message = "a redirect needs a name that leads to one server alone: give each server one in its [[http]], as in \
                           names = [\"web1.example.com\"]";
            return Err(Problem::new(route.span(), message));
        }
        rules.push(Rule {
            name: name.into_inner(),
            host: table.host,
            methods: values(table.methods)
                .into_iter()
                .map(|MethodName(method)| method)
                .collect(),
            servers,
            route: table.route.map(Spanned::into_inner).unwrap_or_default(),
            stateful: table
                .stateful
                .map(|stateful| stateful.resolve(&path))
                .transpose()?,
            path: path.into_inner(),
        });
    }
    Ok(rules)
}

impl StatefulTable {
    fn resolve(self, path: &Spanned<PathPattern>) -> Result<Stateful, Problem> {
        let entry = match self.entry {
            Some(entry) => entry,
            // What comes before the star, as the patent has it: `/banking/` of `/banking/*`.
            None => path.get_ref().prefix().parse().map_err(|_| {
                let message = "requests of a stateful rule have an entry: begin the path with it, as in \"/banking/*\", or name \
                               it, as in stateful = { entry = \"/login\" }";
                Problem::new(path.span(), message)
            })?,
        };
        Ok(Stateful {
            entry,
            end: self.end.map(Spanned::into_inner),
            time: self.time.map_or(Stateful::DEFAULT_TIME, |Span(time)| time),
            cookie: self.cookie.unwrap_or(true),
        })
    }
}

fn networks(list: Vec<Spanned<Network>>) -> Vec<IpNet> {
    values(list).into_iter().map(|Network(net)| net).collect()
}

struct Network(IpNet);

impl Value for Network {
    const WANTED: &'static str =
        "a network: write its address and prefix length, as in \"10.0.0.5/32\"";

    fn read(text: &str) -> Option<Self> {
        let net: IpNet = text.parse().ok()?;
        (net.addr() == net.network()).then_some(Self(net))
    }
}

#[derive(Clone, Copy, PartialEq)]
struct TcpPort(u16);

impl Value for TcpPort {
    const WANTED: &'static str = "a port: write a whole number from 1 to 65535";
    const QUOTED: bool = false;

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|port| *port != 0).map(Self)
    }
}

struct Count(u32);

impl Value for Count {
    const WANTED: &'static str = "a limit: write a whole number from 1 to 1000000";
    const QUOTED: bool = false;

    fn read(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|count| (1..=1_000_000).contains(count))
            .map(Self)
    }
}

struct FilePath(PathBuf);

impl Value for FilePath {
    const WANTED: &'static str = "a file: write its whole path, as in \"/etc/ssl/www.pem\"";

    fn read(text: &str) -> Option<Self> {
        (text.starts_with('/') && !text.ends_with('/') && !text.contains('\0'))
            .then(|| Self(text.into()))
    }
}
