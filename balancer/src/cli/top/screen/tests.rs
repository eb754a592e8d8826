use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::*;
use crate::cli::top::rates::Rates;

/// A status with these counters of the service and the peer.
fn status(kept: u64, steered: u64, repeated: u64, flows: u64) -> Status {
    let text = json!({
        "name": "web1", "id": "01", "version": "1", "pid": 1, "uptime_ms": 61_000, "pin_dir": "/p",
        "period_ms": 500, "timeout_ms": 1500, "drain": null, "load_parts": [], "sampling_us": 90, "interfaces": [], "identities": [],
        "holders": [], "changes": [],
        "services": [{
            "name": "www", "ports": ["80/tcp"], "capacity": 20, "load": 7500, "load_connections": 7500, "load_accept_queue": 0, "load_host": 0,
            "connections": 14, "pending": 1, "connections_per_second": 12.5, "healthy": false, "health": "refused", "overload": 5000, "routed": false, "requests": {}, "margin": 2000,
            "policy": "two-choices",
            "packets": {"kept_below_level": kept, "steered_new": steered, "steered_repeated": repeated, "odd": 0}
        }],
        "peers": [{
            "name": "web2", "id": "02", "status": "online", "draining": true, "address": "10.0.0.2", "way": null,
            "age_ms": 120, "period_ms": 500, "identities": [], "holders": [], "flows": flows, "packets": flows * 10,
            "services": [{"name": "www", "load": 12_000, "capacity": 20, "healthy": true}]
        }],
        "packets": {}, "exchange": {}, "warnings": ["something is wrong"]
    });
    serde_json::from_value(text).unwrap()
}

fn shown(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn shows_loads_rates_and_what_is_wrong() {
    let (before, after) = (status(10, 5, 1, 5), status(30, 25, 9, 9));
    let rates = Rates::between(&before, &after, Duration::from_secs(2));
    assert!((rates.flows("www", "steered_") - 10.0).abs() < 1e-9);
    let view = View {
        status: after,
        rates,
        stale: Some("no answer".into()),
    };
    let shown = shown(&view, 100, 24);
    let line = |start: &str| {
        let lines = shown.lines().map(|line| line.trim_matches('"'));
        let mut lines = lines.filter(|line| line.starts_with(start));
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("no {start}: {shown}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        line("web1"),
        "web1: load 75.0 %, up 1 min, a report each 500 ms"
    );
    assert_eq!(line("OLD"), "OLD: no answer");
    assert_eq!(line("WARNING"), "WARNING: something is wrong");
    let bar = |cells| "█".repeat(cells);
    assert_eq!(
        line("www"),
        format!("www DOWN 75.0 % {} 15 10 10 0", bar(15))
    );
    assert_eq!(
        line("web2"),
        format!("web2 120.0 % {}» 120 ms 2 20 online, draining", bar(19))
    );
    assert_eq!(line("steered repeated"), "steered repeated 4 of 9 in all");
    assert!(!shown.contains("odd"));
}

#[test]
fn counters_that_begin_again_give_no_rates() {
    let rates = Rates::between(
        &status(30, 25, 9, 9),
        &status(1, 0, 0, 0),
        Duration::from_secs(1),
    );
    assert!(rates.services["www"].values().all(|rate| *rate == 0.0));
    assert_eq!(rates.peers["02"], (0.0, 0.0));
}

#[test]
fn the_smallest_terminal_is_no_panic() {
    let view = View {
        status: status(1, 1, 1, 1),
        rates: Rates::default(),
        stale: None,
    };
    for (width, height) in [(1, 1), (3, 2), (20, 5), (300, 100)] {
        shown(&view, width, height);
    }
}
