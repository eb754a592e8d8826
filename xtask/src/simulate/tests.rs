//! The queues against queueing theory, the rules against their promises.

use super::queue::{Queue, Time};
use super::*;

fn scenario(shape: Shape, servers: usize, load: f64) -> Scenario {
    Scenario {
        shape,
        servers,
        workers: 8,
        mix: Mix::Short,
        load,
        period: 500 * MILLISECOND,
        overload: 50,
        margin: 20,
        report: Report::Forecast,
        length: 30 * SECOND,
        seed: 1,
    }
}

fn default_rule(scenario: &Scenario) -> Outcome {
    balanced(scenario, scenario.levels(Policy::default()))
}

/// The quantile of the time in an M/M/c queue, in mean service times (Erlang's C formula).
fn erlang(workers: u32, load: f64, quantile: f64) -> f64 {
    let offered = f64::from(workers) * load;
    // Erlang's B by its recursion, then C of it: the chance to have to wait.
    let blocked = (1..=workers).fold(1.0, |blocked, worker| {
        offered * blocked / (f64::from(worker) + offered * blocked)
    });
    let waits = blocked / (1.0 - load * (1.0 - blocked));
    let drain = f64::from(workers) * (1.0 - load);
    let longer_than = |time: f64| {
        let (served, waited) = ((-time).exp(), (-drain * time).exp());
        (1.0 - waits) * served + waits * (drain * served - waited) / (drain - 1.0)
    };
    let (mut low, mut high) = (0.0, 100.0);
    while high - low > 1e-6 {
        let middle = f64::midpoint(low, high);
        if longer_than(middle) > 1.0 - quantile {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[track_caller]
fn assert_close(measured: Time, expected: f64) {
    let ratio = measured as f64 / expected;
    assert!(
        (0.95..1.05).contains(&ratio),
        "{measured} ns, by theory {expected} ns"
    );
}

#[test]
fn queues_are_as_theory_has_them() {
    for load in [0.5, 0.7, 0.8] {
        let scenario = Scenario {
            mix: Mix::Exponential,
            length: 400 * SECOND,
            ..scenario(Shape::Even, 2, load)
        };
        let mean = scenario.mix.mean();
        let kept = keep_all(&scenario);
        assert_close(kept.p50, mean * erlang(8, load, 0.5));
        assert_close(kept.p99, mean * erlang(8, load, 0.99));
        let central = central_queue(&scenario);
        assert_close(central.p50, mean * erlang(16, load, 0.5));
        assert_close(central.p99, mean * erlang(16, load, 0.99));
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    let one = scenario(Shape::Skewed, 8, 0.8);
    let other = Scenario { seed: 2, ..one };
    assert_eq!(default_rule(&one), default_rule(&one));
    assert_ne!(default_rule(&one), default_rule(&other));
}

#[test]
fn skewed_requests_wait_hardly_longer_than_in_one_queue() {
    for seed in 1..=3 {
        let scenario = Scenario {
            seed,
            ..scenario(Shape::Skewed, 8, 0.8)
        };
        let (rule, ideal) = (default_rule(&scenario), central_queue(&scenario));
        assert!(rule.p99 * 4 <= ideal.p99 * 5, "{rule:?}, ideal {ideal:?}");
    }
}

/// At 80 % load, of whatever size and shape a cluster is and however often it reports.
#[test]
fn requests_wait_hardly_longer_than_in_one_queue_anywhere() {
    for scenario in grid(["--period=100,500,1000", "--load=80"]) {
        let (rule, ideal) = (default_rule(&scenario), central_queue(&scenario));
        assert!(
            rule.p99 * 4 <= ideal.p99 * 5,
            "{scenario:?}: {rule:?}, ideal {ideal:?}"
        );
    }
}

/// What the load of the moment would do in its place.
#[test]
fn a_forecast_beats_the_load_of_the_moment() {
    let forecast = scenario(Shape::Skewed, 8, 0.8);
    let moment = Scenario {
        report: Report::Moment,
        ..forecast
    };
    assert!(default_rule(&forecast).p99 * 5 < default_rule(&moment).p99 * 4);
}

#[test]
fn the_default_is_never_worse_than_keeping_all() {
    for rest in [
        ["--period=100,500,1000", "--load=30,50,70,90,95"],
        // Not with reports each second: overload then grows faster than it is told, and for half a minute servers exchange
        // requests for nothing (docs/policy.md).
        ["--period=100,500", "--load=120"],
    ] {
        let worse: Vec<_> = grid(rest)
            .filter_map(|scenario| {
                let (rule, kept) = (default_rule(&scenario), keep_all(&scenario));
                // Less than one in a hundred: nothing but chance.
                let worse = rule.p99 * 100 > kept.p99 * 101;
                worse.then(|| format!("{scenario:?}: {rule:?}, keeping all {kept:?}"))
            })
            .collect();
        assert!(worse.is_empty(), "{worse:#?}");
    }
}

/// Clusters of all sizes and shapes, whose servers report often and seldom.
fn grid(rest: [&str; 2]) -> impl Iterator<Item = Scenario> {
    let all = [
        "simulate",
        "--shape=skewed,even,uneven",
        "--servers=3,8,32,128",
        "--seconds=12",
    ];
    let arguments = Arguments::parse_from(all.into_iter().chain(rest));
    arguments.scenarios().into_iter()
}

#[test]
fn a_fast_worker_is_taken_first() {
    let mut queue = Queue::new([500, 1_000]);
    assert_eq!(queue.arrive(0, 10), 10);
    assert_eq!(queue.arrive(0, 10), 20);
    assert_eq!(queue.arrive(5, 10), 20);
    assert_eq!((queue.jobs(9), queue.jobs(10), queue.jobs(20)), (3, 2, 0));
}

#[test]
fn the_chart_is_well_formed() {
    let arguments = Arguments::parse_from([
        "simulate",
        "--load=50,80",
        "--shape=even,skewed",
        "--seconds=5",
    ]);
    let experiments: Vec<_> = arguments
        .scenarios()
        .into_iter()
        .map(|scenario| experiment(scenario, &arguments))
        .collect();
    let svg = chart::svg(&experiments);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<g ").count(), 2);
    for rule in ["central queue", "keep all", "two-choices"] {
        assert!(svg.contains(rule), "{rule}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}
