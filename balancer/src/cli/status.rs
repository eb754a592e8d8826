//! `balancer status`.

use anyhow::Result;
use clap::Args;

use super::table::{counters, duration, percent, table};
use super::{Instance, peers};
use crate::control::status::{Service, Status};

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
        if self.json {
            println!("{}", serde_json::to_string_pretty(&status)?);
        } else {
            print!("{}", text(&status));
        }
        Ok(())
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
    for warning in &status.warnings {
        text += &format!("WARNING: {warning}\n");
    }
    let head = [
        "service", "ports", "load", "conns", "new", "capacity", "cpu", "overload", "margin",
        "policy", "health",
    ];
    let rows: Vec<_> = status.services.iter().map(row).collect();
    text += &format!(
        "\nservices\n{}",
        table(&head, &rows, &[2, 3, 4, 5, 6, 7, 8])
    );
    text += &format!("\npeers\n{}", peers::text(&status.peers));
    text += "\npackets\n";
    for service in &status.services {
        text += &format!("  {}: {}\n", service.name, counters(&service.packets));
    }
    text += &format!("  other: {}\n", counters(&status.packets));
    text += &format!("\nexchange\n  {}\n", counters(&status.exchange));
    text
}

fn row(service: &Service) -> Vec<String> {
    let health = match (service.healthy, service.health.as_str()) {
        (true, _) => "ok".to_owned(),
        (false, reason) => format!("DOWN: {reason}"),
    };
    vec![
        service.name.clone(),
        service.ports.join(" "),
        percent(service.load),
        service.connections.to_string(),
        service.pending.to_string(),
        service.capacity.to_string(),
        percent(service.load_cpu),
        percent(service.overload),
        percent(service.margin),
        service.policy.clone(),
        health,
    ]
}
