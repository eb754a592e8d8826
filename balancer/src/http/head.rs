//! The head of a message: what is refused, what is taken out, what is put in.
//!
//! What comes from a client (`docs/http-messages.md` has the rule as a table):
//!
//! | what | by whom | then |
//! |---|---|---|
//! | malformed request line, method or header; space before a colon; folded header; control character | hyper | 400, closed |
//! | a line that ends in LF alone | hyper | taken as a line; what is sent on has CR LF |
//! | `Content-Length` that differ, or is no number; `Transfer-Encoding` that doesn't end in `chunked`, or in HTTP/1.0 | hyper | 400, closed |
//! | `Transfer-Encoding` and `Content-Length` | hyper | the first counts, the second is dropped, closed after the answer (RFC 9112, 6.3) |
//! | `Transfer-Encoding` that is more than `chunked` | here | 501 |
//! | a chunk that is malformed | hyper | the request is broken off, closed |
//! | too many headers, too many bytes of them, a URI of more than 64 KiB | hyper | 431 or 414, closed |
//! | hosts and paths | `target` | normalised, or 400 |
//! | CONNECT, TRACE | `route`, here | 405: nobody is to use a server as a way to others, or to see what it was sent |
//! | `Upgrade` to something else than `websocket` (`h2c`, say) | here | taken out |

use std::net::{IpAddr, SocketAddr};

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Uri, Version};

use super::target::Target;
use crate::config::Limits;

/// Headers about the connection that a message came by, beside those that `Connection` names (RFC 9110, 7.6.1), and `Proxy`,
/// which CGI programs take for a setting of theirs ([CVE-2016-5385](https://httpoxy.org)).
const OF_CONNECTION: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy",
    "te",
    "transfer-encoding",
    "upgrade",
];

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers in which web servers believe a proxy, and so shouldn't believe a client.
const CLAIMS: [&str; 7] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-real-ip",
];

/// What a web server is told of the client.
pub struct Introduction {
    /// `Forwarded`, but its host (RFC 7239).
    forwarded: HeaderValue,
    address: HeaderValue,
}

/// How a request is refused whose kind isn't served.
pub fn refusal(parts: &Parts, limits: Limits) -> Option<(StatusCode, &'static str)> {
    // Those of HTTP/1.1 are counted as they are read.
    if parts.headers.len() > limits.headers as usize {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some((status, "too many headers"));
    }
    if parts.method == Method::TRACE {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "TRACE isn't served here"));
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    let text = "the only transfer coding served here is chunked";
    (!chunked).then_some((StatusCode::NOT_IMPLEMENTED, text))
}

/// Makes the request ask for `target`, and nothing else. `server`: the host of an HTTP/1.0 request that names none.
pub fn aim(parts: &mut Parts, target: &Target, server: SocketAddr) {
    if parts.uri.path_and_query() != Some(&target.path_and_query) || parts.uri.authority().is_some()
    {
        parts.uri = Uri::from(target.path_and_query.clone());
    }
    if !target.host.is_empty() && target.is_named_by(parts.headers.get(HOST)) {
        return;
    }
    let host = match target.port {
        _ if target.host.is_empty() => HeaderValue::try_from(server.to_string()),
        Some(port) => HeaderValue::try_from(format!("{}:{port}", target.host)),
        None => HeaderValue::from_str(&target.host),
    };
    if let Ok(host) = host {
        parts.headers.insert(HOST, host);
    }
}

/// Whether the client asks for a WebSocket (RFC 6455, 4.1).
pub fn wants_websocket(parts: &Parts) -> bool {
    parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && has_token(&parts.headers, &CONNECTION, "upgrade")
        && is_websocket(&parts.headers)
}

/// Whether `Upgrade` names WebSocket and nothing else.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let first = protocols.next().map(HeaderValue::as_bytes);
    first.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
        && protocols.next().is_none()
}

