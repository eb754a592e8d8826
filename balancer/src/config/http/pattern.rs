//! Patterns that hosts and paths are matched by. What they are matched with is normalised already: see `crate::http::target`.

use std::fmt;

use rustls::pki_types::DnsName;

use crate::cluster::MAX_PATH;
use crate::config::value::{Value, value};

value!(HostPattern, PathPattern);

/// Most `*` of a path.
const STARS_MAX: usize = 8;

/// Which paths are meant: `*` stands for any text, slashes included. `/banking/*` means `/banking`, too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern(String);

impl PathPattern {
    /// Whether a path is meant.
    pub fn matches(&self, path: &str) -> bool {
        if self.directory() == Some(path) {
            return true;
        }
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = path.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            // The first place where a part fits is the best one: it leaves most to those after it.
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    /// How much of a path it fixes; of two patterns that mean one path the larger one is the more specific. An exact path is
    /// above all others.
    pub fn specificity(&self) -> (bool, usize) {
        let stars = self.0.matches('*').count();
        (stars == 0, self.0.len() - stars)
    }

    /// What paths begin with.
    pub fn prefix(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `/banking` of `/banking/*`.
    fn directory(&self) -> Option<&str> {
        self.0
            .strip_suffix("/*")
            .filter(|directory| !directory.is_empty() && !directory.contains('*'))
    }
}

impl Value for PathPattern {
    const WANTED: &'static str = "a path: write it from its first slash on, normalised, with * for any text, as in \"/banking/*\" or \
                                  \"*.jpg\"";

    fn read(text: &str) -> Option<Self> {
        let rooted = text.starts_with('/') || text.starts_with('*');
        let stars = text.matches('*').count();
        let fits = rooted && text.len() <= MAX_PATH && stars <= STARS_MAX && !text.contains("**");
        // Whatever no normalised path has in it would never match.
        let sample = format!("/{}", text.replace('*', "x").trim_start_matches('/'));
        let normal = crate::http::target::path(&sample).is_ok_and(|path| path == sample);
        (fits && normal && !text.contains("//")).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which hosts are meant: one, or with `*.` before it all below it. In lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(String);

impl HostPattern {
    /// Whether a host, in lower case and without a port, is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            None => self.0 == host,
            Some(end) => host.len() > end.len() && host.ends_with(end),
        }
    }

    /// Of two patterns that mean one host the larger one is the more specific.
    pub fn specificity(&self) -> (bool, usize) {
        (!self.0.starts_with('*'), self.0.len())
    }
}

impl Value for HostPattern {
    const WANTED: &'static str = "a host: write a name, or all names below one, or an address, as in \"www.example.com\", \
                                  \"*.example.com\" or \"192.0.2.7\"";

    fn read(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let v6 = |text: &str| {
            let inner = text.strip_prefix('[')?.strip_suffix(']')?;
            inner
                .parse()
                .ok()
                .map(|address: std::net::Ipv6Addr| format!("[{address}]"))
        };
        if let Some(address) = v6(&text) {
            return Some(Self(address));
        }
        let fits = DnsName::try_from(name).is_ok() && !name.ends_with('.')
            || text.parse::<std::net::Ipv4Addr>().is_ok();
        fits.then_some(Self(text))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathPattern {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn paths_match_as_written() {
        for (pattern, yes, no) in [
            ("/", &["/"][..], &["/a"][..]),
            ("/*", &["/", "/a", "/a/b"], &[]),
            (
                "/banking/*",
                &["/banking", "/banking/", "/banking/a/b"],
                &["/bankings", "/", "/x/banking/"],
            ),
            (
                "*.jpg",
                &["/a.jpg", "/a/b.jpg", "/.jpg"],
                &["/a.jpeg", "/a.jpg/b"],
            ),
            (
                "/a/*.jpg",
                &["/a/b.jpg", "/a/b/c.jpg"],
                &["/a.jpg", "/a/jpg"],
            ),
            (
                "/a*b*c",
                &["/abc", "/axbxc", "/abbcc"],
                &["/ac", "/acb", "/abcx"],
            ),
            ("/a*a", &["/aa", "/aba"], &["/a"]),
            ("/a*", &["/a", "/ab", "/a/b"], &["/b"]),
        ] {
            for text in yes {
                assert!(path(pattern).matches(text), "{pattern} {text}");
            }
            for text in no {
                assert!(!path(pattern).matches(text), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn paths_that_could_never_match_are_refused() {
        for text in [
            "", "banking", "/a//b", "/a/../b", "/a/.", "/%41", "/%2f", "/a b", "/**", "/a\\b",
            "/a?b", "/a#b", "/é",
        ] {
            assert!(text.parse::<PathPattern>().is_err(), "{text:?}");
        }
        assert!("/a%20b".parse::<PathPattern>().is_ok());
    }

    #[test]
    fn hosts_match_whole_labels() {
        let host = |text: &str| text.parse::<HostPattern>().unwrap();
        assert!(host("WWW.Example.com").matches("www.example.com"));
        assert!(!host("example.com").matches("www.example.com"));
        assert!(host("*.example.com").matches("a.b.example.com"));
        assert!(!host("*.example.com").matches("example.com"));
        assert!(!host("*.example.com").matches(".example.com"));
        assert!(!host("*.example.com").matches("badexample.com"));
        assert!(host("[2001:DB8:0::1]").matches("[2001:db8::1]"));
        for text in [
            "",
            "*",
            "a.*",
            "*.*.com",
            "a b",
            "www.example.com:80",
            "[::1",
            "a.",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text:?}");
        }
    }
}
