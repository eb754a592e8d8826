//! Loading, pinning, and what a successor makes of pins.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use balancer::datapath::maps::MAPS;
use balancer::datapath::{COUNT_CONNECTIONS, Datapath, STEER, Tables};
use balancer_common::types::Connections;

use crate::frame::{FIRST, SECOND};
use crate::pins::Pins;
use crate::server::{Server, WWW};

/// Far below the verifier's limit of a million, so that growth is seen while there is room.
const INSTRUCTIONS: u32 = 200_000;

#[test]
fn the_verifier_has_little_to_do() {
    let Some(pins) = Pins::new() else { return };
    let datapath = Datapath::load(pins.path(), Tables::default()).unwrap();
    for name in [STEER, COUNT_CONNECTIONS] {
        let info = datapath.program(name).unwrap().info().unwrap();
        let verified = info
            .verified_instruction_count()
            .expect("known since Linux 5.16");
        println!("{name}: {verified} instructions verified");
        assert!(verified < INSTRUCTIONS, "{name}: {verified}");
    }
}

#[test]
fn a_successor_takes_the_maps_over() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(9_000);
    server.steers(&FIRST, 0, "steered_new");
    server.steers(&SECOND, 0, "steered");
    let connections = Connections {
        open: 3,
        arrived: 5,
        established: 4,
        steered: 1,
    };
    server.maps().connections.set(WWW, connections, 0).unwrap();
    let service = server.maps().services.get(&WWW, 0).unwrap();

    server.reload();
    assert_eq!(server.maps().connections.get(&WWW, 0).unwrap(), connections);
    assert_eq!(server.maps().services.get(&WWW, 0).unwrap(), service);
    assert_eq!(server.maps().counters(Some(WWW)).unwrap().steered_new, 1);
    server.steers(&SECOND, 0, "steered");
}

#[test]
fn pins_of_another_layout_are_refused() {
    let Some(pins) = Pins::new() else { return };
    drop(Datapath::load(pins.path(), Tables::default()).unwrap());
    // As another version might have left it: PEERS with smaller values, and no PEER_COUNTERS.
    fs::rename(pins.path().join("PEER_COUNTERS"), pins.path().join("PEERS")).unwrap();
    let before = listing(pins.path());
    let error = Datapath::load(pins.path(), Tables::default())
        .err()
        .expect("a refusal");
    assert_eq!(
        error.to_string(),
        format!(
            "{} is of another version of balancer. Run `balancer detach IFACE` first; flows that are steered now will end",
            pins.path().join("PEERS").display()
        )
    );
    assert_eq!(listing(pins.path()), before, "a refusal pins nothing");
}

#[test]
fn bpftool_prints_every_field() {
    let Some(mut server) = Server::new() else {
        return;
    };
    if Command::new("bpftool").arg("version").output().is_err() {
        assert!(
            std::env::var_os("BALANCER_REQUIRE_ROOT").is_none(),
            "BALANCER_REQUIRE_ROOT is set: install bpftool"
        );
        println!("skipped: there is no bpftool");
        return;
    }
    // An entry in each map.
    server.add_peer(0);
    server.set_own_load(9_000);
    server.steers(&FIRST, 0, "steered_new");
    server.steers(&SECOND, 0, "steered");
    server.steers(&FIRST.numbered(1), 0, "steered_new");
    server.set_service(|service| service.affinity_ns = 1);
    server.steers(&SECOND.numbered(1), 0, "steered");
    server.set_service(|service| service.affinity_ns = 0);
    server.steers(&FIRST.numbered(2), 0, "steered_new");

    let fields = [
        (
            "SETTINGS",
            "netns_cookie seed trace_until_ns grace_until_ns got_ns peers redirect assumed flows_mask macs \
             tunnel_v4 tunnel_v6",
        ),
        ("PORTS", "tcp udp"),
        (
            "SERVICES",
            "uncounted given_up cost sample overload margin policy ready affinity_ns",
        ),
        ("IDENTITIES", "octets kind owner grace_until_ns"),
        (
            "PEERS",
            "id last_report_ns timeout_ns state interface mac own_mac families tunnel mtu tunnel_from tunnel_to",
        ),
        ("PEER_MACS", "octets"),
        ("LOADS", "load cost sent weight flags"),
        ("CONNECTIONS", "open arrived established steered"),
        ("CLIENTS", "client octets service last_seen_ns peer"),
        (
            "COUNTERS",
            "not_ours local guest kept_below_level kept_no_candidate kept_for_peer kept_by_affinity kept_no_room kept_repeated \
             steered_new steered_not_ready steered_by_affinity steered_repeated steered steered_fragment steered_error \
             fallen_back not_steered_twice hop_limit too_big decapsulated tunnel_spoofed tunnel_refused not_exposed grace \
             odd untold errors",
        ),
        ("PEER_COUNTERS", "flows packets"),
    ];
    let names = MAPS.iter().map(|(name, ..)| *name);
    assert!(fields.iter().map(|(name, _)| *name).eq(names), "all maps");
    for (name, fields) in fields {
        let dump = dump(&server.pins.path().join(name));
        for field in fields.split(' ') {
            assert!(
                dump.contains(&format!("\"{field}\":")),
                "{name} shows no {field}:\n{dump:.2000}"
            );
        }
    }
}

fn dump(pin: &Path) -> String {
    let output = Command::new("bpftool")
        .args(["map", "dump", "pinned"])
        .arg(pin)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        pin.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn listing(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
