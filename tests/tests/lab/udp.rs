//! UDP: who answers, and what of a datagram arrives.

use std::net::IpAddr;
use std::time::Duration;

use balancer_tests::{
    BY_CONNECTIONS, Daemon, Datagrams, Echo, Lab, Process, Resolver, Server, until, who_by_tcp,
};

use crate::steering::{ipv4, ipv6};

/// Each query of a new port counts as a connection for a second.
const DNS: &str = "[[service]]\nname = \"dns\"\nports = [\"53/udp\", \"53/tcp\"]\ncapacity = 20\n";

const ECHO: &str = "[[service]]\nname = \"echo\"\nports = [\"7000/udp\"]\ncapacity = 20\n";
const ECHO_PORT: u16 = 7000;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn dns_queries_are_shared_in_native_mode() {
    dns_queries_are_shared("native", ipv4);
}

#[test]
fn dns_queries_over_ipv6_are_shared_in_generic_mode() {
    dns_queries_are_shared("generic", ipv6);
}

fn dns_queries_are_shared(mode: &str, address: fn(&Server) -> IpAddr) {
    let Some(mut lab) = Lab::new(3) else { return };
    let address = address(lab.server(1));
    let _daemons = start_dns(&mut lab, address, mode);

    let mut resolvers = resolvers(&lab, address, 8);
    for resolver in &resolvers {
        assert_eq!(resolver.who().unwrap(), "web1", "below the level");
    }
    resolvers.extend(self::resolvers(&lab, address, 32));
    let names: Vec<_> = resolvers.iter().map(|one| one.who().unwrap()).collect();
    let answered = |by: &str| names.iter().filter(|name| *name == by).count();
    let answered = ["web1", "web2", "web3"].map(answered);
    assert!(
        answered.iter().all(|count| *count > 0) && answered[0] <= 28,
        "answered by web1, web2, web3: {answered:?}; {:#}",
        lab.server(1).status()
    );
    assert_eq!(lab.server(1).steered(), (answered[1] + answered[2]) as u64);
    assert!(who_by_tcp(&lab.client, address).is_ok());

    // A client's port keeps its server, under load and without it.
    for _ in 0..3 {
        for (resolver, name) in resolvers.iter().zip(&names) {
            assert_eq!(resolver.who().unwrap(), *name);
        }
    }
    until("no query counts any more", PATIENCE, || {
        lab.server(1).connections() == 0
    });
    for (resolver, name) in resolvers.iter().zip(&names) {
        assert_eq!(resolver.who().unwrap(), *name);
    }
    assert_eq!(Resolver::new(&lab.client, address).who().unwrap(), "web1");
}

#[test]
fn queries_of_a_dead_peers_clients_go_on_at_once() {
    let Some(mut lab) = Lab::new(3) else { return };
    let address = lab.server(1).address().into();
    let _daemons = start_dns(&mut lab, address, "native");
    let resolvers = resolvers(&lab, address, 40);
    let answered = || resolvers.iter().map(|one| one.who().unwrap());
    let of_web2: Vec<_> = answered().map(|name| name == "web2").collect();
    assert!(of_web2.contains(&true));
    assert!(
        answered()
            .zip(&of_web2)
            .all(|(name, of)| (name == "web2") == *of)
    );

    lab.switch.run("ip", &["link", "set", "web2", "down"]);
    until("web2 is dead", PATIENCE, || {
        lab.server(1).sees("web2").as_deref() == Some("dead")
    });
    assert!(answered().all(|name| name != "web2"));
}

#[test]
fn large_datagrams_arrive_in_fragments_in_native_mode() {
    large_datagrams_arrive_in_fragments("native", ipv4);
}

#[test]
fn large_datagrams_arrive_in_fragments_in_generic_mode() {
    large_datagrams_arrive_in_fragments("generic", ipv4);
}

#[test]
fn large_datagrams_over_ipv6_arrive_in_fragments_in_native_mode() {
    large_datagrams_arrive_in_fragments("native", ipv6);
}

fn large_datagrams_arrive_in_fragments(mode: &str, address: fn(&Server) -> IpAddr) {
    let Some(mut lab) = Lab::new(3) else { return };
    let address = address(lab.server(1));
    lab.start(&format!("{BY_CONNECTIONS}{ECHO}"), mode);
    let _echos: Vec<_> = lab
        .servers()
        .iter()
        .map(|server| Echo::start(server, address, ECHO_PORT))
        .collect();
    let clients: Vec<_> = (0..32)
        .map(|_| Datagrams::new(&lab.client, address, ECHO_PORT))
        .collect();
    let datagram: Vec<u8> = (0..4096_u16).map(|number| (number % 251) as u8).collect();

    until("the servers listen", PATIENCE, || {
        clients[0].exchange(b"a word").is_ok()
    });
    // The first datagrams of their flows, second ones, later ones.
    let names: Vec<_> = clients
        .iter()
        .map(|client| client.exchange(&datagram).unwrap())
        .collect();
    for _ in 0..3 {
        for (client, name) in clients.iter().zip(&names) {
            assert_eq!(client.exchange(&datagram).unwrap(), *name);
        }
    }
    let steered = names.iter().filter(|name| *name != "web1").count() as u64;
    assert!((1..32).contains(&steered), "{names:?}");
    let status = lab.server(1).status();
    // Of three fragments, two follow: of four datagrams of each client. Nothing in them tells the service.
    assert_eq!(
        status["packets"]["steered_fragment"],
        steered * 4 * 2,
        "{status:#}"
    );
}

/// Starts a DNS server on each server, waits until each answers in the family of `address`, and starts balancer before them.
pub fn start_dns(lab: &mut Lab, address: IpAddr, mode: &str) -> Vec<Process> {
    let daemons = lab.servers().iter();
    let daemons = daemons
        .map(|server| server.start_daemon(Daemon::Dns))
        .collect();
    for server in lab.servers() {
        let own = match address {
            IpAddr::V4(_) => ipv4(server),
            IpAddr::V6(_) => ipv6(server),
        };
        until("the DNS server answers", PATIENCE, || {
            who_by_tcp(&lab.client, own).is_ok()
        });
    }
    lab.start(&format!("{BY_CONNECTIONS}{DNS}"), mode);
    daemons
}

/// Clients of the DNS server at `address`, each with a port of its own.
pub fn resolvers(lab: &Lab, address: IpAddr, count: usize) -> Vec<Resolver> {
    let resolvers = (0..count).map(|_| Resolver::new(&lab.client, address));
    resolvers.collect()
}
