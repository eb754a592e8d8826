//! Clients that keep their server.

use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use balancer_tests::{BY_CONNECTIONS, Daemon, Host, Lab, Server, until};

use crate::steering::{ipv4, ipv6};

/// So many sessions overload a server with a capacity of 20, and a few clients more don't do that to its peers.
const SESSIONS: usize = 14;
const CLIENTS: u8 = 10;

const FTP: &str = "[[service]]\nname = \"ftp\"\nports = [\"21/tcp\", \"30000-30010/tcp\"]\ncapacity = 20\n\
                   affinity = \"client\"\n";

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn data_connections_follow_their_sessions_in_native_mode() {
    data_connections_follow_their_sessions("native", ipv4);
}

#[test]
fn data_connections_over_ipv6_follow_their_sessions_in_generic_mode() {
    data_connections_follow_their_sessions("generic", ipv6);
}

/// A data connection that comes to another server than its session's meets a port where nobody listens.
fn data_connections_follow_their_sessions(mode: &str, address: fn(&Server) -> IpAddr) {
    let Some(mut lab) = Lab::new(3) else { return };
    let own = |server: &Server| address(server);
    let address = own(lab.server(1));
    let _daemons: Vec<_> = lab
        .servers()
        .iter()
        .map(|server| server.start_daemon(Daemon::Ftp))
        .collect();
    for server in lab.servers() {
        until("the FTP server listens", PATIENCE, || {
            fetch(&lab.client, own(server), None, "name") == server.host.label()
        });
    }
    lab.start(&format!("{BY_CONNECTIONS}{FTP}"), mode);

    // The client's first session is kept, so all of its are.
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|_| {
            lab.client
                .enter(|| TcpStream::connect((address, 21)))
                .unwrap()
        })
        .collect();
    until("they are open", PATIENCE, || {
        lab.server(1).connections() == SESSIONS as u64
    });
    let mut served = Vec::new();
    for number in 0..CLIENTS {
        let client = another_address(&lab.client, address, 10 + number);
        let name = fetch(&lab.client, address, Some(client), "name");
        for _ in 0..3 {
            assert_eq!(fetch(&lab.client, address, Some(client), "name"), name);
            let list = fetch(&lab.client, address, Some(client), "");
            assert!(list.trim_end().ends_with(" name"), "{list}");
        }
        served.push(name);
    }
    let by = |name: &str| served.iter().filter(|server| *server == name).count();
    assert_eq!(by("web2") + by("web3"), served.len(), "{served:?}");
    assert!(by("web2") > 0 && by("web3") > 0, "{served:?}");
    let first = sessions[0].local_addr().unwrap().ip();
    assert_eq!(fetch(&lab.client, address, Some(first), "name"), "web1");
    drop(sessions);
}

/// Gives the client one more address of the family of `like`.
fn another_address(client: &Host, like: IpAddr, number: u8) -> IpAddr {
    let (address, length): (IpAddr, u8) = match like {
        IpAddr::V4(_) => ([10, 77, 0, number].into(), 24),
        IpAddr::V6(_) => (format!("2001:db8:77::{number}").parse().unwrap(), 64),
    };
    client.shell(&format!("ip address add {address}/{length} dev eth0 nodad"));
    address
}

/// What curl gets of this path: a passive data connection.
///
/// # Panics
///
/// Never: what went wrong is what it returns.
fn fetch(client: &Host, server: IpAddr, from: Option<IpAddr>, path: &str) -> String {
    let mut command = client.command("curl");
    command.args(["-sS", "--max-time", "10"]);
    if let Some(from) = from {
        command.arg("--interface").arg(from.to_string());
    }
    let url = match server {
        IpAddr::V4(address) => format!("ftp://{address}/{path}"),
        IpAddr::V6(address) => format!("ftp://[{address}]/{path}"),
    };
    let output = command.arg(url).output().expect("curl is installed");
    let text = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    String::from_utf8_lossy(&text).into_owned()
}
