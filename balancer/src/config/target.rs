//! What is asked, and where: addresses, URLs, names, patterns, programs.

use std::{fmt, net::SocketAddr};

use hyper::Uri;
use regex::bytes::{Regex, RegexBuilder};
use rustls::pki_types::DnsName;

use super::value::{Value, value};

value!(
    Argument, Host, HttpUrl, HttpsUrl, Pattern, Program, Query, Target
);

/// Longest label of a name in the DNS, and longest name, in bytes (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 253;

/// Types of DNS records that can be asked for, with their numbers (RFC 1035 section 3.2.2, RFC 3596, RFC 2782).
const RECORDS: [(&str, u16); 8] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
];

/// An address with a port.
#[derive(Clone, Copy)]
pub(super) struct Target(pub(super) SocketAddr);

impl Value for Target {
    const WANTED: &'static str =
        "an address to check: write ADDRESS:PORT, as in \"127.0.0.1:80\" or \"[::1]:80\"";

    fn read(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|address: &SocketAddr| address.port() != 0)
            .map(Self)
    }
}

/// A URL with the scheme `http` and a host.
#[derive(Clone)]
pub(super) struct HttpUrl(pub(super) Uri);

impl Value for HttpUrl {
    const WANTED: &'static str =
        "a URL to ask: write http://HOST:PORT/PATH, as in \"http://127.0.0.1:80/healthz\"";

    fn read(text: &str) -> Option<Self> {
        url(text, "http").map(Self)
    }
}

/// A URL with the scheme `https` and a host.
#[derive(Clone)]
pub(super) struct HttpsUrl(pub(super) Uri);

impl Value for HttpsUrl {
    const WANTED: &'static str =
        "a URL to ask: write https://HOST:PORT/PATH, as in \"https://127.0.0.1:443/healthz\"";

    fn read(text: &str) -> Option<Self> {
        url(text, "https").map(Self)
    }
}

fn url(text: &str, scheme: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let (authority, host) = (url.authority()?.as_str(), url.host()?);
    // What `Uri` lets pass here are credentials and ports beyond 65535.
    let plain = authority == host
        || url
            .port_u16()
            .is_some_and(|port| port != 0 && authority == format!("{host}:{port}"));
    (plain && !host.is_empty() && url.scheme_str() == Some(scheme)).then_some(url)
}

/// The name by which clients know a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(DnsName<'static>);

impl Host {
    /// As TLS has it.
    pub fn name(&self) -> &DnsName<'static> {
        &self.0
    }
}

impl Value for Host {
    const WANTED: &'static str =
        "a host name: write the one that clients use, as in \"www.example.com\"";

    fn read(text: &str) -> Option<Self> {
        DnsName::try_from(text.to_owned()).ok().map(Self)
    }
}

/// What a DNS server is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    name: String,
    record: (&'static str, u16),
}

impl Query {
    /// The labels of the name. None: the root.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.name.split('.').filter(|label| !label.is_empty())
    }

    /// The number of the record's type.
    pub fn record(&self) -> u16 {
        self.record.1
    }
}

impl Value for Query {
    const WANTED: &'static str = "a query: write a name, and the type of the record if it isn't A (NS, CNAME, SOA, MX, TXT, AAAA or SRV), \
                                  as in \"www.example.com\" or \"example.com SOA\"";

    fn read(text: &str) -> Option<Self> {
        let (name, record) = text.split_once(' ').unwrap_or((text, "A"));
        let record = *RECORDS.iter().find(|(known, _)| *known == record)?;
        let labels = name.strip_suffix('.').unwrap_or(name);
        let fits = |label: &str| {
            (1..=LABEL_MAX).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let root = name == ".";
        (root || (labels.len() <= NAME_MAX && labels.split('.').all(fits))).then(|| Self {
            name: labels.to_owned(),
            record,
        })
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.name, self.record.0)
    }
}

/// A regular expression for what a server says; `^` and `$` are a line's beginning and end.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// For use.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Value for Pattern {
    const WANTED: &'static str =
        "a regular expression for what the server says: as in '^220 ', or '^\\+PONG'";

    fn read(text: &str) -> Option<Self> {
        let regex = RegexBuilder::new(text)
            .multi_line(true)
            .crlf(true)
            .size_limit(1 << 20)
            .build();
        regex.ok().map(Self)
    }
}

/// The whole path of a program.
#[derive(Clone)]
pub(super) struct Program(pub(super) String);

impl Value for Program {
    const WANTED: &'static str = "a program: write its whole path, as in [\"/usr/local/bin/check\", \"www\"]. No shell reads it; \
                                  if it takes one, write [\"/bin/sh\", \"-c\", \"...\"]";

    fn read(text: &str) -> Option<Self> {
        (text.starts_with('/') && !text.ends_with('/')).then(|| Self(text.to_owned()))
    }
}

/// What a program is told.
#[derive(Clone)]
pub(super) struct Argument(pub(super) String);

impl Value for Argument {
    const WANTED: &'static str = "an argument of a command: write it without a zero byte";

    fn read(text: &str) -> Option<Self> {
        (!text.contains('\0')).then(|| Self(text.to_owned()))
    }
}
