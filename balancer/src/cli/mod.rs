//! The command line. One file a command.

mod attach;
mod check_config;
mod detach;
mod explain;
mod keygen;
mod peers;
mod status;
mod table;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::control::{self, Answer, Request, status::Status};

/// Peer-to-peer load balancer: every server runs it, and new connections go to the least loaded.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Start with `sudo balancer attach eth0` on each server."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    instance: Instance,
}

/// Which daemon a command is for. Only servers with several daemons need these.
#[derive(Args)]
struct Instance {
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", env = "BALANCER_CONTROL", default_value = control::DEFAULT_PATH,
          help_heading = "Where the daemon is")]
    control: PathBuf,
    /// Directory of the pinned maps, on a bpffs (one is mounted if it isn't)
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "BALANCER_PIN_DIR",
        default_value = "/sys/fs/bpf/balancer",
        help_heading = "Where the daemon is"
    )]
    pin_dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Balance: attach to interfaces, find the peers, run until SIGTERM
    Attach(attach::Attach),
    /// Stop balancing on interfaces and leave the host as it was
    Detach(detach::Detach),
    /// This server: load, services, peers, counters
    Status(status::StatusCommand),
    /// The other servers
    Peers(peers::Peers),
    /// What becomes of a new connection, step by step
    Explain(explain::Explain),
    /// Make a cluster key
    Keygen(keygen::Keygen),
    /// Check a configuration file
    CheckConfig(check_config::CheckConfig),
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        let instance = self.instance;
        match self.command {
            Command::Attach(command) => command.run(instance),
            Command::Detach(command) => command.run(&instance),
            Command::Status(command) => command.run(&instance),
            Command::Peers(command) => command.run(&instance),
            Command::Explain(command) => command.run(&instance),
            Command::Keygen(command) => command.run(),
            Command::CheckConfig(command) => command.run(),
        }
    }
}

impl Instance {
    /// The daemon's status.
    fn status(&self) -> Result<Status> {
        match control::ask(&self.control, &Request::Status)? {
            Some(Answer::Status(status)) => Ok(*status),
            Some(_) => {
                bail!("the daemon gave another answer than its status: is it of another version?")
            }
            None if self.pin_dir.join("PEERS").exists() => bail!(
                "no balancer is running, but its programs are attached and go on with what they have ({}): start it again \
                 with `balancer attach IFACE`, or remove them with `balancer detach IFACE`",
                self.pin_dir.display()
            ),
            None => bail!(
                "no balancer is running here (nobody listens at {}): start it with `sudo balancer attach IFACE`",
                self.control.display()
            ),
        }
    }
}
