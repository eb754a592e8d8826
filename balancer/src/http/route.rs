//! Who answers a request (S401 to S406).

use std::net::IpAddr;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri, Version};

use super::target::{Malformed, Target};
use super::view::View;
use crate::cluster::ServerId;
use crate::config::Http;

/// What is known of a request before its body.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target, as it came.
    pub uri: &'a Uri,
    /// Its headers, as they came.
    pub headers: &'a HeaderMap,
    /// Its version.
    pub version: Version,
    /// Who asks, as far as that can be believed.
    pub client: IpAddr,
    /// It came by TLS.
    pub tls: bool,
    /// A peer has routed it here already.
    pub relayed: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Who answers it.
    pub route: Route,
    /// What it is for: that is what the web server or the peer is asked. `None` if it is refused for not saying so.
    pub target: Option<Target>,
}

/// Who answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The web server of this host.
    Here,
    /// A peer: it is asked, and its answer passed on.
    Relay(ServerId),
    /// The client is sent there: a 307 with this `Location`.
    Redirect(HeaderValue),
    /// Nobody.
    Refuse(Refusal),
}

/// Why nobody answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It isn't clear what it is for.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// It asks for a tunnel.
    #[error("CONNECT isn't served here")]
    Connect,
    /// Its host is none of those that are served here.
    #[error("this host is not served here")]
    Host,
}

impl Refusal {
    /// What the client is answered.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(Malformed::Length) => StatusCode::URI_TOO_LONG,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
        }
    }
}

/// Routes the requests of one service.
pub struct Router {
    config: Http,
}

impl Router {
    /// By this configuration.
    pub fn new(config: Http) -> Self {
        Self { config }
    }

    /// Who answers the request. `now` is the time in seconds since 1970, `random` decides where several would do.
    pub fn route(&self, head: &Head<'_>, view: &View, now: u64, random: u64) -> Decision {
        let _ = (view, now, random);
        match self.target(head) {
            Ok(target) => Decision {
                route: Route::Here,
                target: Some(target),
            },
            Err(refusal) => Decision {
                route: Route::Refuse(refusal),
                target: None,
            },
        }
    }

    fn target(&self, head: &Head<'_>) -> Result<Target, Refusal> {
        if head.method == Method::CONNECT {
            return Err(Refusal::Connect);
        }
        let http10 = head.version <= Version::HTTP_10;
        let target = Target::of(head.method, head.uri, head.headers, http10)?;
        let hosts = &self.config.hosts;
        if !hosts.is_empty() && !hosts.iter().any(|host| host.matches(&target.host)) {
            return Err(Refusal::Host);
        }
        Ok(target)
    }
}
