//! Datagrams of the exchange that somebody on the link makes up, or sends again: counted by kind, and without effect.
#![expect(clippy::disallowed_methods, reason = "a flood has a rate")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use balancer_tests::{Busy, Lab, Server, Signal, WITHOUT_CPU, adding, until};

/// Group and port of the exchange.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 99, 18);
const EXCHANGE: u16 = 9918;

/// Datagrams a second. A daemon that isn't optimised takes twenty times as long to open a seal, and other tests run meanwhile.
const RATE: u32 = if cfg!(debug_assertions) {
    2_000
} else {
    100_000
};

/// How long they come.
const FLOOD: Duration = Duration::from_secs(4);

/// What a daemon may grow by, in KiB: less than a million datagrams of a byte each.
const GROWTH: u64 = 4 << 10;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_flood_of_hostile_datagrams_is_counted_and_silences_nobody() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let recorded = record(&lab);
    let server = lab.server(1);
    let timeout = server.status()["timeout_ms"].as_u64().expect("a time");
    // What is allocated once, for answers to questions as well.
    thread::sleep(Duration::from_secs(1));
    let (had, before) = (server.memory("VmRSS"), counted(server));

    let begun = Instant::now();
    let flood = flood(&lab, server.address(), altered(&recorded), RATE);
    while begun.elapsed() < FLOOD {
        let status = server.status();
        for peer in status["peers"].as_array().expect("the peers") {
            let age = peer["age_ms"].as_u64().expect("an age");
            assert!(age < timeout && peer["status"] == "online", "{peer}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    let sent = flood.end();
    assert!(
        sent >= u64::from(RATE) * FLOOD.as_secs() / 2,
        "a flood of {sent} only"
    );

    let grown = server.memory("VmRSS").saturating_sub(had);
    let more = counted_since(server, &before);
    println!("of {sent} datagrams: {more:?}; {grown} KiB more");
    for kind in [
        "garbage",
        "wrong_version",
        "unknown_key",
        "bad_seal",
        "replayed",
        "oversized",
    ] {
        assert!(more.get(kind) > Some(&100), "{kind}: {more:?}");
    }
    assert!(grown < GROWTH, "it has grown by {grown} KiB");
    for server in lab.servers() {
        let status = server.status();
        let changes = status["changes"].as_array().expect("the changes");
        let joined = |text: &str| text.ends_with("is there");
        let texts = changes.iter().filter_map(|change| change["text"].as_str());
        let others: Vec<_> = texts.filter(|text| !joined(text)).collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

#[test]
fn what_was_recorded_before_restarts_hides_nobody_and_is_not_answered_each_time() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let tape = recorder(&lab);
    let config = lab.config(WITHOUT_CPU);
    let restart = |lab: &mut Lab| {
        let server = lab.server_mut(3);
        server.end_balancer(Signal::SIGTERM);
        server.attach(&["--config", &config]);
        lab.wait_for_peers();
    };
    restart(&mut lab);
    thread::sleep(Duration::from_secs(2));
    let recorded: Vec<_> = tape.end().into_iter().map(|(_, what)| what).collect();
    assert!(recorded.len() > 10, "{} datagrams", recorded.len());
    restart(&mut lab);

    let address = lab.server(1).address();
    let (begun, before) = (Instant::now(), counted(lab.server(1)));
    let flood = flood(&lab, address, recorded, RATE / 2);
    // So that it has begun.
    thread::sleep(Duration::from_secs(1));
    restart(&mut lab);
    let server = lab.server(1);
    server.wait_for_peers(2);
    until("enough of it has been seen", PATIENCE, || {
        let more = counted_since(server, &before);
        ["unproven", "replayed"].map(|kind| more.get(kind) > Some(&100)) == [true; 2]
    });
    let sent = flood.end();
    let more = counted_since(server, &before);
    println!("of {sent} datagrams: {more:?}");
    // At the most an answer each 50 ms, its reports, and what it asks.
    let most = 30 * (begun.elapsed().as_secs() + 1);
    assert!(more["sent"] < most, "it was made to send: {more:?}");
}

#[test]
fn two_homes_of_one_address_both_say_so_and_neither_fights() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    for number in [1, 2] {
        lab.server_mut(number).end_balancer(Signal::SIGTERM);
        lab.server_mut(number)
            .attach(&adding(&config, "10.77.0.201/24"));
    }
    for (number, other) in [(1, "web2"), (2, "web1")] {
        let warning = format!(
            "WARNING: 10.77.0.201 is this server's and peer {other}'s: two servers must not have one address"
        );
        until("each says so", PATIENCE, || {
            let status = lab.server(number).ask(&["status"]).output;
            status.contains(&warning)
        });
    }
    // At its start each has announced it five times, within 5 s.
    thread::sleep(Duration::from_secs(6));
    count_frames(&lab, "arp saddr ip 10.77.0.201");
    thread::sleep(Duration::from_secs(4));
    assert_eq!(frames(&lab), 0, "they fight");
    for number in [1, 2] {
        let status = lab.server(number).status();
        let name = format!("web{number}");
        let mut holders = status["holders"].as_array().expect("the holders").iter();
        let holder = holders.find(|holder| holder["address"] == "10.77.0.201");
        assert_eq!(holder.expect("the address")["holder"], *name);
    }
    assert_eq!(lab.client.curl("http://10.77.0.201/", &[]).status, 200);
}

#[test]
fn a_server_of_another_version_or_key_is_named() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let reports = record(&lab);
    let report = reports.first().expect("a report");
    let (server, client) = (lab.server(1), lab.client.address());
    for (at, warning) in [
        (
            4,
            format!(
                "the server at {client} isn't heard: it is of another version of balancer, which speaks version "
            ),
        ),
        (
            8,
            format!(
                "the server at {client} isn't heard: its reports are sealed with an unknown key. A server of this cluster needs the same key file; one of another cluster needs another exchange.group\n"
            ),
        ),
    ] {
        let mut altered = report.clone();
        altered[at] ^= 0xff;
        lab.client.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
            let to = (server.address(), EXCHANGE);
            socket.send_to(&altered, to).expect("a datagram");
        });
        until("it is named", PATIENCE, || {
            let status = server.ask(&["status"]).output;
            status.contains(&format!("WARNING: {warning}"))
        });
    }
}

