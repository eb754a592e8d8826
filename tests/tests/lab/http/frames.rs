//! HTTP/2 frame by frame: clients that cancel, never end, or ask for a WebSocket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use balancer_tests::{Lab, Signal};

use super::patience::{frame, start};
use super::{curl, url};

/// Kinds of frames (RFC 9113, 6), and the errors that they bring.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const PROTOCOL_ERROR: u32 = 1;
const CANCEL: u32 = 8;

/// Flags of HEADERS; the first one is one of DATA, too, and has another meaning for a PING.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// GET, http, /, authority "a" (RFC 7541, appendix A).
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

/// The same with POST.
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'a'];

/// `:status` 200 and 400.
const OK: u8 = 0x88;
const BAD_REQUEST: u8 = 0x8c;

#[test]
fn http2_has_bounds() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "");
    let served = || {
        let arguments = ["--http2-prior-knowledge", "-w", "%{http_code}"];
        let url = url(&lab, "/");
        curl(&lab, &[&arguments[..], &[&url]].concat()).ends_with("200")
    };
    assert!(served());
    cancelled_streams(&lab);
    assert!(served());
    headers_without_end(&lab);
    assert!(served());
    websocket(&lab);
    assert!(served());
}

/// What would be another request where HTTP/1.1 is spoken behind this server, or another host's.
#[test]
fn http2_requests_that_hide_others_are_refused() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "");
    let (served, refused, reset) = (Some(OK), Some(BAD_REQUEST), None);
    for (start, headers, body, expected) in [
        (GET, &[("x", "y")][..], "", served),
        (POST, &[("content-length", "3")], "abc", served),
        (POST, &[("content-length", "2")], "abc", reset),
        (POST, &[("content-length", "5")], "abc", reset),
        (POST, &[("content-length", "+3")], "abc", reset),
        (
            POST,
            &[("content-length", "3"), ("content-length", "5")],
            "abc",
            reset,
        ),
        (
            POST,
            &[("transfer-encoding", "chunked")],
            "0\r\n\r\n",
            reset,
        ),
        (GET, &[("connection", "close")], "", reset),
        (GET, &[("x", "y\r\nhost: b")], "", reset),
        (GET, &[("x\r\nhost", "b")], "", reset),
        (GET, &[("X", "y")], "", reset),
        (GET, &[(":path", "/b")], "", reset),
        (&GET[1..], &[(":method", "GET / HTTP/1.1\r\nx:")], "", reset),
        (GET, &[("host", "b")], "", refused),
    ] {
        let mut block = start.to_vec();
        for (name, value) in headers {
            block.extend(header(name, value));
        }
        let mut stream = open(&lab);
        let patience = Some(Duration::from_secs(5));
        stream.set_read_timeout(patience).unwrap();
        let flags = END_HEADERS | if body.is_empty() { END_STREAM } else { 0 };
        let mut frames = frame(HEADERS, flags, 1, &block);
        if !body.is_empty() {
            frames.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
        }
        stream.write_all(&frames).unwrap();
        let answer = loop {
            match read(&mut stream) {
                (HEADERS, 1, payload) => break payload.first().copied(),
                (RST_STREAM, 1, _) | (GOAWAY, ..) => break None,
                _ => {}
            }
        };
        assert_eq!(answer, expected, "{headers:?}, {body:?}");
    }
}

