//! `balancer flows`.

use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use balancer_common::types::{Flow, FlowKey};
use clap::Args;
use serde::Serialize;

use super::Instance;
use super::table::duration;
use crate::datapath::maps::Maps;
use crate::exchange::clock;

/// The flows that this server steers to peers
///
/// Straight from the maps of the attached programs: half-open ones, of which only first packets were seen, and the others.
#[derive(Args)]
pub struct Flows {
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct SteeredFlow {
    client: SocketAddr,
    destination: SocketAddr,
    peer: String,
    half_open: bool,
    /// Since its last packet.
    idle_ms: u64,
}

impl Flows {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let maps = Maps::open(&instance.pin_dir)?;
        let names = instance.peer_names();
        let now = clock::monotonic();
        let mut out = BufWriter::new(io::stdout().lock());
        for (half_open, map) in [(true, &maps.half_open), (false, &maps.flows)] {
            for entry in map {
                let (key, flow) = entry.context("cannot read the flows")?;
                // A flow moves from one map to the other with its second packet, and is in both for a moment.
                if half_open && maps.flows.get(&key, 0).is_ok() {
                    continue;
                }
                let peer = names.of(maps.peers.get(&flow.peer, 0)?.id);
                let steered = steered(&key, &flow, peer, half_open, now.0);
                if self.json {
                    writeln!(out, "{}", serde_json::to_string(&steered)?)?;
                } else {
                    writeln!(out, "{}", line(&steered))?;
                }
            }
        }
        Ok(out.flush()?)
    }
}

fn steered(key: &FlowKey, flow: &Flow, peer: String, half_open: bool, now: u64) -> SteeredFlow {
    SteeredFlow {
        client: SocketAddr::new(IpAddr::from(key.client), key.client_port),
        destination: SocketAddr::new(IpAddr::from(key.identity), key.port),
        peer,
        half_open,
        idle_ms: now.saturating_sub(flow.last_seen_ns) / 1_000_000,
    }
}

fn line(flow: &SteeredFlow) -> String {
    format!(
        "{:<21} -> {:<21}  to {:<16} idle {:>7}{}",
        flow.client.to_string(),
        flow.destination.to_string(),
        flow.peer,
        duration(flow.idle_ms),
        if flow.half_open { "  half-open" } else { "" }
    )
}
