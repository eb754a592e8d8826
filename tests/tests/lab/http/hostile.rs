//! What clients send that is malformed, meant to confuse, or endless: each is refused or made plain, by the rule in docs/http-messages.md.
#![expect(clippy::disallowed_methods, reason = "a bound on a wait is real time")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use balancer_tests::{Lab, Process, until};

use super::{CONFIG, curl, url, web};

/// Bytes from a client, and how they are answered: the statuses in turn, `-` for a connection that is closed then.
///
/// Behind a request that must not be taken for two there is a part of one that would be the second.
const CASES: &[(&str, &[u8], &str)] = &[
    ("plain", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
    ("two in one packet", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "200 200"),
    ("no host", b"GET / HTTP/1.1\r\n\r\n", "400"),
    ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
    ("host with a user", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"),
    ("host and URL that differ", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("no host in HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", "200 -"),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "400 -"),
    ("HTTP/0.9", b"GET /\r\n\r\n", "400 -"),
    ("no method", b" / HTTP/1.1\r\nHost: a\r\n\r\n", "400 -"),
    ("space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400 -"),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", "400 -"),
    ("CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "400 -"),
    ("space before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", "400 -"),
    ("space before a name", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400 -"),
    ("folded value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "400 -"),
    ("lines that end in LF", b"GET / HTTP/1.1\nHost: a\n\n", "200"),
    ("header without a name", b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", "400 -"),
    ("header without a colon", b"GET / HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n", "400 -"),
    ("same lengths twice", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "200"),
    ("lengths that differ", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcG", "400 -"),
    ("list of lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", "400 -"),
    ("length with a sign", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "400 -"),
    ("length in hex", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", "400 -"),
    ("negative length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "400 -"),
    ("endless length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "400 -"),
    (
        "length before a coding (CL.TE)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /stolen HTTP/1.1\r\nHost: a\r\n\r\n",
        "200 -",
    ),
    (
        "length after a coding (TE.CL)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET /stolen HTTP/1.1\r\nHost: a\r\n\r\n",
        "200 -",
    ),
    ("unknown coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400 -"),
    ("chunked, then another", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "400 -"),
    ("chunked twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "501"),
    ("another, then chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
    ("coding with a vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "400 -"),
    ("coding in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 -"),
    ("chunks", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n", "200"),
    ("CONNECT", b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", "405"),
    ("TRACE", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
    ("escaped dots", b"GET /banking/%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
    ("escaped slash", b"GET /banking%2f..%2fx HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("backslash", b"GET /banking\\..\\x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("escaped NUL", b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("HTTP/2 asked for by upgrade", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "200"),
];

/// Chunked bodies that are malformed: none of them may be answered as if it had come to its end.
const BAD_CHUNKS: &[&[u8]] = &[
    b"g\r\n\r\n",
    b"-1\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3\nabc\n0\n\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcXX0\r\n\r\n",
];

fn start(lab: &mut Lab) -> Process {
    let web = web(lab.server(1));
    let more = "backend = \"127.0.0.1:9002\"\ntimeouts = { header = \"1s\", idle = \"3s\", stall = \"2s\" }\n";
    let config = lab.config(&format!("{CONFIG}{more}"));
    lab.server_mut(1).attach(&["--config", &config]);
    web
}

/// The statuses of the answers to `bytes`, in turn, and `-` if the connection is closed after them.
fn answers(lab: &Lab, bytes: &[u8]) -> (String, String) {
    let address = lab.server(1).address();
    lab.client.enter(|| {
        let mut stream = TcpStream::connect((address, 8000)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(700)))
            .unwrap();
        stream.write_all(bytes).unwrap();
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        let closed = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(length) => all.extend(&buffer[..length]),
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        let text = String::from_utf8_lossy(&all).into_owned();
        let mut statuses: Vec<&str> = text
            .match_indices("HTTP/1.")
            .filter(|(at, _)| *at == 0 || !text[..*at].ends_with(' '))
            .filter_map(|(at, _)| text.get(at + 9..at + 12))
            .collect();
        if closed {
            statuses.push("-");
        }
        (statuses.join(" "), text)
    })
}

#[test]
fn malformed_requests_are_refused_by_the_rule() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab);
    let mut wrong = Vec::new();
    for (name, bytes, expected) in CASES {
        let (statuses, text) = answers(&lab, bytes);
        if statuses != *expected {
            wrong.push(format!("{name}: {statuses}, not {expected}"));
        }
        assert!(
            !text.contains("stolen"),
            "{name}: a second request was smuggled in:\n{text}"
        );
    }
    for chunks in BAD_CHUNKS {
        let head = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (statuses, _) = answers(&lab, &[&head[..], chunks].concat());
        if statuses.starts_with('2') || !statuses.ends_with('-') {
            wrong.push(format!(
                "chunks {:?}: {statuses}",
                String::from_utf8_lossy(chunks)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn heads_have_limits() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab);
    let many = "X: y\r\n".repeat(101);
    let large = format!("X: {}\r\n", "y".repeat(40_000));
    for headers in [many, large] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        assert_eq!(answers(&lab, request.as_bytes()).0, "431 -");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(70_000));
    let status = answers(&lab, long.as_bytes()).0;
    assert!(["414 -", "431 -"].contains(&status.as_str()), "{status}");
    let header = format!("X: {}", "y".repeat(40_000));
    let h2 = curl(
        &lab,
        &[
            "--http2-prior-knowledge",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            &header,
            &url(&lab, "/"),
        ],
    );
    assert!(["431", "000"].contains(&h2.as_str()), "{h2}");
    assert_eq!(answers(&lab, CASES[0].1).0, "200");
}

#[test]
fn slow_clients_are_let_go() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab);
    let address = lab.server(1).address();
    // What is sent, a byte each 200 ms after the first part, and until when the connection must be over.
    let cases: [(&[u8], bool, u64); 4] = [
        (b"", false, 3),
        (b"GET / HTTP/1.1\r\nX: ", true, 3),
        (
            b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc",
            false,
            5,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", false, 6),
    ];
    lab.client.enter(|| {
        std::thread::scope(|scope| {
            for (bytes, drip, limit) in cases {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect((address, 8000)).unwrap();
                    stream
                        .set_read_timeout(Some(Duration::from_millis(200)))
                        .unwrap();
                    let begin = Instant::now();
                    stream.write_all(bytes).unwrap();
                    let mut buffer = [0; 4096];
                    loop {
                        assert!(
                            begin.elapsed() < Duration::from_secs(limit),
                            "{:?} is still served",
                            String::from_utf8_lossy(bytes)
                        );
                        match stream.read(&mut buffer) {
                            Ok(0) => break,
                            Ok(_) => {}
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                                if drip && stream.write_all(b"y").is_err() {
                                    break;
                                }
                            }
                            Err(_) => break,
                        }
                    }
                });
            }
        });
    });
}

/// What comes before a part that is repeated without an end, and that part.
const ENDLESS: &[(&str, &[u8], &[u8])] = &[
    ("lines before a request", b"", b"\r\n"),
    ("method", b"", b"GET"),
    ("target", b"GET /", b"xxxxxxxx"),
    ("header name", b"GET / HTTP/1.1\r\n", b"xxxxxxxx"),
    ("header value", b"GET / HTTP/1.1\r\nX: ", b"xxxxxxxx"),
    ("headers", b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n"),
    ("chunk extension", CHUNKED, b"3;xxxxxx"),
    (
        "chunk extensions",
        CHUNKED,
        b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n",
    ),
    ("trailer", CHUNKED_END, b"xxxxxxxx"),
    ("trailers", CHUNKED_END, b"X: y\r\n"),
];
const CHUNKED: &[u8] = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED_END: &[u8] =
    b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n";

#[test]
fn what_has_no_end_is_cut_off() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab);
    for (name, prefix, part) in ENDLESS {
        let mut stream = connect(&lab);
        stream.write_all(prefix).unwrap();
        endless(&mut stream, &part.repeat(4096 / part.len()));
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "{name} is taken");
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{name}: {answer}"
        );
    }
    assert_eq!(answers(&lab, CASES[0].1).0, "200");
}

/// More than any limit that there is.
const LARGE: usize = 16 << 20;

/// Sends `part` again and again, until the connection is over.
fn endless(stream: &mut TcpStream, part: &[u8]) {
    let mut sent = 0;
    while sent < LARGE {
        match stream.write(part) {
            Ok(length) => sent += length,
            Err(_) => return,
        }
    }
}

fn connect(lab: &Lab) -> TcpStream {
    let address = lab.server(1).address();
    let stream = lab.client.enter(|| TcpStream::connect((address, 8000)));
    let stream = stream.unwrap();
    let patience = Some(Duration::from_secs(5));
    stream.set_write_timeout(patience).unwrap();
    stream.set_read_timeout(patience).unwrap();
    stream
}

#[test]
fn ten_thousand_idle_connections_are_cheap() {
    const COUNT: usize = 10_000;
    /// What they take when they rest: less than they are promised to take while the last of them are still being answered.
    const MIB_MAX: u64 = 150;
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = web(lab.server(1));
    let config = lab.config(&format!("{CONFIG}backend = \"127.0.0.1:9002\"\n"));
    lab.server_mut(1).attach(&["--config", &config]);
    let memory = || lab.server(1).memory("VmRSS") / 1024;
    let before = memory();
    let address = lab.server(1).address();
    lab.client.enter(|| {
        let mut streams = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let mut stream = TcpStream::connect((address, 8000)).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            let length = stream.read(&mut [0; 4096]).unwrap();
            assert!(length > 0);
            streams.push((Instant::now(), stream));
        }
        let mut taken = 0;
        until("memory is given back", Duration::from_secs(10), || {
            taken = memory() - before;
            taken < MIB_MAX
        });
        eprintln!("{COUNT} connections that wait for a second request: {taken} MiB");
        for (answered, stream) in streams.iter_mut().step_by(100) {
            // On a busy machine the first ones may have been idle for as long as a connection may.
            if answered.elapsed() > Duration::from_secs(50) {
                continue;
            }
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        }
    });
}
