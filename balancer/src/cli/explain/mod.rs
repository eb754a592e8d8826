//! `balancer explain`.

mod http;

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use super::{Instance, show};
use crate::config::Protocol;
use crate::datapath::explain::{Explanation, Outcome, explain};
use crate::datapath::maps::Maps;
use crate::exchange::clock;

/// What becomes of a new connection, step by step
///
/// Goes by the maps of the attached program, at this moment. The steps have the numbers of the patent (S201 to S209).
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Explain {
    #[command(subcommand)]
    request: Option<What>,
    /// The client, as in 192.0.2.7:40000; an IPv6 address stands in brackets
    #[arg(value_name = "SRC:PORT", required = true)]
    source: Option<SocketAddr>,
    /// The identity and service that it connects to, as in 10.0.0.101:80
    #[arg(value_name = "DST:PORT", required = true)]
    destination: Option<SocketAddr>,
    /// The protocol
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    proto: Protocol,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    Http(http::Http),
}

impl Explain {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        if let Some(What::Http(request)) = &self.request {
            return request.run(instance);
        }
        let ends = self.source.zip(self.destination);
        let (from, to) = ends.context("name both ends: SRC:PORT DST:PORT")?;
        if from.is_ipv6() != to.is_ipv6() {
            bail!("no packet goes from {from} to {to}: name two IPv4 or two IPv6 addresses");
        }
        let maps = Maps::open(&instance.pin_dir)?;
        let names = instance.peer_names();
        let now = clock::monotonic();
        let explanation = explain(&maps, now, self.proto, from, to, |id| names.of(id))?;
        show(self.json, &explanation, text)
    }
}

fn text(explanation: &Explanation) -> String {
    let mut text = format!(
        "first packet {} -> {}/{}\n",
        explanation.client, explanation.destination, explanation.protocol
    );
    for step in &explanation.steps {
        text += &format!("  {:<5} {}\n", step.step, step.text);
    }
    let peer = explanation.peer.as_deref().unwrap_or_default();
    let verdict = match explanation.verdict {
        Outcome::Keep => "keep: this server serves it".to_owned(),
        Outcome::Steer => format!("steer to {peer}"),
        Outcome::Pass => "pass: not balancer's, the local stack deals with it".to_owned(),
    };
    text + &format!(
        "verdict: {verdict} ({})\n",
        explanation.reason.replace('_', " ")
    )
}
