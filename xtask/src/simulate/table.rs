//! Outcomes as lines of text.

use super::Experiment;
use super::scenario::MILLISECOND;

/// The heads of the columns.
pub fn head() -> String {
    format!(
        "{:8}{:>8}{:>8}{:>10}{:>8}{:>6}  {:10}{:12}{:14}{:>9}{:>9}{:>9}{:>9}{:>7}\n{:16}{:>8}{:>10}{:>8}{:>6}  {:10}{:12}{:14}{:>9}{:>9}{:>9}{:>9}{:>7}",
        "shape",
        "servers",
        "period",
        "overload",
        "margin",
        "load",
        "reports",
        "requests",
        "rule",
        "p50",
        "p99",
        "p99 by",
        "steered",
        "max /",
        "",
        "ms",
        "%",
        "points",
        "%",
        "",
        "",
        "",
        "ms",
        "ms",
        "ideal",
        "%",
        "mean",
    )
}

/// One line for each rule of an experiment.
pub fn rows(experiment: &Experiment) -> String {
    let scenario = &experiment.scenario;
    let ideal = experiment.outcomes[0].1.p99;
    let rows: Vec<_> = experiment
        .outcomes
        .iter()
        .map(|(rule, outcome)| {
            format!(
                "{:8}{:>8}{:>8}{:>10}{:>8}{:>6.0}  {:10}{:12}{rule:14}{:>9.1}{:>9.1}{:>9.2}{:>9.1}{:>7.2}",
                scenario.shape.name(),
                scenario.servers,
                scenario.period / MILLISECOND,
                scenario.overload,
                scenario.margin,
                scenario.load * 100.0,
                scenario.report.name(),
                scenario.mix.name(),
                outcome.p50 as f64 / MILLISECOND as f64,
                outcome.p99 as f64 / MILLISECOND as f64,
                outcome.p99 as f64 / ideal.max(1) as f64,
                outcome.steered * 100.0,
                outcome.imbalance,
            )
        })
        .collect();
    rows.join("\n")
}
