//! Nanoseconds that the XDP program takes for a packet, by the kernel's own test runs (`BPF_PROG_TEST_RUN`).
//!
//! It needs root. `cargo xtask bench packet` runs it; it takes half a minute. Each figure is that of the program as it is
//! shipped, less that of an empty one; both get their packets from a small program of the benchmark's own, which remakes
//! them (balancer-ebpf/src/bench.rs), so that its cost and that of the kernel's loop are left out.

mod bench;
mod cases;
mod machine;
mod table;

// Shared with the tests of single packets, which use more of them.
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/steer/frame.rs"]
mod frame;
#[path = "../../tests/steer/pins.rs"]
mod pins;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/steer/server.rs"]
mod server;

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::table::{Row, Spread};

/// Rounds that count. In each, every case has its turn, so that what else the machine does falls on all of them.
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "loading BPF programs needs root: sudo cargo xtask bench packet"
    );
    machine::stay_on_this_cpu()?;
    println!("{}", machine::describe()?);
    let mut bench = Bench::new()?;
    println!(
        "The verifier goes through {} instructions.\n",
        bench.verified()?
    );

    let cases = cases::all();
    let mut net = vec![Vec::new(); cases.len()];
    let (mut empty, mut outer) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=ROUNDS {
        let alone = bench.empty()?;
        for (case, net) in cases.iter().zip(&mut net) {
            let time = bench.measure(case)?;
            if round > 0 {
                net.push(time.measured - time.outer);
                outer.push(time.outer - alone);
            }
        }
        if round > 0 {
            empty.push(alone);
        }
    }

    let empty = Spread::of(empty);
    let rows: Vec<_> = cases
        .iter()
        .zip(net)
        .map(|(case, net)| Row {
            name: &case.name,
            net: Spread::of(net),
            katran: case.katran,
        })
        .collect();
    print!("{}", table::markdown(&rows, empty));
    println!("\n{}", table::notes(empty, Spread::of(outer), ROUNDS));
    println!("{}", machine::load()?);
    Ok(())
}
