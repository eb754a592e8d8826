//! The core against its promises, one server at a time; many of them are in `tests/cluster.rs`.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(500);
const START: Timestamp = Timestamp(1_000_000_000_000);

fn at(millis: u64) -> Timestamp {
    START + Duration::from_millis(millis)
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 9918))
}

fn report(id: u64, boot: u64, sequence: u64) -> Report {
    Report {
        server: ServerId(id),
        boot,
        sequence,
        period_ms: 500,
        name: format!("web{id}"),
        links: Vec::new(),
        services: Vec::new(),
        identities: Vec::new(),
        caretaker: false,
        draining: false,
        guests: Vec::new(),
        leaving: false,
        answers: Vec::new(),
    }
}

fn own(load: u32) -> OwnState {
    let report = ServiceReport {
        name: "www".into(),
        ports: vec![PortRange {
            protocol: 6,
            first: 80,
            last: 80,
        }],
        healthy: true,
        capacity: 100,
        load,
        cost: 100 << 16,
        names: Vec::new(),
        serves: Vec::new(),
    };
    OwnState {
        services: vec![OwnService {
            report,
            overload: 5_000,
        }],
        ..OwnState::default()
    }
}

fn options(id: u64) -> Options {
    Options {
        me: ServerId(id),
        boot: 5,
        name: format!("web{id}"),
        period: PERIOD,
        timeout_periods: 3,
        estate: Estate::default(),
    }
}

/// Server 1, which has sent its first report at [`START`].
fn server() -> Cluster {
    let mut cluster = Cluster::new(START, options(1));
    cluster.set_own(START, own(0)).unwrap();
    cluster.handle_timeout(START);
    assert_eq!(
        destinations(&mut cluster),
        ["query to all", "report to all"]
    );
    cluster
}

/// A report that answers a query of this moment.
fn hear(cluster: &mut Cluster, now: Timestamp, report: Report) -> Result<(), Refused> {
    let Message::Query { nonce } = cluster.out.questions.ask(now) else {
        panic!("a question")
    };
    let answers = vec![nonce];
    overhear(cluster, now, Report { answers, ..report })
}

/// A report that answers nothing.
fn overhear(cluster: &mut Cluster, now: Timestamp, report: Report) -> Result<(), Refused> {
    let from = address(report.server.0 as u8);
    cluster.handle(now, from, Message::Report(Box::new(report)))
}

fn ask(cluster: &mut Cluster, now: Timestamp, host: u8, nonce: u64) {
    cluster
        .handle(now, address(host), Message::Query { nonce })
        .unwrap();
}

fn destinations(cluster: &mut Cluster) -> Vec<String> {
    std::iter::from_fn(|| cluster.poll_transmit())
        .map(|transmit| {
            let what = if matches!(transmit.message, Message::Query { .. }) {
                "query"
            } else {
                "report"
            };
            match transmit.to {
                Destination::Group => format!("{what} to all"),
                Destination::Unicast(to) => format!("{what} to {}", to.ip()),
            }
        })
        .collect()
}

fn events(cluster: &mut Cluster) -> Vec<Event> {
    std::iter::from_fn(|| cluster.poll_event()).collect()
}

/// Runs `cluster` punctually until `end`, and gives what it sent and when, in milliseconds.
fn run(cluster: &mut Cluster, end: Timestamp) -> Vec<(u64, String)> {
    let mut sent = Vec::new();
    while cluster.next_timeout() <= end {
        let now = cluster.next_timeout();
        cluster.handle_timeout(now);
        assert!(cluster.next_timeout() > now, "nothing is left to be done");
        let millis = now.since(START).as_millis() as u64;
        sent.extend(destinations(cluster).into_iter().map(|to| (millis, to)));
    }
    sent
}

