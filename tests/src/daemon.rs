//! Servers of services other than HTTP, as Debian has them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host::run;
use crate::{Host, Process};

/// The name in the certificate of [`Daemon::Tls`], and what [`Daemon::Dns`] has an address for.
const NAME: &str = "www.example.com";

/// Its text, as a DNS server of a lab has it, is the name of the server that answers.
pub(crate) const WHO: &str = "who.example.com";

/// A server program. It listens on 127.0.0.1 only, if nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// nginx on 443 and 8443, with a certificate for `www.example.com` that the lab's balancers trust.
    Tls,
    /// Exim on 25.
    Smtp,
    /// vsftpd on 21 of all addresses, its data connections on 30000 to 30010. Its one file, `name`, holds the host's.
    Ftp,
    /// Redis on 6379.
    Redis,
    /// dnsmasq on 53 of all addresses. It knows `www.example.com`, and as `who.example.com` its host's name.
    Dns,
}

impl Daemon {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tls, Self::Smtp, Self::Ftp, Self::Redis, Self::Dns];

    /// Starts it on `host`, with its files in `dir`. It may not be ready yet.
    pub(crate) fn start(self, host: &Host, dir: &Path, ca: &Path) -> Process {
        fs::create_dir_all(dir).expect("a directory in the lab's");
        let config = dir.join("config");
        let (program, arguments) = match self {
            Self::Tls => {
                certify(dir, ca);
                ("nginx", vec!["-e", "stderr", "-c"])
            }
            Self::Smtp => {
                run(Command::new("chown").arg("Debian-exim").arg(dir));
                ("exim4", vec!["-bdf", "-C"])
            }
            Self::Ftp => {
                let files = dir.join("files");
                fs::create_dir_all(&files).expect("a directory in the lab's");
                fs::write(files.join("name"), host.label()).expect("a file in the lab's directory");
                ("vsftpd", vec![])
            }
            Self::Redis => ("redis-server", vec![]),
            Self::Dns => ("dnsmasq", vec!["--keep-in-foreground", "--conf-file"]),
        };
        fs::write(
            &config,
            self.config(&dir.display().to_string(), host.label()),
        )
        .expect("a file in the lab's directory");
        let mut command = host.command(program);
        match self {
            Self::Dns => command
                .arg("--keep-in-foreground")
                .arg(format!("--conf-file={}", config.display())),
            _ => command.args(arguments).arg(&config),
        };
        Process::start(command, &dir.join("log"))
    }

    fn config(self, dir: &str, label: &str) -> String {
        match self {
            Self::Tls => format!(
                "daemon off;
master_process off;
pid {dir}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {dir}/client;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    ssl_certificate {dir}/tls.pem;
    ssl_certificate_key {dir}/tls.key;
    server {{
        listen 127.0.0.1:443 ssl;
        listen 127.0.0.1:8443 ssl;
        return 200 secure;
    }}
}}
"
            ),
            Self::Smtp => format!(
                "primary_hostname = mail.example.com
local_interfaces = 127.0.0.1
daemon_smtp_ports = 25
keep_environment =
spool_directory = {dir}
log_file_path = {dir}/%slog
pid_file_path = {dir}/pid
"
            ),
            Self::Ftp => format!(
                "listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
anon_root={dir}/files
no_anon_password=YES
pasv_min_port=30000
pasv_max_port=30010
secure_chroot_dir={dir}
"
            ),
            Self::Redis => format!("bind 127.0.0.1\ndir {dir}\nsave \"\"\n"),
            Self::Dns => format!(
                "no-resolv
no-hosts
user=root
pid-file={dir}/pid
address=/{NAME}/192.0.2.1
txt-record={WHO},{label}
"
            ),
        }
    }
}

/// Makes a certificate authority, and a certificate of its.
fn certify(dir: &Path, ca: &Path) {
    let (dir, ca) = (dir.display(), ca.display());
    let new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    run(Command::new("sh").arg("-ec").arg(format!(
        "{new} -x509 -days 2 -subj '/CN=The lab' -keyout {dir}/ca.key -out {ca} 2>&1
         {new} -subj /CN={NAME} -addext subjectAltName=DNS:{NAME} -keyout {dir}/tls.key -out {dir}/tls.csr 2>&1
         openssl x509 -req -in {dir}/tls.csr -CA {ca} -CAkey {dir}/ca.key -CAcreateserial -copy_extensions copy \
             -days 2 -out {dir}/tls.pem 2>&1"
    )));
}
