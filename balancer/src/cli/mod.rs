//! The command line. One file a command.

mod attach;
mod check_config;
mod detach;
mod doctor;
mod drain;
mod explain;
mod flows;
mod keygen;
mod peers;
mod services;
mod set;
mod status;
mod table;
mod top;
mod trace;

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::cluster::ServerId;
use crate::control::{
    self, Answer, Request,
    status::{Peer, Status},
};

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

const OTHER_ANSWER: &str =
    "the daemon answered something else than was asked for: is it of another version?";

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
        // The undo journal goes by this name, and must be found again from any other directory.
        value_parser = PathBufValueParser::new().try_map(std::path::absolute),
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
    /// A live view: own load, peers, connections and packets a second
    Top,
    /// Change the configuration of the running daemon
    Set(set::Set),
    /// Send new connections to peers; open ones go on to their ends
    Drain(drain::DrainCommand),
    /// Take new connections again
    Undrain(drain::Undrain),
    /// This server: load, services, peers, counters
    Status(status::StatusCommand),
    /// The other servers
    Peers(peers::Peers),
    /// This server's services
    Services(services::Services),
    /// The flows that this server steers to peers
    Flows(flows::Flows),
    /// What becomes of a new connection, step by step
    Explain(explain::Explain),
    /// What of this host works for balancer, what doesn't, and what to do
    Doctor(doctor::Doctor),
    /// The decisions on new connections, one a line, as they are taken
    Trace(trace::Trace),
    /// Make a cluster key
    Keygen(keygen::Keygen),
    /// Check a configuration file
    CheckConfig(check_config::CheckConfig),
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        let instance = self.instance;
        if !matches!(self.command, Command::Attach(_)) {
            end_with_the_reader();
        }
        match self.command {
            Command::Attach(command) => command.run(instance),
            Command::Detach(command) => command.run(&instance),
            Command::Top => top::run(&instance),
            Command::Set(command) => command.run(&instance),
            Command::Drain(command) => command.run(&instance),
            Command::Undrain(command) => command.run(&instance),
            Command::Status(command) => command.run(&instance),
            Command::Peers(command) => command.run(&instance),
            Command::Services(command) => command.run(&instance),
            Command::Flows(command) => command.run(&instance),
            Command::Explain(command) => command.run(&instance),
            Command::Doctor(command) => command.run(instance),
            Command::Trace(command) => command.run(&instance),
            Command::Keygen(command) => command.run(),
            Command::CheckConfig(command) => command.run(),
        }
    }
}

/// Prints what a command found: JSON for programs, or a text for people.
fn show<T: Serialize>(json: bool, found: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(found)?);
    } else {
        print!("{}", text(found));
    }
    Ok(())
}

/// Runs `work` on this thread alone: what it does on the host goes by the thread's network namespace.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(work)
}

/// Lets `balancer ... | head` end as other commands do. The daemon must survive a reader of its log.
fn end_with_the_reader() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action is no handler that could do anything wrong.
    let result = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    debug_assert!(result.is_ok(), "SIGPIPE may be reset");
}

impl Instance {
    /// The daemon's status.
    fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(*status),
            _ => bail!(OTHER_ANSWER),
        }
    }

    /// Has the daemon do something.
    fn command(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            _ => bail!(OTHER_ANSWER),
        }
    }

    /// Asks the daemon, which must run.
    fn ask(&self, request: &Request) -> Result<Answer> {
        match control::ask(&self.control, request)? {
            Some(answer) => Ok(answer),
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

    /// The peers' names. Without a daemon there are none, and ids must do.
    fn peer_names(&self) -> PeerNames {
        PeerNames::of_peers(self.status().map(|status| status.peers).unwrap_or_default())
    }
}

/// Names of peers by their ids.
struct PeerNames(HashMap<String, String>);

impl PeerNames {
    fn of_peers(peers: Vec<Peer>) -> Self {
        Self(peers.into_iter().map(|peer| (peer.id, peer.name)).collect())
    }

    /// The name of the peer with this id, or the id itself.
    fn of(&self, id: u64) -> String {
        let id = ServerId(id).to_string();
        self.0.get(&id).cloned().unwrap_or(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_directory_is_the_same_from_everywhere() {
        let cli = Cli::parse_from(["balancer", "status", "--pin-dir", "./pins"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(cli.instance.pin_dir, here.join("pins"));
    }
}
