//! Servers with nginx behind the module, each as loaded as a test says, and a client that keeps cookies.

use std::fs;
use std::process::Command;
use std::time::Duration;

use balancer_tests::{Curl, Lab, until};

use super::certify;

/// Bounds waits for what takes some reports, or a time-out.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The service's ports, plain and TLS, and the web server: the lab's nginx, which names itself in each answer. All servers have
/// the certificates of all.
const SERVICE: &str = r#"
[[service]]
name = "www"
ports = ["8000/tcp", "8443/tcp"]
check = { http = "http://127.0.0.1:80/", every = "100ms", rise = 1, fall = 1 }

[[http]]
service = "www"
backend = "127.0.0.1:80"
names = ["{NAME}.example.com"]
tls_ports = [8443]
certificates = [{CERTIFICATES}]
"#;

/// The names that have certificates: the cluster's, and those of its servers.
const NAMES: [&str; 4] = ["www", "web1", "web2", "web3"];

/// A lab with three servers.
pub struct Cluster {
    /// Their lab.
    pub lab: Lab,
}

/// A browser: it keeps its cookies, in a file.
pub struct Browser<'a> {
    cluster: &'a Cluster,
    jar: String,
}

impl Cluster {
    /// Starts it. What `more` gives for the number of a server is at the end of that one's `[[http]]`.
    pub fn start(more: impl Fn(usize) -> String) -> Option<Self> {
        let cluster = Self { lab: Lab::new(3)? };
        let trusted: String = NAMES.map(|name| cluster.certify(name)).concat();
        fs::write(cluster.file("trusted.pem"), trusted).unwrap();
        let mut cluster = cluster;
        for number in 1..=3 {
            cluster.set_load(number, 0);
            let config = cluster.configure(number, &more(number));
            cluster
                .lab
                .server_mut(number)
                .attach(&["--config", &config]);
        }
        cluster.lab.wait_for_peers();
        Some(cluster)
    }

    /// Writes the configuration of the server called web`number`. Returns its path.
    pub fn configure(&self, number: usize, more: &str) -> String {
        let certificates = NAMES.map(|name| {
            let file = self.file(name);
            format!("{{ certificate = \"{file}.pem\", key = \"{file}.key\" }}")
        });
        let service = SERVICE
            .replace("{NAME}", &format!("web{number}"))
            .replace("{CERTIFICATES}", &certificates.join(", "));
        let load = format!(
            "[load]\ncpu = \"0%\"\nmemory_pressure = \"0%\"\naccept_queue = \"0%\"\n\
             probe = {{ command = [\"/bin/cat\", \"{}\"], every = \"100ms\" }}\n",
            self.file(&format!("load{number}"))
        );
        let path = self.file(&format!("web{number}.toml"));
        fs::write(&path, load + &service + more).unwrap();
        path
    }

    /// The server called web`number` is so loaded from now on.
    pub fn set_load(&self, number: usize, percent: u32) {
        let file = self.file(&format!("load{number}"));
        let new = format!("{file}.new");
        fs::write(&new, format!("{percent}\n")).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// Asks the server called web`number`, as `www.example.com`.
    pub fn get(&self, number: usize, path: &str, more: &[&str]) -> Curl {
        self.ask(number, &format!("http://www.example.com:8000{path}"), more)
    }

    /// Asks for a URL: `www.example.com` is the server called web`number`, the other names are the servers' own.
    pub fn ask(&self, number: usize, url: &str, more: &[&str]) -> Curl {
        let arguments = self.arguments(number);
        let mut arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        arguments.extend(more);
        self.lab.client.curl(url, &arguments)
    }

    /// Waits until the server called web`number` routes such a request to the one called `to`.
    pub fn wait_for(&self, number: usize, path: &str, to: &str) {
        let what = format!("web{number} routes {path} to {to}");
        until(&what, PATIENCE, || self.get(number, path, &[]).server == to);
    }

    /// What the server called web`number` would do with a request.
    pub fn explain(&self, number: usize, path: &str) -> serde_json::Value {
        let url = format!("http://www.example.com:8000{path}");
        let server = self.lab.server(number);
        server.json(&["explain", "http", "GET", &url])
    }

    /// How many requests the server called web`number` has counted under this name.
    pub fn counted(&self, number: usize, name: &str) -> u64 {
        self.lab.server(number).requests(name)
    }

    /// A browser without cookies.
    pub fn browser(&self, name: &str) -> Browser<'_> {
        Browser {
            cluster: self,
            jar: self.file(&format!("jar-{name}")),
        }
    }

    fn certify(&self, name: &str) -> String {
        certify(&self.lab, name, &format!("{name}.example.com"));
        fs::read_to_string(self.file(&format!("{name}.pem"))).unwrap()
    }

    fn arguments(&self, number: usize) -> Vec<String> {
        let trusted = self.file("trusted.pem");
        let mut arguments = vec!["--path-as-is".to_owned(), "--cacert".into(), trusted];
        for (name, number) in NAMES.into_iter().zip([number, 1, 2, 3]) {
            let address = self.lab.server(number).address();
            for port in [8000, 8443] {
                arguments.push("--resolve".into());
                arguments.push(format!("{name}.example.com:{port}:{address}"));
            }
        }
        arguments
    }

    fn file(&self, name: &str) -> String {
        self.lab.dir().join(name).display().to_string()
    }
}

impl Browser<'_> {
    /// Asks the server called web`number` for a URL, over a new connection.
    pub fn ask(&self, number: usize, url: &str) -> Curl {
        let jar = ["-b", self.jar.as_str(), "-c", self.jar.as_str()];
        self.cluster.ask(number, url, &jar)
    }

    /// Asks the server called web`number` for a path so many times, over one connection. Returns who answered.
    pub fn ask_on(&self, number: usize, url: &str, count: usize, version: &str) -> Vec<String> {
        let mut command: Command = self.cluster.lab.client.command("curl");
        command
            .args(["-s", "--max-time", "20", version, "-b", &self.jar])
            .args(self.cluster.arguments(number))
            .args(["-w", "%{stderr}%header{x-server} %{num_connects}\n"]);
        for _ in 0..count {
            command.args(["-o", "/dev/null", url]);
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut connects = 0;
        let answers = told.lines().filter_map(|line| {
            let (server, new) = line.split_once(' ')?;
            connects += new.parse::<u32>().ok()?;
            Some(server.to_owned())
        });
        let answers = answers.collect();
        assert_eq!(connects, 1, "one connection: {told}");
        answers
    }

    /// How many cookies of balancer's it has.
    pub fn tickets(&self) -> usize {
        let text = fs::read_to_string(&self.jar).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains("balancer-"))
            .count()
    }
}
