//! `balancer flows`.

use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use balancer_common::types::{Flow, FlowKey, KEPT};
use balancer_common::wire::UDP;
use clap::Args;
use serde::Serialize;

use super::Instance;
use super::table::duration;
use crate::datapath::maps::Maps;
use crate::exchange::clock;

/// The flows that this server steers to peers, and UDP flows that it keeps
///
/// Straight from the maps of the attached programs. Flows of which only first packets were seen are known by a hash alone:
/// the last line says how many there are.
#[derive(Args)]
pub struct Flows {
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct KnownFlow {
    protocol: &'static str,
    client: SocketAddr,
    destination: SocketAddr,
    /// None: it is kept here.
    peer: Option<String>,
    /// Since its last packet.
    idle_ms: u64,
}

impl Flows {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let maps = Maps::open(&instance.pin_dir)?;
        let names = instance.peer_names();
        let now = clock::monotonic();
        let mut out = BufWriter::new(io::stdout().lock());
        for entry in &maps.flows {
            let (key, flow) = entry.context("cannot read the flows")?;
            let peer = if flow.peer == KEPT {
                None
            } else {
                Some(names.of(maps.peers.get(&flow.peer, 0)?.id))
            };
            let known = known(&key, &flow, peer, now.0);
            if self.json {
                writeln!(out, "{}", serde_json::to_string(&known)?)?;
            } else {
                writeln!(out, "{}", line(&known))?;
            }
        }
        if !self.json {
            writeln!(out, "half-open: {}", maps.half_open.count(now.0)?)?;
        }
        Ok(out.flush()?)
    }
}

fn known(key: &FlowKey, flow: &Flow, peer: Option<String>, now: u64) -> KnownFlow {
    KnownFlow {
        protocol: if key.protocol == u32::from(UDP) {
            "udp"
        } else {
            "tcp"
        },
        client: SocketAddr::new(IpAddr::from(key.client), key.client_port),
        destination: SocketAddr::new(IpAddr::from(key.identity), key.port),
        peer,
        idle_ms: now.saturating_sub(flow.last_seen_ns) / 1_000_000,
    }
}

fn line(flow: &KnownFlow) -> String {
    format!(
        "{} {:<21} -> {:<21}  {:<19} idle {:>7}",
        flow.protocol,
        flow.client.to_string(),
        flow.destination.to_string(),
        flow.peer
            .as_ref()
            .map_or_else(|| "kept here".to_owned(), |peer| format!("to {peer}")),
        duration(flow.idle_ms),
    )
}
