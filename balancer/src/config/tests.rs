use proptest::prelude::*;

use super::*;

mod refused;

const CHECKS: &str = include_str!("../../../examples/checks.toml");

const EXAMPLE: &str = include_str!("../../../balancer.toml.example");

/// Every key, none with its default.
const SAMPLE: &str = r#"
[server]
name = "web1"
interfaces = ["eth0"]
identities = ["10.0.0.101/24"]

[levels]
overload = "60%"
margin = "12.5%"
policy = "least-load"

[load]
cpu = "40%"
run_queue = "30%"
cpu_pressure = "20%"
memory_pressure = "10%"
io_pressure = "5%"
accept_queue = "90%"
probe = { command = ["/usr/local/bin/load", "--percent"], every = "3s", timeout = "1s", weight = "80%" }

[exchange]
group = "239.255.99.19:9919"
period = "250ms"
timeout_periods = 4
keys = ["/etc/balancer/new.key", "/etc/balancer/cluster.key"]
interface = "eth1"

[tables]
flows = 2048

[takeover]
require = "majority"

[[service]]
name = "www"
ports = ["80/tcp", "443/tcp"]
capacity = 2000
capacity_rate = 500
affinity = "client"
affinity_time = "1h"
agent = "10.0.0.101:9919"
check = { http = "http://127.0.0.1:80/healthz", every = "2s", timeout = "200ms", rise = 1, fall = 5 }

[[service]]
name = "media"
ports = ["30000-30100/tcp"]
overload = "70%"
margin = "5%"
policy = "round-robin"
check = { tcp = "127.0.0.1:30000" }

[[http]]
service = "www"
backend = "unix:/run/web.sock"
certificates = [{ certificate = "/etc/ssl/a.pem", key = "/etc/ssl/a.key" }]
tls_ports = [80, 443]
hosts = ["WWW.example.com", "*.example.com"]
names = ["Web1.example.com"]
serves = ["/banking/*", "*.jpg"]
forwarded_from = ["10.0.0.5/32"]
proxy_protocol = { from = ["10.0.0.6/32"], to_backend = true }
limits = { connections = 1, headers = 2, header_bytes = 3 }
timeouts = { header = "1s", idle = "2s", connect = "3s", answer = "4s", stall = "5s" }

[[http.rule]]
name = "banking"
host = "*.example.com"
path = "/banking/*"
methods = ["GET", "POST"]
servers = ["web1", "web2"]
route = "redirect"
stateful = { entry = "/banking/login", end = "/logout", time = "1h", cookie = false }
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "t.toml").map_err(|error| error.to_string())
}

fn levels(overload: &str, margin: &str, policy: Policy) -> Levels {
    Levels {
        overload: overload.parse().unwrap(),
        margin: margin.parse().unwrap(),
        policy,
    }
}

