//! Balancer against other ways to spread requests over servers of unequal speed: waiting times and loads, side by side.
//!
//! Three servers of eight workers, the third half as fast. Requests come by a Poisson process, at times fixed beforehand, and
//! each one's time counts from then. The ways take turns, round after round, and medians are printed, since the machine may
//! have other work.

mod way;

use anyhow::{Context as _, Result, ensure};
use balancer_tests::Lab;
use clap::Parser;
use serde_json::Value;

use self::way::{SERVERS, SLOW, Way};

/// Requests a second that all servers together can answer: 8 workers, 19 ms a request, the third server half as fast.
const CAPACITY: f64 = 8.0 / 0.019 * 2.5;

/// Compares ways to spread requests over servers of unequal speed. Needs root; run it as `cargo xtask bench balance`.
#[derive(Parser)]
struct Arguments {
    /// Work that arrives, in percent of what the servers can do
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u32).range(1..=200))]
    load: u32,
    /// Seconds that requests arrive for, in each round
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// What one way did in one round.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// From the intended departure to the answer's first byte, in milliseconds.
    p50: f64,
    p99: f64,
    /// Work of the busiest server, as a share of what it can do, against that of all servers.
    imbalance: f64,
    /// Share of the requests that were not answered well.
    failed: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut lab = Lab::new(SERVERS as u8 + 1).context("this needs root")?;
    let servers = way::start_servers(&lab)?;
    println!(
        "{SERVERS} servers of 8 workers, the last {SLOW} times as slow; 90 % of the requests take 10 ms, 10 % take 100 ms; \
         load {} %",
        arguments.load
    );
    let mut outcomes = vec![Vec::new(); Way::ALL.len()];
    for _ in 0..arguments.rounds {
        for (way, outcomes) in Way::ALL.into_iter().zip(&mut outcomes) {
            outcomes.push(round(&mut lab, way, &arguments)?);
        }
    }
    drop(servers);
    println!(
        "{:34}{:>9}{:>9}{:>11}{:>9}",
        "", "p50 ms", "p99 ms", "max / mean", "failed"
    );
    for (way, outcomes) in Way::ALL.into_iter().zip(&outcomes) {
        println!(
            "{:34}{:>9.1}{:>9.1}{:>11.2}{:>7.1} %",
            way.name(),
            median(outcomes, |outcome| outcome.p50),
            median(outcomes, |outcome| outcome.p99),
            median(outcomes, |outcome| outcome.imbalance),
            median(outcomes, |outcome| outcome.failed) * 100.0,
        );
    }
    Ok(())
}

fn round(lab: &mut Lab, way: Way, arguments: &Arguments) -> Result<Outcome> {
    let rate = CAPACITY * f64::from(arguments.load) / 100.0;
    let count = rate * f64::from(arguments.seconds);
    let running = way.start(lab);
    let mut load = lab.client.command(way::program("load")?);
    load.args(way.urls(lab))
        .args(["--timeout", "20", "--rate", &rate.to_string()])
        .args(["--count", &format!("{count:.0}")]);
    let output = load.output().context("the load generator didn't start")?;
    running.stop(lab);
    ensure!(
        output.status.success(),
        "the load generator failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let summary = serde_json::from_slice(&output.stdout).context("the load generator's summary")?;
    Ok(outcome(&summary))
}

fn outcome(summary: &Value) -> Outcome {
    let served = |server: usize| {
        summary["served"][format!("web{server}")]
            .as_f64()
            .unwrap_or(0.0)
    };
    let work: Vec<_> = (1..=SERVERS)
        .map(|server| {
            served(server)
                * if server == SERVERS {
                    f64::from(SLOW)
                } else {
                    1.0
                }
        })
        .collect();
    let mean = work.iter().sum::<f64>() / f64::from(SERVERS as u32);
    let all = summary["sent"].as_f64().unwrap_or(0.0).max(1.0);
    Outcome {
        p50: summary["first_byte_ms"]["p50"].as_f64().unwrap_or(f64::NAN),
        p99: summary["first_byte_ms"]["p99"].as_f64().unwrap_or(f64::NAN),
        imbalance: work.iter().copied().fold(0.0, f64::max) / mean.max(1.0),
        failed: 1.0 - (1..=SERVERS).map(served).sum::<f64>() / all,
    }
}

fn median(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    let mut values: Vec<_> = outcomes.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
