//! The proxies, and the web server behind them.

use std::fs;
use std::time::Duration;

use balancer_tests::{Lab, Process, Signal, until};

const PATIENCE: Duration = Duration::from_secs(20);

/// The web server behind the proxies.
const ORIGIN: &str = "127.0.0.1:9000";

/// A reverse proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// nginx, `proxy_pass` and nothing else: each request takes a connection to the web server.
    Nginx,
    /// nginx, with connections that are kept.
    NginxTuned,
    /// `HAProxy`, `mode http` and nothing else: each client's first request takes a connection to the web server.
    Haproxy,
    /// `HAProxy`, all of whose connections are anybody's.
    HaproxyTuned,
    /// The HTTP module, without rules: every request is answered here.
    Balancer,
}

/// What is running beside balancer.
pub struct Running(Vec<Process>);

impl Proxy {
    /// The one that the others are compared with is the last.
    pub const ALL: [Self; 5] = [
        Self::Nginx,
        Self::NginxTuned,
        Self::Haproxy,
        Self::HaproxyTuned,
        Self::Balancer,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::NginxTuned => "nginx, tuned",
            Self::Haproxy => "HAProxy",
            Self::HaproxyTuned => "HAProxy, tuned",
            Self::Balancer => "balancer",
        }
    }

    /// What clients ask for.
    pub fn url(self, lab: &Lab, path: &str) -> String {
        format!("http://{}:{}{path}", lab.server(1).address(), self.port())
    }

    /// Starts it. Returns its process id.
    pub fn start(self, lab: &mut Lab, running: &mut Running) -> u32 {
        let id = match self {
            Self::Nginx | Self::NginxTuned => {
                let name = format!("proxy{}", self.port());
                let config = nginx_config(lab, &name, &self.nginx());
                running.start(lab, "nginx", &format!("{name}.conf"), &config)
            }
            Self::Haproxy | Self::HaproxyTuned => {
                let file = format!("proxy{}.cfg", self.port());
                running.start(lab, "haproxy", &file, &self.haproxy())
            }
            Self::Balancer => {
                let config = lab.config(&format!(
                    "[[service]]\nname = \"www\"\nports = [\"{}/tcp\"]\ncapacity = 100000\n\n\
                     [[http]]\nservice = \"www\"\nbackend = \"{ORIGIN}\"\n",
                    self.port()
                ));
                let server = lab.server_mut(1);
                server.attach(&["--config", &config, "--mode", "native"]);
                server.balancer_id()
            }
        };
        let url = self.url(lab, "/1k");
        until(&format!("{} answers", self.name()), PATIENCE, || {
            lab.client.curl(&url, &[]).size == 1024
        });
        id
    }

    fn port(self) -> u16 {
        match self {
            Self::Nginx => 8001,
            Self::NginxTuned => 8002,
            Self::Haproxy => 8003,
            Self::HaproxyTuned => 8004,
            Self::Balancer => 8005,
        }
    }

    fn nginx(self) -> String {
        let (upstream, kept) = match self {
            Self::NginxTuned => (
                "keepalive 128; keepalive_requests 1000000;",
                "proxy_http_version 1.1; proxy_set_header Connection \"\";",
            ),
            _ => ("", ""),
        };
        format!(
            "upstream origin {{ server {ORIGIN}; {upstream} }}
    server {{
        listen {} backlog=4096;
        keepalive_requests 1000000;
        location / {{ proxy_pass http://origin; {kept} proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme; }}
    }}",
            self.port()
        )
    }

    fn haproxy(self) -> String {
        let reuse = match self {
            Self::HaproxyTuned => "http-reuse always",
            _ => "",
        };
        format!(
            "global
    maxconn 8000
defaults
    mode http
    timeout connect 20s
    timeout client 60s
    timeout server 60s
    {reuse}
    option forwardfor
frontend clients
    bind :{} backlog 4096
    http-request set-header X-Forwarded-Proto http
    default_backend origin
backend origin
    server origin {ORIGIN}
",
            self.port()
        )
    }
}

impl Running {
    /// Starts the web server behind the proxies.
    pub fn origin(lab: &Lab) -> Self {
        let files = lab.server(1).dir().join("files");
        fs::create_dir_all(&files).expect("a directory in the lab's");
        for (name, size) in [("1k", 1024), ("100k", 100 * 1024)] {
            fs::write(files.join(name), vec![b'.'; size]).expect("a file in the lab's directory");
        }
        let server = format!(
            "server {{ listen {ORIGIN} backlog=4096; root {}; sendfile on; open_file_cache max=10; keepalive_requests 1000000; }}",
            files.display()
        );
        let mut running = Self(Vec::new());
        running.start(
            lab,
            "nginx",
            "origin.conf",
            &nginx_config(lab, "origin", &server),
        );
        running
    }

    fn start(&mut self, lab: &Lab, program: &str, file: &str, config: &str) -> u32 {
        let dir = lab.server(1).dir();
        let path = dir.join(file);
        fs::write(&path, config).expect("a file in the lab's directory");
        let mut command = lab.server(1).host.command(program);
        match program {
            "nginx" => command.args(["-e", "stderr", "-c"]),
            _ => command.args(["-db", "-f"]),
        };
        command.arg(path);
        let process = Process::start(command, &dir.join(format!("{file}.log")));
        let id = process.id();
        self.0.push(process);
        id
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx has processes of its own, that go on if it is killed.
        for process in self.0.drain(..) {
            process.end(Signal::SIGTERM);
        }
    }
}

fn nginx_config(lab: &Lab, name: &str, server: &str) -> String {
    let dir = lab.server(1).dir().join(name);
    fs::create_dir_all(&dir).expect("a directory in the lab's");
    let dir = dir.display();
    format!(
        "daemon off;
worker_processes auto;
pid {dir}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    {server}
}}
"
    )
}
