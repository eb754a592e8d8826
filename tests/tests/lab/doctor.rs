//! `balancer doctor` finds what is wrong with a host, and what it says to type cures it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use balancer_tests::{Ended, Lab, Server, WITHOUT_CPU};
use serde_json::Value;

use crate::host::similar;

#[test]
fn a_sound_server_has_nothing_bad() {
    let Some(mut lab) = Lab::new(2) else { return };
    let before = lab.server(1).dump();
    let text = doctor(lab.server(1), &["eth0"]);
    assert_eq!(text.code, Some(0), "{}{}", text.output, text.error);
    assert!(text.output.contains("generic mode"), "{}", text.output);
    similar(&lab.server(1).dump(), &before);

    lab.start(WITHOUT_CPU, "native");
    // Without a name it is the interface that balancer is attached to.
    let findings = Findings::of(lab.server(1), &[]);
    assert_eq!(findings.code, Some(0), "{:#}", findings.all);
    assert_eq!(
        findings.found("eth0", "XDP"),
        "balancer, in native mode",
        "{:#}",
        findings.all
    );
    assert_eq!(findings.state("eth0", "veth"), "ok");
    assert_eq!(findings.found("cluster", "peers"), "1 of 1 on-line");
}

#[test]
fn the_other_end_of_a_veth() {
    let Some(lab) = Lab::new(1) else { return };
    let server = lab.server(1);
    let native = || Findings::of(server, &["eth0", "--mode", "native"]);
    assert_eq!(native().state("eth0", "veth"), "ok");
    lab.switch.shell("ethtool -K web1 gro off");
    let findings = native();
    assert_eq!(findings.state("eth0", "veth"), "bad");
    assert_eq!(findings.code, Some(1));
    let cure = findings.cure("eth0", "veth");
    let cure = cure.strip_prefix("at the other end: ").unwrap();
    lab.switch.shell(&cure.replace("PEER", "web1"));
    assert_eq!(native().state("eth0", "veth"), "ok");

    // Both ends in sight: the checksums are known, too.
    server.host.shell(
        "ip link add here type veth peer name there; ip link set here up; ip link set there up",
    );
    for check in ["veth", "checksums"] {
        cured(server, &["here", "--mode", "native"], "here", check, "bad");
    }
}

#[test]
fn an_interface_that_is_down() {
    let Some(lab) = Lab::new(1) else { return };
    let server = lab.server(1);
    lab.switch.shell("ip link set web1 down");
    let findings = Findings::of(server, &["eth0"]);
    assert!(
        findings.found("eth0", "state").contains("carrier"),
        "{:#}",
        findings.all
    );
    lab.switch.shell("ip link set web1 up");
    server.host.shell("ip link set eth0 down");
    cured(server, &["eth0"], "eth0", "state", "bad");

    let none = Findings::of(server, &["eth7"]);
    assert!(
        none.found("eth7", "interface")
            .contains("there are: eth0, lo")
    );
    assert_eq!(none.code, Some(1));
}

#[test]
fn jumbo_frames() {
    let Some(mut lab) = Lab::new(1) else { return };
    lab.switch.shell("ip link set web1 mtu 9000");
    lab.server(1).host.shell("ip link set eth0 mtu 9000");
    let findings = Findings::of(lab.server(1), &["eth0", "--mode", "native"]);
    assert_eq!(findings.state("eth0", "MTU"), "ok");
    lab.server_mut(1).attach(&["--mode", "native"]);
}

#[test]
fn a_bridge() {
    let Some(lab) = Lab::new(1) else { return };
    let server = lab.server(1);
    server.host.shell(
        "ip link add br0 type bridge mcast_snooping 1 stp_state 1
         ip link add port0 type veth peer name guest
         ip link set port0 master br0
         for link in br0 port0 guest; do ip link set $link up; done",
    );
    for check in ["snooping", "spanning tree"] {
        cured(server, &["br0"], "br0", check, "warn");
    }
    server
        .host
        .shell("ip link set br0 type bridge mcast_snooping 0");
    let findings = Findings::of(server, &["br0", "port0"]);
    assert_eq!(findings.state("br0", "snooping"), "ok");
    assert_eq!(findings.state("port0", "port"), "bad");
    assert_eq!(findings.cure("port0", "port"), "balancer attach br0");
}

#[test]
fn a_bond() {
    let Some(lab) = Lab::new(1) else { return };
    let server = lab.server(1);
    if !succeeds(server, "ip", "link add bond0 type bond mode 802.3ad") {
        eprintln!("skipped: this kernel has no bonding");
        return;
    }
    server.host.shell("ip link set bond0 up");
    let arguments = ["bond0", "--mode", "native"];
    let findings = Findings::of(server, &arguments);
    assert_eq!(findings.state("bond0", "bond"), "warn");
    assert_eq!(
        findings.cure("bond0", "bond"),
        "balancer attach bond0 --mode generic"
    );
}

