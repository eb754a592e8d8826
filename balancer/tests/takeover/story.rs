//! Random worlds: hosts die, freeze and return, lose their links, daemons are killed, stopped and restarted, networks fall apart and heal.

use balancer::cluster::Require;
use std::time::Duration;

use crate::checks::{Checks, REQUIRES, REST};
use crate::world::{Faults, GOOD, State, World, ms};

/// Random worlds that are tried unless `BALANCER_SEEDS` says how many, or `BALANCER_SEED` which.
const SEEDS: u64 = 40;

/// Things that happen in one of them.
const CHAPTERS: usize = 25;

/// Connections that clients open after each of them.
const CLIENTS: usize = 6;

#[test]
fn whatever_happens_addresses_have_one_holder_each() {
    let (mut both, mut nobody, mut astray, mut claims, mut flows) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO, 0, 0);
    let one = number("BALANCER_SEED");
    for seed in one.map_or(0..seeds(SEEDS), |seed| seed..seed + 1) {
        let checks = std::panic::catch_unwind(|| tell(seed)).unwrap_or_else(|panic| {
            eprintln!("again: BALANCER_SEED={seed} cargo test -p balancer --test takeover story");
            std::panic::resume_unwind(panic)
        });
        both = both.max(checks.0.longest_both);
        nobody = nobody.max(checks.0.longest_nobody);
        astray = astray.max(checks.0.longest_astray);
        claims += checks.1;
        flows += checks.2;
    }
    println!(
        "{claims} claims; two holders for {both:?} at most, none for {nobody:?} at most; {flows} flows, none with two owners for more \
         than {astray:?}"
    );
    assert!(claims > 0 || one.is_some(), "nothing was tried");
}

/// How many seeds to try, if not `usual`.
pub fn seeds(usual: u64) -> u64 {
    number("BALANCER_SEEDS").unwrap_or(usual)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn tell(seed: u64) -> (Checks, usize, u32) {
    let mut random = fastrand::Rng::with_seed(!seed);
    let hosts = random.usize(2..8);
    let require: Require = REQUIRES[random.usize(..2)];
    let faults = if random.bool() {
        GOOD
    } else {
        Faults {
            loss_percent: random.u8(1..=20),
            frame_loss_percent: random.u8(..=5),
            repeat_percent: random.u8(..=10),
            delay: ms(random.u64(1..=120)),
        }
    };
    // Where queries get through and answers don't, or the other way round, flows stay unknown: such worlds have no clients.
    let one_way = random.u8(..3) == 0;
    let mut world = World::new(hosts, seed, faults, require);
    let mut checks = Checks::default();
    let pass = |world: &mut World, checks: &mut Checks, time| {
        checks.disturbed(world);
        checks.look(world);
        world.run(time, |world| checks.look(world));
    };
    pass(&mut world, &mut checks, ms(3_000));
    for _ in 0..CHAPTERS {
        happen(&mut world, &mut random, one_way);
        for _ in 0..if one_way { 0 } else { CLIENTS } {
            world.connect_if_clear(random.usize(..hosts), random.usize(..hosts));
        }
        let time = match random.u8(..4) {
            0 => random.u64(..50),
            1 => random.u64(..500),
            2 => random.u64(..3_000),
            _ => random.u64(..15_000),
        };
        pass(&mut world, &mut checks, ms(time));
    }
    for index in 0..hosts {
        world.plug_in(index);
        recover(&mut world, index);
    }
    world.side.fill(0);
    world.cut.clear();
    pass(&mut world, &mut checks, REST);
    Checks::at_rest(&world);
    let claims = world.claims.len();
    (checks, claims, world.clients)
}

/// One thing that may happen to one host, or to the network.
fn happen(world: &mut World, random: &mut fastrand::Rng, one_way: bool) {
    let hosts = world.hosts.len();
    let index = random.usize(..hosts);
    match (random.u8(..14), world.hosts[index].state) {
        (0, _) => world.side.fill_with(|| random.u8(..2)),
        (1, _) => {
            world.side.fill(0);
            world.cut.clear();
        }
        // Some of what it sends, or hears, is lost: all of it, or one peer's.
        (10, _) if one_way => {
            let (all, sends, one) = (random.bool(), random.bool(), random.usize(..hosts));
            let others = (0..hosts).filter(|other| all || *other == one);
            let ways = others.map(|other| {
                if sends {
                    (index, other)
                } else {
                    (other, index)
                }
            });
            world.cut.extend(ways);
        }
        // As when a virtual machine has been moved.
        (11, State::Runs) => world.hosts[index].ahead += random.i64(0..8_000_000_000),
        (12, State::Ended) => world.detach(index),
        (13, _) if random.bool() => world.unplug(index),
        (13, _) => world.plug_in(index),
        (2, state) if state != State::Off => world.power_off(index),
        (3, State::Runs) => world.hosts[index].state = State::Frozen(world.now),
        (4, State::Runs) => world.kill_daemon(index),
        (5, State::Runs) => world.hosts[index].state = State::Stopped,
        (6, State::Runs) => world.end_daemon(index),
        // Restarted at once, perhaps as another version.
        (7, State::Runs) => {
            world.kill_daemon(index);
            world.start_daemon(index);
        }
        (_, state) if state != State::Runs => {
            if let State::Frozen(since) = state
                && random.bool()
            {
                // Its clock stood still meanwhile: CLOCK_MONOTONIC doesn't count suspended time.
                let time = world.now.since(since).min(ms(2_000));
                world.hosts[index].ahead -= random.i64(0..=time.as_nanos() as i64);
            }
            recover(world, index);
        }
        _ => {}
    }
}

fn recover(world: &mut World, index: usize) {
    match world.hosts[index].state {
        State::Runs => {}
        State::Stopped | State::Frozen(_) => world.hosts[index].state = State::Runs,
        State::Ended => world.start_daemon(index),
        State::Off => {
            world.power_on(index);
            world.start_daemon(index);
        }
    }
}
