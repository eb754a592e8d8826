//! Takeover and hand-back, balancer beside keepalived: for how long clients get no answer, and which connections break.
//!
//! Three servers with nginx, the first of which holds the address that clients use; a new connection each 2 ms, and 50 that
//! are open all the while. Both systems take turns, run after run, since the machine may have other work.

mod client;
mod cluster;
mod fault;
mod table;
mod targets;

use std::time::Duration;

use anyhow::{Context as _, Result};
use balancer_tests::Lab;
use clap::Parser;

use self::cluster::{Cluster, SERVERS, System};
use self::fault::Fault;
use self::table::Results;
use self::targets::Judgement;

/// From one report to the next, in milliseconds.
const INTERVALS: [u64; 3] = [500, 100, 10];
/// The interval at which daemons are stopped, killed and replaced.
const OF_DAEMONS: u64 = 100;

/// Measures takeover and hand-back. Needs root; run it as `cargo xtask bench failover`.
#[derive(Parser)]
struct Arguments {
    /// How often all of it is done; two minutes each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Only once, and without the slow reports
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut lab = Lab::new(SERVERS as u8).context("this needs root")?;
    lab.client
        .shell("sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range='1024 65535'");
    let runs = if arguments.quick { 1 } else { arguments.runs };
    let mut results = Results::default();
    for run in 1..=runs {
        for millis in INTERVALS {
            if arguments.quick && millis > OF_DAEMONS {
                continue;
            }
            for system in System::ALL {
                eprintln!("run {run} of {runs}: {}, {millis} ms", system.name());
                measure(&mut lab, system, millis, &mut results);
            }
        }
    }
    println!("{results}");
    print!("{}", Judgement(&results));
    Ok(())
}

/// One run of one system with one interval.
fn measure(lab: &mut Lab, system: System, millis: u64, results: &mut Results) {
    let interval = Duration::from_millis(millis);
    let mut cluster = Cluster::start(lab, system, interval);
    let mut happen = |cluster: &mut Cluster, faults: &[Fault]| {
        for &fault in faults.iter().filter(|fault| fault.is_of(system)) {
            let outcome = fault.happen(cluster, interval);
            results.add(fault, millis, system, outcome);
        }
    };
    if millis == OF_DAEMONS {
        // What it does on the host is to outlast it now.
        cluster.end_first();
        cluster.start_first(true);
        cluster.wait();
        happen(&mut cluster, &Fault::OF_DAEMONS);
    }
    happen(&mut cluster, &Fault::OF_HOSTS);
    cluster.stop();
}
