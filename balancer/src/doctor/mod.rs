//! What works on this host, what doesn't, and what to do about it: `balancer doctor`. It changes nothing.
//!
//! Each file has one subject: it reads facts, and judges them by functions that only see these.

mod card;
mod cluster;
mod firewall;
mod interface;
mod kernel;
mod link;
mod native;
mod offload;
mod role;
mod sysctl;

use std::path::PathBuf;

use serde::Serialize;

use self::interface::Plan;
use self::link::Link;
use crate::config::Config;
use crate::control::status::Status;
use crate::control::{self, Answer, Request};
use crate::datapath::{self, Mode};

/// What is to be examined.
pub struct Options {
    /// The interfaces; none: those that balancer is attached to, else the configuration's.
    pub interfaces: Vec<String>,
    /// How they are to be attached, where they aren't yet.
    pub mode: Mode,
    /// What the daemon runs with, or is to run with.
    pub config: Config,
    /// Where its maps are pinned.
    pub pin_dir: PathBuf,
    /// Its control socket.
    pub control: PathBuf,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It may do harm, or costs speed.
    Warn,
    /// balancer can't work so.
    Bad,
}

impl State {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was examined: `host`, `cluster`, or an interface.
    pub subject: String,
    /// How bad it is.
    pub state: State,
    /// What was looked at.
    pub check: &'static str,
    /// What was found, and why it matters.
    pub found: String,
    /// What to type, where something is to be done.
    pub cure: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            subject: String::new(),
            state: State::Ok,
            check,
            found: found.into(),
            cure: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            state: State::Warn,
            cure: Some(cure.into()),
            ..Self::ok(check, found)
        }
    }

    fn bad(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            state: State::Bad,
            ..Self::warn(check, found, cure)
        }
    }
}

/// Examines the host, the interfaces and what the cluster needs, in this order.
///
/// Must be called within a tokio runtime of one thread: what is read goes by this thread's network namespace.
pub async fn examine(options: &Options) -> Vec<Finding> {
    let daemon = ask(options);
    let mut findings = about("host", kernel::examine());
    let attached = datapath::attached(&options.pin_dir).unwrap_or_default();
    let names = names(options, &attached);
    match Link::all().await {
        Err(error) => {
            let unseen = Finding::bad("interfaces", format!("{error:#}"), "sudo balancer doctor");
            findings.extend(about("host", vec![unseen]));
        }
        Ok(links) if names.is_empty() => {
            findings.extend(about("host", vec![no_interface(&links)]));
        }
        Ok(links) => {
            let others = links.iter().filter(|link| {
                let addressed = link.ethernet && link.up && link.controller.is_none();
                addressed && !names.contains(&link.name)
            });
            let others = others.map(|link| link.name.as_str());
            let others = sysctl::others(others, !attached.is_empty());
            findings.extend(about("host", vec![others]));
            for name in &names {
                let plan = Plan {
                    attached: attached.contains(name),
                    mode: options.mode,
                    interfaces: names.len(),
                };
                findings.extend(about(name, interface::examine(name, plan, &links).await));
            }
        }
    }
    let found = cluster::examine(options, daemon.as_ref(), &names).await;
    findings.extend(about("cluster", found));
    findings
}

fn about(subject: &str, findings: Vec<Finding>) -> Vec<Finding> {
    let of = |finding| Finding {
        subject: subject.to_owned(),
        ..finding
    };
    findings.into_iter().map(of).collect()
}

fn ask(options: &Options) -> Option<Status> {
    match control::ask(&options.control, &Request::Status) {
        Ok(Some(Answer::Status(status))) => Some(*status),
        _ => None,
    }
}

fn names(options: &Options, attached: &[String]) -> Vec<String> {
    if !options.interfaces.is_empty() {
        return options.interfaces.clone();
    }
    if !attached.is_empty() {
        return attached.to_vec();
    }
    let configured = &options.config.server.interfaces;
    configured
        .iter()
        .map(|name| name.as_str().to_owned())
        .collect()
}

fn no_interface(links: &[Link]) -> Finding {
    let ethernet = || links.iter().filter(|link| link.ethernet);
    let first = ethernet()
        .find(|link| link.carrier)
        .or_else(|| ethernet().next());
    let names: Vec<_> = ethernet().map(|link| link.name.as_str()).collect();
    match first {
        None => Finding::bad(
            "interfaces",
            "there is no Ethernet interface here: balancer has nothing to attach to",
            "ip link",
        ),
        Some(first) => Finding::warn(
            "interfaces",
            format!(
                "none was named, so none was examined; there are: {}",
                names.join(", ")
            ),
            format!("balancer doctor {}", first.name),
        ),
    }
}
