//! Large answers that are another server's: relayed by the first one, and handed off. What is gained is the first server's.

use std::fs;

use anyhow::{Context as _, Result};
use balancer_tests::{Lab, Server, Signal};

use crate::median;
use crate::wrk::{self, cpu_time};

/// Bytes of an answer.
const SIZE: usize = 10_000_000;

/// Clients at a time. Few, so that they wait for servers, not for each other.
const CONNECTIONS: u32 = 8;

/// Ways to the other server, each a rule.
const WAYS: [&str; 2] = ["relay", "handoff"];

/// How many times as many answers a second as by relay there are to be by hand-off, and what part of its bytes.
const FASTER: f64 = 1.8;
const SENT: f64 = 0.02;

/// What came of one way in one measurement.
#[derive(Clone, Copy)]
struct Outcome {
    /// Answers a second.
    rate: f64,
    /// CPU time of the first server's daemon for an answer, in milliseconds.
    cpu: f64,
    /// Bytes that the first server sent for an answer, requests to its peer among them.
    sent: f64,
    /// Requests that failed.
    failed: f64,
}

/// Measures both in turns, on two servers with nginx, and prints medians.
pub fn run(rounds: u32, seconds: u32) -> Result<()> {
    let mut lab = Lab::new(2).context("this needs root")?;
    let mut config = "[load]\ncpu = \"0%\"\nrun_queue = \"0%\"\nmemory_pressure = \"0%\"\n\n\
                      [[service]]\nname = \"www\"\nports = [\"8000/tcp\"]\ncapacity = 100000\n\n\
                      [[http]]\nservice = \"www\"\nbackend = \"127.0.0.1:80\"\n"
        .to_owned();
    for way in WAYS {
        config += &format!(
            "\n[[http.rule]]\nname = \"{way}\"\npath = \"/{way}/*\"\nservers = [\"web2\"]\nroute = \"{way}\"\n"
        );
        let dir = lab.server(2).dir().join(way);
        fs::create_dir_all(&dir).context("a directory in the lab's")?;
        fs::write(dir.join("large"), vec![b'.'; SIZE]).context("a file in the lab's directory")?;
    }
    // Segments are merged before they are acknowledged, as by the client's network card.
    lab.client
        .shell("ethtool -K eth0 gro on; sysctl -qw net.ipv4.tcp_tw_reuse=1");
    lab.start(&config, "native");
    let mut outcomes = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (way, outcomes) in WAYS.iter().zip(&mut outcomes) {
            outcomes.push(measure(&lab, way, seconds)?);
        }
    }
    print(&outcomes, rounds, seconds);
    for number in 1..=2 {
        lab.server_mut(number).end_balancer(Signal::SIGTERM);
    }
    Ok(())
}

fn measure(lab: &Lab, way: &str, seconds: u32) -> Result<Outcome> {
    let first = lab.server(1);
    let url = format!("http://{}:8000/{way}/large", first.address());
    let before = (cpu_time(first.balancer_id())?, sent(first)?);
    // A connection that has moved asks the other server at once: each is to ask once.
    let answers = wrk::ask(lab, &url, false, CONNECTIONS, seconds)?;
    Ok(Outcome {
        rate: answers.count / answers.seconds,
        cpu: (cpu_time(first.balancer_id())? - before.0) * 1e3 / answers.count,
        sent: (sent(first)? - before.1) / answers.count,
        failed: answers.failed,
    })
}

/// Bytes that a server has put on its link.
fn sent(server: &Server) -> Result<f64> {
    let text = server.host.run("ip", &["-s", "-j", "link", "show", "eth0"]);
    let link: serde_json::Value = serde_json::from_str(&text)?;
    let bytes = link[0]["stats64"]["tx"]["bytes"].as_f64();
    bytes.context("ip tells no bytes of eth0")
}

fn print(outcomes: &[Vec<Outcome>; 2], rounds: u32, seconds: u32) {
    println!(
        "\nAnswers of {} MB that another server has, {CONNECTIONS} connections, {rounds} rounds of {seconds} s, medians; \
         in parentheses hand-off against relay. CPU time and bytes are the first server's, for an answer\n",
        SIZE / 1_000_000
    );
    println!(
        "| {:8} | {:>16} | {:>16} | {:>20} | {:>6} |",
        "", "answers/s", "CPU ms", "KB sent", "failed"
    );
    println!(
        "|{:-<10}|{:->17}:|{:->17}:|{:->21}:|{:->7}:|",
        "", "", "", "", ""
    );
    for (way, own) in WAYS.iter().zip(outcomes) {
        let figure = |decimals: usize, of: fn(&Outcome) -> f64| {
            let value = median(own, of);
            let ratio = if *way == "relay" {
                String::new()
            } else {
                format!(" ({:.3})", value / median(&outcomes[0], of))
            };
            format!("{value:.decimals$}{ratio:8}")
        };
        println!(
            "| {way:8} | {:>16} | {:>16} | {:>20} | {:>6.0} |",
            figure(1, |outcome| outcome.rate),
            figure(2, |outcome| outcome.cpu),
            figure(1, |outcome| outcome.sent / 1e3),
            own.iter().map(|outcome| outcome.failed).sum::<f64>(),
        );
    }
    let ratio = |of: fn(&Outcome) -> f64| median(&outcomes[1], of) / median(&outcomes[0], of);
    let (rate, sent) = (ratio(|outcome| outcome.rate), ratio(|outcome| outcome.sent));
    let met = |met| if met { "met" } else { "missed" };
    println!("\nbalancer's targets:");
    println!(
        "  {FASTER:.1} times the answers a second of relay: {} ({rate:.2})",
        met(rate >= FASTER)
    );
    println!(
        "  {:.0} % of its bytes at most: {} ({:.1} %)",
        SENT * 100.0,
        met(sent <= SENT),
        sent * 100.0
    );
}
