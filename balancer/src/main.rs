//! balancer: a peer-to-peer load balancer for groups of Linux servers.

use std::process::ExitCode;

use balancer::cli::Cli;
use clap::Parser as _;

fn main() -> ExitCode {
    // clap ends the process with 2 on a wrong usage.
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("balancer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
