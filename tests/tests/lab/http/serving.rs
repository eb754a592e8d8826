//! One server: HTTP/1.1, HTTP/2, TLS, WebSocket, Unix sockets, the PROXY protocol, failures, and the module's own end.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use balancer_tests::{Lab, Process, Signal, until};

use super::{CONFIG, READY, WEB, certify, curl, url, web};

fn start(lab: &mut Lab, more: &str) -> Process {
    let web = web(lab.server(1));
    let config = lab.config(&format!("{CONFIG}{more}"));
    lab.server_mut(1).attach(&["--config", &config]);
    web
}

#[test]
fn web_servers_are_told_who_asks_for_what() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "backend = \"127.0.0.1:9000\"\n");
    let client = "10.77.0.1";
    let told = curl(
        &lab,
        &[
            "-H",
            "X-Forwarded-For: 1.2.3.4",
            "-H",
            "Balancer-Relayed: 00",
            "-H",
            "Host: WWW.example.com",
            &url(&lab, "/a/%2e./b?x=1"),
        ],
    );
    assert_eq!(
        told,
        format!(
            "server=web1\nmethod=GET\nuri=/b?x=1\nhost=www.example.com\nfor={client}\nforwarded=for={client};proto=http\nproto=http\n\
             length=\ncoding=\nrelayed=\nproxied=\n"
        )
    );
    let h2 = curl(
        &lab,
        &[
            "--http2-prior-knowledge",
            "-w",
            "%{http_version}",
            &url(&lab, "/"),
        ],
    );
    assert!(
        h2.contains(&format!("for={client}\n")) && h2.ends_with("\n2"),
        "{h2}"
    );
    let old = curl(&lab, &["--http1.0", "-i", &url(&lab, "/")]);
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
}

#[test]
fn bodies_of_all_kinds_come_through() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "backend = \"127.0.0.1:9000\"\n");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let size = curl(
            &lab,
            &[
                version,
                "-o",
                "/dev/null",
                "-w",
                "%{size_download}",
                &url(&lab, "/big"),
            ],
        );
        assert_eq!(size, "10000000", "{version}");
        let head = curl(
            &lab,
            &[version, "-I", "-w", "%{http_code}", &url(&lab, "/big")],
        );
        assert!(
            head.to_lowercase().contains("content-length: 10000000") && head.ends_with("200"),
            "{head}"
        );
        let upload = lab.dir().join("upload");
        fs::write(&upload, vec![b'u'; 3_000_000]).unwrap();
        let upload = format!("@{}", upload.display());
        let told = curl(
            &lab,
            &[
                "-v",
                "--stderr",
                "-",
                version,
                "--data-binary",
                &upload,
                &url(&lab, "/"),
            ],
        );
        assert!(
            told.contains("method=POST") && told.contains("length=3000000"),
            "{told}"
        );
    }
    let coding = "Transfer-Encoding: chunked";
    let told = curl(
        &lab,
        &[
            "-v",
            "--stderr",
            "-",
            "-H",
            coding,
            "--data-binary",
            "abc",
            &url(&lab, "/"),
        ],
    );
    assert!(
        told.contains("method=POST\n") && told.contains("coding=chunked\n"),
        "{told}"
    );
}

/// What a client hasn't taken yet its web server keeps, and the other way round.
#[test]
fn bodies_are_not_kept_in_memory() {
    const MIB: u64 = 100;
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "backend = \"127.0.0.1:9002\"\n");
    let body = lab.server(1).dir().join("web/body");
    fs::File::create(&body).unwrap().set_len(MIB << 20).unwrap();
    let body = body.display().to_string();
    assert_eq!(curl(&lab, &[&url(&lab, "/upload")]), "got /stored");
    let before = lab.server(1).memory("VmRSS");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (from, to) = (url(&lab, "/body"), url(&lab, "/upload"));
        let get = ["--limit-rate", "50M", "-o", "/dev/null", &from];
        let put = ["--upload-file", &body, &to];
        for arguments in [&get[..], &put] {
            let told = [
                version,
                "-w",
                " %{http_code} %{size_download} %{size_upload}",
            ];
            let told = curl(&lab, &[&told, arguments].concat());
            let whole = (MIB << 20).to_string();
            assert!(
                told.contains(" 200 ") && told.contains(&whole),
                "{version} {arguments:?}: {told}"
            );
        }
    }
    let grown = lab.server(1).memory("VmHWM").saturating_sub(before) / 1024;
    assert!(grown < MIB / 5, "{grown} MiB for bodies of {MIB} MiB");
}