#[test]
fn examples_of_checks_are_right() {
    let config = parse(CHECKS).unwrap();
    let kinds: Vec<_> = config
        .services
        .iter()
        .map(|service| service.check.as_ref().unwrap().kind.to_string())
        .collect();
    let expected = [
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "tls 127.0.0.1:8443",
        "tcp 127.0.0.1:25",
        "tcp 127.0.0.1:21",
        "tcp 127.0.0.1:6379",
        "dns 127.0.0.1:53 for www.example.com. A",
        "/bin/sh",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn every_key_has_its_effect() {
    let expected = Config {
        server: Server {
            name: "web1".parse().unwrap(),
            interfaces: vec!["eth0".parse().unwrap()],
            identities: vec!["10.0.0.101/24".parse().unwrap()],
        },
        levels: levels("60%", "12.5%", Policy::LeastLoad),
        load: Load {
            cpu: "40%".parse().unwrap(),
            run_queue: "30%".parse().unwrap(),
            cpu_pressure: "20%".parse().unwrap(),
            memory_pressure: "10%".parse().unwrap(),
            io_pressure: "5%".parse().unwrap(),
            accept_queue: "90%".parse().unwrap(),
            probe: Some(LoadProbe {
                source: LoadSource::Command(CommandLine {
                    program: "/usr/local/bin/load".into(),
                    arguments: vec!["--percent".into()],
                }),
                every: Duration::from_secs(3),
                timeout: Duration::from_secs(1),
                weight: "80%".parse().unwrap(),
            }),
        },
        exchange: Exchange {
            conversation: Conversation::Group("239.255.99.19:9919".parse().unwrap()),
            period: Duration::from_millis(250),
            timeout_periods: 4,
            keys: vec![
                "/etc/balancer/new.key".into(),
                "/etc/balancer/cluster.key".into(),
            ],
            interface: Some("eth1".parse().unwrap()),
        },
        tables: Tables { flows: 2_048 },
        takeover: Require::Majority,
        services: vec![
            Service {
                name: "www".parse().unwrap(),
                ports: vec!["80/tcp".parse().unwrap(), "443/tcp".parse().unwrap()],
                capacity: 2000.try_into().unwrap(),
                capacity_rate: Some(500.try_into().unwrap()),
                affinity: Affinity::Client(Duration::from_hours(1)),
                levels: levels("60%", "12.5%", Policy::LeastLoad),
                agent: Some("10.0.0.101:9919".parse().unwrap()),
                check: Some(Check {
                    kind: CheckKind::Http {
                        url: "http://127.0.0.1:80/healthz".parse().unwrap(),
                        host: None,
                    },
                    every: Duration::from_secs(2),
                    timeout: Duration::from_millis(200),
                    rise: 1,
                    fall: 5,
                }),
            },
            Service {
                name: "media".parse().unwrap(),
                ports: vec!["30000-30100/tcp".parse().unwrap()],
                capacity: 1000.try_into().unwrap(),
                capacity_rate: None,
                affinity: Affinity::Flow,
                levels: levels("70%", "5%", Policy::RoundRobin),
                agent: None,
                check: Some(Check {
                    kind: CheckKind::Tcp {
                        address: "127.0.0.1:30000".parse().unwrap(),
                        dialog: Vec::new(),
                    },
                    every: Duration::from_secs(1),
                    timeout: Duration::from_millis(500),
                    rise: 2,
                    fall: 3,
                }),
            },
        ],
        http: vec![http()],
    };
    assert_eq!(parse(SAMPLE).unwrap(), expected);
    assert_eq!(expected.exchange.timeout(), Duration::from_secs(1));
}

/// The `[[http]]` of the sample.
fn http() -> Http {
    Http {
        service: "www".parse().unwrap(),
        backend: Backend::Unix("/run/web.sock".into()),
        certificates: vec![Certificate {
            certificate: "/etc/ssl/a.pem".into(),
            key: "/etc/ssl/a.key".into(),
        }],
        tls_ports: vec![80, 443],
        hosts: ["www.example.com", "*.example.com"]
            .map(|host| host.parse().unwrap())
            .into(),
        names: vec!["Web1.example.com".parse().unwrap()],
        serves: ["/banking/*", "*.jpg"]
            .map(|path| path.parse().unwrap())
            .into(),
        forwarded_from: vec!["10.0.0.5/32".parse().unwrap()],
        proxy_protocol: ProxyProtocol {
            from: vec!["10.0.0.6/32".parse().unwrap()],
            to_backend: true,
        },
        limits: Limits {
            connections: 1,
            headers: 2,
            header_bytes: 3,
        },
        timeouts: Timeouts {
            header: Duration::from_secs(1),
            idle: Duration::from_secs(2),
            connect: Duration::from_secs(3),
            answer: Duration::from_secs(4),
            stall: Duration::from_secs(5),
        },
        rules: vec![Rule {
            name: "banking".parse().unwrap(),
            host: Some("*.example.com".parse().unwrap()),
            path: "/banking/*".parse().unwrap(),
            methods: vec![hyper::Method::GET, hyper::Method::POST],
            servers: vec!["web1".parse().unwrap(), "web2".parse().unwrap()],
            route: RuleRoute::Redirect,
            stateful: Some(Stateful {
                entry: "/banking/login".parse().unwrap(),
                end: Some("/logout".parse().unwrap()),
                time: Duration::from_hours(1),
                cookie: false,
            }),
        }],
    }
}

#[test]
fn http_has_defaults() {
    let parse_http = |rest: &str| {
        let text = format!("[[http]]\nservice = \"www\"\nbackend = \"127.0.0.1:8080\"\n{rest}");
        parse(&text).map(|config| config.http[0].clone())
    };
    let plain = parse_http("tls_ports = []").unwrap();
    assert_eq!(
        plain.backend,
        Backend::Tcp("127.0.0.1:8080".parse().unwrap())
    );
    assert_eq!(
        (plain.limits, plain.timeouts),
        (Limits::default(), Timeouts::default())
    );
    assert!(plain.tls_ports.is_empty() && plain.rules.is_empty());
    let certificates = r#"certificates = [{ certificate = "/c", key = "/k" }]"#;
    assert_eq!(parse_http(certificates).unwrap().tls_ports, [443]);
    let rule = "tls_ports = []\n[[http.rule]]\nname = \"a\"\npath = \"/a/*\"\nstateful = {}";
    let rule = &parse_http(rule).unwrap().rules[0];
    let stateful = rule.stateful.as_ref().unwrap();
    assert_eq!(rule.route, RuleRoute::Relay);
    assert_eq!(stateful.entry.as_str(), "/a/");
    assert_eq!((&stateful.end, stateful.cookie), (&None, true));
    assert_eq!(stateful.time, Duration::from_mins(30));
    // What the example shows for limits and times.
    let shown = parse(&uncommented(EXAMPLE, |key| {
        !["peers", "affinity_time"].contains(&key)
    }));
    let shown = &shown.unwrap().http[0];
    assert_eq!(
        (shown.limits, shown.timeouts),
        (Limits::default(), Timeouts::default())
    );
    assert_eq!(
        shown.rules[0].stateful,
        Some(Stateful {
            end: Some("/banking/logout".parse().unwrap()),
            ..parse_http(
                r#"tls_ports = []
            [[http.rule]]
            name = "banking"
            path = "/banking/*"
            stateful = {}"#
            )
            .unwrap()
            .rules[0]
                .stateful
                .clone()
                .unwrap()
        })
    );
}

#[test]
fn defaults_may_be_written_out() {
    let config = parse(
        r#"
        [server]
        name = "web1"                     # the host name, if unset
        interfaces = ["eth0"]
        identities = ["10.0.0.101/24"]

        [levels]
        overload = "50%"
        margin = "20%"
        policy = "two-choices"

        [exchange]
        group = "239.255.99.18:9918"
        period = "500ms"
        timeout_periods = 3
        keys = ["/etc/balancer/cluster.key"]

        [[service]]
        name = "www"
        ports = ["80/tcp", "443/tcp"]
        capacity = 1000
        affinity = "flow"
        check = { http = "http://127.0.0.1:80/healthz", every = "1s", timeout = "500ms", rise = 2, fall = 3 }
        "#,
    )
    .unwrap();
    let default = Config::default();
    assert_eq!(
        (config.levels, config.exchange),
        (default.levels, default.exchange)
    );
    assert_eq!(config.server.name.as_str(), "web1");
    let mut service = config.services[0].clone();
    assert!(service.check.take().is_some());
    assert_eq!(service, default.services[0]);
}

#[test]
fn empty_file_is_the_default() {
    let config = parse("").unwrap();
    assert_eq!(config, Config::default());
    let [service] = &config.services[..] else {
        panic!("one service")
    };
    assert_eq!(service.name.as_str(), "www");
    assert_eq!(
        service.ports,
        ["80/tcp", "443/tcp"].map(|ports| ports.parse().unwrap())
    );
    assert_eq!(service.capacity.get(), 1000);
    assert_eq!(service.levels, levels("50%", "20%", Policy::TwoChoices));
}

#[test]
fn peers_in_place_of_a_group() {
    let config = parse("[exchange]\npeers = [\"10.0.1.2:9918\", \"[2001:db8::3]:9918\"]").unwrap();
    let peers = ["10.0.1.2:9918", "[2001:db8::3]:9918"].map(|peer| peer.parse().unwrap());
    assert_eq!(
        config.exchange.conversation,
        Conversation::Peers(peers.into())
    );
}

#[test]
fn example_shows_the_defaults() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
    let (balancing, _) = EXAMPLE.split_once("#[[http]]").unwrap();
    let shown = uncommented(balancing, |key| {
        ![
            "name",
            "interfaces",
            "identities",
            "peers",
            "interface",
            "affinity_time",
            "agent",
            "capacity_rate",
            "probe",
            "check",
        ]
        .contains(&key)
    });
    assert_eq!(parse(&shown).unwrap(), Config::default());
    let checked = parse(&uncommented(EXAMPLE, |key| key == "check")).unwrap();
    let Some(check) = &checked.services[0].check else {
        panic!("a check")
    };
    let bare = parse(
        "[[service]]\nname = \"a\"\nports = [\"1/tcp\"]\ncheck = { http = \"http://127.0.0.1:80/healthz\" }",
    );
    assert_eq!(Some(check), bare.unwrap().services[0].check.as_ref());
}

#[test]
fn example_has_every_key() {
    parse(&uncommented(EXAMPLE, |key| {
        !["peers", "affinity_time"].contains(&key)
    }))
    .unwrap();
    parse(&uncommented(EXAMPLE, |key| {
        !["group", "affinity"].contains(&key)
    }))
    .unwrap_err();
    parse(&uncommented(EXAMPLE, |key| {
        !["group", "affinity_time"].contains(&key)
    }))
    .unwrap();
    let text = uncommented(EXAMPLE, |key| !["peers", "affinity_time"].contains(&key));
    for section in [
        "server",
        "levels",
        "load",
        "exchange",
        "tables",
        "[service]",
        "[http]",
        "[http.rule]",
    ] {
        let unknown = text.replace(
            &format!("[{section}]\n"),
            &format!("[{section}]\nxyzzyxyzzy = 1\n"),
        );
        let error = parse(&unknown).unwrap_err();
        let (_, keys) = error.split_once("here may be ").expect(&error);
        for key in keys.split(", ") {
            let shown = |line: &str| {
                line.trim_start_matches('#')
                    .starts_with(&format!("{key} = "))
                    || line.ends_with(&format!(".{key}]]"))
            };
            assert!(EXAMPLE.lines().any(shown), "{key}");
        }
    }
}

/// The example with those keys that `wanted` picks.
fn uncommented(example: &str, wanted: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for line in example.lines() {
        let setting = line.strip_prefix('#').filter(|setting| {
            !setting.starts_with(' ') && setting.split(" =").next().is_some_and(&wanted)
        });
        text += setting.unwrap_or(line);
        text += "\n";
    }
    text
}

#[test]
fn flags_win_over_the_file() {
    let flags = CliOverrides {
        name: Some("other".parse().unwrap()),
        interfaces: vec!["eth9".parse().unwrap()],
        services: vec![
            "8080/tcp,8443/tcp".parse().unwrap(),
            "22/tcp,name=ssh,capacity=20,policy=two-choices,overload=80%,margin=15%"
                .parse()
                .unwrap(),
        ],
        identities: vec!["10.0.0.9/32".parse().unwrap()],
        keys: vec!["my.key".into()],
    };
    let sample = parse(SAMPLE).unwrap();
    assert_eq!(
        sample
            .clone()
            .override_with(flags.clone())
            .unwrap_err()
            .to_string(),
        "--service: the [[http]] of the file goes with its services: there is no service \"www\": here may be 8080/tcp,8443/tcp, ssh"
    );
    let file = Config {
        http: Vec::new(),
        ..sample
    };
    let config = file.clone().override_with(flags.clone()).unwrap();
    assert_eq!(config.server.name.as_str(), "other");
    assert_eq!(config.server.interfaces, flags.interfaces);
    assert_eq!(config.server.identities, flags.identities);
    assert_eq!(config.exchange.keys, flags.keys);
    let [web, ssh] = &config.services[..] else {
        panic!("two services")
    };
    assert_eq!(
        (web.name.as_str(), web.capacity.get()),
        ("8080/tcp,8443/tcp", 1000)
    );
    assert_eq!(web.levels, file.levels);
    assert_eq!((ssh.name.as_str(), ssh.capacity.get()), ("ssh", 20));
    assert_eq!(ssh.levels, levels("80%", "15%", Policy::TwoChoices));

    assert_eq!(
        file.clone().override_with(CliOverrides::default()).unwrap(),
        file
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = parse(&text);
    }

    /// Text that gets past the TOML reader: a known key with an odd value.
    #[test]
    fn any_value_is_read_or_refused(key in keys(), value in "\\PC*", bare in "[-0-9.\\[\\]{}\"a-z=, ]*") {
        let (section, key) = key;
        let quoted = toml::Value::String(value).to_string();
        for value in [&quoted, &format!("[{quoted}]"), &format!("{{ http = {quoted} }}"), &bare] {
            let _ = parse(&format!("{section}\n{key} = {value}\n"));
        }
    }

    #[test]
    fn any_service_spec_is_read_or_refused(text in "[0-9a-z/,=%-]*") {
        let _ = text.parse::<ServiceSpec>();
    }
}

/// Every key that the example shows, with its section.
fn keys() -> impl Strategy<Value = (&'static str, &'static str)> {
    let mut section = "";
    let mut keys = Vec::new();
    for line in EXAMPLE.lines() {
        match line.trim_start_matches('#').split_once(" = ") {
            Some((key, _)) if !line.starts_with("# ") => keys.push((section, key)),
            _ if line.starts_with(['[', '#']) && line.contains("[[") => {
                section = line.trim_start_matches('#');
            }
            _ if line.starts_with('[') => section = line,
            _ => {}
        }
    }
    prop::sample::select(keys)
}
