//! The user's own measure of load, as it is configured. `crate::load` carries it out.

use std::time::Duration;

use hyper::Uri;
use serde::Deserialize;
use toml::Spanned;

use super::{
    check::{CommandLine, CommandTable},
    error::Problem,
    level::{Level, Weight},
    target::{Host, HttpUrl, HttpsUrl},
    value::Interval,
};

/// A command or a URL that says a number, in percent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadProbe {
    /// What is asked.
    pub source: LoadSource,
    /// From the start of one measurement to the start of the next.
    pub every: Duration,
    /// How long one may take in all.
    pub timeout: Duration,
    /// What its number counts.
    pub weight: Level,
}

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadSource {
    /// What a program prints.
    Command(CommandLine),
    /// What a web server answers.
    Http {
        /// `http` or `https`, and with a host.
        url: Uri,
        /// As for a check.
        host: Option<Host>,
    },
}

/// `probe = { ... }`
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: write it in braces, as in { command = [\"/usr/local/bin/load\"] }"
)]
pub(super) struct LoadProbeTable {
    command: Option<CommandTable>,
    http: Option<HttpUrl>,
    https: Option<HttpsUrl>,
    host: Option<Spanned<Host>>,
    every: Option<Interval>,
    timeout: Option<Interval>,
    weight: Option<Weight>,
}

impl LoadProbeTable {
    pub(super) fn resolve(table: Spanned<Self>) -> Result<LoadProbe, Problem> {
        let span = table.span();
        let table = table.into_inner();
        let source = match (table.command, table.http, table.https) {
            (Some(command), None, None) => {
                if let Some(host) = table.host {
                    let message = "host goes with http and https: leave it out here";
                    return Err(Problem::new(host.span(), message));
                }
                LoadSource::Command(command.resolve()?)
            }
            (None, Some(HttpUrl(url)), None) | (None, None, Some(HttpsUrl(url))) => {
                LoadSource::Http {
                    url,
                    host: table.host.map(Spanned::into_inner),
                }
            }
            _ => {
                return Err(Problem::new(
                    span,
                    "a probe is of exactly one kind: write one of command, http and https, \
                     as in command = [\"/usr/local/bin/load\"] or http = \"http://127.0.0.1:80/load\"",
                ));
            }
        };
        let (every, timeout) = (Duration::from_secs(1), Duration::from_millis(500));
        Ok(LoadProbe {
            source,
            every: table.every.map_or(every, Interval::duration),
            timeout: table.timeout.map_or(timeout, Interval::duration),
            weight: table.weight.map_or(Level::FULL, Weight::level),
        })
    }
}
