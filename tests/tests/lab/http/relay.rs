//! Two servers: requests that one relays to the other.

use balancer_tests::Lab;

use super::{CONFIG, certify, curl, url, web};

#[test]
fn a_peer_answers_in_this_servers_place() {
    let Some(mut lab) = Lab::new(2) else { return };
    certify(&lab, "www", "www.example.com");
    let _webs = [web(lab.server(1)), web(lab.server(2))];
    let dir = lab.dir();
    let config = format!(
        "{CONFIG}backend = \"127.0.0.1:9000\"\ntls_ports = [8443]\n\
         certificates = [{{ certificate = \"{0}/www.pem\", key = \"{0}/www.key\" }}]\n\n\
         [[http.rule]]\nname = \"two\"\npath = \"/two/*\"\nservers = [\"web2\"]\nroute = \"relay\"\n",
        dir.display()
    );
    lab.start(&config, "generic");
    let ask = |arguments: &[&str]| curl(&lab, arguments);
    assert!(ask(&[&url(&lab, "/one")]).contains("server=web1\n"));

    let told = ask(&["-H", "X-Forwarded-For: 1.2.3.4", &url(&lab, "/two/x?y")]);
    for part in [
        "server=web2\n",
        "uri=/two/x?y\n",
        "for=10.77.0.1\n",
        "proto=http\n",
        "relayed=\n",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let tls = format!("https://{}:8443/two/", lab.server(1).address());
    for version in ["--http1.1", "--http2"] {
        let told = ask(&["-k", version, &tls]);
        for part in ["server=web2\n", "for=10.77.0.1\n", "proto=https\n"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    let told = ask(&["--data-binary", "abc", &url(&lab, "/two/")]);
    assert!(
        told.contains("server=web2\nmethod=POST\n") && told.contains("length=3\n"),
        "{told}"
    );
    // What a client says under the header's name is nothing.
    let told = ask(&["-H", "Balancer-Relayed: AAAA", &url(&lab, "/two/")]);
    assert!(
        told.contains("server=web2\n") && told.contains("relayed=\n"),
        "{told}"
    );
}
