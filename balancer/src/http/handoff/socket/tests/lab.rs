//! A client and two servers with one service address, in network namespaces. The client's route says which of them gets its
//! packets.

use std::env;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

/// Where the service is, in both families.
pub const SERVICES: [&str; 2] = ["10.98.0.9:80", "[fd98::9]:80"];

const SETUP: &str = "
    ip link add to-a netns $CLIENT type veth peer name eth0 netns $A
    ip link add to-b netns $CLIENT type veth peer name eth0 netns $B
    for server in $A $B; do
        ip -n $server address add 10.98.0.9/32 dev eth0
        ip -n $server address add fd98::9/128 dev eth0 nodad
        ip -n $server link set eth0 up
        ip -n $server route add 10.98.0.1 dev eth0
        ip -n $server route add fd98::1 dev eth0
    done
    for link in to-a to-b; do
        # In one of them addresses must be for the servers to find the client.
        ip -n $CLIENT address add 10.98.0.1/32 dev $link
        ip -n $CLIENT address add fd98::1/128 dev $link nodad
        ip -n $CLIENT link set $link up
    done
    nsenter --net=/run/netns/$CLIENT nft 'add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }'
";

/// All of it ceases to be when this is dropped.
pub struct Lab {
    /// Where connections come from.
    pub client: Host,
    /// Who gets its packets at first.
    pub a: Host,
    /// Who gets them later.
    pub b: Host,
}

/// A network namespace.
pub struct Host(String);

impl Lab {
    /// `None`, with a word on why, without the right to make one.
    pub fn new() -> Option<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            assert!(
                env::var_os("BALANCER_REQUIRE_ROOT").is_none(),
                "this test needs root, and BALANCER_REQUIRE_ROOT is set"
            );
            eprintln!("skipped: this test needs root");
            return None;
        }
        let lab = format!(
            "bo-{}-{}",
            process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        let host = |label| Host::new(format!("{lab}-{label}"));
        let lab = Self {
            client: host("client"),
            a: host("a"),
            b: host("b"),
        };
        shell(
            Command::new("sh")
                .args(["-ec", SETUP])
                .env("CLIENT", &lab.client.0)
                .env("A", &lab.a.0)
                .env("B", &lab.b.0),
        );
        lab.route("to-a");
        Some(lab)
    }

    /// From now on the client's packets take this link. Whoever gets them must have the connection by then: here nothing drops what comes
    /// too early (on a real server the packet program does), so its kernel would answer with a reset.
    pub fn route(&self, link: &str) {
        self.client.shell(&format!(
            "ip route replace 10.98.0.9 dev {link} src 10.98.0.1
             ip route replace fd98::9 dev {link} src fd98::1"
        ));
    }

    /// From now on nobody gets the client's packets.
    pub fn mute(&self) {
        self.client.shell("ip route replace blackhole 10.98.0.9");
    }

    /// From now on the client hears nothing of the service, or does again.
    pub fn deafen(&self, deaf: bool) {
        self.client.shell(if deaf {
            "nft add rule inet deaf in tcp sport 80 drop"
        } else {
            "nft flush chain inet deaf in"
        });
    }

    /// A connection of the client's to A: its end, and A's. A listens as the daemon does, for both families with one socket.
    pub fn connect(&self, service: SocketAddr) -> (TcpStream, TcpStream) {
        let listener = self.a.listen(service.port());
        let client = self.client.enter(|| TcpStream::connect(service).unwrap());
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, server)
    }
}

impl Host {
    fn new(name: String) -> Self {
        shell(Command::new("ip").args(["netns", "add", &name]));
        let host = Self(name);
        // Addresses are to be usable at once, without duplicate address detection.
        host.shell(
            "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
             sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
             ip link set lo up",
        );
        host
    }

    /// Runs `act` on a thread inside. Sockets that it makes stay this host's.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.0)).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Listens for both families.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.enter(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            let any: SocketAddr = ([0u16; 8], port).into();
            socket.bind(&any.into()).unwrap();
            socket.listen(8).unwrap();
            socket.into()
        })
    }

    /// Whether its new connections have timestamps, scaled windows and selective acknowledgements: 1 or 0.
    pub fn set_tcp_options(&self, on: u8) {
        self.shell(&format!(
            "for option in timestamps window_scaling sack; do sysctl -qw net.ipv4.tcp_$option={on}; done"
        ));
    }

    /// Segments that it has sent, resets among them, and resets alone.
    pub fn sent(&self) -> (u64, u64) {
        let text = self.shell("cat /proc/self/net/snmp");
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let counter = |name| {
            let mut pairs = names.split(' ').zip(values.split(' '));
            let (_, value) = pairs.find(|(known, _)| *known == name).unwrap();
            value.parse::<u64>().unwrap()
        };
        let resets = counter("OutRsts");
        (counter("OutSegs") + resets, resets)
    }

    fn shell(&self, script: &str) -> String {
        shell(
            Command::new("nsenter")
                .arg(format!("--net=/run/netns/{}", self.0))
                .args(["sh", "-ec", script]),
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn shell(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
