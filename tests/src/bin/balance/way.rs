//! The ways to spread requests, and what each needs to be set up.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use balancer_tests::{Lab, Process, Signal, until};

/// Servers that do the work. One host more is for a box that spreads it.
pub const SERVERS: usize = 3;
/// How many times as slow the last of them is.
pub const SLOW: u32 = 2;

const PORT: u16 = 8000;
const PATIENCE: Duration = Duration::from_secs(20);

/// A server's capacity is its workers; the hosts share one CPU, which says nothing about any one of them.
const BALANCER: &str =
    "[load]\ncpu = \"0%\"\n\n[[service]]\nname = \"work\"\nports = [\"8000/tcp\"]\ncapacity = 8\n";

/// A way to spread requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Clients take each server in turn, and nobody does anything about it.
    Dns,
    /// nftables on a box gives each server a connection in turn.
    Nftables,
    /// `HAProxy` on a box gives a connection to the server that has the fewest.
    Haproxy,
    /// Balancer on each server; clients take each server in turn.
    BalancerDns,
    /// Balancer on each server; all clients aim at the first.
    BalancerFirst,
}

/// What runs while requests come.
pub enum Running {
    Nothing,
    Ruleset,
    Box(Process),
    Balancer,
}

impl Way {
    pub const ALL: [Self; 5] = [
        Self::Dns,
        Self::Nftables,
        Self::Haproxy,
        Self::BalancerDns,
        Self::BalancerFirst,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "DNS round robin",
            Self::Nftables => "nftables DNAT",
            Self::Haproxy => "HAProxy leastconn",
            Self::BalancerDns => "balancer, DNS round robin",
            Self::BalancerFirst => "balancer, all to the first server",
        }
    }

    /// What the clients ask for.
    pub fn urls(self, lab: &Lab) -> Vec<String> {
        let addresses: Vec<_> = match self {
            Self::Dns | Self::BalancerDns => {
                (1..=SERVERS).map(|server| address(lab, server)).collect()
            }
            Self::Nftables | Self::Haproxy => vec![address(lab, SERVERS + 1)],
            Self::BalancerFirst => vec![address(lab, 1)],
        };
        addresses
            .iter()
            .map(|address| format!("http://{address}:{PORT}/"))
            .collect()
    }

    pub fn start(self, lab: &mut Lab) -> Running {
        match self {
            Self::Dns => Running::Nothing,
            Self::Nftables => {
                lab.server(SERVERS + 1).host.shell(&ruleset(lab));
                Running::Ruleset
            }
            Self::Haproxy => Running::Box(start_haproxy(lab)),
            Self::BalancerDns | Self::BalancerFirst => {
                let config = lab.config(BALANCER);
                for server in 1..=SERVERS {
                    lab.server_mut(server)
                        .attach(&["--config", &config, "--mode", "native"]);
                }
                for server in 1..=SERVERS {
                    lab.server(server).wait_for_peers(SERVERS - 1);
                }
                Running::Balancer
            }
        }
    }
}

impl Running {
    pub fn stop(self, lab: &mut Lab) {
        match self {
            Self::Nothing => {}
            Self::Ruleset => {
                lab.server(SERVERS + 1).host.shell("nft flush ruleset");
            }
            Self::Box(process) => drop(process),
            Self::Balancer => {
                for server in 1..=SERVERS {
                    let status = lab.server_mut(server).end_balancer(Signal::SIGTERM);
                    assert!(status.success(), "balancer on web{server}: {status}");
                }
            }
        }
    }
}

/// Starts the servers, and gives the client ports enough.
pub fn start_servers(lab: &Lab) -> Result<Vec<Process>> {
    let work = program("work")?;
    lab.client
        .shell("sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range='1024 65535'");
    let start = |server: usize| {
        let slow = if server == SERVERS { SLOW } else { 1 };
        let host = &lab.server(server).host;
        let mut command = host.command(&work);
        command.args([host.label(), "--slow", &slow.to_string()]);
        let process = Process::start(command, &lab.dir().join(format!("logs/work{server}.log")));
        wait_for(lab, host.address());
        process
    };
    Ok((1..=SERVERS).map(start).collect())
}

/// Another program of this package, which cargo builds beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    let this = env::current_exe().context("the path of this program")?;
    Ok(this.with_file_name(name))
}

fn start_haproxy(lab: &Lab) -> Process {
    let servers: Vec<_> = (1..=SERVERS)
        .map(|server| format!("    server web{server} {}:{PORT}\n", address(lab, server)))
        .collect();
    let servers = servers.concat();
    let config = format!(
        "global\n    maxconn 9000\ndefaults\n    mode tcp\n    timeout connect 20s\n    timeout client 60s\n    \
         timeout server 60s\nlisten work\n    bind :{PORT} backlog 4096\n    balance leastconn\n{servers}"
    );
    let path = lab.dir().join("haproxy.cfg");
    fs::write(&path, config).expect("a file in the lab's directory");
    let host = &lab.server(SERVERS + 1).host;
    // It connects to the servers from this address, a connection for each one of a client's.
    host.shell("sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range='1024 65535'");
    let mut command = host.command("haproxy");
    command.arg("-db").arg("-f").arg(path);
    let process = Process::start(command, &lab.dir().join("logs/haproxy.log"));
    wait_for(lab, host.address());
    process
}

/// Answers have to come back through the box, so it puts its own address in place of the client's.
fn ruleset(lab: &Lab) -> String {
    let servers: Vec<_> = (1..=SERVERS)
        .map(|server| format!("{} : {}", server - 1, address(lab, server)))
        .collect();
    format!(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0
         nft -f - <<END
table ip work {{
    chain in {{
        type nat hook prerouting priority dstnat
        tcp dport {PORT} dnat to numgen inc mod {SERVERS} map {{ {} }}
    }}
    chain out {{
        type nat hook postrouting priority srcnat
        tcp dport {PORT} masquerade
    }}
}}
END",
        servers.join(", ")
    )
}

fn wait_for(lab: &Lab, address: Ipv4Addr) {
    until(
        &format!("{address} listens on port {PORT}"),
        PATIENCE,
        || {
            lab.client
                .enter(|| TcpStream::connect((address, PORT)).is_ok())
        },
    );
}

fn address(lab: &Lab, server: usize) -> Ipv4Addr {
    lab.server(server).address()
}
