//! What is refused, with the exact words.

use std::fmt::Write;

use super::*;

/// A service that is right; what follows it begins on line 4.
const WWW: &str = "[[service]]\nname = \"www\"\nports = [\"80/tcp\"]\n";

/// That a file with each of these texts after `start` is refused with the message beside it.
fn refused(start: &str, table: &[(&str, &str)]) {
    for (text, message) in table {
        let text = format!("{start}{text}");
        let error = parse(&text).expect_err(&text);
        assert_eq!(error.strip_prefix("t.toml:"), Some(*message), "{text}");
    }
}

#[test]
fn the_language() {
    refused(
        "",
        &[
            (
                "name =",
                "1:7: string values must be quoted, expected literal string",
            ),
            ("[server\nname = \"a\"", "1:8: unclosed table, expected `]`"),
            ("[server]\nname = \"a\"\nname = \"b\"", "3:1: duplicate key"),
            ("a = [[[[", "1:9: unclosed array, expected `]`"),
        ],
    );
}

#[test]
fn unknown_keys() {
    refused(
        "",
        &[
            (
                "[levels]\noverlod = \"50%\"",
                "2:1: unknown key `overlod`: did you mean `overload`?",
            ),
            (
                "[sever]",
                "1:2: unknown key `sever`: did you mean `server`?",
            ),
            (
                "[levels]\ncolour = 1",
                "2:1: unknown key `colour`: here may be overload, margin, policy",
            ),
            (
                "[service]\nname = \"a\"",
                "1:1: there may be several services: write [[service]], with two brackets",
            ),
        ],
    );
    refused(
        WWW,
        &[(
            r#"check = { tpc = "127.0.0.1:80" }"#,
            "4:11: unknown key `tpc`: did you mean `tcp`?",
        )],
    );
}

