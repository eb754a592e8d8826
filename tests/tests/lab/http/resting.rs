//! Connections that are idle for longer than a moment, and give back the memory that requests take.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use balancer_tests::{Lab, Process, Signal};

use super::{CONFIG, certify, curl, web};

/// Longer than it takes until a connection rests.
const PAUSE: Duration = Duration::from_secs(2);

const REQUEST: &[u8] = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n";

fn start(lab: &mut Lab) -> Process {
    let web = web(lab.server(1));
    certify(lab, "a", "a.test");
    let file = lab.dir().join("a").display().to_string();
    let config = lab.config(&format!(
        "{CONFIG}backend = \"127.0.0.1:9002\"\ntls_ports = [8443]\n\
         certificates = [{{ certificate = \"{file}.pem\", key = \"{file}.key\" }}]\n"
    ));
    lab.server_mut(1).attach(&["--config", &config]);
    web
}

fn open(lab: &Lab) -> TcpStream {
    let address = lab.server(1).address();
    let stream = lab.client.enter(|| TcpStream::connect((address, 8000)));
    let stream = stream.unwrap();
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).unwrap();
    stream
}

/// Reads one answer, and nothing behind it.
fn answer(stream: &mut TcpStream) {
    let mut text = Vec::new();
    while !text.ends_with(b"got /page") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.extend_from_slice(&byte);
    }
    assert!(text.starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn connections_that_rest_go_on() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab);
    let mut stream = open(&lab);
    for _ in 0..2 {
        stream.write_all(REQUEST).unwrap();
        answer(&mut stream);
        sleep(PAUSE);
    }
    // A second head has begun right behind the first one: that is no rest.
    let (beginning, end) = REQUEST.split_at(9);
    stream.write_all(&[REQUEST, beginning].concat()).unwrap();
    answer(&mut stream);
    sleep(PAUSE);
    stream.write_all(end).unwrap();
    answer(&mut stream);
    // Nor is one whose first bytes come after a while.
    stream.write_all(beginning).unwrap();
    sleep(PAUSE);
    stream.write_all(end).unwrap();
    answer(&mut stream);

    let server = lab.server(1).address();
    let page = "https://a.test:8443/page";
    let twice = curl(
        &lab,
        &[
            "-k",
            "--resolve",
            &format!("a.test:8443:{server}"),
            "--rate",
            "30/m",
            "-w",
            " %{num_connects}\n",
            page,
            page,
        ],
    );
    assert_eq!(twice, "got /page 1\ngot /page 0\n");
}

#[test]
fn connections_that_rest_end_with_the_daemon() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab);
    let mut stream = open(&lab);
    stream.write_all(REQUEST).unwrap();
    answer(&mut stream);
    sleep(PAUSE);
    // Less than the daemon gives to requests in flight.
    let patience = Some(Duration::from_secs(3));
    stream.set_read_timeout(patience).unwrap();
    lab.server(1).signal_balancer(Signal::SIGTERM);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
}