#[test]
fn offloads_and_sysctls() {
    let Some(lab) = Lab::new(1) else { return };
    let server = lab.server(1);
    server.host.shell(
        "ethtool -K eth0 gro on
         sysctl -qw net.ipv4.conf.eth0.arp_ignore=8 net.ipv4.conf.eth0.rp_filter=1",
    );
    cured(server, &["eth0"], "eth0", "GRO", "warn");
    cured(server, &["eth0"], "eth0", "ARP", "bad");
    server
        .host
        .shell("sysctl -qw net.ipv4.conf.eth0.proxy_arp=1");
    cured(server, &["eth0"], "eth0", "ARP", "warn");
    cured(server, &["eth0", "lo"], "eth0", "rp_filter", "warn");

    let vlan = "link add link eth0 name eth0.7 type vlan id 7";
    if !succeeds(server, "ip", vlan) {
        eprintln!("skipped: this kernel has no VLAN interfaces");
        return;
    }
    cured(server, &["eth0"], "eth0", "VLAN tags", "warn");
}

#[test]
fn a_link_that_comes_after_attach() {
    let Some(mut lab) = Lab::new(1) else { return };
    let add = "ip link add other type veth peer name end; ip link set other up";
    let server = lab.server_mut(1);
    server.host.shell(add);
    let found = |server: &Server| Findings::of(server, &["eth0"]).found("host", "other links");
    let before = found(server);
    assert!(before.starts_with("other: `attach` keeps"), "{before}");
    server.attach(&[]);
    let attached = found(server);
    assert!(attached.starts_with("ARP tells nothing"), "{attached}");
    server
        .host
        .shell(&add.replace("other", "later").replace("end", "far"));
    cured(server, &["eth0"], "host", "other links", "warn");
}

#[test]
fn a_firewall_between_servers() {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = lab.config(WITHOUT_CPU);
    for number in [1, 2] {
        lab.server(number).host.shell(
            "nft 'add table inet guard; add chain inet guard in { type filter hook input priority 0; policy drop; }
                  add rule inet guard in tcp dport 80 accept; add rule inet guard in iifname lo accept'",
        );
        lab.server_mut(number).attach(&["--config", &config]);
    }
    for number in [1, 2] {
        let server = lab.server(number);
        let findings = Findings::of(server, &[]);
        assert_eq!(findings.state("cluster", "peers"), "warn");
        cured(server, &[], "cluster", "firewall, in", "bad");
    }
    lab.wait_for_peers();
}

#[test]
fn keys_and_other_daemons() {
    let Some(mut lab) = Lab::new(1) else { return };
    let key = lab.dir().join("open.key");
    fs::copy(lab.dir().join("cluster.key"), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let key = key.to_str().unwrap();
    let open = ["eth0", "--key", key];
    cured(lab.server(1), &open, "cluster", "key", "bad");

    let config = lab.config(WITHOUT_CPU);
    lab.server_mut(1).attach(&["--config", &config]);
    let elsewhere = lab.dir().join("another.sock");
    let elsewhere = ["eth0", "--control", elsewhere.to_str().unwrap()];
    let findings = Findings::of(lab.server(1), &elsewhere);
    assert_eq!(findings.state("cluster", "port"), "bad");
    // To an instance with pins of its own, the program is somebody else's.
    let pins = lab.dir().join("pins");
    let others = ["eth0", "--pin-dir", pins.to_str().unwrap()];
    let findings = Findings::of(lab.server(1), &others);
    assert_eq!(findings.state("eth0", "XDP"), "bad");
}

/// Types what is said against something in `state`, and sees that it is gone.
fn cured(server: &Server, arguments: &[&str], subject: &str, check: &str, state: &str) {
    let findings = Findings::of(server, arguments);
    assert_eq!(
        findings.state(subject, check),
        state,
        "{subject} {check}: {:#}",
        findings.all
    );
    server.host.shell(&findings.cure(subject, check));
    let findings = Findings::of(server, arguments);
    assert_eq!(
        findings.state(subject, check),
        "ok",
        "{subject} {check}: {:#}",
        findings.all
    );
}

/// Whether a command does, of which this kernel may lack what it takes.
fn succeeds(server: &Server, program: &str, arguments: &str) -> bool {
    let mut command = server.host.command(program);
    let output = command.args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

fn doctor(server: &Server, arguments: &[&str]) -> Ended {
    let key = server.dir().with_file_name("cluster.key");
    let mut all = vec!["doctor"];
    if !arguments.contains(&"--key") {
        all.extend(["--key", key.to_str().unwrap()]);
    }
    all.extend(arguments);
    server.ask(&all)
}

/// What the doctor found.
struct Findings {
    code: Option<i32>,
    all: Value,
}

impl Findings {
    fn of(server: &Server, arguments: &[&str]) -> Self {
        let ended = doctor(server, &[arguments, &["--json"]].concat());
        let all = serde_json::from_str(&ended.output)
            .unwrap_or_else(|error| panic!("{error}: {}{}", ended.output, ended.error));
        Self {
            code: ended.code,
            all,
        }
    }

    fn text(&self, subject: &str, check: &str, key: &str) -> String {
        let findings = self.all.as_array().unwrap();
        let finding = findings
            .iter()
            .find(|finding| finding["subject"] == subject && finding["check"] == check)
            .unwrap_or_else(|| panic!("nothing about {check} of {subject}: {:#}", self.all));
        finding[key].as_str().unwrap_or_default().to_owned()
    }

    fn state(&self, subject: &str, check: &str) -> String {
        self.text(subject, check, "state")
    }

    fn found(&self, subject: &str, check: &str) -> String {
        self.text(subject, check, "found")
    }

    fn cure(&self, subject: &str, check: &str) -> String {
        self.text(subject, check, "cure")
    }
}
