//! A server of a lab: nginx, and balancer before it.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;

use crate::{Daemon, Host, Process, Signal, until, until_some};

/// How long a program may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes a second that nginx sends of what is to take its time.
const SLOW: usize = 10 * 1024;

/// A server. Its programs end with it.
pub struct Server {
    /// Its host.
    pub host: Host,
    lab: PathBuf,
    program: PathBuf,
    nginx: Option<Process>,
    balancer: Option<Process>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed to standard output.
    pub output: String,
    /// What it printed to standard error.
    pub error: String,
}

impl Server {
    pub(crate) fn new(host: Host, lab: &Path) -> Self {
        let mut server = Self {
            host,
            lab: lab.to_owned(),
            program: binary(),
            nginx: None,
            balancer: None,
        };
        server.start_nginx();
        server
    }

    /// Its address, one of its two identities.
    pub fn address(&self) -> Ipv4Addr {
        self.host.address()
    }

    /// Where its daemon's maps and links are pinned.
    pub fn pin_dir(&self) -> PathBuf {
        self.lab.join("bpf").join(self.host.label())
    }

    /// Its own files: the control socket, pages, uploads.
    pub fn dir(&self) -> PathBuf {
        self.lab.join(self.host.label())
    }

    /// A command of balancer's on this server, to this server's daemon.
    pub fn balancer(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(&self.program);
        self.point(command.args(arguments));
        command
    }

    /// Commands of balancer's are another copy of the program from now on, as after an upgrade.
    pub fn replace_program(&mut self) {
        let (new, program) = (self.dir().join("balancer.new"), self.dir().join("balancer"));
        fs::copy(binary(), &new).expect("a file in the lab's directory");
        // One that runs can't be written.
        fs::rename(&new, &program).expect("a file in the lab's directory");
        self.program = program;
    }

