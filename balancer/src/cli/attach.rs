//! `balancer attach`: the daemon.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Instance, block_on};
use crate::config::{CliOverrides, Identity, InterfaceName, Name, ServiceSpec, Source};
use crate::daemon;
use crate::datapath::Mode;

/// Balance: attach to interfaces, find the peers, run until SIGTERM
///
/// With no file and no --service it balances 80/tcp and 443/tcp. With no --identity the interfaces' own addresses are the
/// ones that clients use. What the flags say wins over the file.
#[derive(Args)]
pub struct Attach {
    /// Network interfaces, such as eth0
    #[arg(value_name = "IFACE", required_unless_present = "config")]
    interfaces: Vec<InterfaceName>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This server's name in the cluster [default: the host name]
    #[arg(long)]
    name: Option<Name>,
    /// A service: ports, then options, as in 80/tcp,443/tcp,name=www,capacity=500
    #[arg(long = "service", value_name = "SPEC")]
    services: Vec<ServiceSpec>,
    /// An address that clients use and whose home this server is, as in 10.0.0.101/24
    #[arg(long = "identity", value_name = "ADDR/LEN")]
    identities: Vec<Identity>,
    /// Cluster key; made if it isn't there [default: /etc/balancer/cluster.key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How to attach: auto is native where that is known to work
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// At the end leave everything in place, so that steered connections go on
    #[arg(long)]
    persist: bool,
}

impl Attach {
    pub fn run(self, instance: Instance) -> Result<()> {
        init_log();
        let flags = CliOverrides {
            name: self.name,
            interfaces: self.interfaces,
            services: self.services,
            identities: self.identities,
            keys: self.key.into_iter().collect(),
        };
        let (source, config) = Source::open(self.config, flags)?;
        let options = daemon::Options {
            config,
            source,
            mode: self.mode,
            pin_dir: instance.pin_dir,
            control: instance.control,
            persist: self.persist,
        };
        block_on(daemon::run(options))
    }
}

/// Logs go to standard error, as systemd and people expect them: one line each, `RUST_LOG` sets how much.
fn init_log() {
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format(move |out, record| {
            let level = record.level().as_str().to_lowercase();
            if under_systemd {
                writeln!(out, "{level}: {}", record.args())
            } else {
                writeln!(out, "{} {level}: {}", out.timestamp_millis(), record.args())
            }
        })
        .init();
}
