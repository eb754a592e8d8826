//! Development tasks, run as `cargo xtask TASK`. Setting up, testing and the lab are scripts/setup, scripts/test and
//! scripts/lab, since they must run before anything is built.

mod neighbours;
mod simulate;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Clusters that lose reports which `bench failover` simulates.
const LOSSY: u64 = 1_000;

/// Development tasks
#[derive(Parser)]
enum Task {
    /// Build for release, and tell how large the daemon and the programs for the kernel are
    Build,
    /// Simulate clusters whose reports are out of date, with the decision that the XDP program runs
    Simulate(Box<simulate::Arguments>),
    /// Give the packet parser frames that are mutated in all ways, and compare it with a plain reader of the same rule
    Fuzz {
        /// How many
        #[arg(long, default_value_t = 10_000_000)]
        frames: u64,
    },
    /// Simulate takeovers in random worlds: hosts die, freeze and return, daemons are killed and stopped, networks lose, repeat,
    /// reorder and fall apart
    Takeover {
        /// Worlds; and a tenth as many clusters that lose a fifth of their reports for ten minutes
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
    },
    /// Test the exchange in full: 64 servers' sockets, 20 daemons a CPU, 100,000 hostile datagrams a second. The usual tests have fewer,
    /// as they aren't optimised. Needs root
    Crowd,
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Nanoseconds that the XDP program takes for a packet. Needs root
    Packet,
    /// Waiting times and loads of servers of unequal speed in a lab: balancer, nftables, a proxy, DNS. Needs root
    Balance {
        /// For the benchmark: --load PERCENT, --seconds SECONDS, --rounds ROUNDS
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The HTTP module beside nginx and `HAProxy` as reverse proxies. Needs root
    Http {
        /// For the benchmark: --seconds SECONDS, --rounds ROUNDS, --connections COUNT
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Takeover and hand-back in a lab, beside keepalived: longest gaps, requests lost, connections broken; then, simulated, a
    /// thousand clusters that lose a fifth of their reports for ten minutes. Needs root
    Failover {
        /// For the benchmark: --runs RUNS, --quick (without the simulation)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Build => build(),
        Task::Simulate(arguments) => simulate::run(&arguments),
        Task::Fuzz { frames } => fuzz(frames),
        Task::Takeover { seeds } => simulate_takeovers(seeds),
        Task::Crowd => test_crowd(),
        Task::Bench(Bench::Packet) => bench_packet(),
        Task::Bench(Bench::Balance { arguments }) => bench_in_lab("balance", &arguments),
        Task::Bench(Bench::Http { arguments }) => bench_in_lab("http", &arguments),
        Task::Bench(Bench::Failover { arguments }) => bench_failover(&arguments),
    }
}

fn build() -> Result<()> {
    let messages = cargo_build()?;
    let daemon = messages
        .iter()
        .find_map(executable)
        .context("cargo built no program called balancer")?;
    let object = messages
        .iter()
        .find_map(build_script_output)
        .context("balancer's build script didn't run")?
        .join("balancer-ebpf");
    for path in [daemon, object] {
        let size = fs::metadata(&path)
            .with_context(|| path.display().to_string())?
            .len();
        println!(
            "{:>10}  {}",
            format!("{} KiB", size.div_ceil(1024)),
            path.display()
        );
    }
    Ok(())
}

/// Not as a release: what overflows is to be seen.
fn fuzz(frames: u64) -> Result<()> {
    let status = cargo()?
        .args(["test", "--quiet", "--package=balancer-common"])
        .args(["--test=fuzz", "--", "--nocapture"])
        .env("BALANCER_FUZZ_FRAMES", frames.to_string())
        .status()
        .context("cargo didn't start")?;
    if !status.success() {
        bail!("the parser is wrong about the frame above");
    }
    Ok(())
}

fn simulate_takeovers(seeds: u64) -> Result<()> {
    let status = takeover_test(seeds)?
        .status()
        .context("cargo didn't start")?;
    if !status.success() {
        bail!("a takeover went wrong, see above");
    }
    Ok(())
}

/// What depends on how fast the program is, one test after the other.
fn test_crowd() -> Result<()> {
    let _room = neighbours::Room::make()?;
    run(
        &[
            "test",
            "--quiet",
            "--release",
            "--no-fail-fast",
            "--package=balancer",
            "--package=balancer-tests",
            "--test=exchange",
            "--test=lab",
            "--",
            "--test-threads=1",
            "--nocapture",
            "each_of_many",
            "hundred_thousand",
            "crowd",
            "flood",
        ],
        &[],
    )
}

/// Worlds, and a tenth as many clusters that lose reports. What follows `--` may be added.
fn takeover_test(seeds: u64) -> Result<Command> {
    let mut command = cargo()?;
    command
        .args(["test", "--quiet", "--release", "--package=balancer"])
        .args(["--test=takeover", "--", "--nocapture"])
        .env("BALANCER_SEEDS", seeds.to_string());
    Ok(command)
}

fn bench_failover(arguments: &[String]) -> Result<()> {
    bench_in_lab("failover", arguments)?;
    if arguments.iter().any(|argument| argument == "--quick") {
        return Ok(());
    }
    let status = takeover_test(10 * LOSSY)?
        .arg("no_living_host_loses_its_address_where_reports_are_lost")
        // The harness' words; what goes wrong is in the other stream.
        .stdout(Stdio::null())
        .status()
        .context("cargo didn't start")?;
    if !status.success() {
        bail!("a simulated cluster has taken an address from a living host, see above");
    }
    println!(
        "  simulated: {LOSSY} clusters that lose a fifth of their reports for ten minutes have taken no address from a living host"
    );
    Ok(())
}

fn bench_packet() -> Result<()> {
    run(
        &["bench", "--quiet", "--package=balancer", "--bench=packet"],
        &[],
    )
}

/// A benchmark that is a program of the tests' package.
fn bench_in_lab(name: &str, arguments: &[String]) -> Result<()> {
    run(
        &[
            "build",
            "--quiet",
            "--release",
            "--package=balancer",
            "--package=balancer-tests",
        ],
        &[],
    )?;
    run(
        &[
            "run",
            "--quiet",
            "--release",
            "--package=balancer-tests",
            "--bin",
            name,
            "--",
        ],
        arguments,
    )
}

fn run(command: &[&str], arguments: &[String]) -> Result<()> {
    let status = cargo()?
        .args(command)
        .args(arguments)
        .status()
        .context("cargo didn't start")?;
    if !status.success() {
        bail!("cargo {} failed", command[0]);
    }
    Ok(())
}

/// Builds balancer; returns what cargo tells about it
/// (<https://doc.rust-lang.org/cargo/reference/external-tools.html#json-messages>).
fn cargo_build() -> Result<Vec<Value>> {
    let output = cargo()?
        .args([
            "build",
            "--release",
            "--package=balancer",
            "--message-format=json-render-diagnostics",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo didn't start")?;
    if !output.status.success() {
        bail!("cargo build failed");
    }
    output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).context("cargo's message isn't JSON"))
        .collect()
}

/// Cargo, at the root of the workspace.
fn cargo() -> Result<Command> {
    let cargo = env::var_os("CARGO").context("CARGO isn't set: run this as `cargo xtask`")?;
    let mut command = Command::new(cargo);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    Ok(command)
}

fn executable(message: &Value) -> Option<PathBuf> {
    let is_balancer =
        message["reason"] == "compiler-artifact" && message["target"]["name"] == "balancer";
    message["executable"]
        .as_str()
        .filter(|_| is_balancer)
        .map(PathBuf::from)
}

fn build_script_output(message: &Value) -> Option<PathBuf> {
    let is_balancer = message["reason"] == "build-script-executed"
        && message["package_id"].as_str()?.contains("/balancer#");
    message["out_dir"]
        .as_str()
        .filter(|_| is_balancer)
        .map(PathBuf::from)
}
