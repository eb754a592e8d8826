//! The check of a local service, as it is configured. `crate::health` carries it out.

use std::{net::SocketAddr, time::Duration};

use hyper::Uri;
use serde::Deserialize;
use toml::Spanned;

use super::{
    error::Problem,
    value::{Interval, Value, value},
};

value!(Count, HttpTarget, TcpTarget);

/// How one local service is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From the start of one check to the start of the next.
    pub every: Duration,
    /// How long one check may take in all.
    pub timeout: Duration,
    /// Successes in a row that make a service that is down healthy.
    pub rise: u32,
    /// Failures in a row that make a healthy service down.
    pub fall: u32,
}

/// What is asked of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// That it accepts a TCP connection.
    Tcp(SocketAddr),
    /// That it answers a GET of this URL (`http`, with a host) with 2xx or 3xx.
    Http(Uri),
}

/// `check = { ... }`
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: write it in braces, as in { tcp = \"127.0.0.1:80\" }"
)]
pub(super) struct CheckTable {
    tcp: Option<TcpTarget>,
    http: Option<HttpTarget>,
    every: Option<Interval>,
    timeout: Option<Interval>,
    rise: Option<Count>,
    fall: Option<Count>,
}

impl CheckTable {
    pub(super) fn resolve(table: Spanned<Self>) -> Result<Check, Problem> {
        let span = table.span();
        let table = table.into_inner();
        let tcp = table.tcp.map(|TcpTarget(address)| CheckKind::Tcp(address));
        let http = table.http.map(|HttpTarget(url)| CheckKind::Http(url));
        let mut kinds = [tcp, http].into_iter().flatten();
        let (Some(kind), None) = (kinds.next(), kinds.next()) else {
            return Err(Problem::new(
                span,
                "a check is of exactly one kind: write either tcp = \"127.0.0.1:80\" or http = \"http://127.0.0.1:80/\"",
            ));
        };
        Ok(Check {
            kind,
            every: table
                .every
                .map_or(Duration::from_secs(1), Interval::duration),
            timeout: table
                .timeout
                .map_or(Duration::from_millis(500), Interval::duration),
            rise: table.rise.map_or(2, |Count(rise)| rise),
            fall: table.fall.map_or(3, |Count(fall)| fall),
        })
    }
}

struct Count(u32);

impl Value for Count {
    const WANTED: &'static str = "a count of checks: write a whole number from 1 to 100";
    const QUOTED: bool = false;

    fn read(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|count| (1..=100).contains(count))
            .map(Self)
    }
}

struct TcpTarget(SocketAddr);

impl Value for TcpTarget {
    const WANTED: &'static str =
        "an address to check: write ADDRESS:PORT, as in \"127.0.0.1:80\" or \"[::1]:80\"";

    fn read(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|address: &SocketAddr| address.port() != 0)
            .map(Self)
    }
}

struct HttpTarget(Uri);

impl Value for HttpTarget {
    const WANTED: &'static str = "a URL to check: write http://HOST:PORT/PATH, as in \"http://127.0.0.1:80/healthz\" (https can't be checked yet)";

    fn read(text: &str) -> Option<Self> {
        let url: Uri = text.parse().ok()?;
        let (authority, host) = (url.authority()?.as_str(), url.host()?);
        // What `Uri` lets pass here are credentials and ports beyond 65535.
        let plain = authority == host
            || url
                .port_u16()
                .is_some_and(|port| port != 0 && authority == format!("{host}:{port}"));
        (plain && !host.is_empty() && url.scheme_str() == Some("http")).then_some(Self(url))
    }
}
