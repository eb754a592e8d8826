//! Samples of this server's load, as far as it isn't one service's.

use anyhow::Result;

use super::cpu::Cpu;
use super::pressure::Pressure;
use crate::cluster::Timestamp;
use crate::config::Load;

/// A part of own load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is called, here and in `[load]`.
    pub name: &'static str,
    /// As it was measured, in basis points.
    pub measured: u32,
    /// What it counts, in basis points: 10,000 as it is, 0 not at all.
    pub weight: u32,
}

impl Part {
    /// Its measure by its weight, in basis points.
    pub fn load(&self) -> u32 {
        (u64::from(self.measured) * u64::from(self.weight) / 10_000) as u32
    }
}

/// Measures the host.
pub struct Sampler {
    cpu: Cpu,
    cpu_pressure: Option<Pressure>,
    memory_pressure: Option<Pressure>,
    io_pressure: Option<Pressure>,
    /// What the user's probe said last.
    probed: Option<u32>,
    parts: Vec<Part>,
}

impl Sampler {
    /// Opens what the kernel measures, at `now`.
    pub fn open(now: Timestamp) -> Result<Self> {
        Ok(Self {
            cpu: Cpu::open(now)?,
            cpu_pressure: Pressure::cpu(),
            memory_pressure: Pressure::memory(),
            io_pressure: Pressure::io(),
            probed: None,
            parts: Vec::new(),
        })
    }

    /// Takes in what the user's probe said, in basis points; `None` forgets it.
    pub fn set_probed(&mut self, probed: Option<u32>) {
        self.probed = probed;
    }

    /// The load at `now`, but for the services' own: the highest of the parts, in basis points.
    pub fn sample(&mut self, now: Timestamp, weights: &Load) -> Result<u32> {
        let (cpu, run_queue) = self.cpu.sample(now)?;
        // One that can't be read any more is left out.
        let pressure = |pressure: &mut Option<Pressure>| pressure.as_mut()?.sample(now).ok();
        let probe = weights.probe.as_ref().and(self.probed);
        let probe_weight = weights
            .probe
            .as_ref()
            .map_or(0, |probe| probe.weight.basis_points());
        let parts = [
            ("cpu", Some(cpu), weights.cpu.basis_points()),
            (
                "run_queue",
                Some(run_queue),
                weights.run_queue.basis_points(),
            ),
            (
                "cpu_pressure",
                pressure(&mut self.cpu_pressure),
                weights.cpu_pressure.basis_points(),
            ),
            (
                "memory_pressure",
                pressure(&mut self.memory_pressure),
                weights.memory_pressure.basis_points(),
            ),
            (
                "io_pressure",
                pressure(&mut self.io_pressure),
                weights.io_pressure.basis_points(),
            ),
            ("probe", probe, probe_weight),
        ];
        self.parts = parts
            .into_iter()
            .filter_map(|(name, measured, weight)| {
                Some(Part {
                    name,
                    measured: measured?,
                    weight,
                })
            })
            .collect();
        Ok(self.parts.iter().map(Part::load).max().unwrap_or(0))
    }

    /// The parts of the last sample. What the kernel doesn't measure, or the user hasn't asked for, is left out.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_highest_part_by_its_weight_counts() {
        let at = |seconds| Timestamp(0) + Duration::from_secs(seconds);
        let mut sampler = Sampler::open(at(1)).expect("/proc");
        let config = "[load]\ncpu = \"0%\"\nrun_queue = \"0%\"\nmemory_pressure = \"0%\"\nprobe = { command = [\"/bin/true\"], weight = \"50%\" }";
        let weights = crate::config::Config::parse(config, "test")
            .expect("a configuration")
            .load;
        assert_eq!(sampler.sample(at(2), &weights).expect("a sample"), 0);
        sampler.set_probed(Some(30_000));
        assert_eq!(sampler.sample(at(3), &weights).expect("a sample"), 15_000);
        let names: Vec<_> = sampler.parts().iter().map(|part| part.name).collect();
        assert_eq!(names[..2], ["cpu", "run_queue"]);
        assert_eq!(names.last(), Some(&"probe"));
        sampler.set_probed(None);
        assert_eq!(sampler.sample(at(4), &weights).expect("a sample"), 0);
    }

    #[test]
    fn a_busy_cpu_shows() {
        let now = || crate::exchange::clock::monotonic();
        let mut sampler = Sampler::open(now()).expect("/proc");
        let weights = Load::default();
        sampler.sample(now(), &weights).expect("a sample");
        assert!(sampler.parts()[0].measured > 0, "{:?}", sampler.parts());
    }
}