#[test]
fn web_servers_are_reached_by_unix_sockets_and_told_by_the_proxy_protocol() {
    let Some(mut lab) = Lab::new(1) else { return };
    let socket = lab.server(1).dir().join("web/web.sock");
    let config = format!("backend = \"unix:{}\"\n", socket.display());
    let _web = start(&mut lab, &config);
    assert!(curl(&lab, &[&url(&lab, "/")]).contains("for=10.77.0.1\n"));

    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    let config = lab.config(&format!(
        "{CONFIG}backend = \"127.0.0.1:9001\"\nproxy_protocol = {{ to_backend = true }}\n"
    ));
    lab.server_mut(1).attach(&["--config", &config]);
    let (one, two) = (url(&lab, "/"), url(&lab, "/2"));
    let told = curl(&lab, &[&one, &two]);
    assert_eq!(told.matches("proxied=10.77.0.1\n").count(), 2, "{told}");
}

#[test]
fn a_reload_reaches_the_connections_of_clients_that_are_introduced() {
    let Some(mut lab) = Lab::new(1) else { return };
    let config = |port| {
        format!(
            "{CONFIG}backend = \"127.0.0.1:{port}\"\nproxy_protocol = {{ to_backend = true }}\n"
        )
    };
    let web = |name: &str, port| {
        let block = format!(
            "server {{ listen 127.0.0.1:{port} proxy_protocol; location / {{ return 200 '{name} $proxy_protocol_addr\\n'; }} }}"
        );
        lab.server(1).start_web(
            name,
            &block,
            &format!("curl -sf --haproxy-protocol http://127.0.0.1:{port}/"),
        )
    };
    let _webs = [web("old", 9001), web("new", 9003)];
    let path = lab.config(&config(9001));
    lab.server_mut(1).attach(&["--config", &path]);
    let mut stream = lab
        .client
        .enter(|| TcpStream::connect((lab.server(1).address(), 8000)).unwrap());
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut ask = || {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut told = String::new();
        while !told.ends_with("10.77.0.1\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            told.push(byte[0].into());
        }
        told.lines().last().unwrap().to_owned()
    };
    assert_eq!(ask(), "old 10.77.0.1");
    lab.config(&config(9003));
    lab.server(1).signal_balancer(Signal::SIGHUP);
    until("the new one answers", Duration::from_secs(5), || {
        ask() == "new 10.77.0.1"
    });
}

