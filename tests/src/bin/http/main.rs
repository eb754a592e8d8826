//! Balancer's HTTP module beside nginx and `HAProxy` as reverse proxies: requests a second, latency and CPU time, in one run.
//!
//! All stand before one nginx on the same host, which serves files, and each may use all CPUs, as may wrk and that nginx. The
//! others are there twice: as they are without further settings, and with connections to the web server that all requests
//! share, as balancer's do. They take turns, round after round, and medians are printed, since the machine may have
//! other work. For the same reason CPU time is the steadiest of the figures.
//!
//! Then large answers of another server's, relayed and handed off.

mod handoff;
mod proxy;
mod wrk;

use anyhow::{Context as _, Result};
use balancer_tests::{Lab, Signal, met};
use clap::Parser;

use self::proxy::{Proxy, Running};
use self::wrk::cpu_time;

/// Compares HTTP proxies. Needs root; run it as `cargo xtask bench http`.
#[derive(Parser)]
struct Arguments {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Connections at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=4096))]
    connections: u32,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    path: &'static str,
    keep: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "1 KB, keep-alive",
        path: "/1k",
        keep: true,
    },
    Case {
        name: "100 KB, keep-alive",
        path: "/100k",
        keep: true,
    },
    Case {
        name: "1 KB, new connections",
        path: "/1k",
        keep: false,
    },
    Case {
        name: "100 KB, new connections",
        path: "/100k",
        keep: false,
    },
];

/// Whom balancer is measured against, and how many times its requests a second it is to answer at least, with a p99 no longer.
const TARGETS: [(Proxy, f64); 2] = [(Proxy::Nginx, 1.0), (Proxy::Haproxy, 1.3)];

/// What one proxy did in one measurement.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Requests a second.
    rate: f64,
    /// From request to the answer's end, in milliseconds; the time to connect isn't in it.
    p99: f64,
    /// CPU time of the proxy for a request, in microseconds.
    cpu: f64,
    /// Requests that failed.
    failed: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut lab = Lab::new(1).context("this needs root")?;
    lab.client
        .shell("sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range='1024 65535'");
    // Answers are cut into segments by network cards, not by these CPUs; and nothing is steered here, which needs that.
    (lab.server(1).host).shell("ethtool -K eth0 tx on tso on >/dev/null");
    lab.switch
        .shell("ethtool -K client tx on tso on >/dev/null");
    let mut running = Running::origin(&lab);
    let proxies = Proxy::ALL.map(|proxy| (proxy, proxy.start(&mut lab, &mut running)));
    let mut outcomes = vec![vec![Vec::new(); Proxy::ALL.len()]; CASES.len()];
    for _ in 0..arguments.rounds {
        for (case, outcomes) in CASES.iter().zip(&mut outcomes) {
            for ((proxy, process), outcomes) in proxies.iter().zip(outcomes) {
                outcomes.push(measure(&lab, *case, *proxy, *process, &arguments)?);
            }
        }
    }
    print(&outcomes, &arguments);
    judge(&outcomes);
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    drop((running, lab));
    handoff::run(arguments.rounds, arguments.seconds)
}

fn measure(
    lab: &Lab,
    case: Case,
    proxy: Proxy,
    process: u32,
    arguments: &Arguments,
) -> Result<Outcome> {
    let before = cpu_time(process)?;
    let url = proxy.url(lab, case.path);
    let answers = wrk::ask(
        lab,
        &url,
        case.keep,
        arguments.connections,
        arguments.seconds,
    )?;
    Ok(Outcome {
        rate: answers.count / answers.seconds,
        p99: answers.p99,
        cpu: (cpu_time(process)? - before) * 1e6 / answers.count,
        failed: answers.failed,
    })
}

fn print(outcomes: &[Vec<Vec<Outcome>>], arguments: &Arguments) {
    println!(
        "{} connections, {} rounds of {} s, medians; in parentheses balancer against the other\n",
        arguments.connections, arguments.rounds, arguments.seconds
    );
    println!(
        "| {:24} | {:14} | {:>16} | {:>15} | {:>16} | {:>6} |",
        "", "", "requests/s", "p99 ms", "CPU us a request", "failed"
    );
    println!(
        "|{:-<26}|{:-<16}|{:->17}:|{:->16}:|{:->17}:|{:->7}:|",
        "", "", "", "", "", ""
    );
    for (case, outcomes) in CASES.iter().zip(outcomes) {
        for (proxy, of_proxy) in Proxy::ALL.iter().zip(outcomes) {
            let figure = |decimals: usize, of: fn(&Outcome) -> f64| {
                let value = median(of_proxy, of);
                let ratio = if *proxy == Proxy::Balancer {
                    String::new()
                } else {
                    format!(" ({:.2})", ratio(outcomes, *proxy, of))
                };
                format!("{value:.decimals$}{ratio:7}")
            };
            println!(
                "| {:24} | {:14} | {:>16} | {:>15} | {:>16} | {:>6.0} |",
                case.name,
                proxy.name(),
                figure(0, |outcome| outcome.rate),
                figure(2, |outcome| outcome.p99),
                figure(1, |outcome| outcome.cpu),
                of_proxy.iter().map(|outcome| outcome.failed).sum::<f64>(),
            );
        }
    }
}

/// How balancer stands to its targets, a line each.
fn judge(outcomes: &[Vec<Vec<Outcome>>]) {
    println!("\nbalancer's targets:");
    for (rival, least) in TARGETS {
        let (mut slow, mut late) = (Vec::new(), Vec::new());
        for (case, outcomes) in CASES.iter().zip(outcomes) {
            let rate = ratio(outcomes, rival, |outcome| outcome.rate);
            if rate < least {
                slow.push(format!("{} ({rate:.2})", case.name));
            }
            let p99 = ratio(outcomes, rival, |outcome| outcome.p99);
            if p99 > 1.0 {
                late.push(format!("{} ({p99:.2})", case.name));
            }
        }
        let name = rival.name();
        println!(
            "  {least:.1} times the requests a second of {name}: {}",
            met(CASES.len(), &slow)
        );
        println!(
            "  p99 no longer than that of {name}: {}",
            met(CASES.len(), &late)
        );
    }
}

/// Balancer's median against a rival's.
fn ratio(outcomes: &[Vec<Outcome>], rival: Proxy, figure: fn(&Outcome) -> f64) -> f64 {
    let of = |proxy| {
        let mut all = Proxy::ALL.iter().zip(outcomes);
        let found = all.find(|(other, _)| **other == proxy);
        found.map_or(f64::NAN, |(_, outcomes)| median(outcomes, figure))
    };
    of(Proxy::Balancer) / of(rival)
}

fn median<T>(outcomes: &[T], of: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = outcomes.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
