//! Requests whose server takes no connection, or hasn't been heard yet; and whose client a proxy names.

use std::collections::BTreeSet;
use std::time::Duration;

use balancer_tests::{Lab, Process, Signal, until};

use super::{CONFIG, curl, url, web};

/// Two servers with these rules.
fn start(lab: &mut Lab, more: &str) -> [Process; 2] {
    let webs = [web(lab.server(1)), web(lab.server(2))];
    let config = format!("{CONFIG}backend = \"127.0.0.1:9000\"\n{more}");
    lab.start(&config, "generic");
    webs
}

/// Which server says that it answers.
fn server(told: &str) -> String {
    let line = told.lines().find(|line| line.starts_with("server="));
    line.unwrap_or(told).trim_end().to_owned()
}

#[test]
fn a_peer_answers_while_the_web_server_is_gone() {
    let Some(mut lab) = Lab::new(2) else { return };
    let [one, two] = start(
        &mut lab,
        "\n[[http.rule]]\nname = \"two\"\npath = \"/two/*\"\nservers = [\"web2\"]\n\n\
         [[http.rule]]\nname = \"all\"\npath = \"/*\"\n",
    );
    let ask = |path: &str| server(&curl(&lab, &["--data-binary", "abc", &url(&lab, path)]));
    assert_eq!(ask("/"), "server=web1");
    drop(one);
    for _ in 0..3 {
        assert_eq!(ask("/"), "server=web2");
    }
    let status = lab.server(1).status().to_string();
    assert!(status.contains("\"chosen_again\":3"), "{status}");
    drop(two);
    assert_eq!(ask("/two/x"), "503 the web server can't be reached");
}

#[test]
fn a_transaction_waits_for_a_server_that_was_not_heard_yet() {
    let Some(mut lab) = Lab::new(2) else { return };
    let rule = "\n[[http.rule]]\nname = \"bank\"\npath = \"/bank/*\"\nstateful = {}\n";
    let _webs = start(&mut lab, rule);
    let jar = lab.dir().join("jar");
    let jar = jar.to_str().unwrap();
    let ask = |lab: &Lab, number: usize| {
        let to = format!("::{}:8000", lab.server(number).address());
        let url = "http://bank.test:8000/bank/account";
        server(&curl(
            lab,
            &["-b", jar, "-c", jar, "--connect-to", &to, url],
        ))
    };
    assert_eq!(ask(&lab, 2), "server=web2");
    assert_eq!(ask(&lab, 1), "server=web2");

    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    let deaf = "nft add table inet deaf
        nft add chain inet deaf input '{ type filter hook input priority 0; }'
        nft add rule inet deaf input udp dport 9918 drop";
    lab.server(1).host.shell(deaf);
    let config = lab.config(&format!("{CONFIG}backend = \"127.0.0.1:9000\"\n{rule}"));
    lab.server_mut(1).attach(&["--config", &config]);
    let answer = std::thread::scope(|scope| {
        let answer = scope.spawn(|| ask(&lab, 1));
        std::thread::sleep(Duration::from_millis(200));
        lab.server(1).host.shell("nft delete table inet deaf");
        answer.join().unwrap()
    });
    assert_eq!(answer, "server=web2");
}

#[test]
fn a_believed_proxy_says_whose_transaction_it_is() {
    let Some(mut lab) = Lab::new(2) else { return };
    let _webs = start(
        &mut lab,
        "forwarded_from = [\"10.77.0.1/32\"]\n\n\
         [[http.rule]]\nname = \"bank\"\npath = \"/bank/*\"\nstateful = { cookie = false }\n",
    );
    let ask = |client: u8| {
        let client = format!("X-Forwarded-For: 9.9.9.9, 192.0.2.{client}");
        server(&curl(&lab, &["-H", &client, &url(&lab, "/bank/")]))
    };
    until("both servers are known", Duration::from_secs(5), || {
        let servers: BTreeSet<_> = (0..20).map(ask).collect();
        servers.len() == 2
    });
}
