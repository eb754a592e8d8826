//! `balancer drain` and `balancer undrain`.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::Instance;
use super::table::plural;
use crate::control::Request;
use crate::control::status::{Drain, Status};

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(500);

/// Send new connections to peers; open ones go on to their ends
///
/// Once nothing is left, this server may be switched off. A drain outlasts the daemon, but neither `balancer detach` nor a
/// reboot. Where no peer can take a connection, this server goes on serving them, and `--wait` waits for such a peer.
#[derive(Args)]
pub struct DrainCommand {
    /// Return once nothing is left: no connection open here, and none on a peer that comes by way of this server
    #[arg(long)]
    wait: bool,
}

impl DrainCommand {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        instance.command(&Request::Drain(true))?;
        let status = instance.status()?;
        for warning in &status.warnings {
            eprintln!("WARNING: {warning}");
        }
        println!("draining: new connections go to peers");
        let mut drain = of(status)?;
        let mut said = String::new();
        loop {
            let left = left(&drain);
            if left != said {
                println!("left: {left}");
                said = left;
            }
            if !self.wait {
                return Ok(());
            }
            if drain.ended {
                println!("this server may be switched off");
                return Ok(());
            }
            thread::sleep(PAUSE);
            drain = of(instance.status()?)?;
        }
    }
}

/// Take new connections again
#[derive(Args)]
pub struct Undrain {
    /// Return once peers may send connections here again: as soon as this server says so, which is at once
    #[arg(long)]
    wait: bool,
}

impl Undrain {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let draining = instance.status()?.drain.is_some();
        instance.command(&Request::Drain(false))?;
        while self.wait && instance.status()?.drain.is_some() {
            thread::sleep(PAUSE);
        }
        println!(
            "{}",
            if draining {
                "this server takes new connections again"
            } else {
                "this server was not draining"
            }
        );
        Ok(())
    }
}

/// What a drain waits for, in words.
pub fn left(drain: &Drain) -> String {
    if drain.ended {
        return "nothing".into();
    }
    let mut parts = vec![
        format!("{} here", plural(drain.connections, "connection")),
        format!("{} on peers", drain.steered),
    ];
    if !drain.stranded.is_empty() {
        let services = drain.stranded.join(" and ");
        parts.push(format!("new ones of {services} until a peer can take them"));
    }
    if !drain.unheard.is_empty() {
        parts.push(format!("{} not counted yet", drain.unheard.join(" and ")));
    }
    if parts.len() == 2 && drain.connections == 0 && drain.steered == 0 {
        parts.push("new ones came by way of this server in the last seconds".into());
    }
    parts.join(", ")
}

fn of(status: Status) -> Result<Drain> {
    match status.drain {
        Some(drain) => Ok(drain),
        None => bail!("somebody has ended the drain (`balancer undrain`)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_left() {
        let mut drain = Drain {
            for_ms: 1_000,
            connections: 1,
            steered: 2,
            unheard: vec!["web2".into(), "web3".into()],
            stranded: Vec::new(),
            settled: false,
            ended: false,
        };
        assert_eq!(
            left(&drain),
            "1 connection here, 2 on peers, web2 and web3 not counted yet"
        );
        drain.unheard.clear();
        assert_eq!(left(&drain), "1 connection here, 2 on peers");
        (drain.connections, drain.steered) = (0, 0);
        assert_eq!(
            left(&drain),
            "0 connections here, 0 on peers, new ones came by way of this server in the last seconds"
        );
        drain.stranded = vec!["www".into(), "dns".into()];
        assert_eq!(
            left(&drain),
            "0 connections here, 0 on peers, new ones of www and dns until a peer can take them"
        );
        drain.ended = true;
        assert_eq!(left(&drain), "nothing");
    }
}
