//! A cluster on one machine: servers, a client, and a switch between them.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};

use crate::host::run;
use crate::{Host, Server, leftovers, server};

/// A configuration with a capacity of 20 connections. The hosts of a lab share one CPU, which says nothing about any one of
/// them.
pub const WITHOUT_CPU: &str = "[load]\ncpu = \"0%\"\nrun_queue = \"0%\"\nmemory_pressure = \"0%\"\n\n[[service]]\nname = \"www\"\nports = [\"80/tcp\"]\ncapacity = 20\n";

/// What [`WITHOUT_CPU`] begins with: load is counted in connections alone.
pub const BY_CONNECTIONS: &str =
    "[load]\ncpu = \"0%\"\nrun_queue = \"0%\"\nmemory_pressure = \"0%\"\n\n";

/// Where servers are, and the client unless a router is between.
const SUBNET: u8 = 77;

/// Where the client is if it has a subnet of its own.
const CLIENTS: u8 = 79;

/// A cluster, its servers called web1, web2 and so on. All of it ceases to be when this is dropped.
pub struct Lab {
    /// Where requests come from.
    pub client: Host,
    /// The switch: a bridge with a port for each host, which is called as the host. Each subnet has a bridge of its own.
    pub switch: Host,
    /// What is between the subnets, if there are several. Its interface in subnet 78 is `net78`, its port `router78`.
    pub router: Option<Host>,
    servers: Vec<Server>,
    // Dropped last: the servers' files are in its directory.
    files: Files,
}

impl Lab {
    /// Makes a lab with so many servers, each with nginx and without balancer. `None`, with a word on why: this process
    /// may not.
    ///
    /// # Panics
    ///
    /// It may not, and `BALANCER_REQUIRE_ROOT` is set.
    pub fn new(servers: u8) -> Option<Self> {
        Self::build(&vec![SUBNET; usize::from(servers)], SUBNET)
    }

    /// As [`Self::new`], with a router between subnets: a server in each of `subnets` (77 is 10.77.0.0/24 and
    /// `2001:db8:77::/64`), and the client in one of its own.
    pub fn routed(subnets: &[u8]) -> Option<Self> {
        Self::build(subnets, CLIENTS)
    }

    fn build(subnets: &[u8], client: u8) -> Option<Self> {
        if !privileged() {
            return None;
        }
        leftovers::sweep();
        let files = Files::new();
        let switch = Host::new(&files.name, "switch", Ipv4Addr::UNSPECIFIED);
        let all: BTreeSet<u8> = subnets.iter().copied().chain([client]).collect();
        for subnet in &all {
            // A bridge that snoops multicast would drop the reports of servers whose membership it missed.
            switch.shell(&format!(
                "ip link add bridge{subnet} type bridge stp_state 0 mcast_snooping 0
                 ip link set bridge{subnet} up"
            ));
        }
        switch.shell(
            "for table in ip ip6 arp; do
                 sysctl -eqw net.bridge.bridge-nf-call-${table}tables=0 2>/dev/null || true # only with br_netfilter
             done",
        );
        let router = (all.len() > 1).then(|| router(&files.name, &switch, &all));
        let host = |label: &str, address| {
            let host = plugged(&files.name, label, address, &switch);
            if router.is_some() {
                let (v4, v6) = gateway(address.octets()[1]);
                host.shell(&format!(
                    "ip route add default via {v4}; ip -6 route add default via {v6}"
                ));
            }
            host
        };
        let client = host("client", Ipv4Addr::new(10, client, 0, 1));
        let servers = (1..)
            .zip(subnets)
            .map(|(number, subnet)| {
                let address = Ipv4Addr::new(10, *subnet, 0, 100 + number);
                Server::new(host(&format!("web{number}"), address), &files.dir())
            })
            .collect();
        Some(Self {
            client,
            switch,
            router,
            servers,
            files,
        })
    }

    /// Starts balancer on each server with this configuration and `mode`, and waits until each sees the others.
    pub fn start(&mut self, config: &str, mode: &str) {
        let config = self.config(config);
        for server in &mut self.servers {
            server.attach(&["--config", &config, "--mode", mode]);
        }
        self.wait_for_peers();
    }

    /// Waits until each server sees all others.
    pub fn wait_for_peers(&self) {
        for server in &self.servers {
            server.wait_for_peers(self.servers.len() - 1);
        }
    }

