//! balancer: a peer-to-peer load balancer for groups of Linux servers.

use std::process::ExitCode;

use balancer::cli::Cli;
use clap::Parser as _;

/// A request takes some forty pieces of memory, which glibc's allocator hands out in twice the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