    /// Makes a command of balancer's one for this server's daemon.
    pub fn point<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("BALANCER_CONTROL", self.dir().join("control.sock"))
            .env("BALANCER_PIN_DIR", self.pin_dir())
            .env("SSL_CERT_FILE", self.certificates())
            .env_remove("RUST_LOG")
    }

    /// Attaches with further `arguments`, waits until the daemon answers.
    pub fn attach(&mut self, arguments: &[&str]) {
        let command = self.attach_command(arguments);
        let mut process = Process::start(command, &self.log("balancer"));
        until("the daemon answers", PATIENCE, || {
            if let Some(status) = process.ended() {
                panic!("attach ended with {status}:\n{}", process.log());
            }
            self.ask(&["status"]).code == Some(0)
        });
        self.balancer = Some(process);
    }

    /// `balancer attach` on `eth0`, under the host's name and with the lab's key unless `arguments` or the file that they name have
    /// others.
    pub fn attach_command(&self, arguments: &[&str]) -> Command {
        let key = self.lab.join("cluster.key");
        let mut command = self.balancer(&["attach"]);
        let has_keys = |file| fs::read_to_string(file).is_ok_and(|text| text.contains("keys = "));
        let mut pairs = arguments.windows(2);
        if !pairs.any(|pair| pair[0] == "--key" || pair[0] == "--config" && has_keys(pair[1])) {
            command.arg("--key").arg(key);
        }
        if !arguments.contains(&"--name") {
            command.args(["--name", self.host.label()]);
        }
        if !arguments.iter().any(|argument| argument.starts_with("eth")) {
            command.arg("eth0");
        }
        command.args(arguments);
        command
    }

    /// Attaches where that cannot be.
    ///
    /// # Panics
    ///
    /// It could.
    pub fn attach_in_vain(&self, arguments: &[&str]) -> Ended {
        let log = self.log("in-vain");
        let mut process = Process::start(self.attach_command(arguments), &log);
        let what = format!("attach {arguments:?} gives up");
        let status = until_some(&what, PATIENCE, || process.ended());
        Ended {
            code: status.code(),
            output: String::new(),
            error: process.log(),
        }
    }

    /// Runs a command of balancer's to its end.
    pub fn ask(&self, arguments: &[&str]) -> Ended {
        let output = self
            .balancer(arguments)
            .output()
            .unwrap_or_else(|error| panic!("balancer {arguments:?}: {error}"));
        Ended {
            code: output.status.code(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What a command of balancer's prints with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.ask(&[arguments, &["--json"]].concat());
        assert_eq!(
            ended.code,
            Some(0),
            "{}: balancer {arguments:?}: {}",
            self.host.label(),
            ended.error
        );
        serde_json::from_str(&ended.output)
            .unwrap_or_else(|error| panic!("balancer {arguments:?}: {error}:\n{}", ended.output))
    }

    /// `balancer status --json`.
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// Connections of its service, open and in the making.
    pub fn connections(&self) -> u64 {
        let status = self.status();
        let service = &status["services"][0];
        number(&service["connections"]) + number(&service["pending"])
    }

    /// New flows that it steered to others.
    pub fn steered(&self) -> u64 {
        let status = self.status();
        let packets = &status["services"][0]["packets"];
        number(&packets["steered_new"]) + number(&packets["steered_not_ready"])
    }

    /// Requests of its first service that it has counted under this name.
    pub fn requests(&self, name: &str) -> u64 {
        let status = self.status();
        number(&status["services"][0]["requests"][name])
    }

    /// What its daemon says of the peer called `name`: `online`, `silent`, ...
    pub fn sees(&self, name: &str) -> Option<String> {
        let status = self.status();
        let peers = status["peers"].as_array()?;
        let peer = peers.iter().find(|peer| peer["name"] == name)?;
        Some(peer["status"].as_str()?.to_owned())
    }

    /// Waits until its daemon sees so many peers on-line, and can steer to each.
    pub fn wait_for_peers(&self, count: usize) {
        let what = format!("{} sees {count} peers", self.host.label());
        until(&what, PATIENCE, || {
            let status = self.status();
            let online = |peer: &&Value| peer["status"] == "online" && !peer["way"].is_null();
            let peers = status["peers"].as_array();
            peers.is_some_and(|peers| peers.iter().filter(online).count() == count)
        });
    }

    /// The process id of the daemon.
    pub fn balancer_id(&self) -> u32 {
        self.balancer.as_ref().expect("balancer runs here").id()
    }

    /// Memory that balancer takes, in KiB, by its name in proc(5)'s `status`: `VmRSS` at the moment, `VmHWM` at the most.
    pub fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.balancer_id()));
        let status = status.expect("a process");
        let mut lines = status.lines();
        let size = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = size.and_then(|size| size.trim().split(' ').next()?.parse().ok());
        number.expect("its size")
    }

    /// Ends the daemon with a signal.
    pub fn end_balancer(&mut self, signal: Signal) -> ExitStatus {
        let process = self.balancer.take().expect("balancer runs here");
        process.end(signal)
    }

    /// Sends the daemon a signal, and does not wait.
    pub fn signal_balancer(&self, signal: Signal) {
        let process = self.balancer.as_ref().expect("balancer runs here");
        process.signal(signal);
    }

    /// Waits until the daemon ends of itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut process = self.balancer.take().expect("balancer runs here");
        until_some("the daemon ends", PATIENCE, || process.ended())
    }

    /// Whether the daemon runs.
    pub fn runs(&mut self) -> bool {
        self.balancer
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// Starts nginx and waits until it answers.
    pub fn start_nginx(&mut self) {
        let dir = self.dir();
        let label = self.host.label().to_owned();
        fs::create_dir_all(dir.join("hold")).expect("a directory in the lab's");
        let write = |name: &str, text: &[u8]| {
            fs::write(dir.join(name), text).expect("a file in the lab's directory");
        };
        write("index.html", format!("This is {label}.\n").as_bytes());
        for seconds in (1..=20).chain([60]) {
            // The first second's part is sent at once.
            write(
                &format!("hold/{seconds}"),
                &vec![b'.'; (seconds + 1) * SLOW - 1024],
            );
        }
        write("nginx.conf", nginx_config(&dir, &label).as_bytes());
        let mut command = self.host.command("nginx");
        command
            .args(["-e", "stderr", "-c"])
            .arg(dir.join("nginx.conf"));
        let mut nginx = Process::start(command, &self.log("nginx"));
        let url = format!("http://{}/", self.address());
        until("nginx answers", PATIENCE, || {
            assert!(nginx.ended().is_none(), "nginx ended:\n{}", nginx.log());
            self.host.curl(&url, &[]).status == 200
        });
        self.nginx = Some(nginx);
    }

    /// Starts another server program on this server, which ends when what is returned is dropped.
    pub fn start_daemon(&self, daemon: Daemon) -> Process {
        let dir = self.dir().join(format!("{daemon:?}"));
        daemon.start(&self.host, &dir, &self.certificates())
    }

    /// Ends nginx.
    pub fn end_nginx(&mut self) {
        drop(self.nginx.take());
    }

    /// All of the host that balancer may touch, as text: its network, mounts, pins and files.
    pub fn dump(&self) -> String {
        let mut dump = self.host.network();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        dump.push_str("[mounts]\n");
        for line in mounts.lines() {
            if line.contains(&format!("{}/", self.lab.display())) {
                let _ = writeln!(dump, "{line}");
            }
        }
        dump.push_str("[files]\n");
        let bpf = self.lab.join("bpf");
        for path in [&self.dir(), &bpf].into_iter().flat_map(|dir| walk(dir)) {
            let _ = writeln!(dump, "{}", path.display());
        }
        dump.push_str("[journals]\n");
        let lab = self.lab.file_name().and_then(|name| name.to_str());
        for path in crate::leftovers::journals(lab.expect("the lab's name")) {
            let _ = writeln!(dump, "{}", path.display());
        }
        dump
    }

    /// The certificates that it trusts.
    fn certificates(&self) -> PathBuf {
        self.lab.join("ca.pem")
    }

    fn log(&self, program: &str) -> PathBuf {
        let name = format!("{}-{program}.log", self.host.label());
        self.lab.join("logs").join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(balancer) = &self.balancer
        {
            eprintln!(
                "the log of balancer on {}:\n{}",
                self.host.label(),
                balancer.log()
            );
        }
    }
}