#[test]
fn http() {
    const HTTP: &str = "[[http]]\nservice = \"www\"\nbackend = \"127.0.0.1:8080\"\n";
    refused(
        WWW,
        &[
            (
                "[http]",
                "4:1: there may be several of these: write [[http]], with two brackets",
            ),
            (
                "[[http]]\nbackend = \"127.0.0.1:8080\"",
                "4:1: this [[http]] has no service: name one, as in service = \"www\"",
            ),
            (
                "[[http]]\nservice = \"www\"",
                "4:1: this [[http]] has no backend: say where the local web server is, as in backend = \"127.0.0.1:8080\"",
            ),
            (
                "[[http]]\nservice = \"web\"\nbackend = \"127.0.0.1:8080\"",
                "5:11: there is no service \"web\": here may be www",
            ),
            (
                "[[http]]\nservice = \"www\"\nbackend = \"127.0.0.1:80\"",
                "6:11: port 80 is the service's own, where balancer listens on all addresses: let the web server listen on another one",
            ),
            (
                "[[http]]\nservice = \"www\"\nbackend = \"web.sock\"",
                r#"6:11: "web.sock" is not a local web server: write ADDRESS:PORT or unix:PATH, as in "127.0.0.1:8080" or "unix:/run/web.sock""#,
            ),
            (
                "[[http]]\nservice = \"dns\"\nbackend = \"127.0.0.1:8080\"\n[[service]]\nname = \"dns\"\nports = [\"53/udp\"]",
                "5:11: service \"dns\" has no tcp ports, and one with an [[http]] has 1 to 16",
            ),
            (
                "[[http]]\nservice = \"m\"\nbackend = \"127.0.0.1:8080\"\n[[service]]\nname = \"m\"\nports = [\"1000-1016/tcp\"]",
                "5:11: service \"m\" has too many tcp ports, and one with an [[http]] has 1 to 16",
            ),
        ],
    );
    let start = format!("{WWW}{HTTP}");
    refused(
        &start,
        &[
            (
                HTTP,
                "7:1: service \"www\" has an [[http]] already: put its rules there",
            ),
            (
                "tls_ports = [80]",
                "7:13: clients speak TLS on port 80, and there is no certificate: add one, as in certificates = [{ certificate = \"/etc/ssl/www.pem\", key = \"/etc/ssl/www.key\" }], or write tls_ports = []",
            ),
            (
                "tls_ports = [443]",
                "7:14: port 443 is no tcp port of the service",
            ),
            (
                "certificates = [{ certificate = \"/a\", key = \"/b\" }]",
                "4:1: there are certificates, and no port where clients speak TLS: add one, as in tls_ports = [8443], or leave the certificates out",
            ),
            (
                "certificates = [{ certificate = \"a.pem\", key = \"/b\" }]",
                "7:33: \"a.pem\" is not a file: write its whole path, as in \"/etc/ssl/www.pem\"",
            ),
            (
                "hosts = [\"www.example.com:80\"]",
                r#"7:10: "www.example.com:80" is not a host: write a name, or all names below one, or an address, as in "www.example.com", "*.example.com" or "192.0.2.7""#,
            ),
            (
                "hosts = [\"www.example.com\"]\nnames = [\"web1.example.com\"]",
                "8:10: \"web1.example.com\" is not among hosts, so requests for it would be refused: add it there",
            ),
            (
                "serves = [\"banking/*\"]",
                r#"7:11: "banking/*" is not a path: write it from its first slash on, normalised, with * for any text, as in "/banking/*" or "*.jpg""#,
            ),
            (
                "forwarded_from = [\"10.0.0.5/8\"]",
                r#"7:19: "10.0.0.5/8" is not a network: write its address and prefix length, as in "10.0.0.5/32""#,
            ),
            (
                "limits = { headers = 0 }",
                "7:22: \"0\" is not a limit: write a whole number from 1 to 1000000",
            ),
            (
                "[[http.rule]]\npath = \"/\"",
                "7:1: this rule has no name: add one, as in name = \"banking\"",
            ),
            (
                "[[http.rule]]\nname = \"a b\"",
                r#"8:8: "a b" is not the name of a rule: write 1 to 32 letters, digits, - and _, as in "banking""#,
            ),
            (
                "[[http.rule]]\nname = \"a\"",
                "7:1: this rule has no path: add one, as in path = \"/banking/*\"",
            ),
            (
                "[[http.rule]]\nname = \"a\"\npath = \"/\"\n[[http.rule]]\nname = \"a\"\npath = \"/b\"",
                "11:8: there already is a rule \"a\": give this one another name",
            ),
            (
                "[[http.rule]]\nname = \"a\"\npath = \"/\"\nservers = []",
                r#"10:11: this list is empty: write at least one, as in ["web1"], or leave the line out"#,
            ),
            (
                "[[http.rule]]\nname = \"a\"\npath = \"/\"\nroute = \"proxy\"",
                r#"10:9: "proxy" is not a way to another server: write "relay", "redirect" or "handoff""#,
            ),
            (
                "[[http.rule]]\nname = \"a\"\npath = \"/\"\nroute = \"redirect\"",
                r#"10:9: a redirect needs a name that leads to one server alone: give each server one in its [[http]], as in names = ["web1.example.com"]"#,
            ),
            (
                "[[http.rule]]\nname = \"a\"\npath = \"/\"\nmethods = [\"get\"]",
                r#"10:12: "get" is not a method: write it in capitals, as in "GET""#,
            ),
            (
                "[[http.rule]]\nname = \"a\"\npath = \"*.php\"\nstateful = {}",
                r#"9:8: requests of a stateful rule have an entry: begin the path with it, as in "/banking/*", or name it, as in stateful = { entry = "/login" }"#,
            ),
        ],
    );
}

