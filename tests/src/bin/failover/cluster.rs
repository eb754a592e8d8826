//! The clusters that are compared: three servers, the first of which holds the address.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use balancer_tests::{Lab, Process, Signal, WITHOUT_CPU, until};
use nix::sys::signal::kill;
use nix::unistd::Pid;

pub const SERVERS: usize = 3;
/// The one that things are done to, and its port in the switch.
pub const FIRST: &str = "web1";

/// The address that clients use.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 201);
const PATIENCE: Duration = Duration::from_secs(20);

/// What sees to the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Balancer,
    Keepalived,
}

/// A cluster that runs.
pub struct Cluster<'a> {
    lab: &'a mut Lab,
    system: System,
    interval: Duration,
    /// keepalived's.
    processes: Vec<Option<Process>>,
}

impl System {
    pub const ALL: [Self; 2] = [Self::Balancer, Self::Keepalived];

    pub fn name(self) -> &'static str {
        match self {
            Self::Balancer => "balancer",
            Self::Keepalived => "keepalived",
        }
    }
}

impl<'a> Cluster<'a> {
    /// Starts it on all servers, with a report (or advertisement) each `interval`.
    pub fn start(lab: &'a mut Lab, system: System, interval: Duration) -> Self {
        let mut cluster = Self {
            lab,
            system,
            interval,
            processes: (0..SERVERS).map(|_| None).collect(),
        };
        for number in 1..=SERVERS {
            cluster.start_on(number, false);
        }
        cluster.wait();
        cluster
    }

    pub fn lab(&self) -> &Lab {
        self.lab
    }

    /// Where clients connect to.
    pub fn address() -> SocketAddr {
        (IpAddr::from(ADDRESS), 80).into()
    }

    /// Whether another server than the first answers for the address.
    pub fn is_taken(&self) -> bool {
        (2..=SERVERS).any(|number| self.has_address(number))
    }

    /// The switch loses the first server's link.
    pub fn cut(&self) {
        self.link("down");
    }

    /// And gets it back.
    pub fn mend(&self) {
        self.link("up");
    }

    /// Restarts the web servers: connections that broke without their notice count as open.
    pub fn forget_connections(&mut self) {
        for number in 1..=SERVERS {
            let server = self.lab.server_mut(number);
            server.end_nginx();
            server.start_nginx();
        }
    }

    /// SIGTERM on the first server.
    pub fn end_first(&mut self) {
        self.end(1);
    }

    /// Starts it on the first server. With `stays`, what it does on the host is to outlast it.
    pub fn start_first(&mut self, stays: bool) {
        self.start_on(1, stays);
    }

    /// SIGKILL to all its processes on the first server.
    pub fn kill_first(&mut self) {
        match self.system {
            System::Balancer => {
                self.lab.server_mut(1).end_balancer(Signal::SIGKILL);
            }
            System::Keepalived => {
                self.signal_first(Signal::SIGKILL);
                self.processes[0] = None;
            }
        }
    }

    /// A signal to all its processes on the first server.
    pub fn signal_first(&self, signal: Signal) {
        match (self.system, &self.processes[0]) {
            (System::Balancer, _) => self.lab.server(1).signal_balancer(signal),
            (System::Keepalived, Some(process)) => {
                let id = process.id();
                for id in children(id).into_iter().chain([id]) {
                    kill(Pid::from_raw(id.cast_signed()), signal).expect("a signal to keepalived");
                }
            }
            (System::Keepalived, None) => panic!("keepalived doesn't run on the first server"),
        }
    }

    /// The first server's new connections go to the others.
    pub fn drain_first(&self) {
        self.command_first("drain");
    }

    /// And stay there again.
    pub fn undrain_first(&self) {
        self.command_first("undrain");
    }

    /// Puts another copy of the program in its place.
    pub fn replace_first(&mut self) {
        if self.system == System::Balancer {
            self.lab.server_mut(1).replace_program();
        }
        self.end_first();
        self.start_first(false);
    }

    /// Waits until the first server has the address, and all have found each other.
    pub fn wait(&self) {
        until("the first server alone has the address", PATIENCE, || {
            self.has_address(1) && !self.is_taken()
        });
        if self.system == System::Balancer {
            self.lab.wait_for_peers();
        }
    }

    /// Ends it on all servers.
    pub fn stop(mut self) {
        for number in 1..=SERVERS {
            self.end(number);
        }
    }

    fn start_on(&mut self, number: usize, stays: bool) {
        match self.system {
            System::Balancer => {
                let period = self.interval.as_millis();
                let text = format!("[exchange]\nperiod = \"{period}ms\"\n{WITHOUT_CPU}");
                let config = self.lab.config(&text);
                let identity = format!("{ADDRESS}/24");
                let mut arguments = vec!["--config", &config, "--mode", "native"];
                if number == 1 {
                    arguments.extend(["--identity", &identity]);
                }
                if stays {
                    arguments.push("--persist");
                }
                self.lab.server_mut(number).attach(&arguments);
            }
            System::Keepalived => {
                let process = self.start_keepalived(number);
                self.processes[number - 1] = Some(process);
            }
        }
    }

    fn start_keepalived(&self, number: usize) -> Process {
        let server = self.lab.server(number);
        let path = |name: &str| server.dir().join(format!("keepalived.{name}"));
        let config = format!(
            "global_defs {{
    router_id web{number}
    vrrp_version 3
}}
vrrp_instance web {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {}
    advert_int {}
    virtual_ipaddress {{ {ADDRESS}/24 }}
}}
",
            200 - 50 * number,
            self.interval.as_secs_f64(),
        );
        // Of one that was killed, which would seem to be running where nobody has waited for its process.
        for left in ["pid", "vrrp.pid"] {
            let _ = fs::remove_file(path(left));
        }
        fs::write(path("conf"), config).expect("a file in the lab's directory");
        let mut command = server.host.command("keepalived");
        command
            .args(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
            .arg(path("conf"))
            .arg(format!("--pid={}", path("pid").display()))
            .arg(format!("--vrrp_pid={}", path("vrrp.pid").display()));
        Process::start(command, &path("log"))
    }

    fn end(&mut self, number: usize) {
        match self.system {
            System::Balancer => {
                let status = self.lab.server_mut(number).end_balancer(Signal::SIGTERM);
                assert!(status.success(), "balancer on web{number}: {status}");
            }
            System::Keepalived => {
                if let Some(process) = self.processes[number - 1].take() {
                    process.end(Signal::SIGTERM);
                }
            }
        }
    }

    fn command_first(&self, command: &str) {
        let ended = self.lab.server(1).ask(&[command]);
        assert_eq!(ended.code, Some(0), "{command}: {}", ended.error);
    }

    fn has_address(&self, number: usize) -> bool {
        let host = &self.lab.server(number).host;
        let shown = host.run("ip", &["-4", "-o", "address", "show", "dev", "eth0"]);
        shown.contains(&format!(" {ADDRESS}/"))
    }

    fn link(&self, state: &str) {
        self.lab.switch.run("ip", &["link", "set", FIRST, state]);
    }
}

/// The processes that a process has started (proc(5), with `CONFIG_PROC_CHILDREN`).
fn children(id: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
        .expect("the children of a process");
    let ids = text.split_whitespace();
    ids.map(|id| id.parse().expect("a process id")).collect()
}
