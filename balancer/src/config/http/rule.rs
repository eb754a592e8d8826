//! `[[http.rule]]`: which servers get which requests, and how.

use std::fmt;
use std::time::Duration;

use hyper::Method;

use super::{HostPattern, PathPattern};
use crate::config::{
    Name,
    value::{Value, value},
};

value!(MethodName, RuleName, RuleRoute);

/// How requests of one kind are routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is called.
    pub name: RuleName,
    /// The host that they are for. `None`: any.
    pub host: Option<HostPattern>,
    /// Their path.
    pub path: PathPattern,
    /// Their methods. Empty: any.
    pub methods: Vec<Method>,
    /// The servers dedicated to them. Empty: those that say that they serve this path, and if there are none, all.
    pub servers: Vec<Name>,
    /// How a request gets to another server.
    pub route: RuleRoute,
    /// They are steps of a transaction, which stays on one server.
    pub stateful: Option<Stateful>,
}

/// The fifth embodiment of WO 99/18534: a transaction with one server, from an entry to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stateful {
    /// Where it begins. Up to here a request may be routed; further down it stays with the server of the transaction.
    pub entry: PathPattern,
    /// Where it ends: once this was served, a request may be routed again. `None`: it ends by time alone.
    pub end: Option<PathPattern>,
    /// It ends after so long without a request.
    pub time: Duration,
    /// Its server is in a cookie. Else it is found by the client's address.
    pub cookie: bool,
}

impl Stateful {
    /// [`Stateful::time`] where none is given.
    pub(super) const DEFAULT_TIME: Duration = Duration::from_mins(30);
}

/// Name of a rule: 1 to 32 bytes that may be part of a cookie's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName(String);

impl RuleName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for RuleName {
    const WANTED: &'static str =
        "the name of a rule: write 1 to 32 letters, digits, - and _, as in \"banking\"";

    fn read(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        ((1..=32).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a request gets to another server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleRoute {
    /// This server asks the other one and passes the answer on.
    #[default]
    Relay,
    /// The client is sent to the other one's own name (RFC 9110 section 15.4.8).
    Redirect,
    /// The client's connection moves to the other one, which answers directly; where it can't, the request is relayed.
    Handoff,
}

impl RuleRoute {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Redirect => "redirect",
            Self::Handoff => "handoff",
        }
    }
}

impl Value for RuleRoute {
    const WANTED: &'static str =
        "a way to another server: write \"relay\", \"redirect\" or \"handoff\"";

    fn read(text: &str) -> Option<Self> {
        [Self::Relay, Self::Redirect, Self::Handoff]
            .into_iter()
            .find(|route| route.name() == text)
    }
}

/// A request's method.
pub(super) struct MethodName(pub(super) Method);

impl Value for MethodName {
    const WANTED: &'static str = "a method: write it in capitals, as in \"GET\"";

    fn read(text: &str) -> Option<Self> {
        let capitals = !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        (capitals && text != "CONNECT")
            .then(|| Method::from_bytes(text.as_bytes()).ok().map(Self))?
    }
}
