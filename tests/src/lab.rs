//! A cluster on one machine: servers, a client, and a switch between them.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};

use crate::host::run;
use crate::{Host, Server, leftovers, server};

/// A configuration with a capacity of 20 connections. The hosts of a lab share one CPU, which says nothing about any one of
/// them.
pub const WITHOUT_CPU: &str = "[load]\ncpu = \"0%\"\nrun_queue = \"0%\"\nmemory_pressure = \"0%\"\n\n[[service]]\nname = \"www\"\nports = [\"80/tcp\"]\ncapacity = 20\n";

/// A cluster, its servers called web1, web2 and so on. All of it ceases to be when this is dropped.
pub struct Lab {
    /// Where requests come from.
    pub client: Host,
    /// The switch: a bridge with a port for each host, which is called as the host.
    pub switch: Host,
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
        if !privileged() {
            return None;
        }
        leftovers::sweep();
        let files = Files::new();
        let switch = Host::new(&files.name, "switch", Ipv4Addr::UNSPECIFIED);
        // A bridge that snoops multicast would drop the reports of servers whose membership it missed.
        switch.shell(
            "ip link add bridge type bridge stp_state 0 mcast_snooping 0
             ip link set bridge up
             for table in ip ip6 arp; do
                 sysctl -eqw net.bridge.bridge-nf-call-${table}tables=0 2>/dev/null || true # only with br_netfilter
             done",
        );
        let client = plugged(&files.name, "client", Ipv4Addr::new(10, 77, 0, 1), &switch);
        let servers = (1..=servers)
            .map(|number| {
                let address = Ipv4Addr::new(10, 77, 0, 100 + number);
                let host = plugged(&files.name, &format!("web{number}"), address, &switch);
                Server::new(host, &files.dir())
            })
            .collect();
        Some(Self {
            client,
            switch,
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
    let namespace = host.namespace();
    // veth drops what an XDP program sends on unless the other end does GRO, and what it sends on is without the sender's
    // note that the checksum is still to be filled in.
    switch.shell(&format!(
        "ip link add {label} type veth peer name eth0 netns {namespace}
         ethtool -K {label} gro on tx off >/dev/null
         ip link set {label} master bridge up"
    ));
    let address_v6 = host.address_v6();
    host.shell(&format!(
        "ethtool -K eth0 tx off >/dev/null
         ip address add {address}/24 dev eth0
         ip address add {address_v6}/64 dev eth0 nodad
         ip link set eth0 up"
    ));
    host
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
