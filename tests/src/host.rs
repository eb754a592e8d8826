//! A host: a network namespace with an Ethernet interface.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

/// A host of a lab. It ceases to be when this is dropped.
pub struct Host {
    label: String,
    namespace: String,
    address: Ipv4Addr,
}

/// What `curl` got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curl {
    /// The HTTP status; 0 without an answer.
    pub status: u16,
    /// The server, as its `X-Server` names it.
    pub server: String,
    /// Bytes of the body.
    pub size: u64,
}

impl Host {
    /// Makes a host with nothing but `lo`.
    pub(crate) fn new(lab: &str, label: &str, address: Ipv4Addr) -> Self {
        let namespace = format!("{lab}-{label}");
        run(Command::new("ip").args(["netns", "add", &namespace]));
        let host = Self {
            label: label.to_owned(),
            namespace,
            address,
        };
        // Addresses are to be final at once, without duplicate address detection.
        host.shell(
            "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; ip link set lo up",
        );
        host
    }

    /// What the lab calls it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The name of its network namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its own address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its own IPv6 address. Subnet and host have the same numbers in it, as it is written.
    pub fn address_v6(&self) -> Ipv6Addr {
        let [_, subnet, _, number] = self.address.octets();
        format!("2001:db8:{subnet}::{number}")
            .parse()
            .expect("an address")
    }

    /// A command that runs on this host, and no longer than the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            // `ip netns exec` would hide /sys/fs, and so the pinned maps.
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a program to its end. Returns what it prints.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(self.command(program).args(arguments))
    }

    /// Runs a shell script to its end. Returns what it prints.
    pub fn shell(&self, script: &str) -> String {
        self.run("sh", &["-ec", script])
    }

    /// Runs `act` on a thread on this host. Sockets that it makes stay this host's.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = self.open();
        thread::scope(|scope| {
            let inside = scope.spawn(|| inside(namespace, act));
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts `act` on a thread on this host.
    pub fn spawn<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = self.open();
        thread::spawn(|| inside(namespace, act))
    }

    /// Asks for `url` with curl and further `arguments`. The body is thrown away.
    pub fn curl(&self, url: &str, arguments: &[&str]) -> Curl {
        let output = self
            .command("curl")
            .args(["-s", "--max-time", "20", "-o", "/dev/null", "-w"])
            .arg("%{http_code} %{size_download} %header{x-server}")
            .args(arguments)
            .arg(url)
            .output()
            .expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        Curl {
            status: word().parse().unwrap_or(0),
            size: word().parse().unwrap_or(0),
            server: word().to_owned(),
        }
    }

    /// All of its network that balancer may touch, as text.
    pub fn network(&self) -> String {
        self.shell(
            "for what in 'link' 'address' '-4 rule' '-6 rule' '-4 route show table all' '-6 route show table all'; do
                 echo \"[ip $what]\"; ip -d $what
             done
             echo '[tc qdisc]'; tc qdisc show
             echo '[sysctl]'; sysctl -a -r '^net\\.ipv[46]\\.conf\\.' 2>/dev/null",
        )
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    fn open(&self) -> File {
        File::open(self.path()).unwrap_or_else(|error| panic!("host {}: {error}", self.label))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The next lab sweeps what can't be removed now.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
    }
}

/// Runs a command to its end. Returns what it prints.
///
/// # Panics
///
/// It fails.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn inside<T>(namespace: File, act: impl FnOnce() -> T) -> T {
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
    act()
}