/// The program under test: beside this one, or beside the directory of a test's own program.
pub(crate) fn binary() -> PathBuf {
    let this = env::current_exe().expect("the path of this program");
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("balancer"))
        .find(|path| path.exists())
        .unwrap_or_else(|| {
            panic!(
                "there is no program balancer near {}: run `cargo build --package balancer` first",
                this.display()
            )
        })
}

/// A number in what a command prints as JSON.
fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("not a number: {value}"))
}

/// What is below `dir`, sorted.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let below: Vec<_> = paths
        .iter()
        .filter(|path| path.is_dir())
        .flat_map(|dir| walk(dir))
        .collect();
    paths.extend(below);
    paths
}

fn nginx_config(dir: &Path, label: &str) -> String {
    let dir = dir.display();
    // One process, so that nothing outlives it when it is killed. An upload stays as a file, and is answered once it is
    // whole.
    format!(
        "daemon off;
master_process off;
pid {dir}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    client_max_body_size 20m;
    client_body_temp_path {dir}/uploads;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        add_header X-Server {label} always;
        root {dir};
        location /hold/ {{ limit_rate {SLOW}; }}
        location = /upload {{
            client_body_in_file_only on;
            proxy_pass http://127.0.0.1:8080;
        }}
    }}
    server {{
        listen 127.0.0.1:8080;
        location / {{ return 200 stored; }}
    }}
}}
"
    )
}
