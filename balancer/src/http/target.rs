//! What a request is for: its host and path, normalised, so that no way of writing them dodges a rule. What is matched is what
//! the web server gets. The table is in docs/http.md.

use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Uri};

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its host: a name in lower case or an address, without a port. Empty where an HTTP/1.0 request names none.
    pub host: String,
    /// The port that the client wrote behind it.
    pub port: Option<u16>,
    /// Its path, normalised, and its query, as it came. `*` for `OPTIONS *`.
    pub path_and_query: PathAndQuery,
}

/// Why it isn't clear what a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The target is no path, no URL and no `*`.
    #[error("the request's target is no path")]
    Target,
    /// A path that is longer than any web server takes, once it is normalised.
    #[error("the path is too long")]
    Length,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a % without two hexadecimal digits")]
    Escape,
    /// A control character, written as an escape: `%00` to `%1F`, `%7F`.
    #[error("the path has an escaped control character")]
    Control,
    /// `\`, `%5C` or `%2F`: some web servers take each for a slash, others don't.
    #[error("the path has an escaped slash or a backslash")]
    Slash,
    /// `..;x`: some web servers take it for `..`, others don't.
    #[error("the path has a dot segment with a parameter")]
    DotParameter,
    /// No host, more than one, or one that is none.
    #[error("the request must name one host")]
    Host,
}

impl Target {
    /// What the request with this head is for (RFC 9112 sections 3.2 and 3.3, RFC 9113 section 8.3.1).
    pub fn of(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        http10: bool,
    ) -> Result<Self, Malformed> {
        let (host, port) = authority(uri, headers, http10)?;
        let asterisk = method == Method::OPTIONS && uri.path() == "*";
        let path_and_query = match uri.path_and_query() {
            // One of a URL with a query and no path begins with `?`, though its path is said to be `/`.
            Some(came) if asterisk || came.as_str().starts_with('/') && is_plain(came.path()) => {
                came.clone()
            }
            _ => {
                let path = path(uri.path())?;
                let whole = match uri.query() {
                    Some(query) => format!("{path}?{query}"),
                    None => path,
                };
                whole.try_into().map_err(|_| Malformed::Length)?
            }
        };
        Ok(Self {
            host,
            port,
            path_and_query,
        })
    }

    /// Whether a `Host` header names just this host and port.
    pub fn is_named_by(&self, header: Option<&HeaderValue>) -> bool {
        let rest = header.and_then(|header| header.as_bytes().strip_prefix(self.host.as_bytes()));
        match (rest, self.port) {
            (Some(rest), None) => rest.is_empty(),
            (Some([b':', digits @ ..]), Some(port)) => digits == port.to_string().as_bytes(),
            _ => false,
        }
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.path_and_query.path()
    }
}

/// A path as rules and web servers get it (RFC 3986 section 6.2.2, section 5.2.4, and what web servers do beyond that).
pub fn path(raw: &str) -> Result<String, Malformed> {
    if !raw.starts_with('/') {
        return Err(Malformed::Target);
    }
    let plain = unescape(raw)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in plain[1..].split('/') {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            _ if segment.starts_with(".;") || segment.starts_with("..;") => {
                return Err(Malformed::DotParameter);
            }
            _ => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(plain.len());
    for segment in &kept {
        path.push('/');
        path.push_str(segment);
    }
    if directory || kept.is_empty() {
        path.push('/');
    }
    Ok(path)
}

/// Whether a path is normal as it came, as most are.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.starts_with('/')
        && path.bytes().all(|byte| {
            let dotted_or_empty = before == b'/' && matches!(byte, b'/' | b'.');
            before = byte;
            !dotted_or_empty && (byte == b'/' || is_unreserved(byte) || is_allowed(byte))
        })
}

/// Escapes of unreserved characters resolved, the others in capitals, and what should have been escaped, escaped.
fn unescape(raw: &str) -> Result<String, Malformed> {
    let mut plain = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()];
                let [Some(high), Some(low)] = digits.map(|digit| char::from(digit?).to_digit(16))
                else {
                    return Err(Malformed::Escape);
                };
                let byte = (high << 4 | low) as u8;
                match byte {
                    0..=0x1f | 0x7f => return Err(Malformed::Control),
                    b'/' | b'\\' => return Err(Malformed::Slash),
                    _ if is_unreserved(byte) => plain.push(char::from(byte)),
                    _ => escape(&mut plain, byte),
                }
            }
            0..=0x1f | 0x7f => return Err(Malformed::Control),
            b'\\' => return Err(Malformed::Slash),
            b'/' => plain.push('/'),
            _ if is_unreserved(byte) || is_allowed(byte) => plain.push(char::from(byte)),
            _ => escape(&mut plain, byte),
        }
    }
    Ok(plain)
}

fn escape(text: &mut String, byte: u8) {
    text.push_str(&format!("%{byte:02X}"));
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What a path may have beside (RFC 3986 section 3.3).
fn is_allowed(byte: u8) -> bool {
    b"!$&'()*+,;=:@".contains(&byte)
}

fn authority(
    uri: &Uri,
    headers: &HeaderMap,
    http10: bool,
) -> Result<(String, Option<u16>), Malformed> {
    let mut lines = headers.get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Malformed::Host);
    }
    let line = line
        .map(|line| line.to_str().map_err(|_| Malformed::Host))
        .transpose()?;
    match (uri.authority(), line) {
        (Some(authority), line) => {
            let named = host(authority.as_str())?;
            // HTTP/1.1 lets the URL win; one that contradicts is sent by nobody with a good aim.
            match line.map(host).transpose()? {
                Some(other) if other != named => Err(Malformed::Host),
                _ => Ok(named),
            }
        }
        (None, Some(line)) => host(line),
        (None, None) if http10 => Ok((String::new(), None)),
        (None, None) => Err(Malformed::Host),
    }
}

