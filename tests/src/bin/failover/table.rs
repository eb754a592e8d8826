//! What was measured, as one table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::client::Broken;
use crate::cluster::System;
use crate::fault::{Fault, Outcome};

/// Outcomes by what was done to whom, in the order in which it was done first.
#[derive(Default)]
pub struct Results {
    rows: Vec<(Fault, u64)>,
    outcomes: BTreeMap<(usize, bool), Vec<Outcome>>,
}

impl Results {
    pub fn add(&mut self, fault: Fault, millis: u64, system: System, outcome: Outcome) {
        let row = (fault, millis);
        let at = self.rows.iter().position(|known| *known == row);
        let at = at.unwrap_or_else(|| {
            self.rows.push(row);
            self.rows.len() - 1
        });
        let key = (at, system == System::Keepalived);
        self.outcomes.entry(key).or_default().push(outcome);
    }

    /// A system's rows: what was done, the milliseconds between reports, and what came of it each time.
    pub fn of(&self, system: System) -> impl Iterator<Item = (Fault, u64, &[Outcome])> {
        let rows = self.rows.iter().enumerate();
        rows.filter_map(move |(at, (fault, millis))| {
            let outcomes = self.outcomes.get(&(at, system == System::Keepalived))?;
            Some((*fault, *millis, &outcomes[..]))
        })
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "The longest time without an answer, in ms: median, least and most. Requests lost: of a new connection each 2 ms.\n\
             Connections broken: of those that the first server had, and of the others'. Taken: another server had the address.\n"
        )?;
        writeln!(
            f,
            "| {:24} | {:>7} | {:10} | {:>6} | {:>6} | {:>6} | {:>6} | {:>4} | {:>10} | {:>10} | {:5} |",
            "what happens to the first server",
            "reports",
            "system",
            "target",
            "median",
            "min",
            "max",
            "lost",
            "its broken",
            "others'",
            "taken"
        )?;
        writeln!(
            f,
            "|{:-<26}|{:->8}:|{:-<12}|{:->7}:|{:->7}:|{:->7}:|{:->7}:|{:->5}:|{:->11}:|{:->11}:|{:-<7}|",
            "", "", "", "", "", "", "", "", "", "", ""
        )?;
        for (at, (fault, millis)) in self.rows.iter().enumerate() {
            for system in System::ALL {
                let key = (at, system == System::Keepalived);
                if let Some(outcomes) = self.outcomes.get(&key) {
                    row(f, *fault, *millis, system, outcomes)?;
                }
            }
        }
        Ok(())
    }
}

fn row(
    f: &mut fmt::Formatter<'_>,
    fault: Fault,
    millis: u64,
    system: System,
    outcomes: &[Outcome],
) -> fmt::Result {
    let gaps = gaps(outcomes);
    let target = match system {
        System::Balancer => fault
            .target(Duration::from_millis(millis))
            .as_millis()
            .to_string(),
        System::Keepalived => String::new(),
    };
    let taken = outcomes.iter().filter(|outcome| outcome.taken).count();
    writeln!(
        f,
        "| {:24} | {:>4} ms | {:10} | {:>6} | {:>6} | {:>6} | {:>6} | {:>4} | {:>10} | {:>10} | {:5} |",
        fault.name(),
        millis,
        system.name(),
        target,
        ms(gaps[gaps.len() / 2]),
        ms(gaps[0]),
        ms(gaps[gaps.len() - 1]),
        lost(outcomes),
        broken(outcomes, |outcome| outcome.seen.its),
        broken(outcomes, |outcome| outcome.seen.others),
        format!("{taken}/{}", outcomes.len()),
    )
}

/// From the shortest to the longest.
pub fn gaps(outcomes: &[Outcome]) -> Vec<Duration> {
    let mut gaps: Vec<_> = outcomes.iter().map(|outcome| outcome.seen.gap).collect();
    gaps.sort_unstable();
    gaps
}

pub fn ms(gap: Duration) -> String {
    format!("{:.1}", gap.as_secs_f64() * 1e3)
}

/// Requests lost.
pub fn lost(outcomes: &[Outcome]) -> u32 {
    outcomes.iter().map(|outcome| outcome.seen.lost).sum()
}

fn broken(outcomes: &[Outcome], of: impl Fn(&Outcome) -> Broken) -> String {
    let all = outcomes.iter().map(of);
    let (broken, count) = all.fold((0, 0), |(broken, count), one| {
        (broken + one.broken, count + one.of)
    });
    format!("{broken} of {count}")
}
