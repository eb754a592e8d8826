use std::sync::Arc;

use balancer_common::decide::Policy;
use hyper::header::{COOKIE, HOST};

use super::*;
use crate::config::Config;
use crate::exchange::{Key, Keyring};

const NOW: u64 = 1_000_000;

/// `[[http]]` of a server with the name web1, with `rest` in it.
fn router(rest: &str) -> Router {
    let text = format!(
        "[[http]]\nservice = \"www\"\nbackend = \"127.0.0.1:8080\"\ntls_ports = []\n{rest}"
    );
    let config = Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}"));
    Router::new(config.http[0].clone(), tickets(1))
}

fn tickets(key: u8) -> Tickets {
    Tickets::new(&Keyring::new(&Key::from([key; 32]), &[]))
}

const PATENT: &str = r#"
names = ["web1.example.com"]

[[http.rule]]
name = "banking"
path = "/banking/*"
servers = ["web1", "web2"]
stateful = { end = "/banking/logout", time = "10m" }

[[http.rule]]
name = "securities"
path = "/securities/*"
servers = ["web3"]
"#;

fn server(number: u64, load: u32) -> Server {
    Server {
        id: ServerId(number),
        name: format!("web{number}"),
        address: IpAddr::from([10, 0, 0, number as u8]),
        scope: 0,
        load,
        cost: 0,
        sent: Arc::default(),
        capacity: 1_000,
        healthy: true,
        draining: false,
        names: vec![format!("web{number}.example.com")],
        serves: Vec::new(),
    }
}

/// web1, web2 and so on with these loads in percent, as web1 sees them.
fn view(loads: &[u32]) -> View {
    let mut servers = (1..)
        .zip(loads)
        .map(|(number, load)| server(number, load * 100));
    View {
        own: servers.next().unwrap(),
        overload: 5_000,
        margin: 2_000,
        policy: Policy::LeastLoad,
        peers: servers.collect(),
        steered: false,
        settled: true,
    }
}

/// A browser: it has cookies.
#[derive(Default)]
struct Browser {
    cookies: Vec<String>,
    relayed: bool,
    handed: bool,
    host: Option<&'static str>,
    client: u8,
}

impl Browser {
    fn get(&mut self, router: &Router, view: &View, path: &str) -> Decision {
        self.get_at(router, view, path, NOW)
    }

    fn get_at(&mut self, router: &Router, view: &View, path: &str, now: u64) -> Decision {
        let host = self.host.unwrap_or("www.example.com");
        let mut headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
        if !self.cookies.is_empty() {
            headers.insert(COOKIE, self.cookies.join("; ").parse().unwrap());
        }
        let head = Head {
            method: &Method::GET,
            uri: &path.parse().unwrap(),
            headers: &headers,
            version: Version::HTTP_11,
            client: IpAddr::from([192, 0, 2, self.client]),
            tls: false,
            relayed: self.relayed,
            handed: self.handed,
        };
        let decision = router.route(&head, view, now, 42);
        if let Some(set) = decision.cookie(StatusCode::OK) {
            let text = set.to_str().unwrap();
            let (name, rest) = text.split_once('=').unwrap();
            self.cookies
                .retain(|cookie| !cookie.starts_with(&format!("{name}=")));
            if !text.contains("Max-Age=0") {
                let value = rest.split(';').next().unwrap();
                self.cookies.push(format!("{name}={value}"));
            }
        }
        decision
    }
}

fn get(router: &Router, view: &View, path: &str) -> Route {
    Browser::default().get(router, view, path).route
}

fn relay(number: u64) -> Route {
    Route::Relay(ServerId(number))
}

#[test]
fn second_embodiment_content_alone() {
    let (router, view) = (router(PATENT), view(&[10, 10, 10]));
    assert_eq!(get(&router, &view, "/banking/"), Route::Here);
    assert_eq!(get(&router, &view, "/securities/quote"), relay(3));
    assert_eq!(get(&router, &view, "/securities"), relay(3));
    // No URI of a rule: all serve it.
    assert_eq!(get(&router, &view, "/"), Route::Here);
    // A way of writing it is no way around.
    assert_eq!(get(&router, &view, "/x/..//%73ecurities/./quote"), relay(3));
}

