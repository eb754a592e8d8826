//! `balancer status`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::table::{counters, duration, percent, table};
use super::{Instance, drain, peers, services, show};
use crate::control::status::Status;
use crate::datapath::tables::Tables;

/// This server: load, services, peers, counters
#[derive(Args)]
pub struct StatusCommand {
    /// Print JSON; loads are basis points (10,000 = 100 %)
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let shown = Shown {
            status: instance.status()?,
            tables: Tables::of(&instance.pin_dir).ok(),
        };
        show(self.json, &shown, text)
    }
}

/// What the daemon knows, and what is counted for this command alone.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: Status,
    /// None: the daemon has its pins elsewhere.
    tables: Option<Tables>,
}

/// Changes shown.
const RECENT: usize = 10;

fn text(Shown { status, tables }: &Shown) -> String {
    let interfaces: Vec<_> = status
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.mode.name()))
        .collect();
    let identities: Vec<_> = status.identities.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{}: load {}, on {}, identities {}\nbalancer {}, up {}, pid {}, a report each {}, off-line after {} of silence\n",
        status.name,
        percent(status.load()),
        interfaces.join(", "),
        identities.join(", "),
        status.version,
        duration(status.uptime_ms),
        status.pid,
        duration(status.period_ms),
        duration(status.timeout_ms),
    );
    if let Some(drain) = &status.drain {
        text += &format!(
            "DRAINING for {}; left: {}\n",
            duration(drain.for_ms),
            drain::left(drain)
        );
    }
    for warning in &status.warnings {
        text += &format!("WARNING: {warning}\n");
    }
    text += &load(status);
    text += &format!("\nservices\n{}", services::text(&status.services));
    text += &format!("\npeers\n{}", peers::text(&status.peers));
    text += &format!("\nidentities\n{}", peers::holders(&status.holders));
    let recent: Vec<_> = status.changes.iter().rev().take(RECENT).collect();
    if !recent.is_empty() {
        text += "\nlast changes (all with --json)\n";
        for change in recent.iter().rev() {
            text += &format!("  {:>7} ago  {}\n", duration(change.ago_ms), change.text);
        }
    }
    if let Some(tables) = tables {
        text += &format!(
            "\nflows\n  room for {}; the maps take {} MiB of kernel memory\n",
            tables.flows_size,
            tables.memory >> 20,
        );
    }
    if status
        .services
        .iter()
        .any(|service| !service.requests.is_empty())
    {
        text += "\nrequests\n";
        for service in status
            .services
            .iter()
            .filter(|service| !service.requests.is_empty())
        {
            text += &format!("  {}: {}\n", service.name, counters(&service.requests));
        }
    }
    text += "\npackets\n";
    for service in &status.services {
        text += &format!("  {}: {}\n", service.name, counters(&service.packets));
    }
    text += &format!("  other: {}\n", counters(&status.packets));
    text += &format!("\nexchange\n  {}\n", counters(&status.exchange));
    text
}

/// What the host's load is made of.
fn load(status: &Status) -> String {
    let rows: Vec<_> = status
        .load_parts
        .iter()
        .map(|part| {
            vec![
                part.name.clone(),
                percent(part.measured),
                percent(part.weight),
                percent(part.load),
            ]
        })
        .collect();
    let uptime = Duration::from_millis(status.uptime_ms.max(1));
    let share = Duration::from_micros(status.sampling_us).div_duration_f64(uptime);
    format!(
        "\nhost (measuring takes {:.2} % of one CPU)\n{}",
        share * 100.0,
        table(&["part", "measured", "weight", "counts"], &rows, &[1, 2, 3])
    )
}
