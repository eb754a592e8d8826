//! How long clients and web servers may take, and what an open connection goes by.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use balancer_tests::{Lab, Process, Signal, until};

use super::{CONFIG, certify, curl, url, web};

/// A web server behind the module, which has `more` configured.
pub fn start(lab: &mut Lab, more: &str) -> Process {
    let web = web(lab.server(1));
    let config = lab.config(&format!("{CONFIG}backend = \"127.0.0.1:9002\"\n{more}"));
    lab.server_mut(1).attach(&["--config", &config]);
    web
}

fn open(lab: &Lab) -> TcpStream {
    let address = lab.server(1).address();
    let stream = lab.client.enter(|| TcpStream::connect((address, 8000)));
    let stream = stream.unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

/// A frame (RFC 9113, 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn an_upload_may_take_longer_than_an_answer() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "timeouts = { answer = \"1s\", stall = \"3s\" }\n");
    let file = lab.dir().join("upload");
    fs::write(&file, vec![b'u'; 60_000]).unwrap();
    let upload = format!("@{}", file.display());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = curl(
            &lab,
            &[
                version,
                "--limit-rate",
                "20k",
                "--data-binary",
                &upload,
                "-w",
                " %{http_code}",
                &url(&lab, "/upload"),
            ],
        );
        assert_eq!(answer, "got /stored 200", "{version}");
    }
}

#[test]
fn an_answer_that_its_client_never_takes_is_given_up() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "timeouts = { stall = \"1s\" }\n");
    let mut stream = open(&lab);
    // No stream of this client has a window (SETTINGS_INITIAL_WINDOW_SIZE). It asks for `/`, and keeps the connection busy.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    bytes.extend(frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 0x01, b'a']));
    stream.write_all(&bytes).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    until("the connection is over", Duration::from_secs(5), || {
        let ping = stream.write_all(&frame(6, 0, 0, &[0; 8]));
        let read = stream.read(&mut [0; 4096]);
        ping.is_err()
            || match read {
                Ok(length) => length == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            }
    });
}

#[test]
fn an_open_connection_goes_by_new_rules() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "");
    let mut stream = open(&lab);
    let mut ask = || {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[9..length.max(12)])[..3].to_owned()
    };
    assert_eq!(ask(), "200");
    lab.config(&format!(
        "{CONFIG}backend = \"127.0.0.1:9002\"\nhosts = [\"b\"]\n"
    ));
    lab.server(1).signal_balancer(Signal::SIGHUP);
    until("the host isn't served", Duration::from_secs(5), || {
        ask() == "421"
    });
}

#[test]
fn heads_and_bodies_of_http2_keep_to_the_rules() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "");
    let file = lab.dir().join("headers");
    let headers: Vec<_> = (0..101).map(|number| format!("x-{number}: y\n")).collect();
    fs::write(&file, headers.concat()).unwrap();
    let many = format!("@{}", file.display());
    let ask = |arguments: &[&str]| {
        let format = ["--http2-prior-knowledge", "-o", "/dev/null", "-w"];
        curl(&lab, &[&format, arguments].concat())
    };
    assert_eq!(ask(&["%{http_code}", "-H", &many, &url(&lab, "/")]), "431");
    let head = "%{http_code} %{size_download} %{exitcode}";
    assert_eq!(ask(&[head, "-I", &url(&lab, "/%00")]), "400 0 0");
}

/// Its body would be taken for the WebSocket's first bytes, or the other way round.
#[test]
fn a_request_with_a_body_is_no_websocket() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "");
    let mut stream = open(&lab);
    let head = "GET /upload HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[test]
fn a_tls_handshake_has_its_time() {
    let Some(mut lab) = Lab::new(1) else { return };
    certify(&lab, "www", "www.example.com");
    let dir = lab.dir();
    let _web = start(
        &mut lab,
        &format!(
            "tls_ports = [8443]\ntimeouts = {{ header = \"2s\" }}\n\
             certificates = [{{ certificate = \"{0}/www.pem\", key = \"{0}/www.key\" }}]\n",
            dir.display()
        ),
    );
    let address = (lab.server(1).address(), 8443);
    // One says nothing, one begins, one goes on beginning.
    let streams: Vec<_> = (0..3)
        .map(|_| lab.client.enter(|| TcpStream::connect(address).unwrap()))
        .collect();
    let hello = [[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3].as_slice(), &[7; 32]].concat();
    (&streams[1]).write_all(&hello).unwrap();
    for byte in &hello {
        if (&streams[2]).write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(70));
    }
    for mut stream in streams {
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        // An alert comes before the end, if any.
        let end = stream.read(&mut [0; 10]);
        let waits = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        assert!(!end.as_ref().is_err_and(waits), "{end:?}");
    }
    // Others aren't kept waiting by it.
    let told = curl(
        &lab,
        &[
            "-k",
            "-w",
            "%{http_code}",
            &format!("https://{}:8443/", address.0),
        ],
    );
    assert!(told.ends_with("200"), "{told}");
}