/// Host and port of an authority, without a user.
fn host(text: &str) -> Result<(String, Option<u16>), Malformed> {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (inner, rest) = rest.split_once(']').ok_or(Malformed::Host)?;
        let address: std::net::Ipv6Addr = inner.parse().map_err(|_| Malformed::Host)?;
        (format!("[{address}]"), rest)
    } else {
        let end = text.find(':').unwrap_or(text.len());
        let mut name = text[..end].to_ascii_lowercase();
        // The root's dot: the same name.
        if name.ends_with('.') {
            name.pop();
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(Malformed::Host);
        }
        (name, &text[end..])
    };
    let port = match port.strip_prefix(':') {
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| Malformed::Host)?)
        }
        None if port.is_empty() => None,
        _ => return Err(Malformed::Host),
    };
    Ok((name, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_normalised_by_the_table() {
        for (raw, normal) in [
            ("/", "/"),
            ("/banking/", "/banking/"),
            ("/banking", "/banking"),
            ("/b%61nking/%7Euser", "/banking/~user"),
            ("/%2e%2E/a", "/a"),
            ("/a/%2e/b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/../../a", "/a"),
            ("//a///b//", "/a/b/"),
            ("/a//../b", "/b"),
            ("/x/..//banking/./", "/banking/"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a%20b%3f", "/a%20b%3F"),
            ("/a\"b{c}|^`<>", "/a%22b%7Bc%7D%7C%5E%60%3C%3E"),
            ("/é", "/%C3%A9"),
            ("/Banking", "/Banking"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/...", "/..."),
            ("/.a/..b", "/.a/..b"),
            ("/%252e%252e/", "/%252e%252e/"),
        ] {
            assert_eq!(path(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn what_web_servers_understand_differently_is_refused() {
        for (raw, why) in [
            ("", Malformed::Target),
            ("*", Malformed::Target),
            ("a", Malformed::Target),
            ("/%", Malformed::Escape),
            ("/%4", Malformed::Escape),
            ("/%zz", Malformed::Escape),
            ("/%+1", Malformed::Escape),
            ("/a%00.jpg", Malformed::Control),
            ("/a%0d%0a", Malformed::Control),
            ("/a%7F", Malformed::Control),
            ("/a\u{1}", Malformed::Control),
            ("/banking%2fx", Malformed::Slash),
            ("/a%5c..%5Cb", Malformed::Slash),
            ("/a\\b", Malformed::Slash),
            ("/x/..;/banking", Malformed::DotParameter),
            ("/x/%2e%2e;a=b/banking", Malformed::DotParameter),
            ("/.;/a", Malformed::DotParameter),
        ] {
            assert_eq!(path(raw), Err(why), "{raw}");
        }
    }

    #[test]
    fn there_is_one_host() {
        let of = |uri: &str, hosts: &[&str], http10| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            let target = Target::of(&Method::GET, &uri.parse().unwrap(), &headers, http10);
            target.map(|target| (target.host, target.port))
        };
        let named = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(
            of("/", &["WWW.Example.COM:8080"], false),
            named("www.example.com", Some(8080))
        );
        assert_eq!(
            of("/", &["www.example.com."], false),
            named("www.example.com", None)
        );
        assert_eq!(
            of("/", &["www.example.com:"], false),
            named("www.example.com", None)
        );
        assert_eq!(
            of("/", &["[2001:DB8:0::1]:80"], false),
            named("[2001:db8::1]", Some(80))
        );
        assert_eq!(
            of("http://a.example/", &["a.example"], false),
            named("a.example", None)
        );
        assert_eq!(
            of("http://a.example/", &[], false),
            named("a.example", None)
        );
        assert_eq!(of("/", &[], true), named("", None));
        for (uri, hosts) in [
            ("/", &[][..]),
            ("/", &["a", "a"]),
            ("/", &["a", "b"]),
            ("/", &[""]),
            ("/", &["a b"]),
            ("/", &["a/b"]),
            ("/", &["a@b"]),
            ("/", &["a:99999"]),
            ("/", &["a:+1"]),
            ("/", &["[::1"]),
            ("/", &["[::1]x"]),
            ("/", &["a,b"]),
            ("http://a/", &["b"]),
            ("http://user@a/", &[]),
        ] {
            assert_eq!(
                of(uri, hosts, false),
                Err(Malformed::Host),
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn the_query_stays_as_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "a".parse().unwrap());
        let of = |method, uri: &str| Target::of(&method, &uri.parse().unwrap(), &headers, false);
        let target = of(Method::GET, "/a/../b?x=../%2f//&y=%00").unwrap();
        assert_eq!(target.path_and_query.as_str(), "/b?x=../%2f//&y=%00");
        assert_eq!(of(Method::OPTIONS, "*").unwrap().path(), "*");
        assert_eq!(of(Method::GET, "*"), Err(Malformed::Target));
    }

    proptest! {
        /// Nothing that is normalised changes when it is normalised again, nor holds what it must not.
        #[test]
        fn normal_is_normal(raw in "/?([/a.;%/\\\\é]|%2[eEfF]|%5c|%41|//|\\.\\.){0,20}") {
            prop_assert!(!is_plain(&raw) || path(&raw).as_ref() == Ok(&raw));
            if let Ok(normal) = path(&raw) {
                prop_assert_eq!(path(&normal), Ok(normal.clone()));
                prop_assert!(normal.starts_with('/') && normal.is_ascii());
                prop_assert!(!normal.contains("//") && !normal.contains('\\'));
                prop_assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }
    }
}
