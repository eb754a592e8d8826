//! The patent's embodiments, each by its name, with real web servers and a client that keeps cookies: /banking and /securities.
//! The fourth, behind a proxy, is in `agent.rs`.

use balancer_tests::until;

use super::cluster::{Cluster, PATIENCE};

const RULES: &str = r#"
hosts = ["*.example.com"]

[[http.rule]]
name = "banking"
path = "/banking/*"
servers = ["web1", "web2"]
stateful = { end = "/banking/logout" }

[[http.rule]]
name = "securities"
path = "/securities/*"
servers = ["web3"]

[[http.rule]]
name = "moved"
path = "/moved/*"
servers = ["web3"]
route = "redirect"
"#;

fn start() -> Option<Cluster> {
    Cluster::start(|_| RULES.to_owned())
}

#[test]
fn second_and_third_embodiment_content_and_load_say_who_answers() {
    let Some(cluster) = start() else { return };
    content(&cluster);
    tricks(&cluster);
    content_and_load(&cluster);
}

/// The second embodiment: content alone.
fn content(cluster: &Cluster) {
    for (number, path, server) in [
        (1, "/banking/", "web1"),
        (2, "/banking/", "web2"),
        (1, "/securities/", "web3"),
        (2, "/securities/quote", "web3"),
        (3, "/securities/quote", "web3"),
        (1, "/", "web1"),
        (3, "/", "web3"),
    ] {
        let answer = cluster.get(number, path, &[]);
        assert_eq!(answer.server, server, "{path} of web{number}");
    }
    let answer = cluster.get(3, "/banking/", &[]).server;
    assert!(["web1", "web2"].contains(&answer.as_str()), "{answer}");
    // The client is sent there, and stays there.
    assert_eq!(cluster.get(1, "/moved/", &[]).status, 307);
    assert_eq!(cluster.get(1, "/moved/", &["-L"]).server, "web3");
}

/// No spelling of a path dodges a rule: each is the rule's, another path's, or refused.
fn tricks(cluster: &Cluster) {
    for path in [
        "/x/..//%73ecurities/",
        "/banking/../securities/",
        "/banking/%2e%2e/securities/quote",
        "/banking/.%2E/./securities/",
        "//securities//quote",
        "/./securities/a/..",
        "/../../securities/",
        "/securities",
        "/securities?x=/banking/",
        "http://www.example.com:8000/securities/",
    ] {
        let target = ["--request-target", path];
        let answer = cluster.get(1, "/", &target);
        assert_eq!(answer.server, "web3", "{path}");
    }
    for path in [
        "/securities%2fquote",
        "/banking%5c..%5csecurities/",
        "/banking/..;/securities/",
        "/securities/%00",
        "/%securities/",
    ] {
        let answer = cluster.get(1, "/", &["--request-target", path]);
        assert_eq!((answer.status, answer.server.as_str()), (400, ""), "{path}");
    }
    for host in [
        "example.com",
        "www.example.org",
        "10.77.0.101",
        "www.example.com.org",
    ] {
        let answer = cluster.get(1, "/securities/", &["-H", &format!("Host: {host}")]);
        assert_eq!((answer.status, answer.server.as_str()), (421, ""), "{host}");
    }
    for path in ["/SECURITIES/", "/securities/../x", "/xsecurities/"] {
        let answer = cluster.get(1, "/", &["--request-target", path]);
        assert_eq!(answer.server, "web1", "{path}");
    }
}

/// The third embodiment, content and load: the other dedicated one, as long as that is lower. And load alone.
fn content_and_load(cluster: &Cluster) {
    cluster.set_load(1, 80);
    cluster.wait_for(1, "/banking/", "web2");
    let told = cluster.explain(1, "/banking/");
    assert_eq!(
        (&told["verdict"], &told["server"]),
        (&"relay".into(), &"web2".into()),
        "{told}"
    );
    let answer = cluster.get(1, "/", &[]).server;
    assert!(["web2", "web3"].contains(&answer.as_str()), "{answer}");
    cluster.set_load(2, 75);
    cluster.wait_for(1, "/banking/", "web1");
}

