//! The cookie that says which server a transaction is on: sealed with the cluster's key, so that nobody else can make or read
//! one.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::header::{COOKIE, HeaderMap, HeaderValue};

use crate::cluster::ServerId;
use crate::config::RuleName;
use crate::exchange::Keyring;

/// What the names of cookies begin with. The rest is the rule's.
const PREFIX: &str = "balancer-";

/// Longest value that is looked at: a ticket has some 130 characters.
const VALUE_MAX: usize = 256;

/// Where a transaction is, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its server.
    pub server: ServerId,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// What a request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// No ticket.
    None,
    /// One that is good.
    Good(Ticket),
    /// One whose time is over.
    Expired,
    /// Something that this cluster has not made, or for another rule.
    Forged,
}

/// The keys that tickets are sealed with.
pub struct Tickets(Keyring);

impl Tickets {
    /// Under the keys of the cluster.
    pub fn new(cluster: &Keyring) -> Self {
        Self(cluster.derive(b"tickets of transactions!"))
    }

    /// The ticket of a rule that a request shows. Of several, the first good one.
    pub fn shown(&self, headers: &HeaderMap, rule: &RuleName, now: u64) -> Shown {
        let mut found = Shown::None;
        let lines = headers.get_all(COOKIE).iter();
        for pair in lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
        {
            let value = (pair.trim().strip_prefix(PREFIX))
                .and_then(|rest| rest.strip_prefix(rule.as_str())?.strip_prefix('='));
            let Some(value) = value else { continue };
            found = match self.open(value, rule) {
                Some(ticket) if ticket.expires > now => return Shown::Good(ticket),
                Some(_) => Shown::Expired,
                None => Shown::Forged,
            };
        }
        found
    }

    /// The `Set-Cookie` that gives a client this ticket. `secure`: for TLS only. `None`: the system gives no random numbers,
    /// and the client gets none.
    pub fn give(&self, ticket: Ticket, rule: &RuleName, secure: bool) -> Option<HeaderValue> {
        let plain = postcard::to_allocvec(&(ticket.server, ticket.expires, rule.as_str())).ok()?;
        let value = BASE64_URL_SAFE_NO_PAD.encode(self.0.seal(&plain).ok()?);
        header(rule, &value, "", secure)
    }

    /// The `Set-Cookie` that takes it back.
    pub fn take_back(rule: &RuleName, secure: bool) -> Option<HeaderValue> {
        header(rule, "", "; Max-Age=0", secure)
    }

    fn open(&self, value: &str, rule: &RuleName) -> Option<Ticket> {
        if value.len() > VALUE_MAX {
            return None;
        }
        let plain = self
            .0
            .open(&BASE64_URL_SAFE_NO_PAD.decode(value).ok()?)
            .ok()?;
        let (server, expires, of): (ServerId, u64, &str) = postcard::from_bytes(&plain).ok()?;
        (of == rule.as_str()).then_some(Ticket { server, expires })
    }
}

/// RFC 6265 section 4.1. For all paths, as the end of a transaction may be on another one than its rule's.
fn header(rule: &RuleName, value: &str, age: &str, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    HeaderValue::from_str(&format!(
        "{PREFIX}{rule}={value}; Path=/; HttpOnly; SameSite=Lax{age}{secure}"
    ))
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Key;

    fn tickets(key: u8) -> Tickets {
        Tickets::new(&Keyring::new(&Key::from([key; 32]), &[]))
    }

    fn rule(name: &str) -> RuleName {
        name.parse().unwrap()
    }

    fn cookie(set: &HeaderValue) -> HeaderMap {
        let pair = set.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(COOKIE, format!("a=b; {pair}; c=d").parse().unwrap())])
    }

    const TICKET: Ticket = Ticket {
        server: ServerId(7),
        expires: 100,
    };

    #[test]
    fn what_was_given_is_shown() {
        let tickets = tickets(1);
        let set = tickets.give(TICKET, &rule("bank"), true).unwrap();
        let text = set.to_str().unwrap();
        assert!(text.starts_with("balancer-bank="), "{text}");
        assert!(
            text.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"),
            "{text}"
        );
        let headers = cookie(&set);
        assert_eq!(
            tickets.shown(&headers, &rule("bank"), 99),
            Shown::Good(TICKET)
        );
        assert_eq!(tickets.shown(&headers, &rule("bank"), 100), Shown::Expired);
        assert_eq!(tickets.shown(&headers, &rule("ban"), 99), Shown::None);
        assert_eq!(
            tickets.shown(&HeaderMap::new(), &rule("bank"), 99),
            Shown::None
        );
    }

    #[test]
    fn what_was_not_given_is_forged() {
        let set = tickets(1).give(TICKET, &rule("bank"), false).unwrap();
        let headers = cookie(&set);
        assert_eq!(tickets(2).shown(&headers, &rule("bank"), 0), Shown::Forged);
        // For another rule, with the same seal.
        let other = set
            .to_str()
            .unwrap()
            .replace("balancer-bank", "balancer-shop");
        let headers = cookie(&other.parse().unwrap());
        assert_eq!(tickets(1).shown(&headers, &rule("shop"), 0), Shown::Forged);
        for value in ["", "x", "%00", &"A".repeat(96), &"A".repeat(5_000)] {
            let headers = cookie(&format!("balancer-bank={value}").parse().unwrap());
            assert_eq!(
                tickets(1).shown(&headers, &rule("bank"), 0),
                Shown::Forged,
                "{value}"
            );
        }
        // A datagram of the exchange, sealed with the cluster's own key.
        let sealed = Keyring::new(&Key::from([1; 32]), &[])
            .seal(b"report")
            .unwrap();
        let value = BASE64_URL_SAFE_NO_PAD.encode(sealed);
        let headers = cookie(&format!("balancer-bank={value}").parse().unwrap());
        assert_eq!(tickets(1).shown(&headers, &rule("bank"), 0), Shown::Forged);
    }

    #[test]
    fn every_changed_character_breaks_the_seal() {
        let set = tickets(1).give(TICKET, &rule("bank"), false).unwrap();
        let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        for at in "balancer-bank=".len()..pair.len() - 1 {
            let mut bytes = pair.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let headers = cookie(&HeaderValue::from_bytes(&bytes).unwrap());
            assert_eq!(
                tickets(1).shown(&headers, &rule("bank"), 0),
                Shown::Forged,
                "{at}"
            );
        }
    }
}
