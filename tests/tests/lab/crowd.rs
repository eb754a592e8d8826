//! Many servers, with a daemon on each.

use std::num::NonZero;
use std::thread::{self, sleep};
use std::time::Duration;

use balancer_tests::{Lab, Server, WITHOUT_CPU};

use crate::hostile::counted;

/// As many servers as a cluster is made for.
const CLUSTER: usize = 64;

/// Daemons that one CPU has time for while more are started.
const DAEMONS_A_CPU: usize = 20;

/// A daemon that isn't optimised takes several times as much of the two CPUs of a small machine, which other tests use as well.
fn crowd() -> u8 {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let daemons = if cfg!(debug_assertions) {
        8
    } else {
        CLUSTER.min(DAEMONS_A_CPU * cpus)
    };
    daemons as u8
}

/// How long they are listened to.
const SPAN: Duration = Duration::from_secs(10);

/// Datagrams that a server took in, and those that it dropped.
fn heard(server: &Server) -> (u64, u64) {
    let counted = counted(server);
    let dropped = counted
        .iter()
        .filter(|(name, _)| !["received", "sent"].contains(&name.as_str()));
    (counted["received"], dropped.map(|(_, count)| count).sum())
}

#[test]
fn a_crowd_hears_each_others_every_report() {
    let crowd = crowd();
    let Some(mut lab) = Lab::new(crowd) else {
        return;
    };
    lab.start(WITHOUT_CPU, "generic");
    let before: Vec<_> = lab.servers().iter().map(heard).collect();
    sleep(SPAN);
    let peers = u64::from(crowd) - 1;
    for (server, before) in lab.servers().iter().zip(before) {
        let name = server.host.label();
        let (received, dropped) = heard(server);
        // Two reports a second of each, of which the last may be still to come.
        let least = peers * (2 * SPAN.as_secs() - 1);
        let received = received - before.0;
        assert!(received >= least, "{name}: {received} of {least}");
        assert_eq!(dropped - before.1, 0, "{name}");
        let status = server.status();
        for peer in status["peers"].as_array().unwrap() {
            assert_eq!(peer["status"], "online", "{name}: {peer}");
        }
        for change in status["changes"].as_array().unwrap() {
            let text = change["text"].as_str().unwrap();
            let recent = change["ago_ms"].as_u64().unwrap() < SPAN.as_millis() as u64;
            assert!(!recent || !text.contains("was online"), "{name}: {text}");
        }
    }
}
