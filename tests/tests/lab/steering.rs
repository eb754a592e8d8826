//! Who serves what.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use balancer_tests::{Connection, Held, Lab, Server, WITHOUT_CPU, until};

/// So many connections at once overload a server with a capacity of 20, and leave its peers with next to nothing.
const OVERLOAD: usize = 14;

/// The labs' servers share one machine, which may be busy: at its full weight, its CPU could make them all overloaded alike.
const WITH_CPU: &str =
    "[load]\ncpu = \"50%\"\n\n[[service]]\nname = \"www\"\nports = [\"80/tcp\"]\ncapacity = 20\n";

#[test]
fn forty_connections_are_shared_in_native_mode() {
    forty_connections_are_shared(WITHOUT_CPU, "native", ipv4);
}

#[test]
fn forty_connections_are_shared_in_generic_mode() {
    forty_connections_are_shared(WITHOUT_CPU, "generic", ipv4);
}

#[test]
fn forty_connections_are_shared_where_cpu_counts() {
    forty_connections_are_shared(WITH_CPU, "native", ipv4);
}

#[test]
fn forty_connections_over_ipv6_are_shared_in_native_mode() {
    forty_connections_are_shared(WITHOUT_CPU, "native", ipv6);
}

#[test]
fn forty_connections_over_ipv6_are_shared_in_generic_mode() {
    forty_connections_are_shared(WITHOUT_CPU, "generic", ipv6);
}

pub fn ipv4(server: &Server) -> IpAddr {
    server.address().into()
}

pub fn ipv6(server: &Server) -> IpAddr {
    server.host.address_v6().into()
}

fn forty_connections_are_shared(config: &str, mode: &str, address: fn(&Server) -> IpAddr) {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(config, mode);
    for server in lab.servers() {
        assert_eq!(server.status()["interfaces"][0]["mode"], mode);
    }

    let held = Held::open(&lab.client, address(lab.server(1)), 40, 8);
    let served: Vec<_> = ["web1", "web2", "web3"]
        .iter()
        .map(|name| held.served_by(name))
        .collect();
    assert_eq!(served.iter().sum::<usize>(), 40);
    assert!(served[0] <= 26, "web1 kept too many: {served:?}");
    assert!(
        served[1] > 0 && served[2] > 0,
        "one served none: {served:?}; web1's peers: {:#}",
        lab.server(1).json(&["peers"])
    );

    for (server, served) in lab.servers().iter().zip(&served) {
        assert_eq!(server.connections(), *served as u64);
    }
    assert_eq!(lab.server(1).steered(), (served[1] + served[2]) as u64);
    held.finish();
    for server in lab.servers() {
        until("no connection is left", Duration::from_secs(5), || {
            server.connections() == 0
        });
    }
}

#[test]
fn nothing_is_steered_below_the_overload_level() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let address = lab.server(1).address();

    let held = Held::open(&lab.client, address, 8, 8);
    assert_eq!(held.served_by("web1"), 8);
    for _ in 0..50 {
        let mut connection = Connection::open(&lab.client, address).unwrap();
        assert_eq!(connection.get("/").unwrap().server, "web1");
        drop(connection);
        until("it is closed", Duration::from_secs(2), || {
            lab.server(1).connections() == 8
        });
    }
    held.finish();
    for server in lab.servers() {
        assert_eq!(server.steered(), 0);
    }
}

#[test]
fn servers_reach_each_other() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let urls = [
        format!("http://{}/", lab.server(1).address()),
        format!("http://[{}]/", lab.server(1).host.address_v6()),
    ];
    let reach = || {
        for (number, url) in [1, 2, 3]
            .iter()
            .flat_map(|n| urls.iter().map(move |url| (n, url)))
        {
            assert_eq!(lab.server(*number).host.curl(url, &[]).server, "web1");
        }
    };

    reach();
    let held = Held::open(&lab.client, lab.server(1).address(), OVERLOAD, 6);
    assert!(held.served_by("web1") < OVERLOAD);
    for url in &urls {
        assert_ne!(lab.client.curl(url, &[]).server, "web1");
    }
    reach();
    held.finish();
}

#[test]
fn large_bodies_arrive_whole_in_native_mode() {
    large_bodies_arrive_whole("native");
}

#[test]
fn large_bodies_arrive_whole_in_generic_mode() {
    large_bodies_arrive_whole("generic");
}

fn large_bodies_arrive_whole(mode: &str) {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, mode);
    let address = lab.server(1).address();
    let page = noise(10_000_000);
    for server in lab.servers() {
        fs::write(server.dir().join("page"), &page).unwrap();
    }
    let held = Held::open(&lab.client, address, OVERLOAD, 8);

    let upload = noise(1_000_000);
    let mut connection = Connection::open(&lab.client, address).unwrap();
    let answer = connection.post("/upload", &upload).unwrap();
    assert_eq!(answer.body, b"stored");
    assert_ne!(answer.server, "web1");
    let number = if answer.server == "web2" { 2 } else { 3 };
    let stored = fs::read_dir(lab.server(number).dir().join("uploads")).unwrap();
    let stored: Vec<_> = stored.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(stored.len(), 1);
    assert!(
        fs::read(&stored[0]).unwrap() == upload,
        "the upload differs"
    );

    // The same connection again, so with the same server.
    let answer = connection.get("/page").unwrap();
    assert_eq!(answer.server, format!("web{number}"));
    assert!(answer.body == page, "the download differs");
    held.finish();
}

/// Bytes that don't repeat.
pub fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect()
}
