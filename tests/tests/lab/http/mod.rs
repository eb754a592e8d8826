//! The HTTP module before real web servers: what clients see, and what web servers are told.

mod cluster;
mod elsewhere;
mod frames;
mod handoff_tls;
mod hostile;
mod levels;
mod patience;
mod proxied;
mod relay;
mod resting;
mod routing;
mod serving;
mod sessions;
mod websocket;

use std::fs;
use std::process::Command;

use balancer_tests::{Lab, Process, Server};

/// The service's ports: plain, and TLS.
const CONFIG: &str = "[load]\ncpu = \"0%\"\n\n[[service]]\nname = \"www\"\nports = [\"8000/tcp\", \"8443/tcp\"]\ncapacity = 1000\n\n\
                      [[http]]\nservice = \"www\"\n";

/// A web server that tells what it was told, on TCP, a Unix socket, and a port that wants the PROXY protocol; `/big` is 10 MB.
const WEB: &str = "server {
    listen 127.0.0.1:9000; listen unix:{DIR}/web.sock; listen 127.0.0.1:9001 proxy_protocol;
    root {DIR};
    location / { return 200 '{TOLD}'; }
    location = /big { }
    location = /slow { limit_rate 20k; }
}
server {
    listen 127.0.0.1:9002; client_max_body_size 0;
    location / { return 200 'got $request_uri'; }
    location /upload { proxy_pass http://127.0.0.1:9002/stored; }
    location = /body { root {DIR}; }
}";
const READY: &str = "curl -sf --unix-socket {DIR}/web.sock http://web/";

fn web(server: &Server) -> Process {
    let dir = server.dir().join("web");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("big"), vec![b'b'; 10_000_000]).unwrap();
    fs::write(dir.join("slow"), vec![b's'; 60_000]).unwrap();
    server.start_web("web", WEB, READY)
}

/// What curl prints, from the client.
fn curl(lab: &Lab, arguments: &[&str]) -> String {
    let mut command = lab.client.command("curl");
    let output = command
        .args(["-s", "--max-time", "20"])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn url(lab: &Lab, path: &str) -> String {
    format!("http://{}:8000{path}", lab.server(1).address())
}

/// A certificate, signed with its own key, for one name.
fn certify(lab: &Lab, file: &str, name: &str) {
    let dir = lab.dir();
    let mut command = Command::new("openssl");
    command
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "3650",
        ])
        .args([
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            &format!("subjectAltName=DNS:{name}"),
        ])
        .arg("-keyout")
        .arg(dir.join(format!("{file}.key")))
        .arg("-out")
        .arg(dir.join(format!("{file}.pem")));
    assert!(command.output().unwrap().status.success());
}
