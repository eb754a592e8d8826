//! Web sockets: through one server or two, plain and by TLS, and in a drain.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use balancer_tests::{Lab, Process, Server, Signal, until};

use super::{CONFIG, certify};

/// A web server that greets, and says what it is told.
const ECHO: &str = "import socket,threading
s=socket.create_server(('127.0.0.1',9003))
while True:
    c,_=s.accept()
    def f(c=c):
        d=b''
        while b'\\r\\n\\r\\n' not in d:
            m=c.recv(4096)
            if not m: return
            d+=m
        assert b'upgrade: websocket' in d.lower() and b'sec-websocket-key: abc' in d.lower(), d
        c.sendall(b'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Accept: x\\r\\n\\r\\nhello')
        while True:
            d=c.recv(65536)
            if not d: break
            c.sendall(d)
        c.close()
    threading.Thread(target=f,daemon=True).start()";

const ASKED: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n";

fn echo(lab: &Lab, server: &Server) -> Process {
    let mut command = server.host.command("python3");
    command.args(["-c", ECHO]);
    let echo = Process::start(command, &lab.dir().join("logs/websocket.log"));
    until("it listens", Duration::from_secs(10), || {
        let listening = server.host.shell("ss -Hltn 'sport = :9003'");
        !listening.is_empty()
    });
    echo
}

fn connect(lab: &Lab, port: u16) -> TcpStream {
    let address = (lab.server(1).address(), port);
    let stream = lab.client.enter(|| TcpStream::connect(address).unwrap());
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).unwrap();
    stream
}

/// Asks for a WebSocket. Returns the head of the answer, after which the web server has greeted.
fn open(stream: &mut (impl Read + Write)) -> String {
    stream.write_all(ASKED).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\nhello") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ")
            && head.contains("sec-websocket-accept: x\r\n")
            && head.contains("connection: upgrade\r\n"),
        "{head}"
    );
    head
}

#[test]
fn a_websocket_goes_both_ways() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _echo = echo(&lab, lab.server(1));
    let config = lab.config(&format!("{CONFIG}backend = \"127.0.0.1:9003\"\n"));
    lab.server_mut(1).attach(&["--config", &config]);
    let mut stream = connect(&lab, 8000);
    open(&mut stream);
    for size in [1, 1000, 200_000] {
        let sent: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[0]).collect();
        let mut other = stream.try_clone().unwrap();
        let mut got = vec![0; sent.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| other.write_all(&sent).unwrap());
            stream.read_exact(&mut got).unwrap();
        });
        assert!(got == sent, "{size} bytes");
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn a_websocket_begins_and_goes_on_in_a_drain() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _echo = echo(&lab, lab.server(1));
    let config = lab.config(&format!("{CONFIG}backend = \"127.0.0.1:9003\"\n"));
    lab.server_mut(1).attach(&["--config", &config]);
    let mut before = connect(&lab, 8000);
    open(&mut before);
    let mut waiting = connect(&lab, 8000);
    assert_eq!(lab.server(1).ask(&["drain"]).code, Some(0));
    let head = open(&mut waiting);
    assert!(!head.contains("close"), "{head}");
    for stream in [&mut before, &mut waiting] {
        stream.write_all(b"still there").unwrap();
        let mut told = [0; 11];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(&told, b"still there");
    }
}

#[test]
fn a_websocket_by_tls_is_relayed_to_a_peer() {
    let Some(mut lab) = Lab::new(2) else { return };
    certify(&lab, "www", "www.example.com");
    let _echo = echo(&lab, lab.server(2));
    let dir = lab.dir();
    // Whatever way the rule says.
    for route in ["relay", "handoff"] {
        let config = format!(
            "{CONFIG}backend = \"127.0.0.1:9003\"\ntls_ports = [8443]\n\
             certificates = [{{ certificate = \"{0}/www.pem\", key = \"{0}/www.key\" }}]\n\n\
             [[http.rule]]\nname = \"chat\"\npath = \"/chat\"\nservers = [\"web2\"]\nroute = \"{route}\"\n",
            dir.display()
        );
        if route == "relay" {
            lab.start(&config, "native");
        } else {
            lab.config(&config);
            lab.server(1).signal_balancer(Signal::SIGHUP);
        }
        let chat = format!("{}/chat", dir.display());
        // `openssl` for a client that has nothing of HTTP in it.
        let told = lab.client.shell(&format!(
            "printf '{}' > {chat}
             (cat {chat}; sleep 1; printf 'still there'; sleep 1) |
                 timeout 10 openssl s_client -quiet -no_ign_eof -connect {}:8443 2>/dev/null || true",
            String::from_utf8_lossy(ASKED).replace('\r', "\\r").replace('\n', "\\n"),
            lab.server(1).address()
        ));
        let told = told.to_lowercase();
        assert!(told.starts_with("http/1.1 101 "), "{route}: {told}");
        assert!(
            told.ends_with("\r\n\r\nhellostill there"),
            "{route}: {told}"
        );
    }
    assert_eq!(lab.server(1).requests("relayed"), 2);
    assert_eq!(lab.server(1).requests("handed_off"), 0);
}
