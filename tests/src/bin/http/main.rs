//! Balancer's HTTP module beside nginx and `HAProxy` as reverse proxies: requests a second, latency and CPU time, in one run.
//!
//! All three stand before one nginx on the same host, which serves files over connections that are kept open, and each may use
//! all CPUs, as may wrk and that nginx. They take turns, round after round, and medians are printed, since the machine may have
//! other work. For the same reason CPU time is the steadiest of the figures.

mod proxy;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use balancer_tests::{Lab, Signal};
use clap::Parser;

use self::proxy::{Proxy, Running};

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

/// What wrk tells at its end, in a form that can be read.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
    local e = summary.errors
    print(string.format("RESULT %d %d %d %d", summary.requests, summary.duration, latency:percentile(99),
        e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut lab = Lab::new(1).context("this needs root")?;
    let script = lab.dir().join("wrk.lua");
    fs::write(&script, SCRIPT).context("a file in the lab's directory")?;
    lab.client
        .shell("sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range='1024 65535'");
    let mut running = Running::origin(&lab);
    let proxies = Proxy::ALL.map(|proxy| (proxy, proxy.start(&mut lab, &mut running)));
    let mut outcomes = vec![vec![Vec::new(); Proxy::ALL.len()]; CASES.len()];
    for _ in 0..arguments.rounds {
        for (case, outcomes) in CASES.iter().zip(&mut outcomes) {
            for ((proxy, process), outcomes) in proxies.iter().zip(outcomes) {
                outcomes.push(measure(&lab, *case, *proxy, *process, &script, &arguments)?);
            }
        }
    }
    print(&outcomes, &arguments);
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    Ok(())
}

fn measure(
    lab: &Lab,
    case: Case,
    proxy: Proxy,
    process: u32,
    script: &Path,
    arguments: &Arguments,
) -> Result<Outcome> {
    let before = cpu_time(process)?;
    let mut command = lab.client.command("wrk");
    command
        .args(["--threads", "2", "--timeout", "10s"])
        .args(["--connections", &arguments.connections.to_string()])
        .args(["--duration", &format!("{}s", arguments.seconds)])
        .arg("--script")
        .arg(script);
    if !case.keep {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(proxy.url(lab, case.path));
    let output = command
        .output()
        .context("wrk didn't start: scripts/setup installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let numbers: Vec<f64> = result
        .unwrap_or_default()
        .split(' ')
        .filter_map(|number| number.parse().ok())
        .collect();
    let [requests, micros, p99, failed] = numbers[..] else {
        bail!(
            "wrk failed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    ensure!(requests > 0.0, "{}: no request was answered", proxy.name());
    Ok(Outcome {
        rate: requests / (micros / 1e6),
        p99: p99 / 1e3,
        cpu: (cpu_time(process)? - before) * 1e6 / requests,
        failed,
    })
}

/// CPU time that a process and its children have used, in seconds (proc(5), `/proc/pid/stat`).
fn cpu_time(process: u32) -> Result<f64> {
    const TICKS_A_SECOND: f64 = 100.0;
    let children = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(&children).with_context(|| children.clone())?;
    let mut ticks = 0.0;
    for process in children
        .split_whitespace()
        .chain([process.to_string().as_str()])
    {
        let stat = format!("/proc/{process}/stat");
        let stat = fs::read_to_string(&stat).with_context(|| stat.clone())?;
        // The name, in parentheses, may have anything in it. User and system time are the 12th and 13th field after it.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields = fields.split_whitespace().skip(11).take(2);
        ticks += fields
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(ticks / TICKS_A_SECOND)
}

fn print(outcomes: &[Vec<Vec<Outcome>>], arguments: &Arguments) {
    println!(
        "{} connections, {} rounds of {} s, medians; in parentheses balancer against the other\n",
        arguments.connections, arguments.rounds, arguments.seconds
    );
    println!(
        "| {:24} | {:8} | {:>16} | {:>15} | {:>16} | {:>6} |",
        "", "", "requests/s", "p99 ms", "CPU us a request", "failed"
    );
    println!(
        "|{:-<26}|{:-<10}|{:->17}:|{:->16}:|{:->17}:|{:->7}:|",
        "", "", "", "", "", ""
    );
    for (case, outcomes) in CASES.iter().zip(outcomes) {
        let own = outcomes.last().map_or(&[][..], Vec::as_slice);
        for (proxy, outcomes) in Proxy::ALL.iter().zip(outcomes) {
            let figure = |decimals: usize, of: fn(&Outcome) -> f64| {
                let value = median(outcomes, of);
                let ratio = median(own, of) / value;
                let ratio = if *proxy == Proxy::Balancer {
                    String::new()
                } else {
                    format!(" ({ratio:.2})")
                };
                format!("{value:.decimals$}{ratio:7}")
            };
            println!(
                "| {:24} | {:8} | {:>16} | {:>15} | {:>16} | {:>6.0} |",
                case.name,
                proxy.name(),
                figure(0, |outcome| outcome.rate),
                figure(2, |outcome| outcome.p99),
                figure(1, |outcome| outcome.cpu),
                outcomes.iter().map(|outcome| outcome.failed).sum::<f64>(),
            );
        }
    }
}

fn median(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    let mut values: Vec<f64> = outcomes.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