    /// Writes the configuration that all servers have, and returns its path.
    pub fn config(&self, text: &str) -> String {
        let path = self.files.dir().join("balancer.toml");
        fs::write(&path, text).expect("a file in the lab's directory");
        path.to_str().expect("a path in ASCII").to_owned()
    }

    /// The server called web`number`.
    pub fn server(&self, number: usize) -> &Server {
        &self.servers[number - 1]
    }

    /// The server called web`number`.
    pub fn server_mut(&mut self, number: usize) -> &mut Server {
        &mut self.servers[number - 1]
    }

    /// All servers.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// A directory of the lab's own.
    pub fn dir(&self) -> PathBuf {
        self.files.dir()
    }
}

/// Arguments of `attach` for a server with an identity that balancer is to add, as in `10.77.0.201/24`.
pub fn adding<'a>(config: &'a str, identity: &'a str) -> [&'a str; 6] {
    [
        "--config",
        config,
        "--mode",
        "native",
        "--identity",
        identity,
    ]
}

/// The directory of a lab: the servers' files, and a bpffs for their pins.
struct Files {
    name: String,
}

impl Files {
    fn new() -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let name = leftovers::lab_name(LABS.fetch_add(1, Ordering::Relaxed));
        let files = Self { name };
        let bpf = files.dir().join("bpf");
        fs::create_dir_all(files.dir().join("logs")).expect("a directory in /run");
        fs::create_dir_all(&bpf).expect("a directory in /run");
        mount(
            Some("bpf"),
            &bpf,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap_or_else(|error| panic!("cannot mount a bpffs: {error}"));
        run(Command::new(server::binary())
            .arg("keygen")
            .arg(files.dir().join("cluster.key")));
        files
    }

    fn dir(&self) -> PathBuf {
        leftovers::lab_dir(&self.name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        leftovers::remove(&self.name);
    }
}

/// Makes a host with its `eth0` in the switch.
fn plugged(lab: &str, label: &str, address: Ipv4Addr, switch: &Host) -> Host {
    let host = Host::new(lab, label, address);
    let [_, subnet, ..] = address.octets();
    plug(&host, "eth0", switch, label, subnet);
    let address_v6 = host.address_v6();
    host.shell(&format!(
        "ip address add {address}/24 dev eth0
         ip address add {address_v6}/64 dev eth0 nodad"
    ));
    host
}

/// Makes a router with an interface in each of `subnets`.
fn router(lab: &str, switch: &Host, subnets: &BTreeSet<u8>) -> Host {
    let router = Host::new(lab, "router", Ipv4Addr::UNSPECIFIED);
    // Answers come from where their addresses are not.
    router.shell(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 \
             net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.all.keep_addr_on_down=1",
    );
    for subnet in subnets {
        let interface = format!("net{subnet}");
        plug(
            &router,
            &interface,
            switch,
            &format!("router{subnet}"),
            *subnet,
        );
        let (v4, v6) = gateway(*subnet);
        router.shell(&format!(
            "ip address add {v4}/24 dev {interface}
             ip address add {v6}/64 dev {interface} nodad"
        ));
    }
    router
}

/// The router's addresses in a subnet.
fn gateway(subnet: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = format!("2001:db8:{subnet}::254");
    (
        Ipv4Addr::new(10, subnet, 0, 254),
        v6.parse().expect("an address"),
    )
}

/// Connects an interface of a host's with a port of the switch in a subnet.
fn plug(host: &Host, interface: &str, switch: &Host, port: &str, subnet: u8) {
    let namespace = host.namespace();
    // veth drops what an XDP program sends on unless the other end does GRO, and what it sends on is without the sender's
    // note that the checksum is still to be filled in.
    switch.shell(&format!(
        "ip link add {port} type veth peer name {interface} netns {namespace}
         ethtool -K {port} gro on tx off >/dev/null
         ip link set {port} master bridge{subnet} up"
    ));
    host.shell(&format!(
        "ethtool -K {interface} tx off >/dev/null
         ip link set {interface} up"
    ));
}

fn privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        env::var_os("BALANCER_REQUIRE_ROOT").is_none(),
        "this test needs root, and BALANCER_REQUIRE_ROOT is set"
    );
    eprintln!("skipped: this test needs root");
    false
}
