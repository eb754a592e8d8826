//! `balancer services`.

use anyhow::Result;
use clap::Args;

use super::table::{percent, table};
use super::{Instance, show};
use crate::control::status::Service;

/// This server's services
#[derive(Args)]
pub struct Services {
    /// Print JSON; loads are basis points (10,000 = 100 %)
    #[arg(long)]
    json: bool,
}

impl Services {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let services = instance.status()?.services;
        show(self.json, &services, |services| text(services))
    }
}

/// The services as a table.
pub fn text(services: &[Service]) -> String {
    let head = [
        "service", "ports", "load", "conns", "making", "new/s", "capacity", "queue", "rate",
        "host", "overload", "margin", "policy", "health",
    ];
    let rows: Vec<_> = services.iter().map(row).collect();
    let mut text = table(&head, &rows, &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    for service in services.iter().filter(|service| service.routed) {
        text += &format!(
            "  {}: requests are routed one by one; connections are steered only while it is down or draining here\n",
            service.name
        );
    }
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
        format!("{:.1}", service.connections_per_second),
        service.capacity.to_string(),
        percent(service.load_accept_queue),
        service.load_rate.map_or_else(|| "-".into(), percent),
        percent(service.load_host),
        percent(service.overload),
        percent(service.margin),
        service.policy.clone(),
        health,
    ]
}
