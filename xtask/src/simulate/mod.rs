//! A simulator of the decision under reports that are out of date. It calls the functions that the XDP program and the daemon
//! call, for clusters and loads that no lab could hold.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times and means, none below zero, none that needs all its bits"
)]

mod chart;
mod cluster;
mod outcome;
mod queue;
mod scenario;
mod table;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use balancer_common::decide::Policy;
use balancer_common::types::Service;
use clap::Parser;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;

use self::cluster::Cluster;
use self::outcome::{Outcome, Record};
use self::scenario::{MILLISECOND, Mix, Report, SECOND, Scenario, Shape};

/// Of options that take several values, separated by commas, each combination is an experiment.
#[derive(Parser)]
pub struct Arguments {
    /// How servers and clients differ
    #[arg(long, value_delimiter = ',', default_value = "skewed")]
    shape: Vec<Shape>,
    /// Servers in the cluster
    #[arg(long, value_delimiter = ',', default_value = "8", value_parser = clap::value_parser!(u16).range(2..=256))]
    servers: Vec<u16>,
    /// Work that arrives, in percent of what the servers can do
    #[arg(long, value_delimiter = ',', default_value = "50,60,70,80,90,95", value_parser = clap::value_parser!(u16).range(1..=1000))]
    load: Vec<u16>,
    /// Milliseconds from one report to the next
    #[arg(long, value_delimiter = ',', default_value = "500", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    period: Vec<u64>,
    /// How long requests take
    #[arg(long, value_delimiter = ',', default_value = "short")]
    mix: Vec<Mix>,
    /// Policies [default: all]
    #[arg(long, value_delimiter = ',', value_parser = policies(), hide_default_value = true,
        default_values = Policy::ALL.map(Policy::name))]
    policy: Vec<Policy>,
    /// Overload level, in percent
    #[arg(long, value_delimiter = ',', default_value = "50", value_parser = clap::value_parser!(u32).range(0..=1000))]
    overload: Vec<u32>,
    /// Margin, in points
    #[arg(long, value_delimiter = ',', default_value = "20", value_parser = clap::value_parser!(u32).range(0..=100))]
    margin: Vec<u32>,
    /// What servers report
    #[arg(long, value_delimiter = ',', default_value = "forecast")]
    report: Vec<Report>,
    /// Requests that a server works on at one time, and its capacity
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    workers: u32,
    /// Requests arrive for so many seconds; the first fifth of them doesn't count
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    seconds: u64,
    /// The same seed makes the same requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw p99 by load into this SVG file
    #[arg(long)]
    chart: Option<PathBuf>,
}

/// One experiment, and what came of it under each rule, by the rules' names.
struct Experiment {
    scenario: Scenario,
    outcomes: Vec<(&'static str, Outcome)>,
}

/// Simulates, prints a table, draws a chart if there is to be one.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut experiments = Vec::new();
    println!("{}", table::head());
    for scenario in arguments.scenarios() {
        let experiment = experiment(scenario, arguments);
        println!("{}", table::rows(&experiment));
        experiments.push(experiment);
    }
    if let Some(path) = &arguments.chart {
        fs::write(path, chart::svg(&experiments))
            .with_context(|| format!("cannot write the chart {}", path.display()))?;
    }
    Ok(())
}

fn experiment(scenario: Scenario, arguments: &Arguments) -> Experiment {
    let mut outcomes = vec![
        ("central queue", central_queue(&scenario)),
        ("keep all", keep_all(&scenario)),
    ];
    for policy in &arguments.policy {
        outcomes.push((policy.name(), balanced(&scenario, scenario.levels(*policy))));
    }
    Experiment { scenario, outcomes }
}

/// The ideal: whoever is free takes who has waited longest, wherever.
fn central_queue(scenario: &Scenario) -> Outcome {
    let mut queue = scenario.central_queue();
    let mut record = Record::new(scenario);
    for request in scenario.arrivals() {
        let end = queue.arrive(request.at, request.work);
        record.add(&request, request.server, end);
    }
    record.finish()
}

/// Each server for itself.
fn keep_all(scenario: &Scenario) -> Outcome {
    let never = Service {
        overload: u32::MAX,
        ..Service::default()
    };
    balanced(scenario, never)
}

fn balanced(scenario: &Scenario, levels: Service) -> Outcome {
    let mut cluster = Cluster::new(scenario, levels);
    let mut record = Record::new(scenario);
    for request in scenario.arrivals() {
        record.compare(request.at, |server, at| cluster.jobs(server, at));
        let (place, end) = cluster.arrive(&request);
        record.add(&request, place, end);
    }
    record.finish()
}

impl Arguments {
    fn scenarios(&self) -> Vec<Scenario> {
        let mut all = vec![Scenario {
            shape: Shape::Even,
            servers: 0,
            workers: self.workers,
            mix: Mix::Short,
            load: 0.0,
            period: 0,
            overload: 0,
            margin: 0,
            report: Report::Forecast,
            length: self.seconds * SECOND,
            seed: self.seed,
        }];
        vary(&mut all, &self.shape, |all, shape| all.shape = shape);
        vary(&mut all, &self.mix, |all, mix| all.mix = mix);
        vary(&mut all, &self.servers, |all, servers| {
            all.servers = servers.into();
        });
        vary(&mut all, &self.period, |all, period| {
            all.period = period * MILLISECOND;
        });
        vary(&mut all, &self.report, |all, report| all.report = report);
        vary(&mut all, &self.overload, |all, overload| {
            all.overload = overload;
        });
        vary(&mut all, &self.margin, |all, margin| all.margin = margin);
        vary(&mut all, &self.load, |all, load| {
            all.load = f64::from(load) / 100.0;
        });
        all
    }
}

/// Makes of each scenario one for each value.
fn vary<T: Copy>(all: &mut Vec<Scenario>, values: &[T], set: impl Fn(&mut Scenario, T)) {
    *all = all
        .iter()
        .flat_map(|scenario| {
            values.iter().map(|value| {
                let mut scenario = *scenario;
                set(&mut scenario, *value);
                scenario
            })
        })
        .collect();
}

fn policies() -> impl clap::builder::TypedValueParser<Value = Policy> {
    PossibleValuesParser::new(Policy::ALL.map(Policy::name))
        .map(|name| Policy::from_name(&name).unwrap_or_default())
}

#[cfg(test)]
mod tests;