/// RFC 9113, 6.8: what runs ends well, and nothing new is begun.
#[test]
fn http2_clients_are_told_that_the_daemon_ends() {
    let Some(mut lab) = Lab::new(1) else { return };
    let _web = start(&mut lab, "");
    let mut stream = open(&lab);
    let patience = Some(Duration::from_secs(5));
    stream.set_read_timeout(patience).unwrap();
    stream
        .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET))
        .unwrap();
    while read(&mut stream).0 != DATA {}
    // The second request's body is still to come, and its answer waits for that.
    let upload = [&POST[..2], &header(":path", "/upload"), &POST[3..]].concat();
    stream
        .write_all(&frame(HEADERS, END_HEADERS, 3, &upload))
        .unwrap();
    lab.server(1).signal_balancer(Signal::SIGTERM);
    while read(&mut stream).0 != GOAWAY {}
    stream
        .write_all(&frame(DATA, END_STREAM, 3, b"abc"))
        .unwrap();
    let answer = loop {
        match read(&mut stream) {
            (HEADERS, 3, payload) => break payload.first().copied(),
            // By that a server learns that what the client began earlier is there.
            (PING, _, payload) => stream.write_all(&frame(PING, ACK, 0, &payload)).unwrap(),
            _ => {}
        }
    };
    assert_eq!(answer, Some(OK));
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
}

/// CVE-2023-44487.
fn cancelled_streams(lab: &Lab) {
    let mut stream = open(lab);
    let sent = (0..20_000).find(|number| {
        let id = 2 * number + 1;
        let mut both = frame(HEADERS, END_STREAM | END_HEADERS, id, GET);
        both.extend(frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes()));
        stream.write_all(&both).is_err() || (number % 10 == 0 && is_over(&mut stream))
    });
    let sent = sent.expect("a connection that is ended");
    assert!(sent < 5_000, "{sent} requests were cancelled");
}

/// CVE-2024-27316.
fn headers_without_end(lab: &Lab) {
    let mut stream = open(lab);
    stream.write_all(&frame(HEADERS, 0, 1, GET)).unwrap();
    // A header without indexing: name "x", a value of 100 bytes.
    let header = header("x", &"y".repeat(100));
    let more = frame(CONTINUATION, 0, 1, &header.repeat(100));
    let sent = (0..2_000).find(|number| {
        stream.write_all(&more).is_err() || (number % 10 == 0 && is_over(&mut stream))
    });
    assert!(sent.is_some(), "20 MB of headers were taken");
}

/// RFC 8441 isn't offered, and who uses it all the same is told so; clients then use HTTP/1.1.
fn websocket(lab: &Lab) {
    const ENABLE_CONNECT_PROTOCOL: u16 = 8;
    let mut stream = open(lab);
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    // CONNECT, http, /, authority "a", :protocol "websocket".
    let mut headers = [&[0x02, 7][..], b"CONNECT", &GET[1..]].concat();
    headers.extend(header(":protocol", "websocket"));
    stream
        .write_all(&frame(HEADERS, END_HEADERS, 1, &headers))
        .unwrap();
    loop {
        let (kind, id, payload) = read(&mut stream);
        match (kind, id) {
            (SETTINGS, _) => {
                let offered = payload
                    .chunks_exact(6)
                    .any(|setting| setting[..2] == ENABLE_CONNECT_PROTOCOL.to_be_bytes());
                assert!(!offered);
            }
            (RST_STREAM, 1) => {
                assert_eq!(payload, PROTOCOL_ERROR.to_be_bytes());
                return;
            }
            _ => {}
        }
    }
}

/// A connection with both sides' first frames on their way.
fn open(lab: &Lab) -> TcpStream {
    let address = lab.server(1).address();
    let stream = lab.client.enter(|| TcpStream::connect((address, 8000)));
    let mut stream = stream.unwrap();
    let patience = Some(Duration::from_secs(2));
    stream.set_write_timeout(patience).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream
}

/// Whether the other end has ended the connection.
fn is_over(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// A header that isn't indexed (RFC 7541, 6.2.2).
fn header(name: &str, value: &str) -> Vec<u8> {
    let lengths = [name, value].map(|text| [u8::try_from(text.len()).unwrap()]);
    [
        &[0][..],
        &lengths[0],
        name.as_bytes(),
        &lengths[1],
        value.as_bytes(),
    ]
    .concat()
}

/// A frame's kind, stream and payload.
fn read(stream: &mut TcpStream) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).unwrap();
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    (head[3], id, payload)
}
