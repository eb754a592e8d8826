//! `[[http]]`: the web server that a service stands for, and by what its requests are routed. `crate::http` goes by it.

mod pattern;
mod rule;
mod table;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub(super) use self::table::{HttpTable, agree};
pub use self::{
    pattern::{HostPattern, PathPattern},
    rule::{Rule, RuleName, RuleRoute, Stateful},
};

use super::{
    Host, Name,
    value::{Value, value},
};

value!(Backend);

/// A service whose requests are routed one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The service: requests to its TCP ports are answered here.
    pub service: Name,
    /// The web server of this host that stands behind it.
    pub backend: Backend,
    /// What TLS clients are shown, by the name that they ask for; the first where they ask for none or for an unknown one.
    /// Empty if `tls_ports` is.
    pub certificates: Vec<Certificate>,
    /// Those of the service's ports where clients speak TLS.
    pub tls_ports: Vec<u16>,
    /// The hosts that requests may be for. Empty: any.
    pub hosts: Vec<HostPattern>,
    /// Host names that lead to this very server. The first is where redirects to it point. Each is among `hosts`.
    pub names: Vec<Host>,
    /// Paths that this server is dedicated to: peers are told of them.
    pub serves: Vec<PathPattern>,
    /// Proxies whose word is taken for the client's address (`X-Forwarded-For`, `Forwarded`).
    pub forwarded_from: Vec<IpNet>,
    /// The PROXY protocol, in and out.
    pub proxy_protocol: ProxyProtocol,
    /// What a client may ask of it.
    pub limits: Limits,
    /// How long it waits.
    pub timeouts: Timeouts,
    /// How requests are routed. No two have the same name.
    pub rules: Vec<Rule>,
}

impl Http {
    /// Its names, in lower case.
    pub fn own_names(&self) -> Vec<String> {
        let lower = |name: &Host| name.name().as_ref().to_ascii_lowercase();
        self.names.iter().map(lower).collect()
    }
}

/// Where the local web server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Value for Backend {
    const WANTED: &'static str = "a local web server: write ADDRESS:PORT or unix:PATH, as in \"127.0.0.1:8080\" or \"unix:/run/web.sock\"";

    fn read(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return (path.is_absolute() && !text.contains('\0')).then_some(Self::Unix(path));
        }
        let address: SocketAddr = text.parse().ok()?;
        let fits = address.port() != 0 && !address.ip().is_multicast();
        fits.then_some(Self::Tcp(address))
    }
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The certificate, and those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The PROXY protocol, versions 1 and 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Connections from these networks begin with its header, and no others do.
    pub from: Vec<IpNet>,
    /// Connections to the backend begin with its header, version 2.
    pub to_backend: bool,
}

/// What a client may ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of clients at a time. More wait to be accepted.
    pub connections: u32,
    /// Header lines of a request.
    pub headers: u32,
    /// Bytes of a request's line and headers.
    pub header_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            headers: 100,
            header_bytes: 32 * 1024,
        }
    }
}

/// How long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For all of a request's headers, and for a TLS handshake.
    pub header: Duration,
    /// For the next request on a connection.
    pub idle: Duration,
    /// For a connection to the backend or a peer.
    pub connect: Duration,
    /// For the headers of an answer.
    pub answer: Duration,
    /// For the next bytes of a body, either way.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            idle: Duration::from_mins(1),
            connect: Duration::from_secs(2),
            answer: Duration::from_mins(1),
            stall: Duration::from_secs(30),
        }
    }
}