#[test]
fn method_and_host_say_who_answers_and_explain_says_why() {
    const RULES: &str = r#"
[[http.rule]]
name = "writes"
path = "/data/*"
methods = ["POST", "PUT"]
servers = ["web2"]
route = "handoff"

[[http.rule]]
name = "data"
path = "/data/*"
servers = ["web3"]

[[http.rule]]
name = "shops"
host = "*.shop.test"
path = "/*"
servers = ["web2"]

[[http.rule]]
name = "one"
host = "one.shop.test"
path = "/*"
servers = ["web3"]

[[http.rule]]
name = "mine"
path = "/mine/*"
stateful = { cookie = false }
"#;
    let Some(cluster) = Cluster::start(|_| RULES.to_owned()) else {
        return;
    };
    let ask = |host: &str, method: &str, path: &str| {
        let host = format!("Host: {host}");
        cluster.get(1, path, &["-X", method, "-H", &host]).server
    };
    for (host, method, path, server) in [
        ("any.test", "POST", "/data/x", "web2"),
        ("any.test", "PUT", "/data/", "web2"),
        ("any.test", "GET", "/data/x", "web3"),
        ("any.test", "DELETE", "/data/x", "web3"),
        ("any.test", "GET", "/other", "web1"),
        ("a.shop.test", "GET", "/", "web2"),
        ("b.a.SHOP.test.", "GET", "/", "web2"),
        ("one.shop.test:8000", "GET", "/", "web3"),
        ("shop.test", "GET", "/", "web1"),
        ("a.shop.test", "GET", "/data/x", "web2"),
        ("xshop.test", "GET", "/", "web1"),
    ] {
        assert_eq!(ask(host, method, path), server, "{method} {host}{path}");
    }

    let server = cluster.lab.server(1);
    let told = server.json(&["explain", "http", "POST", "http://any.test:8000/data/x"]);
    assert_eq!(
        (&told["rule"], &told["verdict"], &told["server"]),
        (&"writes".into(), &"handoff".into(), &"web2".into()),
        "{told}"
    );
    let text = server.ask(&["explain", "http", "POST", "http://any.test:8000/data/x"]);
    for part in ["rule writes, /data/*: for web2", "S405", "web2", "hand"] {
        assert!(text.output.contains(part), "{part}: {}", text.output);
    }
    // By the client's address: what is told is what happens.
    for client in [11, 12, 13, 14] {
        let address = format!("10.77.0.{client}");
        let net = format!("{address}/24");
        cluster
            .lab
            .client
            .run("ip", &["address", "add", &net, "dev", "eth0"]);
        let url = "http://any.test:8000/mine/x";
        let told = server.json(&["explain", "http", "GET", url, "--client", &address]);
        let answer = cluster.get(1, "/mine/x", &["--interface", &address]);
        assert_eq!(told["server"], answer.server, "{told}");
    }
}

#[test]
fn fifth_embodiment_a_transaction_stays_where_it_began() {
    let Some(mut cluster) = start() else { return };
    let browser = cluster.browser("a");
    let url = |path: &str| format!("http://www.example.com:8000{path}");
    let transfer = url("/banking/transfer");

    let home = browser.ask(3, &url("/banking/")).server;
    assert!(["web1", "web2"].contains(&home.as_str()), "{home}");
    assert_eq!(browser.tickets(), 1);
    let (number, other) = if home == "web1" {
        (1, "web2")
    } else {
        (2, "web1")
    };
    // Whatever server it reaches, and whatever that one's load is.
    cluster.set_load(number, 90);
    cluster.wait_for(number, "/banking/transfer", other);
    for round in 0..9 {
        let answer = browser.ask(1 + round % 3, &transfer);
        assert_eq!(answer.server, home, "round {round}");
    }
    // Somebody else isn't held.
    let answer = cluster.get(number, "/banking/transfer", &[]);
    assert_eq!(answer.server, other);

    // Its end: then it is routed again.
    assert_eq!(browser.ask(3, &url("/banking/logout")).server, home);
    assert_eq!(browser.tickets(), 0);
    assert_eq!(browser.ask(number, &url("/banking/")).server, other);
    assert_eq!(browser.ask(number, &transfer).server, other);

    // Its server is down: another one goes on with it.
    cluster.set_load(number, 0);
    cluster.lab.server_mut(3 - number).end_nginx();
    let browser = cluster.browser("a");
    for server in 1..=3 {
        cluster.wait_for(server, "/banking/transfer", &home);
    }
    for round in 0..6 {
        let answer = browser.ask(1 + round % 3, &transfer);
        assert_eq!(answer.server, home, "round {round}");
    }
    // Those that had begun there would be lost.
    cluster.lab.server_mut(3 - number).start_nginx();
    cluster.set_load(number, 90);
    cluster.wait_for(number, "/banking/", other);
    let begun = cluster.browser("b").ask(number, &url("/banking/"));
    assert_eq!(begun.server, other);
    cluster.lab.server_mut(3 - number).end_nginx();
    cluster.set_load(number, 0);
    until("web3 knows that it is down", PATIENCE, || {
        let told = cluster.explain(3, "/banking/transfer");
        let servers = told["servers"].as_array().unwrap();
        servers
            .iter()
            .any(|server| server["name"] == other && server["ready"] == false)
    });
    let browser = cluster.browser("b");
    // What was counted before isn't this client's.
    let before = cluster.counted(3, "transaction_lost");
    for round in 0..2 {
        assert_eq!(browser.ask(3, &transfer).server, home);
        let lost = cluster.counted(3, "transaction_lost") - before;
        assert_eq!(lost, 1, "round {round}: it goes on there");
    }
    // A forged ticket is none.
    let forged = ["-b", "balancer-banking=AAAABBBBCCCC"];
    assert_eq!(cluster.get(3, "/banking/transfer", &forged).server, home);
    assert_eq!(cluster.counted(3, "ticket_forged"), 1);
    assert!(cluster.counted(3, "transaction_kept") > 2);
}