#[test]
fn reports_come_each_period() {
    let mut cluster = server();
    let all = |times: &[u64]| {
        times
            .iter()
            .map(|t| (*t, "report to all".to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(&mut cluster, at(1_600)), all(&[500, 1_000, 1_500]));
    cluster.set_timing(at(1_550), Timing::new(PERIOD / 5, 3));
    assert_eq!(
        run(&mut cluster, at(1_850)),
        all(&[1_550, 1_650, 1_750, 1_850])
    );
}

#[test]
fn another_time_out_counts_for_silences_that_last() {
    let mut cluster = server();
    hear(&mut cluster, START, report(2, 1, 1)).unwrap();
    cluster.set_timing(START, Timing::new(PERIOD, 6));
    run(&mut cluster, at(2_900));
    let status = |cluster: &Cluster| cluster.peer(ServerId(2)).unwrap().status;
    assert_eq!(status(&cluster), Status::Online);
    cluster.set_timing(at(2_900), Timing::new(PERIOD, 3));
    // It was asked before it is judged, and had a period to answer.
    cluster.handle_timeout(at(2_900));
    run(&mut cluster, at(3_000));
    assert_eq!(status(&cluster), Status::Suspect);
}

#[test]
fn silence_is_judged_by_the_periods_of_who_is_silent() {
    let mut cluster = server();
    for (id, period_ms) in [(2, 100), (3, 2_000)] {
        let report = Report {
            period_ms,
            ..report(id, 1, 1)
        };
        hear(&mut cluster, START, report).unwrap();
    }
    let suspect = |cluster: &Cluster| {
        let suspect = |peer: &&Peer| peer.status == Status::Suspect;
        let ids = cluster.peers().filter(suspect);
        ids.map(|peer| peer.report.server.0).collect::<Vec<_>>()
    };
    for (millis, expected) in [(299, &[][..]), (300, &[2]), (5_999, &[2]), (6_000, &[2, 3])] {
        run(&mut cluster, at(millis));
        assert_eq!(suspect(&cluster), expected, "after {millis} ms");
    }
}

/// Who goes by the shorter period would miss its reports.
#[test]
fn another_period_is_told_before_it_is_kept() {
    let mut cluster = server();
    cluster.set_timing(at(100), Timing::new(PERIOD * 10, 3));
    cluster.set_own(at(100), own(1)).unwrap();
    let mut told = Vec::new();
    while cluster.next_timeout() <= at(6_000) {
        let now = cluster.next_timeout();
        cluster.handle_timeout(now);
        cluster.set_own(now, own(2)).unwrap();
        while let Some(transmit) = cluster.poll_transmit() {
            if let Message::Report(report) = transmit.message {
                told.push((now.since(START).as_millis(), report.period_ms));
            }
        }
    }
    assert_eq!(told, [(100, 5_000), (5_100, 5_000)]);
}

#[test]
fn what_matters_is_told_at_once_but_not_too_often() {
    let mut cluster = server();
    cluster.set_own(at(100), own(4_000)).unwrap();
    assert_eq!(
        cluster.next_timeout(),
        at(500),
        "a load below the level can wait"
    );
    cluster.set_own(at(110), own(5_001)).unwrap();
    assert_eq!(cluster.next_timeout(), at(110), "one above it can't");
    cluster.handle_timeout(at(110));
    assert_eq!(destinations(&mut cluster), ["report to all"]);

    let mut sick = own(5_001);
    sick.services[0].report.healthy = false;
    cluster.set_own(at(112), sick.clone()).unwrap();
    assert_eq!(
        cluster.next_timeout(),
        at(160),
        "a tenth of a period after the last"
    );
    cluster.set_own(at(120), own(6_000)).unwrap();
    assert_eq!(
        cluster.next_timeout(),
        at(610),
        "well again before anyone was told otherwise"
    );

    let draining = OwnState {
        draining: true,
        ..own(6_000)
    };
    cluster.set_own(at(300), draining).unwrap();
    assert_eq!(cluster.next_timeout(), at(300));
}

#[test]
fn a_state_that_peers_would_refuse_is_refused_here() {
    let mut cluster = server();
    let mut bad = own(9_000);
    bad.services[0].report.capacity = 0;
    assert_eq!(
        cluster.set_own(at(100), bad),
        Err(Invalid::Capacity("www".into()))
    );
    assert_eq!(cluster.next_timeout(), at(500));
}

#[test]
fn crossing_the_level_asks_for_what_is_old() {
    let mut cluster = server();
    hear(&mut cluster, at(0), report(2, 1, 1)).unwrap();
    cluster.set_own(at(200), own(6_000)).unwrap();
    assert_eq!(destinations(&mut cluster), [""; 0], "200 ms are not old");
    cluster.handle_timeout(at(200));
    cluster.set_own(at(260), own(0)).unwrap();
    cluster.set_own(at(261), own(6_000)).unwrap();
    assert_eq!(
        destinations(&mut cluster),
        ["report to all", "query to all"]
    );
    cluster.set_own(at(262), own(0)).unwrap();
    cluster.set_own(at(263), own(6_000)).unwrap();
    assert_eq!(destinations(&mut cluster), [""; 0], "once a period");
}

#[test]
fn queries_are_answered_after_a_moment_and_a_gap() {
    let mut cluster = server();
    for nonce in [7, 7, 8] {
        ask(&mut cluster, at(100), 2, nonce);
    }
    ask(&mut cluster, at(100), 3, 9);
    let first = cluster.next_timeout();
    assert!(first >= at(100) && first < at(150), "{first:?}");
    assert_eq!(
        run(&mut cluster, at(150))
            .into_iter()
            .map(|s| s.1)
            .collect::<Vec<_>>(),
        ["report to 10.0.0.2", "report to 10.0.0.3"]
    );
    ask(&mut cluster, first, 2, 9);
    assert!(cluster.next_timeout() >= first + Duration::from_millis(50));
}

#[test]
fn a_crowd_is_answered_with_one_report() {
    let mut cluster = server();
    for host in 0..200 {
        ask(&mut cluster, at(100), host, u64::from(host));
    }
    let mut answers = Vec::new();
    cluster.handle_timeout(at(200));
    while let Some(transmit) = cluster.poll_transmit() {
        assert_eq!(transmit.to, Destination::Group);
        let Message::Report(report) = transmit.message else {
            panic!("a query")
        };
        assert!(report.check().is_ok());
        answers.push(report.answers);
    }
    assert_eq!(answers.len(), 4, "{MAX_ANSWERS} fit one");
    assert_eq!(answers.concat(), (0..200).collect::<Vec<_>>());
}

#[test]
fn answers_name_their_questions() {
    let mut cluster = server();
    for nonce in 0..70 {
        ask(&mut cluster, at(100), 2, nonce);
    }
    cluster.handle_timeout(at(150));
    let answers: Vec<_> = std::iter::from_fn(|| cluster.poll_transmit())
        .map(|transmit| match transmit.message {
            Message::Report(report) => report.answers,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answers.concat(), (0..70).collect::<Vec<_>>());
}

#[test]
fn a_query_repeated_from_many_addresses_hides_no_other() {
    let mut cluster = server();
    for host in 2..=255 {
        for port in 0..4 {
            let from = SocketAddr::from(([10, 0, 1, host], port));
            let repeated = Message::Query { nonce: 7 };
            cluster.handle(at(100), from, repeated).unwrap();
        }
    }
    ask(&mut cluster, at(100), 3, 8);
    cluster.handle_timeout(at(150));
    assert_eq!(
        destinations(&mut cluster),
        ["report to 10.0.0.3", "report to 10.0.1.2"]
    );
}

#[test]
fn recorded_reports_make_no_peer() {
    let (mut cluster, id) = (server(), ServerId(2));
    let old = report(2, 1, 7);
    assert_eq!(
        overhear(&mut cluster, at(0), old.clone()),
        Err(Refused::Unproven)
    );
    assert_eq!(destinations(&mut cluster), ["query to 10.0.0.2"]);
    assert_eq!(
        overhear(&mut cluster, at(1), old.clone()),
        Err(Refused::Unproven)
    );
    assert_eq!(destinations(&mut cluster), [""; 0], "asked just now");
    assert_eq!(cluster.peers().count(), 0);

    // It is there, and was restarted: its old reports are worth nothing from now on, though they have higher numbers.
    hear(&mut cluster, at(2), report(2, 9, 1)).unwrap();
    destinations(&mut cluster);
    assert_eq!(overhear(&mut cluster, at(100), old), Err(Refused::Unproven));
    let mut sent = run(&mut cluster, at(400));
    sent.retain(|(_, to)| to != "report to all");
    assert_eq!(sent, [], "that start is known to be over");
    let older = report(2, 3, 70);
    assert_eq!(
        overhear(&mut cluster, at(400), older),
        Err(Refused::Unproven)
    );
    assert_eq!(destinations(&mut cluster), ["query to 10.0.0.2"]);
    overhear(&mut cluster, at(400), report(2, 9, 2)).unwrap();
    assert_eq!(cluster.peer(id).unwrap().report.boot, 9);

    let goodbye = Report {
        leaving: true,
        ..report(2, 1, 8)
    };
    assert_eq!(
        overhear(&mut cluster, at(410), goodbye),
        Err(Refused::Unproven)
    );
    assert_eq!(
        destinations(&mut cluster),
        [""; 0],
        "it wouldn't be there to answer"
    );
    assert_eq!(cluster.peer(id).unwrap().status, Status::Online);
}

#[test]
fn a_server_whose_answer_is_lost_is_asked_again() {
    let mut cluster = server();
    let unproven = Err(Refused::Unproven);
    assert_eq!(overhear(&mut cluster, at(10), report(2, 1, 1)), unproven);
    assert_eq!(destinations(&mut cluster), ["query to 10.0.0.2"]);
    let mut sent = run(&mut cluster, at(600));
    assert_eq!(overhear(&mut cluster, at(600), report(2, 1, 2)), unproven);
    sent.extend(run(&mut cluster, at(800)));
    sent.retain(|(_, to)| to != "report to all");
    let again = [
        (110, "query to 10.0.0.2"),
        (310, "query to 10.0.0.2"),
        (710, "query to all"),
    ];
    assert_eq!(sent, again.map(|(millis, to)| (millis, to.to_owned())));

    hear(&mut cluster, at(800), report(2, 1, 3)).unwrap();
    let sent = run(&mut cluster, at(1_700));
    assert!(sent.iter().all(|(_, to)| to == "report to all"), "{sent:?}");
}

#[test]
fn an_answer_that_comes_too_late_proves_nothing() {
    let mut cluster = server();
    let Message::Query { nonce } = cluster.out.questions.ask(at(0)) else {
        panic!("a question")
    };
    let answers = vec![nonce];
    let late = Report {
        answers,
        ..report(2, 1, 1)
    };
    assert_eq!(
        overhear(&mut cluster, at(1_501), late),
        Err(Refused::Unproven)
    );
}

#[test]
fn answers_of_many_servers_are_spread() {
    let mut times: Vec<_> = (1..=64)
        .map(|id| {
            let mut cluster = Cluster::new(START, options(id));
            cluster.set_own(START, own(0)).unwrap();
            cluster.handle_timeout(START);
            ask(&mut cluster, at(100), 200, 7);
            cluster.next_timeout().since(at(100)).as_millis()
        })
        .collect();
    times.sort_unstable();
    times.dedup();
    assert!(
        times.len() > 25,
        "64 answers at only {} different milliseconds of 50",
        times.len()
    );
}

#[test]
fn only_newer_reports_count() {
    let mut cluster = server();
    let mut say = |boot, sequence| hear(&mut cluster, at(1), report(2, boot, sequence));
    assert_eq!(say(7, 10), Ok(()));
    assert_eq!(say(7, 10), Err(Refused::Replayed));
    assert_eq!(say(7, 9), Err(Refused::Replayed));
    assert_eq!(say(7, 11), Ok(()));
    assert_eq!(say(6, 1), Ok(()), "restarted");
    let newest = cluster.peer(ServerId(2)).unwrap();
    assert_eq!((newest.report.boot, newest.report.sequence), (6, 1));
}

#[test]
fn own_reports_and_those_of_a_clone_are_refused() {
    let mut cluster = server();
    assert_eq!(
        hear(&mut cluster, at(1), report(1, 5, 1)),
        Err(Refused::Own)
    );
    assert_eq!(
        hear(&mut cluster, at(1), report(1, 6, 1)),
        Err(Refused::SharedId)
    );
    assert_eq!(cluster.peers().count(), 0);
}

#[test]
fn the_257th_peer_is_refused() {
    let mut cluster = server();
    for id in 2..258 {
        hear(&mut cluster, at(1), report(id, 1, 1)).unwrap();
    }
    let unproven = Err(Refused::Unproven);
    assert_eq!(overhear(&mut cluster, at(1), report(258, 1, 1)), unproven);
    let too_many = Err(Refused::TooManyPeers);
    assert_eq!(hear(&mut cluster, at(1), report(258, 1, 2)), too_many);
    destinations(&mut cluster);
    let sent = run(&mut cluster, at(400));
    assert!(sent.iter().all(|(_, to)| to == "report to all"), "{sent:?}");
    hear(&mut cluster, at(2), report(257, 1, 2)).unwrap();
    assert_eq!(cluster.peers().count(), MAX_PEERS);
}

#[test]
fn silence_is_asked_about_then_suspected_then_probed() {
    let (mut cluster, id) = (server(), ServerId(2));
    hear(&mut cluster, at(100), report(2, 1, 1)).unwrap();
    assert_eq!(
        events(&mut cluster),
        [Event::Joined(id), Event::PeerUpdated(id)]
    );

    let sent = run(&mut cluster, at(1_599));
    assert!(
        sent.contains(&(1_100, "query to 10.0.0.2".into())),
        "{sent:?}"
    );
    assert_eq!(events(&mut cluster), [Event::Probe(id)]);

    run(&mut cluster, at(1_600));
    let changed = |from, to| Event::Changed { id, from, to };
    let suspect = changed(Status::Online, Status::Suspect);
    assert_eq!(events(&mut cluster), [suspect]);

    cluster.handle_probe(at(1_650), id, true);
    let silent = changed(Status::Suspect, Status::Silent);
    assert_eq!(events(&mut cluster), [silent]);

    run(&mut cluster, at(2_600));
    assert_eq!(
        events(&mut cluster),
        [Event::Probe(id)],
        "probed again, with no second alarm"
    );
    cluster.handle_probe(at(2_650), id, false);
    assert_eq!(
        events(&mut cluster),
        [Event::Changed {
            id,
            from: Status::Silent,
            to: Status::Dead
        }]
    );

    hear(&mut cluster, at(3_200), report(2, 2, 1)).unwrap();
    let back = Event::Changed {
        id,
        from: Status::Dead,
        to: Status::Online,
    };
    assert_eq!(events(&mut cluster), [Event::PeerUpdated(id), back]);
}

#[test]
fn what_the_probe_said_counts_when_the_time_out_is_over() {
    for (answered, status) in [(true, Status::Silent), (false, Status::Dead)] {
        let (mut cluster, id) = (server(), ServerId(2));
        hear(&mut cluster, at(0), report(2, 1, 1)).unwrap();
        run(&mut cluster, at(1_000));
        cluster.handle_probe(at(1_100), id, answered);
        run(&mut cluster, at(1_499));
        assert_eq!(cluster.peer(id).unwrap().status, Status::Online);
        run(&mut cluster, at(1_500));
        assert_eq!(cluster.peer(id).unwrap().status, status);
    }
}

#[test]
fn a_goodbye_is_believed_and_nobody_is_probed() {
    let (mut cluster, id) = (server(), ServerId(2));
    hear(&mut cluster, at(0), report(2, 1, 1)).unwrap();
    hear(
        &mut cluster,
        at(100),
        Report {
            leaving: true,
            ..report(2, 1, 2)
        },
    )
    .unwrap();
    let left = Event::Changed {
        id,
        from: Status::Online,
        to: Status::Left,
    };
    assert_eq!(
        events(&mut cluster),
        [
            Event::Joined(id),
            Event::PeerUpdated(id),
            Event::PeerUpdated(id),
            left
        ]
    );
    run(&mut cluster, at(100) + MEMORY);
    assert_eq!(events(&mut cluster), [Event::Forgotten(id)]);
    assert_eq!(cluster.peers().count(), 0);

    let goodbye = Report {
        leaving: true,
        ..report(3, 1, 1)
    };
    let refused = overhear(&mut cluster, at(100) + MEMORY, goodbye);
    assert_eq!(refused, Err(Refused::Unproven));
    assert_eq!(cluster.peers().count(), 0, "a stranger's goodbye");
}

#[test]
fn after_a_stall_all_are_asked_before_anyone_is_judged() {
    let (mut cluster, id) = (server(), ServerId(2));
    hear(&mut cluster, at(0), report(2, 1, 1)).unwrap();
    run(&mut cluster, at(1_200)); // asked at 1,000
    events(&mut cluster);
    cluster.handle_timeout(at(60_000));
    assert!(destinations(&mut cluster).contains(&"query to 10.0.0.2".into()));
    assert_eq!(events(&mut cluster), [Event::Probe(id)]);
    run(&mut cluster, at(60_499));
    assert_eq!(events(&mut cluster), [], "it has a period to answer");
    run(&mut cluster, at(60_500));
    assert_eq!(cluster.peer(id).unwrap().status, Status::Suspect);
    events(&mut cluster);

    // A probe that the stall may have spoilt is made again.
    cluster.handle_probe(at(120_000), id, false);
    assert_eq!(events(&mut cluster), []);
    cluster.handle_timeout(at(120_000));
    assert_eq!(events(&mut cluster), [Event::Probe(id)]);
    cluster.handle_probe(at(120_100), id, false);
    assert_eq!(cluster.peer(id).unwrap().status, Status::Dead);
}

#[test]
fn shared_names_are_said_once() {
    let mut cluster = server();
    let conflicts = |cluster: &mut Cluster| {
        let mut all = events(cluster);
        all.retain(|event| matches!(event, Event::NameConflict { .. }));
        all
    };
    let named = |id, sequence, name: &str| Report {
        name: name.into(),
        ..report(id, 1, sequence)
    };
    let conflict = |id, name: &str| Event::NameConflict {
        id: ServerId(id),
        name: name.into(),
    };

    hear(&mut cluster, at(0), named(2, 1, "web1")).unwrap();
    assert_eq!(conflicts(&mut cluster), [conflict(2, "web1")], "my name");
    hear(&mut cluster, at(1), named(2, 2, "web1")).unwrap();
    assert_eq!(conflicts(&mut cluster), []);
    hear(&mut cluster, at(2), named(2, 3, "web2")).unwrap();
    assert_eq!(conflicts(&mut cluster), []);
    assert!(!cluster.peer(ServerId(2)).unwrap().name_conflict);
    hear(&mut cluster, at(3), named(3, 1, "web2")).unwrap();
    assert_eq!(conflicts(&mut cluster), [conflict(3, "web2")], "two peers");
    hear(&mut cluster, at(4), named(3, 2, "web1")).unwrap();
    assert_eq!(
        conflicts(&mut cluster),
        [conflict(3, "web1")],
        "it has changed"
    );
}

#[test]
fn leaving_ends_all_reports() {
    let mut cluster = server();
    ask(&mut cluster, at(10), 2, 7);
    cluster.leave();
    cluster.leave();
    assert_eq!(destinations(&mut cluster), ["report to all"; 2]);
    ask(&mut cluster, at(20), 2, 8);
    cluster.set_own(at(20), own(9_000)).unwrap();
    assert_eq!(cluster.next_timeout(), Timestamp::NEVER);
}

#[test]
fn a_clock_that_goes_back_is_borne() {
    let mut cluster = server();
    hear(&mut cluster, START + SECOND, report(2, 1, 1)).unwrap();
    cluster.handle_timeout(Timestamp(0));
    cluster.handle_timeout(START + SECOND);
    assert_eq!(cluster.peer(ServerId(2)).unwrap().status, Status::Online);
}

#[test]
fn a_peer_whose_host_lives_is_not_forgotten() {
    let mut cluster = server();
    let id = ServerId(2);
    hear(&mut cluster, at(0), report(2, 1, 1)).unwrap();
    // Its host answers each probe, its daemon says nothing more.
    let mut now = at(0);
    while now < at(0) + MEMORY * 2 {
        now = cluster.next_timeout().max(now);
        cluster.handle_timeout(now);
        while cluster.poll_transmit().is_some() {}
        while let Some(event) = cluster.poll_event() {
            assert_ne!(event, Event::Forgotten(id));
            if event == Event::Probe(id) {
                cluster.handle_probe(now, id, true);
            }
        }
    }
    assert_eq!(
        cluster.peer(id).map(|peer| peer.status),
        Some(Status::Silent)
    );
}
