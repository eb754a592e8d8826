//! The patent's embodiments, with real web servers and a client that keeps cookies: /banking and /securities.

use std::fs;
use std::time::Duration;

use balancer_tests::{Curl, Lab, Server, until};

const PATIENCE: Duration = Duration::from_secs(10);

/// The web server behind the module is the lab's nginx, which names itself in each answer.
const RULES: &str = r#"
[[service]]
name = "www"
ports = ["8000/tcp"]
check = { http = "http://127.0.0.1:80/", every = "100ms", rise = 1, fall = 1 }

[[http]]
service = "www"
backend = "127.0.0.1:80"
names = ["NAME.example.com"]

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

/// A lab with three servers whose loads are what [`set_load`] says.
fn start() -> Option<Lab> {
    let mut lab = Lab::new(3)?;
    for number in 1..=3 {
        let name = format!("web{number}");
        set_load(&lab, number, 0);
        let load = format!(
            "[load]\ncpu = \"0%\"\nmemory_pressure = \"0%\"\naccept_queue = \"0%\"\n\
             probe = {{ command = [\"/bin/cat\", \"{}\"], every = \"100ms\" }}\n",
            load_file(&lab, number)
        );
        let config = lab.dir().join(format!("{name}.toml"));
        fs::write(&config, load + &RULES.replace("NAME", &name)).unwrap();
        lab.server_mut(number)
            .attach(&["--config", config.to_str().unwrap()]);
    }
    lab.wait_for_peers();
    Some(lab)
}

fn load_file(lab: &Lab, number: usize) -> String {
    lab.dir()
        .join(format!("load{number}"))
        .display()
        .to_string()
}

fn set_load(lab: &Lab, number: usize, percent: u32) {
    let file = load_file(lab, number);
    let new = format!("{file}.new");
    fs::write(&new, format!("{percent}\n")).unwrap();
    fs::rename(new, file).unwrap();
}

/// Waits until the server called web`number` routes such a request to the one called `to`.
fn wait_for(lab: &Lab, number: usize, path: &str, to: &str) {
    let what = format!("web{number} routes {path} to {to}");
    until(&what, PATIENCE, || get(lab, number, path, &[]).server == to);
}

fn explain(server: &Server, path: &str) -> serde_json::Value {
    let url = format!("http://www.example.com:8000{path}");
    server.json(&["explain", "http", "GET", &url])
}

/// Asks the server called web`number`, as `www.example.com`.
fn get(lab: &Lab, number: usize, path: &str, more: &[&str]) -> Curl {
    let address = lab.server(number).address();
    let mut arguments = vec!["--path-as-is".to_owned()];
    for host in ["www", "web1", "web2"] {
        arguments.extend([
            "--resolve".into(),
            format!("{host}.example.com:8000:{address}"),
        ]);
    }
    let third = lab.server(3).address();
    arguments.extend(["--resolve".into(), format!("web3.example.com:8000:{third}")]);
    let mut arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    arguments.extend(more);
    let url = format!("http://www.example.com:8000{path}");
    lab.client.curl(&url, &arguments)
}

#[test]
fn content_and_load_say_who_answers() {
    let Some(lab) = start() else { return };
    for (number, path, server) in [
        (1, "/banking/", "web1"),
        (2, "/banking/", "web2"),
        (1, "/securities/", "web3"),
        (2, "/securities/quote", "web3"),
        (3, "/securities/quote", "web3"),
        (1, "/x/..//%73ecurities/", "web3"),
        (1, "/", "web1"),
        (3, "/", "web3"),
    ] {
        let answer = get(&lab, number, path, &[]);
        assert_eq!(answer.server, server, "{path} of web{number}");
    }
    let answer = get(&lab, 3, "/banking/", &[]).server;
    assert!(["web1", "web2"].contains(&answer.as_str()), "{answer}");
    assert_eq!(get(&lab, 1, "/securities%2fquote", &[]).status, 400);
    // The client is sent there, and stays there.
    assert_eq!(get(&lab, 1, "/moved/", &[]).status, 307);
    assert_eq!(get(&lab, 1, "/moved/", &["-L"]).server, "web3");

    // Content and load: the other dedicated one, as long as that is lower.
    set_load(&lab, 1, 80);
    wait_for(&lab, 1, "/banking/", "web2");
    let told = explain(lab.server(1), "/banking/");
    assert_eq!(
        (&told["verdict"], &told["server"]),
        (&"relay".into(), &"web2".into()),
        "{told}"
    );
    // Load alone.
    let answer = get(&lab, 1, "/", &[]).server;
    assert!(["web2", "web3"].contains(&answer.as_str()), "{answer}");
    set_load(&lab, 2, 75);
    wait_for(&lab, 1, "/banking/", "web1");
    // Its connections are not steered: requests are.
    assert_eq!(lab.server(1).steered(), 0);
    let status = lab.server(1).status();
    assert_eq!(status["services"][0]["routed"], true);
}

#[test]
fn a_transaction_stays_where_it_began() {
    let Some(mut lab) = start() else { return };
    let jar = lab.dir().join("jar");
    let jar = jar.to_str().unwrap().to_owned();
    let browser = ["-b", jar.as_str(), "-c", jar.as_str()];
    let tickets = || {
        let text = fs::read_to_string(&jar).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains("balancer-banking"))
            .count()
    };

    let home = get(&lab, 3, "/banking/", &browser).server;
    assert!(["web1", "web2"].contains(&home.as_str()), "{home}");
    assert_eq!(tickets(), 1);
    let (number, other) = if home == "web1" {
        (1, "web2")
    } else {
        (2, "web1")
    };
    // Whatever server it reaches, and whatever that one's load is.
    set_load(&lab, number, 90);
    wait_for(&lab, number, "/banking/transfer", other);
    for round in 0..9 {
        let answer = get(&lab, 1 + round % 3, "/banking/transfer", &browser);
        assert_eq!(answer.server, home, "round {round}");
    }
    // Somebody else isn't held.
    assert_eq!(get(&lab, number, "/banking/transfer", &[]).server, other);

    // Its end: then it is routed again.
    assert_eq!(get(&lab, 3, "/banking/logout", &browser).server, home);
    assert_eq!(tickets(), 0);
    assert_eq!(get(&lab, number, "/banking/", &browser).server, other);
    assert_eq!(
        get(&lab, number, "/banking/transfer", &browser).server,
        other
    );

    // Its server is down: another one goes on with it.
    set_load(&lab, number, 0);
    let second = 3 - number;
    lab.server_mut(second).end_nginx();
    for server in 1..=3 {
        wait_for(&lab, server, "/banking/transfer", &home);
    }
    for round in 0..6 {
        let answer = get(&lab, 1 + round % 3, "/banking/transfer", &browser);
        assert_eq!(answer.server, home, "round {round}");
    }
    // A forged ticket is none.
    let forged = "balancer-banking=AAAABBBBCCCC";
    assert_eq!(
        get(&lab, 3, "/banking/transfer", &["-b", forged]).server,
        home
    );
    let requests = lab.server(3).status()["services"][0]["requests"].clone();
    assert_eq!(requests["ticket_forged"], 1, "{requests}");
    assert!(
        requests["transaction_kept"].as_u64() > Some(2),
        "{requests}"
    );
}
