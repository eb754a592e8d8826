//! What is promised for single faults, with figures.

use balancer::cluster::{Require, Status};

use crate::checks::Checks;
use crate::story::seeds;
use crate::world::{Faults, GOOD, Kind, PERIOD, State, World, address_of, id_of, ms};

#[test]
fn a_dead_hosts_address_is_held_again_within_the_time_out() {
    for seed in 0..seeds(40) {
        let mut world = World::new(2 + seed as usize % 6, seed, GOOD, Require::Any);
        world.run(ms(3_000 + seed % 500), |_| {});
        let died = world.now;
        world.power_off(0);
        world.run(ms(3_000), |_| {});
        let [(when, by, _)] = world.claims[..] else {
            panic!("seed {seed}: {:?}", world.claims)
        };
        assert!(
            when.since(died) <= ms(1_510),
            "seed {seed}: {:?}",
            when.since(died)
        );
        assert_eq!(world.holders(address_of(0)), [by]);

        world.power_on(0);
        world.start_daemon(0);
        world.run(ms(10), |_| {});
        assert_eq!(
            world.holders(address_of(0)),
            [0],
            "seed {seed}: handed back"
        );
    }
}

#[test]
fn connections_outlive_their_director() {
    let lossy = Faults {
        loss_percent: 10,
        ..GOOD
    };
    for seed in 0..seeds(20) {
        let hosts = 3 + seed as usize % 6;
        let faults = if seed % 2 == 0 { GOOD } else { lossy };
        let mut world = World::new(hosts, seed, faults, Require::Any);
        let connect = |world: &mut World| {
            for number in 0..500 {
                world.connect(0, number % hosts);
            }
        };
        world.run(ms(3_000), |_| {});
        connect(&mut world);
        world.power_off(0);
        world.run(ms(4_000), |_| {});
        Checks::all_are_directed(&world);

        // Those that its caretaker directs, or serves, go on when it is back.
        connect(&mut world);
        world.power_on(0);
        world.start_daemon(0);
        world.run(ms(3_000), |_| {});
        assert_eq!(world.holders(address_of(0)), [0], "seed {seed}");
        Checks::all_are_directed(&world);
    }
}

#[test]
fn a_host_that_was_suspended_learns_what_its_caretaker_did() {
    for seed in 0..seeds(20) {
        let mut world = World::new(4, seed, GOOD, Require::Any);
        world.run(ms(3_000), |_| {});
        world.hosts[0].state = State::Frozen(world.now);
        world.run(ms(4_000), |_| {});
        for number in 0..100 {
            world.connect(0, 1 + number % 3);
        }
        world.hosts[0].state = State::Runs;
        world.run(ms(3_000), |_| {});
        assert_eq!(world.holders(address_of(0)), [0], "seed {seed}");
        Checks::all_are_directed(&world);
    }
}

#[test]
fn a_host_whose_link_is_back_has_its_address_at_once() {
    for seed in 0..seeds(40) {
        let mut world = World::new(4, seed, GOOD, Require::Any);
        world.run(ms(3_000 + seed % 500), |_| {});
        world.unplug(0);
        // Also a shorter time than it takes to be missed.
        let away = [300, 2_000, 20_000][seed as usize % 3];
        world.run(ms(away), |_| {});
        let taken = world.claims.len();
        assert_eq!(taken, usize::from(away > 1_500), "seed {seed}");
        if taken > 0 {
            let caretaker = world.claims[0].1;
            for number in 0..100 {
                world.direct(caretaker, 0, 1 + number % 3);
            }
        }
        world.plug_in(0);
        world.run(ms(5), |_| {});
        assert_eq!(world.holders(address_of(0)), [0], "seed {seed}");
        world.run(ms(3_000), |_| {});
        assert_eq!(world.holders(address_of(0)), [0], "seed {seed}");
        assert_eq!(world.claims.len(), taken, "seed {seed}");
        Checks::all_are_directed(&world);
    }
}

