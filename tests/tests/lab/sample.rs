//! The daemon's samples of own load: how soon the program in the kernel goes by them, and what they cost.
#![expect(clippy::disallowed_methods, reason = "what is measured is real time")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use balancer_tests::{BY_CONNECTIONS, Lab, Server, until};
use nix::sys::socket::{Backlog, listen};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// How soon the program sees a changed sample.
const PROMPT: Duration = Duration::from_millis(100);

/// How often a measurement on a machine with other work is tried.
const TRIES: usize = 3;

/// What samples may cost, in millionths of a core: half a percent. Without optimisation they take two to three times as much,
/// more where other tests have the caches.
const COST: u64 = if cfg!(debug_assertions) {
    20_000
} else {
    5_000
};

#[test]
fn what_the_users_measure_says_is_in_the_kernel_within_100_ms() {
    let Some(mut lab) = Lab::new(1) else { return };
    let said = lab.dir().join("said");
    let say = |percent: u32| {
        let new = said.with_extension("new");
        fs::write(&new, format!("{percent}\n")).unwrap();
        fs::rename(new, &said).unwrap();
    };
    say(0);
    let probe = format!(
        "probe = {{ command = [\"/bin/cat\", \"{}\"], every = \"20ms\" }}",
        said.display()
    );
    attach(
        &mut lab,
        &BY_CONNECTIONS.replace("[load]", &format!("[load]\n{probe}")),
    );
    let server = lab.server(1);
    until("it is sampled", PATIENCE, || sample(server) == 0);
    prompt(server, |step| {
        let percent = 10 + step;
        say(percent);
        percent * 100
    });
}

#[test]
fn what_waits_in_an_accept_queue_is_in_the_kernel_within_100_ms() {
    let Some(mut lab) = Lab::new(1) else { return };
    // A service that takes no connection but when it is told to, with room for a hundred.
    let listener = lab.server(1).host.enter(|| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 81)).unwrap();
        listen(&listener, Backlog::new(100).unwrap()).unwrap();
        listener
    });
    attach(&mut lab, BY_CONNECTIONS);
    let server = lab.server(1);
    let mut waiting = Vec::new();
    prompt(server, |_| {
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, 81)).unwrap();
        waiting.push(server.host.enter(connect));
        waiting.len() as u32 * 100
    });
    drop(listener);
}

/// In the profile that the tests are built in.
#[test]
fn samples_cost_little() {
    let Some(mut lab) = Lab::new(1) else { return };
    attach(&mut lab, "");
    let server = lab.server(1);
    let mut costs = Vec::new();
    for _ in 0..TRIES {
        let begin = spent(server);
        thread::sleep(Duration::from_secs(4));
        let end = spent(server);
        let cost = (end.0 - begin.0) * 1_000 / (end.1 - begin.1);
        println!("sampling takes {cost} us of CPU time a second; {COST} are allowed");
        if cost < COST {
            return;
        }
        costs.push(cost);
    }
    panic!("samples take {costs:?} us of CPU time a second; {COST} are allowed");
}

/// Changes what is sampled again and again, as `change` does, which returns the sample to be. Panics if the program doesn't see it
/// in time.
fn prompt(server: &Server, mut change: impl FnMut(u32) -> u32) {
    let mut tried = Vec::new();
    let mut step = 0;
    for _ in 0..TRIES {
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                step += 1;
                // At any time between two samples, not just after one.
                thread::sleep(Duration::from_millis(u64::from(step * 37 % 100)));
                let begin = Instant::now();
                let expected = change(step);
                while sample(server) != expected {
                    assert!(begin.elapsed() < PATIENCE, "{expected} is not seen");
                }
                begin.elapsed()
            })
            .collect();
        times.sort();
        let median = times[times.len() / 2];
        println!(
            "seen after {median:?}, at the most {:?}",
            times[times.len() - 1]
        );
        if median <= PROMPT {
            return;
        }
        tried.push(times);
    }
    panic!("the program doesn't see it within {PROMPT:?}: {tried:?}");
}

/// With this `[load]`, for the service on port 81.
fn attach(lab: &mut Lab, load: &str) {
    let service = "[[service]]\nname = \"stuck\"\nports = [\"81/tcp\"]\n";
    let config = lab.config(&format!("{load}{service}"));
    lab.server_mut(1)
        .attach(&["--config", &config, "--mode", "generic"]);
}

/// The first service's sample, as the program in the kernel has it.
fn sample(server: &Server) -> u32 {
    let map = server.pin_dir().join("SERVICES");
    let entry = lookup(server, &map);
    let value = entry["formatted"]["value"]["sample"].as_u64();
    value.unwrap_or_else(|| panic!("no sample in {entry}")) as u32
}

fn lookup(server: &Server, map: &Path) -> Value {
    let map = map.to_str().unwrap();
    let arguments = [
        "--json", "map", "lookup", "pinned", map, "key", "0", "0", "0", "0",
    ];
    let text = server.host.run("bpftool", &arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// CPU time that samples have taken in microseconds, and for how many milliseconds the daemon has run.
fn spent(server: &Server) -> (u64, u64) {
    let status = server.status();
    let number = |key: &str| status[key].as_u64().unwrap();
    (number("sampling_us"), number("uptime_ms"))
}
