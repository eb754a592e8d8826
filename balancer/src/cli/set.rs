//! `balancer set`.

use anyhow::{Result, bail};
use clap::Args;

use super::{Instance, OTHER_ANSWER};
use crate::config::{SHORT, Setting};
use crate::control::{Answer, Request};

/// Change the configuration of the running daemon: all of what is named, or nothing
#[derive(Args)]
#[command(after_help = keys())]
pub struct Set {
    /// What to change, as in overload=60% www.capacity=500
    #[arg(value_name = "KEY=VALUE", required = true)]
    settings: Vec<Setting>,
    /// Save it to the configuration file, too. Without, it is forgotten with SIGHUP and at the end
    #[arg(long)]
    save: bool,
}

impl Set {
    pub fn run(self, instance: &Instance) -> Result<()> {
        let settings: Vec<_> = self.settings.iter().map(ToString::to_string).collect();
        match instance.ask(&Request::Set(self.settings, self.save))? {
            Answer::Set(file) => {
                let kept = match file {
                    Some(file) => format!("saved in {}", file.display()),
                    None => "not saved (--save does)".into(),
                };
                println!("in effect: {}; {kept}", settings.join(" "));
                Ok(())
            }
            _ => bail!(OTHER_ANSWER),
        }
    }
}

fn keys() -> String {
    let short: Vec<_> = SHORT.iter().map(|(key, _)| *key).collect();
    format!(
        "Keys are those of the configuration file. For all services: {}.\nFor one: SERVICE.KEY, as in www.capacity, \
         www.policy, www.check.every. Others: TABLE.KEY, as in load.cpu.",
        short.join(", ")
    )
}