#[test]
fn third_embodiment_content_and_load() {
    let router = router(PATENT);
    // Above its level: the other dedicated one, though a third has less to do.
    assert_eq!(get(&router, &view(&[60, 30, 0]), "/banking/"), relay(2));
    // That one isn't lower by more than the margin.
    assert_eq!(get(&router, &view(&[60, 45, 0]), "/banking/"), Route::Here);
    // Not dedicated here: one below its level, if there is one.
    let text = PATENT.replace("[\"web3\"]", "[\"web2\", \"web3\"]");
    let router = self::router(&text);
    assert_eq!(get(&router, &view(&[0, 60, 40]), "/securities/"), relay(3));
    assert_eq!(get(&router, &view(&[0, 60, 90]), "/securities/"), relay(2));
}

#[test]
fn first_embodiment_load_alone() {
    let router = router(PATENT);
    assert_eq!(get(&router, &view(&[60, 50, 30]), "/"), relay(3));
    assert_eq!(get(&router, &view(&[50, 0, 0]), "/"), Route::Here);
    let steered = View {
        steered: true,
        ..view(&[60, 50, 30])
    };
    assert_eq!(get(&router, &steered, "/"), Route::Here);
}

#[test]
fn what_was_sent_counts_until_the_next_report() {
    let (router, mut view) = (router(PATENT), view(&[90, 20, 21]));
    for peer in &mut view.peers {
        peer.cost = 200 << 16;
    }
    let taken: Vec<_> = (0..4).map(|_| get(&router, &view, "/")).collect();
    assert_eq!(taken, [relay(2), relay(3), relay(2), relay(3)]);
}