#[test]
fn what_a_caretaker_directed_to_a_peer_in_sight_of_all_is_known_to_the_home() {
    for seed in 0..seeds(40) {
        let mut world = World::new(3, seed, GOOD, Require::Any);
        world.run(ms(3_000 + seed % 500), |_| {});
        // The home and its caretaker don't hear each other, and the third one hears both.
        world.cut.extend([(0, 1), (1, 0)]);
        world.run(ms(10_000), |_| {});
        assert!(world.holders(address_of(0)).contains(&1), "seed {seed}");
        // For a moment the home hears the claim, so that it has nothing to learn from what its caretaker says when it lets go.
        world.cut.remove(&(1, 0));
        world.run(ms(600), |_| {});
        world.cut.insert((1, 0));
        if seed % 2 == 1 {
            // One that was restarted has never heard of its caretaker.
            world.kill_daemon(0);
            world.start_daemon(0);
        }
        world.run(ms(3_000), |_| {});
        for _ in 0..10 {
            world.direct(1, 0, 2);
        }
        world.cut.clear();
        world.run(ms(3_000), |_| {});
        assert_eq!(world.holders(address_of(0)), [0], "seed {seed}");
        Checks::all_are_directed(&world);
    }
}

#[test]
fn a_goodbye_hands_over_at_once() {
    for seed in 0..seeds(40) {
        let mut world = World::new(3, seed, GOOD, Require::Any);
        world.run(ms(3_000 + seed % 500), |_| {});
        let kept = world.hosts[0].kept;
        world.end_daemon(0);
        world.run(ms(15), |_| {});
        let holders = world.holders(address_of(0));
        if kept {
            assert_eq!(holders, [0], "seed {seed}: its host serves on");
        } else {
            assert!(
                holders.len() == 1 && holders != [0],
                "seed {seed}: {holders:?}"
            );
        }
        world.run(ms(30_000), |_| {});
        assert_eq!(
            world.holders(address_of(0)),
            holders,
            "seed {seed}: and so it stays"
        );
    }
}

#[test]
fn no_living_host_loses_its_address_where_reports_are_lost() {
    let faults = Faults {
        loss_percent: 20,
        frame_loss_percent: 2,
        repeat_percent: 5,
        delay: ms(100),
    };
    for seed in 0..seeds(60) / 10 {
        let mut world = World::new(5, seed, faults, Require::Any);
        world.run(ms(600_000), |_| {});
        assert_eq!(world.claims, [], "seed {seed}");
    }
}

#[test]
fn a_daemon_that_is_stopped_or_killed_loses_nothing() {
    for seed in 0..seeds(20) {
        let mut world = World::new(4, seed, GOOD, Require::Any);
        world.run(ms(2_000), |_| {});
        world.hosts[0].state = State::Stopped;
        world.kill_daemon(1);
        world.run(ms(60_000), |_| {});
        assert_eq!(world.claims, [], "seed {seed}");
        world.hosts[0].state = State::Runs;
        world.start_daemon(1);
        world.run(ms(5_000), |_| {});
        assert_eq!(world.claims, [], "seed {seed}");
        Checks::at_rest(&world);
    }
}

#[test]
fn a_killed_caretaker_goes_on_after_its_restart() {
    for seed in 0..seeds(20) {
        let mut world = World::new(4, seed, GOOD, Require::Any);
        world.run(ms(2_000), |_| {});
        world.power_off(0);
        world.run(ms(3_000), |_| {});
        let [caretaker] = world.holders(address_of(0))[..] else {
            panic!("seed {seed}")
        };
        world.kill_daemon(caretaker);
        world.run(ms(10_000), |_| {});
        world.start_daemon(caretaker);
        world.run(ms(10_000), |_| {});
        assert_eq!(world.holders(address_of(0)), [caretaker], "seed {seed}");
        assert_eq!(world.claims.len(), 1, "seed {seed}");
    }
}

