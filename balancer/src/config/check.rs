//! The check of a local service, as it is configured. `crate::health` carries it out.

use std::{fmt, net::SocketAddr, time::Duration};

use hyper::Uri;
use serde::Deserialize;
use toml::Spanned;

use super::{
    error::Problem,
    target::{Argument, Host, HttpUrl, HttpsUrl, Pattern, Program, Query, Target},
    value::{Interval, Value, value},
};

value!(Count);

/// Most steps of a dialog.
const STEPS_MAX: usize = 32;

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
    /// That it accepts a TCP connection, and answers as it should.
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What is said there, if anything.
        dialog: Vec<Step>,
    },
    /// That it does a TLS handshake, and answers as it should.
    Tls {
        /// Where.
        address: SocketAddr,
        /// The name that clients use. The certificate must be valid for it; without one, any will do.
        host: Option<Host>,
        /// What is said there, if anything.
        dialog: Vec<Step>,
    },
    /// That it answers a GET with 2xx or 3xx.
    Http {
        /// `http` or `https`, and with a host.
        url: Uri,
        /// The name that clients use, in place of the URL's. With `https` the certificate must be valid for it; without
        /// one, any will do.
        host: Option<Host>,
    },
    /// That it answers a DNS query over UDP with a record.
    Dns {
        /// Where.
        address: SocketAddr,
        /// What it is asked for.
        query: Query,
    },
    /// That a program ends with 0.
    Command(CommandLine),
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => write!(f, "tcp {address}"),
            Self::Tls { address, .. } => write!(f, "tls {address}"),
            Self::Http { url, .. } => write!(f, "{url}"),
            Self::Dns { address, query } => write!(f, "dns {address} for {query}"),
            Self::Command(command) => write!(f, "{command}"),
        }
    }
}

/// A step of a dialog with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say this.
    Send(String),
    /// Wait until what came after the last match has this in it.
    Expect(Pattern),
}

/// A program and what it is told. No shell reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Its whole path.
    pub program: String,
    /// What it is told.
    pub arguments: Vec<String>,
}

impl CommandLine {
    pub(super) fn new(program: Program, arguments: Vec<Argument>) -> Self {
        Self {
            program: program.0,
            arguments: arguments.into_iter().map(|Argument(text)| text).collect(),
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)
    }
}

/// `check = { ... }`
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: write it in braces, as in { tcp = \"127.0.0.1:80\" }"
)]
pub(super) struct CheckTable {
    tcp: Option<Target>,
    tls: Option<Target>,
    http: Option<HttpUrl>,
    https: Option<HttpsUrl>,
    dns: Option<Target>,
    command: Option<CommandTable>,
    dialog: Option<Spanned<Vec<Spanned<StepTable>>>>,
    host: Option<Spanned<Host>>,
    query: Option<Spanned<Query>>,
    every: Option<Interval>,
    timeout: Option<Interval>,
    rise: Option<Count>,
    fall: Option<Count>,
}

impl CheckTable {
    pub(super) fn resolve(table: Spanned<Self>) -> Result<Check, Problem> {
        let span = table.span();
        let mut table = table.into_inner();
        let dialog = table.dialog.take().map(dialog).transpose()?;
        let (mut dialog, mut host, mut query) = (dialog, table.host.take(), table.query.take());
        let mut words = || dialog.take().map_or_else(Vec::new, |(steps, _)| steps);
        let mut name = || host.take().map(Spanned::into_inner);
        let kind = match (
            table.tcp,
            table.tls,
            table.http,
            table.https,
            table.dns,
            table.command,
        ) {
            (Some(Target(address)), None, None, None, None, None) => CheckKind::Tcp {
                address,
                dialog: words(),
            },
            (None, Some(Target(address)), None, None, None, None) => CheckKind::Tls {
                address,
                host: name(),
                dialog: words(),
            },
            (None, None, Some(HttpUrl(url)), None, None, None)
            | (None, None, None, Some(HttpsUrl(url)), None, None) => {
                CheckKind::Http { url, host: name() }
            }
            (None, None, None, None, Some(Target(address)), None) => {
                let Some(query) = query.take().map(Spanned::into_inner) else {
                    let message =
                        "a dns check asks for a name: add one, as in query = \"www.example.com\"";
                    return Err(Problem::new(span, message));
                };
                CheckKind::Dns { address, query }
            }
            (None, None, None, None, None, Some(command)) => CheckKind::Command(command.resolve()?),
            _ => {
                return Err(Problem::new(
                    span,
                    "a check is of exactly one kind: write one of tcp, tls, http, https, dns and command, \
                     as in tcp = \"127.0.0.1:80\" or http = \"http://127.0.0.1:80/\"",
                ));
            }
        };
        // What is still there went with no part of it.
        let odd = [
            dialog.map(|(_, span)| (span, "dialog goes with tcp and tls")),
            host.map(|host| (host.span(), "host goes with http, https and tls")),
            query.map(|query| (query.span(), "query goes with dns")),
        ];
        if let Some((span, what)) = odd.into_iter().flatten().next() {
            return Err(Problem::new(span, format!("{what}: leave it out here")));
        }
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

/// `command = ["/usr/bin/check", "argument"]`
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct CommandTable(Spanned<Vec<Spanned<Argument>>>);

impl CommandTable {
    pub(super) fn resolve(self) -> Result<CommandLine, Problem> {
        let span = self.0.span();
        let mut words = self.0.into_inner().into_iter();
        let Some(first) = words.next() else {
            let message = "this command is empty: write a program and what it is told, as in [\"/usr/local/bin/check\", \"www\"]";
            return Err(Problem::new(span, message));
        };
        let program = first
            .get_ref()
            .0
            .parse()
            .map_err(|error| Problem::new(first.span(), error))?;
        Ok(CommandLine::new(
            program,
            words.map(Spanned::into_inner).collect(),
        ))
    }
}

/// `{ send = "..." }` or `{ expect = "..." }`
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a step: write it in braces, as in { send = \"QUIT\\r\\n\" } or { expect = '^220 ' }"
)]
struct StepTable {
    send: Option<String>,
    expect: Option<Pattern>,
}

fn dialog(
    steps: Spanned<Vec<Spanned<StepTable>>>,
) -> Result<(Vec<Step>, std::ops::Range<usize>), Problem> {
    let span = steps.span();
    let steps = steps.into_inner();
    if !(1..=STEPS_MAX).contains(&steps.len()) {
        let message = format!(
            "a dialog has 1 to {STEPS_MAX} steps, this one has {}",
            steps.len()
        );
        return Err(Problem::new(span, message));
    }
    let steps = steps.into_iter().map(|step| {
        let span = step.span();
        match step.into_inner() {
            StepTable {
                send: Some(text),
                expect: None,
            } => Ok(Step::Send(text)),
            StepTable {
                send: None,
                expect: Some(pattern),
            } => Ok(Step::Expect(pattern)),
            _ => Err(Problem::new(
                span,
                "a step either sends or expects: write { send = \"QUIT\\r\\n\" } or { expect = '^220 ' }",
            )),
        }
    });
    Ok((steps.collect::<Result<_, _>>()?, span))
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