/// A report of each other server's, as the first one hears it.
fn record(lab: &Lab) -> Vec<Vec<u8>> {
    let tape = recorder(lab);
    thread::sleep(Duration::from_secs(2));
    let mut last: BTreeMap<_, _> = tape.end().into_iter().collect();
    last.remove(&SocketAddr::from((lab.server(1).address(), EXCHANGE)));
    assert_eq!(last.len(), lab.servers().len() - 1);
    last.into_values().collect()
}

/// All that the group is told, and by whom.
fn recorder(lab: &Lab) -> Busy<Vec<(SocketAddr, Vec<u8>)>> {
    // The client's own address says by which interface.
    let here = lab.client.address();
    Busy::new(&lab.client, move |go_on| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, EXCHANGE)).expect("a port");
        socket.join_multicast_v4(&GROUP, &here).expect("the group");
        let patience = Some(Duration::from_millis(100));
        socket.set_read_timeout(patience).expect("a time-out");
        let mut heard = Vec::new();
        while go_on() {
            let mut datagram = vec![0; 9_000];
            if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                datagram.truncate(length);
                heard.push((from, datagram));
            }
        }
        heard
    })
}

/// Bad datagrams of all kinds.
fn altered(recorded: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut kinds = Vec::new();
    for report in recorded {
        let altered = |at: usize| {
            let mut altered = report.clone();
            altered[at] ^= 0xff;
            altered
        };
        kinds.push(report.clone());
        kinds.push(altered(0)); // no balancer's
        kinds.push(altered(4)); // another version's
        kinds.push(altered(8)); // sealed with another key
        kinds.push(altered(report.len() - 1)); // changed on its way
        kinds.push(altered(20)); // with another nonce
        kinds.push(report[..report.len() / 2].to_vec());
        kinds.push(report[..30].to_vec());
        kinds.push(Vec::new());
    }
    kinds
}

/// Sends these, and oversized ones, again and again from the client, `rate` a second. Gives how many.
fn flood(lab: &Lab, to: Ipv4Addr, kinds: Vec<Vec<u8>>, rate: u32) -> Busy<u64> {
    // Those that are sent before the clock is looked at.
    let batch = rate as usize / 1_000;
    let oversized = vec![0; 9_000];
    Busy::new(&lab.client, move |go_on| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        socket.connect((to, EXCHANGE)).expect("an address");
        let begun = Instant::now();
        let mut sent: u64 = 0;
        let mut kinds = kinds.iter().cycle();
        while go_on() {
            let due = begun.elapsed().as_micros() * u128::from(rate) / 1_000_000;
            if u128::from(sent) < due {
                for kind in kinds.by_ref().take(batch) {
                    // No room in a queue is a flood's own trouble.
                    sent += u64::from(socket.send(kind).is_ok());
                }
                // It goes in six pieces.
                sent += u64::from(socket.send(&oversized).is_ok());
            } else {
                thread::sleep(Duration::from_micros(200));
            }
        }
        sent
    })
}

/// Counters of the exchange.
pub fn counted(server: &Server) -> BTreeMap<String, u64> {
    let status = server.status();
    let counters = status["exchange"].as_object().expect("the counters");
    let pair = |(kind, count): (&String, &serde_json::Value)| {
        (kind.clone(), count.as_u64().expect("a count"))
    };
    counters.iter().map(pair).collect()
}

/// By how much they have grown, those that have.
fn counted_since(server: &Server, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut more = counted(server);
    for (kind, count) in &mut more {
        *count -= before[kind];
    }
    more.retain(|_, count| *count > 0);
    more
}

/// Begins to count the frames of ARP that the client receives, of those that nft's `expression` is true of.
pub fn count_frames(lab: &Lab, expression: &str) {
    lab.client.shell(&format!(
        "nft -f - <<END
table arp watch {{ chain in {{ type filter hook input priority filter; {expression} counter; }}; }}
END"
    ));
}

/// How many it has received.
pub fn frames(lab: &Lab) -> u64 {
    let listed = lab.client.run("nft", &["list", "table", "arp", "watch"]);
    let mut words = listed
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    let count = words.nth(1).and_then(|count| count.parse().ok());
    count.unwrap_or_else(|| panic!("no count: {listed}"))
}
