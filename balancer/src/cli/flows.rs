//! `balancer flows`.

use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use balancer_common::table::{CLOSING, Flow, HALF_OPEN, NO_PEER, Place};
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
    /// Print JSON: an array with one flow a line
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
    /// Since its second packet.
    age_ms: u64,
    /// Since its last packet.
    idle_ms: u64,
    /// Its client has sent its FIN, or a reset.
    closing: bool,
}

impl Flows {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let maps = Maps::open(&instance.pin_dir)?;
        let names = instance.peer_names();
        let now = clock::monotonic();
        let mut out = BufWriter::new(io::stdout().lock());
        let view = maps.flows.view()?;
        let mut before = "[\n";
        for (place, flow) in view.flows() {
            let peer = if place.peer == NO_PEER {
                None
            } else {
                Some(names.of(maps.peers.get(&place.peer.into(), 0)?.id))
            };
            let known = known(place, &flow, peer, now.0);
            if self.json {
                write!(out, "{before}{}", serde_json::to_string(&known)?)?;
                before = ",\n";
            } else {
                writeln!(out, "{}", line(&known))?;
            }
        }
        if self.json {
            let end = if before.starts_with('[') { "[]" } else { "\n]" };
            writeln!(out, "{end}")?;
        } else {
            let half_open =
                |place: &Place| place.state == HALF_OPEN && !place.has_ended(now.0, true);
            writeln!(
                out,
                "half-open: {}",
                view.places().filter(half_open).count()
            )?;
        }
        Ok(out.flush()?)
    }
}

fn known(place: Place, flow: &Flow, peer: Option<String>, now: u64) -> KnownFlow {
    let key = &flow.key;
    KnownFlow {
        protocol: if key.protocol == u32::from(UDP) {
            "udp"
        } else {
            "tcp"
        },
        client: SocketAddr::new(IpAddr::from(key.client), key.client_port),
        destination: SocketAddr::new(IpAddr::from(key.identity), key.port),
        peer,
        age_ms: now.saturating_sub(flow.opened_ns) / 1_000_000,
        idle_ms: place.age_ms(now).into(),
        closing: place.state == CLOSING,
    }
}

fn line(flow: &KnownFlow) -> String {
    format!(
        "{} {:<21} -> {:<21}  {:<19} for {:>7}, idle {:>7}{}",
        flow.protocol,
        flow.client.to_string(),
        flow.destination.to_string(),
        flow.peer
            .as_ref()
            .map_or_else(|| "kept here".to_owned(), |peer| format!("to {peer}")),
        duration(flow.age_ms),
        duration(flow.idle_ms),
        if flow.closing { ", closing" } else { "" },
    )
}
