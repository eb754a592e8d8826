//! The changes on the host, made on real kernels: servers in network namespaces, on one bridge.
//!
//! They need root. Without it they are skipped, unless `BALANCER_REQUIRE_ROOT` is set.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use balancer::control;
use balancer::datapath::host::{Change, Host, arp, ndp};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns};

const PORT: u16 = 8000;
const DEAD: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 200);

#[test]
fn all_is_as_before() {
    let Some(lab) = Lab::new(&["a"]) else { return };
    let server = &lab.hosts[0];
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("a.undo");
    let before = server.settle();
    let interfaces = ["eth0".to_owned()];

    server.block_on(async {
        let mut host = Host::open(&journal).await.unwrap();
        host.accept_steered(&interfaces).await.unwrap();
        host.set_foreign(&set(&["10.99.0.2", "10.99.0.3", "fd99::2", "fd99::3"]))
            .await
            .unwrap();
        // And as if killed here.
    });
    assert_ne!(server.dump(), before);
    let rules = server.ip(&["-4", "-d", "rule"]);
    assert_eq!(
        rules.lines().next(),
        Some("90:\tfrom all to 10.99.0.2 iif lo lookup main proto kernel")
    );
    let last = "91:\tfrom all to 10.99.0.3 iif lo unreachable proto kernel";
    assert!(rules.lines().any(|rule| rule == last), "{rules}");
    assert!(!server.ip(&["-6", "rule"]).contains("\n0:"));

    server.block_on(async {
        let mut host = Host::open(&journal).await.unwrap();
        host.accept_steered(&interfaces).await.unwrap();
        host.set_foreign(&set(&["10.99.0.3", "10.99.0.4", "fd99::4"]))
            .await
            .unwrap();
        let on_lo = server.ip(&["-br", "address", "show", "dev", "lo"]);
        let on_lo: BTreeSet<_> = on_lo.split_whitespace().skip(2).collect();
        assert_eq!(
            on_lo,
            [
                "127.0.0.1/8",
                "::1/128",
                "10.99.0.3/32",
                "10.99.0.4/32",
                "fd99::4/128"
            ]
            .into()
        );
        // What somebody else removes comes back.
        server.ip(&["rule", "delete", "pref", "90", "to", "10.99.0.3"]);
        host.set_foreign(&set(&["10.99.0.3"])).await.unwrap();
        assert!(server.ip(&["rule"]).contains("10.99.0.3"));
        host.restore().await.unwrap();
    });
    assert_eq!(server.dump(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_was_there_before_stays() {
    let Some(lab) = Lab::new(&["a"]) else { return };
    let server = &lab.hosts[0];
    let dir = tempfile::tempdir().unwrap();
    // Another program moved the rule for table local, had one of the addresses on lo, and was stricter with ARP.
    for family in ["-4", "-6"] {
        server.ip(&[family, "rule", "add", "pref", "200", "lookup", "local"]);
        server.ip(&[family, "rule", "delete", "pref", "0"]);
    }
    server.ip(&["address", "add", "10.99.0.2/32", "dev", "lo"]);
    server.ip(&["-6", "address", "add", "fd99::2/128", "dev", "lo", "nodad"]);
    server.ip(&[
        "rule",
        "add",
        "pref",
        "90",
        "iif",
        "lo",
        "to",
        "10.99.0.3",
        "lookup",
        "main",
    ]);
    server.sysctl("net/ipv4/conf/eth0/arp_ignore", "2");
    let before = server.settle();

    server.block_on(async {
        let mut host = Host::open(&dir.path().join("undo")).await.unwrap();
        host.accept_steered(&["eth0".to_owned()]).await.unwrap();
        let own = host
            .set_foreign(&set(&["10.99.0.2", "10.99.0.3", "fd99::2", "fd99::3"]))
            .await
            .unwrap();
        let on_lo = set(&["10.99.0.2", "fd99::2"]).into_iter();
        assert_eq!(
            own,
            on_lo.map(|address| (address, "lo".to_owned())).collect()
        );
        assert_ne!(server.dump(), before);
        host.set_foreign(&BTreeSet::new()).await.unwrap();
        host.restore().await.unwrap();
    });
    assert_eq!(server.dump(), before);
}

#[test]
fn local_rules_made_by_others_are_moved_and_come_back() {
    let Some(lab) = Lab::new(&["a"]) else { return };
    let server = &lab.hosts[0];
    let dir = tempfile::tempdir().unwrap();
    for (family, protocol) in [("-4", "static"), ("-6", "boot")] {
        server.ip(&[family, "rule", "add", "pref", "50", "lookup", "local"]);
        server.ip(&[family, "rule", "delete", "pref", "0"]);
        server.ip(&[
            family, "rule", "add", "pref", "0", "lookup", "local", "protocol", protocol,
        ]);
        server.ip(&[family, "rule", "delete", "pref", "50"]);
    }
    let before = server.settle();

    server.block_on(async {
        let mut host = Host::open(&dir.path().join("undo")).await.unwrap();
        host.set_foreign(&set(&["10.99.0.2", "fd99::2"]))
            .await
            .unwrap();
        for family in ["-4", "-6"] {
            let rules = server.ip(&[family, "rule"]);
            assert!(rules.starts_with("90:"), "{rules}");
        }
        host.restore().await.unwrap();
    });
    assert_eq!(server.dump(), before);
}

#[test]
fn own_traffic_for_a_peer_never_ends_here() {
    let Some(lab) = Lab::new(&["a", "b"]) else {
        return;
    };
    let [a, b] = &lab.hosts[..] else {
        unreachable!()
    };
    let dir = tempfile::tempdir().unwrap();
    b.serve();
    b.block_on(async {
        let mut host = Host::open(&dir.path().join("undo")).await.unwrap();
        host.accept_steered(&["eth0".to_owned()]).await.unwrap();
        host.set_foreign(&a.addresses.into()).await.unwrap();
        // Table main has no route now.
        b.link("down");
        for address in a.addresses {
            let error = b.connect(address).unwrap_err();
            assert!(
                matches!(
                    error.raw_os_error(),
                    Some(libc::EHOSTUNREACH | libc::ENETUNREACH)
                ),
                "{address}: {error}"
            );
        }
        host.restore().await.unwrap();
    });
}

#[test]
fn no_peer_cuts_a_host_off_from_its_own_addresses() {
    let Some(lab) = Lab::new(&["a"]) else { return };
    let server = &lab.hosts[0];
    let dir = tempfile::tempdir().unwrap();
    server.serve();
    server.ip(&["link", "add", "eth1", "type", "veth", "peer", "name", "far"]);
    for end in ["eth1", "far"] {
        server.sysctl(&format!("net/ipv6/conf/{end}/accept_dad"), "0");
        server.ip(&["link", "set", end, "up"]);
    }
    let near = ["10.98.0.1", "fd98::1"];
    let later = ["10.97.0.1", "fd97::1"];
    let assign = |addresses: [&str; 2]| {
        for (address, length) in addresses.iter().zip([24, 64]) {
            server.ip(&[
                "address",
                "add",
                &format!("{address}/{length}"),
                "dev",
                "eth1",
            ]);
        }
    };
    let on_eth1 = |addresses: &[&str]| {
        let addresses = set(addresses).into_iter();
        addresses
            .map(|address| (address, "eth1".to_owned()))
            .collect()
    };
    assign(near);
    let wanted = set(&[&near[..], &later[..]].concat());
    let state = || {
        let show = |family| {
            let routes = server.ip(&[family, "route", "show", "table", "all"]);
            server.ip(&[family, "rule"]) + &routes
        };
        show("-4") + &show("-6") + &server.ip(&["address", "show", "dev", "lo"])
    };

    server.block_on(async {
        let mut host = Host::open(&dir.path().join("undo")).await.unwrap();
        assert_eq!(host.set_foreign(&wanted).await.unwrap(), on_eth1(&near));
        for address in set(&near) {
            assert!(!state().contains(&format!("to {address}")), "{}", state());
            assert_eq!(server.ask(address), "a");
        }

        assign(later);
        let all = [&near[..], &later[..]].concat();
        assert_eq!(host.set_foreign(&wanted).await.unwrap(), on_eth1(&all));
        let left = state();
        for address in &wanted {
            assert!(!left.contains(&format!("to {address}")), "{left}");
            assert_eq!(server.ask(*address), "a");
        }
        assert!(
            left.contains("10.97.0.0/24 dev eth1") && left.contains("fd97::/64 dev eth1"),
            "{left}"
        );
        assert!(!left.contains("10.97.0.1/32"), "{left}");
        host.restore().await.unwrap();
    });
}

#[test]
fn a_missing_interface_is_named_and_nothing_changed() {
    let Some(lab) = Lab::new(&["a"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    lab.hosts[0].block_on(async {
        let mut host = Host::open(&dir.path().join("undo")).await.unwrap();
        let error = host.accept_steered(&["eth7".to_owned()]).await.unwrap_err();
        assert!(format!("{error:#}").contains("eth7"), "{error:#}");
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn steered_packets_are_taken_and_own_traffic_reaches_the_owner() {
    let Some(lab) = Lab::new(&["a", "b", "client"]) else {
        return;
    };
    let [a, b, client] = &lab.hosts[..] else {
        unreachable!()
    };
    let dir = tempfile::tempdir().unwrap();
    for (server, peer) in [(a, b), (b, a)] {
        server.serve();
        server.block_on(async {
            let mut host = Host::open(&dir.path().join(&server.label)).await.unwrap();
            host.set_foreign(&peer.addresses.into()).await.unwrap();
        });
        // Packets from the owner of a foreign address must pass the strictest source validation, too.
        server.sysctl("net/ipv4/conf/eth0/rp_filter", "1");
    }
    let who_has_a = || {
        client
            .block_on(client.probe(a.v4(), Duration::from_millis(300)))
            .0
    };

    // Without accept_steered the wrong server answers, once the right one is off the network.
    a.link("down");
    assert_eq!(who_has_a(), Some(b.mac));
    for server in [a, b] {
        server.block_on(async {
            let mut host = Host::open(&dir.path().join(&server.label)).await.unwrap();
            host.accept_steered(&["eth0".to_owned()]).await.unwrap();
        });
    }
    assert_eq!(who_has_a(), None);
    a.link("up");
    assert_eq!(who_has_a(), Some(a.mac));
    client.ip(&["neighbour", "flush", "dev", "eth0"]);

    for address in a.addresses {
        assert_eq!(client.ask(address), "a");
        assert_eq!(b.ask(address), "a", "b's own traffic for {address}");
        assert_eq!(a.ask(address), "a");
        client.ip(&[
            "neighbour",
            "replace",
            &address.to_string(),
            "lladdr",
            &mac_text(b.mac),
            "dev",
            "eth0",
            "nud",
            "permanent",
        ]);
        assert_eq!(client.ask(address), "b", "steered to b, for {address}");
        assert_eq!(b.ask(address), "a", "b's own traffic for {address}");
    }
    for address in b.addresses {
        assert_eq!(a.ask(address), "b", "a's own traffic for {address}");
    }
    for (own, far) in b.addresses.into_iter().zip(client.addresses) {
        assert_eq!(b.source_towards(far), own);
    }

    for server in [a, b] {
        server.block_on(async {
            Host::open(&dir.path().join(&server.label))
                .await
                .unwrap()
                .restore()
                .await
                .unwrap();
        });
    }
    assert_eq!(b.ask(a.addresses[0]), "a");
}

#[test]
fn probe_finds_the_living_and_not_the_dead() {
    let Some(lab) = Lab::new(&["a", "b"]) else {
        return;
    };
    let [a, b] = &lab.hosts[..] else {
        unreachable!()
    };
    let dir = tempfile::tempdir().unwrap();
    b.block_on(async {
        let mut host = Host::open(&dir.path().join("undo")).await.unwrap();
        host.accept_steered(&["eth0".to_owned()]).await.unwrap();
        host.set_foreign(&a.addresses.into()).await.unwrap();

        let mut fastest = Duration::MAX;
        for source in [Ipv4Addr::UNSPECIFIED, b.v4()].into_iter().cycle().take(6) {
            let (found, took) = b.probe_from(source, a.v4(), Duration::from_secs(1)).await;
            assert_eq!(found, Some(a.mac));
            fastest = fastest.min(took);
        }
        println!("a living host answered in {fastest:?}");
        assert!(fastest < Duration::from_millis(5), "{fastest:?}");

        let timeout = Duration::from_millis(150);
        let (found, took) = b.probe(DEAD, timeout).await;
        assert_eq!(found, None);
        assert!((timeout..timeout * 4).contains(&took), "{took:?}");

        let (nobody, index) = (
            BTreeSet::new(),
            nix::net::if_::if_nametoindex("eth0").unwrap(),
        );
        let source = Ipv4Addr::UNSPECIFIED;
        let error = arp::probe(999_999, b.mac, source, DEAD, &nobody, timeout)
            .await
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));

        // Its caretaker answers for it, which says nothing of the host that is asked for.
        let caretaker = [a.mac].into();
        let found = arp::probe(index, b.mac, source, a.v4(), &caretaker, timeout).await;
        assert_eq!(found.unwrap(), None);
    });
}

/// The peer's address is on our own `lo`, as it is in service.
#[test]
fn solicitation_finds_the_living_and_not_the_dead() {
    let Some(lab) = Lab::new(&["a", "b"]) else {
        return;
    };
    let [a, b] = &lab.hosts[..] else {
        unreachable!()
    };
    let dir = tempfile::tempdir().unwrap();
    b.block_on(async {
        let mut host = Host::open(&dir.path().join("undo")).await.unwrap();
        host.accept_steered(&["eth0".to_owned()]).await.unwrap();
        host.set_foreign(&a.addresses.into()).await.unwrap();

        for source in [Ipv6Addr::UNSPECIFIED, b.v6()].into_iter().cycle().take(4) {
            let (found, took) = b.solicit(source, a.v6(), Duration::from_secs(1)).await;
            assert_eq!(found, Some(a.mac), "from {source}, after {took:?}");
        }
        let timeout = Duration::from_millis(150);
        let dead = "2001:db8::dead".parse().unwrap();
        let (found, took) = b.solicit(Ipv6Addr::UNSPECIFIED, dead, timeout).await;
        assert_eq!(found, None);
        assert!((timeout..timeout * 4).contains(&took), "{took:?}");
        // Our own, which nobody else has.
        let (found, _) = b.solicit(Ipv6Addr::UNSPECIFIED, b.v6(), timeout).await;
        assert_eq!(found, None);
    });
}

#[test]
fn a_journal_is_for_its_network_namespace() {
    let Some(lab) = Lab::new(&["a", "b"]) else {
        return;
    };
    let [a, b] = &lab.hosts[..] else {
        unreachable!()
    };
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("undo");
    a.block_on(async {
        let mut host = Host::open(&journal).await.unwrap();
        host.set_foreign(&b.addresses.into()).await.unwrap();
    });
    let elsewhere = b.block_on(async { Host::open(&journal).await.err().unwrap() });
    assert!(
        elsewhere.to_string().contains("another network namespace"),
        "{elsewhere}"
    );
    a.block_on(async {
        Host::open(&journal).await.unwrap().restore().await.unwrap();
    });
    assert!(!a.ip(&["rule"]).contains("90:"));
}

#[test]
fn the_default_directory_goes_with_the_last_file_in_it() {
    if !privileged() {
        return;
    }
    let directory = Path::new(control::DEFAULT_PATH).parent().unwrap();
    let journal = directory.join("one.undo");
    let life = || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let mount = |source, target, kind, flags| {
            nix::mount::mount(source, target, kind, flags, None::<&str>).unwrap();
        };
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private);
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty());
        // A predecessor that was killed made it.
        fs::create_dir(directory).unwrap();
        block_on(async {
            // As the daemon does: the socket before the journal, the journal undone before the socket goes.
            let control = control::Server::open(Path::new(control::DEFAULT_PATH)).unwrap();
            let mut host = Host::open(&journal).await.unwrap();
            host.record(Change::Pinned("/nonexistent".into())).unwrap();
            host.restore().await.unwrap();
            assert!(directory.exists());
            drop(control);
            assert!(!directory.exists());

            // An attach that fails once both are open, and one that can't listen.
            let control = control::Server::open(Path::new(control::DEFAULT_PATH)).unwrap();
            drop((control, Host::open(&journal).await.unwrap()));
            assert!(!directory.exists());
            let too_long = directory.join("x".repeat(200));
            assert!(control::Server::open(&too_long).is_err());
            assert!(!directory.exists());
        });
    };
    // On a thread of its own: it stays in its own mount namespace.
    thread::scope(|scope| scope.spawn(life).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn bpffs_is_unmounted_unless_others_use_it() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for used in [false, true] {
        let bpffs = dir.path().join("bpf");
        let pins = bpffs.join("balancer");
        fs::create_dir(&bpffs).unwrap();
        block_on(async {
            let mut host = Host::open(&dir.path().join("undo")).await.unwrap();
            host.record(Change::BpffsMounted(bpffs.clone())).unwrap();
            host.record(Change::DirectoryCreated(pins.clone())).unwrap();
            nix::mount::mount(
                Some("bpf"),
                &bpffs,
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
            fs::create_dir(&pins).unwrap();
            if used {
                fs::create_dir(bpffs.join("theirs")).unwrap();
            }
            host.restore().await.unwrap();
        });
        // It would be in the way of the temporary directory's removal, so it goes before the assertion.
        let was_mounted = nix::mount::umount(&bpffs).is_ok();
        assert_eq!(was_mounted, used);
        fs::remove_dir(&bpffs).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// Hosts in namespaces of their own, each with `eth0` on a common bridge. Gone when dropped.
struct Lab {
    hosts: Vec<Namespace>,
    _switch: Namespace,
}

/// A network namespace, with the addresses of its `eth0`.
struct Namespace {
    name: String,
    label: String,
    mac: [u8; 6],
    addresses: [IpAddr; 2],
}

impl Lab {
    fn new(labels: &[&str]) -> Option<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if !privileged() {
            return None;
        }
        let lab = format!(
            "bh-{}-{}",
            process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        let switch = Namespace::new(&lab, "switch", 0);
        switch.ip(&[
            "link",
            "add",
            "bridge",
            "type",
            "bridge",
            "stp_state",
            "0",
            "mcast_snooping",
            "0",
        ]);
        switch.ip(&["link", "set", "bridge", "up"]);
        let mut hosts = Vec::new();
        for (label, number) in labels.iter().zip(1..) {
            let host = Namespace::new(&lab, label, number);
            let mac = mac_text(host.mac);
            switch.ip(&[
                "link", "add", "name", label, "type", "veth", "peer", "name", "eth0", "address",
                &mac, "netns", &host.name,
            ]);
            switch.ip(&["link", "set", "dev", label, "master", "bridge", "up"]);
            // Else the IPv6 address is gone when the link goes down.
            host.sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1");
            for (address, length) in host.addresses.iter().zip([24, 64]) {
                host.ip(&[
                    "address",
                    "add",
                    &format!("{address}/{length}"),
                    "dev",
                    "eth0",
                ]);
            }
            host.link("up");
            hosts.push(host);
        }
        Some(Self {
            hosts,
            _switch: switch,
        })
    }
}

impl Namespace {
    fn new(lab: &str, label: &str, number: u8) -> Self {
        let name = format!("{lab}-{label}");
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self {
            name,
            label: label.to_owned(),
            mac: [2, 0, 0, 0, 0, number],
            addresses: [
                [10, 99, 0, number].into(),
                format!("fd99::{number}").parse().unwrap(),
            ],
        };
        // Addresses are to be usable at once, without duplicate address detection.
        for which in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{which}/accept_dad"), "0");
        }
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Runs `act` on a thread inside.
    fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let file = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.enter(|| block_on(future))
    }

    fn ip(&self, arguments: &[&str]) -> String {
        run(Command::new("ip")
            .args(["-netns", &self.name])
            .args(arguments))
    }

    /// Sets `eth0` up or down, and waits until its link-local address and routes have settled.
    fn link(&self, state: &str) {
        self.ip(&["link", "set", "eth0", state]);
        self.settle();
    }

    /// Waits until the kernel has done what follows from changes, and returns the [dump](Self::dump) of the outcome.
    fn settle(&self) -> String {
        let mut dump = self.dump();
        loop {
            thread::sleep(Duration::from_millis(300));
            let next = self.dump();
            if next == dump {
                return next;
            }
            dump = next;
        }
    }

    fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| fs::write(Path::new("/proc/sys").join(name), value))
            .unwrap();
    }

    fn v4(&self) -> Ipv4Addr {
        let IpAddr::V4(address) = self.addresses[0] else {
            unreachable!()
        };
        address
    }

    fn v6(&self) -> Ipv6Addr {
        let IpAddr::V6(address) = self.addresses[1] else {
            unreachable!()
        };
        address
    }

    /// All that balancer may touch.
    fn dump(&self) -> String {
        let all_routes = ["route", "show", "table", "all"];
        let mut dump = vec![self.ip(&["-d", "address"])];
        for family in ["-4", "-6"] {
            dump.push(self.ip(&[family, "-d", "rule"]));
            dump.push(self.ip(&[&[family, "-d"], &all_routes[..]].concat()));
        }
        self.enter(|| {
            for interface in ["all", "default", "lo", "eth0"] {
                let files = ["ipv4", "ipv6"]
                    .map(|protocol| format!("/proc/sys/net/{protocol}/conf/{interface}"));
                for file in files
                    .iter()
                    .flat_map(|directory| fs::read_dir(directory).unwrap())
                {
                    let path = file.unwrap().path();
                    let value = fs::read_to_string(&path).unwrap_or_default();
                    dump.push(format!("{}: {value}", path.display()));
                }
            }
        });
        dump.concat()
    }

    /// Tells each client of its port its label, until the test process ends.
    fn serve(&self) {
        let listener = self.enter(|| TcpListener::bind(("::", PORT))).unwrap();
        let label = self.label.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let _ = client.unwrap().write_all(label.as_bytes());
            }
        });
    }

    /// Who answers on `address`?
    fn ask(&self, address: IpAddr) -> String {
        let mut answer = String::new();
        self.connect(address)
            .and_then(|mut stream| stream.read_to_string(&mut answer))
            .unwrap_or_else(|error| panic!("{} asks {address}: {error}", self.label));
        answer
    }

    fn connect(&self, address: IpAddr) -> io::Result<TcpStream> {
        let server = SocketAddr::new(address, PORT);
        self.enter(|| TcpStream::connect_timeout(&server, Duration::from_secs(5)))
    }

    fn source_towards(&self, address: IpAddr) -> IpAddr {
        self.enter(|| {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect((address, PORT)).unwrap();
            socket.local_addr().unwrap().ip()
        })
    }

    /// The answer to a probe from here, and how long it took. To be awaited inside.
    async fn probe(&self, target: Ipv4Addr, timeout: Duration) -> (Option<[u8; 6]>, Duration) {
        self.probe_from(Ipv4Addr::UNSPECIFIED, target, timeout)
            .await
    }

    /// As `probe_from`, by neighbour solicitation.
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    async fn solicit(
        &self,
        source: Ipv6Addr,
        target: Ipv6Addr,
        timeout: Duration,
    ) -> (Option<[u8; 6]>, Duration) {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        let start = Instant::now();
        let found = ndp::probe(index, self.mac, source, target, &BTreeSet::new(), timeout)
            .await
            .unwrap();
        (found, start.elapsed())
    }

    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    async fn probe_from(
        &self,
        source: Ipv4Addr,
        target: Ipv4Addr,
        timeout: Duration,
    ) -> (Option<[u8; 6]>, Duration) {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        let start = Instant::now();
        let found = arp::probe(index, self.mac, source, target, &BTreeSet::new(), timeout)
            .await
            .unwrap();
        (found, start.elapsed())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // No assertion: it would abort where the test already failed.
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status();
    }
}

fn privileged() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(
        root || std::env::var_os("BALANCER_REQUIRE_ROOT").is_none(),
        "BALANCER_REQUIRE_ROOT is set: run as root"
    );
    if !root {
        println!("skipped: needs root");
    }
    root
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses
        .iter()
        .map(|address| address.parse().unwrap())
        .collect()
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
