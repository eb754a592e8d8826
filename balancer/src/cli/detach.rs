//! `balancer detach`.

use anyhow::{Result, bail};
use clap::Args;

use super::{Instance, OTHER_ANSWER, block_on};
use crate::config::InterfaceName;
use crate::control::{self, Answer, Request};
use crate::daemon;
use crate::datapath;

/// Stop balancing on interfaces and leave the host as it was
///
/// All interfaces that it is attached to must be named; the daemon ends. Works as well where a daemon was killed or left things in place.
#[derive(Args)]
pub struct Detach {
    /// The interfaces
    #[arg(value_name = "IFACE", required = true)]
    interfaces: Vec<InterfaceName>,
}

impl Detach {
    pub fn run(self, instance: &Instance) -> Result<()> {
        let names: Vec<_> = self
            .interfaces
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect();
        match control::ask(&instance.control, &Request::Detach(names.clone()))? {
            Some(Answer::Done) => return Ok(()),
            Some(_) => bail!(OTHER_ANSWER),
            None => {}
        }
        let attached = datapath::attached(&instance.pin_dir)?;
        let missing = names.iter().find(|name| !attached.contains(name));
        // One that was killed before it was attached has left things in place all the same.
        let began = attached.is_empty() && block_on(daemon::has_left_changes(&instance.pin_dir))?;
        if let Some(name) = missing.filter(|_| !began) {
            bail!(
                "balancer is not attached to {name} ({} has {})",
                instance.pin_dir.display(),
                if attached.is_empty() {
                    "nothing".into()
                } else {
                    attached.join(", ")
                }
            );
        }
        if !attached.iter().all(|name| names.contains(name)) {
            bail!(
                "balancer leaves all its interfaces at a time: `balancer detach {}`",
                attached.join(" ")
            );
        }
        block_on(daemon::restore(&instance.pin_dir))?;
        control::forget(&instance.control)
    }
}