#[test]
fn clients_are_introduced_by_haproxy() {
    let Some(mut lab) = Lab::new(1) else { return };
    certify(&lab, "a", "a.test");
    let file = lab.dir().join("a").display().to_string();
    let _web = start(
        &mut lab,
        &format!(
            "backend = \"127.0.0.1:9000\"\nproxy_protocol = {{ from = [\"127.0.0.0/8\"] }}\ntls_ports = [8443]\n\
             certificates = [{{ certificate = \"{file}.pem\", key = \"{file}.key\" }}]\n"
        ),
    );
    let server = lab.server(1);
    let config = "defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
                  listen v1\n bind :7001\n server s 127.0.0.1:8000 send-proxy\n\
                  listen v2\n bind :7002\n server s 127.0.0.1:8000 send-proxy-v2\n\
                  listen none\n bind :7003\n server s 127.0.0.1:8000\n\
                  listen tls\n bind :7004\n server s 127.0.0.1:8443 send-proxy-v2\n\
                  listen tls-none\n bind :7005\n server s 127.0.0.1:8443\n";
    let path = lab.dir().join("haproxy.cfg");
    fs::write(&path, config).unwrap();
    let mut command = server.host.command("haproxy");
    command.arg("-db").arg("-f").arg(&path);
    let _haproxy = Process::start(command, &lab.dir().join("logs/haproxy.log"));
    let ask = |port: u16| curl(&lab, &[&format!("http://{}:{port}/", server.address())]);
    until("HAProxy is ready", Duration::from_secs(10), || {
        !ask(7001).is_empty()
    });
    for port in [7001, 7002] {
        assert!(ask(port).contains("for=10.77.0.1\n"), "{}", ask(port));
    }
    assert_eq!(
        ask(7003),
        "",
        "who must be introduced and isn't is not served"
    );
    // Before the TLS handshake, by proxies that only pass it on.
    let ask_tls = |port: u16| {
        let url = format!("https://{}:{port}/", server.address());
        curl(&lab, &["-k", &url])
    };
    let told = ask_tls(7004);
    assert!(
        told.contains("for=10.77.0.1\n") && told.contains("proto=https\n"),
        "{told}"
    );
    assert_eq!(ask_tls(7005), "");
    // A client that isn't trusted is not believed.
    let forged = "printf 'PROXY TCP4 1.2.3.4 5.6.7.8 1 2\\r\\nGET / HTTP/1.0\\r\\n\\r\\n'";
    let answer = lab.client.shell(&format!(
        "{forged} | timeout 5 curl -s telnet://{}:8000",
        server.address()
    ));
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn tls_chooses_certificates_by_name_and_reloads_them() {
    let Some(mut lab) = Lab::new(1) else { return };
    let dir = lab.dir();
    for name in ["one", "two", "three"] {
        certify(&lab, name, &format!("{name}.example.com"));
    }
    let pair = |file: &str| {
        format!(
            "{{ certificate = \"{0}/{file}.pem\", key = \"{0}/{file}.key\" }}",
            dir.display()
        )
    };
    let _web = start(
        &mut lab,
        &format!(
            "backend = \"127.0.0.1:9000\"\ntls_ports = [8443]\ncertificates = [{}, {}]\n",
            pair("one"),
            pair("two")
        ),
    );
    let address = lab.server(1).address();
    let ask = |name: &str, version: &str| {
        let resolve = format!("{name}:8443:{address}");
        let url = format!("https://{name}:8443/");
        curl(
            &lab,
            &["-kv", "--stderr", "-", version, "--resolve", &resolve, &url],
        )
    };
    for version in ["--http1.1", "--http2", "--tls-max"] {
        let version = if version == "--tls-max" {
            "--tlsv1.2"
        } else {
            version
        };
        let said = ask("two.example.com", version);
        assert!(
            said.contains("subject: CN=two.example.com") && said.contains("proto=https\n"),
            "{said}"
        );
    }
    assert!(ask("two.example.com", "--http2").contains("HTTP/2 200"));
    let said = ask("other.example.com", "--http1.1");
    assert!(said.contains("subject: CN=one.example.com"), "{said}");

    fs::copy(dir.join("three.pem"), dir.join("two.pem")).unwrap();
    let torn = fs::read(dir.join("two.key")).unwrap();
    lab.server(1).signal_balancer(Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(300));
    let said = ask("two.example.com", "--http1.1");
    assert!(
        said.contains("subject: CN=two.example.com"),
        "half a pair changes nothing: {said}"
    );
    drop(torn);
    fs::copy(dir.join("three.key"), dir.join("two.key")).unwrap();
    lab.server(1).signal_balancer(Signal::SIGHUP);
    until(
        "the new certificate is shown",
        Duration::from_secs(10),
        || ask("three.example.com", "--http1.1").contains("subject: CN=three.example.com"),
    );
    let plain = curl(
        &lab,
        &[
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("http://{address}:8443/"),
        ],
    );
    assert_eq!(plain, "000", "no plain HTTP on a TLS port");
}

#[test]
fn a_web_server_that_fails_is_told_of() {
    let Some(mut lab) = Lab::new(1) else { return };
    let web = start(
        &mut lab,
        "backend = \"127.0.0.1:9000\"\ntimeouts = { answer = \"1s\", connect = \"500ms\" }\n",
    );
    let status = |lab: &Lab, path: &str| {
        let url = url(lab, path);
        let format = "%{http_code} %{num_connects},";
        let none = "/dev/null";
        curl(lab, &["-w", format, "-o", none, &url, "-o", none, &url])
    };
    assert_eq!(status(&lab, "/"), "200 1,200 0,");
    drop(web);
    assert_eq!(status(&lab, "/"), "503 1,503 0,");
    // One that takes connections and says nothing, or no HTTP.
    let script = "import socket,sys,threading
s=socket.create_server(('127.0.0.1',9000))
while True:
    c,_=s.accept()
    def f(c=c):
        d=c.recv(4096)
        if b'garbage' in d: c.sendall(b'hello\\n')
        elif b'silent' in d: c.recv(4096)
        c.close()
    threading.Thread(target=f,daemon=True).start()";
    let mut command = lab.server(1).host.command("python3");
    command.args(["-c", script]);
    let _bad = Process::start(command, &lab.dir().join("logs/bad.log"));
    until(
        "the bad web server listens",
        Duration::from_secs(10),
        || !status(&lab, "/garbage").starts_with("503"),
    );
    assert_eq!(status(&lab, "/garbage"), "502 1,502 0,");
    assert_eq!(status(&lab, "/nothing"), "502 1,502 0,");
    assert_eq!(status(&lab, "/silent"), "504 1,504 0,");
    let requests = lab.server(1).status()["services"][0]["requests"].clone();
    assert!(requests["unreachable"].as_u64() >= Some(2), "{requests}");
    assert!(requests["broken_off"].as_u64() >= Some(4), "{requests}");
    assert_eq!(requests["too_slow"], 2, "{requests}");
}

#[test]
fn waiting_connections_that_die_cost_no_request() {
    let Some(mut lab) = Lab::new(1) else { return };
    let mut web = start(&mut lab, "backend = \"127.0.0.1:9000\"\n");
    for _ in 0..5 {
        let ask = || {
            curl(
                &lab,
                &["-o", "/dev/null", "-w", "%{http_code}", &url(&lab, "/")],
            )
        };
        assert_eq!(ask(), "200");
        drop(web);
        web = lab.server(1).start_web("web", WEB, READY);
        assert_eq!(ask(), "200", "after a restart of the web server");
    }
}

#[test]
fn requests_in_flight_end_well_when_the_daemon_does() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "backend = \"127.0.0.1:9000\"\n");
    let target = url(&lab, "/slow");
    let mut slow = lab.client.command("curl");
    slow.args([
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_download}",
        &target,
    ]);
    let slow = std::thread::spawn(move || slow.output().unwrap());
    std::thread::sleep(Duration::from_millis(700));
    assert!(lab.server_mut(1).end_balancer(Signal::SIGTERM).success());
    let output = slow.join().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 60000");
}

