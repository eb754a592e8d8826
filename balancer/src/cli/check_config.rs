//! `balancer check-config`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use super::table::duration;
use crate::config::{Config, Http, Name};
use crate::exchange::clock;
use crate::http::certificates;

/// Check a configuration file
#[derive(Args)]
pub struct CheckConfig {
    /// The file (TOML)
    file: PathBuf,
}

impl CheckConfig {
    pub fn run(&self) -> Result<()> {
        let config = Config::load(&self.file)?;
        for http in &config.http {
            certificates::check(http, clock::time_of_day())
                .with_context(|| format!("the [[http]] of {}", http.service))?;
        }
        println!("{}: fine", self.file.display());
        for service in &config.services {
            let ports: Vec<_> = service.ports.iter().map(ToString::to_string).collect();
            println!(
                "  service {}: {}; 100 % are {} connections; overload {}, margin {}, {}{}",
                service.name,
                ports.join(" "),
                service.capacity,
                service.levels.overload,
                service.levels.margin,
                service.levels.policy.name(),
                match &service.check {
                    Some(check) => format!(
                        "; checked by {} each {}",
                        check.kind,
                        duration(check.every.as_millis() as u64)
                    ),
                    None => "; no check".to_owned(),
                },
            );
            if let Some(http) = config.http_of(&service.name) {
                print!("{}", routing(http));
            }
        }
        Ok(())
    }
}

fn routing(http: &Http) -> String {
    let mut text = format!("    requests for {}\n", http.backend);
    for rule in &http.rules {
        let servers: Vec<_> = rule.servers.iter().map(Name::as_str).collect();
        text += &format!(
            "    rule {}: {}{}; {}; {}{}\n",
            rule.name,
            rule.host
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            rule.path,
            if servers.is_empty() {
                "those that serve it, or all".to_owned()
            } else {
                servers.join(" ")
            },
            rule.route.name(),
            rule.stateful
                .as_ref()
                .map_or_else(String::new, |stateful| format!(
                    "; stateful from {} to {}",
                    stateful.entry,
                    stateful.end.as_ref().map_or_else(
                        || format!("{} of silence", duration(stateful.time.as_millis() as u64)),
                        ToString::to_string
                    )
                )),
        );
    }
    text
}