#[test]
fn wrong_types() {
    refused(
        "",
        &[
            (
                "[levels]\noverload = 50",
                r#"2:12: invalid type: integer `50`, expected an overload level: write 0% to 1000%, with at most two decimals, as in "50%" or "62.5%""#,
            ),
            (
                "[levels]\noverload = 0.5",
                r#"2:12: invalid type: floating point `0.5`, expected an overload level: write 0% to 1000%, with at most two decimals, as in "50%" or "62.5%""#,
            ),
            (
                "server = 1",
                "1:10: invalid type: integer `1`, expected a table: write [server] on a line of its own",
            ),
            (
                "service = [1]",
                "1:12: invalid type: integer `1`, expected a table: write [[service]] on a line of its own",
            ),
            (
                "[[service]]\nname = \"www\"\nports = \"80/tcp\"",
                r#"3:9: invalid type: string "80/tcp", expected a list: write it in brackets"#,
            ),
        ],
    );
    refused(
        WWW,
        &[
            (
                r#"agent = "9919""#,
                r#"4:9: "9919" is not an address to listen at: write ADDRESS:PORT, as in "10.0.0.101:9919" or "[::]:9919""#,
            ),
            (
                r#"capacity = "20""#,
                r#"4:12: invalid type: string "20", expected a capacity: write a whole number from 1 to 100000000, the open connections that mean 100 %"#,
            ),
            (
                "capacity_rate = 0",
                "4:17: \"0\" is not a capacity in new connections: write a whole number from 1 to 100000000, the new connections a second that mean 100 %",
            ),
            (
                r#"check = "tcp""#,
                r#"4:9: invalid type: string "tcp", expected a table: write it in braces, as in { tcp = "127.0.0.1:80" }"#,
            ),
        ],
    );
}

#[test]
fn server() {
    refused(
        "[server]\n",
        &[
            (
                r#"name = """#,
                r#"2:8: "" is not a name: write 1 to 64 bytes, printable, with no space at either end"#,
            ),
            (
                "interfaces = [\"eth0\",\n  \"averylonginterface\"]",
                r#"3:3: "averylonginterface" is not an interface name: write 1 to 15 bytes without spaces, slashes and colons, as in "eth0""#,
            ),
            (
                r#"interfaces = ["eth0", "eth0"]"#,
                "2:23: this is given twice: leave one out",
            ),
            (
                r#"identities = ["10.0.0.1"]"#,
                r#"2:15: "10.0.0.1" is not an identity: write the unicast address of a host with its prefix length, as in "10.0.0.101/24""#,
            ),
            (
                r#"identities = ["127.0.0.1/8"]"#,
                r#"2:15: "127.0.0.1/8" is not an identity: write the unicast address of a host with its prefix length, as in "10.0.0.101/24""#,
            ),
            (
                r#"identities = ["224.0.0.9/24"]"#,
                r#"2:15: "224.0.0.9/24" is not an identity: write the unicast address of a host with its prefix length, as in "10.0.0.101/24""#,
            ),
            (
                r#"identities = ["10.0.0.0/24"]"#,
                r#"2:15: "10.0.0.0/24" is not an identity: write the unicast address of a host with its prefix length, as in "10.0.0.101/24""#,
            ),
            (
                r#"identities = ["10.0.0.1/24", "10.0.0.1/16"]"#,
                "2:30: this is given twice: leave one out",
            ),
        ],
    );
}

#[test]
fn levels() {
    refused(
        "[levels]\n",
        &[
            (
                r#"overload = "1001%""#,
                r#"2:12: "1001%" is not an overload level: write 0% to 1000%, with at most two decimals, as in "50%" or "62.5%""#,
            ),
            (
                r#"margin = "101%""#,
                r#"2:10: "101%" is not a margin: write 0% to 100%, with at most two decimals, as in "20%" or "12.5%""#,
            ),
            (
                r#"policy = "leastload""#,
                r#"2:10: "leastload" is not a policy: write least-load, two-choices, below-level or round-robin"#,
            ),
        ],
    );
}