#[test]
fn a_drain_ends_connections_with_their_answers() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "backend = \"127.0.0.1:9000\"\n");
    let head = |lab: &Lab| curl(lab, &["-i", &url(lab, "/")]).to_lowercase();
    assert!(!head(&lab).contains("connection: close"));
    assert_eq!(lab.server(1).ask(&["drain"]).code, Some(0));
    assert!(head(&lab).contains("connection: close"));
    assert_eq!(lab.server(1).ask(&["undrain"]).code, Some(0));
    assert!(!head(&lab).contains("connection: close"));
}

#[test]
fn a_port_that_is_taken_is_told_of() {
    let Some(lab) = Lab::new(1) else { return };
    let config = lab.config("[[service]]\nname = \"www\"\nports = [\"80/tcp\"]\n\n[[http]]\nservice = \"www\"\nbackend = \"127.0.0.1:8080\"\n");
    let before = lab.server(1).dump();
    let ended = lab.server(1).attach_in_vain(&["--config", &config]);
    assert_eq!(ended.code, Some(1));
    for part in [
        "port 80 is taken",
        "ss -ltnp",
        "let the web server listen on 127.0.0.1:8080 alone",
    ] {
        assert!(ended.error.contains(part), "{}", ended.error);
    }
    assert_eq!(lab.server(1).dump(), before);
}
