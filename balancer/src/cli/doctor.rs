//! `balancer doctor`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::table::table;
use super::{Instance, block_on, show};
use crate::config::{Config, InterfaceName};
use crate::datapath::Mode;
use crate::doctor::{self, Finding, State};

/// What of this host works for balancer, what doesn't, and what to do
///
/// Looks at the kernel, the interfaces and what the cluster needs, and changes nothing. Where something is to be done, the
/// line below says what to type. Exit code 1 if anything is bad.
#[derive(Args)]
pub struct Doctor {
    /// Interfaces [default: those that balancer is attached to, else the configuration's]
    #[arg(value_name = "IFACE")]
    interfaces: Vec<InterfaceName>,
    /// How balancer is to be attached
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cluster key [default: /etc/balancer/cluster.key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub fn run(self, instance: Instance) -> Result<()> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if let Some(key) = self.key {
            config.exchange.keys = vec![key];
        }
        let interfaces = self.interfaces.iter();
        let options = doctor::Options {
            interfaces: interfaces.map(|name| name.as_str().to_owned()).collect(),
            mode: self.mode,
            config,
            pin_dir: instance.pin_dir,
            control: instance.control,
        };
        block_on(async {
            let findings = doctor::examine(&options).await;
            show(self.json, &findings, |findings| text(findings))?;
            let bad = count(&findings, State::Bad);
            if bad > 0 {
                bail!("{bad} of {} checks found something bad", findings.len());
            }
            Ok(())
        })
    }
}

fn text(findings: &[Finding]) -> String {
    let mut rows = Vec::new();
    let mut last = "";
    for finding in findings {
        let subject = if finding.subject == last {
            String::new()
        } else {
            finding.subject.clone()
        };
        last = &finding.subject;
        let check = finding.check.to_owned();
        let state = finding.state.name().to_owned();
        rows.push(vec![subject, state, check, finding.found.clone()]);
        if let Some(cure) = &finding.cure {
            let empty = String::new;
            rows.push(vec![empty(), empty(), empty(), format!("> {cure}")]);
        }
    }
    let mut text = table(&["", "", "check", "found"], &rows, &[]);
    let (warnings, bad) = (count(findings, State::Warn), count(findings, State::Bad));
    text += &format!(
        "{} checks: {bad} bad, {warnings} to look at\n",
        findings.len()
    );
    text
}

fn count(findings: &[Finding], state: State) -> usize {
    findings
        .iter()
        .filter(|finding| finding.state == state)
        .count()
}