#[test]
fn load() {
    let weight = "what this part of the load counts: write 0% to 100%, as in \"100%\"";
    let odd = |text: &str| format!("2:8: \"{text}\" is not {weight}");
    refused(
        "[load]\n",
        &[
            (r#"cpu  = "101%""#, &odd("101%")),
            (r#"cpu  = "-1%""#, &odd("-1%")),
            (
                r#"runqueue = "10%""#,
                "2:1: unknown key `runqueue`: did you mean `run_queue`?",
            ),
            (
                "probe = {}",
                r#"2:9: a probe is of exactly one kind: write one of command, http and https, as in command = ["/usr/local/bin/load"] or http = "http://127.0.0.1:80/load""#,
            ),
            (
                r#"probe = "/usr/local/bin/load""#,
                r#"2:9: invalid type: string "/usr/local/bin/load", expected a table: write it in braces, as in { command = ["/usr/local/bin/load"] }"#,
            ),
            (
                r#"probe = { command = ["load"] }"#,
                r#"2:22: "load" is not a program: write its whole path, as in ["/usr/local/bin/check", "www"]. No shell reads it; if it takes one, write ["/bin/sh", "-c", "..."]"#,
            ),
            (
                r#"probe = { command = ["/bin/load"], host = "www.example.com" }"#,
                "2:43: host goes with http and https: leave it out here",
            ),
        ],
    );
}

#[test]
fn exchange() {
    refused(
        "[exchange]\n",
        &[
            (
                r#"group = "10.0.0.1:9918""#,
                r#"2:9: "10.0.0.1:9918" is not a multicast group: write an address of 224.0.0.0/4 or ff00::/8 and a port, as in "239.255.99.18:9918" or "[ff02::9918]:9918""#,
            ),
            (
                "group = \"239.255.99.18:9918\"\npeers = [\"10.0.0.2:9918\"]",
                "3:9: peers are reached through a group or one by one: write either group or peers",
            ),
            (
                "peers = []",
                r#"2:9: this list is empty: write at least one, as in ["10.0.1.2:9918"], or leave the line out"#,
            ),
            (
                r#"peers = ["239.0.0.1:9918"]"#,
                r#"2:10: "239.0.0.1:9918" is not a peer: write its unicast address and port, as in "10.0.1.2:9918" or "[2001:db8::2]:9918""#,
            ),
            (
                r#"peers = ["10.0.0.1:9918", "10.0.0.2:9919"]"#,
                "2:27: all peers use one port: write port 9918, as with the first peer",
            ),
            (
                r#"peers = ["10.0.0.1:9918", "10.0.0.1:9918"]"#,
                "2:27: this is given twice: leave one out",
            ),
            (
                r#"period = "5ms""#,
                r#"2:10: "5ms" is not a time from 10ms to 60s: write a whole number and ms, s or m, as in "500ms""#,
            ),
            (
                r#"period = "2m""#,
                r#"2:10: "2m" is not a time from 10ms to 60s: write a whole number and ms, s or m, as in "500ms""#,
            ),
            (
                r#"period = "fast""#,
                r#"2:10: "fast" is not a time from 10ms to 60s: write a whole number and ms, s or m, as in "500ms""#,
            ),
            (
                "timeout_periods = 1",
                r#"2:19: "1" is not a time-out in periods: write a whole number from 2 to 100"#,
            ),
            (
                r#"keys = ["cluster.key"]"#,
                r#"2:9: "cluster.key" is not a key file: write its whole path, as in "/etc/balancer/cluster.key""#,
            ),
            (
                "keys = []",
                r#"2:8: this list is empty: write at least one, as in ["/etc/balancer/cluster.key"], or leave the line out"#,
            ),
            (
                r#"interface = "a b""#,
                r#"2:13: "a b" is not an interface name: write 1 to 15 bytes without spaces, slashes and colons, as in "eth0""#,
            ),
        ],
    );
}

#[test]
fn services() {
    refused(
        "",
        &[
            (
                "[[service]]\nports = [\"80/tcp\"]",
                r#"1:1: this service has no name: add one, as in name = "www""#,
            ),
            (
                "[[service]]\nname = \"www\"",
                r#"1:1: this service has no ports: add some, as in ports = ["80/tcp"]"#,
            ),
            (
                "[[service]]\nname = \"www\"\nports = []",
                r#"3:9: this list is empty: write at least one, as in ["80/tcp"], or leave the line out"#,
            ),
            (
                "[[service]]\nname = \"www\"\nports = [\"80\"]",
                r#"3:10: "80" is not ports of a service: write PORT/tcp or FIRST-LAST/tcp with 1 to 65535, as in "80/tcp" or "30000-30100/tcp""#,
            ),
            (
                "[[service]]\nname = \"dns\"\nports = [\"53/tcp\", \"6000-6100/udp\"]",
                r#"3:20: "6000-6100/udp": 6080/udp is for balancer's own tunnels between servers: leave it out"#,
            ),
            (
                "[[service]]\nname = \"www\"\nports = [\"80/tcp\", \"1-99/tcp\"]",
                r#"3:20: "1-99/tcp" overlaps "80/tcp" of the same service: leave one out"#,
            ),
        ],
    );
    refused(
        WWW,
        &[
            (
                "[[service]]\nname = \"web\"\nports = [\"443/tcp\",\n \"80-90/tcp\"]",
                r#"7:2: "80-90/tcp" overlaps "80/tcp" of service "www": a port is for one service"#,
            ),
            (
                "[[service]]\nname = \"www\"\nports = [\"443/tcp\"]",
                r#"5:8: there already is a service "www": give this one another name"#,
            ),
            (
                "capacity = 0",
                r#"4:12: "0" is not a capacity: write a whole number from 1 to 100000000, the open connections that mean 100 %"#,
            ),
            (
                "capacity = -1",
                r#"4:12: "-1" is not a capacity: write a whole number from 1 to 100000000, the open connections that mean 100 %"#,
            ),
            (
                r#"affinity = "host""#,
                r#"4:12: "host" is not an affinity: write "flow" or "client""#,
            ),
            (
                r#"affinity_time = "10m""#,
                r#"4:17: affinity_time goes with affinity = "client": write that, or leave this out"#,
            ),
            (
                r#"margin = "x""#,
                r#"4:10: "x" is not a margin: write 0% to 100%, with at most two decimals, as in "20%" or "12.5%""#,
            ),
        ],
    );
}

#[test]
fn checks() {
    refused(
        WWW,
        &[
            (
                "check = {}",
                r#"4:9: a check is of exactly one kind: write one of tcp, tls, http, https, dns and command, as in tcp = "127.0.0.1:80" or http = "http://127.0.0.1:80/""#,
            ),
            (
                r#"check = { tcp = "127.0.0.1:80", http = "http://127.0.0.1/" }"#,
                r#"4:9: a check is of exactly one kind: write one of tcp, tls, http, https, dns and command, as in tcp = "127.0.0.1:80" or http = "http://127.0.0.1:80/""#,
            ),
            (
                r#"check = { tcp = "localhost" }"#,
                r#"4:17: "localhost" is not an address to check: write ADDRESS:PORT, as in "127.0.0.1:80" or "[::1]:80""#,
            ),
            (
                r#"check = { http = "https://127.0.0.1/" }"#,
                r#"4:18: "https://127.0.0.1/" is not a URL to ask: write http://HOST:PORT/PATH, as in "http://127.0.0.1:80/healthz""#,
            ),
            (
                r#"check = { http = "http://127.0.0.1:99999/" }"#,
                r#"4:18: "http://127.0.0.1:99999/" is not a URL to ask: write http://HOST:PORT/PATH, as in "http://127.0.0.1:80/healthz""#,
            ),
            (
                r#"check = { http = "http://me:secret@127.0.0.1/" }"#,
                r#"4:18: "http://me:secret@127.0.0.1/" is not a URL to ask: write http://HOST:PORT/PATH, as in "http://127.0.0.1:80/healthz""#,
            ),
            (
                r#"check = { http = "/healthz" }"#,
                r#"4:18: "/healthz" is not a URL to ask: write http://HOST:PORT/PATH, as in "http://127.0.0.1:80/healthz""#,
            ),
            (
                r#"check = { tcp = "127.0.0.1:80", rise = 0 }"#,
                r#"4:40: "0" is not a count of checks: write a whole number from 1 to 100"#,
            ),
            (
                r#"check = { tcp = "127.0.0.1:80", every = "1h" }"#,
                r#"4:41: "1h" is not a time from 10ms to 60s: write a whole number and ms, s or m, as in "500ms""#,
            ),
        ],
    );
}

#[test]
fn what_a_check_says() {
    refused(
        WWW,
        &[
            (
                r#"check = { https = "http://127.0.0.1/" }"#,
                r#"4:19: "http://127.0.0.1/" is not a URL to ask: write https://HOST:PORT/PATH, as in "https://127.0.0.1:443/healthz""#,
            ),
            (
                r#"check = { tls = "127.0.0.1:443", host = "www example" }"#,
                r#"4:41: "www example" is not a host name: write the one that clients use, as in "www.example.com""#,
            ),
            (
                r#"check = { tcp = "127.0.0.1:25", host = "www.example.com" }"#,
                "4:40: host goes with http, https and tls: leave it out here",
            ),
            (
                r#"check = { http = "http://127.0.0.1/", dialog = [{ expect = "x" }] }"#,
                "4:48: dialog goes with tcp and tls: leave it out here",
            ),
            (
                r#"check = { tcp = "127.0.0.1:53", query = "example.com" }"#,
                "4:41: query goes with dns: leave it out here",
            ),
            (
                r#"check = { tcp = "127.0.0.1:25", dialog = [] }"#,
                "4:42: a dialog has 1 to 32 steps, this one has 0",
            ),
            (
                r#"check = { tcp = "127.0.0.1:25", dialog = [{ expect = "x", send = "y" }] }"#,
                r#"4:43: a step either sends or expects: write { send = "QUIT\r\n" } or { expect = '^220 ' }"#,
            ),
            (
                r#"check = { tcp = "127.0.0.1:25", dialog = ["QUIT"] }"#,
                r#"4:43: invalid type: string "QUIT", expected a step: write it in braces, as in { send = "QUIT\r\n" } or { expect = '^220 ' }"#,
            ),
            (
                r#"check = { tcp = "127.0.0.1:25", dialog = [{ expect = "(" }] }"#,
                r#"4:54: "(" is not a regular expression for what the server says: as in '^220 ', or '^\+PONG'"#,
            ),
            (
                r#"check = { dns = "127.0.0.1:53" }"#,
                r#"4:9: a dns check asks for a name: add one, as in query = "www.example.com""#,
            ),
            (
                r#"check = { dns = "127.0.0.1:53", query = "example..com" }"#,
                r#"4:41: "example..com" is not a query: write a name, and the type of the record if it isn't A (NS, CNAME, SOA, MX, TXT, AAAA or SRV), as in "www.example.com" or "example.com SOA""#,
            ),
            (
                r#"check = { dns = "127.0.0.1:53", query = "example.com ANY" }"#,
                r#"4:41: "example.com ANY" is not a query: write a name, and the type of the record if it isn't A (NS, CNAME, SOA, MX, TXT, AAAA or SRV), as in "www.example.com" or "example.com SOA""#,
            ),
            (
                "check = { command = [] }",
                r#"4:21: this command is empty: write a program and what it is told, as in ["/usr/local/bin/check", "www"]"#,
            ),
            (
                r#"check = { command = "/bin/true" }"#,
                r#"4:21: invalid type: string "/bin/true", expected a list: write it in brackets"#,
            ),
            (
                r#"check = { command = ["true"] }"#,
                r#"4:22: "true" is not a program: write its whole path, as in ["/usr/local/bin/check", "www"]. No shell reads it; if it takes one, write ["/bin/sh", "-c", "..."]"#,
            ),
            (
                r#"check = { command = ["/bin/echo", "a\u0000b"] }"#,
                r#"4:35: "a\0b" is not an argument of a command: write it without a zero byte"#,
            ),
        ],
    );
}

#[test]
fn what_is_too_much() {
    let long = "x".repeat(65);
    let message = format!(
        "2:8: \"{long}\" is not a name: write 1 to 64 bytes, printable, with no space at either end"
    );
    refused("[server]\n", &[(&format!("name = \"{long}\""), &message)]);

    let mut services = String::new();
    for n in 1..=17 {
        write!(
            services,
            "[[service]]\nname = \"s{n}\"\nports = [\"{n}/tcp\"]\n"
        )
        .unwrap();
    }
    refused(
        "",
        &[(
            &services,
            "50:8: a server can offer 16 services: leave out those from here on",
        )],
    );
}

#[test]
fn columns_count_characters() {
    assert_eq!(
        parse("[server]\nname = \"\u{e4}\u{e4}\" x")
            .unwrap_err()
            .split(": ")
            .next(),
        Some("t.toml:2:13")
    );
}

#[test]
fn unreadable_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/balancer.toml")).unwrap_err();
    let message = "/nonexistent/balancer.toml: cannot read the configuration: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), message);
}

#[test]
fn bad_flags_are_refused() {
    for (spec, message) in [
        (
            "",
            r#""" is not ports of a service: write PORT/tcp or FIRST-LAST/tcp with 1 to 65535, as in "80/tcp" or "30000-30100/tcp""#,
        ),
        (
            "name=www",
            r#""name=www" is not a service: write its ports first, as in "80/tcp,443/tcp,name=www""#,
        ),
        (
            "80",
            r#""80" is not ports of a service: write PORT/tcp or FIRST-LAST/tcp with 1 to 65535, as in "80/tcp" or "30000-30100/tcp""#,
        ),
        (
            "80/tcp,",
            r#""" is not ports of a service: write PORT/tcp or FIRST-LAST/tcp with 1 to 65535, as in "80/tcp" or "30000-30100/tcp""#,
        ),
        (
            "80/tcp,polcy=least-load",
            r#""polcy=least-load" is not an option of a service: write name=, capacity=, policy=, overload= or margin="#,
        ),
        (
            "80/tcp,capacity=0",
            r#""0" is not a capacity: write a whole number from 1 to 100000000, the open connections that mean 100 %"#,
        ),
        (
            "80/tcp,capacity=1,capacity=2",
            r#""capacity=2" is not the first of its kind: give each option once"#,
        ),
        (
            "80/tcp,overload=50",
            r#""50" is not an overload level: write 0% to 1000%, with at most two decimals, as in "50%" or "62.5%""#,
        ),
        (
            "80/tcp,name=",
            r#""" is not a name: write 1 to 64 bytes, printable, with no space at either end"#,
        ),
    ] {
        assert_eq!(
            spec.parse::<ServiceSpec>().unwrap_err().to_string(),
            message,
            "{spec}"
        );
    }
    let many = ["1-65535/tcp"; 6].join(",");
    assert_eq!(
        many.parse::<ServiceSpec>().unwrap_err().to_string(),
        format!(
            r#""{many}" is not a service with a short name: its ports are more than 64 bytes, add a name, as in "name=www""#
        )
    );
    let error = |flags| {
        Config::default()
            .override_with(flags)
            .unwrap_err()
            .to_string()
    };
    let services = |specs: &[&str]| CliOverrides {
        services: specs.iter().map(|spec| spec.parse().unwrap()).collect(),
        ..CliOverrides::default()
    };
    assert_eq!(
        error(services(&["80/tcp", "80/tcp"])),
        r#"--service: there already is a service "80/tcp": give this one another name"#
    );
    assert_eq!(
        error(services(&["6080/udp"])),
        r#"--service: "6080/udp": 6080/udp is for balancer's own tunnels between servers: leave it out"#
    );
    let twice = CliOverrides {
        identities: vec!["10.0.0.1/24".parse().unwrap(); 2],
        ..CliOverrides::default()
    };
    assert_eq!(
        error(twice),
        r#"--identity: "10.0.0.1/24": this is given twice: leave one out"#
    );
    let twice = CliOverrides {
        interfaces: vec!["eth0".parse().unwrap(); 2],
        ..CliOverrides::default()
    };
    assert_eq!(
        error(twice),
        r#"IFACE: "eth0": this is given twice: leave one out"#
    );
}