#[test]
fn servers_that_cannot_are_left_out() {
    let router = router(PATENT);
    let mut view = view(&[10, 10, 10]);
    view.own.healthy = false;
    assert_eq!(get(&router, &view, "/banking/"), relay(2));
    view.own.healthy = true;
    view.own.draining = true;
    assert_eq!(get(&router, &view, "/banking/"), relay(2));
    view.peers[0].draining = true;
    assert_eq!(get(&router, &view, "/banking/"), Route::Here);
    view.peers[1].draining = true;
    assert_eq!(get(&router, &view, "/securities/"), relay(3));
    view.peers.pop();
    let refused = Browser::default().get(&router, &view, "/securities/");
    assert_eq!(refused.route, Route::Refuse(Refusal::Nobody));
    assert_eq!(Refusal::Nobody.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn what_a_peer_routed_here_stays() {
    let (router, view) = (router(PATENT), view(&[90, 0, 0]));
    let mut browser = Browser {
        relayed: true,
        ..Browser::default()
    };
    let decision = browser.get(&router, &view, "/securities/");
    assert_eq!(decision.route, Route::Here);
    assert!(
        browser
            .get(&router, &view, "/banking/a")
            .cookie(StatusCode::OK)
            .is_none()
    );
}

#[test]
fn fifth_embodiment_a_transaction_stays() {
    let router = router(PATENT);
    let (idle, busy) = (view(&[10, 10, 10]), view(&[90, 10, 10]));
    let mut browser = Browser::default();
    assert_eq!(browser.get(&router, &busy, "/banking/").route, relay(2));
    // It stays there, whatever the loads are, until its end.
    for view in [&idle, &busy, &view(&[0, 100, 0])] {
        for path in [
            "/banking/transfer",
            "/banking/a/b",
            "/banking/transfer?to=7",
        ] {
            let decision = browser.get(&router, view, path);
            assert_eq!(
                (decision.route, decision.note),
                (relay(2), Some(Note::Kept)),
                "{path}"
            );
        }
    }
    // Another path is no part of it.
    assert_eq!(browser.get(&router, &idle, "/").route, Route::Here);
    assert_eq!(
        browser.get(&router, &idle, "/banking/logout").route,
        relay(2)
    );
    assert_eq!(browser.cookies, [""; 0]);
    assert_eq!(
        browser.get(&router, &idle, "/banking/transfer").route,
        Route::Here
    );
}

#[test]
fn the_entry_is_routed_where_its_server_is_full() {
    let router = router(PATENT);
    let mut browser = Browser::default();
    browser.get(&router, &view(&[90, 10, 10]), "/banking/");
    assert_eq!(
        browser
            .get(&router, &view(&[10, 40, 10]), "/banking/")
            .route,
        relay(2)
    );
    assert_eq!(
        browser.get(&router, &view(&[10, 60, 10]), "/banking").route,
        Route::Here
    );
    assert_eq!(
        browser
            .get(&router, &view(&[90, 10, 10]), "/banking/x")
            .route,
        Route::Here
    );
}

#[test]
fn an_end_that_was_not_served_is_none() {
    let (router, view) = (router(PATENT), view(&[10, 10, 10]));
    let mut browser = Browser::default();
    browser.get(&router, &view, "/banking/");
    let ended = browser.get(&router, &view, "/banking/logout");
    assert!(ended.cookie(StatusCode::BAD_GATEWAY).is_none());
    let header = ended.cookie(StatusCode::FOUND).unwrap();
    assert_eq!(
        header,
        "balancer-banking=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"
    );
    // Who has none gets none.
    let ended = Browser::default().get(&router, &view, "/banking/logout");
    assert!(ended.cookie(StatusCode::OK).is_none());
}

#[test]
fn a_transaction_whose_server_is_gone_goes_on_elsewhere() {
    let router = router(PATENT);
    let mut browser = Browser::default();
    browser.get(&router, &view(&[90, 10, 10]), "/banking/");
    let mut without = view(&[10, 10, 10]);
    without.peers[0].healthy = false;
    let decision = browser.get(&router, &without, "/banking/x");
    assert_eq!(
        (decision.route, decision.note),
        (Route::Here, Some(Note::Lost))
    );
    // And stays there then.
    assert_eq!(
        browser
            .get(&router, &view(&[90, 10, 10]), "/banking/x")
            .route,
        Route::Here
    );
    // One that drains serves its transactions to their end.
    let mut draining = view(&[90, 10, 10]);
    let mut browser = Browser::default();
    browser.get(&router, &draining, "/banking/");
    draining.peers[0].draining = true;
    assert_eq!(
        browser.get(&router, &draining, "/banking/x").route,
        relay(2)
    );
}

#[test]
fn tickets_end_with_time_and_are_renewed_before() {
    let (router, view) = (router(PATENT), view(&[90, 10, 10]));
    let mut browser = Browser::default();
    browser.get(&router, &view, "/banking/");
    let first = browser.cookies.clone();
    browser.get_at(&router, &view, "/banking/x", NOW + 299);
    assert_eq!(browser.cookies, first);
    browser.get_at(&router, &view, "/banking/x", NOW + 301);
    assert_ne!(browser.cookies, first);
    let late = browser.get_at(&router, &view, "/banking/x", NOW + 902);
    assert_eq!(late.note, Some(Note::Expired));
}

#[test]
fn forged_tickets_are_ignored() {
    let (router, view) = (router(PATENT), view(&[10, 10, 10]));
    let ticket = Ticket {
        server: ServerId(2),
        expires: NOW + 100,
    };
    let forged = tickets(9)
        .give(ticket, &"banking".parse().unwrap(), false)
        .unwrap();
    let mut browser = Browser {
        cookies: vec![
            forged
                .to_str()
                .unwrap()
                .split(';')
                .next()
                .unwrap()
                .to_owned(),
        ],
        ..Browser::default()
    };
    let decision = browser.get(&router, &view, "/banking/x");
    assert_eq!(
        (decision.route, decision.note),
        (Route::Here, Some(Note::Forged))
    );
    // It got a good one in its place.
    assert_eq!(
        browser.get(&router, &view, "/banking/x").note,
        Some(Note::Kept)
    );
}

#[test]
fn without_cookies_the_address_decides() {
    let router = router(&PATENT.replace("time = \"10m\"", "cookie = false"));
    let view = view(&[10, 10, 10]);
    let clients = |view: &View, path: &str| -> Vec<Route> {
        let client = |client| Browser {
            client,
            ..Browser::default()
        };
        let get = |number| client(number).get(&router, view, path);
        let decisions: Vec<_> = (0..=255).map(get).collect();
        assert!(
            decisions
                .iter()
                .all(|decision| decision.cookie(StatusCode::OK).is_none())
        );
        decisions
            .into_iter()
            .map(|decision| decision.route)
            .collect()
    };
    let entry = clients(&view, "/banking/");
    assert_eq!(entry, clients(&view, "/banking/x"));
    let here = entry.iter().filter(|route| **route == Route::Here).count();
    assert!((90..166).contains(&here), "{here} of 256 here");
    // The same answer on web2: what web1 relays there, is served there.
    let mut other = view.clone();
    std::mem::swap(&mut other.own, &mut other.peers[0]);
    for (here, there) in entry.iter().zip(clients(&other, "/banking/x")) {
        assert_eq!(*here == relay(2), there == Route::Here);
    }
    // Loads don't count, but who is there does.
    assert_eq!(entry, clients(&self::view(&[90, 10, 10]), "/banking/x"));
    other.peers[0].healthy = false;
    assert!(
        clients(&other, "/banking/x")
            .iter()
            .all(|route| *route == Route::Here)
    );
}

#[test]
fn redirects_go_to_the_peers_own_name_and_end_there() {
    let text = PATENT.replace(
        "servers = [\"web3\"]",
        "servers = [\"web3\"]\nroute = \"redirect\"",
    );
    let router = router(&text);
    let mut view = view(&[10, 10, 10]);
    let get = |view: &View, host, path: &str| {
        let mut browser = Browser {
            host: Some(host),
            ..Browser::default()
        };
        browser.get(&router, view, path).route
    };
    let to = |url: &'static str| Route::Redirect(HeaderValue::from_static(url));
    assert_eq!(
        get(
            &view,
            "www.example.com",
            "/securities/../securities/a?b=%2f"
        ),
        to("http://web3.example.com/securities/a?b=%2f")
    );
    assert_eq!(
        get(&view, "www.example.com:8080", "/securities/"),
        to("http://web3.example.com:8080/securities/")
    );
    // Sent here by somebody who goes by other rules: relayed, or it might go to and fro.
    assert_eq!(get(&view, "Web1.example.com", "/securities/"), relay(3));
    view.peers[1].names.clear();
    assert_eq!(get(&view, "www.example.com", "/securities/"), relay(3));
    // Dedicated, full, and sent here: served here.
    view.own.name = "web3".to_owned();
    view.own.load = 9_900;
    assert_eq!(get(&view, "web1.example.com", "/securities/"), Route::Here);
}

#[test]
fn servers_say_what_they_serve() {
    let router = router("[[http.rule]]\nname = \"shop\"\npath = \"/shop/*\"");
    let mut view = view(&[10, 10, 10]);
    assert_eq!(get(&router, &view, "/shop/a"), Route::Here);
    view.peers[1].serves = ["/shop/*", "/reports/*", "/reports/daily/*"]
        .map(|path| path.parse().unwrap())
        .into();
    view.peers[0].serves = vec!["/reports/daily/*".parse().unwrap()];
    assert_eq!(get(&router, &view, "/shop/a"), relay(3));
    assert_eq!(get(&router, &view, "/reports/a"), relay(3));
    view.peers[1].load = 4_000;
    assert_eq!(get(&router, &view, "/reports/daily/a"), relay(2));
}

#[test]
fn the_most_specific_rule_counts() {
    let rule = |name: &str, rest: &str| {
        format!("[[http.rule]]\nname = \"{name}\"\nservers = [\"x\"]\n{rest}\n")
    };
    let router = router(
        &[
            rule("images", r#"path = "*.jpg""#),
            rule("all", r#"path = "/*""#),
            rule("banking", r#"path = "/banking/*""#),
            rule("post", "path = \"/banking/*\"\nmethods = [\"POST\"]"),
            rule("again", r#"path = "/banking/*""#),
            rule("exact", r#"path = "/banking/a.jpg""#),
            rule("below", "host = \"*.example.com\"\npath = \"*.jpg\""),
            rule("host", "host = \"www.example.com\"\npath = \"/*\""),
        ]
        .concat(),
    );
    let found = |method: Method, host: &str, path: &str| {
        let target = Target {
            host: host.to_owned(),
            port: None,
            path_and_query: path.parse().unwrap(),
        };
        let view = view(&[0]);
        let matched = router.rules.find(&method, &target, &view);
        matched.rule().unwrap().name.to_string()
    };
    for (method, host, path, name) in [
        (Method::GET, "a", "/x", "all"),
        (Method::GET, "a", "/x.jpg", "images"),
        (Method::GET, "a", "/banking/x.jpg", "banking"),
        (Method::POST, "a", "/banking/x", "post"),
        (Method::POST, "a", "/banking/a.jpg", "exact"),
        (Method::GET, "a.example.com", "/banking/x", "banking"),
        (Method::GET, "a.example.com", "/banking/a.jpg", "below"),
        (Method::GET, "www.example.com", "/banking/a.jpg", "host"),
    ] {
        assert_eq!(found(method, host, path), name, "{host} {path}");
    }
}

#[test]
fn hosts_that_are_not_served_are_refused() {
    let router = router("hosts = [\"www.example.com\", \"*.example.net\"]");
    let view = view(&[0]);
    let get = |host| {
        let mut browser = Browser {
            host: Some(host),
            ..Browser::default()
        };
        browser.get(&router, &view, "/").route
    };
    for host in [
        "WWW.example.com",
        "www.example.com:8080",
        "www.example.com.",
        "a.b.example.net",
    ] {
        assert_eq!(get(host), Route::Here, "{host}");
    }
    for host in ["example.com", "evil.example", "example.net", "10.0.0.1"] {
        assert_eq!(get(host), Route::Refuse(Refusal::Host), "{host}");
    }
    assert_eq!(Refusal::Host.status(), StatusCode::MISDIRECTED_REQUEST);
}

#[test]
fn explanations_are_the_routers_own() {
    let router = router(PATENT);
    let explain = |view: &View, uri: &str| {
        let headers = HeaderMap::from_iter([(HOST, "www.example.com".parse().unwrap())]);
        let head = Head {
            method: &Method::GET,
            uri: &uri.parse().unwrap(),
            headers: &headers,
            version: Version::HTTP_11,
            client: IpAddr::from([192, 0, 2, 1]),
            tls: false,
            relayed: false,
            handed: false,
        };
        let explanation = router.explain(&head, view, NOW, 42);
        let told = serde_json::to_value(explanation.verdict).unwrap();
        (told.as_str().unwrap().to_owned(), explanation)
    };
    let (verdict, told) = explain(&view(&[10, 10, 10]), "/x/../securities/a");
    assert_eq!((&*verdict, told.server.as_deref()), ("relay", Some("web3")));
    assert_eq!(told.rule.as_deref(), Some("securities"));
    assert_eq!(told.target.as_deref(), Some("www.example.com/securities/a"));
    let dedicated: Vec<_> = told.servers.iter().map(|server| server.dedicated).collect();
    assert_eq!(dedicated, [false, false, true]);
    let steps: Vec<_> = told
        .steps
        .iter()
        .map(|step| format!("{} {}", step.step, step.text))
        .collect();
    assert_eq!(
        steps,
        [
            "S401 GET /x/../securities/a",
            "S402 it is for www.example.com/securities/a",
            "S402 rule securities, /securities/*: for web3",
            "S403 this server is not dedicated to it",
        ]
    );
    let (verdict, told) = explain(&view(&[90, 10, 10]), "/banking/a");
    assert_eq!((&*verdict, told.server.as_deref()), ("relay", Some("web2")));
    assert_eq!(
        told.steps[3].text,
        "within a transaction; no ticket: it begins with this request"
    );
    assert_eq!(told.steps[5].text, "own load 90.0 %, overload level 50.0 %");
    let (verdict, told) = explain(&view(&[90, 10, 10]), "/a%00");
    assert_eq!((&*verdict, told.status), ("refuse", Some(400)));
    assert_eq!(explain(&view(&[90]), "/securities/").1.status, Some(503));
}

#[test]
fn who_gets_the_connection_answers_and_gives_the_ticket() {
    let rules = "[[http.rule]]\nname = \"banking\"\npath = \"/banking/*\"\nservers = [\"web2\"]\nroute = \"handoff\"\n\
                 stateful = { end = \"/banking/logout\" }\n";
    let router = router(rules);
    let away = view(&[10, 10, 10]);
    let mut browser = Browser::default();
    assert_eq!(
        browser.get(&router, &away, "/banking/").route,
        Route::Handoff(ServerId(2))
    );

    // Whatever that server would choose: it was chosen.
    let mut at_peer = view(&[90, 10, 10]);
    std::mem::swap(&mut at_peer.own, &mut at_peer.peers[0]);
    let mut browser = Browser {
        handed: true,
        ..Browser::default()
    };
    assert_eq!(
        browser.get(&router, &at_peer, "/banking/").route,
        Route::Here
    );
    assert_eq!(
        browser.cookies.len(),
        1,
        "the client hears from nobody else"
    );
}
