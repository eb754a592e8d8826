//! The checks against real sockets on loopback.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::ask::READ_MAX;
use crate::config::Config;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(10);

/// Long enough for several checks of the monitors here.
const SHORT: Duration = Duration::from_millis(300);

/// A server that reads a request's head, sends `answer` to each connection and then `more`, until nobody wants it.
async fn server(answer: impl Into<Vec<u8>>, more: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = answer.into();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = head(&mut stream).await;
            let _ = stream.write_all(&answer).await;
            while !more.is_empty() && stream.write_all(more).await.is_ok() {}
        }
    });
    address
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// A port that nobody listens on.
async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// `check = { CHECK }` as the configuration reads it.
fn check(check: &str) -> Check {
    let text = format!("[[service]]\nname = \"www\"\nports = [\"80/tcp\"]\ncheck = {{ {check} }}");
    Config::parse(&text, "test")
        .unwrap()
        .services
        .remove(0)
        .check
        .unwrap()
}

async fn ask(text: &str) -> Result<String, String> {
    Probe::new(check(text).kind)
        .ask(LONG)
        .await
        .map_err(|error| error.to_string())
}

async fn ask_http(address: SocketAddr) -> Result<String, String> {
    ask(&format!("http = \"http://{address}/healthz\"")).await
}

#[tokio::test]
async fn tcp_check() {
    let up = server("", b"").await;
    assert_eq!(
        ask(&format!("tcp = \"{up}\"")).await,
        Ok("accepted a connection".into())
    );
    let refused = refusing().await;
    let message = "no connection: Connection refused (os error 111)";
    assert_eq!(
        ask(&format!("tcp = \"{refused}\"")).await,
        Err(message.into())
    );
}

#[tokio::test]
async fn http_check_goes_by_the_status() {
    for (status, expected) in [
        ("200 OK", Ok("answered 200 OK")),
        ("204 No Content", Ok("answered 204 No Content")),
        ("302 Found", Ok("answered 302 Found")),
        ("404 Not Found", Err("answered 404 Not Found")),
        (
            "500 Internal Server Error",
            Err("answered 500 Internal Server Error"),
        ),
    ] {
        let address = server(
            format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n"),
            b"",
        )
        .await;
        let expected = expected.map(String::from).map_err(String::from);
        assert_eq!(ask_http(address).await, expected);
    }
}

#[tokio::test]
async fn http_check_fails_on_what_is_no_answer() {
    let refused = refusing().await;
    assert_eq!(
        ask_http(refused).await,
        Err("no connection: Connection refused (os error 111)".into())
    );

    let huge_head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(READ_MAX));
    for (answer, message) in [
        (
            String::new(),
            "no answer that makes sense: connection closed before message completed",
        ),
        (
            "220 mail.example ESMTP\r\n".to_owned(),
            "no answer that makes sense: invalid HTTP version parsed",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_owned(),
            "no answer that makes sense: error reading a body from connection: end of file before message length reached",
        ),
        (
            huge_head,
            "no answer that makes sense: message head is too large",
        ),
    ] {
        let address = server(answer, b"").await;
        assert_eq!(ask_http(address).await, Err(message.into()));
    }
}

#[tokio::test]
async fn no_check_takes_longer_than_its_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dripping = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [&silent, &dripping].map(|listener| listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = dripping.accept().await.unwrap();
        let mut answer = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while answer.is_ok() {
            sleep(Duration::from_millis(10)).await;
            answer = stream.write_all(b"x").await;
        }
    });
    for address in addresses {
        let mut probe = Probe::new(check(&format!("http = \"http://{address}/\"")).kind);
        let answer = timeout(LONG, probe.ask(SHORT)).await.unwrap();
        assert_eq!(answer.unwrap_err().to_string(), "took longer than 300 ms");
    }
}

#[tokio::test]
async fn endless_body_is_not_read_to_its_end() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let address = server(head, &[b'x'; 4096]).await;
    assert_eq!(ask_http(address).await, Ok("answered 200 OK".into()));
}

#[tokio::test]
async fn request_names_path_and_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        head
    });
    let answer = ask(&format!(
        "http = \"http://localhost:{port}/healthz?deep=1\""
    ))
    .await;
    assert_eq!(answer, Ok("answered 200 OK".into()));
    let expected = format!(
        "GET /healthz?deep=1 HTTP/1.1\r\nhost: localhost:{port}\r\nuser-agent: balancer\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(served.await.unwrap(), expected);
}

/// Down when its service goes, healthy when it comes back, and silent about a service without a check.
#[tokio::test]
async fn monitor_tells_of_changes_only() {
    let up = server("", b"").await;
    let flapping = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = flapping.local_addr().unwrap();
    let service = |name: &str, port: u16, check: &str| {
        format!("[[service]]\nname = \"{name}\"\nports = [\"{port}/tcp\"]\n{check}\n")
    };
    let times = "every = \"20ms\", timeout = \"200ms\", rise = 2, fall = 2";
    let text = service("plain", 1, "")
        + &service("up", 2, &format!("check = {{ tcp = \"{up}\", {times} }}"))
        + &service(
            "flapping",
            3,
            &format!("check = {{ tcp = \"{address}\", {times} }}"),
        );
    let mut monitor = Monitor::start(&Config::parse(&text, "test").unwrap().services);

    assert!(
        timeout(SHORT, monitor.changed()).await.is_err(),
        "all start healthy"
    );
    drop(flapping);
    let down = timeout(LONG, monitor.changed()).await.unwrap();
    let reason = "no connection: Connection refused (os error 111)".to_owned();
    assert_eq!(
        down,
        Change {
            service: 2,
            healthy: false,
            reason
        }
    );
    assert!(
        timeout(SHORT, monitor.changed()).await.is_err(),
        "said once"
    );
    let _back = TcpListener::bind(address).await.unwrap();
    let healthy = timeout(LONG, monitor.changed()).await.unwrap();
    assert_eq!(
        healthy,
        Change {
            service: 2,
            healthy: true,
            reason: "accepted a connection".into()
        }
    );
}

/// A verdict that waits to be read when its check is replaced is not one on the check in its place.
#[tokio::test]
async fn a_replaced_check_says_nothing_more() {
    let address = refusing().await;
    let text = format!(
        "[[service]]\nname = \"a\"\nports = [\"1/tcp\"]\n\
         check = {{ tcp = \"{address}\", every = \"10ms\", timeout = \"500ms\", fall = 1 }}"
    );
    let mut monitor = Monitor::start(&Config::parse(&text, "test").unwrap().services);
    sleep(SHORT).await;
    monitor.replace(0, None);
    assert!(timeout(SHORT, monitor.changed()).await.is_err());
}

#[tokio::test]
async fn never_two_checks_at_once_and_none_after_the_drop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let text = format!(
        "[[service]]\nname = \"a\"\nports = [\"1/tcp\"]\n\
         check = {{ http = \"http://{address}/\", every = \"10ms\", timeout = \"500ms\" }}"
    );
    let monitor = Monitor::start(&Config::parse(&text, "test").unwrap().services);
    let (first, _) = listener.accept().await.unwrap();
    // The first hangs: the second comes only after its time-out.
    assert!(timeout(SHORT, listener.accept()).await.is_err());
    let second = timeout(LONG, listener.accept()).await.unwrap();
    drop((first, second, monitor));
    // One that was already on its way may still come.
    let _ = timeout(SHORT, listener.accept()).await;
    assert!(timeout(SHORT, listener.accept()).await.is_err());
}
