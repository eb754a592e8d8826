//! `balancer check-config`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::table::duration;
use crate::config::Config;

/// Check a configuration file
#[derive(Args)]
pub struct CheckConfig {
    /// The file (TOML)
    file: PathBuf,
}

impl CheckConfig {
    pub fn run(&self) -> Result<()> {
        let config = Config::load(&self.file)?;
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
        }
        Ok(())
    }
}
