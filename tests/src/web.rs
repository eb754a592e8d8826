//! Another web server on a server: one that tells what it was asked.

use std::fs;
use std::time::Duration;

use crate::{Process, Server, until};

/// What [`Server::start_web`] answers with: a line for each thing that it was told.
pub const TOLD: &str = "server={LABEL}\\nmethod=$request_method\\nuri=$request_uri\\nhost=$http_host\\nfor=$http_x_forwarded_for\\n\
                        forwarded=$http_forwarded\\nproto=$http_x_forwarded_proto\\nlength=$http_content_length\\n\
                        coding=$http_transfer_encoding\\nrelayed=$http_balancer_relayed\\nproxied=$proxy_protocol_addr\\n";

impl Server {
    /// Starts an nginx with these `server` blocks of its configuration; `{DIR}` in them is a directory of its own, `{LABEL}` what
    /// the server is called, and `{TOLD}` what it was told. Ready when `ready`, a shell command on this host, succeeds. It ends when what is returned is dropped.
    ///
    /// # Panics
    ///
    /// It doesn't get ready.
    pub fn start_web(&self, name: &str, servers: &str, ready: &str) -> Process {
        let dir = self.dir().join(name);
        fs::create_dir_all(&dir).expect("a directory in the lab's");
        let path = dir.display().to_string();
        // nginx leaves its Unix sockets when it is killed.
        let _ = fs::remove_file(dir.join("web.sock"));
        let servers = servers
            .replace("{DIR}", &path)
            .replace("{TOLD}", TOLD)
            .replace("{LABEL}", self.host.label());
        let config = format!(
            "daemon off;
master_process off;
pid {path}/pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    client_max_body_size 100m;
    client_body_temp_path {path}/client;
    proxy_temp_path {path}/proxy;
    fastcgi_temp_path {path}/fastcgi;
    uwsgi_temp_path {path}/uwsgi;
    scgi_temp_path {path}/scgi;
    {servers}
}}
"
        );
        fs::write(dir.join("nginx.conf"), config).expect("a file in the lab's directory");
        let mut command = self.host.command("nginx");
        command
            .args(["-e", "stderr", "-c"])
            .arg(dir.join("nginx.conf"));
        let mut process = Process::start(command, &dir.join("log"));
        let ready = ready.replace("{DIR}", &path);
        until("the other nginx answers", Duration::from_secs(20), || {
            assert!(process.ended().is_none(), "nginx ended:\n{}", process.log());
            let mut command = self.host.command("sh");
            let output = command.args(["-c", &ready]).output();
            output.is_ok_and(|output| output.status.success())
        });
        process
    }
}
