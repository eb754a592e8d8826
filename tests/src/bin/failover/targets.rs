//! What balancer is to keep to, and whether it did.

use std::fmt;
use std::time::Duration;

use balancer_tests::met;

use crate::cluster::System;
use crate::fault::{Fault, Outcome};
use crate::table::{Results, gaps, lost, ms};

/// How balancer's rows stand to each target, a line each.
pub struct Judgement<'a>(pub &'a Results);

struct Target {
    name: &'static str,
    /// What it is set for.
    is_for: fn(Fault) -> bool,
    /// By how much outcomes miss it.
    missed: fn(Fault, Duration, &[Outcome]) -> Option<String>,
}

const TARGETS: [Target; 4] = [
    Target {
        name: "median gap no longer than its target",
        is_for: |_| true,
        missed: |fault, interval, outcomes| {
            let median = gaps(outcomes)[outcomes.len() / 2];
            (median > fault.target(interval)).then(|| format!("{} ms", ms(median)))
        },
    },
    Target {
        name: "no request lost",
        is_for: |_| true,
        missed: |_, _, outcomes| count(lost(outcomes)),
    },
    Target {
        name: "no connection broken but those of a server that dies or ends",
        is_for: |_| true,
        missed: |fault, _, outcomes| {
            let goes = matches!(fault, Fault::Dead | Fault::Ended);
            let broken = outcomes.iter().map(|outcome| {
                let its = outcome.seen.its.broken;
                outcome.seen.others.broken + if goes { 0 } else { its }
            });
            count(broken.sum())
        },
    },
    Target {
        name: "no address taken from a living host",
        is_for: |fault| Fault::OF_DAEMONS.contains(&fault),
        missed: |_, _, outcomes| {
            let taken = outcomes.iter().filter(|outcome| outcome.taken).count();
            count(taken as u32)
        },
    },
];

impl fmt::Display for Judgement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "balancer's targets:")?;
        for target in &TARGETS {
            let rows = self.0.of(System::Balancer);
            let (mut all, mut missed) = (0, Vec::new());
            for (fault, millis, outcomes) in rows.filter(|(fault, ..)| (target.is_for)(*fault)) {
                all += 1;
                if let Some(by) = (target.missed)(fault, Duration::from_millis(millis), outcomes) {
                    missed.push(format!("{} at {millis} ms ({by})", fault.name()));
                }
            }
            writeln!(f, "  {}: {}", target.name, met(all, &missed))?;
        }
        Ok(())
    }
}

/// How many, if any.
fn count(of: u32) -> Option<String> {
    (of > 0).then(|| of.to_string())
}