/// Takes out what is about the connection that the message came by.
pub fn leave_connection(headers: &mut HeaderMap) {
    // Most messages have none of them, and a look at each name costs less than to look each of these up.
    if !headers
        .keys()
        .any(|name| OF_CONNECTION.contains(&name.as_str()))
    {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| token.parse().ok())
            // Nobody but this proxy decides where a message ends, and whom it is for.
            .filter(|name| ![CONTENT_LENGTH, HOST].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
}

/// Asks for a WebSocket, after [`leave_connection`].
pub fn ask_for_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// `Expect` is between the client and this server, which answers it when the body is asked for.
pub fn leave_expectation(headers: &mut HeaderMap) {
    headers.remove(EXPECT);
}

impl Introduction {
    /// Of a client with this address, that came by TLS or not.
    pub fn new(address: IpAddr, tls: bool) -> Self {
        let scheme = scheme(tls);
        let node = match address {
            IpAddr::V4(address) => format!("{address}"),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let value = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        };
        Self {
            forwarded: value(&format!("for={node};proto={scheme}")),
            address: value(&address.to_string()),
        }
    }

    /// Tells the web server of the client. What `believed` senders said of those before them stays in front of it; else the
    /// client's own claims go. `tls`: the client's request came by TLS.
    pub fn introduce(&self, headers: &mut HeaderMap, believed: bool, tls: bool) {
        if believed {
            append(headers, X_FORWARDED_FOR, &self.address);
            append(headers, FORWARDED, &self.forwarded);
            if let Entry::Vacant(entry) = headers.entry(X_FORWARDED_PROTO) {
                entry.insert(HeaderValue::from_static(scheme(tls)));
            }
            return;
        }
        leave_claims(headers);
        headers.insert(X_FORWARDED_FOR, self.address.clone());
        headers.insert(FORWARDED, self.forwarded.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme(tls)));
        match headers.get(HOST).cloned() {
            Some(host) => headers.insert(X_FORWARDED_HOST, host),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Removes what only a proxy may say, also as it is spelled where a web server takes `_` for `-` (CGI, RFC 3875 section 4.1.18).
fn leave_claims(headers: &mut HeaderMap) {
    let is_claim = |name: &&HeaderName| {
        CLAIMS.contains(&name.as_str())
            || name.as_str().contains('_') && {
                let plain = name.as_str().replace('_', "-");
                CLAIMS.contains(&plain.as_str())
            }
    };
    let found: Vec<_> = headers.keys().filter(is_claim).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Makes one `Cookie` of several, as HTTP/2 may have them and HTTP/1.1 may not (RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(tokens)
        .any(|found| found.eq_ignore_ascii_case(token))
}

/// What is between the commas.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Adds to a list that may be in several lines, as one line.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let mut list: Vec<u8> = Vec::new();
    for part in headers.get_all(&name) {
        list.extend_from_slice(part.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value.as_bytes());
    // Made of values, so it is one.
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        headers.insert(name, list);
    }
}

/// A request's head in bytes, as it came but for the spelling (RFC 9112, 3).
pub fn written(parts: &Parts) -> Vec<u8> {
    let mut bytes = format!("{} {} HTTP/1.1\r\n", parts.method, parts.uri).into_bytes();
    for (name, value) in &parts.headers {
        for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(piece);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn several_cookies_become_one() {
        let mut headers = HeaderMap::new();
        join_cookies(&mut headers);
        assert!(headers.is_empty());
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2; c=3"));
        join_cookies(&mut headers);
        let all: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_client_makes_no_claims_in_another_spelling() {
        let mut headers = HeaderMap::new();
        for name in [
            "x_forwarded_for",
            "X-Forwarded_Proto",
            "x_real_ip",
            "forwarded",
            "my_own",
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.insert(name, HeaderValue::from_static("1"));
        }
        leave_claims(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["my_own"]);
    }

    #[test]
    fn some_methods_and_codings_are_not_served() {
        let status = |method, headers: &[_]| {
            refusal(&parts(method, "/", headers), Limits::default())
                .map(|(status, _)| status.as_u16())
        };
        assert_eq!(status("TRACE", &[]), Some(405));
        assert_eq!(
            status("POST", &[("transfer-encoding", "gzip, chunked")]),
            Some(501)
        );
        let twice = [("transfer-encoding", "chunked"); 2];
        assert_eq!(status("POST", &twice), Some(501));
        assert_eq!(status("POST", &[("transfer-encoding", "Chunked")]), None);
        assert_eq!(status("GET", &[]), None);
        let many = [("x", "y"); 101];
        assert_eq!(status("GET", &many), Some(431));
        assert_eq!(status("GET", &many[1..]), None);
    }

    #[test]
    fn the_request_that_was_matched_is_the_one_that_is_sent_on() {
        let mut parts = parts("GET", "http://A.example:81/x/../y?q=%2e", &[]);
        let target = Target::of(&parts.method, &parts.uri, &parts.headers, false).unwrap();
        aim(&mut parts, &target, "10.0.0.1:80".parse().unwrap());
        assert_eq!(parts.uri, "/y?q=%2e");
        assert_eq!(parts.headers[HOST], "a.example:81");
    }

    #[test]
    fn what_is_about_the_connection_stays_behind() {
        let headers = [
            ("host", "a.example"),
            ("connection", "close, X-Secret, content-length, host"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy", "evil"),
            ("accept", "*/*"),
        ];
        let mut parts = parts("POST", "/", &headers);
        leave_connection(&mut parts.headers);
        let mut left: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host"]);
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let ask = |upgrade| {
            let headers = [("connection", "keep-alive, Upgrade"), ("upgrade", upgrade)];
            wants_websocket(&parts("GET", "/", &headers))
        };
        assert!(ask("WebSocket"));
        assert!(!ask("h2c"));
        assert!(!ask("websocket, h2c"));
        assert!(!wants_websocket(&parts(
            "GET",
            "/",
            &[("upgrade", "websocket")]
        )));
    }

    #[test]
    fn a_client_is_not_believed() {
        let introduction = Introduction::new("192.0.2.7".parse().unwrap(), true);
        let claims = [
            ("host", "a.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-host", "evil.example"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
        ];
        let mut client = parts("GET", "/", &claims).headers;
        introduction.introduce(&mut client, false, true);
        assert_eq!(client["x-forwarded-for"], "192.0.2.7");
        assert_eq!(client["x-forwarded-proto"], "https");
        assert_eq!(client["x-forwarded-host"], "a.example");
        assert_eq!(client["forwarded"], "for=192.0.2.7;proto=https");
        assert!(!client.contains_key("x-real-ip"));
        assert_eq!(client.get_all("x-forwarded-for").iter().count(), 1);

        let mut proxy = parts("GET", "/", &claims).headers;
        introduction.introduce(&mut proxy, true, true);
        assert_eq!(proxy["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 192.0.2.7");
        assert_eq!(proxy["x-forwarded-proto"], "gopher");
        assert_eq!(
            proxy["forwarded"],
            "for=10.0.0.1, for=192.0.2.7;proto=https"
        );

        let v6 = Introduction::new("2001:db8::7".parse().unwrap(), false);
        let mut client = HeaderMap::new();
        v6.introduce(&mut client, false, false);
        assert_eq!(client["forwarded"], "for=\"[2001:db8::7]\";proto=http");
        assert_eq!(client["x-forwarded-for"], "2001:db8::7");
    }
}