#[test]
fn the_identities_of_a_dead_caretaker_move_on() {
    for seed in 0..seeds(20) {
        let mut world = World::new(5, seed, GOOD, Require::Any);
        world.run(ms(2_000), |_| {});
        for died in [0, 1, 2] {
            world.power_off(died);
            world.run(ms(4_000), |_| {});
            for index in 0..=died {
                assert_eq!(world.holders(address_of(index)).len(), 1, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_minority_takes_nothing_where_a_majority_is_required() {
    for seed in 0..seeds(20) {
        let mut world = World::new(5, seed, GOOD, Require::Majority);
        world.run(ms(2_000), |_| {});
        world.side = vec![0, 0, 1, 1, 1];
        world.run(ms(10_000), |_| {});
        assert!(
            world.claims.iter().all(|(_, by, _)| *by >= 2),
            "seed {seed}"
        );
        assert_eq!(world.claims.len(), 2, "seed {seed}");
        world.side.fill(0);
        world.run(ms(1_000), |_| {});
        Checks::at_rest(&world);
    }
}

#[test]
fn a_minority_stays_one_however_long_it_is_alone() {
    let mut world = World::new(5, 1, GOOD, Require::Majority);
    world.run(ms(2_000), |_| {});
    world.side = vec![0, 0, 1, 1, 1];
    world.run(ms(70 * 60_000), |_| {});
    let by_minority = world.claims.iter().filter(|(_, by, _)| *by < 2);
    assert_eq!(by_minority.count(), 0);
    // A moment's sight of a third makes it forget nobody, either.
    world.side = vec![0, 0, 0, 1, 1];
    world.run(ms(100), |_| {});
    world.side = vec![0, 0, 1, 1, 1];
    world.run(ms(10_000), |_| {});
    let by_minority = world.claims.iter().filter(|(_, by, _)| *by < 2);
    assert_eq!(by_minority.count(), 0);
    world.side.fill(0);
    world.run(ms(3_000), |_| {});
    Checks::at_rest(&world);
}

#[test]
fn a_caretakers_answer_is_no_sign_of_the_dead_hosts_life() {
    for seed in 0..seeds(20) {
        let mut world = World::of(Kind::Own, 4, seed, GOOD, Require::Any);
        world.run(ms(2_000), |_| {});
        world.hosts[3].state = State::Stopped;
        world.power_off(0);
        world.run(ms(4_000), |_| {});
        let [caretaker] = world.holders(address_of(0))[..] else {
            panic!("seed {seed}: nobody has it")
        };
        world.hosts[3].state = State::Runs;
        world.run(ms(5_000), |_| {});
        let daemon = world.hosts[3].daemon.as_ref().unwrap();
        let status = daemon.peer(id_of(0)).unwrap().status;
        assert_eq!(status, Status::Dead, "seed {seed}");
        assert_eq!(world.holders(address_of(0)), [caretaker], "seed {seed}");
    }
}

#[test]
fn what_a_killed_daemons_host_has_let_go_of_is_taken() {
    for seed in 0..seeds(20) {
        let mut world = World::of(Kind::Added, 4, seed, GOOD, Require::Any);
        world.run(ms(2_000), |_| {});
        // It is a caretaker, too.
        world.power_off(3);
        world.run(ms(3_000), |_| {});
        let [caretaker] = world.holders(address_of(3))[..] else {
            panic!("seed {seed}: nobody has it")
        };
        world.kill_daemon(caretaker);
        world.run(ms(4_000), |_| {});
        let both = [3, caretaker].map(address_of);
        assert_eq!(both.map(|address| world.holders(address)), [[caretaker]; 2]);
        world.detach(caretaker);
        world.run(ms(10_000), |_| {});
        for address in both {
            let holders = world.holders(address);
            assert!(
                holders.len() == 1 && holders != [caretaker],
                "seed {seed}: {holders:?}"
            );
        }
        world.start_daemon(caretaker);
        world.power_on(3);
        world.start_daemon(3);
        world.run(ms(3_000), |_| {});
        Checks::at_rest(&world);
    }
}

#[test]
fn a_caretaker_yields_to_one_that_is_mute() {
    for seed in 0..seeds(20) {
        let mut world = World::new(5, seed, GOOD, Require::Any);
        world.run(ms(2_000), |_| {});
        world.power_off(0);
        world.run(ms(3_000), |_| {});
        let [first] = world.holders(address_of(0))[..] else {
            panic!("seed {seed}: nobody has it")
        };
        world.kill_daemon(first);
        world.side[first] = 1;
        world.run(ms(10_000), |_| {});
        assert_eq!(world.holders(address_of(0)).len(), 2, "seed {seed}");
        world.side[first] = 0;
        world.run(ms(8_000), |_| {});
        assert_eq!(world.holders(address_of(0)), [first], "seed {seed}");
        world.run(ms(30_000), |_| {});
        assert_eq!(world.holders(address_of(0)), [first], "seed {seed}");
        world.power_off(first);
        world.run(ms(10_000), |_| {});
        assert_eq!(world.holders(address_of(0)).len(), 1, "seed {seed}");
    }
}

#[test]
fn a_home_that_was_restarted_learns_what_was_claimed_meanwhile() {
    for seed in 0..seeds(20) {
        let mut world = World::new(4, seed, GOOD, Require::Any);
        world.run(ms(2_000), |_| {});
        for _ in 0..3 {
            world.power_off(0);
            world.run(ms(4_000), |_| {});
            world.power_on(0);
            world.start_daemon(0);
            world.run(ms(2_000), |_| {});
            // It claims a higher term than any that others know of.
            Checks::at_rest(&world);
        }
    }
}

#[test]
fn many_servers_agree_on_one_caretaker_each() {
    for servers in crowds() {
        let mut world = World::new(servers, 1, GOOD, Require::Any);
        world.run(ms(1_500), |_| {});
        world.power_off(7);
        world.run(ms(2_500), |_| {});
        assert_eq!(world.claims.len(), 1, "{servers} servers");
        assert_eq!(world.holders(address_of(7)).len(), 1);
    }
}

/// Each looks through its sockets for each question.
#[test]
fn servers_that_come_up_one_after_the_other_ask_each_other_and_no_more() {
    const SERVERS: usize = 24;
    let mut world = World::new(SERVERS, 1, GOOD, Require::Any);
    for late in 1..SERVERS {
        world.kill_daemon(late);
    }
    for late in 1..SERVERS {
        world.run(ms(1_000), |_| {});
        world.start_daemon(late);
    }
    world.run(ms(3_000), |_| {});
    let pairs = SERVERS * (SERVERS - 1);
    assert!(
        (pairs..=2 * pairs).contains(&world.collected),
        "{} questions among {SERVERS}",
        world.collected
    );
}

#[test]
fn many_servers_hear_every_report_and_remember_nothing_more() {
    for servers in crowds() {
        let mut world = World::new(servers, 1, GOOD, Require::Any);
        world.run(ms(2_000), |_| {});
        world.refused = 0;
        world.run(ms(3_000), |_| {});
        assert_eq!(world.refused, 0, "{servers} servers");
        // The kernel keeps a megabyte for a daemon that is busy, and books less than 4 KiB for a report.
        assert!(world.most_waiting < 256, "{} at once", world.most_waiting);
        for host in &world.hosts {
            let daemon = host.daemon.as_ref().unwrap();
            assert_eq!(daemon.peers().count(), servers - 1);
            assert_eq!(daemon.identities().count(), servers);
            for peer in daemon.peers() {
                let age = world.now.since(peer.heard);
                assert!(age <= PERIOD + ms(2), "{servers} servers: {age:?}");
            }
        }
    }
}

/// Unoptimised, the largest cluster that there may be takes minutes.
fn crowds() -> impl Iterator<Item = usize> {
    let sizes = if cfg!(debug_assertions) {
        [64].as_slice()
    } else {
        &[64, 256]
    };
    sizes.iter().copied()
}
