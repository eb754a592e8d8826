//! `balancer status`.

use anyhow::Result;
use clap::Args;

use super::table::{counters, duration, percent, table};
use super::{Instance, drain, peers, services, show};
use crate::control::status::Status;

/// This server: load, services, peers, counters
#[derive(Args)]
pub struct StatusCommand {
    /// Print JSON; loads are basis points (10,000 = 100 %)
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let status = instance.status()?;
        show(self.json, &status, text)
    }
}

fn text(status: &Status) -> String {
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
    format!(
        "\nhost (measuring takes {} us, ten times a second)\n{}",
        status.sample_cost_us,
        table(&["part", "measured", "weight", "counts"], &rows, &[1, 2, 3])
    )
}
