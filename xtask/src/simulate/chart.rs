//! The chart: p99 by load, a line for each rule, a panel for each cluster. SVG 1.1, no more of it than lines and text.

use std::fmt::Write as _;

use super::Experiment;
use super::scenario::{MILLISECOND, Scenario};

/// Size of a panel, with room for its axes.
const PANEL: (f64, f64) = (430.0, 360.0);
/// Its plot: left, top, width, height.
const PLOT: (f64, f64, f64, f64) = (60.0, 40.0, 350.0, 270.0);
const COLOURS: [&str; 6] = [
    "#000000", "#999999", "#d55e00", "#0072b2", "#009e73", "#cc79a7",
];
/// Waits longer than this many times the ideal are drawn at the top.
const TOP: f64 = 100.0;

/// The chart of these experiments.
pub fn svg(experiments: &[Experiment]) -> String {
    let panels: Vec<_> = experiments
        .chunk_by(|a, b| title(&a.scenario) == title(&b.scenario))
        .collect();
    let across = panels.len().clamp(1, 3);
    let (width, height) = (
        PANEL.0 * across as f64,
        PANEL.1 * panels.len().div_ceil(across) as f64 + 30.0,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let (x, y) = (
            PANEL.0 * (number % across) as f64,
            PANEL.1 * (number / across) as f64,
        );
        let _ = writeln!(
            svg,
            "<g transform=\"translate({x} {y})\">\n{}</g>",
            draw(panel)
        );
    }
    svg + &legend(experiments, height - 12.0) + "</svg>\n"
}

fn title(scenario: &Scenario) -> String {
    format!(
        "{}, {} servers, {} requests, reports each {} ms",
        scenario.shape.name(),
        scenario.servers,
        scenario.mix.name(),
        scenario.period / MILLISECOND
    )
}

/// Experiments that differ in nothing but load.
fn draw(panel: &[Experiment]) -> String {
    let (left, top, width, height) = PLOT;
    let loads = panel.iter().map(|experiment| experiment.scenario.load);
    let (least, most) = loads.fold((f64::MAX, f64::MIN), |(least, most), load| {
        (least.min(load), most.max(load))
    });
    let x = |load: f64| left + width * (load - least) / (most - least).max(0.01);
    let y = |ratio: f64| top + height * (1.0 - ratio.clamp(1.0, TOP).ln() / TOP.ln());

    let mut svg = text(left, top - 15.0, "start", &title(&panel[0].scenario));
    for ratio in [1.0, 1.25, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        svg += &line(
            &[(left, y(ratio)), (left + width, y(ratio))],
            "#dddddd",
            1.0,
        );
        svg += &text(left - 6.0, y(ratio) + 4.0, "end", &format!("×{ratio}"));
    }
    for experiment in panel {
        let load = experiment.scenario.load;
        svg += &text(
            x(load),
            top + height + 16.0,
            "middle",
            &format!("{:.0}%", load * 100.0),
        );
    }
    svg += &text(
        left + width,
        top + height + 32.0,
        "end",
        "work that arrives; upwards: p99 / p99 of a central queue",
    );
    for (rule, colour) in (0..panel[0].outcomes.len()).zip(COLOURS) {
        let points: Vec<_> = panel
            .iter()
            .map(|experiment| {
                let p99 = |rule: usize| experiment.outcomes[rule].1.p99.max(1) as f64;
                (x(experiment.scenario.load), y(p99(rule) / p99(0)))
            })
            .collect();
        svg += &line(&points, colour, 2.0);
    }
    svg
}

fn legend(experiments: &[Experiment], y: f64) -> String {
    let rules = experiments
        .first()
        .map_or(&[][..], |experiment| &experiment.outcomes);
    let mut svg = String::new();
    let mut x = PLOT.0;
    for ((rule, _), colour) in rules.iter().zip(COLOURS) {
        svg += &line(&[(x, y - 4.0), (x + 20.0, y - 4.0)], colour, 2.0);
        svg += &text(x + 25.0, y, "start", rule);
        x += 50.0 + 6.5 * rule.len() as f64;
    }
    svg
}

fn line(points: &[(f64, f64)], colour: &str, width: f64) -> String {
    let points: Vec<_> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\n",
        points.join(" ")
    )
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}
